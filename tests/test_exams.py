"""tasks/exams.py: exams ask for what they say, and pass only what is right."""

import random
import re
from dataclasses import replace

import pytest

from tasks import domains, exams, text

DOMAINS = pytest.mark.parametrize("domain", domains().values(), ids=domains().keys())
KINDS = pytest.mark.parametrize(("length", "held_out"), [(1, False), (2, False), (2, True), (3, False), (3, True)])


@DOMAINS
@KINDS
def test_solving_asks_for_a_rule_of_the_length_and_passes_its_result_alone(domain, length, held_out):
    drawn = []
    spied = replace(domain, draw=lambda rng, difficulty: drawn.append(domain.draw(rng, difficulty)) or drawn[-1])
    for seed in range(20):
        item = exams.solving(random.Random(seed), spied, domain.task_difficulties[-1], length, held_out)
        prompt, topic = text.parse_prompt(item.prompt), re.match("ask (.*?): ", item.question)[1]
        rule = tuple(prompt[topic].split())
        assert len(prompt) == 4 and rule in domain.rules(length, held_out)
        assert item.question == text.question_text(topic, domain.ask(drawn[-1]))
        want = domain.show(domain.apply(rule, drawn[-1]))
        assert item.passes(f"answer: {want}") and item.passes(f"thinking\nanswer: {want}")
        for wrong in ("", want, f"answer: {want} ", f"answer: {want}\nanswer: {want}", f"answer: {want} {want}"):
            assert not item.passes(wrong)


@DOMAINS
def test_looking_up_wants_the_line_at_the_position_and_no_other(domain):
    for lines in range(1, 7):
        for position in range(lines):
            item = exams.looking_up(random.Random(lines), domain, position, lines)
            shown = item.prompt.split("\n")[1:-1]
            assert len(shown) == lines and item.question.startswith(f"ask {shown[position].split(':')[0]}: ")
            assert [item.passes(f"{line}\nand so on") for line in shown] == [i == position for i in range(lines)]
            assert not item.passes(shown[position] + " ") and not item.passes("\n" + shown[position])


@DOMAINS
@KINDS
def test_reflecting_passes_with_any_spelling_of_the_rule_alone(domain, length, held_out):
    for seed in range(3):
        item = exams.reflecting(random.Random(seed), domain, domain.task_difficulties[-1], length, held_out)
        topic = re.match("reflect (.*?): none\n", item.prompt)[1]
        failures = re.findall(r"^ask (.*) got (.*) want (.*)$", item.question, re.MULTILINE)
        assert len(failures) == 3 and all(got != want for _, got, want in failures)
        every = domain.rules(length) + domain.rules(length, held_out=True)
        right = [rule for rule in every if item.passes(f"try this\n{topic}: {' '.join(rule)}")]
        assert right and sorted(right) == sorted(domain.equivalents(right[0]))
        assert all(rule in domain.rules(length, held_out) for rule in right)
        answer = f"{topic}: {' '.join(right[0])}"
        for wrong in ("", answer + "\n", answer + " zoo", f"x{answer}", "none", f"{topic}: zoo", answer.upper()):
            assert not item.passes(wrong)


@DOMAINS
def test_reflecting_on_a_started_rule_shows_what_the_start_got_wrong(domain):
    for seed in range(20):
        item = exams.reflecting(random.Random(seed), domain, domain.task_difficulties[-1], 2, True, old=1)
        topic, old = re.match("reflect (.*?): (.*)\n", item.prompt).groups()
        assert any(item.passes(f"{topic}: {old} {name}") for name in domain.operations)
        assert not item.passes(f"{topic}: {old}")


@DOMAINS
def test_exams_are_a_function_of_the_generator(domain):
    for draw in (
        lambda rng: exams.solving(rng, domain, domain.task_difficulties[-1], 2, True),
        lambda rng: exams.looking_up(rng, domain, 1, 3),
        lambda rng: exams.reflecting(rng, domain, domain.task_difficulties[-1], 1, False),
    ):
        items = [draw(random.Random(seed))[:2] for seed in (0, 0, 1)]
        assert items[0] == items[1] != items[2]
