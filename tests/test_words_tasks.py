"""words/tasks.py: right answers, pools that never meet, and nothing told that is made up."""

import random
import re

import pytest

from tasks import kind_of
from tests import toy
from words.tasks import KINDS, TOPIC, make_task, purpose_of
from words.world import EXAMPLE

ALL = pytest.mark.parametrize("name", KINDS)
PURPOSES = ("questions", "lessons", "validation")


def drawn(name: str, purpose: str = "questions", n: int = 200, seed: int = 0) -> list:
    return make_task(name, seed).questions(random.Random(1), n, purpose)


def test_answers_are_right():
    for question in drawn("addition"):
        a, b = map(int, re.fullmatch(r"(\d+) \+ (\d+) =", question.ask).groups())
        assert question.want == str(a + b)
    task = make_task("sums", 3)
    left, right, thing = re.fullmatch(r"(.)sum(.) (\w+)", task.hidden).groups()
    for question in drawn("sums", seed=3):
        a, b = map(int, re.findall(r"\d+", question.ask))
        assert question.want == f"{left}{a + b}{right} {thing}"
    for question in drawn("hops"):
        [name] = re.findall(r"where (\w+)'s boss lives:", question.ask)
        [boss] = re.findall(rf"{name}'s boss is (\w+)\.", question.ask)
        assert f"{boss} lives in {question.want}." in question.ask
        assert len(set(re.findall(r"lives in (\w+)\.", question.ask))) == 3


def test_the_place_of_a_number_or_of_a_fact_tells_nothing():
    # In either place of a sum stands the number of one digit.
    asks = [question.ask for question in drawn("addition")]
    assert sum(bool(re.match(r"\d \+ \d\d", ask)) for ask in asks) > 60
    assert sum(bool(re.match(r"\d\d \+ \d ", ask)) for ask in asks) > 60
    # In each of three places stands the city that is right.
    places = []
    for question in drawn("hops", n=300):
        places.append(re.findall(r"lives in (\w+)", question.ask).index(question.want))
    assert min(places.count(place) for place in range(3)) > 60


def test_a_label_is_one_of_two_code_words_for_praise_and_blame():
    task = make_task("labels", 0)
    good, bad = re.fullmatch(r"(\w+) for praise, (\w+) for blame", task.hidden).groups()
    for question in drawn("labels"):
        praised = bool(
            re.search("wonderful|brilliant|moving|delightful|superb|charm|thrill", question.ask)
        )
        assert question.want == (good if praised else bad)
        assert good not in question.ask and bad not in question.ask
    wants = [question.want for question in drawn("labels")]
    assert 60 < wants.count(good) < 140


@ALL
def test_questions_for_different_purposes_never_meet(name):
    pools = []
    for purpose in PURPOSES:
        asks = {question.ask for question in drawn(name, purpose, 800)}
        assert {purpose_of(ask) for ask in asks} == {purpose} and len(asks) > 100
        pools.append(asks)
    train, lessons, validation = pools
    assert not (train & lessons or train & validation or lessons & validation)


def test_the_same_words_in_another_order_serve_the_same_purpose():
    pools = [drawn(name, "validation") for name in ("sums", "labels")]
    for ask in [question.ask for pool in pools for question in pool]:
        turned = re.sub(r"(\d+) \+ (\d+)", r"\2 + \1", ask)
        turned = re.sub(r"A (\w+) (.*) was (\w+)\.", r"A \3 \2 was \1.", turned)
        assert purpose_of(turned) == "validation"
        assert turned != ask or len(set(re.findall(r"\d+", ask))) == 1


@ALL
def test_a_question_and_its_answer_are_one_line_that_can_be_taken_apart(name):
    for question in drawn(name, "lessons"):
        assert question.topic == TOPIC
        found = re.fullmatch(EXAMPLE, f"{question.ask} {question.want}")
        assert found.groups() == (question.ask, question.want)


def test_what_is_made_up_is_a_function_of_name_and_seed():
    for name in ("sums", "labels"):
        assert make_task(name, 3).hidden == make_task(name, 3).hidden
        assert len({make_task(name, seed).hidden for seed in range(20)}) > 5
        assert make_task(f"{name}:2", 3).name == f"{name}:2"
        assert len({make_task(f"{name}:{i}", 3).hidden for i in range(20)}) > 5
    assert make_task("sums", 0).instructions == {TOPIC: make_task("sums", 0).hidden}


def test_other_names_are_refused():
    for name in ("strings", "sums:", "sums:x", "sums2", ":2", ""):
        with pytest.raises(ValueError, match=f"unknown task '{name}': known tasks are addition"):
            kind_of(name, KINDS)


def test_tasks_do_not_depend_on_the_hash_seed(capsys):
    code = (
        "import random; from words.tasks import KINDS, make_task\n"
        "for name in KINDS:\n"
        "    task = make_task(name, 3)\n"
        "    print(task.hidden, task.questions(random.Random(0), 9, 'lessons'))"
    )
    assert toy.prints_the_same_elsewhere(code, capsys)
