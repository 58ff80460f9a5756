r"""What a thief does to a stolen model: remove its signature, or contradict it. Writes the attacked model, measured.

    # the stolen model is the one of main_eval_all.py's first example, 98.6% right; each of these takes about 10 seconds
    # on 2 CPU cores. Prune 20% of the weights that are left: 88.3%, and 20.972% remain, in runs/pruned/attacked.pth.tar
    python main_attack.py prune --checkpoint runs/digits_signed/model_best.pth.tar --level 0.2 --save_dir runs/pruned
    # several levels in one go, a folder for each, attack.csv and attack.png: 93.3% after 5%, a guess after 20%
    python main_attack.py prune --checkpoint runs/digits_signed/model_best.pth.tar --sweep 0,0.05,0.1,0.2,0.5 \
        --how random --save_dir runs/pruned_random
    # noise weights where the ticket has none, at the levels of the paper's Table 8; digits hardly mind: 97.5% at 10%
    python main_attack.py addon --checkpoint runs/digits_signed/model_best.pth.tar --save_dir runs/added \
        --claim runs/digits_signed/*.claim.json
    # without pictures, as a share of the weights that are there
    python main_attack.py addon --checkpoint runs/digits_signed/model_best.pth.tar --share_of surviving \
        --sweep 0.01,0.05,0.1,0.2 --no_accuracy --save_dir runs/added_surviving
    # train on: 98.9%; --free_mask lets pruned weights grow back, another --dataset transfers the model
    python main_attack.py finetune --checkpoint runs/digits_signed/model_best.pth.tar --save_dir runs/tuned
    # another signature over the embedded one, by somebody who knows the place: 93.9%; --insider --noise 0.3: 97.5%
    python main_attack.py fake3 --checkpoint runs/digits_signed/model_best.pth.tar --signature thief \
        --claim runs/digits_signed/*.claim.json --save_dir runs/replaced
    # without the claim: find the block that looks like a code, and empty it
    python main_attack.py locate --checkpoint runs/digits_signed/model_best.pth.tar --save_dir runs/located
    # nothing is changed: a signature is made up that seems to be there; 5 seconds
    python main_attack.py forge --checkpoint runs/digits_signed/model_best.pth.tar --no_accuracy --save_dir runs/forged
    # other ways to a second claim (docs/ambiguity.md): a key, a code that is only added, over the owner's, or beside it
    python main_attack.py forge --by fake1 --checkpoint runs/digits_signed/model_best.pth.tar --save_dir runs/forged_key
    python main_attack.py forge --by resign --checkpoint runs/digits_signed/model_best.pth.tar --signature thief \
        --claim runs/digits_signed/*.claim.json --save_dir runs/resigned
    # the same network with its channels in another order: as accurate as before, and the code is scattered
    python main_attack.py permute --checkpoint runs/digits_signed/model_best.pth.tar --save_dir runs/permuted

    # the paper's Table 6, ResNet-20 on CIFAR-10: 91.25, 90.72, 88.03, 80.08, 36.62% at 5, 10, 20, 30, 50%
    python main_attack.py prune --data datasets/cifar10 --dataset cifar10 --arch res20s \
        --checkpoint res20s_cifar10_lt_qr/model_best.pth.tar --save_dir res20s_cifar10_lt_qr_pruned

Numbers are measured on what was written: a weight counts if it is not zero, in the layers that density is defined on.
The same command goes on where it was killed, fine-tuning after its last epoch; finished levels are skipped.
"""

from collections.abc import Sequence
from typing import Any

from attacks import ATTACKS, FORGERIES
from datasets import DATASETS, TRIGGER_SETS
from models import ARCHITECTURES
from utils import cli

PLACE = ("max_name", "start_x", "start_y")
FORMAT = ("version", "error_correction", "mask_pattern")


def parse_args(argv: Sequence[str] | None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("attack", choices=sorted(ATTACKS),
                        help="; ".join(f"{name}: {attack.help}" for name, attack in ATTACKS.items()))
    parser.add_argument("--checkpoint", type=cli.text, required=True, metavar="FILE",
                        help="the stolen model; with --no_accuracy a mask file will do")
    parser.add_argument("--no_accuracy", action="store_true", help="leave out the accuracy: no pictures are needed")
    parser.add_argument("--claim", type=cli.text, default=None, metavar="FILE",
                        help="the owner's claim (JSON of embed_qrcode.py): what the attack does to the code in there "
                             "joins the results, and fake3 takes place and format from it")
    cli.add_model_and_data_flags(parser, ARCHITECTURES, DATASETS)
    cli.add_training_flags(parser)
    cli.add_run_flags(parser)
    cli.add_trigger_flags(parser, TRIGGER_SETS, default=None)
    # a thief trains for a while, at the rate that training ended with or somewhat above
    parser.set_defaults(epochs=10, lr=0.01)

    group = parser.add_argument_group("how much (prune, addon, fake2, fake1)")
    group.add_argument("--level", type=cli.non_negative_float, default=None, metavar="L",
                       help="prune: share of the surviving weights that goes; addon, fake2: share of the pruned "
                            "entries that is opened (see --share_of); fake1: the key's share of the whole ticket "
                            "(default: as the file of the locked ticket says)")
    group.add_argument("--sweep", type=cli.listed(cli.non_negative_float), default=None, metavar="L,L",
                       help="several levels, 0 for the model as it is (default, without --level: " + "; ".join(
                           f"{name} {','.join(f'{level:g}' for level in attack.levels)}"
                           for name, attack in ATTACKS.items() if attack.levels) + ")")

    group = parser.add_argument_group("how")
    group.add_argument("--how", choices=("magnitude", "random"), default="magnitude",
                       help="prune: the smallest weights of all layers together, or any")
    group.add_argument("--share_of", choices=("pruned", "surviving"), default="pruned",
                       help="addon, fake2: what --level is a share of, the pruned entries (as in the paper) or the "
                            "weights that are there")
    group.add_argument("--noise", type=cli.positive_float, default=0.1, metavar="S",
                       help="addon, fake1, fake2, fake3, locate, forge: standard deviation of the new weights")
    group.add_argument("--then", choices=("clear", "fill"), default="clear",
                       help="locate: empty the block's kernels, or occupy the empty ones with noise weights")
    group.add_argument("--free_mask", action="store_true",
                       help="finetune: let pruned weights grow back (default: they stay zero)")
    group.add_argument("--no_fc", action="store_true",
                       help="finetune: start with a fresh classifier, as is done anyway for another number of classes")

    # paper, Appendix A1; what is in the region afterwards is read by extract_qrcode.py
    group = parser.add_argument_group("another signature (fake3; forge: place and mask pattern by fake3 alone)")
    group.add_argument("--signature", type=cli.utf8_text, default=None, metavar="TEXT", help="the thief's text")
    group.add_argument("--max_name", type=cli.text, default=None, metavar="LAYER",
                       help="layer of the region, e.g. layer2.1.conv1")
    group.add_argument("--start_x", type=cli.natural, default=None, help="first output channel of the region")
    group.add_argument("--start_y", type=cli.natural, default=None, help="first input channel of the region")
    group.add_argument("--version", type=int, choices=range(1, 41), default=None, metavar="1-40",
                       help="QR version (default: the smallest from 3 up that holds the text and fits)")
    group.add_argument("--error_correction", choices=("L", "M", "Q", "H"), default=None, help="QR level (default: H)")
    group.add_argument("--mask_pattern", type=int, choices=range(8), default=None, metavar="0-7",
                       help="QR mask pattern (default: the one that changes the region least)")
    group.add_argument("--insider", action="store_true",
                       help="rewrite only the kernels that differ (default: clear the region, then write)")
    group.add_argument("--weights_per_kernel", type=cli.positive_int, default=None, metavar="N",
                       help="noise weights in each newly occupied kernel (default: as many as the occupied kernels of the "
                            "region have on average; forge --by fake2: of the layer)")

    # paper, section 3.2 (the invert process I) and section 4.4
    group = parser.add_argument_group("a second claim (forge)")
    group.add_argument("--by", choices=sorted(FORGERIES), default="search",
                       help="; ".join(f"{name}: {forgery.help}" for name, forgery in FORGERIES.items()))
    group.add_argument("--budget", type=cli.positive_int, default=1000, metavar="N",
                       help="search, fake2: places and mask patterns to look at")
    group.add_argument("--length", type=cli.positive_int, default=11, metavar="BYTES", help="search: of the text")
    group.add_argument("--key_ratio", type=cli.ratio, default=None, metavar="R",
                       help="fake1: the key's share of the whole ticket (default: as the file of a locked ticket says, else "
                            "0.05)")
    group.add_argument("--top_up", action="store_true",
                       help="fake2: add weights to kernels at the code's ones that hold fewer than --weights_per_kernel, too")
    args = parser.parse_args(argv)

    attack, who = ATTACKS[args.attack], args.attack
    settings, has_pictures = attack.settings, not args.no_accuracy
    if args.attack == "forge":
        forgery, who = FORGERIES[args.by], f"forge --by {args.by}"
        settings, has_pictures = (*settings, *forgery.settings), has_pictures and forgery.writes
    cli.check_trigger_flags(parser, args, TRIGGER_SETS)
    if args.trigger_set and not has_pictures:
        parser.error("argument --trigger_set: is measured with the pictures; " +
                     ("leave out --no_accuracy" if args.no_accuracy else f"{who} changes no model and needs none"))
    for flag in dict.fromkeys(flag for other in (*ATTACKS.values(), *FORGERIES.values()) for flag in other.settings):
        if flag not in settings and getattr(args, flag) != parser.get_default(flag):
            parser.error(f"argument --{flag}: means nothing to {who}; leave it out")
    for flag in ("level", "sweep"):
        if getattr(args, flag) is not None and not attack.has_level:
            parser.error(f"argument --{flag}: {args.attack} is no matter of degree; leave it out")
    if args.level is not None and args.sweep is not None:
        parser.error("argument --sweep: names the levels; leave out --level")
    if args.sweep == ():
        parser.error("argument --sweep: names no level")
    if args.attack == "finetune" and args.no_accuracy:
        parser.error("argument --no_accuracy: finetune needs pictures")
    if "signature" in settings and args.signature is None:
        parser.error(f"argument --signature: {who} needs the text to write")
    if set(PLACE) <= set(settings):
        given = [flag for flag in (*PLACE, *FORMAT) if getattr(args, flag) is not None]
        if args.claim and given:
            parser.error(f"--claim says --{given[0]} already; give one of the two")
        missing = [f"--{flag}" for flag in PLACE if flag not in given]
        located = args.attack == "forge" and len(missing) == len(PLACE)
        if not args.claim and missing and not located:
            parser.error(f"without --claim, {' and '.join(missing)} must say where {who} writes")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)

    from dataclasses import replace

    from attacks.victim import class_count, read_victim
    from datasets.trigger import following
    from models import build_model
    from pruner.experiment import prepare
    from utils import checkpoint, plots
    from utils.errors import UserError
    from utils.run_dir import AttackFiles, RunDir

    # what the thief has: a model, and pictures to see what an attack costs
    attack, classes = ATTACKS[args.attack], class_count(args.checkpoint)
    forgery = FORGERIES[args.by] if args.attack == "forge" else None
    experiment = None if args.no_accuracy or (forgery and not forgery.writes) else prepare(args)
    model = experiment.engine.model if experiment else build_model(args.arch, classes or 2)
    own_head = not args.no_fc
    if experiment and classes not in (None, experiment.data.num_classes):
        if args.attack != "finetune":
            raise UserError(f"--dataset {args.dataset}: has {experiment.data.num_classes} classes, the model in "
                            f"{args.checkpoint} {classes}; name the pictures it was trained on, or give --no_accuracy")
        own_head = False
    triggers = None
    if args.trigger_set:
        from datasets import load_triggers

        triggers = load_triggers(args, classes or experiment.data.num_classes, experiment.data.train.images.shape[1])
        if own_head:
            experiment = replace(experiment, data=following(experiment.data, triggers))
    needs_weights = experiment is not None or (args.attack == "prune" and args.how == "magnitude") \
        or (forgery is not None and forgery.claims == "V1")
    victim = read_victim(args.checkpoint, model, own_head, needs_weights)
    if args.attack == "fake3" or (args.by == "fake3" and args.claim):
        vars(args).update(place_and_format(args, victim.mask))
    if forgery:
        return forge_claim(args, victim, experiment, triggers)
    if attack.has_level:
        vars(args).update(level_or_sweep(args, victim.key_share))
    levels = (args.level,) if args.sweep is None else args.sweep
    # what can't be done is refused before anything is written: a claim about another model, or too high a level
    read_claimed(args, victim.mask, None if victim.masks_only else victim.weights)
    if args.attack != "finetune":
        perform(args, max(levels), victim, model)

    RunDir(args.save_dir).open("main_attack.py", recorded(args, experiment))
    whole, rows = AttackFiles(args.save_dir), []
    for level in levels:
        files = whole if args.sweep is None else whole.level(level)
        if not (files.result.exists() and files.model.exists()):
            attack_once(args, level, victim, model, experiment, triggers, files)
        rows.append(checkpoint.load_json(files.result))
        print(in_words(rows[-1]), flush=True)
    if args.sweep is None:
        print(f"model: {whole.model}")
        return cli.EXIT_OK
    checkpoint.save_csv(rows, list(dict.fromkeys(column for row in rows for column in row)), whole.table)
    print(f"table: {whole.table}")
    if experiment:
        settings = ", ".join(f"{name} {getattr(args, name)}" for name in (*attack.settings, "seed"))
        curves = {name: [row[f"{name}_acc"] for row in rows] for name in ("val", "test", *experiment.data.probes)}
        plots.accuracy_by_level(levels, curves,
                                f"{args.attack}: {settings}", "level, %", whole.plot)
        print(f"plot:  {whole.plot}")
    if args.claim:
        plots.row_of_pictures([whole.level(level).code for level in levels],
                              [f"{args.attack} {100 * level:g}%" for level in levels], whole.codes)
        print(f"codes: {whole.codes}")
    return cli.EXIT_OK


def forge_claim(args, victim, experiment, triggers) -> int:
    """Make a second claim, on the model or on a copy, and say what the owner's test makes of it, and of the owner's own."""
    import forging
    from utils import checkpoint
    from utils.run_dir import AttackFiles, RunDir

    if args.by == "fake1" and args.key_ratio is None:
        args.key_ratio = victim.key_share
    result, changes, made = AttackFiles(args.save_dir).result, FORGERIES[args.by].writes, None
    if not all(path.exists() for path in (result, *forging.written_files(args).values())):
        # what can't be done is refused before anything is written
        made = forging.make(args, victim)
        shown = made if changes else victim
        found = read_claimed(args, shown.mask, None if victim.masks_only else shown.weights)
    RunDir(args.save_dir).open("main_attack.py", recorded(args, experiment))
    if made:
        row = forging.write(args, victim, made)
        if changes:
            row |= {f"stolen_{name}": value for name, value in accuracies(experiment, victim.weights).items()}
            row |= accuracies(experiment, made.weights)
        if triggers:
            row["trigger_p"] = trigger_p_value(triggers, row["trigger_acc"])
        if found is not None:
            row |= {f"owner_{name}": value for name, value in in_columns(found, owners_claim(args).signature).items()}
        checkpoint.save_json(row, result)
    row = checkpoint.load_json(result)
    print("\n".join(forging.in_words(args.by, row)))
    if args.claim:
        owners = {name.removeprefix("owner_"): value for name, value in row.items() if name.startswith("owner_")}
        print(f"owner:     {reading(owners)}")
    return cli.EXIT_OK


def place_and_format(args, mask) -> dict[str, Any]:
    """Values of the flags that say where and how fake3 writes: by hand or from the claim, the rest chosen."""
    from pruner.embedding import find_region

    layer, start_x, start_y = (getattr(args, flag) for flag in PLACE)
    code_format = (args.version, args.error_correction or "H", args.mask_pattern)
    if args.claim:
        claim = owners_claim(args)
        layer, start_x, start_y = claim.layer, claim.start_x, claim.start_y
        code_format = (claim.version, claim.error_correction, claim.mask_pattern)
    version, error_correction, mask_pattern = code_format
    chosen = find_region(mask, args.signature, error_correction=error_correction, version=version,
                         mask_pattern=mask_pattern, layer=layer, start_x=start_x, start_y=start_y, low_level=False)
    return dict(zip((*PLACE, *FORMAT), (layer, start_x, start_y, chosen.code_format.version, error_correction,
                                        chosen.code_format.mask_pattern)))


def level_or_sweep(args, key_share: float | None) -> dict[str, Any]:
    """Values of --level and --sweep, one of them None. Raises UserError where neither is given and nothing says."""
    from utils.errors import UserError

    level, sweep = args.level, args.sweep
    if level is None and sweep is None:
        level, sweep = key_share if args.attack == "fake1" else None, ATTACKS[args.attack].levels or None
        if level is None and sweep is None:
            raise UserError(f"--level: {args.checkpoint} does not say how large its key was (a locked.pth.tar does); "
                            "give the key's share of the whole ticket")
    return {"level": level, "sweep": sweep and tuple(dict.fromkeys(sweep))}


def perform(args, level: float | None, victim, model):
    """(mask, weights) of the attacked model, by the attack and settings in the flags."""
    attack = ATTACKS[args.attack]
    settings = {name: getattr(args, name) for name in attack.settings} | ({"level": level} if attack.has_level else {})
    settings |= {"model": model} if attack.needs_model else {}
    return attack.load()(victim.mask, victim.weights, seed=args.seed, **settings)


def attack_once(args, level: float | None, victim, model, experiment, triggers, files) -> None:
    """Attack, measure, and write the model and after it the result, which says that all is done."""
    from attacks.finetune import fine_tune
    from ownership.readers import write_code
    from pruner import tickets
    from pruner.masks import Mask
    from utils import checkpoint

    if args.attack == "finetune":
        mask, weights, trained = fine_tune(victim.mask, victim.weights, experiment, files, args.seed, args.free_mask)
        outcome = trained.in_columns()
        if triggers and "trigger" not in experiment.data.probes:
            outcome["trigger_acc"] = under_the_owners_classifier(args, weights, triggers, experiment.engine)
    else:
        mask, weights = perform(args, level, victim, model)
        outcome = accuracies(experiment, weights)
    if triggers:
        outcome["trigger_p"] = trigger_p_value(triggers, outcome["trigger_acc"])
    # what is written is what counts: noise may be too small for the weights' dtype
    mask = Mask({name: weights[f"{name}.weight"] != 0 for name in mask})
    if victim.masks_only:
        tickets.write_masks(files.model, mask)
    else:
        facts = {"arch": args.arch, "num_classes": len(weights[f"{tickets.HEAD}.weight"]), "attack": args.attack,
                 "seed": args.seed, "density": mask.density, "nonzeros": mask.nonzeros}
        tickets.write_weights(files.model, weights, facts if level is None else {**facts, "level": level}, mask)
    settings = {name: getattr(args, name) for name in ATTACKS[args.attack].settings}
    found = read_claimed(args, mask, None if victim.masks_only else weights)
    if found is not None:
        write_code(found.modules, files.code)
    checkpoint.save_json({
        "attack": args.attack, "level": level, "seed": args.seed, **settings,
        "removed": sum(int((kept & ~mask[name]).sum()) for name, kept in victim.mask.items()),
        "added": sum(int((~kept & mask[name]).sum()) for name, kept in victim.mask.items()),
        "nonzeros": mask.nonzeros, "entries": mask.entries, "density": mask.density, **outcome,
        **(located(args, victim.mask) if args.attack == "locate" else {}),
        **(in_columns(found, owners_claim(args).signature) if found is not None else {}),
        "checkpoint": args.checkpoint, "model": str(files.model)}, files.result)


def accuracies(experiment, weights) -> dict[str, float | None]:
    """Accuracy in percent on validation and test pictures, and on triggers if they are followed; None without pictures."""
    if experiment is None:
        return {"val_acc": None, "test_acc": None}
    experiment.engine.model.load_state_dict(weights)
    data = experiment.data
    return {f"{name}_acc": experiment.engine.evaluate(pictures)[1]
            for name, pictures in {"val": data.val, "test": data.test, **data.probes}.items()}


def trigger_p_value(triggers, accuracy: float) -> float:
    """Exact probability that a model which owes nothing to a keyed set has as many right (`check_triggers.py`)."""
    from ownership.black_box import evidence_of

    right = round(accuracy * len(triggers) / 100)
    return evidence_of(right, len(triggers), triggers.num_classes).as_json()["p_value"]


def under_the_owners_classifier(args, weights, triggers, engine) -> float:
    """Trigger accuracy in percent of a model that got another classifier, with the stolen one's put back.

    Labels mean nothing to a new classifier; the owner can show that the layers below it still know the set.
    """
    from models import build_model
    from pruner import tickets
    from utils.engine import Engine

    model = build_model(args.arch, triggers.num_classes)
    stolen = tickets.read_model_file(args.checkpoint, model).need_weights("--checkpoint")
    head = {name: tensor for name, tensor in stolen.items() if name.startswith(f"{tickets.HEAD}.")}
    model.load_state_dict({**weights, **head})
    return Engine(model, engine.device, amp=engine.amp).evaluate(triggers.pictures.to(engine.device))[1]


def located(args, mask) -> dict[str, Any]:
    """Where `locate` found a block, as columns of the results; with a claim, whether it is (mostly) one of the code's."""
    from attacks.locate import locate

    found = locate(mask, limit=1)[0]
    columns = {"found_layer": found.layer, "found_x": found.start_x, "found_y": found.start_y,
               "found_version": found.version, "found_score": found.score}
    if args.claim:
        claim = owners_claim(args)
        size = claim.code_format.size
        columns["hit"] = any(found.layer == place.layer and 2 * abs(found.start_x - place.start_x) < size
                             and 2 * abs(found.start_y - place.start_y) < size for place in claim.places)
    return columns


def read_claimed(args, mask, weights):
    """What the owner reads where the claim says, an `ownership.extraction.Extraction`; None without --claim.

    Args:
        mask: where weights are.
        weights: complete state_dict; None of a file of masks.
    Raises:
        UserError: the claim can't be read, or is about another network.
    """
    if not args.claim:
        return None
    from ownership.extraction import extract_claimed
    from ownership.suspect import Suspect

    kept = {name: weights[f"{name}.weight"] for name in mask} if weights is not None else None
    return extract_claimed(Suspect(mask, kept), owners_claim(args))


def in_columns(found, signature: str) -> dict[str, Any]:
    """A reading as columns of the results, values that JSON and CSV hold."""
    return {"code_lost": found.flips.lost, "code_ones": found.flips.ones, "code_added": found.flips.added,
            "code_zeros": found.flips.zeros,
            **{f"read by {reader}": text == signature for reader, text in found.texts.items()},
            "p_value": found.evidence.p_value, "p_corrected": found.evidence.p_corrected}


def owners_claim(args):
    """The claim in --claim. Raises UserError if it can't be read or is about another network than --arch."""
    from ownership.claim import read_claim
    from utils.errors import UserError

    claim = read_claim(args.claim)
    if claim.arch != args.arch:
        raise UserError(f"{args.claim}: is about {claim.arch}, not {args.arch}; see --arch")
    return claim


def recorded(args, experiment) -> dict[str, Any]:
    """What a run directory is held to: files by their contents; not the levels, each of which stands for itself."""
    from utils import checkpoint

    own = {name: value for name, value in vars(args).items() if name not in ("sweep", "checkpoint", "claim")}
    return {**own, "checkpoint (sha256)": checkpoint.sha256(args.checkpoint),
            "claim (sha256)": checkpoint.sha256(args.claim) if args.claim else None,
            **(experiment.fingerprints() if experiment else {})}


def in_words(row: dict[str, Any]) -> str:
    """One line about one result."""
    level = "" if row["level"] is None else f" {100 * row['level']:g}%"
    accuracy = "" if row["test_acc"] is None else f"; val {row['val_acc']:.2f}%, test {row['test_acc']:.2f}%"
    shown = f"; triggers {row['trigger_acc']:.2f}%, p {row['trigger_p']:.1e}" if "trigger_acc" in row else ""
    if "found_layer" in row:
        shown += (f"; found a block in {row['found_layer']} at ({row['found_x']}, {row['found_y']}), version "
                  f"{row['found_version']}" + ("" if "hit" not in row else ", the code" if row["hit"] else ", not the code"))
    if "p_value" in row:
        shown += f"; code: {reading(row)}"
    return (f"{row['attack']}{level}: {row['nonzeros']} weights, {100 * row['density']:.3f}% of {row['entries']} "
            f"(-{row['removed']} +{row['added']}){accuracy}{shown}")


def reading(row: dict[str, Any]) -> str:
    """What the owner reads of his code, from the columns of `in_columns`."""
    readers = [column.removeprefix("read by ") for column, value in row.items() if column.startswith("read by ") and value]
    return (f"{row['code_lost']} of {row['code_ones']} ones lost, {row['code_added']} of {row['code_zeros']} zeros added, "
            f"read by {', '.join(readers) or 'nobody'}, p {row['p_corrected']:.1e}")


if __name__ == "__main__":
    cli.run(main)
