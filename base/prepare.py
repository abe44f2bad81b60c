"""The base that a run begins with: load it, or train it first."""

import os
import shutil
import tempfile
import zlib
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from base.exams import base_skills
from base.pretrain import LOOK_EVERY, pretrain
from model import GPT, GPTConfig
from plumbing import processes
from plumbing.command_line import failures_in_one_line, setting
from plumbing.files import beside, load_checkpoint, lock
from tasks import domain_of, domains, formats, kind_of
from tasks.world import ToyWorld
from words import llm
from words.tasks import KINDS
from words.world import parse_text

SHIPPED = str(Path(__file__).resolve().with_name("base.pt"))  # the base that comes with the code
QUICK_MINUTES = 12  # of pretraining for each domain, when a run finds no base

# The order in which domains join pretraining; others follow these.
CORPUS = ("strings", "numbers", "star_graph", "facts")


# What --smoke stands for: pretraining, both phases and the closing table, and nothing takes long.
SMOKE = {
    "steps": 4,
    "cycle": 2,
    "batch": 8,
    "group": 4,
    "population": 2,
    "anchor": 8,
    "passes": 8,  # with much fewer no proposal can be paid for
    "eval_every": 2,
    "eval_questions": 16,
    "minutes": 0.1,
}


@dataclass
class BaseSettings:
    """The settings of a base, and of how it is made."""

    base: str = setting(
        SHIPPED, "checkpoint of the base; the default one is made if it is missing", may_change=True
    )
    llm: str = setting(
        "",
        "a pretrained language model in place of the base: smollm2, a GGUF file or a folder; "
        "see docs/WORDS.md",
    )
    pretrain: bool = setting(False, "train the base and stop; goes on where it was interrupted")
    minutes: float = setting(110.0, "length of pretraining", low=0.01)
    documents: int = setting(48, "documents per step of pretraining", low=1)

    @classmethod
    def fill_in(cls, given: dict) -> dict:
        """The settings that were given, and those that follow. cls: train.Config."""
        # What comes first counts most. A corpus has all domains.
        if given.get("smoke"):
            given = SMOKE | own_folder(given) | given
        if given.get("pretrain"):
            given = {"tasks": corpus_domains()} | given
        if given.get("llm"):
            given = llm.SETTINGS | given

        # A run that is not told its length gives each task one stage.
        stage = given.get("stage", cls.stage)
        tasks = given.get("tasks", cls.tasks)
        return {"steps": stage * len(tasks)} | given


def own_folder(given: dict) -> dict:
    """The folder of a --smoke run, a temporary one without --out, and its own base there."""
    # The first process makes the folder, and tells the others which it is.
    folder = given.get("out")
    if not folder and processes.rank() == 0:
        folder = tempfile.mkdtemp(prefix="fast-slow-")
    out = processes.tell(folder)
    return {"out": out, "base": f"{out}/base.pt"}


@dataclass
class Base:
    """What a run begins with: a model, and the world whose texts it has learned to read."""

    model: GPT
    world: ToyWorld
    about: dict  # the contents of its checkpoint, the weights among them
    checksum: int  # of its file

    def skills(self, model: GPT) -> dict:
        """What a model can still do of what the base has learned, see `base_skills`."""
        return base_skills(model, list(self.world.domains.values()))


def open_base(cfg, device: str) -> Base | llm.Pretrained:
    """The base of a run, trained first where the default one is missing.

    Raises ValueError where it cannot be used.
    """
    if cfg.llm:
        return llm.open_llm(cfg.llm, device)

    # A run that finds no base makes a quick one, which knows only the domains of its tasks.
    if is_to_be_made(cfg):
        minutes = min(cfg.minutes, QUICK_MINUTES * len(domains_of(cfg.tasks)))
        if processes.rank() == 0:
            print(f"the base {cfg.base} is not there yet: training one, {minutes:g} minutes")
        train_base(cfg, device, minutes)
    return load_base(Path(cfg.base))


def check_tasks(cfg):
    """Raises ValueError for a name that is no task's, no name, or --llm with --pretrain."""
    if cfg.llm and cfg.pretrain:
        raise ValueError("--pretrain trains a base of the toy world: leave out --llm")

    # They may come from a config.json that somebody edited.
    if not cfg.tasks or not all(isinstance(name, str) for name in cfg.tasks):
        raise ValueError(f"tasks must be names of tasks, not {cfg.tasks!r}")

    # The world of words has kinds of tasks, the toy world has domains.
    for name in cfg.tasks:
        kind_of(name, KINDS if cfg.llm else domains())


def check_prompt(cfg):
    """Raises ValueError for a --prompt with a line that is wrong, or without an instruction."""
    parse = parse_text if cfg.llm else formats.parse_prompt
    if cfg.prompt and not parse(cfg.prompt):
        raise ValueError("the prompt names no instruction")


def domains_of(tasks: list[str]) -> list[str]:
    """The domains of tasks, each once, in order."""
    return list(dict.fromkeys(domain_of(name) for name in tasks))


def corpus_domains() -> tuple[str, ...]:
    """All domains, in the order in which they join pretraining."""
    return tuple(dict.fromkeys((*CORPUS, *domains())))


def load_base(path: Path) -> Base:
    """The base in a file; a run's weights.pt has the same form.

    Raises ValueError where the file is missing or damaged, or is no base for the domains of today.
    """
    # With another vocabulary its tokens would mean other words.
    contents = load_checkpoint(path)
    if contents.get("vocabulary") != formats.fingerprint():
        raise ValueError(
            f"{path} knows another vocabulary than today's domains have, or is no base of them: "
            "train one with --pretrain --base OTHER"
        )

    try:
        model = GPT(GPTConfig(**contents["model_config"]))
        model.load_state_dict(contents["model"])
        world = ToyWorld(contents["domains"])
    except (KeyError, TypeError, RuntimeError):  # of an older version, for example
        raise ValueError(f"{path} is no base of this version") from None
    return Base(model, world, contents, zlib.crc32(path.read_bytes()))


def is_to_be_made(cfg) -> bool:
    """Whether a run must make its base: a default one that is missing.

    A default base is the shipped one, or base.pt in the run's own folder (see --smoke).
    """
    # A run that has begun cannot go on with another base.
    begun = cfg.resume and (Path(cfg.resume) / "checkpoint.pt").exists()
    is_default = cfg.base in (SHIPPED, f"{cfg.out}/base.pt")
    return is_default and not begun and not os.path.lexists(cfg.base)


def train_base(cfg, device: str, minutes: float):
    """Train a base and write it to its file; an old base is kept beside it.

    Raises ValueError where another process is training it, and what `pretrain` raises.
    """
    path = Path(cfg.base)
    names = domains_of(cfg.tasks)
    stopped = (
        f"stopped; the base is saved every {LOOK_EVERY} steps in {beside(path, '.partial')}: "
        "once that exists, the same command goes on with it"
    )

    # The first process locks the base for all of them.
    first = processes.rank() == 0
    taken = f"another process is training {path}: wait, or choose another --base"
    with lock(beside(path, ".lock"), taken) if first else nullcontext():
        if first and path.exists():
            keep_old_base(path)
        with failures_in_one_line(stopped):
            pretrain(path, device, names, minutes=minutes, batch=cfg.documents, seed=cfg.seed)


def keep_old_base(path: Path):
    """Copy a base to a file that is named after its contents: base-0123abcd.pt."""
    checksum = zlib.crc32(path.read_bytes())
    kept = path.with_name(f"{path.stem}-{checksum:08x}{path.suffix}")
    shutil.copy2(path, kept)
    print(f"the base {path} is kept as {kept}")
