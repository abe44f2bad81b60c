"""The tokenizer of a pretrained model, as a tiktoken.Encoding that gives the same tokens.

A byte-level BPE tokenizer cuts a text into pieces by a pattern, and begins with the bytes of a
piece. Then it joins neighbours, as its list of *merges* says: the merge that stands first in the
list comes first. tiktoken has no such list. It joins the two neighbours that make the token with
the smallest id, whichever they are. `check_merges` says when that is the same; what it cannot
vouch for is refused.

Left out: chat templates, and control tokens in a text (they are never read out of text).
"""

import json
import unicodedata
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import tiktoken

# How a text is cut into pieces: the names that GGUF has for it -> the pattern.
LETTERS_FIRST = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS = {
    "gpt-2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "smollm": r"'s|'t|'re|'ve|'m|'ll|'d|\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]+"
    r"|\s+(?=\p{N})|\s+(?!\S)|\s+",
    "llama-bpe": LETTERS_FIRST % "{1,3}",
    "qwen2": LETTERS_FIRST % "",
}

# The same in a tokenizer.json: the steps of its pre-tokenizer.
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
PIECES = {"type": "Split", "behavior": "Isolated", "invert": False}
STEPS = {
    "gpt-2": [BYTES],
    "smollm": [{"type": "Digits", "individual_digits": True}, BYTES],
}
for name in ("llama-bpe", "qwen2"):
    STEPS[name] = [PIECES | {"pattern": {"Regex": PATTERNS[name]}}, BYTES | {"use_regex": False}]

NORMAL = 1  # GGUF's type of an ordinary token
NOT_TEXT = "\ufffd".encode()  # what a token that stands for no text is shown as


@dataclass
class Tokenizer:
    """Text to token ids, and back."""

    ids: dict[bytes, int]  # of the tokens that stand for text
    pattern: str
    composes: bool = False  # whether a text is brought into Unicode's form NFC first

    def __post_init__(self):
        self.encoding = tiktoken.Encoding(
            "pretrained", pat_str=self.pattern, mergeable_ranks=self.ids, special_tokens={}
        )
        # tiktoken has no answer to a byte without a token.
        self.unknown_bytes = {byte for byte in range(256) if bytes([byte]) not in self.ids}

    @cached_property
    def texts(self) -> dict[int, bytes]:
        return {i: text for text, i in self.ids.items()}

    def encode(self, text: str) -> list[int]:
        """Text -> token ids. Characters with a byte that has no token are left out."""
        if self.composes:
            text = unicodedata.normalize("NFC", text)
        known = [c for c in text if self.unknown_bytes.isdisjoint(c.encode("utf-8", "replace"))]
        return self.encoding.encode_ordinary("".join(known))

    def decode(self, tokens: list[int]) -> str:
        """Token ids -> text. What is no text becomes the replacement character."""
        pieces = [self.texts.get(token, NOT_TEXT) for token in tokens]
        return b"".join(pieces).decode("utf-8", errors="replace")


def from_gguf(fields: dict) -> Tokenizer:
    """The tokenizer that the fields of a GGUF file describe. Raises ValueError."""
    # Of another kind are SentencePiece's tokenizers, for example.
    kind = fields["tokenizer.ggml.model"]
    pattern = fields["tokenizer.ggml.pre"]
    if kind != "gpt2" or pattern not in PATTERNS:
        known = ", ".join(PATTERNS)
        raise ValueError(f"its tokenizer is '{kind}' with '{pattern}', not 'gpt2' with {known}")

    # Control tokens are no text.
    ids = {}
    types = fields["tokenizer.ggml.token_type"]
    for i, token in enumerate(fields["tokenizer.ggml.tokens"]):
        if types[i] == NORMAL:
            ids[token] = i
    merges = [merge.split(" ") for merge in fields["tokenizer.ggml.merges"]]
    return build(ids, merges, pattern, composes=pattern == "qwen2")


def from_json(path: Path) -> Tokenizer:
    """The tokenizer of a tokenizer.json. Raises ValueError where its tokens could differ."""
    described = json.loads(path.read_text(encoding="utf-8"))
    bpe = described["model"]
    normalizer = described["normalizer"]

    # Byte-level BPE, and nothing else.
    extras = ("byte_fallback", "continuing_subword_prefix", "end_of_word_suffix", "dropout")
    has_extras = any(bpe.get(extra) for extra in extras)
    if bpe["type"] != "BPE" or has_extras:
        raise ValueError("its tokenizer is no byte-level BPE tokenizer")
    if normalizer not in (None, {"type": "NFC"}):
        raise ValueError("its tokenizer changes texts in a way that is not known")

    # Added tokens have a meaning of their own: they are no text.
    added = {token["id"] for token in described["added_tokens"]}
    ids = {token: i for token, i in bpe["vocab"].items() if i not in added}
    merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in bpe["merges"]]
    pattern = pattern_of(described["pre_tokenizer"])
    return build(ids, merges, pattern, normalizer is not None, bpe.get("ignore_merges", False))


def pattern_of(pre_tokenizer: dict) -> str:
    """Which of the patterns a pre-tokenizer stands for. Raises ValueError."""
    # Offsets in the text do not matter here. Older files do not say `use_regex`.
    steps = []
    for step in pre_tokenizer.get("pretokenizers", [pre_tokenizer]):
        step = dict(step)
        step.pop("trim_offsets", None)
        if step["type"] == "ByteLevel":
            step.setdefault("use_regex", True)
        steps.append(step)

    for name, known_steps in STEPS.items():
        if steps == known_steps:
            return name
    raise ValueError("its tokenizer cuts texts in a way that is not known")


def build(ids, merges, pattern, composes=False, whole=False) -> Tokenizer:
    """The tokenizer of a vocabulary, which is written in GPT-2's alphabet. Raises ValueError.

    whole: whether a piece that is a token is one, whatever its merges say.
    """
    alphabet = byte_alphabet()

    def in_bytes(token):
        return bytes(alphabet[c] for c in token)

    ids = {in_bytes(token): i for token, i in ids.items()}
    merges = [(in_bytes(a), in_bytes(b)) for a, b in merges]
    check_merges(ids, merges, whole)
    return Tokenizer(ids, PATTERNS[pattern], composes)


def byte_alphabet() -> dict[str, int]:
    """GPT-2's alphabet, in which every byte is a printable character: character -> byte."""
    # Printable bytes are their own characters. The others come after all of these, in order.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    alphabet = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in printable]
    for i, byte in enumerate(others):
        alphabet[chr(256 + i)] = byte
    return alphabet


def check_merges(ids, merges, whole):
    """Raises ValueError where tiktoken could give other tokens than the merges do.

    Two conditions. The merges are in the order of the ids that they lead to. And for every token:
    where its bytes are merged by ids below its own, the last two parts are one of its merges. Then
    tiktoken never joins two parts that are no merge: what led to them would have led to the other
    two. (A token that is not reached so is only allowed where a whole piece is looked up first.)
    """
    refused = ValueError("its tokenizer merges in an order that tiktoken cannot follow")
    order = [ids.get(a + b, -1) for a, b in merges]
    if order != sorted(order) or -1 in order:
        raise refused

    # Single bytes are not merged.
    known = {*merges}
    for token, i in ids.items():
        parts = merged(token, ids, below=i)
        is_reached = len(parts) <= 2
        if is_reached and len(token) > 1 and tuple(parts) not in known:
            raise refused
        if not is_reached and not whole:
            raise refused


def merged(token: bytes, ids, below: int) -> list[bytes]:
    """The parts of a token after all merges that lead to an id below a limit."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while True:
        # The neighbours that make the smallest id; of several, the first ones.
        joined = [ids.get(a + b, below) for a, b in pairwise(parts)]
        smallest = min(joined, default=below)
        if smallest >= below:
            return parts
        i = joined.index(smallest)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
