"""tasks/numbers.py: what each operation does, by example, and what all of them keep."""

import random

import pytest

from tasks.numbers import DOMAIN

EXAMPLES = {  # operation -> what it makes of 1 9 9 6 and of 0 0 0 5
    "plus": ("2 0 0 3", "0 0 1 2"),
    "minus": ("1 9 8 9", "9 9 9 8"),
    "flip": ("6 9 9 1", "5 0 0 0"),
    "nines": ("8 0 0 3", "9 9 9 4"),
    "triple": ("3 7 7 8", "0 0 0 5"),
    "square": ("1 1 1 6", "0 0 0 5"),
    "five": ("6 4 4 1", "5 5 5 0"),
    "sums": ("1 0 9 5", "0 0 0 5"),
    "gaps": ("1 8 0 7", "0 0 0 5"),
    "order": ("1 6 9 9", "0 0 0 5"),
}


@pytest.mark.parametrize("name", DOMAIN.operations)
def test_operation_by_example(name):
    for state, result in zip(((1, 9, 9, 6), (0, 0, 0, 5)), EXAMPLES[name], strict=True):
        assert DOMAIN.show(DOMAIN.operations[name](state)) == result


@pytest.mark.parametrize("name", DOMAIN.operations)
def test_a_row_keeps_its_length_and_its_digits_are_digits(name):
    rng = random.Random(0)
    for length in (1, 2, 4, 7):
        for _ in range(50):
            result = DOMAIN.operations[name](DOMAIN.draw(rng, length))
            assert len(result) == length and set(result) <= set(range(10))


def test_operations_that_undo_each_other():
    rng = random.Random(0)
    for words in ("plus minus", "sums gaps", "flip flip", "nines nines", "five five"):
        rule = tuple(words.split())
        state = DOMAIN.draw(rng, 6)
        assert DOMAIN.apply(rule, state) == state
