"""What finished runs say: how they are read, and the figures that claims are made of.

A figure is one number for a run, or for two runs with the same seed. Where a run first reaches a
level is read off means over three log lines: single ones are noisy.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from root import KEPT

from tasks import make_task

LEAST_GAIN = 0.02  # an accuracy that has risen by less has not risen


@dataclass
class Finished:
    """A finished run, as run.py keeps it."""

    seed: int
    length: int  # of a stage, in gradient steps
    log: list[dict]
    stages: list[dict]  # the closing table, see result.json

    @property
    def last(self) -> int:
        """The number of the last stage, from 0 on."""
        return len(self.stages) - 1

    def lines(self, kind, stage: int = 0) -> list[dict]:
        """The log lines of a kind within a stage; evaluations from its beginning to its end."""
        begin = stage * self.length
        steps = range(begin, begin + self.length + 1)
        own = [line for line in self.log if line["kind"] == kind and line["task"] == stage]
        return [line for line in own if line["step"] in steps]


Runs = dict[str, dict[int, Finished]]  # name -> seed -> run


def load(folder: Path = KEPT) -> Runs:
    """All finished runs. Each log line also gets `time`: the seconds of learning until then."""
    runs: Runs = {}
    for path in sorted(folder.glob("*/result.json")):
        # The closing table has four cells for each stage.
        stages = json.loads(path.read_text(encoding="utf-8"))["tasks"]
        for done in stages:
            done["neither"], done["prompt"] = done["accuracy"]["base weights"]
            done["weights"], done["both"] = done["accuracy"]["final weights"]

        # The log, with the time so far.
        config = path.with_name("config.json").read_text(encoding="utf-8")
        lines = path.with_name("log.jsonl").read_text(encoding="utf-8").splitlines()
        log = [json.loads(line) for line in lines]
        time = 0.0
        for line in log:
            time += line.get("seconds", 0.0)
            line["time"] = time

        # The folder is named after the run and its seed.
        name, _, seed = path.parent.name.rpartition("-")
        one = Finished(int(seed), json.loads(config)["stage"], log, stages)
        runs.setdefault(name, {})[one.seed] = one
    return runs


# --- at the end of a run ---


def end(one: Finished):
    """The mean accuracy of the last three evaluations after training began, in the last stage.

    Under the evolved prompt; of `rl` and `distill` under the prompt that they began with.
    """
    accuracies = [line["val_acc"] for line in one.lines("eval", one.last)[1:]]
    return mean(accuracies[-3:])


def last(one: Finished, key):
    """A figure of the last evaluation (docs/RUNS.md explains them)."""
    return one.lines("eval", one.last)[-1][key]


def skills(one: Finished):
    """What is gained of the base's skills, a share right, averaged over domains: mostly below 0."""
    shares = [mean(line["skills"].values()) for line in one.lines("skills")]
    return shares[-1] - shares[0]


def calm(one: Finished):
    """The share of fast phases without a surprise."""
    return mean(not line["surprise"] for line in one.lines("fast"))


# --- how much less a method takes ---


@dataclass
class Reached:
    """Where a run first reaches a level: a log line, the last one if it never does."""

    line: dict
    really: bool


def running_means(lines: list[dict], key) -> list[float]:
    """A figure of each line, averaged with those of the two lines before."""
    figures = [line[key] for line in lines]
    return [mean(figures[max(i - 2, 0) : i + 1]) for i in range(len(figures))]


def first_at(lines: list[dict], key, level) -> Reached:
    """The first line whose running mean is at a level."""
    for line, figure in zip(lines, running_means(lines, key), strict=True):
        if figure >= level:
            return Reached(line, True)
    return Reached(lines[-1], False)


def less(ours: Reached, theirs: Reached, unit):
    """1 - ours / theirs: 0.80 is five times less. At most 0 where we did not get there."""
    share = 1 - ours.line[unit] / theirs.line[unit]
    return share if ours.really else min(share, 0.0)


def saved(fst: Finished, rl: Finished, unit):
    """How much less `fst` has taken of something when it first reaches the best accuracy of `rl`.

    An `rl` that gains less than LEAST_GAIN never reaches it, and counts with all that it took; but
    there is no KL to compare then, and none is saved.
    """
    # What is to be reached.
    before, *evals = rl.lines("eval")
    best = max(running_means(evals, "val_acc"))
    level = max(best, before["val_acc"] + LEAST_GAIN)

    # Where both get there.
    ours = first_at(fst.lines("eval")[1:], "val_acc", level)
    theirs = first_at(evals, "val_acc", level)
    if unit == "kl_base" and not theirs.really:
        return 0.0
    return less(ours, theirs, unit)


def earlier(fst: Finished, rl: Finished, unit):
    """How much less `fst` has taken of something when rewards come in."""
    ours = first_at(fst.lines("slow"), "reward", LEAST_GAIN)
    return less(ours, first_at(rl.lines("slow"), "reward", LEAST_GAIN), unit)


# --- the stages of a stream ---


def stage(one: Finished, number, key):
    """An accuracy of a stage (1, 2, ...) in the closing table.

    key: "at_end", when the stage ended; for the end of the run "both", of the final weights under
    the prompt that the stage was left with; "prompt", of the base's weights under it; "weights", of
    the final weights under the seed prompt; "neither".
    """
    return one.stages[int(number) - 1][key]


def stage_ends(one: Finished):
    """The mean accuracy at the ends of all stages."""
    return mean(done["at_end"] for done in one.stages)


def sound(one: Finished):
    """1 if all stages end above 0.45, else 0."""
    return float(min(done["at_end"] for done in one.stages) > 0.45)


def named(one: Finished):
    """The share of the hidden rules of one and two operations that are named, or equal ones.

    In the prompts that the stages end with.
    """
    found = []
    for done in one.stages:
        task = make_task(done["task"], one.seed)
        results = task.domain.results  # two rules are equal if they give the same results
        for topic, rule in task.rules.items():
            instruction = tuple(done["evolved"].get(topic, "").split())
            if len(rule) < 3:
                found.append(results.get(instruction) == results[rule])
    return mean(found)


def own_lines(one: Finished):
    """The share of these prompts' lines that have operations of their own domain only."""
    own = [True]  # a prompt without lines has no wrong one
    for done in one.stages:
        operations = make_task(done["task"], one.seed).domain.operations
        for instruction in done["evolved"].values():
            own.append(set(instruction.split()) <= set(operations))
    return mean(own[1:] or own)


# --- a task that comes back as the last one ---


def first_phase(one: Finished):
    """The anchor score of the best prompt after the first fast phase, before any gradient step."""
    phase = one.lines("fast", one.last)[0]
    _, score = phase["population"][0]
    return score


def within_third(one: Finished, number):
    """The accuracy in a stage (1, 2, ...), at a third of the rollouts that the first one took."""
    limit = one.lines("eval")[-1]["rollouts"] / 3
    before, *later = one.lines("eval", int(number) - 1)
    within = [line for line in later if line["rollouts"] - before["rollouts"] <= limit]
    return [before, *within][-1]["val_acc"]
