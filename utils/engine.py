"""The one training loop of all scripts. It knows nothing of pruning: a `WeightConstraint` keeps masks in force."""

import contextlib
import math
import os
import shutil
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
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
GPU_DRIVERS = ("/dev/nvidiactl", "/dev/dxg")  # where one is, there is a GPU, or was to be one; the second is WSL's


class WeightConstraint(Protocol):
    """What holds a model's weights to a pattern while it trains."""

    def apply(self) -> None:
        """Put the weights back into the pattern; called after every step, so it must not wait for the device."""

    def pack(self, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A model's state_dict in the form it has in files."""

    def unpack(self, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The reverse of `pack`."""


class Batches(Protocol):
    """A data set the engine can train on (`datasets.pictures.Dataset`), already on the device.

    Splits have a length and `batches(size)`, which yields inputs and labels [B]. Inputs are whatever the model takes.
    """

    train: Any
    val: Any
    test: Any
    probes: Mapping[str, Any]  # further splits, by name, that are followed; see `Engine.evaluate`

    def train_batches(self, size: int, generator: torch.Generator) -> Iterator[tuple[Any, torch.Tensor]]: ...


@dataclass(frozen=True)
class TrainingProtocol:
    """How one training goes (paper, section 4, General Settings).

    The rate rises linearly over `warmup` steps, and is multiplied by 0.1 after each epoch in `milestones`. optimizer: of OPTIMIZERS.
    """

    epochs: int
    lr: float
    milestones: tuple[int, ...]
    batch_size: int
    momentum: float
    weight_decay: float
    warmup: int = 0
    optimizer: str = "sgd"

    def lasting(self, epochs: int, milestones: tuple[int, ...] | None) -> "TrainingProtocol":
        """This protocol over another number of epochs; milestones None is the usual ones of that number."""
        return replace(self, epochs=epochs, milestones=usual_milestones(epochs) if milestones is None else milestones)


def usual_milestones(epochs: int) -> tuple[int, ...]:
    """Epochs at 1/2 and 3/4 of a training: 91 and 136 of the paper's 182."""
    return tuple(sorted({epochs // 2, epochs * 3 // 4} - {0}))


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
        probes = figures.pop("probes")
        return {**figures, **probes}


def resolve_device(name: str) -> torch.device:
    """`auto` is CUDA where it works; why it does not, where there is a GPU, goes to stderr. CUDA devices have an index.

    Raises UserError for a device that this machine lacks or that can't compute.
    """
    try:
        device = torch.device("cuda" if name == "auto" else name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name}: must be auto, cpu, cuda or cuda:N")
    if device.type == "cpu":
        return device
    device = torch.device("cuda", device.index or 0)
    fault = cuda_fault(device)
    if fault is None:
        return device
    if name != "auto":
        raise UserError(f"--device {name}: {fault}; use --device auto or cpu")
    if any(map(os.path.exists, GPU_DRIVERS)):
        print(f"--device auto: goes on with the CPU, since the GPU can't be used: {fault}", file=sys.stderr)
    return torch.device("cpu")


def cuda_fault(device: torch.device) -> str | None:
    """Why nothing can be computed on a CUDA device, and the way out; None where a tiny sum can."""
    if (device.index or 0) >= torch.cuda.device_count() and torch.cuda.device_count():
        return f"this machine has {torch.cuda.device_count()} CUDA devices"
    try:
        return None if torch.ones(2, device=device).sum().item() == 2 else "it computes wrong sums"
    except (RuntimeError, AssertionError) as error:  # a build without CUDA asserts
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    if "no kernel image" in reason:
        major, minor = torch.cuda.get_device_capability(device)
        return (f"PyTorch {torch.__version__} has no kernels for {torch.cuda.get_device_name(device)} (compute capability "
                f"{major}.{minor}); install a build of PyTorch that has")
    return reason


def check_can_compile(device: torch.device) -> None:
    """Raise UserError, saying what to install, where torch.compile would fail for want of a compiler."""
    if device.type == "cpu":
        if not any(map(shutil.which, _compilers("CXX", "g++", "clang++", "c++"))):
            raise UserError("--compile: needs a C++ compiler on CPU (Debian/Ubuntu: apt-get install g++); leave the flag out")
        return
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not any(map(shutil.which, _compilers("CC", "gcc", "clang"))):
        raise UserError("--compile: needs a C compiler for Triton on CUDA (Debian/Ubuntu: apt-get install gcc); leave the flag out")
    if not header.is_file():
        raise UserError(f"--compile: needs {header} for Triton on CUDA (Debian/Ubuntu: apt-get install python3-dev); "
                        "leave the flag out")


def _compilers(variable: str, *usual: str) -> tuple[str, ...]:
    """What torch.compile would call: the one that the environment names, or the usual ones."""
    return (os.environ[variable],) if os.environ.get(variable) else usual


class Record:
    """What one training has come to so far, and the files that say so.

    history: one row per finished epoch: epoch, lr, NAME_loss and NAME_acc of the splits and of the data set's probes, seconds.
    best: accuracies and number of the best epoch.
    """

    def __init__(self, files: TrainingFiles, title: str, constraint: WeightConstraint | None,
                 facts: dict[str, Any] | None):
        self.files, self.title, self.facts = files, title, facts or {}
        self.pack = constraint.pack if constraint else dict
        self.unpack = constraint.unpack if constraint else dict
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Any] = {"val_acc": -1.0}

    def resume(self) -> dict[str, Any] | None:
        """The content of `files.last`, the parts of it in the form `load_state_dict` takes; None where it is missing."""
        if not self.files.last.exists():
            return None
        saved = checkpoint.load(self.files.last)
        self.history, self.best = saved["history"], saved["best"]
        if self.best["epoch"] == saved["epoch"]:  # killed between writing the two files, perhaps
            self._save_best(saved["state_dict"])
        rates = {**saved["scheduler"], "milestones": Counter(saved["scheduler"]["milestones"])}
        return {**saved, "state_dict": self.unpack(saved["state_dict"]), "scheduler": rates}

    def check(self, epoch: int, protocol: TrainingProtocol, *losses: float) -> None:
        """Raises UserError where a loss is no longer a number."""
        if not all(math.isfinite(loss) for loss in losses):
            raise UserError(f"--lr {protocol.lr}: {self.title} diverged in epoch {epoch} (the loss is not a number); "
                            f"lower it, or add --warmup; epochs up to {epoch - 1} are kept in {self.files.folder}")

    def add(self, row: dict[str, float], state: dict[str, torch.Tensor], optimizer: dict[str, Any],
            schedule: torch.optim.lr_scheduler.MultiStepLR, generator: torch.Generator) -> None:
        """Record a finished epoch.

        Args:
            row: of `history`.
            state, optimizer: state_dict of the model and of its optimizer, on any device.
            schedule: after its step.
            generator: of the batches, as the next epoch finds it.
        """
        epoch = row["epoch"]
        self.history.append(row)
        if row["val_acc"] >= self.best["val_acc"]:
            self.best = {**{f"{name}_acc": row[f"{name}_acc"] for name in self.followed[1:]}, "epoch": epoch}
        state = {name: tensor.cpu() for name, tensor in self.pack(state).items()}
        # plain containers only: the scheduler's milestones are a Counter
        rates = {**schedule.state_dict(), "milestones": dict(schedule.milestones)}
        checkpoint.save({**self.facts, "epoch": epoch, "state_dict": state, "optimizer": optimizer,
                         "scheduler": rates, "random": randomness.get_state(generator),
                         "history": self.history, "best": self.best}, self.files.last)
        if self.best["epoch"] == epoch:
            self._save_best(state)
        checkpoint.save_csv(self.history, list(self.history[0]), self.files.metrics)

    @property
    def followed(self) -> tuple[str, ...]:
        """Names of the splits and probes whose accuracy is in the history; train first."""
        return tuple(column.removesuffix("_acc") for column in self.history[-1] if column.endswith("_acc"))

    def accuracies(self, but: str = "") -> str:
        """Those of the newest epoch in words; a narrow terminal has no room for all."""
        return ", ".join(f"{name} {self.history[-1][f'{name}_acc']:.2f}%" for name in self.followed if name != but)

    def line(self, epochs: int) -> str:
        """The newest epoch in words."""
        row = self.history[-1]
        return (f"{self.title}: epoch {row['epoch']}/{epochs}, lr {row['lr']:g}, loss {row['train_loss']:.4f}, "
                f"{self.accuracies()}, {row['seconds']:.1f} s")

    def finish(self) -> Trained:
        """What the training came to; writes table and curve."""
        checkpoint.save_csv(self.history, list(self.history[0]), self.files.metrics)
        plots.training_curve(self.history, self.followed, self.title, self.files.curve)
        probes = {}
        for name in self.followed[len(SPLITS):]:
            probes |= {f"{name}_acc": self.best[f"{name}_acc"], f"{name}_acc_last": self.history[-1][f"{name}_acc"]}
        return Trained(self.best["test_acc"], self.best["val_acc"], self.best["epoch"], self.history[-1]["test_acc"],
                       len(self.history), sum(row["seconds"] for row in self.history), probes)

    def _save_best(self, state: dict[str, torch.Tensor]) -> None:
        checkpoint.save({**self.facts, **self.best, "state_dict": state}, self.files.best)


@dataclass(frozen=True)
class Optimizer:
    """make: from parameters and a protocol. lr: the usual rate."""

    make: Callable[..., torch.optim.Optimizer]
    lr: float


OPTIMIZERS = {
    "sgd": Optimizer(lambda parameters, protocol: torch.optim.SGD(
        parameters, protocol.lr, protocol.momentum, weight_decay=protocol.weight_decay, fused=True), lr=0.1),
    "adam": Optimizer(lambda parameters, protocol: torch.optim.Adam(
        parameters, protocol.lr, (protocol.momentum, 0.999), weight_decay=protocol.weight_decay, fused=True), lr=1e-3),
}


def make_optimizer(parameters: Iterable[nn.Parameter], protocol: TrainingProtocol) -> torch.optim.Optimizer:
    """The protocol's, one fused call for all parameters."""
    return OPTIMIZERS[protocol.optimizer].make(parameters, protocol)


def make_schedule(optimizer: torch.optim.Optimizer, protocol: TrainingProtocol) -> torch.optim.lr_scheduler.MultiStepLR:
    """The rate's fall after each milestone; to be stepped after each epoch."""
    return torch.optim.lr_scheduler.MultiStepLR(optimizer, list(protocol.milestones), gamma=0.1)


Objective = Callable[[Callable[[Any], torch.Tensor], Any, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""What a training minimises: (network, inputs, labels) -> mean loss of the batch, and how many of it are right (int64).

The network may be called more than once. What it returns may be bfloat16.
"""


def cross_entropy(network: Callable[[Any], torch.Tensor], inputs: Any, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The usual `Objective` of a classifier; labels: int64 [B]."""
    logits = network(inputs).float()
    return F.cross_entropy(logits, labels), (logits.detach().argmax(1) == labels).sum()


class Engine:
    """Trains and evaluates one model on one device. The model is moved in place, to channels-last memory.

    With compile_step a CUDA device replays a recorded graph for every full batch: one launch instead of some hundred.
    Recorded is the size of an epoch's first batch; the last one of an epoch, mostly shorter, runs uncompiled there.

    Args:
        compile_step: run the forward and backward pass through torch.compile; needs a C++ compiler on CPU, a C compiler and
            Python's headers on CUDA.
        amp: bf16 autocast; None means where the GPU does it in hardware. Without it, CUDA computes in true float32, not TF32.
        objective: what `fit` minimises.
    Raises:
        UserError: amp on CPU, where it can kill the process (illegal instruction), or compile_step without what it needs.
    """

    def __init__(self, model: nn.Module, device: torch.device, compile_step: bool = False, amp: bool | None = None,
                 objective: Objective = cross_entropy):
        if amp and device.type != "cuda":
            raise UserError("--amp: bf16 needs a CUDA device; leave the flag out on CPU")
        if compile_step:
            check_can_compile(device)
        self.model, self.device, self.objective = model, device, objective
        if device.index is not None and device.type == "cuda":  # a device without an index is the current one
            torch.cuda.set_device(device)
        if amp is None:  # older GPUs only emulate bf16, slowly
            amp = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        self.amp = amp
        # The loss is part of what is compiled on CUDA, where launches count. On a CPU it stays outside, so that results
        # have the same bits as ever; static shapes: one graph for full batches, one for the last, short one.
        self.records_graphs = compile_step and device.type == "cuda"
        self.forward = torch.compile(model, dynamic=False) if compile_step and not self.records_graphs else model
        self.recorded_loss = (torch.compile(self.loss, dynamic=False, mode="reduce-overhead") if self.records_graphs
                              else self.loss)
        model.to(device, memory_format=torch.channels_last)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.amp)

    def kernels(self, search: bool) -> contextlib.AbstractContextManager:
        """Which convolutions CUDA may take: float32 means float32 (cuDNN's default is TF32, 10 bits), and with `search` the
        fastest of all that do, which pays where shapes repeat."""
        return torch.backends.cudnn.flags(enabled=True, benchmark=search, allow_tf32=False)

    def loss(self, inputs: Any, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The objective on a training batch."""
        return self.objective(self.forward, inputs, labels)

    def predict(self, inputs: Any) -> torch.Tensor:
        """The model's float32 scores [B, classes], as evaluation reads them."""
        return self.model(inputs).float()

    def run(self, batches: Iterable[tuple[Any, torch.Tensor]], optimizer: torch.optim.Optimizer,
            constraint: WeightConstraint | None = None,
            rates: Callable[[int], float] | None = None) -> tuple[torch.Tensor, torch.Tensor, int]:
        """One step per batch, without waiting for the device.

        Args:
            batches: inputs and labels [B], of the same size, all but the last.
            rates: the learning rate of each step, counted from 0 (default: the optimizer's). The optimizer's own is
                back afterwards.
        Returns:
            sum of losses over the examples and how many of them were right, on the device; how many there were.
        """
        self.model.train()
        loss_sum = torch.zeros((), device=self.device)
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        seen, size, rate = 0, None, optimizer.param_groups[0]["lr"]
        with self.kernels(search=True):
            for step, (inputs, labels) in enumerate(batches):
                count = len(labels)
                size = size or count
                if rates:
                    optimizer.param_groups[0]["lr"] = rates(step)
                optimizer.zero_grad(set_to_none=True)  # before the forward pass: a replay writes over recorded gradients
                recorded = self.records_graphs and count == size
                if recorded:
                    torch.compiler.cudagraph_mark_step_begin()
                with self.autocast():
                    loss, hits = (self.recorded_loss if recorded else self.loss)(inputs, labels)
                loss.backward()
                optimizer.step()
                if constraint:
                    constraint.apply()
                loss_sum += loss.detach() * count  # copied out before the next replay
                correct += hits
                seen += count
        optimizer.param_groups[0]["lr"] = rate
        return loss_sum, correct, seen

    def evaluate(self, split: Any) -> tuple[float, float]:
        """Mean cross-entropy and accuracy in percent over a split; leaves the model's mode as it was.

        A split that has `evaluate(engine)` of its own, such as a probe for something else than classes, says both itself.
        """
        training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad(), self.kernels(search=False), self.autocast():
                if hasattr(split, "evaluate"):
                    return split.evaluate(self)
                loss = torch.zeros((), device=self.device)
                correct = torch.zeros((), dtype=torch.int64, device=self.device)
                for inputs, labels in split.batches(EVAL_BATCH[self.device.type]):
                    logits = self.predict(inputs)
                    loss += F.cross_entropy(logits, labels, reduction="sum")
                    correct += (logits.argmax(1) == labels).sum()
                return loss.item() / len(split), 100 * correct.item() / len(split)
        finally:
            self.model.train(training)

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
        optimizer = make_optimizer(model.parameters(), protocol)
        schedule = make_schedule(optimizer, protocol)
        record = Record(files, title, constraint, facts)
        if saved := record.resume():
            model.load_state_dict(saved["state_dict"])
            optimizer.load_state_dict(saved["optimizer"])
            schedule.load_state_dict(saved["scheduler"])
            randomness.set_state(saved["random"], generator)
        if constraint:
            constraint.apply()
        if after_epoch and not record.history:
            after_epoch(0)

        done = len(record.history)
        epochs = tqdm(range(done + 1, protocol.epochs + 1), initial=done, total=protocol.epochs, desc=title,
                      unit="epoch", disable=None)
        for epoch in epochs:
            started = time.perf_counter()
            rate = optimizer.param_groups[0]["lr"]
            train_loss, train_acc = self._train_epoch(data, protocol, optimizer, generator, constraint, epoch)
            row = {"epoch": epoch, "lr": rate, "train_loss": train_loss, "train_acc": train_acc}
            for name, pictures in {"val": data.val, "test": data.test, **data.probes}.items():
                row[f"{name}_loss"], row[f"{name}_acc"] = self.evaluate(pictures)
            record.check(epoch, protocol, *(row[f"{split}_loss"] for split in SPLITS))
            schedule.step()
            if after_epoch:
                after_epoch(epoch)
            row["seconds"] = time.perf_counter() - started
            record.add(row, model.state_dict(), optimizer.state_dict(), schedule, generator)
            epochs.set_postfix_str(record.accuracies(but="train"))
            if epochs.disable:
                print(record.line(protocol.epochs), flush=True)
        epochs.close()
        return record.finish()

    def _train_epoch(self, data: Batches, protocol: TrainingProtocol, optimizer: torch.optim.Optimizer,
                     generator: torch.Generator, constraint: WeightConstraint | None,
                     epoch: int) -> tuple[float, float]:
        """One pass over the training pictures, see `train_on`."""
        return self.train_on(data.train_batches(protocol.batch_size, generator), optimizer, constraint,
                             warmup_rates(data, protocol, optimizer, epoch))

    def train_on(self, batches: Iterable[tuple[torch.Tensor, torch.Tensor]], optimizer: torch.optim.Optimizer,
                 constraint: WeightConstraint | None = None,
                 rates: Callable[[int], float] | None = None) -> tuple[float, float]:
        """`run`; mean loss and accuracy in percent, for which the device is asked only at the end."""
        loss_sum, correct, seen = self.run(batches, optimizer, constraint, rates)
        return loss_sum.item() / seen, 100 * correct.item() / seen


def warmup_rates(data: Batches, protocol: TrainingProtocol, optimizer: torch.optim.Optimizer,
                 epoch: int) -> Callable[[int], float] | None:
    """The learning rate of each step of an epoch, None without a warm-up."""
    if not protocol.warmup:
        return None
    rate = optimizer.param_groups[0]["lr"]
    before = (epoch - 1) * -(-len(data.train) // protocol.batch_size)
    return lambda step: rate * min(1.0, (before + step + 1) / protocol.warmup)
