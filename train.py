"""Fast-slow training, start to end: pretrain a tiny base, then let two channels learn a hidden task.

    python train.py                       fst on three tasks in turn with the shipped base, minutes on a laptop
    python train.py --method rl           slow weights only: policy gradient under the seed prompt
    python train.py --method gepa         fast weights only: prompt evolution under frozen weights
    python train.py --method distill      fast weights as teacher: what the prompt taught goes into the weights
    python train.py --tasks facts         another task, or others in turn: nothing tells the learner so
    python train.py --pretrain            train the base itself
    torchrun --nproc_per_node=2 train.py  the same run, its rollouts split over two processes (parallel.py)

Read from the bottom: `main` -> `train` (the loop) -> `fast_phase` and `slow_step`; a run's state and files are in
run.py, the settings in config.py. Every random draw of a run is a function of (seed, step, purpose), so resuming needs
no generator state but the population's.

Left out of the paper's set-up: asynchronous rollouts (sampling and updates take turns), truncation penalties (answers
are short), and a separate, larger model as reflector (the policy reflects on itself).
"""

import itertools
import json
import math
import os
import signal
import time

import torch
from tqdm import tqdm

import parallel
import rl
from config import check_config, fail, parse_config
from fast_context import evolve
from model import GPT, save_checkpoint, write_file
from pretrain import LOOK_EVERY, PATIENCE, base_skills, generator_of
from run import Run, prepare_base
from tasks import text
from tasks.dialogue import answer, contexts_of, reflect


def fast_phase(run: Run, questions: list) -> None:
    """Evolve the prompts on the first of the questions that the coming gradient steps train on, the anchor set."""
    cfg, start, turns = run.cfg, time.perf_counter(), itertools.count()

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
    figures = {"calls": report.calls, "reflections": report.reflections, "proposed": report.proposed}
    figures |= {"accepted": len(report.accepted), "merged": report.merged}
    figures |= {"population": population, "seconds": time.perf_counter() - start}
    run.log("fast", run.task_at(run.step), **figures)
    for topic in sorted(set(run.best()) | set(run.shown)):
        old, new = run.shown.get(topic, "none"), run.best().get(topic, "none")
        if old != new:
            change = next((c for c in report.accepted if c.topic == topic and c.rules[topic] == new), None)
            gain = f"   (anchor score {change.parent.mean:.2f} -> {change.child.mean:.2f})" if change else ""
            how = text.abridged(change.how).replace("\n", "\n    ") if change else ""
            run.say(f"{topic}: {old}  ->  {new}{gain}" + (f"\n    {how}" if how else ""))
    run.shown = dict(run.best())


def slow_step(run: Run, questions: list) -> float:
    """One batch of rollouts under the seed prompt (`fst`: under the population's), one update -> mean reward.

    `distill` does not learn from rewards, but to say without a prompt what the base says under the best one.
    """
    cfg, start, task = run.cfg, time.perf_counter(), run.task_at(run.step)
    prompts = run.population.prompts(cfg.population) if cfg.method == "fst" else [run.start]
    K, B, G = len(prompts), len(questions), cfg.group // len(prompts)
    answers = answer(run.generate(run.policy, "slow"), [(rules, questions) for rules in prompts], samples=G)
    run.rollouts += K * B * G
    rewards = torch.tensor([outcome.score for outcome in answers.outcomes])  # (R,), rows ordered (k, b, g)
    groups = torch.arange(K * B * G).view(K, B, G).transpose(0, 1).reshape(B, K * G)  # a question's rows, all prompts
    for group in run.optimizer.param_groups:
        group["lr"] = cfg.lr * min(1.0, (run.step + 1) / max(cfg.warmup, 1))
    models = run.policy, run.base, run.optimizer
    towards = "kl_teacher" if cfg.method == "distill" else "kl_base"
    figures = {towards: None, "grad_norm": math.nan, "dropped_groups": 0}  # of rollouts that cannot be learned from
    if rewards.isfinite().all() and answers.logprobs.isfinite().all():
        if cfg.method == "distill":
            taught = contexts_of([(run.best(), questions)])
            figures = rl.distill(*models, answers.contexts, taught, answers.completions, cfg.temperature)
        else:
            settings = {"temperature": cfg.temperature, "kl_coef": cfg.kl_coef, "substeps": cfg.substeps}
            rollouts = answers.contexts, answers.completions, answers.logprobs, rewards
            figures = rl.update(*models, *rollouts, groups, **settings)
    norm = figures["grad_norm"]  # None: all groups were without spread
    skipped = norm is not None and not math.isfinite(norm)
    run.skipped, run.streak = run.skipped + skipped, run.streak + 1 if skipped else 0
    entropy = -answers.logprobs.sum().item() / sum(map(len, answers.completions))  # estimated from the samples
    run.step += 1
    figures |= {"skipped": run.skipped, "seconds": time.perf_counter() - start}
    run.log("slow", task, reward=rewards.mean().item(), entropy=entropy, **figures)
    return rewards.mean().item()


@torch.no_grad()
def evaluate(run: Run, model: GPT, task: int, rules: dict[str, str]) -> tuple[float, float, str]:
    """Validation accuracy on a task of the stream, KL to the base on the same contexts (k3, nats per token), and a
    transcript.

    What was measured before, with the same weights and prompt, is not measured again.
    """
    version = 0 if model is run.base or run.cfg.method == "gepa" else run.step  # of the weights, 0: the base's
    key, questions = (task, version, text.prompt_text(rules)), run.validation[task]
    if key in run.measured:
        return run.measured[key]
    rng = torch.Generator(run.device).manual_seed(run.cfg.seed)  # the same every time
    answers = answer(generator_of(model, run.cfg.temperature, rng, run.decode), [(rules, questions)])
    kl = 0.0
    if version:
        base_logprobs = rl.score(run.base, answers.contexts, answers.completions, run.cfg.temperature)  # (R, S)
        logprobs = answers.logprobs[:, : base_logprobs.size(1)]  # sampling knows them; both are 0 after the end
        kl = rl.kl_estimate(logprobs, base_logprobs, "k3").sum().item() / sum(map(len, answers.completions))
    verdict = "right" if answers.outcomes[0].score else f"wrong, {questions[0].want} is right"
    transcript = f"{text.decode(answers.contexts[0][1:])}{answers.texts[0]}   [{verdict}]"
    run.measured[key] = sum(outcome.score for outcome in answers.outcomes) / len(questions), kl, transcript
    return run.measured[key]


def evaluate_stream(run: Run) -> float:
    """Log the validation accuracy on the task trained on -> that, shown with a transcript.

    Under the best prompt (`distill`: the seed prompt), and beside it under the prompt that the run began with; where
    a stage ends just then, for all tasks of the stream. With --skills also what is left of the base's skills.
    """
    current = run.task_at(max(run.step - 1, 0))
    measured = range(len(run.tasks)) if run.step % run.cfg.stage == 0 else [current]
    if run.cfg.skills:
        run.log("skills", current, **base_skills(run.policy, list(run.domains.values())))
    prompt = run.start if run.cfg.method == "distill" else run.best()
    for i in measured:
        accuracy, kl, transcript = evaluate(run, run.policy, i, prompt)
        neutral_accuracy, neutral_kl, _ = evaluate(run, run.policy, i, run.start)
        figures = {"val_acc": accuracy, "kl_base": kl, "neutral_acc": neutral_accuracy, "neutral_kl": neutral_kl}
        run.log("eval", i, **figures, prompt=prompt)
        if i == current:
            result, shown = accuracy, transcript.replace("\n", "\n    ")
            about = f"step {run.step}: {run.tasks[i].domain.name}, validation {result:.2f}, {run.rollouts} rollouts"
            run.say(f"{about}. One of them:\n    {shown}")
    return result


def train(run: Run) -> None:
    """The loop: look ahead, fast phase, slow steps on exactly the questions looked at, evaluate, save."""
    cfg, reward, accuracy = run.cfg, "-", "-"
    with tqdm(total=cfg.steps, initial=run.step, unit="step", desc=cfg.method, disable=not run.writes) as bar:
        if not run.begun:
            accuracy = evaluate_stream(run)
            run.save()
        while run.step < cfg.steps and not parallel.any_process(run.stop, run.device):
            if cfg.method != "rl" and run.step % cfg.cycle == 0:
                ahead = range(run.step, run.step + cfg.cycle)
                fast_phase(run, [question for step in ahead for question in run.questions_of(step)])
            run.evolved[run.task_at(run.step)] = dict(run.best())
            if cfg.method != "gepa":
                reward = slow_step(run, run.questions_of(run.step))
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
    """What each channel is worth on every task, with the prompt it had then; also written to result.json.

    The trained weights go into weights.pt, from which another run can begin as its --base.
    """
    models, results = {"base weights": run.base, "trained weights": run.policy}, []
    for i, (task, evolved) in enumerate(zip(run.tasks, run.evolved, strict=True)):
        result = {"task": task.domain.name, "hidden": task.instructions, "evolved": evolved}
        cells = {
            name: [evaluate(run, model, i, rules) for rules in (run.start, evolved)] for name, model in models.items()
        }
        result["accuracy"] = {name: [accuracy for accuracy, _, _ in row] for name, row in cells.items()}
        result["kl_base"] = [kl for _, kl, _ in cells["trained weights"]]
        results.append(result)
    if not run.writes:
        return
    for result in results:
        print(f"\n{result['task'] + ', validation':24}{'seed prompt':>14}{'evolved prompt':>17}")
        for name, (seed, evolved) in result["accuracy"].items():
            print(f"{name:24}{seed:14.3f}{evolved:17.3f}")
        print("{:24}{:14.4f}{:17.4f}   nats per token".format("KL to the base", *result["kl_base"]))
        print(f"{'topic':8}{'hidden rule':26}evolved instruction")
        for topic, rule in result["hidden"].items():
            print(f"{topic:8}{rule:26}{result['evolved'].get(topic, 'none')}")
    save_checkpoint(run.out / "weights.pt", run.about_base | {"model": run.policy.state_dict()})
    write_file(run.out / "result.json", json.dumps({"rollouts": run.rollouts, "tasks": results}, indent=1).encode())
    print(f"\n{run.rollouts} rollouts, all counted. The run is in {run.out}")


def main(argv: list[str] | None = None) -> None:
    parallel.join()
    try:
        cfg = parse_config(argv)
        check_config(cfg)
        if cfg.pretrain:
            return prepare_base(cfg)
        run = Run(cfg)
    except (ValueError, OSError, FloatingPointError) as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail(f"stopped; a base in training is saved every {LOOK_EVERY} steps, and the same command goes on with it")

    def interrupt(*_):
        run.stop = True
        os.write(2, b"\nstopping after this step; a second Ctrl-C stops at once\n")
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, interrupt)
    go_on = f"go on from the last checkpoint with: python train.py --resume {run.out}"
    try:
        train(run)
        if run.step >= run.cfg.steps:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # all is saved
            closing_table(run)
        elif run.writes:
            print(f"stopped after step {run.step}; {go_on}")
    except (OSError, FloatingPointError) as error:
        fail(f"{error}; {go_on}")
    except KeyboardInterrupt:
        fail(f"stopped at once; {go_on}")
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if run.lock:
            run.lock.close()


if __name__ == "__main__":
    main()
