"""Which device a run computes on, and whether there is a compiler."""

import os
import shutil

import torch
from torch.distributed import is_torchelastic_launched

from plumbing import processes


def pick_device(name: str, compiles: bool = False) -> str:
    """The device to run on: "cuda", "mps" or "cpu"; "auto" takes the first of these that is there.

    Raises ValueError for a device that is not there, or not there for every process; and where
    torch is to compile, but there is no C++ compiler.
    """
    # The compiler that torch.compile calls.
    compiler = os.environ.get("CXX", "g++")
    if compiles and not shutil.which(compiler):
        raise ValueError("--compile needs a C++ compiler: install g++, or name another in CXX")

    # Processes on Apple's GPU could not talk to each other.
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available() and not is_torchelastic_launched(),
        "cpu": True,
    }

    # The first that is there, or the one that was asked for.
    if name == "auto":
        name = next(device for device in available if available[device])
    if not available[name]:
        raise ValueError(
            f"--device {name}: this machine has none that this run can use; use --device auto"
        )

    # Every process needs a GPU of its own.
    gpus = torch.cuda.device_count()
    count = processes.local_size()
    if name == "cuda" and count > gpus:
        raise ValueError(
            f"{count} processes need as many GPUs, here are {gpus}: "
            "start fewer, or use --device cpu"
        )
    return name
