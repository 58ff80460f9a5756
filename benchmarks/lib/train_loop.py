"""What benchmarks/train_loop.py measures: a function per section, from a `Setting` to rows."""

import argparse
import csv
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import nn
from torch.nn.utils import prune
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms

from benchmarks.lib.flags import CIFAR
from datasets import load_dataset
from datasets.pictures import Dataset, Pictures
from models import ARCHITECTURES, build_model
from pruner.masks import Mask, MaskedWeights, prunable_layers
from utils import engine
from utils.engine import Engine, TrainingProtocol, make_optimizer, resolve_device
from utils.errors import UserError
from utils.run_dir import TrainingFiles, processor

SETTLE = 3  # untimed steps before each block
# steps per block and blocks of each loop, so that everything takes minutes
STEPS = {"cpu": {"res20s": (10, 7), "res18": (2, 5), "res50": (1, 3)},
         "cuda": {"res20s": (60, 9), "res18": (60, 7), "res50": (40, 5)}}
OTHER_STEPS = (2, 5)  # of a network that was added
SCRIPT = Path(__file__).resolve().parent.parent / "train_loop.py"


# --- the conventional loop ----------------------------------------------------------------------------------------------


class PilPictures(torch.utils.data.Dataset):
    """Pictures as torchvision's data sets give them: one PIL image at a time, transformed on the way."""

    def __init__(self, pictures: Pictures, transform: Callable):
        self.images, self.labels = pictures.images.cpu().numpy(), pictures.labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


class ConventionalLoop:
    """A training loop as most code has it; the interface is that of `OurLoop`."""

    def __init__(self, model: nn.Module, mask: Mask, data: Dataset, protocol: TrainingProtocol, device: torch.device):
        self.model, self.device, self.data = model.to(device), device, data
        for name, layer in prunable_layers(model).items():
            prune.custom_from_mask(layer, "weight", mask[name])
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD(model.parameters(), protocol.lr, momentum=protocol.momentum,
                                         weight_decay=protocol.weight_decay)
        side = data.train.images.shape[1]
        transform = transforms.Compose([transforms.RandomCrop(side, padding=side // 8),
                                        *([transforms.RandomHorizontalFlip()] if data.flip else []),
                                        transforms.ToTensor()])
        cuda = device.type == "cuda"
        self.loader = DataLoader(PilPictures(data.train, transform), protocol.batch_size, shuffle=True, num_workers=2,
                                 pin_memory=cuda)
        self.test = DataLoader(PilPictures(data.test, transforms.ToTensor()), protocol.batch_size, num_workers=2,
                               pin_memory=cuda)
        self.stream = itertools.chain.from_iterable(itertools.repeat(self.loader))

    def steps(self, count: int) -> int:
        """Train on the next `count` batches; how many pictures that were."""
        return self._train(itertools.islice(self.stream, count))

    def _train(self, batches: Iterator) -> int:
        self.model.train()
        seen, losses, accuracies = 0, 0.0, 0.0
        for images, labels in batches:
            images, labels = images.to(self.device), labels.to(self.device)
            output = self.model(images)
            loss = self.criterion(output, labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            losses += loss.item() * len(labels)
            accuracies += (output.argmax(1) == labels).float().sum().item()
            seen += len(labels)
        return seen

    def train(self, protocol: TrainingProtocol) -> float:
        """A whole training; test accuracy in percent after the last epoch."""
        schedule = torch.optim.lr_scheduler.MultiStepLR(self.optimizer, list(protocol.milestones), gamma=0.1)
        for _ in range(protocol.epochs):
            self._train(self.loader)
            schedule.step()
        self.model.eval()
        with torch.no_grad():
            hits = sum((self.model(images.to(self.device)).argmax(1) == labels.to(self.device)).sum().item()
                       for images, labels in self.test)
        return 100 * hits / len(self.data.test)


# --- ours ---------------------------------------------------------------------------------------------------------------


class OurLoop:
    """The engine, as the scripts use it."""

    def __init__(self, model: nn.Module, mask: Mask, data: Dataset, protocol: TrainingProtocol, device: torch.device,
                 compile_step: bool):
        self.engine = Engine(model, device, compile_step)
        self.constraint = MaskedWeights(model, mask)
        self.constraint.apply()
        self.optimizer = make_optimizer(model.parameters(), protocol)
        self.data, self.protocol = data.to(device), protocol
        self.generator = torch.Generator().manual_seed(1)
        self.stream = itertools.chain.from_iterable(self._epoch() for _ in itertools.repeat(None))
        self.seen = 0

    def _epoch(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        # full batches alone: a block that began with a short one would have that size recorded
        return (batch for batch in self.data.train_batches(self.protocol.batch_size, self.generator)
                if len(batch[1]) == self.protocol.batch_size)

    def _counted(self, count: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for batch in itertools.islice(self.stream, count):
            self.seen += len(batch[1])
            yield batch

    def steps(self, count: int) -> int:
        """Train on the next `count` batches; how many pictures that were."""
        before = self.seen
        self.engine.train_on(self._counted(count), self.optimizer, self.constraint)
        return self.seen - before

    def train(self, protocol: TrainingProtocol, seed: int) -> float:
        """A whole training; test accuracy in percent after the last epoch."""
        with tempfile.TemporaryDirectory() as folder:
            return self.engine.fit(self.data, protocol, TrainingFiles(folder), seed, self.constraint).test_acc_last


# --- measuring ----------------------------------------------------------------------------------------------------------


class Setting:
    """What all sections measure with: flags, device, pictures, and loops built from the same weights."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.device = args, resolve_device(args.device)
        steps, blocks = STEPS[self.device.type].get(args.arch, OTHER_STEPS)
        args.steps, args.blocks = args.steps or steps, args.blocks or blocks
        self.data = (load_dataset(args.dataset, args.data, limit=args.limit) if args.dataset
                     else random_pictures(*args.pictures))
        if len(self.data.train) < args.batch_size:  # the loops take full batches
            raise UserError(f"--batch_size {args.batch_size}: there are {len(self.data.train)} training pictures")
        self.protocol = TrainingProtocol(args.epochs, 0.1, tuple(sorted({args.epochs // 2, args.epochs * 3 // 4} - {0})),
                                         args.batch_size, 0.9, ARCHITECTURES[args.arch].weight_decay)

    @property
    def chip(self) -> str:
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else processor()

    def heading(self) -> str:
        """What all rows have in common, in one line."""
        return (f"{self.args.arch}, {self.chip}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
                f"{'compiled' if self.args.compile else 'not compiled'}, {self.data.name}, batch {self.args.batch_size}, "
                f"density {self.args.density:g}")

    def model(self, seed: int = 1) -> nn.Module:
        torch.manual_seed(seed)
        return build_model(self.args.arch, self.data.num_classes, self.data.mean, self.data.std)

    def mask(self, model: nn.Module, seed: int = 1) -> Mask:
        generator = torch.Generator().manual_seed(seed)
        return Mask({name: torch.rand(layer.weight.shape, generator=generator) < self.args.density
                     for name, layer in prunable_layers(model).items()})

    def loop(self, kind: str, seed: int = 1) -> ConventionalLoop | OurLoop:
        model = self.model(seed)
        mask = self.mask(model, seed)
        if kind == "conventional":
            return ConventionalLoop(model, mask, self.data, self.protocol, self.device)
        return OurLoop(model, mask, self.data, self.protocol, self.device, self.args.compile)

    def seconds(self, work: Callable[[], object]) -> float:
        """Wall time of `work` until the device has done it."""
        self.wait()
        start = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - start

    def median(self, work: Callable[[], object], repeats: int) -> float:
        """Median wall time of one run of `work`, after one that is not counted."""
        work()
        return statistics.median(self.seconds(work) for _ in range(repeats))

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def random_pictures(train: int, val: int, test: int) -> Dataset:
    """CIFAR-10 in shape and size, noise in content: as much work as the real one."""
    generator = torch.Generator().manual_seed(1)

    def split(count: int) -> Pictures:
        return Pictures(torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8, generator=generator),
                        torch.randint(0, 10, (count,), generator=generator))

    return Dataset("random pictures", split(train), split(val), split(test), tuple(map(str, range(10))),
                   (0.5,) * 3, (0.29,) * 3, True)


def loop(setting: Setting):
    """Both loops in turns."""
    count, blocks = setting.args.steps, setting.args.blocks
    ours, theirs = setting.loop("ours"), setting.loop("conventional")
    yield {"what": "first steps, compilation included", "value": setting.seconds(lambda: ours.steps(SETTLE)), "unit": "s"}
    rates: dict[str, list[float]] = {"conventional": [], "ours": []}
    for _ in range(blocks):
        for name, each in (("conventional", theirs), ("ours", ours)):
            each.steps(SETTLE)
            setting.wait()
            start = time.perf_counter()
            seen = each.steps(count)
            setting.wait()
            rates[name].append(seen / (time.perf_counter() - start))
    for name, values in rates.items():
        yield {"what": f"{name} loop", **spread(values), "unit": "images/s"}
    ratios = [ours / theirs for ours, theirs in zip(rates["ours"], rates["conventional"])]
    yield {"what": f"ours / conventional, {blocks} pairs of blocks of {count} steps", **spread(ratios), "unit": "times"}
    yield {"what": f"training pictures of a CIFAR epoch ({CIFAR[0]}) at our rate",
           "value": CIFAR[0] / statistics.median(rates["ours"]), "unit": "s"}


def parts(setting: Setting):
    """What a step consists of; each part timed alone."""
    ours, repeats = setting.loop("ours"), 20 if setting.device.type == "cuda" else 5
    trainer, optimizer, size = ours.engine, ours.optimizer, setting.args.batch_size
    ours.steps(SETTLE)
    optimizer.param_groups[0]["lr"] = 0.0  # the same step again and again must not lead anywhere
    images, labels = next(ours.stream)
    some = ours.data.test[torch.arange(min(len(ours.data.test), 1000 if setting.device.type == "cpu" else CIFAR[2]))]

    def forward_backward() -> None:
        optimizer.zero_grad(set_to_none=True)
        if trainer.records_graphs:
            torch.compiler.cudagraph_mark_step_begin()
        with trainer.autocast():
            trainer.recorded_loss(images, labels)[0].backward()

    many = range(10)
    trainer.model.train()
    times = {"augmentation": setting.median(lambda: [next(ours.stream) for _ in many], repeats) / len(many),
             "forward and backward": setting.median(forward_backward, repeats),
             "optimizer (fused)": setting.median(lambda: [optimizer.step() for _ in many], repeats) / len(many),
             "masks": setting.median(lambda: [ours.constraint.apply() for _ in many], repeats) / len(many)}
    whole = sum(times.values())
    for name, took in times.items():
        yield {"what": f"step: {name}", "value": 1000 * took, "unit": "ms", "share": took / whole}
    first = setting.median(lambda: next(ours.data.train_batches(size, ours.generator)), 3)
    yield {"what": f"first batch of an epoch of {len(ours.data.train)}, all its draws included", "value": 1000 * first,
           "unit": "ms"}

    evaluation, standard = {}, engine.EVAL_BATCH[setting.device.type]
    for batch in sorted({standard, 50, 250, 500, 1000} if setting.device.type == "cpu" else {standard, 250, 2500, 5000}):
        with replaced(engine.EVAL_BATCH, setting.device.type, batch):
            evaluation[batch] = setting.median(lambda: trainer.evaluate(some), 2) / len(some)
        yield {"what": f"evaluation in batches of {batch}" + (" (ours)" if batch == standard else ""),
               "value": 1e6 * evaluation[batch], "unit": "us/image"}
    epoch = CIFAR[0] / size * whole + first + (CIFAR[1] + CIFAR[2]) * evaluation[standard]
    yield {"what": "CIFAR epoch from its parts", "value": epoch, "unit": "s"}
    yield {"what": "... evaluation's share", "value": (CIFAR[1] + CIFAR[2]) * evaluation[standard] / epoch, "unit": ""}

    forward_backward()
    for name, kind in {"fused": {"fused": True}, "foreach": {"foreach": True},
                       "one by one": {"foreach": False, "fused": False}}.items():
        other = torch.optim.SGD(trainer.model.parameters(), 1e-6, 0.9, weight_decay=1e-4, **kind)
        yield {"what": f"SGD, {name}", "value": 1000 * setting.median(other.step, repeats), "unit": "ms"}
    pairs = [(layer.weight, factor) for layer, factor in zip(ours.constraint.layers, ours.constraint.factors)]
    with torch.no_grad():
        yield {"what": "masks, one by one", "value": 1000 * setting.median(
            lambda: [weight.mul_(factor) for weight, factor in pairs], repeats), "unit": "ms"}
    if setting.device.type == "cpu":
        before = torch.get_num_threads()
        for threads in range(1, before + 1):
            torch.set_num_threads(threads)
            yield {"what": f"forward and backward, {threads} of {before} threads",
                   "value": 1000 * setting.median(forward_backward, 3), "unit": "ms"}
        torch.set_num_threads(before)


class Traffic(TorchDispatchMode):
    """Adds up the bytes that operators read and write, had each its own pass over memory; `heavy`: those of convolutions
    and matrix products alone, whose traffic no fusion of the others spares."""

    HEAVY = {"convolution", "convolution_backward", "mm", "addmm"}

    def __init__(self):
        super().__init__()
        self.all = self.heavy = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if not function.is_view and name not in ("detach", "empty", "empty_like"):
            moved = sum(leaf.numel() * leaf.element_size() for leaf in tree_leaves((args, kwargs, result))
                        if isinstance(leaf, torch.Tensor))
            self.all += moved
            self.heavy += moved if name in self.HEAVY else 0
        return result


def roofline(setting: Setting):
    """Floors of a step's time by arithmetic and by memory traffic, from peaks measured here."""
    device, cuda = setting.device, setting.device.type == "cuda"
    ours = setting.loop("ours")
    plain = Engine(setting.model(), device, amp=ours.engine.amp)  # uncompiled, so that every operator is seen
    images, labels = next(ours.stream)

    def forward_backward(trainer: Engine) -> None:
        trainer.model.train()
        with trainer.autocast():
            trainer.loss(images, labels)[0].backward()

    with FlopCounterMode(display=False) as flops:
        forward_backward(plain)
    with Traffic() as traffic:
        forward_backward(plain)
    side, copied = (8192, 2**30) if cuda else (2048, 2**27)
    if setting.args.tiny:
        side, copied = 256, 2**20
    peaks = {}
    for dtype in (torch.float32, torch.bfloat16) if cuda else (torch.float32,):  # bf16 can kill a process on CPUs
        left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        took = setting.median(lambda: left @ right, 5)
        peaks[dtype] = 2 * side**3 / took
        yield {"what": f"peak, product of {side}x{side} {str(dtype).removeprefix('torch.')}", "value": peaks[dtype] / 1e9,
               "unit": "GFLOP/s"}
    source = torch.randint(0, 256, (copied,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    bandwidth = 2 * copied / setting.median(lambda: target.copy_(source), 5)
    yield {"what": f"peak, copy of {copied / 2**20:g} MiB, read and written", "value": bandwidth / 1e9, "unit": "GB/s"}

    ours.steps(SETTLE)
    count = setting.args.steps
    step = setting.median(lambda: ours.steps(count), 3) / count
    peak = peaks[torch.bfloat16 if ours.engine.amp else torch.float32]
    floors = {"arithmetic": flops.get_total_flops() / peak,
              "traffic of convolutions and products": traffic.heavy / bandwidth,
              "traffic of all operators, unfused": traffic.all / bandwidth}
    yield {"what": "arithmetic of a step", "value": flops.get_total_flops() / 1e9, "unit": "GFLOP"}
    yield {"what": "traffic of a step: convolutions and products", "value": traffic.heavy / 1e9, "unit": "GB"}
    yield {"what": "traffic of a step: all operators, unfused", "value": traffic.all / 1e9, "unit": "GB"}
    yield {"what": "a step takes", "value": 1000 * step, "unit": "ms"}
    for name, floor in floors.items():
        yield {"what": f"floor by {name}", "value": 1000 * floor, "unit": "ms", "share": floor / step}
    # no step is faster than the larger of the first two
    best = max(floors["arithmetic"], floors["traffic of convolutions and products"])
    yield {"what": "share of what the device can do", "value": best / step, "unit": ""}


def memory(setting: Setting):
    """Peak memory of a few steps; a process of its own per loop, on a CPU without the memory of workers and compilers."""
    for kind in ("conventional", "ours"):
        words = [sys.executable, str(SCRIPT), *sys.argv[1:], "--peak_of", kind]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)}: {done.stderr}")
        where = "on the device" if setting.device.type == "cuda" else "of the process, resident"
        yield {"what": f"{kind} loop, {where}", "value": float(done.stdout.splitlines()[-1]), "unit": "MiB"}


def peak_of(setting: Setting, kind: str) -> float:
    """Peak MiB of this process's memory, on CUDA of the device's, over a few steps."""
    setting.loop(kind).steps(2 * SETTLE)
    if setting.device.type == "cuda":
        return torch.cuda.max_memory_reserved() / 2**20
    # not ru_maxrss: that begins with what the parent process had
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 2**10


def epoch(setting: Setting):
    """Whole epochs of the engine: training, evaluation and files, as a script has them."""
    ours = setting.loop("ours")
    protocol = replace(setting.protocol, epochs=setting.args.epochs)
    trained_until = []  # the engine calls after an epoch's evaluation, before it writes that epoch's files
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        ours.engine.fit(ours.data, protocol, TrainingFiles(folder), 1, ours.constraint,
                        lambda epoch: trained_until.append(time.perf_counter()))
        wall = time.perf_counter() - start
        with open(TrainingFiles(folder).metrics, newline="", encoding="utf-8") as file:
            seconds = [float(row["seconds"]) for row in csv.DictReader(file)]
    sizes = " + ".join(str(len(part)) for part in (ours.data.train, ours.data.val, ours.data.test))
    yield {"what": f"first epoch of {sizes} pictures", "value": seconds[0], "unit": "s"}
    steady = seconds[1:]
    yield {"what": "an epoch thereafter, training and evaluation", **spread(steady), "unit": "s"}
    # from one evaluation's end to the next lie an epoch's files and the next epoch; trained_until begins before the first
    files = [until - before - took for before, until, took in zip(trained_until[1:], trained_until[2:], steady)]
    yield {"what": "... and writing its files", **spread(files), "unit": "s"}
    once = wall - sum(seconds) - statistics.median(files) * protocol.epochs
    yield {"what": "once per training: setting up, its table and its curve", "value": once, "unit": "s"}
    yield {"what": "182 epochs", "unit": "s",
           "value": seconds[0] + 181 * statistics.median(steady) + 182 * statistics.median(files) + once}


def accuracy(setting: Setting):
    """Whole trainings: the fast loop must not be the worse one."""
    reached: dict[str, list[float]] = {"conventional": [], "ours": []}
    for seed in range(1, setting.args.seeds + 1):
        reached["conventional"].append(setting.loop("conventional", seed).train(setting.protocol))
        reached["ours"].append(setting.loop("ours", seed).train(setting.protocol, seed))
    for name, values in reached.items():
        yield {"what": f"{name} loop, test accuracy after {setting.protocol.epochs} epochs, {len(values)} seeds",
               **spread(values), "unit": "%"}
    yield {"what": "ours - conventional, means",
           "value": statistics.mean(reached["ours"]) - statistics.mean(reached["conventional"]), "unit": "points"}
    if setting.args.seeds > 1:
        yield {"what": "standard deviation over seeds, conventional",
               "value": statistics.stdev(reached["conventional"]), "unit": "points"}


def spread(values: list[float]) -> dict[str, float]:
    """Median with the extremes."""
    return {"value": statistics.median(values), "low": min(values), "high": max(values)}


@contextmanager
def replaced(mapping: dict, key: str, value: object) -> Iterator[None]:
    before = mapping[key]
    mapping[key] = value
    try:
        yield
    finally:
        mapping[key] = before
