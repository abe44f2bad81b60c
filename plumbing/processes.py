"""More than one process: `torchrun --nproc_per_node=N train.py ...`.

They may be on several machines that share their files. Every process holds the same weights,
prompts and texts and runs the same program. Only the work of the model is split:

- sampling: each process samples its share of the questions, and all get all rollouts
  (`split_questions`);
- an update: each process takes its share of the sequences, and the gradients are summed
  (`my_share`, `sum_gradients`).

Random numbers depend on the seed of the run and on the place of a rollout in the whole batch, never
on the process. So several processes give the same run as one. The first process writes the files.
"""

import atexit
import functools
import os
from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # noqa: F401 (imported later it would keep the group alive)
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

ROLLOUTS_AT_ONCE = 1024  # rollouts that one process samples together

# --- who takes part ---


def join():
    """Meet the other processes, if torchrun has started some. Raises ValueError."""
    if dist.is_initialized():
        return
    if not dist.is_torchelastic_launched():
        # WORLD_SIZE without RANK is left over from something else: it does not count.
        if "RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1":
            raise ValueError("RANK and WORLD_SIZE are set: unset them, or start with torchrun")
        return

    # Each process has a GPU of its own, or all compute on the CPU.
    backend = "gloo"  # nccl refuses processes that share a GPU
    if torch.cuda.device_count() >= local_size():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"  # nccl alone cannot send tensors that are on the CPU
    dist.init_process_group(backend)

    # Stop gloo's threads in time: they may abort the process at its end.
    atexit.register(dist.destroy_process_group)


def local_size() -> int:
    """How many processes torchrun has started on this machine; 1 without it."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if dist.is_torchelastic_launched() else 1


def rank() -> int:
    """The number of this process: 0, 1, ... The first one writes the files."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """How many processes there are, on all machines."""
    return dist.get_world_size() if dist.is_initialized() else 1


# --- messages ---


def tell(value):
    """The first process's value, in all processes."""
    if not dist.is_initialized():
        return value

    # The call wants a list, and fills it in the other processes.
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def any_process(flag: bool, device: str) -> bool:
    """Whether the flag is set in any process: what ends a loop must end it in all of them."""
    flags = torch.tensor(float(flag), device=device)
    sum_over_processes(flags)
    return flags.item() > 0


def sum_over_processes(*tensors: Tensor):
    """Replace each tensor by its sum over all processes, the same in each of them bit by bit."""
    if dist.is_initialized():
        for tensor in tensors:
            dist.all_reduce(tensor)


# --- shared work ---


def my_share(items: list) -> list:
    """The items that this process works on; with fewer items than processes some have none."""
    return items[rank() :: size()]


def sum_gradients(model: nn.Module, metrics: Tensor):
    """Replace a model's gradients, and metrics, by their sums over all processes.

    A parameter without a gradient counts as one whose gradient is zero.
    """
    if not dist.is_initialized():
        return

    # In some processes a parameter may have no gradient: they had no share of the work.
    for p in model.parameters():
        if p.grad is None:
            p.grad = torch.zeros_like(p)

    # One message for all gradients is faster than one for each.
    gradients = [p.grad for p in model.parameters()]
    together = parameters_to_vector(gradients)
    sum_over_processes(together, metrics)
    vector_to_parameters(together, gradients)


def split_questions(sample: Callable) -> Callable:
    """A decorator for sampling.sample: each process samples its share, a few questions at a time.

    Question b of every prompt goes to process b % size. All processes get all rollouts, in the
    order in which one process would give them. For that they need the same `noise` (R, max_new).
    With one process and few rollouts nothing changes.
    """
    # The class of what `sample` returns. (sampling.py imports this file, not the other way round.)
    Rollouts = sample.__annotations__["return"]

    @functools.wraps(sample)
    def split(model, prompts, questions, samples, *, noise, **settings):
        if size() == 1 and len(noise) <= ROLLOUTS_AT_ONCE:
            return sample(model, prompts, questions, samples, noise=noise, **settings)

        # K prompts, B questions for each, G samples of each: which of the R rows are whose?
        K = len(prompts)
        B = len(questions[0])
        rows_of = torch.arange(len(noise)).view(K, B, samples)  # (K, B, G)

        # Zeros stand for the rollouts of the other processes.
        tokens = torch.zeros_like(noise, dtype=torch.long)  # (R, max_new)
        lengths = torch.zeros_like(noise[:, 0], dtype=torch.long)  # (R,)
        logprobs = torch.zeros_like(noise)  # (R, max_new)

        # Sample this process's share, under its share of the noise. Memory has an end.
        mine = my_share(list(range(B)))
        few = max(ROLLOUTS_AT_ONCE // (K * samples), 1)
        for i in range(0, len(mine), few):
            some = mine[i : i + few]
            rows = rows_of[:, some].flatten()
            asked = [[row[b] for b in some] for row in questions]
            part = sample(model, prompts, asked, samples, noise=noise[rows], **settings)
            tokens[rows] = part.tokens
            lengths[rows] = part.lengths
            logprobs[rows] = part.logprobs

        # Every rollout is zero in all processes but one.
        sum_over_processes(tokens, lengths, logprobs)
        return Rollouts(tokens, lengths, logprobs)

    return split
