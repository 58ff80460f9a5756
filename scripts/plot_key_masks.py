r"""Figures 2 and 5 from any tree of main_eval_all.py's run directories: accuracy against the key's share of the ticket.

    python scripts/plot_key_masks.py runs/key_masks

Writes key_masks.csv (mean and standard deviation of the test accuracy over seeds, with their number), figure2.png
(retrained without the key, one line per split) and, where there are runs with a forged key, figure5.png (dashed). The
whole or merged ticket, where it was trained, is the grey line.
"""

import json
import statistics
import os
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

if __name__ == "__main__":  # a fault before main() must not end with 1, which is a verdict
    sys.excepthook = lambda *fault: os._exit(sys.__excepthook__(*fault) or 3)
    import utils  # noqa: F401  refuses a Python that is too old

from utils import cli

WRITES = {"key_masks.csv": rb"split,key_ratio,forged,", "figure[25].png": cli.PNG_OF_A_PLOT}


def parse_args(argv: Sequence[str] | None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("tree", type=cli.path, metavar="DIR", help="folder under which run directories lie, at any depth")
    parser.add_argument("--out", type=cli.Output(files=WRITES), default=None, metavar="DIR",
                        help="where the CSV and the figures go (default: the tree)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)

    from utils import checkpoint, plots
    from utils.errors import UserError

    accuracies = defaultdict(list)
    for path in sorted(Path(args.tree).rglob("result.json")):
        found = kind(path)
        if found is not None:
            accuracies[found].append(checkpoint.load_json(path)["test_acc"])
    if not any(split for split, _, _ in accuracies):
        raise UserError(f"{args.tree}: holds no run of main_eval_all.py with a key split off")
    rows = [{"split": split or "whole ticket", "key_ratio": ratio, "forged": forged, "n": len(values),
             "test_acc": statistics.mean(values), "std": statistics.stdev(values) if len(values) > 1 else None}
            for (split, ratio, forged), values in sorted(accuracies.items())]

    out = Path(args.out or args.tree)
    checkpoint.save_csv(rows, list(rows[0]), out / "key_masks.csv")
    figures = {"figure2.png": [row for row in rows if not row["forged"]]}
    if any(row["forged"] for row in rows):
        figures["figure5.png"] = rows
    for name, shown in figures.items():
        plots.accuracy_by_key_ratio(shown, out / name)
    print("\n".join(str(out / name) for name in ("key_masks.csv", *figures)))
    return cli.EXIT_OK


def kind(result: Path) -> tuple[str, float, bool] | None:
    """(split, key ratio, forged) of a training by main_eval_all.py, the split empty for a whole ticket; else None."""
    content = json.loads(result.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or not {"split", "key_ratio", "forged", "test_acc"} <= content.keys():
        return None
    if content["key_ratio"] is None:
        return "", 0.0, False
    return content["split"], round(content["key_ratio"], 4), content["forged"]


if __name__ == "__main__":
    cli.run(main)
