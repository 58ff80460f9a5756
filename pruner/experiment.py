"""From parsed flags to what a training needs: data, model, engine, protocol."""

import argparse
from dataclasses import dataclass
from typing import Any

from datasets import DATASETS, load_dataset
from datasets.pictures import Dataset, fingerprint
from models import ARCHITECTURES, build_model
from utils import randomness
from utils.engine import OPTIMIZERS, Engine, TrainingProtocol, resolve_device, usual_milestones
from utils.errors import UserError


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
