"""A run: its state between two gradient steps, and the folder of files that it can be resumed from; and the decode step
compiled, or recorded on a GPU.

Nothing here trains. A run is killed at any moment and loses at most the steps since its last checkpoint: files are
written whole or not at all, and what a log holds beyond the checkpoint is cut off when the run is resumed.
"""

import copy
import dataclasses
import itertools
import json
import math
import os
import random
import shutil
import zlib
from contextlib import nullcontext, suppress
from pathlib import Path

import torch
from tqdm import tqdm

import parallel
from config import Config
from fast_context import Population
from model import GPT, decode_step, load_checkpoint, save_checkpoint, write_file
from pretrain import beside, generator_of, load_base, lock, pretrain
from tasks import Task, corpus, domains, make_task, text
from tasks.dialogue import ANSWER_TOKENS, REFLECTION_TOKENS, tokens_of

QUICK_MINUTES = 12  # of pretraining for each domain, when a run finds no base
PLAIN = ("step", "rollouts", "tokens", "skipped", "shown", "evolved")  # what a checkpoint holds as it is


def pick_device(name: str) -> str:
    """ "auto" -> the best device there is. Raises ValueError for one that is not there, or not for every process."""
    processes = parallel.local_size()
    one_mps = torch.backends.mps.is_available() and processes == 1  # its processes could not talk to each other
    there = {"cuda": torch.cuda.is_available(), "mps": one_mps, "cpu": True}
    if name == "auto":
        name = next(device for device in there if there[device])
    if not there[name]:
        none = "none" if processes == 1 else f"none for {processes} processes"
        raise ValueError(f"--device {name}: this machine has {none}; use --device auto")
    if name == "cuda" and processes > (gpus := torch.cuda.device_count()):
        raise ValueError(f"{processes} processes need as many GPUs, here are {gpus}: start fewer, or use --device cpu")
    return name


def prepare_base(cfg: Config) -> None:
    """Train the base where --pretrain asks for it, or where the default one is missing or knows another vocabulary.

    Raises ValueError for any other base that cannot be used.
    """
    path, minutes, first = Path(cfg.base), cfg.minutes, parallel.rank() == 0
    if not cfg.pretrain:
        begun = cfg.resume and (Path(cfg.resume) / "checkpoint.pt").exists()  # that cannot go on with a new base
        ours = cfg.base in (Config.base, cfg.out and f"{cfg.out}/base.pt") and not begun  # the second is --smoke's
        contents = {} if ours and not path.exists() else load_checkpoint(path)
        if contents.get("vocabulary") == text.fingerprint():
            return
        found = f"the base {path} " + ("knows another vocabulary" if contents else "is not there yet")
        if not ours:
            raise ValueError(f"{found}, or is none; train one with --pretrain --base OTHER")
        minutes = min(minutes, QUICK_MINUTES * len(set(cfg.tasks)))
        if first:
            print(f"{found}: training one, {minutes:g} minutes")
    settings = {"minutes": minutes, "batch": cfg.documents, "seed": cfg.seed}
    taken, locked = f"another process is training {path}: wait, or choose another --base", nullcontext()
    if first:
        locked = lock(beside(path, ".lock"), taken)
    with locked:
        if first and path.exists():
            kept = path.with_name(f"{path.stem}-{zlib.crc32(path.read_bytes()):08x}{path.suffix}")
            shutil.copy2(path, kept)
            print(f"the base {path} is kept as {kept}")
        pretrain(path, pick_device(cfg.device), list(dict.fromkeys(cfg.tasks)), **settings)


def longest_answer(task: Task) -> int:
    """Tokens of the longest right answer that was seen for any rule, the end of the sequence included."""
    states = [task.domain.draw(random.Random(i), difficulty) for i in range(10) for difficulty in task.difficulties]
    answers = (
        f"{topic}: {' '.join(rule)}\n{corpus.steps_text(task.domain, rule, state)}"
        for topic, rule in task.rules.items()
        for state in states
    )
    return 1 + max(len(text.encode(words)) for words in answers)


def compiled_step():
    """What --compile makes of decode_step."""
    torch._dynamo.config.suppress_errors = True  # what cannot be compiled runs as it is
    return torch.compile(decode_step, dynamic=True)  # else compiled anew for every chunk


class CapturedStep:
    """decode_step on a GPU, where its 200 small kernels take longer to launch than to run.

    Of each chunk of steps one is recorded as a CUDA graph, and all are replays of it: the caches stay where they are,
    and what is new in a step is copied to where the graph reads it.
    """

    def __init__(self):
        self.own = None  # the caches of the chunk that was recorded

    def __call__(self, model, tokens, positions, slot, prefix, prefix_bias, own, own_bias, noise, temperature):
        new = tokens, positions, slot, noise
        if own is not self.own:  # another chunk
            self.inputs = [part.clone() for part in new]
            tokens, positions, slot, noise = self.inputs
            arguments = model, tokens, positions, slot, prefix, prefix_bias, own, own_bias, noise, temperature
            if self.own is None:
                decode_step(*arguments)  # what a kernel does when it first runs cannot be recorded
            self.graph, self.own = torch.cuda.CUDAGraph(), own
            with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):  # nccl's threads may go on
                self.outputs = decode_step(*arguments)
        for part, value in zip(self.inputs, new, strict=True):
            part.copy_(value)
        self.graph.replay()
        return tuple(part.clone() for part in self.outputs)


def decoder(compiled: bool, device: str):
    """The form of decode_step that a run uses: compiled (--compile), else recorded on a CUDA device, else as it is."""
    return compiled_step() if compiled else CapturedStep() if device == "cuda" else decode_step


class Run:
    """The state of a run between two gradient steps, and its folder."""

    def __init__(self, cfg: Config):
        """Opens a new folder for the run, or goes back to the last checkpoint in the one it resumes."""
        self.cfg, self.device = cfg, pick_device(cfg.device)
        self.writes = parallel.rank() == 0  # the files are the first process's
        self.lock = None
        if self.writes:
            self.open_folder()
        self.out = parallel.tell(self.out if self.writes else None)
        prepare_base(cfg)
        base, self.about_base = load_base(Path(cfg.base))
        self.base = base.to(self.device).requires_grad_(False)
        self.domains = {name: domains()[name] for name in self.about_base["domains"]}  # what the base was trained on
        for name in cfg.tasks:
            if name not in self.domains:
                known = ", ".join(self.domains)
                raise ValueError(
                    f"the base {cfg.base} knows {known}, not {name}: choose another task, or train another"
                )
        self.base_sum = zlib.crc32(Path(cfg.base).read_bytes())
        self.policy = copy.deepcopy(self.base).requires_grad_()
        self.decode = decoder(cfg.compile, self.device)
        self.optimizer = torch.optim.AdamW(self.policy.parameters(), lr=cfg.lr, betas=(0.9, 0.999), weight_decay=0.0)
        self.start = text.parse_prompt(cfg.prompt)  # the seed prompt; without --prompt it is empty
        self.population = Population(cfg.population, cfg.seed, [self.start])
        self.tasks = [make_task(name, cfg.seed + i) for i, name in enumerate(cfg.tasks)]
        self.check_context()
        n, seed = cfg.eval_questions, f"validation {cfg.seed}"  # the same questions every time
        self.validation = [task.questions(random.Random(seed), n, validation=True) for task in self.tasks]
        self.step = self.rollouts = self.tokens = 0  # all that was sampled to learn from, in rollouts and in tokens
        self.skipped = self.streak = 0  # steps whose numbers were not finite: in all, and the latest in a row
        self.shown = dict(self.start)  # the prompt that was printed last
        self.evolved = [self.start for _ in self.tasks]  # for each task the best prompt when it was trained on last
        self.measured = {}  # evaluations, by task, weights and prompt
        self.stop = False  # Ctrl-C was pressed
        self.restore()
        saved = dataclasses.asdict(cfg) | {"resume": "", "smoke": False, "out": str(self.out)}
        if self.writes:
            write_file(self.out / "config.json", json.dumps(saved, indent=1).encode())

    def open_folder(self) -> None:
        """Find or make the run's folder, and lock it until this process ends. Raises ValueError where it is taken."""
        cfg = self.cfg
        self.out, stem = Path(cfg.out), f"out/{cfg.method}-{'-'.join(cfg.tasks)}-seed{cfg.seed}"
        if not cfg.out:
            Path("out").mkdir(exist_ok=True)
        for i in () if cfg.out else itertools.count(1):
            self.out = Path(f"{stem}-{i}")
            with suppress(FileExistsError):  # of another run, which may be just beginning
                self.out.mkdir()
                break
        if not cfg.resume and any((self.out / file).exists() for file in ("config.json", "checkpoint.pt")):
            raise ValueError(f"--out {cfg.out} holds another run: choose another, or go on with --resume {cfg.out}")
        self.lock = lock(self.out / "lock", f"another process is at work in {self.out}: wait, or choose another --out")

    def check_context(self) -> None:
        """Raises ValueError where the longest texts of a task would not fit the model, or be cut off."""
        worst = " ".join(3 * ["z" * 16])  # an instruction of no known words: every letter is a token
        for task in self.tasks:
            questions = [task.question(random.Random(i)) for i in range(100)]
            ask, want = max((q.ask for q in questions), key=len), max((q.want for q in questions), key=len)
            prompt = text.prompt_text(dict.fromkeys([*task.rules, *self.start], worst))
            solving = prompt + text.question_text("red", ask)
            reflecting = text.reflection_text("red", worst, 3 * [(ask, "z" * (2 * len(want) + 8), want)])
            if (longest := longest_answer(task)) > ANSWER_TOKENS:
                raise ValueError(
                    f"right answers of {task.domain.name} take up to {longest} tokens, {ANSWER_TOKENS} are sampled: "
                    "give its tasks shorter states"
                )
            need = max(len(tokens_of(solving)) + ANSWER_TOKENS, len(tokens_of(reflecting)) + REFLECTION_TOKENS)
            if need > (room := self.base.cfg.block_size):
                raise ValueError(
                    f"the texts of {task.domain.name} can take {need} tokens, the base {self.cfg.base} reads {room}: "
                    "pretrain one with a longer context"
                )

    def task_at(self, step: int) -> int:
        """The index of the stream's task that a step trains on."""
        return min(step // self.cfg.stage, len(self.tasks) - 1)

    def questions_of(self, step: int) -> list:
        """The questions that a step trains on: a function of (seed, step), so that fast phases can look ahead."""
        task = self.tasks[self.task_at(step)]
        return task.questions(random.Random(f"questions {self.cfg.seed} {step}"), self.cfg.batch)

    def generate(self, model: GPT, *purpose):
        """The model as a function that samples to learn from; its noise is a function of (seed, step, purpose)."""
        key = random.Random(repr((self.cfg.seed, self.step, *purpose))).getrandbits(63)
        generate = generator_of(model, self.cfg.temperature, torch.Generator(self.device).manual_seed(key), self.decode)

        def counted(*texts):
            rollouts = generate(*texts)
            self.tokens += rollouts.lengths.sum().item()
            return rollouts

        return counted

    def best(self) -> dict[str, str]:
        """The population's best prompt; for `rl`, which never evolves it, the one that the run began with."""
        return self.population.candidates[0].rules

    def log(self, kind: str, task: int, **figures) -> None:
        """Append one line to log.jsonl; the README explains the figures."""
        if not self.writes:
            return
        for name, value in figures.items():
            if isinstance(value, float):
                figures[name] = round(value, 6) if math.isfinite(value) else None  # JSON knows no NaN
        line = {"kind": kind, "step": self.step, "task": task, "rollouts": self.rollouts, "tokens": self.tokens}
        with open(self.out / "log.jsonl", "a") as file:
            file.write(json.dumps(line | figures) + "\n")

    def say(self, words: str) -> None:
        """Print above the bar, and append to samples.txt. What the model wrote must not steer a terminal."""
        if not self.writes:
            return
        words = "".join(c if c == "\n" or " " <= c <= "~" else "?" for c in words)
        tqdm.write(words)
        with open(self.out / "samples.txt", "a") as file:
            file.write(f"[step {self.step}] {words}\n")

    def parts(self) -> dict:
        """What a checkpoint holds the state of."""
        return {"model": self.policy, "optimizer": self.optimizer, "population": self.population}

    def save(self) -> None:
        """A checkpoint to go on from as if the run had never stopped. The sizes of the logs undo what came later."""
        if self.streak or not self.writes:
            return  # the weights may be why the last step failed: keep the checkpoint from before
        sizes = {}
        for name in ("log.jsonl", "samples.txt"):
            with open(self.out / name, "a") as file:
                os.fsync(file.fileno())
                sizes[name] = file.tell()
        state = {name: getattr(self, name) for name in PLAIN}
        state |= {name: part.state_dict() for name, part in self.parts().items()}
        save_checkpoint(self.out / "checkpoint.pt", state | {"sizes": sizes, "base": self.base_sum})

    def restore(self) -> None:
        """Go back to the last checkpoint, and the logs with it; where there is none yet, to the beginning."""
        path, sizes = self.out / "checkpoint.pt", {"log.jsonl": 0, "samples.txt": 0}
        self.begun = bool(self.cfg.resume) and path.exists()
        if self.begun:
            saved = load_checkpoint(path)
            if saved.get("base") != self.base_sum:
                raise ValueError(f"{path} is of a run that began with another base than {self.cfg.base}, or of no run")
            try:
                for name, part in self.parts().items():
                    part.load_state_dict(saved[name])
                for name in PLAIN:
                    setattr(self, name, saved[name])
                self.best()  # an empty population has none
                sizes = {name: int(saved["sizes"][name]) for name in sizes}
            except (LookupError, TypeError, AttributeError, RuntimeError):  # torch's names every weight, line by line
                raise ValueError(f"{path} does not hold the state of the run that config.json describes") from None
        for name, size in sizes.items() if self.writes else ():
            file = self.out / name
            file.touch()
            there = file.read_bytes()
            orphan = not self.begun and (b'"slow"' in there or b'"fast"' in there)  # its checkpoint is gone
            if len(there) < size or orphan or (there and not self.cfg.resume):
                raise ValueError(
                    f"{file} does not fit the last checkpoint: put the one or the other back, or start in another --out"
                )
            os.truncate(file, size)
