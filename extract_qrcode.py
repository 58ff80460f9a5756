r"""Read the signature back out of a suspect model's sparsity pattern (scheme V2, verification).

    # with the owner's claim, which says where to look; exit code 0: match, 1: no match, 2: bad input
    python extract_qrcode.py --arch res20s --checkpoint runs/digits_signed/model_best.pth.tar \
        --claim runs/digits_signed/res20s_digits_qrcode_layer2.0.conv2.claim.json

    # the paper's command: the place by hand, no text to compare with; exit code 0: some text was read
    python extract_qrcode.py --save_dir _ --data datasets/cifar10 --checkpoint res20s_cifar10_lt_qr/checkpoint.pth.tar \
        --arch res20s --max-name layer2.1.conv1 --start-x 2 --start-y 3

The function patterns that were never embedded (finder, timing, alignment, format, version) are put back from the QR
standard; data modules are shown as they are found. ZXing and zbar read independently. Takes a second.
"""

from collections.abc import Sequence

from models import ARCHITECTURES
from utils import cli


def parse_args(argv: Sequence[str] | None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("--checkpoint", type=cli.text, required=True, metavar="FILE", help="the suspect's model, or a mask file")
    parser.add_argument("--arch", choices=sorted(ARCHITECTURES), default="res20s", help="network")
    parser.add_argument("--save_dir", type=cli.text, default="runs/extracted", metavar="DIR",
                        help="the code as found (code.png) and what was read (extraction.json) go there")
    parser.add_argument("--data", "--dataset", dest="ignored", default=None, metavar="X",
                        help="accepted from the paper's command and not needed")

    group = parser.add_argument_group("where and what: from the claim")
    group.add_argument("--claim", type=cli.text, default=None, metavar="FILE", help="JSON written by embed_qrcode.py")

    group = parser.add_argument_group("where and what: by hand")
    group.add_argument("--max_name", default=None, metavar="LAYER", help="layer, e.g. layer2.1.conv1")
    group.add_argument("--start_x", type=cli.natural, default=None, help="first output channel of the code")
    group.add_argument("--start_y", type=cli.natural, default=None, help="first input channel of the code")
    group.add_argument("--signature", type=cli.utf8_text, default=None, metavar="TEXT", help="the text to compare with")
    group.add_argument("--version", type=int, choices=range(1, 41), default=None, metavar="1-40",
                       help="QR version (default: all that fit are tried)")
    group.add_argument("--error_correction", choices=("L", "M", "Q", "H"), default=None, help="QR level (default: H)")
    group.add_argument("--mask_pattern", type=int, choices=range(8), default=None, metavar="0-7",
                       help="QR mask pattern (default: all are tried)")
    args = parser.parse_args(argv)
    by_hand = {"--max_name": args.max_name, "--start_x": args.start_x, "--start_y": args.start_y}
    if args.claim is None and None in by_hand.values():
        missing = [name for name, value in by_hand.items() if value is None]
        parser.error(f"without --claim, {' and '.join(missing)} must say where the code lies")
    if args.claim is not None:
        by_hand |= {"--signature": args.signature, "--version": args.version, "--mask_pattern": args.mask_pattern,
                    "--error_correction": args.error_correction}
        doubled = [name for name, value in by_hand.items() if value is not None]
        if doubled:
            parser.error(f"--claim says {doubled[0]} already; give one of the two")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)

    from models import build_model
    from ownership.claim import read_claim
    from ownership.extraction import candidate_formats, extract
    from ownership.readers import write_code
    from pruner import tickets
    from utils import checkpoint
    from utils.errors import UserError
    from utils.run_dir import ExtractionFiles

    model = build_model(args.arch, num_classes=2)
    if args.claim:
        claim = read_claim(args.claim)
        if claim.arch != args.arch:
            raise UserError(f"{args.claim}: is about {claim.arch}, not {args.arch}; see --arch")
        signature, layer, x, y = claim.signature, claim.layer, claim.start_x, claim.start_y
        suspect = tickets.read_model_file(args.checkpoint, model, head=False).pattern("--checkpoint", model)
        formats = [claim.code_format]
    else:
        signature, layer, x, y = args.signature, args.max_name, args.start_x, args.start_y
        suspect = tickets.read_model_file(args.checkpoint, model, head=False).pattern("--checkpoint", model)
        formats = candidate_formats(suspect, layer, x, y, args.version, args.error_correction or "H",
                                    args.mask_pattern)
    found = extract(suspect, layer, x, y, formats, signature)

    match = found.shows(signature) if signature is not None else found.text is not None
    result = {
        "match": match, "signature": signature, "readers": found.texts, "layer": layer, "start_x": x, "start_y": y,
        "version": found.code_format.version, "error_correction": found.code_format.error_correction,
        "mask_pattern": found.code_format.mask_pattern, "density": suspect.density,
    }
    for reader, text in found.texts.items():
        print(f"{reader + ':':<9}{'nothing read' if text is None else repr(text)}")
    if found.flips is not None:
        flips = found.flips
        result |= {"flipped": flips.count, "lost": flips.lost, "added": flips.added, "data_modules": flips.data_modules}
        print(f"flipped: {flips.count} of {flips.data_modules} data modules ({100 * flips.share:.2f}%): "
              f"{flips.lost} of the code's ones are empty, {flips.added} of its zeros are occupied")
    files = ExtractionFiles(args.save_dir)
    write_code(found.modules, files.code)
    checkpoint.save_json(result, files.result)
    print(f"code:    {files.code}")
    if signature is not None:
        print("verdict: match" if match else "verdict: no match")
    else:
        print("verdict: a text was read" if match else "verdict: no text was read")
    return cli.EXIT_OK if match else cli.EXIT_NO_MATCH


if __name__ == "__main__":
    cli.run(main)
