"""The toy world: domains of named operations, and tasks with a hidden rule per topic.

A *domain* (one short file in this folder) is a set of named operations on small states. A *rule* is
a chain of one to three operation names, carried out from left to right. A *task* hides one rule
behind each of four topics. A question shows a topic and a state, and its answer is what the topic's
rule makes of the state. Nothing tells the learner the rules: it sees questions, its own answers,
and feedback on them.

Left out on purpose: partial credit. An answer is right or wrong, so a prompt that names half a rule
earns nothing.
"""

import importlib
import pkgutil
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from random import Random

from tasks.contract import problems
from tasks.domain import RULE_LENGTHS, TOPICS, Domain, Rule


@dataclass(frozen=True)
class Question:
    """One question of a task, with its answer."""

    topic: str
    ask: str  # the state as text
    want: str  # the right answer as text


@dataclass(frozen=True)
class Task:
    """A domain with a hidden rule for each of four topics.

    Its rules of two and three operations are held-out ones: the base has never seen them.
    """

    domain: Domain
    rules: dict[str, Rule]  # topic -> its hidden rule
    difficulties: tuple[int, ...]  # of its questions
    name: str  # "strings", or "strings:2" for another task of that domain

    @property
    def instructions(self) -> dict[str, str]:
        """The prompt that would name every hidden rule: topic -> instruction."""
        return {topic: " ".join(rule) for topic, rule in self.rules.items()}

    def questions(self, rng: Random, n: int, purpose: str = "questions") -> list[Question]:
        """n random questions for a purpose: "questions" of the gradient and of anchor scores,
        "lessons" that reflections are about, or "validation", which shares none with the others."""
        found = []
        while len(found) < n:
            # Topics and difficulties are all as likely.
            topic = rng.choice(list(self.rules))
            difficulty = rng.choice(self.difficulties)
            state = self.domain.draw(rng, difficulty)
            ask = self.domain.ask(state)

            # A hash of the question's text decides, once and for all, whether it is for validation.
            for_validation = zlib.crc32(f"{topic}: {ask}".encode()) % 8 == 0
            if for_validation == (purpose == "validation"):
                want = self.domain.answer(self.rules[topic], state)
                found.append(Question(topic, ask, want))
        return found


def domain_of(name: str) -> str:
    """The domain of a task. Raises ValueError for an unknown one."""
    return kind_of(name, domains())


def kind_of(name: str, kinds: Iterable[str]) -> str:
    """The kind of a task: "strings" of "strings", and of "strings:2", another task of that kind.

    Raises ValueError, with an example, for what is none of the kinds.
    """
    kind, colon, number = name.partition(":")
    # A colon with a number after it, or neither.
    if kind not in kinds or bool(colon) != number.isdigit():
        *_, last = kinds
        known = ", ".join(kinds)
        raise ValueError(
            f"unknown task '{name}': known tasks are {known}, and others like {last}:2"
        )
    return kind


def make_task(name: str, seed: int) -> Task:
    """The task that a name and a seed give. Raises ValueError for an unknown domain."""
    domain = domains()[domain_of(name)]

    # The same name and seed give the same task in every process.
    rng = Random(f"{name} {seed}")
    return Task(domain, draw_rules(rng, domain), domain.task_difficulties, name)


def draw_rules(rng: Random, domain: Domain) -> dict[str, Rule]:
    """The hidden rules of a task: topic -> rule, for the first four topics."""
    # A domain with one right way hides it behind every topic.
    if domain.hidden:
        return dict.fromkeys(TOPICS[: len(RULE_LENGTHS)], domain.hidden)

    # Elsewhere the lengths are shuffled over the topics, and no two topics have the same rule.
    lengths = rng.sample(RULE_LENGTHS, len(RULE_LENGTHS))
    rules = {}
    for topic, length in zip(TOPICS, lengths, strict=False):
        # Leave out what another topic already has, under any spelling.
        candidates = domain.task_rules(length)
        for taken in rules.values():
            candidates = [rule for rule in candidates if not domain.same(rule, taken)]
        rules[topic] = rng.choice(candidates)
    return rules


@cache
def domains() -> dict[str, Domain]:
    """All domains by name: the DOMAIN of every file in this folder that has one.

    Raises ValueError for a domain that breaks the contract.
    """
    found = {}
    # A new domain is found by itself: any file in this folder with a DOMAIN.
    for module_info in pkgutil.iter_modules(__path__):
        name = module_info.name
        module = importlib.import_module(f"{__name__}.{name}")
        domain = getattr(module, "DOMAIN", None)
        if domain is None:
            continue

        # Stop at the first problem of a broken domain.
        if domain.name != name:
            raise ValueError(
                f"the domain in tasks/{name}.py is named '{domain.name}': name it like its file"
            )
        for problem in problems(domain):
            raise ValueError(f"domain '{name}': {problem}")
        found[name] = domain
    return found
