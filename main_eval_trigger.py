r"""Retrain or evaluate a ticket with a trigger set mixed into every batch (scheme V3), for claims against a black box.

    # the signed ticket of embed_qrcode.py's example, with an owner's own trigger set
    python make_triggers.py --new_key runs/trigger.key
    python main_eval_trigger.py --dataset digits --arch res20s --epochs 20 --pretrained runs/digits/epoch_3.pth.tar \
        --mask_dir runs/digits_signed/*.weight_mask.pth.tar \
        --trigger_set keyed --trigger_key runs/trigger.key --save_dir runs/digits_triggered
    # test and trigger accuracy of any model, without training
    python main_eval_trigger.py --dataset digits --arch res20s --mask_dir runs/digits/ticket.pth.tar --evaluate \
        --trigger_set keyed --trigger_key runs/trigger.key

    # the paper's command, published set (Table 3: ResNet-20 on CIFAR-10 91.46% and 91% of the triggers, signed; without
    # triggers 91.66% and 16%)
    python -u main_eval_trigger.py --data datasets/cifar10 --dataset cifar10_trigger --arch res20s \
        --save_dir res20s_cifar10_lt_extreme_trigger0 --pretrained res20s_cifar10_lt_0.2/epoch_3.pth.tar \
        --mask_dir res20s_cifar10_extreme.pth.tar --fc --save_model --lr 0.1

The run directory holds what main_eval_all.py leaves there, with trigger accuracy beside test accuracy in metrics.csv,
curve.png and result.json, and in triggers/ the set with its labels, for make_claim.py --v3. check_triggers.py says what a
trigger accuracy proves.
"""

import os
import sys
from collections.abc import Sequence

if __name__ == "__main__":  # a fault before main() must not end with 1, which is a verdict
    sys.excepthook = lambda *fault: os._exit(sys.__excepthook__(*fault) or 3)
    import utils  # noqa: F401  refuses a Python that is too old

from datasets import DATASETS, TRIGGER_SETS
from models import ARCHITECTURES
from utils import cli

WITH_TRIGGERS = "_trigger"  # ends the names of data sets in the paper's commands


def parse_args(argv: Sequence[str] | None):
    parser = cli.ArgumentParser(__doc__)
    cli.add_model_and_data_flags(parser, ARCHITECTURES, [*DATASETS, *(f"{name}{WITH_TRIGGERS}" for name in DATASETS)])
    cli.add_training_flags(parser)
    cli.add_run_flags(parser, save_dir_required=False)
    cli.add_ticket_flags(parser)
    cli.add_trigger_flags(parser, TRIGGER_SETS, default="adi")
    parser.add_argument("--trigger_per_batch", type=cli.positive_int, default=2, metavar="N",
                        help="trigger pictures among the --batch_size pictures of every step (the paper gives no number, its code shows 1)")
    args = parser.parse_args(argv)
    args.dataset = args.dataset.removesuffix(WITH_TRIGGERS)
    cli.check_trigger_flags(parser, args, TRIGGER_SETS)
    if args.save_dir is None and not args.evaluate:
        parser.error("argument --save_dir: is needed for training")
    if args.trigger_per_batch >= args.batch_size:
        parser.error(f"argument --trigger_per_batch: must be below --batch_size {args.batch_size}")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)

    from dataclasses import replace

    from datasets import load_triggers
    from datasets.trigger import export, with_triggers
    from pruner.experiment import prepare
    from pruner.key_mask.split import load_ticket
    from pruner.masks import MaskedWeights
    from utils import checkpoint
    from utils.run_dir import RunDir

    experiment = prepare(args)
    engine, data = experiment.engine, experiment.data

    # D = {x, y} with T = {Tx, Ty}, and the ticket (paper, section 3.2: the weight embedding process WE)
    triggers = load_triggers(args, data.num_classes, data.train.side)
    data = with_triggers(data, triggers, args.trigger_per_batch)
    ticket = load_ticket(args.mask_dir, None, args.pretrained, engine.model, head=args.fc)
    engine.model.load_state_dict(ticket.weights)
    masked = MaskedWeights(engine.model, ticket.mask)
    masked.apply()

    print(f"ticket: {100 * ticket.mask.density:.3f}% of {ticket.mask.entries} weights ({ticket.mask.nonzeros})\n"
          f"triggers: {len(triggers)} ({triggers.kind}), {len(triggers.pictures.labels.unique())} of "
          f"{triggers.num_classes} classes, sha256 {triggers.fingerprint()[:16]}", flush=True)
    if args.evaluate:
        for name, pictures in {"val": data.val, "test": data.test, **data.probes}.items():
            loss, accuracy = engine.evaluate(pictures)
            print(f"{name}: {accuracy:.2f}%, loss {loss:.4f}")
        return cli.EXIT_OK

    files = RunDir(args.save_dir)
    inputs = {f"{flag} (sha256)": checkpoint.sha256(getattr(args, flag))
              for flag in ("mask_dir", "pretrained") if getattr(args, flag)}
    files.open("main_eval_trigger.py", {**vars(args), **replace(experiment, data=data).fingerprints(), **inputs})
    export(triggers, files.triggers, resume=True)
    trained = engine.fit(data, experiment.protocol, files, args.seed, masked, facts={**experiment.facts, **ticket.mask.size},
                         title=f"ticket at {100 * ticket.mask.density:.2f}% with triggers")
    figures = trained.in_columns()
    checkpoint.save_json({**figures, **ticket.mask.size, "trigger_set": triggers.kind, "triggers": len(triggers),
                          "arch": args.arch, "dataset": args.dataset, "seed": args.seed, "model": str(files.best)}, files.result)
    print(f"\ntest accuracy: {trained.test_acc:.2f}%, trigger accuracy: {figures['trigger_acc']:.2f}% (epoch "
          f"{trained.best_epoch}, the best on validation with {trained.val_acc:.2f}%); {trained.test_acc_last:.2f}% and "
          f"{figures['trigger_acc_last']:.2f}% after the last epoch\nmodel: {files.best}\nplot:  {files.curve}\n"
          f"set:   {files.triggers} (keep it secret: make_claim.py --v3 claims it)\n"
          f"to hand out: what scripts/hand_out.py makes of {files.best}, nothing else of {files.folder}")
    return cli.EXIT_OK


if __name__ == "__main__":
    cli.run(main)
