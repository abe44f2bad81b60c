"""The tokenizer of a pretrained model: byte-level BPE, carried out by the package tokenizers.

Such a tokenizer cuts a text into pieces by a pattern, and begins with the bytes of a piece. Then it
joins neighbours, as its list of *merges* says: the merge that stands first in the list comes first.
A folder of Hugging Face says all of this in its tokenizer.json. A GGUF file has the tokens and the
merges, but only a name for the pattern.

Left out: chat templates, and control tokens in a text (they are never read out of text).
"""

from pathlib import Path

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

NORMAL = 1  # GGUF's type of an ordinary token
NOT_TEXT = "\ufffd"  # what a token that stands for no text is shown as
PROBE = "\nA bZ é ﬁ² \t12  c "  # a text that other kinds of tokenizers would change


class Tokenizer:
    """Text to token ids, and back."""

    def __init__(self, bpe, control: set[int]):
        """bpe: a tokenizers.Tokenizer. control: the ids of its tokens that stand for no text."""
        self.bpe = bpe
        self.texts = {i: text for text, i in bpe.get_vocab().items() if i not in control}

    def encode(self, text: str) -> list[int]:
        """Text -> token ids. A byte that has no token is left out."""
        return self.bpe.encode(text, add_special_tokens=False).ids

    def decode(self, tokens: list[int]) -> str:
        """Token ids -> text. What is no text becomes the replacement character."""
        pieces = [self.texts.get(token, NOT_TEXT) for token in tokens]
        return self.bpe.decoder.decode(pieces)


def from_gguf(fields: dict) -> Tokenizer:
    """The tokenizer that the fields of a GGUF file describe. Raises ValueError."""
    import tokenizers  # only runs with a pretrained model need it
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    # Of another kind are SentencePiece's tokenizers, for example.
    kind = fields["tokenizer.ggml.model"]
    pattern = fields["tokenizer.ggml.pre"]
    if kind != "gpt2" or pattern not in PATTERNS:
        known = ", ".join(PATTERNS)
        raise ValueError(f"its tokenizer is '{kind}' with '{pattern}', not 'gpt2' with {known}")

    # Tokens and merges. For Llama 3 a piece that is a token is one, whatever its merges say.
    ids = {token: i for i, token in enumerate(fields["tokenizer.ggml.tokens"])}
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    model = models.BPE(ids, merges, ignore_merges=pattern == "llama-bpe")

    # Pieces of a text, then their bytes.
    bpe = tokenizers.Tokenizer(model)
    pieces = pre_tokenizers.Split(tokenizers.Regex(PATTERNS[pattern]), "isolated")
    in_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([pieces, in_bytes])
    bpe.decoder = decoders.ByteLevel()
    if pattern == "qwen2":
        bpe.normalizer = normalizers.NFC()

    types = fields["tokenizer.ggml.token_type"]
    control = {i for i, kind in enumerate(types) if kind != NORMAL}
    return Tokenizer(bpe, control)


def from_json(path: Path) -> Tokenizer:
    """The tokenizer of a tokenizer.json. Raises ValueError for another kind than byte-level BPE."""
    import tokenizers

    # Added tokens have a meaning of their own: they are not read out of text. Nor is a text cut
    # off or filled up, as the file may ask for.
    described = tokenizers.Tokenizer.from_file(str(path))
    bpe = tokenizers.Tokenizer(described.model)
    bpe.normalizer = described.normalizer
    bpe.pre_tokenizer = described.pre_tokenizer
    bpe.decoder = described.decoder
    tokenizer = Tokenizer(bpe, {*described.get_added_tokens_decoder()})

    # Texts must come back as they were: prompt, question and answer are put together from tokens.
    twice = 2 * tokenizer.encode(PROBE)
    if getattr(bpe.model, "dropout", None) or tokenizer.decode(twice) != 2 * PROBE:
        raise ValueError("its tokenizer is no byte-level BPE tokenizer")
    return tokenizer
