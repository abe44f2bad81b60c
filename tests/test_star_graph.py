"""tasks/star_graph.py: what each strategy does; the way back, flipped, is the one right way."""

import itertools
import random

import pytest

from tasks import make_task
from tasks.star_graph import ARMS, DOMAIN, Star

STATE = Star((("c", "d"), ("a", "b"), ("b", "c"), ("e", "f"), ("a", "e"), ("f", "g")), ("a", "g"))
EXAMPLES = {  # operation -> what it makes of the nodes a g, and of g f e a
    "walk": ("a b c d", "g"),
    "roam": ("a e f g", "g"),
    "back": ("g f e a", "a"),
    "flip": ("g a", "a e f g"),
    "ends": ("g a", "a f e g"),
    "shift": ("g a", "f e a g"),
    "first": ("a", "g"),
    "last": ("g", "a"),
}


@pytest.mark.parametrize("name", DOMAIN.operations)
def test_operation_by_example(name):
    for nodes, result in zip(("a g", "g f e a"), EXAMPLES[name], strict=True):
        state = STATE._replace(nodes=tuple(nodes.split()))
        assert DOMAIN.show(DOMAIN.operations[name](state)) == result


def test_a_question_tells_the_edges_and_the_centre_and_the_goal():
    assert DOMAIN.ask(STATE) == (
        "out c d in d c out a b in b a out b c in c b "
        "out e f in f e out a e in e a out f g in g f start a g"
    )


@pytest.mark.parametrize("length", [2, 3, 5])
def test_a_star_has_its_arms_and_no_way_out_that_has_a_name_reaches_the_goal(length):
    rng = random.Random(0)
    for _ in range(200):
        state = DOMAIN.draw(rng, length)
        centre, goal = state.nodes
        assert len(state.edges) == ARMS * length == len({to for _, to in state.edges})
        assert sum(start == centre for start, _ in state.edges) == ARMS
        way = DOMAIN.apply(DOMAIN.hidden, state).nodes
        assert way[0] == centre and way[-1] == goal and len(way) == length + 1
        assert all(edge in state.edges for edge in itertools.pairwise(way))
        ends = {DOMAIN.apply((name,), state).nodes[-1] for name in ("walk", "roam")}
        assert len(ends) == 2 and goal not in ends


def test_every_topic_hides_the_one_right_way_and_the_corpus_never_shows_it():
    assert set(make_task("star_graph", 0).rules.values()) == {DOMAIN.hidden}
    assert DOMAIN.hidden in DOMAIN.rules(2, held_out=True)


@pytest.mark.parametrize("length", [2, 5])
def test_the_edges_of_a_way_may_stand_anywhere(length):
    rng = random.Random(0)
    places = set()
    for _ in range(200):
        state = DOMAIN.draw(rng, length)
        places.add([to for _, to in state.edges].index(state.nodes[-1]))
    assert len(places) == ARMS * length


def test_the_ends_of_a_single_node_are_that_node():
    state = Star((("c", "d"),), ("g",))
    assert DOMAIN.operations["ends"](state) == state
