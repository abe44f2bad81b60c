"""words/tokens.py: the same tokens as the package tokenizers gives, or a refusal."""

import json
import random
import unicodedata
from pathlib import Path

import pytest

from tests.tiny_llm import KINDS, TEXT, change_json, make_tokenizer
from words import tokens

tokenizers = pytest.importorskip("tokenizers")
ROOT = Path(__file__).resolve().parent.parent

# Characters of all kinds: those that patterns tell apart, and those that take several bytes.
CHARACTERS = "abcXYZ  \n\n\r\t'0123456789.,;:!?-+=<>()[]_#éßñçäÄØœ΄αβγжЖйшは漢字한글ไทย"
CHARACTERS += "½²Ⅷ٣€→✓😀👩\u0301\u00a0"
PIECES = ["'s", "'ll", "'S", " the", "ing", "12", "  ", "\n\n", "\r\n", "e\u0301", "don't", "<|"]


def strings(n: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    found = []
    for _ in range(n):
        parts = rng.choices([*CHARACTERS, *PIECES], k=rng.randrange(1, 25))
        found.append("".join(parts))
    return found


def assert_same_tokens(ours, theirs, texts) -> None:
    for text in texts:
        expected = theirs.encode(text, add_special_tokens=False).ids
        assert ours.encode(text) == expected, text
        assert ours.decode(expected) == theirs.decode(expected, skip_special_tokens=False)


@pytest.fixture(scope="module", params=KINDS)
def both(request, tmp_path_factory):
    """A tokenizer here, and the one that it was read from."""
    theirs = make_tokenizer(request.param)
    path = tmp_path_factory.mktemp("tokens") / "tokenizer.json"
    theirs.save(str(path))
    return tokens.from_json(path), theirs


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "tokenizer.json"
    make_tokenizer("smollm").save(str(path))
    return path


def test_tokens_equal_those_of_tokenizers(both):
    ours, theirs = both
    assert_same_tokens(ours, theirs, [TEXT, *strings(2000)])


def test_a_text_comes_back_from_its_tokens(both):
    ours, theirs = both
    for text in strings(200, seed=1):
        kept = unicodedata.normalize("NFC", text) if theirs.normalizer else text
        assert ours.decode(ours.encode(text)) == kept


def test_control_tokens_are_neither_read_nor_written(both):
    ours, theirs = both
    end = theirs.token_to_id("<|endoftext|>")
    assert end not in ours.encode("a <|endoftext|> b")
    assert ours.decode([end, 10**6]) == "\ufffd\ufffd"


def test_bytes_without_a_token_are_left_out():
    ids = {bytes([byte]): byte for byte in range(32, 240)} | {b"\n": 10}
    ours = tokens.Tokenizer(ids, tokens.PATTERNS["gpt-2"])
    assert ours.encode("a\x04b\n") == [97, 98, 10]
    assert ours.encode("\U0001f600 \ud800x") == [32, *"\ufffdx".encode()]


# --- what tiktoken could not follow ---


def test_merges_in_another_order_are_refused(path):
    merges = json.loads(path.read_text(encoding="utf-8"))["model"]["merges"]
    contents = json.loads(path.read_text(encoding="utf-8"))
    contents["model"]["merges"] = merges[::-1]
    path.write_text(json.dumps(contents), encoding="utf-8")
    with pytest.raises(ValueError, match="tiktoken cannot follow"):
        tokens.from_json(path)


def test_a_token_whose_merges_lead_elsewhere_is_refused():
    # "abc" is made of a and bc; but ab comes before bc, so that "abc" becomes ab, c.
    ids = {bytes([byte]): byte for byte in range(256)} | {b"ab": 256, b"bc": 257, b"abc": 258}
    merges = [(b"a", b"b"), (b"b", b"c"), (b"a", b"bc")]
    with pytest.raises(ValueError, match="tiktoken cannot follow"):
        tokens.check_merges(ids, merges, whole=False)
    bpe = tokenizers.models.BPE(
        {token.decode("latin-1"): i for token, i in ids.items()},
        [(a.decode(), b.decode()) for a, b in merges],
    )
    assert [token.value for token in bpe.tokenize("abc")] == ["ab", "c"]
    assert tokens.Tokenizer(ids, r"\w+").encode("abc") == [258]  # tiktoken goes another way
    tokens.check_merges(ids, [(b"a", b"b"), (b"b", b"c"), (b"ab", b"c")], whole=False)


def test_what_no_merge_makes_may_only_be_looked_up_whole():
    ids = {bytes([byte]): byte for byte in range(256)} | {b"abc": 256}
    tokens.check_merges(ids, [], whole=True)
    with pytest.raises(ValueError, match="tiktoken cannot follow"):
        tokens.check_merges(ids, [], whole=False)


@pytest.mark.parametrize(
    "part, value, said",
    [
        ("normalizer", {"type": "Lowercase"}, "changes texts in a way"),
        ("pre_tokenizer", {"type": "Whitespace"}, "cuts texts in a way"),
        ("pre_tokenizer", {"type": "ByteLevel", "add_prefix_space": True}, "cuts texts in a way"),
        ("model", {"type": "WordPiece", "vocab": {}}, "is no byte-level BPE tokenizer"),
        ("model", {"type": "BPE", "byte_fallback": True}, "is no byte-level BPE tokenizer"),
    ],
    ids=str,
)
def test_other_tokenizers_are_refused(path, part, value, said):
    change_json(path, **{part: value})
    with pytest.raises(ValueError, match=said):
        tokens.from_json(path)


def test_a_gguf_file_with_another_tokenizer_is_refused():
    fields = {"tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": "default"}
    with pytest.raises(
        ValueError, match="its tokenizer is 'llama' with 'default', not 'gpt2' with"
    ):
        tokens.from_gguf(fields)
    fields = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "deepseek-llm"}
    with pytest.raises(ValueError, match="with 'deepseek-llm'"):
        tokens.from_gguf(fields)
