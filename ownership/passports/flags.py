"""Passports on command lines: what goes into a claim of them, and what proves it."""

from utils import cli

PROOFS = {"passports": "file_sha256"}
# flags of a claim's files or folders, and the part of a bundle where they go
BUNDLED = {"p": "secret"}


def add_claim_flags(group) -> None:
    group.add_argument("--p", type=cli.path, default=None, metavar="FILE", help="passports.pt of main_passport.py's run")


def check_claim_flags(parser, args) -> None:
    """Any file may be given."""


def add_proof_flags(parser) -> None:
    group = parser.add_argument_group("P: the passports' signature")
    group.add_argument("--passports", type=cli.path, action="append", default=None, metavar="FILE",
                       help="passports.pt, where its vectors are not drawn by a hash (--key_type); then it is told and not counted")


def check_proof_flags(parser, args) -> None:
    """Any file may be given."""
