"""A pretrained language model of the size of a toy: random weights, a freshly trained tokenizer.

What transformers and tokenizers save here is a folder as it comes from Hugging Face.
"""

import json
from pathlib import Path

import pytest

TEXT = (Path(__file__).resolve().parent.parent / "words" / "held_out.txt").read_text(
    encoding="utf-8"
)
KINDS = ("gpt-2", "smollm", "llama-bpe", "qwen2")  # how their tokenizers cut a text into pieces
# Of these two the patterns stand in their files: here as Llama 3 and Qwen2 were published.
PUBLISHED = {
    "llama-bpe": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
SIZES = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}


def make_tokenizer(kind: str, vocab_size: int = 400):
    """A byte-level BPE tokenizer of the package tokenizers, trained on a short text."""
    tokenizers = pytest.importorskip("tokenizers")
    pre = tokenizers.pre_tokenizers
    in_bytes = pre.ByteLevel(add_prefix_space=False, use_regex=True)
    steps = {
        "gpt-2": [in_bytes],
        "smollm": [pre.Digits(individual_digits=True), in_bytes],
    }
    for name, pattern in PUBLISHED.items():
        cut = pre.Split(tokenizers.Regex(pattern), "isolated")
        steps[name] = [cut, pre.ByteLevel(add_prefix_space=False, use_regex=False)]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(ignore_merges=kind == "llama-bpe"))
    first, *others = steps[kind]
    tokenizer.pre_tokenizer = pre.Sequence(steps[kind]) if others else first
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    if kind == "qwen2":
        tokenizer.normalizer = tokenizers.normalizers.NFC()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    return tokenizer


def make_folder(path: Path, kind: str = "llama", tied: bool = True, seed: int = 0, **sizes) -> Path:
    """A folder with a random model and a tokenizer, as they come from Hugging Face."""
    transformers = pytest.importorskip("transformers")
    import torch

    # Weights far from zero: else all tokens are as likely.
    torch.manual_seed(seed)
    theta = {"rope_type": "default", "rope_theta": 5000.0}
    settings = SIZES | {"vocab_size": 400, "tie_word_embeddings": tied, "rope_parameters": theta}
    config = {"llama": transformers.LlamaConfig, "qwen2": transformers.Qwen2Config}[kind]
    model = {"llama": transformers.LlamaForCausalLM, "qwen2": transformers.Qwen2ForCausalLM}[kind]
    model = model(config(**settings | sizes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.3 if parameter.ndim > 1 else 1.0))
    model.save_pretrained(path)
    make_tokenizer("smollm" if kind == "llama" else "qwen2").save(str(path / "tokenizer.json"))
    return path


def change_json(path: Path, **changes) -> None:
    """Change some entries of a JSON file."""
    contents = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(contents | changes), encoding="utf-8")
