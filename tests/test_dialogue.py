"""tasks/dialogue.py: what is asked, in which order it is scored, and that a model's output stays text."""

import random
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model import GPTConfig
from tasks import Question, corpus, dialogue, domains, exams, make_task, text

DOMAINS = pytest.mark.parametrize("name", domains())
BOS, EOS, PAD = (text.special(name) for name in ("bos", "eos", "pad"))
QUESTIONS = [Question("red", "d a", "a d"), Question("blue", "b c", "c b")]


class Script:
    """A model that writes what it is told to, row by row, and keeps what it was asked."""

    def __init__(self, *texts: str, rows: list[list[int]] | None = None):
        self.rows = rows or [[*text.encode(words), EOS] for words in texts]

    def __call__(self, prompts, questions, samples, max_new):
        self.prompts, self.questions, self.samples, self.max_new = prompts, questions, samples, max_new
        assert len(self.rows) == sum(map(len, questions)) * samples
        width = max(map(len, self.rows))
        tokens = torch.tensor([row + [PAD] * (width - len(row)) for row in self.rows])
        lengths = torch.tensor([len(row) for row in self.rows])
        return SimpleNamespace(tokens=tokens, lengths=lengths, logprobs=torch.zeros(tokens.shape))


def test_answers_come_in_the_order_prompt_question_sample():
    jobs = [({"red": "reverse"}, QUESTIONS), ({}, QUESTIONS)]
    model = Script(*(f"answer: {i} a" for i in range(8)))
    answers = dialogue.answer(model, jobs, samples=2)
    assert [outcome.answer for outcome in answers.outcomes] == [f"{i} a" for i in range(8)]
    asked = [text.decode(context[1:]) for context in answers.contexts]
    assert asked[:2] == ["rules\nred: reverse\nask red: d a\n", "rules\nred: reverse\nask blue: b c\n"]
    assert asked[2:] == ["rules\nask red: d a\n", "rules\nask blue: b c\n"]  # once for both samples


def test_contexts_are_what_the_model_was_asked():
    # a gradient on other tokens than those that were sampled after would be off-policy
    model = Script("answer: a d", "answer: c b")
    answers = dialogue.answer(model, [({"red": "reverse"}, QUESTIONS)])
    assert answers.contexts == [model.prompts[0] + question for question in model.questions[0]]
    assert [context.count(BOS) for context in answers.contexts] == [1, 1] and answers.contexts[0][0] == BOS
    assert answers.completions == model.rows and answers.completions[0][-1] == EOS
    assert answers.contexts[0] == [BOS, *text.encode("rules\nred: reverse\nask red: d a\n")]


def test_right_answers_score_and_answers_cut_off_do_not():
    whole = text.encode("answer: a d")
    cut = Script(rows=[whole, [*text.encode("answer: c b"), EOS]])  # the first might have gone on: it has no end
    answers = dialogue.answer(cut, [({}, QUESTIONS)])
    assert [outcome.score for outcome in answers.outcomes] == [0, 1]
    assert answers.texts[0] == "" and answers.outcomes[0].answer is None and answers.completions[0] == whole


@pytest.mark.parametrize("token", [BOS, PAD])
def test_special_tokens_inside_an_answer_do_not_pass_as_nothing(token):
    rows = [[*text.encode("answer: a d"), token, EOS], [*text.encode("answer: c"), token, *text.encode(" b"), EOS]]
    answers = dialogue.answer(Script(rows=rows), [({}, QUESTIONS)])
    assert [outcome.score for outcome in answers.outcomes] == [0, 0]


def test_reflections_name_the_topics_new_instruction():
    failures = [(QUESTIONS[0], dialogue.Outcome(0.0, "d d")), (QUESTIONS[0], dialogue.Outcome(0.0, None))]
    model = Script("try d a want a d\nreverse: a d then sort\nred: reverse sort", "red: sort", "blue: sort\n")
    requests = [("red", "left", failures), ("blue", "", failures), ("blue", "", failures)]
    (first, how), *others = dialogue.reflect(model, requests)
    assert first == "reverse sort" and [new for new, _ in others] == ["", ""]
    asked = text.decode(model.questions[0][0])
    assert asked == "reflect red: left\nask d a got d d want a d\nask d a got none want a d\n"
    assert how == asked + "try d a want a d\nreverse: a d then sort\nred: reverse sort"
    assert model.prompts == [[BOS]]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.integers(0, text.encoding().n_vocab - 1), max_size=40), min_size=2, max_size=2))
def test_whatever_a_model_writes_prompts_and_feedback_stay_in_form(rows):
    rows = [[*row, EOS] for row in rows]
    answers = dialogue.answer(Script(rows=rows), [({}, QUESTIONS)])
    failures = [(q, outcome) for q, outcome in zip(QUESTIONS, answers.outcomes, strict=True)]
    model = Script(rows=rows)
    instructions = dialogue.reflect(model, [("red", "", failures), ("blue", "", failures)])
    for asked in model.questions[0]:
        assert asked.count(text.encode("\n")[0]) == 3 and not {BOS, EOS, PAD} & set(asked)
    for instruction, how in instructions:
        assert text.clean_instruction(instruction) == instruction
        assert len(text.abridged(how)) <= len(how) + 3 * how.count("\n")


def test_the_share_of_an_exam_that_is_passed():
    items = [exams.Item("rules\n", f"ask red: {s}\n", lambda words: words == "yes") for s in "abcd"]
    model = Script("yes", "no", "yes", "yes ")
    assert dialogue.pass_rate(model, items) == 0.5
    assert [text.decode(p[1:]) for p in model.prompts] == ["rules\n"] * 4 and model.prompts[0][0] == BOS


# --- room ---


@DOMAINS
def test_right_answers_and_searches_fit_the_room_that_they_are_given(name):
    # in a domain whose answers are cut off every reward is zero, whatever is learned
    rng, domain = random.Random(0), domains()[name]
    for seed in range(20):
        task = make_task(name, seed)
        for topic, rule in task.rules.items():
            state = domain.draw(rng, task.difficulties[-1])
            answer = f"{topic}: {' '.join(rule)}\n{corpus.steps_text(domain, rule, state)}"
            assert len(text.encode(answer)) < dialogue.ANSWER_TOKENS
            if len(rule) < 3:  # of longer ones, those with a good guess
                document, found = corpus.search(rng, domain, rule, state, (), short=False)
                searched = "".join(piece for piece, _ in document)
                assert len(text.encode(f"{searched}{topic}: {' '.join(found)}")) < dialogue.REFLECTION_TOKENS


@DOMAINS
def test_the_longest_hostile_prompt_and_reflection_fit_the_model(name):
    room = GPTConfig(text.encoding().n_vocab).block_size
    task = make_task(name, 0)
    questions = task.questions(random.Random(0), 20)
    longest = " ".join(["z" * 16] * 3)  # no word of the world: a token for each letter
    assert text.clean_instruction(longest)
    for q in questions:
        prompt = text.prompt_text(dict.fromkeys(task.rules, longest)) + text.question_text(q.topic, q.ask)
        assert len(dialogue.tokens_of(prompt)) + dialogue.ANSWER_TOKENS <= room
        failures = [(q.ask, "z" * n, q.want) for n in range(99) if "z" * n in text.failure_text(q.ask, "z" * n, q.want)]
        reflection = text.reflection_text(q.topic, longest, failures[-1:] * 3)
        assert "zzzz want" in reflection
        assert len(dialogue.tokens_of(reflection)) + dialogue.REFLECTION_TOKENS <= room
