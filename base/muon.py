"""Muon, the optimizer of pretraining: momentum, then an orthogonal update (K. Jordan, 2024)."""

import torch
from torch import Tensor, nn

from model import GPT

MOMENTUM = 0.95
WEIGHT_DECAY = 0.1


def orthogonalize(matrix: Tensor) -> Tensor:
    """Bring the singular values of a matrix (a, b) near 1 and keep its singular vectors.

    Five Newton-Schulz steps with the coefficients of Muon.
    """
    # The steps need singular values of at most 1, and work on the smaller of the two sides.
    x = matrix / (matrix.norm() + 1e-7)
    tall = x.size(0) > x.size(1)
    if tall:
        x = x.mT

    # Each step applies an odd polynomial to the singular values.
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Muon for matrices; other parameters need another optimizer.

    torch.optim.Muon does the same in bfloat16. On a CPU without units for it that is a third of the
    whole training step, or more. Here matrices keep their own dtype.
    """

    def __init__(self, matrices: list[nn.Parameter], lr: float):
        super().__init__(matrices, {"lr": lr})

    @torch.no_grad()
    def step(self) -> None:
        """Update all matrices from their gradients."""
        # One by one: stacked by shape, matrices take no less time.
        for group in self.param_groups:
            for p in group["params"]:
                self.update(p, group["lr"])

    def update(self, p: nn.Parameter, lr: float) -> None:
        """Update one matrix (a, b)."""
        # The running mean of the gradients, with Nesterov's look ahead.
        mean = self.state[p].setdefault("momentum", torch.zeros_like(p))
        mean.lerp_(p.grad, 1 - MOMENTUM)
        update = orthogonalize(p.grad.lerp(mean, MOMENTUM))

        # A tall matrix takes larger steps.
        rows, columns = p.shape
        step_size = lr * max(1.0, rows / columns) ** 0.5

        # Without decay equal updates add up: queries and keys grow until attention looks at one
        # position only.
        p.mul_(1 - lr * WEIGHT_DECAY)
        p.sub_(update, alpha=step_size)


def optimizers_of(model: GPT) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks; AdamW for embedding, head and norms."""
    matrices = [p for p in model.blocks.parameters() if p.ndim == 2]
    chosen = set(matrices)
    others = [p for p in model.parameters() if p not in chosen]

    # Muon decays the weights of its matrices; the others are not decayed.
    muon = Muon(matrices, lr=0.02)
    adamw = torch.optim.AdamW(others, lr=4e-3, betas=(0.9, 0.95), weight_decay=0.0)
    return [muon, adamw]
