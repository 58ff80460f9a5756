"""How much damage each reader survives, how often a wrong text is believed, whether p-values hold, and how long it takes.

    python benchmarks/reading.py                    # about 10 minutes on 2 CPU cores
    python benchmarks/reading.py --only damage,scan --trials 20

damage: version 3-H codes of "signature" and of "Jane Doe 2026" with shares of their ones, of their zeros, or of all modules
flipped, drawn at random; read by ZXing, zbar and ordered statistics. false: random regions (dead rows and columns, any
density), each read for one text length and mask pattern. calibration: the raw p-value on unrelated pairs of window and
signature. aligned: the same of innocent tickets whose channels were put into the order that agrees best with the owner's.
scan: all layers of a network. hidden: how often `locate` finds the code by place, and whether the text survives when
the block is filled; on simulated tickets, or on a real one given as --ticket. sparse: tickets as of ResNet-18 at 1.2%
(simulated: see lib/simulated_tickets.py), attacked.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

if __name__ == "__main__":  # a fault before main() must not end with 1, which is a verdict
    sys.excepthook = lambda *fault: os._exit(sys.__excepthook__(*fault) or 3)
    import utils  # noqa: F401  refuses a Python that is too old

from models import ARCHITECTURES
from utils import cli

SECTIONS = ("hidden", "damage", "false", "calibration", "aligned", "scan", "sparse")  # functions of lib/reading.py


def parse_args(argv: Sequence[str] | None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("--only", type=cli.names_of(SECTIONS), default=SECTIONS, metavar="NAME,NAME", help="sections")
    parser.add_argument("--trials", type=cli.positive_int, default=100, help="codes per damage")
    parser.add_argument("--regions", type=cli.positive_int, default=10000, help="random regions")
    parser.add_argument("--pairs", type=cli.positive_int, default=10000, help="unrelated pairs, in hundreds")
    parser.add_argument("--tickets", type=cli.positive_int, default=200, help="aligned: innocent tickets, an owner for each")
    parser.add_argument("--seeds", type=cli.positive_int, default=5, help="hidden: texts; sparse: simulated tickets")
    parser.add_argument("--ticket", type=cli.path, default=None, metavar="FILE",
                        help="hidden: a real ticket instead of simulated ones")
    parser.add_argument("--arch", choices=sorted(ARCHITECTURES), default="res20s", help="hidden: its network")
    parser.add_argument("--codes", type=cli.Output(cli.PNG_OF_A_PLOT), default=None, metavar="FILE",
                        help="sparse: the first ticket's codes under pruning, PNG")
    parser.add_argument("--csv", type=cli.Output(rb"what,"), default=None, metavar="FILE", help="write the rows there too")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)

    import numpy as np

    from benchmarks.lib import reading, rows

    for path in (args.csv, args.codes):
        rows.check_writable(path)
    measured: list[rows.Row] = []
    for name in args.only:
        print(f"\n== {name}", flush=True)
        section = getattr(reading, name)
        measured = rows.show(section(args, np.random.default_rng(1)), in_words, args.csv, measured)
    return cli.EXIT_OK


def in_words(row) -> str:
    return "; ".join(f"{column} {value:.3g}" if isinstance(value, float) else f"{value}" if column == "what"
                     else f"{column} {value}" for column, value in row.items())


if __name__ == "__main__":
    cli.run(main)
