"""Fast-slow training, start to end: pretrain a tiny base, then let two channels learn a hidden task.

    python train.py                       fst on the strings domain with the shipped base, a few minutes on a laptop
    python train.py --method rl           slow weights only: policy gradient under the seed prompt
    python train.py --method gepa         fast weights only: prompt evolution under frozen weights
    python train.py --pretrain            train the base itself

Read from the bottom: `main` -> `train` (the loop) -> `fast_phase` and `slow_step`. Every random draw of a run is a
function of (seed, step, purpose), so resuming needs no generator state but the population's own.

Left out of the paper's set-up: asynchronous rollouts and several nodes (one process does all in turn), truncation
penalties (answers are short), and a separate, larger model as reflector (the policy reflects on itself).
"""

import argparse
import dataclasses
import itertools
import json
import os
import random
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

import rl
from fast_context import Population, evolve
from model import GPT, GPTConfig, load_checkpoint, save_checkpoint
from pretrain import generator_of, pretrain
from tasks import Task, make_task, text
from tasks.dialogue import answer, reflect

QUICK_MINUTES = 12  # pretraining when a run finds no base


def option(default, help, choices=None):
    """A field of Config: its default, its line in --help, and the values it may take."""
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices})


@dataclass
class Config:
    """Every setting of a run; the command line is made from these fields."""

    method: str = option(
        "fst", "fst: both channels; rl: slow weights only; gepa: fast weights only", ("fst", "rl", "gepa")
    )
    tasks: list[str] = option(("strings",), "the stream of tasks: names of domains, one after the other")
    stage: int = option(60, "gradient steps before the stream moves on to its next task")
    steps: int = option(60, "gradient steps in all")
    seed: int = option(0, "of the tasks' hidden rules, the questions and all sampling")
    out: str = option("", "folder of the run; default: a new one under out/")
    resume: str = option("", "folder of a run to go on with")
    base: str = option("checkpoints/base.pt", "checkpoint of the pretrained base; made when it is missing")
    device: str = option("auto", "where to run", ("auto", "cpu", "cuda", "mps"))
    # slow weights
    batch: int = option(32, "questions per gradient step")
    group: int = option(8, "rollouts per question, split evenly over the population")
    lr: float = option(1e-3, "learning rate of AdamW")
    warmup: int = option(10, "steps over which the learning rate rises")
    kl_coef: float = option(0.001, "weight of the KL penalty towards the base")
    substeps: int = option(1, "updates per batch; more than one is off-policy and uses CISPO's weights")
    temperature: float = option(1.0, "of all sampling in training and evaluation")
    # fast weights
    cycle: int = option(6, "gradient steps between fast phases: the questions of a cycle are drawn ahead")
    population: int = option(4, "prompts kept; must divide group")
    anchor: int = option(48, "questions of the cycle that prompts are scored on")
    passes: int = option(10, "budget of a fast phase, in passes over the anchor set")
    width: int = option(8, "reflections proposed at once")
    reflector: str = option("self", "who reflects: the current weights or the frozen base", ("self", "base"))
    prune: bool = option(True, "drop dominated prompts before drawing a parent (GEPA)")
    # evaluation, checkpoints
    eval_every: int = option(10, "steps between evaluations and checkpoints")
    eval_questions: int = option(256, "validation questions, never trained on")
    # pretraining
    pretrain: bool = option(False, "train the base and stop; goes on where it was interrupted")
    minutes: float = option(70.0, "length of pretraining; 12 give a base that works")
    documents: int = option(96, "documents per step of pretraining")
    compile: bool = option(False, "compile the model for pretraining (needs a C++ compiler)")
    smoke: bool = option(False, "the whole path at toy size, pretraining included, in under a minute")


def parse_config(argv: list[str] | None = None) -> Config:
    """The command line -> Config. A resumed run keeps the settings it was started with, but for those given anew."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], argument_default=argparse.SUPPRESS)
    parser.error = lambda message: fail(f"{message} (--help lists all options)")
    for f in dataclasses.fields(Config):
        many, shown = isinstance(f.default, tuple), f.default
        how = {
            "type": str if many else type(f.default),
            "choices": f.metadata["choices"],
            "nargs": "+" if many else None,
        }
        if isinstance(f.default, bool):
            how = {"action": argparse.BooleanOptionalAction}
        flag = "--" + f.name.replace("_", "-")
        parser.add_argument(flag, help=f"{f.metadata['help']} (default: {' '.join(shown) if many else shown})", **how)
    given = vars(parser.parse_args(argv))
    if "resume" in given:
        try:
            saved = json.loads((Path(given["resume"]) / "config.json").read_text())
            given = saved | given | {"out": given["resume"]}
        except (OSError, json.JSONDecodeError):
            raise ValueError(
                f"--resume {given['resume']}: no run to go on with there (no readable config.json)"
            ) from None
    cfg = Config(**given)
    if cfg.smoke:
        tiny = {
            "steps": 4,
            "cycle": 2,
            "batch": 8,
            "group": 4,
            "population": 2,
            "anchor": 8,
            "width": 2,
            "minutes": 0.2,
        }
        cfg = dataclasses.replace(
            cfg, **tiny, eval_every=2, eval_questions=32, out=tempfile.mkdtemp(prefix="fast-slow-")
        )
        cfg.base = f"{cfg.out}/base.pt"
    return cfg


def check_config(cfg: Config) -> None:
    """Raises ValueError for settings that cannot work."""
    for name in cfg.tasks:
        make_task(name, cfg.seed)
    if cfg.group % cfg.population:
        raise ValueError(
            f"population ({cfg.population}) must divide group ({cfg.group}): each prompt gets its share of rollouts"
        )
    for name in (
        "stage",
        "batch",
        "group",
        "cycle",
        "population",
        "anchor",
        "width",
        "substeps",
        "eval_every",
        "eval_questions",
    ):
        if getattr(cfg, name) < 1:
            raise ValueError(f"{name} must be at least 1, not {getattr(cfg, name)}")
    if cfg.steps < 0 or cfg.temperature <= 0 or cfg.minutes <= 0:
        raise ValueError("steps must not be negative; temperature and minutes must be above 0")


def fail(message: str) -> None:
    """End with one line on what was wrong and what would be right."""
    print(f"train.py: {message}", file=sys.stderr)
    raise SystemExit(2)


# ---------------------------------------------------------------------------------------------------------------------
# A run and its files
# ---------------------------------------------------------------------------------------------------------------------


def pick_device(name: str) -> str:
    """ "auto" -> the best device there is. Raises ValueError for one that is not there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return next(device for device in there if there[device])
    if not there[name]:
        raise ValueError(f"--device {name}: this machine has none; use --device auto")
    return name


class Run:
    """The state of a run between two gradient steps, and its folder."""

    def __init__(self, cfg: Config):
        """Opens a new folder for the run, or goes back to the last checkpoint in the one it resumes."""
        self.cfg, self.device = cfg, pick_device(cfg.device)
        contents = load_checkpoint(Path(cfg.base))
        self.base, self.policy = (GPT(GPTConfig(**contents["model_config"])).to(self.device) for _ in range(2))
        for model in (self.base, self.policy):
            model.load_state_dict(contents["model"])
        self.base.requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.policy.parameters(), lr=cfg.lr, betas=(0.9, 0.999), weight_decay=0.0)
        self.population = Population(cfg.population, cfg.seed)
        self.tasks = [make_task(name, cfg.seed + i) for i, name in enumerate(cfg.tasks)]
        self.step = self.rollouts = 0
        self.shown: dict[str, str] = {}  # the prompt that was printed last
        self.stop = False  # Ctrl-C was pressed
        self.out = self.open_folder()
        if cfg.resume:
            self.restore()

    def open_folder(self) -> Path:
        """The run's folder with its config.json. Raises ValueError where another run lives there."""
        cfg = self.cfg
        names = (
            [cfg.out]
            if cfg.out
            else [f"out/{cfg.method}-{'-'.join(cfg.tasks)}-seed{cfg.seed}-{i}" for i in range(1, 1000)]
        )
        out = next((Path(n) for n in names if cfg.resume or not (Path(n) / "config.json").exists()), None)
        if out is None:
            raise ValueError(
                f"--out {cfg.out} holds another run: choose another folder, or go on with --resume {cfg.out}"
            )
        out.mkdir(parents=True, exist_ok=True)
        temporary = out / "config.json.tmp"
        temporary.write_text(json.dumps(dataclasses.asdict(cfg) | {"resume": "", "out": str(out)}, indent=1))
        os.replace(temporary, out / "config.json")
        return out

    def task_at(self, step: int) -> int:
        """The index of the stream's task that a step trains on."""
        return min(step // self.cfg.stage, len(self.tasks) - 1)

    def generate(self, model: GPT, *purpose):
        """The model as a function that samples; its noise is a function of (seed, step, purpose)."""
        key = random.Random(repr((self.cfg.seed, self.step, *purpose))).getrandbits(63)
        return generator_of(model, self.cfg.temperature, torch.Generator(self.device).manual_seed(key))

    def best(self) -> dict[str, str]:
        """The prompt to evaluate: the population's best, or for `rl` the seed prompt."""
        return {} if self.cfg.method == "rl" else self.population.candidates[0].rules

    def log(self, kind: str, **figures) -> None:
        """Append one line to log.jsonl; the README explains the figures."""
        figures = {k: round(v, 6) if isinstance(v, float) else v for k, v in figures.items()}
        line = {"kind": kind, "step": self.step, "task": self.task_at(self.step), "rollouts": self.rollouts} | figures
        with open(self.out / "log.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")

    def say(self, words: str) -> None:
        """Print above the bar, and append to samples.txt."""
        tqdm.write(words)
        with open(self.out / "samples.txt", "a") as file:
            file.write(f"[step {self.step}] {words}\n")

    def save(self) -> None:
        """A checkpoint to go on from as if the run had never stopped. The sizes of the logs undo what came later."""
        sizes = {}
        for name in ("log.jsonl", "samples.txt"):
            with open(self.out / name, "a") as file:
                os.fsync(file.fileno())
                sizes[name] = file.tell()
        plain = {"step": self.step, "rollouts": self.rollouts, "shown": self.shown, "sizes": sizes}
        parts = {"model": self.policy, "optimizer": self.optimizer, "population": self.population}
        save_checkpoint(self.out / "checkpoint.pt", plain | {name: part.state_dict() for name, part in parts.items()})

    def restore(self) -> None:
        """Go back to the last checkpoint, and the logs with it."""
        contents = load_checkpoint(self.out / "checkpoint.pt")
        self.policy.load_state_dict(contents["model"])
        self.optimizer.load_state_dict(contents["optimizer"])
        self.population.load_state_dict(contents["population"])
        self.step, self.rollouts, self.shown = contents["step"], contents["rollouts"], contents["shown"]
        for name, size in contents["sizes"].items():
            os.truncate(self.out / name, size)


# ---------------------------------------------------------------------------------------------------------------------
# The fast-slow loop
# ---------------------------------------------------------------------------------------------------------------------


def fast_phase(run: Run, questions: list) -> None:
    """Evolve the prompts on the questions that the coming gradient steps train on; their head is the anchor set."""
    cfg, turns = run.cfg, itertools.count()

    def run_jobs(jobs):
        outcomes = answer(run.generate(run.policy, "fast", next(turns)), jobs).outcomes
        n = len(jobs[0][1])
        return [outcomes[i : i + n] for i in range(0, len(outcomes), n)]

    def run_reflections(requests):
        reflector = run.policy if cfg.reflector == "self" else run.base
        return reflect(run.generate(reflector, "fast", next(turns)), requests)

    anchor, settings = questions[: cfg.anchor], {"width": cfg.width, "prune": cfg.prune}
    report = evolve(run.population, anchor, run_jobs, run_reflections, cfg.passes * len(anchor), **settings)
    run.rollouts += report.calls
    figures = {"calls": report.calls, "proposed": report.proposed, "accepted": report.accepted, "merged": report.merged}
    run.log("fast", **figures, population=[[c.rules, round(c.mean, 4)] for c in run.population.candidates])
    for topic in sorted(set(run.best()) | set(run.shown)):
        old, new = run.shown.get(topic, "none"), run.best().get(topic, "none")
        if old != new:
            change = next((c for c in report.changes if (c.topic, c.new) == (topic, new)), None)
            gain = f"   (anchor score {change.mean_before:.2f} -> {change.mean_after:.2f})" if change else ""
            run.say(f"{topic}: {old}  ->  {new}{gain}")
    run.shown = dict(run.best())


def slow_step(run: Run, questions: list) -> None:
    """One batch of rollouts under the population's prompts (for `rl`: the seed prompt), one update of the weights."""
    cfg, start = run.cfg, time.perf_counter()
    prompts = [{}] if cfg.method == "rl" else run.population.prompts(cfg.population)
    K, B, G = len(prompts), len(questions), cfg.group // len(prompts)
    answers = answer(run.generate(run.policy, "slow"), [(rules, questions) for rules in prompts], samples=G)
    run.rollouts += K * B * G
    rewards = torch.tensor([outcome.score for outcome in answers.outcomes])  # (R,), rows ordered (k, b, g)
    groups = torch.arange(K * B * G).view(K, B, G).transpose(0, 1).reshape(B, K * G)  # a question's rows, all prompts
    for group in run.optimizer.param_groups:
        group["lr"] = cfg.lr * min(1.0, (run.step + 1) / max(cfg.warmup, 1))
    settings = {"temperature": cfg.temperature, "kl_coef": cfg.kl_coef, "substeps": cfg.substeps}
    rollouts = answers.contexts, answers.completions, answers.logprobs
    figures = rl.update(run.policy, run.base, run.optimizer, *rollouts, rewards, groups, **settings)
    entropy = -answers.logprobs.sum().item() / sum(map(len, answers.completions))  # estimated from the samples
    run.step += 1
    run.log("slow", reward=rewards.mean().item(), entropy=entropy, **figures, seconds=time.perf_counter() - start)


@torch.no_grad()
def evaluate(run: Run, model: GPT, task: Task, rules: dict[str, str]) -> tuple[float, float, str]:
    """Validation accuracy, KL to the base on the same contexts (k3, nats per token), and a transcript."""
    questions = task.questions(random.Random(f"validation {run.cfg.seed}"), run.cfg.eval_questions, validation=True)
    noise = torch.Generator(run.device).manual_seed(run.cfg.seed)  # the same every time
    answers = answer(generator_of(model, run.cfg.temperature, noise), [(rules, questions)])
    sequences = answers.contexts, answers.completions, run.cfg.temperature
    logprobs, base_logprobs = rl.score(model, *sequences), rl.score(run.base, *sequences)
    kl = rl.kl_estimate(logprobs, base_logprobs, "k3").sum().item() / sum(map(len, answers.completions))
    verdict = "right" if answers.outcomes[0].score else f"wrong, {questions[0].want} is right"
    transcript = f"{text.decode(answers.contexts[0][1:])}{answers.texts[0]}   [{verdict}]"
    return sum(outcome.score for outcome in answers.outcomes) / len(questions), kl, transcript


def evaluate_stream(run: Run) -> None:
    """Log the validation accuracy on every task of the stream; show a transcript of the current one."""
    for i, task in enumerate(run.tasks):
        accuracy, kl, transcript = evaluate(run, run.policy, task, run.best())
        run.log("eval", val_task=i, val_acc=accuracy, kl_base=kl, prompt=run.best())
        if i == run.task_at(run.step):
            shown = transcript.replace("\n", "\n    ")
            run.say(
                f"step {run.step}: validation {accuracy:.2f}, {run.rollouts} rollouts so far. One of them:\n    {shown}"
            )


def train(run: Run) -> None:
    """The loop: look ahead, fast phase, slow steps on exactly the questions looked at, evaluate, save."""
    cfg = run.cfg
    bar = tqdm(total=cfg.steps, initial=run.step, unit="step", desc=cfg.method)
    if run.step == 0:
        evaluate_stream(run)
        run.save()
    while run.step < cfg.steps and not run.stop:
        first = run.step - run.step % cfg.cycle  # of this cycle; a resumed run draws the same questions again
        batches = []
        for step in range(first, first + cfg.cycle):
            task = run.tasks[run.task_at(step)]
            batches.append(task.questions(random.Random(f"questions {cfg.seed} {step}"), cfg.batch))
        if cfg.method != "rl" and run.step == first:
            fast_phase(run, [question for batch in batches for question in batch])
        if cfg.method != "gepa":
            slow_step(run, batches[run.step - first])
        else:
            run.step += 1
        bar.update()
        if run.step % cfg.eval_every == 0:
            evaluate_stream(run)
            run.save()
    bar.close()
    run.save()


def closing_table(run: Run) -> None:
    """What each channel is worth, for the stream's last task; also written to result.json."""
    task = run.tasks[-1]
    print(f"\n{'validation accuracy':22}{'seed prompt':>14}{'evolved prompt':>17}")
    result = {"rollouts": run.rollouts, "hidden": task.instructions, "evolved": run.best(), "accuracy": {}}
    for name, model in (("base weights", run.base), ("trained weights", run.policy)):
        cells = [evaluate(run, model, task, rules) for rules in ({}, run.best())]
        result["accuracy"][name] = [accuracy for accuracy, _, _ in cells]
        result["kl_base"] = [kl for _, kl, _ in cells]
        print(f"{name:22}{cells[0][0]:14.3f}{cells[1][0]:17.3f}")
    print("{:22}{:14.4f}{:17.4f}   nats per token".format("KL to the base", *result["kl_base"]))
    print(f"\n{'topic':8}{'hidden rule':26}evolved instruction")
    for topic, rule in task.instructions.items():
        print(f"{topic:8}{rule:26}{run.best().get(topic, 'none')}")
    (run.out / "result.json").write_text(json.dumps(result, indent=1))
    print(f"\n{run.rollouts} rollouts, all counted. The run is in {run.out}")


def prepare_base(cfg: Config) -> None:
    """Train the base where --pretrain asks for it, or where there is none that knows today's vocabulary."""
    path, minutes = Path(cfg.base), cfg.minutes
    if not cfg.pretrain:
        minutes = min(minutes, QUICK_MINUTES)
        if path.exists():
            if load_checkpoint(path).get("vocabulary") == text.fingerprint():
                return
            path.rename(path.with_suffix(".other-vocabulary"))
            print(f"{path} knows another vocabulary (it is kept beside); training a base, {minutes:g} minutes")
        else:
            print(f"there is no base at {path}; training one, {minutes:g} minutes")
    settings = {"minutes": minutes, "batch": cfg.documents, "seed": cfg.seed, "compile": cfg.compile}
    pretrain(path, pick_device(cfg.device), **settings)


def main(argv: list[str] | None = None) -> None:
    try:
        cfg = parse_config(argv)
        check_config(cfg)
        prepare_base(cfg)
        if cfg.pretrain:
            return
        run = Run(cfg)
    except (ValueError, OSError) as error:
        fail(str(error))

    def interrupt(*_):
        run.stop = True
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second Ctrl-C ends it at once

    signal.signal(signal.SIGINT, interrupt)
    train(run)
    if run.stop:
        print(f"stopped after step {run.step}; go on with: python train.py --resume {run.out}")
    else:
        closing_table(run)


if __name__ == "__main__":
    main()
