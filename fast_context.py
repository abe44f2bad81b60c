"""Fast weights: a small population of prompts, evolved by reflection on failures.

Texts and scores only. The rules are those of GEPA (arXiv 2507.19457). A prompt maps topics to
instructions, both opaque strings here. A candidate is a prompt with its scores. One fast phase (`evolve`) scores the carried
candidates again under today's weights, then repeats until its budget is spent:

    propose       draw parents from the Pareto front; each answers a few questions of one topic;
                  the model reads the failures and writes that topic's instruction anew
    try_children  run each new prompt on the same few questions
    accept        keep the children that did strictly better; score them on all anchor questions
    merge_best    now and then combine two candidates, topic by topic

The model is not known here. It comes as two functions:

    answer(jobs)         jobs: [(prompt, questions)], equally many questions each; one rollout per
                         question. -> for each job a list of outcomes with `.score` and `.answer`
    reflect(requests)    requests: [(topic, instruction or "", [(question, outcome), ...])]; one
                         rollout each. -> for each the proposed instruction ("" for none; untrusted
                         text) and the reflection behind it, for people to read

and so does the check that a prompt with a proposal in it is well formed (`is_prompt`). A question
is opaque, except for `.topic`. Every rollout is a call; a phase never spends more than its budget.

Left out of GEPA: choosing the topic to rewrite by anything but turns, a separate validation set
(the anchor questions are both), and trying a merge on a sub-sample first.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations
from statistics import fmean

Prompt = dict[str, str]  # topic -> instruction, e.g. {"red": "reverse raise"}

MINIBATCH = 3  # questions that a parent and its child both answer
AT_ONCE = 16  # proposals that go through the model together


@dataclass
class Candidate:
    """A prompt. `scores`: one per anchor question of this fast phase, empty before it is scored."""

    id: int
    prompt: Prompt
    scores: list[float] = field(default_factory=list)

    @property
    def mean(self) -> float:
        return fmean(self.scores) if self.scores else 0.0


class Population:
    """The candidates kept between fast phases, best first, and all that evolution goes on with."""

    def __init__(self, size: int, seed: int, start: Prompt):
        """At most `size` candidates; the first is the prompt `start`."""
        self.size = size
        self.rng = random.Random(f"population {seed}")
        self.candidates = [Candidate(0, start)]
        self.lineage = {0: (start, ())}  # id -> prompt and parents, as far back as merging looks
        self.next_id = 1
        self.turn = 0  # whose turn it is among the topics

    @property
    def best(self) -> Prompt:
        return self.candidates[0].prompt

    def add(self, prompt: Prompt, parents: tuple, scores: list[float]) -> Candidate:
        candidate = Candidate(self.next_id, prompt, scores)
        self.lineage[candidate.id] = (prompt, parents)
        self.next_id += 1
        return candidate

    def ancestors(self, id: int) -> set[int]:
        """The candidates that one descends from, itself included."""
        found = {id}
        for parent in self.lineage[id][1]:
            found |= self.ancestors(parent)
        return found

    def keep_best(self, scored: list[Candidate]) -> None:
        """Keep the best by mean anchor score, older first where equal."""
        best_first = sorted(scored, key=lambda candidate: (-candidate.mean, candidate.id))
        self.candidates = best_first[: self.size]

        # Of the lineage keep those candidates, and where any two of them parted.
        needed = set()
        for a in self.candidates:
            for b in self.candidates:
                common = self.ancestors(a.id) & self.ancestors(b.id)
                if common:
                    needed.add(max(common))
        lineage = {}
        for id in sorted(needed):
            prompt, _ = self.lineage[id]
            older = self.ancestors(id) & needed - {id}
            lineage[id] = (prompt, tuple(sorted(older)))
        self.lineage = lineage

    def prompts(self, n: int) -> list[Prompt]:
        """n prompts for the slow phase: the population, best first, from the start again if needed."""
        return [self.candidates[i % len(self.candidates)].prompt for i in range(n)]

    def state_dict(self) -> dict:
        """Everything as plain data."""
        candidates = [[c.id, c.prompt, c.scores] for c in self.candidates]
        lineage = [[id, prompt, list(parents)] for id, (prompt, parents) in self.lineage.items()]
        return {
            "size": self.size,
            "candidates": candidates,
            "lineage": lineage,
            "next_id": self.next_id,
            "turn": self.turn,
            "rng": self.rng.getstate(),
        }

    def load_state_dict(self, state: dict, is_prompt: Callable) -> None:
        """Raises ValueError for a prompt that is not well formed: it could smuggle in a line."""
        for _, prompt, _ in state["candidates"] + state["lineage"]:
            if not is_prompt(prompt):
                raise ValueError(f"holds a prompt that is none: {prompt}")
        self.size = state["size"]
        self.candidates = [Candidate(*candidate) for candidate in state["candidates"]]
        self.lineage = {id: (prompt, tuple(older)) for id, prompt, older in state["lineage"]}
        self.next_id = state["next_id"]
        self.turn = state["turn"]
        version, internal, gauss = state["rng"]
        self.rng.setstate((version, tuple(internal), gauss))


# --- selection: scores is a matrix, candidates x questions ---


def pareto_fronts(scores: list[list[float]]) -> list[set[int]]:
    """For each question all candidates with the best score on it; ties stay together."""
    fronts = []
    for column in zip(*scores, strict=True):
        best = max(column)
        fronts.append({i for i, score in enumerate(column) if score == best})
    return fronts


def surviving_fronts(scores: list[list[float]]) -> list[set[int]]:
    """The fronts without dominated candidates.

    A candidate is dominated if every front that it is on holds another one. Candidates are looked
    at in ascending order of mean score, and from the start again after each drop.
    """
    fronts = pareto_fronts(scores)
    order = sorted(range(len(scores)), key=lambda i: fmean(scores[i]))
    while True:
        dominated = first_dominated(fronts, order)
        if dominated is None:
            return fronts
        fronts = [front - {dominated} for front in fronts]


def first_dominated(fronts: list[set[int]], order: list[int]) -> int | None:
    """The first candidate in `order` that is on a front, but on none of them alone."""
    for i in order:
        sizes = [len(front) for front in fronts if i in front]
        if sizes and min(sizes) > 1:
            return i
    return None


def select_parents(rng: random.Random, scores: list[list[float]], n: int) -> list[int]:
    """n candidates, drawn with replacement; the weight of each is how many fronts it is on."""
    fronts = surviving_fronts(scores)
    counts = [sum(i in front for front in fronts) for i in range(len(scores))]
    return rng.choices(range(len(scores)), weights=counts, k=n)


# --- one fast phase ---


@dataclass
class Trial:
    """A parent that answers a few questions of one topic, and the child that it leads to."""

    parent: Candidate
    topic: str
    questions: list
    outcomes: list = field(default_factory=list)  # the parent's on them
    prompt: Prompt | None = None  # the child's
    how: str = ""  # the reflection that wrote it
    gain: float = 0.0  # the child's summed score on the questions, less the parent's
    child: Candidate | None = None  # where it was accepted


@dataclass
class Report:
    """The ledger of a fast phase."""

    metric_calls: int = 0  # rollouts that were scored
    reflections: int = 0
    proposed: int = 0  # children that were tried
    accepted: list[Trial] = field(default_factory=list)
    merged: int = 0

    @property
    def calls(self) -> int:
        return self.metric_calls + self.reflections


class FastPhase:
    """The state of one fast phase; `evolve` says what happens in which order."""

    def __init__(self, population, anchor, answer, reflect, is_prompt, budget):
        self.population = population
        self.anchor = anchor
        self.answer = answer
        self.reflect = reflect
        self.is_prompt = is_prompt
        self.budget = budget
        self.report = Report()
        self.scored = list(population.candidates)  # all candidates of this phase
        self.known = []  # their prompts, and those of children tried since the last proposals
        self.hopeless = []  # prompts of merges that scored worse than their better parent
        self.by_topic = {}  # topic -> its anchor questions
        for topic in sorted({question.topic for question in anchor}):
            self.by_topic[topic] = [q for q in anchor if q.topic == topic]
        self.minibatch = min(MINIBATCH, *map(len, self.by_topic.values()))

    def left(self) -> int:
        """Calls that may still be spent."""
        return self.budget - self.report.calls

    def run(self, jobs: list) -> list:
        """Answer jobs (prompt, questions) -> a list of outcomes for each. All rollouts are counted."""
        self.report.metric_calls += sum(len(questions) for _, questions in jobs)
        return self.answer(jobs) if jobs else []

    def score(self, prompts: list[Prompt]) -> list[list[float]]:
        """The scores of prompts on all anchor questions."""
        results = self.run([(prompt, self.anchor) for prompt in prompts])
        return [[outcome.score for outcome in outcomes] for outcomes in results]

    def rescore(self) -> None:
        """Score the carried candidates under today's weights.

        Their old scores were made by other weights: the two must never be compared.
        """
        new_scores = self.score([candidate.prompt for candidate in self.scored])
        for candidate, scores in zip(self.scored, new_scores, strict=True):
            candidate.scores = scores

    def affordable(self) -> int:
        """How many proposals can be made now.

        Each costs two minibatches and a reflection. Scoring one child stays in reserve.
        """
        cost = 2 * self.minibatch + 1
        return min(AT_ONCE, (self.left() - len(self.anchor)) // cost)

    def propose(self, n: int) -> list[Trial]:
        """n parents answer a few questions each, and the model reflects on their failures."""
        rng = self.population.rng
        topics = list(self.by_topic)
        trials = []
        for i in select_parents(rng, [candidate.scores for candidate in self.scored], n):
            topic = topics[self.population.turn % len(topics)]
            self.population.turn += 1
            questions = rng.sample(self.by_topic[topic], self.minibatch)
            trials.append(Trial(self.scored[i], topic, questions))
        results = self.run([(trial.parent.prompt, trial.questions) for trial in trials])
        for trial, outcomes in zip(trials, results, strict=True):
            trial.outcomes = outcomes

        # Only those that failed somewhere have something to reflect on.
        failing = []
        requests = []
        for trial in trials:
            pairs = zip(trial.questions, trial.outcomes, strict=True)
            failures = [(question, outcome) for question, outcome in pairs if outcome.score < 1]
            if failures:
                old = trial.parent.prompt.get(trial.topic, "")
                failing.append(trial)
                requests.append((trial.topic, old, failures))
        self.report.reflections += len(requests)
        proposals = self.reflect(requests) if requests else []
        for trial, (instruction, how) in zip(failing, proposals, strict=True):
            trial.how = how
            if instruction:
                trial.prompt = trial.parent.prompt | {trial.topic: instruction}
        return failing

    def try_children(self, trials: list[Trial]) -> list[Trial]:
        """Run the children that are well formed and new on the questions of their parents."""
        children = []
        self.known = [candidate.prompt for candidate in self.scored]
        for trial in trials:
            if trial.prompt and self.is_prompt(trial.prompt) and trial.prompt not in self.known:
                self.known.append(trial.prompt)
                children.append(trial)
        self.report.proposed += len(children)
        results = self.run([(trial.prompt, trial.questions) for trial in children])
        for trial, outcomes in zip(children, results, strict=True):
            before = sum(outcome.score for outcome in trial.outcomes)
            trial.gain = sum(outcome.score for outcome in outcomes) - before
        return children

    def accept(self, children: list[Trial]) -> list[Trial]:
        """Take the children that did strictly better, and score them on all anchor questions.

        Where not all can be scored, the largest gains come first.
        """
        better = [trial for trial in children if trial.gain > 0]
        better.sort(key=lambda trial: -trial.gain)
        accepted = better[: self.left() // len(self.anchor)]
        new_scores = self.score([trial.prompt for trial in accepted])
        for trial, scores in zip(accepted, new_scores, strict=True):
            trial.child = self.population.add(trial.prompt, (trial.parent.id,), scores)
            self.scored.append(trial.child)
        self.report.accepted += accepted
        return accepted

    def merge_best(self) -> bool:
        """Merge the two candidates that promise most -> whether it is worth going on."""
        best = None
        for a, b in combinations(self.scored, 2):
            merged = merge(a, b, self.population, self.anchor)
            if merged is None:
                continue
            prompt, gain = merged
            promise = max(a.mean, b.mean) + gain
            is_new = prompt not in self.known and prompt not in self.hopeless
            if gain > 0 and is_new and (best is None or promise > best[0]):
                best = (promise, a, b, prompt)
        if best is None:
            return False
        _, a, b, prompt = best
        [scores] = self.score([prompt])
        if fmean(scores) < max(a.mean, b.mean):
            self.hopeless.append(prompt)
        else:
            self.scored.append(self.population.add(prompt, (a.id, b.id), scores))
            self.known.append(prompt)
            self.report.merged += 1
        return True


def merge(
    a: Candidate, b: Candidate, population: Population, anchor: list
) -> tuple[Prompt, float] | None:
    """Two prompts combined, and the gain to hope for over either; None for parent and descendant.

    For each topic: the side that changed since their youngest common ancestor; where both did, the
    one that scores higher on the topic's questions. Where both say the same there is nothing to
    gain: there their scores differ by luck alone.
    """
    above_a = population.ancestors(a.id)
    above_b = population.ancestors(b.id)
    if a.id in above_b or b.id in above_a:
        return None
    common = above_a & above_b
    origin = population.lineage[max(common)][0] if common else {}

    prompt = {}
    over_a = 0.0  # the hoped-for gain in mean score over a, and over b
    over_b = 0.0
    for topic in sorted({q.topic for q in anchor} | set(a.prompt) | set(b.prompt)):
        old = origin.get(topic)
        mine = a.prompt.get(topic)
        theirs = b.prompt.get(topic)
        chosen = mine
        if mine != theirs:
            own = [i for i, q in enumerate(anchor) if q.topic == topic]  # may be none
            score_a = fmean([a.scores[i] for i in own] or [0.0])
            score_b = fmean([b.scores[i] for i in own] or [0.0])
            gain = len(own) / len(anchor) * (score_a - score_b)
            a_is_better = (score_a, a.mean, -a.id) >= (score_b, b.mean, -b.id)
            if theirs == old or (mine != old and a_is_better):
                over_b += gain
            else:
                chosen = theirs
                over_a -= gain
        if chosen is not None:
            prompt[topic] = chosen
    return prompt, min(over_a, over_b)


def evolve(
    population: Population,
    anchor: list,
    answer: Callable,
    reflect: Callable,
    is_prompt: Callable,
    budget: int,
) -> Report:
    """Run one fast phase on `population`, spending at most `budget` calls.

    anchor: the questions that candidates are scored on; the functions: see the top of the file.
    With too few calls to score the carried candidates nothing is done.
    """
    phase = FastPhase(population, anchor, answer, reflect, is_prompt, budget)
    if budget < len(phase.scored) * len(anchor):
        return phase.report
    phase.rescore()
    while (n := phase.affordable()) > 0:
        trials = phase.propose(n)
        children = phase.try_children(trials)
        accepted = phase.accept(children)
        while accepted and phase.left() >= len(anchor):
            if not phase.merge_best():
                break
    population.keep_best(phase.scored)
    return phase.report
