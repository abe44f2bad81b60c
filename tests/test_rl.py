"""rl.py: every line of the loss, and the traps that others fell into."""

import pytest
import torch

import model
import rl
from model import GPT, GPTConfig, completion_logprobs, completion_mask, vocabulary_logprobs
from tests.test_model import COMPLETIONS, CONTEXTS, PAIRS
from tests.trl_oracle import loss_of_trl

GROUPS = torch.tensor([[0, 1], [2, 3], [4, 5]])
OTHERS = [[1, *context] for context in CONTEXTS]  # what the teacher reads

# As in `fst`: three questions, each under two prompts with two rollouts, prompt by prompt.
TWO_PROMPTS = {
    "contexts": CONTEXTS + OTHERS,
    "completions": COMPLETIONS + COMPLETIONS,
    "rewards": torch.tensor([1.0, 0, 1, 0, 1, 1, 0, 0, 0, 1, 1, 1]),
    "groups": torch.tensor([[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]]),
}


def probabilities(seed=0, n=5):
    """Logits of a small policy and of a base, as leaves."""
    generator = torch.Generator().manual_seed(seed)
    policy = torch.randn(n, generator=generator).requires_grad_()
    base = torch.randn(n, generator=generator)
    return policy, base


def exact(policy, estimate):
    """The gradient that a loss over samples has on average.

    It is that of E_pi[estimate] with only the estimate differentiated.
    """
    weights = policy.detach().softmax(0)
    return torch.autograd.grad((weights * estimate).sum(), policy)[0]


# --- KL estimators ---


def test_gradients_of_the_kl_estimators_as_losses():
    policy, base = probabilities()
    logp = policy.log_softmax(0)
    logb = base.log_softmax(0)
    reverse_kl = (logp.exp() * (logp - logb)).sum()
    forward_kl = (logb.exp() * (logb - logp)).sum()
    reverse = torch.autograd.grad(reverse_kl, policy, retain_graph=True)[0]
    forward = torch.autograd.grad(forward_kl, policy, retain_graph=True)[0]
    gradients = {}
    for kind in ("k1", "k2", "k3"):
        estimate = rl.kl_estimate(policy.log_softmax(0), logb, kind)
        gradients[kind] = exact(policy, estimate)
    torch.testing.assert_close(gradients["k1"], torch.zeros(5), atol=1e-6, rtol=0)
    torch.testing.assert_close(gradients["k2"], reverse)
    torch.testing.assert_close(gradients["k3"], forward)
    assert (reverse - forward).abs().max() > 0.05  # or the two could not be told apart here
    in_reward = -exact(policy, -(logp - logb).detach() * policy.log_softmax(0))  # k1 in the reward
    torch.testing.assert_close(in_reward, reverse)


def test_values_of_k1_and_k3_are_the_reverse_kl_and_k3_is_never_negative():
    policy, base = probabilities()
    logp = policy.log_softmax(0).detach()
    logb = base.log_softmax(0)
    kl = (logp.exp() * (logp - logb)).sum()
    for kind in ("k1", "k3"):
        mean = (logp.exp() * rl.kl_estimate(logp, logb, kind)).sum()
        torch.testing.assert_close(mean, kl)
    assert (rl.kl_estimate(logp, logb, "k3") >= 0).all()
    assert (rl.kl_estimate(logp, logb, "k1") < 0).any()


def test_unknown_kl_estimator_is_refused():
    with pytest.raises(ValueError, match="k1, k2, k3"):
        rl.kl_estimate(torch.zeros(1), torch.zeros(1), "k4")


# --- advantages ---


def test_advantages_by_hand():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    advantages, keep = rl.group_advantages(rewards, eps=0.0001)
    expected = torch.tensor([[0.75, -0.25, -0.25, -0.25]]) / (0.5 + 0.0001)
    torch.testing.assert_close(advantages, expected)
    assert keep.tolist() == [True]


@pytest.mark.parametrize(
    "rewards",
    [
        torch.ones(1, 4),
        torch.zeros(1, 4),
        torch.full((1, 3), 0.1) + 1e-8 * torch.arange(3),
    ],
)
def test_groups_without_spread_have_nothing_to_learn(rewards):
    advantages, keep = rl.group_advantages(rewards)
    assert advantages.abs().max() < 1e-3 and not keep.any()


def test_the_baseline_is_the_whole_group_not_each_prompt():
    # Four rollouts under a prompt that always fails, four under one that always works: each half
    # alone has no spread.
    advantages, keep = rl.group_advantages(torch.tensor([[0.0, 0, 0, 0, 1, 1, 1, 1]]))
    assert keep.all() and (advantages[0, :4] < 0).all() and (advantages[0, 4:] > 0).all()


# --- the loss ---


def loss_case():
    """Two questions with two rollouts each: log-probs, lengths, rewards, made by hand."""
    logp = torch.tensor([[-1.0, -2.0], [-0.5, 0.0], [-3.0, -1.0], [-1.0, 0.0]]).requires_grad_()
    base = torch.tensor([[-1.5, -2.0], [-0.5, 0.0], [-3.0, -1.0], [-1.0, 0.0]])
    lengths = torch.tensor([[2, 1], [2, 1]])
    rewards = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    return logp, base, lengths, rewards


def loss_of(logp, base, lengths, rewards, kl_coef, eps=1e-4):
    """The loss of a whole batch, all in one."""
    advantages, keep = rl.group_advantages(rewards, eps)
    weights = rl.token_weights(lengths, keep)
    mask = completion_mask(lengths.flatten(), logp.size(1))
    return rl.policy_loss(logp, base, advantages.flatten(), weights.flatten(), mask, kl_coef)


def test_loss_by_hand():
    logp, base, lengths, rewards = loss_case()
    loss = loss_of(logp, base, lengths, rewards, kl_coef=0.1, eps=0.0)
    # The advantage of a right answer: (1 - 1/2) / std, with std^2 = (1/4 + 1/4) / (2 - 1).
    a = 0.5 / 0.5**0.5
    first = a * (1.0 + 2.0) + -a * 0.5 + 0.1 * 0.5**2 / 2  # the 3 tokens of the first question
    second = -a * (3.0 + 1.0) + a * 1.0
    assert loss.item() == pytest.approx((first / 3 + second / 3) / 2)

    # Nothing is learned from what comes after the end; from the end itself it is.
    gradient = torch.autograd.grad(loss, logp)[0]
    assert gradient[1, 1] == gradient[3, 1] == 0 and gradient[0, 1] != 0


def test_a_group_without_spread_does_not_dilute_the_others():
    logp, base, lengths, rewards = loss_case()

    def gradient(rewards):
        loss = loss_of(logp, base, lengths, rewards, kl_coef=0.0)
        return torch.autograd.grad(loss, logp)[0]

    both = gradient(rewards)
    one = gradient(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    # One question instead of two: its mean has twice the weight.
    torch.testing.assert_close(one[:2], 2 * both[:2])
    assert (one[2:] == 0).all()


def test_an_empty_batch_is_zero_and_not_nan():
    logp, base, lengths, _ = loss_case()
    advantages, keep = rl.group_advantages(torch.ones(2, 2))
    weights = rl.token_weights(lengths, keep).flatten()
    loss = rl.policy_loss(logp, base, advantages.flatten(), weights, torch.ones(4, 2), 0.1)
    assert loss.item() == 0 and (torch.autograd.grad(loss, logp)[0] == 0).all()


def test_cispo_caps_the_weight_but_never_cuts_the_gradient():
    logp = torch.tensor([[0.0, 0.0, 0.0]]).requires_grad_()
    sampled = torch.log(torch.tensor([[0.1, 0.5, 100.0]]))  # ratios 10, 2, 0.01
    one = torch.ones(1)
    loss = rl.policy_loss(logp, logp.detach(), one, one, torch.ones(1, 3), 0.0, sampled)
    gradient = torch.autograd.grad(loss, logp)[0]  # the ratio itself must carry none
    torch.testing.assert_close(gradient, torch.tensor([[-4.0, -2.0, -0.01]]))


def test_reinforce_is_the_exact_policy_gradient_on_a_bandit():
    policy, _ = probabilities(3)
    reward = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0])
    expected = torch.autograd.grad((policy.softmax(0) * reward).sum(), policy)[0]
    p = policy.softmax(0).detach()
    logp = policy.log_softmax(0)[:, None]  # every action once, weighted by its probability
    advantages = reward - (p * reward).sum()
    loss = rl.policy_loss(logp, logp.detach(), advantages, p, torch.ones(5, 1), 0.0)
    torch.testing.assert_close(-torch.autograd.grad(loss, policy)[0], expected)


@pytest.mark.parametrize("off_policy", [False, True])
def test_loss_and_gradient_equal_trl_cispo(off_policy):
    pytest.importorskip("trl.trainer.grpo_trainer")
    generator = torch.Generator().manual_seed(0)
    # Both questions have 13 tokens: there the normalisers agree.
    lengths = torch.tensor([[3, 5, 1, 4], [4, 4, 3, 2]])
    logp = (-torch.rand(8, 5, generator=generator) * 3).requires_grad_()
    old = logp.detach() + torch.randn(8, 5, generator=generator) if off_policy else None
    rewards = torch.tensor([[1.0, 0, 0, 1], [0, 1, 0, 0]])
    advantages, keep = rl.group_advantages(rewards)
    mask = completion_mask(lengths.flatten(), 5)
    theirs = loss_of_trl(logp, old, advantages.flatten(), mask)

    weights = rl.token_weights(lengths, keep).flatten()
    ours = rl.policy_loss(logp, logp.detach(), advantages.flatten(), weights, mask, 0.0, old)
    torch.testing.assert_close(ours, theirs)
    our_gradient = torch.autograd.grad(ours, logp)[0]
    their_gradient = torch.autograd.grad(theirs, logp)[0]
    torch.testing.assert_close(our_gradient, their_gradient)


# --- updating ---


def make_models():
    """A policy and a base of other weights, both tiny."""
    torch.manual_seed(0)
    cfg = GPTConfig(vocab_size=12, n_layer=1, n_head=2, n_embd=16, n_hidden=16, block_size=32)
    policy = GPT(cfg)
    base = GPT(cfg)
    base.requires_grad_(False)
    return policy, base


def run_update(policy, base, rewards, lr=1.0, temperature=1.0, kl_coef=0.1, substeps=1):
    sampled = completion_logprobs(policy, CONTEXTS, COMPLETIONS, temperature).detach()
    return rl.update(
        policy=policy,
        base=base,
        optimizer=torch.optim.SGD(policy.parameters(), lr=lr),
        contexts=CONTEXTS,
        completions=COMPLETIONS,
        sampled_logprobs=sampled,
        rewards=torch.tensor(rewards),
        groups=GROUPS,
        temperature=temperature,
        kl_coef=kl_coef,
        substeps=substeps,
    )


def set_rows_at_once(monkeypatch, rows: int) -> None:
    """Score and train so many completions at a time."""
    monkeypatch.setattr(model, "ROWS_AT_ONCE", rows)
    monkeypatch.setattr(rl, "ROWS_AT_ONCE", rows)


def all_equal(before: list, policy) -> bool:
    return all(torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))


def test_a_context_is_read_once_for_all_its_completions_and_only_where_there_is_spread(monkeypatch):
    policy, base = make_models()
    read = GPT.read
    seen = []

    def spy(self, texts, prefix=None):
        seen.append((self, texts))
        return read(self, texts, prefix)

    monkeypatch.setattr(GPT, "read", spy)
    run_update(policy, base, [1.0, 0, 1, 1, 1, 0])
    # The first are the log-probabilities when sampled. The second group has no spread.
    assert seen[0] == (policy, [[3], [], [6, 7]])
    assert seen[1:] == [(base, [[3], [6, 7]]), (policy, [[3], [6, 7]])]


def logprobs_of(gpt, context, completion, temperature):
    """What a GPT gives all next tokens, (S, V): one completion at a time, by definition."""
    logits = gpt(torch.tensor([context + completion]))[0, len(context) - 1 : -1]
    return (logits / temperature).log_softmax(-1)


def loss_by_definition(policy, base, contexts, completions, worth, temperature, kl_coef):
    """-> the loss of a batch with two completions of each context, and its summed KL (k3).

    worth: of each completion that is learned from, its advantage and its weight.
    """
    loss = 0.0
    kl = 0.0
    for i, (advantage, weight) in worth.items():
        completion = completions[i]
        places = range(len(completion))
        logp = logprobs_of(policy, contexts[i // 2], completion, temperature)[places, completion]
        logb = logprobs_of(base, contexts[i // 2], completion, temperature)[places, completion]
        token_loss = -advantage * logp + kl_coef * (logp - logb) ** 2 / 2
        loss = loss + weight * token_loss.sum()
        kl += ((logb - logp).exp() - 1 - (logb - logp)).sum().item()
    return loss, kl


@pytest.mark.parametrize("rows", [1, 4, 64])
@pytest.mark.parametrize("max_norm", [0.01, 99.0])  # clipped, and not
def test_an_update_is_one_clipped_step_along_the_gradient_of_the_loss(monkeypatch, max_norm, rows):
    monkeypatch.setattr(rl, "MAX_NORM", max_norm)
    set_rows_at_once(monkeypatch, rows)
    policy, base = make_models()
    moved, _ = make_models()

    # First question: one right answer of four, a standard deviation of 1/2, 10 tokens.
    right = (1 - 1 / 4) / (1 / 2 + 1e-4)
    wrong = (0 - 1 / 4) / (1 / 2 + 1e-4)
    weight = 1 / 10 / 2
    worth = {0: (right, weight), 1: (wrong, weight), 6: (wrong, weight), 7: (wrong, weight)}
    # Second question: two of four, the root of 1/3, 6 tokens. The third one has no spread.
    right = (1 - 1 / 2) / (3**-0.5 + 1e-4)
    weight = 1 / 6 / 2
    worth |= {2: (right, weight), 3: (-right, weight), 8: (-right, weight), 9: (right, weight)}

    texts = (TWO_PROMPTS["contexts"], TWO_PROMPTS["completions"])
    loss, kl = loss_by_definition(policy, base, *texts, worth, 0.7, 0.3)
    gradients = torch.autograd.grad(loss, list(policy.parameters()))
    norm = sum(g.square().sum() for g in gradients).sqrt().item()
    assert 0.01 < norm < 99.0

    metrics = rl.update(
        policy=moved,
        base=base,
        optimizer=torch.optim.SGD(moved.parameters(), lr=0.5),
        sampled_logprobs=torch.zeros(12, 4),  # a single update has no use for them
        temperature=0.7,
        kl_coef=0.3,
        **TWO_PROMPTS,
    )
    assert metrics == {
        "kl_base": pytest.approx(kl / 16, rel=1e-4),  # per token that is learned from
        "grad_norm": pytest.approx(norm, rel=1e-4),
        "dropped_groups": 1,
    }
    step = 0.5 * min(1.0, max_norm / norm)
    for p, q, gradient in zip(policy.parameters(), moved.parameters(), gradients, strict=True):
        torch.testing.assert_close(q, p - step * gradient, atol=1e-6, rtol=1e-4)


def test_without_spread_no_weight_moves():
    policy, base = make_models()
    before = [p.clone() for p in policy.parameters()]
    metrics = run_update(policy, base, [1.0, 1, 0, 0, 1, 1])
    assert metrics == {"kl_base": None, "grad_norm": None, "dropped_groups": 3}
    assert all_equal(before, policy)


def test_a_gradient_that_is_not_finite_is_not_applied():
    policy, base = make_models()
    with torch.no_grad():
        base.head.weight[0] = float("inf")
    before = [p.clone() for p in policy.parameters()]
    metrics = run_update(policy, base, [1.0, 0, 0, 1, 1, 0])
    assert not torch.isfinite(torch.tensor(metrics["grad_norm"]))
    assert all_equal(before, policy)


def test_substeps_update_more_than_once():
    one, base = make_models()
    two, _ = make_models()
    run_update(one, base, [1.0, 0, 0, 1, 1, 0])
    run_update(two, base, [1.0, 0, 0, 1, 1, 0], substeps=2)
    differences = []
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        differences.append((a - b).abs().max())
    assert max(differences) > 1e-5


@pytest.mark.parametrize("rows", [1, 4, 64])
def test_where_nothing_moved_all_importance_weights_are_one(monkeypatch, rows):
    set_rows_at_once(monkeypatch, rows)
    # The update has these in another order.
    texts = (TWO_PROMPTS["contexts"], TWO_PROMPTS["completions"])
    norms = []
    for substeps in (1, 2):
        policy, base = make_models()
        metrics = rl.update(
            policy=policy,
            base=base,
            optimizer=torch.optim.SGD(policy.parameters(), lr=0.0),
            sampled_logprobs=completion_logprobs(policy, *texts, 1.0).detach(),
            temperature=1.0,
            kl_coef=0.1,
            substeps=substeps,
            **TWO_PROMPTS,
        )
        norms.append(metrics["grad_norm"])
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


# --- learning from a teacher ---


def distill(policy, teacher, optimizer, temperature=0.8) -> dict:
    return rl.distill(
        policy=policy,
        teacher=teacher,
        optimizer=optimizer,
        contexts=CONTEXTS,
        teacher_contexts=OTHERS,
        completions=COMPLETIONS,
        temperature=temperature,
    )


def reverse_kl(policy, teacher, temperature):
    """Of every next token, averaged over all tokens: one rollout at a time, by definition."""

    total = 0.0
    count = 0
    for context, completion in PAIRS:
        other = OTHERS[CONTEXTS.index(context)]
        logp = logprobs_of(policy, context, completion, temperature)
        logq = logprobs_of(teacher, other, completion, temperature)
        total = total + (logp.exp() * (logp - logq)).sum()
        count += len(completion)
    return total / count


def test_distillation_takes_a_step_along_the_gradient_of_the_exact_reverse_kl(monkeypatch):
    policy, teacher = make_models()
    moved, _ = make_models()
    before = reverse_kl(policy, teacher, 0.8)
    gradients = torch.autograd.grad(before, list(policy.parameters()))
    set_rows_at_once(monkeypatch, 4)
    metrics = distill(moved, teacher, torch.optim.SGD(moved.parameters(), lr=0.5))
    norm = sum(g.square().sum() for g in gradients).sqrt().item()
    assert norm < rl.MAX_NORM  # or it would be clipped
    assert metrics == {
        "kl_teacher": pytest.approx(before.item(), rel=1e-4),
        "grad_norm": pytest.approx(norm, rel=1e-4),
    }
    for p, q, gradient in zip(policy.parameters(), moved.parameters(), gradients, strict=True):
        torch.testing.assert_close(q, p - 0.5 * gradient, atol=1e-6, rtol=1e-4)
    assert reverse_kl(moved, teacher, 0.8) < before


@pytest.mark.parametrize("processes", [2, len(CONTEXTS) + 2])  # the last ones have nothing to do
def test_the_processes_of_a_distillation_sum_to_one(monkeypatch, processes):
    policy, teacher = make_models()
    taken = []  # the gradients of each call

    def collected(policy, optimizer, metric) -> float:
        gradients = []
        for p in policy.parameters():
            gradients.append(torch.zeros_like(p) if p.grad is None else p.grad)
        taken.append(gradients)
        policy.zero_grad()
        return 0.0

    monkeypatch.setattr(rl, "apply_gradients", collected)
    whole = distill(policy, teacher, None)["kl_teacher"]
    [of_one] = taken
    taken.clear()
    monkeypatch.setattr(rl.processes, "size", lambda: processes)
    shares = []
    for rank in range(processes):
        monkeypatch.setattr(rl.processes, "rank", lambda rank=rank: rank)
        shares.append(distill(policy, teacher, None)["kl_teacher"])
    assert sum(shares) == pytest.approx(whole, rel=1e-4)
    for gradient, *parts in zip(of_one, *taken, strict=True):
        torch.testing.assert_close(sum(parts), gradient, atol=1e-6, rtol=1e-4)


def test_distillation_teaches_what_was_never_said():
    # An estimate from samples would not say where to go instead of a token that the policy never
    # draws.
    policy, teacher = make_models()
    with torch.no_grad():
        teacher.head.weight.zero_()
        teacher.norm.weight.fill_(1.0)

    def distance() -> float:
        everything = vocabulary_logprobs(policy, CONTEXTS, COMPLETIONS, 1.0)
        logprobs = everything[:, 0, 11]  # 11 is in no completion
        return (logprobs.exp() - 1 / 12).abs().mean().item()

    before = distance()
    for _ in range(50):
        distill(policy, teacher, torch.optim.SGD(policy.parameters(), lr=0.5), temperature=1.0)
    assert distance() < before / 2
