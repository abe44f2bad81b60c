"""rl.py: every line of the loss, and the traps that others fell into."""

import collections
from unittest.mock import MagicMock

import pytest
import torch

import rl
from model import GPT, GPTConfig


def probabilities(seed=0, n=5):
    """Logits of a small policy and of a base, as leaves."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, generator=generator).requires_grad_(), torch.randn(n, generator=generator)


def exact(policy, estimate):
    """Gradient of E_pi[estimate] with only the estimate differentiated: what a loss over samples has on average."""
    weights = policy.detach().softmax(0)
    return torch.autograd.grad((weights * estimate).sum(), policy)[0]


# --- KL estimators ---


def test_gradients_of_the_kl_estimators_as_losses():
    policy, base = probabilities()
    logp, logb = policy.log_softmax(0), base.log_softmax(0)
    reverse = torch.autograd.grad((logp.exp() * (logp - logb)).sum(), policy, retain_graph=True)[0]
    forward = torch.autograd.grad((logb.exp() * (logb - logp)).sum(), policy, retain_graph=True)[0]
    gradients = {kind: exact(policy, rl.kl_estimate(policy.log_softmax(0), logb, kind)) for kind in ("k1", "k2", "k3")}
    torch.testing.assert_close(gradients["k1"], torch.zeros(5), atol=1e-6, rtol=0)
    torch.testing.assert_close(gradients["k2"], reverse)
    torch.testing.assert_close(gradients["k3"], forward)
    assert (reverse - forward).abs().max() > 0.05  # or the two could not be told apart here
    in_reward = -exact(policy, -(logp - logb).detach() * policy.log_softmax(0))  # k1 in the reward
    torch.testing.assert_close(in_reward, reverse)


def test_values_of_k1_and_k3_are_the_reverse_kl_and_k3_is_never_negative():
    policy, base = probabilities()
    logp, logb = policy.log_softmax(0).detach(), base.log_softmax(0)
    kl = (logp.exp() * (logp - logb)).sum()
    for kind in ("k1", "k3"):
        torch.testing.assert_close((logp.exp() * rl.kl_estimate(logp, logb, kind)).sum(), kl)
    assert (rl.kl_estimate(logp, logb, "k3") >= 0).all() and (rl.kl_estimate(logp, logb, "k1") < 0).any()


def test_unknown_kl_estimator_is_refused():
    with pytest.raises(ValueError, match="k1, k2, k3"):
        rl.kl_estimate(torch.zeros(1), torch.zeros(1), "k4")


# --- advantages ---


def test_advantages_by_hand():
    advantages, keep = rl.group_advantages(torch.tensor([[1.0, 0.0, 0.0, 0.0]]), eps=0.0001)
    torch.testing.assert_close(advantages, torch.tensor([[0.75, -0.25, -0.25, -0.25]]) / (0.5 + 0.0001))
    assert keep.tolist() == [True]


def test_groups_without_spread_and_of_one_have_nothing_to_learn():
    for rewards in (
        torch.ones(1, 4),
        torch.zeros(1, 4),
        torch.full((1, 3), 0.1) + 1e-8 * torch.arange(3),
        torch.ones(1, 1),
    ):
        advantages, keep = rl.group_advantages(rewards)
        assert (advantages == 0).all() and not keep.any()


def test_the_baseline_is_the_whole_group_not_each_prompt():
    # four rollouts under a prompt that always fails, four under one that always works: each half alone has no spread
    advantages, keep = rl.group_advantages(torch.tensor([[0.0, 0, 0, 0, 1, 1, 1, 1]]))
    assert keep.all() and (advantages[0, :4] < 0).all() and (advantages[0, 4:] > 0).all()


# --- log-probabilities and masks ---


def test_logprobs_use_the_sampling_temperature():
    logits, tokens = torch.randn(2, 3, 7), torch.randint(0, 7, (2, 3))
    expected = (logits / 0.5).log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
    torch.testing.assert_close(rl.token_logprobs(logits, tokens, 0.5), expected)
    assert (rl.token_logprobs(logits, tokens, 1.0) - expected).abs().max() > 0.1


def test_logprobs_of_bfloat16_logits_are_computed_in_float32():
    logits = (torch.randn(2, 3, 400) * 5).bfloat16()
    tokens = torch.randint(0, 400, (2, 3))
    logprobs = rl.token_logprobs(logits, tokens)
    assert logprobs.dtype == torch.float32
    torch.testing.assert_close(logprobs, logits.float().log_softmax(-1).gather(-1, tokens[..., None])[..., 0])


def test_the_end_of_sequence_token_is_in_the_mask():
    assert rl.completion_mask(torch.tensor([1, 3]), 4).tolist() == [[1, 0, 0, 0], [1, 1, 1, 0]]


# --- the loss ---


def loss_case():
    """Two questions with two rollouts each: log-probs, lengths, rewards, made by hand."""
    logp = torch.tensor([[-1.0, -2.0], [-0.5, 0.0], [-3.0, -1.0], [-1.0, 0.0]]).requires_grad_()
    base = torch.tensor([[-1.5, -2.0], [-0.5, 0.0], [-3.0, -1.0], [-1.0, 0.0]])
    return logp, base, torch.tensor([[2, 1], [2, 1]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])


def test_loss_by_hand():
    logp, base, lengths, rewards = loss_case()
    advantages, keep = rl.group_advantages(rewards, eps=0.0)
    weights, mask = rl.token_weights(lengths, keep), rl.completion_mask(lengths.flatten(), 2)
    loss = rl.policy_loss(logp, base, advantages.flatten(), weights.flatten(), mask, kl_coef=0.1)
    a = 0.5 / 0.5**0.5  # the advantage of a right answer: (1 - 1/2) / std, with std^2 = (1/4 + 1/4) / (2 - 1)
    first = a * (1.0 + 2.0) + -a * 0.5 + 0.1 * 0.5**2 / 2  # sum over the 3 tokens of the first question
    second = -a * (3.0 + 1.0) + a * 1.0
    assert loss.item() == pytest.approx((first / 3 + second / 3) / 2)
    gradient = torch.autograd.grad(loss, logp)[0]
    assert gradient[1, 1] == gradient[3, 1] == 0 and gradient[0, 1] != 0  # nothing after the end, the end itself yes


def test_a_group_without_spread_does_not_dilute_the_others():
    logp, base, lengths, rewards = loss_case()

    def gradient(rewards):
        advantages, keep = rl.group_advantages(rewards)
        weights, mask = rl.token_weights(lengths, keep), rl.completion_mask(lengths.flatten(), 2)
        return torch.autograd.grad(
            rl.policy_loss(logp, base, advantages.flatten(), weights.flatten(), mask, 0.0), logp
        )[0]

    both, one = gradient(rewards), gradient(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    torch.testing.assert_close(one[:2], 2 * both[:2])  # one question instead of two: its mean has twice the weight
    assert (one[2:] == 0).all()


def test_an_empty_batch_is_zero_and_not_nan():
    logp, base, lengths, _ = loss_case()
    advantages, keep = rl.group_advantages(torch.ones(2, 2))
    weights = rl.token_weights(lengths, keep)
    loss = rl.policy_loss(logp, base, advantages.flatten(), weights.flatten(), torch.ones(4, 2), 0.1)
    assert loss.item() == 0 and (torch.autograd.grad(loss, logp)[0] == 0).all()


def test_cispo_caps_the_weight_but_never_cuts_the_gradient():
    logp = torch.tensor([[0.0, 0.0, 0.0]]).requires_grad_()
    sampled = torch.log(torch.tensor([[0.1, 0.5, 100.0]]))  # ratios 10, 2, 0.01
    loss = rl.policy_loss(logp, logp.detach(), torch.ones(1), torch.ones(1), torch.ones(1, 3), 0.0, sampled)
    gradient = torch.autograd.grad(loss, logp)[0]  # the ratio itself must carry none
    torch.testing.assert_close(gradient, torch.tensor([[-4.0, -2.0, -0.01]]))


def test_reinforce_is_the_exact_policy_gradient_on_a_bandit():
    policy, _ = probabilities(3)
    reward = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0])
    expected = torch.autograd.grad((policy.softmax(0) * reward).sum(), policy)[0]
    p = policy.softmax(0).detach()
    logp = policy.log_softmax(0)[:, None]  # every action once, weighted by its probability
    loss = rl.policy_loss(logp, logp.detach(), reward - (p * reward).sum(), p, torch.ones(5, 1), 0.0)
    torch.testing.assert_close(-torch.autograd.grad(loss, policy)[0], expected)


@pytest.mark.parametrize("off_policy", [False, True])
def test_loss_and_gradient_equal_trl_cispo(off_policy):
    trl = pytest.importorskip("trl.trainer.grpo_trainer")
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([[3, 5, 1, 4], [4, 4, 3, 2]])  # both questions have 13 tokens: there the normalisers agree
    logp = (-torch.rand(8, 5, generator=generator) * 3).requires_grad_()
    old = logp.detach() + torch.randn(8, 5, generator=generator) if off_policy else None
    rewards = torch.tensor([[1.0, 0, 0, 1], [0, 1, 0, 0]])
    advantages, keep = rl.group_advantages(rewards)
    mask = rl.completion_mask(lengths.flatten(), 5)
    trainer = MagicMock()
    trainer._get_per_token_logps_and_entropies = lambda *a, **k: (logp, torch.zeros(8, 5), None)
    trainer.configure_mock(
        aux_loss_enabled=False, top_entropy_quantile=1.0, off_policy_mask_threshold=None, beta=0.0, loss_type="cispo",
        importance_sampling_level="token", epsilon_high=4.0, epsilon_low=0.2, use_vllm=False,
        _entropy_bonus_enabled=False,
        current_gradient_accumulation_steps=1, _metrics=collections.defaultdict(lambda: collections.defaultdict(list)),
    )  # fmt: skip
    trainer.args.steps_per_generation, trainer.args.delta, trainer.accelerator.num_processes = 1, None, 1
    inputs = {name: torch.zeros(8, 5) for name in ("prompt_ids", "prompt_mask", "completion_ids")}
    inputs |= {"completion_mask": mask, "advantages": advantages.flatten(), "num_items_in_batch": mask.sum()}
    inputs |= {"old_per_token_logps": old} if off_policy else {}
    theirs = trl.GRPOTrainer._compute_loss(trainer, MagicMock(training=True), inputs)
    weights = rl.token_weights(lengths, keep).flatten()
    ours = rl.policy_loss(logp, logp.detach(), advantages.flatten(), weights, mask, 0.0, old)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logp)[0] for loss in (ours, theirs)))


# --- scoring and updating ---


def make_models():
    torch.manual_seed(0)
    cfg = GPTConfig(vocab_size=12, n_layer=1, n_head=2, n_embd=16, n_hidden=16, block_size=32)
    policy, base = GPT(cfg), GPT(cfg)
    base.requires_grad_(False)
    return policy, base


CONTEXTS = [[3, 4], [5], [6, 7, 8]]  # each goes on in two ways
COMPLETIONS = [[9, 1], [9, 9, 1], [2, 1], [1], [4, 4, 4, 1], [4, 1]]
GROUPS = torch.tensor([[0, 1], [2, 3], [4, 5]])
PAIRS = [(CONTEXTS[i // 2], completion) for i, completion in enumerate(COMPLETIONS)]


def run_update(policy, base, rewards, lr=1.0, **settings):
    optimizer = torch.optim.SGD(policy.parameters(), lr=lr)
    settings = {"temperature": 1.0, "kl_coef": 0.1} | settings
    sampled = rl.score(policy, CONTEXTS, COMPLETIONS, settings["temperature"]).detach()
    rewards = torch.tensor(rewards)
    return rl.update(policy, base, optimizer, CONTEXTS, COMPLETIONS, sampled, rewards, GROUPS, **settings)


@pytest.mark.parametrize("rows", [1, 4, 64])  # one context at a time, two, all
def test_scores_do_not_depend_on_padding_or_on_what_is_scored_together(rows, monkeypatch):
    monkeypatch.setattr(rl, "MICRO_ROWS", rows)
    policy, _ = make_models()
    together = rl.score(policy, CONTEXTS, COMPLETIONS, 0.8)
    for i, (context, completion) in enumerate(PAIRS):
        logits = policy(torch.tensor([context + completion]))[0, len(context) - 1 : -1] / 0.8
        expected = logits.log_softmax(-1)[torch.arange(len(completion)), completion]
        torch.testing.assert_close(together[i, : len(completion)], expected)
        assert (together[i, len(completion) :] == 0).all()


def test_a_context_is_read_once_for_all_its_completions(monkeypatch):
    (policy, base), read, seen = make_models(), GPT.read, []
    monkeypatch.setattr(GPT, "read", lambda self, prompts: (seen.append((self, prompts)), read(self, prompts))[1])
    rl.score(policy, CONTEXTS, COMPLETIONS, 1.0)
    assert seen == [(policy, [[3], [], [6, 7]])]  # but for the last token, whose output is the first that counts
    seen.clear()
    run_update(policy, base, [1.0, 0, 1, 1, 1, 0])
    assert seen[1:] == [(base, [[3], [6, 7]]), (policy, [[3], [6, 7]])]  # the second group has no spread


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_micro_batches_change_nothing(rows, monkeypatch):
    weights = []
    for size in (64, rows):
        monkeypatch.setattr(rl, "MICRO_ROWS", size)
        policy, base = make_models()
        figures = run_update(policy, base, [1.0, 0, 0, 1, 1, 0])
        weights.append((torch.cat([p.detach().flatten() for p in policy.parameters()]), figures["grad_norm"]))
    torch.testing.assert_close(weights[0][0], weights[1][0], atol=1e-6, rtol=1e-4)
    assert weights[0][1] == pytest.approx(weights[1][1], rel=1e-4)


def test_an_update_makes_the_rewarded_answer_likelier_and_moves_away_from_the_base():
    policy, base = make_models()
    base.load_state_dict(policy.state_dict())
    before = rl.score(policy, CONTEXTS, COMPLETIONS, 1.0).sum(1)
    figures = run_update(policy, base, [1.0, 0, 0, 1, 1, 1])
    after = rl.score(policy, CONTEXTS, COMPLETIONS, 1.0).sum(1)
    assert figures["dropped_groups"] == 1 and figures["kl_base"] == pytest.approx(0, abs=1e-6)
    assert after[0] - after[1] > before[0] - before[1] and after[3] - after[2] > before[3] - before[2]
    assert run_update(policy, base, [1.0, 0, 0, 1, 1, 1])["kl_base"] > 0


def test_the_kl_of_the_log_is_k3_per_token_of_what_is_learned_from():
    policy, base = make_models()
    total = count = 0.0
    for context, completion in PAIRS[:4]:  # the last group has no spread
        p, q = (rl.score(model, [context], [completion], 1.0)[0].detach() for model in (policy, base))
        total, count = total + ((q - p).exp() - 1 - (q - p)).sum().item(), count + len(completion)
    figures = run_update(policy, base, [1.0, 0, 0, 1, 1, 1])
    assert figures["kl_base"] == pytest.approx(total / count, rel=1e-4) and total > 0.01


def test_without_spread_no_weight_moves():
    policy, base = make_models()
    before = [p.clone() for p in policy.parameters()]
    figures = run_update(policy, base, [1.0, 1, 0, 0, 1, 1])
    assert figures == {"kl_base": None, "grad_norm": None, "dropped_groups": 3}
    assert all(torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))


def test_a_gradient_that_is_not_finite_is_not_applied():
    policy, base = make_models()
    with torch.no_grad():
        base.head.weight[0] = float("inf")
    before = [p.clone() for p in policy.parameters()]
    figures = run_update(policy, base, [1.0, 0, 0, 1, 1, 0])
    assert not torch.isfinite(torch.tensor(figures["grad_norm"]))
    assert all(torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))


def test_substeps_update_more_than_once():
    one, base = make_models()
    two, _ = make_models()
    run_update(one, base, [1.0, 0, 0, 1, 1, 0])
    run_update(two, base, [1.0, 0, 0, 1, 1, 0], substeps=2)
    assert any((a - b).abs().max() > 1e-5 for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_where_nothing_moved_all_importance_weights_are_one():
    norms = [run_update(*make_models(), [1.0, 0, 0, 1, 1, 0], lr=0.0, substeps=n)["grad_norm"] for n in (1, 2)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)  # of the same rollouts, that is: their rows are sorted


OTHERS = [[1, *context] for context in CONTEXTS]  # what the teacher reads


def reverse_kl(policy, teacher, temperature):
    """Of every next token, averaged over all tokens: one rollout at a time, by definition."""
    total, count = 0.0, 0
    for context, completion in PAIRS:
        p, q = (
            (model(torch.tensor([read + completion]))[0, len(read) - 1 : -1] / temperature).softmax(-1)
            for model, read in ((policy, context), (teacher, OTHERS[CONTEXTS.index(context)]))
        )
        total, count = total + (p * (p.log() - q.log())).sum(), count + len(completion)
    return total / count


def test_distillation_takes_a_step_along_the_gradient_of_the_exact_reverse_kl(monkeypatch):
    (policy, teacher), (moved, _) = make_models(), make_models()
    before = reverse_kl(policy, teacher, 0.8)
    gradients = torch.autograd.grad(before, list(policy.parameters()))
    monkeypatch.setattr(rl, "MICRO_ROWS", 4)
    optimizer = torch.optim.SGD(moved.parameters(), lr=0.5)
    figures = rl.distill(moved, teacher, optimizer, CONTEXTS, OTHERS, COMPLETIONS, 0.8)
    norm = sum(g.square().sum() for g in gradients).sqrt().item()
    assert norm < rl.MAX_NORM  # or it would be clipped
    assert figures == {
        "kl_teacher": pytest.approx(before.item(), rel=1e-4),
        "grad_norm": pytest.approx(norm, rel=1e-4),
        "dropped_groups": 0,
    }
    for p, q, gradient in zip(policy.parameters(), moved.parameters(), gradients, strict=True):
        torch.testing.assert_close(q, p - 0.5 * gradient, atol=1e-6, rtol=1e-4)
    assert reverse_kl(moved, teacher, 0.8) < before


@pytest.mark.parametrize("processes", [2, len(CONTEXTS) + 2])  # the last ones have nothing to do
def test_the_processes_of_a_distillation_sum_to_one(monkeypatch, processes):
    policy, teacher = make_models()
    totals, of_one = [torch.zeros_like(p) for p in policy.parameters()], []

    def collected(policy, optimizer) -> float:
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in policy.parameters()]
        of_one.extend([] if of_one else gradients)
        for total, gradient in zip(totals, gradients, strict=True):
            total += gradient
        policy.zero_grad()
        return 0.0

    monkeypatch.setattr(rl, "step", collected)
    monkeypatch.setattr(rl.parallel, "sum_over_processes", lambda _: None)
    whole = rl.distill(policy, teacher, None, CONTEXTS, OTHERS, COMPLETIONS, 0.8)["kl_teacher"]
    monkeypatch.setattr(rl.parallel, "size", lambda: processes)
    for total in totals:
        total.zero_()
    shares = []
    for rank in range(processes):
        monkeypatch.setattr(rl.parallel, "rank", lambda rank=rank: rank)
        shares.append(rl.distill(policy, teacher, None, CONTEXTS, OTHERS, COMPLETIONS, 0.8)["kl_teacher"])
    assert sum(shares) == pytest.approx(whole, rel=1e-4)
    for total, gradient in zip(totals, of_one, strict=True):
        torch.testing.assert_close(total, gradient, atol=1e-6, rtol=1e-4)


def test_distillation_teaches_what_was_never_said():
    # a token that the policy does not draw: an estimate from samples would not say where to go instead
    policy, teacher = make_models()
    with torch.no_grad():
        teacher.head.weight.zero_()
        teacher.norm.weight.fill_(1.0)

    def distance() -> float:
        logprobs = rl.score(policy, CONTEXTS, COMPLETIONS, 1.0, every_token=True)[:, 0, 11]  # 11 is in no completion
        return (logprobs.exp() - 1 / 12).abs().mean().item()

    before = distance()
    for _ in range(50):
        optimizer = torch.optim.SGD(policy.parameters(), lr=0.5)
        rl.distill(policy, teacher, optimizer, CONTEXTS, OTHERS, COMPLETIONS, 1.0)
    assert distance() < before / 2
