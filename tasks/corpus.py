"""The pretraining corpus: an endless, seeded stream of documents in the formats of `text.py`.

Four kinds of documents teach the base what a pretrained LLM brings along:
- solve: follow the prompt's instruction for the topic; make one up where the prompt has none;
- recite: repeat the prompt's instructions in another order, so that the right line is looked up, not the last one;
- spot: name the operation that leads from one state to another, and see whether it does;
- reflect: read failures with feedback, search for the rule that explains them, write it down.

The search is written out (after Stream of Search, arXiv 2404.03683). It goes through the operations in a fixed order,
a likely first one before all others: what the operation makes of the state, then a guess of which further operation
leads to what was wanted, and what that one makes of it. So the model sees for itself whether it has arrived: a wrong
guess costs a line, not the answer. Rules of one operation only need carrying out and comparing; rules of two also
need one good guess, at the right line; for a rule of three the search goes on from the most promising state.

Held-out rules never occur, under any spelling, neither as instructions nor as what a reflection looks for.
"""

import random

from tasks import TOPICS, Domain, Rule
from tasks.text import encode, prompt_text, question_text, reflection_text, special

EASY = {"solve": 0.5, "recite": 0.25, "spot": 0.25}  # the first documents of pretraining: short ones
KINDS = {"solve": 0.25, "recite": 0.1, "spot": 0.25, "reflect": 0.4}
EASY_SHARE = 0.25  # of the time of pretraining
SOLVE_LENGTHS = {1: 0.3, 2: 0.35, 3: 0.35}  # operations in a rule, by share of documents
REFLECT_LENGTHS = {1: 0.3, 2: 0.5, 3: 0.2}
INTUITION = 0.5  # share of searches that begin with the right operation

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
    rule = tuple(prompt[topic].split())
    if rng.random() < 1 / 4:  # no prompt at all: these are short, and train the carrying out
        prompt = {}
    elif rng.random() < 1 / 12:  # made up: the instruction that the answer goes by is nowhere to be read
        del prompt[topic]
    state = domain.draw(rng, pick(rng, domain.corpus_difficulties))
    given = prompt_text(prompt) + question_text(topic, domain.show(state))
    return [(given, False), (f"{topic}: {' '.join(rule)}\n" + steps_text(domain, rule, state), True)]


def recite(rng: random.Random, domain: Domain) -> Document:
    """A prompt of 2 to 6 lines, and the same lines in another order."""
    prompt = draw_prompt(rng, domain, rng.randint(2, 6))
    document = [(prompt_text(prompt) + "recite", False)]
    for topic in rng.sample(sorted(prompt), len(prompt)):
        document += [(f"\n{topic}:", False), (f" {prompt[topic]}", True)]
    return document


def search(rng: random.Random, domain: Domain, rule: Rule, state, hint: str = "") -> tuple[Document, Rule]:
    """The written search for a rule on one example, and the spelling of the rule that it finds.

    hint: an operation to look at first. Guesses that cannot be right are given, not learned.
    """
    goals, want = domain.equivalents(rule), domain.apply(rule, state)
    names, found, document = list(domain.operations), (), []
    while True:
        document.append((f"try {domain.show(state)} want {domain.show(want)}", True))
        left = len(rule) - len(found)
        nexts = [g[len(found)] for g in goals if g[: len(found)] == found]
        first = hint if hint in names else rng.choice(nexts if rng.random() < INTUITION else names)
        hint = ""
        for name in [first, *(n for n in names if n != first)]:
            after = domain.operations[name](state)
            document.append((f"\n{name}: {domain.show(after)}", True))
            if left == 1 and name in nexts:
                return document, (*found, name)
            lasts = [g[-1] for g in goals if g[:-1] == (*found, name)]
            if left == 2 and lasts:
                last = rng.choice(lasts)
                document.append((f" then {last}: {domain.show(want)}", True))
                return document, (*found, name, last)
            guess = rng.choice([n for n in names if domain.operations[n](after) != want] or names)
            document.append((" then", True))
            document.append((f" {guess}:", False))
            document.append((f" {domain.show(domain.operations[guess](after))}", True))
        found += (rng.choice(nexts),)
        state = domain.operations[found[-1]](state)
        document.append(("\n", True))


def reflect(rng: random.Random, domain: Domain) -> Document:
    """A topic, its instruction, failures with feedback; then the search and the new instruction.

    The old instruction is none (half), another rule, the right rule without its last operation, or the right rule
    itself, carried out badly. Answers are sometimes botched or missing, as they are in life.
    """
    difficulty, topic = pick(rng, domain.corpus_difficulties), rng.choice(TOPICS)
    while True:  # the example that is searched on must not have the right result for a wrong reason
        rule, first = draw_rule(rng, domain, REFLECT_LENGTHS), domain.draw(rng, difficulty)
        if not coincidental(domain, rule, first):
            break
    kind = pick(rng, {"none": 0.5, "wrong": 0.3, "prefix": 0.15, "right": 0.05})
    if kind == "prefix" and rule[:-1] not in domain.rules(len(rule) - 1):
        kind = "wrong"  # there is no prefix to show
    went_by = rule if kind == "right" else rule[:-1] if kind == "prefix" else draw_rule(rng, domain, SOLVE_LENGTHS)
    old = "" if kind == "none" else " ".join(went_by)
    document: Document = [(reflection_text(topic, old, []), False)]
    for i in range(pick(rng, {3: 0.6, 2: 0.1, 1: 0.3})):
        state = domain.draw(rng, difficulty) if i else first
        got, want = domain.show(domain.apply(went_by, state)), domain.show(domain.apply(rule, state))
        if kind == "right" or rng.random() < 0.1:  # a slip, or no answer at all
            got = rng.choice([domain.show(domain.draw(rng, difficulty)), "none"])
        document += [(f"ask {domain.show(state)} got {got} want", False), (f" {want}\n", True)]
    hint = old.split()[0] if kind in ("prefix", "right") and old else ""
    searched, found = search(rng, domain, rule, first, hint)
    return [*document, *searched, (f"\n{topic}: {' '.join(found)}", True)]


def coincidental(domain: Domain, rule: Rule, state) -> bool:
    """Whether a single operation that is not the rule does to this state what the rule does."""
    want = domain.apply(rule, state)
    return any(op(state) == want and not domain.same((name,), rule) for name, op in domain.operations.items())


def spot(rng: random.Random, domain: Domain) -> Document:
    """Four pairs of states, each with guesses of the operation that leads from one to the other, until one arrives.

    The wrong guesses are given, not learned: what they teach is to see whether a state is the one that was wanted.
    """
    difficulty, document = pick(rng, domain.corpus_difficulties), []
    for _ in range(4):
        state, name = domain.draw(rng, difficulty), rng.choice(list(domain.operations))
        want = domain.show(domain.operations[name](state))
        document.append((f"try {domain.show(state)} want {want}", False))
        results = {other: domain.show(operation(state)) for other, operation in domain.operations.items()}
        wrong = [other for other in results if results[other] != want]
        for guess in [*rng.sample(wrong, rng.choice((0, 0, 1, 2))), name]:
            known = guess == name
            document += [(" then", True), (f" {guess}:", known), (f" {results[guess]}", True)]
        document.append(("\n", True))
    return document


WRITERS = {"solve": solve, "recite": recite, "spot": spot, "reflect": reflect}


def document(rng: random.Random, domains: list[Domain], easy: bool = False) -> Document:
    """One random document of a random domain."""
    return WRITERS[pick(rng, EASY if easy else KINDS)](rng, rng.choice(domains))


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
