"""tests/stress/fuzz.py, the short form: hostile text is counted, and found where it does harm."""

import random
import sys
from pathlib import Path

import pytest

from tasks import formats

sys.path.insert(0, str(Path(__file__).parent))

import fuzz


def found(path: Path) -> set[str]:
    rng = random.Random(0)
    rows = [write(rng) for write in (fuzz.random_tokens, fuzz.mutated_document) for _ in range(500)]
    return {*fuzz.check(rows, rng, path / "prompt.txt")}


def test_a_little_hostile_text_of_every_kind(tmp_path):
    assert found(tmp_path) == {"", *fuzz.COUNTED}


@pytest.mark.parametrize(
    "broken, harm",
    [
        # several answers, or with an end
        ("parse_answer", lambda words: words.rsplit("answer: ", 1)[-1].strip()),
        ("clean_instruction", lambda words: words),
        ("plain", lambda words: True),
    ],
)
def test_a_parser_that_is_too_kind_is_found(tmp_path, monkeypatch, broken, harm):
    monkeypatch.setattr(formats, broken, harm)
    assert found(tmp_path) - {"", *fuzz.COUNTED}
