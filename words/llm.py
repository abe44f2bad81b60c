"""What a run with a pretrained model begins with: --llm, in place of the base of the toy world."""

import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from model import GPT, token_logprobs
from words.pretrained import load
from words.world import WordWorld

HELD_OUT = Path(__file__).with_name("held_out.txt")  # what is forgotten shows on it
WINDOW = 256  # tokens of it that are read together

# The settings of such a run, where they differ from those of the toy world: for two CPU cores.
SETTINGS = {
    "tasks": ("sums",),
    "stage": 20,
    "batch": 16,
    "lr": 5e-5,
    "kl_coef": 0.01,
    "cycle": 5,
    "population": 2,
    "anchor": 32,
    "minibatch": 6,
    "passes": 6,
    "eval_every": 8,
    "eval_questions": 64,
    "greedy": True,
}


@dataclass
class Pretrained:
    """A pretrained model, and the world of words."""

    model: GPT
    world: WordWorld
    about: dict  # what weights.pt says about the model
    checksum: int  # of its weights

    def skills(self, model: GPT) -> dict:
        """The loss of a model on a text that nobody trains on, nats per token."""
        text = self.world.encode_start(HELD_OUT.read_text(encoding="utf-8"))
        losses = []
        for begin in range(0, len(text) - 1, WINDOW):
            window = torch.tensor([text[begin : begin + WINDOW + 1]], device=model.cos.device)
            with torch.no_grad():
                logits = model(window[:, :-1])  # (1, WINDOW, V)
            losses.append(-token_logprobs(logits, window[:, 1:])[0])
        return {"text_loss": torch.cat(losses).mean().item()}


def open_llm(name: str, device: str) -> Pretrained:
    """The pretrained model that --llm names. Raises ValueError."""
    # On a GPU products are in bfloat16, here and in all that follows; weights stay in float32, and
    # so do optimizer and log-probabilities. Nothing is cached: CUDA graphs record the casts, too.
    if device == "cuda":
        torch.set_autocast_dtype("cuda", torch.bfloat16)
        torch.set_autocast_cache_enabled(False)
        torch.set_autocast_enabled("cuda", True)
    model, tokenizer = load(name)
    checksum = 0
    for parameter in model.parameters():
        checksum = zlib.crc32(parameter.detach().numpy(), checksum)
    about = {"llm": name, "model_config": asdict(model.cfg)}
    return Pretrained(model, WordWorld(tokenizer), about, checksum)
