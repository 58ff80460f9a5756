"""A code on command lines: what goes into a claim of one, and how hard it is looked for."""

from utils import cli

PROOFS: dict[str, str] = {}  # the claim says all
# flags of a claim's files or folders, and the part of a bundle where they go
BUNDLED = {"v2": "secret"}


def add_claim_flags(group) -> None:
    group.add_argument("--v2", type=cli.path, default=None, metavar="FILE", help="the claim that embed_qrcode.py wrote")


def check_claim_flags(parser, args) -> None:
    """Any file may be given."""


def add_proof_flags(parser) -> None:
    group = parser.add_argument_group("V2: the code in the mask")
    group.add_argument("--restarts", type=cli.natural, default=3000, metavar="N",
                       help="of the soft decoder, where a code shows but can't be read")


def check_proof_flags(parser, args) -> None:
    """Any number will do."""
