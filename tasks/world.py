"""What a learner may ask of a world (`World`), and the toy world's answers (`ToyWorld`).

train.py and sampling.py know this interface only; fast_context.py and rl.py know even less. A
*prompt* is a dict, topic -> instruction; both are opaque strings to the learner. All text that a
model wrote is untrusted: any text is graded ("" is an answer that was cut off), and any text
proposes an instruction or nothing.
"""

from random import Random
from typing import Any, NamedTuple, Protocol

from tasks import TOPICS, Question, Task, domain_of, domains, formats, make_task

Prompt = dict[str, str]  # topic -> instruction

ANSWER_TOKENS = 64  # longest answer, thinking included
REFLECTION_TOKENS = 800


class Outcome(NamedTuple):
    """What became of one question: its reward and, for feedback, the answer (untrusted text)."""

    score: float
    answer: str | None  # None where there is no readable one


class World(Protocol):
    """All that the learner knows of its world. Examples of each text are in tasks/formats.py."""

    answer_tokens: int  # the longest answer that is sampled
    reflection_tokens: int  # the longest reflection
    eos: int  # the token that ends a text
    pad: int  # the token that fills up rows

    # --- tokens ---
    def encode(self, text: str) -> list[int]: ...
    def encode_start(self, text: str) -> list[int]: ...  # where a sequence begins; never empty
    def decode(self, tokens: list[int]) -> str: ...

    # --- tasks: .name, .instructions (hidden), .questions(rng, n, purpose) -> .topic, .want ---
    def make_task(self, name: str, seed: int) -> Any: ...
    def check_room(self, task: Any, room: int): ...

    # --- answering ---
    def prompt_text(self, prompt: Prompt) -> str: ...  # the text before a question
    def question_text(self, question: Any) -> str: ...  # the text before an answer
    def grade(self, question: Any, completion: str) -> Outcome: ...
    def shows(self, prompt: Prompt, question: Any) -> bool: ...  # then being right proves nothing

    # --- reflecting ---
    # A request: (topic, its instruction or "", failures). What the model reads before it proposes
    # something; "" where no model is needed.
    def reflection_text(self, topic: str, instruction: str, failures: list) -> str: ...
    # From what it read and wrote: an instruction, "" for none; and how it came about, for people.
    def proposal(self, request: tuple, read: str, written: str) -> tuple[str, str]: ...
    def is_prompt(self, prompt: Any) -> bool: ...  # whether it may be shown to the model
    def parse_prompt(self, text: str) -> Prompt: ...  # what a person wrote


class ToyWorld:
    """Domains of named operations, tasks with hidden rules, texts as in tasks/formats.py.

    names: the domains that the model knows (None: all that there are).
    """

    answer_tokens = ANSWER_TOKENS
    reflection_tokens = REFLECTION_TOKENS

    def __init__(self, names: list[str] | None = None):
        self.eos = formats.special("eos")
        self.pad = formats.special("pad")
        self.domains = {name: domains()[name] for name in names or domains()}

    # --- tokens ---

    encode = staticmethod(formats.encode)
    decode = staticmethod(formats.decode)

    def encode_start(self, text: str) -> list[int]:
        return [formats.special("bos"), *formats.encode(text)]

    # --- tasks ---

    def make_task(self, name: str, seed: int) -> Task:
        """The task that a name and a seed give. Raises ValueError for an unknown domain."""
        domain = domain_of(name)
        if domain not in self.domains:
            known = ", ".join(self.domains)
            raise ValueError(
                f"the base knows {known}, not {domain}: choose another task, or train another base"
            )
        return make_task(name, seed)

    def check_room(self, task: Task, room: int):
        """Raises ValueError where a task's texts would be cut off, or exceed `room` tokens."""
        name = task.domain.name
        longest = longest_answer(task)
        if longest > self.answer_tokens:
            raise ValueError(
                f"right answers of {name} take up to {longest} tokens, "
                f"{self.answer_tokens} are sampled: give its tasks shorter states"
            )

        # In an instruction of no known words every letter is a token.
        worst = " ".join(3 * ["z" * 16])
        questions = task.questions(Random(0), 100)
        ask = max((question.ask for question in questions), key=len)
        want = max((question.want for question in questions), key=len)
        prompt = dict.fromkeys(TOPICS, worst)
        solving = formats.prompt_text(prompt) + formats.question_text("red", ask)
        failure = (ask, "z" * (2 * len(want) + 8), want)
        reflecting = formats.reflection_text("red", worst, 3 * [failure])
        need = max(
            len(self.encode_start(solving)) + self.answer_tokens,
            len(self.encode_start(reflecting)) + self.reflection_tokens,
        )
        if need > room:
            raise ValueError(
                f"the texts of {name} can take {need} tokens, the base reads {room}: "
                "pretrain one with a longer context"
            )

    # --- answering ---

    prompt_text = staticmethod(formats.prompt_text)

    def question_text(self, question: Question) -> str:
        return formats.question_text(question.topic, question.ask)

    def grade(self, question: Question, completion: str) -> Outcome:
        return Outcome(formats.verify(question, completion), formats.parse_answer(completion))

    def shows(self, prompt: Prompt, question: Question) -> bool:
        """An instruction is operations, never a question."""
        return False

    # --- reflecting ---

    def reflection_text(self, topic: str, instruction: str, failures: list) -> str:
        """failures: [(question, outcome)], of which three are read; instruction: "" for none."""
        told = [(question.ask, outcome.answer, question.want) for question, outcome in failures[:3]]
        return formats.reflection_text(topic, instruction, told)

    def proposal(self, request: tuple, read: str, written: str) -> tuple[str, str]:
        topic = request[0]
        return formats.parse_instruction(written, topic), formats.abridged(read + written)

    def is_prompt(self, prompt: Any) -> bool:
        """Whether a prompt reads as it is stored: else an instruction could smuggle in a line."""
        try:
            return formats.parse_prompt(formats.prompt_text(prompt)) == prompt
        except (ValueError, TypeError, AttributeError):
            return False

    parse_prompt = staticmethod(formats.parse_prompt)


def longest_answer(task: Task) -> int:
    """Tokens of the longest right answer seen for any rule, the end of the sequence included."""
    lengths = []
    for topic, rule in task.rules.items():
        for i in range(10):
            for difficulty in task.difficulties:
                state = task.domain.draw(Random(i), difficulty)
                solution = formats.solution_text(task.domain, rule, state)
                lengths.append(len(formats.encode(f"{topic}: {' '.join(rule)}\n{solution}")))
    return 1 + max(lengths)
