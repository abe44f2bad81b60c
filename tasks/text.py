"""Everything the model reads and writes, as plain lines of text, and the tokenizer for them.

    rules                                    the prompt (fast weights): an instruction per topic
    blue: sort
    red: reverse raise
    ask red: d a c b                         a question
    red: reverse raise                       the answer: restate the instruction, carry it out, conclude
    reverse: b c a d
    raise: c d b e
    answer: c d b e

    reflect red: reverse                     a reflection: the topic, its current instruction,
    ask d a c b got b c a d want c d b e       up to three failures with feedback,
    try reverse: b c a d want c d b e          a search on the first of them: from where the old instruction led,
    reverse: d                                   all operations in turn, each until it departs from what was wanted
    left: c a                                    (left makes c a d b of it: the second letter is another);
    ...                                          where none arrives, the same from the question,
    raise: c d b e done                          then from every state that one operation leads to
    red: reverse raise                         the new instruction

What the model wrote is untrusted: any text parses to an answer or an instruction, or to nothing.
"""

import hashlib
import re
from functools import cache

import tiktoken

from tasks import KEYWORDS, STATE, TOPICS, WORD, Question, domains


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
    for piece in pieces:
        ranks.setdefault(piece.encode(), len(ranks))  # no piece twice
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


def plain(text: str) -> bool:
    """Whether text can stand in a line without posing as more lines or fields: words and digits, but no keyword."""
    return bool(re.fullmatch(STATE, text)) and not {*text.split(" ")} & {*KEYWORDS}


def failure_text(ask: str, got: str | None, want: str) -> str:
    """Feedback on a failure: the question, what was answered, what was right. Unreadable answers count as none."""
    readable = got is not None and len(got) <= 2 * len(want) + 8 and plain(got)
    return f"ask {ask} got {got if readable else 'none'} want {want}\n"


def reflection_text(topic: str, instruction: str, failures: list[tuple[str, str | None, str]]) -> str:
    """What a reflection starts from: a topic, its instruction ("": none yet), (ask, got, want) of up to 3 failures."""
    return f"reflect {topic}: {instruction or 'none'}\n" + "".join(failure_text(*failure) for failure in failures)


def abridged(reflection: str) -> str:
    """A reflection for people: of the searches only the heads, and where they arrived."""
    lines = reflection.split("\n")
    shown = [line if line.startswith(("reflect", "ask", "try")) or line.endswith(" done") else "..." for line in lines]
    shown[-1] = lines[-1]
    return "\n".join(
        line for line, before in zip(shown, [None, *shown], strict=False) if (line, before) != ("...", "...")
    )


def clean_instruction(text: str) -> str:
    """The text itself if it is an instruction: one to three lower-case words, no keyword. "" for any other text."""
    return text if re.fullmatch(f"{WORD}( {WORD}){{0,2}}", text) and plain(text) else ""


def parse_instruction(text: str, topic: str) -> str:
    """The instruction that a reflection ends with: the last line, after the topic. "" where there is none."""
    named, _, instruction = text.rsplit("\n", 1)[-1].partition(": ")
    return clean_instruction(instruction) if named == topic else ""


def parse_prompt(text: str) -> dict[str, str]:
    """The rules of a prompt as `prompt_text` or a person wrote it; blank lines and the heading do not matter.

    Raises ValueError that names the first line which is no topic with an instruction, or names a topic again.
    """
    rules: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if (line := line.strip()) in ("", "rules"):
            continue
        topic, _, instruction = line.partition(": ")
        if topic not in TOPICS or topic in rules or not clean_instruction(instruction):
            raise ValueError(
                f"line {number} of the prompt, {line[:60]!r}, must be a topic that no other line has "
                f"({', '.join(TOPICS)}), a colon, and an instruction of one to three lower-case words"
            )
        rules[topic] = instruction
    return rules
