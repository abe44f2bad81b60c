"""How fast a run is on a GPU: decode steps replayed from CUDA graphs, or launched one by one.

    python experiments/gpu.py --out experiments/results/gpu.json

Both run in turn, in one process. A time of sampling is the median of its rounds, that of two cycles
the shorter of two. Last comes one whole `python train.py`, from its start to its closing table.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from bench import ROOT, WORLD, base_model, make_learner, race

import train
from plumbing.command_line import StopOnCtrlC
from sampling import Sampler, decode_step, decoder
from tasks import make_task
from tests import toy

WAYS = {"replayed": lambda: decoder(False, "cuda"), "launched": lambda: decode_step}
STEPS = 12  # of the main job: two cycles


def samplers(words: str) -> tuple[dict, dict]:
    """Functions that sample answers, or reflections, in each way; and how many tokens they drew."""
    model, task, tokens = base_model().cuda(), make_task("strings", 0), {}
    asked = task.questions(random.Random(0), 32)
    failures = [(q, WORLD.grade(q, "")) for q in asked]
    requests = [(q.topic, "", failures[i : i + 3]) for i, q in enumerate(asked[:16])]

    def run(way: str, decode) -> None:
        rng = torch.Generator("cuda").manual_seed(0)
        sampler = Sampler(model, WORLD, 1.0, rng, decode)
        if words == "answers":
            sampler.answer([(task.instructions, asked)] * 4, samples=2)
        else:
            sampler.reflect(requests)
        tokens[way] = sampler.sampled_tokens

    return {way: partial(run, way, make()) for way, make in WAYS.items()}, tokens


def cycles(way: str) -> tuple[float, list]:
    """Two cycles of the main job -> how many seconds, and the log without those."""
    with tempfile.TemporaryDirectory() as folder:
        learner = make_learner(folder, STEPS, "cuda")
        learner.decode = WAYS[way]()
        start = time.perf_counter()
        train.train(learner, StopOnCtrlC(), begun=False)
        seconds = time.perf_counter() - start
        learner.folder.close()
        return seconds, toy.log_of(Path(folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--out", type=Path, required=True, help="the file to write")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("gpu.py: needs a CUDA device, this machine has none")
    result = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    for words, rounds in (("answers", 7), ("reflections", 3)):
        runners, tokens = samplers(words)
        times = race(runners, rounds)
        if len(set(tokens.values())) != 1:
            sys.exit(f"gpu.py: the ways do not give the same rollouts: {tokens} tokens")
        # tokens a second
        result[words] = {way: round(tokens[way] / seconds) for way, seconds in times.items()}
        print(words, result[words], flush=True)
    one, two = ({way: cycles(way) for way in WAYS} for _ in range(2))
    result["seconds"] = {way: min(one[way][0], two[way][0]) for way in WAYS}
    result["the same log"] = {way: one[way][1] == two[way][1] for way in WAYS}
    print(result["seconds"], result["the same log"], flush=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        command = [sys.executable, "train.py", "--seed", "0", "--device", "cuda", "--out", folder]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        result["train.py"] = {"seconds": time.perf_counter() - start}
        outcome = json.loads((Path(folder) / "result.json").read_text(encoding="utf-8"))
    accuracies = {task["task"]: task["accuracy"]["trained weights"][1] for task in outcome["tasks"]}
    result["train.py"] |= {"rollouts": outcome["rollouts"], "accuracy": accuracies}
    print(result["train.py"], flush=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
