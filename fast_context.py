"""Fast weights: a small population of prompts that evolves by reflection on failures. Text and scores only.

The rules are those of GEPA (arXiv 2507.19457). A candidate is a prompt: topic -> instruction. One fast phase
(`evolve`) re-scores the carried candidates under today's weights, then repeats: draw parents from the Pareto front,
show each failing on a few questions of one topic, let the reflector write that topic's instruction anew, keep the
child if it does strictly better on the same questions, score it on the anchor set; now and then merge two candidates.

The model is not known here. It comes as two functions:

    evaluate(jobs)       jobs: [(rules, questions)], equally many questions each; one rollout per question.
                         -> one list of outcomes per job; an outcome has `.score` and `.answer`
    reflect(requests)    requests: [(topic, instruction or "", [(question, outcome), ...])]; one rollout each.
                         -> per request the proposed instruction, untrusted text ("" for nothing usable), and how
                         it came about, for people to read

A question is opaque but for `.topic`. Every rollout is a call, and a phase never spends more calls than its budget.

Left out of GEPA: the choice of which module to rewrite by anything but turns, a separate validation set (the anchor
set is both), and the merge's own sub-sample (a merged candidate is scored on the anchor set at once).
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations
from statistics import fmean

from tasks.text import clean_instruction, parse_prompt, prompt_text

Rules = dict[str, str]  # topic -> instruction, e.g. {"red": "reverse raise"}; the seed prompt is {}


@dataclass
class Candidate:
    """A prompt. `scores` holds one score per anchor question of this fast phase, and is empty before it is scored."""

    id: int
    rules: Rules
    scores: list[float] = field(default_factory=list)

    @property
    def mean(self) -> float:
        return fmean(self.scores) if self.scores else 0.0


class Population:
    """The candidates kept between fast phases, best first, and what evolution needs to go on where it stopped."""

    def __init__(self, size: int, seed: int, start: list[Rules] | None = None):
        """At most `size` candidates, beginning with the prompts `start` (default: the seed prompt, which is empty)."""
        self.size = size
        self.rng = random.Random(f"population {seed}")
        self.candidates = [Candidate(i, rules) for i, rules in enumerate(start or [{}])]
        self.lineage = {c.id: (c.rules, ()) for c in self.candidates}  # and from where two of them parted
        self.next_id = len(self.candidates)
        self.turn = 0  # whose turn it is among the topics

    def add(self, rules: Rules, parents: tuple[int, ...], scores: list[float]) -> Candidate:
        candidate = Candidate(self.next_id, rules, scores)
        self.candidates.append(candidate)
        self.lineage[candidate.id] = (rules, parents)
        self.next_id += 1
        return candidate

    def ancestors(self, id: int) -> set[int]:
        """The candidates that one descends from, itself included."""
        found, todo = set(), [id]
        while todo:
            if (id := todo.pop()) not in found:
                found.add(id)
                todo += self.lineage[id][1]
        return found

    def keep_best(self, scored: list[Candidate]) -> None:
        """Keep the best by mean anchor score, older first where equal."""
        self.candidates = sorted(scored, key=lambda c: (-c.mean, c.id))[: self.size]
        above = [self.ancestors(c.id) for c in self.candidates]
        needed = {max(a & b) for a in above for b in above if a & b}  # they, and where any two of them parted
        older = {id: sorted(self.ancestors(id) & needed - {id}) for id in sorted(needed)}
        self.lineage = {id: (self.lineage[id][0], tuple(older[id])) for id in older}

    def prompts(self, n: int) -> list[Rules]:
        """n prompts for the slow phase: the population, best first, in turn again where it is smaller."""
        return [self.candidates[i % len(self.candidates)].rules for i in range(n)]

    def state_dict(self) -> dict:
        """Everything as plain data."""
        return {
            "size": self.size,
            "candidates": [[c.id, c.rules, c.scores] for c in self.candidates],
            "lineage": [[id, rules, list(parents)] for id, (rules, parents) in self.lineage.items()],
            "next_id": self.next_id,
            "turn": self.turn,
            "rng": self.rng.getstate(),
        }

    def load_state_dict(self, state: dict) -> None:
        """Raises ValueError where a prompt would not read as it is stored: it could smuggle in a line."""
        for _, rules, *_ in state["candidates"] + state["lineage"]:
            if parse_prompt(prompt_text(rules)) != rules:
                raise ValueError(f"the checkpoint holds a prompt that is none: {rules}")
        self.size, self.next_id, self.turn = state["size"], state["next_id"], state["turn"]
        self.candidates = [Candidate(*candidate) for candidate in state["candidates"]]
        self.lineage = {id: (rules, tuple(parents)) for id, rules, parents in state["lineage"]}
        version, internal, gauss = state["rng"]
        self.rng.setstate((version, tuple(internal), gauss))


# --- selection, on matrices of scores (candidates x questions), and merging ---


def pareto_fronts(scores: list[list[float]]) -> list[set[int]]:
    """For each question the set of all candidates with the best score on it; ties stay together."""
    return [{i for i, score in enumerate(column) if score == max(column)} for column in zip(*scores, strict=True)]


def surviving_fronts(scores: list[list[float]], prune: bool = True) -> list[set[int]]:
    """The fronts without dominated candidates.

    In ascending order of mean score, and from the start again after each drop: drop a candidate if every front that
    it is on holds another one. With 0/1 scores this can drop the best mean, hence the switch (`prune=False`).
    """
    fronts = pareto_fronts(scores)
    order = sorted(range(len(scores)), key=lambda i: fmean(scores[i]))
    while prune:
        on = {i: [front for front in fronts if i in front] for i in order}
        dominated = next((i for i in order if on[i] and all(len(front) > 1 for front in on[i])), None)
        if dominated is None:
            break
        fronts = [front - {dominated} for front in fronts]
    return fronts


def select_parents(rng: random.Random, scores: list[list[float]], n: int, prune: bool = True) -> list[int]:
    """n candidates, drawn with replacement by the number of (surviving) fronts that each is on."""
    fronts = surviving_fronts(scores, prune)
    counts = [sum(i in front for front in fronts) for i in range(len(scores))]
    return rng.choices(range(len(scores)), weights=counts, k=n)


def merge(a: Candidate, b: Candidate, population: Population, anchor: list) -> tuple[Rules, float] | None:
    """The rules of two candidates combined, and the gain to hope for over either; None if one descends from the other.

    Per topic: the side that changed since their youngest common ancestor; where both did, the one that scores higher.
    Where both say the same there is nothing to gain: there their scores differ by luck alone.
    """
    above_a, above_b = population.ancestors(a.id), population.ancestors(b.id)
    if a.id in above_b or b.id in above_a:
        return None
    common = above_a & above_b
    origin = population.lineage[max(common)][0] if common else {}
    rules, over_a, over_b = {}, 0.0, 0.0  # gains in mean score
    for topic in sorted({q.topic for q in anchor} | set(a.rules) | set(b.rules)):
        old, mine, theirs = origin.get(topic), a.rules.get(topic), b.rules.get(topic)
        chosen = mine
        if mine != theirs:
            own = [i for i, q in enumerate(anchor) if q.topic == topic]  # may be none
            score_a, score_b = (fmean([c.scores[i] for i in own] or [0.0]) for c in (a, b))
            a_is_better = (score_a, a.mean, -a.id) >= (score_b, b.mean, -b.id)
            take_a = theirs == old or (mine != old and a_is_better)
            chosen = mine if take_a else theirs
            gain = len(own) / len(anchor) * (score_a - score_b)
            over_a, over_b = (over_a, over_b + gain) if take_a else (over_a - gain, over_b)
        if chosen is not None:
            rules[topic] = chosen
    return rules, min(over_a, over_b)


# --- one fast phase ---


@dataclass
class Trial:
    """A parent that answers a few questions of one topic, and the child that its failures lead to."""

    parent: Candidate
    topic: str
    questions: list
    before: float = 0.0  # the parent's summed score on them
    rules: Rules | None = None  # the child's
    how: str = ""  # the reflection that they came from
    child: Candidate | None = None  # where it was accepted


@dataclass
class Report:
    """The ledger of a fast phase."""

    metric_calls: int = 0  # rollouts that were scored
    reflections: int = 0
    proposed: int = 0  # children that ran on a minibatch
    accepted: list[Trial] = field(default_factory=list)  # of those, what did strictly better and was scored
    merged: int = 0

    @property
    def calls(self) -> int:
        return self.metric_calls + self.reflections


def evolve(
    population: Population,
    anchor: list,
    evaluate: Callable,
    reflect: Callable,
    budget: int,
    minibatch: int = 3,
    width: int = 16,
    prune: bool = True,
) -> Report:
    """Run one fast phase on `population`, spending at most `budget` calls; with too few to score it, do nothing.

    anchor: the questions that candidates are scored on. width: proposals that go through the model together.
    """
    report = Report()

    def left() -> int:
        return budget - report.calls

    def run(jobs: list) -> list:
        report.metric_calls += sum(len(questions) for _, questions in jobs)
        return evaluate(jobs) if jobs else []

    def score(rules: list[Rules]) -> list[list[float]]:
        return [[outcome.score for outcome in outcomes] for outcomes in run([(r, anchor) for r in rules])]

    scored = list(population.candidates)
    if left() < len(scored) * len(anchor):  # a smaller budget than that of the phase before, which has scored them all
        return report
    for candidate, scores in zip(scored, score([c.rules for c in scored]), strict=True):
        candidate.scores = scores  # the old scores were made by other weights: never compare the two

    by_topic = {topic: [q for q in anchor if q.topic == topic] for topic in sorted({q.topic for q in anchor})}
    minibatch = min(minibatch, *map(len, by_topic.values()))
    hopeless = []  # merges that were tried and were worse than the better of their parents
    # a proposal costs two minibatches and a reflection; one scoring stays in reserve
    while (n := min(width, (left() - len(anchor)) // (2 * minibatch + 1))) > 0:
        # parents answer a few questions of the topic whose turn it is
        trials = []
        for i in select_parents(population.rng, [c.scores for c in scored], n, prune):
            topic = list(by_topic)[population.turn % len(by_topic)]
            population.turn += 1
            trials.append(Trial(scored[i], topic, population.rng.sample(by_topic[topic], minibatch)))
        outcomes = run([(trial.parent.rules, trial.questions) for trial in trials])

        # reflect where something went wrong
        requests, failing = [], []
        for trial, results in zip(trials, outcomes, strict=True):
            trial.before = sum(o.score for o in results)
            if failures := [(q, o) for q, o in zip(trial.questions, results, strict=True) if o.score < 1]:
                requests.append((trial.topic, trial.parent.rules.get(trial.topic, ""), failures))
                failing.append(trial)
        report.reflections += len(requests)
        proposals = reflect(requests) if requests else []

        # run the children that are new on the same questions
        children, known = [], [c.rules for c in scored]
        for trial, (proposal, how) in zip(failing, proposals, strict=True):
            trial.how, trial.rules = how, trial.parent.rules | {trial.topic: clean_instruction(proposal)}
            if trial.rules[trial.topic] and trial.rules not in known:
                known.append(trial.rules)
                children.append(trial)
        report.proposed += len(children)
        outcomes = run([(trial.rules, trial.questions) for trial in children])

        # accept what is strictly better, the largest gains first where not all can be scored
        gains = [sum(o.score for o in results) - t.before for t, results in zip(children, outcomes, strict=True)]
        order = sorted((i for i, gain in enumerate(gains) if gain > 0), key=lambda i: -gains[i])
        accepted = [children[i] for i in order[: left() // len(anchor)]]
        for trial, scores in zip(accepted, score([t.rules for t in accepted]), strict=True):
            trial.child = population.add(trial.rules, (trial.parent.id,), scores)
            scored.append(trial.child)
        report.accepted += accepted

        # merge the most promising pairs, as long as they promise more than either
        while accepted and left() >= len(anchor):
            pairs = []
            for a, b in combinations(scored, 2):
                merged = merge(a, b, population, anchor)
                if merged and merged[1] > 0 and merged[0] not in known + hopeless:
                    pairs.append((max(a.mean, b.mean) + merged[1], a, b, merged[0]))
            if not pairs:
                break
            _, a, b, rules = max(pairs, key=lambda pair: pair[0])
            [scores] = score([rules])
            if fmean(scores) < max(a.mean, b.mean):
                hopeless.append(rules)
                continue
            scored.append(population.add(rules, (a.id, b.id), scores))
            known.append(rules)
            report.merged += 1
    population.keep_best(scored)
    return report
