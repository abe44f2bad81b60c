"""Everything that the model reads and writes, as plain lines of text, and the tokenizer for them.

    rules                                  the prompt (fast weights): an instruction per topic
    blue: sort
    red: reverse raise
    ask red: d a c b                       a question
    red: reverse raise                     the answer: first the instruction is restated,
    reverse: b c a d                         then carried out
    raise: c d b e
    answer: c d b e                          and the result is the answer

    reflect red: reverse                   a reflection: the topic, its current instruction,
    ask d a c b got b c a d want c d b e     up to three failures with feedback,
    try reverse: b c a d want c d b e        a search on the first of them: from one state, all
    reverse: d                               operations in turn, each written until it departs
    left: c a                                from what was wanted (left makes c a d b of it: the
    ...                                      second letter is another one),
    raise: c d b e done                      until an operation arrives;
    red: reverse raise                       the new instruction

The search starts from the state that the old instruction led to, if that has one or two operations.
If none arrives, it goes on from the question; then from every state that one operation leads to, or
from those that two lead to, the first of them guessed (base/corpus.py has it in full).

What the model wrote is untrusted: any text parses to an answer or an instruction, or to nothing.
"""

import hashlib
import re
from functools import cache

import tiktoken

from tasks import TOPICS, Domain, Question, Rule, domains
from tasks.domain import KEYWORDS, STATE, WORD

# --- the tokenizer ---


@cache
def encoding() -> tiktoken.Encoding:
    """The tokenizer: 256 bytes, the words of the toy world as whole pieces, three special tokens.

    tiktoken looks a whole piece up before it merges bytes. So a word with its leading space and its
    colon is one token, and any other text falls back to bytes: every text decodes to itself.
    """
    # Token ids are given in order: first the bytes, then the pieces. No piece gets two.
    ranks = {bytes([i]): i for i in range(256)}
    for piece in vocabulary():
        ranks.setdefault(piece.encode(), len(ranks))

    # The pattern splits text into words, digits and single characters.
    n = len(ranks)
    return tiktoken.Encoding(
        "fast-slow",
        pat_str=r" ?[a-z]+:?| ?[0-9]|[\s\S]",
        mergeable_ranks=ranks,
        special_tokens={"<bos>": n, "<eos>": n + 1, "<pad>": n + 2},
    )


def vocabulary() -> list[str]:
    """The pieces of text that are one token each, in order, some of them twice."""
    every = domains().values()
    names = [*KEYWORDS, *TOPICS]
    for domain in every:
        names += domain.operations

    # Keywords, topics and operations may begin a line and may be followed by a colon.
    pieces = []
    for name in names:
        pieces += [name, f" {name}", f"{name}:", f" {name}:"]

    # The words of a state always follow a space.
    for domain in every:
        pieces += [f" {word}" for word in domain.words]
    return pieces


def encode(text: str) -> list[int]:
    """Text -> token ids. Special tokens are never read out of text."""
    return encoding().encode_ordinary(text)


def decode(tokens: list[int]) -> str:
    """Token ids -> text. Bytes that are not UTF-8 become the replacement character."""
    return encoding().decode(tokens, errors="replace")


def special(name: str) -> int:
    """The id of "bos", "eos" or "pad"."""
    return encoding().encode_single_token(f"<{name}>")


def fingerprint() -> str:
    """A short hash of the vocabulary: a base works only with the one that it was trained with."""
    # It covers every token and its id.
    tokenizer = encoding()
    tokens = [tokenizer.decode_single_token_bytes(i) for i in range(tokenizer.n_vocab)]
    return hashlib.sha256(b"\n".join(tokens)).hexdigest()[:16]


# --- prompts, questions and answers ---


def prompt_text(prompt: dict[str, str]) -> str:
    """A prompt, topic -> instruction, as the model reads it. An empty one is only its heading."""
    # Topics are sorted, so that equal prompts are equal texts.
    lines = [f"{topic}: {prompt[topic]}\n" for topic in sorted(prompt)]
    return "rules\n" + "".join(lines)


def question_text(topic: str, ask: str) -> str:
    """The question, which follows the prompt."""
    return f"ask {topic}: {ask}\n"


def solution_text(domain: Domain, rule: Rule, state) -> str:
    """What follows the restated rule in a right completion: the rule's steps, then the answer."""
    # After each operation the model writes the state that it led to.
    text = ""
    for name in rule:
        state = domain.operations[name](state)
        text += f"{name}: {domain.show(state)}\n"
    return f"{text}answer: {domain.show(state)}"


def parse_answer(text: str) -> str | None:
    """The answer of a completion: what follows "answer: " in its last line.

    None where the last line is no answer, or where "answer" occurs a second time, also as a part of
    another word.
    """
    # A completion that says "answer" twice could hedge between two of them.
    last = text.split("\n")[-1]
    if not last.startswith("answer: ") or text.count("answer") > 1:
        return None
    return last.removeprefix("answer: ")


def verify(question: Question, text: str) -> float:
    """1.0 for a completion with the right answer, else 0.0. The steps before it do not count."""
    return float(parse_answer(text) == question.want)


# --- reflections ---


def plain(text: str) -> bool:
    """Whether text is words and digits without a keyword, and so cannot pose as other fields."""
    return bool(re.fullmatch(STATE, text)) and {*KEYWORDS}.isdisjoint(text.split(" "))


def failure_text(ask: str, got: str | None, want: str) -> str:
    """Feedback on a failure: the question, what was answered, what was right.

    An answer that is missing, too long or not `plain` is shown as "none".
    """
    # Feedback goes back into the model, so what the model wrote must not break its form.
    longest = 2 * len(want) + 8
    if got is None or len(got) > longest or not plain(got):
        got = "none"
    return f"ask {ask} got {got} want {want}\n"


def reflection_text(
    topic: str, instruction: str, failures: list[tuple[str, str | None, str]]
) -> str:
    """What the model reads before it reflects.

    instruction: the topic's current one, "" for none. failures: (ask, got, want) of up to three.
    """
    feedback = [failure_text(*failure) for failure in failures]
    return f"reflect {topic}: {instruction or 'none'}\n" + "".join(feedback)


def abridged(reflection: str) -> str:
    """A reflection for people: of each search only its heads, and the lines where it arrived."""
    # The last line is the new instruction, if there is one.
    *lines, last = reflection.split("\n")
    shown = []
    for line in lines:
        if line.startswith(("reflect", "ask", "try")) or line.endswith(" done"):
            shown.append(line)
        # One "..." stands for all lines that were left out in a row.
        elif shown[-1:] != ["..."]:
            shown.append("...")
    return "\n".join([*shown, last])


def clean_instruction(text: str) -> str:
    """The text itself if it is an instruction: one to three lower-case words, none a keyword.

    "" for any other text.
    """
    # Without this check, an instruction could smuggle more lines into a prompt.
    if re.fullmatch(f"{WORD}( {WORD}){{0,2}}", text) and plain(text):
        return text
    return ""


def parse_instruction(text: str, topic: str) -> str:
    """The instruction in the last line of a reflection, after the topic. "" where there is none."""
    # Whatever was written before the last line is thinking.
    last = text.split("\n")[-1]
    named, _, instruction = last.partition(": ")
    if named != topic:
        return ""
    return clean_instruction(instruction)


def parse_prompt(text: str) -> dict[str, str]:
    """A prompt, topic -> instruction, from the text that `prompt_text` or a person wrote.

    Blank lines and the heading do not matter. Raises ValueError that names the first line which is
    no topic with an instruction, or which names a topic again.
    """
    prompt = {}
    for number, line in enumerate(text.splitlines(), 1):
        # Skip what carries no instruction.
        line = line.strip()
        if line in ("", "rules"):
            continue

        # The topic must be known and new, and the instruction must be one.
        topic, _, instruction = line.partition(": ")
        if topic not in TOPICS or topic in prompt or not clean_instruction(instruction):
            raise ValueError(
                f"line {number} of the prompt, {line[:60]!r}, must be a topic that no other line "
                f"has ({', '.join(TOPICS)}), a colon, and an instruction of one to three "
                "lower-case words"
            )
        prompt[topic] = instruction
    return prompt
