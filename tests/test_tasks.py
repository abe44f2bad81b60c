"""tasks/__init__.py: what a task hides and asks."""

import random
from dataclasses import replace

import pytest

from tasks import RULE_LENGTHS, TOPICS, Domain, domains, make_task, strings
from tests import toy
from tests.test_domain import fresh_states, noting

DOMAINS = pytest.mark.parametrize("domain", domains().values(), ids=domains().keys())


def results_on(domain: Domain, rule: tuple, states: list) -> tuple[str, ...]:
    """What a rule makes of the states, as text."""
    return tuple(domain.show(domain.apply(rule, state)) for state in states)


# --- hidden rules ---


@DOMAINS
def test_a_task_hides_rules_that_differ_and_that_the_base_has_never_seen(domain):
    for seed in range(30):
        rules = make_task(domain.name, seed).rules
        assert list(rules) == list(TOPICS[:4])

        # One right way, whatever the topic.
        if domain.hidden:
            held_out = domain.rules(len(domain.hidden), held_out=True)
            assert set(rules.values()) == {domain.hidden} <= {*held_out}
            continue

        assert sorted(map(len, rules.values())) == sorted(RULE_LENGTHS)
        for rule in rules.values():
            assert rule in domain.rules(len(rule), held_out=len(rule) > 1)

        # Where lengths are even, say, more rules do the same.
        every_known = [rule for length in (1, 2, 3) for rule in domain.rules(length)]
        known = [rule for rule in every_known if rule not in rules.values()]
        longer = [rule for rule in rules.values() if len(rule) > 1]
        for difficulty in domain.task_difficulties:
            states = [domain.draw(random.Random(f"{seed} {i}"), difficulty) for i in range(12)]
            of_corpus = {results_on(domain, rule, states) for rule in known}
            hidden = {results_on(domain, rule, states) for rule in longer}
            assert not hidden & of_corpus

        states = fresh_states(domain, 5)
        results = {results_on(domain, rule, states) for rule in rules.values()}
        assert len(results) == 4, "two topics of one task have the same rule"


def test_of_many_equal_difficulties_the_corpus_shows_each_one_often():
    often = dict.fromkeys(range(5, 16), 1)
    domain = replace(domains()["strings"], corpus_difficulties=often)
    assert domain.seen_difficulties == list(range(5, 16))


@DOMAINS
def test_tasks_are_harder_than_most_of_the_corpus(domain):
    hardest = max(domain.task_difficulties)
    weights = domain.corpus_difficulties
    easier = sum(weight for difficulty, weight in weights.items() if difficulty < hardest)
    assert easier > 0.9 * sum(weights.values())
    assert max(domain.seen_difficulties) < min(domain.task_difficulties)


def test_seeds_give_different_tasks():
    assert len({str(make_task("strings", seed).rules) for seed in range(20)}) == 20


@DOMAINS
def test_a_task_has_the_name_of_its_domain_and_its_rules_as_instructions(domain):
    task = make_task(domain.name, 0)
    assert task.name == domain.name
    split = {topic: tuple(words.split(" ")) for topic, words in task.instructions.items()}
    assert split == task.rules


# --- questions ---


@DOMAINS
def test_questions_are_answered_by_the_topics_rule(domain):
    task = make_task(domain.name, 0)
    rng = random.Random(1)
    again = random.Random(1)
    for question in task.questions(rng, 50):
        assert [question] == task.questions(again, 1)  # a function of the generator alone

    # Note which state each question shows.
    states = {}

    def given(state) -> list[str]:
        states[domain.ask(state)] = state
        return domain.given(state)

    spied = replace(task, domain=replace(domain, given=given))
    for question in spied.questions(random.Random(2), 50):
        result = domain.apply(task.rules[question.topic], states[question.ask])
        assert question.want == domain.show(result)


def test_tasks_do_not_depend_on_the_hash_seed(capsys):
    code = (
        "import random; from tasks import domains, make_task\n"
        "for name in domains():\n"
        "    task = make_task(name, 3); print(task.rules, task.questions(random.Random(0), 20))"
    )
    assert toy.prints_the_same_elsewhere(code, capsys)


# --- names ---


def test_an_unknown_task_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown task 'chess': known tasks are .*strings"):
        make_task("chess", 0)


def test_a_copied_file_with_the_old_name_in_it_is_reported(monkeypatch):
    monkeypatch.setattr(strings, "DOMAIN", replace(strings.DOMAIN, name="numbers"))
    with pytest.raises(ValueError, match=r"the domain in tasks/strings.py is named 'numbers'"):
        domains.__wrapped__()


@DOMAINS
def test_topics_and_difficulties_are_all_as_likely(domain):
    task = make_task(domain.name, 0)
    spy, drawn = noting(domain)
    spied = replace(task, domain=spy)
    topics = [question.topic for question in spied.questions(random.Random(0), 600)]
    for found, wanted in ((topics, task.rules), (drawn, task.difficulties)):
        for one in wanted:
            assert found.count(one) == pytest.approx(len(found) / len(wanted), rel=0.25)


@DOMAINS
def test_validation_shares_no_question_with_the_rest(domain):
    # With few states the same ones would be drawn for all purposes.
    states = fresh_states(domain, 100)
    few = replace(domain, draw=lambda rng, difficulty: rng.choice(states))
    task = replace(make_task(domain.name, 0), domain=few)
    asked = {}
    for purpose in ("questions", "lessons", "validation"):
        found = task.questions(random.Random(purpose), 1500, purpose)
        asked[purpose] = {(question.topic, question.ask) for question in found}
        assert {topic for topic, _ in asked[purpose]} == set(task.rules)
    assert not asked["validation"] & (asked["questions"] | asked["lessons"])
    assert len(asked["validation"]) > 30 and len(asked["questions"]) > 250
