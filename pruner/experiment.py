"""From parsed flags to what a training needs: data, model, engine, protocol."""

import argparse
from dataclasses import dataclass
from typing import Any

import torch

from datasets import DATASETS, load_dataset
from datasets.pictures import Dataset, fingerprint
from datasets.points import Clouds
from models import ARCHITECTURES, build_model
from utils import plots, randomness
from utils.engine import OPTIMIZERS, Engine, TrainingProtocol, resolve_device, usual_milestones
from utils.errors import UserError
from utils.run_dir import RunDir


@dataclass(frozen=True)
class Experiment:
    """What `prepare` made of a script's flags. facts: plain values that go into every file of weights."""

    engine: Engine
    data: Dataset
    protocol: TrainingProtocol
    facts: dict[str, Any]

    def fingerprints(self) -> dict[str, str | int]:
        """SHA-256 of the examples and of the model's present weights, which a run's arguments do not pin down; and how many pictures
        an accuracy is of."""
        return {"pictures (sha256)": self.data.fingerprint(), "test pictures": len(self.data.test),
                "weights (sha256)": fingerprint(self.engine.model.state_dict().values())}


def draw_clouds(engine: Engine, data: Dataset, files: RunDir) -> None:
    """Of a data set of points: a picture of eight test clouds, evenly over the split, and of what the model calls them now."""
    if not isinstance(data.test, Clouds):
        return
    shown = data.test[torch.linspace(0, len(data.test) - 1, 8, device=data.test.labels.device).long()]
    engine.model.eval()
    with torch.no_grad():
        predictions = engine.predict(shown.floats()).argmax(1)
    plots.clouds(shown.points.cpu().numpy(), *([data.classes[label] for label in labels.tolist()] for labels in (shown.labels, predictions)),
                 files.clouds)


def prepare(args: argparse.Namespace) -> Experiment:
    """Resolve defaults, load the pictures and build the seeded model on its device; nothing is written.

    Args:
        args: has the flags of `utils.cli.add_model_and_data_flags`, `add_training_flags` and `add_run_flags`;
            rate, weight decay and milestones are filled in.
    Raises:
        UserError: for anything in the flags that can't be done.
    """
    entry = ARCHITECTURES[args.arch]
    if DATASETS[args.dataset].kind != entry.kind:
        raise UserError(f"--arch {args.arch}: takes {entry.kind}, and --dataset {args.dataset} has {DATASETS[args.dataset].kind}; name "
                        f"one of {', '.join(name for name, source in DATASETS.items() if source.kind == entry.kind)}")
    if args.lr is None:
        args.lr = OPTIMIZERS[entry.optimizer].lr
    if args.weight_decay is None:
        args.weight_decay = entry.weight_decay
    if args.decreasing_lr is None:
        args.decreasing_lr = usual_milestones(args.epochs)
    device = resolve_device(args.device)
    data = load_dataset(args.dataset, args.data, args.image_size, args.limit, args.seed)
    randomness.seed_everything(args.seed)
    model = build_model(args.arch, data.num_classes, data.mean, data.std)
    engine = Engine(model, device, args.compile, args.amp)
    protocol = TrainingProtocol(args.epochs, args.lr, args.decreasing_lr, args.batch_size, args.momentum,
                                args.weight_decay, args.warmup, entry.optimizer)
    facts = {"arch": args.arch, "dataset": data.name, "num_classes": data.num_classes, "seed": args.seed}
    return Experiment(engine, data.to(device), protocol, facts)
