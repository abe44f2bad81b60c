"""What a domain is: named operations on small states, and the rules that can be made of them.

A rule is a chain of one to three operation names, carried out from left to right. This file also
decides which rules are *held out*: the pretraining corpus never shows them, so the base model has
never seen them.
"""

import random
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

TOPICS = ("red", "blue", "green", "gold", "black", "white", "pink", "gray")  # a task uses four
RULE_LENGTHS = (1, 2, 2, 3)  # how many operations the four hidden rules of a task have
ONE_IN = 8  # of the classes of 2- and 3-operation rules, one in eight is held out of the corpus

# Words with a meaning in the formats (formats.py); no operation or state may use them.
KEYWORDS = ("rules", "ask", "answer", "reflect", "recite", "got", "want", "try", "done", "none")
WORD = "[a-z]{1,16}"  # what an operation may be called
STATE = "[a-z0-9]+( [a-z0-9]+)*"  # how a state may be written

Rule = tuple[str, ...]
Results = tuple[str, ...]  # what a rule makes of each probe state, as text


@dataclass(frozen=True)
class Domain:
    """Named operations on small states.

    A state is any Python value. `show` writes it as text, and equal texts mean equal states.

    Rules are told apart by what they do, not by how they are written: two rules with the same
    results on a fixed set of probe states are one *class* ("raise reverse" and "reverse raise").
    Whole classes are held out of the corpus, so a held-out rule cannot slip in under another
    spelling.
    """

    name: str

    # Name (one lower-case word) -> a pure function that takes any state and returns a state.
    operations: dict[str, Callable[[Any], Any]]

    # Draws a random state of the given difficulty.
    draw: Callable[[random.Random, int], Any]

    # Difficulty -> its weight in the pretraining corpus. The last ones are rare.
    corpus_difficulties: dict[int, float]

    # The difficulties of a task's questions. With the right prompt, the base should answer
    # about half of them.
    task_difficulties: tuple[int, ...]

    # The words that states are written with; the tokenizer makes each of them one token.
    words: tuple[str, ...]

    # Writes a state as text.
    show: Callable[[Any], str] = " ".join

    # Facts that the question tells before the state. Operations never change them.
    given: Callable[[Any], list[str]] = lambda state: []

    # What the base does when its prompt has no rule for the topic. None: it makes up any rule.
    habit: Rule | None = None

    # The rule behind every topic, for a domain with one right way. None: tasks draw their rules.
    hidden: Rule | None = None

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

    @cached_property
    def seen_difficulties(self) -> list[int]:
        """The difficulties that the corpus shows often: in at least a tenth of its documents."""
        bar = 0.1 * sum(self.corpus_difficulties.values())
        return [d for d, weight in self.corpus_difficulties.items() if weight >= bar]

    # --- which rules do the same ---

    def results_at(self, difficulties: Iterable[int]) -> dict[Rule, Results]:
        """Every rule of at most three operations -> its results on probe states of these
        difficulties.

        The rules come in order of length; the first is the empty rule (), which does nothing.
        """
        # The probe states are fixed: six of each difficulty.
        rng = random.Random(f"probes of {self.name}")
        probes = [self.draw(rng, d) for d in difficulties for _ in range(6)]

        # A longer rule goes on from the states that the rule without its last operation led to.
        states = {(): probes}
        for length in range(3):
            shorter = [rule for rule in states if len(rule) == length]
            for rule in shorter:
                for name, operation in self.operations.items():
                    states[*rule, name] = [operation(state) for state in states[rule]]

        return {rule: tuple(map(self.show, reached)) for rule, reached in states.items()}

    @cached_property
    def results(self) -> dict[Rule, Results]:
        """Every rule -> its results on the difficulties of the corpus. They identify its class."""
        return self.results_at(self.corpus_difficulties)

    @cached_property
    def classes(self) -> dict[Results, list[Rule]]:
        """Results -> all shortest rules that give them. The class of rules that do nothing is left
        out."""
        classes: dict[Results, list[Rule]] = {}
        for rule, results in self.results.items():
            # Rules come in order of length, so the first spelling of a class is a shortest one.
            spellings = classes.setdefault(results, [])
            if not spellings or len(spellings[0]) == len(rule):
                spellings.append(rule)

        nothing = self.results[()]
        del classes[nothing]
        return classes

    def same(self, a: Rule, b: Rule) -> bool:
        """Whether two rules of at most three operations do the same."""
        return self.results[a] == self.results[b]

    def equivalents(self, rule: Rule) -> list[Rule]:
        """All shortest spellings of a rule."""
        return self.classes[self.results[rule]]

    # --- which rules are held out ---

    def rules(self, length: int, held_out: bool = False) -> list[Rule]:
        """The rules of a length that have no shorter spelling: those of the corpus, or the held-out
        ones."""
        return self._rules.get((length, held_out), [])

    @cached_property
    def _rules(self) -> dict[tuple[int, bool], list[Rule]]:
        """(length, whether held out) -> rules."""
        table: dict[tuple[int, bool], list[Rule]] = {}
        for results, spellings in self.classes.items():
            # Classes come in order of length, so all pairs are in the table before the triples.
            held_out_pairs = table.get((2, True), [])
            held_out = self._is_held_out(results, spellings, held_out_pairs)
            key = (len(spellings[0]), held_out)
            table.setdefault(key, []).extend(spellings)
        return table

    def _is_held_out(self, results: Results, spellings: list[Rule], held_out_pairs: list) -> bool:
        """Whether a class is held out of the corpus."""
        # A domain's one right way is always held out; other single operations never are.
        if self.hidden in spellings:
            return True
        if len(spellings[0]) == 1:
            return False

        # A hash of what the rule does chooses one class in eight: the same ones in every process.
        if zlib.crc32("/".join(results).encode()) % ONE_IN == 0:
            return True

        # A triple that contains a held-out pair would show the pair.
        return any(r[:2] in held_out_pairs or r[1:] in held_out_pairs for r in spellings)

    # --- which rules a task may hide ---

    @cached_property
    def task_rules(self) -> dict[int, list[Rule]]:
        """Length -> the rules that a task may hide. Those of two and three operations are held out.

        Left out are rules that a search as the corpus shows it cannot find, and rules that are
        easier than they look: at the difficulty of a task, a shorter rule or one of the corpus does
        the same.
        """
        unfit = self._not_found_by_search()
        for difficulty in self.task_difficulties:
            unfit |= self._too_easy(difficulty)

        table = {}
        for length in sorted(set(RULE_LENGTHS)):
            candidates = self.rules(length, held_out=length > 1)
            table[length] = [rule for rule in candidates if rule not in unfit]
        return table

    def _not_found_by_search(self) -> set[Rule]:
        """Rules of three operations whose spellings all begin with a held-out pair.

        The searches of the corpus never go on from such a pair.
        """
        held_out_pairs = self.rules(2, held_out=True)
        not_found = set()
        for rule in self.rules(3, held_out=True):
            if all(spelling[:2] in held_out_pairs for spelling in self.equivalents(rule)):
                not_found.add(rule)
        return not_found

    def _too_easy(self, difficulty: int) -> set[Rule]:
        """Rules that do the same as a shorter rule, or as one of the corpus, on states of this
        difficulty."""
        # Group all rules by what they do here; within a group the shortest comes first.
        groups: dict[Results, list[Rule]] = {}
        for rule, results in self.results_at([difficulty]).items():
            groups.setdefault(results, []).append(rule)

        shown = {rule for length in (1, 2, 3) for rule in self.rules(length)}
        too_easy = set()
        for group in groups.values():
            group_is_shown = any(rule in shown for rule in group)
            for rule in group:
                has_shorter = len(rule) > len(group[0])
                if has_shorter or (group_is_shown and rule not in shown):
                    too_easy.add(rule)
        return too_easy
