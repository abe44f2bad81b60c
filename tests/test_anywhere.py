"""Where a run meets the machine: folders, streams, shells, encodings, sizes.

A new process takes seconds, to load torch: only where it is what is tested there is one.
"""

import ast
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import types
import weakref
from pathlib import Path

import pytest
import report
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import sampling
import train
from plumbing import processes
from tasks import Task
from tests import toy

ROOT = Path(__file__).resolve().parent.parent
TRAIN = [sys.executable, str(ROOT / "train.py")]
ENV = os.environ | {"OMP_NUM_THREADS": "1"}
PATIENCE = 300  # seconds until a process counts as hanging: a busy machine is slow


def run(command: list, **settings) -> subprocess.CompletedProcess:
    """Carry a command through; what it prints is text."""
    words = [str(word) for word in command]
    settings = {"env": ENV, "capture_output": True, "text": True, "timeout": PATIENCE} | settings
    return subprocess.run(words, check=False, **settings)


def toy_run(base, out, *argv) -> list:
    """The command of a run without gradient steps, unless others are asked for."""
    return [*TRAIN, *toy.SIZES, "--base", base, "--out", out, "--steps", "0", *argv]


def interrupt(process: subprocess.Popen, ready) -> tuple[str, str]:
    """Press Ctrl-C as soon as `ready()` -> what the program printed."""
    end = time.monotonic() + PATIENCE
    while not ready():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    return process.communicate(timeout=PATIENCE)


# --- folders and links ---


def test_a_run_and_its_base_are_found_from_any_folder(tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    argv = [*TRAIN, *toy.SIZES, "--steps", "0", "--minutes", "0.01", "--out", "run"]
    first = run(argv, cwd=tmp_path)
    assert first.returncode == 0 and "training one" not in first.stdout, first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "run"]
    monkeypatch.chdir(tmp_path / "other")
    train.main(["--resume", "../run"])
    saved = json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))
    assert saved["out"] == str(tmp_path / "run") and os.path.isabs(saved["base"])


def test_what_a_link_points_to_is_replaced(start, tmp_path):
    out = start(steps=0)
    elsewhere = tmp_path / "elsewhere.pt"
    (out / "checkpoint.pt").rename(elsewhere)
    (out / "checkpoint.pt").symlink_to(elsewhere)
    before = elsewhere.read_bytes()
    train.main(["--resume", str(out), "--steps", "1"])
    assert (out / "checkpoint.pt").is_symlink() and elsewhere.read_bytes() != before
    assert [path for path in tmp_path.rglob("*.tmp")] == []


# --- streams, shells, encodings ---


@pytest.mark.parametrize("streams", [">&- 2>&-", "2>&1 | true"])
def test_a_run_goes_on_without_anybody_who_reads(tmp_path, base, streams):
    out = tmp_path / "run"
    run(["sh", "-c", f'"$@" {streams}', "sh", *toy_run(base, out, "--steps", "1")])
    assert (out / "result.json").exists()
    assert "Broken" not in (out / "samples.txt").read_text(encoding="utf-8")


def test_the_command_that_ctrl_c_prints_can_be_pasted(tmp_path, base, monkeypatch):
    # The first python on the path only tells its words, as the shell understood them.
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n", encoding="utf-8")
    python.chmod(0o755)
    out = tmp_path / "-a b; touch $HOME é"
    options = ["--steps", "999999", "--eval-every", "1", f"--out={out.name}"]
    command = toy_run(base, out, *options)
    command.remove("--out")
    command.remove(out)
    settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=tmp_path, env=ENV, **settings)
    log = out / "log.jsonl"
    printed, _ = interrupt(process, lambda: log.exists() and b'"slow"' in log.read_bytes())
    pasted = printed.strip().rpartition("with: ")[2] + " --steps 1"
    path = f"{tmp_path}:{os.environ['PATH']}"
    shell = run(["sh", "-c", pasted], cwd=tmp_path, env=ENV | {"PATH": path})
    program, *words = shell.stdout.splitlines()
    monkeypatch.chdir(tmp_path)
    assert shell.returncode == 0 and Path(program).samefile(ROOT / "train.py"), (pasted, shell)
    train.main(words)
    assert (out / "result.json").exists(), (pasted, words)


def test_text_is_utf_8_whatever_the_locale_is(tmp_path):
    experiments = tmp_path / "experiments"
    few = shutil.ignore_patterns("*-[1-9]", "*-10[01]")  # the runs of one seed
    shutil.copytree(ROOT / "experiments", experiments, ignore=few)
    (tmp_path / "docs").mkdir()
    ascii_only = ENV | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONPATH": str(ROOT)}
    ended = run([sys.executable, experiments / "report.py"], env=ascii_only)
    assert ended.returncode == 0, ended.stderr
    page = report.page(experiments / "results" / "runs").encode()
    assert (tmp_path / "docs" / "RESULTS.md").read_bytes() == page and not page.isascii()


def test_every_text_names_its_encoding():
    # The linter knows only some of these calls. (A virtual environment has files of others.)
    paths = list(ROOT.glob("*.py"))
    for folder in ("base", "experiments", "plumbing", "tasks", "tests", "words"):
        paths += (ROOT / folder).rglob("*.py")
    for path in paths:
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                names = [keyword.arg for keyword in node.keywords]
                if node.func.attr in ("read_text", "write_text"):
                    assert "encoding" in names, f"{path}:{node.lineno}"


# --- sizes ---


class PeakOfTensors(TorchDispatchMode):
    """The most bytes that all tensors had at a time, exactly; what else a process has differs."""

    def __init__(self):
        super().__init__()
        self.alive = weakref.WeakSet()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for part in tree_leaves(result):
            if isinstance(part, torch.Tensor):
                self.alive.add(part.untyped_storage())
        self.bytes = max(self.bytes, sum(storage.nbytes() for storage in self.alive))
        return result


def test_the_memory_of_an_evaluation_does_not_grow_with_its_questions(start, monkeypatch):
    # The smaller size fills one part of ROLLOUTS_AT_ONCE already.
    monkeypatch.setattr(processes, "ROLLOUTS_AT_ONCE", 32)
    monkeypatch.setattr(sampling, "TOKENS_AT_ONCE", 256)
    peaks = []
    for n in (32, 128):
        with PeakOfTensors() as peak:
            start(str(n), "--tasks", "facts", steps=0, eval_questions=n)
        peaks.append(peak.bytes)
    growth = peaks[1] / peaks[0]
    assert growth < 1.25, peaks


def test_only_the_questions_that_are_needed_are_drawn(start, monkeypatch):
    drawn = []
    questions = Task.questions

    def counted(task, rng, n, purpose="questions"):
        drawn.append(n)
        assert sum(drawn) < 1000
        return questions(task, rng, n, purpose)

    monkeypatch.setattr(Task, "questions", counted)
    start(steps=1, cycle=10**9)
    assert drawn


# --- variables, options, Ctrl-C ---


def test_variables_that_a_launcher_left_over_are_ignored(start, monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert (start(steps=0) / "result.json").exists()


def test_other_processes_that_are_not_there_are_told_in_one_line(monkeypatch, capfd):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(SystemExit) as ended:
        train.main([])
    [line] = capfd.readouterr().err.splitlines()
    assert ended.value.code == 2 and "start with torchrun" in line


def test_ctrl_c_during_the_imports_is_one_line():
    command = [sys.executable, "-X", "importtime", *TRAIN[1:]]
    settings = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=ENV, **settings)
    read = iter(process.stderr.readline, "")
    _, printed = interrupt(process, lambda: any(" torch." in line for line in read))
    # Of the list of imports the first line may be what is left of one that was read.
    *imports, said = printed.splitlines()
    assert said == "train.py: stopped while starting, before any step"
    assert all(line.startswith("import time:") for line in imports[1:])
    assert process.returncode == 2


def test_ctrl_c_while_a_run_starts_is_one_true_line(tmp_path, base):
    command = toy_run(base, tmp_path / "run", "--eval-questions", 10**6)
    settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([str(word) for word in command], env=ENV, **settings)
    printed = interrupt(process, (tmp_path / "run" / "lock").exists)
    assert printed == ("", "train.py: stopped while starting, before any step\n")


def test_what_was_meant_is_not_guessed(capsys):
    assert "unrecognized arguments: --step 5" in toy.refused(capsys, "--step", "5")


# --- evidence ---


def as_with_o(path: Path) -> types.ModuleType:
    """The module of a file as `python -O` has it: no assert is compiled."""
    module = types.ModuleType(path.stem)
    module.__file__ = str(path)
    exec(compile(path.read_bytes(), path, "exec", optimize=1), vars(module))
    return module


def test_checks_do_not_vanish_when_asserts_do(tmp_path, base, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])  # the script adds to it
    faults = as_with_o(ROOT / "tests" / "stress" / "faults.py")
    faults.toy = as_with_o(ROOT / "tests" / "toy.py")
    (tmp_path / "whole").mkdir()
    shutil.copy(base, tmp_path / "whole" / "checkpoint.pt")

    # A damaged checkpoint is taken for a good one.
    load = faults.load_checkpoint
    faults.load_checkpoint = lambda path: {} if path.name == "damaged.pt" else load(path)
    with pytest.raises(AssertionError, match="taken for another one"):
        faults.damages(1, random.Random(0), tmp_path)
