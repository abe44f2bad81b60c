"""The pretraining corpus: an endless, seeded stream of documents in the formats of `text.py`.

Four kinds of documents teach the base what a pretrained LLM brings along:
- solve: follow the prompt's instruction for the topic; make one up where the prompt has none;
- recite: repeat the prompt's instructions in another order, so that the right line is looked up, not the last one;
- spot: name the operation that leads from one state to another, if a single one does;
- reflect: read failures with feedback, search for the rule that explains them, write it down.

The search is depth-first over operations, written out (after Stream of Search, arXiv 2404.03683). Each line says
what one operation makes of a state and, where a single further operation explains all failures, which. So one
document teaches a dozen one-step inferences, and the rule of two operations that no single look could find is read
off a line. Rules of three operations are searched from the most promising of the states after one operation.

Held-out rules never occur, under any spelling, neither as instructions nor as what a reflection looks for.
"""

import random

from tasks import TOPICS, Domain, Rule
from tasks.text import encode, prompt_text, question_text, reflection_text, special

KINDS = {"solve": 0.32, "recite": 0.10, "spot": 0.23, "reflect": 0.35}
SOLVE_LENGTHS = {1: 0.3, 2: 0.35, 3: 0.35}  # operations in a rule, by share of documents
REFLECT_LENGTHS = {1: 0.3, 2: 0.45, 3: 0.25}
INTUITION = 0.5  # share of searches that name the right operation first; else it comes at a random place

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
    """A prompt of 0 to 6 lines, a question, and its answer by the rule (one document in 12: with no rule for it)."""
    prompt = draw_prompt(rng, domain, rng.randint(1, 6))
    topic = rng.choice(list(prompt))
    rule = tuple(prompt[topic].split())
    if rng.random() < 1 / 12:  # made up: the instruction that the answer goes by is nowhere to be read
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


def search(rng: random.Random, domain: Domain, rule: Rule, state) -> tuple[str, Rule]:
    """The written search for a rule on one example, and the spelling of the rule that it finds."""
    goals, want = domain.equivalents(rule), f" want {domain.show(domain.apply(rule, state))}"
    names = list(domain.operations)
    found: Rule = ()
    text = f"try {domain.show(state)}{want}"
    while len(found) < len(rule) - 1:
        text += "\n"
        nexts = [g[len(found)] for g in goals if g[: len(found)] == found]
        order = rng.sample(names, len(names))
        if rng.random() < INTUITION:
            order.insert(0, order.pop(order.index(rng.choice(nexts))))
        last = len(rule) - len(found) == 2
        if not last:  # nothing is one step away from here: look at all, then go on from a state on the way
            for name in order:
                text += f"{name}: {domain.show(domain.operations[name](state))}\n"
            found += (rng.choice(nexts),)
            state = domain.operations[found[-1]](state)
            text += f"try {domain.show(state)}{want}"
            continue
        for name in order:
            text += f"{name}: {domain.show(domain.operations[name](state))}"
            if name in nexts:
                found += (name,)
                break
            text += "\n"
    final = rng.choice([g for g in goals if g[: len(found)] == found])
    return f"{text} then {final[-1]}\n", final


def reflect(rng: random.Random, domain: Domain) -> Document:
    """A topic, its instruction, failures with feedback; then the search and the new instruction.

    The old instruction is none (half), another rule, the right rule without its last operation, or the right rule
    itself, carried out badly. Answers are sometimes botched or missing, as they are in life.
    """
    rule = draw_rule(rng, domain, REFLECT_LENGTHS)
    topic = rng.choice(TOPICS)
    kind = pick(rng, {"none": 0.5, "wrong": 0.3, "prefix": 0.15, "right": 0.05})
    went_by = rule if kind == "right" else rule[:-1] if kind == "prefix" else draw_rule(rng, domain, SOLVE_LENGTHS)
    old = "" if kind == "none" else " ".join(went_by)
    difficulty = pick(rng, domain.corpus_difficulties)
    document: Document = [(reflection_text(topic, old, []), False)]
    first = None
    for _ in range(pick(rng, {3: 0.8, 2: 0.1, 1: 0.1})):
        state = domain.draw(rng, difficulty)
        first = state if first is None else first
        got, want = domain.show(domain.apply(went_by, state)), domain.show(domain.apply(rule, state))
        if kind == "right" or rng.random() < 0.1:  # a slip, or no answer at all
            got = rng.choice([domain.show(domain.draw(rng, difficulty)), "none"])
        document += [(f"ask {domain.show(state)} got {got} want", False), (f" {want}\n", True)]
    text, found = search(rng, domain, rule, first)
    return [*document, (text + f"{topic}: {' '.join(found)}", True)]


def spot(rng: random.Random, domain: Domain) -> Document:
    """Six pairs of states, each with the operation that leads from one to the other (or, one in four, with none)."""
    difficulty, document = pick(rng, domain.corpus_difficulties), []
    for _ in range(6):
        state, rule = domain.draw(rng, difficulty), draw_rule(rng, domain, {1: 0.75, 2: 0.25})
        want = domain.apply(rule, state)
        document += [(f"try {domain.show(state)} want {domain.show(want)}", False)]
        document += [(f" then {rule[0]}\n" if len(rule) == 1 else "\n", True)]
    return document


WRITERS = {"solve": solve, "recite": recite, "spot": spot, "reflect": reflect}


def document(rng: random.Random, domains: list[Domain]) -> Document:
    """One random document of a random domain."""
    return WRITERS[pick(rng, KINDS)](rng, rng.choice(domains))


def encode_document(pieces: Document) -> tuple[list[int], list[int]]:
    """A document -> its tokens (bos ... eos), and for each whether it is to be learned (1) or given (0)."""
    tokens, learn = [special("bos")], [0]
    for text, learned in pieces:
        ids = encode(text)
        tokens += ids
        learn += [int(learned)] * len(ids)
    return [*tokens, special("eos")], [*learn, 1]


def documents(domains: list[Domain], seed: int, step: int, n: int) -> list[tuple[list[int], list[int]]]:
    """The n encoded documents of a pretraining step: a function of seed and step alone, so nothing need be saved."""
    rng = random.Random(f"corpus {seed} {step}")
    return [encode_document(document(rng, domains)) for _ in range(n)]
