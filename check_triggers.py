r"""Check whether a model knows the owner's trigger set (scheme V3, verification), if need be by queries alone.

    # a model file; exit code 0: shown, 1: not shown, 2: bad input
    python check_triggers.py --trigger_dir runs/triggers --arch res20s --checkpoint runs/triggered/model_best.pth.tar

    # what somebody gathered from a service for the exported pictures: a CSV of image,predicted_label
    python check_triggers.py --trigger_dir runs/triggers --predictions gathered.csv --json runs/checked.json
    # before an arbiter, the key shows that the set is the one that the key gives, labels at random
    python check_triggers.py --trigger_dir runs/triggers --predictions gathered.csv --trigger_key runs/trigger.key

    # a service that speaks the Open Inference Protocol (KServe V2); the token is read from the variable TOKEN
    python check_triggers.py --trigger_dir runs/triggers --endpoint http://localhost:8080/v2/models/suspect \
        --token_env TOKEN --save_predictions runs/gathered.csv

    # a public set: compare with an innocent model, by its accuracy on the set or by its predictions
    python check_triggers.py --trigger_dir runs/adi --arch res20s --checkpoint suspect.pth.tar --innocent 0.16

The trigger set is a folder that make_triggers.py exported. Printed are the trigger accuracy, the threshold, and the
exact probability that a model which has nothing to do with the set gets as many right (p-value). What it assumes, and
how to gather predictions: docs/black_box_checks.md. Takes seconds.
"""

import os
import sys
from collections.abc import Sequence
from fractions import Fraction

if __name__ == "__main__":  # a fault before main() must not end with 1, which is a verdict
    sys.excepthook = lambda *fault: os._exit(sys.__excepthook__(*fault) or 3)
    import utils  # noqa: F401  refuses a Python that is too old

from models import ARCHITECTURES
from utils import cli

SOURCES = ("checkpoint", "predictions", "endpoint")


def parse_args(argv: Sequence[str] | None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("--trigger_dir", type=cli.path, required=True, metavar="DIR",
                        help="the exported trigger set, with its labels")
    parser.add_argument("--trigger_key", type=cli.path, default=None, metavar="FILE",
                        help="of a keyed set: check that this key gives this very set")

    group = cli.add_suspect_flags(parser, "--checkpoint", holds="model")
    group.add_argument("--arch", choices=sorted(ARCHITECTURES), default="res20s", help="its network")

    group = parser.add_argument_group("how to ask an --endpoint")
    group.add_argument("--model_name", type=cli.text, default=None, metavar="NAME",
                       help="where the URL names the server only")
    group.add_argument("--output", type=cli.text, default=None, metavar="NAME",
                       help="which of the model's outputs, where it has several")
    group.add_argument("--batch", type=cli.positive_int, default=32, metavar="N", help="most pictures in one request")
    group.add_argument("--input_name", type=cli.text, default=None, metavar="NAME",
                       help="of the model's input, where its metadata do not say (nor, then, the next two)")
    group.add_argument("--input_datatype", choices=("FP32", "FP16", "UINT8"), default=None,
                       help="likewise: values from 0 to 1, or whole numbers to 255")
    group.add_argument("--input_shape", type=cli.listed(int), default=None, metavar="N,N,N,N",
                       help="likewise: -1,3,H,W or -1,H,W,3; instead of -1 the number of pictures that it takes at once")
    group.add_argument("--timeout", type=cli.positive_float, default=600.0, metavar="S",
                       help="seconds for all requests together; pictures that are unanswered then count as wrong")
    group.add_argument("--retries", type=cli.natural, default=3, metavar="N",
                       help="further attempts for each request, later and later, where the connection fails or the service is "
                            "busy (429, 502, 503, 504)")
    group.add_argument("--token_env", type=cli.text, default=None, metavar="VARIABLE",
                       help="environment variable that holds a bearer token for the service")
    group.add_argument("--token_file", type=cli.path, default=None, metavar="FILE", help="file that holds it")

    group = parser.add_argument_group("what to believe")
    group.add_argument("--innocent", type=cli.path, default=None, metavar="SHARE|CSV",
                       help="what an innocent model has right of the same pictures: a share from 0 to 1, or its "
                            "predictions as for --predictions")
    group.add_argument("--alpha", type=cli.ratio, default=1e-9, metavar="P",
                       help="shown means that chance is at most this probable")

    group = parser.add_argument_group("what to keep")
    group.add_argument("--json", type=cli.Output(rb'\{\s*"shown": '), default=None, metavar="FILE", help="write the result for machines")
    group.add_argument("--save_predictions", type=cli.Output(rb"image,predicted_label\r?\n"), default=None, metavar="CSV",
                       help="write the suspect's labels, as --predictions reads them; where an --endpoint left some out, the same "
                            "command asks for those alone")
    args = parser.parse_args(argv)
    given = [f"--{name}" for name in SOURCES if getattr(args, name) is not None]
    if len(given) != 1:
        parser.error(f"{' and '.join(given)} exclude each other; give one" if given else
                     "give the suspect: one of --checkpoint, --predictions, --endpoint")
    for name in ("mean", "std"):
        if getattr(args, name) is not None and (len(getattr(args, name)) != 3 or args.checkpoint is None):
            parser.error(f"argument --{name}: must be three numbers R,G,B, for a --checkpoint")
    for name in ("entry", "rename"):
        if getattr(args, name) is not None and args.checkpoint is None:
            parser.error(f"argument --{name}: is about a --checkpoint")
    for name in ("model_name", "output", "token_env", "token_file", "input_name", "input_datatype", "input_shape"):
        if getattr(args, name) is not None and args.endpoint is None:
            parser.error(f"argument --{name}: is about an --endpoint")
    if args.token_env is not None and args.token_file is not None:
        parser.error("--token_env and --token_file exclude each other; give one")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)

    from datasets.trigger import load_exported
    from ownership.claims.p_values import written
    from ownership.trigger_set import evidence as black_box
    from ownership.trigger_set.endpoint import unfinished
    from utils import checkpoint

    triggers = load_exported(args.trigger_dir)
    if args.trigger_key is not None:
        check_key(args, triggers)
    expected = triggers.pictures.labels.numpy()
    innocent = innocent_accuracy(args.innocent, triggers)
    labels = labels_of_suspect(args, triggers)

    correct = int((labels == expected).sum())
    found = black_box.evidence_of(correct, len(expected), triggers.num_classes, innocent, args.alpha)
    if args.save_predictions:
        black_box.write_predictions(args.save_predictions, triggers.names, labels)
        if (labels >= 0).all():
            unfinished(args.save_predictions).unlink(missing_ok=True)
    if args.json:
        source = next(name for name in SOURCES if getattr(args, name) is not None)
        checkpoint.save_json({"shown": found.shown, **found.as_json(), "kind": triggers.kind,
                              "key_checked": args.trigger_key is not None, "triggers": args.trigger_dir,
                              "triggers_sha256": triggers.fingerprint(), source: getattr(args, source)}, args.json)

    def of_all(number: float) -> str:
        return f"{number:g} of {found.total} ({number / found.total:.2%})"

    print(f"triggers:  {of_all(found.correct)} are right; {triggers.kind} set\n"
          f"chance:    {of_all(found.total / found.num_classes)}")
    if found.innocent_correct is not None:
        print(f"innocent:  {of_all(found.innocent_correct)}")
    print("threshold: " + ("none; there are too few pictures" if found.needed is None else of_all(found.needed))
          + f", for p <= {written(Fraction(args.alpha))}")
    print(f"p-value:   {written(found.p_chance)} that as many are right by chance")
    if found.p_innocent is not None:
        print(f"           {written(found.p_innocent)} that an innocent model is as far above that one")
    if triggers.kind != "keyed":
        print("note:      everybody has this set and its labels: a model that knows it was trained on it, by whomever")
        if args.innocent is None:
            print("           labels that fit what is shown are learned without it: compare with an --innocent model")
    elif args.trigger_key is None:
        print("note:      that labels were drawn at random is the owner's word; --trigger_key checks it")
    print("verdict:   shown: the model knows the triggers" if found.shown else "verdict:   not shown")
    return cli.EXIT_OK if found.shown else cli.EXIT_NO_MATCH


def check_key(args, triggers) -> None:
    """Raise UserError unless the key gives exactly this set, number of classes included."""
    from datasets.trigger import keyed, read_key
    from utils.errors import UserError

    size = triggers.pictures.images.shape[1]
    own = keyed(read_key(args.trigger_key), len(triggers), triggers.num_classes, size)
    if triggers.kind != "keyed" or own.fingerprint() != triggers.fingerprint():
        raise UserError(f"--trigger_key {args.trigger_key}: does not give the set in {args.trigger_dir}; give the key "
                        "that it was made from")


def labels_of_suspect(args, triggers):
    """int64 [pictures]: what the suspect answers."""
    from ownership.trigger_set import evidence as black_box
    from ownership.trigger_set.endpoint import STATED, Kept, Service, model_address, query_endpoint, token_from
    from utils import checkpoint

    names, num_classes = triggers.names, triggers.num_classes
    if args.checkpoint is not None:
        file = checkpoint.read_model(args.checkpoint, entry=args.entry, rename=args.rename)
        return black_box.predict(file, args.arch, num_classes, triggers.pictures, args.mean, args.std)
    if args.predictions is not None:
        return black_box.read_predictions(args.predictions, names, num_classes)
    address = model_address(args.endpoint, args.model_name, has_flag=True)
    service = Service(args.timeout, args.retries, token=token_from(args.token_env, args.token_file))
    stated = {name: getattr(args, f"input_{name}") for name in STATED if getattr(args, f"input_{name}") is not None}
    if "shape" in stated:
        stated["shape"] = list(stated["shape"])
    kept = args.save_predictions and Kept(args.save_predictions, {
        "endpoint": address.url, "output": args.output, "triggers_sha256": triggers.fingerprint()})
    return query_endpoint(address, service, triggers, args.batch, args.output, stated, kept)


def innocent_accuracy(text, triggers):
    """Share of the pictures that an innocent model has right, or None; given as such, or by the model's predictions."""
    from fractions import Fraction

    from ownership.trigger_set.evidence import read_predictions
    from utils.errors import UserError

    if text is None:
        return None
    try:
        share = float(text)
    except ValueError:
        right = read_predictions(text, triggers.names, triggers.num_classes) == triggers.pictures.labels.numpy()
        return Fraction(int(right.sum()), len(right))
    if not 0 <= share <= 1:
        raise UserError(f"--innocent {text}: must be a share from 0 to 1 (16% is 0.16), or a CSV of predictions")
    return share


if __name__ == "__main__":
    cli.run(main)
