"""Exams: what a model can do, measured apart from any training.

An exam is a list of items. Each item is a prompt, a question and a check of what the model writes.
"""

from collections.abc import Callable
from random import Random
from statistics import fmean
from typing import NamedTuple

import torch

from base import corpus
from base.batches import document_losses, length_batches
from model import GPT
from sampling import sample, texts_of
from tasks import TOPICS, Domain, Rule
from tasks.formats import (
    parse_answer,
    parse_instruction,
    prompt_text,
    question_text,
    reflection_text,
)
from tasks.world import ANSWER_TOKENS, REFLECTION_TOKENS, ToyWorld

# --- items ---


class Item(NamedTuple):
    """What the model reads (a prompt, then a question) and whether what it writes passes."""

    prompt: str
    question: str
    passes: Callable[[str], bool]


def known_rule(rng: Random, domain: Domain) -> Rule:
    """A random rule of the corpus, of a random length."""
    length = rng.choice((1, 2, 3))
    return rng.choice(domain.rules(length))


def solving(rng: Random, domain: Domain, difficulty: int, length: int, held_out: bool) -> Item:
    """A question under a prompt of four lines. It passes with the right answer.

    length, held_out: of the rule that the question asks for.
    """
    # Random draws in another order would make another exam.
    topic, *other_topics = rng.sample(TOPICS, 4)
    prompt = {other: " ".join(known_rule(rng, domain)) for other in other_topics}
    rule = rng.choice(domain.rules(length, held_out))
    prompt[topic] = " ".join(rule)

    # What the topic's rule makes of the state is the answer.
    state = domain.draw(rng, difficulty)
    question = question_text(topic, domain.ask(state))
    want = domain.answer(rule, state)
    return Item(prompt_text(prompt), question, lambda text: parse_answer(text) == want)


def skill_items(domain: Domain) -> list[Item]:
    """256 questions as the corpus asks them, always the same, each with the right instruction.

    What a model forgets is measured on them.
    """
    # All of them are rules and difficulties that the corpus shows often.
    rng = Random(f"skills of {domain.name}")
    draws = [(rng.choice(domain.seen_difficulties), rng.choice((1, 2, 3))) for _ in range(256)]
    return [solving(rng, domain, difficulty, length, False) for difficulty, length in draws]


def looking_up(rng: Random, domain: Domain, position: int, lines: int) -> Item:
    """A prompt of several lines, and a question about the one at `position` (0 is the first).

    It passes when the answer begins with that line.
    """
    # The model reads the lines of a prompt in the order of their topics.
    topics = rng.sample(TOPICS, lines)
    prompt = {topic: " ".join(known_rule(rng, domain)) for topic in topics}
    topic = sorted(prompt)[position]

    # The state does not matter, but a question has one.
    state = domain.draw(rng, domain.seen_difficulties[0])
    question = question_text(topic, domain.ask(state))

    def passes(text: str) -> bool:
        return text.split("\n")[0] == f"{topic}: {prompt[topic]}"

    return Item(prompt_text(prompt), question, passes)


def reflecting(
    rng: Random, domain: Domain, difficulty: int, length: int, old: str = "none"
) -> Item:
    """A reflection on three failures. It passes with any instruction that does what the rule does.

    length: of the rule; of two and three operations it is a held-out one. old: the instruction so
    far, "none", "one missing" for the rule without its last operation, or one that means nothing
    here (a kind of corpus.STRANGE).
    """
    rule = rng.choice(domain.rules(length, held_out=length > 1))
    topic = rng.choice(TOPICS)
    instruction: Rule = ()
    if old == "one missing":
        instruction = rule[:-1]
    elif old != "none":
        instruction = corpus.draw_strange_instruction(rng, domain, old)

    # Wrong answers follow the old instruction; where that cannot be, each follows some rule.
    failures = []
    while len(failures) < 3:
        state = domain.draw(rng, difficulty)
        followed = instruction if old == "one missing" else known_rule(rng, domain)
        got = domain.answer(followed, state)
        want = domain.answer(rule, state)
        if got != want:
            failures.append((domain.ask(state), got, want))

    # Any spelling of the rule passes; what is no rule has no results.
    def passes(text: str) -> bool:
        found = parse_instruction(text, topic).split()
        return domain.same(tuple(found), rule)

    # The first line is the prompt, the failures are the question.
    reflection = reflection_text(topic, " ".join(instruction), failures)
    prompt, question = reflection.split("\n", 1)
    return Item(prompt + "\n", question, passes)


# --- how well a model does ---


def pass_rate(model: GPT, items: list[Item], max_new: int = ANSWER_TOKENS) -> float:
    """The share of an exam's items that a model passes, with the likeliest tokens.

    max_new: tokens that it may write.
    """
    # Every item has a prompt of its own, with one question. At temperature 0 no noise decides.
    world = ToyWorld()
    rollouts = sample(
        model,
        prompts=[world.encode_start(item.prompt) for item in items],
        questions=[[world.encode(item.question)] for item in items],
        samples=1,
        max_new=max_new,
        eos=world.eos,
        pad=world.pad,
        temperature=0.0,
        noise=torch.zeros(len(items), max_new, device=model.cos.device),
    )

    # What was cut off is "", which no item lets pass.
    texts = texts_of(world, rollouts)
    return fmean(item.passes(text) for item, text in zip(items, texts, strict=True))


def base_rates(model: GPT, domain: Domain) -> str:
    """A quick look at how well a base solves and reflects, in one line.

    It is examined at a difficulty that the corpus shows often.
    """
    rng = Random(0)
    difficulty = domain.seen_difficulties[-1]
    questions = [solving(rng, domain, difficulty, 2, False) for _ in range(64)]
    solved = pass_rate(model, questions)

    # Rules of one operation, then held-out ones of two.
    ones = [reflecting(rng, domain, difficulty, 1) for _ in range(16)]
    twos = [reflecting(rng, domain, difficulty, 2) for _ in range(16)]
    found_ones = pass_rate(model, ones, REFLECTION_TOKENS)
    found_twos = pass_rate(model, twos, REFLECTION_TOKENS)
    return f"{domain.name}: solve {solved:.2f}, reflect {found_ones:.2f}/{found_twos:.2f}"


@torch.no_grad()
def corpus_loss(model: GPT, domains: list[Domain]) -> float:
    """Loss on 192 documents that no training has seen, in nats per learned token."""
    # No training has the seed -1.
    documents = corpus.documents(domains, seed=-1, step=0, n=192)

    # Padding and what is given are not counted.
    loss = 0.0
    for tokens, targets in length_batches(documents, model.cos.device):
        loss += document_losses(model, tokens, targets).sum().item()
    learned = sum(sum(learn) for _, learn in documents)
    return loss / learned


def base_skills(model: GPT, domains: list[Domain]) -> dict:
    """What a model can still do of the corpus.

    "skills": for each domain the share of `skill_items` that pass; "corpus_loss": see there.
    """
    rates = {domain.name: pass_rate(model, skill_items(domain)) for domain in domains}
    return {"skills": rates, "corpus_loss": corpus_loss(model, domains)}
