"""How fast sampling, updates and whole cycles are, beside what people would use instead and beside
the machine.

    python experiments/bench.py            writes experiments/results/bench.json
    python experiments/bench.py --quick    the same with fewer rounds and sizes; a few minutes

All competitors of a line run in turn, round after round, in one process; a time is the median of
its rounds. Ratios are what counts: another program on the machine slows all of them down.
"""

import argparse
import contextlib
import copy
import functools
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import rl  # noqa: E402
import sampling  # noqa: E402
import train  # noqa: E402
from base.prepare import SHIPPED, load_base, open_base  # noqa: E402
from model import GPT, GPTConfig  # noqa: E402
from plumbing.command_line import StopOnCtrlC, parse  # noqa: E402
from plumbing.devices import has_compiler  # noqa: E402
from plumbing.folder import RunFolder  # noqa: E402
from sampling import CHUNK, decoder, sample  # noqa: E402
from tasks import make_task  # noqa: E402
from tasks.world import ToyWorld  # noqa: E402
from tests.naive import sample_naive  # noqa: E402

# the main job's shapes, in tokens
PROMPTS, QUESTIONS, GROUP, PROMPT, QUESTION, ANSWER = 4, 32, 8, 19, 10, 36
WORLD = ToyWorld()
EOS, PAD = WORLD.eos, WORLD.pad


def race(runners: dict, rounds: int) -> dict[str, float]:
    """Functions by name -> the median seconds of each, measured in turn."""
    times = {name: [] for name in runners}
    for i in range(rounds + (rounds > 1)):
        for name, runner in runners.items():
            start = time.perf_counter()
            runner()
            times[name].append(time.perf_counter() - start)
        if i == 0 and rounds > 1:
            times = {name: [] for name in runners}  # the first round warms up
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def base_model() -> GPT:
    """The shipped base."""
    model, _ = load_base(Path(SHIPPED))
    return model.requires_grad_(False)


def make_learner(folder: str, steps: int, device: str) -> train.Learner:
    """The main job at its beginning; its folder is the caller's to close."""
    options = ["--out", folder, "--steps", str(steps), "--device", device]
    cfg = parse(train.Config, options, presets={})
    return train.Learner(cfg, open_base(cfg), cfg.device, RunFolder(folder, default="", resume=""))


def llama_of(model: GPT):
    """The same weights in transformers' Llama. Raises ImportError without it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    cfg = model.cfg
    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=cfg.vocab_size,
            hidden_size=cfg.n_embd,
            intermediate_size=cfg.n_hidden,
            num_hidden_layers=cfg.n_layer,
            num_attention_heads=cfg.n_head,
            num_key_value_heads=cfg.n_kv_head,
            max_position_embeddings=cfg.block_size,
            rms_norm_eps=cfg.norm_eps,
            tie_word_embeddings=cfg.tied_head,
            rope_parameters={"rope_type": "default", "rope_theta": cfg.rope_base},
            bos_token_id=WORLD.encode_start("")[0],
            eos_token_id=EOS,
            pad_token_id=PAD,
        )
    )
    state = {}
    for name, p in model.state_dict().items():
        for ours, theirs in [
            ("embedding.", "model.embed_tokens."),
            ("blocks.", "model.layers."),
            ("head.", "lm_head."),
            ("attention_norm.", "input_layernorm."),
            ("mlp_norm.", "post_attention_layernorm."),
            *((f".{w}.", f".self_attn.{w}_proj.") for w in "qkvo"),
            *((f".{w}.", f".mlp.{w}_proj.") for w in ("gate", "up", "down")),
        ]:
            name = name.replace(ours, theirs)
        state["model." + name if name == "norm.weight" else name] = p
    llama.load_state_dict(state)
    return llama


def batch(rows: int = 1, prompt: int = 1):
    """Prompts, questions and samples per pair, at multiples of the main job's rows and prompt
    length.
    """
    draw = lambda n: torch.randint(260, 380, (n,)).tolist()  # noqa: E731 (words, not special tokens)
    prompts = [draw(PROMPT * prompt) for _ in range(PROMPTS)]
    asked = [draw(QUESTION) for _ in range(QUESTIONS)]
    return prompts, [asked] * PROMPTS, rows * GROUP // PROMPTS


@torch.inference_mode()
def one_pass(model: GPT, tokens) -> None:
    """What sample_naive does for every token, whole rows again, and all that takes time there."""
    model(tokens)


@functools.cache
def compiled():
    """The sampler's step as --compile has it; None without a compiler."""
    if has_compiler():
        return decoder(True, "cpu")
    print("there is no C++ compiler: the lines of --compile are left out")


def samplers(model: GPT, prompts, questions, samples, max_new=ANSWER) -> dict:
    """Every way to sample the same greedy tokens, equally many in each row."""
    settings = {"max_new": max_new, "eos": -1, "pad": PAD, "temperature": 0}
    pairs = [
        (p, q)
        for p, row in zip(prompts, questions, strict=True)
        for q in row
        for _ in range(samples)
    ]
    runners = {
        "naive": lambda: sample_naive(model, prompts, questions, samples, **settings),
        "one naive pass": lambda: one_pass(
            model, torch.tensor([p + q + [PAD] * max_new for p, q in pairs])
        ),
        "copied": lambda: sample(
            model, [p for p, _ in pairs], [[q] for _, q in pairs], 1, **settings
        ),
        "shared": lambda: sample(model, prompts, questions, samples, **settings),
    }
    if decode := compiled():
        runners["compiled"] = lambda: sample(
            model, prompts, questions, samples, decode=decode, **settings
        )
    try:
        llama, tokens = llama_of(model), torch.tensor([p + q for p, q in pairs])
        mask = torch.ones_like(tokens)
        theirs = {
            "max_new_tokens": max_new,
            "min_new_tokens": max_new,
            "do_sample": False,
            "attention_mask": mask,
        }
        runners["transformers"] = lambda: llama.generate(tokens, **theirs)
    except ImportError:
        print("transformers is not installed: its lines are left out")
    return runners


def decode_products(cfg: GPTConfig):
    """The matrix products of the decode steps of `batch()`, and nothing else -> a function that
    carries them out.
    """
    R, C, J, D, V = (
        QUESTIONS * GROUP,
        cfg.n_embd,
        cfg.n_kv_head,
        cfg.n_embd // cfg.n_head,
        cfg.vocab_size,
    )
    G = cfg.n_head // J  # query heads that share a head of keys and values
    caches = lambda rows, slots: (torch.randn(J * rows, D, slots), torch.randn(J * rows, slots, D))  # noqa: E731
    x, wide = torch.randn(R, C), torch.randn(R, cfg.n_hidden)
    shapes = ((C, C), (C, J * D), (C, cfg.n_hidden), (cfg.n_hidden, C), (C, V))
    square, narrow, up, down, head = (torch.randn(s) / 16 for s in shapes)
    q, shared = torch.randn(J * PROMPTS, G * R // PROMPTS, D), caches(PROMPTS, PROMPT)
    chunks = [QUESTION + end for end in range(CHUNK, ANSWER + CHUNK, CHUNK)]
    own = {width: [caches(R, width) for _ in range(cfg.n_layer)] for width in chunks}

    def run():
        for t in range(ANSWER - 1):
            for keys, values in own[chunks[t // CHUNK]]:
                for w in (square, square, narrow, narrow):
                    torch.mm(x, w)
                torch.mm(x, up), torch.mm(x, up), torch.mm(wide, down)
                torch.bmm(torch.bmm(q, shared[0]), shared[1])
                torch.bmm(torch.bmm(q.view(J * R, G, D), keys), values)
            torch.mm(x, head)

    return run


def bench_sampling(quick: bool) -> dict:
    """Seconds for ANSWER greedy tokens in each row, by multiples of rows and of prompt length.

    The naive way is timed whole at the main job's size; at others, where it takes minutes, one of
    its passes is.
    """
    model, result = base_model(), {}
    sizes = [(1, 1), (4, 1), (1, 16)] if quick else [(1, 1), (4, 1), (16, 1), (1, 4), (1, 16)]
    for rows, prompt in sizes:
        runners = samplers(model, *batch(rows, prompt))
        naive, one = runners.pop("naive"), runners.pop("one naive pass")
        if (rows, prompt) == (1, 1):
            runners["products"] = decode_products(model.cfg)
            times = race({"naive": naive}, 1)
        else:
            times = {"naive": ANSWER * race({"naive": one}, 1)["naive"]}
        times |= race(runners, 3 if quick or rows * prompt > 4 else 7)
        result[f"{rows}x rows, {prompt}x prompt"] = times
        print(f"sampling, {rows}x rows, {prompt}x prompt: {show(times)}", flush=True)
    result["real lengths, per 1000 tokens"] = bench_real_lengths(3 if quick else 7)
    return result


def bench_real_lengths(rounds: int) -> dict:
    """Seconds per 1,000 tokens at temperature 1, answers ending where they end, on questions of the
    main job.
    """
    model, task = base_model(), make_task("strings", 0)
    asked = task.questions(random.Random(0), QUESTIONS)
    prompts = [WORLD.encode_start(WORLD.prompt_text(task.instructions))] * PROMPTS
    questions = [[WORLD.encode(WORLD.question_text(q)) for q in asked]] * PROMPTS
    G, counts = GROUP // PROMPTS, {}
    pairs = [
        p + q for p, row in zip(prompts, questions, strict=True) for q in row for _ in range(G)
    ]

    def ours(name, **how):
        drawn = sample(model, prompts, questions, G, max_new=64, eos=EOS, pad=PAD, **how)
        counts.setdefault(name, []).append(drawn.lengths.sum().item())

    def theirs():
        width = max(map(len, pairs))
        tokens = torch.tensor([[PAD] * (width - len(row)) + row for row in pairs])
        drawn = llama.generate(
            tokens,
            attention_mask=(tokens != PAD).long(),
            max_new_tokens=64,
            do_sample=True,
            top_k=0,
        )
        ends = (drawn[:, width:] == EOS).long().cumsum(1)
        counts.setdefault("transformers", []).append(
            ((ends == 0).sum(1) + (ends[:, -1] > 0)).sum().item()
        )

    runners = {"shared": lambda: ours("shared")}
    if decode := compiled():
        runners["compiled"] = lambda: ours("compiled", decode=decode)
    with contextlib.suppress(ImportError):  # said before
        llama, runners["transformers"] = llama_of(model), theirs
    times = race(runners, rounds)
    result = {
        name: 1000 * seconds / statistics.mean(counts[name]) for name, seconds in times.items()
    }
    print(f"sampling of real answers, per 1,000 tokens: {show(result)}", flush=True)
    return result


def show(times: dict[str, float]) -> str:
    return ", ".join(f"{name} {seconds:.3f} s" for name, seconds in times.items())


def rollouts_of(model: GPT):
    """Real rollouts at the main job's shapes and a reward for each that any program can compute,
    with spread.
    """
    prompts, questions, samples = batch()
    drawn = sample(model, prompts, questions, samples, max_new=64, eos=EOS, pad=PAD)
    contexts = [p + q for p, row in zip(prompts, questions, strict=True) for q in row]
    completions = [
        row[:n] for row, n in zip(drawn.tokens.tolist(), drawn.lengths.tolist(), strict=True)
    ]
    return contexts, completions, drawn.logprobs, torch.tensor([reward(c) for c in completions])


def reward(completion: list[int]) -> float:
    return float(sum(completion) % 2)


GROUPS = (
    torch.arange(PROMPTS * QUESTIONS * 2)
    .view(PROMPTS, QUESTIONS, 2)
    .transpose(0, 1)
    .reshape(QUESTIONS, -1)
)


def products(contexts: list, completions: list, cfg: GPTConfig):
    """The matrix products of an update, and nothing else -> a function that carries them out.

    Forward under policy and base, and two products backward for each of the policy's, at the shapes
    that rl.update makes of these rollouts. Attention's products are not counted.
    """
    C, F, V, work = cfg.n_embd, cfg.n_hidden, cfg.vocab_size, []
    for chosen, rows in rl.micro_batches(contexts, completions, range(len(contexts))):
        scored = len(rows) * max(len(completions[i]) for i in rows)
        positions = scored + len(chosen) * max(len(contexts[c]) - 1 for c in chosen)
        for n, a, b, times in (
            (positions, C, C, 4),
            (positions, C, F, 2),
            (positions, F, C, 1),
            (scored, C, V, 0),
        ):
            x, w, y = torch.randn(n, a), torch.randn(a, b), torch.empty(n, b)
            work.append((x, w, y, torch.empty(a, b), cfg.n_layer * times or 1))

    def run():
        for x, w, y, dw, times in work:
            for _ in range(times):
                torch.mm(x, w, out=y)  # the base
                torch.mm(x, w, out=y)  # the policy
                torch.mm(y, w.t(), out=x)  # back to the input
                torch.mm(x.t(), y, out=dw)  # and to the weights
                y.mul_(1e-6)
                x.mul_(1e-6)

    return run


def trl_steps(model: GPT, steps: int):
    """A function that carries `steps` steps of TRL's GRPO out -> seconds of each. Raises
    ImportError without it.
    """
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    words = Tokenizer(
        models.WordLevel({f"w{i}": i for i in range(model.cfg.vocab_size)}, unk_token=f"w{PAD}")
    )
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token=f"w{EOS}", pad_token=f"w{PAD}"
    )
    prompts, questions, _ = batch()
    rows = [{"prompt": " ".join(f"w{t}" for t in prompts[0] + q)} for q in questions[0]]
    starts = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_, **__):
            starts.append(time.perf_counter())

        def on_step_end(self, *_, **__):
            starts[-1] = time.perf_counter() - starts[-1]

    folder = tempfile.mkdtemp()
    # TRL reads the reference model from where the policy came from
    llama_of(model).save_pretrained(folder)
    settings = GRPOConfig(
        output_dir=folder,
        per_device_train_batch_size=QUESTIONS * GROUP,
        num_generations=GROUP,
        max_completion_length=64,
        beta=0.001,
        temperature=1.0,
        learning_rate=3e-4,
        max_steps=steps,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        bf16=False,
        model_init_kwargs={"dtype": "float32"},
        gradient_checkpointing=False,
        logging_steps=1000,
        disable_tqdm=True,
    )
    score = lambda completion_ids, **_: [reward(list(c)) for c in completion_ids]  # noqa: E731
    trainer = GRPOTrainer(
        folder,
        score,
        settings,
        Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[Clock()],
    )

    def run() -> list[float]:
        trainer.train()
        return starts

    return run


def bench_slow_step(quick: bool) -> dict:
    """A slow step, rollouts included, and its update alone; beside TRL's step and the products
    alone.
    """
    base = base_model()
    policy = copy.deepcopy(base).requires_grad_()
    optimizer = torch.optim.AdamW(policy.parameters(), lr=0.0)
    rollouts = rollouts_of(base)

    def update(contexts, completions, logprobs, rewards):
        rl.update(
            policy=policy,
            base=base,
            optimizer=optimizer,
            contexts=contexts,
            completions=completions,
            sampled_logprobs=logprobs,
            rewards=rewards,
            groups=GROUPS,
            temperature=1.0,
            kl_coef=0.001,
        )

    rounds = 3 if quick else 9
    runners = {"update": lambda: update(*rollouts), "products": products(*rollouts[:2], base.cfg)}
    result = race(runners | {"step": lambda: update(*rollouts_of(policy))}, rounds)
    try:
        result["trl step"] = statistics.median(trl_steps(base, rounds + 1)()[1:])
        result["step"] = statistics.median(
            [result["step"], race({"step": lambda: update(*rollouts_of(policy))}, rounds)["step"]]
        )
    except ImportError as error:
        print(f"{error.name} is not installed: TRL's line is left out")
    print(f"slow step: {show(result)}", flush=True)
    return result


def bench_cycle() -> dict:
    """Where the time of one cycle of the main job goes, in seconds: six slow steps and the fast
    phase before them.
    """
    spent, depth = {}, []

    def timed(name, module, function):
        inner = getattr(module, function)

        def outer(*args, **settings):
            depth.append(0.0)
            start = time.perf_counter()
            try:
                return inner(*args, **settings)
            finally:
                seconds = time.perf_counter() - start
                spent[name] = spent.get(name, 0.0) + seconds - depth.pop()
                if depth:
                    depth[-1] += seconds

        setattr(module, function, outer)
        return lambda: setattr(module, function, inner)

    with tempfile.TemporaryDirectory() as folder:
        learner = make_learner(folder, 6, "cpu")
        places = [
            ("sampling", sampling, "sample"),
            ("update", rl, "update"),
            ("scoring", rl, "completion_logprobs"),
            ("scoring", train, "completion_logprobs"),
            ("fast phase", train, "fast_phase"),
            ("evaluation", train, "evaluate"),
            ("slow step", train, "slow_step"),
            ("logging", RunFolder, "log"),
            ("checkpoints", RunFolder, "save"),
            ("rest", train, "train"),
        ]
        undo = [timed(*place) for place in places]
        start = time.perf_counter()
        train.train(learner, StopOnCtrlC(), begun=False)
        whole = time.perf_counter() - start
        for back in undo:
            back()
        with torch.profiler.profile() as profile:
            start = time.perf_counter()
            train.slow_step(learner, learner.tasks[0].questions(random.Random(0), QUESTIONS))
            step = time.perf_counter() - start
        learner.folder.close()
    inside = sum(event.self_cpu_time_total for event in profile.key_averages()) / 1e6
    text_work = sum(
        spent.get(name, 0.0) for name in ("fast phase", "slow step", "evaluation", "rest")
    )
    result = {"seconds": whole, "parts": spent, "python and text": text_work / whole}
    result["outside torch in a slow step"] = max(0.0, 1 - inside / step)
    print(
        f"a cycle: {whole:.2f} s; {show(spent)}; {text_work / whole:.1%} in Python and text",
        flush=True,
    )
    return result


def resident() -> float:
    """MiB of memory that this process holds."""
    return (
        int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
        * resource.getpagesize()
        / 2**20
    )


def peak_memory(name: str) -> None:
    """Print by how many MiB one way to sample raises the memory of a fresh process, at the longest
    prompt.
    """
    runner, before, seen, done = (
        samplers(base_model(), *batch(1, 16))[name],
        resident(),
        [0.0],
        threading.Event(),
    )

    def watch():
        while not done.wait(0.005):
            seen.append(resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    runner()
    done.set()
    watcher.join()
    print(max(seen) - before)


def bench_memory() -> dict:
    result = {}
    for name in sorted(samplers(base_model(), *batch()).keys() - {"naive", "compiled"}):
        done = subprocess.run(
            [sys.executable, __file__, "--peak", name], capture_output=True, text=True, check=True
        )
        result[name] = float(done.stdout.split()[-1])
    cfg = base_model().cfg
    # keys and values of one prompt, float32
    prefix = 2 * cfg.n_layer * cfg.n_embd * 4 * PROMPT * 16 / 2**20
    return {
        "peak MiB": result,
        "prefix MiB": {"shared": PROMPTS * prefix, "copied": QUESTIONS * GROUP * prefix},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and sizes")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.manual_seed(0)
    if args.peak:
        return peak_memory(args.peak)
    load = os.getloadavg()[1]
    result = {"quick": args.quick, "threads": torch.get_num_threads()}
    result |= {"sampling": bench_sampling(args.quick)}
    result |= {"slow step": bench_slow_step(args.quick), "cycle": bench_cycle()}
    result |= {"memory": bench_memory()}
    # over five minutes, before and after
    result["load"] = [round(load, 1), round(os.getloadavg()[1], 1)]
    (ROOT / "experiments" / "results" / "bench.json").write_text(
        json.dumps(result, indent=1) + "\n",
        encoding="utf-8",
    )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
