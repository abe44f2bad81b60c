"""Star graph: find the way from the centre of a star to a given leaf (after arXiv 2403.06963).

The edges come shuffled, each told from both ends ("out a b in b a"); the nodes' names are random.
Walking out from the centre one must guess an arm: the first one listed (`walk`, the habit of the
base) or the last (`roam`), and the goal is on neither. So with the seed prompt the base earns next
to nothing. Walking back from the goal there is nothing to guess, and the way back only has to be
flipped.

The difficulty is the length of the arms: on long ones the base slips, but hardly ever onto the
goal's.
"""

import itertools
from typing import NamedTuple

from tasks import Domain

ARMS = 3
LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Star(NamedTuple):
    """Edges (from, to) in the order that the question gives them, and the nodes that one holds."""

    edges: tuple[tuple[str, str], ...]
    nodes: tuple[str, ...]


def draw(rng, length):
    """A random star, its centre and a leaf that is on neither the first nor the last arm listed."""
    centre, *names = rng.sample(LETTERS, 1 + ARMS * length)
    ways = [[centre, *names[i::ARMS]] for i in range(ARMS)]
    edges = [edge for way in ways for edge in itertools.pairwise(way)]
    rng.shuffle(edges)
    _first, *middle, _last = (to for start, to in edges if start == centre)
    goal = rng.choice([way[-1] for way in ways if way[1] in middle])
    return Star(tuple(edges), (centre, goal))


def go(s, node, backwards=False, arm=0):
    """The nodes on the way from a node, along the edges or against them, as far as it leads.

    arm: which edge to take where there are several, 0 for the first one listed, -1 for the last.
    """
    edges = [(b, a) for a, b in s.edges] if backwards else s.edges
    way = [node]
    while steps := [b for a, b in edges if a == way[-1]]:
        way.append(steps[arm])
    return s._replace(nodes=tuple(way))


DOMAIN = Domain(
    name="star_graph",
    operations={
        "walk": lambda s: go(s, s.nodes[0]),  # from the first node outwards
        "roam": lambda s: go(s, s.nodes[0], arm=-1),
        "back": lambda s: go(s, s.nodes[-1], backwards=True),  # from the last node to the centre
        "flip": lambda s: s._replace(nodes=s.nodes[::-1]),
        "ends": lambda s: s._replace(  # one node stays one
            nodes=(s.nodes[-1:] + s.nodes[1:-1] + s.nodes[:1])[: len(s.nodes)]
        ),
        "shift": lambda s: s._replace(nodes=s.nodes[1:] + s.nodes[:1]),
        "first": lambda s: s._replace(nodes=s.nodes[:1]),
        "last": lambda s: s._replace(nodes=s.nodes[-1:]),
    },
    draw=draw,
    corpus_difficulties={2: 0.5, 3: 0.45, 4: 0.02, 5: 0.02, 6: 0.01},
    task_difficulties=(5, 6),
    words=(*LETTERS, "out", "in", "start"),
    show=lambda s: " ".join(s.nodes),
    given=lambda s: [fact for a, b in s.edges for fact in (f"out {a} {b}", f"in {b} {a}")],
    habit=("walk",),
    hidden=("back", "flip"),
)
