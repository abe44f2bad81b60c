"""The language model: a small GPT, how a token is drawn, the log-probabilities of what it wrote.

Read `GPT` first: a Llama-family transformer (pre-RMSNorm, RoPE, SwiGLU, grouped-query attention).
Then read `generate`: one text, one token at a time, everything computed anew for every token.
sampling.py draws the same tokens many times faster.

Training and sampling share one idea: many texts begin with the same prompt. `GPT.read` runs the
prompts through the model once. `GPT.hidden` continues them: each row attends to the stored keys and
values of its prompt, which its rows share, and to its own tokens.

Shapes: B texts of T tokens, C channels, V tokens in the vocabulary; H query heads and J key-value
heads of D channels; K prompts of at most P tokens; N completions of at most S tokens, of M
contexts; R rows.

Left out: dropout, top-k and top-p. The policy that is trained must be the policy that sampled.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WORTH_SHARING = 32  # tokens that contexts must have in common, to be read once for all of them
ROWS_AT_ONCE = 32  # completions per forward pass in training; more where one context has more


@dataclass(frozen=True)
class GPTConfig:
    vocab_size: int
    n_layer: int = 4
    n_head: int = 4
    n_kv_head: int = 1  # heads of keys and values, each for n_head / n_kv_head query heads
    n_embd: int = 128
    n_hidden: int = 256  # inner width of SwiGLU
    block_size: int = 2048  # longest sequence
    rope_base: float = 10000.0
    norm_eps: float = 1e-6
    tied_head: bool = False  # whether the head's matrix is that of the embedding
    qkv_bias: bool = False  # whether queries, keys and values have a bias


# --- attention ---


class RMSNorm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return F.rms_norm(x, x.shape[-1:], self.weight.to(x.dtype), self.eps)


def rotate(x, cos, sin):
    """RoPE (arXiv 2104.09864), halves convention: x (..., T, D), cos and signed sin alike."""
    # The halves (a, b) become (a cos - b sin, b cos + a sin); the first minus is in `sin` itself.
    other_half = x.roll(x.size(-1) // 2, dims=-1)
    return (x * cos + other_half * sin).to(x.dtype)


def causal_attention(q, k, v):
    """q (B, H, T, D), k, v (B, J, T, D) -> (B, H, T, D): to each position and those before it."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def attend(q, prefix, own, prefix_bias, own_bias):
    """Attention over a shared prefix and a row's own tokens, under one softmax -> (R, H, T, D).

    q (R, H, T, D). prefix: keys (J, K, D, P) and values (J, K, P, D), each prompt's for R / K
    consecutive rows. own: keys (J, R, D, S) and values (J, R, S, D). A CPU reads both fastest in
    these layouts. The biases (K, 1, P) and, broadcast, (R, T, S) are 0 where a row attends, -inf
    elsewhere.
    """
    prefix_keys, prefix_values = prefix
    own_keys, own_values = own
    R, H, T, D = q.shape
    J, K, _, P = prefix_keys.shape

    # The E query heads that share a key-value head become rows of one product.
    E = H // J
    q = q.unflatten(1, (J, E))  # (R, J, E, T, D)
    q = q.transpose(0, 1).contiguous()  # (J, R, E, T, D)
    q = q * D**-0.5
    q_by_row = q.flatten(2, 3)  # (J, R, E*T, D)

    # All rows of a prompt share its keys, so they go through one product per prompt.
    N = R // K * E * T  # queries of each prompt
    q_by_prompt = q.view(J, K, N, D)
    prefix_scores = q_by_prompt @ prefix_keys + prefix_bias  # (J, K, N, P)
    prefix_scores = prefix_scores.view(J, R, E, T, P)
    own_scores = q_by_row @ own_keys  # (J, R, E*T, S)
    own_scores = own_scores.unflatten(2, (E, T))
    own_scores = own_scores + own_bias[:, None]

    # One softmax over both parts: the result is exact, as if every row had a copy of its prompt.
    scores = torch.cat([prefix_scores, own_scores], dim=-1)  # (J, R, E, T, P+S)
    weights = scores.softmax(-1)
    prefix_weights = weights[..., :P].reshape(J, K, N, P)
    own_weights = weights[..., P:].flatten(2, 3)  # (J, R, E*T, S)
    from_prefix = prefix_weights @ prefix_values  # (J, K, N, D)
    from_own = own_weights @ own_values  # (J, R, E*T, D)
    heads = from_prefix.view(q.shape) + from_own.view(q.shape)
    return heads.transpose(0, 1).flatten(1, 2)


def attention_bias(visible):
    """Boolean mask -> what is added to attention scores: 0 where True, -inf where False."""
    bias = torch.zeros(visible.shape, device=visible.device)
    return bias.masked_fill(~visible, -torch.inf)


class Prefix(NamedTuple):
    """K prompts of at most P tokens that the model has read; equally many rows continue each."""

    lengths: Tensor  # (K,) long
    bias: Tensor  # (K, 1, P), 0 on the prompts, -inf on the padding
    layers: list  # for each layer the keys (J, K, D, P) and the values (J, K, P, D)

    def part(self, some):
        """Only some of the prompts: a slice, for which nothing is copied, or their indices."""
        layers = [(keys[:, some], values[:, some]) for keys, values in self.layers]
        return Prefix(self.lengths[some], self.bias[some], layers)

    def followed_by(self, texts):
        """Each prompt, followed by one of the texts, which are a Prefix, too; all is copied."""
        layers = []
        for before, after in zip(self.layers, texts.layers, strict=True):
            keys = torch.cat([before[0], after[0]], 3)
            values = torch.cat([before[1], after[1]], 2)
            layers.append((keys, values))
        bias = torch.cat([self.bias, texts.bias], 2)
        return Prefix(self.lengths + texts.lengths, bias, layers)


# --- the transformer ---


class Block(nn.Module):
    """One layer, in two halves: the caller decides in between what the queries attend to."""

    def __init__(self, cfg: GPTConfig):
        super().__init__()
        self.head_width = cfg.n_embd // cfg.n_head
        kv_width = cfg.n_kv_head * self.head_width
        self.attention_norm = RMSNorm(cfg.n_embd, cfg.norm_eps)
        self.mlp_norm = RMSNorm(cfg.n_embd, cfg.norm_eps)
        self.q = nn.Linear(cfg.n_embd, cfg.n_embd, cfg.qkv_bias)
        self.k = nn.Linear(cfg.n_embd, kv_width, cfg.qkv_bias)
        self.v = nn.Linear(cfg.n_embd, kv_width, cfg.qkv_bias)
        self.o = nn.Linear(cfg.n_embd, cfg.n_embd, bias=False)
        self.gate = nn.Linear(cfg.n_embd, cfg.n_hidden, bias=False)
        self.up = nn.Linear(cfg.n_embd, cfg.n_hidden, bias=False)
        self.down = nn.Linear(cfg.n_hidden, cfg.n_embd, bias=False)

    def split_heads(self, x):
        """x (B, T, heads * D) -> (B, heads, T, D)."""
        return x.unflatten(-1, (-1, self.head_width)).transpose(1, 2)

    def qkv(self, x, cos, sin):
        """x (B, T, C) -> queries (B, H, T, D), keys, values (B, J, T, D); positions rotated in."""
        y = self.attention_norm(x)
        q = rotate(self.split_heads(self.q(y)), cos, sin)
        k = rotate(self.split_heads(self.k(y)), cos, sin)
        v = self.split_heads(self.v(y))
        return q, k, v

    def output(self, x, heads):
        """x (B, T, C), what the heads attended to (B, H, T, D) -> the layer's output (B, T, C)."""
        # Attention adds to the residual stream, then the MLP (SwiGLU) does.
        joined = heads.transpose(1, 2).flatten(2)  # (B, T, C)
        x = x + self.o(joined)
        y = self.mlp_norm(x)
        gated = F.silu(self.gate(y)) * self.up(y)  # (B, T, n_hidden)
        return x + self.down(gated)


class GPT(nn.Module):
    def __init__(self, cfg: GPTConfig):
        super().__init__()
        self.cfg = cfg
        self.embedding = nn.Embedding(cfg.vocab_size, cfg.n_embd)
        self.blocks = nn.ModuleList(Block(cfg) for _ in range(cfg.n_layer))
        self.norm = RMSNorm(cfg.n_embd, cfg.norm_eps)
        self.head = nn.Linear(cfg.n_embd, cfg.vocab_size, bias=False)
        if cfg.tied_head:
            self.head.weight = self.embedding.weight

        # GPT-2's initialisation: matrices that add to the residual stream start smaller.
        for name, p in self.named_parameters():
            if p.ndim == 2:
                adds_to_stream = name.endswith((".o.weight", ".down.weight"))
                shrink = math.sqrt(2 * cfg.n_layer) if adds_to_stream else 1.0
                nn.init.normal_(p, std=0.02 / shrink)

        # RoPE's angles: the sine of the first half is stored with its minus sign.
        half = cfg.n_embd // cfg.n_head // 2
        frequencies = cfg.rope_base ** (-torch.arange(half) / half)
        angles = torch.outer(torch.arange(cfg.block_size), frequencies)  # (block_size, D/2)
        cos = angles.cos().repeat(1, 2)
        sin = torch.cat([-angles.sin(), angles.sin()], dim=-1)
        self.register_buffer("cos", cos, persistent=False)  # (block_size, D)
        self.register_buffer("sin", sin, persistent=False)

    def hidden(self, tokens, prefix=None, cache=None):
        """tokens (B, T) -> what the head reads (B, T, C).

        With a prefix each of its K prompts is continued by B / K consecutive rows. A list given as
        `cache` receives, for each layer, the keys (J, B, D, T) and the values (J, B, T, D).
        """
        # Positions count from the start of each sequence, so a prefix shifts them.
        B, T = tokens.shape
        offsets = torch.arange(T, device=tokens.device)  # (T,)
        positions = offsets
        if prefix is not None:
            rows_per_prompt = B // len(prefix.lengths)
            start = prefix.lengths.repeat_interleave(rows_per_prompt)  # (B,)
            positions = start[:, None] + offsets  # (B, T)
            # Padding may run past the last position; what it computes there is never looked at.
            positions = positions.clamp(max=len(self.cos) - 1)
            causal = attention_bias(offsets <= offsets[:, None])
            causal = causal[None]  # (1, T, T)

        x = self.embedding(tokens)  # (B, T, C)
        cos = self.cos[positions].unsqueeze(-3)  # (1, T, D) or (B, 1, T, D)
        sin = self.sin[positions].unsqueeze(-3)
        for i, block in enumerate(self.blocks):
            q, k, v = block.qkv(x, cos, sin)
            # In the cache heads come first, so that no product has to copy it.
            own = (k.permute(1, 0, 3, 2), v.transpose(0, 1))
            if cache is not None:
                cache.append(own)
            if prefix is None:
                heads = causal_attention(q, k, v)
            else:
                heads = attend(q, prefix.layers[i], own, prefix.bias, causal)
            x = block.output(x, heads)
        return self.norm(x)

    def read(self, prompts, prefix=None) -> Prefix:
        """Read prompts (token lists), after a prefix or not -> what was read, as a Prefix."""
        tokens, lengths = padded(prompts, self.cos.device)
        cache = []
        self.hidden(tokens, prefix, cache)

        # Contiguous keys and values are read faster: they are read in every step.
        layers = [(keys.contiguous(), values.contiguous()) for keys, values in cache]
        real = completion_mask(lengths, tokens.size(1)) > 0  # (K, P), not padding
        bias = attention_bias(real)[:, None]  # (K, 1, P)
        return Prefix(lengths, bias, layers)

    def forward(self, tokens):
        """tokens (B, T) -> logits (B, T, V) of the next token at every position."""
        return self.head(self.hidden(tokens))


def padded(rows, device):
    """N token lists -> (N, longest) padded on the right with 0, and their lengths (N,)."""
    lengths = torch.tensor([len(row) for row in rows], device=device)
    rows = [torch.tensor(row, dtype=torch.long) for row in rows]
    tokens = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return tokens.to(device), lengths


# --- drawing tokens ---


def draw_token(logits, noise, temperature):
    """logits (R, V), noise (R,) -> token (R,) ~ softmax(logits / temperature), its log-prob (R,).

    One uniform random number in [0, 1) per row decides. Add up the probabilities, token by token:
    the first token at which the sum is larger than the number is drawn. Temperature 0 takes the
    likeliest token (and gives log-probs at temperature 1).
    """
    logits = logits.float()
    if temperature == 0:
        probs = logits.softmax(-1)  # (R, V)
        token = probs.argmax(-1, keepdim=True)  # (R, 1)
    else:
        probs = (logits / temperature).softmax(-1)
        sums = probs.cumsum(-1)
        # By rounding the last sum is only almost 1, so the noise is scaled to it.
        target = noise[:, None] * sums[:, -1:]  # (R, 1)
        token = torch.searchsorted(sums, target, right=True)
        # With NaN logits no sum passes the noise; the token must not lie past the end.
        token = token.clamp(max=logits.size(-1) - 1)
    prob = probs.gather(-1, token)  # (R, 1)
    return token[:, 0], prob[:, 0].log()


@torch.inference_mode()
def generate(model, context, noise, eos, temperature=1.0):
    """Continue one token list, one token at a time, the plainest way -> the new tokens.

    noise (max_new,): a uniform random number for each token that may be written; see `draw_token`.
    The completion ends with `eos`, or after max_new tokens.
    """
    completion = []
    for step_noise in noise:
        text = torch.tensor([context + completion], device=model.cos.device)  # (1, T)
        logits = model(text)  # (1, T, V), all computed anew: sampling.py does not
        token, _ = draw_token(logits[:, -1], step_noise[None], temperature)
        completion.append(token.item())
        if completion[-1] == eos:
            break
    return completion


# --- log-probabilities of completions ---


def token_logprobs(logits, tokens, temperature=1.0):
    """Logits (N, S, V) of any dtype, tokens (N, S) -> log-probabilities (N, S), in float32.

    The policy that is trained is the one that sampled, so its logits are divided by the sampling
    temperature.
    """
    logits = logits.float() / temperature
    chosen = logits.gather(-1, tokens[..., None])[..., 0]  # (N, S)
    return chosen - logits.logsumexp(-1)


def completion_mask(lengths, width):
    """Lengths (N,) -> mask (N, width), 1.0 on each completion, its end-of-sequence token included.

    It is made from lengths, never from token values: the end-of-sequence token must be learned,
    whatever id padding has.
    """
    places = torch.arange(width, device=lengths.device)
    return (places < lengths[:, None]).float()


def completion_logits(model, contexts, completions):
    """M contexts, N completions (token lists; the first N / M continue the first context, ...).

    For a few contexts at a time, with all of their n completions, it yields what predicts each
    completion token: logits (n, S, V); these tokens (n, S); and the completions' mask (n, S).
    A context is read once for all of its completions, except its last token: the model's output at
    that token already predicts the first token of a completion, so each row reads it. A long
    beginning that contexts have in common, their prompt, is read once for all of them.
    """
    # Each row reads the last token of its context, then the completion.
    per_context = len(completions) // len(contexts)
    rows = []
    for i, completion in enumerate(completions):
        last = contexts[i // per_context][-1:]
        rows.append(last + completion)
    tokens, lengths = padded(rows, model.cos.device)
    inputs = tokens[:, :-1]  # (N, S)
    targets = tokens[:, 1:]  # (N, S)
    mask = completion_mask(lengths - 1, targets.size(1))

    # The logits of all at once might not fit the memory.
    few = max(ROWS_AT_ONCE // per_context, 1)
    for i in range(0, len(contexts), few):
        some = slice(i * per_context, (i + few) * per_context)
        to_read = [context[:-1] for context in contexts[i : i + few]]
        shared = shared_length(to_read)
        if shared < WORTH_SHARING:
            prefix = model.read(to_read)
        else:
            prompt = model.read([to_read[0][:shared]])
            questions = model.read([context[shared:] for context in to_read], prompt)
            prompts = prompt.part(len(to_read) * [0])  # the one prompt, once per context
            prefix = prompts.followed_by(questions)
        hidden = model.hidden(inputs[some], prefix)  # (n, S, C)
        yield model.head(hidden), targets[some], mask[some]


def shared_length(contexts):
    """How many tokens contexts have in common, from their beginning on."""
    # The first tokens of all of them, then the second ones, and so on: are they the same?
    same = [len(set(tokens)) == 1 for tokens in zip(*contexts, strict=False)]
    return [*same, False].index(False)


def completion_logprobs(model, contexts, completions, temperature):
    """Log-probability of each completion token under a model -> (N, S), 0 beyond a completion.

    contexts, completions: as for `completion_logits`.
    """
    parts = []
    for logits, targets, mask in completion_logits(model, contexts, completions):
        logprobs = token_logprobs(logits, targets, temperature)
        parts.append(logprobs * mask)
    return torch.cat(parts)


def vocabulary_logprobs(model, contexts, completions, temperature):
    """Log-probabilities of all tokens that could stand at each place of a completion -> (N, S, V).

    0 beyond a completion. contexts, completions: as for `completion_logits`.
    """
    parts = []
    for logits, _, mask in completion_logits(model, contexts, completions):
        logprobs = (logits.float() / temperature).log_softmax(-1)
        parts.append(logprobs * mask[..., None])
    return torch.cat(parts)
