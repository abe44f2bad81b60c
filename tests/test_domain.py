"""tasks/domain.py: which rules are the same, and which are held out of the corpus."""

import random
import zlib
from dataclasses import replace

import pytest

from tasks import Domain, domains

DOMAINS = pytest.mark.parametrize("domain", domains().values(), ids=domains().keys())


def fresh_states(domain: Domain, n: int) -> list:
    """n random states of each difficulty, other ones than those that rules are told apart by."""
    rng = random.Random("fresh")
    difficulties = [*domain.corpus_difficulties, *domain.task_difficulties]
    return [domain.draw(rng, difficulty) for difficulty in difficulties for _ in range(n)]


def rules_in_order(domain: Domain) -> list[tuple]:
    """Every rule of one to three operations, in order of length."""
    rules = [()]
    every = []
    for _ in range(3):
        rules = [(*rule, name) for rule in rules for name in domain.operations]
        every += rules
    return every


def behaviour(domain: Domain, states: list) -> dict[tuple, tuple]:
    """Every rule of at most three operations -> what it makes of the states."""
    results = {(): states}
    for rule in rules_in_order(domain):
        operation = domain.operations[rule[-1]]
        results[rule] = [operation(state) for state in results[rule[:-1]]]
    return {rule: tuple(map(domain.show, made)) for rule, made in results.items()}


@DOMAINS
def test_rules_that_count_as_the_same_are_the_same_on_any_state(domain):
    # With too few probe states, a held-out rule could be a corpus rule under another name.
    results = behaviour(domain, fresh_states(domain, 15))
    del results[()]
    owner = {}
    for rule, made in results.items():
        first = owner.setdefault(made, rule)
        assert domain.same(first, rule), f"{first} and {rule} do the same on all fresh states"
    for spellings in domain.classes.values():
        different = {results[rule] for rule in spellings}
        assert len(different) == 1, f"{spellings} differ on a fresh state"


@DOMAINS
def test_rules_are_no_longer_than_they_need_be(domain):
    results = behaviour(domain, fresh_states(domain, 8))
    shortest = {}
    for rule, made in results.items():  # the identity first, then in order of length
        shortest.setdefault(made, len(rule))
    for length in (1, 2, 3):
        for rule in domain.rules(length) + domain.rules(length, held_out=True):
            assert len(rule) == length
            assert length == shortest[results[rule]], f"{rule} can be said shorter"


@DOMAINS
def test_no_class_is_both_held_out_and_in_the_corpus(domain):
    for length in (2, 3):
        known = domain.rules(length)
        held_out = domain.rules(length, held_out=True)
        assert known and held_out

        # A triple is held out with each of its pairs, so more than one in eight are.
        assert len(known) > len(held_out) or length == 3
        assert 2 * len(known) > len(held_out)

        # Classes are held out as a whole.
        known_classes = {domain.equivalents(rule)[0] for rule in known}
        held_out_classes = {domain.equivalents(rule)[0] for rule in held_out}
        assert not known_classes & held_out_classes
        spellings = {other for rule in held_out for other in domain.equivalents(rule)}
        assert set(held_out) == spellings
    assert not domain.rules(1, held_out=True)


def noting(domain: Domain) -> tuple[Domain, list[int]]:
    """A domain that notes the difficulties of the states that it draws, and these."""
    drawn = []

    def draw(rng, difficulty):
        drawn.append(difficulty)
        return domain.draw(rng, difficulty)

    return replace(domain, draw=draw), drawn


# A base knows the other rules: with another split tasks would hide rules that it has seen.
HELD_OUT = {
    "facts": 2849190001,
    "numbers": 3473735130,
    "star_graph": 3392205601,
    "strings": 3845845365,
}


def test_the_held_out_rules_are_those_of_the_shipped_base():
    found = {}
    for name, domain in domains().items():
        found[name] = zlib.crc32(repr(sorted(domain.held_out)).encode())
    assert found == HELD_OUT


@DOMAINS
def test_a_search_can_find_every_rule_that_a_task_may_hide(domain):
    # It never goes on from a held-out pair.
    for rule in domain.task_rules(3):
        starts = {other[:2] for other in domain.equivalents(rule)}
        assert not starts <= domain.held_out, f"no search finds {rule}"
