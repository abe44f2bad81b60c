"""tasks/contract.py: domains that break the contract are reported."""

import random
from dataclasses import replace

import pytest

import tasks
from tasks import Domain, domains, numbers, strings
from tasks.contract import problems

DOMAINS = pytest.mark.parametrize("domain", domains().values(), ids=domains().keys())
GOOD = strings.DOMAIN


def with_operation(name="bad", operation=lambda s: s[::-1], **changes) -> Domain:
    return replace(GOOD, operations=GOOD.operations | {name: operation}, **changes)


def with_operations_only(*names: str, **changes) -> Domain:
    operations = {name: GOOD.operations[name] for name in names}
    return replace(GOOD, operations=operations, **changes)


def with_word(word: str) -> Domain:
    return with_operation(operation=lambda s: (*s, word), words=(*GOOD.words, word))


def in_place(state: list) -> list:
    state.sort()
    return state


BROKEN = {  # what is wrong -> the domain, and what its message says
    # --- operations ---
    "raises": (
        with_operation(operation=lambda s: s[99]),
        "operation 'bad' on '.*' raises IndexError",
    ),
    "raises on rare states": (
        with_operation(operation=lambda s: s if s[0] != "a" else 1 / 0),
        "'bad' on 'a .*raises Z",
    ),
    "returns nothing": (
        with_operation(operation=lambda s: None),
        "operation 'bad' on '.*' raises TypeError",
    ),
    "another type": (
        with_operation(operation=list),
        "operation 'bad' on .* like another state",
    ),
    "unknown word": (
        with_operation(operation=lambda s: (*s, "zoo")),
        "'bad' on .*zoo', which is not written in",
    ),
    "upper case": (
        with_operation(operation=lambda s: (s[0].upper(),)),
        "'bad' on .* gives '.', which is not written",
    ),
    "empty state": (
        with_operation(operation=lambda s: ()),
        "'bad' on .* gives '', which is not written",
    ),
    "not deterministic": (
        with_operation(operation=lambda s: tuple(random.sample(s, len(s)))),
        "'bad' .* another time",
    ),
    "changes its input": (
        replace(
            GOOD,
            operations={"bad": in_place},
            draw=lambda rng, n: rng.sample("abcdefgh", n),
        ),
        "operation 'bad' on .* changes the state that it is given",
    ),
    # --- states ---
    "two lines": (replace(GOOD, show="\n".join), "draw at .* is not written in"),
    "draws from elsewhere": (
        replace(GOOD, draw=lambda rng, n: tuple(random.sample("abcdefgh", n))),
        "draw at .* once",
    ),
    "cannot draw": (
        replace(GOOD, draw=lambda rng, n: tuple(rng.sample("abcde", n))),
        "draw at difficulty . raises V",
    ),
    "few states": (
        replace(GOOD, draw=lambda rng, n: tuple("abcdefgh"[:n])),
        "only 1 different states",
    ),
    "lossy text": (replace(GOOD, show=lambda s: " ".join(s[:3])), "like another state"),
    # --- names of operations ---
    "two words": (
        with_operation("swap ends"),
        "operation 'swap ends' must be one lower-case word",
    ),
    "capital": (with_operation("Sort"), "operation 'Sort' must be"),
    "no name": (with_operation(""), "operation '' must be"),
    "long name": (with_operation("a" * 17), "at most 16 letters"),
    "keyword": (with_operation("answer"), "operation 'answer' must be .* no keyword"),
    "topic": (with_operation("red"), "operation 'red' must be .* or topic"),
    "keyword in a name": (with_operation("answers"), "operation 'answers' must be .* 'answer' in"),
    # --- words of states ---
    "keyword in a word": (with_word("answered"), "'bad' on .* answered', which is not written in"),
    "word in capitals": (with_word("Ann"), "'bad' on .* Ann', which is not written in"),
    "word with digit": (with_word("x1"), "'bad' on .* x1', which is not written in"),
    "two digits in one": (
        replace(numbers.DOMAIN, name="strings", operations={"bad": lambda s: (*s, 34)}),
        "'bad' on .* 34', which is not written in",
    ),
    "number as a word": (with_word("12"), "'bad' on .* 12', which is not written in"),
    "keyword as a word": (with_word("none"), "'bad' on .* none', .*: lower-case .* no keywords"),
    # --- rules ---
    "an operation of the habit": (
        replace(GOOD, habit=("srot",)),
        "habit 'srot' must be one to three of the operations",
    ),
    "an operation of the hidden rule": (
        replace(GOOD, hidden=("left", "srot")),
        "hidden rule 'left srot' must be two",
    ),
    "a long hidden rule": (
        replace(GOOD, hidden=("left",) * 4),
        "hidden rule 'left left left left' must be two or t",
    ),
    "a hidden rule of one operation": (
        replace(GOOD, hidden=("left",)),
        "hidden rule 'left' must be two or three of the domain's operations",
    ),
    "a long spelling of the hidden rule": (
        replace(GOOD, hidden=("reverse", "sort")),
        "hidden rule 'reverse sort' .* no shorter rule may do the same",
    ),
    "two operations and a hidden rule": (
        with_operations_only("reverse", "mirror", hidden=("reverse", "mirror")),
        "the rules of 2 operations are too few",
    ),
    "too few operations": (
        with_operations_only(*list(GOOD.operations)[:2]),
        "the rules of 2 operations are too few, for the corpus or for a task",
    ),
}


@DOMAINS
def test_no_domain_breaks_the_contract(domain):
    assert list(problems(domain)) == []


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_domain_is_reported_by_name_in_one_line(kind, monkeypatch):
    domain, message = BROKEN[kind]
    monkeypatch.setattr(strings, "DOMAIN", domain)
    # The other domains are tested above.
    monkeypatch.setattr(tasks, "problems", lambda one: problems(one) if one is domain else [])
    with pytest.raises(ValueError, match=message) as error:
        domains.__wrapped__()
    assert str(error.value).startswith("domain 'strings': ") and "\n" not in str(error.value)


def test_no_held_out_rule_of_three_operations_is_reported(monkeypatch):
    rules = Domain.rules

    def without_held_out_triples(self, n, held_out=False):
        return [] if n == 3 and held_out else rules(self, n, held_out)

    monkeypatch.setattr(Domain, "rules", without_held_out_triples)
    fresh = replace(GOOD)  # nothing is cached in it yet
    assert list(problems(fresh)) == [
        "the rules of 3 operations are too few, for the corpus or for a task: "
        "it needs more operations"
    ]
