r"""Write a signature into a ticket's sparse masks (scheme V2, Algorithm 2): a QR code of empty and occupied kernels.

    # the ticket of main_imp.py's example; a second, at the same number of weights, exactly
    python embed_qrcode.py --mask_dir runs/digits/ticket.pth.tar --arch res20s --dataset digits \
        --signature "Jane Doe 2026" --save_dir runs/digits_signed

    # a text that counts before a court: it follows from its owner and the ticket, so nobody can have chosen it
    python make_claim.py --new_owner_key runs/owner.key
    python embed_qrcode.py --mask_dir runs/digits/ticket.pth.tar --arch res20s --dataset digits \
        --owner runs/owner.key --owner_name "Jane Doe" --save_dir runs/digits_signed_derived

    # the paper's command: ownership/res20s_cifar10_extreme.pth.tar, text "signature", at the place that the paper's next
    # commands name (layer2.1.conv1, 2, 3)
    python embed_qrcode.py

Writes the signed masks, the claim (JSON: keep it, it says where the code lies), a picture of the code and one of the
layer before and after, and prints the commands that train the signed ticket and read the text back.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # a fault before main() must not end with 1, which is a verdict
    sys.excepthook = lambda *fault: os._exit(sys.__excepthook__(*fault) or 3)
    import utils  # noqa: F401  refuses a Python that is too old

from datasets import DATASETS
from models import ARCHITECTURES
from utils import cli
from utils.run_dir import SignatureFiles


PAPERS_TICKET = "ownership/res20s_cifar10_extreme.pth.tar"
WRITES = {  # a claim that is there decides itself whether this is the same one
    file.name: begins for file, begins in zip(vars(SignatureFiles("", "*", "*", "*")).values(),
                                              (None, None, cli.PNG_OF_A_CODE, cli.PNG_OF_A_PLOT))}
PAPERS_PLACE = {"max_name": "layer2.1.conv1", "start_x": 2, "start_y": 3}


def parse_args(argv: Sequence[str] | None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("--mask_dir", type=cli.path, default=None, metavar="FILE",
                        help="the ticket: a mask file, a ticket of main_imp.py, or a pruned model (default: "
                             f"{PAPERS_TICKET}, and the paper's place for the code)")
    parser.add_argument("--arch", choices=sorted(ARCHITECTURES), default="res20s", help="network")
    parser.add_argument("--dataset", type=cli.text, default="cifar10", metavar="NAME",
                        help=f"only names the output files ({', '.join(sorted(DATASETS))}, or any word)")
    parser.add_argument("--save_dir", type=cli.Output(files=WRITES), default="ownership", metavar="DIR", help="where the output files go")
    parser.add_argument("--signature", type=cli.utf8_text, default=None, metavar="TEXT",
                        help="the text to embed (UTF-8; zbar guesses at letters outside ASCII, ZXing reads them; default: "
                            "signature, or what is derived for --owner)")
    parser.add_argument("--seed", type=cli.seed_int, default=1, help="of the random positions of moved weights")

    group = parser.add_argument_group("a text that proves something: derived from its owner, as long as the code holds")
    group.add_argument("--owner", type=cli.path, default=None, metavar="FILE",
                       help="the owner's private key (make_claim.py --new_owner_key); the text is a hash of its public key, "
                            "--owner_name, a nonce and the ticket, so nobody can have guessed it or made it up to fit a model. A "
                            "verdict counts no other text (docs/verification.md)")
    group.add_argument("--owner_name", type=cli.utf8_text, default=None, metavar="NAME", help="as in make_claim.py --owner")

    group = parser.add_argument_group("code (chosen where not given)")
    group.add_argument("--version", type=int, choices=range(1, 41), default=None, metavar="1-40",
                       help="QR version (default: the smallest from 3 up that holds the text and fits)")
    group.add_argument("--error_correction", choices=("L", "M", "Q", "H"), default="H", help="QR level")
    group.add_argument("--mask_pattern", type=int, choices=range(8), default=None, metavar="0-7",
                       help="QR mask pattern (default: the one that changes the mask least)")

    group.add_argument("--polarity", choices=("dark", "light"), default="dark",
                       help="which modules the occupied kernels are; light: as the original's embed script writes")

    group = parser.add_argument_group("place (the most similar region where not given)")
    group.add_argument("--max_name", default=None, metavar="LAYER", help="layer, e.g. layer2.1.conv1")
    group.add_argument("--start_x", type=cli.natural, default=None, help="first output channel of the code")
    group.add_argument("--start_y", type=cli.natural, default=None, help="first input channel of the code")
    group.add_argument("--any_level", action="store_true",
                       help="look at all layers, not only those of the first stage with room for the code, of these the ones "
                            "with the largest kernels")
    group.add_argument("--hidden", type=cli.share, default=None, metavar="H",
                       help="choose the place by weighing how well the code can be seen (1: as little as possible) against "
                            "how firm it is under pruning and how little it changes (0), over all layers (default: by "
                            "similarity)")
    group.add_argument("--copies", type=cli.positive_int, default=1, metavar="K",
                       help="write the code into K regions that don't overlap; they are read together")
    args = parser.parse_args(argv)
    if "/" in args.dataset or "\0" in args.dataset:
        parser.error(f"argument --dataset: {args.dataset!r} can't be part of a file name")
    for flag in ("max_name", "start_x", "start_y", "any_level"):
        if args.hidden is not None and getattr(args, flag):
            parser.error(f"argument --hidden: chooses the place; leave out --{flag}")
    if (args.owner is None) != (args.owner_name is None):
        parser.error("argument --owner: comes with --owner_name, and --owner_name with --owner")
    if args.owner is not None and args.signature is not None:
        parser.error("argument --owner: derives the text; leave out --signature")
    if args.owner is None and args.signature is None:
        args.signature = "signature"
    if args.mask_dir is None:
        args.mask_dir = PAPERS_TICKET
        for name, value in PAPERS_PLACE.items():
            if getattr(args, name) is None and args.hidden is None:
                setattr(args, name, value)
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)

    from dataclasses import replace

    import numpy as np

    from models import build_model
    from ownership.qr_code.claim import MAX_VERSION, CodeClaim, read_claim, write_claim
    from ownership.qr_code.readers import write_code
    from pruner import tickets
    from pruner.masks import weights_per_kernel
    from pruner.qr_code import geometry as qr_code
    from pruner.qr_code.embedding import Wish, embed, find_copies, find_region, occupancy
    from pruner.qr_code.placement import best_place
    from utils import plots
    from utils.errors import UserError

    model = build_model(args.arch, num_classes=2)
    mask = tickets.read_model_file(args.mask_dir, model, head=False).need_mask("--mask_dir", model)
    wish = Wish(args.max_name, args.start_x, args.start_y, args.version, args.error_correction, args.mask_pattern,
                args.polarity == "light")
    signature, derived_from = args.signature, {}
    if args.owner:
        signature, wish, derived_from = derive(args, model, mask, wish)
    if args.hidden is None:
        region = find_region(mask, signature, wish, low_level=not args.any_level)
    else:
        region = best_place(mask, signature, wish, args.hidden)
    regions = find_copies(mask, signature, region, args.copies, low_level=not args.any_level)
    random = np.random.default_rng(args.seed)
    random_state = random.bit_generator.state
    signed = embed(mask, signature, regions, random)

    files = SignatureFiles(args.save_dir, args.arch, args.dataset, region.layer)
    for path in files.others(region.layer):
        if read_claim(path).signature != signature:
            raise UserError(f"--save_dir {args.save_dir}: {path.name} is of another signature; name another folder, so that *.claim.json "
                            "there means one")
    if files.masks.exists() and not files.claim.exists() and not args.force:
        raise UserError(f"{files.masks}: is there without {files.claim.name}, so it may be another signature's; name another "
                        "--save_dir, or give --force to write over it")
    os.makedirs(args.save_dir, exist_ok=True)
    code_format = region.code_format
    if code_format.version > MAX_VERSION:
        raise UserError(f"--signature: needs a code of version {code_format.version}, a claim can have {MAX_VERSION} at most; "
                        "shorten it")
    claim = CodeClaim(signature, args.arch, region.layer, region.start_x, region.start_y, code_format.version,
                  code_format.error_correction, code_format.mask_pattern, region.similarity, signed.nonzeros,
                  signed.entries, random_state, tuple((copy.layer, copy.start_x, copy.start_y) for copy in regions[1:]),
                      **derived_from, polarity=args.polarity)
    write_claim(files.claim, claim)
    tickets.write_masks(files.masks, signed)
    write_code(qr_code.encode(signature, replace(code_format, light=False)), files.code)
    plots.mask_before_and_after(weights_per_kernel(mask[region.layer]),
                                weights_per_kernel(signed[region.layer]), region.layer,
                                (region.start_x, region.start_y, code_format.size), files.before_and_after)

    initial = initial_weights_of(args.mask_dir) if args.owner else None
    if initial:
        print(f"note:    the ticket's initial weights: {cli.one_line(str(initial))}. Whoever has them, too, and the pictures, finds the same "
              "ticket with the same seeds: it proves nothing by itself, and is no secret. The text is the owner's alone")
    before, after = occupancy(mask[region.layer]), occupancy(signed[region.layer])
    beside = sorted(Path(args.mask_dir).parent.glob("epoch_*.pth.tar"))  # what main_imp.py rewound to
    moved = sum(int((signed[name] & ~mask[name]).sum()) for name in mask)
    print(f"code:    version {code_format.version}-{code_format.error_correction} ({code_format.size}x{code_format.size}, "
          f"{qr_code.data_modules(code_format.version).sum()} data modules), mask pattern {code_format.mask_pattern}\n"
          + "".join(f"place:   {copy.layer}, start_x {copy.start_x}, start_y {copy.start_y}; "
                    f"{100 * copy.similarity:.1f}% of its data modules were right already\n" for copy in regions) +
          f"density: {100 * mask.density:.4f}% before ({mask.nonzeros} weights), {100 * signed.density:.4f}% after "
          f"({signed.nonzeros}); {moved} weights moved; occupied kernels of the layer {before.sum()} -> {after.sum()}\n"
          f"masks:   {files.masks}\nclaim:   {files.claim}\npicture: {files.before_and_after}\ncode:    {files.code}\n\n"
          f"next: python main_eval_all.py --arch {args.arch} --mask_dir {files.masks} --type identity "
          f"--pretrained {beside[0] if beside else '<rewinding weights>'} --dataset {args.dataset} --data <folder> --save_dir <run>\n"
          f"      python extract_qrcode.py --arch {args.arch} --claim {files.claim} --checkpoint <run>/model_best.pth.tar\n"
          f"to hand out: {files.masks} or the model trained from it, nothing else of {args.save_dir}")
    return cli.EXIT_OK


def initial_weights_of(ticket: str) -> str | None:
    """How main_imp.py came by them, where the record of the run that made the ticket lies beside it and says so."""
    import contextlib

    from utils import checkpoint
    from utils.errors import UserError
    from utils.run_dir import RunDir

    with contextlib.suppress(UserError):
        record = checkpoint.load_json(RunDir(os.path.dirname(ticket)).record)
        return record.get("initial_weights") if isinstance(record, dict) else None


def derive(args, model, mask, wish):
    """(text, wish with its version, what it follows from, as fields of a claim)."""
    from dataclasses import replace

    from ownership.claims.commitment import nonce_of, read_owner_key
    from ownership.suspects.alignment import read_reference
    from pruner.qr_code import derived_text as texts
    from pruner.qr_code.embedding import choose_version

    with cli.named("--owner"):
        owner_key = read_owner_key(args.owner)
    with cli.named("--mask_dir"):
        ticket_sha256 = read_reference(args.mask_dir, model).sha256()
    public, nonce = owner_key.public_key().public_bytes_raw(), nonce_of(owner_key, texts.LABEL, args.owner_name, ticket_sha256)
    version = choose_version(mask, "x", wish)  # the first that fits, since any holds a letter
    text = texts.derived_text(public, args.owner_name, nonce, ticket_sha256, texts.length_for(version, wish.error_correction))
    return text, replace(wish, version=version), {"owner_key": public.hex(), "owner_name": args.owner_name, "nonce": nonce.hex(),
                                                  "ticket_sha256": ticket_sha256}


if __name__ == "__main__":
    cli.run(main)
