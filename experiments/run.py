"""The runs behind the paper's claims at toy scale, resumable run by run.

    python experiments/run.py            all claims, with 5 seeds: 3.5 hours on 2 fast cores
    python experiments/run.py --quick    the headline: fst, rl and gepa on strings, one seed
    python experiments/run.py --only domains --seeds 0 1 --domains strings facts

A finished run leaves a small file in experiments/results/runs/ and is not repeated; an interrupted
one is gone on with. Runs take one thread each, two side by side. plot.py makes the figures and the
table of claims of these files.

One protocol for all methods: learning rates are swept on one domain, with three seeds that are not
reported, in runs as long as the reported ones. `fst` and `rl` have the rate that did best there,
`distill` that of `fst`, `gepa` none. `rl` is also run with the largest coefficient of its KL
penalty with which it did as well as with any, and with `--only own-kl` so is `fst`. `rl` has more
steps, since it spends no rollouts on prompts.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from statistics import mean

from tqdm import tqdm

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from claims import DOMAINS, EXERCISES, at_the_end  # noqa: E402

from base.exams import base_skills  # noqa: E402
from base.prepare import SHIPPED, load_base  # noqa: E402
from plumbing.command_line import parse  # noqa: E402
from plumbing.files import write_file  # noqa: E402
from tasks import domains  # noqa: E402
from tasks.formats import prompt_text  # noqa: E402
from train import Config  # noqa: E402

RESULTS = ROOT / "experiments" / "results" / "runs"
RATES = ("0.0001", "0.0003", "0.001", "0.003")
# the domain; validation accuracies that count as equal
SWEEP, SWEEP_SEEDS, EQUAL = "strings", (100, 101, 102), 0.02
STEPS = {"fst": 60, "gepa": 60, "distill": 60, "rl": 80}
# plasticity: trained on the first, then afresh on the second; where both are one, with other
# hidden rules
PAIRS = (("strings", "numbers"), ("numbers", "strings"), ("strings", "strings"))
LATER = 77  # what is added to the seed for those other rules
# of the runs that are looked at after every step, until reward comes in
ZERO_STEPS = {"fst": 10, "rl": 30}
# steps for each task of the stream, so that both spend about as many rollouts
STAGES = {"fst": 40, "rl": 50}
# the domains of distillation, the frozen reflector and prompts first
CHEAP = ("strings", "numbers")
KL_COEFS = ("1", "0.1", "0.01", "0.001", "0")  # swept like the rates, from the base outwards
# who gets its own: rl as a second baseline, or both
OWN_KL = {"kl": ("rl",), "own-kl": ("rl", "fst")}
EXERCISE_STEPS = 30
# what they need
CLAIMS = ("sweep", "domains", "zero", "kl", "plasticity", "stream", "distill", "reflector")
EXPERIMENTS = (*CLAIMS, "own-kl", "prompt-first", "exercises")


@dataclass(frozen=True)
class Job:
    """A run of train.py: its name, its options, and the jobs whose weights and whose evolved prompt
    it begins with.

    "": the shipped base, the seed prompt.
    """

    name: str
    options: tuple[str, ...]
    base: str = ""
    prompt: str = ""
    skills: bool = False  # also measure what was forgotten


def job(
    name: str,
    method: str,
    tasks,
    seed: int,
    lr: str,
    *options,
    steps: int = 0,
    every: int = 5,
    **more,
) -> Job:
    tasks = (tasks,) if isinstance(tasks, str) else tasks
    settings = (
        "--method",
        method,
        "--tasks",
        *tasks,
        "--seed",
        str(seed),
        *(("--lr", lr) if lr else ()),
    )
    return Job(
        name,
        (
            *settings,
            "--device",
            "cpu",
            *options,
            "--eval-every",
            str(every),
            "--steps",
            str(steps or STEPS[method]),
        ),
        **more,
    )


def sweep_jobs() -> dict[tuple, list[Job]]:
    """(method, rate) -> the runs that try this rate out."""
    return {
        (method, lr): [
            job(f"sweep-{method}-{lr}-{seed}", method, SWEEP, seed, lr) for seed in SWEEP_SEEDS
        ]
        for method in ("fst", "rl")
        for lr in RATES
    }


def best(tried: dict[str, list[Job]], equal: float = EQUAL) -> str:
    """The first of the settings that did as well as the best, by the last three evaluations of
    their runs.

    Raises OSError before they have run.
    """
    did = {
        setting: mean(at_the_end(finished(j.name)["evals"]) for j in jobs)
        for setting, jobs in tried.items()
    }
    return next(
        setting for setting, accuracy in did.items() if accuracy >= max(did.values()) - equal
    )


def best_rates() -> dict[str, str]:
    """Method -> its rate after the sweep. Raises OSError before it ran."""
    jobs = sweep_jobs()
    rates = {
        method: best({lr: jobs[method, lr] for lr in RATES}, equal=0) for method in ("fst", "rl")
    }
    return rates | {"distill": rates["fst"], "gepa": ""}  # where weights are frozen it has no say


def kl_jobs(method: str, lr: dict[str, str]) -> dict[str, list[Job]]:
    """KL coefficient -> the runs of a method that try it out."""
    return {
        c: [
            job(f"klsweep-{method}-{c}-{s}", method, SWEEP, s, lr[method], "--kl-coef", c)
            for s in SWEEP_SEEDS
        ]
        for c in KL_COEFS
    }


def jobs_of(experiment: str, lr: dict[str, str], seeds: list[int], names: list[str]) -> list[Job]:
    """The runs of an experiment, maybe some twice; those that begin with what others left come
    after them.
    """
    coefs = {method: best(kl_jobs(method, lr)) for method in OWN_KL.get(experiment, ())}
    jobs = []
    for seed in seeds:
        if experiment == "domains":
            for domain in names:
                jobs += [domain_job(m, domain, seed, lr) for m in ("fst", "rl", "gepa")]
        elif experiment == "zero":
            for method, steps in ZERO_STEPS.items():
                name = f"zero-{method}-{seed}"
                jobs.append(job(name, method, "star_graph", seed, lr[method], steps=steps, every=1))
        elif experiment in OWN_KL:
            jobs += [
                domain_job(method, d, seed, lr, coef)
                for method, coef in coefs.items()
                for d in names
            ]
            jobs += plasticity_jobs(seed, lr, coefs) if experiment == "own-kl" else []
        elif experiment == "plasticity":
            jobs += plasticity_jobs(seed, lr, coefs)
        elif experiment == "stream":
            for method in ("fst", "rl"):
                stage, steps = ("--stage", str(STAGES[method])), STAGES[method] * len(Config.tasks)
                more = {"steps": steps, "every": 10}  # of every task
                jobs.append(
                    job(
                        f"stream-{method}-{seed}",
                        method,
                        Config.tasks,
                        seed,
                        lr[method],
                        *stage,
                        **more,
                    )
                )
        elif experiment == "distill":
            jobs += [
                job(f"distill-{d}-{seed}", "distill", d, seed, lr["distill"])
                for d in names
                if d in CHEAP
            ]
        elif experiment == "reflector":
            options = ("--reflector", "base")
            jobs += [
                job(f"frozen-{d}-{seed}", "fst", d, seed, lr["fst"], *options)
                for d in names
                if d in CHEAP
            ]
        elif experiment == "prompt-first":
            for d in (d for d in names if d in CHEAP):
                before = domain_job("gepa", d, seed, lr)
                more = {"steps": STEPS["fst"], "prompt": before.name}
                jobs += [before, job(f"gepa+rl-{d}-{seed}", "rl", d, seed, lr["rl"], **more)]
        elif experiment == "exercises":  # against the runs of `domains`, at the same step
            for change in EXERCISES:
                options = [
                    word for setting in change.split("+") for word in f"--{setting}".split("=")
                ]
                name = f"exercise-{change}-{seed}"
                jobs.append(
                    job(name, "fst", "strings", seed, lr["fst"], *options, steps=EXERCISE_STEPS)
                )
    return jobs


def domain_job(method: str, domain: str, seed: int, lr: dict[str, str], coef: str = "") -> Job:
    """coef: the method's own KL coefficient; with that of all it is the usual run."""
    own = coef and float(coef) != Config.kl_coef
    called, options = (f"{method}kl", ("--kl-coef", coef)) if own else (method, ())
    return job(
        f"{called}-{domain}-{seed}",
        method,
        domain,
        seed,
        lr[method],
        *options,
        skills=method != "gepa",
    )


def plasticity_jobs(seed: int, lr: dict[str, str], coefs: dict[str, str]) -> list[Job]:
    """`rl` on the second task of every pair, from the base and from weights that were trained on
    the first.

    coefs: the KL coefficients of that training, of methods with their own.
    """
    jobs = []
    for first, second in PAIRS:
        later = seed + LATER if first == second else seed
        if first == second:
            jobs.append(
                job(f"plasticity-{second}-after-base-{first}-{seed}", "rl", second, later, lr["rl"])
            )
        else:
            jobs.append(domain_job("rl", second, seed, lr))
        for method in ("rl", "fst"):
            before = domain_job(method, first, seed, lr, coefs.get(method, ""))
            name = f"plasticity-{second}-after-{before.name}"
            jobs += [before, job(name, "rl", second, later, lr["rl"], base=before.name)]
    return jobs


def finished(name: str) -> dict:
    """What a run left. Raises OSError where it has not been run."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


measuring = threading.Lock()  # torch's threads are for one at a time


def skills(path: Path) -> dict:
    """What the weights in a file have kept of the corpus."""
    with measuring:
        model, about = load_base(path)
        return base_skills(model, [domains()[name] for name in about["domains"]])


def settings_of(options: Iterable[str]) -> Config:
    """What train.py makes of these options."""
    return parse(Config, [*options], presets={})


def command_of(j: Job) -> str:
    return f"python train.py {' '.join(j.options)}"


def execute(j: Job, out: Path) -> None:
    """Run a job. Its folder below `out` keeps weights and the whole log, RESULTS what the claims
    need.
    """
    folder = out / j.name
    options = [*j.options, "--out", str(folder)]
    if j.base:
        options += ["--base", str(out / j.base / "weights.pt")]
    if j.prompt:
        evolved = finished(j.prompt)["result"]["tasks"][0]["evolved"]
        out.mkdir(parents=True, exist_ok=True)
        write_file(prompt := out / f"{j.name}.txt", prompt_text(evolved).encode())
        options += ["--prompt", str(prompt)]
    command, environment = (
        [sys.executable, "train.py", *options],
        os.environ | {"OMP_NUM_THREADS": "1"},
    )
    if (settings := folder / "config.json").exists():
        if json.loads(settings.read_text(encoding="utf-8")) != json.loads(
            json.dumps(asdict(settings_of(options)))
        ):
            raise ValueError(f"{folder} holds a run with other settings: move it away first")
        command[2:] = ["--resume", str(folder)]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{ended.stderr[-2000:]}")
    lines = [
        json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    if not (folder / "result.json").exists():
        raise RuntimeError(f"{j.name} was stopped: the same command goes on from there")
    slow = [line for line in lines if line["kind"] == "slow"]
    record = {"command": command_of(j), "begins_with": j.base or j.prompt}
    record |= {
        key: [line[key] and round(line[key], 3) for line in slow]
        for key in ("reward", "entropy", "dropped_groups")
    }
    # of learning, without evaluations
    record["seconds"] = round(sum(line.get("seconds", 0) for line in lines))
    record["evals"] = [line for line in lines if line["kind"] == "eval"]
    record |= {"result": json.loads((folder / "result.json").read_text(encoding="utf-8"))}
    record |= skills(folder / "weights.pt") if j.skills else {}
    write_file(RESULTS / f"{j.name}.json", (json.dumps(record) + "\n").encode())


def check_base() -> None:
    """Note what the shipped base can do. Raises ValueError where the results there are were made
    with another one.
    """
    RESULTS.mkdir(parents=True, exist_ok=True)
    path, note = Path(SHIPPED), RESULTS / "base.json"
    if not path.exists():
        raise ValueError(f"{path} is missing: train it with python train.py --pretrain")
    checksum = zlib.crc32(path.read_bytes())
    if not note.exists():
        write_file(note, (json.dumps({"checksum": checksum, **skills(path)}) + "\n").encode())
    if json.loads(note.read_text(encoding="utf-8"))["checksum"] != checksum:
        raise ValueError(
            f"the results in {RESULTS} were made with another base: move them away first"
        )


def still_to_run(jobs: list[Job], out: Path) -> list[Job]:
    """The jobs without a result, and those whose weights they begin with, where these are not in
    `out`.

    Raises ValueError where there is a result of another job with such a name.
    """
    jobs = list(dict.fromkeys(jobs))  # those that several experiments need once
    todo = [j for j in jobs if not (RESULTS / f"{j.name}.json").exists()]
    for j in jobs:
        if j not in todo and finished(j.name)["command"] != (asked := command_of(j)):
            raise ValueError(f"{RESULTS / j.name}.json is not of {asked}: move it away first")
    needed = {j.base for j in todo}
    return [
        j
        for j in jobs
        if j in todo or (j.name in needed and not (out / j.name / "weights.pt").exists())
    ]


def run_all(jobs: list[Job], out: Path, label: str) -> None:
    """Two at a time, each after those that it begins with."""
    running, order = {}, sorted(still_to_run(jobs, out), key=lambda j: bool(j.base or j.prompt))
    with ThreadPoolExecutor(2) as pool, tqdm(total=len(order), desc=label, unit="run") as bar:

        def work(j: Job) -> None:
            for before in {j.base, j.prompt} & {*running}:
                running[before].result()
            execute(j, out)
            bar.set_postfix_str(j.name, refresh=False)
            bar.update()

        try:
            for j in order:
                running[j.name] = pool.submit(work, j)
            for future in running.values():
                future.result()
        finally:
            # those that have not begun, where one failed or Ctrl-C came
            pool.shutdown(wait=False, cancel_futures=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="fst, rl and gepa on strings with seed 0, at the rates of the sweep",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=EXPERIMENTS,
        default=CLAIMS,
        help="one or more (default: all but the last three)",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument(
        "--domains",
        nargs="+",
        choices=DOMAINS,
        default=DOMAINS,
        help="where an experiment has several",
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "out" / "experiments", help="where the runs' folders are"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.quick:
        args.only, args.seeds, args.domains = ["domains"], [0], ["strings"]
    args.out = args.out.resolve()  # train.py runs in a folder of its own choice
    try:
        check_base()
        if "sweep" in args.only:
            run_all([*chain(*sweep_jobs().values())], args.out, "sweep of the rates")
        lr = best_rates()
        for method in dict.fromkeys(
            chain(*(OWN_KL[experiment] for experiment in args.only if experiment in OWN_KL))
        ):
            run_all(
                [*chain(*kl_jobs(method, lr).values())],
                args.out,
                f"sweep of the KL coefficient of {method}",
            )
        jobs = [
            j for experiment in args.only for j in jobs_of(experiment, lr, args.seeds, args.domains)
        ]
        # all in one queue, so that no core waits between experiments
        run_all(jobs, args.out, "runs")
    except FileNotFoundError as error:
        sys.exit(f"run.py: {error.filename} is missing: run the sweep first, with --only sweep")
    except (ValueError, OSError) as error:
        sys.exit(f"run.py: {error}")
    except KeyboardInterrupt:
        sys.exit("run.py: stopped; the same command goes on from there")
    except RuntimeError as error:
        sys.exit(f"run.py: a run failed, the others are kept: {error}")


if __name__ == "__main__":
    main()
