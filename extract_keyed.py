r"""Read a key's signs out of a suspect model's sparsity pattern (scheme V4, verification).

    # exit code 0: the mark is there, 1: it is not shown, 2: bad input; a second, most of it loading torch
    python extract_keyed.py --checkpoint runs/digits_keyed/model_best.pth.tar --key runs/digits_keyed/*.key.json

    # a thief may have renumbered the network's channels (main_attack.py permute): undo that first, by the ticket before it was signed
    python extract_keyed.py --checkpoint runs/permuted/attacked.pth.tar --key runs/digits_keyed/*.key.json \
        --aligned_to runs/digits/ticket.pth.tar

Two carriers, places within kernels and weights per kernel, and both together, are each looked for in all weights and in the largest.
p is the smallest, times these six, times all salts that could have been tried: 2^80, or 2^40 where the key, or a hash of it, was published
before anybody saw the suspect (--committed).
"""

import os
import sys
from collections.abc import Sequence

if __name__ == "__main__":  # a fault before main() must not end with 1, which is a verdict
    sys.excepthook = lambda *fault: os._exit(sys.__excepthook__(*fault) or 3)
    import utils  # noqa: F401  refuses a Python that is too old

from utils import cli
from utils.run_dir import ExtractionFiles

WRITES = {ExtractionFiles("").keyed.name: rb'\{\s*"shown": '}


def parse_args(argv: Sequence[str] | None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("--checkpoint", type=cli.path, required=True, metavar="FILE", help="the suspect's model, or a mask file")
    cli.add_reading_flags(parser)
    parser.add_argument("--key", type=cli.path, required=True, metavar="FILE", help="the key that embed_keyed.py or main_imp.py wrote")
    parser.add_argument("--aligned_to", type=cli.path, default=None, metavar="FILE",
                        help="undo a renumbering of the suspect's channels, by what agrees with this file in kernels without signs; "
                             "what shows so counts by the ticket alone that the key was drawn for (docs/renumbered_channels.md)")
    parser.add_argument("--committed", action="store_true",
                        help="the key was published, or a hash of it, before anybody looked at the suspect")
    parser.add_argument("--max_false", type=cli.ratio, default=1e-9, metavar="P",
                        help="accept the mark where chance is at most this probable")
    parser.add_argument("--save_dir", type=cli.Output(files=WRITES), default="runs/extracted", metavar="DIR",
                        help="what was read (keyed.json) goes there, over that of an earlier call")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)

    from ownership.claims.case import Case, Files, Given, checks_of
    from ownership.claims.owner_claim import OwnerClaim
    from ownership.claims.p_values import log10, written
    from ownership.claims.verdict import SHOWN, Standing
    from ownership.keyed_mask.claim import read_key
    from utils import checkpoint

    part = read_key(args.key)
    claim = OwnerClaim(part.owner_name, part.owner_key, part.arch, parts={"V4": part})
    standing = Standing.COMMITTED if args.committed else Standing.NONE
    files = Files({args.checkpoint: {"entry": args.entry, "rename": args.rename}})
    given = Given(args.checkpoint, aligned_to=(args.aligned_to,) if args.aligned_to else (), max_false=args.max_false,
                  suspect_flag="--checkpoint")
    check = checks_of(claim)[0].check(Case(claim, args.key, standing, given, files))

    derivation = files.derivations[args.checkpoint]
    if derivation.in_words():
        print(f"read:    {derivation.in_words()}")
    for test, z in check.figures["z"].items():
        print(f"{'z:' if test == next(iter(check.figures['z'])) else '':<9}{z:6.2f} of {test} weights")
    if part.payload_bits:
        print(f"payload: {check.figures['payload']!r}")
    print(f"found:   {check.detail}\np-value: {written(check.p)}\nverdict: {'the mark is there' if check.result == SHOWN else 'not shown'}")
    result = ExtractionFiles(args.save_dir).keyed
    checkpoint.save_json({"shown": check.result == SHOWN, "log10_p": log10(check.p), "found": check.detail, **check.figures,
                          **({"derivation": derivation.as_json()} if derivation.in_words() else {})}, result)
    print(f"result:  {result}")
    return cli.EXIT_OK if check.result == SHOWN else cli.EXIT_NO_MATCH


if __name__ == "__main__":
    cli.run(main)
