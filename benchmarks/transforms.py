"""Whether transforms that change no output hide an owner's code, or make one appear.

    python benchmarks/transforms.py --only owned --arch res20s --out runs/transforms
    python benchmarks/transforms.py --only owned --arch res20s --out runs/transforms_of_mine --claim runs/signed/X.claim.json \\
        --ticket runs/ticket/ticket.pth.tar --model runs/signed_trained/model_best.pth.tar runs/finetuned/attacked.pth.tar
    python benchmarks/transforms.py --only innocent --arch res20s --count 2000 --out runs/transforms

owned: the owner's model, the same with 30% of its weights pruned, and the same fine-tuned once without its mask, each transformed
(main_attack.py transform) in every way alone and in `--count` random compositions, is judged by the code's claim alone, without a
recorded threshold, with the owner's ticket to align by. The bar: every one is `owned`. Of --model the first is pruned, and all are
judged as they are; without it owners and models are made up: random weights, batch norms that fit them, a code in the largest of
them, and for fine-tuning all weights changed by 5% of their size and pruned ones grown back to 1%.

innocent: claims of `--owners` made-up owners against `--count` transformed models of others: pruned by magnitude, signed by another owner
at the very place, structured, dense. The bar: none is `owned`, and p-values at the claimed place, before any correction, are as
small as 0.05, 0.01 and 0.001 no more often than that, but for what 1 in a million such counts gives.

Exit code 1 where a bar is missed. With --out each row is kept as it comes; the same command again, or one with a larger --count, goes on
behind them.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

if __name__ == "__main__":  # a fault before main() must not end with 1, which is a verdict
    sys.excepthook = lambda *fault: os._exit(sys.__excepthook__(*fault) or 3)
    import utils  # noqa: F401  refuses a Python that is too old

from utils import cli

BARS = ("innocent", "owned")  # functions of lib/transforms.py, with _bar behind
COMPOSITIONS = {"res20s": 200, "res18": 30, "res50": 10}


def parse_args(argv: Sequence[str] | None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("--only", choices=BARS, required=True, help="which bar")
    parser.add_argument("--arch", choices=sorted(COMPOSITIONS), default="res20s", help="network")
    parser.add_argument("--count", type=cli.natural, default=None,
                        help="owned: random compositions (default: 200 for res20s, 30 for res18, 10 for res50); innocent: models (2000)")
    parser.add_argument("--owners", type=cli.positive_int, default=50, help="innocent: claims")
    parser.add_argument("--claim", type=cli.path, default=None, metavar="FILE", help="owned: of embed_qrcode.py --owner, or a claim.json")
    parser.add_argument("--ticket", type=cli.path, default=None, metavar="FILE", help="owned: that was given to it as --mask_dir")
    parser.add_argument("--model", type=cli.path, nargs="+", default=None, metavar="FILE", help="owned: the owner's trained one, and "
                        "others made of it, such as one fine-tuned without its mask")
    parser.add_argument("--level", type=cli.ratio, default=1e-9, help="p-value that owned needs")
    parser.add_argument("--seed", type=cli.seed_int, default=1, help="of owners, models and compositions")
    parser.add_argument("--out", type=cli.Output(files={}), required=True, metavar="DIR",
                        help="write the rows to DIR/owned.ARCH.csv or DIR/innocent.ARCH.csv")
    args = parser.parse_args(argv)
    own = [args.claim, args.ticket, args.model]
    if args.only == "innocent" and any(own):
        parser.error("argument --claim, --ticket, --model: mean nothing to --only innocent")
    if any(own) and not all(own):
        parser.error("argument --claim, --ticket, --model: give all three, or none for a made-up owner")
    if args.count is None:
        args.count = 2000 if args.only == "innocent" else COMPOSITIONS[args.arch]
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)

    from benchmarks.lib import transforms

    holds = getattr(transforms, f"{args.only}_bar")(args)
    return cli.EXIT_OK if holds else cli.EXIT_NO_MATCH


if __name__ == "__main__":
    cli.run(main)
