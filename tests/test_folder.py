"""plumbing/folder.py: resuming bit by bit, and a folder for each run."""

import dataclasses
import errno
import json
import os
from pathlib import Path

import pytest
import torch

import train
from plumbing import files, folder
from plumbing.files import FORMAT, load_checkpoint, save_checkpoint
from plumbing.folder import RunFolder
from tasks import formats
from tests import toy
from train import METHODS

pytestmark = pytest.mark.usefixtures("toy_world")


# --- resuming ---


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("first", [5, 8])  # in the middle of a cycle and at no evaluation; at both
def test_a_resumed_run_equals_one_that_never_stopped(start, method, first):
    whole = start("whole", method=method, steps=10)
    parts = start("parts", method=method, steps=first)
    before = load_checkpoint(parts / "checkpoint.pt")
    train.main(["--resume", str(parts), "--steps", "10"])
    a, b = toy.outcome(whole), toy.outcome(parts)
    assert a[0] == b[0] and toy.equal(a, b)
    moved = [not torch.equal(w, before["model"][name]) for name, w in a[3]["model"].items()]
    assert any(moved) == (method != "gepa")  # or the weights would prove nothing
    assert (a[3]["population"]["next_id"] > 1) == (method != "rl")


def test_a_stream_goes_on_in_its_second_stage_with_the_prompt_of_the_first(start):
    argv = ["--tasks", "strings", "numbers"]
    sizes = {"stage": 4, "passes": 24}
    whole = start("whole", *argv, steps=8, **sizes)
    parts = start("parts", *argv, steps=5, **sizes)
    train.main(["--resume", str(parts), "--steps", "8"])
    result = json.loads((whole / "result.json").read_text(encoding="utf-8"))
    assert result["tasks"][0]["evolved"]
    assert toy.equal(toy.outcome(whole), toy.outcome(parts))


def test_resuming_a_finished_run_changes_nothing_and_may_go_on(start):
    out = start(steps=0)
    assert [line["kind"] for line in toy.log_of(out)] == ["eval"]
    before = toy.outcome(out)
    train.main(["--resume", str(out)])
    assert toy.equal(before, toy.outcome(out))
    train.main(["--resume", str(out), "--steps", "4"])
    assert toy.equal(toy.outcome(out), toy.outcome(start("whole", steps=4)))


def test_half_written_files_are_undone(start):
    out = start(steps=5)
    with open(out / "log.jsonl", "a", encoding="utf-8") as file:
        # A step past the checkpoint, then a torn line.
        file.write('{"kind": "slow", "step": 6, "task": 0}\n{"kind": "sl')
    with open(out / "samples.txt", "a", encoding="utf-8") as file:
        file.write("[step 6] half")
    (out / "checkpoint.pt.tmp").write_bytes((out / "checkpoint.pt").read_bytes()[:999])
    (out / "config.json.tmp").write_text('{"steps"', encoding="utf-8")
    train.main(["--resume", str(out), "--steps", "9"])
    assert toy.equal(toy.outcome(out), toy.outcome(start("whole", steps=9)))


def test_a_run_without_its_first_checkpoint_starts_from_scratch(start):
    out = start(steps=0)
    (out / "checkpoint.pt").unlink()
    train.main(["--resume", str(out), "--steps", "5"])
    assert toy.equal(toy.outcome(out), toy.outcome(start("whole", steps=5)))


# --- folders ---


def test_a_folder_with_another_run_is_refused(start, capsys, base):
    out = start(steps=1)
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    said = toy.refused(capsys, "--base", base, "--out", out)
    assert "holds another run: choose another, or go on: python" in said
    assert f"--resume={out}" in said
    (out / "config.json").unlink()  # its settings are lost, the run is not
    assert "holds another run" in toy.refused(capsys, "--base", base, "--out", out)
    del before["config.json"]
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before


@pytest.mark.parametrize("name", ["weights.pt", "result.json"])
def test_what_a_run_ended_with_is_not_replaced(start, capsys, base, tmp_path, name):
    out = start(steps=1)
    (tmp_path / "kept").mkdir()
    (out / name).rename(tmp_path / "kept" / name)
    said = toy.refused(capsys, "--base", base, "--out", tmp_path / "kept")
    assert "holds another run" in said


@pytest.mark.parametrize("method", METHODS)
def test_a_log_without_its_checkpoint_is_not_overwritten(start, capsys, tmp_path, base, method):
    out = start(method=method, steps=5)
    log = (out / "log.jsonl").read_bytes()
    (out / "checkpoint.pt").rename(out / "elsewhere.pt")
    assert "does not fit the last checkpoint" in toy.refused(capsys, "--resume", out)
    assert (out / "log.jsonl").read_bytes() == log
    (out / "elsewhere.pt").rename(out / "checkpoint.pt")
    (out / "log.jsonl").write_bytes(log[:-9])
    assert "does not fit the last checkpoint" in toy.refused(capsys, "--resume", out)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "samples.txt").write_text("poems", encoding="utf-8")
    said = toy.refused(capsys, "--base", base, "--out", tmp_path / "mine")
    assert "samples.txt does not fit" in said
    assert (tmp_path / "mine" / "samples.txt").read_text(encoding="utf-8") == "poems"


def test_words_of_a_prompt_do_not_count_as_training(start, tmp_path):
    (tmp_path / "prompt.txt").write_text("red: slow\nblue: fast\n", encoding="utf-8")
    out = start(steps=0, prompt=tmp_path / "prompt.txt")
    log = (out / "log.jsonl").read_bytes()
    assert b'"slow"' in log and b'"fast"' in log
    (out / "checkpoint.pt").unlink()  # as if it had been killed before its first checkpoint
    train.main(["--resume", str(out)])
    assert len((out / "log.jsonl").read_bytes().splitlines()) == len(log.splitlines())


def test_of_two_runs_in_a_folder_the_second_is_refused(start, capsys, base):
    out = start(steps=1)
    first = RunFolder(str(out), "", str(out))
    assert f"another process is at work in {out}" in toy.refused(capsys, "--resume", out)
    first.close()  # as the system does for a process that was killed
    train.main(["--resume", str(out)])


def test_without_locks_all_else_works(start, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", flock)
    train.main(["--resume", str(start(steps=1)), "--steps", "2"])


def test_new_runs_get_new_folders(monkeypatch, tmp_path, base):
    monkeypatch.chdir(tmp_path)
    os.makedirs("out/fst-strings-seed0-2")  # of a run that is just beginning
    for _ in range(2):
        train.main([*toy.SIZES, "--seed", "0", "--base", str(base), "--steps", "0"])
    names = {path.parent.name for path in Path("out").glob("*/config.json")}
    assert names == {"fst-strings-seed0-1", "fst-strings-seed0-3"}


def test_the_name_of_a_new_folder_has_an_end(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    path = folder.new_folder("out/fst-" + "strings-" * 99)
    assert path.is_dir() and path.is_absolute() and len(path.name) < 210


def test_a_folder_that_cannot_be_written(capsys, tmp_path, base, monkeypatch):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    said = toy.refused(capsys, "--base", base, "--out", tmp_path / "file" / "run")
    assert "Not a directory" in said
    assert "File exists" in toy.refused(capsys, "--base", base, "--out", tmp_path / "file")
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"

    def forbidden(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", forbidden)
    said = toy.refused(capsys, "--base", base, "--out", tmp_path / "new")
    assert f"Permission denied: '{tmp_path / 'new'}'" in said


def test_a_full_disk_keeps_the_last_checkpoint(start, capsys):
    resource = pytest.importorskip("resource")
    out = start(steps=2)
    path = out / "checkpoint.pt"
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    # Logs fit, checkpoints do not.
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        said = toy.refused(capsys, "--resume", out, "--steps", "6")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "File too large" in said and f"{path}" in said and f"--resume={out}" in said
    assert path.read_bytes() == before and not (out / "checkpoint.pt.tmp").exists()
    train.main(["--resume", str(out), "--steps", "6"])
    assert toy.equal(toy.outcome(out), toy.outcome(start("whole", steps=6)))


def test_a_damaged_or_foreign_checkpoint_is_not_gone_on_with(start, capsys, base):
    out = start(steps=2)
    path = out / "checkpoint.pt"
    whole, log = path.read_bytes(), (out / "log.jsonl").read_bytes()
    for damaged in (whole[:-1], whole[: len(whole) // 2], b""):
        path.write_bytes(damaged)
        assert "damaged" in toy.refused(capsys, "--resume", out)
    path.write_bytes(base.read_bytes())
    assert "of no run" in toy.refused(capsys, "--resume", out)
    path.write_bytes(whole)
    assert (out / "log.jsonl").read_bytes() == log
    train.main(["--resume", str(out), "--steps", "3"])


def test_a_folder_that_may_not_be_written_to(capsys, tmp_path, base, monkeypatch):
    mine = tmp_path / "mine"
    mine.mkdir(mode=0o555)

    def refusing(call):
        def refuse(path, *args, **more):
            if mine in Path(path).parents:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return call(path, *args, **more)

        return refuse

    if os.access(mine, os.W_OK):  # root may write everywhere: refuse in place of the system
        monkeypatch.setattr(os, "mkdir", refusing(os.mkdir))
        monkeypatch.setattr("builtins.open", refusing(open))
    for out in (mine, mine / "run"):
        assert "Permission denied" in toy.refused(capsys, *toy.SIZES, "--base", base, "--out", out)
    assert not list(mine.iterdir())


def test_a_checkpoint_of_another_shape_is_not_gone_on_with(start, capsys):
    out = start(steps=1)
    path = out / "checkpoint.pt"
    whole = load_checkpoint(path)
    for changed in (
        {"population": 3},
        {"model": {name: weight[:1] for name, weight in whole["model"].items()}},
        {"optimizer": {}},
        {"sizes": {"../elsewhere": 0}},  # nothing but the two logs may be cut
    ):
        save_checkpoint(path, whole | changed)
        assert "does not hold the state of the run" in toy.refused(capsys, "--resume", out)
    nobody = whole["population"] | {"candidates": []}
    save_checkpoint(path, whole | {"population": nobody})
    assert f"{path} holds no prompt" in toy.refused(capsys, "--resume", out)
    save_checkpoint(path, {name: part for name, part in whole.items() if name != "shown"})
    assert "does not hold the state of the run" in toy.refused(capsys, "--resume", out)
    # Another version of the format; more than tensors and plain data.
    for contents in ({"format": FORMAT - 1}, {"format": FORMAT, "model": Path("/")}):
        torch.save(contents, path)
        assert "or no checkpoint of this program" in toy.refused(capsys, "--resume", out)


def test_a_run_does_not_go_on_with_another_base(start, capsys, tmp_path):
    toy.make_base(tmp_path / "b.pt")
    out = start(steps=2, base=tmp_path / "b.pt")
    toy.make_base(tmp_path / "b.pt", n_hidden=12)
    assert "began with another base" in toy.refused(capsys, "--resume", out)
    toy.make_base(tmp_path / "moved.pt")
    train.main(["--resume", str(out), "--base", str(tmp_path / "moved.pt"), "--steps", "3"])


# --- prompts that people write ---


@pytest.fixture
def prompt(tmp_path):
    path = tmp_path / "prompt.txt"
    path.write_text("red: sort\nblue: reverse raise\n", encoding="utf-8")
    return path


RULES = {"red": "sort", "blue": "reverse raise"}


@pytest.mark.parametrize("method", ["fst", "rl", "gepa"])
def test_a_run_begins_with_a_prompt_and_resumes_without_its_file(start, prompt, method):
    whole = start("whole", method=method, steps=6, prompt=prompt)
    first = toy.kinds(whole, "eval")[0]
    assert (first["step"], first["prompt"]) == (0, RULES)
    if method == "rl":
        assert all(line["prompt"] == RULES for line in toy.kinds(whole, "eval"))
    parts = start("parts", method=method, steps=0, prompt=prompt)
    prompt.unlink()
    train.main(["--resume", str(parts), "--steps", "3"])
    train.main(["--resume", str(parts), "--steps", "6"])
    assert toy.equal(toy.outcome(whole), toy.outcome(parts))

    # Back to the beginning, where only config.json knows the prompt.
    for name in ("checkpoint.pt", "result.json"):
        (parts / name).unlink()
    for name in ("log.jsonl", "samples.txt"):
        (parts / name).write_bytes(b"")
    train.main(["--resume", str(parts), "--steps", "6"])
    assert toy.equal(toy.outcome(whole), toy.outcome(parts))


def test_a_prompt_in_a_damaged_config_is_refused(start, capsys):
    out = start(steps=1)
    settings = json.loads((out / "config.json").read_text(encoding="utf-8"))
    (out / "config.json").write_text(
        json.dumps(settings | {"prompt": "red: sort\nask red: a"}), encoding="utf-8"
    )
    assert "line 2 of the prompt" in toy.refused(capsys, "--resume", out)


# --- the logs ---


def test_what_a_model_wrote_cannot_steer_the_terminal(tmp_path, capsys):
    with RunFolder(str(tmp_path / "run"), "", "") as opened:
        opened.say(3, "a\x1b[2J\r\x07é\nb")
        assert capsys.readouterr().out == "a?[2J???\nb\n"
        assert (opened.path / "samples.txt").read_text(encoding="utf-8") == "[step 3] a?[2J???\nb\n"
        opened.show("only shown")
        assert capsys.readouterr().out == "only shown\n"
        assert (opened.path / "samples.txt").read_text(encoding="utf-8") == "[step 3] a?[2J???\nb\n"


def test_numbers_of_the_log_are_rounded_and_finite(tmp_path):
    with RunFolder(str(tmp_path / "run"), "", "") as opened:
        opened.log({"step": 12345678, "a": 0.12345678, "b": float("nan"), "c": -float("inf")})
        opened.log({"kind": "eval", "prompt": {"red": "sort"}})
        lines = (opened.path / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 12345678, "a": 0.123457, "b": None, "c": None},
        {"kind": "eval", "prompt": {"red": "sort"}},
    ]


def test_no_file_of_a_run_has_numbers_that_json_does_not_know(start, monkeypatch):
    evaluate = train.evaluate

    def diverged(*arguments):
        return dataclasses.replace(evaluate(*arguments), kl=float("nan"))

    def refuse(constant):
        pytest.fail(f"{constant} is no JSON")

    monkeypatch.setattr(train, "evaluate", diverged)
    monkeypatch.setattr(formats, "verify", lambda question, words: float("inf"))
    out = start(steps=4)
    for name in ("config.json", "result.json"):
        json.loads((out / name).read_text(encoding="utf-8"), parse_constant=refuse)
    for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines():
        json.loads(line, parse_constant=refuse)


def test_only_the_first_process_writes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(folder.processes, "rank", lambda: 1)
    monkeypatch.setattr(folder.processes, "tell", lambda value: tmp_path)
    with RunFolder("", "out/run", "") as opened:
        opened.say(1, "words")
        opened.show("words")
        opened.log({"step": 1})
        opened.write("file", "data")
        opened.save({"step": 1})
        opened.save_weights({"step": 1})
        assert not opened.restore(None)
    assert opened.path == tmp_path and not [*tmp_path.iterdir()]
    assert capsys.readouterr() == ("", "")
