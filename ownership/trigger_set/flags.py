"""A trigger set on command lines: what goes into a claim of one, and what proves it."""

from utils import cli

# flags of a file or folder each, and the field of the claim that names it
PROOFS = {"trigger_dir": "sha256", "trigger_key": "sha256"}
# flags of a claim's files or folders, and the part of a bundle where they go
BUNDLED = {"v3": "secret", "trigger_key": "secret"}


def add_claim_flags(group) -> None:
    group.add_argument("--v3", type=cli.path, default=None, metavar="DIR",
                       help="the set: triggers/ of main_eval_trigger.py's run, or as make_triggers.py exported it")
    group.add_argument("--trigger_key", type=cli.path, default=None, metavar="FILE",
                       help="check that this key gives the set, as main_verify.py will ask")


def check_claim_flags(parser, args) -> None:
    if args.trigger_key is not None and args.v3 is None:
        parser.error("argument --trigger_key: comes with --v3")


def add_proof_flags(parser) -> None:
    group = parser.add_argument_group("V3: the trigger set")
    group.add_argument("--trigger_dir", "--triggers", type=cli.path, action="append", default=None, metavar="DIR",
                       help="the exported set; alone it is not counted")
    group.add_argument("--trigger_key", type=cli.path, action="append", default=None, metavar="FILE",
                       help="the secret key, which makes the set again and shows that its labels were drawn at random")


def check_proof_flags(parser, args) -> None:
    asked = next((flag for flag in ("predictions", "endpoint") if getattr(args, flag) is not None), None)
    if asked and args.trigger_dir is None and args.trigger_key is None:
        parser.error(f"argument --{asked}: needs the trigger set; give --trigger_key or --trigger_dir")
