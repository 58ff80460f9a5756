r"""Find a winning ticket: iterative magnitude pruning (IMP) with rewinding, at a fixed rate or to the extreme.

    # on the embedded digits, about a minute on 2 CPU cores: 6 rounds at rate 0.2, 26.2% of the weights remain
    python main_imp.py --dataset digits --arch res20s --save_dir runs/digits --epochs 10 --rate 0.2 --pruning_times 6

    # the paper's command: ResNet-20 on CIFAR-100, 16 trainings of 182 epochs (15 in the published code: --count trainings)
    python main_imp.py --data datasets/cifar100 --dataset cifar100 --arch res20s --save_dir res20s_cifar100_lt_0.2 \
        --init pretrained_model/res20s_cifar100_lt.pth.tar --seed 1 --lr 0.1 --fc --rate 0.2 --pruning_times 15 \
        --prune_type lt --rewind_epoch 3

    # the extreme ticket of Table 1 (paper: 91.67% dense, 91.66% at 19.369% remaining, rounds (5,1,8,1))
    python main_imp.py --data datasets/cifar10 --dataset cifar10 --arch res20s --save_dir res20s_cifar10_extreme \
        --init pretrained_model/res20s_cifar10_lt.pth.tar --extreme --rates 0.2,0.1,0.05,0.01

    # sign the ticket on the way (scheme V4): the last round prunes and trains a mask that holds the mark (docs/keyed_mask.md)
    python make_claim.py --new_owner_key runs/owner.key
    python main_imp.py --dataset digits --arch res20s --save_dir runs/digits_keyed --epochs 10 --rate 0.2 --pruning_times 6 \
        --sign_keyed runs/owner.key --owner_name "Jane Doe" --sign_at last-1

The same command resumes after any interruption, in the middle of a round too. The run directory holds a folder per
round (ticket, checkpoints, metrics.csv, curve.png, result.json), the weights tickets are rewound to (epoch_3.pth.tar),
the last kept ticket (ticket.pth.tar), rounds.csv with accuracy_density.png, and result.json.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches

if __name__ == "__main__":  # a fault before main() must not end with 1, which is a verdict
    sys.excepthook = lambda *fault: os._exit(sys.__excepthook__(*fault) or 3)
    import utils  # noqa: F401  refuses a Python that is too old

from datasets import DATASETS
from models import ARCHITECTURES
from utils import cli


def parse_args(argv: Sequence[str] | None):
    parser = cli.ArgumentParser(__doc__)
    cli.add_model_and_data_flags(parser, ARCHITECTURES, DATASETS)
    cli.add_training_flags(parser)
    cli.add_run_flags(parser)

    group = parser.add_argument_group("ticket")
    # W0 before training, so that several searches start from the same network
    group.add_argument("--init", type=cli.Output(or_read=True), default=None, metavar="FILE",
                       help="initial weights: loaded where FILE exists, written there where it does not; which it was is printed first "
                            "and kept in run.json")
    # what surviving weights restart from after each pruning (late rewinding, paper section 4)
    group.add_argument("--prune_type", choices=("lt", "ft"), default="lt",
                       help="lt rewinds to the dense weights after --rewind_epoch, ft goes on from the trained ones")
    group.add_argument("--rewind_epoch", type=cli.natural, default=3, help="epoch of the dense training to rewind to")
    group.add_argument("--fc", action="store_true", default=True, dest="fc",
                       help="rewind the classifier too (default; the paper's commands say so)")
    group.add_argument("--no_fc", action="store_false", dest="fc", help="leave the classifier as trained")
    group.add_argument("--conv1", action="store_true", help="prune the stem as well, and count it in the density")

    # fixed rate: how the original's command searches
    group = parser.add_argument_group("fixed rate")
    group.add_argument("--rate", type=cli.ratio, default=0.2, help="share of surviving weights pruned per round")
    group.add_argument("--pruning_times", type=cli.natural, default=15, help="rounds of pruning, after the dense training")
    group.add_argument("--count", choices=("prunings", "trainings"), default="prunings",
                       help="what --pruning_times counts; the published code counts trainings, the dense one included")

    # the extreme ticket: winning, and not after pruning 1% more (paper section 3.1 and 4.1)
    group = parser.add_argument_group("extreme ticket")
    group.add_argument("--extreme", action="store_true", help="search with back-off through --rates instead")
    group.add_argument("--rates", type=cli.listed(cli.ratio), default=(0.2, 0.1, 0.05, 0.01), metavar="R,R",
                       help="rates in the order they are tried; the next one after a round that does not match")
    group.add_argument("--match_tolerance", type=cli.non_negative_float, default=1.0, metavar="POINTS",
                       help="a ticket matches if its accuracy is at most this far below the dense network's")
    group.add_argument("--match_on", choices=("test", "val"), default="test",
                       help="the accuracy compared; the paper compares on test")
    group.add_argument("--max_rounds", type=cli.positive_int, default=None, help="give up the search after this many")
    # a ticket has its rewinding epochs behind it as well: --epochs 12 --rewind_epoch 3 --dense_epochs 15 gives both as many
    group.add_argument("--dense_epochs", type=cli.positive_int, default=None, metavar="N",
                       help="epochs of the dense network that tickets are compared with (default: --epochs)")

    group = parser.add_argument_group("keyed mask (scheme V4)")
    group.add_argument("--sign_keyed", type=cli.path, default=None, metavar="FILE",
                       help="sign the ticket with this owner's private key (make_claim.py --new_owner_key); leaves keyed.key.json, the "
                            "secret, and unsigned.weight_mask.pth.tar, by which a renumbering is undone")
    group.add_argument("--owner_name", type=cli.utf8_text, default=None, metavar="NAME", help="as in make_claim.py --owner")
    group.add_argument("--sign_at", type=rounds_left, default="last-1", metavar="last-N",
                       help="the round whose mask gets the signs of places; those of counts are for the last")
    args = parser.parse_args(argv)
    if (args.sign_keyed is None) != (args.owner_name is None):
        parser.error("argument --sign_keyed: comes with --owner_name, and --owner_name with --sign_keyed")
    if args.sign_keyed is not None and (args.extreme or args.sign_at >= args.pruning_times - (args.count == "trainings")):
        parser.error("argument --sign_keyed: " + ("where an --extreme search ends can't be foreseen; sign its ticket with embed_keyed.py"
                                                  if args.extreme else f"there is no round {args.sign_at} before the last of --pruning_times"))
    flag, dense_epochs = ("epochs", args.epochs) if args.dense_epochs is None else ("dense_epochs", args.dense_epochs)
    if args.rewind_epoch > dense_epochs:
        parser.error(f"argument --rewind_epoch: {args.rewind_epoch} is after the last of --{flag} {dense_epochs}")
    if args.count == "trainings" and not args.pruning_times:
        parser.error("argument --pruning_times: the dense training is one; give 1 or more with --count trainings")
    if not args.rates:
        parser.error("argument --rates: needs at least one rate")
    return args


def rounds_left(text: str) -> int:
    """Of last-N. Raises ArgumentTypeError."""
    rounds = text.removeprefix("last-")
    if text == rounds or not rounds.isdigit() or not int(rounds):
        raise argparse.ArgumentTypeError(f"{text!r}: must be last-1, last-2 and so on, so that the mark is trained and pruned")
    return int(rounds)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)

    from ownership.claims.commitment import read_owner_key
    from pruner import tickets
    from pruner.experiment import prepare
    from pruner.imp import Search, find_ticket
    from pruner.schedule import ExtremeSearch, FixedRate
    from utils import checkpoint, plots
    from utils.run_dir import RunDir

    files = RunDir(args.save_dir)
    milestones = args.decreasing_lr
    experiment = prepare(args)
    dense_protocol = experiment.protocol.lasting(args.dense_epochs or args.epochs, milestones)
    model = experiment.engine.model
    init_exists = args.init is not None and os.path.exists(args.init)
    if init_exists:
        given = tickets.read_model_file(args.init, model)
        model.load_state_dict(given.initial or given.need_weights("--init"))
    initial = origin(args.init, init_exists, args.seed)
    schedule = ExtremeSearch(args.rates, args.max_rounds) if args.extreme \
        else FixedRate(args.rate, args.pruning_times - (args.count == "trainings"))
    sign, signs_for = {}, {}
    if args.sign_keyed:
        with cli.named("--sign_keyed"):
            owner_key = read_owner_key(args.sign_keyed)
        sign = {"sign": signing(args, files, schedule.times, owner_key)}
        signs_for = {"sign_keyed (sha256)": owner_key.public_key().public_bytes_raw().hex()}
    files.open("main_imp.py", {**vars(args), **experiment.fingerprints(), **signs_for},
               may_grow=frozenset() if sign else frozenset({"pruning_times", "max_rounds"}), initial_weights=initial)
    print(f"initial weights: {initial}", flush=True)
    if args.init and not init_exists:
        tickets.write_weights(args.init, model.state_dict(), experiment.facts)

    search = Search(experiment, files, args.seed, args.conv1, args.rewind_epoch, args.prune_type, args.fc,
                    args.match_tolerance, args.match_on, dense_protocol, **sign)
    total = None if args.extreme else schedule.times
    before = len(list(files.folder.glob(f"*/{files.round(0).result.name}")))
    rounds = find_ticket(search, schedule, on_round=lambda done: print(describe(done, total, done.round < before), flush=True))

    dense, ticket = rounds[0], [done for done in rounds if done.kept][-1]
    plots.accuracy_by_density([100 * done.density for done in rounds], [done.test_acc for done in rounds],
                              [done.kept for done in rounds], dense.test_acc,
                              args.match_tolerance if args.extreme else None, len(experiment.data.test),
                              f"{ARCHITECTURES[args.arch].title} on {DATASETS[args.dataset].title}, seed {args.seed}", files.rounds_plot)
    checkpoint.save_json({
        "arch": args.arch, "dataset": args.dataset,
        "dense_acc": dense.test_acc, "ticket_acc": ticket.test_acc, "density": ticket.density,
        "nonzeros": ticket.nonzeros, "rates": schedule.rates, "rounds_per_rate": schedule.counts,
        "matched": ticket.matched, "seconds": sum(done.seconds for done in rounds), "ticket": str(files.ticket),
    }, files.result)
    print(f"\n{'dense acc':>10} {'ticket acc':>10} {'remaining':>10}  rounds at {schedule.rates}\n"
          f"{dense.test_acc:>9.2f}% {ticket.test_acc:>9.2f}% {100 * ticket.density:>9.3f}%  {tuple(schedule.counts)}\n\n"
          f"ticket: {files.ticket}\nplot:   {files.rounds_plot}" + (f"\nkey:    {files.keyed} (secret)" if args.sign_keyed else ""))
    return cli.EXIT_OK


def signing(args, files, last: int, owner_key):
    """What `pruner.imp.Search.sign` does in a search of `last` rounds: places --sign_at rounds before the last, counts in the last."""
    from ownership.keyed_mask.claim import draw_key, read_key, write_key
    from pruner import tickets
    from pruner.key_mask.split import fingerprint
    from pruner.keyed_mask.embedding import Strength, early_strength, embed_counts, embed_places, shares, usual_strength
    from utils.errors import UserError

    @cli.named("--sign_keyed")
    def sign(number, mask, weights):
        if number == last - args.sign_at:
            if files.round(number).ticket.exists() and not files.keyed.exists():
                raise UserError(f"{files.round(number).ticket} is there and is not signed; name another --save_dir")
            largest = mask.nonzeros
            for _ in range(args.sign_at):
                largest -= round(args.rate * largest)
            sha256, strength = fingerprint(mask), Strength(early_strength(mask.nonzeros), usual_strength(largest).counts)
            places, counts = shares(strength, mask)
            key = draw_key(owner_key, args.owner_name, args.arch, sha256, places=places, counts=counts, largest=largest)
            write_key(files.keyed, key)
            tickets.write_masks(files.unsigned, mask)
            return embed_places(mask, key, strength.places)
        if number == last:
            return embed_counts(mask, read_key(files.keyed).key, usual_strength(mask.nonzeros).counts, weights)
        return mask

    return sign


def origin(path: str | None, is_there: bool, seed: int) -> str:
    """Where the initial weights come from; of a file that is not there, a near one is named."""
    if path is None or is_there:
        return f"read from {path}" if is_there else f"drawn with seed {seed}"
    folder, name = os.path.split(path)
    beside = os.listdir(folder or ".") if os.path.isdir(folder or ".") else []
    near = "".join(f" (near it lies {os.path.join(folder, other)}; was that meant?)" for other in get_close_matches(name, beside, 1))
    return f"{path} not there: drawn with seed {seed}, written to {path}{near}"


def describe(done, total: int | None, done_before: bool) -> str:
    """One line about a finished round, of `total` where that is known."""
    verdict = "dense" if done.round == 0 else ("matches" if done.matched else "does not match") \
        + ("" if done.kept else ", undone")
    of = "" if total is None else f" of {total}"
    left = "; done before" if done_before else \
        "" if total is None or done.round == total else f"; {(total - done.round) * done.seconds:.0f} s to go at this pace"
    return (f"== round {done.round}{of}: {100 * done.density:.3f}% remaining ({done.nonzeros} weights), "
            f"test {done.test_acc:.2f}% (best val, epoch {done.best_epoch}), {verdict}, {done.seconds:.0f} s{left}")


if __name__ == "__main__":
    cli.run(main)
