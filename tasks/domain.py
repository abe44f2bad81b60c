"""What a domain is: named operations on small states, and the rules that can be made of them.

A rule is a chain of one to three operation names, carried out from left to right. This file also
decides which rules are *held out*: the pretraining corpus never shows them, so the base model has
never seen them.
"""

import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from random import Random
from typing import Any

TOPICS = ("red", "blue", "green", "gold", "black", "white", "pink", "gray")  # a task uses four
RULE_LENGTHS = (1, 2, 2, 3)  # how many operations the four hidden rules of a task have
ONE_IN = 8  # one class of longer rules in eight is held out, and every triple with such a pair

# Words with a meaning in the formats (formats.py); no operation or state may use them.
KEYWORDS = ("rules", "ask", "answer", "reflect", "recite", "got", "want", "try", "done", "none")
WORD = "[a-z]{1,16}"  # what an operation may be called
STATE = "[a-z0-9]+( [a-z0-9]+)*"  # how a state may be written

Rule = tuple[str, ...]
Results = tuple[str, ...]  # what a rule makes of each probe state, as text


@dataclass(frozen=True)
class Domain:
    """Named operations on small states.

    A state is any Python value. `show` writes it as text; where `ask` writes the same text, states
    are equal.

    Rules are told apart by what they do, not by how they are written: two rules with the same
    results on a fixed set of probe states are one *class* ("raise reverse" and "reverse raise").
    Whole classes are held out of the corpus, so a held-out rule cannot slip in under another
    spelling.
    """

    name: str

    # Name (one lower-case word) -> a pure function that takes any state and returns a state.
    operations: dict[str, Callable[[Any], Any]]

    # Draws a random state of the given difficulty.
    draw: Callable[[Random, int], Any]

    # Difficulty -> its weight in the pretraining corpus. The last ones are rare.
    corpus_difficulties: dict[int, float]

    # The difficulties of a task's questions. With the right prompt, the base should answer
    # about half of them.
    task_difficulties: tuple[int, ...]

    # The words that states are written with; the tokenizer makes each of them one token.
    words: tuple[str, ...]

    # Writes a state as text.
    show: Callable[[Any], str] = " ".join

    # Facts that a question tells first; then come "start", one of `words`, and the state.
    # Operations never change them.
    given: Callable[[Any], list[str]] = lambda state: []

    # What the base does when its prompt has no rule for the topic. (): it makes up any rule.
    habit: Rule = ()

    # The rule behind every topic, for a domain with one right way. (): tasks draw their rules.
    hidden: Rule = ()

    def ask(self, state: Any) -> str:
        """A state as a question shows it: the facts, if the domain has some, and then the state."""
        facts = self.given(state)
        if not facts:
            return self.show(state)
        return " ".join([*facts, "start", self.show(state)])

    def apply(self, rule: Rule, state: Any) -> Any:
        """Carry out a rule on a state, from left to right."""
        for name in rule:
            state = self.operations[name](state)
        return state

    def answer(self, rule: Rule, state: Any) -> str:
        """The answer that a rule gives to the question that shows a state."""
        return self.show(self.apply(rule, state))

    @cached_property
    def seen_difficulties(self) -> list[int]:
        """The difficulties that the corpus shows at least a tenth as often as the commonest."""
        bar = 0.1 * max(self.corpus_difficulties.values())
        return [d for d, weight in self.corpus_difficulties.items() if weight >= bar]

    # --- which rules do the same ---

    def results_at(self, difficulties: Iterable[int]) -> dict[Rule, Results]:
        """Every rule of at most three operations -> its results on probe states of these
        difficulties.

        The rules come in order of length; the first is the empty rule (), which does nothing.
        """
        # The probe states are fixed: six of each difficulty.
        rng = Random(f"probes of {self.name}")
        probes = [self.draw(rng, d) for d in difficulties for _ in range(6)]

        # A rule goes on from the states that the rule without its last operation led to.
        states = {(): probes}
        for length in (1, 2, 3):
            for rule in product(self.operations, repeat=length):
                operation = self.operations[rule[-1]]
                states[rule] = [operation(state) for state in states[rule[:-1]]]

        return {rule: tuple(map(self.show, reached)) for rule, reached in states.items()}

    @cached_property
    def results(self) -> dict[Rule, Results]:
        """Every rule -> its results on the difficulties of the corpus. They identify its class."""
        return self.results_at(self.corpus_difficulties)

    @cached_property
    def classes(self) -> dict[Results, list[Rule]]:
        """Results -> all shortest rules that give them; classes of short rules come first.

        The class of rules that do nothing is left out.
        """
        classes = {}
        for results, rules in alike(self.results).items():
            shortest = len(rules[0])
            if shortest > 0:
                classes[results] = [rule for rule in rules if len(rule) == shortest]
        return classes

    def same(self, words: Rule, rule: Rule) -> bool:
        """Whether words (perhaps no rule) do the same as a rule of at most three operations."""
        return self.results.get(words) == self.results[rule]

    def equivalents(self, rule: Rule) -> list[Rule]:
        """All shortest spellings of a rule."""
        return self.classes[self.results[rule]]

    # --- which rules are held out ---

    @cached_property
    def held_out(self) -> set[Rule]:
        """The rules that the corpus never shows, in all their shortest spellings."""
        held_out = set()
        for results, spellings in self.classes.items():
            # A domain's one right way is always held out; other single operations never are.
            length = len(spellings[0])
            is_held_out = self.hidden in spellings

            # A hash of what the rule does chooses one class in eight: the same in every process.
            if length > 1:
                is_held_out |= zlib.crc32("/".join(results).encode()) % ONE_IN == 0

            # A triple that contains a held-out pair would show the pair. Pairs come before triples.
            if length == 3:
                is_held_out |= any({r[:2], r[1:]} & held_out for r in spellings)

            if is_held_out:
                held_out.update(spellings)
        return held_out

    def rules(self, length: int, held_out: bool = False) -> list[Rule]:
        """The rules of a length that have no shorter spelling: those of the corpus, or the held-out
        ones."""
        return self._rules[length, held_out]

    @cached_property
    def _rules(self) -> dict[tuple[int, bool], list[Rule]]:
        """(length, whether held out) -> rules."""
        table = defaultdict(list)
        for spellings in self.classes.values():
            is_held_out = spellings[0] in self.held_out
            table[len(spellings[0]), is_held_out] += spellings
        return table

    # --- which rules a task may hide ---

    def task_rules(self, length: int) -> list[Rule]:
        """The rules of a length that a task may hide: of two and three operations held-out ones."""
        candidates = self.rules(length, held_out=length > 1)
        return [rule for rule in candidates if rule not in self._unfit]

    @cached_property
    def _unfit(self) -> set[Rule]:
        """Rules that no task may hide."""
        # A search as the corpus shows it never goes on from a held-out pair. So it does not find
        # rules of three operations whose spellings all begin with one.
        unfit = {
            rule
            for rule in self.rules(3, held_out=True)
            if all(other[:2] in self.held_out for other in self.equivalents(rule))
        }

        # Others are easier than they look: at the difficulty of a task, a shorter rule or one of
        # the corpus does the same.
        shown = {rule for length in (1, 2, 3) for rule in self.rules(length)}
        for difficulty in self.task_difficulties:
            for rules in alike(self.results_at([difficulty])).values():
                one_is_shown = not shown.isdisjoint(rules)
                for rule in rules:
                    has_shorter = len(rule) > len(rules[0])
                    if has_shorter or (one_is_shown and rule not in shown):
                        unfit.add(rule)
        return unfit


def alike(results: dict[Rule, Results]) -> dict[Results, list[Rule]]:
    """Results -> the rules that give them, in order of length."""
    groups = defaultdict(list)
    for rule, made in results.items():
        groups[made].append(rule)
    return groups
