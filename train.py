"""Fast-slow training, start to end: two channels learn a hidden task.

    python train.py                       fst: both channels, on three tasks in turn
    python train.py --method rl           slow weights only: policy gradient under the seed prompt
    python train.py --method gepa         fast weights only: prompt evolution under frozen weights
    python train.py --method distill      fast weights as teacher: the prompt moves into the weights
    python train.py --tasks facts         another task, or others in turn
    python train.py --pretrain            train the base itself
    torchrun --nproc_per_node=2 train.py  the same run, its rollouts split over two processes

Read from the top: the settings, the learner's state, then the cycle: `train`, `fast_phase`,
`slow_step`. The pieces are in fast_context.py (prompts), rl.py (weights), sampling.py and model.py;
what the learner may ask of its world is in tasks/world.py. Every random draw of a run is a function
of (seed, step, purpose), so a resumed run needs no generator state but the population's.

Left out of the paper's set-up: asynchronous rollouts (sampling and updates take turns), truncation
penalties (answers are short), and a separate, larger model as reflector (the policy reflects).
"""

import copy
import dataclasses
import itertools
import json
import math
import random
import time
from dataclasses import dataclass

import torch

import rl
from base.prepare import SHIPPED, check_tasks, corpus_domains, open_base, prepare_base
from fast_context import Population, evolve
from model import completion_logprobs
from plumbing import command_line
from plumbing.command_line import setting
from plumbing.devices import has_compiler, pick_device
from plumbing.folder import RunFolder
from sampling import Sampler, contexts_of, decoder

METHODS = ("fst", "rl", "gepa", "distill")
WARMUP = 10  # gradient steps over which the learning rate rises
PATIENCE = 5  # steps in a row with numbers that are not finite, until a run gives up

# --- settings ---


@dataclass
class Config:
    """Every setting of a run; the command line is made of these fields."""

    method: str = setting(
        "fst",
        "fst: both channels; rl: weights; gepa: prompts; distill: prompts into weights",
        METHODS,
    )
    tasks: tuple = setting(
        ("strings", "numbers", "facts"),
        "tasks, one after the other; with --pretrain: of the corpus",
    )
    stage: int = setting(30, "gradient steps before the stream moves on to its next task", low=1)
    steps: int = setting(
        90, "gradient steps in all; if not given, a stage for each task", low=0, may_change=True
    )
    seed: int = setting(0, "of the tasks' hidden rules, the questions and all sampling", low=0)
    out: str = setting("", "folder of the run; default: a new one under out/")
    resume: str = setting("", "folder of a run to go on with")
    base: str = setting(
        SHIPPED, "checkpoint of the base; the default one is made if it is missing", may_change=True
    )
    prompt: str = setting(
        "", "file with the prompt to begin with; default: one without instructions", is_file=True
    )
    device: str = setting("auto", "where to run", ("auto", "cpu", "cuda", "mps"), may_change=True)
    compile: bool = setting(
        False,
        "compile the sampler: faster after some minutes; needs a C++ compiler",
        may_change=True,
    )
    # slow weights
    batch: int = setting(32, "questions per gradient step", low=1)
    group: int = setting(8, "rollouts per question, judged against each other", low=2)
    lr: float = setting(3e-4, "learning rate of AdamW", low=0, may_change=True)
    kl_coef: float = setting(0.001, "weight of the KL penalty towards the base", low=0)
    substeps: int = setting(1, "updates per batch; more than one uses CISPO's weights", low=1)
    temperature: float = setting(1.0, "of all sampling in training and evaluation", low=0.01)
    # fast weights
    cycle: int = setting(6, "gradient steps between fast phases", low=1)
    population: int = setting(4, "prompts kept; must divide group", low=1)
    anchor: int = setting(48, "questions of the cycle that prompts are scored on", low=1)
    passes: int = setting(10, "budget of a fast phase, in passes over the anchor questions", low=0)
    reflector: str = setting(
        "self", "who reflects: the policy or the frozen base", ("self", "base")
    )
    # evaluation
    eval_every: int = setting(
        15, "steps between evaluations and checkpoints", low=1, may_change=True
    )
    eval_questions: int = setting(256, "validation questions, never trained on", low=1)
    skills: bool = setting(False, "also measure at every evaluation what the base could do before")
    # pretraining
    pretrain: bool = setting(False, "train the base and stop; goes on where it was interrupted")
    minutes: float = setting(110.0, "length of pretraining", low=0.01)
    documents: int = setting(48, "documents per step of pretraining", low=1)
    smoke: bool = setting(False, "the whole path at toy size, with pretraining, in under a minute")

    @staticmethod
    def fill_in(given: dict) -> dict:
        """The settings that were given, and those that follow from them."""
        if given.get("pretrain"):
            given = {"tasks": corpus_domains()} | given
        stage = given.get("stage", Config.stage)
        tasks = given.get("tasks", Config.tasks)
        return {"steps": stage * len(tasks)} | given


SMOKE = {
    "steps": 4,
    "cycle": 2,
    "batch": 8,
    "group": 4,
    "population": 2,
    "anchor": 8,
    "passes": 3,
    "eval_every": 2,
    "eval_questions": 16,
    "minutes": 0.1,
    "documents": 32,
}
MOVED = {"checkpoints/base.pt": SHIPPED}  # where a base that an older run began with is now


# --- the learner's state ---


class Learner:
    """All that a run changes (weights, prompts, counters), and what it learns from."""

    def __init__(self, cfg: Config, base, folder: RunFolder):
        """base: see base.prepare.open_base. Raises ValueError for settings that do not fit it."""
        self.cfg = cfg
        self.folder = folder
        self.origin = base
        self.world = base.world

        # Slow weights: the policy starts as a copy of the base, which stays as it is.
        self.device = pick_device(cfg.device)
        self.base = base.model.to(self.device).requires_grad_(False)
        self.policy = copy.deepcopy(self.base).requires_grad_()
        self.optimizer = torch.optim.AdamW(
            self.policy.parameters(), lr=cfg.lr, betas=(0.9, 0.999), weight_decay=0.0
        )
        self.decode = decoder(cfg.compile, self.device)

        # Fast weights: a population of prompts, which starts with the seed prompt.
        self.seed_prompt = self.world.parse_prompt(cfg.prompt)  # without --prompt it is empty
        self.population = Population(cfg.population, cfg.seed, self.seed_prompt)

        # The stream of tasks. The validation questions are the same at every evaluation.
        self.tasks = []
        self.validation = []
        for i, name in enumerate(cfg.tasks):
            task = self.world.make_task(name, cfg.seed + i)
            self.world.check_room(task, self.seed_prompt, self.base.cfg.block_size)
            rng = random.Random(f"validation {cfg.seed}")
            self.tasks.append(task)
            self.validation.append(task.questions(rng, cfg.eval_questions, validation=True))

        # Counters. Evaluations are not counted: nothing is learned from them.
        self.step = 0
        self.rollouts = 0  # sampled to learn from: answers and reflections
        self.tokens = 0  # of these rollouts
        self.skipped = 0  # steps not taken because a number was not finite
        self.streak = 0  # the latest of these in a row
        self.shown = dict(self.seed_prompt)  # the prompt that was printed last
        self.evolved = [self.seed_prompt for _ in self.tasks]  # each task's best prompt so far
        self.measured = {}  # evaluations, see `evaluate`

    def state_dict(self) -> dict:
        """What a checkpoint holds: all that cannot be made again from the settings."""
        return {
            "model": self.policy.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "population": self.population.state_dict(),
            "step": self.step,
            "rollouts": self.rollouts,
            "tokens": self.tokens,
            "skipped": self.skipped,
            "shown": self.shown,
            "evolved": self.evolved,
            "base": self.origin.checksum,
        }

    def load_state_dict(self, state: dict) -> None:
        """Raises ValueError for a state that does not fit; the message goes on after "<file> "."""
        if state.get("base") != self.origin.checksum:
            raise ValueError(f"is of a run that began with another base than {self.cfg.base}")
        self.policy.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.population.load_state_dict(state["population"], self.world.is_prompt)
        self.step = state["step"]
        self.rollouts = state["rollouts"]
        self.tokens = state["tokens"]
        self.skipped = state["skipped"]
        self.shown = state["shown"]
        self.evolved = state["evolved"]

    def save(self) -> None:
        """Write a checkpoint, unless the last step failed: its weights may be the reason."""
        if self.streak == 0:
            self.folder.save(self.state_dict())

    def task_at(self, step: int) -> int:
        """The index of the task that a step trains on: the stream moves on after every stage."""
        return min(step // self.cfg.stage, len(self.tasks) - 1)

    def questions_of(self, step: int) -> list:
        """The questions that a step trains on: a function of (seed, step), known ahead."""
        task = self.tasks[self.task_at(step)]
        rng = random.Random(f"questions {self.cfg.seed} {step}")
        return task.questions(rng, self.cfg.batch)

    def sampler(self, model, *purpose) -> Sampler:
        """A model to learn from; its noise is a function of (seed, step, purpose)."""
        key = random.Random(repr((self.cfg.seed, self.step, *purpose))).getrandbits(63)
        rng = torch.Generator(self.device).manual_seed(key)
        return Sampler(model, self.world, self.cfg.temperature, rng, self.decode)

    def log(self, kind: str, task: int, **figures) -> None:
        """Append a line to log.jsonl; docs/RUNS.md explains the figures."""
        line = {"kind": kind, "step": self.step, "task": task}
        line |= {"rollouts": self.rollouts, "tokens": self.tokens}
        self.folder.log(line | figures)

    def say(self, words: str) -> None:
        """Print above the progress bar, and append to samples.txt."""
        self.folder.say(self.step, words)


# --- one cycle ---


def train(learner: Learner, stop: command_line.StopOnCtrlC, begun: bool) -> None:
    """The loop: look ahead, fast phase, slow steps on the same questions, evaluation, checkpoint.

    begun: the run goes on from a checkpoint.
    """
    cfg = learner.cfg
    reward = "-"
    accuracy = "-"
    with learner.folder.bar(cfg.steps, learner.step, cfg.method) as bar:
        if not begun:
            accuracy = evaluate_stream(learner)
            learner.save()
        while learner.step < cfg.steps and not stop.requested(learner.device):
            # Fast phase: evolve the prompts on questions of the steps to come.
            if cfg.method != "rl" and learner.step % cfg.cycle == 0:
                ahead = []
                for step in range(learner.step, learner.step + cfg.cycle):
                    ahead += learner.questions_of(step)
                fast_phase(learner, ahead)
            learner.evolved[learner.task_at(learner.step)] = dict(learner.population.best)

            # Slow phase: one gradient step on a batch of questions.
            if cfg.method == "gepa":
                learner.step += 1
            else:
                reward = slow_step(learner, learner.questions_of(learner.step))

            if learner.step % cfg.eval_every == 0:
                accuracy = evaluate_stream(learner)
                learner.save()
            bar.set_postfix(
                reward=reward, validation=accuracy, rollouts=learner.rollouts, refresh=False
            )
            bar.update()
            if learner.streak == PATIENCE:
                raise FloatingPointError(
                    f"rewards or gradients were not finite in {PATIENCE} steps on end, "
                    f"the last is step {learner.step}: try an --lr below {cfg.lr:g}"
                )
    learner.save()


def fast_phase(learner: Learner, questions: list) -> None:
    """Evolve the prompts on the first of the coming questions, the anchor questions."""
    cfg = learner.cfg
    start = time.perf_counter()
    turns = itertools.count()  # each turn of the model has noise of its own

    def answer(jobs):
        sampler = learner.sampler(learner.policy, "fast", next(turns))
        outcomes = sampler.answer(jobs).outcomes
        learner.tokens += sampler.sampled_tokens
        n = len(outcomes) // len(jobs)
        return [outcomes[i * n : (i + 1) * n] for i in range(len(jobs))]

    def reflect(requests):
        reflector = learner.policy if cfg.reflector == "self" else learner.base
        sampler = learner.sampler(reflector, "fast", next(turns))
        proposals = sampler.reflect(requests)
        learner.tokens += sampler.sampled_tokens
        return proposals

    anchor = questions[: cfg.anchor]
    budget = cfg.passes * len(anchor)
    report = evolve(learner.population, anchor, answer, reflect, learner.world.is_prompt, budget)
    learner.rollouts += report.calls
    learner.log(
        "fast",
        learner.task_at(learner.step),
        calls=report.calls,
        reflections=report.reflections,
        proposed=report.proposed,
        accepted=len(report.accepted),
        merged=report.merged,
        population=[[c.prompt, round(c.mean, 4)] for c in learner.population.candidates],
        seconds=time.perf_counter() - start,
    )
    show_changes(learner, report)


def show_changes(learner: Learner, report) -> None:
    """Print how the best prompt has changed, line by line, with the reflection behind a change."""
    best = learner.population.best
    for topic in sorted(set(best) | set(learner.shown)):
        old = learner.shown.get(topic, "none")
        new = best.get(topic, "none")
        if old == new:
            continue
        words = f"{topic}: {old}  ->  {new}"
        for trial in report.accepted:
            if trial.topic == topic and trial.prompt[topic] == new:
                words += f"   (anchor score {trial.parent.mean:.2f} -> {trial.child.mean:.2f})"
                words += indented("\n" + learner.world.summary(trial.how))
                break
        learner.say(words)
    learner.shown = dict(best)


def slow_step(learner: Learner, questions: list) -> float:
    """One batch of rollouts, one update of the weights -> mean reward.

    `fst` samples under the prompts of the population, the others under the seed prompt.
    """
    cfg = learner.cfg
    start = time.perf_counter()
    task = learner.task_at(learner.step)

    # Every question is answered under every prompt, cfg.group times in all.
    prompts = [learner.seed_prompt]
    if cfg.method == "fst":
        prompts = learner.population.prompts(cfg.population)
    K = len(prompts)
    B = len(questions)
    G = cfg.group // K
    sampler = learner.sampler(learner.policy, "slow")
    answers = sampler.answer([(prompt, questions) for prompt in prompts], samples=G)
    learner.rollouts += K * B * G
    learner.tokens += sampler.sampled_tokens
    rewards = torch.tensor([outcome.score for outcome in answers.outcomes])  # (R,)

    # A group is all rollouts of a question, across prompts. Rows are ordered (k, b, g).
    rows = torch.arange(K * B * G).view(K, B, G)
    groups = rows.transpose(0, 1).reshape(B, K * G)

    # The learning rate rises over the first steps.
    for parameters in learner.optimizer.param_groups:
        parameters["lr"] = cfg.lr * min(1.0, (learner.step + 1) / WARMUP)
    figures = update_weights(learner, questions, answers, rewards, groups)

    # Count steps that were not taken because a number was not finite. (None: nothing to learn.)
    norm = figures["grad_norm"]
    failed = norm is not None and not math.isfinite(norm)
    learner.skipped += failed
    learner.streak = learner.streak + 1 if failed else 0
    learner.step += 1
    n_tokens = sum(map(len, answers.completions))
    learner.log(
        "slow",
        task,
        reward=rewards.mean().item(),
        entropy=-answers.logprobs.sum().item() / n_tokens,  # estimated from the samples
        **figures,
        skipped=learner.skipped,
        seconds=time.perf_counter() - start,
    )
    return rewards.mean().item()


def update_weights(learner: Learner, questions: list, answers, rewards, groups) -> dict:
    """Learn from a batch of answers -> figures for the log.

    `distill` does not learn from rewards: it learns to say without a prompt what the base says
    under the best one.
    """
    cfg = learner.cfg
    distills = cfg.method == "distill"
    if not (rewards.isfinite().all() and answers.logprobs.isfinite().all()):
        towards = "kl_teacher" if distills else "kl_base"
        return {towards: None, "grad_norm": math.nan, "dropped_groups": 0}
    if distills:
        return rl.distill(
            policy=learner.policy,
            teacher=learner.base,
            optimizer=learner.optimizer,
            contexts=answers.contexts,
            teacher_contexts=contexts_of(learner.world, [(learner.population.best, questions)]),
            completions=answers.completions,
            temperature=cfg.temperature,
        )
    return rl.update(
        policy=learner.policy,
        base=learner.base,
        optimizer=learner.optimizer,
        contexts=answers.contexts,
        completions=answers.completions,
        sampled_logprobs=answers.logprobs,
        rewards=rewards,
        groups=groups,
        temperature=cfg.temperature,
        kl_coef=cfg.kl_coef,
        substeps=cfg.substeps,
    )


# --- evaluation ---


@dataclass
class Evaluation:
    """How a model does on one task's validation questions under one prompt."""

    accuracy: float
    kl: float  # to the base, k3, nats per token
    transcript: str  # the first question and its answer


@torch.no_grad()
def evaluate(learner: Learner, model, task: int, prompt: dict) -> Evaluation:
    """Measure a model on a task of the stream. What is known already is not measured again."""
    cfg = learner.cfg
    world = learner.world
    questions = learner.validation[task]
    is_base = model is learner.base or cfg.method == "gepa"
    version = 0 if is_base else learner.step  # of the weights
    key = (task, version, world.prompt_text(prompt))
    if key in learner.measured:
        return learner.measured[key]

    # The noise is the same every time.
    rng = torch.Generator(learner.device).manual_seed(cfg.seed)
    sampler = Sampler(model, world, cfg.temperature, rng, learner.decode)
    answers = sampler.answer([(prompt, questions)])
    accuracy = sum(outcome.score for outcome in answers.outcomes) / len(questions)

    # Sampling has recorded the policy's log-probs; the base's are computed on the same answers.
    kl = 0.0
    if version:
        base_logprobs = completion_logprobs(
            learner.base, answers.contexts, answers.completions, cfg.temperature
        )  # (R, S)
        logprobs = answers.logprobs[:, : base_logprobs.size(1)]
        n_tokens = sum(map(len, answers.completions))
        kl = rl.kl_estimate(logprobs, base_logprobs, "k3").sum().item() / n_tokens

    right = answers.outcomes[0].score
    verdict = "right" if right else f"wrong, {questions[0].want} is right"
    given = world.prompt_text(prompt) + world.question_text(questions[0])
    transcript = f"{given}{answers.texts[0]}   [{verdict}]"
    learner.measured[key] = Evaluation(accuracy, kl, transcript)
    return learner.measured[key]


def evaluate_stream(learner: Learner) -> float:
    """Log the validation accuracy on the task trained on -> that accuracy.

    Measured under the best prompt (`distill`: the seed prompt) and under the seed prompt. Where a
    stage ends just now all tasks of the stream are measured.
    """
    cfg = learner.cfg
    current = learner.task_at(max(learner.step - 1, 0))
    indices = [current]
    if learner.step % cfg.stage == 0:
        indices = range(len(learner.tasks))
    if cfg.skills:
        learner.log("skills", current, **learner.origin.skills(learner.policy))

    prompt = learner.seed_prompt if cfg.method == "distill" else learner.population.best
    for i in indices:
        evaluation = evaluate(learner, learner.policy, i, prompt)
        neutral = evaluate(learner, learner.policy, i, learner.seed_prompt)
        learner.log(
            "eval",
            i,
            val_acc=evaluation.accuracy,
            kl_base=evaluation.kl,
            neutral_acc=neutral.accuracy,
            neutral_kl=neutral.kl,
            prompt=prompt,
        )
        if i == current:
            shown = evaluation
    about = f"step {learner.step}: {learner.tasks[current].name}"
    about += f", validation {shown.accuracy:.2f}, {learner.rollouts} rollouts"
    learner.say(f"{about}. One of them:{indented(chr(10) + shown.transcript)}")
    return shown.accuracy


def indented(words: str) -> str:
    """The same lines, moved to the right after the first."""
    return words.replace("\n", "\n    ")


def closing_table(learner: Learner) -> None:
    """What each channel is worth on every task, with the prompt it had then; also result.json.

    The trained weights go into weights.pt, from which another run can begin as its --base.
    """
    models = {"base weights": learner.base, "trained weights": learner.policy}
    results = []
    for i, task in enumerate(learner.tasks):
        evolved = learner.evolved[i]
        accuracy = {}
        kl = []  # in the end: of the trained weights
        for name, model in models.items():
            cells = [evaluate(learner, model, i, p) for p in (learner.seed_prompt, evolved)]
            accuracy[name] = [cell.accuracy for cell in cells]
            kl = [cell.kl for cell in cells]
        result = {"task": task.name, "hidden": task.instructions, "evolved": evolved}
        results.append(result | {"accuracy": accuracy, "kl_base": kl})

    for result in results:
        show_result(learner.folder, result)
    learner.folder.save_weights(learner.origin.about | {"model": learner.policy.state_dict()})
    summary = {"rollouts": learner.rollouts, "tasks": results}
    learner.folder.write("result.json", json.dumps(summary, indent=1).encode())
    learner.folder.show(
        f"\n{learner.rollouts} rollouts, all counted. The run is in {learner.folder.path}"
    )


def show_result(folder: RunFolder, result: dict) -> None:
    """Print the closing table of one task."""
    heading = result["task"] + ", validation"
    lines = ["", f"{heading:24}{'seed prompt':>14}{'evolved prompt':>17}"]
    for name, (seed, evolved) in result["accuracy"].items():
        lines.append(f"{name:24}{seed:14.3f}{evolved:17.3f}")
    seed_kl, evolved_kl = result["kl_base"]
    lines.append(f"{'KL to the base':24}{seed_kl:14.4f}{evolved_kl:17.4f}   nats per token")
    lines.append(f"{'topic':8}{'hidden rule':26}evolved instruction")
    for topic, rule in result["hidden"].items():
        lines.append(f"{topic:8}{rule:26}{result['evolved'].get(topic, 'none')}")
    folder.show("\n".join(lines))


# --- the program ---


def check_settings(cfg: Config) -> None:
    """Raises ValueError, with what would be right, for settings that do not fit together."""
    if not cfg.tasks or not all(isinstance(name, str) for name in cfg.tasks):
        raise ValueError(f"tasks must be names of domains, not {cfg.tasks!r}")
    check_tasks(cfg.tasks)
    if cfg.method == "fst" and cfg.group % cfg.population:
        raise ValueError(
            f"population ({cfg.population}) must divide group ({cfg.group}): "
            "each prompt gets its share of rollouts"
        )
    if cfg.compile and not has_compiler():
        raise ValueError("--compile needs a C++ compiler: install g++, or name another in CXX")


def main(argv: list[str] | None = None) -> None:
    with command_line.failures_in_one_line(if_stopped="stopped before the run had begun"):
        cfg = command_line.start(Config, argv, {"smoke": SMOKE}, MOVED)
        check_settings(cfg)
        if cfg.pretrain:
            return prepare_base(cfg)
        name = f"out/{cfg.method}-{'-'.join(cfg.tasks)}-seed{cfg.seed}"
        folder = RunFolder(cfg.out, name, cfg.resume)
        learner = Learner(cfg, open_base(cfg), folder)
        begun = folder.restore(learner)
        saved = dataclasses.asdict(cfg) | {"resume": "", "smoke": False, "out": str(folder.path)}
        folder.write("config.json", json.dumps(saved, indent=1).encode())

    go_on = f"go on from the last checkpoint with: python train.py --resume {folder.path}"
    stopped = f"stopped at once; {go_on}"
    with (
        folder,
        command_line.failures_in_one_line(stopped, go_on),
        command_line.StopOnCtrlC() as stop,
    ):
        train(learner, stop, begun)
        if learner.step >= cfg.steps:
            stop.done()  # all is saved
            closing_table(learner)
        else:
            folder.show(f"stopped after step {learner.step}; {go_on}")


if __name__ == "__main__":
    main()
