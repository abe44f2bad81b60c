"""Talking to a model: questions and reflections in, answers and instructions out.

A model comes as a function `generate(prompts, questions, samples, max_new)` that continues K prompts, each with its B
questions, `samples` times, all as token lists, and returns rollouts in the order (prompt, question, sample) with
`.tokens` (R, S), `.lengths` (R,) and `.logprobs` (R, S). Which model it is, at which temperature, is not known here.
"""

from collections.abc import Callable
from typing import NamedTuple

from tasks import text
from tasks.exams import Item

ANSWER_TOKENS = 64  # longest answer, thinking included
REFLECTION_TOKENS = 800


class Outcome(NamedTuple):
    """What became of one question: its reward and, for feedback, what was answered (untrusted text)."""

    score: float
    answer: str | None


class Answers(NamedTuple):
    """R answers, for people (texts, outcomes) and for the gradient (contexts, completions, logprobs).

    A context is there once for all samples that go on from it.
    """

    outcomes: list[Outcome]
    texts: list[str]
    contexts: list[list[int]]
    completions: list[list[int]]
    logprobs: object  # (R, S) tensor, recorded while sampling


def tokens_of(words: str) -> list[int]:
    """What a model reads first: bos, then the text."""
    return [text.special("bos"), *text.encode(words)]


def complete(generate: Callable, prompts: list[str], questions: list[list[str]], samples: int, max_new: int):
    """Continue texts -> completions as token lists, their log-probs (R, S), their texts ("" for one cut off)."""
    asked = [[text.encode(q) for q in row] for row in questions]
    rollouts = generate([tokens_of(p) for p in prompts], asked, samples, max_new)
    tokens = [row[:n] for row, n in zip(rollouts.tokens.tolist(), rollouts.lengths.tolist(), strict=True)]
    finished = [row[-1] == text.special("eos") for row in tokens]
    texts = [text.decode(row[:-1]) if end else "" for row, end in zip(tokens, finished, strict=True)]
    return tokens, rollouts.logprobs, texts


def contexts_of(jobs: list) -> list[list[int]]:
    """What precedes the answers to each question of jobs (rules, questions), in their order."""
    texts = [text.prompt_text(rules) + text.question_text(q.topic, q.ask) for rules, asked in jobs for q in asked]
    return [tokens_of(words) for words in texts]


def answer(generate: Callable, jobs: list, samples: int = 1) -> Answers:
    """Answer jobs of (rules, questions), all with equally many questions, `samples` times each, in one batch."""
    prompts = [text.prompt_text(rules) for rules, _ in jobs]
    asked = [[text.question_text(q.topic, q.ask) for q in questions] for _, questions in jobs]
    tokens, logprobs, texts = complete(generate, prompts, asked, samples, ANSWER_TOKENS)
    rows = [q for _, questions in jobs for q in questions for _ in range(samples)]
    outcomes = [Outcome(text.verify(q, t), text.parse_answer(t)) for q, t in zip(rows, texts, strict=True)]
    return Answers(outcomes, texts, contexts_of(jobs), tokens, logprobs)


def reflect(generate: Callable, requests: list) -> list[tuple[str, str]]:
    """Reflect on requests of (topic, instruction, [(question, outcome)]) -> new instructions and how they came about.

    The instruction is "" where there is none; the other text is all that was read and written (untrusted).
    """
    asked = []
    for topic, old, failures in requests:
        asked.append(text.reflection_text(topic, old, [(q.ask, outcome.answer, q.want) for q, outcome in failures]))
    _, _, texts = complete(generate, [""], [asked], 1, REFLECTION_TOKENS)
    found = [text.parse_instruction(t, topic) for t, (topic, _, _) in zip(texts, requests, strict=True)]
    return [(new, read + written) for new, read, written in zip(found, asked, texts, strict=True)]


def pass_rate(generate: Callable, items: list[Item], max_new: int = ANSWER_TOKENS) -> float:
    """The share of an exam's items that a model passes."""
    _, _, texts = complete(generate, [i.prompt for i in items], [[i.question] for i in items], 1, max_new)
    return sum(item.passes(t) for item, t in zip(items, texts, strict=True)) / len(items)
