r"""Check an owner's claim on a suspect and give one verdict: owned (exit code 0), not shown (1), or refused (2).

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

`owned` means that chance gives as much with a probability of at most --max_false, all corrections included, or that the claimed
key completes a locked ticket exactly. `refused` means that the claim does not open the commitment, is not signed as it says,
or is contradicted by a file. What each check proves and assumes: docs/verification.md.
"""

from collections.abc import Sequence

from datasets import DATASETS
from utils import cli


def parse_args(argv: Sequence[str] | None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("--claim", type=cli.text, required=True, metavar="FILE", help="the owner's claim.json")
    parser.add_argument("--commitment", type=cli.text, default=None, metavar="FILE",
                        help="the commitment.json that was published (default: none; then nothing shows when the claim was "
                             "made)")

    group = parser.add_argument_group("the suspect: one of --suspect, --predictions, --endpoint")
    group.add_argument("--suspect", "--checkpoint", type=cli.text, default=None, metavar="FILE",
                       help="its model, ticket or masks")
    group.add_argument("--mean", type=cli.listed(cli.non_negative_float), default=None, metavar="R,G,B",
                       help="of its training pictures, on the scale 0 to 1, where the file does not say (for V3)")
    group.add_argument("--std", type=cli.listed(cli.positive_float), default=None, metavar="R,G,B", help="likewise")
    group.add_argument("--predictions", type=cli.text, default=None, metavar="CSV",
                       help="its answers on the trigger set: columns image and predicted_label")
    group.add_argument("--endpoint", type=cli.text, default=None, metavar="URL",
                       help="it speaks the Open Inference Protocol; where a token or more is needed, gather with "
                            "check_triggers.py --save_predictions")

    group = parser.add_argument_group("F: accuracy on the claim's test pictures")
    group.add_argument("--dataset", choices=sorted(DATASETS), default=None, help="must be the claim's")
    group.add_argument("--data", type=cli.text, default=None, metavar="DIR", help="its folder")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")

    group = parser.add_argument_group("V1: the owner's key completes the suspect's locked mask")
    group.add_argument("--key", type=cli.text, default=None, metavar="FILE", help="key.pth.tar")
    group.add_argument("--merged", type=cli.text, default=None, metavar="FILE",
                       help="a model trained from locked ticket and key (main_eval_all.py --key), whose accuracy must reach "
                            "the target")

    group = parser.add_argument_group("V2: the code in the mask")
    group.add_argument("--restarts", type=cli.natural, default=3000, metavar="N",
                       help="of the soft decoder, where a code shows but can't be read")

    group = parser.add_argument_group("V3: the trigger set")
    group.add_argument("--trigger_dir", "--triggers", type=cli.text, default=None, metavar="DIR",
                       help="the exported set; alone it is not counted")
    group.add_argument("--trigger_key", type=cli.text, default=None, metavar="FILE",
                       help="the secret key, which makes the set again and shows that its labels were drawn at random")

    group = parser.add_argument_group("verdict")
    group.add_argument("--max_false", type=cli.ratio, default=1e-9, metavar="P",
                       help="owned means that chance is at most this probable")
    group.add_argument("--json", type=cli.text, default=None, metavar="FILE", help="write the verdict for machines")
    group.add_argument("--report", type=cli.text, default=None, metavar="FILE", help="write the verdict as an HTML page")
    args = parser.parse_args(argv)
    given = [f"--{name}" for name in ("suspect", "predictions", "endpoint") if getattr(args, name) is not None]
    if len(given) != 1:
        parser.error(f"{' and '.join(given)} exclude each other: a verdict is on one suspect" if given else
                     "give the suspect: one of --suspect, --predictions, --endpoint")
    if args.suspect is None:
        for flag in ("dataset", "data", "key", "merged", "mean", "std"):
            if getattr(args, flag) is not None:
                parser.error(f"argument --{flag}: needs the --suspect's file")
        if args.trigger_dir is None and args.trigger_key is None:
            parser.error(f"argument {given[0]}: needs the trigger set; give --trigger_key or --trigger_dir")
    for flag in ("mean", "std"):
        if getattr(args, flag) is not None and len(getattr(args, flag)) != 3:
            parser.error(f"argument --{flag}: must be three numbers R,G,B")
    if args.data is not None and args.dataset is None:
        parser.error("argument --data: needs --dataset")
    if args.merged is not None and (args.key is None or args.dataset is None):
        parser.error("argument --merged: needs --key, and --dataset to measure its accuracy")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)

    from ownership import commitment, owner_claim, verdict

    inputs: list[tuple[str, str, str]] = []  # (flag, name, SHA-256) of all that was read
    facts = {"suspect": args.suspect or args.predictions or args.endpoint}
    refused = None
    try:
        private, public = commitment.open_claim(args.claim, args.commitment, "owner_key")
        note_claim(args, inputs)
        claim = owner_claim.from_fields(private.values, args.claim)
        claimed = [*(["F"] if claim.fidelity else []), *claim.schemes]
        facts |= {"claimed by": claim.owner, "claims": ", ".join(claimed) or "nothing",
                  "commitment": public.root.hex() if public else "none given",
                  "signed by": claim.owner_key if public and claim.owner_key else "nobody"}
        found = verdict.decide(claim, run_checks(args, claim, public is not None, inputs), public is not None,
                               public is not None and public.signature is not None, args.max_false)
    except commitment.Refused as error:
        if not inputs:
            note_claim(args, inputs)
        found, refused = verdict.refusal(str(error), args.max_false), error

    write_results(args, found, facts, inputs)
    print_verdict(found, facts)
    if refused is not None:
        raise refused
    return cli.EXIT_OK if found.verdict == verdict.OWNED else cli.EXIT_NO_MATCH


def run_checks(args, claim, committed: bool, inputs: list) -> list:
    """F, V1, V2 and V3, those of the claim, as far as the given files allow."""
    from ownership import verdict
    from utils.errors import UserError

    for flag, scheme in (("key", "V1"), ("trigger_dir", "V3"), ("trigger_key", "V3")):
        if getattr(args, flag) is not None and scheme not in claim.schemes:
            raise UserError(f"--{flag}: the claim has no {scheme}")
    if args.suspect is None:
        checks = [verdict.not_run(name, "needs the suspect's file") for name in ("F", "V1", "V2")
                  if name in claim.schemes or (name == "F" and claim.fidelity)]
        return [*checks, *check_triggers(args, claim, committed, inputs)]

    from models import build_model
    from ownership.suspect import read_suspect

    suspect = read_suspect(args.suspect, build_model(claim.arch, num_classes=2))
    note_file(args, "suspect", inputs)
    data = load_test_pictures(args, claim, inputs)
    checks = []
    if claim.fidelity:
        checks.append(check_fidelity(args, claim, data, args.suspect) if data else verdict.not_run("F", "needs --dataset"))
    if claim.v1:
        checks.append(check_key(args, claim, suspect, data, committed, inputs))
    if claim.v2:
        checks.append(verdict.code(claim.v2, suspect, committed, args.max_false, args.restarts))
    return [*checks, *check_triggers(args, claim, committed, inputs)]


def note_claim(args, inputs: list) -> None:
    for flag in ("claim", "commitment"):
        if getattr(args, flag) is not None:
            note_file(args, flag, inputs)


def note_file(args, flag: str, inputs: list) -> None:
    from utils import checkpoint

    inputs.append((f"--{flag}", getattr(args, flag), checkpoint.sha256(getattr(args, flag))))


def load_test_pictures(args, claim, inputs: list):
    """The claim's data set, or None where it is not given. Raises Refused where its test pictures are others."""
    from datasets import load_dataset
    from datasets.pictures import fingerprint
    from ownership.commitment import Refused
    from utils.errors import UserError

    if args.dataset is None:
        return None
    if claim.fidelity is None:
        raise UserError("--dataset: the claim says nothing of accuracy; leave it out")
    if claim.fidelity.dataset != args.dataset:
        raise UserError(f"--dataset {args.dataset}: the claim is about {claim.fidelity.dataset}")
    data = load_dataset(args.dataset, args.data, claim.fidelity.image_size)
    digest = fingerprint((data.test.images, data.test.labels))
    if digest != claim.fidelity.test_sha256:
        raise Refused("--data: its test pictures are not those that the claim names (fidelity.test_sha256)")
    inputs.append(("--dataset", f"{args.dataset}, test pictures", digest))
    return data


def check_fidelity(args, claim, data, path: str):
    """F of the model in a file."""
    from ownership import verdict
    from ownership.suspect_model import accuracy_of, load_trained
    from utils.errors import UserError

    try:
        model = load_trained(path, claim.arch, data.num_classes, data.mean, data.std)
    except UserError as error:  # readable but for its classifier: what is in its masks can be checked all the same
        return verdict.not_run("F", str(error))
    return verdict.fidelity(claim.fidelity, accuracy_of(model, data.test, args.device))


def check_key(args, claim, suspect, data, committed: bool, inputs: list):
    """V1."""
    from models import build_model
    from ownership import verdict
    from ownership.suspect import read_suspect
    from pruner import tickets

    if args.key is None:
        return verdict.not_run("V1", "needs the owner's --key")
    model = build_model(claim.arch, num_classes=2)
    key = tickets.read_model_file(args.key, model, head=False)
    note_file(args, "key", inputs)
    merged = merged_mask = None
    if args.merged is not None:
        merged_mask = read_suspect(args.merged, model).mask
        merged = check_fidelity(args, claim, data, args.merged)
        note_file(args, "merged", inputs)
    return verdict.key_mask(claim.v1, suspect.mask, key, committed, merged, merged_mask)


def check_triggers(args, claim, committed: bool, inputs: list) -> list:
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
    inputs.append(("trigger set", f"{claimed.kind}, {claimed.pictures} pictures", claimed.sha256))
    names, num_classes = triggers.names, triggers.num_classes
    if args.suspect is not None:
        try:
            answers = black_box.predict(args.suspect, claim.arch, num_classes, triggers.pictures, names, args.mean, args.std)
        except UserError as error:
            return [verdict.not_run("V3", str(error))]
    elif args.predictions is not None:
        answers = black_box.read_predictions(args.predictions, names, num_classes)
        note_file(args, "predictions", inputs)
    else:
        answers = query_endpoint(model_address(args.endpoint), Service(), triggers.pictures.images.numpy(), names, num_classes)
    expected = triggers.pictures.labels.numpy()
    return [verdict.triggers(claimed, expected, answers, args.trigger_key is not None, committed, args.max_false)]


def print_verdict(found, facts: dict[str, str]) -> None:
    from ownership.black_box import scientific

    for name, value in facts.items():
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


def write_results(args, found, facts: dict[str, str], inputs: list) -> None:
    """The files that --json and --report ask for."""
    from ownership.black_box import SMALLEST, log10
    from ownership.report import write_report
    from utils import checkpoint
    from utils.run_dir import versions

    def numbers(p) -> dict:
        return {"p": None if p is None else max(SMALLEST, float(p)), "log10_p": None if p is None else log10(p)}

    made_with = versions() if args.json or args.report else {}
    if args.json:
        checks = [{"check": check.name, "result": check.result, "found": check.detail, **numbers(check.p), **check.figures}
                  for check in found.checks]
        checkpoint.save_json({"verdict": found.verdict, "level": found.level, **numbers(found.p), "notes": list(found.notes),
                              "facts": facts, "checks": checks,
                              "inputs": [dict(zip(("input", "name", "sha256"), row)) for row in inputs],
                              "versions": made_with}, args.json)
    if args.report:
        write_report(args.report, found, facts, inputs, made_with)


if __name__ == "__main__":
    cli.run(main)
