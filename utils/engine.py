"""The one training loop of all scripts. It knows nothing of pruning: a `WeightConstraint` keeps masks in force."""

import math
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from utils import checkpoint, plots, randomness
from utils.errors import UserError
from utils.run_dir import TrainingFiles

EVAL_BATCH = {"cpu": 125, "cuda": 1000}  # what fits the caches of a CPU, and what fills a GPU
SPLITS = ("train", "val", "test")


class WeightConstraint(Protocol):
    """What holds a model's weights to a pattern while it trains."""

    def apply(self) -> None:
        """Put the weights back into the pattern; called after every step, so it must not wait for the device."""

    def pack(self, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A model's state_dict in the form it has in files."""

    def unpack(self, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The reverse of `pack`."""


class Batches(Protocol):
    """A data set the engine can train on (`datasets.pictures.Dataset`), already on the device."""

    train: Any
    val: Any
    test: Any
    probes: Mapping[str, Any]  # further pictures, by name, whose accuracy is followed

    def train_batches(self, size: int, generator: torch.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]: ...


@dataclass(frozen=True)
class TrainingProtocol:
    """How one training goes (paper, section 4, General Settings).

    The rate rises linearly over `warmup` steps, and is multiplied by 0.1 after each epoch in `milestones`.
    """

    epochs: int
    lr: float
    milestones: tuple[int, ...]
    batch_size: int
    momentum: float
    weight_decay: float
    warmup: int = 0


@dataclass(frozen=True)
class Trained:
    """What a training came to. Accuracies are percent of all pictures of the split.

    test_acc and val_acc belong to the epoch with the best validation accuracy (the later one of equals), which is
    the epoch in the `best` file; test_acc_last to the last epoch. seconds: training and evaluation, resumed parts
    added up. probes: accuracy on each of the data set's probes, `NAME_acc` and `NAME_acc_last`.
    """

    test_acc: float
    val_acc: float
    best_epoch: int
    test_acc_last: float
    epochs: int
    seconds: float
    probes: dict[str, float] = field(default_factory=dict)

    def in_columns(self) -> dict[str, float]:
        """All figures by name, those of the probes among them."""
        figures = asdict(self)
        return {**figures, **figures.pop("probes")}


def resolve_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one. Raises UserError for a device this machine lacks."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name}: must be auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name}: must be auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices; use --device auto")
    return device


class Engine:
    """Trains and evaluates one model on one device.

    Args:
        model: moved to `device` in channels-last memory, in place.
        compile_step: run the forward and backward pass through torch.compile; needs a C++ compiler on CPU.
        amp: bf16 autocast; None means where the GPU does it in hardware.
    Raises:
        UserError: amp on CPU, where it can kill the process (illegal instruction), or compile_step there without a
            compiler.
    """

    def __init__(self, model: nn.Module, device: torch.device, compile_step: bool = False, amp: bool | None = None):
        if amp and device.type != "cuda":
            raise UserError("--amp: bf16 needs a CUDA device; leave the flag out on CPU")
        if compile_step and device.type == "cpu" and not any(map(shutil.which, _compilers())):
            raise UserError("--compile: needs a C++ compiler on CPU (Debian/Ubuntu: apt-get install g++); "
                            "leave the flag out")
        self.model = model.to(device, memory_format=torch.channels_last)
        self.device = device
        if device.type == "cuda":
            torch.cuda.set_device(device)
        if amp is None:  # older GPUs only emulate bf16, slowly
            amp = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        self.amp = amp
        # static shapes: one graph for full batches, one for the last, short one
        self.forward = torch.compile(model, dynamic=False) if compile_step else model

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.amp)

    def evaluate(self, pictures: Any) -> tuple[float, float]:
        """Mean cross-entropy and accuracy in percent over a split; leaves the model's mode as it was."""
        training = self.model.training
        self.model.eval()
        loss = torch.zeros((), device=self.device)
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        with torch.no_grad(), self.autocast():
            for images, labels in pictures.batches(EVAL_BATCH[self.device.type]):
                logits = self.model(images).float()
                loss += F.cross_entropy(logits, labels, reduction="sum")
                correct += (logits.argmax(1) == labels).sum()
        self.model.train(training)
        return loss.item() / len(pictures), 100 * correct.item() / len(pictures)

    def fit(self, data: Batches, protocol: TrainingProtocol, files: TrainingFiles, seed: int,
            constraint: WeightConstraint | None = None, after_epoch: Callable[[int], None] | None = None,
            facts: dict[str, Any] | None = None, title: str = "training") -> Trained:
        """Train the model from its present weights, or go on from `files.last` where that exists.

        Args:
            data: on this engine's device.
            protocol: schedule and optimizer.
            files: checkpoints, metrics and curve are written there, after every epoch and atomically.
            seed: of batch order and augmentation.
            constraint: applied once before the first and after every step.
            after_epoch: called with the number of finished epochs before that epoch is recorded as done (and with 0
                before the first), so what it writes exists whenever training goes on behind it.
            facts: plain values kept in both checkpoints beside the weights (architecture, class count, ...).
            title: what the progress bar calls this training.
        Returns:
            the outcome; the model holds the weights of the last epoch.
        Raises:
            UserError: the loss is no longer a number.
        """
        model, generator = self.model, randomness.seed_everything(seed)
        optimizer = torch.optim.SGD(model.parameters(), protocol.lr, protocol.momentum,
                                    weight_decay=protocol.weight_decay, fused=True)
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, list(protocol.milestones), gamma=0.1)
        pack = constraint.pack if constraint else dict
        unpack = constraint.unpack if constraint else dict
        history: list[dict[str, float]] = []
        best: dict[str, Any] = {"val_acc": -1.0}
        if files.last.exists():
            saved = checkpoint.load(files.last)
            model.load_state_dict(unpack(saved["state_dict"]))
            optimizer.load_state_dict(saved["optimizer"])
            schedule.load_state_dict({**saved["scheduler"], "milestones": Counter(saved["scheduler"]["milestones"])})
            randomness.set_state(saved["random"], generator)
            history, best = saved["history"], saved["best"]
            if best["epoch"] == saved["epoch"]:  # killed between writing the two files, perhaps
                self._save_best(best, facts, saved["state_dict"], files)
        if constraint:
            constraint.apply()
        if after_epoch and not history:
            after_epoch(0)

        epochs = tqdm(range(len(history) + 1, protocol.epochs + 1), initial=len(history), total=protocol.epochs,
                      desc=title, unit="epoch", disable=None)
        for epoch in epochs:
            started = time.perf_counter()
            rate = optimizer.param_groups[0]["lr"]
            train_loss, train_acc = self._train_epoch(data, protocol, optimizer, generator, constraint, epoch)
            figures = {"train_loss": train_loss, "train_acc": train_acc}
            for name, pictures in {"val": data.val, "test": data.test, **data.probes}.items():
                figures[f"{name}_loss"], figures[f"{name}_acc"] = self.evaluate(pictures)
            if not all(math.isfinite(figures[f"{split}_loss"]) for split in SPLITS):
                raise UserError(f"--lr {protocol.lr}: {title} diverged in epoch {epoch} (the loss is not a number); "
                                f"lower it, or add --warmup; epochs up to {epoch - 1} are kept in {files.folder}")
            schedule.step()
            if after_epoch:
                after_epoch(epoch)
            history.append({"epoch": epoch, "lr": rate, **figures, "seconds": time.perf_counter() - started})
            if figures["val_acc"] >= best["val_acc"]:
                best = {**{f"{name}_acc": figures[f"{name}_acc"] for name in ("val", "test", *data.probes)},
                        "epoch": epoch}
            state = {name: tensor.cpu() for name, tensor in pack(model.state_dict()).items()}
            # plain containers only: the scheduler's milestones are a Counter
            rates = {**schedule.state_dict(), "milestones": dict(schedule.milestones)}
            checkpoint.save({**(facts or {}), "epoch": epoch, "state_dict": state, "optimizer": optimizer.state_dict(),
                             "scheduler": rates, "random": randomness.get_state(generator),
                             "history": history, "best": best}, files.last)
            if best["epoch"] == epoch:
                self._save_best(best, facts, state, files)
            checkpoint.save_csv(history, list(history[0]), files.metrics)
            followed = (*SPLITS, *data.probes)
            epochs.set_postfix_str(" ".join(f"{name} {figures[f'{name}_acc']:.2f}" for name in followed[1:]))
            if epochs.disable:
                accuracies = ", ".join(f"{name} {figures[f'{name}_acc']:.2f}%" for name in followed)
                print(f"{title}: epoch {epoch}/{protocol.epochs}, lr {rate:g}, loss {train_loss:.4f}, {accuracies}, "
                      f"{history[-1]['seconds']:.1f} s", flush=True)
        epochs.close()
        checkpoint.save_csv(history, list(history[0]), files.metrics)
        plots.training_curve(history, (*SPLITS, *data.probes), title, files.curve)
        probes = {name: value for probe in data.probes
                  for name, value in ((f"{probe}_acc", best[f"{probe}_acc"]),
                                      (f"{probe}_acc_last", history[-1][f"{probe}_acc"]))}
        return Trained(best["test_acc"], best["val_acc"], best["epoch"], history[-1]["test_acc"], len(history),
                       sum(row["seconds"] for row in history), probes)

    @staticmethod
    def _save_best(best: dict[str, Any], facts: dict[str, Any] | None, state: dict[str, torch.Tensor],
                   files: TrainingFiles) -> None:
        checkpoint.save({**(facts or {}), **best, "state_dict": state}, files.best)

    def _train_epoch(self, data: Batches, protocol: TrainingProtocol, optimizer: torch.optim.Optimizer,
                     generator: torch.Generator, constraint: WeightConstraint | None,
                     epoch: int) -> tuple[float, float]:
        """One pass over the training pictures; mean loss and accuracy in percent, asked of the device at the end."""
        self.model.train()
        loss_sum = torch.zeros((), device=self.device)
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        seen, rate = 0, optimizer.param_groups[0]["lr"]
        for step, (images, labels) in enumerate(data.train_batches(protocol.batch_size, generator)):
            if protocol.warmup:
                steps = (epoch - 1) * -(-len(data.train) // protocol.batch_size) + step + 1
                optimizer.param_groups[0]["lr"] = rate * min(1.0, steps / protocol.warmup)
            with self.autocast():
                logits = self.forward(images).float()
                loss = F.cross_entropy(logits, labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            if constraint:
                constraint.apply()
            loss_sum += loss.detach() * len(labels)
            correct += (logits.detach().argmax(1) == labels).sum()
            seen += len(labels)
        optimizer.param_groups[0]["lr"] = rate
        return loss_sum.item() / seen, 100 * correct.item() / seen


def _compilers() -> tuple[str, ...]:
    """What torch.compile would call on a CPU."""
    return (os.environ["CXX"],) if os.environ.get("CXX") else ("g++", "clang++", "c++")
