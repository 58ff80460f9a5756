r"""Make of a ticket, locked ticket or model the file that leaves the house. Seconds.

    python scripts/hand_out.py runs/digits/ticket.pth.tar --save_as runs/out/ticket.pth.tar
    # a trained model, for code of one's own that calls its layers otherwise (docs/extending.md)
    python scripts/hand_out.py runs/signed/model_best.pth.tar --rename names.json --save_as runs/out/model.pth

Keeps masks, weights where the masks are, and what its takers need to know (network, classes, accuracy). Left out are weights of pruned
entries, which show who looks for it where a mark was written; seeds, by which the ticket can be found again; optimizer, random
states, and whatever else stands in the file. A locked ticket stays one that its key completes. Written over is nothing.
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
    parser.add_argument("file", type=cli.path, metavar="FILE", help="a ticket, locked ticket, mask file or model of these scripts")
    parser.add_argument("--save_as", type=cli.Output(), required=True, metavar="OUT", help="what is handed out")
    parser.add_argument("--rename", type=cli.path, default=None, metavar="FILE",
                        help="the map of names by which others read the model (--rename of main_verify.py), here the way back: a bare "
                             "state_dict with the names on its left, pruned entries zero, without the statistics of the input")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)

    from ownership import in_a_row
    from pruner import tickets
    from utils import checkpoint
    from utils.errors import UserError

    content = checkpoint.load(args.file)
    if content.get("part") == "key":
        raise UserError(f"{args.file}: is the key of a locked ticket, which is never handed out; give its locked.pth.tar")
    if not any(hasattr(value, "shape") for part in (content, *content.values()) if isinstance(part, dict) for value in part.values()):
        raise UserError(f"{args.file}: holds no tensors; give a ticket, a mask file or a model")
    if Path(args.save_as).exists():
        raise UserError(f"--save_as {args.save_as}: exists; it is never written over")
    handed_out = tickets.for_others(content)
    if args.rename:
        names = checkpoint.parse_names(checkpoint.read_once(args.rename, checkpoint.MAX_NAMES))
        handed_out = tickets.with_names(handed_out.get("state_dict", handed_out), names, args.file)
    checkpoint.save(handed_out, args.save_as)
    print(f"left out: {in_a_row(tickets.told_besides(content)) or 'nothing'}\n"
          f"to hand out: {args.save_as} (SHA-256 {checkpoint.sha256(args.save_as)})")
    return cli.EXIT_OK


if __name__ == "__main__":
    cli.run(main)
