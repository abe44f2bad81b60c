"""Every run behind docs/RESULTS.md: one table, and what carries it out.

    python experiments/run.py                      all but the experiments named in ON_REQUEST
    python experiments/run.py stream --seeds 0-9   some experiments, or some runs; these seeds

A run that has finished leaves a folder in experiments/results/runs (settings, log, closing table)
and is not repeated. A run that was stopped goes on with the same command. Each run has one thread;
several go side by side.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from root import KEPT, ROOT
from tqdm import tqdm

from plumbing import command_line
from plumbing.files import read_json, write_file
from tasks import formats, make_task
from train import Config
from words.examples import random_examples
from words.tasks import KINDS

# --- which runs there are ---

DOMAINS = ("strings", "numbers", "facts", "star_graph")
STREAM = "strings numbers facts strings"  # it comes back to its first task

# The sweep tries the same values for both methods.
RATES = ("0.0001", "0.0003", "0.001")
KL_COEFS = ("0.001", "0.03", "0.1", "0.3")

# Options of all runs, unless their line says otherwise. What the sweep has chosen, for both methods
# the same, are the defaults of train.py.
COMMON = "--device cpu --eval-every 5 --method {method} --stage {stage} --seed {seed}"

# A line stands for a run with each of its seeds, and with each of what its capitals stand for. The
# seeds were decided before the first run: 0 to 4 first, then 5 to 9; those of the sweep are used
# nowhere else. `rl` has longer stages than `fst`, so that it has as many rollouts. A run begins
# with the base; with the base under a prompt that names the rules (right), or one that shows worked
# examples (examples); or with the weights that the run of that name and the same seed ended with.
# (The tasks strings and strings:7 of a seed share no rule.)
TABLE = """
experiment  run                 seeds    method   stage  begins       tasks and other options
domains     fst-DOMAIN          0-9      fst      60     base         DOMAIN --skills
domains     rl-DOMAIN           0-9      rl       80     base         DOMAIN --skills
domains     gepa-DOMAIN         0-4      gepa     60     base         DOMAIN
rates       hasty-DOMAIN        0-4      rl       80     base         DOMAIN --lr 0.001
stream      stream-fst          0-9      fst      30     base         STREAM
stream      stream-rl           0-9      rl       45     base         STREAM
stream      stream-no-memory    0-4      fst      30     base         STREAM --memory 0
stream      stream-no-surprise  0-4      fst      30     base         STREAM --no-surprise
stream      stream-stage-33     0-4      fst      33     base         STREAM
plasticity  numbers-after-fst   0-4      rl       80     fst-strings  numbers
plasticity  numbers-after-rl    0-4      rl       80     rl-strings   numbers
plasticity  strings-after-fst   0-4      rl       80     fst-numbers  strings
plasticity  strings-after-rl    0-4      rl       80     rl-numbers   strings
plasticity  others-after-base   0-4      rl       80     base         strings:7
plasticity  others-after-fst    0-4      rl       80     fst-strings  strings:7
plasticity  others-after-rl     0-4      rl       80     rl-strings   strings:7
ceiling     ceiling-DOMAIN      0-4      rl       80     right        DOMAIN
catch-up    catch-up-strings    0-4      gepa     60     rl-strings   strings
catch-up    catch-up-numbers    0-4      gepa     60     rl-numbers   numbers
distill     distill-strings     0-4      distill  60     base         strings
distill     distill-numbers     0-4      distill  60     base         numbers
reflector   reflector-strings   0-4      fst      60     base         strings --reflector base
reflector   reflector-numbers   0-4      fst      60     base         numbers --reflector base
orders      numbers-facts-fst   0-4      fst      30     base         numbers facts
orders      facts-numbers-fst   0-4      fst      30     base         facts numbers
orders      numbers-facts-rl    0-4      rl       45     base         numbers facts
orders      facts-numbers-rl    0-4      rl       45     base         facts numbers
sweep       sweep-fst-LR-KL     100-101  fst      30     base         SHORT --lr LR --kl-coef KL
sweep       sweep-rl-LR-KL      100-101  rl       45     base         SHORT --lr LR --kl-coef KL
words       words-fst-KIND      0-2      fst      20     examples     KIND MODEL
words       words-gepa-KIND     0-2      gepa     20     examples     KIND MODEL --passes 26
words       words-examples-KIND 0-2      rl       26     examples     KIND MODEL
words       words-rl-KIND       0-2      rl       26     base         KIND MODEL
word-sweep  sweep-fst-sums-PACE 100      fst      20     examples     sums MODEL --lr PACE
word-sweep  sweep-rl-sums-PACE  100      rl       26     examples     sums MODEL --lr PACE
"""

STANDS_FOR = {
    "DOMAIN": DOMAINS,
    "STREAM": [f"{STREAM} --eval-every 3"],
    "SHORT": ["strings numbers facts --eval-every 15"],
    "LR": RATES,
    "KL": KL_COEFS,
    "KIND": KINDS,
    "MODEL": ["--llm smollm2 --skills --eval-every 8"],
    "PACE": ("0.00002", "0.00005"),
}

# Made only when they are asked for. `words` needs a pretrained model, docs/WORDS.md.
ON_REQUEST = ("sweep", "words", "word-sweep")


@dataclass(frozen=True)
class Run:
    """One run of train.py."""

    experiment: str
    name: str
    seed: int
    method: str
    stage: str  # gradient steps of each task
    begins: str  # "base", one of PROMPTS, or the name of another run
    options: str  # its tasks come first; a run that begins with a prompt has one task
    before: "Run | None"  # the run whose weights it begins with

    @property
    def folder(self) -> str:
        return f"{self.name}-{self.seed}"


def expand(text: str, stands_for: dict) -> list[str]:
    """The lines of a table, each once for each of what a word in it stands for."""
    lines = text.strip().splitlines()
    for word, names in stands_for.items():
        # Where the word is not in a line, all copies are the same: one stays.
        lines = dict.fromkeys(line.replace(word, name) for line in lines for name in names)
    return list(lines)


def all_runs() -> list[Run]:
    """All runs, seed by seed. A run comes after that whose weights it begins with."""
    runs = {}
    for line in expand(TABLE, STANDS_FOR)[1:]:
        experiment, name, seeds, method, stage, begins, options = line.split(maxsplit=6)
        for seed in seeds_of(seeds):
            before = runs.get((begins, seed))
            run = Run(experiment, name, seed, method, stage, begins, options, before)
            runs[name, seed] = run
    return sorted(runs.values(), key=lambda run: run.seed)


@cache
def names() -> Counter:
    """The names of all runs, each with the number of its seeds."""
    return Counter(run.name for run in all_runs())


def seeds_of(words: str) -> range:
    """The seeds that "3" or "0-4" stands for. Raises ArgumentTypeError for other words."""
    if not re.fullmatch(r"\d+(-\d+)?", words):
        raise argparse.ArgumentTypeError(f"{words} is no range of seeds like 0-4")
    first, _, last = words.partition("-")
    return range(int(first), int(last or first) + 1)


# --- how a run is made ---


@dataclass
class Place:
    """Where runs are made and what they leave is kept, and options that all of them have."""

    work: Path = ROOT / "out" / "experiments"
    kept: Path = KEPT
    options: tuple[str, ...] = ()

    def is_finished(self, run: Run) -> bool:
        return (self.kept / run.folder / "result.json").exists()

    def weights(self, run: Run) -> Path:
        """What a run ended with; it is not kept."""
        return self.work / run.folder / "weights.pt"


def command(run: Run, place: Place) -> list[str]:
    """The options of train.py that make a run."""
    words = COMMON.format(**vars(run)).split()
    words += ["--tasks", *run.options.split(), *place.options]
    if run.before:
        words += ["--base", str(place.weights(run.before))]
    if run.begins in PROMPTS:
        task, *_ = run.options.split()
        path = place.work / f"{run.folder}.txt"
        write_prompt(path, PROMPTS[run.begins](task, run.seed))
        words += ["--prompt", str(path)]
    return words


def right_prompt(task: str, seed: int) -> str:
    """The prompt that names all hidden rules of a task."""
    return formats.prompt_text(make_task(task, seed).instructions)


def write_prompt(path: Path, prompt: str):
    """Write a prompt for --prompt."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(prompt, encoding="utf-8")


# What else a run may begin with: from the name of its task and its seed, a prompt.
PROMPTS = {"right": right_prompt, "examples": random_examples}


def settings_of(run: Run, place: Place) -> dict:
    """A run's settings as they are kept: the base by its checksum, no paths of this machine."""
    cfg = command_line.parse(Config, command(run, place))
    if run.before:
        base = f"weights of {run.before.folder}"
    elif cfg.llm:
        base = ""
    else:
        base = f"base {zlib.crc32(Path(cfg.base).read_bytes()):08x}"
    settings = asdict(cfg) | {"base": base, "out": ""}
    return json.loads(json.dumps(settings))  # as they look when they are read again


def check_settings(folder: Path, asked: dict, but=()):
    """Raises ValueError where a folder has a run with other settings than those asked for."""
    saved = read_json(folder / "config.json")
    for name, value in saved.items():
        # A setting that is older than the run or younger is not compared.
        if name not in but and value != asked.get(name, value):
            raise ValueError(
                f"{folder} has a run with {name} {value}, asked for is {asked[name]}: "
                "move the folder away first"
            )


def execute(run: Run, place: Place):
    """Make a run in a process of its own, or go on with it. Raises RuntimeError if it fails."""
    folder = place.work / run.folder
    asked = settings_of(run, place)
    words = [*command(run, place), "--out", str(folder)]
    if (folder / "config.json").exists():
        check_settings(folder, asked, but=("base", "out"))  # of the base train.py is sure itself
        words = ["--resume", str(folder)]

    # One thread: two runs side by side are faster than one with two threads.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    program = [sys.executable, "train.py", *words]
    ended = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True)
    if ended.returncode:
        *_, said = ["no message", *ended.stderr.split("\n")[:-1]]
        raise RuntimeError(f"{run.folder}: {said}")
    if not (folder / "result.json").exists():
        raise RuntimeError(f"{run.folder} was stopped")
    if not place.is_finished(run):
        keep(folder, place.kept / run.folder, asked)
    if "--llm" in run.options:
        for name in ("weights.pt", "checkpoint.pt"):  # two gigabytes
            (folder / name).unlink(missing_ok=True)


def keep(folder, kept, settings):
    """Keep what the report needs of a finished run. The closing table comes last."""
    log = (folder / "log.jsonl").read_text(encoding="utf-8")
    log = re.sub(r'"how": "(\\.|[^"\\])*"', '"how": ""', log)  # whole reflections are long
    kept.mkdir(parents=True, exist_ok=True)
    write_file(kept / "config.json", json.dumps(settings, indent=1).encode())
    write_file(kept / "log.jsonl", log.encode())
    write_file(kept / "result.json", (folder / "result.json").read_bytes())


# --- what is made in which order ---


def still_to_make(wanted, place: Place) -> list[Run]:
    """The runs that have not finished, each after the one whose weights it begins with.

    Raises ValueError for a finished run with other settings.
    """
    todo = []
    for run in wanted:
        # The run whose weights it begins with comes first. If that one has ended, train.py still
        # makes sure that its settings and its base are those of today.
        both = list(filter(None, (run.before, run)))
        for made in filter(place.is_finished, both):
            check_settings(place.kept / made.folder, settings_of(made, place))
        if not place.is_finished(run):
            todo += both
    return list(dict.fromkeys(todo))


def make(wanted, place: Place, jobs: int) -> list[str]:
    """Make runs, several side by side -> what went wrong, a line for each that failed."""
    todo = still_to_make(wanted, place)
    futures = {}
    failures = []

    def work(run: Run):
        # What it begins with was given to the pool before it.
        if run.before in futures:
            futures[run.before].result()
        execute(run, place)

    with ThreadPoolExecutor(jobs) as pool:
        try:
            for run in todo:
                futures[run] = pool.submit(work, run)
            for future in tqdm(as_completed(futures.values()), total=len(todo), unit="run"):
                try:
                    future.result()
                except RuntimeError as error:
                    failures.append(str(error))
        finally:
            pool.shutdown(cancel_futures=True)  # after Ctrl-C nothing new begins
    return failures


def choose(asked: list[str], seeds) -> list[Run]:
    """The runs of experiments, or of single names, with these seeds; sweeps have their own.

    Raises ValueError for a name that is none, and where nothing has such a seed.
    """
    experiments = dict.fromkeys(run.experiment for run in all_runs())
    for name in asked:
        if name not in experiments and name not in names():
            known = ", ".join(experiments)
            raise ValueError(f"there is no {name}: experiments are {known}; or name a run")
    asked = asked or [name for name in experiments if name not in ON_REQUEST]
    runs = [run for run in all_runs() if run.experiment in asked or run.name in asked]
    chosen = [run for run in runs if run.seed in seeds or "sweep" in run.experiment]
    if not chosen:
        raise ValueError(f"{' '.join(asked)}: no run has one of these seeds")
    return chosen


def main(argv=None):
    parser = command_line.script_parser(__file__, __doc__)
    parser.add_argument("names", nargs="*", help="experiments or runs; default: most of them")
    parser.add_argument("--seeds", type=seeds_of, default="0-2", help="default: %(default)s")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs side by side")
    args = parser.parse_args(argv)
    stopped = "stopped; the same command goes on from there"
    with command_line.failures_in_one_line(stopped):
        if args.jobs < 1:
            raise ValueError("--jobs must be 1 at least")
        failures = make(choose(args.names, args.seeds), Place(), args.jobs)
        if failures:
            raise ValueError(f"{len(failures)} runs failed, the others are kept; {failures[0]}")


if __name__ == "__main__":
    main()
