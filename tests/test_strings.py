"""tasks/strings.py: what each operation does, by example, and what all of them keep."""

import random
from collections import Counter

import pytest

from tasks.strings import DOMAIN, LETTERS

EXAMPLES = {  # operation -> what it makes of "d a c b l" and of "d a c b"
    "reverse": ("l b c a d", "b c a d"),
    "left": ("a c b l d", "a c b d"),
    "right": ("l d a c b", "b d a c"),
    "ends": ("l a c b d", "b a c d"),
    "front": ("c d a b l", "c d a b"),
    "pairs": ("a d b c l", "a d b c"),
    "unzip": ("d c l a b", "d c a b"),
    "weave": ("d l a b c", "d b a c"),
    "sort": ("a b c d l", "a b c d"),
    "raise": ("e b d c a", "e b d c"),
    "lower": ("c l b a k", "c l b a"),
    "mirror": ("i l j k a", "i l j k"),
}


@pytest.mark.parametrize("name", DOMAIN.operations)
def test_operation_by_example(name):
    for state, result in zip(("d a c b l", "d a c b"), EXAMPLES[name], strict=True):
        assert DOMAIN.show(DOMAIN.operations[name](tuple(state.split()))) == result


@pytest.mark.parametrize("name", DOMAIN.operations)
def test_letters_stay_distinct_and_as_many(name):
    rng = random.Random(0)
    for length in (1, 2, 3, 4, 7, 8, len(LETTERS)):
        for _ in range(20):
            result = DOMAIN.operations[name](DOMAIN.draw(rng, length))
            assert len(set(result)) == len(result) == length and set(result) <= set(LETTERS)


def test_the_difficulty_is_the_number_of_letters_and_all_are_drawn():
    rng = random.Random(0)
    states = [DOMAIN.draw(rng, 4) for _ in range(500)]
    assert {len(state) for state in states} == {4}
    assert min(Counter(letter for state in states for letter in state).values()) > 100


def test_operations_that_undo_each_other():
    state = DOMAIN.draw(random.Random(0), 7)
    for words in ("raise lower", "left right", "reverse reverse", "ends ends", "pairs pairs"):
        rule = tuple(words.split())
        assert DOMAIN.apply(rule, state) == state
