"""The runs behind the paper's claims at toy scale, resumable run by run.

    python experiments/run.py                            every experiment with 5 seeds: hours on 2 cores
    python experiments/run.py --quick                    the headline: fst, rl and gepa on strings, one seed
    python experiments/run.py --only domains --seeds 0 1 --domains strings facts

A finished run leaves a small file in experiments/results/runs/ and is not repeated; an interrupted one is gone on with.
Runs take one thread each, two side by side. plot.py makes the figures and the table of claims of these files.

One protocol for all methods: learning rates are swept on one domain with a seed that is not reported, and every method
has the rate that did best there; `rl` has more steps, since it spends no rollouts on prompts.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean

from tqdm import tqdm

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from config import Config, parse_config  # noqa: E402
from model import write_file  # noqa: E402
from pretrain import base_skills, load_base  # noqa: E402
from tasks import domains  # noqa: E402

RESULTS = ROOT / "experiments" / "results" / "runs"
DOMAINS = ("strings", "numbers", "facts", "star_graph")
RATES = ("0.0001", "0.0003", "0.001", "0.003")
SWEEP = {"domain": "strings", "seed": 100, "steps": {"fst": 30, "rl": 40}}
STEPS = {"fst": 60, "gepa": 60, "distill": 60, "rl": 80}
PAIRS = (("strings", "numbers"), ("facts", "strings"))  # plasticity: trained on the first, then afresh on the second
KL_COEFS = ("0", "0.001", "0.01", "0.1")  # rl as a second baseline: with the best of these, swept like the rates
GENTLE = "0.0003"  # fst once more at a lower rate: what is forgotten less, and what that costs
EXERCISES = ("population=1", "kl-coef=0.1", "passes=3", "no-prune", "cycle=30")  # one change to fst, on strings
EXERCISE_STEPS = 30
EXPERIMENTS = ("sweep", "domains", "kl", "plasticity", "stream", "distill", "reflector", "gentle", "exercises")


@dataclass(frozen=True)
class Job:
    """A run of train.py: its name, its options, and the job whose weights it begins with ("" for the shipped base)."""

    name: str
    options: tuple[str, ...]
    base: str = ""
    skills: bool = False  # also measure what was forgotten


def job(name: str, method: str, tasks, seed: int, lr: str, *options, steps: int = 0, **more) -> Job:
    tasks = (tasks,) if isinstance(tasks, str) else tasks
    settings = ("--method", method, "--tasks", *tasks, "--seed", str(seed), "--lr", lr, "--device", "cpu", *options)
    return Job(name, (*settings, "--eval-every", "5", "--steps", str(steps or STEPS[method])), **more)


def sweep_jobs() -> dict[tuple, Job]:
    """(method, rate) -> the run that tries this rate out."""
    return {
        (method, lr): job(f"sweep-{method}-{lr}", method, SWEEP["domain"], SWEEP["seed"], lr, steps=steps)
        for method, steps in SWEEP["steps"].items()
        for lr in RATES
    }


def final_accuracy(j: Job) -> float:
    """Over the last three evaluations, which is less noisy than the last one."""
    return mean(e["val_acc"] for e in finished(j)["evals"][-3:])


def best_rates() -> dict[str, str]:
    """Method -> the rate that did best in the sweep; methods with prompts share fst's. Raises OSError before it ran."""
    jobs = sweep_jobs()
    best = {method: max(RATES, key=lambda lr, m=method: final_accuracy(jobs[m, lr])) for method in SWEEP["steps"]}
    return best | {"gepa": best["fst"], "distill": best["fst"]}


def kl_jobs(lr: dict[str, str]) -> dict[str, Job]:
    """KL coefficient -> the run of rl that tries it out."""
    steps = SWEEP["steps"]["rl"]
    return {
        c: job(f"klsweep-{c}", "rl", SWEEP["domain"], SWEEP["seed"], lr["rl"], "--kl-coef", c, steps=steps)
        for c in KL_COEFS
    }


def best_kl(lr: dict[str, str]) -> str:
    """The KL coefficient that did best for rl, the largest of equals. Raises OSError where its sweep has not run."""
    jobs = kl_jobs(lr)
    return max(KL_COEFS, key=lambda c: (final_accuracy(jobs[c]), float(c)))


def jobs_of(experiment: str, lr: dict[str, str], seeds: list[int], names: list[str]) -> list[Job]:
    """The runs of an experiment; those that begin with other runs' weights come after them."""
    jobs = []
    for seed in seeds:
        if experiment == "domains":
            for domain in names:
                jobs += [domain_job(m, domain, seed, lr) for m in ("fst", "rl", "gepa")]
        elif experiment == "kl" and float(best := best_kl(lr)) != Config.kl_coef:  # else the runs of `domains`
            options = ("--kl-coef", best)
            jobs += [job(f"rlkl-{d}-{seed}", "rl", d, seed, lr["rl"], *options, skills=True) for d in names]
        elif experiment == "plasticity":
            for first, second in PAIRS:
                jobs.append(domain_job("rl", second, seed, lr))  # from the base
                for method in ("rl", "fst"):
                    before = domain_job(method, first, seed, lr)
                    name = f"plasticity-{second}-after-{method}-{first}-{seed}"
                    jobs += [before, job(name, "rl", second, seed, lr["rl"], base=before.name)]
        elif experiment == "stream":
            for method in ("fst", "rl"):
                name, steps = f"stream-{method}-{seed}", Config.stage * len(Config.tasks)
                jobs.append(job(name, method, Config.tasks, seed, lr[method], steps=steps))
        elif experiment == "distill":
            jobs += [job(f"distill-{d}-{seed}", "distill", d, seed, lr["distill"]) for d in PAIRS[0]]
        elif experiment == "reflector":
            options = ("--reflector", "base")
            jobs += [job(f"frozen-{d}-{seed}", "fst", d, seed, lr["fst"], *options) for d in PAIRS[0]]
        elif experiment == "gentle":
            jobs += [job(f"gentle-{d}-{seed}", "fst", d, seed, GENTLE, skills=True) for d in names]
        elif experiment == "exercises":  # against the runs of `domains`, at the same step
            for change in EXERCISES:
                options = f"--{change}".split("=")
                name = f"exercise-{change}-{seed}"
                jobs.append(job(name, "fst", "strings", seed, lr["fst"], *options, steps=EXERCISE_STEPS))
    return list(dict.fromkeys(jobs))


def domain_job(method: str, domain: str, seed: int, lr: dict[str, str]) -> Job:
    return job(f"{method}-{domain}-{seed}", method, domain, seed, lr[method], skills=method != "gepa")


def finished(j: Job) -> dict:
    """What a run left. Raises OSError where it has not been run."""
    return json.loads((RESULTS / f"{j.name}.json").read_text())


measuring = threading.Lock()  # torch's threads are for one at a time


def skills(path: Path) -> dict:
    """What the weights in a file have kept of the corpus."""
    with measuring:
        model, about = load_base(path)
        return base_skills(model, [domains()[name] for name in about["domains"]])


def command_of(j: Job) -> str:
    return f"python train.py {' '.join(j.options)}"


def execute(j: Job, out: Path) -> None:
    """Run a job. Its folder below `out` keeps weights and the whole log, RESULTS what the claims need."""
    folder = out / j.name
    options = [*j.options, "--out", str(folder)]
    if j.base:
        options += ["--base", str(out / j.base / "weights.pt")]
    command, environment = [sys.executable, "train.py", *options], os.environ | {"OMP_NUM_THREADS": "1"}
    if (settings := folder / "config.json").exists():
        if json.loads(settings.read_text()) != json.loads(json.dumps(asdict(parse_config(options)))):
            raise ValueError(f"{folder} holds a run with other settings: move it away first")
        command[2:] = ["--resume", str(folder)]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{ended.stderr[-2000:]}")
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    rewards = [round(line["reward"], 3) for line in lines if line["kind"] == "slow"]
    record = {"command": command_of(j), "begins_with": j.base, "rewards": rewards}
    record["seconds"] = round(sum(line.get("seconds", 0) for line in lines))  # of learning, without evaluations
    record["evals"] = [line for line in lines if line["kind"] == "eval"]
    record |= {"result": json.loads((folder / "result.json").read_text())}
    record |= skills(folder / "weights.pt") if j.skills else {}
    write_file(RESULTS / f"{j.name}.json", (json.dumps(record) + "\n").encode())


def check_base() -> None:
    """Note what the shipped base can do. Raises ValueError where the results there are were made with another one."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path, note = ROOT / "checkpoints" / "base.pt", RESULTS / "base.json"
    checksum = zlib.crc32(path.read_bytes())
    if not note.exists():
        write_file(note, (json.dumps({"checksum": checksum, **skills(path)}) + "\n").encode())
    if json.loads(note.read_text())["checksum"] != checksum:
        raise ValueError(f"the results in {RESULTS} were made with another base: move them away first")


def still_to_run(jobs: list[Job], out: Path) -> list[Job]:
    """The jobs without a result, and those whose weights they begin with, where these are not in `out`.

    Raises ValueError where there is a result of another job with such a name.
    """
    todo = [j for j in jobs if not (RESULTS / f"{j.name}.json").exists()]
    for j in jobs:
        if j not in todo and finished(j)["command"] != (asked := command_of(j)):
            raise ValueError(f"{RESULTS / j.name}.json is not of {asked}: move it away first")
    needed = {j.base for j in todo}
    return [j for j in jobs if j in todo or (j.name in needed and not (out / j.name / "weights.pt").exists())]


def run_all(jobs: list[Job], out: Path, label: str) -> None:
    """Two at a time, each after the one whose weights it begins with."""
    running, order = {}, sorted(still_to_run(jobs, out), key=lambda j: bool(j.base))
    with ThreadPoolExecutor(2) as pool, tqdm(total=len(order), desc=label, unit="run") as bar:

        def work(j: Job) -> None:
            if j.base in running:
                running[j.base].result()
            execute(j, out)
            bar.update()

        for j in order:
            running[j.name] = pool.submit(work, j)
        for future in running.values():
            future.result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="fst, rl and gepa on strings with seed 0, at the rates of the sweep"
    )
    parser.add_argument("--only", nargs="+", choices=EXPERIMENTS, default=EXPERIMENTS, help="these experiments")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--domains", nargs="+", choices=DOMAINS, default=DOMAINS, help="of the experiment `domains`")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "experiments", help="where the runs' folders are")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.quick:
        args.only, args.seeds, args.domains = ["domains"], [0], ["strings"]
    try:
        check_base()
        for experiment in args.only:
            if experiment == "sweep":
                run_all([*sweep_jobs().values()], args.out, experiment)
            else:
                lr = best_rates()
                if experiment == "kl":
                    run_all([*kl_jobs(lr).values()], args.out, "sweep of the KL coefficient")
                run_all(jobs_of(experiment, lr, args.seeds, args.domains), args.out, experiment)
    except FileNotFoundError as error:
        sys.exit(f"run.py: {error.filename} is missing: run the sweep first, with --only sweep")
    except ValueError as error:
        sys.exit(f"run.py: {error}")
    except RuntimeError as error:
        sys.exit(f"run.py: a run failed, the others are kept: {error}")


if __name__ == "__main__":
    main()
