"""words/examples.py: a prompt of worked examples drawn at random."""

import pytest

from words import examples
from words.tasks import KINDS
from words.world import EXAMPLES, parse_text


@pytest.mark.parametrize("name", KINDS)
def test_it_prints_a_prompt_that_a_run_can_begin_with(capsys, name):
    printed = set()
    for seed in ("0", "1", "0"):
        examples.main([name, "--seed", seed])
        text = capsys.readouterr().out
        [shown] = parse_text(text).values()
        assert shown.startswith("\n") and len(set(shown.split("\n"))) == 1 + EXAMPLES
        printed.add(text)
    assert len(printed) == 2  # a function of the seed


def test_an_unknown_task_is_one_line(capsys):
    with pytest.raises(SystemExit) as ended:
        examples.main(["chess"])
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("words.examples: unknown task 'chess': known tasks are addition")
