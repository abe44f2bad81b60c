"""An oracle for tests: the loss of CISPO as the package trl computes it."""

import collections
from unittest.mock import MagicMock

import torch


def loss_of_trl(logprobs, sampled_logprobs, advantages, mask):
    """The loss of a batch of N completions, a scalar with the gradient of logprobs.

    logprobs (N, S); sampled_logprobs (N, S), or None: on-policy; advantages (N,); mask (N, S).
    Raises ImportError without trl.
    """
    from trl.trainer.grpo_trainer import GRPOTrainer

    # Its trainer with these settings, without a model.
    trainer = MagicMock()
    entropies = torch.zeros(logprobs.shape)
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (logprobs, entropies, None)
    trainer.configure_mock(
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        beta=0.0,
        loss_type="cispo",
        importance_sampling_level="token",
        epsilon_high=4.0,
        epsilon_low=0.2,
        use_vllm=False,
        _entropy_bonus_enabled=False,
        current_gradient_accumulation_steps=1,
        _metrics=collections.defaultdict(lambda: collections.defaultdict(list)),
    )
    trainer.args.steps_per_generation = 1
    trainer.args.delta = None
    trainer.accelerator.num_processes = 1

    # The tokens themselves are not looked at.
    tokens = torch.zeros(logprobs.shape)
    inputs = {
        "prompt_ids": tokens,
        "prompt_mask": tokens,
        "completion_ids": tokens,
        "completion_mask": mask,
        "advantages": advantages,
        "num_items_in_batch": mask.sum(),
    }
    if sampled_logprobs is not None:
        inputs["old_per_token_logps"] = sampled_logprobs
    return GRPOTrainer._compute_loss(trainer, MagicMock(training=True), inputs)
