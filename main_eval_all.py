r"""Retrain or evaluate a ticket: whole, with a key mask split off (scheme V1), put together again, or transferred.

    # the signed ticket of embed_qrcode.py's example, seconds on 2 CPU cores
    python main_eval_all.py --dataset digits --arch res20s --epochs 10 --pretrained runs/digits/epoch_3.pth.tar \
        --mask_dir runs/digits_signed/*.weight_mask.pth.tar \
        --type identity --save_dir runs/digits_signed

    # scheme V1: 5% of the ticket become the key, the locked rest is trained; key.pth.tar and locked.pth.tar stay
    python main_eval_all.py --dataset digits --arch res20s --epochs 10 --mask_dir runs/digits/ticket.pth.tar \
        --type ewp --key_ratio 0.05 --save_dir runs/digits_locked
    # the same, with a part of the key that a hash picks, so that it proves something before a court
    python make_claim.py --new_owner_key runs/owner.key
    python main_eval_all.py --dataset digits --arch res20s --epochs 10 --mask_dir runs/digits/ticket.pth.tar \
        --type ewp --key_ratio 0.05 --owner runs/owner.key --save_dir runs/digits_locked_drawn
    # with the key, the ticket is the whole one again; with a forged key (fake1) it is not
    python main_eval_all.py --dataset digits --arch res20s --epochs 10 --mask_dir runs/digits_locked/locked.pth.tar \
        --key runs/digits_locked/key.pth.tar --save_dir runs/digits_merged
    python main_eval_all.py --dataset digits --arch res20s --epochs 10 --mask_dir runs/digits_locked/locked.pth.tar \
        --add-back --save_dir runs/digits_forged

    # the paper's commands, scheme V1 and V2 (Table 2: ResNet-20 on CIFAR-10, 91.37% with the code, 91.66% without)
    python -u main_eval_all.py --data datasets/cifar10 --dataset cifar10 --arch res20s \
        --save_dir res20s_cifar10_lt_extreme --pretrained res20s_cifar10_lt_0.2/epoch_3.pth.tar \
        --mask_dir res20s_cifar10_extreme.pth.tar --fc --num-paths 1000 --type ewp --prune-type lt
    python -u main_eval_all.py --data datasets/cifar10 --dataset cifar10 --arch res20s --save_dir res20s_cifar10_lt_qr \
        --pretrained ownership/epoch_3.pth.tar \
        --mask_dir ownership/res20s_cifar10_qrcode_layer2.1.conv1.weight_mask.pth.tar \
        --fc --prune-type lt --type identity --save_model

The run directory holds checkpoint.pth.tar (last epoch; the same command resumes from it), model_best.pth.tar (best
validation epoch: the model to hand out), metrics.csv, curve.png and result.json.
"""

import os
import sys
from collections.abc import Sequence

if __name__ == "__main__":  # a fault before main() must not end with 1, which is a verdict
    sys.excepthook = lambda *fault: os._exit(sys.__excepthook__(*fault) or 3)
    import utils  # noqa: F401  refuses a Python that is too old

from datasets import DATASETS
from models import ARCHITECTURES
from pruner import PATH_SPLITS, SPLITS, WALK_SPLITS
from utils import cli


def parse_args(argv: Sequence[str] | None):
    parser = cli.ArgumentParser(__doc__)
    cli.add_model_and_data_flags(parser, ARCHITECTURES, DATASETS)
    cli.add_training_flags(parser)
    cli.add_run_flags(parser, save_dir_required=False)

    group = cli.add_ticket_flags(parser)
    group.add_argument("--new_stem", action="store_true",
                       help="start with a fresh stem (conv1) too: with --no_fc the published code's transfer")

    # scheme V1 (paper, section 3.3.1, Algorithm 1)
    group = parser.add_argument_group("key mask (scheme V1)")
    group.add_argument("--type", choices=sorted(SPLITS), default="identity", dest="split",
                       help="what goes into the key: " + "; ".join(f"{name}: {text}" for name, text in SPLITS.items()))
    group.add_argument("--key_ratio", type=cli.ratio, default=None, metavar="R",
                       help="the key's share of the ticket's weights, met exactly")
    # the text scores by "the multiplication of weights along the paths" and takes the highest; its code walks
    group.add_argument("--select", choices=("walks", "ranked"), default=None,
                       help="ewp, random_path: ranked takes the kernels that score highest, as in the paper's Algorithm 1; walks, as "
                            "its published code and so its numbers, all kernels that walks from layer to layer step on, each hop "
                            "drawn by the kernels' strengths (ewp) or evenly (default: ranked, and walks with --num_paths alone, "
                            "as in the paper's command)")
    group.add_argument("--num_paths", type=cli.positive_int, default=None, metavar="N",
                       help="walks, whose kernels are the key, instead of --key_ratio; or paths to draw for ewp_sampled and "
                            "random_path (default: 1000, and more where they do not fill the key), and with --select ranked "
                            "and no --key_ratio, for ewp too, the key is all that lies on them")
    group.add_argument("--betweenness_samples", type=cli.positive_int, default=None, metavar="K",
                       help="estimate betweenness from K source channels (default: exact)")
    group.add_argument("--score_pictures", type=cli.positive_int, default=1000, metavar="N",
                       help="training pictures for taylor1_abs, hessian_abs and intgrads")
    group.add_argument("--owner", type=cli.path, default=None, metavar="FILE",
                       help="the owner's private key (make_claim.py --new_owner_key): of the key mask, so many weights as --drawn "
                            "says are picked by a hash of ticket, owner and a nonce, which nobody can foresee; a verdict counts "
                            "these alone (docs/verification.md)")
    group.add_argument("--drawn", type=cli.positive_int, default=None, metavar="N",
                       help="with --owner: weights that the hash picks (default: 256)")
    group.add_argument("--key", type=cli.path, default=None, metavar="FILE",
                       help="put this key back into the locked ticket given as --mask_dir before training")
    group.add_argument("--add_back", action="store_true",
                       help="put a forged key into the locked ticket (attack fake1): as many weights as the true key "
                            "has, at random positions")
    group.add_argument("--forged_scale", type=cli.positive_float, default=0.01, metavar="S",
                       help="standard deviation of a forged key's weights")
    args = parser.parse_args(argv)
    if args.save_dir is None and not args.evaluate:
        parser.error("argument --save_dir: is needed for training")
    budgets = [name for name in ("key_ratio", "num_paths") if getattr(args, name) is not None]
    by_paths = args.split in PATH_SPLITS
    if args.split == "identity" and budgets:
        parser.error(f"argument --{budgets[0]}: --type identity splits nothing off; name a score")
    if args.split != "identity" and args.key_ratio is None and not (by_paths and args.num_paths):
        parser.error(f"argument --type: {args.split} needs --key_ratio" + (" or --num_paths" if by_paths else ""))
    if args.select and args.split not in WALK_SPLITS:
        parser.error(f"argument --select: means nothing to --type {args.split}; leave it out")
    if args.select is None and args.split in WALK_SPLITS:
        args.select = "ranked" if args.key_ratio is not None else "walks"
    if args.select == "walks" and len(budgets) == 2:
        parser.error("argument --num_paths: says how many walks, and --key_ratio to which share; give one of the two")
    if args.owner is not None and args.key_ratio is None:
        parser.error("argument --owner: draws a part of a key mask; needs --type and --key_ratio")
    if args.drawn is not None and args.owner is None:
        parser.error("argument --drawn: needs --owner, whose key the hash is of")
    if args.owner is not None and args.drawn is None:
        args.drawn = 256
    if args.key and (args.split != "identity" or args.add_back):
        parser.error("argument --key: puts a ticket together; leave out --type and --add_back")
    if args.evaluate and args.split != "identity":
        parser.error("argument --evaluate: measures a ticket as it is; leave out --type")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)

    from dataclasses import replace

    from attacks.fake1 import forge_key
    from models import STEM
    from pruner.key_mask import split as key_masks
    from pruner.experiment import draw_clouds, prepare
    from pruner.masks import MaskedWeights
    from utils import checkpoint
    from utils.errors import UserError
    from utils.run_dir import RunDir

    experiment = prepare(args)
    engine, data = experiment.engine, experiment.data

    # the ticket as it was handed over, put together with its key if there is one
    whole = key_masks.load_ticket(args.mask_dir, args.key, args.pretrained, engine.model, head=args.fc)
    if args.new_stem:
        fresh = engine.model.state_dict()[f"{STEM}.weight"].clone()
        whole = replace(whole, weights={**whole.weights, f"{STEM}.weight": fresh})
    engine.model.load_state_dict(whole.weights)
    # its owner splits it: from here on only the locked part is trained
    ticket, drawn = whole, None
    if args.split != "identity":
        key, locked = split(args, experiment, whole.mask)
        if args.owner:  # a part that nobody can foresee
            key, locked, drawn = draw(args, whole, key)
        ticket = replace(whole, mask=locked, missing=key.nonzeros, split=split_name(args))
    # a thief forges the key
    if args.add_back:
        if not ticket.missing:
            raise UserError(f"--add_back: {args.mask_dir} is no locked ticket (part 'locked' of a split one); give "
                            "locked.pth.tar, or --type to split")
        mask, weights = forge_key(ticket.mask, ticket.weights, ticket.missing, args.forged_scale, args.seed)
        engine.model.load_state_dict(weights)
    else:
        mask = ticket.mask
    masked = MaskedWeights(engine.model, mask)
    masked.apply()

    parts = {"split": ticket.split, "key_nonzeros": ticket.missing or None, "key_ratio": ticket.missing_share}
    print(f"ticket: {100 * mask.density:.3f}% of {mask.entries} weights ({mask.nonzeros})", flush=True)
    if ticket.missing:
        print(f"{'forged' if args.add_back else 'missing'} key: {ticket.missing} weights, "
              f"{100 * ticket.missing_share:.3f}% of the whole ticket", flush=True)
    if args.evaluate:
        for name in ("val", "test"):
            loss, accuracy = engine.evaluate(getattr(data, name))
            print(f"{name}: {accuracy:.2f}%, loss {loss:.4f}")
        return cli.EXIT_OK

    files = RunDir(args.save_dir)
    inputs = {f"{flag} (sha256)": checkpoint.sha256(getattr(args, flag))
              for flag in ("mask_dir", "pretrained", "key") if getattr(args, flag)}
    if drawn is not None:
        inputs["owner (public key)"] = drawn.owner_key.hex()
    files.open("main_eval_all.py", {**vars(args), **experiment.fingerprints(), **inputs})
    if args.split != "identity" and not files.locked.exists():
        key_masks.write_split(files.key, files.locked, key, locked, whole.weights,
                              {**experiment.facts, "split": ticket.split}, drawn)
    trained = engine.fit(data, experiment.protocol, files, args.seed, masked, facts={**experiment.facts, **mask.size},
                         title=f"ticket at {100 * mask.density:.2f}%")
    draw_clouds(engine, data, files)
    checkpoint.save_json({**trained.in_columns(), **mask.size, **parts, "merged": args.key is not None, "forged": args.add_back,
                          "arch": args.arch, "dataset": args.dataset, "seed": args.seed, "model": str(files.best)}, files.result)
    print(f"\ntest accuracy: {trained.test_acc:.2f}% (epoch {trained.best_epoch}, the best on validation with "
          f"{trained.val_acc:.2f}%), {trained.test_acc_last:.2f}% after the last epoch\n"
          f"model: {files.best}\nplot:  {files.curve}")
    if args.split != "identity":
        print(f"key:   {files.key}\nlock:  {files.locked}")
    print(f"to hand out: what scripts/hand_out.py makes of {f'{files.locked} or ' if args.split != 'identity' else ''}{files.best}, nothing else of {files.folder}")
    return cli.EXIT_OK


def split(args, experiment, mask):
    """(key, locked) of the mask, by the score and budget in the flags; the model holds the ticket's weights."""
    from pruner.key_mask import split as key_masks
    from pruner.key_mask.scores import PATH_SCORES, SCORES, WALKS, Scoring

    sample = experiment.data.limited(min(args.score_pictures, len(experiment.data.train)), args.seed).train
    scoring = Scoring(experiment.engine.model, mask, sample.floats(), sample.labels, args.seed, args.num_paths or 1000,
                      args.betweenness_samples, args.key_ratio and key_masks.key_size(mask, args.key_ratio))
    walks = args.select == "walks"
    if args.key_ratio is None:
        return key_masks.split_visited(mask, (WALKS if walks else PATH_SCORES)[args.split](scoring))
    return key_masks.split(mask, (WALKS if walks else SCORES)[args.split](scoring), args.key_ratio, args.drawn or 0)


def draw(args, whole, scored):
    """(key, locked, what was drawn): the key is what was scored and what the hash picks beside it."""
    from ownership.claims.commitment import nonce_of, read_owner_key
    from pruner.key_mask import split as key_masks
    from pruner.masks import Mask

    with cli.named("--owner"):
        owner_key = read_owner_key(args.owner)
    ticket_sha256 = key_masks.fingerprint(whole.mask, whole.weights)
    key, drawn = key_masks.draw(whole.mask, ticket_sha256, scored, args.drawn, owner_key.public_key().public_bytes_raw(),
                                nonce_of(owner_key, key_masks.LABEL, ticket_sha256))
    return key, Mask({name: whole.mask[name] & ~key[name] for name in key}), drawn


def split_name(args) -> str:
    """What files and results call the way of splitting."""
    return f"{args.split}_walks" if args.select == "walks" else args.split


if __name__ == "__main__":
    cli.run(main)
