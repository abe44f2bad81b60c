"""Talk to a model: set instructions, ask questions, let the model reflect on its mistakes.

    python talk.py                                 with the shipped base
    python talk.py --weights out/RUN/weights.pt    with a run's weights, its last task and prompt
    python talk.py --ask "red: d a c b" --rules "red: reverse raise"      one answer, then the end

Commands (lines may also come from a file or a pipe):

    red: reverse raise   set the instruction of red: one to three operations
    red:                 delete it (red blue green gold black white pink gray)
    prompt               show all instructions, as the model reads them
    ask red: d a c b     ask this question
    ask red, or ask      ask a random question about red, or about any topic
    again                ask the last question again
    reflect              the model reads its wrong answers, proposes an instruction
    compare              the last question, for the base's and for the run's weights
    domain NAME          strings, numbers, facts or star_graph, without hidden rules
    task NAME NUMBER     hidden rules for four topics; task N: task N of the run
    temperature X        0: always the likeliest token; 1: as in training
    quit, or Ctrl-D      end
    To begin, try these lines: task strings 2, ask red, reflect, y, ask red

In a task the hidden rule of a topic says what is right. Without one its instruction does: the
operations of the domain are carried out on the question.

Left out: GPUs. On a CPU an answer takes half a second at most.
"""

import dataclasses
import random
import re
import sys
from collections import defaultdict
from contextlib import suppress
from heapq import nlargest
from pathlib import Path
from textwrap import indent

import torch

from base.prepare import SHIPPED, load_base
from model import completion_logprobs
from plumbing import command_line, console
from plumbing.command_line import setting
from plumbing.files import read_json
from sampling import Sampler
from tasks import TOPICS, Question, Task

with suppress(ImportError):  # not every Python has it
    import readline  # noqa: F401 (with it, lines can be edited, and the arrow keys repeat them)


@dataclasses.dataclass
class Options:
    """The command line is made of these fields."""

    about = "Talk to a model: set instructions, ask questions, let it reflect."

    weights: str = setting(SHIPPED, "weights.pt of a run, or a base")
    ask: str = setting("", "one question, as in 'red: d a c b' or 'red'; then the program ends")
    rules: str = setting("", "instructions to begin with, as in 'red: reverse raise, blue: sort'")
    seed: int = setting(2, "of the random questions and of sampling", low=0)
    fill_in = staticmethod(dict)  # no setting follows from others


# --- a model, and the run that it comes from ---


def tasks_learned(folder, world):
    """The run in a folder -> the file of its base, its tasks {"1": (task, prompt it learned), ...}.

    None and {} where there is no finished run. Raises ValueError where its files are damaged.
    """
    learned = {}
    try:
        config = read_json(folder / "config.json")
        result = read_json(folder / "result.json")
        for number, entry in enumerate(result["tasks"], start=1):
            if entry["at_end"] is None:  # a short run does not come to its last stages
                continue
            task = world.make_task(entry["task"], config["seed"])
            prompt = entry["evolved"]
            # A model wrote it, and somebody may have edited the file.
            if not world.is_prompt(prompt):
                raise ValueError
            learned[str(number)] = (task, prompt)
        return Path(config["base"]), learned
    except FileNotFoundError:  # a base that lies in no run
        return None, {}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        raise ValueError(f"config.json or result.json in {folder} is damaged, or too old") from None


# --- the screen ---


def show(text, margin=""):
    """Print text. What a model wrote must not steer the terminal: only plain ASCII is printed."""
    print(indent(console.printable(text), margin))


def read(words):
    """Read a line of the user. Raises EOFError at the end, and where input is closed."""
    if not sys.stdin:
        raise EOFError
    line = input(words)
    # Lines from a pipe are shown, so that the dialogue can be read.
    if not sys.stdin.isatty():
        show(line)
    return line


# --- the dialogue ---


class Dialogue:
    """A model, its prompt, and what was asked so far. A method do_X carries out the command X.

    What cannot be done raises ValueError with one line that says what would be right.
    """

    def __init__(self, weights, seed):
        opened = load_base(weights)
        self.world = opened.world
        self.base, self.learned = tasks_learned(weights.parent, self.world)

        # All randomness: the same lines give the same dialogue.
        self.rng = random.Random(seed)  # of questions
        noise = torch.Generator().manual_seed(seed)  # of answers and reflections
        self.sampler = Sampler(opened.model, self.world, 1.0, noise)  # 1.0: the temperature

        # Begin with the last task of the run, or else with the first domain.
        first, *_ = self.world.domains
        starts = [(self.free(first), {}), *self.learned.values()]
        self.begin(*starts[-1])

    def free(self, name):
        """A task without hidden rules, on questions as in pretraining."""
        domain = self.world.make_task(name, seed=0).domain
        return Task(domain, {}, domain.seen_difficulties, domain.name)

    def begin(self, task, prompt):
        """Begin anew, with a task and a prompt."""
        self.task = task
        self.domain = task.domain
        self.prompt = dict(prompt)
        self.asked = None  # the last question: its topic, its text, the state that it shows
        # Topic -> [(question, outcome)], since its instruction changed.
        self.wrong = defaultdict(list)

    def obey(self, line):
        """Carry out a line that a user wrote."""
        # The first word may be a command.
        word, _, rest = line.strip().partition(" ")
        command = getattr(self, f"do_{word or 'help'}", None)
        if command:
            return command(rest.strip())

        # All other lines set or delete an instruction.
        if ":" not in line:
            raise ValueError(f"{word!r} is no command: an empty line shows all commands")
        self.instruct(line)
        self.do_prompt()

    def do_help(self, _rest):
        show(__doc__.split("\n\n")[3])  # the list of commands

    def do_quit(self, _rest):
        raise EOFError

    # --- commands: the prompt and the world ---

    def do_prompt(self, _rest=""):
        show("prompt, as the model reads it:")
        show(self.world.prompt_text(self.prompt).strip(), "    ")

    def instruct(self, line):
        """Set the instruction of a topic, as in "red: reverse raise", or delete it: "red:"."""
        topic, instruction = topic_and_text(line)
        if instruction and not self.world.is_prompt({topic: instruction}):
            raise ValueError("an instruction is one to three operations, as in 'red: flip last'")

        # Answers that followed the old instruction say nothing about the new one.
        self.wrong[topic] = []
        self.prompt.pop(topic, None)
        if instruction:
            self.prompt[topic] = instruction

    def do_domain(self, name):
        # Without a name nothing changes.
        if name:
            self.begin(self.free(name), {})

        # Show where we are.
        show(f"operations of {self.domain.name}: {', '.join(self.domain.operations)}")
        show(f"topics with a hidden rule: {', '.join(self.task.rules) or 'none'}")
        self.do_prompt()

    def do_task(self, rest):
        # A task of the run, or another one.
        name, _, number = rest.rpartition(" ")
        if rest in self.learned:
            self.begin(*self.learned[rest])
        elif number.isdecimal() and name:
            self.begin(self.world.make_task(name, int(number)), {})
        else:
            raise ValueError("write 'task strings 1', for example; a run's own tasks: 'task 1'")
        self.do_domain("")

    def do_temperature(self, rest):
        # Only short numbers: others could overflow.
        if not re.fullmatch(r"\d\d?(\.\d\d?)?", rest):
            raise ValueError("temperature takes a number from 0 to 99, as in 'temperature 0.5'")
        self.sampler.temperature = float(rest)

    # --- commands: questions and answers ---

    def do_ask(self, rest):
        # Which topic? One that has a rule, if nobody says.
        rest = rest or self.rng.choice(sorted(self.task.rules or self.prompt or TOPICS))
        topic, text = topic_and_text(rest)

        # The user's question, or a random one.
        if text:
            state = read_state(self.domain, text)
        else:
            # Of a task: 8 letters, say; else 5 or 6, which the base knows well.
            difficulty = self.rng.choice(self.task.difficulties)
            state = self.domain.draw(self.rng, difficulty)
            text = self.domain.ask(state)
        self.asked = (topic, text, state)
        self.do_again()

    def do_again(self, _rest=""):
        self.answer(self.sampler)

    def question(self):
        """The last question with its right answer, "" where nothing says what is right."""
        if not self.asked:
            raise ValueError("nothing was asked yet: begin with 'ask'")
        topic, text, state = self.asked

        # The hidden rule of the topic says what is right, or else its instruction does.
        rules = self.prompt | self.task.instructions
        rule = rules.get(topic, "none").split()
        want = ""
        # It fails where the rule has a word that is no operation of the domain, such as "none".
        with suppress(Exception):
            want = self.domain.answer(rule, state)
        return Question(topic, text, want)

    def answer(self, sampler):
        """Let a model answer the last question, and show all of it."""
        # One prompt, one question, one answer.
        question = self.question()
        answers = sampler.answer([(self.prompt, [question])])
        show(self.world.question_text(question).strip())

        # First what it could have said, then what it said.
        likeliest = self.likeliest(sampler, answers.contexts, question.topic)
        show(f"likeliest instructions: {likeliest}")
        show(answers.texts[0] or "(cut off: too long)", "    ")

        # Is that right? What is wrong is kept for reflection.
        outcome = answers.outcomes[0]
        if not question.want:
            show("not judged: this topic has no hidden rule, and no instruction that is known")
        elif outcome.score:
            show("right")
        else:
            show(f"wrong: the right answer is {question.want}")
            if sampler is self.sampler:  # the base's own mistakes are not this model's
                self.wrong[question.topic].append((question, outcome))

    @torch.no_grad()
    def likeliest(self, sampler, contexts, topic):
        """The instructions that the first line of an answer most likely names, as text.

        contexts: the tokens before this answer, in a list. topic: that of the question.

        The probabilities are exact: products of token probabilities, for the instructions of the
        prompt and for every chain of up to three operations (at temperature 0: as at 1).
        """
        # All that it could name.
        chains = {" ".join(rule) for rule in self.domain.results}
        names = sorted(chains | set(self.prompt.values()))

        # How likely is each first line: all of its tokens, up to its end?
        lines = [self.world.encode(f"{topic}: {name}\n") for name in names]
        logprobs = completion_logprobs(sampler.model, contexts, lines, sampler.temperature or 1.0)
        probs = logprobs.sum(1).exp().tolist()

        # The four likeliest, as far as they do not round to nothing.
        best = nlargest(4, zip(probs, names, strict=True))
        return ", ".join(f"{name} {prob:.0%}" for prob, name in best if prob >= 0.005)

    # --- commands: reflection and comparison ---

    def do_reflect(self, _rest):
        # On the last topic. The base has learned to reflect on one to three wrong answers.
        topic = self.question().topic
        failures = self.wrong[topic][-3:]
        if not failures:
            raise ValueError("no wrong answer to reflect on: 'ask' until one is wrong")

        # The model reads them, and writes a search.
        old = self.prompt.get(topic, "")
        [(instruction, text, _)] = self.sampler.reflect([(topic, old, failures)])
        show(text, "    ")

        # The user decides whether it goes into the prompt.
        line = f"{topic}: {instruction}"
        if not instruction:
            show("no instruction found; 'reflect' tries again")
        elif read(f"{line}   accept? (y or Enter: yes) ") in ("", "y", "Y"):
            self.instruct(line)

    def do_compare(self, _rest):
        if not self.base:
            raise ValueError("compare needs a run: start with --weights out/RUN/weights.pt")
        self.question()  # there must be one
        base = load_base(self.base).model

        # Both answer the same question, under the same prompt, with the same noise: the base has a
        # copy of it.
        noise = self.sampler.rng.clone_state()
        show("--- base weights")
        self.answer(dataclasses.replace(self.sampler, model=base, rng=noise))
        show("--- trained weights")
        self.answer(self.sampler)


def topic_and_text(line):
    """A line "topic: text" or "topic" -> topic, text with single spaces. Raises ValueError."""
    # "red: d a c b" has both parts, "red" has only the first.
    topic, _, text = map(str.strip, line.partition(":"))
    if topic not in TOPICS:
        raise ValueError(f"{topic!r} is no topic: topics are {', '.join(TOPICS)}")
    return topic, " ".join(text.split())


def read_state(domain, text):
    """The state that a text shows, a row of words or digits. Raises ValueError for other texts."""
    # What is read must be written the same way again: questions that tell facts are not.
    words = text.split()
    with suppress(Exception):
        state = tuple(int(word) if word.isdecimal() else word for word in words)
        if domain.ask(state) == text and set(words) <= set(domain.words):
            return state
    raise ValueError(
        f"{text!r} cannot be asked: write one as 'ask' shows one (questions that tell facts "
        "are only drawn)"
    )


# --- the program ---


def talk(dialogue):
    """Carry out lines until Ctrl-D. A line that makes no sense is told what would be right."""
    # Where are we?
    dialogue.do_domain("")
    show("An empty line shows all commands; Ctrl-D ends.")
    while True:
        try:
            dialogue.obey(read("> "))
        except EOFError:
            return print()
        # Ctrl-C stops a command, or drops the line.
        except (ValueError, KeyboardInterrupt) as error:
            show(str(error))


def main(argv=None):
    console.PROGRAM = Path(__file__)  # what --help and errors name
    with command_line.failures_in_one_line("stopped"):
        # Open the model, and set the instructions that were given.
        cfg = command_line.start(Options, argv)
        dialogue = Dialogue(Path(cfg.weights), cfg.seed)
        for line in re.findall("[^,;]+", cfg.rules):
            dialogue.instruct(line)

        # One question, or as many as the user likes.
        if cfg.ask:
            dialogue.do_ask(cfg.ask)
        else:
            talk(dialogue)


if __name__ == "__main__":
    main()
