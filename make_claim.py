r"""Put together what an owner claims of a model (accuracy, key mask, code, trigger set), and what to publish of it.

    # once: the owner's key; publish the public key that is printed
    python make_claim.py --new_owner_key runs/owner.key

    # from what embed_qrcode.py, main_eval_all.py and main_eval_trigger.py left; seconds
    python make_claim.py --owner "Jane Doe" --sign runs/owner.key --arch res20s \
        --v1 runs/locked/locked.pth.tar --key runs/locked/key.pth.tar \
        --v2 runs/signed/*.claim.json \
        --v3 runs/triggered/triggers --trigger_key runs/trigger.key \
        --checkpoint runs/triggered/model_best.pth.tar --dataset cifar10 --data datasets/cifar10 --tolerance 1 \
        --save_dir runs/claim

Writes claim.json, which only the owner may see until there is a dispute, and commitment.json, which says nothing of it and is to
be published at once, where its time can be shown. With --checkpoint the claim is tried on the owner's own model first:
what does not show there is refused. The target accuracy is that model's, or --fidelity. docs/verification.md tells how to
publish a commitment, and what a claim proves; main_verify.py checks it. With --timestamp or --opentimestamps others date the
commitment (docs/dates.md). With --sign the same command makes the same claim again, also where claim.json is lost and
--save_dir holds the published commitment.json; docs/what_to_keep.md says what each loss costs, and --bundle sorts the files.
"""

import os
import sys
from collections.abc import Sequence

if __name__ == "__main__":  # a fault before main() must not end with 1, which is a verdict
    sys.excepthook = lambda *fault: os._exit(sys.__excepthook__(*fault) or 3)
    import utils  # noqa: F401  refuses a Python that is too old

from datasets import DATASETS
from models import ARCHITECTURES
from ownership import SCHEMES, in_a_row
from ownership.claims.bundle import PARTS, README, README_BEGINS
from utils import cli


def parse_args(argv: Sequence[str] | None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("--new_owner_key", type=cli.Output(), default=None, metavar="FILE",
                        help="write a fresh Ed25519 private key there, readable by you alone, and stop")
    parser.add_argument("--owner", type=cli.utf8_text, default=None, metavar="NAME", help="who claims")
    parser.add_argument("--sign", type=cli.path, default=None, metavar="FILE",
                        help="sign the commitment with this private key (default: not signed)")
    parser.add_argument("--save_dir", type=cli.Output(files={}), default=None, metavar="DIR",
                        help="claim.json and commitment.json go there; never over others")

    parser.add_argument("--bundle", type=cli.Output(files=dict.fromkeys(PARTS) | {README: README_BEGINS}), default=None,
                        metavar="DIR",
                        help="copy all files that the claim is made of there: secret/, public/ and hand_out/, with a README.txt")

    group = parser.add_argument_group("what is claimed")
    group.add_argument("--arch", choices=sorted(ARCHITECTURES), default="res20s", help="network")
    for scheme in SCHEMES.values():
        scheme.flags.add_claim_flags(group)
    group.add_argument("--fidelity", type=cli.non_negative_float, default=None, metavar="PERCENT",
                       help="test accuracy of the model (default: as measured on --checkpoint)")
    group.add_argument("--tolerance", type=cli.non_negative_float, default=1.0, metavar="POINTS",
                       help="how far below that a copy may be")

    cli.add_timestamp_flags(parser)

    group = parser.add_argument_group("to try it on")
    group.add_argument("--checkpoint", type=cli.path, default=None, metavar="FILE", help="the owner's trained model")
    group.add_argument("--dataset", choices=sorted(DATASETS), default=None, help="test pictures of the accuracy")
    group.add_argument("--data", type=cli.path, default=None, metavar="DIR", help="folder of the data set")
    group.add_argument("--image_size", type=cli.positive_int, default=None, metavar="N", help="imagefolder: as in training")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    args, claimed = parser.parse_args(argv), [name.lower() for name in SCHEMES]
    if args.new_owner_key is not None:
        for flag in ("owner", "sign", "save_dir", "bundle", "timestamp", "opentimestamps", *claimed):
            if getattr(args, flag) is not None:
                parser.error(f"argument --new_owner_key: makes the key and nothing else; leave out --{flag}")
        return args
    for flag in ("owner", "save_dir"):
        if getattr(args, flag) is None:
            parser.error(f"argument --{flag}: is needed to make a claim")
    for scheme in SCHEMES.values():
        scheme.flags.check_claim_flags(parser, args)
    if all(getattr(args, flag) is None for flag in claimed):
        parser.error(f"nothing is claimed: give {in_a_row([f'--{flag}' for flag in claimed], 'or')}")
    if args.dataset is None:
        for flag in ("data", "image_size", "fidelity"):
            if getattr(args, flag) is not None:
                parser.error(f"argument --{flag}: needs --dataset, whose test pictures the accuracy is of")
    elif args.fidelity is None and args.checkpoint is None:
        parser.error("argument --dataset: needs the accuracy, from --fidelity or measured on --checkpoint")
    for flag in ("fidelity", "tolerance"):
        if (getattr(args, flag) or 0) > 100:
            parser.error(f"argument --{flag}: is percent, at most 100")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)

    from ownership.claims import commitment

    if args.new_owner_key:  # before the imports that take seconds
        public = commitment.new_owner_key(args.new_owner_key)
        print(f"private key: {args.new_owner_key} (secret: whoever has it signs as you)\npublic key:  {public.hex()}")
        return cli.EXIT_OK

    from datasets.pictures import fingerprint
    from ownership.claims import owner_claim
    from ownership.claims.arbiter import claimed
    from utils.errors import UserError

    with cli.named("--sign"):
        owner_key = commitment.read_owner_key(args.sign) if args.sign else None
    earlier = commitment.made_before(args.save_dir, owner_key)  # before anything is measured
    parts = {name: scheme.claim.make(args) for name, scheme in SCHEMES.items() if getattr(args, name.lower()) is not None}

    data, fidelity, accuracy = None, None, None
    if args.dataset:
        from datasets import load_dataset
        from ownership.suspects.classifier import accuracy_of, load_trained

        data = load_dataset(args.dataset, args.data, args.image_size)
        if args.checkpoint:
            with cli.named("--checkpoint"):
                model = load_trained(args.checkpoint, args.arch, data)
            accuracy = accuracy_of(model, data.test, args.device)
        target = accuracy if args.fidelity is None else args.fidelity
        if accuracy is not None and accuracy < target - args.tolerance:
            raise UserError(f"--fidelity {target:g}: --checkpoint has {accuracy:.2f}%, more than --tolerance {args.tolerance:g} "
                            "below")
        fidelity = owner_claim.Fidelity(args.dataset, args.image_size, fingerprint((data.test.inputs, data.test.labels)), target,
                                        args.tolerance)

    public = None if owner_key is None else owner_key.public_key().public_bytes_raw().hex()
    claim = owner_claim.OwnerClaim(args.owner, public, args.arch, fidelity, parts)
    claim_format = owner_claim.format_of(earlier.leaves) if earlier else owner_claim.newest_format()
    fields = owner_claim.to_fields(claim, claim_format)
    if owner_claim.from_fields(fields, "the claim", claim_format) != claim:  # main_verify.py must not refuse what was published
        raise AssertionError("a claim does not come back as it was written")
    if args.checkpoint:
        for line in try_on_own_model(args, claim):
            print(line)
    label = earlier.label if earlier else commitment.new_label() if owner_key else None
    private = commitment.salted(fields, claim_format, owner_key, label)
    public_part = commitment.commit(private, owner_key, label)
    if earlier and (changed := commitment.changed_fields(private, earlier)):
        raise UserError(f"--save_dir {args.save_dir}: holds {commitment.COMMITMENT_FILE} of another claim, which differs in "
                        f"{commitment.in_words(changed)}; give what that one was made from, or name another folder")
    claim_path, commitment_path = commitment.write(args.save_dir, private, public_part)
    loss = "without it the commitment proves nothing, so keep two copies" if owner_key is None else \
        "keep two copies of it and of all keys; lost, the same command makes it again"
    print(f"claims:     {', '.join(claimed(claim))}"
          + (f"; accuracy {fidelity.target:.2f}% - {fidelity.tolerance:g}" if fidelity else "")
          + f"\nroot:       {public_part.root.hex()}\nsigned by:  {public or 'nobody'}\n"
          f"claim:      {claim_path} (secret: {loss})\n"
          f"commitment: {commitment_path}" + (" (as it was made before)" if earlier else ""))
    for line in told_besides(handed_out(args)):
        print(line)
    dates = date(args, commitment_path, public_part.root)
    if args.bundle:
        write_bundle(args, claim_path, [commitment_path, *dates])
        print(f"bundle:     {args.bundle} (docs/what_to_keep.md)")
    print(f"to publish now: {' and '.join(map(str, [commitment_path, *dates]))}, nothing else of {args.save_dir}")
    return cli.EXIT_OK


def date(args, commitment_path, root):
    """Have the commitment dated as the flags ask, but for dates that are there; paths of all that are. Raises UserError, saying that
    the claim is made, where that fails."""
    from ownership.claims import timestamps
    from utils.errors import UserError

    files = [commitment_path.with_name(name) for name in (timestamps.TOKEN_FILE, timestamps.PROOF_FILE)]
    asked = [None if path.exists() else address for path, address in zip(files, (args.timestamp, args.opentimestamps))]
    try:
        for path in timestamps.stamp(commitment_path, root, *asked):
            print(f"dated:      {path} (publish it with the commitment)")
    except UserError as error:
        raise UserError(f"{error}. Claim and commitment are written, undated; date them with scripts/add_timestamp.py "
                        f"{commitment_path}") from None
    return [path for path in files if path.exists()]


def write_bundle(args, claim_path, public) -> None:
    """Sort what was given and what was made by who may have it."""
    from ownership.claims import bundle

    secrets = [claim_path, args.sign, *given_as(args, "secret").values()]
    bundle.write(args.bundle, {"secret": [path for path in secrets if path is not None], "public": public,
                               "hand_out": [*handed_out(args).values()]})


def given_as(args, part: str) -> dict[str, str]:
    """The claimed schemes' files that go into one part of a bundle, by their flags."""
    flags = [flag for name, scheme in SCHEMES.items() if getattr(args, name.lower()) is not None
             for flag, where in scheme.flags.BUNDLED.items() if where == part]
    return {flag: getattr(args, flag) for flag in flags if getattr(args, flag) is not None}


def handed_out(args) -> dict[str, str]:
    """What leaves the house, by its flag."""
    return {**({"checkpoint": args.checkpoint} if args.checkpoint else {}), **given_as(args, "hand_out")}


def told_besides(files: dict[str, str]) -> list[str]:
    """A note on each file that tells its takers more than they need."""
    from pruner import tickets
    from utils import checkpoint
    from utils.untrusted import model_formats

    told = {flag: tickets.told_besides(model_formats.load(checkpoint.read_model(path))) for flag, path in files.items()}
    return [f"note:       --{flag} {files[flag]} tells its takers {in_a_row(what)}; hand out what scripts/hand_out.py makes of it"
            for flag, what in told.items() if what]


def try_on_own_model(args, claim) -> list[str]:
    """What the schemes show on the owner's own model, as lines. Raises UserError for what does not show."""
    from ownership.claims.case import Case, Files, Given, checks_of
    from ownership.claims.p_values import written
    from ownership.claims.verdict import LEVEL, SHOWN, Standing
    from pruner.tickets import Expected
    from utils.errors import UserError

    given = Given(args.checkpoint, proofs=vars(args), expected=Expected(), device=args.device)
    case, lines = Case(claim, args.save_dir, Standing.COMMITTED, given, Files()), []
    for check in filter(None, (scheme.check_on_own_model(case) for scheme in checks_of(claim))):
        p = "" if check.p is None else f", p {written(check.p)}"
        told = float(check.figures.get("uncounted_p", 1)) <= LEVEL  # it is there, and counts for nothing
        if check.result != SHOWN and not told:
            raise UserError(f"--checkpoint {args.checkpoint}: {check.name} does not show on it ({check.detail}{p}); claim what "
                            "it shows, or leave out --checkpoint")
        lines.append(f"{check.name} on the own model: {check.detail}{p}")
    return lines


if __name__ == "__main__":
    cli.run(main)
