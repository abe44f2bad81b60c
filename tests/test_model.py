"""model.py: the block's numerics, and a sampler that is exact, free of syncs, and the same as its naive twin."""

import dataclasses
import random

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import model
from model import GPT, GPTConfig, decode_step, load_checkpoint, sample, sample_naive, save_checkpoint

V, EOS, PAD = 40, 1, 0
TINY = GPTConfig(vocab_size=V, n_layer=2, n_head=2, n_embd=16, n_hidden=24, block_size=96)


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
    prompts = [[rng.randrange(2, V) for _ in range(rng.randint(1, 9))] for _ in range(K)]
    return prompts, [[[rng.randrange(2, V) for _ in range(rng.randint(1, 7))] for _ in range(B)] for _ in range(K)]


SETTINGS = {"max_new": 30, "eos": EOS, "pad": PAD}


# --- the transformer ---


def test_logits_equal_llama_of_transformers():
    transformers = pytest.importorskip("transformers")
    gpt = make_model()
    cfg = transformers.LlamaConfig(
        vocab_size=V, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=96, rms_norm_eps=1e-6, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": TINY.rope_base},
    )  # fmt: skip
    llama = transformers.LlamaForCausalLM(cfg)
    names = {
        "embedding.": "model.embed_tokens.",
        "blocks.": "model.layers.",
        "head.": "lm_head.",
        "norm.": "model.norm.",
    }
    inside = {".attention_norm.": ".input_layernorm.", ".mlp_norm.": ".post_attention_layernorm."}
    inside |= {f".{w}.": f".self_attn.{w}_proj." for w in "qkvo"} | {
        f".{w}.": f".mlp.{w}_proj." for w in ("gate", "up", "down")
    }
    state = {}
    for name, p in gpt.state_dict().items():
        start = next(s for s in names if name.startswith(s))
        name = names[start] + name.removeprefix(start)
        for ours, theirs in inside.items():
            name = name.replace(ours, theirs)
        state[name] = p
    llama.load_state_dict(state)
    tokens = torch.randint(0, V, (3, 50))
    with torch.no_grad():
        torch.testing.assert_close(gpt(tokens), llama(tokens).logits, atol=1e-5, rtol=0)


def test_logits_of_fixed_weights_have_not_changed():
    gpt = GPT(TINY)
    with torch.no_grad():
        for i, p in enumerate(gpt.parameters()):
            p.copy_(torch.sin(torch.arange(p.numel()) * 0.7 + i).view_as(p) * 0.5)
        logits = gpt(torch.tensor([[3, 14, 15, 9, 2, 6]]))[0, -1, :4]
    torch.testing.assert_close(logits, torch.tensor([-0.0716, 0.03482, 0.08574, -1e-05]), atol=1e-4, rtol=0)


def test_later_tokens_change_nothing_before_them():
    gpt, tokens = make_model(), torch.randint(0, V, (2, 12))
    changed = tokens.clone()
    changed[:, 7:] = torch.randint(0, V, (2, 5))
    with torch.no_grad():
        a, b = gpt(tokens), gpt(changed)
    torch.testing.assert_close(a[:, :7], b[:, :7])
    assert (a[:, 7:] - b[:, 7:]).abs().max() > 1e-3


def test_only_relative_positions_matter_to_attention():
    x = torch.randn(1, 1, 5, 8)
    gpt = make_model()
    scores = []
    for shift in (0, 13):
        cos, sin = gpt.cos[shift : shift + 5], gpt.sin[shift : shift + 5]
        q = model.rotate(x, cos, sin)
        scores.append(q @ q.transpose(-1, -2))
    torch.testing.assert_close(*scores, atol=1e-5, rtol=1e-5)


# --- sampling ---


def test_shared_copied_and_naive_give_the_same_tokens_from_the_same_noise():
    gpt, (prompts, questions), G = make_model(), make_batch(), 2
    noise = torch.rand(3 * 4 * G, 30, generator=torch.Generator().manual_seed(0))
    shared = sample(gpt, prompts, questions, G, noise=noise, **SETTINGS)
    naive = sample_naive(gpt, prompts, questions, G, noise=noise, **SETTINGS)
    rows = [(p, q) for p, asked in zip(prompts, questions, strict=True) for q in asked for _ in range(G)]
    copied = sample(gpt, [p for p, _ in rows], [[q] for _, q in rows], 1, noise=noise, **SETTINGS)
    assert shared.lengths.min() < 15 and shared.lengths.max() == 30  # rows end at different times: some were dropped
    for other in (naive, copied):
        assert torch.equal(shared.tokens, other.tokens) and torch.equal(shared.lengths, other.lengths)
        torch.testing.assert_close(shared.logprobs, other.logprobs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("few", [1, 2, 3, 4, 8])  # questions at a time, of one prompt's four, or of two prompts
def test_questions_read_a_few_at_a_time_give_the_same_rollouts(monkeypatch, few):
    gpt, (prompts, questions), passes, attend = make_model(), make_batch(), [], model.attend
    width = max(len(q) for row in questions for q in row)
    noise = torch.rand(3 * 4 * 2, 30, generator=torch.Generator().manual_seed(0))
    whole = sample(gpt, prompts, questions, 2, noise=noise, **SETTINGS)
    monkeypatch.setattr(model, "attend", lambda q, *rest: (passes.append(q.shape[1:3]), attend(q, *rest))[1])
    monkeypatch.setattr(model, "AT_ONCE", few * width + 1)
    parts = sample(gpt, prompts, questions, 2, noise=noise, **SETTINGS)
    sizes = {1: 12 * [1], 2: 6 * [2], 3: 3 * [3, 1], 4: 3 * [4], 8: [8, 4]}[few]
    assert [shape for shape in passes if shape[1] == width] == [(n, width) for n in sizes for _ in range(TINY.n_layer)]
    assert torch.equal(whole.tokens, parts.tokens) and torch.equal(whole.lengths, parts.lengths)
    torch.testing.assert_close(whole.logprobs, parts.logprobs, atol=1e-4, rtol=0)


def test_long_questions_are_read_once_for_all_samples_as_prompts_are(monkeypatch):
    gpt, (prompts, questions), shapes, attend = make_model(), make_batch(), [], model.attend
    questions = [[q * 6 for q in row] for row in questions]  # of 6 to 42 tokens
    noise = torch.rand(3 * 4 * 2, 5, generator=torch.Generator().manual_seed(0))

    def spy(q, prefix, own, *biases):
        shapes.append((prefix[0].size(1), own[0].size(3)))
        return attend(q, prefix, own, *biases)

    monkeypatch.setattr(model, "attend", spy)
    shared = sample(gpt, prompts, questions, 2, noise=noise, **SETTINGS | {"max_new": 5})
    assert {K for K, _ in shapes} == {12}  # a row's own are the question's last token and its answer's
    assert max(S for _, S in shapes) == 5
    naive = sample_naive(gpt, prompts, questions, 2, noise=noise, **SETTINGS | {"max_new": 5})
    assert torch.equal(shared.tokens, naive.tokens) and torch.equal(shared.lengths, naive.lengths)
    torch.testing.assert_close(shared.logprobs, naive.logprobs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_sampled_logprob_is_the_scored_logprob(temperature):
    gpt, (prompts, questions) = make_model(), make_batch()
    rollouts = sample(gpt, prompts, questions, 1, temperature=temperature, **SETTINGS)
    rows = [p + q for p, asked in zip(prompts, questions, strict=True) for q in asked]
    for row, tokens, n, logprobs in zip(
        rows, rollouts.tokens.tolist(), rollouts.lengths, rollouts.logprobs, strict=True
    ):
        with torch.no_grad():
            logits = gpt(torch.tensor([row + tokens[:n]]))[0, len(row) - 1 : -1] / temperature
        scored = logits.log_softmax(-1)[torch.arange(n), torch.tensor(tokens[:n])]
        torch.testing.assert_close(logprobs[:n], scored, atol=1e-4, rtol=0)


def test_eos_is_counted_and_nothing_comes_after_it():
    rollouts = sample(make_model(), *make_batch(B=16), 2, **SETTINGS)
    ended = 0
    for tokens, n, logprobs in zip(rollouts.tokens, rollouts.lengths, rollouts.logprobs, strict=True):
        assert (tokens[: n - 1] != EOS).all() and (tokens[n:] == PAD).all() and (logprobs[n:] == 0).all()
        assert tokens[n - 1] == EOS or n == 30
        ended += tokens[n - 1] == EOS
    assert 0 < ended < len(rollouts.tokens)


def test_frequencies_of_the_first_token_are_the_softmax():
    gpt, n = make_model(), 4000
    noise = torch.rand(n, 1, generator=torch.Generator().manual_seed(1))
    rollouts = sample(gpt, [[5, 6]], [[[7]]], n, max_new=1, eos=EOS, pad=PAD, noise=noise)
    with torch.no_grad():
        expected = gpt(torch.tensor([[5, 6, 7]]))[0, -1].softmax(-1) * n
    counts = torch.bincount(rollouts.tokens[:, 0], minlength=V)
    often = expected > 5
    chi_square = ((counts - expected)[often] ** 2 / expected[often]).sum()
    assert chi_square < 2 * often.sum() + 10


def test_greedy_takes_the_likeliest_token():
    gpt = make_model()
    rollouts = sample(gpt, [[5, 6]], [[[7]]], 2, max_new=1, eos=EOS, pad=PAD, temperature=0)
    with torch.no_grad():
        logits = gpt(torch.tensor([[5, 6, 7]]))[0, -1]
    assert (rollouts.tokens[:, 0] == logits.argmax()).all()
    torch.testing.assert_close(rollouts.logprobs[0, 0], logits.log_softmax(-1).max())


def test_the_noise_decides_the_outcome():
    gpt, batch, noise = make_model(), make_batch(), torch.rand(3 * 4 * 2, 30)
    a, b, c, d = (sample(gpt, *batch, 2, noise=n, **SETTINGS).tokens for n in (noise, noise, 1 - noise, None))
    assert torch.equal(a, b) and not torch.equal(a, c) and not torch.equal(a, d)


@pytest.mark.parametrize(
    "prompts, questions", [([[5]], [[]]), ([[5], [6]], [[[7]], [[7], [8]]]), ([[]], [[[7]]]), ([[5]], [[[]]])]
)
def test_empty_or_ragged_input_is_refused(prompts, questions):
    with pytest.raises(ValueError, match="sample:"):
        sample(make_model(), prompts, questions, 1, **SETTINGS)


def test_too_long_a_sequence_is_refused_with_the_numbers():
    with pytest.raises(ValueError, match="131 tokens, the model has 96"):
        sample(make_model(), [[5] * 100], [[[6]]], 1, **SETTINGS)


# --- made for CUDA: what a CPU can show ---


def step_arguments(gpt, K=2, R=6, S=8, device="cpu"):
    """Arguments of decode_step at one chunk's shapes."""
    D, H, L = gpt.cfg.n_embd // gpt.cfg.n_head, gpt.cfg.n_head, gpt.cfg.n_layer

    def cache(rows, slots):
        shapes = (H, rows, D, slots), (H, rows, slots, D)
        return [tuple(torch.randn(shape, device=device) for shape in shapes) for _ in range(L)]

    prefix, own, prefix_bias = cache(K, 5), cache(R, S), torch.zeros(K, 1, 5, device=device)
    own_bias = torch.full((R, 1, S), -torch.inf, device=device)
    tokens, noise = torch.zeros(R, dtype=torch.long, device=device), torch.full((R,), 0.5, device=device)

    def arguments(t):
        slot, positions = torch.full((1,), 3 + t, device=device), torch.full((R,), 8 + t, device=device)
        return gpt, tokens, positions, slot, prefix, prefix_bias, own, own_bias, noise, 1.0

    return arguments


class Trace(TorchDispatchMode):
    """The operations that run, with the shapes that they get."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls.append((str(func), [tuple(a.shape) for a in args if isinstance(a, torch.Tensor)]))
        return func(*args, **(kwargs or {}))

    def waits(self) -> int:
        """How many operations make the program wait for the device; `.item()` has two names, by grad mode."""
        names = ("aten._local_scalar_dense", "aten.item.", "nonzero", "aten.equal.")
        return sum(any(name in call for name in names) for call, _ in self.calls)


def test_decode_steps_run_the_same_operations_on_the_same_shapes_and_never_sync():
    arguments, traces = step_arguments(make_model()), []
    for t in (0, 1):
        with torch.no_grad(), Trace() as trace:
            decode_step(*arguments(t))
        traces.append(trace)
    assert traces[0].calls == traces[1].calls and traces[0].waits() == 0


def test_decode_step_writes_into_the_cache_in_place():
    arguments = step_arguments(make_model())
    own = arguments(0)[6]
    pointers, before = [cache.data_ptr() for layer in own for cache in layer], [cache.clone() for cache in own[0]]
    with torch.no_grad():
        decode_step(*arguments(0))
    assert pointers == [cache.data_ptr() for layer in own for cache in layer]
    keys, values = (after != cache for after, cache in zip(own[0], before, strict=True))
    for changed in keys.flatten(0, 2).any(0), values.mT.flatten(0, 2).any(0):  # slots
        assert changed.tolist() == [i == 3 for i in range(8)]


def test_decode_step_runs_on_the_meta_device():
    gpt = make_model().to("meta")
    with torch.no_grad():
        token, logprob = decode_step(*step_arguments(gpt, device="meta")(0))
    assert token.shape == logprob.shape == (6,)


@pytest.mark.parametrize("dynamic", [False, True])
def test_decode_step_compiles_as_one_graph_and_does_not_recompile(dynamic):
    torch._dynamo.reset()
    compiles, gpt = [], make_model(dataclasses.replace(TINY, n_layer=1))

    def backend(graph, inputs):
        compiles.append(graph)
        return graph.forward

    compiled = torch.compile(decode_step, backend=backend, fullgraph=True, dynamic=dynamic)
    sizes = [(3, 12, 9), (4, 20, 11)]  # with --compile chunks differ in size; equal to no width of the model
    with torch.no_grad():
        for arguments in [step_arguments(gpt, *size) for size in sizes[: 1 + dynamic]]:
            for t in (0, 1, 2):
                compiled(*arguments(t))
    assert len(compiles) == 1


def test_sampling_waits_for_the_device_once_a_chunk_and_no_more():
    gpt, (prompts, questions) = make_model(), make_batch()
    counts = []
    for max_new in (1, 1 + 2 * model.CHUNK, 1 + 4 * model.CHUNK):
        with Trace() as trace:
            sample(gpt, prompts, questions, 2, max_new=max_new, eos=-1, pad=PAD)
        counts.append(trace.waits())
    assert counts == [0, 2, 4]


# --- checkpoints ---


def test_checkpoint_round_trip_and_damage(tmp_path):
    path = tmp_path / "c.pt"
    save_checkpoint(path, {"weights": torch.arange(300.0), "plain": [1, "a", {"b": None}]})
    loaded = load_checkpoint(path)
    assert torch.equal(loaded["weights"], torch.arange(300.0)) and loaded["plain"] == [1, "a", {"b": None}]
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    other = tmp_path / "other.pt"
    for damaged in (whole[: len(whole) // 2], bytes(flipped), b"", b"hello"):
        other.write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged"):
            load_checkpoint(other)
    torch.save({"model": 1}, other)
    with pytest.raises(ValueError, match="no checkpoint of this program"):
        load_checkpoint(other)
    with pytest.raises(ValueError, match="no checkpoint at"):
        load_checkpoint(tmp_path / "none.pt")


class Evil:
    def __reduce__(self):
        return print, ("code from a checkpoint ran",)


def test_a_checkpoint_cannot_run_code(tmp_path, capsys):
    torch.save({"format": model.FORMAT, "evil": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match="damaged, or no checkpoint"):
        load_checkpoint(tmp_path / "evil.pt")
    assert "ran" not in capsys.readouterr().out


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "c.pt"
    save_checkpoint(path, {"step": 1})
    monkeypatch.setattr(
        torch, "save", lambda contents, file: (file.write(b"half"), (_ for _ in ()).throw(OSError("disk full")))
    )
    with pytest.raises(OSError):
        save_checkpoint(path, {"step": 2})
    assert load_checkpoint(path)["step"] == 1
