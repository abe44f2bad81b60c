"""Pretraining: the tiny base, from scratch, in minutes on a laptop. `python train.py --pretrain`.

The documents (corpus.py) are a function of the seed and the place in the schedule, so an
interrupted training can go on without having saved them. The length is given in minutes, not in
steps: the learning rate depends on how much of the time is left. Read `pretrain` first: it is the
loop.
"""

import dataclasses
import math
import time
from pathlib import Path
from random import Random

import torch
from tqdm import tqdm

from base import corpus
from base.batches import IGNORED, document_losses, length_batches
from base.exams import base_rates
from model import GPT, GPTConfig
from plumbing import processes
from plumbing.files import beside, load_checkpoint, save_checkpoint
from tasks import Domain, domains, formats

PATIENCE = 5  # steps in a row with numbers that are not finite, until training gives up
LOOK_EVERY = 300  # steps between checkpoints, and between looks at what the base can do
WARMUP = 50  # steps over which the learning rate rises


def pretrain(path: Path, device: str, names: list[str], *, minutes: float, batch: int, seed: int):
    """Train a base from scratch and write it to `path`; go on with what an interrupted run left.

    path: in a folder that exists, and no other process writes there.
    names: the domains of the corpus.
    minutes: the length of the training; an interrupted one keeps the length that it began with.
    batch: documents per step, split over the processes.
    Raises ValueError where the interrupted training was another one, or where a document is longer
    than the model reads; FloatingPointError where the loss is not finite PATIENCE times in a row.
    """
    # A new training, or the one that was interrupted.
    partial = beside(path, ".partial")
    training = Training(names, device, minutes, batch, seed)
    if partial.exists():
        training.load(partial)
    progress = Progress(training)

    last = time.perf_counter()
    with progress.bar:
        while training.elapsed < training.seconds:
            # The loss on the documents of this step, and its gradients.
            training.set_learning_rates()
            documents = training.documents()
            loss = add_gradients(training.model, documents, device)

            # Summed over the processes: each has its own clock, and schedules must not differ.
            now = time.perf_counter()
            metrics = torch.tensor([loss, now - last], device=device)
            last = now
            processes.sum_gradients(training.model, metrics)
            loss, seconds = metrics.tolist()
            seconds /= processes.size()
            training.update(loss)
            training.elapsed += seconds
            progress.show(documents, loss, seconds)

            # Now and then look at what the base can do, one domain after the other, and save.
            if training.step % LOOK_EVERY == 0 and not training.failed:
                joined = training.joined
                domain = joined[training.step // LOOK_EVERY % len(joined)]
                progress.rates = base_rates(training.model, domain)
                training.save(partial)

    # The base is done: what would be needed to go on is not needed any more.
    rates = base_rates(training.model, training.domains[0])
    if processes.rank() == 0:
        save_checkpoint(path, training.contents())
        partial.unlink(missing_ok=True)
        print(f"base written to {path} after {training.step} steps: {rates}")
    processes.tell(None)  # the others wait for the file


# --- the state of a training ---

PLACE = ("seconds", "step", "elapsed")  # where a training is in its schedule, see `Training`


class Training:
    """The state of a pretraining between two steps."""

    def __init__(self, names: list[str], device: str, minutes: float, batch: int, seed: int):
        """For the arguments see `pretrain`. Raises ValueError where documents are too long."""
        # The first weights depend on the seed alone.
        torch.manual_seed(seed)
        cfg = GPTConfig(formats.encoding().n_vocab)
        self.model = GPT(cfg).to(device)
        self.optimizers = optimizers_of(self.model)

        # Reflections are the longest documents. Look at them now, not only when their turn comes.
        self.domains = [domains()[name] for name in names]
        for domain in self.domains:
            reflections = [corpus.reflection_document(Random(i), domain) for i in range(30)]
            check_fit(map(corpus.encode_document, reflections), cfg.block_size)

        # Whoever goes on with this training must agree in all of this.
        self.about = {
            "vocabulary": formats.fingerprint(),
            "domains": names,
            "seed": seed,
            "batch": batch,
            "model_config": dataclasses.asdict(cfg),
        }

        # The place in the schedule.
        self.seconds = 60 * minutes  # the length of the whole training
        self.step = 0
        self.elapsed = 0.0  # seconds so far, with looks and checkpoints
        self.failed = 0  # steps in a row, up to now, whose loss was not finite

    @property
    def easy_seconds(self) -> float:
        """The length of its first part, in which documents are easy.

        It is a fifth of the time for one domain, three tenths for two, two fifths for more.
        """
        return min(0.4, 0.1 + 0.1 * len(self.domains)) * self.seconds

    @property
    def joined(self) -> list[Domain]:
        """The domains that have joined in by now: one at first, all when the easy part is over."""
        n = 1 + int(len(self.domains) * self.elapsed / self.easy_seconds)
        return self.domains[:n]

    def documents(self) -> list:
        """The documents of this step. Raises ValueError where one is too long."""
        # They depend on the seed and the place in the schedule alone, so none need be saved.
        easy = self.elapsed < self.easy_seconds
        seed = self.about["seed"]
        documents = corpus.documents(self.joined, seed, self.step, self.about["batch"], easy)
        check_fit(documents, self.model.cfg.block_size)
        return documents

    def set_learning_rates(self):
        """They rise over the first steps and fall to zero over the second half of the time."""
        # Between the warm-up and half of the time the factor is 1.
        rise = (self.step + 1) / WARMUP
        fall = 2 * (1 - self.elapsed / self.seconds)
        for optimizer in self.optimizers:
            peak = optimizer.defaults["lr"]  # a group's own rate is that of the step before
            for group in optimizer.param_groups:
                group["lr"] = peak * min(1.0, rise, fall)

    def update(self, loss: float):
        """One step of the optimizers; none where the loss is not finite.

        Raises FloatingPointError where that is so for the PATIENCE-th time in a row.
        """
        # One bad step is skipped; many in a row mean that the weights are spoilt.
        self.failed = 0 if math.isfinite(loss) else self.failed + 1
        if self.failed == PATIENCE:
            raise FloatingPointError(
                f"the loss was not finite in {PATIENCE} steps on end, the last is step {self.step}"
            )
        for optimizer in self.optimizers:
            if not self.failed:
                optimizer.step()
            optimizer.zero_grad()
        self.step += 1

    def contents(self) -> dict:
        """What the checkpoint of the base holds."""
        place = {name: getattr(self, name) for name in PLACE}
        return self.about | place | {"model": self.model.state_dict()}

    def save(self, path: Path):
        """Save all that is needed to go on; the first process does it."""
        # The base's own contents, and what only a training needs.
        if processes.rank() == 0:
            states = [optimizer.state_dict() for optimizer in self.optimizers]
            save_checkpoint(path, self.contents() | {"optimizers": states})

    def load(self, path: Path):
        """Go back to what was saved. Raises ValueError where that is of another training."""
        saved = load_checkpoint(path)
        if not self.about.items() <= saved.items():
            raise ValueError(
                f"{path} is of a training with other domains, another vocabulary, model, --seed or "
                "--documents: move it away, or choose another --base"
            )

        # The weights, what the optimizers remember, and the place in the schedule.
        self.model.load_state_dict(saved["model"])
        for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)

        for name in PLACE:
            setattr(self, name, saved[name])
        if processes.rank() == 0:
            done = f"{self.elapsed / 60:.0f} of {self.seconds / 60:g} minutes are done"
            print(f"going on with {path}: {done}")


def optimizers_of(model: GPT) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks; AdamW for embedding, head and norms."""
    matrices = [p for p in model.blocks.parameters() if p.ndim == 2]
    chosen = set(matrices)
    others = [p for p in model.parameters() if p not in chosen]

    # Muon decays the weights of its matrices; the others are not decayed.
    muon = torch.optim.Muon(matrices, lr=0.02)
    adamw = torch.optim.AdamW(others, lr=4e-3, betas=(0.9, 0.95), weight_decay=0.0)
    return [muon, adamw]


# --- one step ---


def check_fit(documents: list, room: int):
    """Raises ValueError where a document is longer than the model reads, which is `room` tokens."""
    longest = max((tokens for tokens, _ in documents), key=len)
    if len(longest) > room:
        raise ValueError(
            f"a document of the corpus has {len(longest)} tokens, the model reads {room}: give the "
            "domain fewer operations, or shorter states. It begins: "
            f"{formats.decode(longest[1:40])!r}"
        )


def add_gradients(model: GPT, documents: list, device: str) -> float:
    """Add the gradients of this process's share of the documents -> its part of their loss.

    A document weighs as the square root of its length. If all tokens weighed the same, reflections,
    which are ten times as long as the others, would be nearly all of the loss.
    """
    # The weights of all documents together, then this process's share of them.
    total = sum(sum(learn) ** 0.5 for _, learn in documents)
    by_length = sorted(documents, key=lambda document: len(document[0]))
    share = processes.my_share(by_length)

    # One batch after the other, each of documents of about the same length.
    loss_sum = 0.0
    for tokens, targets in length_batches(share, device):
        # bfloat16 pays on GPUs. On CPUs, even on those with units for it, it is slower here.
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            losses = document_losses(model, tokens, targets)  # (N,), each over all of its tokens
            lengths = (targets != IGNORED).sum(1)  # (N,), of learned tokens
            loss = (losses * lengths**-0.5).sum() / total
        loss.backward()
        loss_sum += loss.item()
    return loss_sum


class Progress:
    """The progress bar of a training, over its seconds."""

    def __init__(self, training: Training):
        self.training = training
        self.tokens_per_second = 0.0  # a running mean
        self.rates = ""  # what the base could do when that was last looked at
        self.bar = tqdm(
            total=training.seconds,
            initial=training.elapsed,
            desc="pretraining",
            bar_format="{desc} {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s{postfix}",
            disable=processes.rank() != 0,
        )

    def show(self, documents: list, loss: float, seconds: float):
        """Show the step that was just made: its documents, their loss, how long it took."""
        # One step's speed varies with its documents: show a mean over about 20 of them.
        tokens = sum(len(tokens) for tokens, _ in documents)
        self.tokens_per_second += 0.05 * (tokens / seconds - self.tokens_per_second)

        # Beyond its total the bar would lose it.
        training = self.training
        self.bar.n = min(training.elapsed, training.seconds)
        speed = f"{self.tokens_per_second:.0f} tokens/s"
        self.bar.set_postfix_str(f"step {training.step}, loss {loss:.3f}, {speed}, {self.rates}")
