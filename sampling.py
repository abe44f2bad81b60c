"""The sampler: many completions of shared prompts at once, with cached keys and values.

All rollouts of a training step share one of K prompts, then one of B questions, with G samples of
each. `sample` therefore runs each prompt through the model once, then each question once after its
prompt, and only then splits into R = K * B * G rows that are written token by token:

    prefill          prompts, then questions -> stored keys and values, the first token of every row
    decode_chunk     a few tokens for every row: `decode_step` again and again, with static shapes
    drop_finished    between chunks: rows that have ended leave the batch
    grow             between chunks: the rows' own caches get room for the next chunk

A row attends to two segments under one softmax (model.attend): the keys and values of its prompt,
which its rows share and nobody copies, and its own, of its question and its completion. The tokens
are those that model.generate draws from the same noise.

`Sampler` is what the learner talks to: texts of a world in, texts and log-probabilities out.
The last part of the file has the forms of `decode_step` for a GPU and for --compile.

Shapes: as in model.py; P tokens of a prompt, Q of a question, S slots of a row's own cache.
Left out: paged caches, and filling the places of finished rows with new ones.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from model import GPT, Prefix, attend, attention_bias, draw_token, padded
from plumbing import processes
from tasks.world import World

CHUNK = 8  # decode steps between looks at which rows are done; on a GPU 4 times as many
AT_ONCE = 4096  # tokens of questions read together: more no longer fit a CPU's caches


@dataclass
class Rollouts:
    """R completions of at most S tokens."""

    tokens: Tensor  # (R, S) long, padding after the end
    lengths: Tensor  # (R,) long, tokens of each completion, the end-of-sequence token included
    logprobs: Tensor  # (R, S) float32, of each token when it was drawn; 0 after the end


@dataclass
class Rows:
    """The rows that are still being written: R of them, with S slots in each cache."""

    index: Tensor  # (R,) long, which rollout each row is
    token: Tensor  # (R,) long, its latest token, which has not been through the model yet
    position: Tensor  # (R,) long, that token's place in the sequence
    done: Tensor  # (R,) bool, it has written its end-of-sequence token
    own_bias: Tensor  # (R, 1, slots that can ever be used), 0 where a slot is filled, else -inf
    caches: list  # for each layer keys (H, R, D, S) and values (H, R, S, D)

    def select(self, keep: Tensor) -> "Rows":
        """Only the rows `keep` (indices)."""
        caches = []
        for keys, values in self.caches:
            caches.append((keys.index_select(1, keep), values.index_select(1, keep)))
        return Rows(
            self.index[keep],
            self.token[keep],
            self.position[keep],
            self.done[keep],
            self.own_bias[keep],
            caches,
        )


# --- the sampler ---


def decode_step(
    model, tokens, positions, slot, prefix, prefix_bias, own, own_bias, noise, temperature
):
    """One token for every row: a pure function of tensors with static shapes that writes caches.

    tokens (R,) of the step before, at `positions` (R,), go into `slot` (1,) of the caches `own`:
    for each layer keys (H, R, D, S) and values (H, R, S, D). own_bias (R, 1, S): 0 where filled, else
    -inf. prefix, prefix_bias: as in model.Prefix. noise (R,) -> tokens (R,), log-probs (R,)
    """
    own_bias.index_fill_(2, slot, 0.0)
    cos = model.cos[positions][:, None, None]  # (R, 1, 1, D)
    sin = model.sin[positions][:, None, None]
    x = model.embedding(tokens)[:, None]  # (R, 1, C)
    for block, shared, (keys, values) in zip(model.blocks, prefix, own, strict=True):
        q, k, v = block.qkv(x, cos, sin)  # (R, H, 1, D)
        keys.index_copy_(3, slot, k.permute(1, 0, 3, 2))
        values.index_copy_(2, slot, v.transpose(0, 1))
        heads = attend(q.transpose(0, 1), shared, (keys, values), prefix_bias, own_bias)
        x = block.output(x, heads.transpose(0, 1))
    logits = model.head(model.norm(x[:, 0]))  # (R, V)
    return draw_token(logits, noise, temperature)


@processes.split_questions
@torch.inference_mode()
def sample(
    model: GPT,
    prompts: list[list[int]],
    questions: list[list[list[int]]],
    samples: int,
    *,
    max_new: int,
    eos: int,
    pad: int,
    temperature: float = 1.0,
    noise: Tensor | None = None,
    decode: Callable = decode_step,
) -> Rollouts:
    """Sample completions of K prompts, each followed by its B questions, G = `samples` times each.

    prompts: K token lists; questions: for each prompt B token lists. Rows are ordered (k, b, g),
    R = K * B * G; each ends at `eos` or after `max_new` tokens. noise (R, max_new), uniform in
    [0, 1), makes the rollouts a function of the weights. decode: a form of `decode_step`.
    Raises ValueError for empty or ragged input, and where a sequence would not fit the model.
    """
    check_lengths(model, prompts, questions, max_new)
    shortest = min(len(question) for asked in questions for question in asked)
    if samples > 1 and shortest > max_new:
        prompts, questions = questions_into_prompts(prompts, questions)
    K = len(prompts)
    R = K * len(questions[0]) * samples
    device = model.cos.device
    noise = torch.rand(R, max_new, device=device) if noise is None else noise

    # Read what is given. Its last output predicts the first token of every row.
    prefix = model.read(prompts)
    rows, logits = prefill(model, prefix, questions, samples, max_new)
    rows.token, logprob = draw_token(logits, noise[:, 0], temperature)
    rows.done = rows.token == eos
    rollouts = Rollouts(
        tokens=torch.full((R, max_new), pad, device=device),
        lengths=torch.ones_like(rows.token),
        logprobs=torch.zeros(R, max_new, device=device),
    )
    rollouts.tokens[:, 0] = rows.token
    rollouts.logprobs[:, 0] = logprob

    # Write the rest chunk by chunk. In a chunk shapes are static, and nobody looks who is done.
    first_slot = rows.caches[0][0].size(3)
    chunk = 4 * CHUNK if device.type == "cuda" else CHUNK
    for begin in range(1, max_new, chunk):
        live = (~rows.done).view(K, -1).sum(1).max().item()  # of the prompt with most: the one look
        if live == 0:
            break
        rows = drop_finished(rows, K, live)
        end = min(begin + chunk, max_new)
        slots = range(first_slot + begin - 1, first_slot + end - 1)
        grow(rows, slots.stop)
        step_noise = noise[rows.index, begin:end]  # (R, steps)
        tokens, logprobs = decode_chunk(model, prefix, rows, slots, step_noise, temperature, decode)
        record(rollouts, rows, begin, tokens, logprobs, eos, pad)
    return rollouts


def check_lengths(model, prompts, questions, max_new: int) -> None:
    """Raises ValueError for empty or ragged input, and where a sequence would not fit the model."""
    asked = [question for row in questions for question in row]
    ragged = len(prompts) != len(questions) or len({len(row) for row in questions}) != 1
    if ragged or not asked or not all(prompts + asked):
        raise ValueError(
            "sample: needs equally many questions for each prompt, at least one, and a token in each"
        )
    given = [len(p) + max(map(len, row)) for p, row in zip(prompts, questions, strict=True)]
    longest = max(given) + max_new
    room = model.cfg.block_size
    if longest > room:
        raise ValueError(
            f"sample: prompt, question and completion need {longest} tokens, the model has {room}"
        )


def questions_into_prompts(prompts, questions):
    """Long questions are worth sharing, too: all but the last token becomes part of a prompt."""
    longer = []
    for prompt, asked in zip(prompts, questions, strict=True):
        longer += [prompt + question[:-1] for question in asked]
    last_tokens = [[question[-1:]] for asked in questions for question in asked]
    return longer, last_tokens


def prefill(model: GPT, prefix: Prefix, questions, samples: int, max_new: int):
    """Read each question once after its prompt, then split into rows -> rows, logits (R, V).

    The logits are those of the first token that each row will write.
    """
    K = len(questions)
    B = len(questions[0])
    device = model.cos.device
    tokens, lengths = padded([question for asked in questions for question in asked], device)
    Q = tokens.size(1)

    # A few questions at a time: of several prompts only where all of their questions fit.
    few = max(AT_ONCE // Q, 1)
    few_prompts = max(few // B, 1)
    pairs = torch.arange(K * B, device=device).view(K, B)
    parts = []  # of each part the keys and values of all layers
    last = []  # the model's output at the last token of each question
    for k in range(0, K, few_prompts):
        shared = part_of(prefix, slice(k, k + few_prompts))
        for b in range(0, B, few):
            some = pairs[k : k + few_prompts, b : b + few].flatten()  # (N,)
            cache = []
            x = model.hidden(tokens[some], shared, cache)  # (N, Q, C)
            parts.append(cache)
            last.append(x[torch.arange(len(some), device=device), lengths[some] - 1])

    # Every question becomes G rows.
    caches = []
    for layer in zip(*parts, strict=True):
        keys = torch.cat([keys for keys, _ in layer], 1)  # (H, K * B, D, Q)
        values = torch.cat([values for _, values in layer], 1)  # (H, K * B, Q, D)
        caches.append((keys.repeat_interleave(samples, 1), values.repeat_interleave(samples, 1)))
    filled = torch.arange(Q + max_new, device=device) < lengths[:, None]  # (K * B, slots)
    position = prefix.lengths.repeat_interleave(B) + lengths  # (K * B,)
    logits = model.head(torch.cat(last)).repeat_interleave(samples, 0)  # (R, V)
    R = len(logits)
    rows = Rows(
        index=torch.arange(R, device=device),
        token=torch.zeros(R, dtype=torch.long, device=device),
        position=position.repeat_interleave(samples),
        done=torch.zeros(R, dtype=torch.bool, device=device),
        own_bias=attention_bias(filled)[:, None].repeat_interleave(samples, 0),
        caches=caches,
    )
    return rows, logits


def part_of(prefix: Prefix, some: slice) -> Prefix:
    """Some of the prompts of a prefix."""
    layers = [(keys[:, some], values[:, some]) for keys, values in prefix.layers]
    return Prefix(prefix.lengths[some], prefix.bias[some], layers)


def drop_finished(rows: Rows, K: int, live: int) -> Rows:
    """Keep `live` rows of each of K prompts: all that are not done, filled up with some that are.

    Every prompt keeps as many rows as the one with the most live rows, so that the rows of a prompt
    stay equally many and one product per prompt serves them all.
    """
    per_prompt = len(rows.index) // K
    if live == per_prompt:
        return rows
    done = rows.done.view(K, per_prompt).to(torch.uint8)
    live_first = done.argsort(dim=1, stable=True)[:, :live]  # (K, live)
    start = torch.arange(K, device=done.device)[:, None] * per_prompt
    return rows.select((live_first + start).flatten())


def grow(rows: Rows, S: int) -> None:
    """Make room for more than S slots in the rows' own caches, in large steps, since all is copied.

    One slot is always left over: a compiler takes a whole cache for another case than a part of it.
    """
    H, R, D, room = rows.caches[0][0].shape
    if room > S:
        return
    more = rows.caches[0][0].new_zeros(H, R, D, max(S + 1 - room, room // 8))
    for i, (keys, values) in enumerate(rows.caches):
        keys = torch.cat([keys, more], dim=3)
        values = torch.cat([values, more.mT], dim=2)
        rows.caches[i] = (keys, values)


def decode_chunk(model, prefix: Prefix, rows: Rows, slots: range, noise, temperature, decode):
    """Write one token into each of `slots` of every row -> tokens, log-probs (R, steps).

    noise (R, steps). Moves the rows' latest token and its position on.
    """
    S = slots.stop  # slots that are filled when the chunk ends
    own = [(keys[..., :S], values[:, :, :S]) for keys, values in rows.caches]
    own_bias = rows.own_bias[..., :S]
    places = torch.arange(slots.start, S, device=rows.token.device).split(1)  # tensors (1,)
    tokens = []
    logprobs = []
    for slot, step_noise in zip(places, noise.unbind(1), strict=True):
        rows.token, logprob = decode(
            model,
            rows.token,
            rows.position,
            slot,
            prefix.layers,
            prefix.bias,
            own,
            own_bias,
            step_noise,
            temperature,
        )
        rows.position = rows.position + 1
        tokens.append(rows.token)
        logprobs.append(logprob)
    return torch.stack(tokens, dim=1), torch.stack(logprobs, dim=1)


def record(rollouts: Rollouts, rows: Rows, begin: int, tokens, logprobs, eos: int, pad: int):
    """Put a chunk's tokens and log-probs (R, steps) into the rollouts, and note who is done now."""
    end = begin + tokens.size(1)
    ended = (tokens == eos).cumsum(1) + rows.done[:, None]  # ends so far
    # A row that is done goes on until the chunk's end; what it writes there is not part of it.
    over = (ended > 0) & ((tokens != eos) | (ended > 1))
    rollouts.tokens[rows.index, begin:end] = tokens.where(~over, pad)
    rollouts.logprobs[rows.index, begin:end] = logprobs.where(~over, 0.0)
    rollouts.lengths[rows.index] += (~over).sum(1)
    rows.done = ended[:, -1] > 0


# --- texts in, texts out ---


@dataclass
class Answers:
    """R answers, for people (texts, outcomes) and for the gradient (the rest).

    Rows are ordered (prompt, question, sample). A context is there once for all of its samples.
    """

    outcomes: list  # R: `.score`, and `.answer` for feedback
    texts: list[str]  # R, "" for one that was cut off
    contexts: list[list[int]]  # K * B, as tokens
    completions: list[list[int]]  # R, as tokens
    logprobs: Tensor  # (R, S), recorded while sampling


@dataclass
class Sampler:
    """A model that answers and reflects in the texts of a world (tasks/world.py)."""

    model: GPT
    world: World
    temperature: float
    rng: torch.Generator | None = None  # makes the noise
    decode: Callable = decode_step
    sampled_tokens: int = 0  # so far

    def answer(self, jobs: list, samples: int = 1) -> Answers:
        """Answer jobs (prompt, questions), `samples` times each; all have equally many questions."""
        world = self.world
        prompts = [world.encode_start(world.prompt_text(prompt)) for prompt, _ in jobs]
        asked = []
        for _, questions in jobs:
            asked.append([world.encode(world.question_text(question)) for question in questions])
        rollouts = sample(
            self.model,
            prompts,
            asked,
            samples,
            max_new=world.answer_tokens,
            eos=world.eos,
            pad=world.pad,
            temperature=self.temperature,
            noise=self.noise(len(jobs) * len(asked[0]) * samples, world.answer_tokens),
            decode=self.decode,
        )
        self.sampled_tokens += rollouts.lengths.sum().item()

        # Grade each answer against the question that its row belongs to.
        texts = texts_of(world, rollouts)
        outcomes = []
        for _, questions in jobs:
            for question in questions:
                for _ in range(samples):
                    outcomes.append(world.grade(question, texts[len(outcomes)]))
        contexts = contexts_of(world, jobs)
        return Answers(outcomes, texts, contexts, completions_of(rollouts), rollouts.logprobs)

    def reflect(self, requests: list) -> list[tuple[str, str]]:
        """Reflect on requests (topic, instruction or "", [(question, outcome), ...]).

        -> for each the proposed instruction ("" for none) and all that was read and written
        (untrusted text).
        """
        world = self.world
        asked = [world.reflection_text(*request) for request in requests]
        rollouts = sample(
            self.model,
            [world.encode_start("")],
            [[world.encode(text) for text in asked]],
            1,
            max_new=world.reflection_tokens,
            eos=world.eos,
            pad=world.pad,
            temperature=self.temperature,
            noise=self.noise(len(asked), world.reflection_tokens),
            decode=self.decode,
        )
        self.sampled_tokens += rollouts.lengths.sum().item()
        written = texts_of(world, rollouts)
        proposals = []
        for (topic, _, _), read, wrote in zip(requests, asked, written, strict=True):
            proposals.append((world.proposal(topic, wrote), read + wrote))
        return proposals

    def noise(self, rows: int, max_new: int) -> Tensor:
        """A uniform random number for each token that may be sampled (rows, max_new)."""
        return torch.rand(rows, max_new, generator=self.rng, device=self.model.cos.device)


def contexts_of(world, jobs: list) -> list[list[int]]:
    """The tokens before each answer to jobs (prompt, questions), ordered as in `Answers`."""
    contexts = []
    for prompt, questions in jobs:
        begin = world.prompt_text(prompt)
        contexts += [world.encode_start(begin + world.question_text(q)) for q in questions]
    return contexts


def completions_of(rollouts: Rollouts) -> list[list[int]]:
    """Rollouts -> their completions as token lists, the end-of-sequence token included."""
    lengths = rollouts.lengths.tolist()
    return [row[:n] for row, n in zip(rollouts.tokens.tolist(), lengths, strict=True)]


def texts_of(world, rollouts: Rollouts) -> list[str]:
    """Rollouts -> their texts; "" for one that was cut off before its end-of-sequence token."""
    texts = []
    for completion in completions_of(rollouts):
        finished = completion[-1] == world.eos
        texts.append(world.decode(completion[:-1]) if finished else "")
    return texts


# --- forms of decode_step ---


class CapturedStep:
    """decode_step on a GPU, where its 200 small kernels take longer to launch than to run.

    The first step of a chunk is recorded as a CUDA graph, and all steps of the chunk are replays
    of it. The caches stay where they are; new inputs are copied to where the graph reads them.
    """

    def __init__(self):
        self.own = None  # the caches of the chunk that was recorded

    def __call__(
        self, model, tokens, positions, slot, prefix, prefix_bias, own, own_bias, noise, temperature
    ):
        new_inputs = (tokens, positions, slot, noise)
        if own is not self.own:  # another chunk
            self.inputs = [part.clone() for part in new_inputs]
            tokens, positions, slot, noise = self.inputs
            arguments = (model, tokens, positions, slot, prefix, prefix_bias)
            arguments += (own, own_bias, noise, temperature)
            if self.own is None:
                decode_step(*arguments)  # a kernel's first run does things that cannot be recorded
            self.graph = torch.cuda.CUDAGraph()
            self.own = own
            # thread_local: the threads of nccl may go on meanwhile
            with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
                self.outputs = decode_step(*arguments)
        for part, value in zip(self.inputs, new_inputs, strict=True):
            part.copy_(value)
        self.graph.replay()
        return tuple(part.clone() for part in self.outputs)


def compiled_step() -> Callable:
    """What --compile makes of decode_step."""
    torch._dynamo.config.suppress_errors = True  # what cannot be compiled runs as it is
    return torch.compile(decode_step, dynamic=True)  # else it is compiled anew for every chunk


def decoder(compiled: bool, device: str) -> Callable:
    """The form of decode_step to use: compiled, or recorded on a CUDA device, or as it is."""
    if compiled:
        return compiled_step()
    return CapturedStep() if device == "cuda" else decode_step
