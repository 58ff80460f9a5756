"""A key mask on command lines: what goes into a claim of one, and what proves it."""

from utils import cli

# flags of a file each, and the field of the claim that names it
PROOFS = {"key": "key_sha256", "merged": "ticket_mask_sha256"}
# flags of a claim's files or folders, and the part of a bundle where they go
BUNDLED = {"v1": "hand_out", "key": "secret"}


def add_claim_flags(group) -> None:
    group.add_argument("--v1", type=cli.path, default=None, metavar="FILE", help="locked.pth.tar of a split ticket, with --key")
    group.add_argument("--key", type=cli.path, default=None, metavar="FILE", help="its key.pth.tar")


def check_claim_flags(parser, args) -> None:
    if (args.v1 is None) != (args.key is None):
        parser.error("argument --key: comes with --v1, and --v1 with its --key")


def add_proof_flags(parser) -> None:
    group = parser.add_argument_group("V1: the owner's key completes the suspect's locked mask")
    group.add_argument("--key", type=cli.path, action="append", default=None, metavar="FILE", help="key.pth.tar")
    group.add_argument("--merged", type=cli.path, action="append", default=None, metavar="FILE",
                       help="a model trained from locked ticket and key (main_eval_all.py --key), whose accuracy must reach "
                            "the target")


def check_proof_flags(parser, args) -> None:
    if args.merged is not None and args.key is None:
        parser.error("argument --merged: needs --key")
