"""Four short tasks in words: questions of one line, made by code, with answers that can be checked.

    addition   a skill: 47 + 5 = 52
    labels     a convention that only feedback tells: Review: a dull film. Label: cobalt
    sums       both: the sum, reported in a form that is made up: 47 + 5 = [52] coins
    hops       two facts to be joined: Ann's boss is Tom. Tom lives in Oslo. ...

What is made up (the words of the labels, the form of the report) is drawn from the name and the
seed of a task, and no question tells it.

A hash of a question's words decides, once and for all, what it is for; their order does not count,
so 47 + 5 goes with 5 + 47. Only *lessons* may ever stand in a prompt. The questions of the gradient
and of the anchor scores are others, and so are those of validation: so no prompt is scored on a
question whose answer it shows.
"""

import random
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from tasks import Question, kind_of

TOPIC = "text"  # the one topic: a prompt of this world is one text
PURPOSES = ("validation", "lessons", "lessons") + 5 * ("questions",)  # of the hash, modulo 8

NAMES = ("Ann", "Tom", "Eva", "Max", "Ida", "Sam", "Mia", "Ben", "Lea", "Jon", "Amy", "Dan")
CITIES = ("Oslo", "Rome", "Paris", "Cairo", "Lima", "Delhi", "Tokyo", "Berlin", "Madrid", "Athens")
CODE_WORDS = ("amber", "cobalt", "maple", "granite", "violet", "copper", "willow", "silver")
THINGS = ("apples", "coins", "stones", "birds", "shells", "books", "boats", "keys")
BRACKETS = ("[]", "<>", "{}", "()", "**", "##")

WORKS = ("film", "book", "play", "song", "show", "story", "concert", "novel", "movie", "album")
PRAISE = ("wonderful", "brilliant", "moving", "delightful", "superb", "charming", "thrilling")
BLAME = ("boring", "terrible", "dull", "weak", "clumsy", "painful", "lifeless")
PARTS = ("beginning", "ending", "middle", "mood", "pace", "language", "idea", "style")


@dataclass(frozen=True)
class Task:
    """Questions of one kind."""

    name: str  # "sums", or "sums:2" for another task of that kind
    hidden: str  # what is made up
    draw: Callable  # from a random.Random: a question's text and its answer

    @property
    def instructions(self) -> dict[str, str]:
        return {TOPIC: self.hidden}

    def questions(self, rng: random.Random, n: int, purpose: str) -> list[Question]:
        """n random questions for a purpose; no question ever serves two."""
        found = []
        while len(found) < n:
            ask, want = self.draw(rng)
            if purpose_of(ask) == purpose:
                found.append(Question(TOPIC, ask, want))
        return found


def purpose_of(ask: str) -> str:
    """What the question with this text is for."""
    return PURPOSES[zlib.crc32(repr(words_of(ask)).encode()) % len(PURPOSES)]


def words_of(text: str) -> list[str]:
    """The words and numbers of a text, in alphabetical order."""
    return sorted(re.findall(r"\w+", text))


def make_task(name: str, seed: int) -> Task:
    """The task that a name and a seed give. Raises ValueError for a name that is none."""
    kind = kind_of(name, KINDS)
    rng = random.Random(f"{name} {seed}")
    hidden, draw = KINDS[kind](rng)
    return Task(name, hidden, draw)


# --- the kinds: from a random.Random, what is made up, and a function that draws questions ---


def addition(_rng):
    def draw(rng):
        ask, total = a_sum(rng)
        return ask, str(total)

    return "the sum", draw


def sums(rng):
    left, right = rng.choice(BRACKETS)
    thing = rng.choice(THINGS)

    def draw(rng):
        ask, total = a_sum(rng)
        return ask, f"{left}{total}{right} {thing}"

    return f"{left}sum{right} {thing}", draw


def labels(rng):
    good, bad = rng.sample(CODE_WORDS, 2)

    def draw(rng):
        # Two parts of the work, both praised or both blamed.
        is_good = rng.random() < 0.5
        first, second = rng.sample(PRAISE if is_good else BLAME, 2)
        work = rng.choice(WORKS)
        part = rng.choice(PARTS)
        ask = f"Review: A {first} {work}, and the {part} was {second}. Label:"
        return ask, good if is_good else bad

    return f"{good} for praise, {bad} for blame", draw


def hops(_rng):
    def draw(rng):
        # Three people with a boss each; the bosses live in different cities.
        people = rng.sample(NAMES, 6)
        cities = rng.sample(CITIES, 3)
        facts = []
        for person, boss, city in zip(people[:3], people[3:], cities, strict=True):
            facts += [f"{person}'s boss is {boss}.", f"{boss} lives in {city}."]
        rng.shuffle(facts)
        told = " ".join(facts)
        return f"{told} The city where {people[0]}'s boss lives:", cities[0]

    return "the city of the boss", draw


def a_sum(rng) -> tuple[str, int]:
    # One of the numbers has one digit.
    numbers = [rng.randrange(2, 100), rng.randrange(2, 10)]
    a, b = rng.sample(numbers, 2)
    return f"{a} + {b} =", a + b


KINDS = {"addition": addition, "labels": labels, "sums": sums, "hops": hops}
