"""base/batches.py: every learned token is learned once, and no padding."""

import torch

from base import corpus
from base.batches import IGNORED, MAX_WASTE, document_losses, length_batches
from model import GPT, GPTConfig
from tasks import domains, formats


def groups_of(documents, batches):
    """The lengths of the documents in each batch."""
    lengths = iter(sorted((len(tokens) for tokens, _ in documents), reverse=True))
    return [[next(lengths) for _ in tokens] for tokens, _ in batches]


def test_batches_learn_every_learned_token_once_and_no_padding():
    documents = corpus.documents(list(domains().values()), 0, 0, 30)
    batches = length_batches(documents, "cpu")
    assert sum(len(tokens) for tokens, _ in batches) == 30

    # Little padding, and yet few batches.
    for group, (tokens, _) in zip(groups_of(documents, batches), batches, strict=True):
        assert tokens.numel() <= MAX_WASTE * sum(group)
    assert len(batches) < 15

    found = []
    for _, targets in batches:
        found += [token for token in targets.flatten().tolist() if token != IGNORED]
    expected = []
    for tokens, learn in documents:
        expected += [token for token, learned in zip(tokens, learn, strict=True) if learned]
    assert sorted(found) == sorted(expected)

    assert found.count(formats.special("eos")) == 30  # the end is learned
    for tokens, targets in batches:
        padding = tokens[:, 1:] == formats.special("pad")
        assert targets[padding].eq(IGNORED).all()


def test_targets_are_the_next_tokens():
    documents = corpus.documents(list(domains().values()), 0, 0, 8)
    for tokens, targets in length_batches(documents, "cpu"):
        here = targets != IGNORED
        assert torch.equal(targets[here], tokens[:, 1:][here])


def test_a_process_may_have_no_share_of_the_documents():
    assert length_batches([], "cpu") == []


def test_losses_are_those_of_each_document_alone():
    torch.manual_seed(0)
    sizes = {"n_layer": 1, "n_head": 2, "n_embd": 16, "n_hidden": 16}
    model = GPT(GPTConfig(formats.encoding().n_vocab, **sizes))
    documents = corpus.documents(list(domains().values()), 0, 0, 6)
    losses = []
    with torch.no_grad():
        for tokens, targets in length_batches(documents, "cpu"):
            losses += document_losses(model, tokens, targets).tolist()

    # Without padding, from the log-probability of each learned token.
    expected = []
    for tokens, learn in sorted(documents, key=lambda document: -len(document[0])):
        context = torch.tensor(tokens)
        learned = torch.tensor(learn[1:], dtype=torch.bool)
        logprobs = model(context[None, :-1])[0].log_softmax(-1)
        logprobs = logprobs.gather(1, context[1:, None]).squeeze(1)
        expected.append(-logprobs[learned].sum().item())
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(expected), rtol=1e-4, atol=1e-4)
