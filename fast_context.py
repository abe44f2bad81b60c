"""Fast weights: a small population of prompts, evolved by reflection on failures.

Texts and scores only. Parents are chosen and children accepted as in GEPA (arXiv 2507.19457).
Unlike there, a phase keeps only a few candidates in the end, makes up to 16 proposals at once, and
may write an instruction from scratch. A prompt maps topics to instructions, both opaque strings
here. A candidate is a prompt with its scores. One fast phase (`evolve`) scores the kept candidates
again under today's weights, then repeats until little of its budget is left:

    propose       draw parents that are best on some question; each answers a few of one topic;
                  the model reads the failures and rewrites that topic's instruction
    try_children  run each new prompt on the same few questions
    accept        keep the children that did strictly better; score them on all anchor questions

The task may change without a word. If the best score has fallen by more than half since the last
phase, and by more than chance, that is a surprise. Then the phase does three things before it goes
on (`adapt`): it drops the lines that earn nothing any more, it tries the prompts that were best
before earlier surprises (the memory), and it spends more.

The model and its texts are not known here. They come as four functions:

    answer(jobs)         jobs: [(prompt, questions)], equally many questions each; one rollout per
                         question. -> for each job a list of outcomes with `.score` and `.answer`
    reflect(requests)    requests: [(topic, instruction or "", [(question, outcome), ...])]. -> for
                         each the proposed instruction ("" for none; untrusted text), how it came
                         about, for people to read, and the rollouts that it took, 1 or 0
    is_prompt(prompt)    whether a prompt with a proposal in it is well formed; None is not
    shows(prompt, q)     whether question q is a worked example in a prompt: then q does not count

A question is opaque, except for `.topic`. A call is one rollout, of an answer or of a reflection; a
phase never makes more calls than its budget, which a surprise multiplies.

Left out of GEPA: choosing the topic to rewrite by anything but turns, and merging two prompts
(docs/LOG.md: here it did not help).
"""

import math
import random
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

Prompt = dict[str, str]  # topic -> instruction, e.g. {"red": "reverse raise"}

PROPOSALS_AT_ONCE = 16  # proposals that go through the model together
SAVED = ("memory", "next_id", "turn")  # of a population, as it is
SURPRISE_BUDGET = 3  # times the usual budget, in a phase with a surprise


@dataclass
class Candidate:
    """A prompt. `scores`: one per anchor question of this fast phase, empty before it is scored."""

    id: int  # in order of age
    prompt: Prompt
    scores: list = field(default_factory=list)

    @property
    def mean(self):
        return fmean(self.scores) if self.scores else 0.0


class Population:
    """The candidates kept between fast phases, best first, and all that evolution goes on with."""

    def __init__(self, size, seed, start: Prompt, memory_size=4):
        """At most `size` candidates; the first is the prompt `start`. See `remember`."""
        self.size = size
        self.memory_size = memory_size
        self.memory = []  # prompts that were best before a surprise, newest first
        self.rng = random.Random(f"population {seed}")
        self.candidates = [Candidate(0, start)]  # best first
        self.next_id = 1  # ids are never used twice
        self.turn = 0  # whose turn it is among the topics

    @property
    def best(self) -> Prompt:
        return self.candidates[0].prompt

    def new_candidate(self, prompt: Prompt, scores) -> Candidate:
        """A candidate with the next id. It is kept only if `keep_best` keeps it."""
        candidate = Candidate(self.next_id, prompt, scores)
        self.next_id += 1
        return candidate

    def keep_best(self, scored):
        """Keep the best by mean anchor score, older first where equal."""
        best_first = sorted(scored, key=lambda candidate: (-candidate.mean, candidate.id))
        self.candidates = best_first[: self.size]

    def remember(self, prompt: Prompt):
        """Keep a prompt for the case that its task comes back; the oldest is forgotten first."""
        others = [old for old in self.memory if old != prompt]
        newest_first = [prompt, *others]
        self.memory = newest_first[: self.memory_size]

    def prompts(self, n):
        """n prompts for the slow phase: the population, best first, repeated if it is smaller."""
        prompts = [candidate.prompt for candidate in self.candidates]
        return [prompts[i % len(prompts)] for i in range(n)]

    def state_dict(self):
        """Everything as plain data."""
        # The generator's state belongs to it: resumed evolution draws what it would have drawn.
        state = {name: getattr(self, name) for name in SAVED}
        candidates = [[c.id, c.prompt, c.scores] for c in self.candidates]
        return state | {"candidates": candidates, "rng": self.rng.getstate()}

    def load_state_dict(self, state, is_prompt):
        """Go back to a state as `state_dict` gives it.

        Raises ValueError where there is no prompt, or one that is not well formed: it could smuggle
        in a line.
        """
        # Check first, change later: a state that does not fit leaves all as it was.
        candidates = [Candidate(*values) for values in state["candidates"]]
        if not candidates:
            raise ValueError("holds no prompt")
        for prompt in [candidate.prompt for candidate in candidates] + state["memory"]:
            if not is_prompt(prompt):
                raise ValueError(f"holds a prompt that is not well formed: {prompt}")

        # Plain data has lists where random.Random wants a tuple.
        self.candidates = candidates
        for name in SAVED:
            setattr(self, name, state[name])
        version, internal, gauss = state["rng"]
        self.rng.setstate((version, tuple(internal), gauss))


# --- selection: scores is a matrix, candidates x questions ---


def pareto_fronts(scores):
    """For each question the set of all candidates with the best score on it (GEPA's fronts)."""
    fronts = []
    # A column holds the scores of all candidates on one question.
    for column in zip(*scores, strict=True):
        best = max(column)
        fronts.append({i for i, score in enumerate(column) if score == best})
    return fronts


def surviving_fronts(scores):
    """The fronts without dominated candidates.

    A candidate is dominated if every front that it is on holds another one. Candidates are looked
    at in ascending order of mean score, and from the start again after each drop.
    """
    fronts = pareto_fronts(scores)
    worst_first = sorted(range(len(scores)), key=lambda i: fmean(scores[i]))
    # Dropping one changes the fronts, and so who is dominated.
    while True:
        dominated = first_dominated(fronts, worst_first)
        if dominated is None:
            return fronts
        fronts = [front - {dominated} for front in fronts]


def first_dominated(fronts, order):
    """The first candidate in `order` that is on a front, but on none of them alone."""
    for i in order:
        # How many share each front that it is on.
        sizes = [len(front) for front in fronts if i in front]
        if sizes and min(sizes) > 1:
            return i
    return None


def select_parents(rng: random.Random, scores, n):
    """n candidates, drawn with replacement; the weight of each is how many fronts it is on."""
    # Who is best on many questions is drawn often; who is best on one has a chance, too.
    fronts = surviving_fronts(scores)
    indices = range(len(scores))
    counts = []
    for i in indices:
        counts.append(sum(i in front for front in fronts))
    return rng.choices(indices, weights=counts, k=n)


def beyond_noise(a, b, n):
    """Whether two shares of n questions each differ by more than three standard errors."""
    mean = (a + b) / 2
    error = math.sqrt(2 * mean * (1 - mean) / n)
    return abs(a - b) > 3 * error


# --- one fast phase ---


@dataclass
class Trial:
    """A parent that answers a few questions of one topic, and the child that it leads to."""

    parent: Candidate
    topic: str  # whose instruction is rewritten
    questions: list  # of that topic
    outcomes: list = field(default_factory=list)  # the parent's on them
    prompt: Prompt | None = None  # the child's; None where nothing was proposed
    how: str = ""  # the reflection that wrote it
    gain: float = 0.0  # the child's summed score on the questions, less the parent's


@dataclass
class Report:
    """The ledger of a fast phase: what it cost, and what came of it. It stands in the log."""

    calls: int = 0  # rollouts, reflections included
    reflections: int = 0
    proposed: int = 0  # children that were tried
    accepted: list = field(default_factory=list)  # of these; a dict for each, see `accept`
    population: list = field(default_factory=list)  # in the end: prompts with their anchor scores
    surprise: bool = False  # the task has changed
    dropped: list = field(default_factory=list)  # "topic: instruction" that earned nothing then
    recalled: list = field(default_factory=list)  # prompts that came back from memory


@dataclass
class FastPhase:
    """One fast phase: what it works with, its steps, its ledger. `evolve` has their order."""

    population: Population  # the candidates that it starts with
    anchor: list  # the questions that candidates are scored on
    lessons: list  # others, which parents and children answer, and which reflections are about
    answer: Any  # the four functions at the top of the file
    reflect: Any
    is_prompt: Any
    shows: Any
    minibatch: int  # lessons that a parent and its child both answer
    budget: int  # calls that it may spend

    def __post_init__(self):
        self.report = Report()  # what was spent, and what came of it
        self.scored = list(self.population.candidates)  # the possible parents; see `rescore`

        # The lessons of each topic; each trial draws a minibatch from one of the topics.
        # All minibatches are equally large, so that they can be answered in one batch.
        self.by_topic = {}
        for topic in sorted({question.topic for question in self.lessons}):
            self.by_topic[topic] = [q for q in self.lessons if q.topic == topic]
        fewest = min(map(len, self.by_topic.values()))
        self.minibatch = min(self.minibatch, fewest)

    def left(self):
        """Calls that may still be spent."""
        return self.budget - self.report.calls

    def run(self, jobs):
        """Answer jobs (prompt, questions) -> a list of outcomes for each; all are counted."""
        # Every question is one rollout.
        self.report.calls += sum(len(questions) for _, questions in jobs)
        return self.answer(jobs) if jobs else []

    def score(self, prompts):
        """The scores of prompts on all anchor questions, a list for each prompt."""
        # All prompts in one batch: the sampler reads each of them once.
        results = self.run([(prompt, self.anchor) for prompt in prompts])
        scores = []
        for outcomes in results:
            scores.append([outcome.score for outcome in outcomes])
        return scores

    def rescore(self):
        """Score the kept candidates under today's weights.

        Their old scores were made by other weights, on other questions: they cannot be compared
        with new ones.
        """
        new_scores = self.score([candidate.prompt for candidate in self.scored])
        for candidate, scores in zip(self.scored, new_scores, strict=True):
            candidate.scores = scores

    def has_changed(self, before):
        """Whether the best kept prompt earns less than half of `before`, beyond noise.

        before: what the best one earned when the last phase ended, on other questions. From 8 right
        answers of 48, or fewer, no fall is beyond noise, not even one to 0.
        """
        now = max(candidate.mean for candidate in self.scored)
        return now < before / 2 and beyond_noise(before, now, len(self.anchor))

    def adapt(self):
        """The task has changed: drop what earns nothing, try what is remembered, spend more."""
        self.report.surprise = True
        self.budget *= SURPRISE_BUDGET
        was_best = self.population.best  # of the last phase: the candidates are still in its order

        # What is left of the kept prompts; several of them may become the same.
        stripped = []
        for candidate in self.scored:
            prompt = self.without_dead_lines(candidate)
            if prompt not in stripped:
                stripped.append(prompt)
        self.scored = self.new_candidates(stripped)
        best = max(candidate.mean for candidate in self.scored)

        # A remembered prompt comes back, whole, if it earns clearly more than all of these.
        n = self.left() // len(self.anchor)  # so many can be scored
        for candidate in self.new_candidates(self.population.memory[:n]):
            if candidate.mean > best and beyond_noise(candidate.mean, best, len(self.anchor)):
                self.scored.append(candidate)
                self.report.recalled.append(candidate.prompt)
        # The task on which the old prompt was best may come back.
        self.population.remember(was_best)

    def without_dead_lines(self, candidate: Candidate) -> Prompt:
        """A candidate's prompt without the instructions that earned nothing on their topic."""
        prompt = dict(candidate.prompt)
        for topic in candidate.prompt:
            pairs = zip(self.anchor, candidate.scores, strict=True)
            scores = [score for question, score in pairs if question.topic == topic]
            if scores and not any(scores):
                line = f"{topic}: {prompt.pop(topic)}"
                if line not in self.report.dropped:
                    self.report.dropped.append(line)
        return prompt

    def new_candidates(self, prompts):
        """Prompts -> candidates, scored on all anchor questions."""
        candidates = []
        for prompt, scores in zip(prompts, self.score(prompts), strict=True):
            candidates.append(self.population.new_candidate(prompt, scores))
        return candidates

    def affordable(self):
        """How many proposals can be made now; scoring one child stays in reserve."""
        cost = 2 * self.minibatch + 1  # the parent's answers, the child's, and a reflection
        spendable = self.left() - len(self.anchor)
        return min(PROPOSALS_AT_ONCE, spendable // cost)

    def propose(self, n):
        """n parents answer a few questions each, the model reflects -> trials with a failure."""
        # Draw parents. The topics take turns.
        rng = self.population.rng
        topics = list(self.by_topic)
        trials = []
        for i in select_parents(rng, [candidate.scores for candidate in self.scored], n):
            topic = topics[self.population.turn % len(topics)]
            self.population.turn += 1
            questions = rng.sample(self.by_topic[topic], self.minibatch)
            trials.append(Trial(self.scored[i], topic, questions))
        results = self.run([(trial.parent.prompt, trial.questions) for trial in trials])

        # Only those that failed somewhere have something to reflect on.
        failing = []
        requests = []
        for trial, outcomes in zip(trials, results, strict=True):
            trial.outcomes = outcomes
            pairs = zip(trial.questions, outcomes, strict=True)
            failures = [(question, outcome) for question, outcome in pairs if outcome.score < 1]
            if failures:
                old = trial.parent.prompt.get(trial.topic, "")
                # An instruction that earned nothing may lead nowhere: often reflect without it.
                if len(failures) == self.minibatch and rng.random() < 0.5:
                    old = ""
                failing.append(trial)
                requests.append((trial.topic, old, failures))

        # The model writes a new instruction for each; the other topics keep theirs.
        proposals = self.reflect(requests)
        for trial, (instruction, how, cost) in zip(failing, proposals, strict=True):
            self.report.reflections += cost
            self.report.calls += cost
            trial.how = how
            if instruction:
                trial.prompt = trial.parent.prompt | {trial.topic: instruction}
        return failing

    def try_children(self, trials):
        """Run children on the questions of their parents -> the trials whose children ran."""
        # Only prompts that are well formed and new are worth a rollout.
        known = [candidate.prompt for candidate in self.scored]
        tried = []
        for trial in trials:
            if trial.prompt not in known and self.is_prompt(trial.prompt):
                known.append(trial.prompt)
                tried.append(trial)
        self.report.proposed += len(tried)

        # Parent and child answer the same questions. One that either prompt shows, as a worked
        # example, does not count: its answer could be copied.
        results = self.run([(trial.prompt, trial.questions) for trial in tried])
        for trial, outcomes in zip(tried, results, strict=True):
            prompts = (trial.parent.prompt, trial.prompt)
            triples = zip(trial.questions, trial.outcomes, outcomes, strict=True)
            for question, before, after in triples:
                if not any(self.shows(prompt, question) for prompt in prompts):
                    trial.gain += after.score - before.score
        return tried

    def accept(self, tried):
        """Take the children that did strictly better, and score them on all anchor questions."""
        # Where not all can be scored, the largest gains come first.
        better = [trial for trial in tried if trial.gain > 0]
        better.sort(key=lambda trial: -trial.gain)
        accepted = better[: self.left() // len(self.anchor)]

        # From now on they can be parents, too.
        new = self.new_candidates([trial.prompt for trial in accepted])
        self.scored += new
        for trial, child in zip(accepted, new, strict=True):
            change = {
                "topic": trial.topic,
                "old": trial.parent.prompt.get(trial.topic, "none"),
                "new": trial.prompt.get(trial.topic, "none"),
                "before": round(trial.parent.mean, 4),
                "after": round(child.mean, 4),
                "how": trial.how,
            }
            self.report.accepted.append(change)


def evolve(phase: FastPhase, surprise=True) -> Report:
    """Improve the prompts of a population, spending at most the budget: one fast phase.

    With too few calls to score the kept candidates nothing is done. surprise: whether to look
    for a change of the task; a phase that finds one spends up to SURPRISE_BUDGET times as much.
    """
    population = phase.population
    before = population.candidates[0].mean  # of the best one, at the end of the last phase

    # Without scores under today's weights nothing can be compared.
    if phase.budget >= len(phase.scored) * len(phase.anchor):
        phase.rescore()
        if surprise and phase.has_changed(before):
            phase.adapt()

        # Propose, try, accept. Stop before a round of few proposals: it takes as long as one of 16.
        while phase.affordable() > PROPOSALS_AT_ONCE // 4:
            trials = phase.propose(phase.affordable())
            tried = phase.try_children(trials)
            phase.accept(tried)

        # Kept candidates and children compete for the places.
        population.keep_best(phase.scored)
    phase.report.population = [[c.prompt, round(c.mean, 4)] for c in population.candidates]
    return phase.report
