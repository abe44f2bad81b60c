"""Muon, the optimizer of pretraining: momentum, then an orthogonal update (K. Jordan, 2024)."""

import torch
from torch import Tensor, nn

from model import GPT


def orthogonalize(matrices: Tensor) -> Tensor:
    """Bring the singular values of matrices (N, a, b) near 1 and keep their singular vectors.

    Five Newton-Schulz steps with the coefficients of Muon.
    """
    # The steps need singular values of at most 1, and work on the smaller of the two sides.
    x = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    tall = x.size(1) > x.size(2)
    if tall:
        x = x.mT

    # Each step applies an odd polynomial to the singular values.
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Muon for matrices; other parameters need another optimizer.

    torch.optim.Muon takes the matrices one by one and in bfloat16. On a CPU without bfloat16 units
    that is half of the whole training step. Here all matrices of one shape are updated together, in
    their own dtype.
    """

    def __init__(
        self,
        matrices: list[nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.1,
    ):
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(matrices, defaults)

    @torch.no_grad()
    def step(self) -> None:
        """Update all matrices from their gradients."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = {}
            for p in group["params"]:
                by_shape.setdefault(p.shape, []).append(p)
            for same in by_shape.values():
                self.update(same, group)

    def update(self, matrices: list[nn.Parameter], group: dict) -> None:
        """Update N matrices of one shape (a, b); group: their learning rate and so on."""
        lr = group["lr"]
        momentum = group["momentum"]

        # The running mean of the gradients, with Nesterov's look ahead.
        gradient = torch.stack([p.grad for p in matrices])  # (N, a, b)
        memory = [self.state[p].get("momentum", torch.zeros_like(p)) for p in matrices]
        memory = torch.stack(memory)  # (N, a, b)
        memory.lerp_(gradient, 1 - momentum)
        update = orthogonalize(gradient.lerp(memory, momentum))

        # A tall matrix takes larger steps.
        rows, columns = matrices[0].shape
        step_size = lr * max(1.0, rows / columns) ** 0.5

        for p, m, u in zip(matrices, memory, update, strict=True):
            self.state[p]["momentum"] = m.clone()
            # Without decay equal updates add up: queries and keys grow until attention looks at
            # one position only.
            p.mul_(1 - lr * group["weight_decay"])
            p.sub_(u, alpha=step_size)


def optimizers_of(model: GPT) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks; AdamW for embedding, head and norms."""
    matrices = [p for p in model.blocks.parameters() if p.ndim == 2]
    others = []
    for name, p in model.named_parameters():
        if p.ndim == 1 or not name.startswith("blocks"):
            others.append(p)

    # Muon decays the weights of its matrices; the others are not decayed.
    muon = Muon(matrices, lr=0.02)
    adamw = torch.optim.AdamW(others, lr=4e-3, betas=(0.9, 0.95), weight_decay=0.0)
    return [muon, adamw]
