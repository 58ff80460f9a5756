"""How long the score functions of scheme V1 take, as ratios and bars in one run.

    python benchmarks/key_scores.py                 # about half a minute on 2 CPU cores

Betweenness against networkx.edge_betweenness_centrality on the same ResNet-20 ticket (26% random mask), exact betweenness
on ResNet-18 at 1.2% and 20%, the error of estimates from K sources, ewp and the other quick scores on ResNet-50 at 20%,
with the process's peak memory.
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


def parse_args(argv: Sequence[str] | None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("--csv", type=cli.Output(rb"what,"), default=None, metavar="FILE", help="write the rows there too")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)

    from benchmarks.lib import key_scores, rows

    rows.check_writable(args.csv)
    rows.show(key_scores.measure(), lambda row: f"{row['what']:<62}{row['value']:>10.3f} {row['unit']:<8}{row['bar']}", args.csv)
    return cli.EXIT_OK


if __name__ == "__main__":
    cli.run(main)
