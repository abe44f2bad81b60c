"""sampling.py: a sampler that is exact and free of hidden waits, and texts in, texts out."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

import model
import sampling
from model import GPT, GPTConfig
from sampling import Rollouts, Sampler, decode_step, sample
from tasks import Question, formats
from tasks.world import ANSWER_TOKENS, REFLECTION_TOKENS, Outcome, ToyWorld
from tests import toy
from tests.naive import sample_naive
from tests.test_model import (
    EOS,
    GROUPED,
    HEADS,
    PAD,
    SETTINGS,
    TINY,
    V,
    make_batch,
    make_model,
    make_noise,
    step_arguments,
)


def assert_same(a: Rollouts, b: Rollouts) -> None:
    """The same tokens. Log-probabilities may differ by rounding."""
    assert torch.equal(a.tokens, b.tokens) and torch.equal(a.lengths, b.lengths)
    torch.testing.assert_close(a.logprobs, b.logprobs, atol=1e-4, rtol=0)


def spy_on_attention(monkeypatch, note) -> None:
    """Call note(q, prefix, own) for every layer of every pass: of prefill and of decode steps."""
    attend = model.attend

    def spy(q, prefix, own, *biases):
        note(q, prefix, own)
        return attend(q, prefix, own, *biases)

    monkeypatch.setattr(model, "attend", spy)
    monkeypatch.setattr(sampling, "attend", spy)


# --- the rollouts ---


@HEADS
def test_shared_copied_and_naive_give_the_same_tokens_from_the_same_noise(cfg):
    gpt = make_model(cfg)
    prompts, questions = make_batch()
    G = 2
    noise = make_noise(3 * 4 * G)
    shared = sample(gpt, prompts, questions, G, noise=noise, **SETTINGS)
    naive = sample_naive(gpt, prompts, questions, G, noise=noise, **SETTINGS)
    rows = []
    for prompt, asked in zip(prompts, questions, strict=True):
        for question in asked:
            rows += G * [(prompt, question)]
    own_prompts = [prompt for prompt, _ in rows]
    own_questions = [[question] for _, question in rows]
    copied = sample(gpt, own_prompts, own_questions, 1, noise=noise, **SETTINGS)

    # Rows end at different times: some were dropped.
    assert shared.lengths.min() < 15 and shared.lengths.max() == 30
    for other in (naive, copied):
        assert_same(shared, other)


# One prompt's four questions, or two prompts', are read so many at a time.
@pytest.mark.parametrize("few", [1, 2, 3, 4, 8])
def test_questions_read_a_few_at_a_time_give_the_same_rollouts(monkeypatch, few):
    gpt = make_model()
    prompts, questions = make_batch()
    width = max(len(question) for asked in questions for question in asked)
    noise = make_noise(3 * 4 * 2)
    whole = sample(gpt, prompts, questions, 2, noise=noise, **SETTINGS)

    passes = []
    spy_on_attention(monkeypatch, lambda q, prefix, own: passes.append((len(q), q.size(2))))
    monkeypatch.setattr(sampling, "TOKENS_AT_ONCE", few * width + 1)
    parts = sample(gpt, prompts, questions, 2, noise=noise, **SETTINGS)
    sizes = {1: 12 * [1], 2: 6 * [2], 3: 3 * [3, 1], 4: 3 * [4], 8: [8, 4]}[few]
    expected = [(n, width) for n in sizes for _ in range(TINY.n_layer)]
    assert [shape for shape in passes if shape[1] == width] == expected
    assert_same(whole, parts)


@HEADS
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_sampled_logprob_is_the_scored_logprob(temperature, cfg):
    gpt = make_model(cfg)
    prompts, questions = make_batch()
    settings = SETTINGS | {"temperature": temperature, "noise": make_noise(3 * 4)}
    rollouts = sample(gpt, prompts, questions, 1, **settings)
    contexts = []
    for prompt, asked in zip(prompts, questions, strict=True):
        contexts += [prompt + question for question in asked]
    completions = sampling.completions_of(rollouts)
    for i, (context, completion) in enumerate(zip(contexts, completions, strict=True)):
        n = len(completion)
        with torch.no_grad():
            logits = gpt(torch.tensor([context + completion]))[0, len(context) - 1 : -1]
        scored = (logits / temperature).log_softmax(-1)[torch.arange(n), torch.tensor(completion)]
        assert n == rollouts.lengths[i]
        torch.testing.assert_close(rollouts.logprobs[i, :n], scored, atol=1e-4, rtol=0)


def test_eos_is_counted_and_nothing_comes_after_it():
    noise = make_noise(3 * 16 * 2)
    rollouts = sample(make_model(), *make_batch(B=16), 2, noise=noise, **SETTINGS)
    ended = 0
    for i, n in enumerate(rollouts.lengths):
        tokens = rollouts.tokens[i]
        assert (tokens[: n - 1] != EOS).all()
        assert (tokens[n:] == PAD).all() and (rollouts.logprobs[i, n:] == 0).all()
        assert tokens[n - 1] == EOS or n == 30
        ended += tokens[n - 1] == EOS
    assert 0 < ended < len(rollouts.tokens)


def test_nothing_is_computed_once_all_rows_have_ended():
    gpt = make_model()
    settings = {"max_new": 30, "pad": PAD, "temperature": 0}
    noise = make_noise(2)
    rollouts = sample(gpt, [[5, 6]], [[[7]]], 1, eos=-1, noise=noise[:1], **settings)
    first = rollouts.tokens[0, 0].item()

    def never(*arguments):
        raise AssertionError("a decode step, where all rows have ended")

    rollouts = sample(gpt, [[5, 6]], [[[7]]], 2, eos=first, noise=noise, decode=never, **settings)
    assert rollouts.lengths.tolist() == [1, 1]


def test_frequencies_of_the_first_token_are_the_softmax():
    gpt = make_model()
    n = 4000
    noise = make_noise(n, 1, seed=1)
    rollouts = sample(gpt, [[5, 6]], [[[7]]], n, max_new=1, eos=EOS, pad=PAD, noise=noise)
    with torch.no_grad():
        expected = gpt(torch.tensor([[5, 6, 7]]))[0, -1].softmax(-1) * n
    counts = torch.bincount(rollouts.tokens[:, 0], minlength=V)
    often = expected > 5
    chi_square = ((counts - expected)[often] ** 2 / expected[often]).sum()
    assert chi_square < 2 * often.sum() + 10


def test_greedy_takes_the_likeliest_token():
    gpt = make_model()
    settings = SETTINGS | {"max_new": 1, "temperature": 0, "noise": make_noise(2, 1)}
    rollouts = sample(gpt, [[5, 6]], [[[7]]], 2, **settings)
    with torch.no_grad():
        logits = gpt(torch.tensor([[5, 6, 7]]))[0, -1]
    assert (rollouts.tokens[:, 0] == logits.argmax()).all()
    torch.testing.assert_close(rollouts.logprobs[0, 0], logits.log_softmax(-1).max())


@pytest.mark.parametrize(
    "prompts, questions",
    [
        ([[5]], [[]]),
        ([[5], [6]], [[[7]], [[7], [8]]]),
        ([[]], [[[7]]]),
        ([[5]], [[[]]]),
        ([], []),
        ([[5], [6]], [[[7]]]),
    ],
)
def test_empty_or_ragged_input_is_refused(prompts, questions):
    with pytest.raises(ValueError, match="sample:"):
        sample(make_model(), prompts, questions, 1, noise=make_noise(2), **SETTINGS)


def test_too_long_a_sequence_is_refused_with_the_numbers():
    with pytest.raises(ValueError, match="131 tokens, the model has 96"):
        sample(make_model(), [[5] * 100], [[[6]]], 1, noise=make_noise(1), **SETTINGS)


# --- between chunks ---


def make_rows(R: int, S: int, done: list[bool]) -> sampling.Rows:
    """Rows of a model of two layers, all of whose parts tell the rows apart."""
    caches = [(torch.randn(2, R, 8, S), torch.randn(2, R, S, 8)) for _ in range(2)]
    return sampling.Rows(
        index=torch.arange(R) + 100,
        token=torch.arange(R) + 200,
        position=torch.arange(R) + 300,
        done=torch.tensor(done),
        own_bias=torch.randn(R, 1, S + 9),
        caches=caches,
    )


def test_finished_rows_are_dropped_and_every_prompt_keeps_equally_many():
    rows = make_rows(8, 5, [True, False, True, False, True, True, False, True])
    old_bias = rows.own_bias
    old_caches = list(rows.caches)
    sampling.drop_finished(rows, 2, 4)
    assert rows.index.tolist() == list(range(100, 108))  # a prompt has four live rows: all stay

    sampling.drop_finished(rows, 2, 2)
    assert rows.index.tolist() == [101, 103, 106, 104]  # 104 is done, and fills up
    assert rows.token.tolist() == [201, 203, 206, 204]
    assert rows.position.tolist() == [301, 303, 306, 304]
    assert rows.done.tolist() == [False, False, False, True]
    kept = [1, 3, 6, 4]
    assert torch.equal(rows.own_bias, old_bias[kept])
    for (keys, values), (old_keys, old_values) in zip(rows.caches, old_caches, strict=True):
        assert torch.equal(keys, old_keys[:, kept]) and torch.equal(values, old_values[:, kept])


@pytest.mark.parametrize("S", [4, 5, 13])
def test_caches_grow_past_the_slots_that_are_needed_and_keep_what_they_hold(S):
    rows = make_rows(3, 5, 3 * [False])
    before = list(rows.caches)
    sampling.grow(rows, S)
    for (keys, values), (old_keys, old_values) in zip(rows.caches, before, strict=True):
        room = keys.size(3)
        assert room == max(5, S + 1)
        assert keys.shape == (2, 3, 8, room) and values.shape == (2, 3, room, 8)
        assert torch.equal(keys[..., :5], old_keys) and torch.equal(values[:, :, :5], old_values)


# --- made for CUDA: what a CPU can show ---


class Trace(TorchDispatchMode):
    """The operations that run, with the shapes that they get."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        shapes = [tuple(a.shape) for a in args if isinstance(a, torch.Tensor)]
        self.calls.append((str(func), shapes))
        return func(*args, **(kwargs or {}))

    def waits(self) -> int:
        """How many operations make the program wait for the device.

        `.item()` has two names, by grad mode.
        """
        names = ("aten._local_scalar_dense", "aten.item.", "nonzero", "aten.equal.")
        return sum(any(name in call for name in names) for call, _ in self.calls)


@HEADS
def test_decode_steps_run_the_same_operations_on_the_same_shapes_and_never_sync(cfg):
    arguments = step_arguments(make_model(cfg))
    traces = []
    for t in (0, 1):
        with torch.no_grad(), Trace() as trace:
            decode_step(*arguments(t))
        traces.append(trace)
    assert traces[0].calls == traces[1].calls and traces[0].waits() == 0


@HEADS
def test_decode_step_writes_into_the_cache_in_place(cfg):
    arguments = step_arguments(make_model(cfg))
    own = arguments(0)[6]
    pointers = [cache.data_ptr() for layer in own for cache in layer]
    old_keys, old_values = [cache.clone() for cache in own[0]]
    with torch.no_grad():
        decode_step(*arguments(0))
    assert pointers == [cache.data_ptr() for layer in own for cache in layer]
    keys, values = own[0]
    changed_keys = (keys != old_keys).flatten(0, 2).any(0)  # (slots,)
    changed_values = (values != old_values).mT.flatten(0, 2).any(0)
    for changed in (changed_keys, changed_values):
        assert changed.tolist() == [i == 3 for i in range(8)]


def test_decode_step_runs_on_the_meta_device():
    gpt = make_model().to("meta")
    with torch.no_grad():
        token, logprob = decode_step(*step_arguments(gpt, device="meta")(0))
    assert token.shape == logprob.shape == (6,)


@pytest.mark.parametrize("dynamic", [False, True])
def test_decode_step_compiles_as_one_graph_and_does_not_recompile(dynamic):
    torch._dynamo.reset()
    gpt = make_model(dataclasses.replace(GROUPED, n_layer=1))
    compiles = []

    def backend(graph, inputs):
        compiles.append(graph)
        return graph.forward

    compiled = torch.compile(decode_step, backend=backend, fullgraph=True, dynamic=dynamic)
    # With --compile chunks differ in size. No size here is equal to a width of the model.
    sizes = [(3, 12, 9), (4, 20, 11)]
    with torch.no_grad():
        for size in sizes[: 1 + dynamic]:
            arguments = step_arguments(gpt, *size)
            for t in (0, 1, 2):
                compiled(*arguments(t))
    assert len(compiles) == 1


def test_sampling_waits_for_the_device_once_a_chunk_and_no_more():
    gpt = make_model()
    prompts, questions = make_batch()
    counts = []
    for max_new in (1, 1 + 2 * sampling.CHUNK, 1 + 4 * sampling.CHUNK):
        with Trace() as trace:
            noise = make_noise(3 * 4 * 2, max_new)
            sample(gpt, prompts, questions, 2, max_new=max_new, eos=-1, pad=PAD, noise=noise)
        counts.append(trace.waits())
    assert counts == [0, 2, 4]


# --- forms of decode_step ---


def test_a_compiled_run_samples_with_the_compiled_step_and_is_the_same(start, monkeypatch):
    calls = []

    def compile(step, dynamic):
        assert step is decode_step and dynamic
        return lambda *arguments: calls.append(1) or step(*arguments)

    plain = start("plain", steps=2)
    monkeypatch.setattr(torch, "compile", compile)
    monkeypatch.setattr(
        torch._dynamo.config, "suppress_errors", False
    )  # as it was, after this test
    compiled = start("compiled", "--compile", steps=2)
    assert calls and toy.equal(toy.outcome(plain), toy.outcome(compiled))


class FakeGraph:
    """A CUDA graph of decode_step, as a CPU can have one: a replay calls it again.

    It gets the arguments that were recorded.
    """

    recording = None
    recorded = 0

    def __enter__(self):
        FakeGraph.recording = self

    def __exit__(self, *_):
        FakeGraph.recording = None
        FakeGraph.recorded += 1

    def replay(self):
        for part, value in zip(self.outputs, decode_step(*self.arguments), strict=True):
            part.copy_(value)


def test_a_captured_step_is_recorded_once_a_chunk_and_samples_the_same(monkeypatch):
    def recorded_step(*arguments):
        graph = FakeGraph.recording
        if graph is None:
            return decode_step(*arguments)
        # Nothing is computed while a graph is recorded.
        tokens = arguments[1]
        graph.arguments = arguments
        graph.outputs = (torch.zeros_like(tokens), torch.zeros(len(tokens)))
        return graph.outputs

    monkeypatch.setattr(FakeGraph, "recorded", 0)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, capture_error_mode: graph)
    monkeypatch.setattr(sampling, "decode_step", recorded_step)
    prompts, questions = make_batch()
    noise = make_noise(3 * 4 * 2)
    captured = sampling.decoder(False, "cuda")
    for gpt in (make_model(), make_model(scale=2.0)):  # of two models, one after the other
        both = []
        for decode in (decode_step, captured):
            both.append(sample(gpt, prompts, questions, 2, noise=noise, **SETTINGS, decode=decode))
        plain, other = both
        assert torch.equal(plain.tokens, other.tokens)
        assert torch.equal(plain.lengths, other.lengths)
        assert torch.equal(plain.logprobs, other.logprobs)
    assert FakeGraph.recorded == 2 * 4  # 29 steps in chunks of 8
    assert sampling.decoder(False, "cpu") is recorded_step


# --- texts in, texts out ---

WORLD = ToyWorld()
BOS = formats.special("bos")
QUESTIONS = [Question("red", "d a", "a d"), Question("blue", "b c", "c b")]
TOKENS = st.integers(0, formats.encoding().n_vocab - 1)


class Script:
    """In place of `sample`: writes what it is told to, row by row, and keeps what it was asked."""

    def __init__(self, *texts: str, rows: list[list[int]] | None = None):
        self.rows = rows or [[*formats.encode(text), WORLD.eos] for text in texts]

    def __call__(self, model, prompts, questions, samples, **settings) -> Rollouts:
        self.prompts = prompts
        self.questions = questions
        self.samples = samples
        self.settings = settings
        assert len(self.rows) == sum(map(len, questions)) * samples
        width = max(map(len, self.rows))
        tokens = torch.tensor([row + [WORLD.pad] * (width - len(row)) for row in self.rows])
        lengths = torch.tensor([len(row) for row in self.rows])
        return Rollouts(tokens, lengths, torch.zeros(tokens.shape))


def scripted(script: Script, action):
    """What action(sampler) returns while `sample` follows a script."""
    nobody = SimpleNamespace(
        cos=torch.zeros(1)
    )  # a model that is never run: only its device counts
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "sample", script)
        return action(Sampler(nobody, WORLD, 0.7, torch.Generator().manual_seed(0)))


def answer(script: Script, jobs: list, samples: int = 1) -> sampling.Answers:
    return scripted(script, lambda sampler: sampler.answer(jobs, samples))


def reflect(script: Script, requests: list) -> list[tuple[str, str, int]]:
    return scripted(script, lambda sampler: sampler.reflect(requests))


def test_answers_come_in_the_order_prompt_question_sample():
    jobs = [({"red": "reverse"}, QUESTIONS), ({}, QUESTIONS)]
    script = Script(*(f"answer: {i} a" for i in range(8)))
    answers = answer(script, jobs, samples=2)
    assert [outcome.answer for outcome in answers.outcomes] == [f"{i} a" for i in range(8)]
    assert answers.texts == [f"answer: {i} a" for i in range(8)]

    # A context is there once for both of its samples.
    asked = [WORLD.decode(context[1:]) for context in answers.contexts]
    rules = "rules\nred: reverse\n"
    assert asked[:2] == [rules + "ask red: d a\n", rules + "ask blue: b c\n"]
    assert asked[2:] == ["rules\nask red: d a\n", "rules\nask blue: b c\n"]


def test_every_answer_is_graded_against_its_own_question():
    jobs = [({}, QUESTIONS), ({"red": "reverse"}, QUESTIONS)]
    red, blue = "answer: a d", "answer: c b"
    script = Script(red, blue, red, blue, red, red, blue, blue)
    answers = answer(script, jobs, samples=2)
    assert [outcome.score for outcome in answers.outcomes] == [1, 0, 0, 1, 1, 1, 1, 1]


def test_contexts_are_what_the_model_was_asked():
    # A gradient on other tokens than those that were sampled after would be off-policy.
    script = Script("answer: a d", "answer: c b")
    answers = answer(script, [({"red": "reverse"}, QUESTIONS)])
    asked = [script.prompts[0] + question for question in script.questions[0]]
    assert answers.contexts == asked
    assert [context.count(BOS) for context in answers.contexts] == [1, 1]
    assert answers.contexts[0][0] == BOS
    assert answers.completions == script.rows and answers.completions[0][-1] == WORLD.eos
    text = "rules\nred: reverse\nask red: d a\n"
    assert answers.contexts[0] == [BOS, *formats.encode(text)]


def test_the_world_and_the_sampler_say_how_it_is_sampled():
    script = Script("answer: a d", "answer: c b", "red: sort", "")
    answer(script, [({}, QUESTIONS)], samples=2)
    assert script.samples == 2
    noise = script.settings.pop("noise")
    assert noise.shape == (4, ANSWER_TOKENS) and noise.min() >= 0 and noise.max() < 1
    said = {"eos": WORLD.eos, "pad": WORLD.pad, "temperature": 0.7, "decode": decode_step}
    assert script.settings == said | {"max_new": ANSWER_TOKENS}
    reflect(script, 4 * [("red", "", [])])
    assert script.settings.pop("noise").shape == (4, REFLECTION_TOKENS)
    assert script.settings == said | {"max_new": REFLECTION_TOKENS} and script.samples == 1


def test_right_answers_score_and_answers_cut_off_do_not():
    whole = formats.encode("answer: a d")  # it might have gone on: it has no end
    script = Script(rows=[whole, [*formats.encode("answer: c b"), WORLD.eos]])
    answers = answer(script, [({}, QUESTIONS)])
    assert [outcome.score for outcome in answers.outcomes] == [0, 1]
    assert answers.texts[0] == "" and answers.outcomes[0].answer is None
    assert answers.completions[0] == whole


@pytest.mark.parametrize("token", [BOS, WORLD.pad])
def test_special_tokens_inside_an_answer_do_not_pass_as_nothing(token):
    at_the_end = [*formats.encode("answer: a d"), token, WORLD.eos]
    inside = [*formats.encode("answer: c"), token, *formats.encode(" b"), WORLD.eos]
    answers = answer(Script(rows=[at_the_end, inside]), [({}, QUESTIONS)])
    assert [outcome.score for outcome in answers.outcomes] == [0, 0]


def test_reflections_name_the_topics_new_instruction():
    failures = [(QUESTIONS[0], Outcome(0.0, "d d")), (QUESTIONS[0], Outcome(0.0, None))]
    wrote = "try d a want a d\nreverse: a d then sort\nred: reverse sort"
    script = Script(wrote, "red: sort", "blue: sort\n")
    requests = [("red", "left", failures), ("blue", "", failures), ("blue", "", failures)]
    (first, how, cost), *others = reflect(script, requests)
    assert first == "reverse sort" and cost == 1
    assert [(new, cost) for new, _, cost in others] == [("", 1), ("", 1)]
    asked = WORLD.decode(script.questions[0][0])
    assert asked == "reflect red: left\nask d a got d d want a d\nask d a got none want a d\n"
    assert how == formats.abridged(asked + wrote)
    assert script.prompts == [[BOS]]


@settings(max_examples=200)
@given(st.lists(st.lists(TOKENS, max_size=40), min_size=2, max_size=2))
def test_whatever_a_model_writes_prompts_and_feedback_stay_in_form(rows):
    rows = [[*row, WORLD.eos] for row in rows]
    answers = answer(Script(rows=rows), [({}, QUESTIONS)])
    failures = list(zip(QUESTIONS, answers.outcomes, strict=True))
    script = Script(rows=rows)
    proposals = reflect(script, [("red", "", failures), ("blue", "", failures)])
    newline = formats.encode("\n")[0]
    for asked in script.questions[0]:
        assert asked.count(newline) == 3
        assert not {BOS, WORLD.eos, WORLD.pad} & set(asked)
    for instruction, how, _ in proposals:
        assert formats.clean_instruction(instruction) == instruction
        assert len(formats.abridged(how)) <= len(how) + 3 * how.count("\n")


# --- a model that answers ---


def make_talker() -> GPT:
    """A tiny model of the world's vocabulary, whose texts end after a few tokens."""
    gpt = make_model(GPTConfig(formats.encoding().n_vocab, n_layer=1, n_head=2, n_embd=16))
    with torch.no_grad():
        gpt.embedding.weight[:, 0] = 1.0  # the head's first column is a bias
        gpt.head.weight[WORLD.eos, 0] = 1.0
    return gpt


def sampler_of(gpt: GPT, seed: int = 0, decode=decode_step) -> Sampler:
    return Sampler(gpt, WORLD, 0.8, torch.Generator().manual_seed(seed), decode)


JOBS = [({"red": "reverse"}, QUESTIONS), ({}, QUESTIONS)]


def test_the_logprobs_of_answers_are_those_of_their_completions_in_their_contexts():
    gpt = make_talker()
    answers = sampler_of(gpt).answer(JOBS, samples=3)
    assert len(answers.contexts) == 4 and len(answers.completions) == 12
    with torch.no_grad():
        scored = model.completion_logprobs(gpt, answers.contexts, answers.completions, 0.8)
    width = scored.size(1)
    torch.testing.assert_close(answers.logprobs[:, :width], scored, atol=1e-4, rtol=0)
    assert (answers.logprobs[:, width:] == 0).all()


def test_the_generator_decides_what_is_answered_and_all_tokens_are_counted():
    gpt = make_talker()
    sampler = sampler_of(gpt)
    first = sampler.answer(JOBS, samples=3)
    n_tokens = sum(map(len, first.completions))
    assert sampler.sampled_tokens == n_tokens
    assert sampler_of(gpt).answer(JOBS, samples=3).completions == first.completions
    assert sampler_of(gpt, seed=1).answer(JOBS, samples=3).completions != first.completions

    # The same generator goes on: the next draws are others, and are counted, too.
    second = sampler.answer(JOBS, samples=3)
    assert second.completions != first.completions
    assert sampler.sampled_tokens == n_tokens + sum(map(len, second.completions))
    assert sampler.sampled_rollouts == 24


def test_reflections_use_the_samplers_form_of_the_decode_step_and_are_counted():
    gpt = make_talker()
    failures = [(QUESTIONS[0], Outcome(0.0, "d d"))]
    requests = [("red", "left", failures), ("blue", "", failures)]
    calls = []

    def decode(*arguments):
        calls.append(1)
        return decode_step(*arguments)

    sampler = sampler_of(gpt, decode=decode)
    proposals = sampler.reflect(requests)
    assert calls and sampler.sampled_tokens > 2
    assert proposals == sampler_of(gpt).reflect(requests)
    for (topic, instruction, told), (_, how, cost) in zip(requests, proposals, strict=True):
        assert how.startswith(WORLD.reflection_text(topic, instruction, told))
        assert cost == 1
    assert sampler.sampled_rollouts == 2


def test_what_the_world_proposes_without_the_model_costs_nothing():
    class Knowing(ToyWorld):
        """It needs no model for what it proposes on red."""

        def reflection_text(self, topic, instruction, failures):
            return "" if topic == "red" else super().reflection_text(topic, instruction, failures)

        def proposal(self, request, read, written):
            return (request[0], written)

    failures = [(QUESTIONS[0], Outcome(0.0, "d d"))]
    red, blue = ("red", "left", failures), ("blue", "", failures)
    sampler = sampler_of(make_talker())
    sampler.world = Knowing()
    assert sampler.reflect([red, red]) == 2 * [("red", "", 0)]
    assert sampler.sampled_rollouts == sampler.sampled_tokens == 0

    # The model's texts go to the requests that it was asked about, past one that is free.
    def ask(sampler):
        sampler.world = Knowing()
        proposals = sampler.reflect([blue, red, blue])
        assert sampler.sampled_rollouts == 2
        return proposals

    proposals = scripted(Script("sort", "left"), ask)
    assert proposals == [("blue", "sort", 1), ("red", "", 0), ("blue", "left", 1)]
