r"""The paper's tables and figures from a sweep's run directories, its numbers beside ours: Markdown, CSV, PNG.

    python scripts/make_tables.py --runs runs/smoke --out runs/smoke/tables            # all, and results.md
    python scripts/make_tables.py --runs runs/paper --out runs/paper/tables --only table6
    python scripts/make_tables.py --runs runs/paper --out runs/paper/tables --only my_sweep    # no table of the paper: all runs

Ours are means over the seeds that were run, +- their standard deviation (of a sample, n - 1), with n; the difference is
ours minus the paper's, in percentage points. The CSVs hold all rows, empty where nobody ran a cell or the paper does not have
it; the Markdown has what was run, and with --all_rows what only the paper has. The folders are those of
scripts/lib/stages.sh: RUNS/NETWORK/DATASET/seedN/STAGE. Takes seconds.
"""

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

from scripts.lib.figures import FIGURES
from scripts.lib.passport_tables import PASSPORT_TABLES
from scripts.lib.runs import COLUMNS, aligned, rows_of
from scripts.lib.sweep_results import Sweep, cell_titles
from scripts.lib.tables import TABLES, markdown
from utils import cli
from utils.errors import UserError

PAPER = Path(__file__).with_name("paper_numbers.json")
SESSION = ("git", "torch", "machine")  # of a run.json
ALONE = {**TABLES, **PASSPORT_TABLES}  # those that can be asked for; the paper's are shown together
NOTE = ("Ours are means over the seeds that were run, +- their standard deviation where there are several, with their number "
        "n; differences are ours minus the paper's, in percentage points. What is empty nobody ran, or the paper does not have it.")
RUNS = "runs"  # the table of all that was run, of whatever kind
# how own tables and figures begin, in the folder of tables
TABLE_BEGINS, FIGURE_DATA_BEGINS = rb"(\| )?(network|model|score|attack)\b|Not run", rb"(output channel|split|seed)\b"


def parse_args(argv: Sequence[str] | None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("--runs", type=cli.path, required=True, metavar="DIR", help="the sweep, e.g. runs/smoke")
    writes = {"results.md": rb"# Results in ", **{f"{name}.{ending}": TABLE_BEGINS for name in ALONE for ending in ("csv", "md")},
              **{f"{name}_*.csv": FIGURE_DATA_BEGINS for name in FIGURES}, **{f"{name}_*.png": cli.PNG_OF_A_PLOT for name in FIGURES},
              f"{RUNS}.csv": rb"folder,script,", f"{RUNS}.md": rb"\| folder "}
    parser.add_argument("--out", type=cli.Output(files=writes), required=True, metavar="DIR", help="where tables and figures go")
    parser.add_argument("--only", type=cli.text, default="all", metavar="NAME",
                        help=f"one table or figure ({', '.join((*ALONE, *FIGURES))}); with any other name a table of all that was run")
    parser.add_argument("--all_rows", action="store_true", help="also what only the paper has, behind what was run")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)

    from utils import checkpoint

    sweep, out, paper = Sweep(args.runs), Path(args.out), json.loads(PAPER.read_text(encoding="utf-8"))
    if not sweep.seeds():
        raise UserError(f"--runs {args.runs}: holds no runs (NETWORK/DATASET/seedN/STAGE); scripts/table1.sh and the others "
                        "make them")
    if args.only not in ("all", *ALONE, *FIGURES):
        return all_runs(args, out)
    text = [f"# Results in {args.runs}", "", NOTE, "", *(circumstances(sweep) if args.only == "all" else [])]
    for name, make in (TABLES if args.only == "all" else ALONE).items():
        if args.only in ("all", name):
            table = make(sweep, paper[name])
            rows = table.columns(texts=False)
            checkpoint.save_csv(rows, list(rows[0]), out / f"{name}.csv")
            in_markdown = table.markdown(args.all_rows)
            checkpoint.save_text(in_markdown + "\n", out / f"{name}.md")
            text += ["", f"## {table.title}", "", in_markdown]
    for name, (title, draw) in FIGURES.items():
        if args.only in ("all", name):
            made = draw(sweep, out)
            text += ["", f"## {title}"]
            for cell, png in made.items():
                text += ["", f"![{' on '.join(cell_titles(cell))}]({png.name})", "", f"*{' on '.join(cell_titles(cell))}.*"]
            if not made:
                text += ["", "Not run."]
            if args.only != "all":
                print("\n".join(map(str, made.values())) or f"{title}: not run")
    if args.only == "all":
        checkpoint.save_text("\n".join(text) + "\n", out / "results.md")
        print(out / "results.md")
    elif args.only in ALONE:
        columns, rows = table.shown(args.all_rows)
        print(f"{table.title}\n\n{aligned(columns, rows) if rows else in_markdown}\n\n"
              f"test pictures: {', '.join(map(str, sweep.test_pictures())) or 'not recorded'}\ntable: {out / args.only}.md\n"
              f"csv:   {out / args.only}.csv")
    return cli.EXIT_OK


def all_runs(args, out: Path) -> int:
    """A sweep of one's own: no table of the paper's has its name, so all that was run is shown."""
    from utils import checkpoint

    rows = rows_of(args.runs)
    checkpoint.save_csv(rows, COLUMNS, out / f"{RUNS}.csv")
    cells = [list(row.values()) for row in rows]
    checkpoint.save_text(markdown(COLUMNS, cells) + "\n", out / f"{RUNS}.md")
    print(f"{args.only}: all that was run in {args.runs}\n\n{aligned(COLUMNS, cells)}\n\ntable: {out / RUNS}.md\n"
          f"csv:   {out / RUNS}.csv")
    return cli.EXIT_OK


def circumstances(sweep: Sweep) -> list[str]:
    """Lines that say with what the runs were made: seeds, epochs of training, test pictures, code, versions, machines."""
    runs = [facts_of(path) for seed in sweep.seeds() for path in sorted(seed.glob("**/run.json"))]
    facts = {"runs": [len(runs)], **{name: sorted({run[name] for run in runs if name in run})
                                     for name in ("seeds", "epochs of a training", *SESSION)},
             "test pictures": sweep.test_pictures()}
    return [f"- {name}: {', '.join(map(str, values))}" for name, values in facts.items() if values]


def facts_of(path: Path) -> dict[str, Any]:
    """What a run.json says of its run: seed, epochs where it trained, and SESSION of the last time it was started."""
    from utils.results import load_table

    mend = f"remove {path.parent}, and the same sweep makes it anew"
    record = load_table(path, mend)
    try:
        arguments, session = record["arguments"], record["sessions"][-1]
        numbers = {"seeds": arguments["seed"]}
        if record["script"] != "main_attack.py":
            numbers["epochs of a training"] = arguments["epochs"]
        words = {name: session[name] for name in SESSION}
    except (KeyError, IndexError, TypeError):
        numbers, words = {}, {"nothing": None}
    if any(type(value) is not int for value in numbers.values()) or any(type(value) is not str for value in words.values()):
        raise UserError(f"{path}: lacks what a run records, so it is damaged or another version's; {mend}")
    return {**numbers, **words}


if __name__ == "__main__":
    cli.run(main)
