r"""Write a key's signs into a ticket's masks (scheme V4): a signature that is spread over the mask, and that nobody sees.

    # the ticket of main_imp.py's example; seconds, at the same number of weights in every output channel
    python make_claim.py --new_owner_key runs/owner.key
    python embed_keyed.py --mask_dir runs/digits/ticket.pth.tar --arch res20s --dataset digits \
        --owner runs/owner.key --owner_name "Jane Doe" --save_dir runs/digits_keyed

    # with a short text, which the key alone reads
    python embed_keyed.py --mask_dir runs/digits/ticket.pth.tar --arch res20s --dataset digits \
        --owner runs/owner.key --owner_name "Jane Doe" --payload "copy 7" --save_dir runs/digits_keyed_7

The key follows by hash from the owner's public key, --owner_name, a salt that the private key makes, and the ticket before it
was signed. Writes the signed masks and the key (JSON: keep it secret, it is the claim), and prints the commands that train the signed
ticket and read the mark. docs/keyed_mask.md tells what it proves.
"""

import os
import sys
from collections.abc import Sequence

if __name__ == "__main__":  # a fault before main() must not end with 1, which is a verdict
    sys.excepthook = lambda *fault: os._exit(sys.__excepthook__(*fault) or 3)
    import utils  # noqa: F401  refuses a Python that is too old

from datasets import DATASETS
from models import ARCHITECTURES
from utils import cli
from utils.run_dir import KeyedFiles

WRITES = {file.name: None for file in vars(KeyedFiles("", "*", "*")).values()}  # whoever writes sees to it that no key is lost


def parse_args(argv: Sequence[str] | None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("--mask_dir", type=cli.path, required=True, metavar="FILE",
                        help="the ticket: a mask file, a ticket of main_imp.py, or a pruned model. Keep it: a renumbering of a suspect's "
                             "channels is undone by this very file")
    parser.add_argument("--arch", choices=sorted(ARCHITECTURES), default="res20s", help="network")
    parser.add_argument("--dataset", type=cli.text, default="cifar10", metavar="NAME",
                        help=f"only names the output files ({', '.join(sorted(DATASETS))}, or any word)")
    parser.add_argument("--save_dir", type=cli.Output(files=WRITES), default="ownership", metavar="DIR", help="where the output files go")
    parser.add_argument("--owner", type=cli.path, required=True, metavar="FILE",
                        help="the owner's private key (make_claim.py --new_owner_key)")
    parser.add_argument("--owner_name", type=cli.utf8_text, required=True, metavar="NAME", help="as in make_claim.py --owner")

    group = parser.add_argument_group("how")
    group.add_argument("--strength", type=cli.listed(cli.non_negative_float), default=None, metavar="Z,Z",
                       help="standard deviations of the places within kernels, and of the weights per kernel; 0 leaves one out "
                            "(default: by the ticket's weights, 35,25 from 20,000, 15,15 from 5,000, 13,0 below)")
    group.add_argument("--payload", type=cli.utf8_text, default=None, metavar="TEXT",
                       help="at most 6 bytes, read from z 16 of places up, or 14, from z 24 up; reading it costs evidence")
    args = parser.parse_args(argv)
    if "/" in args.dataset or "\0" in args.dataset:
        parser.error(f"argument --dataset: {args.dataset!r} can't be part of a file name")
    if args.strength is not None and (len(args.strength) != 2 or not any(args.strength)):
        parser.error("argument --strength: must be two numbers Z,Z, of which one is above 0")
    if args.payload is not None and args.strength is not None and not args.strength[0]:
        parser.error("argument --payload: is in the places; give a --strength of them")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)

    from models import build_model
    from ownership.claims.commitment import read_owner_key
    from ownership.keyed_mask.claim import draw_key, write_key
    from ownership.suspects.alignment import read_reference
    from pruner import tickets
    from pruner.keyed_mask import payload
    from pruner.keyed_mask.embedding import Strength, embed, shares, usual_strength
    from pruner.keyed_mask.pattern import count_agreement, in_all, place_agreement
    from utils.errors import UserError

    model = build_model(args.arch, num_classes=2)
    ticket = tickets.read_model_file(args.mask_dir, model, head=False)
    mask = ticket.need_mask("--mask_dir", model)
    with cli.named("--owner"):
        owner_key = read_owner_key(args.owner)
    with cli.named("--mask_dir"):
        ticket_sha256 = read_reference(args.mask_dir, model).sha256()
    strength = Strength(*args.strength) if args.strength else usual_strength(mask.nonzeros)
    places, counts = shares(strength, mask)
    key = draw_key(owner_key, args.owner_name, args.arch, ticket_sha256, places=places, counts=counts, largest=mask.nonzeros,
                   payload_bits=payload.bits_for(args.payload) if args.payload else 0)
    word = payload.word_of(key, args.payload) if args.payload else None
    initial = ticket.initial and {name: ticket.initial[f"{name}.weight"] for name in mask}
    with cli.named("--strength"):
        signed = embed(mask, key, strength, initial, word)

    files = KeyedFiles(args.save_dir, args.arch, args.dataset)
    if files.masks.exists() and not files.key.exists():
        raise UserError(f"{files.masks}: is there without {files.key.name}, so it may be another key's; name another --save_dir")
    os.makedirs(args.save_dir, exist_ok=True)
    write_key(files.key, key)
    tickets.write_masks(files.masks, signed)
    moved = sum(int((signed[name] & ~mask[name]).sum()) for name in mask)
    places, counts = in_all(place_agreement(key, signed, word)), in_all(count_agreement(key, signed))
    print(f"signs:   z {places.z:.1f} of places, {counts.z:.1f} of counts; {moved} of {mask.nonzeros} weights moved\n"
          f"density: {100 * mask.density:.4f}% before ({mask.nonzeros} weights), {100 * signed.density:.4f}% after ({signed.nonzeros})\n"
          f"masks:   {files.masks}\nkey:     {files.key} (secret: whoever has it finds the mark, and can take it out)\n\n"
          f"next: python main_eval_all.py --arch {args.arch} --mask_dir {files.masks} --type identity "
          f"--pretrained <rewinding weights> --dataset {args.dataset} --data <folder> --save_dir <run>\n"
          f"      python extract_keyed.py --key {files.key} --checkpoint <run>/model_best.pth.tar\n"
          f"to hand out: {files.masks}, or what scripts/hand_out.py makes of the model trained from it; nothing else of {args.save_dir}")
    return cli.EXIT_OK


if __name__ == "__main__":
    cli.run(main)
