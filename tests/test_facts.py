"""tasks/facts.py: relations are followed as the facts say, both ways, for all three people."""

import random

import pytest

from tasks.facts import DOMAIN, VERBS, Facts

STATE = Facts(
    (
        ("ann", "likes", "bob"), ("bob", "likes", "cid"), ("cid", "likes", "ann"),
        ("ann", "knows", "ann"), ("cid", "knows", "bob"), ("bob", "knows", "cid"),
        ("bob", "helps", "ann"), ("ann", "helps", "bob"), ("cid", "helps", "cid"),
    ),
    ("ann", "bob", "cid"),
)  # fmt: skip
EXAMPLES = {
    "like": "bob cid ann", "liked": "cid ann bob", "know": "ann cid bob", "known": "ann cid bob",
    "help": "bob ann cid", "helped": "bob ann cid", "turn": "bob cid ann", "swap": "bob ann cid",
}  # fmt: skip


@pytest.mark.parametrize("name", DOMAIN.operations)
def test_operation_by_example(name):
    result = DOMAIN.operations[name](STATE)
    assert DOMAIN.show(result) == EXAMPLES[name] and result.facts == STATE.facts


def test_a_question_tells_the_facts_and_where_to_start():
    assert DOMAIN.ask(STATE).startswith("ann likes bob bob likes cid ") and DOMAIN.ask(STATE).endswith(
        " cid helps cid start ann bob cid"
    )


def test_each_relation_leads_everybody_to_somebody_else_than_the_others():
    rng = random.Random(0)
    for n in (3, 4, 6):
        state = DOMAIN.draw(rng, n)
        for verb in VERBS:
            facts = [(who, whom) for who, v, whom in state.facts if v == verb]
            assert len(facts) == len({who for who, _ in facts}) == len({whom for _, whom in facts}) == n
        assert len(set(state.people)) == 3 and list(state.facts) != sorted(state.facts)


def test_relations_can_be_followed_back():
    state = DOMAIN.draw(random.Random(0), 6)
    for rule in (("like", "liked"), ("known", "know"), ("help", "helped"), ("swap", "swap"), ("turn",) * 3):
        assert DOMAIN.apply(rule, state) == state
