r"""Check an owner's claim, or two rivals' claims, on a suspect: owned (exit code 0), not shown (1), refused (2), unreadable (4).

    # the suspect's file: accuracy, key mask, code and trigger set, as far as claimed and given; seconds, CIFAR-10 included
    python main_verify.py --claim runs/claim/claim.json --commitment published/commitment.json \
        --suspect runs/triggered/model_best.pth.tar --dataset cifar10 --data datasets/cifar10 \
        --trigger_key runs/trigger.key --json runs/verdict.json --report runs/verdict.html

    # a locked ticket (scheme V1), with the owner's key
    python main_verify.py --claim runs/claim/claim.json --commitment published/commitment.json \
        --suspect runs/locked/model_best.pth.tar --key runs/locked/key.pth.tar

    # a model that can only be queried: a gathered list, or an endpoint
    python main_verify.py --claim runs/claim/claim.json --commitment published/commitment.json \
        --trigger_key runs/trigger.key --predictions gathered.csv

    # channels may have been renumbered (main_attack.py permute): undo that too, by the owner's own model, ticket or mask file
    python main_verify.py --claim runs/claim/claim.json --commitment published/commitment.json \
        --suspect runs/permuted/attacked.pth.tar --aligned_to runs/ticket/ticket.pth.tar

    # the commitment's date is checked, without a network (docs/dates.md)
    python main_verify.py --claim runs/claim/claim.json --commitment published/commitment.json --suspect suspect.pth.tar \
        --timestamp published/commitment.tsr --tsa_certificates authority.pem --suspect_dated 2026-03-01

    # two claims on one suspect, the one that was committed to earlier first; exit code 0: one of them owns it
    python main_verify.py --claim first/claim.json --claim second/claim.json --commitment published/first.json \
        --commitment published/second.json --suspect suspect.pth.tar --own first/model.pth.tar --own second/model.pth.tar \
        --report runs/dispute.html

`owned` means that chance gives as much with a probability of at most --max_false, for the worst choice of everything that a
claimant could choose; each correction is printed. `refused` means that the claim does not open the commitment, is not signed as it says,
or is contradicted by a file; `unreadable`, that the suspect's file is no model of the claim's network. Of two claims the later is
judged as if it had not been committed to; if both show, the earlier owns. What each check proves and assumes: docs/verification.md.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from fractions import Fraction

if __name__ == "__main__":  # a fault before main() must not end with 1, which is a verdict
    sys.excepthook = lambda *fault: os._exit(sys.__excepthook__(*fault) or 3)
    import utils  # noqa: F401  refuses a Python that is too old

from datasets import DATASETS
from ownership import SCHEMES, in_a_row
from utils import cli


UNDATED = "none"
REPORT = rb"<!DOCTYPE html>.{,600}<title>(Verification: |Two claims)"  # how a page of ours begins


def parse_args(argv: Sequence[str] | None):
    numbered = [name for name, scheme in SCHEMES.items() if scheme.numbered]
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("--claim", type=cli.path, action="append", required=True, metavar="FILE",
                        help="the owner's claim.json; twice for two rivals, the one whose commitment was published earlier "
                             "first, where --timestamp does not show which that is. Then what belongs to a claim may be given twice as well, in "
                             "any order")
    parser.add_argument("--commitment", type=cli.path, action="append", default=None, metavar="FILE",
                        help="the commitment.json that was published (default: none; then nothing shows when the claim was "
                             "made)")

    group = cli.add_suspect_flags(parser, "--suspect", "--checkpoint", holds="model, ticket or masks", claims=True)
    group.add_argument("--aligned_to", type=cli.path, action="append", default=None, metavar="FILE",
                       help=f"the owner's ticket, model or mask file: try {in_a_row(numbered)} also with a renumbering of the "
                            "suspect's channels undone (docs/renumbered_channels.md). What shows so counts by the very ticket "
                            "alone that the mark was drawn from by hash, so give one for each of them")
    group.add_argument("--aligned_committed", action="store_true", help="accepted from earlier commands; a word makes no file count")
    group.add_argument("--prior", type=cli.path, action="append", default=None, metavar="FILE",
                       help="a model that is older than the commitment, from any party: does the claim show on it already? Then the "
                            "claim is judged as if it had not been committed to, where --prior_dated shows the age")
    group.add_argument("--prior_dated", type=cli.path, action="append", default=None, metavar="DATE|FILE",
                       help="for each --prior, in their order: since when it is there on your word (as 2026-03-01, or "
                            f"2026-03-01T14:00:00Z), or a token or proof over its file, or {UNDATED!r}: then it is told and does not count")
    group.add_argument("--suspect_dated", type=cli.date, default=None, metavar="DATE",
                       help="when others could first see the suspect, on your word: a commitment counts where --timestamp shows that "
                            "it is older")

    group = parser.add_argument_group("dates, checked without a network (docs/dates.md)")
    group.add_argument("--timestamp", type=cli.path, action="append", default=None, metavar="FILE",
                       help="an RFC 3161 token or OpenTimestamps proof over a commitment's root, any number, in any order. Of two claims "
                            "the one with the earlier date is the first, and one without a date the second")
    group.add_argument("--tsa_certificates", type=cli.path, default=None, metavar="PEM",
                       help="the root and intermediate certificates of the authorities that you trust")
    group.add_argument("--block_headers", type=cli.path, default=None, metavar="FILE",
                       help="Bitcoin block headers that you vouch for, as bitcoin-cli getblockheader HASH false prints them")

    group = parser.add_argument_group("F: accuracy on the claim's test pictures")
    group.add_argument("--dataset", choices=sorted(DATASETS), default=None, help="must be the claim's")
    group.add_argument("--data", type=cli.path, default=None, metavar="DIR", help="its folder")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")

    for scheme in SCHEMES.values():
        scheme.flags.add_proof_flags(parser)

    group = parser.add_argument_group("two claims")
    group.add_argument("--own", type=cli.path, action="append", default=None, metavar="FILE",
                       help="the model that each claimant presents as the own one, first the first claimant's: whose mark is in "
                            "the other's?")

    group = parser.add_argument_group("verdict")
    group.add_argument("--max_false", type=cli.ratio, default=1e-9, metavar="P",
                       help="owned means that chance is at most this probable")
    group.add_argument("--json", type=cli.Output(rb'\{\s*"(verdict|conclusion)": '), default=None, metavar="FILE", help="write the verdict for machines")
    group.add_argument("--report", type=cli.Output(REPORT), default=None, metavar="FILE", help="write the verdict as an HTML page")
    args = parser.parse_args(argv)
    claims = len(args.claim)
    if claims > 2 or len(set(args.claim)) < claims:
        parser.error("argument --claim: " + (f"given {claims} times; two claims are compared at a time" if claims > 2 else
                                             f"{args.claim[0]} is given twice; name the two rivals' files"))
    for flag in ("commitment", *proof_flags(), "aligned_to"):
        count = len(getattr(args, flag) or ())
        if count > claims * (len(numbered) if flag == "aligned_to" else 1):
            parser.error(f"argument --{flag}: given {count} times, --claim {'once' if claims == 1 else 'twice'}")
    if args.own is not None and (claims, len(args.own)) != (2, 2):
        parser.error("argument --own: is for two claims, and needs both claimants' models")
    if args.predictions is not None and len(args.predictions) != claims:
        parser.error("argument --predictions: of two claims one list each, in the order of --claim")
    given = [f"--{name}" for name in ("suspect", "predictions", "endpoint") if getattr(args, name) is not None]
    if len(given) != 1:
        parser.error(f"{' and '.join(given)} exclude each other: a verdict is on one suspect" if given else
                     "give the suspect: one of --suspect, --predictions, --endpoint")
    if args.timestamp is not None and args.commitment is None:
        parser.error("argument --timestamp: is the date of a --commitment; give that, too")
    priors, args.prior_dated = len(args.prior or ()), args.prior_dated or []
    if args.prior_dated and len(args.prior_dated) != priors:
        parser.error(f"argument --prior_dated: given {len(args.prior_dated)} times, --prior {priors} times; give one for each, in "
                     f"their order, {UNDATED!r} where nothing dates it")
    args.prior_dated = [date_of_prior(parser, value) for value in args.prior_dated] or [None] * priors
    stamps = args.timestamp is not None or any(isinstance(date, str) for date in args.prior_dated)
    for flag in ("tsa_certificates", "block_headers"):
        if getattr(args, flag) is not None and not stamps:
            parser.error(f"argument --{flag}: there is no token or proof to check by it; give --timestamp, or one as --prior_dated")
    if args.suspect is None:
        of_files = [flag for scheme in SCHEMES.values() if not scheme.by_answers for flag in scheme.flags.PROOFS]
        for flag in ("dataset", "data", *of_files, "aligned_to", "prior", "entry", "rename", "mean", "std"):
            if getattr(args, flag) is not None:
                parser.error(f"argument --{flag}: needs the --suspect's file")
    for flag in ("mean", "std"):
        if getattr(args, flag) is not None and len(getattr(args, flag)) != 3:
            parser.error(f"argument --{flag}: must be three numbers R,G,B")
    if args.data is not None and args.dataset is None:
        parser.error("argument --data: needs --dataset")
    for scheme in SCHEMES.values():
        scheme.flags.check_proof_flags(parser, args)
    return args


def date_of_prior(parser: cli.ArgumentParser, value: str):
    """A time, the path of what says it, or None."""
    if value == UNDATED or os.path.exists(value):
        return None if value == UNDATED else value
    try:
        return cli.date(value)
    except argparse.ArgumentTypeError as error:
        parser.error(f"argument --prior_dated: {error}, or the path of an existing file, or {UNDATED}")


def proof_flags() -> list[str]:
    """The schemes' flags of which each names a file of one claim."""
    return [flag for scheme in SCHEMES.values() for flag in scheme.flags.PROOFS]


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)

    from ownership.claims import arbiter, rivals, sorting
    from ownership.claims.case import Files
    from ownership.claims.verdict import OWNED, UNREADABLE
    from utils.errors import UserError

    files = Files({args.suspect: {"entry": args.entry, "rename": args.rename}})
    opened = sorting.open_claims(args.claim, args.commitment or [], args.suspect, files)
    trust = sorting.trust_in(args.tsa_certificates, args.block_headers, files)
    opened, of_nobody = sorting.put_in_order(opened, args.timestamp or [], trust, files)
    priors = sorting.date_priors(args.prior or [], args.prior_dated, trust, opened, files)
    of_one_claim = {flag: getattr(args, flag) or [] for flag in (*proof_flags(), "predictions")}
    given, unused = sorting.sort_files(given_for_all(args, priors), of_one_claim, opened, files)
    sides = arbiter.judge_in_order(opened, given, files)
    refusals = [str(side.refused) for side in sides if side.refused is not None]
    unreadable = [side.verdict.notes[0] for side in sides if side.verdict.verdict == UNREADABLE]

    if len(sides) == 1:
        owned = sides[0].verdict.verdict == OWNED
        write_verdict(args, sides[0], files)
        print_verdict(sides[0])
    else:
        own_models = None
        if args.own and (refusals or unreadable):
            unused.append("--own was not looked at: " + ("a claim is refused, so there are no two marks to look for" if refusals else
                                                         "the suspect can't be read"))
        elif args.own:
            own_models = rivals.look_at_own_models([args.own[one.number] for one in opened], sides, given, files)
        found = rivals.compare(sides, own_models, of_nobody + unused)
        owned = found.owner is not None
        write_comparison(args, found, files)
        print_comparison(found)
    if len(refusals) == len(sides):
        raise UserError("; ".join(refusals))
    if unreadable and not owned:
        print(f"main_verify.py: {cli.one_line(unreadable[0])}", file=sys.stderr)
        return cli.EXIT_UNREADABLE
    return cli.EXIT_OK if owned else cli.EXIT_NO_MATCH


def given_for_all(args, priors):
    """What was given for every claim alike, see `ownership.claims.case.Given`; --aligned_to too: it is tried for all."""
    from ownership.claims.case import Given

    return Given(suspect=args.suspect, endpoint=args.endpoint, mean=args.mean, std=args.std, dataset=args.dataset, data=args.data,
                 aligned_to=tuple(args.aligned_to or ()), suspect_dated=args.suspect_dated, priors=priors, device=args.device,
                 max_false=args.max_false, proofs=vars(args))


def write_verdict(args, side, files) -> None:
    """The files that --json and --report ask for."""
    from ownership.claims.report import write_report
    from ownership.claims.report_json import origin_as_json, verdict_as_json
    from utils import checkpoint
    from utils.run_dir import versions

    made_with = versions() if args.json or args.report else {}
    if args.json:
        checkpoint.save_json({**verdict_as_json(side.verdict, side.facts), **origin_as_json(files, made_with)}, args.json)
    if args.report:
        write_report(args.report, side, files.rows, made_with)


def write_comparison(args, found, files) -> None:
    """Likewise, for two claims."""
    from ownership.claims.report import write_comparison_report
    from ownership.claims.report_json import comparison_as_json, origin_as_json
    from utils import checkpoint
    from utils.run_dir import versions

    made_with = versions() if args.json or args.report else {}
    if args.json:
        checkpoint.save_json({**comparison_as_json(found), **origin_as_json(files, made_with)}, args.json)
    if args.report:
        write_comparison_report(args.report, found, files.rows, made_with)


def print_verdict(side) -> None:
    """The verdict, what it means and rests on, what is known of the claim, and each check."""
    from ownership.claims import wording

    print(f"verdict:    {side.verdict.verdict}\nmeans:      {wording.meaning(side)}")
    print_side(side)


def print_side(side) -> None:
    """What a verdict rests on, what is known of the claim, and each check."""
    from ownership.claims.p_values import written
    from ownership.claims.verdict import names_of_tests

    found = side.verdict
    for note in found.notes if found.checks else ():
        print(f"note:       {cli.one_line(note)}")
    print()
    for name, value in side.facts.items():
        print(f"{name + ':':<12}{cli.one_line(value)}")
    if found.checks:
        print(f"\n{'check':<7}{'result':<11}{'p-value':<15}found")
    for check in found.checks:
        p = "-" if check.p is None else written(check.p)
        print(f"{check.name:<7}{check.result:<11}{p:<15}{cli.one_line(check.detail)}")
    if found.p is not None:
        print(f"p-value:    {written(found.p)}, the smallest times the number of {names_of_tests()} in the claim (Bonferroni); "
              f"owned needs {written(Fraction(found.level))}")


def print_comparison(found) -> None:
    """The conclusion, what it means and rests on, what tells the claims apart, and both verdicts."""
    from ownership.claims import rivals, wording

    print(f"conclusion: {cli.one_line(found.conclusion)}\nmeans:      {wording.meaning_of_two(found)}")
    for note in found.notes:
        print(f"note:       {cli.one_line(note)}")
    print()
    for name, values in rivals.rows(found):
        each = values if len(values) == 1 else [f"{whose} {value or '-'}" for whose, value in zip(rivals.NAMES, values)]
        print(f"{name + ':':<32}{cli.one_line('; '.join(each))}")
    for name, side in zip(rivals.NAMES, found.sides):
        print(f"\n{name} claim: {cli.one_line(side.opened.path)}, commitment: "
              f"{cli.one_line(side.opened.commitment_path or 'none')}\nverdict:    {side.verdict.verdict}")
        if not side.verdict.checks:
            print(f"because:    {cli.one_line(side.verdict.notes[0])}")
        print_side(side)


if __name__ == "__main__":
    cli.run(main)
