"""Whether k trainings at once (utils/many.py) take less time than one after the other.

    python benchmarks/many_tickets.py --compile                     # ResNet-20, k = 1, 4, 16 where a GPU is
    python benchmarks/many_tickets.py --counts 1,4 --device cpu     # about 2 minutes on 2 CPU cores

One training by the engine and k trainings as a stack take steps in turns, in one process, on the same random pictures; every
model has its own mask, batches and augmentation. The ratio is pictures per second of all k together over those of the one:
above 1, k at once are done before k in a row.
"""

import argparse
import csv
import itertools
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from datasets.pictures import Dataset, Pictures
from models import ARCHITECTURES, build_model
from pruner.masks import Mask, MaskedWeights, prunable_layers
from utils.engine import Engine, TrainingProtocol, make_optimizer, resolve_device
from utils.many import Constraints, StackedEngine, side_by_side
from utils.run_dir import processor

PROTOCOL = TrainingProtocol(1, 0.1, (), 128, 0.9, 1e-4)
SETTLE = 3  # untimed steps before each block
COLUMNS = ("arch", "device", "compiled", "what", "value", "low", "high", "unit")


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


def measure(args: argparse.Namespace, data: Dataset, device: torch.device) -> Iterator[dict]:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", choices=sorted(ARCHITECTURES), default="res20s")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--counts", default=None, metavar="K,K", help="models at once (default: 1,4,16; on CPU 1,4)")
    parser.add_argument("--compile", action="store_true", default=None, help="torch.compile (default on CUDA)")
    parser.add_argument("--no_compile", action="store_false", dest="compile")
    parser.add_argument("--batch_size", type=int, default=128, help="of each model")
    parser.add_argument("--steps", type=int, default=None, help="per block, shared by the models (default: 64; on CPU 8)")
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--pictures", type=int, default=12800, help="random training pictures")
    parser.add_argument("--tiny", action="store_true", help="everything as small as can be: does it run at all?")
    parser.add_argument("--out", default=None, metavar="DIR", help="append the rows to DIR/many_tickets.csv")
    args = parser.parse_args()
    device = resolve_device(args.device)
    cuda = device.type == "cuda"
    if args.tiny:
        args.batch_size, args.pictures, args.steps, args.blocks, args.counts = 4, 32, 2, 1, "1,2"
    args.compile = cuda if args.compile is None else args.compile
    args.counts = [int(count) for count in (args.counts or ("1,4,16" if cuda else "1,4")).split(",")]
    args.steps = args.steps or (64 if cuda else 8)

    generator = torch.Generator().manual_seed(1)
    part = Pictures(torch.randint(0, 256, (args.pictures, 32, 32, 3), dtype=torch.uint8, generator=generator),
                    torch.randint(0, 10, (args.pictures,), generator=generator))
    data = Dataset("random pictures", part, part, part, tuple(map(str, range(10))), (0.5,) * 3, (0.29,) * 3, True).to(device)
    chip = torch.cuda.get_device_name() if cuda else processor()
    print(f"{args.arch}, {chip}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
          f"{'compiled' if args.compile else 'not compiled'}, random pictures, batch {args.batch_size}", flush=True)
    for row in measure(args, data, device):
        print(f"{row['what']:<40}{row['value']:>12.4g} {row['unit']:<9}"
              + (f"({row['low']:.4g} to {row['high']:.4g})" if "low" in row else ""), flush=True)
        if args.out:
            path = Path(args.out) / "many_tickets.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh = not path.exists()
            with open(path, "a", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, COLUMNS)
                if fresh:
                    writer.writeheader()
                writer.writerow({"arch": args.arch, "device": chip, "compiled": args.compile, **row})


if __name__ == "__main__":
    main()
