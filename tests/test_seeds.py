"""experiments/seeds.py: three runs, and a table of what their logs say."""

import json
import re

import pytest
import seeds

import train
from tasks import formats, make_task
from tests import toy


@pytest.fixture
def here(tmp_path, monkeypatch, toy_world):
    """A folder to run in; train.py runs in this process, with toy rewards."""
    monkeypatch.chdir(tmp_path)

    def run(command, **_):
        train.main(command[2:])
        return type("Ended", (), {"returncode": 0})

    monkeypatch.setattr(seeds.subprocess, "run", run)
    return tmp_path


def test_the_table_says_what_the_logs_say(here, base, capsys, monkeypatch):
    argv = ["a", *toy.SIZES, "--base", str(base), "--steps", "6", "--prompt", "right"]
    argv[argv.index("--seed") : argv.index("--seed") + 2] = []
    seeds.main(argv)
    said = capsys.readouterr().out
    table = said.split("seed 2")[1]
    rows = dict(re.findall(r"^([a-z].*?)  +(\S.*)$", table, re.M | re.I))
    rows = {name: [float(value) for value in row.split()] for name, row in rows.items()}

    # Every metric of every seed, from the log itself.
    for seed in range(3):
        lines = toy.log_of(here / "out" / f"a-{seed}")
        evals = [line for line in lines if line["kind"] == "eval"]
        slow = [line for line in lines if line["kind"] == "slow"]
        fast = [line for line in lines if line["kind"] == "fast"]
        entropy = sum(line["entropy"] for line in slow[-5:]) / 5
        tokens = slow[-1]["tokens"] - slow[-6]["tokens"]
        expected = {
            "validation accuracy": evals[-1]["val_acc"],
            "KL to the base": evals[-1]["kl_base"],
            "entropy per token": entropy,
            "tokens per rollout": tokens / (slow[-1]["rollouts"] - slow[-6]["rollouts"]),
            "largest gradient norm": max(line["grad_norm"] or 0 for line in slow),
            "prompts accepted": sum(len(line["accepted"]) for line in fast),
            "rollouts": lines[-1]["rollouts"],
        }
        for name, value in expected.items():
            assert rows[name][seed] == pytest.approx(value, abs=0.0006), name
    low, middle, high = sorted(rows["rollouts"][:3])
    assert rows["rollouts"][3] == pytest.approx((low + middle + high) / 3, abs=0.0006)

    # Each began with the rules of its own task, and finished runs are not repeated.
    for seed in range(3):
        config = json.loads(
            (here / "out" / f"a-{seed}" / "config.json").read_text(encoding="utf-8")
        )
        assert config["prompt"] == formats.prompt_text(make_task("strings", seed).instructions)
    monkeypatch.setattr(seeds.subprocess, "run", None)  # a run would fail
    seeds.main(argv)
    again = capsys.readouterr().out  # the table alone
    assert again.startswith("a ") and said.endswith(again)


def test_a_run_that_was_stopped_is_gone_on_with(here, base, capsys):
    argv = [*toy.SIZES, "--base", str(base), "--steps", "4"]
    train.main([*argv, "--seed", "1", "--out", "out/b-1"])
    (here / "out" / "b-1" / "result.json").unlink()
    argv[argv.index("--seed") : argv.index("--seed") + 2] = []
    seeds.main(["b", *argv])
    assert (here / "out" / "b-1" / "result.json").exists()

    # Other options would be another run.
    (here / "out" / "b-1" / "result.json").unlink()
    with pytest.raises(SystemExit) as ended:
        seeds.main(["b", *argv, "--kl-coef", "0.5"])
    assert ended.value.code == 2 and "kl_coef is " in capsys.readouterr().err


@pytest.mark.parametrize("argv", [[], ["--tasks"]])
def test_the_right_prompt_needs_a_task(here, capsys, argv):
    with pytest.raises(SystemExit) as ended:
        seeds.main(["c", "--prompt", "right", *argv])
    [line] = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and line.endswith("--prompt right needs --tasks with one task")


@pytest.mark.parametrize("argv", [[], ["--steps", "3"]])
def test_without_a_name_it_says_what_is_missing(argv, capsys):
    with pytest.raises(SystemExit) as ended:
        seeds.main(argv)
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line == "seeds.py: the following arguments are required: name"
