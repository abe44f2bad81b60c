"""How fast sampling and a gradient step are, beside what people would use instead.

    python experiments/bench.py > experiments/results/bench-cpu.md
    python experiments/bench.py --device cuda > experiments/results/bench-cuda.md

Competitors run in turn, round after round, in one process; a number is the median over the rounds.
Another program on the machine slows all of them down: ratios are what counts. A whole run beside
that of another commit, in turn:

    git worktree add ../before COMMIT
    for i in 1 2 3; do for d in . ../before; do (cd $d; time python train.py --seed 0); done; done
"""

import contextlib
import random
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import root  # noqa: F401 (it makes the imports below possible)
import torch
from torch.nn.utils.rnn import pad_sequence

from base.prepare import SHIPPED, Base, load_base
from plumbing import command_line
from plumbing.devices import pick_device
from plumbing.folder import RunFolder
from sampling import contexts_of, decoder, sample
from tasks import make_task
from tasks.world import Outcome, ToyWorld
from tests.llama import llama_of
from tests.naive import sample_naive
from train import Config, Learner, slow_step

# A gradient step of the main job.
PROMPTS, QUESTIONS, GROUP = 4, 32, 8
GREEDY_TOKENS = 36  # in each row, where all are equally long: about as many as an answer has
ROUNDS = 5  # of a race
HEAD = """| what | ours | the other | seconds of ours | of the other | times faster |
|---|---|---|---|---|---|"""
LINE = "| {} | {} | {} | {:.3g} | {:.3g} | {:.1f} |"
WORLD = ToyWorld()
SPECIAL = {"eos_token_id": WORLD.eos, "pad_token_id": WORLD.pad}
TASK = make_task("strings", 0)
PROMPT = WORLD.prompt_text(TASK.instructions)  # it names the hidden rules


def questions(n):
    """The first questions of the task, always the same."""
    return TASK.questions(random.Random(0), n)


def contexts():
    """What a model reads before each answer in a gradient step, as tokens."""
    return contexts_of(WORLD, [(TASK.instructions, questions(QUESTIONS))])


def race(what, runners):
    """Let functions that return how much they did run in turn, and compare their seconds for 1."""
    rounds = []
    for _ in range(ROUNDS + 1):
        seconds = []
        for runner in runners.values():
            start = time.perf_counter()
            amount = runner()
            seconds.append((time.perf_counter() - start) / amount)
        rounds.append(seconds)
    compare(what, list(runners), rounds)


def compare(what, names, rounds):
    """Print lines of the table: the first of some competitors beside each of the others.

    rounds: the seconds of each of them, round by round. The first round is to warm up.
    """
    ours, *others = np.median(rounds[1:], axis=0)
    for name, theirs in zip(names[1:], others, strict=True):
        print(LINE.format(what, names[0], name, ours, theirs, theirs / ours), flush=True)


# --- sampling ---


def sampled(sampler, model, **settings):
    """What one of our samplers samples -> how many tokens."""
    prompt = WORLD.encode_start(PROMPT)
    asked = [WORLD.encode(WORLD.question_text(question)) for question in questions(QUESTIONS)]
    noise = torch.rand(QUESTIONS * GROUP, settings["max_new"], device=model.cos.device)
    rows = (PROMPTS * [prompt], PROMPTS * [asked], GROUP // PROMPTS)
    rollouts = sampler(model, *rows, pad=WORLD.pad, noise=noise, **settings)
    return rollouts.lengths.sum().item()


def generated(llama, **settings):
    """What `transformers` samples in the same rows -> how many tokens."""
    # It wants the padding to the left.
    rows = [torch.tensor(context) for context in GROUP * contexts()]
    tokens = pad_sequence(rows, True, WORLD.pad, padding_side="left").to(llama.device)
    mask = (tokens != WORLD.pad).long()
    written = llama.generate(tokens, attention_mask=mask, **settings)[:, tokens.size(1) :]
    return (written != WORLD.pad).sum().item()


def bench_sampling(model, device):
    """Rows of a gradient step: greedy and equally long, then answers as they come."""
    # On a GPU decoder() gives steps that are recorded and replayed.
    fast = partial(sample, decode=decoder(False, device))
    llama = llama_of(model, **SPECIAL)

    n = GREEDY_TOKENS
    greedy = {"max_new": n, "eos": -1, "temperature": 0.0}
    runners = {
        "sampling.py": partial(sampled, fast, model, **greedy),
        "transformers": partial(
            generated, llama, max_new_tokens=n, min_new_tokens=n, do_sample=False
        ),
        "all recomputed": partial(sampled, sample_naive, model, **greedy),
    }
    race("a token of 256 greedy rows", runners)

    n = WORLD.answer_tokens
    runners = {
        "sampling.py": partial(sampled, fast, model, max_new=n, eos=WORLD.eos),
        "transformers": partial(generated, llama, max_new_tokens=n, do_sample=True, top_k=0),
    }
    race("a token of 256 answers", runners)


# --- a gradient step ---


class ChanceWorld(ToyWorld):
    """Rewards by chance: with spread in nearly all groups, so that none can be left out."""

    def grade(self, question, completion):
        return Outcome(float(random.getrandbits(1)), None)


def trl_trainer(model, folder, device):
    """TRL's GRPO on the same questions, under the same prompt. Raises ImportError without it."""
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from trl import GRPOConfig, GRPOTrainer

    # Its texts are words like w17, one for each token.
    vocabulary = {f"w{i}": i for i in range(model.cfg.vocab_size)}
    words = Tokenizer(models.WordLevel(vocabulary))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"eos_token": f"w{WORLD.eos}", "pad_token": f"w{WORLD.pad}"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, **special)
    rows = []
    for context in contexts():
        rows.append({"prompt": " ".join(f"w{token}" for token in context)})

    # It reads the reference model from where the policy came from.
    llama_of(model, **SPECIAL).save_pretrained(folder)
    settings = GRPOConfig(
        output_dir=folder,
        per_device_train_batch_size=QUESTIONS * GROUP,
        num_generations=GROUP,
        max_completion_length=WORLD.answer_tokens,
        beta=0.001,
        max_steps=ROUNDS + 1,
        save_strategy="no",
        use_cpu=device == "cpu",
        bf16=False,
        gradient_checkpointing=False,
        disable_tqdm=True,
    )

    def score(completions, **_):
        return [float(random.getrandbits(1)) for _ in completions]

    data = Dataset.from_list(rows)
    return GRPOTrainer(folder, score, settings, data, processing_class=tokenizer)


def bench_step(model, device):
    """After each step of TRL comes one of ours: of `rl`, rollouts included."""
    from transformers import TrainerCallback

    cfg = Config(method="rl", tasks=("strings",), prompt=PROMPT, lr=0.0, group=GROUP)
    base = Base(model, ChanceWorld(), about={}, checksum=0)
    rounds = []

    class Turns(TrainerCallback):
        def on_step_begin(self, *_, **__):
            self.begun = time.perf_counter()

        def on_step_end(self, *_, **__):
            ended = time.perf_counter()
            slow_step(learner, questions(QUESTIONS))
            rounds.append([time.perf_counter() - ended, ended - self.begun])

    with tempfile.TemporaryDirectory() as folder, RunFolder(f"{folder}/ours", "", "") as ours:
        learner = Learner(cfg, base, device, ours)
        trainer = trl_trainer(model, folder, device)
        trainer.add_callback(Turns)
        with contextlib.redirect_stdout(sys.stderr):  # the table is printed to stdout
            trainer.train()
    compare("a gradient step", ["train.py", "TRL"], rounds)


def main(argv=None):
    parser = command_line.script_parser(__file__, __doc__)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    args = parser.parse_args(argv)
    with command_line.failures_in_one_line("stopped", faults=(ValueError, ImportError)):
        model = load_base(Path(SHIPPED)).model.to(pick_device(args.device))
        print(f"On {args.device}, {torch.get_num_threads()} threads, torch {torch.__version__}.\n")
        print(HEAD, flush=True)
        bench_sampling(model, args.device)
        bench_step(model, args.device)


if __name__ == "__main__":
    main()
