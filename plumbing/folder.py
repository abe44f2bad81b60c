"""The folder of a run: its logs, its checkpoint, and a lock that keeps a second process away.

A run can be killed at any moment and loses at most the steps since its last checkpoint. Files are
written whole or not at all; what a log holds beyond the checkpoint is cut off on resuming. Only the
first process writes.
"""

import dataclasses
import itertools
import json
import os
import re
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

from tqdm import tqdm

from plumbing import processes
from plumbing.console import printable, resume_command
from plumbing.files import (
    beside,
    load_checkpoint,
    lock,
    save_checkpoint,
    wait_for_disk,
    write_file,
)

LOGS = ("log.jsonl", "samples.txt")  # these only grow

# The log lines that are written only after the first checkpoint have this in them.
TRAINED = rb'"kind": "(slow|fast)"'


class RunFolder(ExitStack):
    """The folder of a run, locked until it is closed: use it in a `with` statement."""

    def __init__(self, out: str, default: str, resume: str):
        """Open the folder of a run, or make a new one, and lock it.

        out: its path; "" for a new folder, named `default` with -1, -2, ... added.
        resume: the folder of the run to go on with; "" for a new run.
        Raises ValueError where another run or another process has the folder, or OSError.
        """
        super().__init__()
        self.resumes = bool(resume)
        self.writes = processes.rank() == 0  # only the first process does

        # The first process opens the folder, and tells the others which it is.
        path = None
        if self.writes:
            path = Path(out) if out else new_folder(default)
            self.refuse_another_run(path)
            taken = f"another process is at work in {path}: wait, or choose another --out"
            self.enter_context(lock(path / "lock", taken))  # given back when this is closed
        self.path = processes.tell(path)

    def refuse_another_run(self, path: Path):
        """Raises ValueError where a new run would write over an old one."""
        # One of the two may be lost, and the run can still be worth something.
        names = ("config.json", "checkpoint.pt", "weights.pt", "result.json")
        if not self.resumes and any((path / name).exists() for name in names):
            raise ValueError(
                f"--out {path} holds another run: choose another, or go on: {resume_command(path)}"
            )

    # --- what people read ---

    def bar(self, total: int, initial: int, desc: str) -> tqdm:
        """A progress bar over the steps of a run."""
        return tqdm(total=total, initial=initial, unit="step", desc=desc, disable=not self.writes)

    def show(self, words: str):
        """Print above the progress bar."""
        if self.writes:
            tqdm.write(words)

    def show_table(self, rows: list[list[str]]):
        """Print rows of cells, each column as wide as its widest cell."""
        columns = []
        for cells in itertools.zip_longest(*rows, fillvalue=""):
            width = max(map(len, cells))
            columns.append([cell.ljust(width) for cell in cells])

        self.show("")
        for cells in zip(*columns, strict=True):
            self.show("   ".join(cells).rstrip())

    def say(self, step: int, words: str):
        """Print above the progress bar, and append to samples.txt.

        What a model wrote must not steer a terminal: only plain ASCII is kept.
        """
        words = printable(words)
        self.show(words)
        self.append("samples.txt", f"[step {step}] {words}\n")

    def log(self, line: dict):
        """Append one line to log.jsonl; numbers are rounded to six decimals."""
        words = json.dumps(for_json(line, rounded))
        self.append("log.jsonl", f"{words}\n")

    def append(self, name: str, words: str):
        """Append to a log in one go, so that at most its last line can be torn."""
        if self.writes:
            with open(self.path / name, "a", encoding="utf-8") as file:
                file.write(words)

    def draw(self, page):
        """Write view.html: page(paths) is its text. If it fails, the run goes on."""
        if not self.writes:
            return
        try:
            self.write("view.html", page([self.path]))
        except Exception as error:
            self.show(f"view.html could not be written: {error!r}")

    # --- what a run is gone on with ---

    def write(self, name: str, words: str):
        """Write a text file of the folder, whole or not at all."""
        if self.writes:
            write_file(self.path / name, words.encode())

    def write_json(self, name: str, contents: dict):
        """Write a JSON file of the folder, whole or not at all."""
        words = json.dumps(for_json(contents), indent=1)
        self.write(name, words)

    def save_settings(self, cfg):
        """Write config.json: all settings of the run, as it could be begun with them."""
        saved = dataclasses.asdict(cfg)
        saved |= {"resume": "", "smoke": False, "out": str(self.path)}
        self.write_json("config.json", saved)

    def save_weights(self, contents: dict):
        """Save weights and what is to know of them in weights.pt: another run can begin with it."""
        if self.writes:
            save_checkpoint(self.path / "weights.pt", contents)

    def save(self, state: dict):
        """Save the state of a run, with the sizes of its logs, to go on as if it never stopped."""
        if not self.writes:
            return

        # What the logs hold so far must be on the disk before the checkpoint is.
        sizes = {}
        for name in LOGS:
            with open(self.path / name, "ab") as file:
                wait_for_disk(file)
                sizes[name] = file.tell()
        save_checkpoint(self.path / "checkpoint.pt", state | {"sizes": sizes})

    def restore(self, learner) -> bool:
        """Take a learner and the logs back to the last checkpoint -> whether there is one.

        Where there is none yet, the logs are emptied: the run begins again. Raises ValueError where
        the checkpoint or a log is not of this run. When learner.load_state_dict raises ValueError,
        the message goes on from the name of the checkpoint: "is of a run that ...".
        """
        # The state of the learner, where there is a checkpoint.
        path = self.path / "checkpoint.pt"
        sizes = dict.fromkeys(LOGS, 0)
        begun = path.exists()  # a new run never has one: see refuse_another_run
        if begun:
            sizes = load_state(learner, path)

        # The logs as they were then.
        if self.writes:
            for name, size in sizes.items():
                self.cut_log(self.path / name, size, begun)
        return begun

    def cut_log(self, file: Path, size: int, begun: bool):
        """Cut a log to the size that it had at the checkpoint, 0 where there is none yet.

        Raises ValueError where the log and the checkpoint cannot be of the same run.
        """
        file.touch()
        there = file.read_bytes()

        # Before its first checkpoint a run does not train. If it has trained, the file is lost.
        orphan = not begun and re.search(TRAINED, there)
        foreign = there and not self.resumes
        if len(there) < size or orphan or foreign:
            raise ValueError(
                f"{file} does not fit the last checkpoint: put the one or the other back, "
                "or start in another --out"
            )
        os.truncate(file, size)


def new_folder(stem: str) -> Path:
    """Make the first of the folders stem-1, stem-2, ... that does not exist yet."""
    # The name may list many tasks, and file systems have a limit.
    start = Path(stem[:200]).absolute()
    start.parent.mkdir(exist_ok=True)

    # Making it is also the test whether it exists: so two runs never get the same one.
    for i in itertools.count(1):
        path = beside(start, f"-{i}")
        with suppress(FileExistsError):
            path.mkdir()
            return path


def for_json(value, number: Callable = float):
    """A value as it can be written: JSON knows neither NaN nor infinities, they become None.

    number: makes a float of its digits.
    """
    # json.dumps writes them all the same. Reading that back turns them into None.
    words = json.dumps(value)
    return json.loads(words, parse_float=number, parse_constant=lambda name: None)


def rounded(digits: str) -> float:
    """A number for log.jsonl."""
    return round(float(digits), 6)


def load_state(learner, path: Path) -> dict[str, int]:
    """Give a learner its saved state -> the sizes that the logs had then. Raises ValueError."""
    saved = load_checkpoint(path)

    # The contents may be of another run, or of another version of this program.
    try:
        learner.load_state_dict(saved)
        return {name: int(saved["sizes"][name]) for name in LOGS}
    except ValueError as error:
        raise ValueError(f"{path} {error}") from None
    except (LookupError, TypeError, AttributeError, RuntimeError):
        # torch's own message names every weight, line by line.
        raise ValueError(
            f"{path} does not hold the state of the run that config.json describes"
        ) from None
