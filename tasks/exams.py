"""Exams: what a base can do, measured apart from any training. Each item is a prompt, a question and a check."""

import random
from collections.abc import Callable
from typing import NamedTuple

from tasks import TOPICS, Domain
from tasks.text import parse_answer, parse_instruction, prompt_text, question_text, reflection_text


class Item(NamedTuple):
    """What the model reads (a prompt, then a question) and whether what it writes passes."""

    prompt: str
    question: str
    passes: Callable[[str], bool]


def solving(rng: random.Random, domain: Domain, difficulty: int, length: int, held_out: bool, lines: int = 4) -> Item:
    """A question under a prompt of several lines; the rule that it asks for has `length` operations."""
    topics = rng.sample(TOPICS, lines)
    rules = {topic: rng.choice(domain.rules(rng.choice((1, 2, 3)))) for topic in topics[1:]}
    rule = rules[topics[0]] = rng.choice(domain.rules(length, held_out))
    state = domain.draw(rng, difficulty)
    want = domain.show(domain.apply(rule, state))
    prompt = prompt_text({topic: " ".join(r) for topic, r in rules.items()})
    return Item(prompt, question_text(topics[0], domain.ask(state)), lambda text: parse_answer(text) == want)


def skills(domain: Domain, n: int = 256) -> list[Item]:
    """A fixed set of questions as the corpus asks them, rightly instructed: what forgetting is measured on."""
    rng = random.Random(f"skills of {domain.name}")
    draws = [(rng.choice(domain.seen_difficulties), rng.choice((1, 2, 3))) for _ in range(n)]
    return [solving(rng, domain, difficulty, length, held_out=False) for difficulty, length in draws]


def looking_up(rng: random.Random, domain: Domain, position: int, lines: int) -> Item:
    """A prompt of several lines; the answer must begin with the instruction at `position` (0 is the first line)."""
    rules = {t: " ".join(rng.choice(domain.rules(rng.choice((1, 2, 3))))) for t in rng.sample(TOPICS, lines)}
    topic = sorted(rules)[position]
    question = question_text(topic, domain.ask(domain.draw(rng, domain.seen_difficulties[0])))
    return Item(prompt_text(rules), question, lambda text: text.split("\n")[0] == f"{topic}: {rules[topic]}")


def reflecting(rng: random.Random, domain: Domain, difficulty: int, length: int, held_out: bool, old: int = 0) -> Item:
    """A reflection on three failures; `old` operations of the rule are already in the instruction (0: it has none).

    It passes with any instruction that does what the rule does.
    """
    rule, topic = rng.choice(domain.rules(length, held_out)), rng.choice(TOPICS)
    failures = []
    while len(failures) < 3:
        state = domain.draw(rng, difficulty)
        went_by = rule[:old] or rng.choice(domain.rules(rng.choice((1, 2, 3))))
        got, want = (domain.show(domain.apply(r, state)) for r in (went_by, rule))
        if got != want:
            failures.append((domain.ask(state), got, want))

    def passes(text: str) -> bool:
        found = tuple(parse_instruction(text, topic).split())
        return found != () and all(name in domain.operations for name in found) and domain.same(found, rule)

    prompt, question = reflection_text(topic, " ".join(rule[:old]), failures).split("\n", 1)
    return Item(prompt + "\n", question, passes)
