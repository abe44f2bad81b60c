"""experiments/run.py: which runs there are, and that finished ones are not repeated."""

import json
import sys
from dataclasses import asdict
from itertools import chain
from pathlib import Path

import pytest

from plumbing.command_line import check
from tasks import formats, make_task
from tests import toy
from train import Config, check_settings

sys.path.insert(0, str(Path(__file__).parent.parent / "experiments"))

import run as runs

LR = {"fst": "0.001", "rl": "0.003", "distill": "0.001", "gepa": ""}


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "RESULTS", tmp_path / "runs")
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs"


def note(tried: dict, scores: dict) -> None:
    """Results for the runs of a sweep: one seed above the score, one below, 0.3 where there is
    none.
    """
    for setting, jobs in tried.items():
        for j, off in zip(jobs, (0.1, 0.0, -0.1), strict=True):
            end = {"val_acc": scores.get(setting, 0.3) + off}
            evals = [{"val_acc": 0.9}, *3 * [end]]  # the last three count
            (runs.RESULTS / f"{j.name}.json").write_text(
                json.dumps({"evals": evals}), encoding="utf-8"
            )


def test_every_job_is_a_run_that_train_py_accepts(results):
    jobs = [*chain(*runs.sweep_jobs().values())]
    for method in ("rl", "fst"):
        note(runs.kl_jobs(method, LR), {"0": 0.4})
        assert runs.best(runs.kl_jobs(method, LR)) == "0"
        jobs += chain(*runs.kl_jobs(method, LR).values())
    for experiment in runs.EXPERIMENTS[1:]:
        found = runs.jobs_of(experiment, LR, [0, 1], runs.DOMAINS)
        assert found and len({job.name for job in found}) == len(set(found))
        jobs += found
    for job in dict.fromkeys(jobs):
        cfg = runs.settings_of(job.options)
        check(cfg)
        check_settings(cfg)


def test_rl_is_not_run_twice_where_its_own_coefficient_is_that_of_all(results):
    note(runs.kl_jobs("rl", LR), {"0.001": 0.4, "0": 0.41})
    assert {*runs.jobs_of("kl", LR, [0], runs.DOMAINS)} < {
        *runs.jobs_of("domains", LR, [0], runs.DOMAINS)
    }


def test_plasticity_is_also_measured_after_runs_with_their_own_coefficients(results):
    for method in ("rl", "fst"):
        note(runs.kl_jobs(method, LR), {"0.1": 0.4})
    usual, own = (runs.jobs_of(kind, LR, [0], runs.DOMAINS) for kind in ("plasticity", "own-kl"))
    after = [
        {job.base: job for job in jobs if job.base and "numbers-after" in job.name}
        for jobs in (usual, own)
    ]
    assert [*after[0]] == ["rl-strings-0", "fst-strings-0"] and [*after[1]] == [
        "rlkl-strings-0",
        "fstkl-strings-0",
    ]
    # they differ in where they begin only
    assert len({job.options for jobs in after for job in jobs.values()}) == 1
    first = {job.name: runs.settings_of(job.options) for job in own}
    assert first["fstkl-strings-0"].kl_coef == first["rlkl-facts-0"].kl_coef == 0.1


def test_prompts_first_goes_on_from_the_prompt_that_gepa_ended_with():
    gepa, rl = runs.jobs_of("prompt-first", LR, [3], ["numbers", "facts"])
    assert (gepa, rl.prompt) == (runs.domain_job("gepa", "numbers", 3, LR), "gepa-numbers-3")
    fst, after = (
        runs.settings_of(j.options) for j in (runs.domain_job("fst", "numbers", 3, LR), rl)
    )
    assert (after.method, after.steps, after.seed, after.kl_coef) == (
        "rl",
        fst.steps,
        fst.seed,
        fst.kl_coef,
    )


def test_methods_are_compared_on_the_same_tasks_and_rl_has_its_own_rate():
    jobs = runs.jobs_of("domains", LR, [3], ["facts"])
    assert [job.name for job in jobs] == ["fst-facts-3", "rl-facts-3", "gepa-facts-3"]
    for job, lr in zip(jobs, (0.001, 0.003, Config.lr), strict=True):
        cfg = runs.settings_of(job.options)
        assert (cfg.seed, cfg.tasks, cfg.lr) == (3, ["facts"], lr)


def test_the_sweep_gives_every_method_its_best_rate(results):
    note(runs.sweep_jobs(), {("fst", "0.001"): 0.41, ("fst", "0.0003"): 0.4, ("rl", "0.003"): 0.4})
    assert runs.best_rates() == {"fst": "0.001", "rl": "0.003", "distill": "0.001", "gepa": ""}


def test_reported_seeds_are_none_that_the_sweep_used():
    jobs = chain(*runs.sweep_jobs().values(), *runs.kl_jobs("rl", LR).values())
    assert {runs.settings_of(job.options).seed for job in jobs} == {100, 101, 102}


def test_in_the_stream_both_methods_spend_about_as_many_rollouts():
    cost = {}
    for job in runs.jobs_of("stream", LR, [0], runs.DOMAINS):
        cfg = runs.settings_of(job.options)
        phases = cfg.steps // cfg.cycle if cfg.method == "fst" else 0
        cost[cfg.method] = cfg.steps * cfg.batch * cfg.group + phases * cfg.passes * cfg.anchor
        assert cfg.steps == cfg.stage * len(cfg.tasks)
    assert cost["fst"] == pytest.approx(cost["rl"], rel=0.1)


def test_a_second_task_of_the_same_domain_hides_other_rules():
    jobs = {
        job.name: runs.settings_of(job.options)
        for job in runs.jobs_of("plasticity", LR, [1], runs.DOMAINS)
    }
    names = [f"plasticity-strings-after-{m}-strings-1" for m in ("base", "rl", "fst")]
    assert [jobs[name].seed for name in names] == 3 * [1 + runs.LATER]
    assert jobs["fst-strings-1"].seed == jobs["plasticity-numbers-after-rl-strings-1"].seed == 1
    assert "--lr" not in runs.domain_job("gepa", "facts", 0, LR).options
    for domain in (first for first, second in runs.PAIRS if first == second):
        for seed in (0, 1, 2, 3, 4, 6, 7, 8, 9, 10):
            one, other = make_task(domain, seed), make_task(domain, seed + runs.LATER)
            assert not any(
                one.domain.same(rule, other.rules[topic]) for topic, rule in one.rules.items()
            )


def test_finished_runs_are_not_repeated_unless_their_weights_are_needed_and_gone(results, tmp_path):
    jobs = [
        *runs.jobs_of("plasticity", LR, [0], runs.DOMAINS),
        *runs.jobs_of("domains", LR, [0], ["strings"]),
    ]
    after = [job for job in jobs if job.base]
    assert {job.base for job in after} < {job.name for job in jobs} and len(after) == 6
    for job in jobs:
        if job not in after[:1]:
            (results / f"{job.name}.json").write_text(
                json.dumps({"command": runs.command_of(job)}), encoding="utf-8"
            )
    again = runs.still_to_run(jobs, tmp_path / "out")
    assert [job.name for job in again] == [after[0].base, after[0].name]
    weights = tmp_path / "out" / after[0].base / "weights.pt"
    weights.parent.mkdir(parents=True)
    weights.touch()
    assert runs.still_to_run(jobs, tmp_path / "out") == after[:1]


def test_a_result_or_a_folder_of_other_settings_is_not_taken_for_this_one(results, tmp_path):
    first = runs.Job("first", ("--method", "rl", "--steps", "4"))
    (results / "first.json").write_text(
        json.dumps({"command": "python train.py --method rl --steps 5"}),
        encoding="utf-8",
    )
    with pytest.raises(ValueError, match="is not of python train"):
        runs.still_to_run([first], tmp_path)
    (tmp_path / "first").mkdir()
    saved = asdict(
        runs.settings_of(["--method", "rl", "--steps", "5", "--out", str(tmp_path / "first")])
    )
    (tmp_path / "first" / "config.json").write_text(json.dumps(saved), encoding="utf-8")
    with pytest.raises(ValueError, match="holds a run with other settings"):
        runs.execute(first, tmp_path)


def test_a_run_is_made_in_a_process_of_its_own_measured_and_noted(results, tmp_path, base):
    toy.make_base(tmp_path / "base.pt", known=["strings"])
    options = [*toy.SIZES, "--method", "rl", "--steps", "4", "--base", str(tmp_path / "base.pt")]
    first = runs.Job("first", tuple(options), skills=True)
    second = runs.Job("second", (*options[:-2],), base="first", prompt="evolution")
    evolution = {"result": {"tasks": [{"evolved": {"red": "reverse"}}]}}
    (results / "evolution.json").write_text(json.dumps(evolution), encoding="utf-8")
    runs.run_all([first, second], tmp_path / "out", "test")
    made = {
        name: json.loads((results / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("first", "second")
    }
    assert [e["step"] for e in made["first"]["evals"]] == [0, 4] and len(
        made["first"]["reward"]
    ) == 4
    assert set(made["first"]["skills"]) == {"strings"} and made["first"]["corpus_loss"] > 4
    assert (
        made["first"]["command"].startswith("python train.py --tasks strings")
        and "skills" not in made["second"]
    )
    settings = json.loads((tmp_path / "out/second/config.json").read_text(encoding="utf-8"))
    assert settings["base"].endswith("first/weights.pt") and settings[
        "prompt"
    ] == formats.prompt_text({"red": "reverse"})
    times = {name: (results / f"{name}.json").stat().st_mtime_ns for name in made}
    runs.run_all([first, second], tmp_path / "out", "test")
    assert times == {name: (results / f"{name}.json").stat().st_mtime_ns for name in made}


def test_a_run_that_fails_says_why(results, tmp_path):
    with pytest.raises(RuntimeError, match="unknown task 'sums'"):
        runs.run_all([runs.Job("bad", ("--tasks", "sums"))], tmp_path / "out", "test")


def test_results_of_another_base_are_not_mixed_in(results):
    (results / "base.json").write_text(json.dumps({"checksum": 1}), encoding="utf-8")
    with pytest.raises(ValueError, match="made with another base"):
        runs.check_base()
