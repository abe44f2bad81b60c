"""experiments/run.py: which runs there are, how they are made, and that none is made twice."""

import json
import shutil
import subprocess
from pathlib import Path

import plot
import pytest
import report
import run
from run import Place, Run

import train
from plumbing.command_line import check, parse
from tasks import formats, make_task
from tests import toy
from train import Config, check_settings

TINY = "--batch 2 --group 4 --population 2 --cycle 4 --anchor 4 --passes 8 --lr 0.01"
TINY += " --eval-every 4 --eval-questions 4"


def settings(one: Run, place=None) -> Config:
    return parse(Config, run.command(one, place or Place()))


@pytest.fixture(scope="module")
def runs() -> dict[str, Run]:
    return {one.folder: one for one in run.all_runs()}


# --- which runs there are ---


def test_every_run_is_one_that_train_py_accepts(runs, tmp_path):
    assert len(runs) == len(run.all_runs())  # no two have the same folder
    for one in runs.values():
        cfg = settings(one, Place(work=tmp_path))
        check(cfg)
        check_settings(cfg)
        assert (cfg.device, cfg.seed, cfg.method) == ("cpu", one.seed, one.method)


def test_what_a_run_begins_with_comes_before_it(runs):
    before = [None]
    for one in runs.values():
        assert one.before in before and (one.before is None) == (
            one.begins in ("base", *run.PROMPTS)
        )
        before.append(one)
    after = settings(runs["numbers-after-fst-2"])
    assert after.base.endswith("fst-strings-2/weights.pt")
    assert (after.method, after.tasks, after.seed) == ("rl", ["numbers"], 2)


def test_the_sweeps_have_seeds_of_their_own(runs):
    of_sweep = {one.seed for one in runs.values() if "sweep" in one.experiment}
    others = {one.seed for one in runs.values() if "sweep" not in one.experiment}
    assert of_sweep == {100, 101} and others == set(range(10))


def test_rl_has_at_least_as_many_rollouts_as_fst(runs):
    for ours, theirs in [("fst-facts-0", "rl-facts-0"), ("stream-fst-0", "stream-rl-0")]:
        fst, rl = settings(runs[ours]), settings(runs[theirs])
        phases = fst.steps // fst.cycle * fst.passes * fst.anchor
        # At each switch a fast phase may cost three times as much.
        phases += 2 * (len(fst.tasks) - 1) * fst.passes * fst.anchor
        cost = [cfg.steps * cfg.batch * cfg.group for cfg in (fst, rl)]
        assert cost[0] + phases <= cost[1] < 1.1 * (cost[0] + phases)


def test_all_methods_with_a_language_model_have_as_many_rollouts(runs, tmp_path):
    spent = {}
    for one in runs.values():
        if one.experiment in ("words", "word-sweep"):
            cfg = settings(one, Place(work=tmp_path))  # where their prompts are written
            phases = cfg.steps // cfg.cycle * cfg.passes * cfg.anchor
            steps = cfg.steps * cfg.batch * cfg.group
            used = {"rl": steps, "gepa": phases, "fst": steps + phases}[one.method]
            spent.setdefault(used, set()).add((one.method, cfg.llm, cfg.greedy))
    assert list(spent.values()) == [{(name, "smollm2", True) for name in ("fst", "gepa", "rl")}]


def test_other_strings_have_other_rules(runs):
    for seed in range(5):
        [name] = settings(runs[f"others-after-fst-{seed}"]).tasks
        other = make_task(name, seed)
        for rule in make_task("strings", seed).rules.values():
            assert not any(other.domain.same(rule, hidden) for hidden in other.rules.values())


def test_by_default_a_reader_gets_three_seeds_of_most_experiments():
    chosen = run.choose([], range(3))
    assert {one.seed for one in chosen} == {0, 1, 2}
    assert not {one.experiment for one in chosen} & set(run.ON_REQUEST)
    assert [one.folder for one in run.choose(["stream-fst"], range(8, 12))] == [
        "stream-fst-8",
        "stream-fst-9",
    ]
    assert {one.seed for one in run.choose(["sweep"], range(3))} == {100, 101}


# --- how they are made ---


@pytest.fixture
def place(tmp_path, base, toy_world, monkeypatch):
    """Runs are made in this process, with a toy base."""

    def in_this_process(program, **_):
        train.main(program[2:])
        return subprocess.CompletedProcess(program, 0)

    monkeypatch.setattr(run.subprocess, "run", in_this_process)
    options = (*TINY.split(), "--base", str(base))
    return Place(tmp_path / "work", tmp_path / "kept", options)


def one_run(name, method="fst", begins="base", before=None, options="strings") -> Run:
    return Run("test", name, 2, method, "9", begins, options, before)


def kept(place: Place, name: str) -> dict:
    folder = place.kept / f"{name}-2"
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "log.jsonl",
        "result.json",
    ]
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def test_what_a_finished_run_leaves_is_small_and_names_no_path(place, base):
    first = one_run("first")
    run.execute(first, place)
    config = kept(place, "first")
    assert config["base"].startswith("base ") and config["out"] == ""
    assert str(base.parent) not in json.dumps(config) and config["batch"] == 2
    log = toy.log_of(place.kept / "first-2")
    made = toy.log_of(place.work / "first-2")
    assert len(log) == len(made)
    accepted = [change for line in log for change in line.get("accepted", [])]
    assert accepted and {change["how"] for change in accepted} == {""}
    assert place.is_finished(first) and run.still_to_make([first], place) == []


def test_a_run_begins_with_what_another_one_ended_with_or_is_told_the_rules(place):
    first = one_run("first")
    run.execute(first, place)
    run.execute(one_run("second", "rl", before=first), place)
    assert kept(place, "second")["base"] == "weights of first-2"
    saved = json.loads((place.work / "second-2" / "config.json").read_text(encoding="utf-8"))
    assert saved["base"] == str(place.weights(first))
    run.execute(one_run("told", "rl", begins="right"), place)
    rules = make_task("strings", 2).instructions
    assert kept(place, "told")["prompt"] == formats.prompt_text(rules)


def test_an_interrupted_run_goes_on_and_is_not_begun_again(place, monkeypatch):
    first = one_run("first")
    run.execute(first, place)
    whole = toy.log_of(place.work / "first-2")
    (place.kept / "first-2" / "result.json").unlink()
    (place.work / "first-2" / "result.json").unlink()
    programs = []
    in_this_process = run.subprocess.run
    monkeypatch.setattr(
        run.subprocess, "run", lambda words, **_: programs.append(words) or in_this_process(words)
    )
    run.execute(first, place)
    assert programs[0][2:] == ["--resume", str(place.work / "first-2")]
    assert toy.log_of(place.work / "first-2") == whole and place.is_finished(first)


def test_a_run_with_other_settings_is_not_taken_for_this_one(place):
    first = one_run("first")
    run.execute(first, place)
    other = Place(place.work, place.kept, (*place.options, "--batch", "4"))
    with pytest.raises(ValueError, match="first-2 has a run with batch 2, asked for is 4"):
        run.still_to_make([first], other)
    (place.kept / "first-2" / "result.json").unlink()
    with pytest.raises(ValueError, match="move the folder away first"):
        run.execute(first, other)
    toy.make_base(place.work / "other.pt", n_embd=8)
    other = Place(place.work, place.kept, (*place.options, "--base", str(place.work / "other.pt")))
    (place.kept / "first-2" / "result.json").touch()
    with pytest.raises(ValueError, match="has a run with base base "):
        run.still_to_make([first], other)


def test_a_run_is_made_again_where_only_its_weights_are_gone(runs, tmp_path):
    place = Place(tmp_path / "work", tmp_path / "kept")
    before, after = runs["fst-strings-0"], runs["numbers-after-fst-0"]
    (place.kept / before.folder).mkdir(parents=True)
    for name in ("config.json", "result.json"):
        (place.kept / before.folder / name).write_text("{}", encoding="utf-8")
    assert run.still_to_make([before], place) == []
    assert run.still_to_make([before, after], place) == [before, after]
    place.weights(before).parent.mkdir(parents=True)
    place.weights(before).touch()
    settings = place.work / before.folder / "config.json"
    settings.write_text("{}", encoding="utf-8")
    assert run.still_to_make([after], place) == [before, after]
    # Weights that were made with other settings are not begun with.
    settings.write_text('{"lr": 0.5}', encoding="utf-8")
    with pytest.raises(ValueError, match="has a run with lr 0"):
        run.execute(before, place)
    # Nor is a finished run kept where the one before it had other settings.
    (place.kept / after.folder).mkdir()
    for name in ("config.json", "result.json"):
        (place.kept / after.folder / name).write_text("{}", encoding="utf-8")
    assert run.still_to_make([after], place) == []
    (place.kept / before.folder / "config.json").write_text('{"lr": 0.5}', encoding="utf-8")
    with pytest.raises(ValueError, match="has a run with lr 0"):
        run.still_to_make([after], place)
    # One whose folder was moved away is made again, alone.
    (place.kept / before.folder).rename(tmp_path / "away")
    assert run.still_to_make([before, after], place) == [before]


def test_one_that_fails_does_not_stop_the_others(place, monkeypatch):
    asked = []

    def fails_at_first(program, **_):
        asked.append(program)
        return subprocess.CompletedProcess(program, len(asked) == 1, "", "a\ntrain.py: no\n")

    monkeypatch.setattr(run.subprocess, "run", fails_at_first)
    first = one_run("first")
    wanted = [first, one_run("second"), one_run("third", before=first)]
    failures = run.make(wanted, place, jobs=1)
    assert sorted(failures) == [*2 * ["first-2: train.py: no"], "second-2 was stopped"]
    assert len(asked) == 2  # the third has nothing to begin with


def test_runs_in_processes_of_their_own_then_the_report_and_the_pictures(tmp_path, base):
    options = (*TINY.split(), "--base", str(base))
    place = Place(tmp_path / "work", tmp_path / "kept", options)
    wanted = [one_run("fst-strings"), one_run("gepa-strings", "gepa", "right")]
    assert run.make(wanted, place, jobs=2) == []
    assert "2 finished runs" in report.page(place.kept)
    plot.draw(place.kept, tmp_path)
    assert (tmp_path / "efficiency.png").stat().st_size > 10_000


def test_a_run_with_a_language_model_has_its_prompt_and_leaves_no_weights(tmp_path, monkeypatch):
    place = Place(tmp_path / "work", tmp_path / "kept")
    made = []

    def finished(program, **_):
        folder = Path(program[-1])
        folder.mkdir(parents=True)
        for name in ("log.jsonl", "result.json", "weights.pt", "checkpoint.pt"):
            (folder / name).touch()
        made.append(program)
        return subprocess.CompletedProcess(program, 0)

    monkeypatch.setattr(run.subprocess, "run", finished)
    for one in (one_run("toy"), one_run("large", options="sums --llm smollm2", begins="examples")):
        run.execute(one, place)
        assert place.is_finished(one)
        assert place.weights(one).exists() == (one.name == "toy")
    prompt = Path(made[1][made[1].index("--prompt") + 1]).read_text(encoding="utf-8")
    assert prompt == run.random_examples("sums", 2) and len(prompt.split("\n")) == 5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["streams"], "there is no streams: experiments are domains, rates, stream"),
        (["--seeds", "a"], "a is no range of seeds like 0-4"),
        (["gepa-facts", "--seeds", "7"], "no run has one of these seeds"),
        (["--domains", "facts"], "unrecognized arguments"),
        (["--jobs", "0"], "--jobs must be 1 at least"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(capsys, words, said):
    with pytest.raises(SystemExit) as ended:
        run.main(words)
    [line] = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and line.startswith("run.py: ") and said in line


def test_runs_that_failed_are_told_at_the_end(capsys, monkeypatch):
    monkeypatch.setattr(run, "make", lambda chosen, place, jobs: ["fst-facts-0: no", "b"])
    with pytest.raises(SystemExit):
        run.main(["fst-facts"])
    said = "2 runs failed, the others are kept; fst-facts-0: no"
    assert said in capsys.readouterr().err


def test_a_run_that_is_made_again_for_its_weights_stays_as_it_was_kept(place):
    first = one_run("first")
    run.execute(first, place)
    (place.kept / "first-2" / "log.jsonl").write_text("kept", encoding="utf-8")
    shutil.rmtree(place.work / "first-2")
    run.execute(first, place)
    assert place.weights(first).exists()
    assert (place.kept / "first-2" / "log.jsonl").read_text(encoding="utf-8") == "kept"


def test_a_run_of_which_only_a_part_is_kept_has_not_finished(place, monkeypatch):
    write_file = run.write_file

    def full(path, data):
        if path.name == "log.jsonl":
            raise OSError("disk full")
        write_file(path, data)

    monkeypatch.setattr(run, "write_file", full)
    with pytest.raises(OSError):
        run.execute(one_run("first"), place)
    assert not place.is_finished(one_run("first"))


def test_runs_side_by_side_have_prompts_of_their_own(runs, tmp_path):
    told = [runs[f"ceiling-strings-{seed}"] for seed in range(3)]
    commands = [run.command(one, Place(work=tmp_path)) for one in told]
    for one, words in zip(told, commands, strict=True):
        cfg = parse(Config, words)
        assert cfg.prompt == run.right_prompt("strings", one.seed)
