"""What the pretrained base can do, as a table: solving, looking up, reflecting.

    python experiments/exam.py [--base base/base.pt] [--questions 500] [--out FILE]

Every figure is a share of at least `--questions` random questions; "seed prompt", which names no
instruction, has at least SEED_QUESTIONS. What is solved under "task" and what reflections look for
are held-out rules, where they have two or three operations; all else are rules of the corpus.
Decoding is greedy; only whole tasks ("seed prompt", "right prompt") are sampled at temperature 1.
"""

import argparse
import json
import random
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from tqdm import tqdm

from base import exams
from base.prepare import SHIPPED, load_base
from sampling import Sampler
from tasks import domains, make_task
from tasks.formats import fingerprint
from tasks.world import ANSWER_TOKENS, REFLECTION_TOKENS, ToyWorld

BATCH = 250  # questions that go through the model at once
SEED_QUESTIONS = 1000  # so many should not earn anything


def measure(path: Path, name: str, n: int, place: int) -> dict[str, float]:
    """All exams of a domain -> figures by name, "domain/exam/...". place: of its progress bar."""
    torch.set_num_threads(1)
    model, _ = load_base(path)
    sampler = Sampler(model, ToyWorld(), 1.0, torch.Generator().manual_seed(0))
    figures = {}
    domain = domains()[name]
    levels = {"seen": domain.seen_difficulties, "task": domain.task_difficulties}
    bar = tqdm(total=6 + 21 + 12 + 2, desc=f"examining {name}", unit="exam", position=place)

    # draw: a random generator -> an exam's item
    def share(name: str, draw, max_new: int = ANSWER_TOKENS) -> None:
        rng, rates = random.Random(name), []
        for _ in range(-(-n // BATCH)):
            rates.append(exams.pass_rate(model, [draw(rng) for _ in range(BATCH)], max_new))
        figures[name] = sum(rates) / len(rates)
        bar.update()

    share_long = partial(share, max_new=REFLECTION_TOKENS)

    def solving(rng, level, length):
        return exams.solving(
            rng, domain, rng.choice(levels[level]), length, level == "task" and length > 1
        )

    def reflecting(rng, level, length, old="none"):
        return exams.reflecting(rng, domain, rng.choice(levels[level]), length, length > 1, old)

    for level in levels:
        for length in (1, 2, 3):
            share(f"{name}/{level}/solve/{length}", partial(solving, level=level, length=length))
            share_long(
                f"{name}/{level}/reflect/{length}", partial(reflecting, level=level, length=length)
            )
        for length, old in ((2, "one missing"), (1, "other domain"), (2, "other domain")):
            share_long(
                f"{name}/{level}/reflect/{length}, {old}",
                partial(reflecting, level=level, length=length, old=old),
            )
    for lines in range(1, 7):
        for position in range(lines):
            key = f"{name}/look up/line {position + 1} of {lines}"
            share(key, partial(exams.looking_up, domain=domain, position=position, lines=lines))
    for prompt in ("seed prompt", "right prompt"):
        right = total = 0
        for seed in range(-(-(max(n, SEED_QUESTIONS) if prompt == "seed prompt" else n) // 25)):
            task = make_task(name, 1000 + seed)
            rules = task.instructions if prompt == "right prompt" else {}
            outcomes = sampler.answer([(rules, task.questions(random.Random(seed), 25))]).outcomes
            right, total = right + sum(outcome.score for outcome in outcomes), total + len(outcomes)
        figures[f"{name}/task/{prompt}"] = right / total
        bar.update()
    bar.close()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument(
        "--base",
        default=SHIPPED,
        help="checkpoint of the base (default: %(default)s)",
    )
    parser.add_argument(
        "--questions", type=int, default=500, help="at least this many for each figure"
    )
    parser.add_argument("--out", default="", help="JSON file to write the figures to")
    args = parser.parse_args()
    try:
        _, contents = load_base(Path(args.base))
        if contents["vocabulary"] != fingerprint():
            raise ValueError(
                f"{args.base} knows another vocabulary: train one with python train.py --pretrain"
            )
        if args.questions < 1:
            raise ValueError(f"--questions must be at least 1, not {args.questions}")
    except ValueError as error:
        sys.exit(f"exam.py: {error}")
    about = {"base": Path(args.base).name, "questions": args.questions, "vocabulary": fingerprint()}
    about |= {key: contents[key] for key in ("step", "minutes", "elapsed")}
    # two domains at a time, a thread each
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        made = [
            pool.submit(measure, Path(args.base), name, args.questions, place)
            for place, name in enumerate(contents["domains"])
        ]
        figures = {name: value for exam in made for name, value in exam.result().items()}
    for name, value in figures.items():
        print(f"{name:44}{value:.3f}")
    if args.out:
        Path(args.out).write_text(
            json.dumps(about | {"figures": figures}, indent=1) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
