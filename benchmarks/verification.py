r"""How long a verdict takes: the whole verification of a ResNet-20 suspect, and the alignment of renumbered channels.

    python benchmarks/verification.py                                # about 6 minutes of one core
    python benchmarks/verification.py --only verify --dataset cifar10 --data datasets/cifar10 \
        --suspect runs/signed/model_best.pth.tar --code runs/signed/*.claim.json

verify: main_verify.py with a signed and committed claim of accuracy, code and 100 keyed triggers, as a command and in a process
that has loaded everything, then with fewer checks. (A key mask is compared in no time.) The suspect is a simulated signed ticket,
or a real model with the claim that embed_qrcode.py left. On a real one the triggers are not shown: it was not trained on these.
largest: V2 of a claim that asks for as much as it may, of a ResNet-18 that owes it nothing: the largest code and the most copies, and the
smallest code that embed_qrcode.py writes in as many.
alignment: channels of a simulated signed ticket renumbered at random and 20% of its weights pruned, put back in the order of the
owner's model; and an innocent model, in which there is no order to find, once.
canonical: a made-up network with dead, doubled and split channels more, renumbered, scaled, turned and filled, once: read in canonical
form, and its channels put in order.

Seconds are medians with the extremes; the processor's seconds are those of one thread, whatever else the machine does.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

if __name__ == "__main__":  # a fault before main() must not end with 1, which is a verdict
    sys.excepthook = lambda *fault: os._exit(sys.__excepthook__(*fault) or 3)
    import utils  # noqa: F401  refuses a Python that is too old

from datasets import DATASETS
from models import ARCHITECTURES
from utils import cli

SECTIONS = ("verify", "largest", "alignment", "canonical")  # functions of lib/verification.py


def parse_args(argv: Sequence[str] | None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("--only", type=cli.names_of(SECTIONS), default=SECTIONS, metavar="NAME,NAME", help="sections")
    parser.add_argument("--repeats", type=cli.positive_int, default=3, help="of each measurement")
    parser.add_argument("--dataset", choices=sorted(DATASETS), default="digits", help="verify: test pictures of the accuracy")
    parser.add_argument("--data", type=cli.path, default=None, metavar="DIR", help="verify: their folder")
    parser.add_argument("--suspect", type=cli.path, default=None, metavar="FILE", help="verify: a signed model, with --code")
    parser.add_argument("--code", type=cli.path, default=None, metavar="FILE", help="verify: its claim, of embed_qrcode.py")
    parser.add_argument("--arch", type=cli.names_of(ARCHITECTURES), default=("res20s", "res18", "res50"), metavar="NAME,NAME",
                        help="alignment, canonical: networks")
    parser.add_argument("--csv", type=cli.Output(rb"what,"), default=None, metavar="FILE", help="write the rows there too")
    args = parser.parse_args(argv)
    if (args.suspect is None) != (args.code is None):
        parser.error("argument --suspect: comes with --code, and --code with its --suspect")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)

    import torch

    from benchmarks.lib import rows, verification
    from utils.run_dir import processor

    rows.check_writable(args.csv)
    torch.set_num_threads(1)
    print(f"{processor()}, 1 thread, torch {torch.__version__}", flush=True)
    measured: list[rows.Row] = []
    for name in args.only:
        print(f"\n== {name}", flush=True)
        measured = rows.show(getattr(verification, name)(args), in_words, args.csv, measured)
    return cli.EXIT_OK


def in_words(row) -> str:
    return (f"{row['what']:<70}{row['seconds']:>8.2f} s ({row['low']:.2f} to {row['high']:.2f}), the processor's "
            f"{row['processor']:.2f} s  {row['found']}".rstrip())


if __name__ == "__main__":
    cli.run(main)
