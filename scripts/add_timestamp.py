r"""Have a commitment dated by others: an RFC 3161 authority's token, an OpenTimestamps proof, or both. Seconds.

    # commitment.tsr beside it: an authority's signed word, at once
    python scripts/add_timestamp.py runs/claim/commitment.json --timestamp https://freetsa.org/tsr

    # commitment.ots beside it: pending at first; the same command some hours later completes it with a Bitcoin block
    python scripts/add_timestamp.py runs/claim/commitment.json --opentimestamps

Publish these files with the commitment. docs/dates.md tells what each rests on, and how it is checked.
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
    parser.add_argument("commitment", type=cli.path, metavar="FILE", help="commitment.json of make_claim.py")
    cli.add_timestamp_flags(parser)
    args = parser.parse_args(argv)
    if args.timestamp is None and args.opentimestamps is None:
        parser.error("give --timestamp or --opentimestamps: who is to date it?")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)

    from ownership.claims import commitment, timestamps

    root = commitment.read_commitment(args.commitment).root
    for path in timestamps.stamp(args.commitment, root, args.timestamp, args.opentimestamps):
        print(f"dated: {path} (publish it with the commitment)")
    return cli.EXIT_OK


if __name__ == "__main__":
    cli.run(main)
