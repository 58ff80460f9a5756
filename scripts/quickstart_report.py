"""The table at the end of scripts/quickstart.sh, from the folder that it left.

    python scripts/quickstart_report.py runs/quickstart
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
from utils.errors import UserError


def parse_args(argv: Sequence[str] | None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("run", type=cli.path, metavar="DIR", help="RUN of scripts/quickstart.sh")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    run = Path(parse_args(argv).run)

    ticket = result_of(run / "ticket/result.json", "dense_acc", "ticket_acc", "density", "nonzeros")
    signed = result_of(run / "signed/result.json", "entries", "test_acc", "density", "nonzeros")
    read = result_of(run / "extracted/extraction.json", "readers", "flipped", "data_modules")
    seconds = {}
    if (run / "seconds.csv").is_file():
        with open(run / "seconds.csv", encoding="utf-8", newline="") as file:
            seconds = {row[0]: row[1] for row in csv.reader(file) if len(row) == 2}

    print(f"\n{'':<16}{'test accuracy':>14}{'remaining':>12}{'weights':>10}\n"
          f"{'dense':<16}{ticket['dense_acc']:>13.2f}%{100:>11.3f}%{signed['entries']:>10}\n"
          f"{'ticket':<16}{ticket['ticket_acc']:>13.2f}%{100 * ticket['density']:>11.3f}%{ticket['nonzeros']:>10}\n"
          f"{'signed ticket':<16}{signed['test_acc']:>13.2f}%{100 * signed['density']:>11.3f}%{signed['nonzeros']:>10}\n")
    for reader, text in read["readers"].items():
        print(f"{reader} reads: ".ljust(16) + ("nothing" if text is None else repr(text)))
    print(f"{'flipped:':<16}{read['flipped']} of {read['data_modules']} data modules")
    print(f"{'seconds:':<16}" + ", ".join(f"{stage} {value}" for stage, value in seconds.items()))
    print("\npictures:")
    for picture in sorted({run / "ticket/accuracy_density.png", run / "signed/curve.png", run / "extracted/code.png",
                           *run.glob("signed/*before_after.png")}):
        print(f"  {picture}")
    return cli.EXIT_OK


def result_of(path: Path, *names: str) -> dict[str, Any]:
    """A stage's result. Raises UserError where it is missing, can't be read, or lacks one of these values."""
    mend = "the same `bash scripts/quickstart.sh` makes it"
    try:
        result = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; {mend}") from None
    except ValueError:
        result = None
    if not isinstance(result, dict) or not all(isinstance(result.get(name), dict if name == "readers" else (int, float))
                                               for name in names):
        raise UserError(f"{path}: is damaged; remove it, and {mend} again")
    return result


if __name__ == "__main__":
    cli.run(main)
