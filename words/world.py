"""The world of words: what the learner may ask of it (tasks/world.py), for a pretrained model.

A question is one line of text that its answer completes, and so is a worked example. The prompt is
one text: an instruction in its first line, which may be empty, and up to four worked examples. What
the learner calls the instruction of a topic is this whole text.

    Add the two numbers.                the instruction
    31 + 8 = 39                         a worked example
    47 + 5 =                            the question
     52                                 the answer: up to the end of the line

There are two ways to propose a new prompt, named apart:

    reflection       the model reads failures, and writes the instruction in its own words
    worked example   failed questions with their right answers come in, one takes the place of
                     another, or one leaves; no model is needed, so it costs no rollout

A small model does not profit from its own words, and a convention that is made up can only be seen
in examples; a larger one can say it. What a model wrote is untrusted: it stays in its line.
"""

import random
import re
from collections import Counter
from typing import Any

from tasks.world import Outcome, Prompt
from words.tasks import TOPIC, Question, Task, make_task, purpose_of, words_of
from words.tokens import Tokenizer

EXAMPLES = 4  # worked examples in a prompt, at most
LINE = 200  # characters of a line of a prompt, at most
READ = 3  # failures that a reflection reads, at most
FRAME = 200  # tokens of a reflection beside the instruction and the failures, at most
REFLECTIONS = 1 / 4  # share of the proposals that are reflections
EXAMPLE = r"(.+[=:]) ([^=:]+)"  # a question and its answer in one line


class WordWorld:
    """Short tasks for a model with this tokenizer.

    Raises ValueError for a tokenizer without a token for the end of a line.
    """

    answer_tokens = 12
    reflection_tokens = 48

    def __init__(self, tokenizer: Tokenizer):
        self.encode = tokenizer.encode
        self.decode = tokenizer.decode
        line_end = tokenizer.encode("\n")
        if len(line_end) != 1:
            raise ValueError("the model's tokenizer has no token for the end of a line")
        # A text begins as a new line does, and ends with its line.
        self.start = line_end
        self.eos = self.pad = line_end[0]

    # --- tokens ---

    def encode_start(self, text: str) -> list[int]:
        return self.start + self.encode(text)

    # --- tasks ---

    make_task = staticmethod(make_task)

    def check_room(self, task: Task, room: int):
        """Raises ValueError where a task's texts would be cut off, or exceed `room` tokens."""
        # The longest texts of many questions.
        questions = task.questions(random.Random(0), 200, "lessons")
        ask = max(len(self.encode(q.ask)) for q in questions)
        want = max(len(self.encode(f" {q.want}\n")) for q in questions)
        if want > self.answer_tokens:
            raise ValueError(
                f"right answers of {task.name} take up to {want} tokens of this model, "
                f"{self.answer_tokens} are sampled"
            )

        # An instruction (a character has at most four bytes), and either worked examples, a
        # question and its answer (with a first token, and an end of line after the instruction), or
        # failures and what is written about them.
        solving = 2 + EXAMPLES * (ask + want) + ask + self.answer_tokens
        reflecting = READ * (ask + self.answer_tokens + want) + FRAME + self.reflection_tokens
        need = 4 * LINE + max(solving, reflecting)
        if need > room:
            raise ValueError(
                f"the texts of {task.name} can take {need} tokens, the model reads {room}: "
                "choose a model with a longer context"
            )

    # --- answering ---

    def prompt_text(self, prompt: Prompt) -> str:
        text = prompt.get(TOPIC, "").lstrip("\n")
        return f"{text}\n" if text else ""

    def question_text(self, question: Question) -> str:
        return question.ask

    def grade(self, question: Question, completion: str) -> Outcome:
        answer = completion.strip()
        return Outcome(float(answer == question.want), answer or None)

    def shows(self, prompt: Prompt, question: Question) -> bool:
        # 5 + 47 = 52 shows 47 + 5, too. (And 52 + 5: that only costs a question.)
        asked = Counter(words_of(question.ask))
        lines = prompt.get(TOPIC, "").split("\n")
        return any(asked <= Counter(words_of(line)) for line in lines)

    # --- proposing ---

    def reflection_text(self, topic: str, text: str, failures: list) -> str:
        """What the model reads before it writes an instruction; "" for a worked example."""
        # The request itself decides, like a die, which of the two ways it goes.
        if rng_of("way", topic, text, failures).random() >= REFLECTIONS:
            return ""
        instruction, _examples = parts_of(text)
        return failures_text(instruction, failures)

    def proposal(self, request: tuple, read: str, written: str) -> tuple[str, str]:
        """The new text of the prompt ("" for none), and how it came about, for people."""
        _topic, text, failures = request
        if not read:
            return changed_examples(text, failures, rng_of("examples", *request))

        # Whatever the model wrote is one line, of limited length.
        instruction = one_line(written)[:LINE].strip()
        _old, examples = parts_of(text)
        new = join(instruction, examples) if instruction else ""
        return new, f"reflection: {read}{written}"

    # --- prompts ---

    def is_prompt(self, prompt: Any) -> bool:
        """Whether a prompt reads as it is stored: one text, or none, which shows only lessons."""
        try:
            return parse_text(prompt.get(TOPIC, "")) == prompt
        except (ValueError, TypeError, AttributeError):
            return False

    def parse_prompt(self, text: str) -> Prompt:
        return parse_text(text)


def rng_of(*what) -> random.Random:
    """Random choices that are always the same for the same purpose and request."""
    return random.Random(repr(what))


def failures_text(instruction: str, failures: list) -> str:
    """A reflection, up to where the model goes on: [(question, outcome), ...] that went wrong."""
    lines = [f"Instruction: {instruction or 'none'}", "With it these answers were wrong:"]
    for question, outcome in failures[:READ]:
        got = one_line(outcome.answer or "") or "nothing"
        lines.append(f"{question.ask} {got} (right: {question.want})")
    lines.append("A better instruction, which says how to answer all such questions:")
    return "\n".join(lines)


def changed_examples(text: str, failures: list, rng: random.Random) -> tuple[str, str]:
    """A prompt with other worked examples -> its text ("" for none), and what was done."""
    instruction, examples = parts_of(text)
    failed = list(dict.fromkeys(example_of(question) for question, _outcome in failures))
    room = EXAMPLES - len(examples)
    moves = []
    # A child earns nothing on a question that its prompt shows. So an example comes in only where
    # another failure is left to measure the child on. "comes in" is twice as likely.
    if len(failed) > 1:
        moves += ["comes in", "comes in"] if room else []
        moves += ["replaces"] if examples else []
    if examples:
        moves.append("leaves")
    if not moves:
        return "", ""

    # Several may come in at once; of three failures or more, at least two stay out.
    move = rng.choice(moves)
    several = rng.randint(1, max(min(room, len(failed) - 2), 1))
    n = {"comes in": several, "replaces": 1, "leaves": 0}[move]
    new = rng.sample(failed, n)
    old = [] if move == "comes in" else [examples.pop(rng.randrange(len(examples)))]

    # What comes in stands last, next to the question, and stands there once.
    examples = [example for example in examples if example not in new] + new
    return join(instruction, examples), f"worked example {move}: {' | '.join(old + new)}"


def example_of(question: Question) -> str:
    """A question with its right answer, as it stands in a prompt."""
    return f"{question.ask} {question.want}"


def parts_of(text: str) -> tuple[str, list[str]]:
    """The text of a prompt -> its instruction, its worked examples."""
    instruction, *examples = text.split("\n")
    return instruction, examples


def join(instruction: str, examples: list[str]) -> str:
    """The text of a prompt; "" where there is neither an instruction nor an example."""
    return "\n".join([instruction, *examples])


def one_line(text: str) -> str:
    """Text that a model wrote, in one line of printable characters and single spaces."""
    words = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(words.split())


def parse_text(text: str) -> Prompt:
    """The prompt that a person wrote. Raises ValueError that names the first wrong line."""
    text = text.rstrip("\n")
    instruction, examples = parts_of(text)
    if len(examples) > EXAMPLES:
        raise ValueError(f"the prompt has more than {EXAMPLES} worked examples")

    for number, line in enumerate([instruction, *examples], 1):
        must_be = f"line {number} of the prompt, {line[:60]!r}, must be"
        if line != one_line(line) or len(line) > LINE:
            raise ValueError(f"{must_be} words and single spaces, at most {LINE} characters")

        # A worked example must be a lesson: the other questions score prompts.
        found = re.fullmatch(EXAMPLE, line)
        is_lesson = found and purpose_of(found[1]) == "lessons"
        if number > 1 and not is_lesson:
            raise ValueError(
                f"{must_be} a question and its answer, of those that are for lessons: "
                "python -m words.examples prints some"
            )
    return {TOPIC: text} if text else {}
