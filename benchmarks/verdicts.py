"""Whether verdicts hold: no innocent model is owned, and no stolen one that still works is missed.

    python benchmarks/verdicts.py --only innocent --count 2000 --ticket runs/ticket/ticket.pth.tar
    python benchmarks/verdicts.py --only dishonest --count 2000 --out runs/verdicts
    python benchmarks/verdicts.py --only drawn
    python benchmarks/verdicts.py --only attacked runs/pruned runs/added --claim runs/signed/claim.json

innocent: claims of `--owners` owners with all schemes, each text random and each place chosen as embed_qrcode.py does, against
models of others: fresh tickets, tickets signed by another owner at the very place, the same attacked, full and nearly empty ones.
Every pair is judged with a commitment and without one, which makes two verdicts. The bar: none is `owned`.

dishonest: claimants who choose, fit, grind and solve (lib/dishonest.py) on `--count` innocent models, random and structured ones, all
of them as if committed to, which pays the least. The bar: none is `owned`.

drawn: `--draws` hash-drawn texts, drawn parts of keys, and labels of triggers, on each kind of model: how often a p-value is as small
as it says. The bar: no more often than that, but for what 1 in a million such counts gives.

attacked: every model that main_attack.py left in the folders RUNS and that lost at most `--max_loss` points of test accuracy
against the level 0 of the same stolen model, judged with the owner's code (--claim) and trigger key (--trigger_key). The bar:
every one is `owned`. Where accuracy was not measured, the model counts.

Exit code 1 where a bar is missed. With --out, innocent and dishonest keep each row as it comes; the same command again, or one with a
larger --count, goes on behind them.
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


BARS = ("attacked", "dishonest", "drawn", "innocent")  # functions of lib/verdicts.py, with _bar behind


def parse_args(argv: Sequence[str] | None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("runs", nargs="*", type=cli.path, metavar="RUNS", help="attacked: folders that main_attack.py wrote")
    parser.add_argument("--only", choices=BARS, required=True, help="which bar")
    parser.add_argument("--count", type=cli.positive_int, default=2000, help="innocent: verdicts; dishonest: models")
    parser.add_argument("--draws", type=cli.positive_int, default=1 << 16, help="drawn: of each kind")
    parser.add_argument("--owners", type=cli.positive_int, default=50, help="innocent: claims")
    parser.add_argument("--ticket", type=cli.path, nargs="+", default=[], metavar="FILE",
                        help="innocent: real tickets and trained models, all of others; trained ones answer the triggers too")
    parser.add_argument("--claim", type=cli.path, default=None, metavar="FILE",
                        help="attacked: the owner's, of embed_qrcode.py")
    parser.add_argument("--trigger_key", type=cli.path, default=None, metavar="FILE", help="attacked: the owner's")
    parser.add_argument("--trigger_count", type=cli.positive_int, default=100,
                        help="attacked: pictures that the model was trained on")
    parser.add_argument("--trigger_size", type=cli.positive_int, default=32, help="attacked: pixels per side of these")
    parser.add_argument("--max_loss", type=cli.non_negative_float, default=1.0, help="attacked: points of test accuracy")
    parser.add_argument("--arch", choices=sorted(ARCHITECTURES), default="res20s", help="network, where no claim says")
    parser.add_argument("--level", type=cli.ratio, default=1e-9, help="p-value that owned needs")
    parser.add_argument("--seed", type=cli.seed_int, default=1, help="of owners, models and answers")
    parser.add_argument("--out", type=cli.Output(files={}), default=None, metavar="DIR",
                        help="write the rows to DIR/innocent.csv, DIR/dishonest.csv or DIR/attacked.csv")
    args = parser.parse_args(argv)
    if args.only != "attacked" and args.runs:
        parser.error(f"argument RUNS: means nothing to --only {args.only}")
    if args.only == "attacked" and not args.runs:
        parser.error("argument RUNS: give folders that main_attack.py wrote")
    if args.only == "attacked" and args.claim is None and args.trigger_key is None:
        parser.error("argument --claim: give the owner's claim of embed_qrcode.py, or --trigger_key, or both")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)

    from benchmarks.lib import verdicts

    holds = getattr(verdicts, f"{args.only}_bar")(args)
    return cli.EXIT_OK if holds else cli.EXIT_NO_MATCH


if __name__ == "__main__":
    cli.run(main)
