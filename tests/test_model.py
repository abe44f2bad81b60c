"""model.py: the numerics of the GPT, how tokens are drawn, and the log-probabilities of texts."""

import dataclasses
import random

import pytest
import torch

import model
from model import GPT, GPTConfig, completion_logprobs, draw_token, generate
from sampling import sample
from tests.llama import llama_of

V, EOS, PAD = 40, 1, 0
TINY = GPTConfig(
    vocab_size=V, n_layer=2, n_head=2, n_kv_head=2, n_embd=16, n_hidden=24, block_size=96
)
# Four query heads for two heads of keys and values, and all four for one.
GROUPED = dataclasses.replace(TINY, n_head=4)
ONE_GROUP = dataclasses.replace(TINY, n_head=4, n_kv_head=1)
HEADS = pytest.mark.parametrize("cfg", [TINY, GROUPED, ONE_GROUP], ids=["2/2", "4/2", "4/1"])
SETTINGS = {"max_new": 30, "eos": EOS, "pad": PAD}

# Each context is continued in two ways.
CONTEXTS = [[3, 4], [5], [6, 7, 8]]
COMPLETIONS = [[9, 1], [9, 9, 1], [2, 1], [1], [4, 4, 4, 1], [4, 1]]
PAIRS = [(CONTEXTS[i // 2], completion) for i, completion in enumerate(COMPLETIONS)]


# --- what the tests of the sampler use, too ---


def make_model(cfg=TINY, scale=4.0) -> GPT:
    """Random weights, scaled up so that distributions are far from uniform."""
    torch.manual_seed(0)
    gpt = GPT(cfg)
    with torch.no_grad():
        for p in gpt.parameters():
            if p.ndim == 2:
                p.mul_(scale)
    return gpt


def make_batch(K=3, B=4, seed=0):
    """K prompts and K x B questions of ragged lengths."""
    rng = random.Random(seed)

    def text(longest: int) -> list[int]:
        return [rng.randrange(2, V) for _ in range(rng.randint(1, longest))]

    prompts = [text(9) for _ in range(K)]
    questions = [[text(7) for _ in range(B)] for _ in range(K)]
    return prompts, questions


def make_noise(rows: int, max_new: int = 30, seed: int = 0) -> torch.Tensor:
    return torch.rand(rows, max_new, generator=torch.Generator().manual_seed(seed))


def step_arguments(gpt, K=2, R=6, S=8, device="cpu"):
    """Arguments of decode_step at one chunk's shapes."""
    D = gpt.cfg.n_embd // gpt.cfg.n_head
    J = gpt.cfg.n_kv_head

    def caches(rows, slots):
        shapes = [(J, rows, D, slots), (J, rows, slots, D)]
        layers = range(gpt.cfg.n_layer)
        return [tuple(torch.randn(shape, device=device) for shape in shapes) for _ in layers]

    prefix = caches(K, 5)
    prefix_bias = torch.zeros(K, 1, 5, device=device)
    own = caches(R, S)
    own_bias = torch.full((R, 1, S), -torch.inf, device=device)
    tokens = torch.zeros(R, dtype=torch.long, device=device)
    noise = torch.full((R,), 0.5, device=device)

    def arguments(t):
        positions = torch.full((R,), 8 + t, device=device)
        slot = torch.full((1,), 3 + t, device=device)
        return gpt, tokens, positions, slot, prefix, prefix_bias, own, own_bias, noise, 1.0

    return arguments


# --- the transformer ---


@HEADS
@pytest.mark.parametrize("tied, eps", [(False, 1e-6), (True, 0.1)])
def test_logits_equal_llama_of_transformers(cfg, tied, eps):
    pytest.importorskip("transformers")
    gpt = make_model(dataclasses.replace(cfg, tied_head=tied, norm_eps=eps))
    llama = llama_of(gpt)
    tokens = torch.randint(0, V, (3, 50))
    with torch.no_grad():
        torch.testing.assert_close(gpt(tokens), llama(tokens).logits, atol=1e-5, rtol=0)


def test_a_tied_head_is_the_embedding_and_stays_so():
    gpt = GPT(dataclasses.replace(TINY, tied_head=True))
    gpt.load_state_dict(make_model(gpt.cfg).state_dict())
    assert gpt.head.weight is gpt.embedding.weight
    untied = sum(p.numel() for p in make_model().parameters())
    assert sum(p.numel() for p in gpt.parameters()) == untied - gpt.head.weight.numel()


def test_matrices_that_add_to_the_residual_stream_start_smaller():
    torch.manual_seed(0)
    gpt = GPT(GPTConfig(vocab_size=500, n_layer=2))
    [block, _] = gpt.blocks
    for layer in (gpt.embedding, gpt.head, block.q, block.k, block.v, block.gate, block.up):
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
    for layer in (block.o, block.down):
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.05)  # 0.02 / sqrt(2 * 2)


def test_logits_of_fixed_weights_have_not_changed():
    gpt = GPT(TINY)
    with torch.no_grad():
        for i, p in enumerate(gpt.parameters()):
            p.copy_(torch.sin(torch.arange(p.numel()) * 0.7 + i).view_as(p) * 0.5)
        logits = gpt(torch.tensor([[3, 14, 15, 9, 2, 6]]))[0, -1, :4]
    expected = torch.tensor([-0.0716, 0.03482, 0.08574, -1e-05])
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


def test_later_tokens_change_nothing_before_them():
    gpt = make_model()
    tokens = torch.randint(0, V, (2, 12))
    changed = tokens.clone()
    changed[:, 7:] = torch.randint(0, V, (2, 5))
    with torch.no_grad():
        a = gpt(tokens)
        b = gpt(changed)
    torch.testing.assert_close(a[:, :7], b[:, :7])
    assert (a[:, 7:] - b[:, 7:]).abs().max() > 1e-3


def test_only_relative_positions_matter_to_attention():
    x = torch.randn(1, 1, 5, 8)
    gpt = make_model()
    scores = []
    for shift in (0, 13):
        cos = gpt.cos[shift : shift + 5]
        sin = gpt.sin[shift : shift + 5]
        q = model.rotate(x, cos, sin)
        scores.append(q @ q.transpose(-1, -2))
    torch.testing.assert_close(*scores, atol=1e-5, rtol=1e-5)


# --- drawing tokens ---


def test_the_token_drawn_is_the_one_at_which_the_running_sum_passes_the_noise():
    logits = torch.tensor([0.1, 0.2, 0.3, 0.4]).log().expand(5, 4)
    noise = torch.tensor([0.0, 0.09, 0.11, 0.59, 0.999])
    token, logprob = draw_token(logits, noise, 1.0)
    assert token.tolist() == [0, 0, 1, 2, 3]
    torch.testing.assert_close(logprob.exp(), torch.tensor([0.1, 0.1, 0.2, 0.3, 0.4]))


def test_a_token_without_probability_is_not_drawn():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]]).expand(3, 5)
    token, _ = draw_token(logits, torch.tensor([0.0, 0.5, 0.9999]), 1.0)
    assert token.tolist() == [1, 3, 3]


def test_rounding_draws_no_token_without_probability():
    sums = []
    for n in range(3, 200):
        logits = torch.tensor([[*(n * [0.0]), -torch.inf]])
        _, logprob = draw_token(logits, torch.tensor([1 - 2**-24]), 1.0)  # the largest noise
        assert logprob.isfinite().all()
        sums.append(logits.softmax(-1).cumsum(-1)[0, -1].item())
    assert min(sums) <= 1 - 2**-24  # or it would prove nothing


def test_the_temperature_divides_the_logits_and_0_takes_the_likeliest_token():
    logits = torch.randn(6, V) * 3
    noise = torch.rand(6)
    token, logprob = draw_token(logits, noise, 0.5)
    same, same_logprob = draw_token(logits / 0.5, noise, 1.0)
    assert torch.equal(token, same) and torch.equal(logprob, same_logprob)
    token, logprob = draw_token(logits, noise, 0)
    assert torch.equal(token, logits.argmax(-1))
    torch.testing.assert_close(logprob, logits.log_softmax(-1).amax(-1))  # of temperature 1


def test_a_model_that_has_diverged_still_draws_tokens_that_exist():
    token, _ = draw_token(torch.full((3, V), torch.nan), torch.tensor([0.0, 0.5, 0.999]), 1.0)
    assert ((token >= 0) & (token < V)).all()


@pytest.mark.parametrize("temperature", [0, 0.5, 1.0, 1.5])
def test_generate_draws_the_tokens_of_the_sampler_from_the_same_noise(temperature):
    gpt = make_model()
    prompts, questions = make_batch()
    noise = make_noise(3 * 4 * 2)
    settings = SETTINGS | {"temperature": temperature, "noise": noise}
    rollouts = sample(gpt, prompts, questions, 2, **settings)

    contexts = []
    for prompt, asked in zip(prompts, questions, strict=True):
        for question in asked:
            contexts += 2 * [prompt + question]
    ended = 0
    for i, context in enumerate(contexts):
        completion = generate(gpt, context, noise[i], EOS, temperature)
        assert completion == rollouts.tokens[i, : rollouts.lengths[i]].tolist()
        assert EOS not in completion[:-1]
        assert completion[-1] == EOS or len(completion) == 30
        ended += completion[-1] == EOS
    assert 0 < ended < len(contexts)


def test_generate_ends_after_as_many_tokens_as_there_are_random_numbers():
    gpt = make_model()
    noise = make_noise(1)[0]
    completion = generate(gpt, [5, 6, 7], noise, eos=-1)
    assert len(completion) == 30
    assert generate(gpt, [5, 6, 7], noise[:4], eos=-1) == completion[:4]
    first = completion.index(completion[4])
    assert generate(gpt, [5, 6, 7], noise, eos=completion[4]) == completion[: first + 1]


# --- log-probabilities of completions ---


def test_logprobs_use_the_sampling_temperature():
    logits = torch.randn(2, 3, 7)
    tokens = torch.randint(0, 7, (2, 3))
    expected = (logits / 0.5).log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
    torch.testing.assert_close(model.token_logprobs(logits, tokens, 0.5), expected)
    assert (model.token_logprobs(logits, tokens, 1.0) - expected).abs().max() > 0.1


def test_logprobs_of_bfloat16_logits_are_computed_in_float32():
    logits = (torch.randn(2, 3, 400) * 5).bfloat16()
    tokens = torch.randint(0, 400, (2, 3))
    logprobs = model.token_logprobs(logits, tokens)
    assert logprobs.dtype == torch.float32
    expected = logits.float().log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
    torch.testing.assert_close(logprobs, expected)


def test_the_end_of_sequence_token_is_in_the_mask():
    mask = model.completion_mask(torch.tensor([1, 3]), 4)
    assert mask.tolist() == [[1, 0, 0, 0], [1, 1, 1, 0]]


# Before a context stands what all of them share: nothing, a token, or a prompt.
@HEADS
@pytest.mark.parametrize("rows", [1, 4, 64])  # one context at a time, two, all
@pytest.mark.parametrize("shared", [[], [8], [7, 3, 9, 9]], ids=len)
def test_scores_do_not_depend_on_padding_or_on_what_is_scored_together(
    rows, cfg, shared, monkeypatch
):
    monkeypatch.setattr(model, "ROWS_AT_ONCE", rows)
    monkeypatch.setattr(model, "WORTH_SHARING", 1)
    gpt = make_model(cfg)
    contexts = [shared + context for context in CONTEXTS]
    together = completion_logprobs(gpt, contexts, COMPLETIONS, 0.8)
    for i, (context, completion) in enumerate(PAIRS):
        context = shared + context
        logits = gpt(torch.tensor([context + completion]))[0, len(context) - 1 : -1] / 0.8
        expected = logits.log_softmax(-1)[torch.arange(len(completion)), completion]
        torch.testing.assert_close(together[i, : len(completion)], expected)
        assert (together[i, len(completion) :] == 0).all()


@pytest.mark.parametrize("rows", [1, 4, 64])
def test_scores_of_all_tokens_are_the_distributions_and_0_beyond_a_completion(rows, monkeypatch):
    monkeypatch.setattr(model, "ROWS_AT_ONCE", rows)
    gpt = make_model()
    together = model.vocabulary_logprobs(gpt, CONTEXTS, COMPLETIONS, 0.8)
    for i, (context, completion) in enumerate(PAIRS):
        logits = gpt(torch.tensor([context + completion]))[0, len(context) - 1 : -1] / 0.8
        torch.testing.assert_close(together[i, : len(completion)], logits.log_softmax(-1))
        assert (together[i, len(completion) :] == 0).all()


def test_a_context_is_read_once_for_all_its_completions(monkeypatch):
    gpt = make_model()
    read = GPT.read
    seen = []

    def spy(self, texts, prefix=None):
        seen.append((self, texts))
        return read(self, texts, prefix)

    monkeypatch.setattr(GPT, "read", spy)
    completion_logprobs(gpt, CONTEXTS, COMPLETIONS, 1.0)
    # All but the last token: the output at that one already predicts a completion's first token.
    assert seen == [(gpt, [[3], [], [6, 7]])]

    # What they begin with is read once for all of them, where it is long enough.
    seen.clear()
    monkeypatch.setattr(model, "WORTH_SHARING", 2)
    completion_logprobs(gpt, [[9, 9, *context] for context in CONTEXTS], COMPLETIONS, 1.0)
    assert seen == [(gpt, [[9, 9]]), (gpt, [[3], [], [6, 7]])]


def test_the_tokens_that_contexts_have_in_common():
    assert model.shared_length([[3, 4], [3, 5], [3, 4]]) == 1
    assert model.shared_length([[3, 4], [3, 4, 5]]) == model.shared_length([[3, 4]]) == 2
    assert model.shared_length([[3], [4]]) == model.shared_length([[], [3]]) == 0
    assert model.shared_length([[3, 4, 5], [3, 6, 5]]) == 1
