"""tasks/facts.py: relations are followed as the facts say, for both people."""

import random

import pytest

from tasks.facts import DOMAIN, VERBS, Facts

STATE = Facts(
    (
        ("ann", "likes", "bob"), ("bob", "likes", "cid"), ("cid", "likes", "ann"),
        ("ann", "knows", "cid"), ("cid", "knows", "bob"), ("bob", "knows", "ann"),
        ("bob", "helps", "ann"), ("ann", "helps", "cid"), ("cid", "helps", "bob"),
        ("bob", "calls", "cid"), ("ann", "calls", "bob"), ("cid", "calls", "ann"),
    ),
    ("cid", "ann", "bob", "cid"),
)  # fmt: skip
EXAMPLES = {
    "like": "cid ann bob cid cid ann", "know": "cid ann bob cid ann bob", "help": "cid ann bob cid ann bob",
    "call": "cid ann bob cid cid ann", "swap": "ann cid cid bob", "stay": "cid ann bob cid bob cid",
    "cross": "cid ann bob cid cid bob", "last": "bob cid",
}  # fmt: skip


@pytest.mark.parametrize("name", DOMAIN.operations)
def test_operation_by_example(name):
    result = DOMAIN.operations[name](STATE)
    assert DOMAIN.show(result) == EXAMPLES[name] and result.facts == STATE.facts


def test_a_question_tells_the_facts_and_where_to_start():
    assert DOMAIN.ask(STATE).startswith("ann likes bob bob likes cid ") and DOMAIN.ask(STATE).endswith(
        " cid calls ann start cid ann bob cid"
    )


def test_each_relation_leads_everybody_to_somebody_else_and_no_two_to_the_same():
    rng = random.Random(0)
    for n in (3, 4, 6):
        state = DOMAIN.draw(rng, n)
        for verb in VERBS:
            facts = [(who, whom) for who, v, whom in state.facts if v == verb]
            assert len(facts) == len({who for who, _ in facts}) == len({whom for _, whom in facts}) == n
            assert all(who != whom for who, whom in facts)
        assert len(set(state.people)) == 2 and list(state.facts) != sorted(state.facts)


def test_the_way_of_one_pair_has_nothing_to_drop():
    state = DOMAIN.draw(random.Random(0), 6)
    for rule in (("swap", "swap"), ("last",), ("stay", "last"), ("cross", "last", "swap")):
        assert DOMAIN.apply(rule, state) == state
