"""fast_context.py: selection as in GEPA, an exact ledger, and evolution without a model."""

import json
import random
from collections import Counter
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fast_context
from fast_context import (
    Candidate,
    FastPhase,
    Population,
    Trial,
    beyond_noise,
    evolve,
    pareto_fronts,
    select_parents,
    surviving_fronts,
)
from tasks.formats import clean_instruction, parse_prompt, prompt_text
from tasks.world import ToyWorld
from tests import toy

TRUTH = {"red": "reverse", "blue": "sort raise", "green": "left", "gold": "mirror ends left"}
ANCHOR = [SimpleNamespace(topic=topic, id=i) for i in range(6) for topic in TRUTH]
LESSONS = [SimpleNamespace(topic=topic, id=i) for i in range(6, 12) for topic in TRUTH]

is_prompt = ToyWorld().is_prompt


def shows(prompt, question):
    """As in the toy world: no prompt shows a question."""
    return False


class World:
    """A scorer and a reflector that stand in for the model, and count what they are asked."""

    def __init__(self, skill=1.0, insight=0.3, seed=0, truth=TRUTH):
        self.rng = random.Random(seed)
        self.skill = skill
        self.insight = insight
        self.truth = truth
        self.metric_calls = 0
        self.reflections = 0

    def answer(self, jobs):
        assert len({len(questions) for _, questions in jobs}) == 1
        self.metric_calls += sum(len(questions) for _, questions in jobs)
        return [[self.outcome(prompt, q) for q in questions] for prompt, questions in jobs]

    def outcome(self, prompt, question):
        named = prompt.get(question.topic) == self.truth[question.topic]
        right = named and self.rng.random() < self.skill
        return SimpleNamespace(score=float(right), answer="a b")

    def reflect(self, requests):
        self.reflections += len(requests)
        assert all(1 <= len(failures) <= 6 for _, _, failures in requests)
        proposals = []
        for i, (topic, _, _) in enumerate(requests):
            if self.rng.random() < self.insight:
                new = self.truth[topic]
            else:
                new = self.rng.choice(["", "sort", "left left"])
            proposals.append((new, f"reflection {self.reflections} {i}", 1))
        return proposals

    def begin(self, population, budget, anchor=ANCHOR, lessons=LESSONS, n=3):
        """A phase that has not done anything yet."""
        functions = (self.answer, self.reflect, is_prompt, shows)
        return FastPhase(population, anchor, lessons, *functions, n, budget)

    def evolve(self, population, budget, surprise=True, **settings):
        return evolve(self.begin(population, budget, **settings), surprise)

    def phase(self, population, budget=480):
        return self.evolve(population, budget)


def population_of(size, seed, *prompts):
    """A population that starts with several prompts, none made from another."""
    population = Population(size, seed, prompts[0])
    population.candidates = [Candidate(i, prompt) for i, prompt in enumerate(prompts)]
    population.next_id = len(prompts)
    return population


# --- selection ---


def test_fronts_keep_all_ties():
    assert pareto_fronts([[1, 0, 0], [1, 1, 0], [0, 1, 0]]) == [{0, 1}, {1, 2}, {0, 1, 2}]


def test_dominated_candidates_are_dropped_from_the_worst_up():
    # 1 is on every front; 0 and 2 are always on one with it, and both have a lower mean
    assert surviving_fronts([[1, 0, 0], [1, 1, 0], [0, 1, 0]]) == [{1}, {1}, {1}]


def test_pruning_can_starve_the_best_mean():
    # b and c cover what the best mean (a) solves, and each alone solves one question more:
    # only a can be spared
    scores = [[1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 1, 0], [0, 0, 1, 1, 0, 1]]
    assert surviving_fronts(scores) == [{1}, {1}, {2}, {2}, {1}, {2}]
    assert 0 not in select_parents(random.Random(0), scores, 200)


def test_parents_are_drawn_by_the_number_of_their_fronts():
    scores = [[1, 1, 1, 0], [0, 0, 0, 1]]
    counts = Counter(select_parents(random.Random(0), scores, 4000))
    assert counts[0] / 4000 == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize("kind", ["binary", "real"])
def test_survivors_and_frequencies_equal_the_gepa_package(kind):
    gepa = pytest.importorskip("gepa.gepa_utils")
    rng = random.Random(0)

    def draw():
        return rng.choice([0.0, 1.0]) if kind == "binary" else rng.random()

    for _ in range(250):
        n = rng.randint(1, 8)
        m = rng.randint(1, 12)
        scores = [[draw() for _ in range(m)] for _ in range(n)]
        # equal means: the older one first
        means = {i: sum(row) / m + i * 1e-9 for i, row in enumerate(scores)}
        fronts = dict(enumerate(pareto_fronts(scores)))
        theirs = gepa.remove_dominated_programs(fronts, scores=means)
        ours = surviving_fronts(scores)
        assert ours == list(theirs.values())
        our_counts = Counter(i for front in ours for i in front)
        assert our_counts == Counter(i for front in theirs.values() for i in front)


# --- one phase ---


def test_all_four_rules_are_found():
    population = Population(4, seed=0, start={})
    world = World()
    for _ in range(6):
        world.phase(population)
    assert population.candidates[0].prompt == TRUTH and population.candidates[0].mean == 1
    assert population.best == TRUTH


@settings(max_examples=60)
@given(
    budget=st.integers(0, 700),
    size=st.integers(1, 5),
    skill=st.sampled_from([0.5, 1.0]),
    seed=st.integers(0, 99),
)
def test_the_ledger_is_the_worlds_own_count_and_never_above_the_budget(budget, size, skill, seed):
    population = Population(size, seed, start={})
    world = World(skill, seed=seed)
    for _ in range(3):
        metric_calls = world.metric_calls
        reflections = world.reflections
        report = world.phase(population, budget)
        assert report.calls - report.reflections == world.metric_calls - metric_calls
        assert report.reflections == world.reflections - reflections
        assert report.calls <= budget * (fast_context.SURPRISE_BUDGET if report.surprise else 1)
        assert 1 <= len(population.candidates) <= size


def test_an_equal_score_is_not_accepted():
    population = Population(4, seed=0, start={})
    report = World(skill=0.0, insight=1.0).phase(population)
    assert report.proposed > 0 and not report.accepted and population.candidates[0].prompt == {}


def test_right_now_and_then_is_not_enough_a_child_must_beat_its_parent():
    population = Population(4, seed=0, start={"red": "reverse"})
    world = World()

    def outcome(prompt, question):  # of three lessons the parent answers two, a child one
        n_right = 2 if prompt.get("red") == "reverse" else 1
        return SimpleNamespace(score=float(question.id % 3 < n_right), answer="")

    world.outcome = outcome
    world.reflect = lambda requests: [("sort", "how", 1)] * len(requests)
    report = world.phase(population)
    assert report.proposed and not report.accepted


def test_an_accepted_child_is_a_parent_in_the_same_phase():
    population = Population(4, seed=0, start={})
    World(insight=1.0).phase(population)
    assert len(population.best) > 1  # each reflection adds one line


def test_what_is_unreadable_or_known_costs_no_rollout():
    population = Population(4, seed=0, start={})
    world = World()
    world.reflect = lambda requests: [("", "how", 1)] * len(requests)
    assert world.phase(population).proposed == 0

    # each of these proposals turns one candidate into a copy of the other, or leaves it as it is
    population = population_of(4, 0, {}, {"red": "sort"})
    questions = [q for q in LESSONS if q.topic == "red"]
    world.reflect = lambda requests: [("sort", "how", 1)] * len(requests)
    report = world.evolve(population, 200, lessons=questions)
    assert report.proposed == 0


@pytest.mark.parametrize("spare", [0, 6])
@pytest.mark.parametrize("proposals, rounds", [(4, 0), (5, 1)])
def test_a_phase_ends_where_it_can_pay_for_few_proposals_only(proposals, rounds, spare):
    # after the first scores it can pay for these proposals of 3 + 1 + 3 calls, and for one score;
    # six more calls are no proposal
    world = World()
    world.reflect = lambda requests: [("", "how", 1)] * len(requests)
    report = world.phase(Population(4, 0, start={}), 2 * len(ANCHOR) + 7 * proposals + spare)
    assert report.reflections == rounds * proposals


def test_a_change_comes_with_the_reflection_that_made_it(monkeypatch):
    # with half the skill a right proposal often fails: it is accepted in a later round,
    # and for another reflection
    monkeypatch.setattr(fast_context, "PROPOSALS_AT_ONCE", 1)
    population = Population(4, seed=0, start={})
    world = World(skill=0.5, insight=1.0)
    written = {}
    reflect = world.reflect

    def watched(requests):
        proposals = reflect(requests)
        for (topic, _, _), (new, how, _) in zip(requests, proposals, strict=True):
            written[how] = (topic, new)
        return proposals

    world.reflect = watched
    late = 0
    for _ in range(6):
        for change in world.phase(population).accepted:
            new = change["topic"], change["new"]
            assert written[change["how"]] == new
            late += list(written.values()).index(new) < list(written).index(change["how"])
    assert late


def test_reflections_are_about_failures_and_keep_an_instruction_that_earned_something():
    world = World(skill=0.5, insight=0.0)
    reflect = world.reflect
    partly = []

    def watched(requests):
        for topic, old, failures in requests:
            assert all(outcome.score < 1 for _, outcome in failures)
            if len(failures) < 3:  # of a minibatch of three
                partly.append((topic, old))
        return reflect(requests)

    world.reflect = watched
    world.phase(Population(4, seed=0, start=dict(TRUTH)))
    assert len(partly) > 5 and all(old == TRUTH[topic] for topic, old in partly)


def test_a_round_has_16_proposals_of_topics_in_turn_and_no_child_twice():
    world = World(insight=1.0)
    reflect = world.reflect
    rounds = []

    def watched(requests):
        rounds.append([topic for topic, _, _ in requests])
        return reflect(requests)

    world.reflect = watched
    population = Population(9, seed=0, start={})
    world.phase(population)
    assert max(map(len, rounds)) == 16
    assert rounds[0] == 4 * sorted(TRUTH)  # without instructions every parent fails
    prompts = [candidate.prompt for candidate in population.candidates]
    assert len(prompts) > 4 and all(prompts.count(prompt) == 1 for prompt in prompts)


def test_where_not_all_children_can_be_scored_the_largest_gain_comes_first():
    population = Population(4, seed=0, start={})
    phase = World().begin(population, budget=len(ANCHOR))
    [parent] = population.candidates
    small = Trial(parent, "red", [], prompt={"red": "sort"}, gain=1.0)
    large = Trial(parent, "red", [], prompt={"red": "reverse"}, gain=2.0)
    phase.accept([small, large])
    assert [change["new"] for change in phase.report.accepted] == ["reverse"]


def test_of_equally_good_candidates_the_older_one_is_kept():
    population = Population(1, seed=0, start={})
    population.keep_best([Candidate(2, {"red": "a"}, [1.0]), Candidate(1, {"red": "b"}, [1.0])])
    assert population.best == {"red": "b"}


def test_scores_of_old_weights_are_never_compared_with_new_ones():
    population = population_of(4, 0, {"red": "reverse"}, {"blue": "sort raise"})
    world = World(insight=0.0)
    world.phase(population)
    assert population.candidates[0].mean == 0.25
    # the weights moved: red no longer works
    world.truth = dict.fromkeys(TRUTH, "never") | {"blue": "sort raise"}
    world.phase(population)
    assert population.candidates[0].prompt == {"blue": "sort raise"}
    assert {c.mean for c in population.candidates[1:]} == {0}


@pytest.mark.parametrize(
    "start", [[{"red": "reverse"}], [{"red": "reverse"}, {"blue": "sort raise"}, {}]]
)
def test_a_budget_below_scoring_all_changes_nothing(start):
    population = population_of(4, 0, *start)
    report = World().phase(population, budget=len(start) * len(ANCHOR) - 1)
    assert report.calls == 0 and [c.prompt for c in population.candidates] == start


@given(budget=st.integers(len(ANCHOR), 600), seed=st.integers(0, 99))
def test_a_phase_can_score_all_that_phases_of_the_same_budget_have_kept(budget, seed):
    population = Population(9, seed, start={})
    world = World(seed=seed)
    for _ in range(3):
        carried = len(population.candidates)
        report = world.phase(population, budget)
        assert report.calls - report.reflections >= carried * len(ANCHOR)


@pytest.mark.parametrize("seed", range(8))
def test_a_right_prompt_is_never_lost_in_ten_phases(seed):
    population = Population(4, seed, start=dict(TRUTH))
    world = World(skill=0.5, insight=0.1, seed=seed)
    for _ in range(10):
        world.phase(population)
        assert TRUTH in [c.prompt for c in population.candidates]


def test_parents_and_children_answer_lessons_and_only_anchor_questions_score():
    population = Population(4, seed=0, start={})
    world = World(insight=1.0)
    asked = []
    answer = world.answer

    def watched(jobs):
        asked.extend(
            (len(questions), question.id) for _, questions in jobs for question in questions
        )
        return answer(jobs)

    world.answer = watched
    assert world.phase(population).accepted
    assert {number for number, id in asked if id < 6} == {len(ANCHOR)}
    assert {number for number, id in asked if id >= 6} == {3}


# Of 24 lessons each topic has six; of 5 lessons red has two, the others have one.
@pytest.mark.parametrize("n, lessons, answered", [(1, 24, 1), (5, 24, 5), (9, 24, 6), (3, 5, 1)])
def test_a_minibatch_has_so_many_lessons_of_one_topic(n, lessons, answered):
    world = World(insight=1.0)
    sizes = set()
    answer = world.answer

    def watched(jobs):
        sizes.update(len(questions) for _, questions in jobs)
        return answer(jobs)

    world.answer = watched
    report = world.evolve(Population(4, seed=0, start={}), 480, n=n, lessons=LESSONS[:lessons])
    assert sizes == {len(ANCHOR), answered} and report.calls <= 480


def test_a_line_whose_topic_no_anchor_question_has_is_not_dropped():
    population = population_of(4, 0, dict(TRUTH))
    world = World(insight=0.0)
    population.candidates[0].scores = [1.0] * 20
    world.truth = dict.fromkeys(TRUTH, "never")
    asked = 4 * [question for question in ANCHOR if question.topic != "red"]
    report = world.evolve(population, 1000, anchor=asked)
    assert report.surprise and "red: reverse" not in report.dropped
    assert "blue: sort raise" in report.dropped


# --- no leaks ---


class Copier:
    """A model that knows nothing: it answers right where its prompt shows the question.

    Each proposal puts a failed question with its answer into the prompt, and takes no rollout.
    """

    def answer(self, jobs):
        return [[self.outcome(prompt, q) for q in questions] for prompt, questions in jobs]

    def outcome(self, prompt, question):
        return SimpleNamespace(score=float(self.shows(prompt, question)), answer="")

    def shows(self, prompt, question):
        return str(question.id) in prompt.get(question.topic, "").split()

    def reflect(self, requests):
        proposals = []
        for _, old, failures in requests:
            question, _ = failures[0]
            proposals.append((f"{old} {question.id}".strip(), "example", 0))
        return proposals

    def phase(self, population, lessons, shows):
        functions = (self.answer, self.reflect, lambda prompt: True, shows)
        return evolve(FastPhase(population, ANCHOR, lessons, *functions, 3, 480))


def test_a_model_that_only_copies_examples_gains_nothing():
    population = Population(4, seed=0, start={})
    copier = Copier()
    for _ in range(4):
        report = copier.phase(population, LESSONS, copier.shows)
        assert report.proposed > 0 and not report.accepted
    assert population.best == {} and population.candidates[0].mean == 0


def test_the_copier_would_gain_if_shown_questions_counted_or_lessons_were_anchor_questions():
    copier = Copier()
    accepted = copier.phase(Population(4, 0, {}), LESSONS, shows).accepted
    assert accepted and all(child["after"] == 0 for child in accepted)  # others are in the score
    population = Population(4, 0, {})
    copier.phase(population, ANCHOR, shows)
    assert population.candidates[0].mean > 0


def test_a_shown_question_is_left_out_and_the_others_still_count():
    # A prompt that shows anything answers every question.
    population = Population(4, 0, {})
    copier = Copier()
    copier.outcome = lambda prompt, q: SimpleNamespace(score=float(prompt != {}), answer="")
    report = copier.phase(population, LESSONS, copier.shows)
    assert report.accepted and population.candidates[0].mean == 1


def test_a_question_that_only_the_parent_shows_does_not_count():
    first, second, *_ = [question for question in LESSONS if question.topic == "red"]
    parent = Candidate(0, {"red": str(first.id)}, [0.0])
    right, wrong = SimpleNamespace(score=1.0), SimpleNamespace(score=0.0)
    trial = Trial(parent, "red", [first, second], [right, wrong], prompt={"red": "x"})
    phase = World().begin(Population(4, 0, {}), budget=480)
    phase.answer = lambda jobs: [[wrong, right]]
    phase.shows = Copier().shows
    phase.try_children([trial])
    assert trial.gain == 1  # 0 if what the parent copied were held against the child


def test_what_needs_no_rollout_is_not_counted():
    report = Copier().phase(Population(4, 0, {}), LESSONS, Copier().shows)
    assert report.reflections == 0 and report.proposed > 0
    # Its own score, then the answers of parents and of children.
    answers = report.calls - len(ANCHOR)
    assert answers % 3 == 0 and answers // 3 > report.proposed


# --- a changing world ---

OTHER = {"red": "left", "blue": "mirror", "green": "sort sort", "gold": "raise"}


def learned(world, population, phases=6):
    """Let a population find all rules of a world."""
    for _ in range(phases):
        assert not world.phase(population).surprise
    assert population.best == world.truth


def test_when_the_world_changes_what_earns_nothing_is_dropped():
    population, world = Population(4, seed=0, start={}), World(insight=0.5)
    learned(world, population)
    world.truth = dict.fromkeys(TRUTH, "never") | {"gold": TRUTH["gold"]}  # one line still earns
    report = world.phase(population)
    assert report.surprise
    assert {f"{topic}: {TRUTH[topic]}" for topic in ("red", "blue", "green")} <= {*report.dropped}
    assert f"gold: {TRUTH['gold']}" not in report.dropped
    assert population.best.get("gold") == TRUTH["gold"]
    for candidate in population.candidates:
        assert TRUTH["red"] not in candidate.prompt.values()


def test_three_standard_errors_by_hand():
    # Of 48 questions: 9 right answers against none, 31 against 16. A score of 8 cannot fall so far.
    for high, low in ((9, 0), (31, 16)):
        assert beyond_noise(high / 48, low / 48, 48)
        assert beyond_noise(low / 48, high / 48, 48)
        assert not beyond_noise((high - 1) / 48, low / 48, 48)


@pytest.mark.parametrize(
    "gone, surprise", [(["red", "blue"], False), (["red", "blue", "green"], True)]
)
def test_a_surprise_is_less_than_half_of_what_was_earned(gone, surprise):
    population = population_of(4, 0, dict(TRUTH))
    population.candidates[0].scores = [1.0] * len(ANCHOR)
    world = World(insight=0.0, truth=TRUTH | dict.fromkeys(gone, "never"))
    assert world.phase(population).surprise == surprise


def surprised(*memory):
    """A population for which nothing is right any more, and such a world."""
    population = population_of(1, 0, dict(TRUTH))
    population.candidates[0].scores = [1.0] * len(ANCHOR)
    population.memory = list(memory)
    return population, World(insight=0.0, truth=dict.fromkeys(TRUTH, "never"))


def test_a_line_that_still_earns_something_stays():
    population, world = surprised()

    def outcome(prompt, question):
        right = "gold" in prompt and question.topic == "gold" and question.id % 2 == 0
        return SimpleNamespace(score=float(right), answer="")

    world.outcome = outcome
    report = world.phase(population)
    assert report.surprise and len(report.dropped) == 3
    assert population.best == {"gold": TRUTH["gold"]}


def test_what_is_remembered_is_tried_within_the_budget():
    population, world = surprised(*({"red": words} for words in ("sort", "left", "raise", "lower")))
    report = world.phase(population, budget=len(ANCHOR))
    # Of three times the budget: for the old prompt, for what is left of it, for one of the four.
    assert report.surprise and report.calls == 3 * len(ANCHOR)


# Of 24: two more than none may be luck; one is less than ten, by more than chance.
@pytest.mark.parametrize("kept, remembered", [(0, 2), (10, 1)])
def test_what_is_remembered_and_not_clearly_better_stays_out(kept, remembered):
    population, world = surprised({"red": "left"})

    def outcome(prompt, question):
        n_right = remembered if prompt == {"red": "left"} else kept
        return SimpleNamespace(score=float(question in ANCHOR[:n_right]), answer="")

    assert beyond_noise(kept / 24, remembered / 24, 24) == (kept > remembered)
    world.outcome = outcome
    report = world.phase(population)
    assert report.surprise and report.recalled == []


def test_a_change_is_only_noticed_where_it_is_asked_for():
    population, world = Population(4, seed=0, start={}), World(insight=0.5)
    learned(world, population)
    world.truth = OTHER
    report = world.evolve(population, 480, surprise=False)
    assert not report.surprise and not report.dropped and report.calls <= 480


def test_a_phase_with_a_surprise_may_spend_three_times_as_much_and_no_more():
    population, world = Population(4, seed=0, start={}), World(insight=0.5)
    learned(world, population)
    world.truth, world.insight = OTHER, 0.0
    before = world.metric_calls + world.reflections
    report = world.phase(population)
    assert report.surprise and 480 < report.calls <= 3 * 480
    assert report.calls == world.metric_calls + world.reflections - before


@pytest.mark.parametrize("skill", [0.2, 0.5])
def test_in_a_world_that_stands_still_there_is_hardly_ever_a_surprise(skill):
    surprises = phases = 0
    for seed in range(25):
        population, world = Population(4, seed, start={}), World(skill, seed=seed)
        for _ in range(12):
            surprises += world.phase(population).surprise
            phases += 1
    assert surprises <= phases / 100


def test_there_is_no_surprise_while_another_kept_prompt_earns_as_much():
    population = population_of(4, 0, {"red": "left"}, dict(TRUTH))
    population.candidates[0].scores = [1.0] * len(ANCHOR)
    assert not World(insight=0.0).phase(population).surprise


def test_the_oldest_prompt_in_memory_is_tried_before_it_is_forgotten():
    others = [{"red": words} for words in ("sort", "left left", "raise")]
    population, world = surprised(*others, OTHER)
    world.truth = OTHER
    assert world.phase(population).recalled == [OTHER]


def test_a_remembered_prompt_comes_back_when_its_world_does():
    population, world = Population(4, seed=0, start={}), World(insight=0.5)
    learned(world, population)
    world.truth = OTHER
    assert world.phase(population).surprise and population.memory == [TRUTH]
    learned(world, population)
    world.truth, world.insight = TRUTH, 0.0  # nothing can be found anew
    report = world.phase(population)
    assert report.surprise and report.recalled == [TRUTH] and population.best == TRUTH
    assert population.memory == [OTHER, TRUTH]


def test_what_is_remembered_and_earns_nothing_stays_out():
    population, world = Population(4, seed=0, start={}), World(insight=0.5)
    learned(world, population)
    world.truth = OTHER
    world.phase(population)
    learned(world, population)
    world.truth, world.insight = dict.fromkeys(TRUTH, "never"), 0.0
    report = world.phase(population)
    assert report.surprise and report.recalled == []
    assert [candidate.prompt for candidate in population.candidates] == [{}]


def test_the_memory_is_bounded_and_forgets_the_oldest():
    population = Population(4, seed=0, start={}, memory_size=2)
    for words in ("a", "b", "a", "c"):
        population.remember({"red": words})
    assert population.memory == [{"red": "c"}, {"red": "a"}]
    none = Population(4, seed=0, start={}, memory_size=0)
    none.remember({"red": "a"})
    assert none.memory == []


def test_reflections_on_an_instruction_that_earned_nothing_start_from_none_half_of_the_time():
    population, world, starts = population_of(4, 0, dict.fromkeys(TRUTH, "sort sort")), World(0), []
    reflect = world.reflect

    def watched(requests):
        starts.extend(old for _, old, _ in requests)
        return reflect(requests)

    world.reflect = watched
    for _ in range(20):
        world.phase(population)
    assert set(starts) == {"", "sort sort"}  # a right beginning that earns nothing is a start, too
    assert 0.4 < starts.count("") / len(starts) < 0.6


# --- text and state ---

HOSTILE = ["sort\nblue: left", "sort <eos>", "none"]


@settings(max_examples=50)
@given(st.lists(st.one_of(st.text(), st.sampled_from(HOSTILE)), min_size=8, max_size=8))
def test_a_prompt_holds_instructions_alone_whatever_the_reflector_writes(proposals):
    population = Population(4, seed=0, start={})
    world = World()

    def reflect(requests):
        return [(proposal, "", 1) for proposal in (2 * proposals)[: len(requests)]]

    def outcome(prompt, question):
        return SimpleNamespace(score=float(len(prompt)), answer="\n")  # any change is good

    world.reflect = reflect
    world.outcome = outcome
    world.phase(population, budget=300)
    for candidate in population.candidates:
        assert all(clean_instruction(text) for text in candidate.prompt.values())
        assert parse_prompt(prompt_text(candidate.prompt)) == candidate.prompt


@pytest.mark.parametrize("part", ["candidates", "memory"])
def test_a_restored_prompt_cannot_smuggle_in_a_line(part):
    state = Population(4, seed=0, start={"red": "sort"}).state_dict()
    hostile = {"red": "sort\nblue: left"}
    damaged = {"candidates": [[0, hostile, []]], "memory": [hostile]}
    population = Population(4, seed=1, start={})
    with pytest.raises(ValueError, match="prompt") as error:
        population.load_state_dict(state | {part: damaged[part]}, is_prompt)
    assert "\n" not in str(error.value)
    assert population.candidates[0].prompt == {}  # as it was before


def test_restored_population_goes_on_as_if_it_had_never_stopped():
    outcomes = []
    for stop in (False, True):
        population = Population(4, seed=1, start={})
        world = World(seed=5)
        world.phase(population)
        if stop:
            state = json.loads(json.dumps(population.state_dict()))
            population = Population(4, seed=99, start={})
            population.load_state_dict(state, is_prompt)
        world.phase(population)
        outcomes.append(population.state_dict())
    assert outcomes[0] == outcomes[1]


def test_prompts_repeat_the_population_where_it_is_too_small():
    population = population_of(4, 0, {"red": "a"}, {"red": "b"}, {"red": "c"})
    assert [prompt["red"] for prompt in population.prompts(4)] == ["a", "b", "c", "a"]


def test_the_outcome_does_not_depend_on_the_hash_seed(capsys):
    code = (
        "from tests.test_fast_context import *\n"
        "p = Population(4, seed=3, start={})\n"
        "w = World(0.5, seed=3)\n"
        "for _ in range(3): w.phase(p)\n"
        "print(json.dumps(p.state_dict()['candidates']))"
    )
    assert toy.prints_the_same_elsewhere(code, capsys)
