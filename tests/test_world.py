"""tasks/world.py: the toy world's texts, verdicts and limits; what a model wrote stays text."""

import random
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from base import corpus
from model import GPTConfig
from tasks import TOPICS, Question, domains, formats, make_task
from tasks.domain import KEYWORDS
from tasks.world import Outcome, ToyWorld, World, longest_answer

DOMAINS = pytest.mark.parametrize("name", domains())
WORLD = ToyWorld()
BOS = formats.special("bos")
QUESTION = Question("red", "d a", "a d")
FRAGMENTS = ["red: sort\n", "rules\n", "ask ", "\n", "\r", " ", ": ", "blue", "sort", "<eos>", "é"]
HOSTILE = st.one_of(st.text(), st.lists(st.sampled_from(FRAGMENTS)).map("".join))
WORDS = st.one_of(st.from_regex("[a-z]{1,8}", fullmatch=True), st.sampled_from(KEYWORDS))
TOPIC_OR_NOT = st.one_of(st.sampled_from(TOPICS), HOSTILE)
INSTRUCTIONS = st.lists(WORDS, min_size=1, max_size=3).map(" ".join)


def test_the_toy_world_has_all_that_a_learner_may_ask_for():
    asked = [name for name in vars(World) if not name.startswith("_")]
    asked += World.__annotations__
    assert len(asked) >= 16
    assert [name for name in asked if not hasattr(WORLD, name)] == []


# --- tokens ---


@given(HOSTILE)
def test_text_is_encoded_without_special_tokens_and_a_start_has_one(text):
    tokens = WORLD.encode(text)
    assert not {BOS, WORLD.eos, WORLD.pad} & set(tokens)
    assert WORLD.encode_start(text) == [BOS, *tokens]
    assert WORLD.decode(tokens) == text
    assert len({BOS, WORLD.eos, WORLD.pad}) == 3


# --- tasks ---


def test_a_world_has_the_tasks_of_the_domains_that_its_base_knows():
    assert list(WORLD.domains) == list(domains())
    known = ToyWorld(["strings", "facts"])
    assert known.make_task("strings", 3) == make_task("strings", 3)
    assert known.make_task("facts", 3).name == "facts"
    with pytest.raises(ValueError, match="the base knows strings, facts, not numbers"):
        known.make_task("numbers", 3)
    for name in ("chess", "strings:", "strings:x", "strings2", ":2"):
        with pytest.raises(ValueError, match=f"unknown task '{name}': known tasks are"):
            known.make_task(name, 3)


# --- answers ---


def test_an_answer_is_graded_and_kept_for_feedback():
    assert WORLD.grade(QUESTION, "red: reverse\nreverse: a d\nanswer: a d") == Outcome(1.0, "a d")
    assert WORLD.grade(QUESTION, "answer: d a") == Outcome(0.0, "d a")
    for unreadable in ("", "a d", "answer:", "answer: a d\n", "answer: d a\nanswer: a d"):
        assert WORLD.grade(QUESTION, unreadable) == Outcome(0.0, None)


@given(HOSTILE)
def test_any_text_is_graded(text):
    outcome = WORLD.grade(QUESTION, text)
    assert outcome.score == float(outcome.answer == "a d")
    outcome = WORLD.grade(QUESTION, "answer: " + text)
    assert outcome.score in (0.0, 1.0)


def test_a_prompt_and_a_question_are_lines():
    assert WORLD.prompt_text({}) == "rules\n"
    prompt = {"red": "reverse raise", "blue": "sort"}
    assert WORLD.prompt_text(prompt) == "rules\nblue: sort\nred: reverse raise\n"
    assert WORLD.question_text(QUESTION) == "ask red: d a\n"


# --- reflections ---


def test_a_reflection_shows_the_instruction_and_the_failures():
    failures = [(QUESTION, Outcome(0.0, "d d")), (QUESTION, Outcome(0.0, None))]
    text = WORLD.reflection_text("red", "left", failures)
    assert text == "reflect red: left\nask d a got d d want a d\nask d a got none want a d\n"
    assert WORLD.reflection_text("red", "", []) == "reflect red: none\n"


def propose(request, written):
    return WORLD.proposal(request, WORLD.reflection_text(*request), written)


def test_a_proposal_is_the_topics_instruction_in_the_last_line():
    wrote = "try d a want a d\nreverse: a d done\n"
    failures = [(QUESTION, Outcome(0.0, "d d"))]
    red, blue = ("red", "left", failures), ("blue", "", failures)
    new, how = propose(red, wrote + "red: reverse sort")
    assert new == "reverse sort" and how.startswith("reflect red: left\nask d a got d d want a d\n")
    assert how.endswith("red: reverse sort")
    assert propose(blue, wrote + "red: reverse sort")[0] == ""
    for nothing in ("", wrote, "red: ", "red: a b c d", "red: ask", "red: Sort", "red: sort\n"):
        assert propose(red, nothing)[0] == ""


@given(HOSTILE)
def test_what_is_proposed_makes_a_prompt_whatever_was_written(text):
    for reflection in (text, "red: " + text):
        instruction, _ = propose(("red", "", []), reflection)
        assert instruction == "" or WORLD.is_prompt({"red": instruction})


def test_a_summary_leaves_out_what_a_search_tried_in_vain():
    text = "reflect red: none\nask d a got none want a d\ntry d a want a d\nleft: a\nraise: e\n"
    text += "reverse: a d done\nred: reverse"
    short = "reflect red: none\nask d a got none want a d\ntry d a want a d\n...\n"
    assert formats.abridged(text) == short + "reverse: a d done\nred: reverse"


# --- prompts ---


@given(st.dictionaries(st.sampled_from(TOPICS), INSTRUCTIONS))
def test_a_prompt_is_a_prompt_where_its_instructions_are_some(prompt):
    clean = all(formats.clean_instruction(instruction) for instruction in prompt.values())
    assert WORLD.is_prompt(prompt) == clean
    if clean:
        assert WORLD.parse_prompt(WORLD.prompt_text(prompt)) == prompt


@pytest.mark.parametrize(
    "prompt",
    [
        {"red": "sort\nblue: left"},
        {"red": "sort\n"},
        {"red": " sort"},
        {"red": "sort\r"},
        {"red": "sort\x0bblue: left"},
        {"red": "sort\u2028blue: left"},
        {"red": ""},
        {"red": "a b c d"},
        {"red": "Sort"},
        {"red": "sort<eos>"},
        {"red": "none"},
        {"red": "ask"},
        {"purple": "sort"},
        {"": ""},
        {"": "sort"},
        {"rules\nred": "sort"},
        {"red: sort\nblue": "left"},
        {"red\n": "sort"},
        {"red": 7},
        {"red": None},
        {"red": float("nan")},
        {"red": ["sort"]},
        {7: "sort"},
        {None: "sort"},
        {"red": "sort", 7: "left"},
        ["red"],
        [],
        "red: sort",
        "",
        7,
        None,
    ],
    ids=repr,
)
def test_what_would_not_be_read_as_it_is_stored_is_no_prompt(prompt):
    assert WORLD.is_prompt(prompt) is False


@given(st.dictionaries(TOPIC_OR_NOT, st.one_of(INSTRUCTIONS, HOSTILE), min_size=1))
@example({"red": "sort\nblue: left"})
def test_no_prompt_can_smuggle_in_a_line(prompt):
    if WORLD.is_prompt(prompt):
        lines = WORLD.prompt_text(prompt).splitlines()
        assert len(lines) == 1 + len(prompt)
        for topic, instruction in prompt.items():
            assert topic in TOPICS and formats.clean_instruction(instruction) == instruction


def test_what_a_person_wrote_is_a_prompt_or_the_wrong_line_is_named():
    assert WORLD.parse_prompt("\n  red: sort \r\n\n") == {"red": "sort"}
    with pytest.raises(ValueError, match="line 2 of the prompt"):
        WORLD.parse_prompt("red: sort\nask red: a")


# --- room ---


@DOMAINS
def test_right_answers_and_searches_fit_the_room_that_they_are_given(name):
    # In a domain whose answers are cut off every reward is zero, whatever is learned.
    rng = random.Random(0)
    domain = domains()[name]
    for seed in range(20):
        task = make_task(name, seed)
        for topic, rule in task.rules.items():
            state = domain.draw(rng, task.difficulties[-1])
            solution = formats.solution_text(domain, rule, state)
            answer = f"{topic}: {' '.join(rule)}\n{solution}"
            assert len(WORLD.encode(answer)) < WORLD.answer_tokens
            if len(rule) < 3:  # of longer ones, those with a good guess
                document, found = corpus.search(rng, domain, rule, state, (), short=False)
                searched = "".join(piece for piece, _ in document)
                reflection = f"{searched}{topic}: {' '.join(found)}"
                assert len(WORLD.encode(reflection)) < WORLD.reflection_tokens


@DOMAINS
def test_the_longest_hostile_prompt_and_reflection_fit_the_model(name):
    room = GPTConfig(formats.encoding().n_vocab).block_size
    task = make_task(name, 0)
    questions = task.questions(random.Random(0), 20)
    longest = " ".join(["z" * 16] * 3)  # no word of the world: a token for each letter
    assert formats.clean_instruction(longest)
    for question in questions:
        prompt = WORLD.prompt_text(dict.fromkeys(task.rules, longest))
        context = WORLD.encode_start(prompt + WORLD.question_text(question))
        assert len(context) + WORLD.answer_tokens <= room

        # The longest answer that is shown as it is.
        shown = []
        for n in range(99):
            answer = "z" * n
            if answer in formats.failure_text(question.ask, answer, question.want):
                shown.append((question, Outcome(0.0, answer)))
        reflection = WORLD.reflection_text(question.topic, longest, shown[-1:] * 3)
        assert "zzzz want" in reflection
        assert len(WORLD.encode_start(reflection)) + WORLD.reflection_tokens <= room


@DOMAINS
def test_the_tasks_of_every_domain_fit_the_model(name):
    room = GPTConfig(formats.encoding().n_vocab).block_size
    for seed in range(3):
        WORLD.check_room(WORLD.make_task(name, seed), room)


def need_of(world: ToyWorld, name: str) -> int:
    """How many tokens a task's texts can take, as the refusal says."""
    with pytest.raises(ValueError, match=f"the texts of {name} can take") as error:
        world.check_room(world.make_task(name, 0), 1)
    return int(re.search(r"can take (\d+) tokens, the base reads 1:", str(error.value))[1])


def test_texts_that_exceed_the_room_are_refused_with_the_numbers():
    need = need_of(WORLD, "strings")
    task = WORLD.make_task("strings", 0)
    WORLD.check_room(task, need)
    message = (
        f"the texts of strings can take {need} tokens, the base reads {need - 1}: pretrain one"
    )
    with pytest.raises(ValueError, match=message):
        WORLD.check_room(task, need - 1)


def test_the_room_is_for_answers_and_for_reflections():
    world = ToyWorld()
    need = need_of(world, "strings")
    world.reflection_tokens += 100
    assert need_of(world, "strings") == need + 100  # reflections are the longest texts
    world.answer_tokens += 5000
    assert need_of(world, "strings") > need + 3000


def test_the_room_is_for_a_prompt_with_a_line_for_every_topic():
    world = ToyWorld()
    world.reflection_tokens = 0  # else reflections are the longest texts
    longest = WORLD.prompt_text(dict.fromkeys(TOPICS, " ".join(3 * ["z" * 16])))
    need = need_of(world, "strings")
    assert need > len(WORLD.encode_start(longest)) + world.answer_tokens


def test_a_task_whose_right_answers_would_be_cut_off_is_refused():
    task = make_task("strings", 2)
    [(topic, rule)] = [(topic, rule) for topic, rule in task.rules.items() if len(rule) == 3]
    state = task.domain.draw(random.Random(0), task.difficulties[0])
    solution = formats.solution_text(task.domain, rule, state)
    answer = f"{topic}: {' '.join(rule)}\n{solution}"
    needed = len(WORLD.encode(answer)) + 1  # and the end of the sequence
    assert longest_answer(task) == needed

    world = ToyWorld()
    world.answer_tokens = needed - 1
    message = f"right answers of strings take up to {needed} tokens, {needed - 1} are sampled"
    with pytest.raises(ValueError, match=message):
        world.check_room(task, 2048)
    world.answer_tokens = needed
    world.check_room(task, 2048)


def test_a_reflection_reads_three_failures():
    text = WORLD.reflection_text("red", "", [(QUESTION, Outcome(0.0, "d d"))] * 5)
    assert text.count("ask ") == 3
