"""Hostile text in bulk: everything that reads what a model wrote, against random tokens and damaged
real documents.

    python tests/stress/fuzz.py [--sequences 100000] [--seed 0] [--out FILE]

Each sequence goes the way of a rollout: scored as an answer, shown as feedback, read as a
reflection, put into a prompt, read back as one from a `--prompt` file and from the state in a
checkpoint. Prints one line per kind, then what was found; exits with 1 if that is anything.
"""

import argparse
import json
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

from base import corpus
from fast_context import Population
from plumbing.command_line import read_text
from sampling import Rollouts, texts_of
from tasks import TOPICS, domains, formats, make_task
from tasks.domain import KEYWORDS
from tasks.world import ToyWorld

COUNTED = {"right": "right answers", "instruction": "instructions", "prompt": "prompts"}
WORLD = ToyWorld()
BATCH, EOS = 500, formats.special("eos")
SPECIAL = {formats.special(name) for name in ("bos", "eos", "pad")}
ODD = [
    "\n",
    "\r\n",
    " ",
    ": ",
    "a",
    "\u200b",
    "\xa0",
    "\u2028",
    "\0",
    "а",
    "ｂ",
    "<eos>",
    "answer: ",
    "want ",
    "none",
]
# the world's words and the special tokens
COMMON = [*range(256, formats.encoding().n_vocab), *formats.encode("\n: <>ab")]


def random_tokens(rng: random.Random) -> list[int]:
    return rng.choices(
        COMMON if rng.random() < 0.7 else range(formats.encoding().n_vocab), k=rng.randrange(320)
    )


def mutated_document(rng: random.Random) -> list[int]:
    words = "".join(piece for piece, _ in corpus.document(rng, list(domains().values())))
    for _ in range(rng.randrange(4)):  # drop, double, turn round or replace a part
        i, j = sorted(rng.choices(range(len(words) + 1), k=2))
        words = (
            words[:i]
            + rng.choice(["", words[i:j] * 2, words[i:j][::-1], rng.choice(ODD)])
            + words[j:]
        )
    return formats.encode(words)


def prompts_from(words: str, topic: str, file: Path, rng: random.Random):
    """Hostile text as a prompt: in a file, or part of it, or in a checkpoint. Yields "prompt", or
    what is wrong.
    """
    lines = "".join(f"{t}: {w}\n" for t, w in zip(TOPICS, words.split("\n"), strict=False))
    odd = rng.choice(["", rng.choice(ODD)])
    start = rng.choice([words, f"{topic}: {words}", lines, f"{odd}{topic}: reverse raise{odd}\n"])
    data = start.encode("utf-8", errors="surrogateescape")
    if rng.random() < 0.1:  # bytes that are no text
        data += rng.randbytes(4)
    file.write_bytes(data)
    try:
        rules = formats.parse_prompt(read_text(str(file)))
    except ValueError as error:
        if not str(error).isprintable() or len(str(error)) > 500:
            yield f"{data!r} as a prompt makes the error {error}"
    else:
        prompt = formats.prompt_text(rules)  # as a model reads it
        plain = all(formats.clean_instruction(instruction) for instruction in rules.values())
        if (
            not plain
            or formats.parse_prompt(prompt) != rules
            or SPECIAL & {*formats.encode(prompt)}
            or len(prompt) > 500
        ):
            yield f"{data!r} makes the prompt {prompt!r}"
        if rules:
            yield "prompt"
    state = Population(4, seed=0, start={"red": "sort"}).state_dict()
    state["candidates"][0][1] = rng.choice([{topic: words}, {words: "sort"}])
    try:
        Population(4, seed=0, start={}).load_state_dict(state, WORLD.is_prompt)
    except ValueError as error:
        if "\n" in str(error):
            yield f"{words!r} in a checkpoint makes the error {error}"
    else:
        if not formats.clean_instruction(words):
            yield f"{words!r} is taken from a checkpoint"


def check(rows: list[list[int]], rng: random.Random, file: Path):
    """Read completions in every way there is. Yields what is to be counted (COUNTED), and what is
    wrong.

    file: written to, to be read as a prompt.
    """
    questions = make_task(rng.choice(list(domains())), rng.randrange(100)).questions(rng, len(rows))
    for row, q in zip(rows, questions, strict=True):  # two of three end rightly, or nearly
        odd, odder = (rng.choice(["", rng.choice(ODD)]) for _ in range(2))
        ends = "", f"\nanswer: {odd}{q.want}{odder}", f"\n{q.topic}: {odd}sort{odder}"
        row += [*formats.encode(rng.choice(ends)), EOS]
    width, lengths = max(map(len, rows)), torch.tensor([len(row) for row in rows])
    tokens = torch.tensor([row + [EOS] * (width - len(row)) for row in rows])
    texts = texts_of(WORLD, Rollouts(tokens, lengths, logprobs=None))
    for q, words in zip(questions, texts, strict=True):
        outcome = WORLD.grade(q, words)
        asked = WORLD.encode(WORLD.reflection_text(q.topic, "", [(q, outcome)]))
        instruction, _ = WORLD.proposal((q.topic, "", []), "", words)
        right = words.split("\n")[-1] == f"answer: {q.want}" and words.count("answer") == 1
        yield "right" if right else "instruction" if instruction else ""
        if outcome.score != right:
            yield f"reward {outcome.score} for {words!r}, {q.want!r} is right"
        shown = formats.decode(asked)
        fields = [
            word for word in shown.replace(":", "").split() if word in KEYWORDS and word != "none"
        ]
        # as runs expect it
        longest = formats.reflection_text(
            q.topic, "", [(q.ask, "z" * (2 * len(q.want) + 8), q.want)]
        )
        too_long = len(asked) > len(formats.encode(longest))
        if fields != ["reflect", "ask", "got", "want"] or shown.count("\n") != 2 or too_long:
            yield f"{words!r} makes the feedback {shown!r}"
        rules = {q.topic: instruction} if instruction else {}
        prompt = formats.prompt_text(rules)
        try:
            back = formats.parse_prompt(prompt)
        except ValueError:
            back = None
        if back != rules or SPECIAL & {*formats.encode(prompt), *asked} or len(prompt) > 70:
            yield f"{words!r} makes the prompt {prompt!r}"
        yield from prompts_from(words, q.topic, file, rng)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument(
        "--sequences", type=int, default=100_000, help="random ones; and a tenth as many documents"
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn")
    parser.add_argument("--out", default="", help="file for the metrics")
    args, found, metrics = parser.parse_args(), [], {}
    with tempfile.TemporaryDirectory() as folder:
        for write, n in ((random_tokens, args.sequences), (mutated_document, args.sequences // 10)):
            rng, seen = random.Random(f"{write.__name__} {args.seed}"), Counter()
            for start in range(0, n, BATCH):
                rows = [write(rng) for _ in range(min(BATCH, n - start))]
                seen.update(check(rows, rng, Path(folder) / "prompt.txt"))
            wrong = [finding for finding in seen if finding not in ("", *COUNTED)]
            metrics[write.__name__] = {
                "sequences": n,
                **{what: seen[what] for what in COUNTED},
                "findings": len(wrong),
            }
            counts = ", ".join(f"{seen[what]} {name}" for what, name in COUNTED.items())
            print(f"{write.__name__}: {n} sequences, {counts}, {len(wrong)} findings", flush=True)
            found += wrong
    print(*found[:20], sep="\n", end="\n" if found else "")
    if args.out:
        Path(args.out).write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
