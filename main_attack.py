r"""What a thief does to a stolen model: remove its signature, or contradict it. Writes the attacked model, measured.

    # the stolen model is the one of main_eval_all.py's first example, 96.7% right; each of these takes 10 to 20 seconds
    # (one thread of an AMD EPYC, seed 1; another number of threads finds another ticket, and all is a few points off).
    # Prune 20% of the weights that are left: 86.9%, and 20.972% remain, in runs/pruned/attacked.pth.tar
    python main_attack.py prune --checkpoint runs/digits_signed/model_best.pth.tar --level 0.2 --save_dir runs/pruned
    # several levels in one go, a folder for each, attack.csv and attack.png: 93.9% after 5%, 17.3% after 20%
    python main_attack.py prune --checkpoint runs/digits_signed/model_best.pth.tar --sweep 0,0.05,0.1,0.2,0.5 \
        --how random --save_dir runs/pruned_random
    # noise weights where the ticket has none, at the levels of the paper's Table 8; digits hardly mind: 94.2% at 10%
    python main_attack.py addon --checkpoint runs/digits_signed/model_best.pth.tar --save_dir runs/added \
        --claim runs/digits_signed/*.claim.json
    # without pictures, as a share of the weights that are there
    python main_attack.py addon --checkpoint runs/digits_signed/model_best.pth.tar --share_of surviving \
        --sweep 0.01,0.05,0.1,0.2 --no_accuracy --save_dir runs/added_surviving
    # replace the smallest 30% by noise weights at random places in their kernels, to be trained again (main_eval_all.py)
    python main_attack.py regrow --checkpoint runs/digits_keyed/trained/model_best.pth.tar --level 0.3 \
        --claim runs/digits_keyed/*.key.json --save_dir runs/regrown
    # move back what seems to have been moved, with all rewind weights in hand
    python main_attack.py unswap --checkpoint runs/digits_keyed/trained/model_best.pth.tar --level 0.03 \
        --rewind runs/digits/epoch_3.pth.tar --claim runs/digits_keyed/*.key.json --save_dir runs/unswapped
    # train on: 98.1%; --free_mask lets pruned weights grow back, another --dataset transfers the model
    python main_attack.py finetune --checkpoint runs/digits_signed/model_best.pth.tar --save_dir runs/tuned
    # another signature over the embedded one, by somebody who knows the place: 92.2%; --insider --noise 0.3: 95.0%
    python main_attack.py fake3 --checkpoint runs/digits_signed/model_best.pth.tar --signature thief \
        --claim runs/digits_signed/*.claim.json --save_dir runs/replaced
    # without the claim: find the block that looks like a code, and empty it
    python main_attack.py locate --checkpoint runs/digits_signed/model_best.pth.tar --save_dir runs/located
    # nothing is changed: a signature is made up that seems to be there
    python main_attack.py forge --checkpoint runs/digits_signed/model_best.pth.tar --no_accuracy --save_dir runs/forged
    # other ways to a second claim (docs/ambiguity.md): a key, a code that is only added, over the owner's, or beside it
    python main_attack.py forge --by fake1 --checkpoint runs/digits_signed/model_best.pth.tar --save_dir runs/forged_key
    python main_attack.py forge --by resign --checkpoint runs/digits_signed/model_best.pth.tar --signature thief \
        --claim runs/digits_signed/*.claim.json --save_dir runs/resigned
    # the same network with its channels in another order: as accurate as before, and the code is scattered
    python main_attack.py permute --checkpoint runs/digits_signed/model_best.pth.tar --save_dir runs/permuted
    # and with other weights, other numbers of them and no batch norms, all of which compute the same
    python main_attack.py transform --checkpoint runs/digits_signed/model_best.pth.tar --level 1e-7 --save_dir runs/transformed
    # the same, as a file of another form
    python main_attack.py transform --checkpoint runs/digits_signed/model_best.pth.tar --level 1e-7 --save_as onnx \
        --save_dir runs/exported

    # passports (docs/passports.md), after main_passport.py's first example: what the owner's still show, at several levels
    python main_attack.py flip --checkpoint runs/passports/released.pth.tar --passports runs/passports/passports.pt \
        --save_dir runs/passports_flipped
    # others are trained in their place; passport_fake1 to passport_fake3, passport_block
    python main_attack.py passport_fake2 --checkpoint runs/passports/released.pth.tar --passports runs/passports/passports.pt \
        --save_dir runs/passports_fake2
    # and made up: `main_passport.py --evaluate --passports` reads them, and main_verify.py does not count them
    python main_attack.py forge --by solve --checkpoint runs/passports/released.pth.tar --no_accuracy --signature thief \
        --owner runs/thief.key --owner_name thief --save_dir runs/passports_solved

    # the paper's Table 6, ResNet-20 on CIFAR-10: 91.25, 90.72, 88.03, 80.08, 36.62% at 5, 10, 20, 30, 50%
    python main_attack.py prune --data datasets/cifar10 --dataset cifar10 --arch res20s \
        --checkpoint res20s_cifar10_lt_qr/model_best.pth.tar --save_dir res20s_cifar10_lt_qr_pruned

Numbers are measured on what was written: a weight counts if it is not zero, in the layers that density is defined on.
The same command goes on where it was killed, fine-tuning after its last epoch; finished levels are skipped.
"""

import os
import re
import sys
from argparse import SUPPRESS
from collections.abc import Mapping, Sequence
from typing import Any

if __name__ == "__main__":  # a fault before main() must not end with 1, which is a verdict
    sys.excepthook = lambda *fault: os._exit(sys.__excepthook__(*fault) or 3)
    import utils  # noqa: F401  refuses a Python that is too old

from attacks import ATTACKS, FORGERIES, FORMAT, PLACE, own_flags
from datasets import DATASETS, TRIGGER_SETS
from models import ARCHITECTURES
from utils import cli


def parse_args(argv: Sequence[str] | None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("attack", choices=sorted(ATTACKS),
                        help="; ".join(f"{', '.join(name for name in ATTACKS if ATTACKS[name] is attack)}: {attack.help}"
                                       for attack in dict.fromkeys(ATTACKS.values())))
    parser.add_argument("--checkpoint", type=cli.path, required=True, metavar="FILE",
                        help="the stolen model; with --no_accuracy a mask file will do")
    parser.add_argument("--no_accuracy", action="store_true", help="leave out the accuracy: no pictures are needed")
    parser.add_argument("--claim", type=cli.path, default=None, metavar="FILE",
                        help="the owner's claim (JSON of embed_qrcode.py, embed_keyed.py or make_claim.py): what the attack does to the marks in "
                             "there joins the results, and fake3 takes a code's place and format from it")
    parser.add_argument("--passports", type=cli.path, default=None, metavar="FILE",
                        help="the owner's passports.pt (main_passport.py): what is left of the signature and of the private branch joins "
                             "the results; " + ", ".join(name for name, attack in ATTACKS.items() if attack.needs_passports) + " need it")
    cli.add_model_and_data_flags(parser, ARCHITECTURES, DATASETS)
    cli.add_training_flags(parser)
    cli.add_run_flags(parser)
    cli.add_trigger_flags(parser, TRIGGER_SETS, default=None)
    # a thief trains for a while, at the rate that training ended with or somewhat above
    parser.set_defaults(epochs=10, lr=0.01)

    group = parser.add_argument_group("how much")
    group.add_argument("--level", type=cli.non_negative_float, default=None, metavar="L",
                       help="; ".join(f"{name}: {attack.level}" for name, attack in ATTACKS.items() if attack.level))
    group.add_argument("--sweep", type=cli.listed(cli.non_negative_float), default=None, metavar="L,L",
                       help="several levels, 0 for the model as it is (default, without --level: " + "; ".join(
                           f"{name} {','.join(f'{level:g}' for level in attack.levels)}"
                           for name, attack in ATTACKS.items() if attack.levels) + ")")

    group = parser.add_argument_group("how")  # each attack with its flags is one entry in attacks/__init__.py
    for flag, takers in own_flags().items():
        group.add_argument(f"--{flag.name}", help=f"{takers}: {flag.help}", **flag.words)
    show_flags_of(next((word for word in (sys.argv[1:] if argv is None else argv) if word in ATTACKS), None), parser)
    args = parser.parse_args(argv)
    cli.check_trigger_flags(parser, args, TRIGGER_SETS)
    check_own_flags(parser, args)
    return args


def show_flags_of(attack: str | None, parser: cli.ArgumentParser) -> None:
    """Let the help of an attack that is named show what that one takes, and its examples, alone."""
    if attack is None:
        return
    taken = {*ATTACKS[attack].settings, *(flag for forgery in FORGERIES.values() if attack == "forge" for flag in forgery.settings)}
    foreign = {flag for entry in (*ATTACKS.values(), *FORGERIES.values()) for flag in entry.settings} - taken
    foreign |= {"level", "sweep"} if ATTACKS[attack].level is None else set()
    for action in parser._actions:
        if action.dest in foreign:
            action.help = SUPPRESS
    examples = re.findall(r"(?:^    #.*\n)*^    python (?:.*\\\n)*.*\n", __doc__, re.MULTILINE)
    own = [example for example in examples if f"main_attack.py {attack} " in example]
    parser.description = f"{attack} {ATTACKS[attack].help}.\n\n{''.join(own)}"


def check_own_flags(parser: cli.ArgumentParser, args) -> None:
    """Refuse flags that mean nothing to the attack, and an attack that lacks what it needs."""
    attack, who = ATTACKS[args.attack], args.attack
    settings, has_pictures = attack.settings, not args.no_accuracy
    if args.attack == "forge":
        forgery, who = FORGERIES[args.by], f"forge --by {args.by}"
        settings, has_pictures = (*settings, *forgery.settings), has_pictures and forgery.writes
    if args.trigger_set and not has_pictures:
        parser.error("argument --trigger_set: is measured with the pictures; " +
                     ("leave out --no_accuracy" if args.no_accuracy else f"{who} changes no model and needs none"))
    for flag in dict.fromkeys(flag for entry in (*ATTACKS.values(), *FORGERIES.values()) for flag in entry.settings):
        if flag not in settings and getattr(args, flag) != parser.get_default(flag):
            parser.error(f"argument --{flag}: means nothing to {who}; leave it out")
    for flag in ("level", "sweep"):
        if getattr(args, flag) is not None and attack.level is None:
            parser.error(f"argument --{flag}: {args.attack} is no matter of degree; leave it out")
    if args.level is not None and args.sweep is not None:
        parser.error("argument --sweep: names the levels; leave out --level")
    if args.sweep == ():
        parser.error("argument --sweep: names no level")
    if attack.needs_pictures and args.no_accuracy:
        parser.error(f"argument --no_accuracy: {who} needs pictures")
    if attack.needs_passports and args.passports is None:
        parser.error(f"argument --passports: {who} needs the file")
    for flag, what in (("signature", "the text to write"), ("owner", "the thief's key"), ("owner_name", "the thief's name")):
        if flag in settings and getattr(args, flag) is None:
            parser.error(f"argument --{flag}: {who} needs {what}")
    if {flag.name for flag in PLACE} <= set(settings):
        check_place(parser, args, who)


def check_place(parser: cli.ArgumentParser, args, who: str) -> None:
    """Refuse a place that is said twice, or in part; the whole may be left out where --claim says it, or `locate` finds it."""
    given = [flag.name for flag in (*PLACE, *FORMAT) if getattr(args, flag.name) is not None]
    missing = [f"--{flag.name}" for flag in PLACE if flag.name not in given]
    if args.claim and given:
        parser.error(f"--claim says --{given[0]} already; give one of the two")
    is_located = args.attack == "forge" and len(missing) == len(PLACE)
    if not args.claim and missing and not is_located:
        parser.error(f"without --claim, {' and '.join(missing)} must say where {who} writes")


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)

    from attacks import run as attacking
    from utils.run_dir import AttackFiles, RunDir

    # what the thief has: a model, perhaps pictures; and what the owner looks for in it
    thief, claim = attacking.read_thief(args), attacking.read_owners_claim(args)
    attacking.fill_in(args, thief.victim, claim)
    if args.attack == "forge":
        return forge(args, thief, claim)

    levels = (args.level,) if args.sweep is None else args.sweep
    # a claim about another model, and a level too high, are refused before anything is written
    has_picture = any(left.draw for left in attacking.read_as_owner(claim, thief.victim, thief.victim))
    attacking.refuse_impossible(args, max(levels), thief)
    run = RunDir(args.save_dir)  # locked for as long as it is there
    run.open("main_attack.py", attacking.recorded(args, thief))
    whole = AttackFiles(args.save_dir, args.save_as)
    for level in levels:
        files = whole if args.sweep is None else whole.level(level)
        if not attacking.is_done(files, has_picture):
            attacked = attacking.attack(args, level, thief, files)
            columns = attacking.measure(args, thief, attacked)
            columns |= attacking.located(args, thief.victim.mask, claim)
            reading = attacking.read_as_owner(claim, thief.victim, attacked)
            columns |= attacking.in_columns(reading)
            attacking.write(args, level, thief.victim, attacked, columns, reading, files)
        print(in_words(attacking.read_result(files.result), claim), flush=True)
    written = {"model": whole.model} if args.sweep is None else attacking.write_sweep(args, thief, has_picture, whole)
    for name, path in written.items():
        print(f"{name + ':':<7}{path}")
    return cli.EXIT_OK


def forge(args, thief, claim) -> int:
    """Make a second claim, on the model or on a copy, and say what the owner's test makes of it, and of the owner's own."""
    from attacks import run as attacking, run_forge as forging
    from utils import checkpoint
    from utils.run_dir import AttackFiles, RunDir

    result, writes, made = AttackFiles(args.save_dir).result, FORGERIES[args.by].writes, None
    if not all(path.exists() for path in (result, *forging.written_files(args).values())):
        # what can't be done is refused before anything is written
        made = forging.make(args, thief)
        reading = attacking.read_as_owner(claim, thief.victim, made if writes else thief.victim)
    run = RunDir(args.save_dir)
    run.open("main_attack.py", attacking.recorded(args, thief))
    if made:
        columns = forging.write(args, thief.victim, made)
        if writes:
            columns |= {f"stolen_{name}": value for name, value in attacking.accuracies(thief, thief.victim.weights).items()}
            columns |= attacking.measure(args, thief, made)
        columns |= {f"owner_{name}": value for name, value in attacking.in_columns(reading).items()}
        checkpoint.save_json(columns, result)
    row = attacking.read_result(result)
    print("\n".join(forging.in_words(args.by, row)))
    for _, left in attacking.left_in_words(row, claim, "owner_"):
        print(f"owner:     {left}")
    return cli.EXIT_OK


def in_words(row: Mapping[str, Any], claim) -> str:
    """One line about one result."""
    from attacks.run import left_in_words

    level = "" if row["level"] is None else f" {100 * row['level']:g}%"
    accuracy = "" if row["test_acc"] is None else f"; val {row['val_acc']:.2f}%, test {row['test_acc']:.2f}%"
    shown = f"; triggers {row['trigger_acc']:.2f}%, p {row['trigger_p']:.1e}" if "trigger_acc" in row else ""
    if "found_layer" in row:
        shown += (f"; found a block in {row['found_layer']} at ({row['found_x']}, {row['found_y']}), version "
                  f"{row['found_version']}" + ("" if "hit" not in row else ", the code" if row["hit"] else ", not the code"))
    if "signature_right" in row:
        shown += f"; passports' bits {row['signature_right']} of {row['signature_bits']}" + (
            f", by scales {row['scales_right']}" if "scales_right" in row else "") + (
            f", private branch {row['private_acc']:.2f}%" if "private_acc" in row else "")
    if "forged_acc" in row:
        shown += f"; the thief's signs are the owner's in {row['forged_acc']:.1f}%" + (
            f", and as he wanted in {row['target_acc']:.1f}%" if "target_acc" in row else "")
    shown += "".join(f"; {mark}: {left}" for mark, left in left_in_words(row, claim))
    return (f"{row['attack']}{level}: {row['nonzeros']} weights, {100 * row['density']:.3f}% of {row['entries']} "
            f"(-{row['removed']} +{row['added']}){accuracy}{shown}")


if __name__ == "__main__":
    cli.run(main)
