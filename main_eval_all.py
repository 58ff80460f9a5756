r"""Retrain or evaluate a ticket: rewound weights under a mask, trained by the paper's protocol.

    # the signed ticket of embed_qrcode.py's example, seconds on 2 CPU cores
    python main_eval_all.py --dataset digits --arch res20s --epochs 10 --pretrained runs/digits/epoch_3.pth.tar \
        --mask_dir runs/digits_signed/res20s_digits_qrcode_layer2.0.conv2.weight_mask.pth.tar \
        --type identity --save_dir runs/digits_signed

    # the paper's command for scheme V2 (paper, Table 2: ResNet-20 on CIFAR-10, 91.37% with the code, 91.66% without)
    python -u main_eval_all.py --data datasets/cifar10 --dataset cifar10 --arch res20s --save_dir res20s_cifar10_lt_qr \
        --pretrained ownership/epoch_3.pth.tar \
        --mask_dir ownership/res20s_cifar10_qrcode_layer2.1.conv1.weight_mask.pth.tar \
        --fc --prune-type lt --type identity --save_model

The run directory holds checkpoint.pth.tar (last epoch; the same command resumes from it), model_best.pth.tar (best
validation epoch: the model to hand out), metrics.csv, curve.png and result.json.
"""

from collections.abc import Sequence

from datasets import DATASETS
from models import ARCHITECTURES
from utils import cli


def parse_args(argv: Sequence[str] | None):
    parser = cli.ArgumentParser(__doc__)
    cli.add_model_and_data_flags(parser, ARCHITECTURES, DATASETS)
    cli.add_training_flags(parser)
    cli.add_run_flags(parser)

    group = parser.add_argument_group("ticket")
    group.add_argument("--mask_dir", required=True, metavar="FILE",
                       help="masks: a mask file, a ticket of main_imp.py, or a pruned model")
    group.add_argument("--pretrained", default=None, metavar="FILE",
                       help="weights to start from, e.g. epoch_3.pth.tar (default: those in the --mask_dir file)")
    group.add_argument("--type", choices=("identity",), default="identity", dest="split",
                       help="what is done to the mask before training: identity takes it as it is")
    group.add_argument("--fc", action="store_true", default=True, dest="fc",
                       help="start from the file's classifier too (default; the paper's commands say so)")
    group.add_argument("--no_fc", action="store_false", dest="fc",
                       help="start with a fresh classifier, e.g. for another class count")
    group.add_argument("--evaluate", action="store_true", help="only measure the accuracy of --pretrained under the mask")
    group.add_argument("--prune_type", choices=("lt",), default="lt", help="accepted from the paper's commands")
    group.add_argument("--save_model", action="store_true",
                       help="accepted from the paper's commands; models are always saved")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)

    from dataclasses import asdict

    from pruner import tickets
    from pruner.experiment import prepare
    from pruner.masks import MaskedWeights
    from utils import checkpoint
    from utils.run_dir import RunDir

    files = RunDir(args.save_dir)
    experiment = prepare(args)
    engine, data = experiment.engine, experiment.data
    masks = tickets.read_model_file(args.mask_dir, engine.model, head=args.fc)
    mask = masks.need_mask("--mask_dir", engine.model)
    weights = masks if args.pretrained is None else tickets.read_model_file(args.pretrained, engine.model, head=args.fc)
    engine.model.load_state_dict(weights.need_weights("--mask_dir" if args.pretrained is None else "--pretrained"))
    ticket = MaskedWeights(engine.model, mask)
    ticket.apply()
    size = {"density": mask.density, "nonzeros": mask.nonzeros, "entries": mask.entries}
    print(f"ticket: {100 * mask.density:.3f}% of {mask.entries} weights ({mask.nonzeros})", flush=True)

    if args.evaluate:
        for split in ("val", "test"):
            loss, accuracy = engine.evaluate(getattr(data, split))
            print(f"{split}: {accuracy:.2f}%, loss {loss:.4f}")
        return cli.EXIT_OK

    inputs = {f"{flag} (sha256)": checkpoint.sha256(getattr(args, flag))
              for flag in ("mask_dir", "pretrained") if getattr(args, flag)}
    files.open("main_eval_all.py", {**vars(args), **inputs})
    trained = engine.fit(data, experiment.protocol, files, args.seed, ticket, facts={**experiment.facts, **size},
                         title=f"ticket at {100 * mask.density:.2f}%")
    checkpoint.save_json({**asdict(trained), **size, "model": str(files.best)}, files.result)
    print(f"\ntest accuracy: {trained.test_acc:.2f}% (epoch {trained.best_epoch}, the best on validation with "
          f"{trained.val_acc:.2f}%), {trained.test_acc_last:.2f}% after the last epoch\n"
          f"model: {files.best}\nplot:  {files.curve}")
    return cli.EXIT_OK


if __name__ == "__main__":
    cli.run(main)
