"""Finished runs that nobody made: what the tests of measure.py, report.py and plot.py look at."""

import json
from pathlib import Path

from measure import Finished


def evaluation(step: int, rollouts: int, accuracy: float, task: int = 0, **more) -> dict:
    """A log line of an evaluation."""
    line = {"kind": "eval", "step": step, "task": task, "rollouts": rollouts}
    line |= {"tokens": 10 * rollouts, "val_acc": accuracy, "kl_base": accuracy / 2}
    return line | more


def stage(task: str = "strings", at_end: float = 0.6, evolved: dict | None = None) -> dict:
    """A stage of the closing table, as result.json has it."""
    accuracy = {"base weights": [0.0, 0.3], "final weights": [0.1, at_end]}
    return {"task": task, "evolved": evolved or {}, "at_end": at_end, "accuracy": accuracy}


def curve(*accuracies: float, seed: int = 0, cost: int = 100) -> Finished:
    """A run on one task: an evaluation every 5 steps, the first one before training."""
    log = []
    for i, accuracy in enumerate(accuracies):
        log.append(evaluation(5 * i, cost * i, accuracy))
    return Finished(seed, log[-1]["step"], log, [stage(at_end=accuracies[-1])])


def write_run(kept: Path, name: str, seed: int, tasks: list[str], up: float) -> None:
    """A folder of a finished run, as run.py keeps it. up: what it gains in each stage."""
    log = []
    results = []
    for i, task in enumerate(tasks):
        fast = {"kind": "fast", "step": 10 * i, "task": i, "surprise": False, "seconds": 1.0}
        log.append(fast | {"population": [[{"red": "sort"}, up]]})
        for step in (0, 5, 10):
            at = 10 * i + step
            log.append(evaluation(at, 100 * at + 10, up * step / 10, i))
            skills = {"strings": 1 - up * step / 100}
            log.append({"kind": "skills", "step": at, "task": i, "skills": skills})
            log.append({"kind": "slow", "step": at, "task": i, "rollouts": 100 * at + 10})
            log[-1] |= {"reward": up * step / 10, "seconds": 2.0}
        results.append(stage(task, up, {"red": "sort"}))
    folder = kept / f"{name}-{seed}"
    folder.mkdir(parents=True)
    config = json.dumps({"stage": 10, "seed": seed})
    (folder / "config.json").write_text(config, encoding="utf-8")
    lines = "".join(json.dumps(line) + "\n" for line in log)
    (folder / "log.jsonl").write_text(lines, encoding="utf-8")
    (folder / "result.json").write_text(json.dumps({"tasks": results}), encoding="utf-8")
