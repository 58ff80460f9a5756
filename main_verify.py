r"""Check an owner's claim, or two rivals' claims, on a suspect: owned (exit code 0), not shown (1), or refused (2).

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
        --suspect runs/permuted/attacked.pth.tar --aligned_to runs/triggered/model_best.pth.tar --aligned_committed

    # two claims on one suspect, the one that was committed to earlier first; exit code 0: one of them owns it
    python main_verify.py --claim first/claim.json --claim second/claim.json --commitment published/first.json \
        --commitment published/second.json --suspect suspect.pth.tar --own first/model.pth.tar --own second/model.pth.tar \
        --report runs/dispute.html

`owned` means that chance gives as much with a probability of at most --max_false, all corrections included, or that the claimed
key completes a locked ticket exactly. `refused` means that the claim does not open the commitment, is not signed as it says,
or is contradicted by a file. Of two claims the later is judged as if it had not been committed to; if both show, the earlier
owns. What each check proves and assumes: docs/verification.md.
"""

from argparse import Namespace
from collections.abc import Sequence

from datasets import DATASETS
from utils import cli


# flags that may be given for each claim
PER_CLAIM = ("commitment", "key", "merged", "trigger_dir", "trigger_key", "aligned_to")


def parse_args(argv: Sequence[str] | None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("--claim", type=cli.text, action="append", required=True, metavar="FILE",
                        help="the owner's claim.json; twice for two rivals, the one whose commitment was published earlier "
                             "first. Then what belongs to a claim may be given twice as well, in any order")
    parser.add_argument("--commitment", type=cli.text, action="append", default=None, metavar="FILE",
                        help="the commitment.json that was published (default: none; then nothing shows when the claim was "
                             "made)")

    group = parser.add_argument_group("the suspect: one of --suspect, --predictions, --endpoint")
    group.add_argument("--suspect", "--checkpoint", type=cli.text, default=None, metavar="FILE",
                       help="its model, ticket or masks")
    group.add_argument("--mean", type=cli.listed(cli.non_negative_float), default=None, metavar="R,G,B",
                       help="of its training pictures, on the scale 0 to 1, where the file does not say (for V3)")
    group.add_argument("--std", type=cli.listed(cli.positive_float), default=None, metavar="R,G,B", help="likewise")
    group.add_argument("--predictions", type=cli.text, action="append", default=None, metavar="CSV",
                       help="its answers on the trigger set: columns image and predicted_label; of two claims one list each, in "
                            "the claims' order")
    group.add_argument("--endpoint", type=cli.text, default=None, metavar="URL",
                       help="its address, where it speaks the Open Inference Protocol; where a token or more time is needed, "
                            "gather with check_triggers.py --save_predictions")
    group.add_argument("--aligned_to", type=cli.text, action="append", default=None, metavar="FILE",
                       help="the owner's model, ticket or mask file: try V1 and V2 also with a renumbering of the suspect's "
                            "channels undone (docs/renumbered_channels.md)")
    group.add_argument("--aligned_committed", action="store_true",
                       help="these files, or their SHA-256, were published before anybody looked at the suspect: count V2 in "
                            "their numbering. Else it counts by a file whose mask the committed claim names (in its V1) alone, "
                            "and only masks are compared")

    group = parser.add_argument_group("F: accuracy on the claim's test pictures")
    group.add_argument("--dataset", choices=sorted(DATASETS), default=None, help="must be the claim's")
    group.add_argument("--data", type=cli.text, default=None, metavar="DIR", help="its folder")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")

    group = parser.add_argument_group("V1: the owner's key completes the suspect's locked mask")
    group.add_argument("--key", type=cli.text, action="append", default=None, metavar="FILE", help="key.pth.tar")
    group.add_argument("--merged", type=cli.text, action="append", default=None, metavar="FILE",
                       help="a model trained from locked ticket and key (main_eval_all.py --key), whose accuracy must reach "
                            "the target")

    group = parser.add_argument_group("V2: the code in the mask")
    group.add_argument("--restarts", type=cli.natural, default=3000, metavar="N",
                       help="of the soft decoder, where a code shows but can't be read")

    group = parser.add_argument_group("V3: the trigger set")
    group.add_argument("--trigger_dir", "--triggers", type=cli.text, action="append", default=None, metavar="DIR",
                       help="the exported set; alone it is not counted")
    group.add_argument("--trigger_key", type=cli.text, action="append", default=None, metavar="FILE",
                       help="the secret key, which makes the set again and shows that its labels were drawn at random")

    group = parser.add_argument_group("two claims")
    group.add_argument("--own", type=cli.text, action="append", default=None, metavar="FILE",
                       help="the model that each claimant presents as the own one, first the first claimant's: whose mark is in "
                            "the other's?")

    group = parser.add_argument_group("verdict")
    group.add_argument("--max_false", type=cli.ratio, default=1e-9, metavar="P",
                       help="owned means that chance is at most this probable")
    group.add_argument("--json", type=cli.text, default=None, metavar="FILE", help="write the verdict for machines")
    group.add_argument("--report", type=cli.text, default=None, metavar="FILE", help="write the verdict as an HTML page")
    args = parser.parse_args(argv)
    claims = len(args.claim)
    if claims > 2 or len(set(args.claim)) < claims:
        parser.error("argument --claim: " + (f"given {claims} times; two claims are compared at a time" if claims > 2 else
                                             f"{args.claim[0]} is given twice; name the two rivals' files"))
    for flag in PER_CLAIM:
        count = len(getattr(args, flag) or ())
        if count > claims:
            parser.error(f"argument --{flag}: given {count} times, --claim {'once' if claims == 1 else 'twice'}")
    if args.own is not None and (claims, len(args.own)) != (2, 2):
        parser.error("argument --own: is for two claims, and needs both claimants' models")
    if args.predictions is not None and len(args.predictions) != claims:
        parser.error("argument --predictions: of two claims one list each, in the order of --claim")
    given = [f"--{name}" for name in ("suspect", "predictions", "endpoint") if getattr(args, name) is not None]
    if len(given) != 1:
        parser.error(f"{' and '.join(given)} exclude each other: a verdict is on one suspect" if given else
                     "give the suspect: one of --suspect, --predictions, --endpoint")
    if args.suspect is None:
        for flag in ("dataset", "data", "key", "merged", "aligned_to", "mean", "std"):
            if getattr(args, flag) is not None:
                parser.error(f"argument --{flag}: needs the --suspect's file")
        if args.trigger_dir is None and args.trigger_key is None:
            parser.error(f"argument {given[0]}: needs the trigger set; give --trigger_key or --trigger_dir")
    for flag in ("mean", "std"):
        if getattr(args, flag) is not None and len(getattr(args, flag)) != 3:
            parser.error(f"argument --{flag}: must be three numbers R,G,B")
    if args.aligned_committed and args.aligned_to is None:
        parser.error("argument --aligned_committed: needs --aligned_to")
    if args.data is not None and args.dataset is None:
        parser.error("argument --data: needs --dataset")
    if args.merged is not None and (args.key is None or args.dataset is None):
        parser.error("argument --merged: needs --key, and --dataset to measure its accuracy")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)

    from ownership import rivals, verdict
    from utils.errors import UserError

    files = Files()
    opened = open_claims(args, files)
    if args.aligned_to and not any(one.refused or one.claim.v1 or one.claim.v2 for one in opened):
        raise UserError("--aligned_to: has no use without V1 or V2 in a claim")
    given, unused = ([alone(args)], []) if len(opened) == 1 else sort_files(args, opened, files)
    sides = []
    for one, its_files in zip(opened, given):
        earlier_rival = any(side.committed and side.refused is None for side in sides)
        sides.append(judge(its_files, one, earlier_rival, files))
    refusals = [str(side.refused) for side in sides if side.refused is not None]

    if len(sides) == 1:
        owned = sides[0].verdict.verdict == verdict.OWNED
        write_results(args, sides[0], files.inputs)
        print_verdict(sides[0])
    else:
        own_models = None
        if args.own and refusals:
            unused.append("--own was not looked at: a claim is refused, so there are no two marks to look for")
        elif args.own:
            own_models = look_at_own_models(args, sides, given, files)
        found = rivals.compare(sides, own_models, unused)
        owned = found.owner is not None
        write_comparison(args, found, files.inputs)
        print_comparison(found)
    if len(refusals) == len(sides):
        raise UserError("; ".join(refusals))
    return cli.EXIT_OK if owned else cli.EXIT_NO_MATCH


class Files:
    """What was read. Pictures are loaded and accuracies measured once, whichever claim needs them.

    inputs: (flag, name, SHA-256), each file once. accuracies: (path, network, SHA-256 of the pictures) -> percent.
    """

    def __init__(self):
        self.inputs: list[tuple[str, str, str]] = []
        self.accuracies: dict[tuple[str, str, str], float] = {}
        self._pictures: dict[int | None, tuple] = {}

    def note(self, flag: str, path: str, digest: str | None = None) -> None:
        """A file, or with a digest of its own anything else."""
        from utils import checkpoint

        row = flag, path, digest or checkpoint.sha256(path)
        if row not in self.inputs:
            self.inputs.append(row)

    def pictures(self, dataset: str, folder: str | None, image_size: int | None):
        """A data set, and the SHA-256 of its test pictures."""
        from datasets import load_dataset
        from datasets.pictures import fingerprint

        if image_size not in self._pictures:
            data = load_dataset(dataset, folder, image_size)
            self._pictures[image_size] = data, fingerprint((data.test.images, data.test.labels))
        return self._pictures[image_size]


# --- the claims, and which file belongs to which ------------------------------------------------------------------------


def open_claims(args, files: Files) -> list:
    """Each claim with its commitment, or why it is refused."""
    from ownership import commitment, owner_claim
    from ownership.rivals import Opened
    from utils.errors import UserError

    opened = []
    for path, published in zip(args.claim, commitments_of(args)):
        try:
            private, public = commitment.open_claim(path, published, "owner_key")
            claim, refused = owner_claim.from_fields(private.values, path), None
        except commitment.Refused as error:
            claim, public, refused = None, None, error
        opened.append(Opened(path, published, claim, public, refused))
        for flag, name in (("--claim", path), ("--commitment", published)):
            if name is not None:
                files.note(flag, name)
    if len(opened) == 2 and not any(one.refused for one in opened):
        if opened[0].public is None and opened[1].public is not None:
            raise UserError(f"--claim {args.claim[0]}: no --commitment is its own, so nothing shows that it is the earlier; name "
                            "the other one first")
        opened = refuse_other_networks(args, opened)
    return opened


def commitments_of(args) -> list[str | None]:
    """The commitment of each claim, told by its root."""
    from ownership import commitment, rivals
    from utils import checkpoint
    from utils.errors import UserError

    published = args.commitment or []
    if len(args.claim) == 1:
        return published or [None]
    claims, roots = [], []
    for path in args.claim:
        try:
            private, stated = commitment.read_claim(path)
            claims.append((commitment.root_of(private.leaves()), stated))
        except commitment.Refused:  # open_claims will say why
            claims.append((None, None))
    for path in published:
        try:
            roots.append(commitment.read_commitment(path).root)
        except commitment.Refused:
            roots.append(None)
    for flag, paths, found in (("claim", args.claim, [root for root, _ in claims]), ("commitment", published, roots)):
        # a root stands for all content; where there is none, the bytes do
        if len(paths) == 2 and len({root or checkpoint.sha256(path) for root, path in zip(found, paths)}) == 1:
            raise UserError(f"--{flag}: {paths[0]} and {paths[1]} are the same {flag}; name the two rivals' files")
    return [None if index is None else published[index] for index in rivals.pair_commitments(claims, roots)]


def refuse_other_networks(args, opened: list) -> list:
    """Of two claims about different networks the suspect contradicts one; if both, it is no model that can be read."""
    from dataclasses import replace

    from models import build_model
    from ownership.commitment import Refused
    from ownership.suspect import read_suspect
    from utils.errors import UserError

    if args.suspect is None or len({one.claim.arch for one in opened}) == 1:
        return opened
    errors = []
    for one in opened:
        try:
            read_suspect(args.suspect, build_model(one.claim.arch, num_classes=2))
            errors.append(None)
        except UserError as error:
            errors.append(error)
    if all(errors):
        raise errors[0]
    return [one if error is None else replace(one, claim=None, public=None, refused=Refused(
        f"{one.path}: is about {one.claim.arch}, which the suspect is not ({error})")) for one, error in zip(opened, errors)]


def alone(args, **its_own) -> Namespace:
    """The command line as it would be with one claim: no lists but --aligned_to, which any claim may use. no_pictures: why the
    claim's accuracy is not measured."""
    single = {flag: getattr(args, flag)[0] if getattr(args, flag) else None for flag in ("claim", *PER_CLAIM, "predictions")}
    return Namespace(**{**vars(args), **single, "aligned_to": args.aligned_to or [], "no_pictures": None, **its_own})


def sort_files(args, opened: list, files: Files) -> tuple[list[Namespace], list[str]]:
    """Each claim's own command line: of the files that were given those which its digests name. And what is left over beside a
    refused claim, as notes; with both claims open it is an error."""
    from ownership.rivals import NAMES
    from utils.errors import UserError

    of_one = ("key", "merged", "trigger_dir", "trigger_key")
    theirs = [dict.fromkeys(of_one) for _ in opened]
    unused = []
    for flag in of_one:
        for path in getattr(args, flag) or ():
            whose = owners_of(flag, path, opened)
            if not whose:
                unused.append(f"--{flag} {path}: belongs to neither claim ({BELONGS_BY[flag]})")
            for number in whose:
                if theirs[number][flag] is not None:
                    raise UserError(f"--{flag} {path}: the {NAMES[number]} claim has its own in {theirs[number][flag]}")
                theirs[number][flag] = path
    if args.dataset is not None:
        reasons, errors = [], []
        for one in opened:
            try:
                reasons.append(other_pictures(args, one.claim, files))
            except UserError as error:  # a size of pictures that this data set can't have is one claim's fault
                reasons.append(f"the test pictures can't be had as the claim names them ({error})")
                errors.append(error)
        if errors and all(reasons):
            raise errors[0]
        for its_own, why in zip(theirs, reasons):
            its_own |= {} if why is None else {"dataset": None, "no_pictures": why}
        if all(reasons):
            unused.append(f"--dataset {args.dataset}: neither claim is about these test pictures")
    if unused and not any(one.refused for one in opened):
        raise UserError(unused[0])
    if args.predictions is not None:
        for its_own, path in zip(theirs, args.predictions):
            its_own["predictions"] = path
    return [alone(args, claim=one.path, commitment=one.commitment_path, **its_own)
            for one, its_own in zip(opened, theirs)], [f"{text}; it was not used" for text in unused]


BELONGS_BY = {"key": "v1.key_sha256", "merged": "v1.ticket_mask_sha256", "trigger_dir": "v3.sha256", "trigger_key": "v3.sha256"}


def owners_of(flag: str, path: str, opened: list) -> list[int]:
    """The claims whose digest names a file. Raises UserError for one that can't be read as any of theirs."""
    from datasets.trigger import keyed, load_exported, read_key
    from models import build_model
    from ownership.owner_claim import mask_sha256
    from ownership.suspect import read_suspect
    from pruner import key_masks, tickets
    from utils.errors import UserError

    def belongs(claim) -> bool:
        if flag == "trigger_dir":
            return claim.v3 is not None and load_exported(path).fingerprint() == claim.v3.sha256
        if flag == "trigger_key":
            key, v3 = read_key(path), claim.v3
            return v3 is not None and keyed(key, v3.pictures, v3.num_classes, v3.size).fingerprint() == v3.sha256
        if claim.v1 is None:
            return False
        model = build_model(claim.arch, num_classes=2)
        if flag == "merged":
            return mask_sha256(read_suspect(path, model).mask) == claim.v1.ticket_mask_sha256
        key = tickets.read_model_file(path, model, head=False)
        if key.facts.get("part") != "key" or key.mask is None or key.initial is None:
            raise UserError(f"--key {path}: is not the key part of a split ticket")
        return key_masks.fingerprint(key.mask, key.initial) == claim.v1.key_sha256

    whose, errors = [], []
    for number, one in enumerate(opened):
        try:
            if one.claim is not None and belongs(one.claim):
                whose.append(number)
        except UserError as error:  # of another network than this claim's, perhaps
            errors.append(error)
    if errors and not whose:
        raise errors[0]
    return whose


def other_pictures(args, claim, files: Files) -> str | None:
    """Why a claim's accuracy is not measured on the pictures that were given, None if it is."""
    if claim is None or claim.fidelity is None:
        return "the claim says nothing of accuracy"
    if claim.fidelity.dataset != args.dataset:
        return f"the claim is about {claim.fidelity.dataset}"
    _, digest = files.pictures(args.dataset, args.data, claim.fidelity.image_size)
    return None if digest == claim.fidelity.test_sha256 else f"the claim is about other test pictures of {args.dataset}"


# --- one claim --------------------------------------------------------------------------------------------------------


def judge(args, opened, earlier_rival: bool, files: Files):
    """The verdict on one claim, see `ownership.rivals.Side`. earlier_rival: another claim was committed to before."""
    from ownership import verdict
    from ownership.commitment import Refused
    from ownership.rivals import Side

    facts = {"suspect": args.suspect or args.predictions or args.endpoint}
    claim, public = opened.claim, opened.public
    if claim is None:
        return Side(opened, verdict.refusal(str(opened.refused), args.max_false), facts, refused=opened.refused)
    claimed = [*(["F"] if claim.fidelity else []), *claim.schemes]
    facts |= {"claimed by": claim.owner, "claims": ", ".join(claimed) or "nothing",
              "commitment": public.root.hex() if public else "none given",
              "signed by": claim.owner_key if public and claim.owner_key else "nobody"}
    committed, later, refused = public is not None, public is not None and earlier_rival, None
    try:
        checks = run_checks(args, claim, committed, later, files)
        found = verdict.decide(claim, checks, committed, committed and public.signature is not None, args.max_false, later)
    except Refused as error:
        found, refused = verdict.refusal(str(error), args.max_false), error
    return Side(opened, found, facts, later, refused)


def run_checks(args, claim, committed: bool, later: bool, files: Files) -> list:
    """F, V1, V2 and V3, those of the claim, as far as the given files allow. A later claim counts as not committed to."""
    from ownership import verdict
    from utils.errors import UserError

    committed = committed and not later
    for flag, scheme in (("key", "V1"), ("trigger_dir", "V3"), ("trigger_key", "V3")):
        if getattr(args, flag) is not None and scheme not in claim.schemes:
            raise UserError(f"--{flag}: the claim has no {scheme}")
    if args.suspect is None:
        checks = [verdict.not_run(name, "needs the suspect's file") for name in ("F", "V1", "V2")
                  if name in claim.schemes or (name == "F" and claim.fidelity)]
        return [*checks, *check_triggers(args, claim, committed, files)]

    from models import build_model
    from ownership.suspect import read_suspect

    suspect = read_suspect(args.suspect, build_model(claim.arch, num_classes=2))
    files.note("--suspect", args.suspect)
    aligned = align_to_owner(args, claim, suspect, committed, files)
    data = load_test_pictures(args, claim, files)
    checks = []
    if claim.fidelity:
        checks.append(check_fidelity(args, claim, data, args.suspect, files) if data else
                      verdict.not_run("F", args.no_pictures or "needs --dataset"))
    if claim.v1:
        checks.append(check_key(args, claim, suspect, data, aligned, committed, later, files))
    if claim.v2:
        checks.append(verdict.code(claim.v2, suspect, committed, args.max_false, args.restarts, aligned))
    return [*checks, *check_triggers(args, claim, committed, files)]


def align_to_owner(args, claim, suspect, committed: bool, files: Files) -> list:
    """The suspect in the numbering of each --aligned_to, for V1 and V2."""
    from models import build_model
    from ownership.verdict import align_to

    aligned = []
    for path in args.aligned_to if claim.v1 or claim.v2 else ():
        model = build_model(claim.arch, num_classes=2)
        aligned.append(align_to(path, suspect, model, claim, committed, args.aligned_committed))
        files.note("--aligned_to", path)
    return aligned


def load_test_pictures(args, claim, files: Files):
    """The claim's data set, or None where it is not given. Raises Refused where its test pictures are others."""
    from ownership.commitment import Refused
    from utils.errors import UserError

    if args.dataset is None:
        return None
    if claim.fidelity is None:
        raise UserError("--dataset: the claim says nothing of accuracy; leave it out")
    if claim.fidelity.dataset != args.dataset:
        raise UserError(f"--dataset {args.dataset}: the claim is about {claim.fidelity.dataset}")
    data, digest = files.pictures(args.dataset, args.data, claim.fidelity.image_size)
    if digest != claim.fidelity.test_sha256:
        raise Refused("--data: its test pictures are not those that the claim names (fidelity.test_sha256)")
    files.note("--dataset", f"{args.dataset}, test pictures", digest)
    return data


def check_fidelity(args, claim, data, path: str, files: Files):
    """F of the model in a file."""
    from ownership import verdict
    from ownership.suspect_model import accuracy_of, load_trained
    from utils.errors import UserError

    what = path, claim.arch, claim.fidelity.test_sha256
    if what not in files.accuracies:
        try:
            model = load_trained(path, claim.arch, data.num_classes, data.mean, data.std)
        except UserError as error:  # readable but for its classifier: what is in its masks can be checked all the same
            return verdict.not_run("F", str(error))
        files.accuracies[what] = accuracy_of(model, data.test, args.device)
    return verdict.fidelity(claim.fidelity, files.accuracies[what])


def check_key(args, claim, suspect, data, aligned: list, committed: bool, later: bool, files: Files):
    """V1."""
    from models import build_model
    from ownership import verdict
    from ownership.suspect import read_suspect
    from pruner import tickets

    if args.key is None:
        return verdict.not_run("V1", "needs the owner's --key")
    model = build_model(claim.arch, num_classes=2)
    key = tickets.read_model_file(args.key, model, head=False)
    files.note("--key", args.key)
    merged = merged_mask = None
    if args.merged is not None:
        merged_mask = read_suspect(args.merged, model).mask
        merged = check_fidelity(args, claim, data, args.merged, files) if data else None
        files.note("--merged", args.merged)
    return verdict.key_mask(claim.v1, suspect.mask, key, committed, merged, merged_mask, aligned, later)


def check_triggers(args, claim, committed: bool, files: Files) -> list:
    """V3, in a list: empty where it is not claimed."""
    from datasets.trigger import keyed, load_exported, read_key
    from ownership import black_box, verdict
    from ownership.commitment import Refused
    from ownership.open_inference import Service, model_address, query_endpoint
    from utils.errors import UserError

    claimed = claim.v3
    if claimed is None:
        if args.suspect is None:
            raise UserError(f"--claim {args.claim}: has no V3, which is all that answers can show")
        return []
    triggers = None
    for flag, load in (("trigger_dir", load_exported), ("trigger_key", lambda path: keyed(
            read_key(path), claimed.pictures, claimed.num_classes, claimed.size))):
        path = getattr(args, flag)
        if path is None:
            continue
        given = load(path)
        if given.fingerprint() != claimed.sha256:
            wrong = "is not" if flag == "trigger_dir" else "does not give"
            raise Refused(f"--{flag} {path}: {wrong} the trigger set that the claim names (v3.sha256)")
        triggers = triggers or given  # the exported one has the names that were sent
    if triggers is None:
        return [verdict.not_run("V3", "needs --trigger_key")]
    files.note("trigger set", f"{claimed.kind}, {claimed.pictures} pictures", claimed.sha256)
    names, num_classes = triggers.names, triggers.num_classes
    if args.suspect is not None:
        try:
            answers = black_box.predict(args.suspect, claim.arch, num_classes, triggers.pictures, names, args.mean, args.std)
        except UserError as error:
            return [verdict.not_run("V3", str(error))]
    elif args.predictions is not None:
        answers = black_box.read_predictions(args.predictions, names, num_classes)
        files.note("--predictions", args.predictions)
    else:
        answers = query_endpoint(model_address(args.endpoint), Service(), triggers.pictures.images.numpy(), names, num_classes)
    expected = triggers.pictures.labels.numpy()
    return [verdict.triggers(claimed, expected, answers, args.trigger_key is not None, committed, args.max_false)]


# --- two claims -------------------------------------------------------------------------------------------------------


def look_at_own_models(args, sides: list, given: list[Namespace], files: Files):
    """V2 and V3 of both claims on both claimants' own models. No commitment counts: it is to show what dates can't."""
    from dataclasses import replace

    from ownership import verdict
    from ownership.rivals import OwnModels

    def look(its_files: Namespace, claim, path: str):
        checks = check_marks(its_files, claim, path, files)
        return replace(verdict.decide(claim, checks, False, False, args.max_false), notes=())

    found = tuple(tuple(look(its_files, side.claim, path) for path in args.own) for side, its_files in zip(sides, given))
    for path in args.own:
        files.note("--own", path)
    return OwnModels(tuple(args.own), found)


def check_marks(args, claim, path: str, files: Files) -> list:
    """V2 and V3 of one claim on the model in a file."""
    from models import build_model
    from ownership import verdict
    from ownership.commitment import Refused
    from ownership.suspect import read_suspect

    own, checks = read_suspect(path, build_model(claim.arch, num_classes=2)), []
    if claim.v2:
        try:
            checks.append(verdict.code(claim.v2, own, False, args.max_false, args.restarts,
                                       align_to_owner(args, claim, own, False, files)))
        except Refused as error:  # seen only here where the suspect can't be looked into
            checks.append(verdict.not_run("V2", str(error)))
    as_suspect = Namespace(**{**vars(args), "suspect": path, "predictions": None, "endpoint": None})
    return [*checks, *check_triggers(as_suspect, claim, False, files)]


# --- results ----------------------------------------------------------------------------------------------------------


def print_verdict(side) -> None:
    from ownership.black_box import scientific

    found = side.verdict
    for name, value in side.facts.items():
        print(f"{name + ':':<12}{cli.one_line(value)}")
    if found.checks:
        print(f"\n{'check':<7}{'result':<11}{'p-value':<11}found")
    for check in found.checks:
        p = "-" if check.p is None else scientific(check.p)
        print(f"{check.name:<7}{check.result:<11}{p:<11}{cli.one_line(check.detail)}")
    if found.p is not None:
        print(f"\np-value:    {scientific(found.p)}, the smallest times the number of V2 and V3 in the claim (Bonferroni); "
              f"owned needs {found.level:g}")
    for note in found.notes if found.checks else ():
        print(f"note:       {note}")
    print(f"verdict:    {found.verdict}")


def print_comparison(found) -> None:
    """Both verdicts, and what tells the claims apart."""
    from ownership import rivals

    for name, side in zip(rivals.NAMES, found.sides):
        print(f"{name} claim: {cli.one_line(side.opened.path)}, commitment: "
              f"{cli.one_line(side.opened.commitment_path or 'none')}\n")
        print_verdict(side)
        if side.refused is not None:
            print(f"because:    {cli.one_line(str(side.refused))}")
        print()
    for name, value in (*rivals.rows(found), *(("note", note) for note in found.notes), ("conclusion", found.conclusion)):
        print(f"{name + ':':<15}{cli.one_line(value)}")


def write_results(args, side, inputs: list) -> None:
    """The files that --json and --report ask for."""
    from ownership.report import write_report
    from utils import checkpoint
    from utils.run_dir import versions

    made_with = versions() if args.json or args.report else {}
    if args.json:
        checkpoint.save_json({**verdict_as_json(side.verdict, side.facts), **origin_as_json(inputs, made_with)}, args.json)
    if args.report:
        write_report(args.report, side.verdict, side.facts, inputs, made_with)


def write_comparison(args, found, inputs: list) -> None:
    """Likewise, for two claims."""
    from ownership.report import write_comparison_report
    from ownership.rivals import NAMES
    from utils import checkpoint
    from utils.run_dir import versions

    made_with = versions() if args.json or args.report else {}
    if args.json:
        own, name_of = found.own_models, {None: None, **dict(enumerate(NAMES))}
        checkpoint.save_json({
            "conclusion": found.conclusion,
            "claims": [{"claim": side.opened.path, "commitment": side.opened.commitment_path, "later": side.later,
                        **verdict_as_json(side.verdict, side.facts)} for side in found.sides],
            "rivals": {"owner": name_of[found.owner], "regions": found.regions and vars(found.regions),
                       "accuracy": vars(found.accuracy), "own_models": own and {
                           "files": own.files, "supports": name_of[own.supports],
                           "shows": [[own.shows(claim, model) for model in range(2)] for claim in range(2)],
                           "verdicts": [[verdict_as_json(one) for one in row] for row in own.found]},
                       "notes": found.notes},
            **origin_as_json(inputs, made_with)}, args.json)
    if args.report:
        write_comparison_report(args.report, found, inputs, made_with)


def verdict_as_json(found, facts: dict[str, str] | None = None) -> dict:
    from ownership.black_box import SMALLEST, log10

    def numbers(p) -> dict:
        return {"p": None if p is None else max(SMALLEST, float(p)), "log10_p": None if p is None else log10(p)}

    checks = [{"check": check.name, "result": check.result, "found": check.detail, **numbers(check.p), **check.figures}
              for check in found.checks]
    return {"verdict": found.verdict, "level": found.level, **numbers(found.p), "notes": list(found.notes),
            **({"facts": facts} if facts else {}), "checks": checks}


def origin_as_json(inputs: list, made_with: dict) -> dict:
    return {"inputs": [dict(zip(("input", "name", "sha256"), row)) for row in inputs], "versions": made_with}


if __name__ == "__main__":
    cli.run(main)
