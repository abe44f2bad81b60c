"""plumbing/devices.py: devices that are there, for every process."""

import pytest
import torch

from plumbing.devices import pick_device


@pytest.fixture(autouse=True)
def by_torchrun(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert pick_device("auto") == pick_device("cuda") == "cuda"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert pick_device("cpu") == "cpu"
    for name in ("auto", "cuda"):
        with pytest.raises(ValueError, match="3 processes need as many GPUs, here are 2"):
            pick_device(name)


def test_several_processes_do_not_run_on_apples_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert pick_device("auto") == pick_device("mps") == "mps"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert pick_device("auto") == "cpu"
    with pytest.raises(
        ValueError, match="--device mps: this machine has none for 2 processes; use --device auto"
    ):
        pick_device("mps")


def test_a_compiler_is_the_one_that_the_environment_names(monkeypatch):
    monkeypatch.setenv("CXX", "/nonexistent/g++")
    with pytest.raises(ValueError, match=r"--compile needs a C\+\+ compiler: install g\+\+"):
        pick_device("cpu", compiles=True)
    assert pick_device("cpu") == "cpu"
    monkeypatch.setenv("CXX", "sh")
    assert pick_device("cpu", compiles=True) == "cpu"
