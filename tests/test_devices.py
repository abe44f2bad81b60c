"""plumbing/devices.py: devices that are there, for every process."""

import pytest
import torch

from plumbing.devices import pick_device


@pytest.fixture
def by_torchrun(monkeypatch):
    """A function that makes this process one of so many that torchrun has started."""

    def become_one_of(n: int) -> None:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(n))

    return become_one_of


def test_more_processes_than_gpus_are_refused(monkeypatch, by_torchrun):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    by_torchrun(2)
    assert pick_device("auto") == pick_device("cuda") == "cuda"
    by_torchrun(3)
    assert pick_device("cpu") == "cpu"
    for name in ("auto", "cuda"):
        with pytest.raises(ValueError, match="3 processes need as many GPUs, here are 2"):
            pick_device(name)


def test_several_processes_do_not_run_on_apples_gpu(monkeypatch, by_torchrun):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device("auto") == pick_device("mps") == "mps"
    by_torchrun(1)  # even one of them has a group of processes, which cannot use it
    assert pick_device("auto") == "cpu"
    by_torchrun(2)
    assert pick_device("auto") == "cpu"
    said = "--device mps: this machine has none that this run can use; use --device auto"
    with pytest.raises(ValueError, match=said):
        pick_device("mps")


def test_a_compiler_is_the_one_that_the_environment_names(monkeypatch):
    monkeypatch.setenv("CXX", "/nonexistent/g++")
    with pytest.raises(ValueError, match=r"--compile needs a C\+\+ compiler: install g\+\+"):
        pick_device("cpu", compiles=True)
    assert pick_device("cpu") == "cpu"
    monkeypatch.setenv("CXX", "sh")
    assert pick_device("cpu", compiles=True) == "cpu"
