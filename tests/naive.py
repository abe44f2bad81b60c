"""An oracle for tests and benchmarks: what sampling.sample does, in the plainest way."""

import torch

from model import draw_token, padded
from sampling import Rollouts, check_lengths


@torch.inference_mode()
def sample_naive(
    model, prompts, questions, samples, *, max_new, eos, pad, temperature=1.0, noise
) -> Rollouts:
    """As sampling.sample, but every token comes from a full pass over every whole row."""
    check_lengths(model, prompts, questions, max_new)
    rows = []
    for prompt, asked in zip(prompts, questions, strict=True):
        for question in asked:
            rows += samples * [prompt + question]
    R = len(rows)
    device = model.cos.device

    # Every row has room for its completion; `end` is the place of its next token.
    tokens, widths = padded([row + [pad] * max_new for row in rows], device)  # (R, T), (R,)
    start = widths - max_new
    end = start.clone()
    lengths = torch.zeros_like(end)
    done = torch.zeros_like(end, dtype=torch.bool)
    logprobs = torch.zeros(R, max_new, device=device)
    every = torch.arange(R, device=device)
    for t in range(max_new):
        logits = model(tokens)[every, end - 1]  # (R, V)
        token, logprob = draw_token(logits, noise[:, t], temperature)
        tokens[every, end] = token.where(~done, pad)
        logprobs[:, t] = logprob.where(~done, 0.0)
        lengths = lengths + ~done
        end = end + 1
        done = done | (token == eos)

    places = start[:, None] + torch.arange(max_new, device=device)  # (R, max_new)
    return Rollouts(tokens.gather(1, places), lengths, logprobs)
