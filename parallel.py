"""More than one process: `torchrun --nproc_per_node=N train.py ...`, on one machine or several.

Every process holds the same weights, prompts and texts and goes through the same program; only the model's work is
split. Sampling: each takes its share of the questions, and all get all rollouts (pretrain.generator_of). An update:
each takes its share of the contexts with all their rollouts (rl.micro_batches), or in pretraining of the documents
(pretrain.pretrain), and gradients are summed. What is drawn at random is a function of the run's seed and of a
rollout's place in the whole batch, never of the process. The first process writes the files.
"""

import atexit
import os

import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # before there is a group: default arguments in it would keep that alive
from torch import Tensor


def join() -> None:
    """Meet the other processes, where torchrun has started some."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not dist.is_initialized():
        if torch.cuda.device_count() >= local_size():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
            dist.init_process_group("cpu:gloo,cuda:nccl")  # the default is nccl alone, not for tensors on the CPU
        else:
            dist.init_process_group("gloo")  # no nccl, which refuses processes that share a GPU
        atexit.register(dist.destroy_process_group)  # stops gloo's threads, which may abort the process at its end


def local_size() -> int:
    """How many processes torchrun has started on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def sum_over_processes(*tensors: Tensor) -> None:
    """Replace each tensor by its sum over all processes, the same in each of them bit by bit."""
    if dist.is_initialized():
        for tensor in tensors:
            dist.all_reduce(tensor)


def sum_gradients(parameters: list[Tensor]) -> None:
    """Replace gradients by their sums over all processes, in one message; no gradient counts as zero."""
    if dist.is_initialized():
        for p in parameters:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        together = torch.cat([p.grad.flatten() for p in parameters])
        dist.all_reduce(together)
        for p, total in zip(parameters, together.split([p.numel() for p in parameters]), strict=True):
            p.grad.copy_(total.view_as(p))


def any_process(flag: bool, device: str) -> bool:
    """Whether the flag is set in any of them: what ends a loop must end it everywhere."""
    flags = torch.tensor(float(flag), device=device)
    sum_over_processes(flags)
    return flags.item() > 0


def tell(value):
    """The first process's value, in all of them."""
    if dist.is_initialized():
        box = [value]
        dist.broadcast_object_list(box)
        return box[0]
    return value
