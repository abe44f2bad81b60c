"""Batches of documents of like length, and the loss on them."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tasks.formats import special

MAX_WASTE = 1.15  # tokens of a batch with padding / without (three batches of equal size: 1.5)
IGNORED = -100  # the target where nothing is learned: cross_entropy leaves such places out


def length_batches(documents: list, device: str) -> list[tuple[Tensor, Tensor]]:
    """Encoded documents -> batches of like length, the longest documents first.

    documents: (tokens, learn) as `corpus.encode_document` gives them. Each batch has tokens (N, T),
    padded on the right, and targets (N, T - 1). No documents give no batches.
    """
    longest_first = sorted(documents, key=lambda document: -len(document[0]))
    groups = []
    for document in longest_first:
        # A batch ends where one more document would bring too much padding.
        if not groups or is_wasteful([*groups[-1], document]):
            groups.append([])
        groups[-1].append(document)
    return [padded_batch(group, device) for group in groups]


def is_wasteful(documents: list) -> bool:
    """Whether a batch of these documents, the longest first, would have too much padding."""
    longest, _ = documents[0]
    needed = sum(len(tokens) for tokens, _ in documents)
    return len(documents) * len(longest) > MAX_WASTE * needed


def padded_batch(documents: list, device: str) -> tuple[Tensor, Tensor]:
    """N encoded documents, the longest (T tokens) first -> tokens (N, T), targets (N, T - 1)."""
    # Padding is never learned.
    token_rows = [torch.tensor(tokens) for tokens, _ in documents]
    learn_rows = [torch.tensor(learn) for _, learn in documents]
    tokens = pad_sequence(token_rows, batch_first=True, padding_value=special("pad"))  # (N, T)
    learn = pad_sequence(learn_rows, batch_first=True)  # (N, T)

    # The target at each place is the next token, where that is to be learned.
    targets = tokens[:, 1:].masked_fill(learn[:, 1:] == 0, IGNORED)  # (N, T - 1)
    return tokens.to(device), targets.to(device)


def document_losses(model, tokens: Tensor, targets: Tensor) -> Tensor:
    """The losses (N,) on one of `length_batches`, in nats, each summed over its learned tokens."""
    logits = model(tokens[:, :-1])  # (N, T - 1, V)
    logits = logits.float().transpose(1, 2)  # (N, V, T - 1), as cross_entropy wants it
    losses = F.cross_entropy(logits, targets, reduction="none")  # (N, T - 1)
    return losses.sum(1)
