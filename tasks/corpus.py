"""The pretraining corpus: an endless, seeded stream of documents in the formats of `text.py`.

Four kinds of documents teach the base what a pretrained LLM brings along:
- solve: follow the prompt's instruction for the topic; make one up where the prompt has none;
- recite: repeat a prompt's instructions, or a question's facts, in another order, so that looking up is learned;
- reflect: read failures with feedback, search for the rule that explains them, write it down;
- spot: the end of a reflection, its last block or the last few.

The search is written out (after Stream of Search, arXiv 2404.03683) in blocks: from a state, all operations in a
fixed order, each carried out until it departs from what was wanted. The first block starts from where the old
instruction led, if there is one, the next from the question, then one from every state that one operation leads to.
So rules of one and two operations are found by care alone. A third operation takes luck: the search then goes two deep
from one guessed operation, and the guess (which is sometimes made where two would do) is what sampling varies.

Held-out rules never occur, under any spelling: not as instructions, not as what a reflection looks for or writes down,
and no search goes on from one.
"""

import random

from tasks import TOPICS, Domain, Rule
from tasks.text import encode, failure_text, prompt_text, question_text, reflection_text, special

EASY = {"solve": 0.5, "recite": 0.25, "spot": 0.25}  # the first documents of pretraining: short ones
KINDS = {"solve": 0.45, "recite": 0.1, "spot": 0.25, "reflect": 0.2}
SOLVE_LENGTHS = {1: 0.3, 2: 0.35, 3: 0.35}  # operations in a rule, by share of documents
REFLECT_LENGTHS = {1: 0.25, 2: 0.6, 3: 0.15}

Document = list[tuple[str, bool]]  # pieces of text, and whether the model learns to write them (else they are given)


def pick(rng: random.Random, weights: dict):
    """A key of `weights`, by weight."""
    return rng.choices(list(weights), list(weights.values()))[0]


def draw_rule(rng: random.Random, domain: Domain, lengths: dict[int, float]) -> Rule:
    """A rule that is not held out."""
    return rng.choice(domain.rules(pick(rng, lengths)))


def steps_text(domain: Domain, rule: Rule, state) -> str:
    """The completion that solves a question, from the restated rule's steps to the answer."""
    lines = []
    for name in rule:
        state = domain.operations[name](state)
        lines.append(f"{name}: {domain.show(state)}\n")
    return "".join(lines) + f"answer: {domain.show(state)}"


def draw_prompt(rng: random.Random, domain: Domain, n: int) -> dict[str, str]:
    """Random instructions for n random topics."""
    return {topic: " ".join(draw_rule(rng, domain, SOLVE_LENGTHS)) for topic in rng.sample(TOPICS, n)}


def solve(rng: random.Random, domain: Domain) -> Document:
    """A prompt of 0 to 6 lines, a question, and its answer by the rule (three in ten: with no rule for it)."""
    prompt = draw_prompt(rng, domain, rng.randint(1, 6))
    topic = rng.choice(list(prompt))
    rule, learned = tuple(prompt[topic].split()), True
    if rng.random() < 1 / 4:  # no prompt at all: these are short, and train the carrying out
        prompt = {}
    elif rng.random() < 1 / 12:  # made up: the instruction that the answer goes by is nowhere to be read
        del prompt[topic]
    state = domain.draw(rng, pick(rng, domain.corpus_difficulties))
    if domain.habit and topic not in prompt:  # the habit is learned, and other rules are given, to be carried out
        learned = rng.random() < 0.5
        rule = domain.habit if learned else rule
    given = prompt_text(prompt) + question_text(topic, domain.ask(state))
    restated = f"{topic}: {' '.join(rule)}\n"
    return [(given, False), (restated, learned), (steps_text(domain, rule, state), True)]


def recite(rng: random.Random, domain: Domain) -> Document:
    """A prompt of 2 to 6 lines and the same lines in another order; half the time a question's facts, if any, do so."""
    facts = domain.given(domain.draw(rng, pick(rng, domain.corpus_difficulties)))
    if facts and rng.random() < 1 / 2:
        told: dict[str, str] = {}  # of facts that begin the same, the first
        for begun, last in (fact.rsplit(" ", 1) for fact in facts):
            told.setdefault(begun, last)
        document = [(f"ask {rng.choice(TOPICS)}: {' '.join(facts)} recite", False)]
        for begun in rng.sample(sorted(told), len(told)):
            document += [(f" {begun}", False), (f" {told[begun]}", True)]
        return document
    prompt = draw_prompt(rng, domain, rng.randint(2, 6))
    document = [(prompt_text(prompt) + "recite", False)]
    for topic in rng.sample(sorted(prompt), len(prompt)):
        document += [(f"\n{topic}:", False), (f" {prompt[topic]}", True)]
    return document


def until_it_departs(shown: str, want: str) -> str:
    """The words of a state up to the first that is not what was wanted there."""
    words = shown.split()
    agreeing = [a == b for a, b in zip(words, want.split(), strict=False)] + [False]
    return " ".join(words[: agreeing.index(False) + 1])


def block(domain: Domain, prefix: Rule, state, want: str) -> tuple[Document, str]:
    """All operations in turn on the state that a prefix led to, until one arrives -> its head and its lines, and the
    operation that arrived ("" for none)."""
    head, lines = (f" {' '.join(prefix)}:" if prefix else ""), ""
    for name, operation in domain.operations.items():
        after = domain.show(operation(state))
        lines += f"{name}: {until_it_departs(after, want)}" + (" done\n" if after == want else "\n")
        if after == want:
            break
    document = [("try", True), (head, True), (f" {domain.show(state)} want {want}\n{lines}", True)]
    return document, name if after == want else ""


def search(rng: random.Random, domain: Domain, rule: Rule, state, old: Rule, short: bool) -> tuple[Document, Rule]:
    """The written search for a rule on one example, and the rule that it finds: () for none, or by chance a wrong one.

    old: the old instruction, () for none. short: only the last one to three blocks; the head of the first is given.
    """
    want, names = domain.show(domain.apply(rule, state)), list(domain.operations)
    starts = [old, ()] if old else [()]
    if len(rule) == 3 and old != rule[:2]:
        guess = rng.choice(domain.equivalents(rule))[0]
        starts += [(guess,), *((guess, name) for name in names if (guess, name) not in domain.rules(2, held_out=True))]
    else:
        starts += [(name,) for name in names if (name,) != old]
    blocks = []
    for prefix in starts:
        document, name = block(domain, prefix, domain.apply(prefix, state), want)
        blocks.append(document)
        if name:
            break
    if short and (skipped := max(0, len(blocks) - rng.randint(1, 3))):
        blocks = blocks[skipped:]
        blocks[0][1] = (blocks[0][1][0], False)
    return [piece for document in blocks for piece in document], (*prefix, name) if name else ()


def reflect(rng: random.Random, domain: Domain, short: bool = False) -> Document:
    """A topic, its instruction, failures with feedback; then the search and the new instruction.

    The old instruction is none (half), another rule, or the right rule without its last operation. Answers are
    sometimes botched or missing, as they are in life.
    """
    topic = rng.choice(TOPICS)
    while True:  # the example that is searched on must not have the right result for a wrong reason
        difficulty = pick(rng, domain.corpus_difficulties)
        rule, first = draw_rule(rng, domain, REFLECT_LENGTHS), domain.draw(rng, difficulty)
        kind = pick(rng, {"none": 0.5, "wrong": 0.2, "prefix": 0.3})
        if kind == "prefix" and rule[:-1] not in domain.rules(len(rule) - 1):
            kind = "wrong"  # there is no prefix to show
        old = () if kind == "none" else rule[:-1] if kind == "prefix" else draw_rule(rng, domain, SOLVE_LENGTHS)
        went_by = old or draw_rule(rng, domain, SOLVE_LENGTHS)
        searched, found = search(rng, domain, rule, first, old if len(old) < 3 else (), short)
        failed = domain.apply(went_by, first) != domain.apply(rule, first)
        if failed and found in domain.equivalents(rule):  # and not a longer spelling, which might name a held-out pair
            break
    document: Document = [(reflection_text(topic, " ".join(old), []), False)]
    for i in range(1 if short else pick(rng, {3: 0.6, 2: 0.1, 1: 0.3})):
        state = first if i == 0 else None
        while state is None or domain.apply(went_by, state) == domain.apply(rule, state):
            state = domain.draw(rng, difficulty)
        got, want = domain.show(domain.apply(went_by, state)), domain.show(domain.apply(rule, state))
        if rng.random() < 0.1 and (i or not old):  # a slip, or no answer at all
            slip = domain.show(domain.draw(rng, difficulty))
            got = slip if slip != want and rng.random() < 0.5 else "none"
        document.append((failure_text(domain.ask(state), got, want), False))
    return [*document, *searched, (f"{topic}: {' '.join(found)}", True)]


def spot(rng: random.Random, domain: Domain) -> Document:
    """A reflection on one failure of which only the end is written."""
    return reflect(rng, domain, short=True)


WRITERS = {"solve": solve, "recite": recite, "spot": spot, "reflect": reflect}


def document(rng: random.Random, domains: list[Domain], easy: bool = False) -> Document:
    """One random document of a random domain; while it is easy, every other one is of the last, which is new."""
    domain = domains[-1] if easy and rng.random() < 0.5 else rng.choice(domains)
    return WRITERS[pick(rng, EASY if easy else KINDS)](rng, domain)


def encode_document(pieces: Document) -> tuple[list[int], list[int]]:
    """A document -> its tokens (bos ... eos), and for each whether it is to be learned (1) or given (0)."""
    tokens, learn = [special("bos")], [0]
    for text, learned in pieces:
        ids = encode(text)
        tokens += ids
        learn += [int(learned)] * len(ids)
    return [*tokens, special("eos")], [*learn, 1]


def documents(domains: list[Domain], seed: int, step: int, n: int, easy: bool = False) -> list:
    """The n encoded documents of a pretraining step: a function of its arguments alone, so nothing need be saved."""
    rng = random.Random(f"corpus {seed} {step}")
    return [encode_document(document(rng, domains, easy)) for _ in range(n)]
