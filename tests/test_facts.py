"""tasks/facts.py: relations are followed as the facts say, for both people."""

import itertools
import random

import pytest

from tasks.facts import DOMAIN, PEOPLE, RELATIONS, Facts

STATE = Facts(
    (
        ("friend", "ann", "bob"), ("friend", "bob", "cid"), ("friend", "cid", "ann"),
        ("boss", "ann", "cid"), ("boss", "cid", "bob"), ("boss", "bob", "ann"),
        ("rival", "bob", "ann"), ("rival", "ann", "cid"), ("rival", "cid", "bob"),
    ),
    ("cid", "ann"),
    ("bob", "cid"),
)  # fmt: skip
EXAMPLES = {
    "friend": "cid ann bob and bob cid ann", "boss": "cid ann cid and bob cid bob",
    "rival": "cid ann cid and bob cid bob", "swap": "bob cid and cid ann",
    "flip": "cid bob and ann cid", "stay": "cid ann ann and bob cid cid",
    "cross": "cid ann cid and bob cid ann", "last": "ann and cid",
}  # fmt: skip


@pytest.mark.parametrize("name", DOMAIN.operations)
def test_operation_by_example(name):
    result = DOMAIN.operations[name](STATE)
    assert DOMAIN.show(result) == EXAMPLES[name] and result.facts == STATE.facts


def test_a_question_tells_the_facts_and_where_to_start():
    asked = DOMAIN.ask(STATE)
    assert asked.startswith("friend ann bob friend bob cid ")
    assert asked.endswith(" rival cid bob start cid ann and bob cid")


def test_each_relation_leads_everybody_to_somebody_else_and_no_two_to_the_same():
    rng = random.Random(0)
    for n in (3, 4, 6):
        state = DOMAIN.draw(rng, n)
        for relation in RELATIONS:
            facts = [(of, who) for r, of, who in state.facts if r == relation]
            assert len(facts) == len({of for of, _ in facts}) == len({who for _, who in facts}) == n
            assert all(of != who for of, who in facts)
        assert len({*state.first, *state.second}) == 2


def test_ways_of_one_person_have_nothing_to_drop():
    state = DOMAIN.draw(random.Random(0), 6)
    for words in ("swap swap", "flip swap", "last", "stay last", "cross last swap"):
        rule = tuple(words.split())
        assert DOMAIN.apply(rule, state) == state


def test_beyond_all_people_facts_are_told_twice():
    state = DOMAIN.draw(random.Random(0), len(PEOPLE) + 7)
    assert len(state.facts) == len(RELATIONS) * len(PEOPLE) + 7
    assert len(set(state.facts)) == len(state.facts) - 7


def test_facts_of_all_relations_come_mixed():
    state = DOMAIN.draw(random.Random(0), 6)
    relations = [relation for relation, _, _ in state.facts]
    assert sum(a != b for a, b in itertools.pairwise(relations)) > 4
