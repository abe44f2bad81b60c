"""On a GPU: sampling without hidden waits, captured as a graph; a CPU's tokens and updates."""

import time

import pytest
import torch

import rl
import sampling
import train
from sampling import decode_step, decoder, sample
from tests import test_rl, toy
from tests.test_model import HEADS, SETTINGS, make_batch, make_model, step_arguments

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device, this machine has none"
)


@HEADS
def test_a_decode_step_never_waits_for_the_device(cfg):
    arguments = step_arguments(make_model(cfg).cuda(), device="cuda")(0)
    with torch.no_grad():
        decode_step(*arguments)  # the first use of a kernel may wait
        torch.cuda.set_sync_debug_mode("error")
        try:
            decode_step(*arguments)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@HEADS
def test_a_decode_step_can_be_captured_and_replayed(cfg):
    arguments = step_arguments(make_model(cfg).cuda(), device="cuda")(0)
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    with torch.no_grad():
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            expected = [part.clone() for part in decode_step(*arguments)]
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(graph):
            token, logprob = decode_step(*arguments)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(token, expected[0])
    torch.testing.assert_close(logprob, expected[1])


@HEADS
def test_tokens_are_those_of_the_cpu_and_tokens_per_second_are_shown(cfg, capsys):
    gpt, (prompts, questions) = make_model(cfg), make_batch(B=32)
    noise = torch.rand(3 * 32 * 2, 80, generator=torch.Generator().manual_seed(0))
    settings = SETTINGS | {"max_new": 80}
    expected = sample(gpt, prompts, questions, 2, noise=noise, **settings)
    gpt, noise = gpt.cuda(), noise.cuda()
    sample(gpt, prompts, questions, 2, noise=noise, **settings)
    torch.cuda.synchronize()
    start = time.perf_counter()
    rollouts = sample(gpt, prompts, questions, 2, noise=noise, **settings)
    torch.cuda.synchronize()
    speed = rollouts.lengths.sum().item() / (time.perf_counter() - start)
    with capsys.disabled():
        name = torch.cuda.get_device_name()
        print(f"\n{name}: {speed:.0f} tokens/s, {len(noise)} rows, a tiny model")
    same = (rollouts.tokens.cpu() == expected.tokens).all(1).float().mean()
    # sums are rounded in another order, so a row may turn where two tokens are equally near
    assert same > 0.95


@HEADS
def test_captured_steps_draw_the_tokens_of_plain_ones(cfg):
    gpt, (prompts, questions), captured = (
        make_model(cfg).cuda(),
        make_batch(B=32),
        decoder(False, "cuda"),
    )
    for max_new in (2, 40, 80):  # one chunk of steps, two and three
        noise = torch.rand(3 * 32 * 2, max_new, device="cuda")
        settings = SETTINGS | {"noise": noise, "max_new": max_new}
        plain = sample(gpt, prompts, questions, 2, **settings)
        replayed = sample(gpt, prompts, questions, 2, decode=captured, **settings)
        assert torch.equal(plain.tokens, replayed.tokens) and torch.equal(
            plain.lengths, replayed.lengths
        )
        torch.testing.assert_close(plain.logprobs, replayed.logprobs)


@pytest.mark.parametrize("method", train.METHODS)
def test_a_run_on_a_gpu_samples_with_captured_steps_and_can_be_resumed(start, monkeypatch, method):
    replays, call = [], sampling.CapturedStep.__call__
    monkeypatch.setattr(sampling.CapturedStep, "__call__", lambda *a: replays.append(1) or call(*a))
    folder = start("gpu", "--device", "cuda", method=method, steps=4)
    train.main(["--resume", str(folder), "--steps", "8"])
    lines = toy.log_of(folder)
    assert replays and lines[-1]["step"] == 8 and lines[-1]["rollouts"] > 0
    if method != "gepa":
        assert [line["step"] for line in lines if line["kind"] == "slow"] == [*range(1, 9)]
        assert all(line["skipped"] == 0 for line in lines if line["kind"] == "slow")


@pytest.mark.parametrize("substeps", [1, 2])
def test_updates_are_those_of_the_cpu(substeps):
    weights = {}
    for device in ("cpu", "cuda"):
        policy, base = (model.to(device) for model in test_rl.make_models())
        metrics = test_rl.run_update(policy, base, [1.0, 0, 0, 1, 1, 0], lr=0.1, substeps=substeps)
        optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)
        taught = rl.distill(
            policy=policy,
            teacher=base,
            optimizer=optimizer,
            contexts=test_rl.CONTEXTS,
            teacher_contexts=test_rl.OTHERS,
            completions=test_rl.COMPLETIONS,
            temperature=0.8,
        )
        weights[device] = (
            [p.detach().cpu() for p in policy.parameters()],
            metrics["kl_base"],
            taught["kl_teacher"],
        )
    torch.testing.assert_close(weights["cuda"], weights["cpu"], atol=1e-4, rtol=1e-3)
