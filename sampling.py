"""The sampler: many completions of shared prompts at once, with cached keys and values.

Each rollout of a training step begins with one of K prompts, then one of B questions; G samples
share both. `sample` therefore runs each prompt through the model once, then each question once
after its prompt, and only then splits into R = K * B * G rows that are written token by token:

    GPT.read         the prompts -> stored keys and values, which all rows of a prompt share
    prefill          the questions -> their keys and values, the first token of every row
    decode_chunk     a few tokens for every row: `decode_step` again and again, with static shapes
    drop_finished    between chunks: rows that have ended leave the batch
    grow             between chunks: the rows' own caches get room for the next chunk

A row attends to two segments under one softmax (model.attend): the keys and values of its prompt,
which its rows share and nobody copies, and its own, of its question and its completion. The tokens
are those that model.generate draws from the same noise.

`Sampler` is what the learner talks to: texts of a world in, texts and log-probabilities out.
The last part of the file has the forms of `decode_step` for a GPU and for --compile.

Shapes: as in model.py, but S are the slots of a row's own cache; P tokens of a prompt, T of a
question. G are the samples of a question under one prompt; in rl.py its rollouts under all prompts.
Left out: paged caches, and filling the places of finished rows with new ones.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from model import GPT, attend, attention_bias, completion_mask, draw_token, padded
from plumbing import processes
from tasks.world import World

CHUNK = 8  # decode steps between looks at which rows are done; on a GPU 4 times as many
TOKENS_AT_ONCE = 4096  # tokens of questions read together: more no longer fit a CPU's caches


@dataclass
class Rollouts:
    """R completions of at most max_new tokens."""

    tokens: Tensor  # (R, max_new) long, padding after the end
    lengths: Tensor  # (R,) long, tokens of each completion, the end-of-sequence token included
    logprobs: Tensor  # (R, max_new) float32, of each token when it was drawn; 0 after the end


@dataclass
class Rows:
    """The rows that are still being written: R of them. Their caches have S slots or more."""

    index: Tensor  # (R,) long, which rollout each row is
    token: Tensor  # (R,) long, its latest token, which has not been through the model yet
    position: Tensor  # (R,) long, that token's place in the sequence
    done: Tensor  # (R,) bool, whether it has written its end-of-sequence token
    own_bias: Tensor  # (R, 1, slots that can ever be used), 0 where a slot is filled, else -inf
    caches: list  # for each layer keys (J, R, D, S) and values (J, R, S, D)

    def keep(self, some):
        """Drop all rows but `some` (indices)."""
        for name in ("index", "token", "position", "done", "own_bias"):
            setattr(self, name, getattr(self, name)[some])
        for i, (keys, values) in enumerate(self.caches):
            self.caches[i] = (keys.index_select(1, some), values.index_select(1, some))


# --- the sampler ---


def decode_step(
    model, tokens, positions, slot, prefix, prefix_bias, own, own_bias, noise, temperature
):
    """One token for every row, with static shapes; it writes into `own` and `own_bias` in place.

    tokens (R,) of the step before, at `positions` (R,), go into `slot` (1,) of the caches `own`:
    for each layer keys (J, R, D, S) and values (J, R, S, D). own_bias (R, 1, S): 0 where filled,
    else -inf. prefix, prefix_bias: .layers and .bias of a model.Prefix.
    noise (R,) -> tokens (R,), log-probs (R,)
    """
    own_bias.index_fill_(2, slot, 0.0)
    cos = model.cos[positions][:, None, None]  # (R, 1, 1, D)
    sin = model.sin[positions][:, None, None]
    x = model.embedding(tokens)[:, None]  # (R, 1, C)
    for block, shared, cache in zip(model.blocks, prefix, own, strict=True):
        q, k, v = block.qkv(x, cos, sin)  # q (R, H, 1, D), k and v (R, J, 1, D)

        # The token's key and value go into the cache first: it attends to itself, too.
        keys, values = cache
        keys.index_copy_(3, slot, k.permute(1, 0, 3, 2))
        values.index_copy_(2, slot, v.transpose(0, 1))
        heads = attend(q, shared, cache, prefix_bias, own_bias)
        x = block.output(x, heads)
    x = model.norm(x[:, 0])  # (R, C)
    return draw_token(model.head(x), noise, temperature)


@processes.split_questions
@torch.inference_mode()
def sample(
    model,
    prompts,
    questions,
    samples,
    *,
    max_new,
    eos,
    pad,
    temperature=1.0,
    noise,
    decode=decode_step,
) -> Rollouts:
    """Sample completions of K prompts, each followed by its B questions, G = `samples` times each.

    prompts: K token lists; questions: for each prompt B token lists. Rows are ordered (k, b, g),
    R = K * B * G; each ends at `eos` or after `max_new` tokens. noise (R, max_new), uniform in
    [0, 1), decides which tokens are drawn. decode: a form of `decode_step`.
    Raises ValueError for empty or ragged input, and where a sequence would not fit the model.
    """
    check_lengths(model, prompts, questions, max_new)

    # Read what is given, and draw the first token of every row.
    K = len(prompts)
    prefix = model.read(prompts)
    rows, first_logprob = prefill(model, prefix, questions, samples, noise, temperature, eos)

    # What has been written so far: the first token of each row, then padding.
    tokens = torch.full(noise.shape, pad, device=noise.device)  # (R, max_new)
    tokens[:, 0] = rows.token
    logprobs = torch.zeros_like(noise)
    logprobs[:, 0] = first_logprob
    lengths = torch.ones_like(rows.token)
    rollouts = Rollouts(tokens, lengths, logprobs)

    # Write the rest chunk by chunk. In a chunk shapes are static, and nobody looks who is done.
    next_slot = rows.caches[0][0].size(3)  # the first one after the questions
    chunk = 4 * CHUNK if noise.is_cuda else CHUNK
    for begin in range(1, max_new, chunk):
        live = (~rows.done).view(K, -1).sum(1)  # (K,)
        most = live.max().item()  # the one look per chunk: here the program waits for the device
        if most == 0:
            break
        drop_finished(rows, K, most)
        end = min(begin + chunk, max_new)
        slots = range(next_slot, next_slot + end - begin)
        next_slot = slots.stop
        grow(rows, next_slot)
        step_noise = noise[rows.index, begin:end]  # (rows left, steps)
        # -> tokens, log-probs
        written = decode_chunk(model, prefix, rows, slots, step_noise, temperature, decode)
        record(rollouts, rows, begin, *written, eos, pad)
    return rollouts


def check_lengths(model, prompts, questions, max_new):
    """Raises ValueError for empty or ragged input, and where a sequence would not fit the model."""
    # How many questions the prompts have: the same number each, and not 0.
    numbers = {len(asked) for asked in questions}
    even = len(prompts) == len(questions) and len(numbers) == 1 and 0 not in numbers
    if not even or not all(chain(prompts, *questions)):
        raise ValueError(
            "sample: needs equally many questions for each prompt, one at least, "
            "and a token in each"
        )

    # The longest sequence that could come out.
    longest = max(map(len, prompts)) + max(map(len, chain(*questions))) + max_new
    room = model.cfg.block_size
    if longest > room:
        raise ValueError(
            f"sample: prompt, question and completion need {longest} tokens, the model has {room}"
        )


def prefill(model, prefix, questions, samples, noise, temperature, eos):
    """Read each question once after its prompt, split into rows, draw the first token of each.

    noise (R, max_new) -> rows, the log-probs of their first tokens (R,).
    """
    tokens, lengths = padded(list(chain(*questions)), model.cos.device)  # (K * B, T)
    last, caches = read_questions(model, prefix, tokens, lengths)

    # Every question becomes G rows, each with a copy of its keys and values.
    for i, (keys, values) in enumerate(caches):
        keys = keys.repeat_interleave(samples, 1)  # (J, R, D, T)
        values = values.repeat_interleave(samples, 1)  # (J, R, T, D)
        caches[i] = (keys, values)

    # Of all slots those with a question's tokens are filled; the padding of a short one is not.
    room = tokens.size(1) + noise.size(1)
    filled = completion_mask(lengths, room) > 0  # (K * B, room)
    own_bias = attention_bias(filled)[:, None]  # (K * B, 1, room)

    # The output at the last token of a question predicts the first token of its rows.
    logits = model.head(last).repeat_interleave(samples, 0)  # (R, V)
    token, logprob = draw_token(logits, noise[:, 0], temperature)
    position = prefix.lengths.repeat_interleave(len(questions[0])) + lengths  # (K * B,)
    rows = Rows(
        index=torch.arange(len(token), device=token.device),
        token=token,
        position=position.repeat_interleave(samples),
        done=token == eos,
        own_bias=own_bias.repeat_interleave(samples, 0),
        caches=caches,
    )
    return rows, logprob


def read_questions(model, prefix, tokens, lengths):
    """Read questions (K * B, T) after their prompts -> what a completion starts from.

    That is the model's output at the last token of each question (K * B, C), and for each layer the
    keys (J, K * B, D, T) and the values (J, K * B, T, D).
    """
    # A few questions at a time: of several prompts only where all of their questions fit.
    K = len(prefix.lengths)
    pairs = torch.arange(len(tokens), device=tokens.device).view(K, -1)  # (K, B)
    few = max(TOKENS_AT_ONCE // tokens.size(1), 1)
    few_prompts = max(few // pairs.size(1), 1)
    last = []
    parts = []
    for k in range(0, K, few_prompts):
        some_prompts = slice(k, k + few_prompts)
        shared = prefix.part(some_prompts)
        for some in pairs[some_prompts].split(few, dim=1):
            some = some.flatten()  # (N,)
            cache = []
            x = model.hidden(tokens[some], shared, cache)  # (N, T, C)
            every = torch.arange(len(some), device=some.device)
            last.append(x[every, lengths[some] - 1])  # (N, C)
            parts.append(cache)

    # Put the parts together again.
    caches = []
    for layer in zip(*parts, strict=True):
        keys, values = zip(*layer, strict=True)
        caches.append((torch.cat(keys, 1), torch.cat(values, 1)))
    return torch.cat(last), caches


def drop_finished(rows: Rows, K, most):
    """Keep `most` rows of each of K prompts: all that are not done, filled up with some that are.

    `most` is how many the prompt with the most live rows has. So the rows of a prompt stay equally
    many, and one product per prompt serves them all.
    """
    per_prompt = len(rows.index) // K
    if most == per_prompt:
        return

    # Sort the rows of each prompt: the live ones first, in their old order.
    done = rows.done.view(K, per_prompt).to(torch.uint8)
    live_first = done.argsort(dim=1, stable=True)  # (K, per_prompt)
    start = torch.arange(K, device=done.device)[:, None] * per_prompt
    kept = live_first[:, :most] + start  # (K, most)
    rows.keep(kept.flatten())


def grow(rows: Rows, S):
    """Make room for more than S slots in the rows' own caches, in large steps, since all is copied.

    One slot is always left over: the part in use is never the whole cache, for torch.compile would
    take that for another case, and compile anew.
    """
    J, R, D, room = rows.caches[0][0].shape
    if room > S:
        return

    # An eighth more at a time: so a long completion is copied only a few times.
    extra = max(S + 1 - room, room // 8)
    more = rows.caches[0][0].new_zeros(J, R, D, extra)
    for i, (keys, values) in enumerate(rows.caches):
        keys = torch.cat([keys, more], dim=3)
        values = torch.cat([values, more.mT], dim=2)
        rows.caches[i] = (keys, values)


def decode_chunk(model, prefix, rows: Rows, slots, noise, temperature, decode):
    """Draw one token per slot for every row -> the tokens and their log-probs (R, steps).

    A step puts each row's latest token into its slot, and draws the next one. noise (R, steps).
    Moves the rows' latest token and its position on.
    """
    # Only the slots that are filled when the chunk ends take part in attention.
    S = slots.stop
    own = [(keys[..., :S], values[:, :, :S]) for keys, values in rows.caches]
    own_bias = rows.own_bias[..., :S]
    tokens = []
    logprobs = []
    places = torch.arange(slots.start, S, device=own_bias.device)
    for slot, step_noise in zip(places.split(1), noise.unbind(1), strict=True):
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
        # The next token stands one place further.
        rows.position = rows.position + 1
        tokens.append(rows.token)
        logprobs.append(logprob)
    return torch.stack(tokens, dim=1), torch.stack(logprobs, dim=1)


def record(rollouts: Rollouts, rows: Rows, begin, tokens, logprobs, eos, pad):
    """Put a chunk's tokens and log-probs (R, steps) into the rollouts, and note who is done now."""
    # A row that is done goes on until the chunk's end; what it writes there is not part of it.
    is_end = tokens == eos
    ended = is_end.cumsum(1) + rows.done[:, None]  # how many ends up to here
    ended_before = ended - is_end.long()
    real = ended_before == 0  # the end-of-sequence token itself is real

    written = slice(begin, begin + tokens.size(1))
    rollouts.tokens[rows.index, written] = tokens.where(real, pad)
    rollouts.logprobs[rows.index, written] = logprobs.where(real, 0.0)
    rollouts.lengths[rows.index] += real.sum(1)
    rows.done = rows.done | is_end.any(1)


# --- texts in, texts out ---


@dataclass
class Answers:
    """R answers: their rewards, their texts for people, and their tokens for the gradient.

    Rows are ordered (prompt, question, sample). A context is there once for all of its samples.
    """

    outcomes: list  # R: `.score`, and `.answer` for feedback
    texts: list[str]  # R, "" for one that was cut off
    contexts: list[list[int]]  # K * B, as tokens
    completions: list[list[int]]  # R, as tokens
    logprobs: Tensor  # (R, max_new), recorded while sampling


@dataclass
class Sampler:
    """A model that answers and reflects in the texts of a world (tasks/world.py)."""

    model: GPT
    world: World
    temperature: float
    rng: torch.Generator  # makes the noise
    decode: Callable = decode_step  # of one token (the world's `decode` turns tokens into text)
    sampled_rollouts: int = 0  # so far
    sampled_tokens: int = 0  # of these rollouts

    def answer(self, jobs, samples=1) -> Answers:
        """Answer jobs (prompt, questions), equally many questions each, `samples` times each."""
        # Texts become tokens: a prompt for each job, and its questions.
        world = self.world
        prompts = []
        asked = []
        for prompt, questions in jobs:
            prompts.append(world.encode_start(world.prompt_text(prompt)))
            asked.append([world.encode(world.question_text(q)) for q in questions])
        rollouts = self.write(prompts, asked, samples, world.answer_tokens)

        # Grade each answer against the question that its row belongs to.
        texts = texts_of(world, rollouts)
        graded = []
        for _, questions in jobs:
            for question in questions:
                graded += samples * [question]
        outcomes = [
            world.grade(question, text) for question, text in zip(graded, texts, strict=True)
        ]
        completions = completions_of(rollouts)
        return Answers(outcomes, texts, contexts_of(world, jobs), completions, rollouts.logprobs)

    def reflect(self, requests):
        """Reflect on requests (topic, instruction or "", [(question, outcome), ...]).

        -> for each the proposed instruction ("" for none), how it came about, for people (untrusted
        text), and how many rollouts it took: 1, or 0 where the world needs no model for it.
        """
        # A reflection has no prompt: it all stands in its text.
        world = self.world
        to_read = [world.reflection_text(*request) for request in requests]
        asked = [world.encode(text) for text in to_read if text]
        written = []
        if asked:
            start = world.encode_start("")
            rollouts = self.write([start], [asked], 1, world.reflection_tokens)
            written = texts_of(world, rollouts)

        # What each of them proposes for its topic.
        proposals = []
        for request, text in zip(requests, to_read, strict=True):
            new_text = written.pop(0) if text else ""
            instruction, how = world.proposal(request, text, new_text)
            proposals.append((instruction, how, bool(text)))
        return proposals

    def write(self, prompts, questions, samples, max_new) -> Rollouts:
        """Sample completions, for the arguments see `sample`, and count them and their tokens."""
        # The noise decides which tokens are drawn.
        rows = len(prompts) * len(questions[0]) * samples
        rollouts = sample(
            self.model,
            prompts,
            questions,
            samples,
            max_new=max_new,
            eos=self.world.eos,
            pad=self.world.pad,
            temperature=self.temperature,
            noise=torch.rand(rows, max_new, generator=self.rng, device=self.model.cos.device),
            decode=self.decode,
        )
        self.sampled_rollouts += len(rollouts.lengths)
        self.sampled_tokens += rollouts.lengths.sum().item()
        return rollouts


def contexts_of(world, jobs):
    """The tokens before each answer to jobs (prompt, questions), ordered as in `Answers`."""
    contexts = []
    # Prompt and question are encoded apart, as for sampling: together they might merge.
    for prompt, questions in jobs:
        begin = world.encode_start(world.prompt_text(prompt))
        for question in questions:
            contexts.append(begin + world.encode(world.question_text(question)))
    return contexts


def completions_of(rollouts: Rollouts):
    """Rollouts -> their completions as token lists, the end-of-sequence token included."""
    rows = rollouts.tokens.tolist()
    lengths = rollouts.lengths.tolist()
    return [row[:n] for row, n in zip(rows, lengths, strict=True)]


def texts_of(world, rollouts: Rollouts):
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
        # Record the first step of a chunk. The graph reads its inputs from these clones.
        new_inputs = (tokens, positions, slot, noise)
        if own is not self.own:  # the caches of another chunk
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

        # Replay it with this step's inputs. The next replay overwrites the outputs: give copies.
        for part, value in zip(self.inputs, new_inputs, strict=True):
            part.copy_(value)
        self.graph.replay()
        return tuple(part.clone() for part in self.outputs)


def decoder(compiled, device):
    """The form of decode_step to use: compiled, or recorded on a CUDA device, or as it is."""
    if compiled:
        torch._dynamo.config.suppress_errors = True  # what cannot be compiled runs as it is
        return torch.compile(decode_step, dynamic=True)  # else it is compiled anew for every chunk
    return CapturedStep() if device == "cuda" else decode_step
