"""Where a run meets the machine: folders, streams, shells, encodings, sizes. By commands alone."""

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import toy

ROOT = Path(__file__).resolve().parent.parent
TRAIN = [sys.executable, str(ROOT / "train.py")]
ENV = os.environ | {"OMP_NUM_THREADS": "1"}


def run(command: list, **settings) -> subprocess.CompletedProcess:
    """Carry a command through; what it prints is text."""
    words = [str(word) for word in command]
    settings = {"env": ENV, "capture_output": True, "text": True, "timeout": 60} | settings
    return subprocess.run(words, check=False, **settings)


def toy_run(base, out, *argv) -> list:
    """The command of a run without gradient steps, unless others are asked for."""
    return [*TRAIN, *toy.SIZES, "--base", base, "--out", out, "--steps", "0", *argv]


def interrupt(process: subprocess.Popen, ready) -> tuple[str, str]:
    """Press Ctrl-C as soon as `ready()` -> what the program printed."""
    end = time.monotonic() + 60
    while not ready():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    return process.communicate(timeout=60)


# --- folders and links ---


def test_a_run_and_its_base_are_found_from_any_folder(tmp_path):
    (tmp_path / "other").mkdir()
    argv = [*TRAIN, *toy.SIZES, "--steps", "0", "--minutes", "0.01", "--out", "run"]
    first = run(argv, cwd=tmp_path)
    assert first.returncode == 0 and "training one" not in first.stdout, first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "run"]
    again = run([*TRAIN, "--resume", "../run"], cwd=tmp_path / "other")
    assert again.returncode == 0, again
    saved = json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))
    assert saved["out"] == str(tmp_path / "run") and os.path.isabs(saved["base"])


def test_what_a_link_points_to_is_replaced(tmp_path, base):
    out = tmp_path / "run"
    run(toy_run(base, out))
    elsewhere = tmp_path / "elsewhere.pt"
    (out / "checkpoint.pt").rename(elsewhere)
    (out / "checkpoint.pt").symlink_to(elsewhere)
    before = elsewhere.read_bytes()
    assert run([*TRAIN, "--resume", out, "--steps", "1"]).returncode == 0
    assert (out / "checkpoint.pt").is_symlink() and elsewhere.read_bytes() != before
    assert [path for path in tmp_path.rglob("*.tmp")] == []


# --- streams, shells, encodings ---


@pytest.mark.parametrize("streams", [">&- 2>&-", "2>&1 | true"])
def test_a_run_goes_on_without_anybody_who_reads(tmp_path, base, streams):
    out = tmp_path / "run"
    run(["sh", "-c", f'"$@" {streams}', "sh", *toy_run(base, out, "--steps", "1")])
    assert (out / "result.json").exists()
    assert "Broken" not in (out / "samples.txt").read_text(encoding="utf-8")


def test_the_command_that_ctrl_c_prints_can_be_pasted(tmp_path, base):
    python = tmp_path / "python"  # the program's own one, first on the path
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n', encoding="utf-8")
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
    again = run(["sh", "-c", pasted], cwd=tmp_path, env=ENV | {"PATH": path})
    assert again.returncode == 0 and (out / "result.json").exists(), (pasted, again)


def test_text_is_utf_8_whatever_the_locale_is(tmp_path):
    experiments = tmp_path / "experiments"
    shutil.copytree(ROOT / "experiments", experiments)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    (tmp_path / "docs" / "RESULTS.md").unlink()
    ascii_only = ENV | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONPATH": str(ROOT)}
    ended = run([sys.executable, experiments / "report.py"], env=ascii_only)
    assert ended.returncode == 0, ended.stderr
    page = (ROOT / "docs" / "RESULTS.md").read_bytes()
    assert (tmp_path / "docs" / "RESULTS.md").read_bytes() == page


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


def test_the_memory_of_an_evaluation_does_not_grow_with_its_questions(tmp_path, base):
    # The smaller size fills one part of ROLLOUTS_AT_ONCE already.
    peaks = []
    for n in (1024, 4096):
        command = toy_run(base, tmp_path / str(n), "--tasks", "facts", "--eval-questions", n)
        command = [str(word) for word in command]
        process = subprocess.Popen(command, env=ENV, stdout=subprocess.DEVNULL)
        peaks.append(os.wait4(process.pid, 0)[2].ru_maxrss)
        process.returncode = 0
    growth = peaks[1] / peaks[0]
    assert growth < 1.25, peaks


def test_only_the_questions_that_are_needed_are_drawn(tmp_path, base):
    command = toy_run(base, tmp_path / "run", "--steps", "1", "--cycle", 10**9)
    assert run(command, timeout=30).returncode == 0


# --- variables, options, Ctrl-C ---


def test_variables_that_a_launcher_left_over_are_ignored(tmp_path, base):
    left_over = ENV | {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "", "LOCAL_RANK": "1"}
    ended = run(toy_run(base, tmp_path / "run"), env=left_over)
    assert ended.returncode == 0, ended.stderr


def test_other_processes_that_are_not_there_are_told_in_one_line():
    ended = run(TRAIN, env=ENV | {"WORLD_SIZE": "2", "RANK": "0"})
    [line] = ended.stderr.splitlines()
    assert ended.returncode == 2 and "start with torchrun" in line


def test_ctrl_c_during_the_imports_is_one_line():
    command = [sys.executable, "-X", "importtime", *TRAIN[1:]]
    settings = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=ENV, **settings)
    _, printed = interrupt(process, lambda: " torch." in process.stderr.readline())
    # Of the list of imports the first line may be what is left of one that was read.
    _, *lines = printed.splitlines()
    said = [line for line in lines if not line.startswith("import time:")]
    assert said == ["train.py: stopped while starting, before any step"]
    assert process.returncode == 2


def test_ctrl_c_while_a_run_starts_is_one_true_line(tmp_path, base):
    command = toy_run(base, tmp_path / "run", "--eval-questions", 10**6)
    settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([str(word) for word in command], env=ENV, **settings)
    printed = interrupt(process, (tmp_path / "run" / "lock").exists)
    assert printed == ("", "train.py: stopped while starting, before any step\n")


def test_what_was_meant_is_not_guessed():
    ended = run([*TRAIN, "--step", "5"])
    assert ended.returncode == 2 and "unrecognized arguments: --step 5" in ended.stderr


# --- evidence ---

# Runs a script where a damaged checkpoint is taken for a good one.
SABOTAGE = """
import runpy, sys
from plumbing import files

load = files.load_checkpoint
files.load_checkpoint = lambda path: {} if path.name == "damaged.pt" else load(path)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_checks_do_not_vanish_when_asserts_do():
    script = ROOT / "tests" / "stress" / "faults.py"
    counts = ["--disks", "0", "--damages", "1", "--steps", "0"]
    ended = run([sys.executable, "-O", "-c", SABOTAGE, script, *counts], cwd=ROOT)
    assert ended.returncode != 0 and "taken for another one" in ended.stderr, ended
