"""Whether k trainings at once (utils/many.py) take less time than one after the other.

    python benchmarks/many_tickets.py --compile                     # ResNet-20, k = 1, 4, 16 where a GPU is
    python benchmarks/many_tickets.py --counts 1,4 --device cpu     # about 2 minutes on 2 CPU cores

One training by the engine and k trainings as a stack take steps in turns, in one process, on the same random pictures; every
model has its own mask, batches and augmentation. The ratio is pictures per second of all k together over those of the one:
above 1, k at once are done before k in a row.
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

COLUMNS = ("arch", "device", "compiled", "what", "value", "low", "high", "unit")


def parse_args(argv: Sequence[str] | None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("--arch", choices=sorted(ARCHITECTURES), default="res20s", help="network")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--counts", type=cli.listed(cli.positive_int), default=None, metavar="K,K",
                        help="models at once (default: 1,4,16; on CPU 1,4)")
    parser.add_argument("--compile", action="store_true", default=None, help="torch.compile (default on CUDA)")
    parser.add_argument("--no_compile", action="store_false", dest="compile", help="without")
    parser.add_argument("--batch_size", type=cli.several, default=128, help="of each model")
    parser.add_argument("--steps", type=cli.positive_int, default=None,
                        help="per block, shared by the models (default: 64; on CPU 8)")
    parser.add_argument("--blocks", type=cli.positive_int, default=5, help="of each, in turns")
    parser.add_argument("--pictures", type=cli.positive_int, default=12800, help="random training pictures")
    parser.add_argument("--tiny", action="store_true", help="everything as small as can be: does it run at all?")
    parser.add_argument("--out", type=cli.Output(files={"many_tickets.csv": COLUMNS[0].encode()}), default=None, metavar="DIR", help="append the rows to DIR/many_tickets.csv")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)

    from benchmarks.lib import many_tickets, rows

    device, path = many_tickets.fill_in(args), Path(args.out) / "many_tickets.csv" if args.out else None
    rows.check_writable(path)
    print(many_tickets.heading(args, device), flush=True)
    for row in many_tickets.measure(args, device):
        print(f"{row['what']:<40}{row['value']:>12.4g} {row['unit']:<9}"
              + (f"({row['low']:.4g} to {row['high']:.4g})" if "low" in row else ""), flush=True)
        if path:
            rows.append(path, COLUMNS, [row])
    return cli.EXIT_OK


if __name__ == "__main__":
    cli.run(main)
