"""Pretraining: the tiny base, from scratch, in minutes on a laptop. `python train.py --pretrain` runs it.

The corpus (tasks/corpus.py) is a function of (seed, step), so an interrupted run goes on without having saved it.
The length is given in minutes, not steps: the learning rate knows how much of the time is left.
"""

import dataclasses
import math
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

import parallel
from model import GPT, GPTConfig, Rollouts, decode_step, load_checkpoint, sample, save_checkpoint
from tasks import Domain, corpus, domains, exams, text
from tasks.dialogue import REFLECTION_TOKENS, pass_rate

try:
    import fcntl
except ImportError:  # Windows: there, nothing keeps a second process away
    fcntl = None

PATIENCE = 5  # steps in a row with numbers that are not finite, until training gives up
MAX_WASTE = 1.15  # padded tokens of a batch over its tokens; three batches of equal size came to 1.5
LOOK_EVERY = 300  # steps between checkpoints and looks at what the base can do


def beside(path: Path, ending: str) -> Path:
    """The file of a base's training that lies beside it: base.pt.partial, say."""
    return path.with_name(path.name + ending)


def lock(path: Path, taken: str):
    """Open a file and keep it locked until it is closed. Raises ValueError(taken) where another process has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open(path, "w")  # noqa: SIM115 (the caller's to close)
    try:
        if fcntl:  # the system takes the lock back however the process ends
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise ValueError(taken) from None
    return file


def load_base(path: Path) -> tuple[GPT, dict]:
    """A base, and all that its checkpoint says of it. Raises ValueError for a missing, damaged or foreign one."""
    contents = load_checkpoint(path)
    try:
        model = GPT(GPTConfig(**contents["model_config"]))
        model.load_state_dict(contents["model"])
    except (KeyError, TypeError, RuntimeError):  # the checkpoint of a run, say
        raise ValueError(f"{path} is no base: train one with --pretrain --base OTHER") from None
    return model, contents


def generator_of(model: GPT, temperature: float, rng: torch.Generator | None = None, decode=decode_step):
    """The model as the function that tasks/dialogue.py talks to."""
    eos, pad = text.special("eos"), text.special("pad")

    def generate(prompts, questions, samples, max_new):
        settings = {"max_new": max_new, "eos": eos, "pad": pad, "temperature": temperature, "decode": decode}
        shape, device = (len(prompts), len(questions[0]), samples), model.cos.device
        noise = torch.rand(*shape, max_new, generator=rng, device=device)  # of all rollouts, whoever samples them
        if parallel.size() == 1:
            return sample(model, prompts, questions, samples, noise=noise.flatten(0, 2), **settings)
        tokens = torch.zeros(*shape, max_new, dtype=torch.long, device=device)
        lengths, logprobs = torch.zeros(shape, dtype=torch.long, device=device), torch.zeros_like(noise)
        mine = list(range(parallel.rank(), shape[1], parallel.size()))  # this process's share of the questions
        if mine:
            asked, noise = [[row[b] for b in mine] for row in questions], noise[:, mine].flatten(0, 2)
            part = sample(model, prompts, asked, samples, noise=noise, **settings)
            for whole, share in ((tokens, part.tokens), (lengths, part.lengths), (logprobs, part.logprobs)):
                whole[:, mine] = share.view_as(whole[:, mine])
        parallel.sum_over_processes(tokens, lengths, logprobs)  # the shares of the others are zero here
        return Rollouts(tokens.flatten(0, 2), lengths.flatten(), logprobs.flatten(0, 2))

    return generate


def micro_batches(documents: list, device: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Documents -> batches of like length: tokens (N, T) padded right, targets (N, T - 1), -100 where given.

    The longest come first; a batch ends where one more document would make its padded size exceed MAX_WASTE times the
    tokens in it.
    """
    cuts = [[]]
    for document in sorted(documents, key=lambda document: -len(document[0])):
        widened = [*cuts[-1], document]
        if len(widened) * len(widened[0][0]) > MAX_WASTE * sum(len(tokens) for tokens, _ in widened):
            cuts.append([])
        cuts[-1].append(document)
    batches = []
    for cut in filter(None, cuts):  # none where there are fewer documents than processes
        width = max(len(tokens) for tokens, _ in cut)
        tokens = torch.tensor([t + [text.special("pad")] * (width - len(t)) for t, _ in cut], device=device)
        learn = torch.tensor([w + [0] * (width - len(w)) for _, w in cut], device=device)
        batches.append((tokens, tokens[:, 1:].masked_fill(learn[:, 1:] == 0, -100)))
    return batches


def check_fit(documents: list, room: int) -> None:
    """Raises ValueError where a document is longer than the model reads."""
    longest = max((tokens for tokens, _ in documents), key=len)
    if len(longest) > room:
        raise ValueError(
            f"a document of the corpus has {len(longest)} tokens, the model reads {room}: give the domain fewer "
            f"operations, or shorter states. It begins: {text.decode(longest[1:40])}"
        )


def base_rates(model: GPT, domain: Domain) -> str:
    """A quick look at how well a base solves and reflects, at a difficulty that the corpus shows often."""
    rng, difficulty, generate = random.Random(0), domain.seen_difficulties[-1], generator_of(model, temperature=0)
    solve = pass_rate(generate, [exams.solving(rng, domain, difficulty, 2, False) for _ in range(64)])
    one, two = ([exams.reflecting(rng, domain, difficulty, n, n > 1) for _ in range(16)] for n in (1, 2))
    reflect = [pass_rate(generate, items, REFLECTION_TOKENS) for items in (one, two)]
    return f"{domain.name}: solve {solve:.2f}, reflect {reflect[0]:.2f}/{reflect[1]:.2f}"


def document_losses(model: GPT, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The losses (N,) on one of `micro_batches`, in nats, each summed over its learned tokens."""
    logits = model(tokens[:, :-1])  # (N, T - 1, V)
    return F.cross_entropy(logits.float().transpose(1, 2), targets, reduction="none").sum(1)


@torch.no_grad()
def corpus_loss(model: GPT, worlds: list[Domain], n: int = 192) -> float:
    """Loss on n documents that no training has seen, in nats per learned token."""
    documents = corpus.documents(worlds, -1, 0, n)  # the seed of no training
    loss = sum(document_losses(model, *batch).sum().item() for batch in micro_batches(documents, model.cos.device))
    return loss / sum(sum(learn) for _, learn in documents)


def base_skills(model: GPT, worlds: list[Domain]) -> dict:
    """What a model can still do of the corpus: `skills`, the share right of fixed questions of each domain under random
    prompts as the corpus shows them, and `corpus_loss`."""
    generate = generator_of(model, temperature=0)
    rates = {domain.name: pass_rate(generate, exams.skills(domain)) for domain in worlds}
    return {"skills": rates, "corpus_loss": corpus_loss(model, worlds)}


def orthogonalize(matrices: torch.Tensor) -> torch.Tensor:
    """(N, a, b) -> (N, a, b) with singular values near 1: five Newton-Schulz steps with Muon's coefficients."""
    x = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    x = x.mT if (tall := x.size(1) > x.size(2)) else x
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalized (K. Jordan, 2024), for matrices.

    torch.optim.Muon takes them one by one and in bfloat16, which on a CPU without bfloat16 units is half of the
    whole training step; here all of a shape go through together, in their own dtype.
    """

    def __init__(self, matrices: list[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.1):
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = {}
            for p in group["params"]:
                by_shape.setdefault(p.shape, []).append(p)
            for (rows, columns), same in by_shape.items():
                gradient = torch.stack([p.grad for p in same])
                memory = torch.stack([self.state[p].get("momentum", torch.zeros_like(p)) for p in same])
                memory.lerp_(gradient, 1 - group["momentum"])
                update = orthogonalize(gradient.lerp(memory, group["momentum"]))  # Nesterov's look ahead
                for p, m, u in zip(same, memory, update, strict=True):
                    self.state[p]["momentum"] = m.clone()
                    # without decay equal updates add up: queries and keys grow until attention is an argmax
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.sub_(u, alpha=group["lr"] * max(1.0, rows / columns) ** 0.5)


def optimizers_of(model: GPT) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for embedding, head and norms."""
    matrices = [p for p in model.blocks.parameters() if p.ndim == 2]
    others = [p for name, p in model.named_parameters() if p.ndim == 1 or not name.startswith("blocks")]
    return [Muon(matrices, lr=0.02), torch.optim.AdamW(others, lr=4e-3, betas=(0.9, 0.95), weight_decay=0.0)]


def faster_dtype(device: str) -> torch.dtype:
    """bfloat16 where this machine multiplies faster in it, else float32 (CPUs without bfloat16 are 30 times slower)."""
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = (torch.ones(shape, dtype=dtype, device=device) for shape in ((2048, 256), (256, 256)))
        times = []
        for _ in range(5):  # the best of five: the first one warms up, and the machine may be busy
            start = time.perf_counter()
            (a @ b).sum().item()
            times.append(time.perf_counter() - start)
        seconds[dtype] = min(times)
    return min(seconds, key=seconds.get)


def pretrain(path: Path, device: str, names: list[str], *, minutes: float, batch: int, seed: int) -> None:
    """Train a base from scratch and write it to `path`; what an interrupted run left beside it is gone on with.

    path: in a folder that exists, and no other process writes there. names: the domains of the corpus.
    batch: documents per step, split over the processes. In the first part of the time (a fifth for one domain, three
    tenths for two, two fifths for more) they are easy, and the domains join in one after the other. 50 steps of
    warm-up; the learning rate falls to zero over the second half. Raises ValueError where what was left is of another
    training, or where a document is longer than the model reads.
    """
    torch.manual_seed(seed)
    partial, worlds = beside(path, ".partial"), [domains()[name] for name in names]
    cfg = GPTConfig(text.encoding().n_vocab)
    model = GPT(cfg).to(device)
    optimizers = optimizers_of(model)
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    peaks = [group["lr"] for group in groups]
    step, elapsed, failed, rates = 0, 0.0, 0, ""
    saved = load_checkpoint(partial) if partial.exists() else {}
    writes = parallel.rank() == 0  # the files are the first process's
    for domain in worlds:  # now, not only when their turn comes
        check_fit([corpus.encode_document(corpus.reflect(random.Random(i), domain)) for i in range(30)], cfg.block_size)
    about = {"vocabulary": text.fingerprint(), "domains": names, "seed": seed, "batch": batch}
    about |= {"model_config": dataclasses.asdict(cfg)}
    if saved and any(saved.get(key) != value for key, value in about.items()):
        raise ValueError(
            f"{partial} is of a training with other domains, another vocabulary, model, --seed or --documents: move it "
            "away, or choose another --base"
        )
    if saved:
        model.load_state_dict(saved["model"])
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        step, elapsed, minutes = saved["step"], saved["elapsed"], saved["minutes"]
        if writes:
            print(f"going on with {partial}: {elapsed / 60:.0f} of {minutes:g} minutes are done")
    dtype = parallel.tell(faster_dtype(device))
    easy_seconds = min(0.4, 0.1 + 0.1 * len(worlds)) * 60 * minutes

    def contents() -> dict:
        return about | {"minutes": minutes, "step": step, "elapsed": elapsed, "model": model.state_dict()}

    layout = "{desc} {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s{postfix}"
    bar = tqdm(total=60 * minutes, initial=elapsed, desc="pretraining", bar_format=layout, disable=not writes)
    last, tokens_per_second = time.perf_counter(), 0.0
    while elapsed < 60 * minutes:
        for group, peak in zip(groups, peaks, strict=True):
            group["lr"] = peak * min(1.0, (step + 1) / 50, 2 * (1 - elapsed / (60 * minutes)))
        joined = worlds[: 1 + int(len(worlds) * elapsed / easy_seconds)]
        documents = corpus.documents(joined, seed, step, batch, elapsed < easy_seconds)
        check_fit(documents, cfg.block_size)
        total, loss_sum = sum(sum(learn) ** 0.5 for _, learn in documents), 0.0
        share = sorted(documents, key=lambda document: len(document[0]))[parallel.rank() :: parallel.size()]
        for tokens, targets in micro_batches(share, device):
            with torch.autocast(torch.device(device).type, dtype, enabled=dtype != torch.float32):
                losses = document_losses(model, tokens, targets)  # (N,)
                # a document weighs as the root of its length: else reflections, ten times as long, are nearly all
                loss = (losses * (targets != -100).sum(1) ** -0.5).sum() / total
            loss.backward()
            loss_sum += loss.item()
        parallel.sum_gradients(list(model.parameters()))
        now = time.perf_counter()
        of_all = torch.tensor([loss_sum, now - last], device=device)
        parallel.sum_over_processes(of_all)  # so that they agree on the loss and, by the mean, on the time
        loss_sum, seconds, last = of_all[0].item(), of_all[1].item() / parallel.size(), now
        failed = 0 if math.isfinite(loss_sum) else failed + 1
        if failed == PATIENCE:
            raise FloatingPointError(f"the loss was not finite in {PATIENCE} steps on end, the last is step {step}")
        for optimizer in optimizers:
            if not failed:  # else this step is skipped
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step += 1
        if step % LOOK_EVERY == 0 and not failed:
            rates = base_rates(model, joined[step // LOOK_EVERY % len(joined)])
            if writes:
                save_checkpoint(partial, contents() | {"optimizers": [o.state_dict() for o in optimizers]})
        tokens_per_second += 0.05 * (sum(len(tokens) for tokens, _ in documents) / seconds - tokens_per_second)
        bar.update(min(seconds, 60 * minutes - elapsed))  # beyond its total the bar would lose it
        bar.set_postfix_str(f"step {step}, loss {loss_sum:.3f}, {tokens_per_second:.0f} tokens/s, {rates}")
        elapsed += seconds
    bar.close()
    rates = base_rates(model, worlds[0])
    if writes:
        save_checkpoint(path, contents())
        partial.unlink(missing_ok=True)
        print(f"base written to {path} after {step} steps: {rates}")
    parallel.tell(None)  # the others wait for the file
