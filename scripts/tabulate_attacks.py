r"""Tables 5, 6 and 8 from sweeps of main_attack.py, with the paper's numbers beside: one Markdown table and CSV.

    python scripts/tabulate_attacks.py runs/pruned runs/pruned_random runs/added

Each folder holds the attack.csv of one sweep; --cell says of which network and pictures. A cell that the paper does not
have, or that nobody ran, stays empty.
"""

import csv
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

if __name__ == "__main__":  # a fault before main() must not end with 1, which is a verdict
    sys.excepthook = lambda *fault: os._exit(sys.__excepthook__(*fault) or 3)
    import utils  # noqa: F401  refuses a Python that is too old

from utils import cli
from utils.results import READ_BY

PAPER = Path(__file__).with_name("paper_numbers.json")


def parse_args(argv: Sequence[str] | None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("sweeps", nargs="+", type=cli.path, metavar="DIR", help="folders of sweeps, each with its attack.csv")
    parser.add_argument("--cell", type=cli.text, default="res20s/cifar10", metavar="NETWORK/DATASET",
                        help="whose numbers of the paper stand beside")
    parser.add_argument("--out", type=cli.Output(files={"attacks.csv": rb"attack,", "attacks.md": rb"\| attack "}),
                        default="runs/attacks", metavar="DIR", help="where attacks.md and attacks.csv go")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)

    from utils import checkpoint
    from utils.errors import UserError

    paper, rows = published(json.loads(PAPER.read_text(encoding="utf-8")), args.cell), []
    for folder in args.sweeps:
        table = Path(folder) / "attack.csv"
        if not table.is_file():
            raise UserError(f"{table}: no such file; give folders that main_attack.py --sweep wrote")
        with open(table, newline="", encoding="utf-8-sig") as file:
            found = list(csv.DictReader(file))
        if not found or not {"attack", "level", "nonzeros", "density"} <= found[0].keys():
            raise UserError(f"{table}: is no table of main_attack.py")
        rows += [in_layout(row, paper) for row in found]
    out = Path(args.out)
    # sweeps with a trigger set have columns that others lack
    columns = list(dict.fromkeys(column for row in sorted(rows, key=len, reverse=True) for column in row))
    rows = [{column: row.get(column, "") for column in columns} for row in rows]
    checkpoint.save_csv(rows, columns, out / "attacks.csv")
    lines = ["| " + " | ".join(cells) + " |" for cells in (columns, ["---"] * len(columns), *(row.values() for row in rows))]
    checkpoint.save_text("\n".join(lines) + "\n", out / "attacks.md")
    print("\n".join(lines))
    print(f"\ntable: {out / 'attacks.md'}\ncsv:   {out / 'attacks.csv'}")
    return cli.EXIT_OK


def published(paper: dict[str, Any], cell: str) -> dict[str, Any]:
    """The paper's numbers of one network and data set: kind of attack -> level -> numbers."""
    return {**paper["table6"].get(cell, {}), "prune magnitude, triggers": paper["table5"].get(cell, {}),
            "addon pruned": paper["table8"].get(cell, {})}


def in_layout(row: dict[str, str], paper: dict[str, Any]) -> dict[str, str]:
    """One row of a sweep in the paper's layout; every value is text."""
    kind = " ".join([row["attack"], row.get("how") or row.get("share_of") or ""]).strip()
    theirs = paper.get(kind + (", triggers" if row.get("trigger_acc") else ""), {}).get(f"{float(row['level']):g}", {})
    readers = [column.removeprefix(READ_BY) for column in row if column.startswith(READ_BY)]
    return {
        "attack": kind,
        "level": f"{100 * float(row['level']):g}%",
        "remaining": f"{100 * float(row['density']):.3f}%",
        "test accuracy": f"{float(row['test_acc']):.2f}%" if row.get("test_acc") else "",
        "paper's accuracy": f"{theirs['test_acc']:.2f}%" if "test_acc" in theirs else "",
        **({"triggers right": f"{float(row['trigger_acc']):.0f}%",
            "paper's triggers": f"{theirs['trigger_acc']:g}%" if "trigger_acc" in theirs else "",
            "p of triggers": f"{float(row['trigger_p']):.0e}"} if row.get("trigger_acc") else {}),
        "ones lost": share(row, "code_lost", "code_ones"),
        "zeros added": share(row, "code_added", "code_zeros"),
        **{reader: yes_or_no(row[READ_BY + reader] == "True") for reader in readers},
        "paper's reader": yes_or_no(theirs["read"]) if "read" in theirs else "",
        "p, corrected": f"{float(row['p_corrected']):.0e}" if row.get("p_corrected") else "",
    }


def share(row: dict[str, str], part: str, whole: str) -> str:
    """Percentage of two columns, empty where there are none."""
    return f"{100 * int(row[part]) / int(row[whole]):.1f}%" if row.get(part) else ""


def yes_or_no(value: bool) -> str:
    return "yes" if value else "no"


if __name__ == "__main__":
    cli.run(main)
