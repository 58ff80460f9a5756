r"""Train a network with passports (DeepIPR 1 to 3, passport-aware normalization), or read a signature back: docs/passports.md.

    # once: the owner's key, of which passports and signature are drawn
    python make_claim.py --new_owner_key runs/owner.key
    # layer3 of ResNet-20 on digits, 384 bits, seconds an epoch on 2 CPU cores
    echo '{"layer3.*": true, "layer3.2.conv2": "Jane Doe"}' > runs/passports.json
    python main_passport.py --scheme pan --epochs 20 --lr 0.05 --passport_config runs/passports.json \
        --owner runs/owner.key --owner_name "Jane Doe" --save_dir runs/passports
    # what a model shows of it, an attacked one too
    python main_attack.py prune --level 0.3 --checkpoint runs/passports/released.pth.tar --save_dir runs/passports_pruned
    python main_passport.py --evaluate --pretrained runs/passports_pruned/attacked.pth.tar --passports runs/passports/passports.pt

    # on a winning ticket, whose mask is kept; with group norm, since the branches of DeepIPR 2 and 3 share statistics
    python main_passport.py --scheme deepipr1 --epochs 20 --lr 0.01 --mask_dir runs/digits/ticket.pth.tar \
        --owner runs/owner.key --owner_name "Jane Doe" --save_dir runs/passports_ticket
    python main_passport.py --scheme deepipr3 --norm_type gn --epochs 20 --lr 0.01 --trigger_set keyed \
        --trigger_key runs/trigger.key --owner runs/owner.key --owner_name "Jane Doe" --save_dir runs/deepipr3

The run directory holds released.pth.tar, a plain network of the registry and all that is handed out; passports.pt, the owner's secret;
and what trainings leave, with the accuracy of the private branch and the signature's bits in metrics.csv, curve.png and
result.json. The other files there are the owner's too.
"""

import os
import sys
from collections.abc import Sequence

if __name__ == "__main__":  # a fault before main() must not end with 1, which is a verdict
    sys.excepthook = lambda *fault: os._exit(sys.__excepthook__(*fault) or 3)
    import utils  # noqa: F401  refuses a Python that is too old

from datasets import DATASETS, TRIGGER_SETS
from models import ARCHITECTURES
from passports import KEY_TYPES, SCHEMES, VECTOR
from utils import cli

GROUP_NORM = "_gn"  # ends the names of networks with it


def parse_args(argv: Sequence[str] | None):
    parser = cli.ArgumentParser(__doc__)
    cli.add_model_and_data_flags(parser, ARCHITECTURES, DATASETS)
    cli.add_training_flags(parser)
    cli.add_run_flags(parser, save_dir_required=False)
    cli.add_ticket_flags(parser, mask_required=False)

    group = parser.add_argument_group("passports")
    group.add_argument("--scheme", choices=sorted(SCHEMES), default=None,
                       help="; ".join(f"{name}: {scheme.help}" for name, scheme in SCHEMES.items()))
    group.add_argument("--passport_config", type=cli.path, default=None, metavar="JSON",
                       help='which layers have passports, and texts: {"layer3.*": true, "layer3.2.conv2": "text"}, or a file of '
                            "DeepIPR's (default: every layer with a norm but the stem, no texts)")
    group.add_argument("--key_type", choices=sorted(KEY_TYPES), default=VECTOR,
                       help="where passports come from: " + "; ".join(f"{name}: {text}" for name, text in KEY_TYPES.items()))
    group.add_argument("--sign_loss", type=cli.non_negative_float, default=0.1, metavar="W", help="weight of the sign loss")
    group.add_argument("--norm_type", choices=("bn", "gn"), default=None,
                       help="batch or group norm: that variant of --arch (default: as --arch says)")
    group.add_argument("--owner", type=cli.path, default=None, metavar="FILE",
                       help="the owner's private key (make_claim.py --new_owner_key): the nonce of everything secret comes from it")
    group.add_argument("--owner_name", type=cli.utf8_text, default=None, metavar="NAME", help="as in make_claim.py --owner")
    group.add_argument("--passports", type=cli.path, default=None, metavar="FILE", help="with --evaluate: the owner's passports.pt")

    cli.add_trigger_flags(parser, TRIGGER_SETS, default=None)
    parser.add_argument("--trigger_per_batch", type=cli.positive_int, default=2, metavar="N",
                        help="trigger pictures among the --batch_size pictures of every step")
    args = parser.parse_args(argv)
    cli.check_trigger_flags(parser, args, TRIGGER_SETS)
    if args.evaluate != (args.passports is not None):
        parser.error("argument --passports: comes with --evaluate, and --evaluate with its --passports")
    for flag in () if args.evaluate else ("scheme", "owner", "owner_name", "save_dir"):
        if getattr(args, flag) is None:
            parser.error(f"argument --{flag}: is needed for training")
    if args.pretrained is None and args.mask_dir is None and (args.evaluate or args.key_type in ("image", "shuffle")):
        parser.error("argument --pretrained: is needed: the model that is read" if args.evaluate else
                     f"argument --key_type: {args.key_type} needs the weights that pictures go through; give --pretrained")
    if args.scheme and SCHEMES[args.scheme].triggers and args.trigger_set is None:
        parser.error(f"argument --scheme: {args.scheme} needs --trigger_set")
    if args.trigger_per_batch >= args.batch_size:
        parser.error(f"argument --trigger_per_batch: must be below --batch_size {args.batch_size}")
    if args.norm_type:
        args.arch = args.arch.removesuffix(GROUP_NORM) + (GROUP_NORM if args.norm_type == "gn" else "")
        if args.arch not in ARCHITECTURES:
            parser.error(f"argument --norm_type: there is no {args.arch}")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)

    from dataclasses import replace

    from datasets import load_triggers
    from datasets.trigger import export, with_triggers
    from passports.attachment import attach, released
    from passports.files import write_passports
    from passports.training import PassportEngine, PrivateBranch, Signature
    from pruner import tickets
    from pruner.experiment import draw_clouds, prepare
    from pruner.masks import MaskedWeights
    from utils import checkpoint
    from utils.run_dir import RunDir

    experiment = prepare(args)
    data, model = experiment.data, experiment.engine.model
    mask = load_weights(args, model)
    if args.evaluate:
        return evaluate(args, experiment)

    # what nobody chose, or what is secret at least; then the network is whatever it was, with a private branch
    draw, vectors = draw_passports(args, experiment, mask)
    triggers = load_triggers(args, data.num_classes, data.train.side) if args.trigger_set else None
    if triggers:
        data = with_triggers(data, triggers, args.trigger_per_batch)
    inputs = {**replace(experiment, data=data).fingerprints(), "owner (public key)": draw.owner_key.hex(), "texts": dict(draw.texts)}
    passports = attach(model, args.scheme, draw, vectors)
    masked = MaskedWeights(model, mask) if mask else None
    engine = PassportEngine(model, experiment.engine.device, passports, args.sign_loss, args.compile, args.amp)
    private = {"private": PrivateBranch(data.test)} | ({"private_trigger": PrivateBranch(data.probes["trigger"])} if triggers else {})
    data = replace(data, probes={**data.probes, **(private if passports.scheme.public else {}), "signature": Signature()})

    bits = sum(len(model.get_submodule(layer).weight) for layer in draw.texts)
    print(f"passports: {args.scheme}, {args.key_type}, {len(draw.texts)} layers, {bits} bits", flush=True)
    files = RunDir(args.save_dir)
    files.open("main_passport.py", {**vars(args), **inputs})
    if triggers:
        export(triggers, files.triggers, resume=True)
    trained = engine.fit(data, experiment.protocol, files, args.seed, masked, facts=experiment.facts, title=f"{args.scheme} passports")

    # the best epoch in two files: the owner's, and what is handed out
    best = checkpoint.load(files.best)["state_dict"]
    model.load_state_dict(masked.unpack(best) if masked else best)
    draw_clouds(engine, data, files)
    if not files.passports.exists():
        write_passports(files.passports, args.scheme, args.key_type, passports)
    tickets.write_weights(files.released, released(model), experiment.facts, mask)
    size = mask.size if mask else {}
    checkpoint.save_json({**trained.in_columns(), **size, "scheme": args.scheme, "key_type": args.key_type, "bits": bits,
                          "layers": list(draw.texts), "seed": args.seed, "model": str(files.released)}, files.result)
    print(f"\ntest accuracy: {trained.test_acc:.2f}% (epoch {trained.best_epoch}, the best on validation with {trained.val_acc:.2f}%), "
          + ", ".join(f"{name.removesuffix('_acc').replace('_', ' ')} {value:.2f}%" for name, value in trained.probes.items()
                      if name.endswith("_acc")))
    print_signature(draw, vectors, model)
    print(f"hand out: {files.released}\nkeep:     {files.passports} (secret, as is all else in {files.folder})\nplot:     {files.curve}")
    return cli.EXIT_OK


def load_weights(args, model):
    """Give the model the weights that the flags name; the ticket's mask, None without one."""
    from pruner import tickets
    from pruner.key_mask.split import load_ticket

    if args.mask_dir:
        ticket = load_ticket(args.mask_dir, None, args.pretrained, model, head=args.fc)
        model.load_state_dict({**ticket.weights, **{f"{layer}.weight": ticket.weights[f"{layer}.weight"] * kept
                                                    for layer, kept in ticket.mask.items()}})
        return ticket.mask
    if args.pretrained:
        model.load_state_dict(tickets.read_model_file(args.pretrained, model, args.fc).need_weights("--pretrained"))
    return None


def draw_passports(args, experiment, mask):
    """(what everything secret is drawn from, layer -> vectors) for the weights that the model has now."""
    from models import STEM
    from ownership.claims.commitment import nonce_of, read_owner_key
    from passports.config import read_config
    from passports.draw import LABEL, Draw, as_text
    from passports.layers import normed_layers
    from passports.vectors import make_vectors
    from pruner.key_mask.split import fingerprint
    from pruner.masks import Mask
    from utils.errors import UserError

    model = experiment.engine.model
    texts = read_config(args.passport_config, model) if args.passport_config else {
        layer: "" for layer in normed_layers(model) if layer != STEM}
    if args.key_type == VECTOR and STEM in texts:
        raise UserError(f"--passport_config {args.passport_config}: the stem {STEM} is in no mask, so a verdict does not look at it; "
                        f"leave it out, or take another --key_type than {VECTOR}")
    with cli.named("--owner"):
        owner_key = read_owner_key(args.owner)
    ticket_sha256 = fingerprint(mask or Mask.dense(model), model.state_dict())
    nonce = nonce_of(owner_key, LABEL, args.owner_name, args.arch, ticket_sha256, as_text(texts))
    draw = Draw(owner_key.public_key().public_bytes_raw(), args.owner_name, nonce, args.arch, ticket_sha256, texts)
    density = {layer: float(kept.float().mean()) for layer, kept in (mask or {}).items()}
    return draw, make_vectors(args.key_type, draw, model, experiment.data.train, density)


def evaluate(args, experiment) -> int:
    """Print what the model shows of the owner's passports."""
    from passports.attachment import attach
    from passports.files import read_passports
    from passports.training import PassportEngine, PrivateBranch

    with cli.named("--passports"):
        file = read_passports(args.passports, args.arch)
    plain, data, model = experiment.engine, experiment.data, experiment.engine.model
    for split in ("val", "test"):
        print(f"{split}: {plain.evaluate(getattr(data, split))[1]:.2f}%", flush=True)
    passports = attach(model, file.scheme, file.draw, file.vectors)
    passports.load_state_dict(file.private)
    engine = PassportEngine(model, plain.device, passports, args.sign_loss, amp=args.amp)
    print(f"private branch on test: {engine.evaluate(PrivateBranch(data.test))[1]:.2f}%")
    print_signature(file.draw, file.vectors, model)
    return cli.EXIT_OK


def print_signature(draw, vectors, model) -> None:
    """How much of the signature the weights show, and the texts as they read."""
    from passports.signature import read_signature, total

    weights = {layer: model.get_submodule(layer).weight.detach().cpu() for layer in draw.texts}
    readings = read_signature(draw, vectors, weights)
    right, bits = total(readings)
    print(f"signature: {right} of {bits} bits" + "".join(f"\n  {layer}: {one.right} of {one.bits}, text {one.text!r}"
                                                        for layer, one in readings.items() if draw.texts[layer]))


if __name__ == "__main__":
    cli.run(main)
