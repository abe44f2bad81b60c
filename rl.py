"""Slow weights: policy gradient with a group baseline and a KL penalty. Tensors only, no text, no tasks.

A batch holds Q questions with G rollouts each, every rollout rewarded once, at its end. The update is

    1. A_i = (r_i - mean r) / (std r + eps), over the group of a question           group_advantages
    2. l_t = log pi(token t | before), float32, at the sampling temperature         token_logprobs
    3. w_i = 1 / (tokens of the question's group * questions with spread)           token_weights
    4. loss = sum_i w_i sum_t [ -sg(min(rho_t, cap)) A_i l_t + beta k_t ]           policy_loss
       sg: a constant to the derivative; rho_t = exp(l_t - l_t when sampled), 1 on-policy
       k_t penalises distance to the base                                           kl_estimate

The weights of step 3 are those of the whole batch, so the loss of a batch is the plain sum over its micro-batches,
however it is cut. With rho = 1 step 4 is REINFORCE; with several updates per batch it is CISPO (arXiv 2506.13585):
the weight is capped and carries no gradient, so no token's gradient is cut to zero.

What the KL estimators do as *losses*, with r = pi_base / pi and tokens drawn from pi:
    k1 = -log r          its gradient is zero in expectation: no penalty at all
    k2 = (log r)^2 / 2   the gradient of the reverse KL(pi, base): what training uses; of the next token, that is,
                         given those before it (what a token does to the KL of later ones is left out, as in GRPO)
    k3 = r - 1 - log r   the gradient of the forward KL(base, pi), though its *value* is an unbiased, low-variance
                         estimate of the reverse KL: what the log shows

`update` does all of it for one batch of rollouts; `distill` learns from a teacher instead. Left out: value networks
(the group is the baseline) and clipping as in PPO (one update per batch is on-policy).
"""

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

import parallel
from model import GPT, padded

MICRO_ROWS = 32  # rollouts per forward and backward pass; more where one context has more
MAX_NORM = 1.0  # gradients are clipped to this norm


def group_advantages(rewards: Tensor, eps: float = 1e-4) -> tuple[Tensor, Tensor]:
    """Rewards (Q, G) -> advantages (Q, G), and which groups have spread (Q,), i.e. anything to learn from.

    Normalised over the whole group, across the prompts that its rollouts ran under. (GRPO, arXiv 2402.03300)
    """
    keep = rewards.amax(1) - rewards.amin(1) > eps  # (Q,)
    centred = rewards - rewards.mean(1, keepdim=True)
    std = centred.square().sum(1, keepdim=True).div(max(rewards.size(1) - 1, 1)).sqrt()  # unbiased, 0 for G = 1
    return torch.where(keep[:, None], centred / (std + eps), 0.0), keep


def token_logprobs(logits: Tensor, tokens: Tensor, temperature: float = 1.0) -> Tensor:
    """Logits (N, S, V) of any dtype, tokens (N, S) -> log-probabilities (N, S), in float32.

    The policy that is trained is the one that sampled, so its logits are divided by the sampling temperature.
    """
    logits = logits.float() / temperature
    return logits.gather(-1, tokens[..., None])[..., 0] - logits.logsumexp(-1)


def completion_mask(lengths: Tensor, width: int) -> Tensor:
    """Lengths (N,) -> mask (N, width), 1.0 on each completion, its end-of-sequence token included.

    From lengths, never from token values: the end-of-sequence token must be learned, whatever id padding has.
    """
    return (torch.arange(width, device=lengths.device) < lengths[:, None]).float()


def token_weights(lengths: Tensor, keep: Tensor) -> Tensor:
    """Completion lengths (Q, G), groups kept (Q,) -> the weight of each rollout's tokens (Q, G).

    Token losses are averaged over the tokens of a question, then over the questions kept. Dropped groups weigh
    nothing and do not dilute the others; with no group kept all weights are 0.
    """
    per_question = 1.0 / lengths.sum(1, keepdim=True).clamp(min=1)  # (Q, 1)
    return (per_question * keep[:, None] / keep.sum().clamp(min=1)).expand(lengths.shape)


def kl_estimate(logprobs: Tensor, base_logprobs: Tensor, kind: str) -> Tensor:
    """Per-token estimates of KL(pi, base) from samples of pi, in nats; `kind` is "k1", "k2" or "k3" (Schulman 2020).

    Which to train with and which to log: see the top of the file. Raises ValueError for another kind.
    """
    log_r = base_logprobs - logprobs
    estimates = {"k1": -log_r, "k2": log_r.square() / 2, "k3": log_r.expm1() - log_r}
    if kind not in estimates:
        raise ValueError(f"unknown KL estimator '{kind}': known are {', '.join(estimates)}")
    return estimates[kind]


def policy_loss(
    logprobs: Tensor,
    base_logprobs: Tensor,
    advantages: Tensor,
    weights: Tensor,
    mask: Tensor,
    kl_coef: float,
    sampled_logprobs: Tensor | None = None,
    cap: float = 4.0,
) -> Tensor:
    """The summed loss of a (micro-)batch, a scalar; it is 0, not NaN, where nothing is left to learn from.

    logprobs (N, S) of the policy, with gradient; base_logprobs (N, S); advantages, weights (N,); mask (N, S).
    sampled_logprobs (N, S), recorded while sampling, give CISPO's importance weights; None means on-policy.
    """
    ratio = 1.0 if sampled_logprobs is None else (logprobs - sampled_logprobs).detach().exp().clamp(max=cap)
    token_loss = -ratio * advantages[:, None] * logprobs + kl_coef * kl_estimate(logprobs, base_logprobs, "k2")
    return (token_loss * mask * weights[:, None]).sum()


def score(model: GPT, contexts: list, completions: list, temperature: float, every_token: bool = False) -> Tensor:
    """Log-probability of each completion token after its context under a model -> (N, S), 0 beyond the completion.

    C contexts, N completions: the first N / C go on from the first context, and so on. A context is read once for all
    of them, but for its last token, whose output is the first that counts.
    every_token: of all tokens that might follow, (N, S, V).
    """
    n = len(completions) // len(contexts)
    few = max(MICRO_ROWS // n, 1)  # contexts at a time
    rows, lengths = padded([contexts[i // n][-1:] + c for i, c in enumerate(completions)], model.cos.device)
    tokens, targets, hidden = rows[:, :-1], rows[:, 1:], []  # (N, S) what is read, and what comes next
    for i in range(0, len(contexts), few):
        prefix = model.read([context[:-1] for context in contexts[i : i + few]])
        hidden.append(model.hidden(tokens[i * n : (i + few) * n], prefix))  # (few * n, S, C)
    logits, mask = model.head(torch.cat(hidden)), completion_mask(lengths - 1, targets.size(1))
    if every_token:
        return (logits.float() / temperature).log_softmax(-1) * mask[..., None]
    return token_logprobs(logits, targets, temperature) * mask


def micro_batches(contexts: list, completions: list, wanted: Iterable[int]) -> Iterator[tuple[list, list]]:
    """Which contexts, and which completions: this process's share of the wanted, a few of like length at a time."""
    n = len(completions) // len(contexts)
    longest = [len(contexts[c]) + max(map(len, completions[c * n : c * n + n])) for c in range(len(contexts))]
    own, few = sorted(wanted, key=longest.__getitem__)[parallel.rank() :: parallel.size()], max(MICRO_ROWS // n, 1)
    for chosen in (own[i : i + few] for i in range(0, len(own), few)):
        yield chosen, [c * n + g for c in chosen for g in range(n)]


def step(policy: nn.Module, optimizer: torch.optim.Optimizer) -> float:
    """Clip the gradients and apply them, if they are finite -> their norm before."""
    parallel.sum_gradients(list(policy.parameters()))
    norm = nn.utils.clip_grad_norm_(policy.parameters(), MAX_NORM).item()
    if math.isfinite(norm):
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm


def update(
    policy, base, optimizer, contexts, completions, sampled, rewards, groups, *, temperature, kl_coef, substeps=1
) -> dict:
    """One batch of R rollouts -> `substeps` updates of the policy, and figures for the log.

    contexts: C token lists; completions: R of them, R / C of each context; sampled (R, S): their log-probs while they
    were sampled; rewards (R,); groups (Q, G): which rollouts answer the same question, those of a context together.
    Groups without spread are not even scored, nor held to the base.
    -> kl_base (k3, nats per scored token) and grad_norm, of the last update, None without one; dropped_groups
    """
    lengths = torch.tensor([len(c) for c in completions])
    of_groups, keep = group_advantages(rewards[groups])
    advantages, weights = torch.zeros(len(completions)), torch.zeros(len(completions))
    advantages[groups], weights[groups] = of_groups, token_weights(lengths[groups], keep)
    figures = {"kl_base": None, "grad_norm": None, "dropped_groups": int((~keep).sum())}
    device, batches = next(policy.parameters()).device, []
    wanted = (weights.view(len(contexts), -1) > 0).any(1).nonzero()[:, 0].tolist()
    for chosen, rows in micro_batches(contexts, completions, wanted):
        batch = [contexts[c] for c in chosen], [completions[i] for i in rows], temperature
        base_logprobs = score(base, *batch).detach()  # (N, S), once for all updates
        old = sampled[rows, : base_logprobs.size(1)] if substeps > 1 else None  # a single update is on-policy
        a, w, n = (part[rows].to(device) for part in (advantages, weights, lengths))
        batches.append((batch, base_logprobs, old, a, w, completion_mask(n, base_logprobs.size(1))))
    for _ in range(substeps if wanted else 0):
        kl = torch.zeros((), device=device)
        for batch, base_logprobs, old, a, w, mask in batches:
            logprobs = score(policy, *batch)  # (N, S)
            policy_loss(logprobs, base_logprobs, a, w, mask, kl_coef, old).backward()
            kl += (kl_estimate(logprobs.detach(), base_logprobs, "k3") * mask).sum()
        parallel.sum_over_processes(kl)
        figures |= {"kl_base": kl.item() / lengths[weights > 0].sum().item(), "grad_norm": step(policy, optimizer)}
    return figures


def distill(policy, teacher, optimizer, contexts: list, taught: list, completions: list, temperature: float) -> dict:
    """One update towards what a teacher says in other contexts (`taught`): the reverse KL(policy, teacher), per token.

    contexts, taught: C token lists each; completions: R, the policy's, R / C of each context.
    -> kl_teacher, grad_norm, dropped_groups
    The KL is exact, in nats per token: estimates from drawn tokens do not tell what a teacher would have said.
    """
    mean = torch.zeros((), device=next(policy.parameters()).device)  # over all tokens
    for chosen, rows in micro_batches(contexts, completions, range(len(contexts))):
        said, own, other = [completions[i] for i in rows], [contexts[c] for c in chosen], [taught[c] for c in chosen]
        target = score(teacher, other, said, temperature, every_token=True).detach()  # (N, S, V)
        logprobs = score(policy, own, said, temperature, every_token=True)
        kl = (logprobs.exp() * (logprobs - target)).sum() / sum(map(len, completions))  # 0 beyond the completions
        kl.backward()
        mean += kl.detach()
    parallel.sum_over_processes(mean)
    return {"kl_teacher": mean.item(), "grad_norm": step(policy, optimizer), "dropped_groups": 0}
