"""The table at the end of scripts/quickstart.sh: `python scripts/quickstart_report.py runs/quickstart`."""

import csv
import json
import sys
from pathlib import Path


def main() -> None:
    run = Path(sys.argv[1])
    ticket = json.loads((run / "ticket/result.json").read_text(encoding="utf-8"))
    signed = json.loads((run / "signed/result.json").read_text(encoding="utf-8"))
    read = json.loads((run / "extracted/extraction.json").read_text(encoding="utf-8"))
    with open(run / "seconds.csv", encoding="utf-8", newline="") as file:
        seconds = dict(csv.reader(file))

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


if __name__ == "__main__":
    main()
