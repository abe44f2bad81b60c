"""Hostile text in bulk: everything that reads what a model wrote, against random tokens and damaged real documents.

    python experiments/fuzz.py [--sequences 100000] [--seed 0]

Each sequence goes the way of a rollout: scored as an answer, shown as feedback, read as a reflection, put into a
prompt, read back as one. Prints one line per kind, then what was found; exits with 1 if that is anything.
"""

import argparse
import random
import sys
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch

from tasks import KEYWORDS, corpus, domains, make_task, text
from tasks.dialogue import answer, reflect

BATCH, EOS = 500, text.special("eos")
SPECIAL = {text.special(name) for name in ("bos", "eos", "pad")}
ODD = ["\n", "\r\n", " ", ": ", "a", "\u200b", "\xa0", "\u2028", "\0", "а", "ｂ", "<eos>", "answer: ", "want ", "none"]
COMMON = [*range(256, text.encoding().n_vocab), *text.encode("\n: <>ab")]  # the world's words and the special tokens


def random_tokens(rng: random.Random) -> list[int]:
    return rng.choices(COMMON if rng.random() < 0.7 else range(text.encoding().n_vocab), k=rng.randrange(320))


def mutated_document(rng: random.Random) -> list[int]:
    words = "".join(piece for piece, _ in corpus.document(rng, list(domains().values())))
    for _ in range(rng.randrange(4)):  # drop, double, turn round or replace a part
        i, j = sorted(rng.choices(range(len(words) + 1), k=2))
        words = words[:i] + rng.choice(["", words[i:j] * 2, words[i:j][::-1], rng.choice(ODD)]) + words[j:]
    return text.encode(words)


def check(rows: list[list[int]], rng: random.Random):
    """Read completions in every way there is. Yields "right" and "instruction" to be counted, and what is wrong."""
    questions = make_task(rng.choice(list(domains())), rng.randrange(100)).questions(rng, len(rows))
    for row, q in zip(rows, questions, strict=True):  # two of three end rightly, or nearly
        odd, odder = (rng.choice(["", rng.choice(ODD)]) for _ in range(2))
        ends = "", f"\nanswer: {odd}{q.want}{odder}", f"\n{q.topic}: {odd}sort{odder}"
        row += [*text.encode(rng.choice(ends)), EOS]
    width, lengths = max(map(len, rows)), torch.tensor([len(row) for row in rows])
    tokens, asked = torch.tensor([row + [EOS] * (width - len(row)) for row in rows]), []

    def generate(prompts, questions, samples, max_new):
        asked[:] = questions[0]
        return SimpleNamespace(tokens=tokens, lengths=lengths, logprobs=None)

    answers = answer(generate, [({}, questions)])
    requests = [(q.topic, "", [(q, outcome)]) for q, outcome in zip(questions, answers.outcomes, strict=True)]
    instructions = reflect(generate, requests)
    for i, (q, words) in enumerate(zip(questions, answers.texts, strict=True)):
        right = words.split("\n")[-1] == f"answer: {q.want}" and words.count("answer") == 1
        yield "right" if right else "instruction" if instructions[i] else ""
        if answers.outcomes[i].score != right:
            yield f"reward {answers.outcomes[i].score} for {words!r}, {q.want!r} is right"
        shown = text.decode(asked[i])
        fields = [word for word in shown.replace(":", "").split() if word in KEYWORDS and word != "none"]
        if fields != ["reflect", "ask", "got", "want"] or shown.count("\n") != 2 or len(asked[i]) > 200:
            yield f"{words!r} makes the feedback {shown!r}"
        rules = {q.topic: instructions[i]} if instructions[i] else {}
        prompt = text.prompt_text(rules)
        if text.parse_prompt(prompt) != rules or SPECIAL & {*text.encode(prompt), *asked[i]} or len(prompt) > 70:
            yield f"{words!r} makes the prompt {prompt!r}"
        try:
            text.parse_prompt(words)
        except ValueError as error:
            if "\n" in str(error) or len(str(error)) > 400:
                yield f"{words!r} as a prompt makes the error {error}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sequences", type=int, default=100_000, help="random ones; and a tenth as many documents")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn")
    args, found = parser.parse_args(), []
    for write, n in ((random_tokens, args.sequences), (mutated_document, args.sequences // 10)):
        rng, seen = random.Random(f"{write.__name__} {args.seed}"), []
        for start in range(0, n, BATCH):
            seen += check([write(rng) for _ in range(min(BATCH, n - start))], rng)
        wrong = [finding for finding in seen if finding not in ("", "right", "instruction")]
        counts = f"{seen.count('right')} right answers, {seen.count('instruction')} instructions"
        print(f"{write.__name__}: {n} sequences, {counts}, {len(wrong)} findings")
        found += wrong
    print(*found[:20], sep="\n", end="\n" if found else "")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
