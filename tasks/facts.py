"""Facts: follow relations from person to person and keep the way.

Stands for multi-hop questions (HoVer).

A question gives shuffled facts and two people to start from; the answer is the way of the first,
then that of the second: from "ann and cid" one may get to "ann bob and cid dee", where the friend
of ann is bob and that of cid is dee. Each relation leads everybody to somebody else, and no two to
the same person. The difficulty is how many people there are. There are only 12: what is
above 12 is how many facts are told twice (18: 12 people, six facts told twice).
"""

from typing import NamedTuple

from tasks import Domain

PEOPLE = ("ann", "bob", "cid", "dee", "eve", "fay", "gus", "hal", "ida", "jim", "kay", "leo")
RELATIONS = ("friend", "boss", "rival")


class Facts(NamedTuple):
    """Facts (relation, of whom, who), and two ways of the same length.

    The facts are in the order that the question gives them.
    """

    facts: tuple[tuple[str, str, str], ...]
    first: tuple[str, ...]
    second: tuple[str, ...]


def draw(rng, n):
    """Random facts about n people, and two people to start from.

    Beyond all people, n - 12 facts are told twice.
    """
    people = rng.sample(PEOPLE, min(n, len(PEOPLE)))
    facts = []
    for relation in RELATIONS:
        ring = rng.sample(people, len(people))
        facts += [(relation, *pair) for pair in zip(ring, ring[1:] + ring[:1], strict=True)]
    facts += rng.sample(facts, n - len(people))
    rng.shuffle(facts)
    first, second = rng.sample(people, 2)
    return Facts(tuple(facts), (first,), (second,))


def follow(relation):
    """The operation that goes on from the last of each way to their friend, say."""

    def operation(s):
        to = {of: who for r, of, who in s.facts if r == relation}
        return Facts(s.facts, (*s.first, to[s.first[-1]]), (*s.second, to[s.second[-1]]))

    return operation


DOMAIN = Domain(
    name="facts",
    operations={
        **{relation: follow(relation) for relation in RELATIONS},
        "swap": lambda s: Facts(s.facts, s.second, s.first),
        "flip": lambda s: Facts(s.facts, s.second[::-1], s.first[::-1]),
        "stay": lambda s: Facts(s.facts, (*s.first, s.first[-1]), (*s.second, s.second[-1])),
        "cross": lambda s: Facts(s.facts, (*s.first, s.second[-1]), (*s.second, s.first[-1])),
        "last": lambda s: Facts(s.facts, s.first[-1:], s.second[-1:]),
    },
    draw=draw,
    corpus_difficulties={6: 0.6, 7: 0.37, 8: 0.02, 12: 0.01},
    task_difficulties=(18, 22, 40),
    words=(*PEOPLE, *RELATIONS, "and", "start"),
    show=lambda s: " ".join((*s.first, "and", *s.second)),
    given=lambda s: [" ".join(fact) for fact in s.facts],
)
