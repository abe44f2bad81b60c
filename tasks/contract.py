"""The contract of a domain, checked: everything else relies on what is tested here.

Whoever writes a new domain gets one line that names the operation or state at fault.
"""

import re
from collections.abc import Iterator
from random import Random
from typing import Any

from tasks.domain import KEYWORDS, RULE_LENGTHS, TOPICS, WORD, Domain

CHAINS = 100  # random chains of three operations that are tried out for each difficulty
TOKEN = "[a-z]+|[0-9]"  # what the tokenizer can make one token of: a word or a digit
NOT_TWICE = "answer"  # an answer says it once; in another word it would count, see parse_answer


def problems(domain: Domain) -> Iterator[str]:
    """What breaks the contract, one line each; nothing for a good domain. Takes less than a second.

    After the first problem the others may be its consequences.
    """
    # First the names of its operations.
    for name in domain.operations:
        fits = re.fullmatch(WORD, name) and NOT_TWICE not in name
        if not fits or name in KEYWORDS or name in TOPICS:
            yield (
                f"operation {name!r} must be one lower-case word of at most 16 letters, "
                "and no keyword or topic (nor have 'answer' in it)"
            )

    # The rest calls the domain's own functions, which may raise anything.
    check = Check(domain)
    try:
        for difficulty in {*domain.corpus_difficulties, *domain.task_difficulties}:
            yield from check.run_random_chains(difficulty)
        yield from check.compare_rules()
    except Exception as error:
        yield f"{check.doing} raises {error!r}"


class Check:
    """One domain that is being tried out. Each method yields the problems that it finds."""

    def __init__(self, domain: Domain):
        self.domain = domain
        self.doing = ""  # what is being tried now, for the message
        self.seen = {}  # text -> the first state that was written so

    def run_random_chains(self, difficulty: int) -> Iterator[str]:
        """Try random chains of three operations, each on a random state."""
        domain = self.domain
        drawn = set()
        for seed in range(CHAINS):
            # The same seed must draw the same state.
            self.doing = f"draw at difficulty {difficulty}"
            rng = Random(seed)
            state = domain.draw(rng, difficulty)
            yield from self.check_state(state, domain.draw(Random(seed), difficulty))
            drawn.add(domain.ask(state))

            for name in rng.choices(list(domain.operations), k=3):
                # An operation must leave its argument alone.
                operation = domain.operations[name]
                before = domain.ask(state)
                self.doing = f"operation {name!r} on {before!r}"
                result = operation(state)
                if domain.ask(state) != before:
                    yield f"{self.doing} changes the state that it is given"

                # And it must give the same result when it is called again.
                yield from self.check_state(result, operation(state))
                state = result

        # Tasks need enough different questions.
        if difficulty in domain.task_difficulties and len(drawn) < CHAINS / 2:
            yield (
                f"draw at difficulty {difficulty} gives only {len(drawn)} different states in "
                f"{CHAINS}: too few to train on some and validate on others"
            )

    def check_state(self, state: Any, again: Any) -> Iterator[str]:
        """Problems of a state that was made twice in the same way."""
        # What is drawn or computed must depend on the arguments alone.
        shown = self.domain.ask(state)
        shown_again = self.domain.ask(again)
        if shown_again != shown:
            yield f"{self.doing} gives {shown!r} once and {shown_again!r} another time"

        # The tokenizer knows the domain's words only. A keyword could pose as another part of a
        # text.
        words = shown.split(" ")
        known = {word for word in self.domain.words if NOT_TWICE not in word} - set(KEYWORDS)
        if not all(word in known and re.fullmatch(TOKEN, word) for word in words):
            yield (
                f"{self.doing} gives {shown!r}, which is not written in the domain's words: "
                "lower-case words and single digits, no keywords"
            )

        # Equal texts must mean equal states, or a right answer could be to another question.
        first = self.seen.setdefault(shown, state)
        if first != state:
            yield f"{self.doing} gives {state!r}, written {shown!r} like another state, {first!r}"

    def compare_rules(self) -> Iterator[str]:
        """Of each length there must be enough rules; and a hidden rule must be held out."""
        domain = self.domain
        self.doing = "comparing all rules"

        # Questions without an instruction are answered by the habit.
        if domain.habit and domain.habit not in domain.results:
            yield f"the habit {' '.join(domain.habit)!r} must be one to three of the operations"

        # The one right way is held out in its shortest spelling. (A single operation cannot be: it
        # is part of other rules.)
        if domain.hidden and not (len(domain.hidden) > 1 and domain.hidden in domain.held_out):
            yield (
                f"the hidden rule {' '.join(domain.hidden)!r} must be two or three of the domain's "
                "operations, and no shorter rule may do the same"
            )

        # The corpus needs at least one rule of each length. A task needs different ones: each class
        # counts once, however many spellings it has.
        for length in sorted(set(RULE_LENGTHS)):
            n = len({domain.results[rule] for rule in domain.task_rules(length)})
            few_for_tasks = n < RULE_LENGTHS.count(length) and not domain.hidden
            if few_for_tasks or not domain.rules(length):
                yield (
                    f"the rules of {length} operations are too few, for the corpus or for a task: "
                    "it needs more operations"
                )
