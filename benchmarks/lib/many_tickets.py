"""What benchmarks/many_tickets.py measures."""

import argparse
import itertools
import statistics
import time
from collections.abc import Iterator

import torch

from datasets.pictures import Dataset, Pictures
from models import build_model
from pruner.masks import Mask, MaskedWeights, prunable_layers
from utils.engine import Engine, TrainingProtocol, make_optimizer, resolve_device
from utils.errors import UserError
from utils.many import Constraints, StackedEngine, side_by_side
from utils.run_dir import processor

PROTOCOL = TrainingProtocol(1, 0.1, (), 128, 0.9, 1e-4)
SETTLE = 3  # untimed steps before each block


def masked_model(arch: str, seed: int) -> tuple[torch.nn.Module, MaskedWeights]:
    """A fresh network with a random mask of 26%."""
    torch.manual_seed(seed)
    model = build_model(arch, 10, (0.5,) * 3, (0.29,) * 3)
    return model, MaskedWeights(model, Mask({name: torch.rand(layer.weight.shape) < 0.26
                                             for name, layer in prunable_layers(model).items()}))


class Running:
    """A training of one model, or of k together, that takes steps when asked to."""

    def __init__(self, args: argparse.Namespace, data: Dataset, device: torch.device, count: int | None):
        models, constraints = zip(*(masked_model(args.arch, seed) for seed in range(count or 1)))
        generators = [torch.Generator().manual_seed(seed) for seed in range(count or 1)]
        self.count, self.constraint, size = count or 1, Constraints(constraints), args.batch_size
        self.trainer = (StackedEngine(models, device, args.compile) if count else
                        Engine(models[0], device, args.compile))
        self.optimizer = make_optimizer(self.trainer.model.parameters(), PROTOCOL)

        def epochs() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            while True:  # full batches alone, so that one size is recorded
                batches = side_by_side(data, size, generators) if count else data.train_batches(size, generators[0])
                yield from (batch for batch in batches if batch[1].shape[-1] == size)

        self.batches = epochs()

    def rate(self, steps: int) -> float:
        """Pictures per second of all models together, over so many steps."""
        self.trainer.run(itertools.islice(self.batches, SETTLE), self.optimizer, self.constraint)
        wait(self.trainer.device)
        start = time.perf_counter()
        *_, seen = self.trainer.run(itertools.islice(self.batches, steps), self.optimizer, self.constraint)
        wait(self.trainer.device)
        return self.count * seen / (time.perf_counter() - start)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def fill_in(args: argparse.Namespace) -> torch.device:
    """The device, after what it decides among the flags. Raises UserError for one that this machine lacks."""
    device = resolve_device(args.device)
    cuda = device.type == "cuda"
    if args.tiny:
        args.batch_size, args.pictures, args.steps, args.blocks, args.counts = 4, 32, 2, 1, (1, 2)
    if args.pictures < args.batch_size:
        raise UserError(f"--pictures {args.pictures}: is no full batch; give at least --batch_size, {args.batch_size}")
    args.compile = cuda if args.compile is None else args.compile
    args.counts = args.counts or ((1, 4, 16) if cuda else (1, 4))
    args.steps = args.steps or (64 if cuda else 8)
    return device


def random_pictures(count: int) -> Dataset:
    """CIFAR-10 in shape, noise in content."""
    generator = torch.Generator().manual_seed(1)
    part = Pictures(torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8, generator=generator),
                    torch.randint(0, 10, (count,), generator=generator))
    return Dataset("random pictures", part, part, part, tuple(map(str, range(10))), (0.5,) * 3, (0.29,) * 3, True)


def chip_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor()


def heading(args: argparse.Namespace, device: torch.device) -> str:
    """What all rows have in common, in one line."""
    return (f"{args.arch}, {chip_of(device)}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
            f"{'compiled' if args.compile else 'not compiled'}, random pictures, batch {args.batch_size}")


def measure(args: argparse.Namespace, device: torch.device) -> Iterator[dict]:
    """One row per number; low and high are the extremes, where there are several measurements."""
    same = {"arch": args.arch, "device": chip_of(device), "compiled": args.compile}
    for row in compare(args, random_pictures(args.pictures).to(device), device):
        yield {**same, **row}


def compare(args: argparse.Namespace, data: Dataset, device: torch.device) -> Iterator[dict]:
    """One training and k at once, in turns."""
    one = Running(args, data, device, None)
    for count in args.counts:
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        several = Running(args, data, device, count)
        several.rate(SETTLE)  # compilation
        pairs = [(one.rate(args.steps), several.rate(max(1, args.steps // count))) for _ in range(args.blocks)]
        for what, values, unit in (
                ("one by the engine", [single for single, _ in pairs], "images/s"),
                (f"{count} at once, together", [stack for _, stack in pairs], "images/s"),
                (f"{count} at once / one after the other", [stack / single for single, stack in pairs], "times")):
            yield {"what": what, "value": statistics.median(values), "low": min(values), "high": max(values), "unit": unit}
        if device.type == "cuda":
            yield {"what": f"{count} at once, peak memory", "value": torch.cuda.max_memory_allocated() / 2**20,
                   "unit": "MiB"}
