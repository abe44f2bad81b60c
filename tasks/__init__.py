"""The toy world: domains of named operations, and tasks with a hidden instruction per topic.

A *domain* (one short file in this folder) is a set of named operations on small states. A *rule* is a chain of
one to three operation names, carried out from left to right. A *task* hides one rule behind each of four topics;
a question shows a topic and a state, and its answer is what the topic's rule makes of the state. Nothing tells the
learner the rules: it sees questions, its own answers, and whether (and in feedback: how) they were wrong.

Left out on purpose: partial credit. An answer is right or wrong, so a prompt that names half a rule earns nothing.
"""

import importlib
import pkgutil
import random
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

TOPICS = ("red", "blue", "green", "gold", "black", "white", "pink", "gray")  # a task uses the first four
RULE_LENGTHS = (1, 2, 2, 3)  # operations in the four hidden rules of a task
ONE_IN = 8  # of the classes of 2- and 3-operation rules is no instruction of the corpus, nor is what contains it
KEYWORDS = ("rules", "ask", "answer", "reflect", "recite", "got", "want", "try", "done", "none")  # of text.py's lines
WORD = "[a-z]{1,16}"  # what an operation may be called
STATE = "[a-z0-9]+( [a-z0-9]+)*"  # how a state may be written

Rule = tuple[str, ...]


@dataclass(frozen=True)
class Question:
    """One question of a task: the topic, the state as text, and the right answer as text."""

    topic: str
    ask: str
    want: str


@dataclass(frozen=True)
class Domain:
    """Named operations on small states. A state is any value; `show` writes it, and equal texts are equal states.

    Rules are told apart by what they do, not by how they are written: two rules with the same results on a fixed
    set of probe states are one *class* ("raise reverse" and "reverse raise"). Classes, not spellings, are held out
    of the corpus, so a held-out rule cannot slip in under another name.
    """

    name: str
    operations: dict[str, Callable[[Any], Any]]  # name (one lower-case word) -> total, pure function of a state
    draw: Callable[[random.Random, int], Any]  # a random state of the given difficulty
    corpus_difficulties: dict[int, float]  # difficulty -> weight in the pretraining corpus; the last ones are rare
    task_difficulties: tuple[int, ...]  # of a task's questions: well instructed, the base should be half right
    words: tuple[str, ...]  # the words that states are written with, for the tokenizer
    show: Callable[[Any], str] = " ".join
    given: Callable[[Any], list[str]] = lambda state: []  # facts that a question tells, which operations leave alone
    habit: Rule | None = None  # what the base goes by where its prompt has no rule for the topic; None: any rule
    hidden: Rule | None = None  # the rule behind every topic of a task, for a domain with one right way; else random

    def ask(self, state: Any) -> str:
        """A state as a question shows it."""
        facts = self.given(state)
        return " ".join([*facts, "start", self.show(state)]) if facts else self.show(state)

    def apply(self, rule: Rule, state: Any) -> Any:
        """Carry out a rule on a state, from left to right."""
        for name in rule:
            state = self.operations[name](state)
        return state

    @cached_property
    def seen_difficulties(self) -> list[int]:
        """The difficulties that the corpus shows often (at least a tenth of its documents)."""
        total = sum(self.corpus_difficulties.values())
        return [d for d, weight in self.corpus_difficulties.items() if weight >= 0.1 * total]

    def results(self, difficulties: Iterable[int]) -> dict[Rule, tuple[str, ...]]:
        """Every rule of at most three operations -> its results on probe states, six of each difficulty."""
        rng = random.Random(f"probes of {self.name}")
        states = {(): [self.draw(rng, d) for d in difficulties for _ in range(6)]}
        for length in range(3):
            for rule in [r for r in states if len(r) == length]:
                for name, operation in self.operations.items():
                    states[*rule, name] = [operation(state) for state in states[rule]]
        return {rule: tuple(map(self.show, results)) for rule, results in states.items()}

    @cached_property
    def _results(self) -> dict[Rule, tuple[str, ...]]:
        """Every rule -> its results on the difficulties of the corpus (its class)."""
        return self.results(self.corpus_difficulties)

    @cached_property
    def classes(self) -> dict[tuple[str, ...], list[Rule]]:
        """Results on the probes -> all shortest rules that give them, without the identity."""
        classes: dict[tuple[str, ...], list[Rule]] = {}
        for rule, results in self._results.items():  # in order of length
            spellings = classes.setdefault(results, [])
            if not spellings or len(spellings[0]) == len(rule):
                spellings.append(rule)
        del classes[self._results[()]]
        return classes

    def same(self, a: Rule, b: Rule) -> bool:
        """Whether two rules of at most three operations do the same."""
        return self._results[a] == self._results[b]

    def equivalents(self, rule: Rule) -> list[Rule]:
        """All shortest spellings of a rule."""
        return self.classes[self._results[rule]]

    @cached_property
    def _rules(self) -> dict[tuple[int, bool], list[Rule]]:
        table: dict[tuple[int, bool], list[Rule]] = {}
        for results, spellings in self.classes.items():  # pairs come before triples
            length, pairs = len(spellings[0]), table.get((2, True), [])
            held_out = length > 1 and zlib.crc32("/".join(results).encode()) % ONE_IN == 0
            held_out = held_out or self.hidden in spellings
            # a triple around a held-out pair would show the pair
            held_out = held_out or (length == 3 and any(r[:2] in pairs or r[1:] in pairs for r in spellings))
            table.setdefault((length, held_out), []).extend(spellings)
        return table

    def rules(self, length: int, held_out: bool = False) -> list[Rule]:
        """The rules of a length that cannot be said shorter: those of the corpus, or those held out of it."""
        return self._rules.get((length, held_out), [])

    @cached_property
    def task_rules(self) -> dict[int, list[Rule]]:
        """Length -> the rules to hide in tasks.

        Those of two and three operations are held out, and at the task's difficulty, too, no shorter rule and none of
        the corpus does the same. A search as the corpus shows it, which goes on from no held-out pair, can find them.
        """
        shown_to_base = {rule for n in (1, 2, 3) for rule in self.rules(n)}
        held_out_pairs = self.rules(2, held_out=True)
        unfit = {r for r in self.rules(3, held_out=True) if all(s[:2] in held_out_pairs for s in self.equivalents(r))}
        for difficulty in self.task_difficulties:
            alike: dict[tuple[str, ...], list[Rule]] = {}  # results at this difficulty -> rules, shortest first
            for rule, shown in self.results([difficulty]).items():
                alike.setdefault(shown, []).append(rule)
            for rules in alike.values():
                known = any(rule in shown_to_base for rule in rules)
                unfit |= {r for r in rules if len(r) > len(rules[0]) or (known and r not in shown_to_base)}
        lengths = sorted(set(RULE_LENGTHS))
        return {n: [r for r in self.rules(n, held_out=n > 1) if r not in unfit] for n in lengths}


@dataclass(frozen=True)
class Task:
    """A domain with a hidden rule for each of four topics: `rules`, topic -> rule.

    Rules of two and three operations are held-out compositions: the base has never seen them.
    """

    domain: Domain
    rules: dict[str, Rule]
    difficulties: tuple[int, ...]

    @property
    def instructions(self) -> dict[str, str]:
        """The hidden rules as the fast weights would have to name them: topic -> instruction."""
        return {topic: " ".join(rule) for topic, rule in self.rules.items()}

    def question(self, rng: random.Random, validation: bool = False) -> Question:
        """A random question. A hash of its text decides once and for all whether it is one for validation."""
        while True:
            topic = rng.choice(list(self.rules))
            state = self.domain.draw(rng, rng.choice(self.difficulties))
            want = self.domain.show(self.domain.apply(self.rules[topic], state))
            question = Question(topic, self.domain.ask(state), want)
            if (zlib.crc32(f"{topic}: {question.ask}".encode()) % 8 == 0) == validation:
                return question

    def questions(self, rng: random.Random, n: int, validation: bool = False) -> list[Question]:
        """n random questions, for training or for validation; the two never meet."""
        return [self.question(rng, validation) for _ in range(n)]


def make_task(name: str, seed: int) -> Task:
    """The task that a domain and a seed give. Raises ValueError when no such domain is registered."""
    if name not in domains():
        raise ValueError(f"unknown task '{name}': known tasks are {', '.join(domains())}")
    domain = domains()[name]
    if domain.hidden:
        return Task(domain, dict.fromkeys(TOPICS[: len(RULE_LENGTHS)], domain.hidden), domain.task_difficulties)
    rng = random.Random(f"{name} {seed}")
    lengths = rng.sample(RULE_LENGTHS, len(RULE_LENGTHS))
    rules: dict[str, Rule] = {}
    for topic, length in zip(TOPICS, lengths, strict=False):
        different = [r for r in domain.task_rules[length] if not any(domain.same(r, other) for other in rules.values())]
        rules[topic] = rng.choice(different)
    return Task(domain, rules, domain.task_difficulties)


def problems(domain: Domain) -> Iterator[str]:
    """What breaks the contract that everything else builds on; nothing for a good domain. Takes a tenth of a second.

    The operations are tried out in 500 random chains of three, each on a random state.
    """
    for name in domain.operations:
        if not re.fullmatch(WORD, name) or name in KEYWORDS + TOPICS:
            yield f"operation {name!r} must be one lower-case word of at most 16 letters, and no keyword or topic"
    for kind, rule in (("habit", domain.habit), ("hidden rule", domain.hidden)):
        if rule is not None and (not 1 <= len(rule) <= 3 or not {*rule} <= {*domain.operations}):
            yield f"the {kind} {' '.join(rule)!r} must be one to three of the domain's operations"
            return  # without which nothing can be tried out
    for word in domain.words:
        if not re.fullmatch("[a-z]+|[0-9]", word) or word in KEYWORDS:
            yield f"word {word!r} must be one lower-case word or one digit, and no keyword: else it is no single token"
    seen: dict[str, Any] = {}  # text -> state

    def look(state: Any, again: Any) -> Iterator[str]:
        """Problems of a state that was made twice, the same way."""
        shown = domain.ask(state)
        if domain.ask(again) != shown:
            yield f"{doing} gives {shown!r} once and {domain.ask(again)!r} another time"
        if not re.fullmatch(STATE, shown) or not {*re.findall("[a-z]+|[0-9]", shown)} <= {*domain.words}:
            yield f"{doing} gives {shown!r}, which is not written in the domain's words"
        if seen.setdefault(shown, state) != state:
            yield f"{doing} gives {state!r}, written {shown!r} like another state, {seen[shown]!r}"

    doing, rng = "", random.Random(0)
    try:
        for i in range(500):
            difficulty = rng.choice([*domain.corpus_difficulties, *domain.task_difficulties])
            doing = f"draw at difficulty {difficulty}"
            state, again = (domain.draw(random.Random(i), difficulty) for _ in range(2))
            yield from look(state, again)
            for name in rng.choices(list(domain.operations), k=3):
                operation, before = domain.operations[name], domain.ask(state)
                doing = f"operation {name!r} on {before!r}"
                result = operation(state)
                if domain.ask(state) != before:
                    yield f"{doing} changes the state that it is given"
                state, again = result, operation(state)
                yield from look(state, again)
        for difficulty in domain.task_difficulties:
            doing = f"draw at difficulty {difficulty}"
            if (n := len({domain.ask(domain.draw(rng, difficulty)) for _ in range(100)})) < 50:
                yield f"{doing} gives only {n} different states in 100: too few to train on some and validate on others"
        doing = "comparing all rules"
        if domain.hidden and domain.hidden not in domain.rules(len(domain.hidden), held_out=True):
            yield f"the hidden rule {' '.join(domain.hidden)!r} does what a shorter rule does"
        for length in sorted(set(RULE_LENGTHS)):
            if not domain.rules(length):
                yield f"no rule of {length} operations is left for the corpus: it needs more operations"
            different = {domain._results[rule] for rule in domain.task_rules[length]}
            if len(different) < RULE_LENGTHS.count(length) and not domain.hidden:
                kind = "held-out rules" if length > 1 else "rules"
                yield f"{len(different)} {kind} of {length} operations are too few for a task: it needs more operations"
    except Exception as error:
        yield f"{doing} raises {error!r}"


@cache
def domains() -> dict[str, Domain]:
    """All domains by name: `DOMAIN` of every module in this folder that has one. Raises ValueError for a broken one."""
    found = {}
    for name in (module.name for module in pkgutil.iter_modules(__path__)):
        if domain := getattr(importlib.import_module(f"{__name__}.{name}"), "DOMAIN", None):
            if domain.name != name:
                raise ValueError(f"the domain in tasks/{name}.py is named '{domain.name}': name it like its file")
            for problem in problems(domain):
                raise ValueError(f"domain '{name}': {problem}")
            found[name] = domain
    return found
