r"""Read the signature back out of a suspect model's sparsity pattern (scheme V2, verification).

    # with the owner's claim, which says where to look; exit code 0: match, 1: no match, 2: bad input
    python extract_qrcode.py --arch res20s --checkpoint runs/digits_signed/model_best.pth.tar \
        --claim runs/digits_signed/*.claim.json

    # the paper's command: the place by hand, no text to compare with; exit code 0: some text was read
    python extract_qrcode.py --save_dir _ --data datasets/cifar10 --checkpoint res20s_cifar10_lt_qr/checkpoint.pth.tar \
        --arch res20s --max-name layer2.1.conv1 --start-x 2 --start-y 3

    # no place: all layers and offsets are searched, with the text or without
    python extract_qrcode.py --arch res20s --checkpoint runs/digits_signed/model_best.pth.tar --signature "Jane Doe 2026"

    # the owner's defence against add-on attacks: once, measure below which magnitude 5% of the own model's weights lie (the
    # claim keeps it); from then on weights below are pruned before reading
    python extract_qrcode.py --arch res20s --checkpoint runs/digits_signed/model_best.pth.tar \
        --claim runs/digits_signed/*.claim.json --record_threshold 0.05

    # a thief may have renumbered the network's channels (main_attack.py permute): undo that first, by the owner's own model,
    # ticket or mask file
    python extract_qrcode.py --arch res20s --checkpoint runs/permuted/attacked.pth.tar \
        --claim runs/digits_signed/*.claim.json \
        --aligned_to runs/digits_signed/model_best.pth.tar

Of a code the occupied kernels are the dark modules (embed_qrcode.py), or the light ones (the original's files): without a claim, which
says so, both are read, and counted in what is corrected for. So are masks with and without what was filled into pruned entries. The function patterns that were never embedded (finder,
timing, alignment, format, version) are put back from the QR standard; data modules are shown as they are found. ZXing and zbar read independently; ordered statistics reads what they
can't, and is believed only where chance is excluded (--max_false). With a signature, an exact test says how improbable
the agreement is (p-value), with or without correction for all places where a code could lie. Takes a second; up to half a
minute where nothing is read but something is there.
"""

import os
import sys
from collections.abc import Sequence

if __name__ == "__main__":  # a fault before main() must not end with 1, which is a verdict
    sys.excepthook = lambda *fault: os._exit(sys.__excepthook__(*fault) or 3)
    import utils  # noqa: F401  refuses a Python that is too old

from models import ARCHITECTURES
from utils import cli
from utils.run_dir import ExtractionFiles

WRITES = {ExtractionFiles("").code.name: cli.PNG_OF_A_CODE, ExtractionFiles("").result.name: rb'\{\s*"match": '}


def parse_args(argv: Sequence[str] | None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("--checkpoint", type=cli.path, required=True, metavar="FILE", help="the suspect's model, or a mask file")
    cli.add_reading_flags(parser)
    parser.add_argument("--arch", choices=sorted(ARCHITECTURES), default="res20s", help="network")
    parser.add_argument("--save_dir", type=cli.Output(files=WRITES), default="runs/extracted", metavar="DIR",
                        help="the code as found (code.png) and what was read (extraction.json) go there, over those of an earlier call")
    parser.add_argument("--data", "--dataset", dest="ignored", default=None, metavar="X",
                        help="accepted from the paper's command and not needed")

    group = parser.add_argument_group("where and what: from the claim")
    group.add_argument("--claim", type=cli.path, default=None, metavar="FILE", help="JSON written by embed_qrcode.py")

    group = parser.add_argument_group("where and what: by hand (no place: everywhere)")
    group.add_argument("--max_name", default=None, metavar="LAYER", help="layer, e.g. layer2.1.conv1")
    group.add_argument("--start_x", type=cli.natural, default=None, help="first output channel of the code")
    group.add_argument("--start_y", type=cli.natural, default=None, help="first input channel of the code")
    group.add_argument("--signature", type=cli.utf8_text, default=None, metavar="TEXT", help="the text to compare with")
    group.add_argument("--version", type=int, choices=range(1, 41), default=None, metavar="1-40",
                       help="QR version (default: all that fit there; 3 to 6 everywhere)")
    group.add_argument("--error_correction", choices=("L", "M", "Q", "H"), default=None, help="QR level (default: H)")
    group.add_argument("--mask_pattern", type=int, choices=range(8), default=None, metavar="0-7",
                       help="QR mask pattern (default: all are tried)")

    group = parser.add_argument_group("how")
    group.add_argument("--threshold", type=cli.positive_float, default=None, metavar="T",
                       help="prune weights of smaller magnitude before reading (paper, section 3.4; default: the claim's)")
    group.add_argument("--record_threshold", type=cli.ratio, default=None, metavar="SHARE",
                       help="the model is the owner's own: write into the claim the magnitude below which this share of "
                            "its weights lies")
    group.add_argument("--aligned_to", type=cli.path, default=None, metavar="FILE",
                       help="the owner's model, ticket or mask file: undo a renumbering of the suspect's channels first, by "
                            "what agrees with it outside the claim's regions (docs/renumbered_channels.md)")
    group.add_argument("--committed", action="store_true",
                       help="the claim was published, or a hash of it, before anybody looked at the suspect: count the "
                            "agreement of a text that can't be read without a correction for all texts of its kind")
    group.add_argument("--max_false", type=cli.ratio, default=1e-9, metavar="P",
                       help="accept a text, or an agreement, where chance is at most this probable")
    group.add_argument("--restarts", type=cli.natural, default=3000, metavar="N",
                       help="of the soft decoder with random reliabilities, where a code shows but can't be read")
    args = parser.parse_args(argv)
    by_hand = {"--max_name": args.max_name, "--start_x": args.start_x, "--start_y": args.start_y}
    missing = [name for name, value in by_hand.items() if value is None]
    if args.claim is None and 0 < len(missing) < len(by_hand):
        parser.error(f"without --claim, {' and '.join(missing)} must say where the code lies; leave all three out to search "
                     "everywhere")
    if args.claim is not None:
        by_hand |= {"--signature": args.signature, "--version": args.version, "--mask_pattern": args.mask_pattern,
                    "--error_correction": args.error_correction}
        doubled = [name for name, value in by_hand.items() if value is not None]
        if doubled:
            parser.error(f"--claim says {doubled[0]} already; give one of the two")
    if args.record_threshold and (args.claim is None or args.threshold):
        parser.error("argument --record_threshold: needs the owner's --claim, and no --threshold")
    if args.aligned_to is not None and (args.claim is None or args.record_threshold):
        parser.error("argument --aligned_to: needs the owner's --claim, and no --record_threshold")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)

    from dataclasses import replace

    from models import build_model
    from ownership.qr_code.claim import read_claim
    from ownership.qr_code.readers import write_code
    from ownership.qr_code.window import align_claimed
    from ownership.suspects.alignment import read_reference
    from ownership.suspects.reading import read_suspect
    from utils import checkpoint
    from utils.errors import UserError

    model = build_model(args.arch, num_classes=2)
    claim = read_claim(args.claim) if args.claim else None
    if claim and claim.arch != args.arch:
        raise UserError(f"{args.claim}: is about {claim.arch}, not {args.arch}; see --arch")
    suspect = read_suspect(checkpoint.read_model(args.checkpoint, entry=args.entry, rename=args.rename), model)
    derivation = suspect.derivation
    if derivation.in_words():
        print(f"read:    {derivation.in_words()}")
    if args.record_threshold:
        return record_threshold(args, claim, suspect)
    threshold = args.threshold or (claim.threshold if claim else None)
    if args.threshold:
        suspect = suspect.cleaned(args.threshold)
        claim = replace(claim, threshold=None) if claim else None
    alignment = None
    if args.aligned_to:
        alignment = align_claimed(read_reference(args.aligned_to, model), suspect.masks[-1], model, claim)
        suspect = alignment.suspect
        print(in_words(alignment))

    signature, suspect, places, reading = read_code(args, claim, suspect)
    if suspect.is_cut:
        print("cut:     what was filled into pruned entries is left out")
    match = reading.text is not None if signature is None else reading.shows(signature)
    agrees = reading.evidence is not None and args.max_false >= (reading.evidence.p_corrected if args.committed
                                                                 else reading.evidence.p_any_text)
    if reading.code_format.light:
        print("ones:    light modules, as the original writes them (a kernel is occupied where the code's module is light)")
    print("place:   " + "; ".join(f"{place.layer}, start_x {place.start_x}, start_y {place.start_y}" for place in places))
    print_reading(reading)

    files = ExtractionFiles(args.save_dir)
    write_code(reading.modules, files.code)
    checkpoint.save_json({
        "match": match or agrees, "signature": signature, "readers": reading.texts, "layer": places[0].layer,
        "start_x": places[0].start_x, "start_y": places[0].start_y,
        "copies": [[place.layer, place.start_x, place.start_y] for place in places[1:]],
        "version": reading.code_format.version, "error_correction": reading.code_format.error_correction,
        "mask_pattern": reading.code_format.mask_pattern,
        **({"polarity": "light"} if reading.code_format.light else {}), "density": suspect.mask.density, "threshold": threshold,
        **({"filled": True} if suspect.is_cut else {}),
        **({"derivation": derivation.as_json()} if derivation.in_words() else {}),
        **({"aligned_to": args.aligned_to, **alignment_as_json(alignment)} if alignment else {}),
        **reading_as_json(reading)}, files.result)
    print(f"code:    {files.code}")
    if not claim and signature != args.signature:
        print("note:    the text is there in another of Unicode's forms (NFC, NFD), which looks the same")
    if signature is not None and not match and signature.casefold() in [(text or "").casefold() for text in reading.texts.values()]:
        print("note:    read is a text that differs from the one given in capital letters alone")
    if signature is None:
        print("verdict: a text was read" if match else "verdict: no text was read")
    else:
        print("verdict: match" if match else "verdict: match by agreement; the text was not read" if agrees
              else "verdict: no match")
    return cli.EXIT_OK if match or agrees else cli.EXIT_NO_MATCH


def read_code(args, claim, suspect):
    """Text, suspect with the mask that shows most, places and reading: where the claim says, or the flags, or else wherever something
    is. Of a text with several forms in Unicode, which all look alike, the one that is read there, else as it was given."""
    from unicodedata import normalize

    from ownership.qr_code.evidence import places_for
    from ownership.qr_code.extraction import candidate_formats, extract, extract_claimed, extract_of_masks, search_everywhere
    from pruner.qr_code.embedding import Place, Wish

    if claim:
        return claim.signature, *extract_of_masks(suspect, lambda one, *how: (claim.places, extract_claimed(one, claim, *how)),
                                                  claim.signature, args.max_false, args.restarts)
    wish = Wish(args.max_name, args.start_x, args.start_y, args.version, args.error_correction or "H", args.mask_pattern)

    def read(one, signature, *how):
        if wish.layer is None:
            return search_everywhere(one, wish, signature, *how)
        places, formats = [Place(wish.layer, wish.start_x, wish.start_y)], candidate_formats(one.mask, wish)
        return places, extract(one, places, formats, signature, 2 * places_for(one.mask, formats[0].version), *how)  # both polarities

    def read_masks(signature):
        return extract_of_masks(suspect, lambda one, *how: read(one, signature, *how), signature, args.max_false, args.restarts)

    as_given = read_masks(args.signature)
    if args.signature is not None and not as_given[2].shows(args.signature):
        for form in sorted({normalize(form, args.signature) for form in ("NFC", "NFD")} - {args.signature}):
            as_form = read_masks(form)
            if as_form[2].shows(form):
                return form, *as_form
    return args.signature, *as_given


def print_reading(reading) -> None:
    """What each reader read, and how well the code agrees with a signature."""
    for reader, text in reading.texts.items():
        print(f"{reader + ':':<8} {'nothing read' if text is None else repr(text)}")
    if reading.soft is not None:
        print(f"         (ordered statistics: weights {reading.soft.weights}, by chance at most "
              f"{reading.soft.false_probability:.1e})")
    if reading.flips is not None:
        flips, evidence = reading.flips, reading.evidence
        print(f"flipped: {flips.count} of {flips.data_modules} data modules ({100 * flips.share:.2f}%): "
              f"{flips.lost} of the code's ones are empty, {flips.added} of its zeros are occupied\n"
              f"p-value: {evidence.p_value:.1e} that the code's {evidence.modules} parity modules agree as well by chance; "
              f"{evidence.p_corrected:.1e} corrected for {evidence.searched} places, patterns and polarities\n"
              f"         {evidence.p_any_text:.1e} even if the text was made up after a look at the suspect (one of "
              f"2^{evidence.log2_texts:.0f} of its kind)")


def reading_as_json(reading) -> dict:
    """The same, but for the texts."""
    table = {}
    if reading.soft is not None:
        table |= {"soft_weights": reading.soft.weights, "false_probability": reading.soft.false_probability}
    if reading.flips is not None:
        flips, evidence = reading.flips, reading.evidence
        table |= {"flipped": flips.count, "lost": flips.lost, "added": flips.added, "data_modules": flips.data_modules,
                  "p_value": evidence.p_value, "searched": evidence.searched, "p_corrected": evidence.p_corrected,
                  "p_any_text": evidence.p_any_text}
    return table


def alignment_as_json(alignment) -> dict:
    from dataclasses import asdict

    return {"channels": len(alignment.order), "moved": alignment.moved, "before": asdict(alignment.before),
            "after": asdict(alignment.after)}


def in_words(alignment) -> str:
    """What `ownership.suspects.alignment` undid, and how well the rest agrees, in two lines."""
    before, after = alignment.before, alignment.after
    signs = "" if after.signs is None else f"; {100 * after.signs:.1f}% of the signs ({100 * before.signs:.1f}%)"
    return (f"aligned: {alignment.moved} of {len(alignment.order)} channels had another number\n"
            f"agrees:  outside the code, {100 * after.share:.1f}% of the suspect's weights are where the owner's are (before: "
            f"{100 * before.share:.1f}%, by chance {100 * after.chance:.1f}%); correlation of the masks "
            f"{after.correlation:.3f} ({before.correlation:.3f}){signs}")


def record_threshold(args, claim, suspect) -> int:
    """Measure the owner's threshold t on the owner's own model, and keep it in the claim."""
    from dataclasses import replace

    from ownership.qr_code.claim import write_claim
    from utils.errors import UserError

    if suspect.weights is None:
        raise UserError(f"--checkpoint {args.checkpoint}: holds masks only; give the owner's trained model")
    threshold = suspect.magnitude_below(args.record_threshold)
    write_claim(args.claim, replace(claim, threshold=threshold), instead_of=claim)
    print(f"threshold: {threshold:.6g}, below which {100 * args.record_threshold:g}% of the weights lie\nclaim:     {args.claim}")
    return cli.EXIT_OK


if __name__ == "__main__":
    cli.run(main)
