"""What the tests of whole runs share: a toy base, the toy world, and a function that runs."""

from pathlib import Path

import hypothesis
import pytest
import torch

import fast_context
import train
from plumbing import console
from tasks import formats
from tests import toy

torch.set_num_threads(1)  # the models are tiny, and several workers share the cores
hypothesis.settings.register_profile("busy", deadline=None)  # a busy machine is slow
hypothesis.settings.load_profile("busy")


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    path = tmp_path_factory.mktemp("base") / "base.pt"
    toy.make_base(path)
    return path


@pytest.fixture(autouse=True)
def seeded():
    """Which tests ran before does not matter."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def program(monkeypatch):
    """Scripts tell messages their own name: afterwards it is that of train.py again."""
    monkeypatch.setattr(console, "PROGRAM", console.PROGRAM)


@pytest.fixture
def toy_world(monkeypatch):
    """A hash decides what is right."""
    monkeypatch.setattr(formats, "verify", toy.verify)
    monkeypatch.setattr(formats, "parse_instruction", toy.parse_instruction)
    monkeypatch.setattr(train, "WARMUP", toy.WARMUP)
    monkeypatch.setattr(fast_context, "PROPOSALS_AT_ONCE", toy.PROPOSALS_AT_ONCE)


@pytest.fixture
def start(base, tmp_path, toy_world):
    """A function that carries a small run through, in a folder of a name -> the folder."""

    def start(name="run", *argv, **options) -> Path:
        options = {"base": base, "steps": 6, "out": tmp_path / name} | options
        flags = []
        for key, value in options.items():
            flags += ["--" + key.replace("_", "-"), str(value)]
        train.main([*toy.SIZES, *flags, *argv])
        return tmp_path / name

    return start
