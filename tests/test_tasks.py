"""tasks/__init__.py: what a task hides and asks, and domains that break the contract."""

import os
import random
import subprocess
import sys
from dataclasses import replace

import pytest

from tasks import RULE_LENGTHS, TOPICS, Domain, domains, make_task, problems, strings

DOMAINS = pytest.mark.parametrize("domain", domains().values(), ids=domains().keys())


def fresh_states(domain: Domain, n: int) -> list:
    """n random states of each difficulty, other ones than those that rules are told apart by."""
    rng = random.Random("fresh")
    return [domain.draw(rng, d) for d in [*domain.corpus_difficulties, *domain.task_difficulties] for _ in range(n)]


def behaviour(domain: Domain, states: list) -> dict[tuple, tuple]:
    """Every rule of at most three operations -> what it makes of the states."""
    results = {(): states}
    for rule in results_in_order(domain):
        results[rule] = [domain.operations[rule[-1]](state) for state in results[rule[:-1]]]
    return {rule: tuple(map(domain.show, made)) for rule, made in results.items()}


def results_in_order(domain: Domain) -> list[tuple]:
    rules, every = [()], []
    for _ in range(3):
        rules = [(*rule, name) for rule in rules for name in domain.operations]
        every += rules
    return every


# --- rules ---


@DOMAINS
def test_rules_that_count_as_the_same_are_the_same_on_any_state(domain):
    # with too few probes a held-out rule could be a corpus rule under another name
    results = behaviour(domain, fresh_states(domain, 15))
    del results[()]
    owner = {}
    for rule, made in results.items():
        first = owner.setdefault(made, rule)
        assert domain.same(first, rule), f"{first} and {rule} do the same on all fresh states"
    for spellings in domain.classes.values():
        assert len({results[rule] for rule in spellings}) == 1, f"{spellings} differ on a fresh state"


@DOMAINS
def test_rules_are_no_longer_than_they_need_be(domain):
    results = behaviour(domain, fresh_states(domain, 8))
    shortest = {}
    for rule, made in results.items():  # the identity first, then in order of length
        shortest.setdefault(made, len(rule))
    for length in (1, 2, 3):
        for rule in domain.rules(length) + domain.rules(length, held_out=True):
            assert len(rule) == length == shortest[results[rule]], f"{rule} can be said shorter"


@DOMAINS
def test_no_class_is_both_held_out_and_in_the_corpus(domain):
    for length in (2, 3):
        known, held_out = domain.rules(length), domain.rules(length, held_out=True)
        assert known and held_out
        assert len(known) > len(held_out) or length == 3  # a triple is held out with each of its pairs
        assert 2 * len(known) > len(held_out)
        assert not {domain.equivalents(r)[0] for r in known} & {domain.equivalents(r)[0] for r in held_out}
        assert set(held_out) == {other for rule in held_out for other in domain.equivalents(rule)}
    assert not domain.rules(1, held_out=True)


# --- tasks ---


@DOMAINS
def test_a_task_hides_rules_that_differ_and_that_the_base_has_never_seen(domain):
    for seed in range(30):
        rules = make_task(domain.name, seed).rules
        assert list(rules) == list(TOPICS[:4])
        if domain.hidden:  # one right way, whatever the topic
            assert set(rules.values()) == {domain.hidden} <= {*domain.rules(len(domain.hidden), held_out=True)}
            continue
        assert sorted(map(len, rules.values())) == sorted(RULE_LENGTHS)
        assert all(rule in domain.rules(len(rule), held_out=len(rule) > 1) for rule in rules.values())
        known = [rule for n in (1, 2, 3) for rule in domain.rules(n) if rule not in rules.values()]
        for difficulty in domain.task_difficulties:  # where lengths are even, say, more rules do the same
            states = [domain.draw(random.Random(f"{seed} {i}"), difficulty) for i in range(12)]
            of_corpus = {tuple(domain.show(domain.apply(r, s)) for s in states) for r in known}
            hidden = {tuple(domain.show(domain.apply(r, s)) for s in states) for r in rules.values() if len(r) > 1}
            assert not hidden & of_corpus
        results = {tuple(domain.show(domain.apply(r, s)) for s in fresh_states(domain, 5)) for r in rules.values()}
        assert len(results) == 4, "two topics of one task have the same rule"


@DOMAINS
def test_tasks_are_harder_than_most_of_the_corpus(domain):
    hardest = max(domain.task_difficulties)
    easier = sum(weight for d, weight in domain.corpus_difficulties.items() if d < hardest)
    assert easier > 0.9 * sum(domain.corpus_difficulties.values())
    assert max(domain.seen_difficulties) < min(domain.task_difficulties)


def test_seeds_give_different_tasks():
    assert len({str(make_task("strings", seed).rules) for seed in range(20)}) == 20


@DOMAINS
def test_questions_are_answered_by_the_topics_rule(domain):
    task = make_task(domain.name, 0)
    rng, again = random.Random(1), random.Random(1)
    for question in task.questions(rng, 50):
        assert question == task.question(again)  # a function of the generator alone
    states = {}

    def given(state) -> list[str]:
        states[domain.ask(state)] = state
        return domain.given(state)

    spied = replace(task, domain=replace(domain, given=given))
    for question in spied.questions(random.Random(2), 50):
        assert question.want == domain.show(domain.apply(task.rules[question.topic], states[question.ask]))


@DOMAINS
def test_training_and_validation_questions_never_meet(domain):
    task = make_task(domain.name, 0)
    train = {(q.topic, q.ask) for q in task.questions(random.Random(0), 3000)}
    validation = {(q.topic, q.ask) for q in task.questions(random.Random(1), 600, validation=True)}
    assert not train & validation and len(validation) > 100
    assert {topic for topic, _ in train} == {topic for topic, _ in validation} == set(task.rules)


def test_an_unknown_task_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown task 'chess': known tasks are .*strings"):
        make_task("chess", 0)


def test_tasks_do_not_depend_on_the_hash_seed():
    code = (
        "import random; from tasks import domains, make_task\n"
        "for name in domains():\n"
        "    task = make_task(name, 3); print(task.rules, task.questions(random.Random(0), 20))"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": h}, capture_output=True)
        for h in ("1", "2")
    ]
    assert runs[0].returncode == 0 and runs[0].stdout and runs[0].stdout == runs[1].stdout


# --- domains that break the contract ---

GOOD = strings.DOMAIN


def with_operation(name="bad", operation=lambda s: s[::-1], **changes) -> Domain:
    return replace(GOOD, operations=GOOD.operations | {name: operation}, **changes)


def in_place(state: list) -> list:
    state.sort()
    return state


BROKEN = {
    "raises": (with_operation(operation=lambda s: s[99]), "operation 'bad' on '.*' raises IndexError"),
    "raises on rare states": (
        with_operation(operation=lambda s: s if s[0] != "a" else 1 / 0),
        "'bad' on 'a .*raises Z",
    ),
    "returns nothing": (with_operation(operation=lambda s: None), "operation 'bad' on '.*' raises TypeError"),
    "another type": (with_operation(operation=list), "operation 'bad' on .* like another state"),
    "unknown word": (with_operation(operation=lambda s: (*s, "zoo")), "'bad' on .*zoo', which is not written in"),
    "upper case": (with_operation(operation=lambda s: (s[0].upper(),)), "'bad' on .* gives '.', which is not written"),
    "empty state": (with_operation(operation=lambda s: ()), "'bad' on .* gives '', which is not written"),
    "two lines": (replace(GOOD, show="\n".join), "draw at .* is not written in"),
    "not deterministic": (with_operation(operation=lambda s: tuple(random.sample(s, len(s)))), "'bad' .* another time"),
    "changes its input": (
        replace(GOOD, operations={"bad": in_place}, draw=lambda rng, n: rng.sample("abcdefgh", n)),
        "operation 'bad' on .* changes the state that it is given",
    ),
    "draws from elsewhere": (replace(GOOD, draw=lambda rng, n: tuple(random.sample("abcdefgh", n))), "draw at .* once"),
    "cannot draw": (replace(GOOD, draw=lambda rng, n: tuple(rng.sample("abcde", n))), "draw at difficulty . raises V"),
    "few states": (replace(GOOD, draw=lambda rng, n: tuple("abcdefgh"[:n])), "only 1 different states"),
    "lossy text": (replace(GOOD, show=lambda s: " ".join(s[:3])), "like another state"),
    "two words": (with_operation("swap ends"), "operation 'swap ends' must be one lower-case word"),
    "capital": (with_operation("Sort"), "operation 'Sort' must be"),
    "no name": (with_operation(""), "operation '' must be"),
    "long name": (with_operation("a" * 17), "at most 16 letters"),
    "keyword": (with_operation("answer"), "operation 'answer' must be .* no keyword"),
    "topic": (with_operation("red"), "operation 'red' must be .* or topic"),
    "word in capitals": (replace(GOOD, words=(*GOOD.words, "Ann")), "word 'Ann' must be"),
    "word with digit": (replace(GOOD, words=(*GOOD.words, "x1")), "word 'x1' must be"),
    "number as a word": (replace(GOOD, words=(*GOOD.words, "12")), "word '12' must be"),
    "keyword as a word": (replace(GOOD, words=(*GOOD.words, "none")), "word 'none' must be"),
    "an operation of the habit": (
        replace(GOOD, habit=("srot",)),
        "habit 'srot' must be one to three of the domain's operations",
    ),
    "an operation of the hidden rule": (replace(GOOD, hidden=("left", "srot")), "hidden rule 'left srot' must be one"),
    "a long hidden rule": (replace(GOOD, hidden=("left",) * 4), "hidden rule 'left left left left' must be one to t"),
    "two operations and a hidden rule": (
        replace(
            GOOD,
            operations={name: GOOD.operations[name] for name in ("reverse", "mirror")},
            hidden=("reverse", "mirror"),
        ),
        "no rule of . operations is left for the corpus",
    ),
    "too few operations": (
        replace(GOOD, operations={name: GOOD.operations[name] for name in list(GOOD.operations)[:2]}),
        "held-out rules of 2 operations are too few",
    ),
}


@DOMAINS
def test_no_domain_breaks_the_contract(domain):
    assert list(problems(domain)) == []


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_domain_is_reported_by_name_in_one_line(kind, monkeypatch):
    domain, message = BROKEN[kind]
    monkeypatch.setattr(strings, "DOMAIN", domain)
    with pytest.raises(ValueError, match=message) as error:
        domains.__wrapped__()
    assert str(error.value).startswith("domain 'strings': ") and "\n" not in str(error.value)


def test_no_held_out_rule_of_three_operations_is_reported(monkeypatch):
    rules = Domain.rules
    monkeypatch.setattr(
        Domain, "rules", lambda self, n, held_out=False: [] if n == 3 and held_out else rules(self, n, held_out)
    )
    assert list(problems(replace(GOOD))) == [
        "0 held-out rules of 3 operations are too few for a task: it needs more operations"
    ]


def test_a_copied_file_with_the_old_name_in_it_is_reported(monkeypatch):
    monkeypatch.setattr(strings, "DOMAIN", replace(GOOD, name="numbers"))
    with pytest.raises(ValueError, match=r"the domain in tasks/strings.py is named 'numbers'"):
        domains.__wrapped__()
