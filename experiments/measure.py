"""What finished runs say: how they are read, and the metrics that claims are made of.

A metric is one number for a run, or for two runs with the same seed. What a run, its log and its
stages are, view.py knows already.
"""

from pathlib import Path
from statistics import mean

from root import KEPT

from view import Run, of, read_run

LEAST_GAIN = 0.02  # an accuracy that has risen by less has not risen


def read(folder: Path) -> Run:
    """A finished run. Each log line also gets `time`: the seconds of learning until then.

    Raises OSError or ValueError for a run that is damaged, or has not finished.
    """
    one = read_run(folder)
    if not one.result:
        raise ValueError(f"{folder}: this run has not reached its end: resume it")
    time = 0.0
    for line in one.lines:
        time += line.get("seconds", 0.0)
        line["time"] = time

    # The closing table has four cells for each stage.
    for done in one.result["tasks"]:
        done["neither"], done["prompt"] = done["accuracy"]["base weights"]
        done["weights"], done["both"] = done["accuracy"]["final weights"]
    return one


def load(kept: Path = KEPT) -> list[dict]:
    """All finished runs that run.py has kept: for each seed a dict, name -> Run."""
    runs = {}
    for path in sorted(kept.glob("*[0-9]/result.json")):
        # The folder is named after the run and its seed.
        name, _, seed = path.parent.name.rpartition("-")
        runs.setdefault(int(seed), {})[name] = read(path.parent)
    return [runs[seed] for seed in sorted(runs)]


# --- at the end of a run ---


def end(one: Run):
    """The mean accuracy of the last three evaluations after training began, in the last stage.

    Under the evolved prompt; of `rl` and `distill` under the prompt that they began with.
    """
    _before, *evals = one.stages[-1].evals
    return mean(line["val_acc"] for line in evals[-3:])


def last(one: Run, key):
    """A metric of the last evaluation (docs/RUNS.md explains them)."""
    return of(one.lines, "eval")[-1][key]


def skills(one: Run):
    """What is gained of the base's skills, a share right, averaged over domains: mostly below 0."""
    shares = [mean(line["skills"].values()) for line in of(one.lines, "skills")]
    return shares[-1] - shares[0]


def text_loss(one: Run):
    """How much the loss on another text has risen (of a pretrained model), nats per token."""
    losses = [line["text_loss"] for line in of(one.lines, "skills")]
    return losses[-1] - losses[0]


def noticed(one: Run):
    """The share of fast phases with a surprise right after a switch, or with none elsewhere."""
    after_a_switch = [stage.phases[0] for stage in one.stages[1:]]
    phases = of(one.lines, "fast")
    return mean(phase["surprise"] == (phase in after_a_switch) for phase in phases)


# --- how much less a method takes ---


def smooth(lines: list[dict], key) -> list[dict]:
    """The lines from the third on, with a metric averaged over three in a row: it is noisy."""
    smoothed = []
    for three in zip(lines, lines[1:], lines[2:], strict=False):
        smoothed.append(three[-1] | {key: mean(line[key] for line in three)})
    return smoothed


def first_at(lines: list[dict], key, level) -> tuple[dict, bool]:
    """The first line where a metric is at a level, else the last one; and whether one is."""
    for line in lines:
        if line[key] >= level:
            return line, True
    return lines[-1], False


def less(ours: list[dict], theirs: list[dict], key, level, unit):
    """1 - ours / theirs, of what it takes until a metric is at a level: 0.80 is five times less.

    At most 0 where we do not get there.
    """
    here, is_reached = first_at(ours, key, level)
    there, _ = first_at(theirs, key, level)
    share = 1 - here[unit] / there[unit]
    return share if is_reached else min(share, 0.0)


def saved(fst: Run, rl: Run, unit):
    """How much less `fst` has taken of something when it first reaches the best accuracy of `rl`.

    The best is a mean of three evaluations; it is reached where a single one is at it. An `rl` that
    gains less than LEAST_GAIN never reaches it, and counts with all that it took; but there is no
    KL to compare then, and none is saved.
    """
    # What is to be reached.
    before, *theirs = rl.stages[0].evals
    best = max(line["val_acc"] for line in smooth(theirs, "val_acc"))
    level = max(best, before["val_acc"] + LEAST_GAIN)
    if best < level:
        if unit == "kl_base":
            return 0.0
        theirs = theirs[-1:]  # even if a single evaluation got there

    # Both are measured after training began.
    return less(fst.stages[0].evals[1:], theirs, "val_acc", level, unit)


def earlier(fst: Run, rl: Run, unit):
    """How much less `fst` has taken of something when rewards come in."""
    ours, theirs = [smooth(of(one.lines, "slow"), "reward") for one in (fst, rl)]
    return less(ours, theirs, "reward", LEAST_GAIN, unit)


def as_cheap(one: Run, other: Run):
    """The accuracy of a run with as many rollouts as another one has taken in all."""
    return within(one.stages[0].evals, last(other, "rollouts"))


def within(evals: list[dict], rollouts):
    """The accuracy at the last evaluation that is within so many rollouts."""
    return [line["val_acc"] for line in evals if line["rollouts"] <= rollouts][-1]


# --- the stages of a stream ---


def stage(one: Run, number, key):
    """An accuracy of a stage (1, 2, ...) in the closing table.

    key: "at_end", when the stage ended; for the end of the run "both", of the final weights under
    the prompt that the stage was left with; "prompt", of the base's weights under it; "weights", of
    the final weights under the seed prompt; "neither".
    """
    return one.result["tasks"][int(number) - 1][key]


def stage_ends(one: Run):
    """The mean accuracy at the ends of all stages."""
    return mean(done["at_end"] for done in one.result["tasks"])


def sound(one: Run):
    """Whether all stages end above 0.45."""
    return min(done["at_end"] for done in one.result["tasks"]) > 0.45


def named(one: Run, lengths):
    """The share of the hidden rules of some lengths, "12" or "3", that are named, or equal ones.

    In the prompts that the stages end with.
    """
    found = []
    for stage in one.stages:
        for topic, rule in stage.hidden.items():
            if str(len(rule.split())) in lengths:
                found.append(stage.names(topic))
    return mean(found)


def own_lines(one: Run):
    """The share of these prompts' lines that have operations of their own domain only."""
    own = []
    for stage in one.stages:
        for topic, instruction in stage.best.items():
            own.append(stage.verdict(topic, instruction) != "foreign")
    return mean(own or [True])  # a prompt without lines has no wrong one


# --- a task that comes back as the last one ---


def first_phase(one: Run):
    """The anchor score of the best prompt after the first fast phase, before any gradient step."""
    # The best prompt comes first.
    phase = one.stages[-1].phases[0]
    _, score = phase["population"][0]
    return score


def recalled(one: Run):
    """Whether that phase brought the prompt of the first stage back from memory."""
    return one.stages[0].best in one.stages[-1].phases[0]["recalled"]


def within_third(one: Run, number):
    """The accuracy in a stage (1, 2, ...), at a third of the rollouts that the first one took."""
    third = one.stages[0].evals[-1]["rollouts"] / 3
    evals = one.stages[int(number) - 1].evals
    return within(evals, evals[0]["rollouts"] + third)
