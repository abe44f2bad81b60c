"""Finished runs that nobody made: what the tests of measure.py, report.py and plot.py look at."""

import json
from pathlib import Path

from tasks import make_task
from view import Run, stages_of


def logged(kind: str, step: int, rollouts: int, task: int = 0, **metrics) -> dict:
    """A log line, with the counts that all of them have."""
    counts = {"step": step, "task": task, "rollouts": rollouts, "tokens": 10 * rollouts}
    return {"kind": kind} | counts | metrics


def evaluation(step: int, rollouts: int, accuracy: float, task: int = 0) -> dict:
    """A log line of an evaluation."""
    metrics = {"val_acc": accuracy, "greedy_acc": accuracy, "kl_base": accuracy / 2, "prompt": {}}
    return logged("eval", step, rollouts, task, **metrics)


def run_of(log: list[dict], *tasks: str) -> Run:
    """A run with a log."""
    config = {"tasks": tasks, "seed": 0, "stage": 20}
    return Run("a run", config, log, "", {}, stages_of(config, log, {}))


def curve(*accuracies: float, cost: int = 100) -> Run:
    """A run on one task: an evaluation every 5 steps, the first one before training."""
    log = []
    for i, accuracy in enumerate(accuracies):
        log.append(evaluation(5 * i, cost * i, accuracy))
        log.append(logged("slow", 5 * i, cost * i))
    return run_of(log, "strings")


def write_run(kept: Path, name: str, seed: int, tasks: list[str], up: float) -> None:
    """A folder of a finished run, as run.py keeps it. up: what it gains in each stage."""
    log = []
    results = []
    for i, task in enumerate(tasks):
        # At first a fast phase, then steps and evaluations. Its score, and how the stage ended, are
        # others in each stage.
        own = up - 0.1 * i
        prompt = {"red": "sort"}
        fast = {"surprise": False, "recalled": [], "accepted": [], "population": [[prompt, own]]}
        log.append(logged("fast", 20 * i, 2000 * i + 10, i, seconds=1.0, **fast))
        for step in (0, 10, 15, 20):
            at = 20 * i + step
            log.append(evaluation(at, 100 * at + 10, up * step / 20, i))
            skills = {"strings": 1 - up * step / 200, "facts": 1 - up * step / 100}
            log.append(logged("skills", at, 100 * at + 10, i, skills=skills, text_loss=3 + at))
            slow = {"reward": up * step / 20, "seconds": 2.0}
            log.append(logged("slow", at, 100 * at + 10, i, **slow))

        # How the stage ended, in the closing table.
        accuracy = {"base weights": [0.0, 0.3], "final weights": [0.1, up]}
        result = {"task": task, "hidden": make_task(task, seed).instructions, "evolved": prompt}
        results.append(result | {"at_end": own, "accuracy": accuracy})

    # The files.
    result = {"rollouts": log[-1]["rollouts"], "tasks": results}
    folder = kept / f"{name}-{seed}"
    folder.mkdir(parents=True)
    lines = "".join(json.dumps(line) + "\n" for line in log)
    (folder / "log.jsonl").write_text(lines, encoding="utf-8")
    config = json.dumps({"method": "fst", "tasks": tasks, "seed": seed})
    (folder / "config.json").write_text(config, encoding="utf-8")
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
