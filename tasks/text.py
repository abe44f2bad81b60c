"""Everything the model reads and writes, as plain lines of text, and the tokenizer for them.

    rules                                    the prompt (fast weights): an instruction per topic
    red: reverse raise
    blue: sort
    ask red: d a c b                         a question
    red: reverse raise                       the answer: restate the instruction, carry it out, conclude
    reverse: b c a d
    raise: c d b e
    answer: c d b e

    reflect red: reverse                     a reflection: the topic, its current instruction,
    ask d a c b got b c a d want c d b e       up to three failures with feedback,
    try d a c b want c d b e                   a search on the first of them (what each operation makes of it,
    sort: a b c d                              and `then`, when one more operation leads to what was wanted),
    reverse: b c a d then raise
    red: reverse raise                         and the new instruction

What the model wrote is untrusted: any text parses to an answer or an instruction, or to nothing.
"""

import hashlib
import re
from functools import cache

import tiktoken

from tasks import TOPICS, Question, domains

KEYWORDS = ("rules", "ask", "answer", "reflect", "recite", "got", "want", "try", "then", "none")
MAX_OPERATIONS = 3  # in an instruction


@cache
def encoding() -> tiktoken.Encoding:
    """The tokenizer: 256 bytes, the world's words as whole pieces, and three special tokens.

    tiktoken looks a whole piece up before it merges bytes, so a word with its leading space and its colon is one
    token, and every other text falls back to bytes: any text decodes to itself.
    """
    ranks = {bytes([i]): i for i in range(256)}
    names = [*KEYWORDS, *TOPICS, *(name for domain in domains().values() for name in domain.operations)]
    pieces = [form for word in names for form in (word, f" {word}", f"{word}:", f" {word}:")]
    pieces += [f" {word}" for domain in domains().values() for word in domain.words]
    for piece in dict.fromkeys(pieces):  # no piece twice, in a fixed order
        ranks.setdefault(piece.encode(), len(ranks))
    special = {"<bos>": len(ranks), "<eos>": len(ranks) + 1, "<pad>": len(ranks) + 2}
    return tiktoken.Encoding(
        "fast-slow", pat_str=r" ?[a-z]+:?| ?[0-9]|[\s\S]", mergeable_ranks=ranks, special_tokens=special
    )


def encode(text: str) -> list[int]:
    """Text -> token ids. Special tokens are never read out of text."""
    return encoding().encode_ordinary(text)


def decode(tokens: list[int]) -> str:
    """Token ids -> text. Bytes that are no UTF-8 become the replacement character."""
    return encoding().decode(tokens, errors="replace")


def special(name: str) -> int:
    """The id of "bos", "eos" or "pad"."""
    return encoding().encode_single_token(f"<{name}>")


def fingerprint() -> str:
    """A name for the vocabulary: a base works with the one that it was trained with."""
    tokens = (encoding().decode_single_token_bytes(i) for i in range(encoding().n_vocab))
    return hashlib.sha256(b"\n".join(tokens)).hexdigest()[:16]


def prompt_text(rules: dict[str, str]) -> str:
    """The prompt that a population member stands for; without rules it is the seed prompt."""
    return "rules\n" + "".join(f"{topic}: {rules[topic]}\n" for topic in sorted(rules))


def question_text(topic: str, ask: str) -> str:
    """The question, after the prompt."""
    return f"ask {topic}: {ask}\n"


def parse_answer(text: str) -> str | None:
    """The answer of a completion, or None: the one `answer:` must stand in the last line, and nothing after it."""
    last = text.rsplit("\n", 1)[-1]
    return last.removeprefix("answer: ") if last.startswith("answer: ") and text.count("answer") == 1 else None


def verify(question: Question, text: str) -> float:
    """1.0 for the right answer, else 0.0. The thinking before it is not looked at."""
    return float(parse_answer(text) == question.want)


def failure_text(ask: str, got: str | None, want: str) -> str:
    """Feedback on a failure: the question, what was answered, what was right. Unreadable answers count as none."""
    readable = got is not None and len(got) <= 2 * len(want) + 8 and re.fullmatch(r"[a-z0-9]+( [a-z0-9]+)*", got)
    return f"ask {ask} got {got if readable else 'none'} want {want}\n"


def reflection_text(topic: str, instruction: str, failures: list[tuple[str, str | None, str]]) -> str:
    """What a reflection starts from: a topic, its instruction ("": none yet), (ask, got, want) of up to 3 failures."""
    return f"reflect {topic}: {instruction or 'none'}\n" + "".join(failure_text(*failure) for failure in failures)


def parse_instruction(text: str, topic: str) -> str:
    """The instruction that a reflection ends with, or "": one to three lower-case words after the topic."""
    line = text.rsplit("\n", 1)[-1]
    match = re.fullmatch(rf"{topic}: ([a-z]{{1,20}}(?: [a-z]{{1,20}}){{0,{MAX_OPERATIONS - 1}}})", line)
    return match[1] if match and match[1] != "none" else ""
