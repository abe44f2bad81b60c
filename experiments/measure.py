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
    """A finished run."""

    seed: int
    length: int  # of a stage, in gradient steps
    log: list[dict]
    stages: list[dict]  # the closing table, see result.json

    @property
    def last(self) -> int:
        """The number of the last stage, from 0 on."""
        return len(self.stages) - 1

    def of(self, kind) -> list[dict]:
        """The log lines of a kind."""
        return [line for line in self.log if line["kind"] == kind]

    def evals(self, stage: int = 0) -> list[dict]:
        """The evaluations of a stage, on its own task, from its beginning to its end."""
        begin = stage * self.length
        steps = range(begin, begin + self.length + 1)
        own = [line for line in self.of("eval") if line["task"] == stage]
        return [line for line in own if line["step"] in steps]


Runs = dict[int, dict[str, Finished]]  # seed -> name -> run


def read(folder: Path) -> Finished:
    """A finished run. Each log line also gets `time`: the seconds of learning until then."""
    # The closing table has four cells for each stage.
    stages = json.loads((folder / "result.json").read_text(encoding="utf-8"))["tasks"]
    for done in stages:
        done["neither"], done["prompt"] = done["accuracy"]["base weights"]
        done["weights"], done["both"] = done["accuracy"]["final weights"]

    # The log, with the time so far.
    log = []
    time = 0.0
    for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines():
        log.append(json.loads(line))
        time += log[-1].get("seconds", 0.0)
        log[-1]["time"] = time

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return Finished(config["seed"], config["stage"], log, stages)


def load(kept: Path = KEPT) -> Runs:
    """All finished runs that run.py has kept."""
    runs: Runs = {}
    for path in sorted(kept.glob("*/result.json")):
        one = read(path.parent)
        name = path.parent.name.removesuffix(f"-{one.seed}")
        runs.setdefault(one.seed, {})[name] = one
    return dict(sorted(runs.items()))


# --- at the end of a run ---


def end(one: Finished):
    """The mean accuracy of the last three evaluations after training began, in the last stage.

    Under the evolved prompt; of `rl` and `distill` under the prompt that they began with.
    """
    accuracies = [line["val_acc"] for line in one.evals(one.last)[1:]]
    return mean(accuracies[-3:])


def last(one: Finished, key):
    """A figure of the last evaluation (docs/RUNS.md explains them)."""
    return one.of("eval")[-1][key]


def skills(one: Finished):
    """What is gained of the base's skills, a share right, averaged over domains: mostly below 0."""
    shares = [mean(line["skills"].values()) for line in one.of("skills")]
    return shares[-1] - shares[0]


def calm(one: Finished):
    """The share of fast phases without a surprise."""
    return mean(not line["surprise"] for line in one.of("fast"))


# --- how much less a method takes ---


def running_means(lines: list[dict], key) -> list[float]:
    """A figure of each line, averaged with those of the two lines before."""
    figures = [line[key] for line in lines]
    return [mean(figures[max(i - 2, 0) : i + 1]) for i in range(len(figures))]


def first_at(lines: list[dict], key, level) -> tuple[dict, bool]:
    """The first line whose running mean is at a level, else the last one; and whether one is."""
    for line, figure in zip(lines, running_means(lines, key), strict=True):
        if figure >= level:
            return line, True
    return lines[-1], False


def less(ours: list[dict], theirs: list[dict], key, level, unit):
    """1 - ours / theirs, of what it takes until a figure is at a level: 0.80 is five times less.

    At most 0 where we do not get there.
    """
    here, is_reached = first_at(ours, key, level)
    there, _ = first_at(theirs, key, level)
    share = 1 - here[unit] / there[unit]
    return share if is_reached else min(share, 0.0)


def saved(fst: Finished, rl: Finished, unit):
    """How much less `fst` has taken of something when it first reaches the best accuracy of `rl`.

    An `rl` that gains less than LEAST_GAIN never reaches it, and counts with all that it took; but
    there is no KL to compare then, and none is saved.
    """
    before, *theirs = rl.evals()
    best = max(running_means(theirs, "val_acc"))
    level = max(best, before["val_acc"] + LEAST_GAIN)
    if unit == "kl_base" and best < level:
        return 0.0
    return less(fst.evals()[1:], theirs, "val_acc", level, unit)


def earlier(fst: Finished, rl: Finished, unit):
    """How much less `fst` has taken of something when rewards come in."""
    return less(fst.of("slow"), rl.of("slow"), "reward", LEAST_GAIN, unit)


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
    own = []
    for done in one.stages:
        operations = make_task(done["task"], one.seed).domain.operations
        for instruction in done["evolved"].values():
            own.append(set(instruction.split()) <= set(operations))
    return mean(own or [True])  # a prompt without lines has no wrong one


# --- a task that comes back as the last one ---


def first_phase(one: Finished):
    """The anchor score of the best prompt after the first fast phase, before any gradient step."""
    phase = next(line for line in one.of("fast") if line["task"] == one.last)
    _, score = phase["population"][0]
    return score


def within_third(one: Finished, number):
    """The accuracy in a stage (1, 2, ...), at a third of the rollouts that the first one took."""
    evals = one.evals(int(number) - 1)
    limit = evals[0]["rollouts"] + one.evals()[-1]["rollouts"] / 3
    return [line for line in evals if line["rollouts"] <= limit][-1]["val_acc"]
