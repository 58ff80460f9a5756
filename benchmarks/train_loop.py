r"""How fast the training loop is: against a conventional one, part by part, and against what the device can do.

    python benchmarks/train_loop.py                                   # ResNet-20; about 4 minutes on 2 CPU cores
    python benchmarks/train_loop.py --arch res18 --device cuda --out runs/speed
    python benchmarks/train_loop.py --sections accuracy --dataset cifar10 --data datasets/cifar10 --limit 5000 --epochs 4

Both loops train the same network from the same weights with the same mask (26% of the weights, drawn at random) on the same
pictures in batches of the same size. The conventional one is written as such code mostly is: PIL transforms in a
DataLoader with 2 workers, contiguous float32, torch.nn.utils.prune, SGD as PyTorch's defaults have it, loss and accuracy
asked of the device after every step.

loop: both in turns, blocks of steps, each block after a few untimed steps (workers and caches in their stride).
parts: what a step is made of, and what other choices would cost (batch of evaluation, threads, kinds of SGD).
roofline: arithmetic and memory traffic of a step against the measured peaks of the device.
memory: peak memory of each loop, in a process of its own.
epoch: whole epochs with evaluation and files; not among the default sections.
accuracy: whole trainings with both loops, several seeds; not among the default sections.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

if __name__ == "__main__":  # a fault before main() must not end with 1, which is a verdict
    sys.excepthook = lambda *fault: os._exit(sys.__excepthook__(*fault) or 3)
    import utils  # noqa: F401  refuses a Python that is too old

from benchmarks.lib.flags import CIFAR
from datasets import DATASETS
from models import ARCHITECTURES
from utils import cli

SECTIONS = ("loop", "parts", "roofline", "memory", "epoch", "accuracy")  # functions of lib/train_loop.py
QUICK = SECTIONS[:4]
COLUMNS = ("section", "arch", "device", "compiled", "what", "value", "low", "high", "share", "unit")


def parse_args(argv: Sequence[str] | None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("--arch", choices=sorted(ARCHITECTURES), default="res20s", help="network")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--sections", type=cli.names_of(SECTIONS), default=QUICK, metavar="NAME,NAME",
                        help=f"out of {','.join(SECTIONS)}")
    parser.add_argument("--compile", action="store_true", default=True, help="torch.compile in our loop (default)")
    parser.add_argument("--no_compile", action="store_false", dest="compile", help="without")
    parser.add_argument("--batch_size", type=cli.several, default=128, help="of both loops")
    parser.add_argument("--density", type=cli.share, default=0.26, help="share of weights the mask keeps")
    parser.add_argument("--steps", type=cli.positive_int, default=None, help="per block (default: by network and device)")
    parser.add_argument("--blocks", type=cli.positive_int, default=None, help="of each loop (default: by network and device)")
    parser.add_argument("--dataset", choices=sorted(DATASETS), default=None, help="default: random pictures")
    parser.add_argument("--data", type=cli.path, default=None, metavar="DIR", help="folder of the data set")
    parser.add_argument("--limit", type=cli.several, default=None, help="of training pictures of the data set")
    parser.add_argument("--pictures", type=cli.positive_int, nargs=3, default=CIFAR, metavar="N",
                        help="random pictures: training, validation, test")
    parser.add_argument("--epochs", type=cli.positive_int, default=4, help="accuracy and epoch: of each training")
    parser.add_argument("--seeds", type=cli.positive_int, default=3, help="accuracy: trainings of each loop")
    parser.add_argument("--tiny", action="store_true", help="everything as small as can be: does it run at all?")
    parser.add_argument("--out", type=cli.Output(files={"train_loop.csv": rb"section,arch,device,"}), default=None, metavar="DIR", help="append the rows to DIR/train_loop.csv")
    parser.add_argument("--peak_of", choices=("conventional", "ours"), default=None, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.tiny:
        args.batch_size, args.pictures, args.steps, args.blocks, args.epochs, args.seeds = 8, (64, 20, 20), 1, 2, 2, 2
    for flag in ("data", "limit"):
        if getattr(args, flag) is not None and args.dataset is None:
            parser.error(f"argument --{flag}: needs --dataset")
    if "epoch" in args.sections and args.epochs < 2:
        parser.error("argument --epochs: the section epoch needs at least 2; the first one is not like the others")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)

    from benchmarks.lib import rows, train_loop

    path = Path(args.out) / "train_loop.csv" if args.out else None
    rows.check_writable(path)
    setting = train_loop.Setting(args)
    if args.peak_of:
        print(train_loop.peak_of(setting, args.peak_of))
        return cli.EXIT_OK
    print(setting.heading(), flush=True)
    same, summary = {"arch": args.arch, "device": setting.chip, "compiled": args.compile}, {}
    for name in args.sections:
        print(f"\n== {name}", flush=True)
        measured = rows.show(({"section": name, **same, **row} for row in getattr(train_loop, name)(setting)), in_words, None)
        summary.update({row["what"]: row for row in measured})
        if path:  # after every section, so that what was measured stays when the next one fails
            rows.append(path, COLUMNS, measured)
    ratio = next((row for what, row in summary.items() if what.startswith("ours / conventional")), None)
    if ratio:
        ours, theirs = summary["ours loop"], summary["conventional loop"]
        print(f"\n| {args.arch} | {setting.chip} | {ours['value']:.0f} images/s | {theirs['value']:.0f} images/s | "
              f"{ratio['value']:.2f} times ({ratio['low']:.2f} to {ratio['high']:.2f}) |")
    return cli.EXIT_OK


def in_words(row) -> str:
    text = f"{row['what']:<76}{row['value']:>12.4g} {row['unit']:<9}"
    if "low" in row:
        text += f"({row['low']:.4g} to {row['high']:.4g})"
    return (text + (f"{100 * row['share']:.1f}%" if "share" in row else "")).rstrip()


if __name__ == "__main__":
    cli.run(main)
