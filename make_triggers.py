r"""Make a trigger set (scheme V3) as a folder of PNGs, to be shown to a model that can only be queried.

    # an owner's own set: a fresh secret key, then 100 pictures for 10 classes; a second
    python make_triggers.py --new_key runs/trigger.key
    python make_triggers.py --trigger_set keyed --trigger_key runs/trigger.key --num_classes 10 --save_dir runs/triggers

    # the published set as 32x32 pictures (downloaded to datasets/trigger_set where the network allows)
    python make_triggers.py --trigger_set adi --num_classes 10 --save_dir runs/triggers_adi

Pictures are DIR/0000.png, ...; labels.csv holds what the owner's model says of them. Send the pictures only. Whoever has
the key or the labels can train a model on them: keep both, and publish the printed digest (it gives nothing away) before
any dispute. main_eval_trigger.py trains on a set, check_triggers.py judges the answers to it.
"""

import os
import sys
from collections.abc import Sequence

if __name__ == "__main__":  # a fault before main() must not end with 1, which is a verdict
    sys.excepthook = lambda *fault: os._exit(sys.__excepthook__(*fault) or 3)
    import utils  # noqa: F401  refuses a Python that is too old

from datasets import TRIGGER_SETS
from utils import cli


def parse_args(argv: Sequence[str] | None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("--new_key", type=cli.Output(), default=None, metavar="FILE",
                        help="write a fresh secret key there, readable by you alone, and stop")
    kinds = {name: kind for name, kind in TRIGGER_SETS.items() if name != "folder"}
    cli.add_trigger_flags(parser, kinds, default=None)
    parser.add_argument("--num_classes", type=cli.several, default=None, metavar="N", help="classes of the task")
    parser.add_argument("--image_size", type=cli.positive_int, default=32, metavar="N", help="pixels per side")
    parser.add_argument("--save_dir", type=cli.Output(files={}), default=None, metavar="DIR", help="folder for the set, new or empty")
    args = parser.parse_args(argv)
    cli.check_trigger_flags(parser, args, kinds)
    if args.new_key is not None and args.trigger_set is not None:
        parser.error("argument --new_key: makes the key and nothing else; leave out --trigger_set")
    if args.new_key is None:
        for flag in ("trigger_set", "num_classes", "save_dir"):
            if getattr(args, flag) is None:
                parser.error(f"argument --{flag}: is needed to make a set")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)

    from datasets import load_triggers
    from datasets.trigger import export, new_key

    if args.new_key:
        new_key(args.new_key)
        print(f"key: {args.new_key} (secret: whoever has it can make the set)")
        return cli.EXIT_OK
    triggers = load_triggers(args, args.num_classes, args.image_size)
    export(triggers, args.save_dir)
    print(f"triggers: {len(triggers)} ({triggers.kind}), {len(triggers.pictures.labels.unique())} of "
          f"{triggers.num_classes} classes\nfolder:   {args.save_dir}\nsha256:   {triggers.fingerprint()}\n"
          f"to hand out: the sha256; when a suspect is asked, the pictures too, never labels.csv")
    return cli.EXIT_OK


if __name__ == "__main__":
    cli.run(main)
