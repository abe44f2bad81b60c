"""parallel.py: two processes do what one does."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import parallel
from model import load_checkpoint
from tests import toy

ROOT = Path(__file__).parent.parent
CODE = """
import atexit, os, sys

def threads_left():
    tasks = "/proc/self/task"  # on Linux
    names = [open(f"{tasks}/{task}/comm").read() for task in os.listdir(tasks)] if os.path.exists(tasks) else []
    if any("gloo" in name for name in names):
        print("gloo's threads are still there", flush=True)

atexit.register(threads_left)  # the last to be called
import torch, train
from tests import toy
torch.set_num_threads(1)
toy.take_over()
train.main(sys.argv[1:])
"""
CLOCKED = "import itertools, time\nticks = itertools.count()\ntime.perf_counter = lambda: float(next(ticks))\n" + CODE


def run_processes(n: int, out: Path, base: Path, *argv: str, code: str = CODE) -> list[subprocess.CompletedProcess]:
    """Carry a toy run through in n processes, as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = [*toy.SIZES, "--base", str(base), "--out", str(out), *argv]
    processes = []
    for i in range(n):
        world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(n), "RANK": str(i)}
        world |= {"LOCAL_WORLD_SIZE": str(n), "LOCAL_RANK": str(i)}
        settings = {"cwd": ROOT, "env": os.environ | world, "text": True}
        command = [sys.executable, "-c", code, *flags]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **settings))
    ended = []
    for process in processes:
        stdout, stderr = process.communicate(timeout=240)
        ended.append(subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr))
    return ended


@pytest.mark.parametrize("batch", ["2", "1"])  # at one question a batch the second process has none to answer
def test_two_processes_equal_one_to_float_tolerance_with_the_same_accepted_prompts(tmp_path, base, batch):
    argv = ["--steps", "6", "--batch", batch]
    for n in (1, 2):
        ended = run_processes(n, tmp_path / str(n), base, *argv)
        assert [process.returncode for process in ended] == [0] * n, ended
        assert "strings, validation" in ended[0].stdout
        assert not any("validation" in process.stdout for process in ended[1:])
    one, two = (toy.log_of(tmp_path / str(n)) for n in (1, 2))
    assert any(line["kind"] == "fast" and line["accepted"] for line in one)
    assert any(line["kind"] == "slow" and line["grad_norm"] for line in one)
    for a, b in zip(one, two, strict=True):
        exact = {key for key in a if not isinstance(a[key], float)}  # counts, prompts, populations
        rounded = a.keys() - exact  # to six digits
        assert {key: a[key] for key in exact} == {key: b[key] for key in exact}
        assert {key: a[key] for key in rounded} == pytest.approx({key: b[key] for key in rounded}, rel=1e-5)
    one, two = (load_checkpoint(tmp_path / str(n) / "checkpoint.pt") for n in (1, 2))
    assert one["population"] == two["population"] and one["rollouts"] == two["rollouts"]
    for name, weight in one["model"].items():  # AdamW's steps are 0.01 however small a gradient: rounding is seen there
        torch.testing.assert_close(weight, two["model"][name], atol=1e-4, rtol=0)


def test_two_processes_pretrain_the_base_that_one_does(tmp_path):
    argv = ["--pretrain", "--minutes", "0.1", "--documents", "8"]  # six steps on a clock that goes on a second per look
    bases = []
    for n in (1, 2):
        ended = run_processes(n, tmp_path, tmp_path / f"{n}.pt", *argv, code=CLOCKED)
        assert [process.returncode for process in ended] == [0] * n, ended
        assert "base written" in ended[0].stdout and not any(process.stdout for process in ended[1:])
        assert not any("still there" in process.stdout for process in ended)
        bases.append(load_checkpoint(tmp_path / f"{n}.pt"))
    one, two = bases
    assert one["step"] == two["step"] == 6
    for name, weight in one["model"].items():
        torch.testing.assert_close(weight, two["model"][name], atol=1e-3, rtol=0)


def test_with_fewer_gpus_than_processes_they_talk_without_them(monkeypatch):
    asked, places = [], []
    monkeypatch.setattr(torch.cuda, "set_device", places.append)
    monkeypatch.setattr(parallel.dist, "init_process_group", lambda *backend: asked.append(backend))
    monkeypatch.setattr(parallel.atexit, "register", lambda _: None)
    for name, value in {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    for gpus in (0, 1, 2):
        monkeypatch.setattr(torch.cuda, "device_count", lambda gpus=gpus: gpus)
        parallel.join()
    assert asked == [("gloo",), ("gloo",), ("cpu:gloo,cuda:nccl",)] and places == [1]
