"""Facts: follow relations from person to person and keep the way. Stands for multi-hop questions (HoVer).

A question gives shuffled facts and two people to start from; the answer is the way of both, pair after pair: from
"ann cid" one may get to "ann cid bob dee", where ann likes bob and cid likes dee. Each relation leads everybody to
somebody else, and no two to the same person. The difficulty is how many people there are.
"""

from typing import NamedTuple

from tasks import Domain

PEOPLE = ("ann", "bob", "cid", "dee", "eve", "fay", "gus", "hal", "ida", "jim", "kay", "leo")
VERBS = ("likes", "knows", "helps", "calls")


class Facts(NamedTuple):
    """Facts (who, verb, whom), in the order that the question gives them, and the way so far, in pairs."""

    facts: tuple[tuple[str, str, str], ...]
    people: tuple[str, ...]


def draw(rng, n):
    """Random facts about n people, and two of these to start from."""
    people = rng.sample(PEOPLE, n)
    facts = []
    for verb in VERBS:
        ring = rng.sample(people, n)
        facts += [(who, verb, whom) for who, whom in zip(ring, ring[1:] + ring[:1], strict=True)]
    rng.shuffle(facts)
    return Facts(tuple(facts), tuple(rng.sample(people, 2)))


def follow(verb):
    """The operation that goes on from the last pair of the way to whom they like, say."""

    def operation(s):
        ways = {who: whom for who, v, whom in s.facts if v == verb}
        return s._replace(people=(*s.people, ways[s.people[-2]], ways[s.people[-1]]))

    return operation


DOMAIN = Domain(
    name="facts",
    operations={
        "like": follow("likes"),
        "know": follow("knows"),
        "help": follow("helps"),
        "call": follow("calls"),
        "swap": lambda s: s._replace(people=tuple(s.people[i ^ 1] for i in range(len(s.people)))),  # in every pair
        "stay": lambda s: s._replace(people=s.people + s.people[-2:]),
        "cross": lambda s: s._replace(people=(*s.people, s.people[-1], s.people[-2])),
        "last": lambda s: s._replace(people=s.people[-2:]),
    },
    draw=draw,
    corpus_difficulties={4: 0.06, 5: 0.45, 6: 0.46, 7: 0.02, 8: 0.01},
    task_difficulty=7,
    words=(*PEOPLE, *VERBS, "start"),
    show=lambda s: " ".join(s.people),
    given=lambda s: " ".join(map(" ".join, s.facts)) + " start",
)
