"""Fast-slow training, start to end: pretrain a tiny base, then let two channels learn a hidden task.

    python train.py                       fst on the strings domain with the shipped base, a few minutes on a laptop
    python train.py --method rl           slow weights only: policy gradient under the seed prompt
    python train.py --method gepa         fast weights only: prompt evolution under frozen weights
    python train.py --pretrain            train the base itself

Read from the bottom: `main` -> `train` (the loop) -> `fast_phase` and `slow_step`; the settings are in config.py. Every
random draw of a run is a function of (seed, step, purpose), so resuming needs no generator state but the population's.

Left out of the paper's set-up: asynchronous rollouts and several nodes (one process does all in turn), truncation
penalties (answers are short), and a separate, larger model as reflector (the policy reflects on itself).
"""

import copy
import dataclasses
import itertools
import json
import math
import os
import random
import shutil
import signal
import time
import zlib
from pathlib import Path

import torch
from tqdm import tqdm

import rl
from config import Config, check_config, fail, parse_config
from fast_context import Population, evolve
from model import GPT, GPTConfig, load_checkpoint, save_checkpoint, write_file
from pretrain import generator_of, pretrain
from tasks import Task, make_task, text
from tasks.dialogue import ANSWER_TOKENS, REFLECTION_TOKENS, answer, reflect, tokens_of

try:
    import fcntl
except ImportError:  # Windows: there, nothing keeps a second process out of a run's folder
    fcntl = None

QUICK_MINUTES = 12  # pretraining when a run finds no base
PATIENCE = 5  # steps in a row with numbers that are not finite, until a run gives up


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


def prepare_base(cfg: Config) -> None:
    """Train the base where --pretrain asks for it, or where the default one is missing or knows another vocabulary.

    Raises ValueError for any other base that cannot be used.
    """
    path, minutes = Path(cfg.base), cfg.minutes
    if not cfg.pretrain:
        begun = cfg.resume and (Path(cfg.resume) / "checkpoint.pt").exists()  # that cannot go on with a new base
        ours = cfg.base in (Config.base, f"{cfg.out}/base.pt") and not begun  # the second is that of --smoke
        contents = {} if ours and not path.exists() else load_checkpoint(path)
        if contents.get("vocabulary") == text.fingerprint():
            return
        found = f"the base {path} " + ("knows another vocabulary" if contents else "is not there yet")
        if not ours:
            raise ValueError(f"{found}, or is none; train one with --pretrain --base OTHER")
        minutes = min(minutes, QUICK_MINUTES)
        print(f"{found}: training one, {minutes:g} minutes")
    if path.exists():
        kept = path.with_name(f"{path.stem}-{zlib.crc32(path.read_bytes()):08x}{path.suffix}")
        shutil.copy2(path, kept)
        print(f"the base {path} is kept as {kept}")
    settings = {"minutes": minutes, "batch": cfg.documents, "seed": cfg.seed, "compile": cfg.compile}
    pretrain(path, pick_device(cfg.device), **settings)


class Run:
    """The state of a run between two gradient steps, and its folder."""

    def __init__(self, cfg: Config):
        """Opens a new folder for the run, or goes back to the last checkpoint in the one it resumes."""
        self.cfg, self.device = cfg, pick_device(cfg.device)
        self.open_folder()
        prepare_base(cfg)
        contents = load_checkpoint(Path(cfg.base))
        self.base = GPT(GPTConfig(**contents["model_config"])).to(self.device).requires_grad_(False)
        self.base.load_state_dict(contents["model"])
        self.base_sum = zlib.crc32(Path(cfg.base).read_bytes())
        self.policy = copy.deepcopy(self.base).requires_grad_()
        self.optimizer = torch.optim.AdamW(self.policy.parameters(), lr=cfg.lr, betas=(0.9, 0.999), weight_decay=0.0)
        self.population = Population(cfg.population, cfg.seed)
        self.tasks = [make_task(name, cfg.seed + i) for i, name in enumerate(cfg.tasks)]
        self.check_context()
        self.step = self.rollouts = 0
        self.skipped = self.streak = 0  # steps whose numbers were not finite: in all, and the latest in a row
        self.shown: dict[str, str] = {}  # the prompt that was printed last
        self.stop = False  # Ctrl-C was pressed
        self.restore()
        saved = dataclasses.asdict(cfg) | {"resume": "", "smoke": False, "out": str(self.out)}
        write_file(self.out / "config.json", json.dumps(saved, indent=1).encode())

    def open_folder(self) -> None:
        """Find or make the run's folder, and lock it until this process ends. Raises ValueError where it is taken."""
        cfg = self.cfg
        stem = f"out/{cfg.method}-{'-'.join(cfg.tasks)}-seed{cfg.seed}"
        names = [cfg.out] if cfg.out else (f"{stem}-{i}" for i in itertools.count(1))
        for name in names:
            self.out = Path(name)
            if cfg.resume or not any((self.out / file).exists() for file in ("config.json", "checkpoint.pt")):
                break
        else:
            raise ValueError(f"--out {cfg.out} holds another run: choose another, or go on with --resume {cfg.out}")
        self.out.mkdir(parents=True, exist_ok=True)
        self.lock = open(self.out / "lock", "w")  # noqa: SIM115 (held as long as the run lives)
        try:
            if fcntl:  # the system takes this lock back however the process ends
                fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another process is at work in {self.out}: wait, or choose another --out") from None

    def check_context(self) -> None:
        """Raises ValueError where the longest texts of a task would not fit the model."""
        worst = " ".join(3 * ["z" * 20])  # an instruction of no known words: every letter is a token
        for task in self.tasks:
            questions = [task.question(random.Random(i)) for i in range(100)]
            ask, want = max((q.ask for q in questions), key=len), max((q.want for q in questions), key=len)
            solving = text.prompt_text(dict.fromkeys(task.rules, worst)) + text.question_text("red", ask)
            reflecting = text.reflection_text("red", worst, 3 * [(ask, "z" * (2 * len(want) + 8), want)])
            need = max(len(tokens_of(solving)) + ANSWER_TOKENS, len(tokens_of(reflecting)) + REFLECTION_TOKENS)
            if need > (room := self.base.cfg.block_size):
                raise ValueError(
                    f"the texts of {task.domain.name} can take {need} tokens, the base {self.cfg.base} reads {room}: "
                    "pretrain one with a longer context"
                )

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

    def log(self, kind: str, task: int, **figures) -> None:
        """Append one line to log.jsonl; the README explains the figures."""
        for name, value in figures.items():
            if isinstance(value, float):
                figures[name] = round(value, 6) if math.isfinite(value) else None  # JSON knows no NaN
        line = {"kind": kind, "step": self.step, "task": task, "rollouts": self.rollouts} | figures
        with open(self.out / "log.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")

    def say(self, words: str) -> None:
        """Print above the bar, and append to samples.txt. What the model wrote must not steer a terminal."""
        words = "".join(c if c == "\n" or " " <= c <= "~" else "?" for c in words)
        tqdm.write(words)
        with open(self.out / "samples.txt", "a") as file:
            file.write(f"[step {self.step}] {words}\n")

    def parts(self) -> dict:
        """What a checkpoint holds the state of."""
        return {"model": self.policy, "optimizer": self.optimizer, "population": self.population}

    def save(self) -> None:
        """A checkpoint to go on from as if the run had never stopped. The sizes of the logs undo what came later."""
        if self.streak:
            return  # the weights may be why the last step failed: keep the checkpoint from before
        sizes = {}
        for name in ("log.jsonl", "samples.txt"):
            with open(self.out / name, "a") as file:
                os.fsync(file.fileno())
                sizes[name] = file.tell()
        plain = {"step": self.step, "rollouts": self.rollouts, "skipped": self.skipped, "shown": self.shown}
        state = plain | {name: part.state_dict() for name, part in self.parts().items()}
        save_checkpoint(self.out / "checkpoint.pt", state | {"sizes": sizes, "base": self.base_sum})

    def restore(self) -> None:
        """Go back to the last checkpoint, and the logs with it; where there is none yet, to the beginning."""
        path, sizes = self.out / "checkpoint.pt", {"log.jsonl": 0, "samples.txt": 0}
        self.begun = bool(self.cfg.resume) and path.exists()
        if self.begun:
            saved = load_checkpoint(path)
            if saved.get("base") != self.base_sum:
                raise ValueError(f"{path} is of a run that began with another base than {self.cfg.base}, or of no run")
            for name, part in self.parts().items():
                part.load_state_dict(saved[name])
            self.step, self.rollouts, self.skipped = saved["step"], saved["rollouts"], saved["skipped"]
            self.shown, sizes = saved["shown"], saved["sizes"]
        for file, size in ((self.out / name, size) for name, size in sizes.items()):
            file.touch()
            there = file.read_bytes()
            orphan = not self.begun and (b'"slow"' in there or b'"fast"' in there)  # its checkpoint is gone
            if len(there) < size or orphan or (there and not self.cfg.resume):
                raise ValueError(
                    f"{file} does not fit the last checkpoint: put the one or the other back, or start in another --out"
                )
            os.truncate(file, size)


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
    population = [[c.rules, round(c.mean, 4)] for c in run.population.candidates]
    figures = {"calls": report.calls, "proposed": report.proposed, "accepted": report.accepted}
    run.log("fast", run.task_at(run.step), **figures, population=population)
    for topic in sorted(set(run.best()) | set(run.shown)):
        old, new = run.shown.get(topic, "none"), run.best().get(topic, "none")
        if old != new:
            change = next((c for c in report.changes if (c.topic, c.new) == (topic, new)), None)
            gain = f"   (anchor score {change.mean_before:.2f} -> {change.mean_after:.2f})" if change else ""
            run.say(f"{topic}: {old}  ->  {new}{gain}")
    run.shown = dict(run.best())


def slow_step(run: Run, questions: list) -> float:
    """One batch of rollouts under the population's prompts (for `rl`: the seed prompt), one update -> mean reward."""
    cfg, start, task = run.cfg, time.perf_counter(), run.task_at(run.step)
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
    figures = {"kl_base": None, "grad_norm": math.nan, "dropped_groups": 0}  # of a step that is skipped
    if rewards.isfinite().all() and answers.logprobs.isfinite().all():
        figures = rl.update(run.policy, run.base, run.optimizer, *rollouts, rewards, groups, **settings)
    skipped = not math.isfinite(figures["grad_norm"] or 0.0)  # None: there was nothing to learn from
    run.skipped, run.streak = run.skipped + skipped, run.streak + 1 if skipped else 0
    entropy = -answers.logprobs.sum().item() / sum(map(len, answers.completions))  # estimated from the samples
    run.step += 1
    figures |= {"skipped": run.skipped, "seconds": time.perf_counter() - start}
    run.log("slow", task, reward=rewards.mean().item(), entropy=entropy, **figures)
    return rewards.mean().item()


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


def evaluate_stream(run: Run) -> float:
    """Log the validation accuracy on every task of the stream -> that on the current one, shown with a transcript."""
    for i, task in enumerate(run.tasks):
        accuracy, kl, transcript = evaluate(run, run.policy, task, run.best())
        run.log("eval", i, val_acc=accuracy, kl_base=kl, prompt=run.best())
        if i == run.task_at(run.step):
            current, shown = accuracy, transcript.replace("\n", "\n    ")
            run.say(f"step {run.step}: validation {accuracy:.2f}, {run.rollouts} rollouts. One of them:\n    {shown}")
    return current


def train(run: Run) -> None:
    """The loop: look ahead, fast phase, slow steps on exactly the questions looked at, evaluate, save."""
    cfg, reward, accuracy = run.cfg, "-", "-"
    with tqdm(total=cfg.steps, initial=run.step, unit="step", desc=cfg.method) as bar:
        if not run.begun:
            accuracy = evaluate_stream(run)
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
                reward = slow_step(run, batches[run.step - first])
            else:
                run.step += 1
            if run.step % cfg.eval_every == 0:
                accuracy = evaluate_stream(run)
                run.save()
            bar.set_postfix(reward=reward, validation=accuracy, rollouts=run.rollouts, refresh=False)
            bar.update()
            if run.streak == PATIENCE:
                raise FloatingPointError(
                    f"rewards or gradients were not finite in {PATIENCE} steps on end, the last is step {run.step}: "
                    f"try an --lr below {cfg.lr:g}"
                )
    run.save()


def closing_table(run: Run) -> None:
    """What each channel is worth, for the stream's last task; also written to result.json."""
    task, models = run.tasks[-1], {"base weights": run.base, "trained weights": run.policy}
    result = {"rollouts": run.rollouts, "hidden": task.instructions, "evolved": run.best(), "accuracy": {}}
    print(f"\n{'validation accuracy':22}{'seed prompt':>14}{'evolved prompt':>17}")
    for name, model in models.items():
        cells = [evaluate(run, model, task, rules) for rules in ({}, run.best())]
        result["accuracy"][name] = [accuracy for accuracy, _, _ in cells]
        result["kl_base"] = [kl for _, kl, _ in cells]  # in the end that of the trained weights
        print(f"{name:22}{cells[0][0]:14.3f}{cells[1][0]:17.3f}")
    print("{:22}{:14.4f}{:17.4f}   nats per token".format("KL to the base", *result["kl_base"]))
    print(f"\n{'topic':8}{'hidden rule':26}evolved instruction")
    for topic, rule in task.instructions.items():
        print(f"{topic:8}{rule:26}{run.best().get(topic, 'none')}")
    write_file(run.out / "result.json", json.dumps(result, indent=1).encode())
    print(f"\n{run.rollouts} rollouts, all counted. The run is in {run.out}")


def main(argv: list[str] | None = None) -> None:
    try:
        cfg = parse_config(argv)
        check_config(cfg)
        if cfg.pretrain:
            return prepare_base(cfg)
        run = Run(cfg)
    except (ValueError, OSError) as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("stopped; what was pretrained is kept, the same command goes on from there")

    def interrupt(*_):
        run.stop = True
        os.write(2, b"\nstopping after this step; a second Ctrl-C stops at once\n")
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, interrupt)
    go_on = f"go on from the last checkpoint with: python train.py --resume {run.out}"
    try:
        train(run)
        if run.stop:
            print(f"stopped after step {run.step}; {go_on}")
        else:
            closing_table(run)
    except (OSError, FloatingPointError) as error:
        fail(f"{error}; {go_on}")
    except KeyboardInterrupt:
        fail(f"stopped at once; {go_on}")
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        run.lock.close()


if __name__ == "__main__":
    main()
