"""How fast sampling, reflecting and a gradient step are, beside what people would use instead.

    python experiments/bench.py > experiments/results/bench-cpu.md
    python experiments/bench.py --device cuda > experiments/results/bench-cuda.md
    python experiments/bench.py --other OLD/base.pt     also reflections of another base

Competitors run in turn, round after round, in one process; a figure is the median over the rounds.
Another program on the machine slows all of them down: ratios are what counts. A whole run beside
that of another commit, in turn:

    git worktree add ../before COMMIT
    for i in 1 2 3; do for d in . ../before; do (cd $d; time python train.py --seed 0); done; done
"""

import contextlib
import copy
import random
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import root  # noqa: F401 (it makes the imports below possible)
import torch

import rl
from base.prepare import SHIPPED, load_base
from plumbing import command_line
from sampling import Sampler, completions_of, decoder, sample
from tasks import make_task
from tasks.world import ToyWorld
from tests.llama import llama_of
from tests.naive import sample_naive

# A gradient step of the main job, and a batch of its reflections.
PROMPTS, QUESTIONS, GROUP, REFLECTIONS = 4, 32, 8, 16
GREEDY_TOKENS = 36  # in each row, where all are equally long: about as many as an answer has
ROUNDS = 5  # of a race
HEAD = """| what | ours | the other | seconds of ours | of the other | times faster |
|---|---|---|---|---|---|"""
WORLD = ToyWorld()
TASK = make_task("strings", 0)


def race(runners, rounds):
    """Functions that return how much they did -> the median of the seconds that each takes for 1.

    One more round comes first, to warm up.
    """
    seconds = {name: [] for name in runners}
    for _ in range(rounds + 1):
        for name, runner in runners.items():
            start = time.perf_counter()
            amount = runner()
            seconds[name].append((time.perf_counter() - start) / amount)
    return {name: statistics.median(times[1:]) for name, times in seconds.items()}


def compare(what, seconds):
    """Print lines of the table: the first of some competitors beside each of the others."""
    (name, ours), *others = seconds.items()
    for other, theirs in others:
        figures = f"{ours:.3g} | {theirs:.3g} | {theirs / ours:.1f}"
        print(f"| {what} | {name} | {other} | {figures} |", flush=True)


def open_model(path, device):
    model, _ = load_base(Path(path))
    return model.to(device).requires_grad_(False)


# --- sampling ---


def job(n_prompts):
    """Token lists: prompts that name the hidden rules, and the questions for each of them."""
    prompt = WORLD.encode_start(WORLD.prompt_text(TASK.instructions))
    asked = TASK.questions(random.Random(0), QUESTIONS)
    questions = [WORLD.encode(WORLD.question_text(question)) for question in asked]
    return [prompt] * n_prompts, [questions] * n_prompts


def generate_of(llama, **settings):
    """What `transformers` samples in the same rows -> how many tokens."""
    prompts, questions = job(PROMPTS)
    rows = []
    for prompt, asked in zip(prompts, questions, strict=True):
        for question in asked:
            rows += GROUP // PROMPTS * [prompt + question]

    # It wants the padding to the left.
    width = max(map(len, rows))
    tokens = torch.tensor([[WORLD.pad] * (width - len(row)) + row for row in rows])
    tokens = tokens.to(llama.device)
    mask = (tokens != WORLD.pad).long()
    written = llama.generate(tokens, attention_mask=mask, **settings)[:, width:]

    # A row's tokens up to its first end, the end included.
    ends = (written == WORLD.eos).long()
    before = ends.cumsum(1) - ends
    return (before == 0).sum().item()


def draw_noise(model, max_new):
    return torch.rand(QUESTIONS * GROUP, max_new, device=model.cos.device)


def sampled(sampler, model, **settings):
    """What one of our samplers samples -> how many tokens."""
    settings |= {"pad": WORLD.pad, "noise": draw_noise(model, settings["max_new"])}
    rollouts = sampler(model, *job(PROMPTS), GROUP // PROMPTS, **settings)
    return rollouts.lengths.sum().item()


def bench_sampling(model, device, rounds):
    """Rows of a gradient step: greedy and equally long, then answers as they come."""
    llama = llama_of(model, eos_token_id=WORLD.eos, pad_token_id=WORLD.pad)
    greedy = {"max_new": GREEDY_TOKENS, "eos": -1, "temperature": 0.0}
    theirs = {"max_new_tokens": GREEDY_TOKENS, "min_new_tokens": GREEDY_TOKENS, "do_sample": False}
    real = {"max_new": WORLD.answer_tokens, "eos": WORLD.eos}
    theirs_real = {"max_new_tokens": WORLD.answer_tokens, "do_sample": True, "top_k": 0}

    # On a GPU decoder() gives steps that are recorded and replayed.
    fast = partial(sample, decode=decoder(False, device))
    runners = {
        "sampling.py": partial(sampled, fast, model, **greedy),
        "transformers": partial(generate_of, llama, **theirs),
        "all recomputed": partial(sampled, sample_naive, model, **greedy),
    }
    answers = {
        "sampling.py": partial(sampled, fast, model, **real),
        "transformers": partial(generate_of, llama, **theirs_real),
    }
    compare("a token of 256 greedy rows", race(runners, rounds))
    compare("a token of 256 answers", race(answers, rounds))


def reflected(model):
    """A batch of reflections -> how many tokens."""
    sampler = Sampler(model, WORLD, 1.0, decode=decoder(False, model.cos.device.type))
    asked = TASK.questions(random.Random(0), 3 * REFLECTIONS)
    failures = [(question, WORLD.grade(question, "")) for question in asked]
    requests = [("red", "", failures[3 * i : 3 * i + 3]) for i in range(REFLECTIONS)]
    sampler.reflect(requests)
    return sampler.sampled_tokens


def bench_reflections(model, other, rounds):
    runners = {"this base": partial(reflected, model), "the other": partial(reflected, other)}
    compare("a token of 16 reflections", race(runners, rounds))


# --- a gradient step ---


def draw_rewards(completions):
    """Rewards by chance: with spread in nearly all groups, so that none can be left out."""
    return [float(random.getrandbits(1)) for _ in completions]


def step(policy, base, optimizer, decode):
    """A gradient step of `rl`, rollouts included."""
    prompts, questions = job(1)
    settings = {"max_new": WORLD.answer_tokens, "eos": WORLD.eos, "pad": WORLD.pad}
    noise = draw_noise(policy, WORLD.answer_tokens)
    rollouts = sample(policy, prompts, questions, GROUP, noise=noise, decode=decode, **settings)
    completions = completions_of(rollouts)
    rl.update(
        policy=policy,
        base=base,
        optimizer=optimizer,
        contexts=[prompts[0] + question for question in questions[0]],
        completions=completions,
        sampled_logprobs=rollouts.logprobs,
        rewards=torch.tensor(draw_rewards(completions)),
        groups=torch.arange(QUESTIONS * GROUP).view(QUESTIONS, GROUP),
        temperature=1.0,
        kl_coef=0.001,
    )


def trl_trainer(model, folder, device, steps):
    """TRL's GRPO on the same questions, under the same prompt. Raises ImportError without it."""
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from trl import GRPOConfig, GRPOTrainer

    # Its texts are words like w17, one for each token.
    vocabulary = {f"w{i}": i for i in range(model.cfg.vocab_size)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token=f"w{WORLD.pad}"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"eos_token": f"w{WORLD.eos}", "pad_token": f"w{WORLD.pad}"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, **special)
    prompts, questions = job(1)
    rows = []
    for question in questions[0]:
        rows.append({"prompt": " ".join(f"w{token}" for token in prompts[0] + question)})

    # It reads the reference model from where the policy came from.
    llama_of(model, eos_token_id=WORLD.eos, pad_token_id=WORLD.pad).save_pretrained(folder)
    settings = GRPOConfig(
        output_dir=folder,
        per_device_train_batch_size=QUESTIONS * GROUP,
        num_generations=GROUP,
        max_completion_length=WORLD.answer_tokens,
        beta=0.001,
        max_steps=steps,
        save_strategy="no",
        report_to=[],
        use_cpu=device == "cpu",
        bf16=False,
        model_init_kwargs={"dtype": "float32"},
        gradient_checkpointing=False,
        disable_tqdm=True,
    )

    def score(completion_ids, **_):
        return draw_rewards(completion_ids)

    data = Dataset.from_list(rows)
    return GRPOTrainer(folder, score, settings, data, processing_class=tokenizer)


def bench_step(model, device, rounds):
    """After each step of TRL comes one of ours. The first of each is to warm up."""
    from transformers import TrainerCallback

    policy = copy.deepcopy(model).requires_grad_()
    optimizer = torch.optim.AdamW(policy.parameters(), lr=0.0)
    decode = decoder(False, device)
    times = []  # when their step begins, when it ends, when ours has ended

    class Turns(TrainerCallback):
        def on_step_begin(self, *_, **__):
            times.append(time.perf_counter())

        def on_step_end(self, *_, **__):
            times.append(time.perf_counter())
            step(policy, model, optimizer, decode)
            times.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        trainer = trl_trainer(model, folder, device, rounds + 1)
        trainer.add_callback(Turns)
        with contextlib.redirect_stdout(sys.stderr):  # the table is printed to stdout
            trainer.train()
    rounds = torch.tensor(times, dtype=torch.float64).view(-1, 3)[1:]  # (rounds, moments)
    theirs, ours = rounds.diff().median(0).values.tolist()
    compare("a gradient step", {"train.py": ours, "TRL": theirs})


def main(argv=None):
    parser = command_line.script_parser(__file__, __doc__)
    parser.add_argument("--base", default=SHIPPED, help="default: %(default)s")
    parser.add_argument("--other", help="checkpoint of another base, for reflections")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    args = parser.parse_args(argv)
    with command_line.failures_in_one_line("stopped", faults=(ValueError, OSError, ImportError)):
        model = open_model(args.base, args.device)
        print(f"On {args.device}, {torch.get_num_threads()} threads, torch {torch.__version__}.\n")
        print(HEAD, flush=True)
        bench_sampling(model, args.device, ROUNDS)
        if args.other:
            bench_reflections(model, open_model(args.other, args.device), ROUNDS)
        bench_step(model, args.device, ROUNDS)


if __name__ == "__main__":
    main()
