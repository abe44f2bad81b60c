"""words/world.py: prompts that stay in form, two ways to propose, and no question that leaks."""

import random
import re
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fast_context import FastPhase, Population, evolve
from tasks.world import Outcome, World
from words import world as words
from words.tasks import KINDS, TOPIC, Question, make_task, purpose_of
from words.world import EXAMPLES, WordWorld, parse_text, parts_of


class Bytes:
    """A tokenizer whose tokens are bytes, all of them or some."""

    def __init__(self, known=range(256)):
        self.known = known

    def encode(self, text):
        return [byte for byte in text.encode() if byte in self.known]

    def decode(self, tokens):
        return bytes(tokens).decode("utf-8", "replace")


WORLD = WordWorld(Bytes())
TASK = make_task("sums", 0)
LESSONS = list(dict.fromkeys(TASK.questions(random.Random(0), 60, "lessons")))
LINES = [f"{q.ask} {q.want}" for q in LESSONS]
QUESTION = Question(TOPIC, "47 + 5 =", "52")


def prompt(*examples, instruction=""):
    return {TOPIC: "\n".join([instruction, *examples])}


def requests(text: str, n: int = 300):
    """Requests with different failures."""
    rng = random.Random(0)
    for i in range(n):
        failed = rng.sample(LESSONS[EXAMPLES + 1 :], 2 + i % 5)
        yield (TOPIC, text, [(question, Outcome(0.0, f"{i}")) for question in failed])


def propose(request, written):
    return WORLD.proposal(request, WORLD.reflection_text(*request), written)


def test_this_world_has_all_that_a_learner_may_ask_for():
    asked = [name for name in vars(World) if not name.startswith("_")]
    asked += World.__annotations__
    assert len(asked) >= 16
    assert [name for name in asked if not hasattr(WORLD, name)] == []


# --- texts ---


def test_a_prompt_is_an_instruction_and_examples_and_the_question_follows():
    assert WORLD.prompt_text({}) == ""
    assert WORLD.prompt_text(prompt("31 + 8 = 39")) == "31 + 8 = 39\n"
    both = prompt("31 + 8 = 39", instruction="Add.")
    assert WORLD.prompt_text(both) == "Add.\n31 + 8 = 39\n"
    assert WORLD.prompt_text(prompt(instruction="Add.")) == "Add.\n"
    assert WORLD.question_text(QUESTION) == "47 + 5 ="


def test_a_text_begins_with_a_new_line_and_ends_with_its_line():
    assert WORLD.encode_start("") == [10] and WORLD.encode_start("ab") == [10, 97, 98]
    assert WORLD.eos == 10 and WORLD.decode([97, 98]) == "ab"
    with pytest.raises(ValueError, match="no token for the end of a line"):
        WordWorld(Bytes(range(11, 256)))


def test_an_answer_must_be_exact():
    assert WORLD.grade(QUESTION, " 52") == Outcome(1.0, "52")
    for wrong in ("", " ", " 53", " 52.", " 5 2", " 52\n53", " is 52"):
        outcome = WORLD.grade(QUESTION, wrong)
        assert outcome.score == 0 and outcome.answer == (wrong.strip() or None)


# --- prompts ---


def test_only_lessons_may_stand_in_a_prompt():
    assert WORLD.is_prompt({}) and WORLD.is_prompt(prompt(*LINES[:EXAMPLES]))
    assert WORLD.is_prompt(prompt(instruction="Add the numbers: no more."))
    for purpose in ("questions", "validation"):
        for name in KINDS:
            [question] = make_task(name, 0).questions(random.Random(0), 1, purpose)
            assert not WORLD.is_prompt(prompt(f"{question.ask} {question.want}"))


@pytest.mark.parametrize(
    "wrong",
    [
        {TOPIC: ""},
        {TOPIC: 7},
        {TOPIC: None},
        {TOPIC: b"Add."},
        {"red": "sort"},
        {TOPIC: "Add.", "red": "sort"},
        [TOPIC],
        None,
        prompt(instruction="z" * 201),
        prompt(LINES[0] + " " * 3 + "z" * 200),
        prompt(instruction="two  spaces"),
        prompt(instruction=" space"),
        prompt(instruction="tab\tinside"),
        prompt(instruction="line\u2028end"),
        prompt(instruction="bell\x07"),
        prompt(*LINES[: EXAMPLES + 1]),
        prompt("no example"),
        prompt(""),
        prompt(LINES[0] + "\r"),
    ],
    ids=repr,
)
def test_what_is_out_of_form_is_no_prompt(wrong):
    assert WORLD.is_prompt(wrong) is False


def test_what_a_person_wrote_is_a_prompt_or_the_wrong_line_is_named():
    assert parse_text("") == parse_text("\n\n") == {}
    text = f"Add.\n{LINES[0]}\n"
    assert WORLD.parse_prompt(text) == {TOPIC: text.rstrip("\n")}
    assert parse_text(f"\n{LINES[0]}") == prompt(LINES[0])
    with pytest.raises(ValueError, match="line 3 of the prompt, 'no example', must be a question"):
        parse_text(f"Add.\n{LINES[0]}\nno example")
    with pytest.raises(ValueError, match=r"line 1 of the prompt, .* at most 200 characters"):
        parse_text("z" * 201)
    long = next(
        f"1 + {i} = {'z' * 200}" for i in range(99) if purpose_of(f"1 + {i} =") == "lessons"
    )
    with pytest.raises(ValueError, match=r"line 2 of the prompt, .* at most 200 characters"):
        parse_text(f"\n{long}")
    with pytest.raises(ValueError, match="more than 4 worked examples"):
        parse_text("\n".join(["", *LINES[:5]]))


# --- proposals ---


def test_a_request_decides_for_one_of_two_ways_a_quarter_are_reflections():
    asked = [WORLD.reflection_text(*request) for request in requests("Add.")]
    again = [WORLD.reflection_text(*request) for request in requests("Add.")]
    share = sum(text != "" for text in asked) / len(asked)
    assert asked == again and 0.17 < share < 0.33


def test_a_reflection_reads_failures_and_writes_the_instruction():
    text = f"Add.\n{LINES[0]}"
    for request in requests(text):
        read = WORLD.reflection_text(*request)
        if not read:
            continue
        lines = read.split("\n")
        failures = request[2][: words.READ]
        assert lines[0] == "Instruction: Add." and len(lines) == 3 + len(failures)
        for line, (question, outcome) in zip(lines[2:-1], failures, strict=True):
            assert line == f"{question.ask} {outcome.answer} (right: {question.want})"
        new, how = propose(request, "  Report\tthe sum. ")
        assert new == f"Report the sum.\n{LINES[0]}"  # the examples stay
        assert how.startswith("reflection: Instruction: Add.") and how.endswith("sum. ")
        assert propose(request, " \n ")[0] == ""


def changes(examples: list[str], n: int = 300) -> list:
    """What n requests propose for a prompt of worked examples, but for the reflections.

    -> of each proposal its move, and the lines that come in, that leave, and that had failed
    """
    found = []
    for request in requests("\n".join(["Add.", *examples]), n):
        if WORLD.reflection_text(*request):
            continue
        new, how = propose(request, "")
        instruction, changed = parts_of(new)
        assert instruction == "Add." and WORLD.is_prompt({TOPIC: new})
        move = re.match("worked example (comes in|replaces|leaves): ", how)[1]
        failed = {f"{question.ask} {question.want}" for question, _ in request[2]}
        come = set(changed) - set(examples)
        leave = set(examples) - set(changed)
        # What comes in has failed, and stands last.
        assert come <= failed and come == set(changed[len(changed) - len(come) :])
        found.append((move, come, leave, failed))
    return found


def test_worked_examples_that_come_in_leave_two_failures_to_compare_with():
    most = 0
    for n in range(EXAMPLES):
        for move, come, leave, failed in changes(LINES[:n]):
            if move == "comes in":
                assert come and not leave
                assert len(come) == 1 or len(failed) - len(come) >= 2
                most = max(most, len(come))
    assert most == EXAMPLES


def test_a_worked_example_replaces_one_or_leaves_alone():
    for n in range(1, EXAMPLES + 1):
        for move, come, leave, _ in changes(LINES[:n]):
            if move == "replaces":
                assert len(come) == len(leave) == 1
            if move == "leaves":
                assert not come and len(leave) == 1


@pytest.mark.parametrize(
    "n, moves",
    [
        (0, {"comes in"}),
        (1, {"comes in", "replaces", "leaves"}),
        (EXAMPLES, {"replaces", "leaves"}),
    ],
)
def test_the_moves_depend_on_the_room_for_examples(n, moves):
    assert {move for move, *_ in changes(LINES[:n])} == moves


def test_with_room_for_more_examples_come_in_twice_as_often():
    moves = [move for move, *_ in changes(LINES[:1], 800)]
    assert moves.count("comes in") / len(moves) == pytest.approx(1 / 2, abs=0.07)
    assert moves.count("replaces") / len(moves) == pytest.approx(1 / 4, abs=0.06)
    assert moves.count("leaves") / len(moves) == pytest.approx(1 / 4, abs=0.06)


def test_nothing_is_proposed_that_no_failure_could_judge():
    one = [(LESSONS[9], Outcome(0.0, None))] * 3  # the same question three times
    for examples in range(EXAMPLES + 1):
        text = "\n".join(["", *LINES[:examples]])
        for i in range(20):
            new, how = words.changed_examples(text, one, random.Random(i))
            assert LINES[9] not in new
            assert how.startswith("worked example leaves") if examples else how == ""


def test_an_example_stands_in_a_prompt_once():
    twice = [(LESSONS[0], Outcome(0.0, None))] * 6
    for i in range(20):
        new, _ = words.changed_examples(f"\n{LINES[0]}\n{LINES[1]}", twice, random.Random(i))
        _, examples = parts_of(new)
        assert len(set(examples)) == len(examples) and WORLD.is_prompt({TOPIC: new})


def test_the_last_example_without_an_instruction_leaves_nothing_and_so_proposes_nothing():
    moves = set()
    for request in requests(f"\n{LINES[0]}"):
        new, how = propose(request, "")
        if "leaves" in how:
            assert new == ""
        moves.add(how.split(":")[0])
    assert "worked example leaves" in moves


@settings(max_examples=200)
@given(st.text(), st.text())
def test_whatever_a_model_wrote_makes_a_prompt_or_nothing(written, answered):
    for request in requests(f"Add.\n{LINES[0]}", 8):
        topic, text, failures = request
        failures = [(question, Outcome(0.0, answered)) for question, _ in failures]
        read = WORLD.reflection_text(topic, text, failures)
        assert read.count("\n") in (0, 2 + min(len(failures), words.READ))
        new, _ = WORLD.proposal((topic, text, failures), read, written)
        assert new == "" or WORLD.is_prompt({TOPIC: new})


# --- no leaks ---


def test_a_prompt_shows_the_questions_that_stand_in_it():
    assert WORLD.shows(prompt(LINES[0]), LESSONS[0])
    assert not WORLD.shows(prompt(LINES[0]), LESSONS[1]) and not WORLD.shows({}, LESSONS[0])
    told = prompt(instruction=f"As in {LINES[0]}, add.")
    assert WORLD.shows(told, LESSONS[0])  # in the instruction, too
    assert WORLD.shows(prompt("5 + 47 = 52"), QUESTION)  # in the other order, too
    assert not WORLD.shows(prompt("147 + 5 = 152"), QUESTION)
    assert not WORLD.shows(prompt("47 + 8 = 55", "5 + 30 = 35"), QUESTION)
    assert not WORLD.shows(prompt("5 + 47 = 52"), Question(TOPIC, "5 + 5 =", "10"))


def numbers(text: str) -> list[str]:
    return sorted(re.findall(r"\d+", text))


def test_a_model_that_only_copies_examples_gains_nothing():
    population = Population(4, seed=0, start={})
    anchor = TASK.questions(random.Random(1), 16, "questions")
    ways = set()

    def answer(jobs):
        # It answers right where its prompt adds the same numbers, and knows nothing else.
        results = []
        for prompt, questions in jobs:
            lines = prompt.get(TOPIC, "").split("\n")
            known = [numbers(sum) for line in lines for sum in re.findall(r"\d+ \+ \d+", line)]
            scores = [float(numbers(question.ask) in known) for question in questions]
            results.append([SimpleNamespace(score=score, answer="") for score in scores])
        return results

    def reflect(requests):
        proposals = []
        for request in requests:
            read = WORLD.reflection_text(*request)
            # In its own words it repeats what it has read.
            proposals.append((*WORLD.proposal(request, read, read[-200:]), int(read != "")))
            ways.add(read != "")
        return proposals

    for _ in range(6):
        functions = (answer, reflect, WORLD.is_prompt, WORLD.shows)
        report = evolve(FastPhase(population, anchor, LESSONS, *functions, 6, 300))
        assert report.proposed > 10 and report.accepted == []
    assert population.best == {} and ways == {True, False}


# --- room ---


def need_of(world, task) -> int:
    """How many tokens a task's texts can take, as the refusal says."""
    with pytest.raises(ValueError, match=f"the texts of {task.name} can take") as error:
        world.check_room(task, 1)
    return int(re.search(r"can take (\d+) tokens, the model reads 1:", str(error.value))[1])


@pytest.mark.parametrize("name", KINDS)
def test_texts_must_fit_the_model_and_the_refusal_says_how_many_tokens(name):
    world = WordWorld(Bytes())
    world.answer_tokens = 40  # each byte is a token
    task = make_task(name, 0)
    need = need_of(world, task)
    world.check_room(task, need)
    with pytest.raises(ValueError, match=f"can take {need} tokens, the model reads {need - 1}"):
        world.check_room(task, need - 1)

    # The longest prompt of all, and the longest reflection, are within it.
    lessons = task.questions(random.Random(5), 100, "lessons")
    longest = sorted(lessons, key=lambda q: -len(q.ask))[:EXAMPLES]
    text = "\n".join(["\U0001f600" * words.LINE, *(f"{q.ask} {q.want}" for q in longest)])
    assert parse_text(text) == {TOPIC: text}
    asked = world.prompt_text({TOPIC: text}) + longest[0].ask
    assert len(world.encode_start(asked)) + world.answer_tokens <= need
    failures = [(longest[0], Outcome(0.0, "z" * (world.answer_tokens - 1)))] * 3
    read = words.failures_text("\U0001f600" * words.LINE, failures)
    assert len(world.encode_start(read)) + world.reflection_tokens <= need


def test_the_room_is_for_worked_examples_with_their_answers(monkeypatch):
    world = WordWorld(Bytes())
    world.answer_tokens = 40
    # Else reflections are the longest texts.
    world.reflection_tokens = 0
    monkeypatch.setattr(words, "READ", 0)
    monkeypatch.setattr(words, "FRAME", 0)
    task = make_task("hops", 0)
    lessons = task.questions(random.Random(5), 100, "lessons")
    longest = sorted(lessons, key=lambda q: -len(q.ask))[:EXAMPLES]
    told = "".join(f"{q.ask} {q.want}\n" for q in longest)
    asked = len(world.encode(told + longest[0].ask)) + world.answer_tokens
    assert need_of(world, task) >= 4 * words.LINE + asked  # after an instruction


def test_a_task_whose_right_answers_would_be_cut_off_is_refused():
    world = WordWorld(Bytes())
    world.answer_tokens = 8
    with pytest.raises(ValueError, match=r"right answers of sums take up to \d+ tokens of this"):
        world.check_room(TASK, 10**6)


def test_lessons_are_those_of_the_pool():
    assert {purpose_of(question.ask) for question in LESSONS} == {"lessons"}
