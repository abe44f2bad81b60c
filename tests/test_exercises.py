"""docs/EXERCISES.md: the answers can be applied, and what they change runs."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import toy

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "EXERCISES.md").read_text(encoding="utf-8")
PATCHES = dict(re.findall(r"^```diff (\w+)\n(.*?)^```$", TEXT, re.M | re.S))
WRONG = "naive"  # the one that an answer warns of; it changes the same lines as another one

# A base for the vocabulary with the new domain, and a run on it: both phases, with a hash of the
# words as reward.
PROGRAM = """
from pathlib import Path
from tests import toy

toy.make_base(Path("base.pt"))
toy.take_over()

import train

train.main([*toy.SIZES, "--base", "base.pt", "--steps", "6", "--out", "run", "--tasks", "melody"])
"""


def tree(path: Path) -> Path:
    """A copy of the code."""
    for folder in (".", "base", "plumbing", "tasks", "tests", "words"):
        (path / folder).mkdir(exist_ok=True)
        for file in (ROOT / folder).glob("*.py"):
            shutil.copy(file, path / folder)
    return path


def apply(name: str, path: Path) -> None:
    if shutil.which("git") is None:
        pytest.skip("patches are applied with git")
    command = ["git", "apply", "-"]
    subprocess.run(command, input=PATCHES[name], cwd=path, text=True, check=True)


def test_there_is_an_answer_to_every_exercise():
    exercises, answers = TEXT.split("\n## Answers\n")
    numbers = re.findall(r"^### (\d)\. ", exercises, re.M)
    assert numbers == re.findall(r"^### (\d)\. ", answers, re.M) == list("123456")
    assert len(PATCHES) == TEXT.count("\n```diff")


def test_the_wrong_answer_can_be_applied(tmp_path):
    before = (ROOT / "rl.py").read_text(encoding="utf-8")
    apply(WRONG, tree(tmp_path))
    assert (tmp_path / "rl.py").read_text(encoding="utf-8") != before


def test_all_other_answers_run(tmp_path):
    tree(tmp_path)
    for name in PATCHES:
        if name != WRONG:
            apply(name, tmp_path)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", PROGRAM]
    ended = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    kinds = [line["kind"] for line in toy.log_of(tmp_path / "run")]
    assert {"fast", "slow", "eval"} == set(kinds)


def test_the_command_that_applies_a_patch(tmp_path):
    # It is the only line of the page that begins with sed.
    [command] = re.findall(r"^    (sed .*)$", TEXT, re.M)
    tree(tmp_path)
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "EXERCISES.md", tmp_path / "docs")
    printed = subprocess.run(
        command.removesuffix(" | git apply"),
        cwd=tmp_path,
        shell=True,
        capture_output=True,
        text=True,
        check=True,
    )
    assert printed.stdout == PATCHES["k3"]
