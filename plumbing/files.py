"""Files that are written whole or not at all, JSON, checkpoints, and locks."""

import errno
import fcntl
import io
import json
import os
import sys
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import torch

FORMAT = 1  # the version of the checkpoint format

# How a file system, on a network for example, says that it does not offer a service.
NOT_OFFERED = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


def beside(path: Path, ending: str) -> Path:
    """The file next to `path` that has `ending` added to its name: base.pt -> base.pt.lock."""
    return path.with_name(path.name + ending)


def write_file(path: Path, data: bytes):
    """Write all of `data` to `path`, or leave the old file as it is. Raises OSError.

    A process that is killed half-way never leaves half a file: the data goes to a temporary file,
    and when the disk has all of it, that file takes the place of the old one in one operation.
    Where `path` is a link, what it points to is replaced.
    """
    # The data must be on the disk before the names change. A device or a folder stays.
    target = Path(os.path.realpath(path))
    temporary = beside(target, ".tmp")
    try:
        if target.exists() and not target.is_file():
            raise OSError(errno.EINVAL, "not a file that can be replaced")
        with open(temporary, "wb") as file:
            file.write(data)
            wait_for_disk(file)
        os.replace(temporary, target)
    except OSError as error:
        # For example, the disk is full. The message names the file that was asked for.
        with suppress(OSError):
            temporary.unlink()
        raise OSError(error.errno, error.strerror, str(path)) from None


def wait_for_disk(file: BinaryIO):
    """Wait until the disk has what was written to an open file."""
    file.flush()
    try:
        os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in NOT_OFFERED:
            raise
        # Python shows a warning only once.
        warnings.warn("no fsync on this file system: a power cut may damage files", stacklevel=2)


def read_json(path: Path) -> dict:
    """The contents of a JSON file. Raises ValueError, or OSError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # UnicodeDecodeError is one
        raise ValueError(f"{path} is damaged: {error}") from None


def save_checkpoint(path: Path, contents: dict):
    """Save tensors and plain data in a file, whole or not at all. Raises OSError."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **contents}, buffer)
    write_file(path, buffer.getbuffer())


def load_checkpoint(path: Path) -> dict:
    """The contents of a checkpoint: tensors and plain data, on the CPU.

    Raises ValueError where the file is missing, damaged, or no checkpoint of this program. Code in
    such a file is never run.
    """
    if not (path.is_file() and os.access(path, os.R_OK)):
        raise ValueError(f"no checkpoint at {path}, or none that may be read")

    # A file that is no checkpoint raises a dozen kinds of errors.
    with suppress(Exception), zipfile.ZipFile(path) as archive:
        # torch.load does not look at the checksums.
        if archive.testzip() is None:
            contents = torch.load(path, map_location="cpu", weights_only=True)
            if contents["format"] == FORMAT:
                return contents
    raise ValueError(f"{path} is damaged, or no checkpoint of this program")


def lock(path: Path, taken: str) -> BinaryIO:
    """Open a file and lock it until it is closed. Raises ValueError(taken) if it is locked already.

    The system removes the lock however the process ends, so a killed process blocks nobody.
    """
    path.parent.mkdir(parents=True, exist_ok=True)

    # Do not wait for another process: say at once that it has the file.
    file = open(path, "wb")  # noqa: SIM115 (the caller closes it)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise ValueError(taken) from None
    except OSError as error:  # some network file systems offer no locks
        print(f"{path}: {error.strerror}: start no second process here", file=sys.stderr)
    return file
