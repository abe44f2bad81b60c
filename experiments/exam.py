"""How good a base is: solving, reflecting, looking up, and whole tasks. A table of shares right.

    python experiments/exam.py > experiments/results/exam.md
    python experiments/exam.py --base OTHER/base.pt --questions 100

Decoding is greedy; whole tasks are sampled at temperature 1. What is solved under "task" and what
reflections look for are held-out rules, where they have two or three operations.
"""

import random
from itertools import chain
from pathlib import Path
from statistics import mean

import root  # noqa: F401 (it makes the imports below possible)
import torch

from base import exams
from base.prepare import SHIPPED, load_base
from plumbing import command_line
from sampling import Sampler
from tasks import domains, make_task
from tasks.world import ANSWER_TOKENS, REFLECTION_TOKENS, ToyWorld

# The exams: what to do; at the difficulties that the corpus shows often (seen) or those of tasks;
# for rules of so many operations; of a reflection also the old instruction that it starts from.
EXAMS = """
solve seen 1/2/3
solve task 1/2/3
reflect seen 1/2/3 none
reflect task 1/2/3 none
reflect seen 2 one missing
reflect task 2 one missing
reflect seen 1/2 other domain
reflect task 1/2 other domain
""".strip().splitlines()
HEAD = ["domain", *EXAMS, "look up, worst", "seed prompt", "right prompt"]
SEED_QUESTIONS = 1000  # at least: under the seed prompt few should be right


def share(model, n: int, max_new: int, make, *arguments) -> float:
    """The share of n items that a model passes. make(rng, *arguments): an item."""
    # The same items for every base.
    rng = random.Random(0)
    items = [make(rng, *arguments) for _ in range(n)]
    return exams.pass_rate(model, items, max_new)


def draw(rng, domain, kind: str, level: str, length: int, *old: str):
    """An item of one of the EXAMS."""
    difficulty = rng.choice(getattr(domain, f"{level}_difficulties"))
    if kind == "solve":
        return exams.solving(rng, domain, difficulty, length, level == "task" and length > 1)
    return exams.reflecting(rng, domain, difficulty, length, *old)


def whole_tasks(model, name: str, n: int, is_named: bool) -> float:
    """The share right of at least n questions of tasks that no run has.

    is_named: whether the prompt names the rules; the seed prompt names none.
    """
    sampler = Sampler(model, ToyWorld(), 1.0, torch.Generator().manual_seed(0))
    outcomes = []
    for seed in range(1000, 1000 + -(-n // 25)):
        task = make_task(name, seed)
        prompt = task.instructions if is_named else {}
        questions = task.questions(random.Random(seed), 25)
        outcomes += sampler.answer([(prompt, questions)]).outcomes
    return mean(outcome.score for outcome in outcomes)


def examine(model, n: int, name: str) -> list[str]:
    """The row of a domain: n questions for each number, at least."""
    domain = domains()[name]

    # Solving and reflecting.
    cells = [name]
    for line in EXAMS:
        kind, level, lengths, *old = line.split(" ", 3)
        max_new = REFLECTION_TOKENS if kind == "reflect" else ANSWER_TOKENS
        rates = []
        for length in lengths.split("/"):
            rate = share(model, n, max_new, draw, domain, kind, level, int(length), *old)
            rates.append(f"{rate:.2f}")
        cells.append("/".join(rates))

    # The instruction restated, for each place in prompts of one to six lines.
    found = []
    for lines in range(1, 7):
        for place in range(lines):
            rate = share(model, n, ANSWER_TOKENS, exams.looking_up, domain, place, lines)
            found.append(rate)

    # Tasks as a run has them.
    seed = whole_tasks(model, name, max(n, SEED_QUESTIONS), False)
    right = whole_tasks(model, name, n, True)
    return cells + [f"{number:.3f}" for number in (min(found), seed, right)]


def main(argv=None):
    parser = command_line.script_parser(__file__, __doc__)
    parser.add_argument("--base", type=Path, default=SHIPPED, help="default: %(default)s")
    parser.add_argument("--questions", type=int, default=500, help="at least, for each number")
    args = parser.parse_args(argv)
    with command_line.failures_in_one_line("stopped"):
        base = load_base(args.base)
        if args.questions < 1:
            raise ValueError("--questions must be 1 at least")
        about = base.about
        print(f"{about['step']} steps, {about['elapsed']:.0f} s; {args.questions} questions.\n")
        rows = (examine(base.model, args.questions, name) for name in about["domains"])
        for cells in chain([HEAD, ["---"] * len(HEAD)], rows):
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
