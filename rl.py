"""Slow weights: policy gradient with a group baseline and a KL penalty.

Tensors only: no text, no tasks. A batch holds Q questions with a group of G rollouts each. A
rollout is rewarded once, at its end. An update has five steps:

    1. A_i = (r_i - mean r) / (std r + eps), over the group of a question     group_advantages
    2. l_t = log pi(token t | before), float32, at sampling temperature       completion_logprobs
    3. w_i = 1 / (tokens of the question's group * questions that are kept)   token_weights
    4. loss = sum_i w_i sum_t [ -sg(min(rho_t, cap)) A_i l_t + beta k_t ]     policy_loss
       sg: a constant to the derivative; rho_t = exp(l_t - l_t when sampled), 1 on-policy
       k_t: penalty for the distance to the base                              kl_estimate
    5. clip the gradient, one step of AdamW                                   apply_gradients

The weights of step 3 are those of the whole batch. So the loss of a batch is the plain sum over its
micro-batches, however it is cut. With rho = 1 step 4 is REINFORCE. With several updates per batch
it is CISPO (arXiv 2506.13585): the importance weight is capped and carries no gradient, so no
token's gradient is cut to zero.

Which KL penalty? Let r = pi_base / pi, for tokens drawn from pi. Three estimators are in use. Each
estimates the reverse KL(pi, base) when its *value* is read. As a *loss* each does something else:
    k1 = -log r          No penalty at all: its gradient is that of log pi(token), and the mean of
                         that over tokens drawn from pi is zero.
    k2 = (log r)^2 / 2   Its gradient is that of the reverse KL of the next token. Training uses it.
                         (It ignores what a token does to the KL of later tokens, as GRPO does. And
                         tokens of dropped groups are missing, so the pull is of this kind, not
                         exactly that gradient.)
    k3 = r - 1 - log r   Its gradient is that of the forward KL(base, pi). Its value is never
                         negative and varies little, so the log shows it.
Nor is -log pi(token) an entropy bonus: as with k1, its gradient is zero on average.

Left out: value networks (the group is the baseline) and PPO's clipping (one update per batch is
on-policy).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model import ROWS_AT_ONCE, completion_logprobs, completion_mask, vocabulary_logprobs
from plumbing import processes

MAX_NORM = 1.0  # gradients are clipped to this norm


# --- the formulas ---


def group_advantages(rewards, eps=1e-4):
    """Rewards (Q, G) -> advantages (Q, G), and which groups to keep (Q,): with spread.

    Normalised over the whole group, across the prompts that its rollouts ran under. A group whose
    rollouts all earned the same has no spread and teaches nothing. (GRPO, arXiv 2402.03300)
    """
    spread = rewards.amax(1) - rewards.amin(1)  # (Q,)
    centred = rewards - rewards.mean(1, keepdim=True)  # (Q, G)
    std = rewards.std(1, keepdim=True)  # (Q, 1), of a sample: divided by G - 1
    return centred / (std + eps), spread > eps


def token_weights(lengths, keep):
    """Completion lengths (Q, G), groups kept (Q,) -> the weight of each rollout's tokens (Q, G).

    Token losses are averaged over the tokens of a question, then over the questions kept. Dropped
    groups weigh nothing and do not dilute the others. With no group kept all weights are 0.
    """
    tokens = lengths.sum(1, keepdim=True).clamp(min=1)  # (Q, 1)
    questions = keep.sum().clamp(min=1)
    weights = 1.0 / tokens * keep[:, None] / questions  # (Q, 1)
    return weights.expand(lengths.shape)


def kl_estimate(logprobs, base_logprobs, kind):
    """Per-token estimates of KL(pi, base) from samples of pi, in nats (Schulman 2020).

    kind: "k1", "k2" or "k3"; the top of the file says which to train with and which to log.
    Raises ValueError for another kind.
    """
    log_r = base_logprobs - logprobs  # log(pi_base / pi), of each sampled token
    if kind == "k1":
        return -log_r
    if kind == "k2":
        return log_r.square() / 2
    if kind == "k3":
        return log_r.expm1() - log_r
    raise ValueError(f"unknown KL estimator '{kind}': known are k1, k2, k3")


def policy_loss(
    logprobs, base_logprobs, advantages, weights, mask, kl_coef, sampled_logprobs=None, cap=4.0
):
    """The summed loss of a (micro-)batch, a scalar; 0, not NaN, where nothing can be learned.

    logprobs (N, S) of the policy, with gradient; base_logprobs (N, S); advantages, weights (N,);
    mask (N, S). sampled_logprobs (N, S), recorded while sampling, give CISPO's importance weights;
    None means on-policy.
    """
    # How much likelier the policy makes a token now than when it was sampled; no gradient.
    ratio = 1.0
    if sampled_logprobs is not None:
        log_ratio = (logprobs - sampled_logprobs).detach()  # (N, S)
        ratio = log_ratio.exp().clamp(max=cap)

    # Make what was rewarded more likely, and stay near the base.
    reinforce = -ratio * advantages[:, None] * logprobs  # (N, S)
    penalty = kl_coef * kl_estimate(logprobs, base_logprobs, "k2")
    token_loss = reinforce + penalty
    return (token_loss * mask * weights[:, None]).sum()


# --- one update ---


@dataclass
class MicroBatch:
    """What one forward and backward pass needs: N completions of at most S tokens."""

    contexts: list  # token lists
    completions: list
    base_logprobs: Tensor  # (N, S), computed once for all updates on the batch
    sampled_logprobs: Tensor | None  # (N, S); None: on-policy
    advantages: Tensor  # (N,)
    weights: Tensor  # (N,)
    mask: Tensor  # (N, S): 1 for tokens that are learned, here all of a completion


def update(
    *,
    policy,
    base,
    optimizer,
    contexts,
    completions,
    sampled_logprobs,
    rewards,
    groups,
    temperature,
    kl_coef,
    substeps=1,
):
    """Learn from one batch of R rollouts -> metrics for the log, a dict.

    contexts: M token lists; completions: R of them, R / M of each context; sampled_logprobs (R, S);
    rewards (R,); groups (Q, G): which rollouts answer the same question; substeps: updates.
    Groups without spread are left out of everything, of the KL penalty too. The metrics:
    kl_base (k3, nats per scored token), before the last update, and grad_norm, of that update
    before clipping, or None if nothing could be learned; dropped_groups: how many were left out.
    """
    device = next(policy.parameters()).device
    lengths = torch.tensor([len(completion) for completion in completions])  # (R,)

    # What each rollout's tokens are worth: its advantage, and its weight in the mean.
    group_values, keep = group_advantages(rewards[groups])
    advantages = torch.zeros(len(completions))
    advantages[groups] = group_values
    weights = torch.zeros(len(completions))
    weights[groups] = token_weights(lengths[groups], keep)

    # Only contexts with something to learn are scored, by the base and by the policy.
    context_weights = weights.view(len(contexts), -1).sum(1)  # (M,)
    wanted = context_weights.nonzero()[:, 0].tolist()
    batches = []
    for chosen, rows in micro_batches(contexts, completions, wanted):
        its_contexts = [contexts[c] for c in chosen]
        its_completions = [completions[i] for i in rows]
        with torch.no_grad():
            base_logprobs = completion_logprobs(base, its_contexts, its_completions, temperature)
        S = base_logprobs.size(1)  # of (N, S)
        batch = MicroBatch(
            contexts=its_contexts,
            completions=its_completions,
            base_logprobs=base_logprobs,
            sampled_logprobs=sampled_logprobs[rows, :S] if substeps > 1 else None,
            advantages=advantages[rows].to(device),
            weights=weights[rows].to(device),
            mask=completion_mask(lengths[rows].to(device), S),
        )
        batches.append(batch)

    # One update; more with substeps > 1, whose batch is off-policy from the second on.
    metrics = {"kl_base": None, "grad_norm": None, "dropped_groups": int((~keep).sum())}
    scored_tokens = lengths[weights > 0].sum().item()
    for _ in range(substeps if wanted else 0):
        kl = accumulate_gradients(policy, batches, temperature, kl_coef)
        metrics["grad_norm"] = apply_gradients(policy, optimizer, kl)
        metrics["kl_base"] = kl.item() / scored_tokens  # kl is now the sum over all processes
        if not math.isfinite(metrics["grad_norm"]):
            break
    return metrics


def accumulate_gradients(policy, batches, temperature, kl_coef):
    """Add up the gradients of the loss over all micro-batches -> the summed KL (k3), a tensor."""
    device = next(policy.parameters()).device
    kl = torch.zeros((), device=device)
    for batch in batches:
        logprobs = completion_logprobs(policy, batch.contexts, batch.completions, temperature)
        loss = policy_loss(
            logprobs,
            batch.base_logprobs,
            batch.advantages,
            batch.weights,
            batch.mask,
            kl_coef,
            batch.sampled_logprobs,
        )
        loss.backward()

        # For the log: k3, whose value is the better estimate.
        token_kl = kl_estimate(logprobs.detach(), batch.base_logprobs, "k3")  # (N, S)
        kl += (token_kl * batch.mask).sum()
    return kl


def apply_gradients(policy, optimizer, metric):
    """Clip the gradients and take a step, if they are finite -> their norm before clipping.

    With several processes gradients and `metric`, a tensor, are first replaced by their sums.
    """
    processes.sum_gradients(policy, metric)
    # A gradient that is not finite would spoil the weights for good.
    norm = nn.utils.clip_grad_norm_(policy.parameters(), MAX_NORM).item()
    if math.isfinite(norm):
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm


def micro_batches(contexts, completions, wanted):
    """Cut the wanted contexts into micro-batches: which contexts, and which completions of them.

    Contexts with the same prompt come together: then a long one is read once for all. With several
    processes each goes through its share of the contexts.
    """
    in_order = sorted(wanted, key=lambda c: contexts[c])
    share = processes.my_share(in_order)

    # So many contexts that their completions fill a micro-batch, at least one.
    per_context = len(completions) // len(contexts)
    few = max(ROWS_AT_ONCE // per_context, 1)
    for i in range(0, len(share), few):
        chosen = share[i : i + few]
        rows = []
        for c in chosen:
            rows += range(c * per_context, (c + 1) * per_context)
        yield chosen, rows


# --- learning from a teacher instead of rewards ---


def distill(*, policy, teacher, optimizer, contexts, teacher_contexts, completions, temperature):
    """One update towards what a teacher says in other contexts -> metrics for the log, a dict.

    contexts, teacher_contexts: M token lists each; completions: R, the policy's, R / M of each
    context. The loss is the reverse KL(policy, teacher) of the next token, averaged over all tokens
    of the completions. It is exact: estimates from sampled tokens alone would not tell what else
    the teacher would have said.
    -> kl_teacher (nats per token), grad_norm
    """
    n_tokens = sum(map(len, completions))
    device = next(policy.parameters()).device
    mean_kl = torch.zeros((), device=device)
    for chosen, rows in micro_batches(contexts, completions, range(len(contexts))):
        its_completions = [completions[i] for i in rows]
        own = [contexts[c] for c in chosen]
        taught = [teacher_contexts[c] for c in chosen]

        # All next tokens that each of the two could say, (N, S, V).
        with torch.no_grad():
            target = vocabulary_logprobs(teacher, taught, its_completions, temperature)
        logprobs = vocabulary_logprobs(policy, own, its_completions, temperature)

        # Beyond a completion both are 0 and add nothing.
        token_kl = logprobs.exp() * (logprobs - target)
        kl = token_kl.sum() / n_tokens
        kl.backward()
        mean_kl += kl.detach()
    grad_norm = apply_gradients(policy, optimizer, mean_kl)
    return {"kl_teacher": mean_kl.item(), "grad_norm": grad_norm}
