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
    pattern = fields.get("tokenizer.ggml.pre", "gpt-2")
    if kind != "gpt2" or pattern not in PATTERNS:
        raise ValueError(
            f"its tokenizer is '{kind}' with the pattern '{pattern}': read is 'gpt2' with one of "
            + ", ".join(PATTERNS)
        )

    # Control tokens are no text.
    typed = zip(fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"], strict=True)
    ids = {token: i for i, (token, kind) in enumerate(typed) if kind == NORMAL}
    merges = [merge.split(" ") for merge in fields["tokenizer.ggml.merges"]]
    return build(ids, merges, pattern, composes=pattern == "qwen2")


def from_json(path: Path) -> Tokenizer:
    """The tokenizer of a tokenizer.json. Raises ValueError where its tokens could differ."""
    described = json.loads(path.read_text(encoding="utf-8"))
    bpe = described["model"]

    # Byte-level BPE, and nothing else.
    extras = ("byte_fallback", "continuing_subword_prefix", "end_of_word_suffix", "dropout")
    if bpe["type"] != "BPE" or any(bpe.get(extra) for extra in extras):
        raise ValueError(f"the tokenizer {path} is no byte-level BPE tokenizer")
    normalizer = described["normalizer"]
    if normalizer not in (None, {"type": "NFC"}):
        raise ValueError(f"the tokenizer {path} changes texts in a way that is not known here")

    # Added tokens have a meaning of their own: they are no text.
    added = {token["id"] for token in described["added_tokens"]}
    ids = {token: i for token, i in bpe["vocab"].items() if i not in added}
    merges = [m.split(" ") if isinstance(m, str) else m for m in bpe["merges"]]
    pattern = pattern_of(described["pre_tokenizer"], path)
    return build(ids, merges, pattern, normalizer is not None, bpe.get("ignore_merges", False))


def pattern_of(pre_tokenizer: dict, path: Path) -> str:
    """Which of the patterns a pre-tokenizer stands for. Raises ValueError."""
    # Offsets in the text do not matter here. Older files do not say `use_regex`.
    steps = []
    for step in pre_tokenizer.get("pretokenizers", [pre_tokenizer]):
        step = {key: value for key, value in step.items() if key != "trim_offsets"}
        if step["type"] == "ByteLevel":
            step = {"use_regex": True} | step
        steps.append(step)
    for name, known in STEPS.items():
        if steps == known:
            return name
    raise ValueError(f"the tokenizer {path} cuts texts in a way that is not known here")


def build(ids, merges, pattern, composes=False, whole=False) -> Tokenizer:
    """The tokenizer of a vocabulary, which is written in GPT-2's alphabet. Raises ValueError.

    whole: whether a piece that is a token is one, whatever its merges say.
    """
    alphabet = byte_alphabet()

    def in_bytes(token):
        return bytes(alphabet[c] for c in token)

    try:
        ids = {in_bytes(token): i for token, i in ids.items()}
        pairs = [(in_bytes(a), in_bytes(b)) for a, b in merges]
    except KeyError as error:
        raise ValueError(f"its tokenizer has a token that is not made of bytes: {error}") from None
    check_merges(ids, pairs, whole)
    return Tokenizer(ids, PATTERNS[pattern], composes)


def byte_alphabet() -> dict[str, int]:
    """GPT-2's alphabet, in which every byte is a printable character: character -> byte."""
    # Printable bytes are their own characters, the others come after all of these.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update({chr(256 + i): byte for i, byte in enumerate(others)})
    return alphabet


def check_merges(ids, merges, whole):
    """Raises ValueError where tiktoken could give other tokens than the merges do.

    Two conditions. The merges are in the order of the ids that they lead to. And for every token:
    where its bytes are merged by ids below its own, the last two parts are one of its merges. Then
    tiktoken never joins two parts that are no merge: what led to them would have led to the other
    two. (A token that is not reached so is only allowed where a whole piece is looked up first.)
    """
    order = [ids.get(a + b, -1) for a, b in merges]
    exact = order == sorted(order) and -1 not in order
    known = {*merges}
    for token, i in ids.items():
        parts = merged(token, ids, below=i)
        if len(parts) == 2 or not whole:
            exact = exact and (tuple(parts) in known or len(token) == 1)
    if not exact:
        raise ValueError(
            "its tokenizer merges in an order that tiktoken cannot follow: its tokens would differ"
        )


def merged(token: bytes, ids, below: int) -> list[bytes]:
    """The parts of a token after all merges that lead to an id below a limit."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while True:
        # The neighbours that make the smallest id; the first ones of several.
        joined = [ids.get(a + b, below) for a, b in pairwise(parts)]
        best = min(joined, default=below)
        if best >= below:
            return parts
        i = joined.index(best)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
