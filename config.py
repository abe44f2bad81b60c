"""Every setting of a run, and the command line, which is made from them."""

import argparse
import dataclasses
import json
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import parallel
from tasks import domains, make_task, text

ABOUT = "Fast-slow training: a tiny GPT learns a hidden task in its weights and in its prompt."
SMOKE = {"steps": 4, "cycle": 2, "batch": 8, "group": 4, "population": 2, "anchor": 8, "passes": 3, "width": 4}
SMOKE |= {"eval_every": 2, "eval_questions": 16, "minutes": 0.1, "documents": 32}
CORPUS = ("strings", "numbers", "star_graph", "facts")  # the order in which domains join pretraining, others last
METHODS = ("fst", "rl", "gepa", "distill")
PROMPT_BYTES = 10_000  # a file that is larger is no prompt: a task has four topics
MAY_CHANGE = ("steps", "lr", "eval_every", "base", "device", "compile")  # when a run is resumed


def option(default, help, choices=None, low=None):
    """A field of Config: its default, its line in --help, and the values it may take (numbers: from `low` on)."""
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices, "low": low})


@dataclass
class Config:
    """Every setting of a run; the command line is made from these fields."""

    method: str = option(
        "fst", "fst: both channels; rl: weights; gepa: prompts; distill: prompts into weights", METHODS
    )
    tasks: list[str] = option(
        ("strings", "numbers", "facts"), "domains, one task each; with --pretrain: of the corpus (all)"
    )
    stage: int = option(30, "gradient steps before the stream moves on to its next task", low=1)
    steps: int = option(90, "gradient steps in all; where not given, a stage for each task", low=0)
    seed: int = option(0, "of the tasks' hidden rules, the questions and all sampling", low=0)
    out: str = option("", "folder of the run; default: a new one under out/")
    resume: str = option("", f"folder of a run to go on with; of its settings may change: {', '.join(MAY_CHANGE)}")
    base: str = option("checkpoints/base.pt", "checkpoint of the base; the default one is made when it is missing")
    prompt: str = option("", "file with the prompt to begin with (default: one that names no instruction)")
    device: str = option("auto", "where to run", ("auto", "cpu", "cuda", "mps"))
    compile: bool = option(False, "compile the sampler: faster after its first minutes, if there is a C++ compiler")
    # slow weights
    batch: int = option(32, "questions per gradient step", low=1)
    group: int = option(8, "rollouts per question, judged against each other; split over the population", low=2)
    lr: float = option(3e-4, "learning rate of AdamW", low=0)
    warmup: int = option(10, "steps over which the learning rate rises", low=0)
    kl_coef: float = option(0.001, "weight of the KL penalty towards the base", low=0)
    substeps: int = option(1, "updates per batch; more than one is off-policy and uses CISPO's weights", low=1)
    temperature: float = option(1.0, "of all sampling in training and evaluation", low=0.01)
    # fast weights
    cycle: int = option(6, "gradient steps between fast phases: the questions of a cycle are drawn ahead", low=1)
    population: int = option(4, "prompts kept; must divide group", low=1)
    anchor: int = option(48, "questions of the cycle that prompts are scored on", low=1)
    passes: int = option(10, "budget of a fast phase, in passes over the anchor set", low=0)
    width: int = option(16, "reflections proposed at once", low=1)
    reflector: str = option("self", "who reflects: the current weights or the frozen base", ("self", "base"))
    prune: bool = option(True, "drop dominated prompts before drawing a parent (GEPA)")
    # evaluation, checkpoints
    eval_every: int = option(15, "steps between evaluations and checkpoints", low=1)
    eval_questions: int = option(256, "validation questions, never trained on", low=1)
    skills: bool = option(False, "also measure base skills at every evaluation: what is forgotten shows there")
    # pretraining
    pretrain: bool = option(False, "train the base and stop; goes on where it was interrupted")
    minutes: float = option(110.0, "length of pretraining", low=0.01)
    documents: int = option(48, "documents per step of pretraining", low=1)
    smoke: bool = option(False, "the whole path at toy size, pretraining included, in under a minute")


def read_prompt(path: str) -> str:
    """The prompt that a person wrote into a file, in the form that models read. Raises ValueError, or OSError."""
    with open(path, "rb") as file:
        data = file.read(PROMPT_BYTES + 1)
    try:
        if len(data) > PROMPT_BYTES:
            raise ValueError(f"it is longer than {PROMPT_BYTES} bytes")
        if not (rules := text.parse_prompt(data.decode("utf-8-sig"))):
            raise ValueError("it names no instruction")
    except ValueError as error:  # UnicodeDecodeError is one
        raise ValueError(f"--prompt {path}: {error}") from None
    return text.prompt_text(rules)


def parse_config(argv: list[str] | None = None) -> Config:
    """The command line -> Config, on top of the settings of the run that is resumed. Raises ValueError."""
    layout = partial(argparse.HelpFormatter, max_help_position=34, width=180)  # every option on one line
    parser = argparse.ArgumentParser(
        "train.py", None, ABOUT, formatter_class=layout, argument_default=argparse.SUPPRESS
    )
    parser.error = lambda message: fail(f"{message} (--help lists all options)")
    for f in dataclasses.fields(Config):
        kind, choices, shown = type(f.default), f.metadata["choices"], f.default
        metavar = None if choices else {int: "N", float: "X"}.get(kind, "NAME")
        how = {"type": kind, "choices": choices, "metavar": metavar}
        if kind is bool:
            how = {"action": argparse.BooleanOptionalAction}
        elif kind is tuple:
            how, shown = {"nargs": "+", "metavar": "NAME"}, " ".join(f.default)
        help = f.metadata["help"] + (f" (default: {shown})" if shown != "" else "")
        parser.add_argument("--" + f.name.replace("_", "-"), help=help, **how)
    given = vars(parser.parse_args(argv))
    if given.get("pretrain"):
        given.setdefault("tasks", tuple(dict.fromkeys((*CORPUS, *domains()))))
    if given.get("prompt"):
        given["prompt"] = read_prompt(given["prompt"])  # so that the file is not needed again
    if folder := given.get("resume"):
        try:
            saved = json.loads((Path(folder) / "config.json").read_text()) | {"out": folder, "resume": folder}
            saved = dataclasses.asdict(Config(**saved))
        except (OSError, ValueError, TypeError):
            raise ValueError(f"--resume {folder}: no run to go on with (config.json is missing or damaged)") from None
        for name in given:
            if given[name] != saved[name] and name not in MAY_CHANGE:
                raise ValueError(
                    f"{name} is {saved[name]!r} in the run in {folder}, not {given[name]!r}: start another run for "
                    f"that (when resuming, only {', '.join(MAY_CHANGE)} may change)"
                )
        given = saved | given
    elif given.get("smoke"):
        folder = given.get("out") or (tempfile.mkdtemp(prefix="fast-slow-") if parallel.rank() == 0 else None)
        out = parallel.tell(folder)
        given = SMOKE | {"out": out, "base": f"{out}/base.pt"} | given
    cfg = Config(**given)
    return cfg if "steps" in given else dataclasses.replace(cfg, steps=cfg.stage * len(cfg.tasks))


def has_compiler() -> bool:
    """Whether there is the C++ compiler that torch.compile calls."""
    return shutil.which(os.environ.get("CXX", "g++")) is not None


def check_config(cfg: Config) -> None:
    """Raises ValueError, with what would be right, for settings that cannot work."""
    for f in dataclasses.fields(cfg):
        value, low, choices = getattr(cfg, f.name), f.metadata["low"], f.metadata["choices"]
        if choices and value not in choices:
            raise ValueError(f"{f.name} must be one of {', '.join(choices)}, not {value}")
        if low is not None and not (isinstance(value, int | float) and low <= value < 2**63):  # so NaN fails
            raise ValueError(f"{f.name} must be a number from {low} on, not {value} ({f.metadata['help']})")
        kinds = {int: int, float: int | float, tuple: list | tuple}.get(type(f.default), type(f.default))
        if not isinstance(value, kinds):  # from a config.json that somebody edited
            raise ValueError(f"{f.name} must not be {value!r} ({f.metadata['help']})")
    if not cfg.tasks or not all(isinstance(name, str) for name in cfg.tasks):
        raise ValueError(f"tasks must be names of domains, not {cfg.tasks!r}")
    for name in cfg.tasks:
        make_task(name, cfg.seed)
    if cfg.compile and not has_compiler():
        raise ValueError("--compile needs a C++ compiler: install g++, or name another in the environment variable CXX")
    if cfg.method == "fst" and cfg.group % cfg.population:
        raise ValueError(
            f"population ({cfg.population}) must divide group ({cfg.group}): each prompt gets its share of rollouts"
        )


def fail(message: str) -> None:
    """End with one line on what was wrong and what would be right."""
    print(f"train.py: {message}", file=sys.stderr)
    raise SystemExit(2)
