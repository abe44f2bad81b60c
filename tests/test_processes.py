"""plumbing/processes.py: two processes do what one does."""

import functools
import itertools
import json
import os
import random
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import train
from base import pretrain
from model import GPTConfig
from plumbing import processes
from plumbing.files import load_checkpoint
from tests import toy

ROOT = Path(__file__).parent.parent
BATCHES = ["2", "1"]  # with one question the second process has none
CODE = """
import atexit, json, os, sys

def threads_left():
    names = []
    tasks = "/proc/self/task"  # on Linux
    if os.path.exists(tasks):
        names = [open(f"{tasks}/{task}/comm").read() for task in os.listdir(tasks)]
    if any("gloo" in name for name in names):
        print("gloo's threads are still there", flush=True)

atexit.register(threads_left)  # the last to be called
import torch, train
from tests import test_processes, toy
torch.set_num_threads(1)
toy.take_over()
test_processes.make_pretraining_tiny(setattr)
for argv in json.loads(sys.argv[1]):
    train.main(argv)
"""


def make_pretraining_tiny(change) -> None:
    """Give it a tiny model, and a clock that goes on by a second per look.

    change: what changes an attribute: setattr, or another function that does.
    """
    ticks = itertools.count()
    clock = SimpleNamespace(perf_counter=lambda: float(next(ticks)))
    sizes = {"n_layer": 1, "n_head": 2, "n_embd": 16, "n_hidden": 16}
    change(pretrain, "time", clock)
    change(pretrain, "GPTConfig", functools.partial(GPTConfig, **sizes))


def toy_run(folder: Path, base: Path, batch: str) -> list[str]:
    """The command line of a toy run in a folder."""
    flags = ["--base", str(base), "--out", str(folder / batch)]
    return [*toy.SIZES, *flags, "--steps", "6", "--batch", batch, "--passes", "24"]


def toy_pretraining(folder: Path) -> list[str]:
    """The command line of a pretraining, of six steps."""
    settings = ["--minutes", "0.1", "--documents", "8"]
    return [*toy.SIZES, "--pretrain", "--base", str(folder / "base.pt"), *settings]


def run_processes(n: int, *command_lines: list[str]) -> list[subprocess.CompletedProcess]:
    """Carry runs through, one after the other, in n processes, as torchrun starts them."""
    # A free port, of those that the system gives nobody who asks for any.
    with socket.socket() as free:
        while True:
            port = random.randrange(20000, 32000)
            with suppress(OSError):
                free.bind(("127.0.0.1", port))
                break
    running = []
    for i in range(n):
        place = {
            "TORCHELASTIC_RUN_ID": "test",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "WORLD_SIZE": str(n),
            "RANK": str(i),
            "LOCAL_WORLD_SIZE": str(n),
            "LOCAL_RANK": str(i),
        }
        settings = {"cwd": ROOT, "env": os.environ | place, "text": True}
        command = [sys.executable, "-c", CODE, json.dumps(command_lines)]
        pipe = subprocess.PIPE
        running.append(subprocess.Popen(command, stdout=pipe, stderr=pipe, **settings))
    ended = []
    for process in running:
        stdout, stderr = process.communicate(timeout=240)
        ended.append(subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr))
    return ended


@pytest.fixture(scope="module")
def of_two(base, tmp_path_factory):
    """The folder of all that two processes made, which take long to start, and what each said."""
    folder = tmp_path_factory.mktemp("two")
    runs = [toy_run(folder, base, batch) for batch in BATCHES]
    ended = run_processes(2, *runs, toy_pretraining(folder))
    assert [process.returncode for process in ended] == [0, 0], ended
    return folder, *(process.stdout for process in ended)


def test_only_the_first_process_tells_and_in_the_end_no_threads_are_left(of_two):
    _, first, second = of_two
    assert first.count("base written") == 1 and "still there" not in first
    assert second == ""


@pytest.mark.parametrize("batch", BATCHES)
def test_two_processes_equal_one_to_float_tolerance_with_the_same_accepted_prompts(
    of_two, base, tmp_path, toy_world, capsys, batch
):
    train.main(toy_run(tmp_path, base, batch))
    said = capsys.readouterr().out
    folder, first, _ = of_two
    assert "strings, validation" in said and "strings, validation" in first
    paths = (tmp_path / batch, folder / batch)
    one, two = map(toy.log_of, paths)
    assert any(line["kind"] == "fast" and line["accepted"] for line in one)
    assert any(line["kind"] == "slow" and line["grad_norm"] for line in one)
    for a, b in zip(one, two, strict=True):
        exact = {key for key in a if not isinstance(a[key], float)}  # counts, prompts, populations
        rounded = a.keys() - exact  # to six digits
        assert {key: a[key] for key in exact} == {key: b[key] for key in exact}
        expected = pytest.approx({key: b[key] for key in rounded}, rel=1e-5)
        assert {key: a[key] for key in rounded} == expected
    one, two = (load_checkpoint(path / "checkpoint.pt") for path in paths)
    assert one["population"] == two["population"] and one["rollouts"] == two["rollouts"]

    # AdamW's steps are 0.01 however small a gradient is: rounding is seen there.
    for name, weight in one["model"].items():
        torch.testing.assert_close(weight, two["model"][name], atol=1e-4, rtol=0)


def test_two_processes_pretrain_the_base_that_one_does(of_two, tmp_path, monkeypatch, capsys):
    make_pretraining_tiny(monkeypatch.setattr)
    train.main(toy_pretraining(tmp_path))
    assert "base written" in capsys.readouterr().out
    one, two = (load_checkpoint(folder / "base.pt") for folder in (tmp_path, of_two[0]))
    assert one["step"] == two["step"] == 6
    for name, weight in one["model"].items():
        torch.testing.assert_close(weight, two["model"][name], atol=1e-3, rtol=0)


def test_with_fewer_gpus_than_processes_they_talk_without_them(monkeypatch):
    asked, places = [], []
    monkeypatch.setattr(torch.cuda, "set_device", places.append)
    monkeypatch.setattr(
        processes.dist, "init_process_group", lambda *backend: asked.append(backend)
    )
    monkeypatch.setattr(processes.atexit, "register", lambda _: None)
    variables = {"TORCHELASTIC_RUN_ID": "test", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "1"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for gpus in (0, 1, 2):
        monkeypatch.setattr(torch.cuda, "device_count", lambda gpus=gpus: gpus)
        processes.join()
    assert asked == [("gloo",), ("gloo",), ("cpu:gloo,cuda:nccl",)] and places == [1]


# --- the pieces, as in two processes ---


@pytest.fixture
def two(monkeypatch):
    """A function that makes this process the first or the second of two that cannot talk."""

    def become(rank: int, sums: list) -> None:
        monkeypatch.setattr(processes, "size", lambda: 2)
        monkeypatch.setattr(processes, "rank", lambda: rank)
        monkeypatch.setattr(processes, "sum_over_processes", lambda *parts: sums.append(parts))

    return become


def test_shares_are_disjoint_and_together_all(two):
    assert processes.my_share([0, 1, 2, 3, 4]) == [0, 1, 2, 3, 4]
    shares = []
    for rank in range(2):
        two(rank, [])
        shares.append(processes.my_share([0, 1, 2, 3, 4]))
    assert shares == [[0, 2, 4], [1, 3]]


@dataclass
class Written:
    tokens: torch.Tensor
    lengths: torch.Tensor
    logprobs: torch.Tensor


def write(model, prompts, questions, samples, *, max_new, noise) -> Written:
    """What is sampled depends on prompt, question and noise alone; padded with 7."""
    tokens = []
    lengths = []
    for prompt, asked in zip(prompts, questions, strict=True):
        for question in asked:
            for _ in range(samples):
                digit = int(100 * noise[len(tokens), 0])
                lengths.append(1 + digit % max_new)
                row = [prompt + question + digit] * lengths[-1]
                tokens.append(row + [7] * (max_new - lengths[-1]))
    return Written(torch.tensor(tokens), torch.tensor(lengths), noise.log())


@pytest.mark.parametrize("B", [1, 2, 3])  # questions: with one the second process has no share
def test_split_questions_give_the_rollouts_of_one_process(two, B):
    prompts = [1000, 2000]
    questions = [[100 * b for b in range(B)], [10 * b for b in range(B)]]
    noise = torch.rand(2 * B * 3, 4, generator=torch.Generator().manual_seed(0))
    split = processes.split_questions(write)
    whole = split(None, prompts, questions, 3, max_new=4, noise=noise)
    sums = []
    for rank in range(2):
        two(rank, sums)
        result = split(None, prompts, questions, 3, max_new=4, noise=noise)
        assert isinstance(result, Written)
    totals = [a + b for a, b in zip(*sums, strict=True)]
    for total, expected in zip(totals, vars(whole).values(), strict=True):
        assert torch.equal(total.reshape(expected.shape), expected)


@pytest.mark.parametrize("at_once", [1, 6, 13, 1000])  # each question has 6 rollouts
def test_many_questions_are_sampled_in_parts(monkeypatch, at_once):
    monkeypatch.setattr(processes, "ROLLOUTS_AT_ONCE", at_once)
    prompts = [1000, 2000]
    questions = [[100, 200, 300], [10, 20, 30]]
    noise = torch.rand(18, 4, generator=torch.Generator().manual_seed(0))
    whole = write(None, prompts, questions, 3, max_new=4, noise=noise)
    sizes = []

    def seen(*arguments, noise, **settings) -> Written:
        sizes.append(len(noise))
        return write(*arguments, noise=noise, **settings)

    parts = processes.split_questions(seen)(None, prompts, questions, 3, max_new=4, noise=noise)
    assert max(sizes) <= max(at_once, 6) and sum(sizes) == 18
    mask = torch.arange(4) < whole.lengths[:, None]
    for name, part in vars(parts).items():
        expected = vars(whole)[name]
        assert torch.equal(part, expected) or torch.equal(part[mask], expected[mask])


def test_gradients_and_metrics_are_summed_and_none_counts_as_zero(monkeypatch):
    monkeypatch.setattr(processes.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(processes.dist, "all_reduce", lambda tensor: tensor.mul_(2))
    a, b = (torch.nn.Parameter(torch.ones(shape)) for shape in ((2, 3), (4,)))
    a.grad = torch.arange(6.0).view(2, 3)
    metric = torch.tensor(3.0)
    processes.sum_gradients(torch.nn.ParameterList([a, b]), metric)
    assert torch.equal(a.grad, 2 * torch.arange(6.0).view(2, 3)) and torch.equal(b.grad, 0 * b)
    assert metric == 6


def test_where_another_process_was_asked_to_stop_all_do(monkeypatch):
    monkeypatch.setattr(processes, "sum_over_processes", lambda flag: flag.add_(1))
    assert processes.any_process(False, "cpu")
