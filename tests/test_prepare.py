"""base/prepare.py: bases that are missing, old, damaged, or being trained by another process."""

from pathlib import Path

import pytest

import train
from base import prepare
from base.prepare import SHIPPED, corpus_domains, load_base
from plumbing.files import beside, load_checkpoint, lock, save_checkpoint
from tasks import domains, formats
from tests import toy

pytestmark = pytest.mark.usefixtures("toy_world")


@pytest.fixture
def default_base(monkeypatch, tmp_path):
    """The default base of a fresh clone (still missing), and what pretraining is asked for."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "base" / "base.pt"
    path.parent.mkdir()
    monkeypatch.setattr(prepare, "SHIPPED", str(path))
    asked = []

    def pretrain(path, device, names, minutes, batch, seed):
        asked.append({"minutes": minutes, "names": names, "batch": batch, "seed": seed})
        toy.make_base(path)

    monkeypatch.setattr(prepare, "pretrain", pretrain)
    return path, asked


def minutes_of(asked: list[dict]) -> list[float]:
    return [one["minutes"] for one in asked]


def test_of_two_trainings_of_a_base_the_second_is_refused(default_base, capsys):
    path, asked = default_base
    taken = f"another process is training {path}: wait"
    with lock(beside(path, ".lock"), "taken"):  # as another process does
        # A run without a base trains it first.
        assert taken in toy.refused(capsys, *toy.SIZES, "--base", path)
        toy.make_base(path)
        before = path.read_bytes()
        assert taken in toy.refused(capsys, "--pretrain", "--base", path)
    assert asked == [] and path.read_bytes() == before and [*path.parent.glob("*.pt")] == [path]
    train.main(["--pretrain", "--minutes", "3", "--base", str(path)])
    assert minutes_of(asked) == [3]


def test_a_base_that_was_asked_for_and_cannot_be_used_is_refused(capsys, tmp_path, base):
    whole, path, out = base.read_bytes(), tmp_path / "b.pt", tmp_path / "run"
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    assert "no checkpoint at" in toy.refused(capsys, "--base", path, "--out", out)
    for data, said in (
        (whole[: len(whole) // 2], "damaged"),
        (bytes(flipped), "damaged"),
        (b"hello", "damaged, or no checkpoint of this program"),
    ):
        path.write_bytes(data)
        assert said in toy.refused(capsys, "--base", path, "--out", out)
        assert path.read_bytes() == data
    toy.make_base(path, vocabulary="another")
    said = toy.refused(capsys, "--base", path, "--out", out)
    assert "knows another vocabulary" in said and "--pretrain --base OTHER" in said
    save_checkpoint(path, {"step": 3})
    assert "or is no base" in toy.refused(capsys, "--base", path, "--out", out)
    assert not (out / "config.json").exists()  # so that the same --out works with another base


def test_a_missing_default_base_is_trained(default_base, capsys):
    path, asked = default_base
    train.main([*toy.SIZES, "--base", str(path), "--steps", "0"])
    assert f"the base {path} is not there yet: training one, 12 minutes" in capsys.readouterr().out
    train.main([*toy.SIZES, "--base", str(path), "--steps", "0"])
    assert minutes_of(asked) == [12] and path.exists()


def test_pretraining_knows_the_domains_of_the_tasks_and_its_own_settings(default_base):
    path, asked = default_base
    words = "--pretrain --tasks strings numbers:3 strings --documents 7 --seed 5 --minutes 3 --base"
    train.main([*words.split(), str(path)])
    assert asked == [{"minutes": 3, "names": ["strings", "numbers"], "batch": 7, "seed": 5}]


def test_smoke_pretrains_a_base_of_its_own_in_seconds(default_base, tmp_path):
    path, asked = default_base
    train.main(["--smoke", "--out", str(tmp_path / "s"), "--steps", "0", "--device", "cpu"])
    assert minutes_of(asked) == [0.1]
    assert (tmp_path / "s" / "base.pt").exists() and not path.exists()


def test_a_default_base_that_cannot_be_used_is_left_alone(default_base, capsys):
    path, asked = default_base
    path.write_bytes(b"hello")
    assert "damaged" in toy.refused(capsys, *toy.SIZES, "--base", path)
    assert path.read_bytes() == b"hello"
    toy.make_base(path, vocabulary="another")
    assert "knows another vocabulary" in toy.refused(capsys, *toy.SIZES, "--base", path)
    assert asked == []


def test_a_default_base_behind_a_broken_link_is_not_trained_anew(default_base, capsys):
    path, asked = default_base
    path.symlink_to("on/a/disk/that/is/not/there")
    assert "no checkpoint at" in toy.refused(capsys, *toy.SIZES, "--base", path)
    assert asked == []


def test_pretraining_again_keeps_every_old_base(default_base):
    path, asked = default_base
    contents = set()
    for n in (8, 12, 12):
        toy.make_base(path, n_hidden=n)
        contents.add(path.read_bytes())
        train.main(["--pretrain", "--minutes", "3", "--base", str(path)])
    assert minutes_of(asked) == [3, 3, 3]
    assert {f.read_bytes() for f in path.parent.glob("base-*.pt")} == contents
    assert len(contents) == 2 and not Path("out").exists()


def test_a_begun_run_whose_base_is_gone_does_not_train_one(default_base, capsys):
    path, asked = default_base
    train.main([*toy.SIZES, "--base", str(path), "--steps", "1", "--out", "run"])
    path.unlink()
    assert "no checkpoint at" in toy.refused(capsys, "--resume", "run")
    assert minutes_of(asked) == [12]


def test_a_task_that_the_base_was_not_trained_on_is_refused(start, tmp_path, capsys):
    toy.make_base(tmp_path / "strings.pt", known=["strings"])
    argv = [*toy.SIZES, "--tasks", "facts", "--base", tmp_path / "strings.pt"]
    said = toy.refused(capsys, *argv, "--out", tmp_path / "run")
    assert "knows strings, not facts" in said


def test_the_shipped_base_comes_with_the_code_and_knows_its_words():
    assert train.Config.base == SHIPPED
    assert Path(SHIPPED) == Path(__file__).resolve().parent.parent / "base" / "base.pt"
    base = load_base(Path(SHIPPED))
    assert base.about["vocabulary"] == formats.fingerprint()
    assert base.model.cfg.vocab_size == formats.encoding().n_vocab


@pytest.mark.parametrize("broken", ["model", "model_config", "domains", "other sizes"])
def test_a_checkpoint_that_is_no_base_is_called_so(tmp_path, broken):
    toy.make_base(tmp_path / "base.pt")
    contents = load_checkpoint(tmp_path / "base.pt")
    if broken == "other sizes":
        contents["model_config"]["n_layer"] = 2
    else:
        del contents[broken]
    save_checkpoint(tmp_path / "base.pt", contents)
    with pytest.raises(ValueError, match="is no base of this version"):
        load_base(tmp_path / "base.pt")


def test_all_domains_join_pretraining_the_new_ones_last():
    names = corpus_domains()
    assert names[:4] == ("strings", "numbers", "star_graph", "facts")
    assert sorted(names) == sorted(domains())
