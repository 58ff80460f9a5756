"""A keyed mask on command lines: what goes into a claim of one."""

from utils import cli

PROOFS: dict[str, str] = {}  # the claim says all
# flags of a claim's files or folders, and the part of a bundle where they go
BUNDLED = {"v4": "secret"}


def add_claim_flags(group) -> None:
    group.add_argument("--v4", type=cli.path, default=None, metavar="FILE", help="the key that embed_keyed.py or main_imp.py wrote")


def check_claim_flags(parser, args) -> None:
    """Any file may be given."""


def add_proof_flags(parser) -> None:
    """There is nothing to give."""


def check_proof_flags(parser, args) -> None:
    """Nothing was given."""
