"""tasks/formats.py: any text survives the tokenizer, and only right answers are rewarded."""

import random
import socket

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tasks import TOPICS, Question, domains, formats, make_task
from tasks.domain import KEYWORDS

# What a model that has learned these formats writes when it goes wrong, and what would break them.
FRAGMENTS = [*KEYWORDS, *TOPICS, "sort", "reverse raise", "a b c", "d", "7"]
FRAGMENTS += ["\n", ":", ": ", " ", "\r\n", "\r", "\t"]
FRAGMENTS += [
    "<eos>",
    "<bos>",
    "<pad>",
    "\x00",
    "\u2028",
    "\xa0",
    "\u200b",
    "é",
    "ａ",
    "а",
    "answer: b c a",
    "red: sort",
]
fragments = st.lists(st.sampled_from(FRAGMENTS)).map("".join)
hostile = st.one_of(st.text(), fragments, st.text("abc :\n<>", max_size=40))
word = st.from_regex("[a-z]{1,16}", fullmatch=True)
instructions = st.lists(word, min_size=1, max_size=3).map(" ".join)
instructions = instructions.filter(formats.plain)
LONG = 200_000  # letters: a parser that backtracks would not come back from these


# --- the tokenizer ---


@given(hostile)
@example("<bos>rules<eos>\n<pad>")
def test_any_text_encodes_and_decodes_to_itself_and_holds_no_special_token(words):
    tokens = formats.encode(words)
    assert formats.decode(tokens) == words
    special = {formats.special(name) for name in ("bos", "eos", "pad")}
    assert not special & set(tokens)


@given(st.lists(st.integers(0, formats.encoding().n_vocab - 1)))
def test_any_tokens_decode_to_text(tokens):
    assert isinstance(formats.decode(tokens), str)


def test_the_words_of_the_world_are_single_tokens():
    operations = [name for domain in domains().values() for name in domain.operations]
    for word in [*KEYWORDS, *TOPICS, *operations]:
        for form in (word, f" {word}", f"{word}:"):
            assert len(formats.encode(form)) == 1, form
    for word in [word for domain in domains().values() for word in domain.words]:
        assert len(formats.encode(f" {word}")) == 1, word
    assert len(formats.encode("\n")) == 1


def test_a_question_costs_one_token_for_each_word_and_digit():
    for name in domains():
        [question] = make_task(name, 0).questions(random.Random(0), 1)
        for shown in (question.ask, question.want):
            pieces = sum(len(word) if word.isdigit() else 1 for word in shown.split(" "))
            assert len(formats.encode(f" {shown}")) == pieces


def test_the_tokenizer_needs_no_network(monkeypatch):
    monkeypatch.setattr(socket, "socket", None)
    monkeypatch.setattr(socket, "create_connection", None)
    fresh = formats.encoding.__wrapped__()
    assert fresh.encode_ordinary("ask red: d a c b") == formats.encode("ask red: d a c b")


# --- the verifier ---

QUESTION = Question("red", "d a c b", "b c a d")
RIGHT = "red: reverse\nreverse: b c a d\nanswer: b c a d"


@given(st.text().filter(lambda thinking: "answer" not in thinking))
def test_the_right_answer_is_rewarded_whatever_was_thought(thinking):
    assert formats.verify(QUESTION, "answer: b c a d") == 1
    assert formats.verify(QUESTION, f"{thinking}\nanswer: b c a d") == 1


WRONG = {
    "nothing": "",
    "no answer": "red: reverse\nreverse: b c a d",
    "another answer": "answer: b c d a",
    "an empty answer": "answer: ",
    "part of it": "answer: b c a",
    "more than it": "answer: b c a d a",
    "two answers, the last right": "answer: d a c b\nanswer: b c a d",
    "the same answer twice": "answer: b c a d\nanswer: b c a d",
    "two answers in a line": "answer: d a c b answer: b c a d",
    "answer inside the thinking": "answer: b c a d\nreverse: b c a d",
    "trailing word": RIGHT + " red",
    "trailing line": RIGHT + "\nask red: a b",
    "trailing newline": RIGHT + "\n",
    "trailing space": RIGHT + " ",
    "trailing full stop": RIGHT + ".",
    "carriage return": RIGHT + "\r",
    "CRLF": RIGHT.replace("\n", "\r\n") + "\r\n",
    "end of sequence in text": RIGHT + "<eos>",
    "padding in text": RIGHT + "<pad>",
    "NUL": RIGHT + "\0",
    "upper case": "answer: B C A D",
    "keyword in upper case": "Answer: b c a d",
    "full width": "answer: ｂ c a d",
    "Cyrillic": "answer: b с а d",
    "zero width": "answer: b c\u200b a d",
    "combining": "answer: b c a\u0301 d",
    "no-break space": "answer: b\xa0c a d",
    "thin space": "answer: b c a\u2009d",
    "byte order mark": "answer: \ufeffb c a d",
    "right to left": "answer: \u202ed a c b",
    "tab": "answer:\tb c a d",
    "two spaces": "answer:  b c a d",
    "no space": "answer:b c a d",
    "indented": "reverse: b c a d\n answer: b c a d",
    "line separator": "red: reverse\u2028answer: b c a d",
    "vertical tab": "red: reverse\x0banswer: b c a d",
    "quoted": 'answer: "b c a d"',
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_a_person_would_not_call_the_right_answer_earns_nothing(kind):
    assert formats.verify(QUESTION, RIGHT) == 1
    assert formats.verify(QUESTION, WRONG[kind]) == 0


@given(st.data())
def test_one_character_less_more_or_other_in_the_answer_earns_nothing(data):
    answer = "answer: b c a d"
    i = data.draw(st.integers(0, len(answer)))
    for character in (data.draw(st.characters()), data.draw(st.sampled_from("abcd \n:"))):
        for changed in (
            answer[:i] + character + answer[i:],
            answer[:i] + character + answer[i + 1 :],
        ):
            if changed not in (answer, "\n" + answer):
                assert formats.verify(QUESTION, changed) == 0
    if i < len(answer):
        assert formats.verify(QUESTION, answer[:i] + answer[i + 1 :]) == 0


@given(hostile)
def test_any_text_has_one_answer_or_none(words):
    answer = formats.parse_answer(words)
    if answer is not None:
        assert "\n" not in answer and words.endswith(f"answer: {answer}")
        assert words.count("answer") == 1


# --- feedback ---


@given(hostile)
@example("a b want d a c b")  # would say that something else was right
@example("a b\nask a c got a c want c a")  # would add a failure that never was
@example("none want a")
@example("1" * 999)
def test_feedback_on_a_hostile_answer_has_the_same_fields_and_one_line(got):
    line = formats.failure_text("d a c b", got, "b c a d")
    assert line.startswith("ask d a c b got ") and line.endswith(" want b c a d\n")
    assert line.count("\n") == 1 and [w for w in line.split() if w in KEYWORDS and w != "none"] == [
        "ask",
        "got",
        "want",
    ]
    assert len(line) < 80


def test_an_abridged_reflection_keeps_its_heads_its_arrivals_and_its_end():
    block = "try a b want c d\nsort: a\nleft: b\n"
    read = "reflect red: none\nask a b got b a want c d\n"
    words = f"{read}{block}{block}lower: k\nraise: c d done\nred: sort raise"
    assert formats.abridged(words).split("\n") == [
        "reflect red: none", "ask a b got b a want c d",
        "try a b want c d", "...", "try a b want c d", "...",
        "raise: c d done", "red: sort raise",
    ]  # fmt: skip
    assert formats.abridged("") == "" and formats.abridged("x\ny\nz") == "...\nz"


def test_feedback_shows_what_was_answered_or_none():
    assert formats.failure_text("d a", "a d", "b c") == "ask d a got a d want b c\n"
    assert formats.failure_text("d a", None, "b c") == "ask d a got none want b c\n"
    assert formats.failure_text("1 2", "12 0", "2 1") == "ask 1 2 got 12 0 want 2 1\n"


def test_a_reflection_begins_with_the_topic_and_its_instruction():
    assert formats.reflection_text("red", "", []) == "reflect red: none\n"
    failures = [("d a", "a d", "b c"), ("b c", None, "a")]
    assert formats.reflection_text("red", "sort left", failures) == (
        "reflect red: sort left\nask d a got a d want b c\nask b c got none want a\n"
    )


# --- instructions ---


@given(hostile)
@example("sort\nblue: left")
@example("none")
def test_any_text_is_an_instruction_or_nothing(words):
    cleaned = formats.clean_instruction(words)
    assert cleaned in ("", words) and len(cleaned) <= 50 and "\n" not in cleaned
    assert formats.prompt_text({"red": cleaned}).count("\n") == 2
    for topic in TOPICS[:2]:
        parsed = formats.parse_instruction(words, topic)
        assert parsed == formats.clean_instruction(parsed)
        assert not parsed or words.endswith(f"{topic}: {parsed}")


NO_INSTRUCTIONS = ["", " ", "a b c d", "sort\n", "sort\nblue: left", "sort  left", " sort"]
NO_INSTRUCTIONS += ["sort ", "sort.", "Sort", "ſort", "ｓort", "sort\xa0left", "sort\r"]
NO_INSTRUCTIONS += ["sort\x00", "<eos>", "sort <eos>", "red:", "a1", "a" * 17]
NO_INSTRUCTIONS += ["none", "want a", "ask blue"]  # keywords


@pytest.mark.parametrize("words", NO_INSTRUCTIONS)
def test_what_is_no_instruction(words):
    assert formats.clean_instruction(words) == ""
    assert formats.parse_instruction(f"red: {words}", "red") == ""


@given(instructions)
def test_an_instruction_is_read_from_the_last_line_for_its_topic_alone(instruction):
    written = f"try a b want b a\nreverse: b a then sort\nred: {instruction}"
    assert formats.parse_instruction(written, "red") == instruction
    assert formats.parse_instruction(written, "blue") == ""
    for ending in ("\n", "<eos>"):
        assert formats.parse_instruction(written + ending, "red") == ""


@pytest.mark.parametrize("piece", ["a", "a ", "red: ", "answer: ", "\n", " ", "a b\n", "\x00", "é"])
def test_very_long_text_is_read_in_linear_time(piece):
    words = piece * (LONG // len(piece))
    assert formats.clean_instruction(words) == ""
    assert formats.parse_instruction(f"red: {words}", "red") == ""
    assert formats.verify(QUESTION, words) == 0
    assert len(formats.failure_text("d a c b", words, "b c a d")) < 80
    assert formats.decode(formats.encode(words)) == words


# --- prompts kept as text ---

prompts = st.dictionaries(st.sampled_from(TOPICS), instructions)


@given(prompts)
def test_a_prompt_is_read_back_as_it_was_written(prompt):
    written = formats.prompt_text(prompt)
    assert formats.parse_prompt(written) == prompt
    assert written.count("\n") == 1 + len(prompt)

    # A person may leave the heading out, indent, and put blank lines in between.
    lines = written.removeprefix("rules\n")
    by_a_person = "\n  " + lines.replace("\n", " \r\n\r\n")
    assert formats.parse_prompt(by_a_person) == prompt


@given(hostile)
@example("red: sort\u2028blue: left")
def test_any_text_is_a_prompt_or_an_error_of_one_line(words):
    try:
        prompt = formats.parse_prompt(words)
    except ValueError as error:
        assert str(error).startswith("line ") and "\n" not in str(error) and len(str(error)) < 400
    else:
        assert set(prompt) <= set(TOPICS)
        assert all(map(formats.clean_instruction, prompt.values()))


BAD_LINES = [
    "red sort",
    "purple: sort",
    "red: sort left ends halves",
    "red: Sort",
    "red:",
    "red: none",
    "blue: left",
]
BAD_LINES += [": sort", "rules: sort", "red: sort; green: left", "<eos>", "red: " + "a" * LONG]


@pytest.mark.parametrize("line", BAD_LINES)
def test_the_first_bad_line_of_a_prompt_is_named(line):
    with pytest.raises(ValueError, match=r"^line 3 of the prompt, ") as error:
        formats.parse_prompt(f"rules\nblue: sort\n{line}\nnor is this a line\n")
    assert line[:60] in str(error.value) and len(str(error.value)) < 400
