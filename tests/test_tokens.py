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
    assert_same_tokens(ours, theirs, [TEXT, *strings(50)])


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


def tokenizer_of(alphabet, merges=(), **options):
    """A tokenizer whose tokens are these characters of GPT-2's alphabet, and what merges make."""
    listed = [*alphabet, *(a + b for a, b in merges)]
    ids = {token: i for i, token in enumerate(listed)}
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE(ids, list(merges), **options))
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    return bpe


def test_bytes_without_a_token_are_left_out():
    ours = tokens.Tokenizer(tokenizer_of("abxĠĊ"), control=set())
    assert ours.encode("a\x04b\n") == [0, 1, 4]
    assert ours.encode("\U0001f600 x") == [3, 2]


# --- as the files describe them ---


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_of_a_gguf_file_are_the_same(kind):
    theirs = make_tokenizer(kind)
    bpe = json.loads(theirs.to_str())["model"]
    listed = sorted(bpe["vocab"], key=bpe["vocab"].get)
    fields = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": kind,
        "tokenizer.ggml.tokens": listed,
        "tokenizer.ggml.token_type": [3 if token == "<|endoftext|>" else 1 for token in listed],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in bpe["merges"]],
    }
    ours = tokens.from_gguf(fields)
    texts = [TEXT, *strings(2000, seed=2)]
    assert_same_tokens(ours, theirs, texts)

    # With the few merges of a toy most wrong patterns would give the same tokens, but other pieces.
    for text in texts:
        pieces = ours.bpe.pre_tokenizer.pre_tokenize_str(text)
        assert pieces == theirs.pre_tokenizer.pre_tokenize_str(text)
    assert ours.decode([theirs.token_to_id("<|endoftext|>")]) == "\ufffd"


def test_merges_come_in_the_order_of_their_list(tmp_path):
    # "abc" is made of a and bc; but ab comes before bc, so that "abc" becomes ab, c.
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    theirs = tokenizer_of(alphabet, [("a", "b"), ("b", "c"), ("a", "bc")])
    theirs.save(str(tmp_path / "tokenizer.json"))
    ours = tokens.from_json(tmp_path / "tokenizer.json")
    assert [ours.texts[i] for i in ours.encode("abc")] == ["ab", "c"]


def test_a_text_is_neither_cut_off_nor_filled_up_nor_framed(path):
    theirs = make_tokenizer("smollm")
    expected = theirs.encode(TEXT).ids
    theirs.enable_truncation(max_length=5)
    theirs.enable_padding(length=10_000)
    theirs.post_processor = tokenizers.processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    theirs.save(str(path))
    assert tokens.from_json(path).encode(TEXT) == expected


WORDS = {"type": "WordPiece", "unk_token": "a", "continuing_subword_prefix": "##"}
WORDS |= {"max_input_chars_per_word": 100, "vocab": {"a": 0}}
BYTES = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
# Each text begins with a space that is not shown: two texts after another show one.
BEGINS = {"type": "Prepend", "prepend": " "}
STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
SHOWS = {"type": "Sequence", "decoders": [BYTES, STRIP]}


@pytest.mark.parametrize(
    "changes",
    [
        {"normalizer": {"type": "Lowercase"}},
        {"normalizer": {"type": "Strip", "strip_left": False, "strip_right": True}},
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"pre_tokenizer": BYTES},
        {"normalizer": BEGINS, "decoder": SHOWS},
        {"model": WORDS},
    ],
    ids=str,
)
def test_other_tokenizers_are_refused(path, changes):
    change_json(path, **changes)
    with pytest.raises(ValueError, match="is no byte-level BPE tokenizer"):
        tokens.from_json(path)


def test_a_tokenizer_that_draws_lots_is_refused(path):
    tokenizer_of(tokenizers.pre_tokenizers.ByteLevel.alphabet(), dropout=0.5).save(str(path))
    with pytest.raises(ValueError, match="is no byte-level BPE tokenizer"):
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
