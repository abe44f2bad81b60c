"""The GPT, and batched sampling from it with a shared-prefix KV cache.

Read `GPT` first: a Llama-family transformer (pre-RMSNorm, RoPE, SwiGLU, no biases, untied head). Then `sample_naive`,
the lesson: recompute everything for every token. Then `sample`, which gives the same tokens many times faster.

All rollouts of a training step share one of K prompts, then one of B questions, with G samples each. So `sample` runs
each prompt through the model once, each (prompt, question) pair once, and only then splits into rows. A row attends to
two segments under one softmax: the keys and values of its prompt, which its rows share and nobody copies (those of long
questions likewise), and its own. Finished rows are dropped between chunks of steps. rl.py shares contexts the same way.

Shapes: B sequences of length T, C channels, H heads of D channels, V vocabulary; in sampling K prompts of length P, B
questions for each, G samples of each, R = K * B * G rows, S tokens of a completion or slots of a row's own cache.
Left out: dropout, top-k and top-p (what is trained must be the distribution that was sampled from), paged caches.
"""

import io
import math
import os
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FORMAT = 1  # of checkpoints
CHUNK = 8  # decode steps, 4 times as many on a GPU, between looks at which rows are done; in between shapes are static
AT_ONCE = 4096  # tokens of questions that are read together: the attention of more no longer fits a CPU's caches


@dataclass(frozen=True)
class GPTConfig:
    vocab_size: int
    n_layer: int = 4
    n_head: int = 4
    n_embd: int = 128
    n_hidden: int = 256  # inner width of SwiGLU
    block_size: int = 2048  # longest sequence
    rope_base: float = 10000.0


class RMSNorm(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return F.rms_norm(x, x.shape[-1:], self.weight.to(x.dtype), eps=1e-6)


def rotate(x, cos, sin):
    """RoPE (arXiv 2104.09864), halves convention: x (..., T, D), cos and signed sin broadcastable to (..., T, D)."""
    return (x * cos + x.roll(x.size(-1) // 2, dims=-1) * sin).to(x.dtype)  # a cos - b sin, b cos + a sin


def causal_attention(q, k, v):
    """q, k, v (B, H, T, D) -> (B, H, T, D), each position attending to itself and those before."""
    if q.is_cuda or q.dtype == torch.float32:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    # on CPU the plain products win in bfloat16: at T <= 256 the fused kernel's backward takes three times as long
    future = torch.full((q.size(2), q.size(2)), -torch.inf, dtype=q.dtype, device=q.device).triu(1)  # (T, T)
    return (q @ k.transpose(-1, -2) * q.size(-1) ** -0.5 + future).softmax(-1, dtype=q.dtype) @ v


def attend(q, prefix, own, prefix_bias, own_bias):
    """Attention over a shared prefix and a row's own segment, under one softmax. Heads come first: no cache is copied.

    q (H, R, T, D); prefix: keys (H, K, D, P) and values (H, K, P, D), each for R / K consecutive rows; own: keys
    (H, R, D, S) and values (H, R, S, D): so a CPU reads both fastest. Biases (K, 1, P) and, broadcast, (R, T, S) are 0
    where attended to, -inf elsewhere. -> (H, R, T, D)
    """
    (H, R, T, D), (K, _, P) = q.shape, prefix[0].shape[1:]
    q = q.contiguous() * D**-0.5
    to_prefix = (q.view(H, K, -1, D) @ prefix[0] + prefix_bias).view(H, R, T, P)
    to_own = q @ own[0] + own_bias  # (H, R, T, S)
    weights = torch.cat([to_prefix, to_own], dim=-1).softmax(-1)
    of_prefix = weights[..., :P].reshape(H, K, R // K * T, P) @ prefix[1]  # (H, K, R / K * T, D)
    return of_prefix.view(q.shape) + weights[..., P:] @ own[1]


def bias(visible: Tensor) -> Tensor:
    """Boolean mask -> 0 where True, -inf where False."""
    return torch.zeros(visible.shape, device=visible.device).masked_fill_(~visible, -torch.inf)


class Prefix(NamedTuple):
    """K prompts of at most P tokens that were read, each to be continued by equally many rows."""

    lengths: Tensor  # (K,) long
    bias: Tensor  # (K, 1, P), 0 on the prompts, -inf beyond
    layers: list  # of each layer the keys (H, K, D, P) and the values (H, K, P, D)


class Block(nn.Module):
    """One transformer layer, in two halves, so that what is attended to can be put in between."""

    def __init__(self, cfg: GPTConfig):
        super().__init__()
        self.n_head = cfg.n_head
        self.attention_norm, self.mlp_norm = RMSNorm(cfg.n_embd), RMSNorm(cfg.n_embd)
        self.q, self.k, self.v, self.o = (nn.Linear(cfg.n_embd, cfg.n_embd, bias=False) for _ in range(4))
        self.gate, self.up = (nn.Linear(cfg.n_embd, cfg.n_hidden, bias=False) for _ in range(2))
        self.down = nn.Linear(cfg.n_hidden, cfg.n_embd, bias=False)

    def qkv(self, x, cos, sin):
        """x (B, T, C) -> queries, keys, values (B, H, T, D), positions already rotated in."""
        y = self.attention_norm(x)
        q, k, v = (w(y).unflatten(-1, (self.n_head, -1)).transpose(1, 2) for w in (self.q, self.k, self.v))
        return rotate(q, cos, sin), rotate(k, cos, sin), v

    def rest(self, x, heads):
        """x (B, T, C), attended values (B, H, T, D) -> the layer's output (B, T, C)."""
        x = x + self.o(heads.transpose(1, 2).flatten(2))
        y = self.mlp_norm(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class GPT(nn.Module):
    def __init__(self, cfg: GPTConfig):
        super().__init__()
        self.cfg = cfg
        self.embedding = nn.Embedding(cfg.vocab_size, cfg.n_embd)
        self.blocks = nn.ModuleList(Block(cfg) for _ in range(cfg.n_layer))
        self.norm = RMSNorm(cfg.n_embd)
        self.head = nn.Linear(cfg.n_embd, cfg.vocab_size, bias=False)
        for name, p in self.named_parameters():
            if p.ndim == 2:  # GPT-2's initialisation: what is added to the residual stream starts smaller
                shrink = math.sqrt(2 * cfg.n_layer) if name.endswith((".o.weight", ".down.weight")) else 1.0
                nn.init.normal_(p, std=0.02 / shrink)
        half = cfg.n_embd // cfg.n_head // 2
        angles = torch.outer(torch.arange(cfg.block_size), cfg.rope_base ** (-torch.arange(half) / half))
        self.register_buffer("cos", angles.cos().repeat(1, 2), persistent=False)  # (block_size, D)
        self.register_buffer("sin", torch.cat([-angles.sin(), angles.sin()], dim=-1), persistent=False)

    def hidden(self, tokens: Tensor, prefix: Prefix | None = None, cache: list | None = None) -> Tensor:
        """tokens (B, T) -> what the head reads (B, T, C).

        Of a prefix each prompt goes on in B / K consecutive rows. A cache gets keys (H, B, D, T), values (H, B, T, D).
        """
        positions = offsets = torch.arange(tokens.size(1), device=tokens.device)  # (T,)
        if prefix is not None:
            start = prefix.lengths.repeat_interleave(len(tokens) // len(prefix.lengths))  # (B,)
            positions = (start[:, None] + offsets).clamp(max=len(self.cos) - 1)  # (B, T), clamped in padding
            causal = bias(offsets <= offsets[:, None])  # (T, T)
        x, cos, sin = self.embedding(tokens), self.cos[positions].unsqueeze(-3), self.sin[positions].unsqueeze(-3)
        for i, block in enumerate(self.blocks):
            q, k, v = block.qkv(x, cos, sin)
            own = k.permute(1, 0, 3, 2), v.transpose(0, 1)
            if cache is not None:
                cache.append(own)
            if prefix is None:
                heads = causal_attention(q, k, v)
            else:
                heads = attend(q.transpose(0, 1), prefix.layers[i], own, prefix.bias, causal).transpose(0, 1)
            x = block.rest(x, heads)
        return self.norm(x)

    def read(self, prompts: list[list[int]]) -> Prefix:
        """Token lists -> the prefix that `hidden` goes on from (prefill)."""
        (tokens, lengths), cache = padded(prompts, self.cos.device), []
        self.hidden(tokens, cache=cache)
        beyond = bias(torch.arange(tokens.size(1), device=tokens.device) < lengths[:, None])[:, None]  # (K, 1, P)
        return Prefix(lengths, beyond, [(k.contiguous(), v.contiguous()) for k, v in cache])

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens (B, T) -> logits (B, T, V) of the next token at every position."""
        return self.head(self.hidden(tokens))


def write_file(path: Path, data: bytes) -> None:
    """Write beside `path`, flush, rename: a reader finds the old file or the new one, never half of one."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:  # the disk is full, say
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from None


def save_checkpoint(path: Path, contents: dict) -> None:
    """Tensors and plain data -> a file that is written whole or not at all."""
    torch.save({"format": FORMAT, **contents}, buffer := io.BytesIO())
    write_file(path, buffer.getbuffer())


def load_checkpoint(path: Path) -> dict:
    """A checkpoint: tensors and plain data. Raises ValueError for a missing, damaged or foreign one."""
    if not (path.is_file() and os.access(path, os.R_OK)):
        raise ValueError(f"no checkpoint at {path}, or none that may be read")
    contents, fault = {}, "its bytes are not as they were written"
    with suppress(Exception), zipfile.ZipFile(path) as archive:  # a dozen kinds, for a file that is no checkpoint
        if archive.testzip() is None:  # checksums, which torch.load does not look at
            fault = "it holds more than tensors and plain data"
            loaded = torch.load(path, map_location="cpu", weights_only=True)
            fault = f"this program reads format {FORMAT}, not {loaded.get('format')}"
            contents = loaded
    if contents.get("format") != FORMAT:
        raise ValueError(f"{path} is damaged, or no checkpoint of this program: {fault}")
    return contents


@dataclass
class Rollouts:
    """R completions of at most S tokens."""

    tokens: Tensor  # (R, S) long, pad after the end
    lengths: Tensor  # (R,) long, tokens of each completion, the end-of-sequence token included
    logprobs: Tensor  # (R, S) float32, of each token under the distribution it was drawn from; 0 after the end


def choose(logits, noise, temperature: float):
    """logits (R, V), noise (R,) uniform in [0, 1) -> token (R,) ~ softmax(logits / T), its log-probability (R,).

    One random number, not V of them: the token is that at which the running sum of the probabilities passes it, the
    last if none does (NaN). Temperature 0 takes the likeliest token (log-probs at T = 1).
    """
    probs = (logits.float() / (temperature or 1.0)).softmax(-1)
    if temperature == 0:
        token = probs.argmax(-1, keepdim=True)  # (R, 1)
    else:
        sums = probs.cumsum(-1)
        token = torch.searchsorted(sums, noise[:, None] * sums[:, -1:], right=True).clamp(max=logits.size(-1) - 1)
    return token[:, 0], probs.gather(-1, token)[:, 0].log()


def check_lengths(model, prompts, questions, max_new: int) -> None:
    """Raises ValueError for empty or ragged input, and where a sequence would not fit the model."""
    asked = [q for row in questions for q in row]
    ragged = len(prompts) != len(questions) or len({len(row) for row in questions}) != 1
    if ragged or not asked or not all(prompts + asked):
        raise ValueError("sample: needs equally many questions for each prompt, one at least, and a token in each")
    longest = max(len(p) + max(map(len, row)) for p, row in zip(prompts, questions, strict=True)) + max_new
    if longest > (room := model.cfg.block_size):
        raise ValueError(f"sample: prompt, question and completion need {longest} tokens, the model has {room}")


def padded(rows: list[list[int]], device) -> tuple[Tensor, Tensor]:
    """Token lists -> (N, longest) padded on the right with 0, and their lengths (N,)."""
    width = max(map(len, rows))
    tokens = torch.tensor([row + [0] * (width - len(row)) for row in rows], dtype=torch.long, device=device)
    return tokens, torch.tensor([len(row) for row in rows], device=device)


@torch.inference_mode()
def sample_naive(model, prompts, questions, samples, *, max_new, eos, pad, temperature=1.0, noise=None):
    """What `sample` does, in the plainest way: every token from a full pass over every row. Oracle and lesson."""
    check_lengths(model, prompts, questions, max_new)
    rows = [p + q for p, asked in zip(prompts, questions, strict=True) for q in asked for _ in range(samples)]
    tokens, end = padded([row + [pad] * max_new for row in rows], model.cos.device)  # (R, T)
    end, every = end - max_new, torch.arange(len(rows), device=tokens.device)
    start, lengths, done = end.clone(), torch.zeros_like(end), torch.zeros_like(end, dtype=torch.bool)
    logprobs = torch.zeros(len(rows), max_new, device=tokens.device)
    noise = torch.rand(len(rows), max_new, device=tokens.device) if noise is None else noise
    for t in range(max_new):
        logits = model(tokens)[every, end - 1]  # (R, V)
        token, logprob = choose(logits, noise[:, t], temperature)
        tokens[every, end], logprobs[:, t] = token.where(~done, pad), logprob.where(~done, 0.0)
        lengths, end, done = lengths + ~done, end + 1, done | (token == eos)
    return Rollouts(tokens.gather(1, start[:, None] + torch.arange(max_new, device=end.device)), lengths, logprobs)


def decode_step(model, tokens, positions, slot, prefix, prefix_bias, own, own_bias, noise, temperature):
    """One token for every row: a pure function of tensors with static shapes, but for the cache that it writes.

    tokens (R,) of the step before, at `positions` (R,), go into `slot` (1,) of the cache `own`, per layer keys and
    values (H, R, D, S), (H, R, S, D); own_bias (R, 1, S): 0 where filled, else -inf; noise (R,) -> tokens, log-probs
    """
    own_bias.index_fill_(2, slot, 0.0)
    cos, sin = model.cos[positions][:, None, None], model.sin[positions][:, None, None]  # (R, 1, 1, D)
    x = model.embedding(tokens)[:, None]  # (R, 1, C)
    for block, shared, (keys, values) in zip(model.blocks, prefix, own, strict=True):
        q, k, v = block.qkv(x, cos, sin)  # (R, H, 1, D)
        keys.index_copy_(3, slot, k.permute(1, 0, 3, 2))
        values.index_copy_(2, slot, v.transpose(0, 1))
        heads = attend(q.transpose(0, 1), shared, (keys, values), prefix_bias, own_bias)
        x = block.rest(x, heads.transpose(0, 1))
    return choose(model.head(model.norm(x[:, 0])), noise, temperature)


@torch.inference_mode()
def sample(
    model, prompts, questions, samples, *, max_new, eos, pad, temperature=1.0, noise=None, decode=decode_step
) -> Rollouts:
    """Sample completions of K prompts, each followed by its B questions, G = `samples` times each; all are token lists.

    Rows are ordered (k, b, g), R = K * B * G; each ends at `eos` or after `max_new` tokens. `noise` (R, max_new),
    uniform in [0, 1), makes them a function of the weights alone. `decode`: decode_step, or run.py's.
    Raises ValueError for empty or ragged input and for sequences longer than the model's block size.
    """
    check_lengths(model, prompts, questions, max_new)
    if samples > 1 and min(len(q) for row in questions for q in row) > max_new:  # they are worth sharing, too
        prompts = [p + q[:-1] for p, row in zip(prompts, questions, strict=True) for q in row]
        questions = [[q[-1:]] for row in questions for q in row]
    device, K, B, G = model.cos.device, len(prompts), len(questions[0]), samples
    # 1. each prompt once, then each (prompt, question) pair, a few at a time, then one row per sample
    prefix = model.read(prompts)
    tokens, lengths = padded([q for row in questions for q in row], device)  # (K * B, Q)
    last, caches, width = [], [], tokens.size(1)
    pairs, few, R = torch.arange(K * B, device=device).view(K, B), max(AT_ONCE // width, 1), K * B * G
    n = max(few // B, 1)  # several prompts at a time only where all of their questions fit
    for i, b in product(range(0, K, n), range(0, B, few)):
        some, these = pairs[i : i + n, b : b + few].flatten(), slice(i, i + n)  # N pairs: of n prompts, or some of one
        layers = [(keys[:, these], values[:, these]) for keys, values in prefix.layers]
        x = model.hidden(tokens[some], Prefix(prefix.lengths[these], prefix.bias[these], layers), cache := [])
        caches.append(cache)
        last.append(x[torch.arange(len(x), device=device), lengths[some] - 1])
    layers = zip(*caches, strict=True)  # each as all parts' keys and values; joined (H, R, D, Q), (H, R, Q, D)
    own = [tuple(torch.cat(parts, 1).repeat_interleave(G, 1) for parts in zip(*layer, strict=True)) for layer in layers]
    own_bias = bias(torch.arange(width + max_new, device=device) < lengths[:, None])[:, None].repeat_interleave(G, 0)
    positions = (prefix.lengths.repeat_interleave(B) + lengths).repeat_interleave(G)  # (R,)
    # 2. the completions, in chunks
    noise = torch.rand(R, max_new, device=device) if noise is None else noise
    out, out_logprobs = torch.full((R, max_new), pad, device=device), torch.zeros(R, max_new, device=device)
    token, out_logprobs[:, 0] = choose(model.head(torch.cat(last)).repeat_interleave(G, 0), noise[:, 0], temperature)
    out[:, 0], done, lengths = token, token == eos, torch.ones_like(token)
    rows = torch.arange(R, device=device)  # which rollout each live row is
    chunk = 4 * CHUNK if device.type == "cuda" else CHUNK
    for begin in range(1, max_new, chunk):
        if (live := (~done).view(K, -1).sum(1).max().item()) == 0:  # the one look per chunk
            break
        if live < len(rows) // K:  # every prompt keeps as many as the one with the most live rows, its live ones first
            keep = done.view(K, -1).to(torch.uint8).argsort(dim=1, stable=True)[:, :live]  # (K, live)
            keep = (keep + torch.arange(K, device=device)[:, None] * (len(rows) // K)).flatten()
            rows, token, done, positions, own_bias = (part[keep] for part in (rows, token, done, positions, own_bias))
            own = [tuple(cache.index_select(1, keep) for cache in layer) for layer in own]
        end = min(begin + chunk, max_new)
        S, (H, rest, D, room) = width + end - 1, own[0][0].shape  # S slots are in use when the chunk ends
        if room <= S:  # in large steps, since all is copied, and past S: for a compiler a whole cache is another case
            more = own[0][0].new_zeros(H, rest, D, max(S + 1 - room, room // 8))
            own = [(torch.cat([k, more], dim=3), torch.cat([v, more.mT], dim=2)) for k, v in own]
        used = [(k[..., :S], v[:, :, :S]) for k, v in own]
        steps, caches = [], (prefix.layers, prefix.bias, used, own_bias[..., :S])
        slots = torch.arange(width + begin - 1, S, device=device).split(1)
        for slot, step_noise in zip(slots, noise[rows, begin:end].unbind(1), strict=True):
            steps.append(decode(model, token, positions, slot, *caches, step_noise, temperature))
            token, positions = steps[-1][0], positions + 1
        tokens, logprobs = (torch.stack(parts, dim=1) for parts in zip(*steps, strict=True))  # (live rows, steps)
        ended = (tokens == eos).cumsum(1) + done[:, None]
        over = (ended > 0) & ((tokens != eos) | (ended > 1))  # what a row that is done wrote until the chunk's end
        out[rows, begin:end], out_logprobs[rows, begin:end] = tokens.where(~over, pad), logprobs.where(~over, 0.0)
        lengths[rows], done = lengths[rows] + (~over).sum(1), ended[:, -1] > 0
    return Rollouts(out, lengths, out_logprobs)
