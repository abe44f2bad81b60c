"""Facts: follow relations between people, for three people at once. Stands for multi-hop questions (HoVer).

A question gives shuffled facts and three people to start from. Each relation leads everybody to somebody, and no two
to the same person; so it can be followed both ways. The difficulty is how many people there are.
"""

from typing import NamedTuple

from tasks import Domain

PEOPLE = ("ann", "bob", "cid", "dee", "eve", "fay", "gus", "hal")
VERBS = ("likes", "knows", "helps")


class Facts(NamedTuple):
    """Facts (who, verb, whom), in the order that the question gives them, and where one has got to."""

    facts: tuple[tuple[str, str, str], ...]
    people: tuple[str, ...]


def draw(rng, n):
    """Random facts about n people, and three of these to start from."""
    people = rng.sample(PEOPLE, n)
    facts = [(who, verb, whom) for verb in VERBS for who, whom in zip(people, rng.sample(people, n), strict=True)]
    rng.shuffle(facts)
    return Facts(tuple(facts), tuple(rng.sample(people, 3)))


def follow(verb, backwards=False):
    """The operation that leads from everybody to whom they like, or are liked by."""

    def operation(s):
        ways = {(whom if backwards else who): (who if backwards else whom) for who, v, whom in s.facts if v == verb}
        return s._replace(people=tuple(ways[person] for person in s.people))

    return operation


DOMAIN = Domain(
    name="facts",
    operations={
        "like": follow("likes"),
        "liked": follow("likes", backwards=True),
        "know": follow("knows"),
        "known": follow("knows", backwards=True),
        "help": follow("helps"),
        "helped": follow("helps", backwards=True),
        "turn": lambda s: s._replace(people=s.people[1:] + s.people[:1]),
        "swap": lambda s: s._replace(people=s.people[1::-1] + s.people[2:]),
    },
    draw=draw,
    corpus_difficulties={4: 0.3, 5: 0.67, 6: 0.02, 7: 0.01},
    task_difficulty=6,
    words=(*PEOPLE, *VERBS, "start"),
    show=lambda s: " ".join(s.people),
    given=lambda s: " ".join(map(" ".join, s.facts)) + " start",
)
