"""base/muon.py: the optimizer of pretraining."""

import pytest
import torch

from base.muon import Muon, optimizers_of, orthogonalize
from model import GPT, GPTConfig


@pytest.mark.parametrize("shape", [(8, 8), (8, 20), (20, 8)])
def test_orthogonalized_matrices_keep_their_singular_vectors_and_have_values_near_one(shape):
    for seed in range(3):
        matrix = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        u, values, vh = torch.linalg.svd(matrix, full_matrices=False)
        ours = torch.linalg.svdvals(orthogonalize(matrix))
        assert values.max() > 4 and ours.min() > 0.3 and ours.max() < 1.3
        # Diagonal in the singular basis: directions are unchanged.
        along = u.mT @ orthogonalize(matrix) @ vh.mT
        torch.testing.assert_close(along, along.diagonal().diag(), atol=1e-3, rtol=0)


def test_muon_by_hand():
    p = torch.nn.Parameter(torch.zeros(4, 2))
    optimizer = Muon([p], lr=0.1)
    first, second = (
        torch.randn(4, 2, generator=torch.Generator().manual_seed(i)) for i in range(2)
    )
    p.grad = first
    optimizer.step()
    memory = 0.05 * first
    step_size = 0.1 * 2**0.5  # sqrt(rows / columns)
    expected = -step_size * orthogonalize(0.05 * first + 0.95 * memory)
    torch.testing.assert_close(p.data, expected)
    p.grad = second
    optimizer.step()
    memory = 0.95 * memory + 0.05 * second
    decayed = (1 - 0.1 * 0.1) * expected
    torch.testing.assert_close(
        p.data, decayed - step_size * orthogonalize(0.05 * second + 0.95 * memory)
    )


def test_muon_equals_torchs_but_for_its_bfloat16():
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in ((8, 8), (8, 16), (16, 8), (8, 8))]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    optimizers = (
        Muon(ours, lr=0.02),
        torch.optim.Muon(theirs, lr=0.02, momentum=0.95, weight_decay=0.1, adjust_lr_fn="original"),
    )
    start = [p.detach().clone() for p in ours]
    for _ in range(3):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for p, q, s in zip(ours, theirs, start, strict=True):
        assert (p - s).abs().max() > 0.01 and (p - q).abs().max() < 2e-3


def test_every_parameter_has_one_optimizer_and_only_matrices_of_blocks_have_muon():
    model = GPT(GPTConfig(40, n_layer=2, n_head=2, n_embd=16, n_hidden=24))
    muon, adamw = optimizers_of(model)
    matrices = [id(p) for group in muon.param_groups for p in group["params"]]
    others = [id(p) for group in adamw.param_groups for p in group["params"]]
    assert sorted(matrices + others) == sorted(id(p) for p in model.parameters())
    assert isinstance(muon, Muon) and len(matrices) == 2 * 7
    assert id(model.embedding.weight) in others and id(model.head.weight) in others
