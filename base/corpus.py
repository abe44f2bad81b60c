"""The pretraining corpus: an endless, seeded stream of documents, in the formats of tasks/.

Four kinds of documents teach the base what a pretrained LLM brings along:
- solve: follow the prompt's instruction for the topic; make one up where the prompt has none;
- recite: repeat a prompt's instructions, or a question's facts, in another order. This teaches
  looking up;
- reflect: read failures with feedback, search for the rule that explains them, write it down;
- spot: a reflection on one failure, with only the last one to three blocks of its search.

The search is written out (after Stream of Search, arXiv 2404.03683) in blocks. A block tries all
operations in a fixed order from one state, each written until it departs from what was wanted. The
first block starts from where the old instruction led, if it has one or two operations; the next
from the question. Then the search goes one of two ways:
- For a rule of one or two operations: one block for every state that one operation leads to. Such
  a rule is always found.
- For a rule of three: it guesses the first operation, unless the old instruction is its first two.
  It goes on from the state that this one leads to, then from those that pairs which begin with it
  lead to. That takes luck; sampling the reflection again may make another guess.

When a task changes, the old instruction may be one of another domain. What cannot be carried out
leads nowhere: such a search begins from the question, as if there were no instruction.

Held-out rules never occur, under any spelling: not as instructions, not as what a reflection looks
for or writes down, and no search goes on from one. (An instruction of more than three operations is
never carried out: in such a one only the shortest spellings are looked for.)
"""

import string
from dataclasses import dataclass
from functools import partial
from itertools import chain, combinations
from random import Random
from typing import Any

import tasks
from model import shared_length
from tasks import TOPICS, Domain, Rule
from tasks.domain import KEYWORDS
from tasks.formats import (
    encode,
    failure_text,
    prompt_text,
    question_text,
    reflection_text,
    solution_text,
    special,
)

# Shares of the kinds of documents. The first ones of pretraining are easy: short ones only.
KINDS = {"solve": 0.45, "recite": 0.1, "spot": 0.25, "reflect": 0.2}
EASY = {"solve": 0.5, "recite": 0.25, "spot": 0.25}

# Shares of rules with one, two and three operations.
SOLVE_LENGTHS = {1: 0.3, 2: 0.35, 3: 0.35}
REFLECT_LENGTHS = {1: 0.25, 2: 0.6, 3: 0.15}

# Where the old instructions of reflections come from.
OLD_INSTRUCTIONS = {"none": 0.4, "wrong": 0.15, "prefix": 0.25, "strange": 0.2}
STRANGE = {"other domain": 0.7, "unknown words": 0.2, "too long": 0.1}

# The share of reflections whose failures, but for the first, are as long as those of tasks.
LONG_FAILURES = 0.25

# A document is a list of pieces of text, each with whether the model learns to write it.
Document = list[tuple[str, bool]]
LEARNED = True
GIVEN = False


# --- random choices ---


def pick(rng: Random, weights: dict):
    """A random key of `weights`, by weight."""
    return rng.choices(list(weights), list(weights.values()))[0]


def draw_rule(rng: Random, domain: Domain, lengths: dict[int, float] = SOLVE_LENGTHS) -> Rule:
    """A random rule that is not held out. lengths: length -> weight."""
    length = pick(rng, lengths)
    return rng.choice(domain.rules(length))


def draw_prompt(rng: Random, domain: Domain, n: int) -> dict[str, str]:
    """Random instructions for n random topics."""
    topics = rng.sample(TOPICS, n)
    return {topic: " ".join(draw_rule(rng, domain)) for topic in topics}


# --- solve ---


def solving_document(rng: Random, domain: Domain) -> Document:
    """A prompt of up to 6 lines, a question, and its answer by the topic's rule.

    Five documents in sixteen have no rule for the topic in their prompt.
    """
    prompt = draw_prompt(rng, domain, rng.randint(1, 6))
    topic = rng.choice(list(prompt))
    rule = tuple(prompt[topic].split())

    # A quarter of the documents have no prompt. They are short, and teach how to carry rules out.
    # A few more lack the topic's line: there the model learns to make a rule up.
    if rng.random() < 1 / 4:
        prompt = {}
    elif rng.random() < 1 / 12:
        del prompt[topic]
    state = domain.draw(rng, pick(rng, domain.corpus_difficulties))

    # A domain with a habit teaches it where the prompt has no rule. Half of the time another rule
    # is written there; it is given, not learned, and only carried out.
    learned = LEARNED
    if domain.habit and topic not in prompt:
        if rng.random() < 0.5:
            rule = domain.habit
        else:
            learned = GIVEN

    question = prompt_text(prompt) + question_text(topic, domain.ask(state))
    restated = f"{topic}: {' '.join(rule)}\n"
    solution = solution_text(domain, rule, state)
    return [(question, GIVEN), (restated, learned), (solution, LEARNED)]


# --- recite ---


def reciting_document(rng: Random, domain: Domain) -> Document:
    """A prompt of 2 to 6 lines, then the same lines in another order.

    Half of the documents of a domain with facts recite a question's facts instead. Of each line or
    fact only what follows its beginning is learned.
    """
    state = domain.draw(rng, pick(rng, domain.corpus_difficulties))
    facts = domain.given(state)
    if facts and rng.random() < 1 / 2:
        # Of facts that begin with the same words, the first counts.
        asked = f"ask {rng.choice(TOPICS)}: {' '.join(facts)} recite"
        endings = dict(f" {fact}".rsplit(" ", 1) for fact in reversed(facts))
    else:
        prompt = draw_prompt(rng, domain, rng.randint(2, 6))
        asked = prompt_text(prompt) + "recite"
        endings = {f"\n{topic}:": instruction for topic, instruction in prompt.items()}

    document = [(asked, GIVEN)]
    for beginning in rng.sample(sorted(endings), len(endings)):
        document += [(beginning, GIVEN), (f" {endings[beginning]}", LEARNED)]
    return document


# --- reflect: the written search ---


def until_it_departs(shown: str, want: str) -> str:
    """The words of a state up to the first that is not what was wanted there."""
    words = shown.split()
    same = shared_length([words, want.split()])
    return " ".join(words[: same + 1])


def search_block(domain: Domain, prefix: Rule, state: Any, want: str) -> tuple[Document, Rule]:
    """Try all operations in turn on `state`, which the operations in `prefix` led to.

    -> the block: "try", its head, its lines; and the rule that arrives, () for none.
    """
    head = f" {' '.join(prefix)}:" if prefix else ""
    lines = f" {domain.show(state)} want {want}\n"
    found: Rule = ()
    for name, operation in domain.operations.items():
        after = domain.show(operation(state))
        if after == want:
            found = (*prefix, name)
            lines += f"{name}: {after} done\n"
            break
        lines += f"{name}: {until_it_departs(after, want)}\n"
    return [("try", LEARNED), (head, LEARNED), (lines, LEARNED)], found


def search_starts(rng: Random, domain: Domain, rule: Rule, old: Rule) -> list[Rule]:
    """The rules whose results the blocks of a search start from, in order."""
    # The first block goes on from the old instruction, the next from the question itself.
    starts = [old, ()] if old else [()]

    # Rules of up to two operations, or one more than the old instruction, are found one deep.
    if len(rule) < 3 or old == rule[:2]:
        starts += [(name,) for name in domain.operations if (name,) != old]
        return starts

    # For a third operation the search guesses the first one, and goes two deep from there.
    guess = rng.choice(domain.equivalents(rule))[0]
    pairs = [(guess, name) for name in domain.operations]
    starts.append((guess,))
    starts += [pair for pair in pairs if pair not in domain.held_out]
    return starts


def search(
    rng: Random, domain: Domain, rule: Rule, state: Any, old: Rule, short: bool
) -> tuple[Document, Rule]:
    """The written search for a rule on one example, and the rule that it finds.

    That rule is () for none; by chance it can be a wrong one. old: the old instruction, () for
    none. short: only the last one to three blocks; the head of the first is then given.
    """
    want = domain.answer(rule, state)
    blocks = []
    for prefix in search_starts(rng, domain, rule, old):
        block, found = search_block(domain, prefix, domain.apply(prefix, state), want)
        blocks.append(block)
        if found:
            break

    # Where a search that was cut short begins cannot be known: this head is not learned.
    kept = rng.randint(1, 3) if short else len(blocks)
    if kept < len(blocks):
        blocks = blocks[-kept:]
        word, (head, _), lines = blocks[0]
        blocks[0] = [word, (head, GIVEN), lines]
    return list(chain(*blocks)), found


# --- reflect: the whole document ---


@dataclass
class Case:
    """What a reflection is about: a rule, the old instruction, and an example to search on."""

    rule: Rule  # what the reflection should find
    old: Rule  # the old instruction, () for none
    followed: Rule  # the rule that the wrong answers follow
    difficulty: int  # of the example
    example: Any  # the state of the first failure
    searched: Document
    found: Rule  # a spelling of `rule`


def draw_old_instruction(rng: Random, domain: Domain, rule: Rule) -> Rule:
    """None, another rule, the right one without its last operation, or one that makes no sense.

    Of a rule of one operation nothing would be left, and a held-out rule is never shown: then it is
    another rule.
    """
    kind = pick(rng, OLD_INSTRUCTIONS)
    if kind == "none":
        return ()
    if kind == "strange":
        return draw_strange_instruction(rng, domain, pick(rng, STRANGE))
    if kind == "prefix" and rule[:-1] in domain.rules(len(rule) - 1):
        return rule[:-1]
    return draw_rule(rng, domain)


def draw_strange_instruction(rng: Random, domain: Domain, kind: str) -> Rule:
    """An instruction that cannot be carried out in this domain. kind: see STRANGE."""
    others = [other for other in tasks.domains().values() if other.name != domain.name]
    while True:
        if kind == "other domain" and others:
            words = draw_rule(rng, rng.choice(others))
        elif kind == "too long":
            words = draw_rule(rng, domain, {3: 1}) + draw_rule(rng, domain)
        else:
            words = tuple(draw_word(rng) for _ in range(rng.randint(1, 3)))

        # Domains share some names of operations. And two rules in a row must not spell a held-out
        # one.
        if not is_rule(domain, words) and not spells_held_out(words):
            return words


def draw_word(rng: Random) -> str:
    """Some random letters."""
    letters = rng.choices(string.ascii_lowercase, k=rng.randint(2, 7))
    word = "".join(letters)
    return word if word not in KEYWORDS else draw_word(rng)


def is_rule(domain: Domain, words: Rule) -> bool:
    """Whether these words can be carried out: one to three operations of the domain."""
    return words in domain.results and words != ()


def spells_held_out(words: Rule) -> bool:
    """Whether some of these words in a row are a held-out rule of any domain."""
    pieces = {words[i:j] for i, j in combinations(range(len(words) + 1), 2)}
    return any(pieces & domain.held_out for domain in tasks.domains().values())


def draw_case(rng: Random, domain: Domain, short: bool) -> Case:
    """Draw until the search on the example finds the rule."""
    while True:
        difficulty = pick(rng, domain.corpus_difficulties)
        rule = draw_rule(rng, domain, REFLECT_LENGTHS)
        example = domain.draw(rng, difficulty)

        # Answers follow the old instruction; where it cannot be carried out, they follow some rule.
        old = draw_old_instruction(rng, domain, rule)
        followed = old if is_rule(domain, old) else draw_rule(rng, domain)

        # A rule has at most three operations, so there is no going on from three.
        searched_from = old if is_rule(domain, old) and len(old) < 3 else ()
        searched, found = search(rng, domain, rule, example, searched_from, short)

        # The wrong rule must not be right on the example by chance. And a longer spelling of the
        # right rule does not count as found, since it might name a held-out pair.
        is_failure = domain.apply(followed, example) != domain.apply(rule, example)
        if is_failure and found in domain.equivalents(rule):
            return Case(rule, old, followed, difficulty, example, searched, found)


def draw_failing_state(rng: Random, domain: Domain, case: Case, difficulty: int) -> Any:
    """A random state on which the followed rule is wrong; the first failure, where none is found.

    Some rules that differ on short states do the same on all of another length.
    """
    for _ in range(1000):
        state = domain.draw(rng, difficulty)
        if domain.apply(case.followed, state) != domain.apply(case.rule, state):
            return state
    return case.example


def reflection_document(rng: Random, domain: Domain, short: bool = False) -> Document:
    """A topic, its instruction, failures with feedback; then the search and the new instruction.

    short: one failure, and only the end of the search.
    """
    topic = rng.choice(TOPICS)
    case = draw_case(rng, domain, short)
    document = [(reflection_text(topic, " ".join(case.old), []), GIVEN)]

    # In a task the questions are longer than those that the base learns to answer. So that it finds
    # the first failure in a long text, too, the others are sometimes as long as there.
    others_difficulty = case.difficulty
    if rng.random() < LONG_FAILURES:
        others_difficulty = rng.choice(domain.task_difficulties)

    # Real models slip, too, or do not answer: in one failure of ten, and in half of them where the
    # old instruction means nothing here.
    understood = is_rule(domain, case.old)
    slips = 0.5 if case.old and not understood else 0.1

    count = 1 if short else pick(rng, {3: 0.6, 2: 0.1, 1: 0.3})
    for i in range(count):
        difficulty = case.difficulty
        state = case.example
        if i > 0:
            difficulty = others_difficulty
            state = draw_failing_state(rng, domain, case, difficulty)
        got = domain.answer(case.followed, state)
        want = domain.answer(case.rule, state)

        # But a search that starts from the old instruction needs an example that follows it.
        if rng.random() < slips and (i > 0 or not understood):
            slip = domain.show(domain.draw(rng, difficulty))
            got = slip if slip != want and rng.random() < 0.5 else "none"
        document.append((failure_text(domain.ask(state), got, want), GIVEN))

    new_instruction = f"{topic}: {' '.join(case.found)}"
    return [*document, *case.searched, (new_instruction, LEARNED)]


# --- the stream ---

WRITERS = {
    "solve": solving_document,
    "recite": reciting_document,
    "spot": partial(reflection_document, short=True),
    "reflect": reflection_document,
}


def document(rng: Random, domains: list[Domain], easy: bool = False) -> Document:
    """One random document of a random domain.

    easy: only short kinds, and every other document is of the last domain, which is new.
    """
    only_newest = easy and rng.random() < 0.5
    domain = domains[-1] if only_newest else rng.choice(domains)
    kind = pick(rng, EASY if easy else KINDS)
    return WRITERS[kind](rng, domain)


def encode_document(pieces: Document) -> tuple[list[int], list[int]]:
    """A document -> its tokens (bos ... eos), and for each 1 if it is learned, 0 if it is given."""
    tokens = [special("bos")]
    learn = [0]
    for text, learned in pieces:
        ids = encode(text)
        tokens += ids
        learn += [int(learned)] * len(ids)

    # The model must learn to end its answers.
    tokens.append(special("eos"))
    learn.append(1)
    return tokens, learn


def documents(domains: list[Domain], seed: int, step: int, n: int, easy: bool = False) -> list:
    """The n encoded documents of a pretraining step.

    They depend on the arguments alone: an interrupted training needs no saved corpus to go on.
    """
    rng = Random(f"corpus {seed} {step}")
    return [encode_document(document(rng, domains, easy)) for _ in range(n)]
