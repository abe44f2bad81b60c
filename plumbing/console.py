"""The terminal: streams that may be missing or break, Ctrl-C at the start, commands to paste.

It imports nothing large: train.py calls `prepare` before its own imports, which take seconds.
"""

import io
import os
import re
import shlex
import signal
import sys
from contextlib import suppress
from pathlib import Path

PROGRAM = Path(__file__).resolve().parent.parent / "train.py"
STARTING = "stopped while starting, before any step"  # what to say after Ctrl-C then


def prepare():
    """Let the program run on where nobody reads what it prints, and stop at Ctrl-C in one line."""
    # A notebook has streams, and a Ctrl-C, of its own.
    if sys.stdout is not sys.__stdout__:
        return

    # A standard descriptor that is closed would go to the next file that is opened.
    while os.open(os.devnull, os.O_RDWR) <= 2:
        pass
    sys.stdout = standard_stream(1)
    sys.stderr = standard_stream(2)
    signal.signal(signal.SIGINT, stop)


class Stream(io.FileIO):
    """A standard stream that drops what cannot be written: its reader may be gone."""

    def write(self, data):
        with suppress(OSError):
            return super().write(data) or len(data)
        return len(data)


def standard_stream(descriptor: int) -> io.TextIOWrapper:
    """The standard stream with this descriptor. It writes every character in some way."""
    # The encoding is that of file names, which then look as they were typed.
    buffer = io.BufferedWriter(Stream(descriptor, "w", closefd=False))
    encoding = sys.getfilesystemencoding()
    return io.TextIOWrapper(buffer, encoding, "backslashreplace", line_buffering=True)


def stop(*_):
    """What Ctrl-C does at first. An exception could be lost, or misread, inside of an import."""
    say(f"{PROGRAM.name}: {STARTING}")
    os._exit(2)


def say(words: str):
    """Print a line to stderr from a signal handler: the program may be inside of a print()."""
    with suppress(OSError):
        os.write(2, f"{words}\n".encode())


def printable(words: str) -> str:
    """Words that cannot steer a terminal: all but plain ASCII and line ends becomes "?"."""
    return re.sub(r"[^\n -~]", "?", words)


def resume_command(folder: Path) -> str:
    """What goes on with the run in a folder, to be pasted into a shell."""
    program = shlex.quote(os.path.relpath(PROGRAM))
    return f"python {program} --resume={shlex.quote(str(folder))}"
