r"""The runs in a folder and below it: what was run there, with which network, pictures and seed, how it ended, and when.

    python scripts/list_runs.py runs

One line per run, per level of an attack. "unfinished": the command in its run.json, or in its log.txt, goes on where it was.
Takes a second.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

if __name__ == "__main__":  # a fault before main() must not end with 1, which is a verdict
    sys.excepthook = lambda *fault: os._exit(sys.__excepthook__(*fault) or 3)
    import utils  # noqa: F401  refuses a Python that is too old

from scripts.lib.runs import COLUMNS, aligned, rows_of
from utils import cli
from utils.errors import UserError


def parse_args(argv: Sequence[str] | None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("tree", type=cli.path, metavar="DIR", help="folder under which run directories lie, at any depth")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)

    rows = rows_of(args.tree)
    if not rows:
        raise UserError(f"{args.tree}: holds no run (a folder with a run.json)")
    print(aligned(COLUMNS, [list(row.values()) for row in rows]))
    return cli.EXIT_OK


if __name__ == "__main__":
    cli.run(main)
