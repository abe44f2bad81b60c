"""Facts: follow relations from person to person and keep the way. Stands for multi-hop questions (HoVer).

A question gives shuffled facts and two people to start from; the answer is the way of both, pair after pair: from
"ann cid" one may get to "ann cid bob dee", where the friend of ann is bob and that of cid is dee. Each relation leads
everybody to somebody else, and no two to the same person. The difficulty is how many people there are: many, for where
there are few, knowing whose friend is asked for says next to nothing of who it is.
"""

from typing import NamedTuple

from tasks import Domain

PEOPLE = ("ann", "bob", "cid", "dee", "eve", "fay", "gus", "hal", "ida", "jim", "kay", "leo")
RELATIONS = ("friend", "boss", "rival")


class Facts(NamedTuple):
    """Facts (relation, of whom, who), in the order that the question gives them, and the way so far, in pairs."""

    facts: tuple[tuple[str, str, str], ...]
    people: tuple[str, ...]


def draw(rng, n):
    """Random facts about n people, and two of these to start from."""
    people = rng.sample(PEOPLE, n)
    facts = []
    for relation in RELATIONS:
        ring = rng.sample(people, n)
        facts += [(relation, *pair) for pair in zip(ring, ring[1:] + ring[:1], strict=True)]
    rng.shuffle(facts)
    return Facts(tuple(facts), tuple(rng.sample(people, 2)))


def follow(relation):
    """The operation that goes on from the last pair of the way to their friends, say."""

    def operation(s):
        ways = {of: who for r, of, who in s.facts if r == relation}
        return s._replace(people=(*s.people, ways[s.people[-2]], ways[s.people[-1]]))

    return operation


DOMAIN = Domain(
    name="facts",
    operations={
        **{relation: follow(relation) for relation in RELATIONS},
        "swap": lambda s: s._replace(people=tuple(s.people[i ^ 1] for i in range(len(s.people)))),  # in every pair
        "flip": lambda s: s._replace(people=s.people[::-1]),
        "stay": lambda s: s._replace(people=s.people + s.people[-2:]),
        "cross": lambda s: s._replace(people=(*s.people, s.people[-1], s.people[-2])),
        "last": lambda s: s._replace(people=s.people[-2:]),
    },
    draw=draw,
    corpus_difficulties={6: 0.6, 7: 0.37, 8: 0.02, 9: 0.01},
    task_difficulty=8,
    words=(*PEOPLE, *RELATIONS, "start"),
    show=lambda s: " ".join(s.people),
    given=lambda s: [" ".join(fact) for fact in s.facts],
)
