"""The command line, made from the fields of a settings class; and how a program ends.

A settings class is a dataclass whose fields are made by `setting`. `start` turns the words of the
command line into one, on top of the settings of the run that is resumed, if there is one.
"""

import argparse
import contextlib
import dataclasses
import functools
import os
import signal
import sys
from pathlib import Path

from plumbing import console, processes
from plumbing.files import read_json

PATHS = ("out", "base", "resume")  # settings that are paths
FILE_BYTES = 10_000  # a text file that an option names is no larger

# How argparse reads a setting, by the type of its default.
READ = {
    bool: {"action": argparse.BooleanOptionalAction},  # --skills, --no-skills
    tuple: {"nargs": "+", "metavar": "NAME"},
    int: {"type": int, "metavar": "N"},
    float: {"type": float, "metavar": "X"},
    str: {"metavar": "NAME"},
}


def setting(
    default,
    help: str,
    choices: tuple | None = None,
    low: float | None = None,
    may_change: bool = False,
):
    """A field of a settings class, with what the command line must know about it.

    default: its type is the type of the setting; a tuple stands for a list of words.
    help: its line in --help.
    choices: the values that it may take, or low: the smallest number that it may be.
    may_change: whether it may change when a run is resumed.
    """
    return dataclasses.field(default=default, metadata=locals())  # the arguments, by their names


# --- from words to settings ---


def start(Config: type, argv: list[str] | None):
    """Meet the other processes, and read the command line -> the settings. Raises ValueError.

    Config: the settings class. argv: the words of the command line, None for those of the program.
    """
    # From here on Ctrl-C raises KeyboardInterrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    processes.join()
    cfg = parse(Config, argv)
    check(cfg)
    return cfg


def parse(Config: type, argv: list[str] | None):
    """Read the command line -> the settings, see `start`. Raises ValueError, or OSError for a file.

    What is not given comes from the run that is resumed, else from `Config.fill_in` or a default.
    """
    # The settings on the command line, and no others.
    given = vars(make_parser(Config).parse_args(argv))
    for name, value in given.items():
        # Paths are kept whole: a run may be gone on with from another folder. (A model may be one.)
        if value and (name in PATHS or (name == "llm" and os.path.exists(value))):
            given[name] = os.path.realpath(value)
        # Of a file the text is saved with the other settings: a resumed run does not need the file.
        if value and name == "prompt":
            given[name] = read_text(value)

    # Below them are those of the run that is resumed.
    if given.get("resume"):
        saved = saved_settings(Config, given["resume"])
        check_changes(Config, given, saved)
        given = saved | given

    # What is still open follows from these, or is a default.
    return Config(**Config.fill_in(given))


def make_parser(Config: type) -> argparse.ArgumentParser:
    """A parser with an option for every setting. It returns only the options that were given."""
    # This width shows every option in one line.
    layout = functools.partial(argparse.HelpFormatter, max_help_position=34, width=180)
    parser = argparse.ArgumentParser(
        console.PROGRAM.name,
        description=Config.about,
        formatter_class=layout,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,  # --step must not be taken for --steps
    )

    # argparse's own message has several lines.
    parser.error = lambda message: fail(f"{message} (--help lists all options)")
    for field in dataclasses.fields(Config):
        add_option(parser, field)
    return parser


def add_option(parser: argparse.ArgumentParser, field: dataclasses.Field):
    """Add the option of one setting to the parser."""
    # What --help says about it.
    option = "--" + field.name.replace("_", "-")
    choices = field.metadata["choices"]
    help = field.metadata["help"]
    default = field.default
    if isinstance(default, tuple):
        default = " ".join(default)
    if default != "":
        help += f" (default: {default})"

    # One of some choices, or how values of its type are read.
    reading = {"choices": choices} if choices else READ[type(field.default)]
    parser.add_argument(option, help=help, **reading)


def read_text(path: str) -> str:
    """The text of the file that --prompt names, in UTF-8. Raises ValueError, or OSError."""
    # A file like /dev/zero has no end, so no more is read than is allowed.
    with open(path, "rb") as file:
        data = file.read(FILE_BYTES + 1)

    # Whatever is wrong with the text, the message begins with the option and the file.
    try:
        if len(data) > FILE_BYTES:
            raise ValueError(f"it is longer than {FILE_BYTES} bytes")
        text = data.decode("utf-8-sig")  # without the byte-order mark that some editors write
        if not text:
            raise ValueError("it is empty")
        return text
    except ValueError as error:  # UnicodeDecodeError is one
        raise ValueError(f"--prompt {path}: {error}") from None


# --- resuming ---


def saved_settings(Config: type, folder: str) -> dict:
    """All settings of the run in a folder. Raises ValueError where there is no run."""
    # The settings of a run are saved in its folder, as the fields of the settings class.
    try:
        saved = read_json(Path(folder) / "config.json")
        saved |= {"out": folder, "resume": folder}  # the folder may have been moved
        return dataclasses.asdict(Config(**saved))
    except (OSError, ValueError, TypeError):
        raise ValueError(
            f"--resume {folder}: no run of this version to go on with "
            "(config.json is missing, damaged or of another version)"
        ) from None


def check_changes(Config: type, given: dict, saved: dict):
    """Raises ValueError where a setting was given that may not change when resuming, and does."""
    # The course of the run so far depends on the others. The same value may be given again.
    may_change = [f.name for f in dataclasses.fields(Config) if f.metadata["may_change"]]
    for name, value in given.items():
        if value != saved[name] and name not in may_change:
            raise ValueError(
                f"{name} is {saved[name]!r} in the run in {saved['resume']}, not {value!r}: "
                f"start another run for that (when resuming, only {', '.join(may_change)} "
                "may change)"
            )


# --- checks ---


def check(cfg):
    """Raises ValueError, with what would be right, for a value of a wrong type or out of range."""
    for field in dataclasses.fields(cfg):
        choices = field.metadata["choices"]
        low = field.metadata["low"]
        kind = type(field.default)
        value = getattr(cfg, field.name)

        # A config.json that somebody edited may hold anything.
        if choices:
            right = f"one of {', '.join(choices)}"
            fits = value in choices
        elif low is not None:
            right = f"{'a whole' if kind is int else 'a'} number from {low} on"
            fits = isinstance(value, int | kind) and low <= value < 2**63  # NaN does not
        else:
            right = {bool: "true or false", str: "a text", tuple: "a list of words"}[kind]
            fits = isinstance(value, list | tuple if kind is tuple else kind)
        if not fits:
            raise ValueError(
                f"{field.name} must be {right}, not {value} ({field.metadata['help']})"
            )


# --- scripts with a few options of their own ---


def script_parser(path: str, about: str) -> argparse.ArgumentParser:
    """A parser for a script that has no settings class: path and docstring of the script.

    What is wrong on its command line is said in one line.
    """
    console.PROGRAM = Path(path)
    parser = argparse.ArgumentParser(description=about.split("\n")[0], allow_abbrev=False)
    parser.error = fail
    return parser


# --- how a program ends ---


def fail(message: str):
    """End the program with one line that says what was wrong and what would be right."""
    print(f"{console.PROGRAM.name}: {message}", file=sys.stderr)
    raise SystemExit(2)


@contextlib.contextmanager
def failures_in_one_line(
    if_stopped: str, go_on: str = "", faults=(ValueError, OSError, FloatingPointError)
):
    """With this, faults that are no bugs end the program with one line, without a traceback.

    if_stopped: what to say after Ctrl-C. go_on: what to do after a fault; it ends the line.
    faults: the errors that are no bugs. By default: bad settings, files that cannot be read or
    written, numbers that are not finite.
    """
    try:
        yield
    except faults as error:
        fail(f"{error}; {go_on}" if go_on else str(error))
    except KeyboardInterrupt:
        fail(if_stopped)


class StopOnCtrlC:
    """With this, the first Ctrl-C asks the program to stop, and the second stops it at once."""

    def __init__(self):
        self.asked = False  # the first Ctrl-C has come

    def __enter__(self):
        signal.signal(signal.SIGINT, self.first_time)
        return self

    def __exit__(self, *_):
        self.done()

    def first_time(self, *_):
        """What the first Ctrl-C does; the next one raises KeyboardInterrupt."""
        self.asked = True
        console.say("\nstopping after this step; a second Ctrl-C stops at once")
        self.done()

    def requested(self, device: str) -> bool:
        """Whether any process was asked to stop: then all of them do."""
        return processes.any_process(self.asked, device)

    def done(self):
        """From now on Ctrl-C raises KeyboardInterrupt, as in any Python program."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
