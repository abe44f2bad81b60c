"""Fast-slow training, start to end: two channels, prompts and weights, learn a hidden task.

    python train.py                       fst: both channels; three tasks, then the first again
    python train.py --method rl           slow weights only: policy gradient under the seed prompt
    python train.py --method gepa         fast weights only: prompt evolution under frozen weights
    python train.py --method distill      fast weights as teacher: the prompt moves into the weights
    python train.py --tasks facts         another task, or others in turn
    python train.py --pretrain            train the base itself
    torchrun --nproc_per_node=2 train.py  the same run, its rollouts split over two processes

Read from the top: the settings, the learner's state, then the cycle: `train`, `fast_phase`,
`slow_step`. The pieces are in fast_context.py (prompts), rl.py (weights), sampling.py and model.py;
what the learner may ask of its world is in tasks/world.py. Random draws depend on the seed, the
step and their purpose alone; only the population's generator lives on from step to step.

Left out of the paper's set-up: asynchronous rollouts (sampling and updates take turns), truncation
penalties (answers are short), and a separate, larger model as reflector (the policy reflects).
"""

if __name__ == "__main__":
    from plumbing import console

    console.prepare()  # first of all: the imports below take seconds

import copy
import itertools
import math
import random
import time
from dataclasses import dataclass
from statistics import fmean

import torch

import rl
import view
from base import prepare
from fast_context import FastPhase, Population, evolve
from model import completion_logprobs
from plumbing import command_line
from plumbing.command_line import setting
from plumbing.console import STARTING, resume_command
from plumbing.devices import pick_device
from plumbing.folder import RunFolder
from sampling import Sampler, contexts_of, decoder

METHODS = ("fst", "rl", "gepa", "distill")
WARMUP = 10  # gradient steps over which the learning rate rises
PATIENCE = 5  # steps in a row with numbers that are not finite, until a run gives up

# --- settings ---


@dataclass(kw_only=True)
class Config(prepare.BaseSettings):
    """Every setting of a run, with those of its base; the command line is made of these fields."""

    about = "Fast-slow training: a tiny GPT learns a hidden task in its weights and in its prompt."

    # What to train, on which tasks, for how long.
    method: str = setting(
        "fst",
        "fst: both channels; rl: weights; gepa: prompts; distill: prompts into weights",
        METHODS,
    )
    tasks: tuple = setting(
        ("strings", "numbers", "facts", "strings"),
        "tasks, one after the other; with --pretrain: the domains of the corpus",
    )
    stage: int = setting(30, "gradient steps before the stream moves on to its next task", low=1)
    steps: int = setting(
        120, "gradient steps in all; if not given, a stage for each task", low=0, may_change=True
    )
    seed: int = setting(0, "of the tasks' hidden rules, the questions and all sampling", low=0)
    # Where the run's files are, what it begins with, and what it runs on.
    out: str = setting("", "folder of the run; default: a new one under out/")
    resume: str = setting(
        "",
        "folder of a run to go on with; of its settings may change: "
        "base, steps, device, compile, lr, eval_every",
    )
    prompt: str = setting(
        "",
        "file with the prompt to begin with; default: one without instructions",
    )
    device: str = setting("auto", "where to run", ("auto", "cpu", "cuda", "mps"), may_change=True)
    compile: bool = setting(
        False,
        "compile the sampler: faster after some minutes; needs a C++ compiler",
        may_change=True,
    )
    # Slow weights: one gradient step on batch * group rollouts.
    batch: int = setting(32, "questions per gradient step", low=1)
    group: int = setting(8, "rollouts per question, judged against each other", low=2)
    lr: float = setting(3e-4, "learning rate of AdamW", low=0, may_change=True)
    kl_coef: float = setting(0.1, "weight of the KL penalty towards the base", low=0)
    substeps: int = setting(1, "updates per batch; more than one: CISPO, see rl.py", low=1)
    temperature: float = setting(1.0, "of all sampling in training and evaluation", low=0.01)
    # Fast weights: every `cycle` steps a phase of at most passes * anchor rollouts (after a
    # surprise three times as many).
    memory: int = setting(4, "prompts remembered from before a change of the task", low=0)
    surprise: bool = setting(True, "notice a change of the task, see fast_context.py")
    cycle: int = setting(6, "gradient steps between fast phases", low=1)
    population: int = setting(4, "prompts kept; must divide group", low=1)
    anchor: int = setting(48, "questions that prompts are scored on; as many are lessons", low=1)
    minibatch: int = setting(3, "questions on which a new prompt must beat its parent", low=1)
    passes: int = setting(
        10,
        "budget of a fast phase, in passes over the anchor questions; "
        "with fewer than population + 2 it soon proposes nothing",
        low=0,
    )
    reflector: str = setting(
        "self", "who reflects: the policy or the frozen base", ("self", "base")
    )
    # Evaluation, which learns nothing and is not counted.
    eval_every: int = setting(
        15, "steps between evaluations and checkpoints", low=1, may_change=True
    )
    eval_questions: int = setting(256, "validation questions, never trained on", low=1)
    greedy: bool = setting(False, "also measure accuracy with the likeliest answers")
    skills: bool = setting(False, "measure what is left of the base's skills, first and last")
    smoke: bool = setting(False, "the whole path at toy size, with pretraining, in under a minute")


# --- the learner's state ---

# What a checkpoint holds as it is, beside the states of policy, optimizer and population.
SAVED = ("step", "rollouts", "tokens", "skipped", "shown", "evolved", "at_end")


class Learner:
    """All that a run changes (weights, prompts, counters), and what it learns from."""

    def __init__(self, cfg: Config, origin, device, folder: RunFolder):
        """origin: see base.prepare.open_base. Raises ValueError for settings that do not fit it."""
        self.cfg = cfg
        self.folder = folder  # where the run's files are
        self.origin = origin  # a base.prepare.Base; self.base is its model
        self.world = origin.world

        # Slow weights: the policy starts as a copy of the base, which stays as it is.
        self.device = device
        self.base = origin.model.to(self.device).requires_grad_(False)
        self.policy = copy.deepcopy(self.base).requires_grad_()
        self.optimizer = torch.optim.AdamW(
            self.policy.parameters(), lr=cfg.lr, betas=(0.9, 0.999), weight_decay=0.0
        )
        self.decode = decoder(cfg.compile, self.device)

        # Fast weights: a population of prompts, which starts with the seed prompt.
        self.seed_prompt = self.world.parse_prompt(cfg.prompt)  # the text of the file, or empty
        self.population = Population(cfg.population, cfg.seed, self.seed_prompt, cfg.memory)

        # The stream of tasks. The validation questions are the same at every evaluation.
        self.tasks = []
        self.validation = []
        # A task that is named again is the same one; "strings:2" is another one of its domain.
        for name in cfg.tasks:
            task = self.world.make_task(name, cfg.seed)
            self.world.check_room(task, self.base.cfg.block_size)
            rng = random.Random(f"validation {cfg.seed}")
            self.tasks.append(task)
            self.validation.append(task.questions(rng, cfg.eval_questions, "validation"))

        # Counters. Evaluations are not counted: nothing is learned from them.
        self.step = 0  # gradient steps so far
        self.rollouts = 0  # sampled to learn from: answers and reflections
        self.tokens = 0  # of these rollouts
        self.skipped = 0  # steps not taken because a number was not finite
        self.streak = 0  # the latest of these in a row

        # What people are shown.
        self.shown = self.seed_prompt  # the prompt that was printed last
        self.evolved = [self.seed_prompt] * len(self.tasks)  # the prompt each was left with
        self.at_end = [None] * len(self.tasks)  # the accuracy last measured in its stage
        self.measured = {}  # evaluations, see `evaluate`

    def state_dict(self):
        """What a checkpoint holds: all that cannot be made again from the settings."""
        state = {name: getattr(self, name) for name in SAVED}
        state["model"] = self.policy.state_dict()
        state["optimizer"] = self.optimizer.state_dict()
        state["population"] = self.population.state_dict()
        state["base"] = self.origin.checksum  # another base would pull the weights elsewhere
        return state

    def load_state_dict(self, state):
        """Raises ValueError for a state that does not fit; the message goes on after "<file> "."""
        if state.get("base") != self.origin.checksum:
            raise ValueError(
                f"is of a run that began with another base than {self.cfg.llm or self.cfg.base}, "
                "or of no run"
            )
        self.policy.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.population.load_state_dict(state["population"], self.world.is_prompt)
        for name in SAVED:
            setattr(self, name, state[name])

    def save(self):
        """Write a checkpoint, unless the last step failed: its weights may be the reason."""
        if self.streak == 0:
            self.folder.save(self.state_dict())

    def task_at(self, step):
        """The index of the task that a step trains on: the stream moves on after every stage."""
        # After its last task a stream stays there.
        return min(step // self.cfg.stage, len(self.tasks) - 1)

    @property
    def trained_task(self):
        """The index of the task that the last step has trained on; before the first step, 0."""
        return self.task_at(max(self.step - 1, 0))

    @property
    def measured_prompt(self):
        """The prompt that the policy is measured under, beside the seed prompt."""
        # What distillation teaches must show without a prompt.
        return self.seed_prompt if self.cfg.method == "distill" else self.population.best

    def questions_of(self, step, n, purpose="questions"):
        """n questions that a step trains on: a function of (seed, step), known ahead.

        purpose "lessons": questions that reflections of the fast phase at this step are about.
        """
        # Nothing of it depends on how the run has gone so far.
        task = self.tasks[self.task_at(step)]
        rng = random.Random(f"{purpose} {self.cfg.seed} {step}")
        return task.questions(rng, n, purpose)

    def sampler(self, model, seed) -> Sampler:
        """What a model answers and reflects with. seed: of the noise."""
        # Its own generator: nothing else can disturb what it draws.
        rng = torch.Generator(self.device).manual_seed(seed)
        return Sampler(model, self.world, self.cfg.temperature, rng, self.decode)

    def seed_of(self, *purpose):
        """A seed that is a function of the run's seed, the step and the purpose."""
        words = repr((self.cfg.seed, self.step, *purpose))
        return random.Random(words).getrandbits(63)

    def log(self, kind, task, **metrics):
        """Append a line to log.jsonl; docs/RUNS.md explains the metrics."""
        # Every line says when it was written, and what had been spent by then.
        line = {"kind": kind, "step": self.step, "task": task}
        line |= {"rollouts": self.rollouts, "tokens": self.tokens}
        self.folder.log(line | metrics)

    def log_skills(self):
        """Where it is asked for: what is left of what the base could do. Forgetting shows here."""
        if self.cfg.skills:
            self.log("skills", self.trained_task, **self.origin.skills(self.policy))


# --- one cycle ---


def train(learner: Learner, stop, begun):
    """The loop: look ahead, fast phase, slow steps, evaluation, checkpoint.

    stop.requested: whether to end after this step. begun: the run goes on from a checkpoint.
    """
    cfg = learner.cfg
    reward = "-"  # for the bar, until there is one
    accuracy = "-"
    with learner.folder.bar(cfg.steps, learner.step, cfg.method) as bar:
        # How good is the base, before anything is learned?
        if not begun:
            learner.log_skills()
            accuracy = evaluate_stream(learner)
            learner.save()
        while learner.step < cfg.steps and not stop.requested(learner.device):
            # Fast phase: evolve the prompts on questions of the steps to come.
            if cfg.method != "rl" and learner.step % cfg.cycle == 0:
                ahead = []
                for step in range(learner.step, learner.step + cfg.cycle):
                    ahead += learner.questions_of(step, cfg.batch)
                    if len(ahead) >= cfg.anchor:
                        break  # a cycle may be very long
                fast_phase(learner, ahead, bar)
            # The prompt that this task is left with, if it ends here: for the closing table.
            learner.evolved[learner.task_at(learner.step)] = learner.population.best

            # Slow phase: one gradient step on a batch of questions. (`gepa` has none.)
            if cfg.method == "gepa":
                learner.step += 1
            else:
                questions = learner.questions_of(learner.step, cfg.batch)
                reward = slow_step(learner, questions)

            # Now and then, and where a stage ends: how good is it on questions that it never
            # trains on?
            if learner.step % cfg.eval_every == 0 or learner.step % cfg.stage == 0:
                accuracy = evaluate_stream(learner)
                learner.save()
            # What the bar shows.
            bar.set_postfix(
                reward=reward, validation=accuracy, rollouts=learner.rollouts, refresh=False
            )
            bar.update()

            # Weights that have diverged do not come back.
            if learner.streak == PATIENCE:
                raise FloatingPointError(
                    f"rewards or gradients were not finite in {PATIENCE} steps on end, "
                    f"the last is step {learner.step}: try an --lr below {cfg.lr:g}"
                )
    learner.save()


def fast_phase(learner: Learner, questions, bar):
    """A fast phase: the prompts evolve on the first of the coming questions."""
    cfg = learner.cfg
    start = time.perf_counter()
    turns = itertools.count()  # each turn of the model has noise of its own

    # What fast_context.py needs of the model: answers to questions, and reflections on failures.
    def answer(jobs):
        sampler = learner.sampler(learner.policy, learner.seed_of("fast", next(turns)))
        outcomes = sampler.answer(jobs).outcomes
        count(sampler)

        # One list for all jobs -> a list for each.
        n = len(outcomes) // len(jobs)
        return [outcomes[i : i + n] for i in range(0, len(outcomes), n)]

    def reflect(requests):
        model = learner.policy if cfg.reflector == "self" else learner.base
        sampler = learner.sampler(model, learner.seed_of("fast", next(turns)))
        proposals = sampler.reflect(requests)
        count(sampler)
        return proposals

    # All rollouts are counted, also those that score prompts and those that reflect.
    def count(sampler):
        learner.rollouts += sampler.sampled_rollouts
        learner.tokens += sampler.sampled_tokens
        bar.set_postfix(rollouts=learner.rollouts)

    # Prompts are scored on the first questions; the budget is so many passes over them.
    anchor = questions[: cfg.anchor]
    phase = FastPhase(
        population=learner.population,
        anchor=anchor,
        lessons=learner.questions_of(learner.step, cfg.anchor, "lessons"),
        answer=answer,
        reflect=reflect,
        is_prompt=learner.world.is_prompt,
        shows=learner.world.shows,
        minibatch=cfg.minibatch,
        budget=cfg.passes * len(anchor),
    )
    report = evolve(phase, cfg.surprise)

    # What the phase cost, and what came of it: for the log, and for people.
    best = learner.population.best
    metrics = vars(report) | {"seconds": time.perf_counter() - start}
    learner.log("fast", learner.task_at(learner.step), **metrics)
    for words in view.news(learner.shown, best, metrics):
        learner.folder.say(learner.step, words)
    learner.shown = best


def slow_step(learner: Learner, questions):
    """One batch of rollouts, one update of the weights (or cfg.substeps) -> mean reward.

    `fst` samples under the prompts of the population, the others under the seed prompt.
    """
    cfg = learner.cfg
    start = time.perf_counter()
    index = learner.task_at(learner.step)

    # Under which prompts?
    prompts = [learner.seed_prompt]
    if cfg.method == "fst":
        prompts = learner.population.prompts(cfg.population)

    # Every question is answered under every prompt, cfg.group times in all.
    K = len(prompts)
    B = len(questions)
    samples = cfg.group // K  # answers per question and prompt
    sampler = learner.sampler(learner.policy, learner.seed_of("slow"))
    answers = sampler.answer([(prompt, questions) for prompt in prompts], samples=samples)
    learner.rollouts += sampler.sampled_rollouts
    learner.tokens += sampler.sampled_tokens
    rewards = torch.tensor([outcome.score for outcome in answers.outcomes])  # (R,)

    # A group is all rollouts of a question, across prompts: the indices of its rows.
    rows = torch.arange(len(rewards)).view(K, B, samples)
    groups = rows.transpose(0, 1).reshape(B, cfg.group)

    # The learning rate rises over the first steps.
    rise = min(1.0, (learner.step + 1) / WARMUP)
    for parameters in learner.optimizer.param_groups:
        parameters["lr"] = cfg.lr * rise
    metrics = update_weights(learner, questions, answers, rewards, groups)

    # Count steps that were not taken because a number was not finite. (None: nothing to learn.)
    norm = metrics["grad_norm"]
    failed = norm is not None and not math.isfinite(norm)
    learner.skipped += failed
    learner.streak = learner.streak + 1 if failed else 0
    learner.step += 1

    # The entropy is estimated from the samples.
    total = -answers.logprobs.sum().item()
    entropy = total / sampler.sampled_tokens  # nats per token
    reward = rewards.mean().item()
    metrics |= {"skipped": learner.skipped, "seconds": time.perf_counter() - start}
    learner.log("slow", index, reward=reward, entropy=entropy, **metrics)
    return reward


def update_weights(learner: Learner, questions, answers, rewards, groups):
    """Learn from a batch of answers -> metrics for the log, a dict.

    `distill` does not learn from rewards: it learns to say without a prompt what the base says
    under the best one.
    """
    cfg = learner.cfg
    # A number that is not finite would spoil the weights: this step is not taken.
    if not (rewards.isfinite().all() and answers.logprobs.isfinite().all()):
        return {"grad_norm": math.nan}
    # The teacher reads the same questions under the best prompt.
    if cfg.method == "distill":
        jobs = [(learner.population.best, questions)]
        return rl.distill(
            policy=learner.policy,
            teacher=learner.base,
            optimizer=learner.optimizer,
            contexts=answers.contexts,
            teacher_contexts=contexts_of(learner.world, jobs),
            completions=answers.completions,
            temperature=cfg.temperature,
        )
    # Policy gradient on the rewards, with a penalty for the distance to the base.
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
    greedy: float | None  # the accuracy at temperature 0, with the setting `greedy`
    kl: float  # to the base, k3, nats per token
    sample: tuple  # the first question with its answer, the score, and what is right


@torch.no_grad()
def evaluate(learner: Learner, model, index, prompt) -> Evaluation:
    """Measure a model on the stream's task of that index; what is known is not measured again."""
    # The answers are known if weights, task and prompt are those of an earlier measurement.
    cfg = learner.cfg
    world = learner.world
    questions = learner.validation[index]
    name = learner.tasks[index].name  # a task that comes back is the same one
    is_base = model is learner.base or cfg.method == "gepa"
    version = 0 if is_base else learner.step  # of the weights; at step 0 they are the base's
    key = (name, version, world.prompt_text(prompt))
    if key in learner.measured:
        return learner.measured[key]

    # The noise is the same every time.
    sampler = learner.sampler(model, cfg.seed)
    answers = sampler.answer([(prompt, questions)])
    accuracy = fmean(outcome.score for outcome in answers.outcomes)

    # Sampling has recorded the policy's log-probs; the base's are computed on the same answers.
    kl = 0.0
    if version:
        base_logprobs = completion_logprobs(
            learner.base, answers.contexts, answers.completions, cfg.temperature
        )  # (R, S)
        logprobs = answers.logprobs[:, : base_logprobs.size(1)]  # sampling pads to answer_tokens
        token_kl = rl.kl_estimate(logprobs, base_logprobs, "k3")
        kl = token_kl.sum().item() / sampler.sampled_tokens

    # Is more known now, or is what was known only more likely?
    greedy = None
    if cfg.greedy:
        sampler.temperature = 0.0
        outcomes = sampler.answer([(prompt, questions)]).outcomes
        greedy = fmean(outcome.score for outcome in outcomes)

    # One question and answer, for people.
    question = questions[0]
    given = world.prompt_text(prompt) + world.question_text(question)
    sample = (given + answers.texts[0], answers.outcomes[0].score, question.want)
    learner.measured[key] = Evaluation(accuracy, greedy, kl, sample)
    return learner.measured[key]


def evaluate_stream(learner: Learner):
    """Log the validation accuracy on the task trained on -> that accuracy.

    Measured under the best prompt (`distill`: the seed prompt) and under the seed prompt. Where a
    stage ends just now, the task that comes next is measured, too: its curve begins here.
    """
    current = learner.trained_task
    coming = learner.task_at(learner.step)
    prompt = learner.measured_prompt
    for i in sorted({current, coming}):
        evaluation = evaluate(learner, learner.policy, i, prompt)
        neutral = evaluate(learner, learner.policy, i, learner.seed_prompt)
        learner.log(
            "eval",
            i,
            val_acc=evaluation.accuracy,
            kl_base=evaluation.kl,
            neutral_acc=neutral.accuracy,
            neutral_kl=neutral.kl,
            greedy_acc=evaluation.greedy,
            neutral_greedy=neutral.greedy,
            prompt=prompt,
        )

    # For people: the task trained on, with a sample. `evaluate` remembers it.
    shown = evaluate(learner, learner.policy, current, prompt)
    learner.at_end[current] = shown.accuracy
    words = view.evaluated(learner.step, learner.tasks[current].name, learner.rollouts, shown)
    learner.folder.say(learner.step, words)
    learner.folder.draw(view.page)
    return shown.accuracy


def closing_table(learner: Learner):
    """What each channel is worth on every task, with the prompt that the task was left with.

    The metrics also go into result.json. The trained weights go into weights.pt, which another run
    can take as its --base (not with --llm).
    """
    learner.log_skills()
    # A run may end between two evaluations.
    last = learner.trained_task
    at_end = evaluate(learner, learner.policy, last, learner.measured_prompt)
    learner.at_end[last] = at_end.accuracy

    results = []
    for i, task in enumerate(learner.tasks):
        # Four cells: the base's and the trained weights, with and without what the prompt learned.
        evolved = learner.evolved[i]
        prompts = (learner.seed_prompt, evolved)
        accuracy = {}
        for name, model in (("base weights", learner.base), ("final weights", learner.policy)):
            cells = [evaluate(learner, model, i, prompt) for prompt in prompts]
            accuracy[name] = [cell.accuracy for cell in cells]
        result = {
            "task": task.name,
            "hidden": task.instructions,
            "evolved": evolved,
            "at_end": learner.at_end[i],
            "accuracy": accuracy,
            "kl_base": [cell.kl for cell in cells],  # of the final weights, the last of the loop
        }
        results.append(result)
        view.show_result(learner.folder, result)

    # What is left when the run is over.
    learner.folder.save_weights(learner.origin.about | {"model": learner.policy.state_dict()})
    memory = learner.population.memory
    learner.folder.write_json(
        "result.json", {"rollouts": learner.rollouts, "tasks": results, "memory": memory}
    )
    for prompt in memory:
        learner.folder.show(f"remembered: {prompt}")
    learner.folder.draw(view.page)
    learner.folder.show(
        f"\n{learner.rollouts} rollouts, all counted. "
        f"Look at the run in {learner.folder.path}/view.html"
    )


# --- the program ---


def check_settings(cfg: Config):
    """Raises ValueError, with what would be right, for settings that do not fit together."""
    prepare.check_tasks(cfg)
    prepare.check_prompt(cfg)
    if cfg.method == "fst" and cfg.group % cfg.population:
        raise ValueError(
            f"population ({cfg.population}) must divide group ({cfg.group}): "
            "each prompt gets its share of rollouts"
        )


def main(argv=None):
    with command_line.failures_in_one_line(STARTING):
        # What to do, on what.
        cfg = command_line.start(Config, argv)
        check_settings(cfg)
        device = pick_device(cfg.device, cfg.compile)
        if cfg.pretrain:
            return prepare.train_base(cfg, device, cfg.minutes)

        # A new learner in a new folder, or one that goes on from its last checkpoint.
        name = "-".join([cfg.method, *cfg.tasks, f"seed{cfg.seed}"])
        folder = RunFolder(cfg.out, f"out/{name}", cfg.resume)
        learner = Learner(cfg, prepare.open_base(cfg, device), device, folder)
        begun = folder.restore(learner)
        folder.save_settings(cfg)

    # From here on all is saved now and then, and can be gone on with.
    go_on = f"go on from the last checkpoint with: {resume_command(folder.path)}"
    stopped = f"stopped at once; {go_on}"
    failures = command_line.failures_in_one_line(stopped, go_on, (OSError, FloatingPointError))
    with folder, failures, command_line.StopOnCtrlC() as stop:
        train(learner, stop, begun)
        if learner.step >= cfg.steps:
            stop.done()  # nothing is left to be saved
            closing_table(learner)
        else:
            folder.show(f"stopped after step {learner.step}; {go_on}")


if __name__ == "__main__":
    main()
