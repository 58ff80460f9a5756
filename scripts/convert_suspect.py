r"""Take the tensors out of a torch file that holds other objects too, so that they can be read. Seconds.

    # settings, numpy's numbers, a whole pickled module beside the weights, or a history too long to be read
    python scripts/convert_suspect.py suspect.pth --save_as suspect_tensors.pth.tar
    python main_verify.py --claim runs/claim/claim.json --suspect suspect_tensors.pth.tar

Nothing that the file names is imported or called: its pickle is followed by rules, in a process of its own that ends when it takes
too long or too much memory. Tensors keep their names, a module's those of its state_dict(). The SHA-256 of both files is printed:
a verdict on the second is about the first as long as anybody can do this again.
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
    parser.add_argument("file", type=cli.path, metavar="FILE", help="the suspect's file, as torch.save wrote it")
    parser.add_argument("--save_as", type=cli.Output(), required=True, metavar="OUT", help="where its tensors go")
    parser.add_argument("--seconds", type=cli.positive_int, default=120, metavar="S", help="of the processor that it may take")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)

    from utils import checkpoint
    from utils.errors import UserError
    from utils.untrusted.salvage import convert

    if Path(args.save_as).exists():
        raise UserError(f"--save_as {args.save_as}: exists; it is never written over")
    count, digest = convert(args.file, args.save_as, args.seconds)
    print(f"from: {args.file} (SHA-256 {digest})\n"
          f"to:   {args.save_as} (SHA-256 {checkpoint.sha256(args.save_as)}), {count} tensors")
    return cli.EXIT_OK


if __name__ == "__main__":
    cli.run(main)
