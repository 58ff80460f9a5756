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
publish a commitment, and what a claim proves; main_verify.py checks it.
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


def parse_args(argv: Sequence[str] | None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("--new_owner_key", type=cli.Output(), default=None, metavar="FILE",
                        help="write a fresh Ed25519 private key there, readable by you alone, and stop")
    parser.add_argument("--owner", type=cli.utf8_text, default=None, metavar="NAME", help="who claims")
    parser.add_argument("--sign", type=cli.path, default=None, metavar="FILE",
                        help="sign the commitment with this private key (default: not signed)")
    parser.add_argument("--save_dir", type=cli.Output(files={}), default=None, metavar="DIR",
                        help="claim.json and commitment.json go there; never over others")

    group = parser.add_argument_group("what is claimed")
    group.add_argument("--arch", choices=sorted(ARCHITECTURES), default="res20s", help="network")
    group.add_argument("--v1", type=cli.path, default=None, metavar="FILE", help="locked.pth.tar of a split ticket, with --key")
    group.add_argument("--key", type=cli.path, default=None, metavar="FILE", help="its key.pth.tar")
    group.add_argument("--v2", type=cli.path, default=None, metavar="FILE", help="the claim that embed_qrcode.py wrote")
    group.add_argument("--v3", type=cli.path, default=None, metavar="DIR",
                       help="the set: triggers/ of main_eval_trigger.py's run, or as make_triggers.py exported it")
    group.add_argument("--trigger_key", type=cli.path, default=None, metavar="FILE",
                       help="check that this key gives the set, as main_verify.py will ask")
    group.add_argument("--fidelity", type=cli.non_negative_float, default=None, metavar="PERCENT",
                       help="test accuracy of the model (default: as measured on --checkpoint)")
    group.add_argument("--tolerance", type=cli.non_negative_float, default=1.0, metavar="POINTS",
                       help="how far below that a copy may be")

    group = parser.add_argument_group("to try it on")
    group.add_argument("--checkpoint", type=cli.path, default=None, metavar="FILE", help="the owner's trained model")
    group.add_argument("--dataset", choices=sorted(DATASETS), default=None, help="test pictures of the accuracy")
    group.add_argument("--data", type=cli.path, default=None, metavar="DIR", help="folder of the data set")
    group.add_argument("--image_size", type=cli.positive_int, default=None, metavar="N", help="imagefolder: as in training")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    args = parser.parse_args(argv)
    if args.new_owner_key is not None:
        for flag in ("owner", "sign", "save_dir", "v1", "v2", "v3"):
            if getattr(args, flag) is not None:
                parser.error(f"argument --new_owner_key: makes the key and nothing else; leave out --{flag}")
        return args
    for flag in ("owner", "save_dir"):
        if getattr(args, flag) is None:
            parser.error(f"argument --{flag}: is needed to make a claim")
    if (args.v1 is None) != (args.key is None):
        parser.error("argument --key: comes with --v1, and --v1 with its --key")
    if args.trigger_key is not None and args.v3 is None:
        parser.error("argument --trigger_key: comes with --v3")
    if args.v1 is None and args.v2 is None and args.v3 is None:
        parser.error("nothing is claimed: give --v1, --v2 or --v3")
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

    from datasets.pictures import fingerprint
    from models import build_model
    from ownership.claims import commitment, owner_claim
    from ownership.qr_code.claim import read_claim
    from utils.errors import UserError

    if args.new_owner_key:
        public = commitment.new_owner_key(args.new_owner_key)
        print(f"private key: {args.new_owner_key} (secret: whoever has it signs as you)\npublic key:  {public.hex()}")
        return cli.EXIT_OK
    commitment.check_is_free(args.save_dir)  # before anything is measured
    owner_key = with_flag("--sign", commitment.read_owner_key, args.sign) if args.sign else None
    v2 = with_flag("--v2", read_claim, args.v2) if args.v2 else None
    if v2 and v2.arch != args.arch:
        raise UserError(f"--v2 {args.v2}: is about {v2.arch}, not {args.arch}; see --arch")
    v1 = key_mask_claim(args, build_model(args.arch, num_classes=2)) if args.v1 else None
    v3, trigger_set = trigger_claim(args) if args.v3 else (None, None)

    data, fidelity, accuracy = None, None, None
    if args.dataset:
        from datasets import load_dataset
        from ownership.suspects.classifier import accuracy_of, load_trained

        data = load_dataset(args.dataset, args.data, args.image_size)
        if args.checkpoint:
            model = with_flag("--checkpoint", load_trained, args.checkpoint, args.arch, data.num_classes, data.mean, data.std)
            accuracy = accuracy_of(model, data.test, args.device)
        target = accuracy if args.fidelity is None else args.fidelity
        if accuracy is not None and accuracy < target - args.tolerance:
            raise UserError(f"--fidelity {target:g}: --checkpoint has {accuracy:.2f}%, more than --tolerance {args.tolerance:g} "
                            "below")
        fidelity = owner_claim.Fidelity(args.dataset, args.image_size, fingerprint((data.test.images, data.test.labels)), target,
                                        args.tolerance)

    public = None if owner_key is None else owner_key.public_key().public_bytes_raw().hex()
    claim = owner_claim.OwnerClaim(args.owner, public, args.arch, fidelity, v1, v2, v3)
    fields = owner_claim.to_fields(claim)
    if owner_claim.from_fields(fields, "the claim") != claim:  # main_verify.py must not refuse what was published
        raise AssertionError("a claim does not come back as it was written")
    if args.checkpoint:
        for line in try_on_own_model(args, claim, trigger_set):
            print(line)
    private = commitment.salted(fields)
    public_part = commitment.commit(private, owner_key)
    claim_path, commitment_path = commitment.write(args.save_dir, private, public_part)
    print(f"claims:     {', '.join([*(['F'] if fidelity else []), *claim.schemes])}"
          + (f"; accuracy {fidelity.target:.2f}% - {fidelity.tolerance:g}" if fidelity else "")
          + f"\nroot:       {public_part.root.hex()}\nsigned by:  {public or 'nobody'}\n"
          f"claim:      {claim_path} (keep it, and keep it to yourself)\ncommitment: {commitment_path} (publish it now)")
    return cli.EXIT_OK


def with_flag(flag, read, *words, **more):
    """What `read` returns. Raises its UserError, with the flag in front of the file that it names."""
    from utils.errors import UserError

    try:
        return read(*words, **more)
    except UserError as error:
        raise UserError(str(error) if str(error).startswith("--") else f"{flag} {error}") from None


def key_mask_claim(args, model):
    """The V1 part, from both files of a split ticket."""
    from ownership.claims.owner_claim import KeyMask, mask_sha256
    from pruner import tickets
    from pruner.key_mask import split as key_masks

    locked, key = (with_flag(flag, tickets.read_model_file, path, model, head=False)
                   for flag, path in (("--v1", args.v1), ("--key", args.key)))
    mask, weights = key_masks.merge(locked, key, "--v1")
    return KeyMask(key_masks.fingerprint(mask, weights), mask_sha256(mask),
                   key_masks.fingerprint(key.mask, key.initial), key.mask.nonzeros)


def trigger_claim(args):
    """The V3 part, and the set."""
    from datasets.trigger import keyed, load_exported, read_key
    from ownership.claims.owner_claim import Triggers
    from utils.errors import UserError

    found = load_exported(args.v3, "--v3")
    size = found.pictures.images.shape[1]
    if args.trigger_key and keyed(read_key(args.trigger_key), len(found), found.num_classes,
                                  size).fingerprint() != found.fingerprint():
        raise UserError(f"--trigger_key {args.trigger_key}: does not give the set in {args.v3}")
    return Triggers(found.kind, found.fingerprint(), len(found), size, found.num_classes), found


def try_on_own_model(args, claim, trigger_set) -> list[str]:
    """What V2 and V3 show on the owner's own model, as lines. Raises UserError for what does not show."""
    from models import build_model
    from ownership.claims import verdict
    from ownership.trigger_set.evidence import predict, scientific
    from ownership.suspects.reading import read_suspect
    from utils.errors import UserError

    checks = []
    if claim.v2:
        own = read_suspect(args.checkpoint, build_model(args.arch, num_classes=2))
        checks.append(verdict.code(claim.v2, own, committed=True, restarts=0))
    if claim.v3:
        answers = predict(args.checkpoint, args.arch, claim.v3.num_classes, trigger_set.pictures, trigger_set.names)
        checks.append(verdict.triggers(claim.v3, trigger_set.pictures.labels.numpy(), answers, key_shown=True,
                                       committed=True))
    for check in checks:
        if check.result != verdict.SHOWN:
            raise UserError(f"--checkpoint {args.checkpoint}: {check.name} does not show on it ({check.detail}, p "
                            f"{scientific(check.p)}); claim what it shows, or leave out --checkpoint")
    return [f"{check.name} on the own model: {check.detail}, p {scientific(check.p)}" for check in checks]


if __name__ == "__main__":
    cli.run(main)
