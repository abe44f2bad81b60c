"""base/exams.py: exams ask for what they say, and pass only what is right."""

import random
import re
from dataclasses import replace

import pytest
import torch

from base import corpus, exams
from model import GPT, GPTConfig
from sampling import Rollouts
from tasks import domains, formats
from tests.test_domain import noting

DOMAINS = pytest.mark.parametrize("domain", domains().values(), ids=domains().keys())
KINDS = pytest.mark.parametrize(
    ("length", "held_out"), [(1, False), (2, False), (2, True), (3, False), (3, True)]
)


# --- items ---


@DOMAINS
@KINDS
def test_solving_asks_for_a_rule_of_the_length_and_passes_its_result_alone(
    domain, length, held_out
):
    drawn = []

    def draw(rng, difficulty):
        drawn.append(domain.draw(rng, difficulty))
        return drawn[-1]

    spied = replace(domain, draw=draw)
    hardest = domain.task_difficulties[-1]
    for seed in range(20):
        item = exams.solving(random.Random(seed), spied, hardest, length, held_out)
        prompt = formats.parse_prompt(item.prompt)
        topic = re.match("ask (.*?): ", item.question)[1]
        rule = tuple(prompt[topic].split())
        assert len(prompt) == 4 and rule in domain.rules(length, held_out)
        assert item.question == formats.question_text(topic, domain.ask(drawn[-1]))

        want = domain.show(domain.apply(rule, drawn[-1]))
        answer = f"answer: {want}"
        assert item.passes(answer) and item.passes(f"thinking\n{answer}")
        for wrong in ("", want, f"{answer} ", f"{answer}\n{answer}", f"{answer} {want}"):
            assert not item.passes(wrong)


@DOMAINS
def test_looking_up_wants_the_line_at_the_position_and_no_other(domain):
    for lines in range(1, 7):
        for position in range(lines):
            item = exams.looking_up(random.Random(lines), domain, position, lines)
            shown = item.prompt.split("\n")[1:-1]
            assert len(shown) == lines
            topic = shown[position].split(":")[0]
            assert item.question.startswith(f"ask {topic}: ")

            passed = [item.passes(f"{line}\nand so on") for line in shown]
            assert passed == [i == position for i in range(lines)]
            assert not item.passes(shown[position] + " ")
            assert not item.passes("\n" + shown[position])


@DOMAINS
@pytest.mark.parametrize("length", [1, 2, 3])
def test_reflecting_passes_with_any_spelling_of_the_rule_alone(domain, length):
    hardest = domain.task_difficulties[-1]
    for seed in range(3):
        item = exams.reflecting(random.Random(seed), domain, hardest, length)
        topic = re.match("reflect (.*?): none\n", item.prompt)[1]
        failures = re.findall(r"^ask (.*) got (.*) want (.*)$", item.question, re.MULTILINE)
        assert len(failures) == 3 and all(got != want for _, got, want in failures)

        every = domain.rules(length) + domain.rules(length, held_out=True)
        right = [rule for rule in every if item.passes(f"try this\n{topic}: {' '.join(rule)}")]
        assert right and sorted(right) == sorted(domain.equivalents(right[0]))
        assert all(rule in domain.rules(length, held_out=length > 1) for rule in right)

        answer = f"{topic}: {' '.join(right[0])}"
        wrong = ["", answer + "\n", answer + " zoo", f"x{answer}", "none", f"{topic}: zoo"]
        for text in [*wrong, answer.upper()]:
            assert not item.passes(text)


@DOMAINS
def test_reflecting_on_a_started_rule_shows_what_the_start_got_wrong(domain):
    hardest = domain.task_difficulties[-1]
    for seed in range(20):
        item = exams.reflecting(random.Random(seed), domain, hardest, 2, old="one missing")
        topic, old = re.match("reflect (.*?): (.*)\n", item.prompt).groups()
        assert any(item.passes(f"{topic}: {old} {name}") for name in domain.operations)
        assert not item.passes(f"{topic}: {old}")

    # The wrong answers are those of the start.
    states = {}

    def draw(rng, difficulty):
        state = domain.draw(rng, difficulty)
        return states.setdefault(domain.ask(state), state)

    spied = replace(domain, draw=draw)
    for seed in range(20):
        item = exams.reflecting(random.Random(seed), spied, hardest, 2, old="one missing")
        old = tuple(re.match("reflect .*?: (.*)\n", item.prompt)[1].split())
        failures = re.findall(r"^ask (.*) got (.*) want (.*)$", item.question, re.MULTILINE)
        assert len(failures) == 3
        for ask, got, want in failures:
            assert domain.answer(old, states[ask]) == got != want


@DOMAINS
@pytest.mark.parametrize("old", corpus.STRANGE)
def test_reflecting_on_what_means_nothing_here_shows_that_instruction_and_wrong_answers(
    domain, old
):
    hardest = domain.task_difficulties[-1]
    for seed in range(20):
        item = exams.reflecting(random.Random(seed), domain, hardest, 2, old=old)
        topic, instruction = re.match("reflect (.*?): (.*)\n", item.prompt).groups()
        words = tuple(instruction.split())
        assert words != ("none",) and not corpus.is_rule(domain, words)
        assert not item.passes(f"{topic}: {instruction}")
        failures = re.findall(r"^ask (.*) got (.*) want (.*)$", item.question, re.MULTILINE)
        assert len(failures) == 3 and all(got != want for _, got, want in failures)
        assert any(
            item.passes(f"{topic}: {' '.join(rule)}") for rule in domain.rules(2, held_out=True)
        )


@DOMAINS
def test_exams_are_a_function_of_the_generator(domain):
    hardest = domain.task_difficulties[-1]
    for draw in (
        lambda rng: exams.solving(rng, domain, hardest, 2, True),
        lambda rng: exams.looking_up(rng, domain, 1, 3),
        lambda rng: exams.reflecting(rng, domain, hardest, 1),
    ):
        items = [draw(random.Random(seed))[:2] for seed in (0, 0, 1)]
        assert items[0] == items[1] != items[2]


# --- how well a model does ---


@pytest.fixture
def model():
    """A model of random weights: it passes nothing."""
    torch.manual_seed(0)
    sizes = {"n_layer": 1, "n_head": 2, "n_embd": 16, "n_hidden": 16}
    return GPT(GPTConfig(formats.encoding().n_vocab, **sizes))


def test_the_share_of_an_exam_that_is_passed(model, monkeypatch):
    def is_yes(text: str) -> bool:
        return text == "yes"

    items = [exams.Item("rules\n", f"ask red: {state}\n", is_yes) for state in "abcd"]
    written = ["yes", "no", "yes", "yes "]
    asked = {}

    def write(model, **arguments) -> Rollouts:
        asked.update(arguments)
        rows = [[*formats.encode(text), arguments["eos"]] for text in written]
        lengths = [len(row) for row in rows]
        padded = [row + [arguments["pad"]] * (max(lengths) - len(row)) for row in rows]
        tokens = torch.tensor(padded)
        return Rollouts(tokens, torch.tensor(lengths), torch.zeros(tokens.shape))

    monkeypatch.setattr(exams, "sample", write)
    assert exams.pass_rate(model, items) == 0.5
    prompts = asked["prompts"]
    assert [formats.decode(prompt[1:]) for prompt in prompts] == ["rules\n"] * 4
    assert prompts[0][0] == formats.special("bos")
    questions = [formats.decode(question) for [question] in asked["questions"]]
    assert questions == [item.question for item in items]
    assert asked["temperature"] == 0 and asked["samples"] == 1


def test_an_answer_that_is_cut_off_does_not_pass(model, monkeypatch):
    item = exams.Item("rules\n", "ask red: a\n", lambda text: text == "yes")
    row = formats.encode("yes")  # it might have gone on: it has no end

    def write(model, **arguments) -> Rollouts:
        return Rollouts(torch.tensor([row]), torch.tensor([len(row)]), torch.zeros(1, len(row)))

    monkeypatch.setattr(exams, "sample", write)
    assert exams.pass_rate(model, [item]) == 0


def test_skills_and_loss_of_a_model_that_has_learned_nothing(model):
    domain = domains()["numbers"]
    found = exams.base_skills(model, [domain])
    assert found["skills"] == {"numbers": 0.0}
    # About as good as guessing any token of the vocabulary.
    uniform = torch.tensor(formats.encoding().n_vocab).log().item()
    assert found["corpus_loss"] == exams.corpus_loss(model, [domain])
    assert abs(found["corpus_loss"] - uniform) < 0.5
    assert exams.base_rates(model, domain) == "numbers: solve 0.00, reflect 0.00/0.00"


@DOMAINS
def test_the_items_of_skills_are_always_the_same_and_of_what_the_corpus_often_shows(domain):
    spied, drawn = noting(domain)
    known = {rule for length in (1, 2, 3) for rule in spied.rules(length)}
    drawn.clear()  # the states that rules are told apart by
    items = exams.skill_items(spied)
    assert len(items) == len(drawn) == 256 and set(drawn) == set(domain.seen_difficulties)
    assert [item[:2] for item in items] == [item[:2] for item in exams.skill_items(domain)]
    for item in items:
        topic = re.match("ask (.*?): ", item.question)[1]
        assert tuple(formats.parse_prompt(item.prompt)[topic].split()) in known


def test_no_training_has_the_documents_of_the_corpus_loss(model, monkeypatch):
    seeds = []
    documents = corpus.documents

    def watched(domains, seed, step, n):
        seeds.append(seed)
        return documents(domains, seed, step, n)

    monkeypatch.setattr(corpus, "documents", watched)
    exams.corpus_loss(model, [domains()["numbers"]])
    assert seeds and max(seeds) < 0
