"""Runs that cost nothing: a tiny base of random weights, and a hash in place of the verdicts.

Random weights get nothing right. With a hash of the words as reward, weights move and prompts
evolve all the same.
"""

import json
import os
import subprocess
import sys
import traceback
import zlib
from dataclasses import asdict
from pathlib import Path

import torch

import fast_context
import train
from model import GPT, GPTConfig
from plumbing.files import load_checkpoint, save_checkpoint
from tasks import domains, formats

ROOT = Path(__file__).resolve().parent.parent

# The environment of a process whose hashes are not those of this one.
OTHER_HASHES = os.environ | {
    "PYTHONHASHSEED": "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
}

SIZES = "--tasks strings --batch 2 --group 4 --population 2 --cycle 4 --anchor 4 --passes 8"
SIZES += " --lr 0.01 --eval-every 4 --eval-questions 4 --device cpu"
SIZES += " --seed 2"  # some prompts are accepted, and some steps have nothing to learn from
SIZES = SIZES.split()

# Constants of the program at toy size.
WARMUP = 2  # train.WARMUP
PROPOSALS_AT_ONCE = 2  # fast_context.PROPOSALS_AT_ONCE


def make_base(path: Path, vocabulary: str = "", known: list[str] | None = None, **sizes) -> None:
    """A base of random weights whose sequences end after a few tokens."""
    torch.manual_seed(0)
    sizes = {"n_layer": 1, "n_head": 2, "n_embd": 16, "n_hidden": 16} | sizes
    cfg = GPTConfig(formats.encoding().n_vocab, **sizes)
    model = GPT(cfg)
    with torch.no_grad():
        model.embedding.weight[:, 0] = 1.0  # for every token: the head's first column is a bias
        model.head.weight[formats.special("eos"), 0] = 1.3
    contents = {
        "vocabulary": vocabulary or formats.fingerprint(),
        "domains": known or list(domains()),
        "model_config": asdict(cfg),
    }
    save_checkpoint(path, contents | {"model": model.state_dict()})


def verify(question, words: str) -> float:
    return float(zlib.crc32(f"{question.ask} {words}".encode()) % 3 == 0)


def parse_instruction(words: str, topic: str) -> str:
    return ("", "sort", "reverse raise", "left")[zlib.crc32(words.encode()) % 4]


def take_over() -> None:
    """Let the hashes and the toy sizes decide in this process, for good."""
    formats.verify = verify
    formats.parse_instruction = parse_instruction
    train.WARMUP = WARMUP
    fast_context.PROPOSALS_AT_ONCE = PROPOSALS_AT_ONCE


def watch(monkeypatch, holder, name: str, note) -> None:
    """Call note(result, *arguments) after every call of a function of `holder`."""
    real = getattr(holder, name)

    def watched(*arguments, **named):
        result = real(*arguments, **named)
        note(result, *arguments, **named)
        return result

    monkeypatch.setattr(holder, name, watched)


def prints_the_same_elsewhere(code: str, capsys) -> str:
    """Run code here, and in a process with other hashes -> what both print."""
    command = [sys.executable, "-c", code]
    there = subprocess.check_output(command, cwd=ROOT, env=OTHER_HASHES, text=True)
    capsys.readouterr()
    exec(code, {})
    here = capsys.readouterr().out
    require(here == there != "", (here, there))
    return here


def log_of(out: Path) -> list[dict]:
    """The lines of a run's log, but for how long its steps took."""
    lines = map(json.loads, (out / "log.jsonl").read_text(encoding="utf-8").splitlines())
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def refused(capsys, *argv) -> str:
    """The one line with which `train.py argv` ends, with code 2."""
    capsys.readouterr()
    code = 0
    try:
        train.main([str(word) for word in argv])
    except SystemExit as ended:
        code = ended.code
        # The frames in which it was raised keep the folder, and so its lock.
        traceback.clear_frames(ended.__traceback__)
        if ended.__context__ is not None:
            traceback.clear_frames(ended.__context__.__traceback__)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("train.py: ")]
    require(code == 2 and len(lines) == 1, lines)
    return lines[0]


def require(holds: bool, said) -> None:
    """An assert that `python -O` does not leave out: the scripts of tests/stress/ prove something.

    Raises AssertionError.
    """
    if not holds:
        raise AssertionError(said)


def kinds(out: Path, *wanted: str) -> list[dict]:
    return [line for line in log_of(out) if line["kind"] in wanted]


def outcome(out: Path) -> list:
    """All that a finished run leaves, in a form that can be compared."""
    saved = load_checkpoint(out / "checkpoint.pt")
    del saved["sizes"]  # of the logs, in which the seconds differ
    samples = (out / "samples.txt").read_text(encoding="utf-8")
    result = (out / "result.json").read_text(encoding="utf-8")
    return [log_of(out), samples, result, saved]


def equal(a, b) -> bool:
    """Deep equality of plain data and tensors, bit by bit."""
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
