"""One claim before the arbiter: it is opened, and what it says is checked on the suspect as far as the given files allow.

`ownership.claims.verdict` says what each check proves; here stands what has to be read for it, and which file belongs to which check.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from datasets import ImageSizeError
from datasets.pictures import Dataset
from datasets.trigger import TriggerSet
from models import build_model
from ownership.claims import commitment, owner_claim, verdict
from ownership.trigger_set import endpoint as open_inference, evidence as black_box
from ownership.claims.commitment import Commitment, Refused
from ownership.claims.case import Given, Inputs, Unmeasured
from ownership.claims.owner_claim import OwnerClaim, Triggers
from ownership.suspects.reading import Suspect, expected_by
from ownership.claims.verdict import Aligned, Check, Verdict
from utils.errors import UserError


@dataclass(frozen=True)
class Opened:
    """A claim's files. commitment_path: None where there is none. claim, public: None where the claim is refused."""

    path: str
    commitment_path: str | None
    claim: OwnerClaim | None
    public: Commitment | None
    refused: Refused | None = None


@dataclass(frozen=True)
class Side:
    """A claim and what became of it.

    facts: for people, by name. later: judged as the later of two. refused: why, if it was, when opened or by a check.
    """

    opened: Opened
    verdict: Verdict
    facts: Mapping[str, str]
    later: bool = False
    refused: Refused | None = None

    @property
    def claim(self) -> OwnerClaim | None:
        """None where it did not open."""
        return self.opened.claim

    @property
    def committed(self) -> bool:
        """Whether it opened a commitment."""
        return self.opened.public is not None

    @property
    def code(self) -> Check | None:
        """V2, where it was run."""
        return next((check for check in self.verdict.checks if check.codes), None)


def open_claim(path: str, commitment_path: str | None, inputs: Inputs) -> Opened:
    """A claim with its commitment, or why it is refused. Raises UserError for a file that can't be read."""
    claim = public = refused = None
    try:
        private, public = commitment.open_claim(path, commitment_path, "owner_key")
        claim = owner_claim.from_fields(private.values, path)
    except Refused as error:
        public, refused = None, error
    inputs.note("--claim", path)
    if commitment_path is not None:
        inputs.note("--commitment", commitment_path)
    return Opened(path, commitment_path, claim, public, refused)


def judge_in_order(opened: Sequence[Opened], given: Sequence[Given], inputs: Inputs) -> list[Side]:
    """The verdict on each claim by what was given for it; of two claims the one that was committed to earlier first. Raises
    UserError as `run_checks`."""
    sides: list[Side] = []
    for one, its_own in zip(opened, given):
        earlier_rival = any(side.committed and side.refused is None for side in sides)
        sides.append(judge(one, its_own, earlier_rival, inputs))
    return sides


def judge(opened: Opened, given: Given, earlier_rival: bool, inputs: Inputs) -> Side:
    """The verdict on one claim. earlier_rival: another claim was committed to before. Raises UserError as `run_checks`."""
    facts = {"suspect": given.suspect or given.predictions or given.endpoint}
    claim, public = opened.claim, opened.public
    if claim is None:
        return Side(opened, verdict.refusal(str(opened.refused), given.max_false), facts, refused=opened.refused)
    claimed = [*(["F"] if claim.fidelity else []), *claim.schemes]
    facts |= {"claimed by": claim.owner, "claims": ", ".join(claimed) or "nothing",
              "commitment": public.root.hex() if public else "none given",
              "signed by": claim.owner_key if public and claim.owner_key else "nobody"}
    committed, refused = public is not None, None
    later = committed and earlier_rival
    try:
        checks = run_checks(opened, given, committed, later, inputs)
        found = verdict.decide(claim, checks, committed, committed and public.signature is not None, given.max_false, later)
    except Refused as error:
        found, refused = verdict.refusal(str(error), given.max_false), error
    return Side(opened, found, facts, later, refused)


def run_checks(opened: Opened, given: Given, committed: bool, later: bool, inputs: Inputs) -> list[Check]:
    """F, V1, V2 and V3, those of the claim, as far as the given files allow.

    Args:
        opened: with a claim.
        later: the claim is the later one of two, so it counts as not committed to.
    Raises:
        Refused: a file contradicts the claim.
        UserError: a file that can't be read, or that the claim has no use for.
    """
    claim, committed = opened.claim, committed and not later
    for flag, scheme in (("key", "V1"), ("trigger_dir", "V3"), ("trigger_key", "V3")):
        if getattr(given, flag) is not None and scheme not in claim.schemes:
            raise UserError(f"--{flag}: the claim has no {scheme}")
    check_merged_has_use(opened, given)
    if given.suspect is None:
        checks = [verdict.not_run(name, "needs the suspect's file") for name in ("F", "V1", "V2")
                  if name in claim.schemes or (name == "F" and claim.fidelity)]
        return [*checks, *check_triggers(opened, given, committed, inputs)]

    suspect = inputs.suspect(given.suspect, claim.arch)
    inputs.note("--suspect", given.suspect)
    aligned = align_to_owner(claim, given, suspect, committed, inputs)
    data = load_test_pictures(opened, given, inputs)
    checks = []
    if claim.fidelity:
        checks.append(check_fidelity(claim, given, data, given.suspect, inputs) if data else
                      verdict.not_run("F", given.no_pictures or "needs --dataset"))
    if claim.v1:
        checks.append(check_key(claim, given, suspect, data, aligned, committed, later, inputs))
    if claim.v2:
        checks.append(verdict.code(claim.v2, suspect, committed, given.max_false, given.restarts, aligned))
    return [*checks, *check_triggers(opened, given, committed, inputs)]


def check_marks(opened: Opened, given: Given, inputs: Inputs) -> list[Check]:
    """V2 and V3 of a claim on a model's file, which stands in `given` as the suspect's. No commitment counts. Raises Refused and
    UserError as `run_checks`."""
    claim, checks = opened.claim, []
    suspect = inputs.suspect(given.suspect, claim.arch)
    if claim.v2:
        try:
            checks.append(verdict.code(claim.v2, suspect, False, given.max_false, given.restarts,
                                       align_to_owner(claim, given, suspect, False, inputs)))
        except Refused as error:  # seen only here where the suspect can't be looked into
            checks.append(verdict.not_run("V2", str(error)))
    return [*checks, *check_triggers(opened, given, False, inputs)]


# --- the checks -------------------------------------------------------------------------------------------------------


def align_to_owner(claim: OwnerClaim, given: Given, suspect: Suspect, committed: bool, inputs: Inputs) -> list[Aligned]:
    """The suspect in the numbering of each of the owner's files, for V1 and V2. Raises UserError as
    `ownership.claims.verdict.align_to`."""
    aligned = []
    for path in given.aligned_to if claim.v1 or claim.v2 else ():
        model = build_model(claim.arch, num_classes=2)
        aligned.append(verdict.align_to(path, suspect, model, claim, committed, given.aligned_committed))
        inputs.note("--aligned_to", path)
    return aligned


def check_merged_has_use(opened: Opened, given: Given) -> None:
    """Raise UserError for a model of ticket and key together whose accuracy nobody claims, or can measure."""
    if given.merged is None:
        return
    if opened.claim.fidelity is None:
        flags = "--merged" if given.dataset is None else "--merged and --dataset"
        raise UserError(f"--merged {given.merged}: is for its accuracy, of which {opened.path} says nothing; leave out {flags}")
    if given.dataset is None and given.no_pictures is None:
        raise UserError(f"--merged {given.merged}: its accuracy is to be measured; give --dataset "
                        f"{opened.claim.fidelity.dataset}")


def load_test_pictures(opened: Opened, given: Given, inputs: Inputs) -> Dataset | None:
    """The claim's data set, or None where it is not given. Raises Refused where its test pictures are others, UserError as
    `datasets.load_dataset`, and for a data set that the claim is not about."""
    fidelity = opened.claim.fidelity
    if given.dataset is None:
        return None
    if fidelity is None:
        raise UserError("--dataset: the claim says nothing of accuracy; leave it out")
    if fidelity.dataset != given.dataset:
        raise UserError(f"--dataset {given.dataset}: the claim is about {fidelity.dataset}")
    try:
        data, digest = inputs.pictures(given.dataset, given.data, fidelity.image_size)
    except ImageSizeError as error:
        raise wrong_size(opened, error) from None
    if digest != fidelity.test_sha256:
        raise Refused("--data: its test pictures are not those that the claim names (fidelity.test_sha256)")
    inputs.note("--dataset", f"{given.dataset}, test pictures", digest)
    return data


def wrong_size(opened: Opened, error: ImageSizeError) -> UserError:
    """The same error for somebody who gave a claim, and no flag for the size of its pictures."""
    size = opened.claim.fidelity.image_size
    return UserError(f"--claim {opened.path}: the test pictures can't be had as it names them (fidelity.image_size "
                     f"{'null' if size is None else size}): {error.why}")


def check_fidelity(claim: OwnerClaim, given: Given, data: Dataset, path: str, inputs: Inputs) -> Check:
    """F of the model in a file. Raises UserError for a device that this machine lacks."""
    try:
        accuracy = inputs.accuracy(path, claim.arch, data, claim.fidelity.test_sha256, given.device)
    except Unmeasured as error:
        return verdict.not_run("F", str(error))
    return verdict.fidelity(claim.fidelity, accuracy)


def check_key(claim: OwnerClaim, given: Given, suspect: Suspect, data: Dataset | None, aligned: Sequence[Aligned],
              committed: bool, later: bool, inputs: Inputs) -> Check:
    """V1. Raises Refused as `ownership.claims.verdict.key_mask`, and UserError for files that can't be read."""
    if given.key is None:
        return verdict.not_run("V1", "needs the owner's --key")
    key = inputs.key(given.key, claim.arch)
    inputs.note("--key", given.key)
    merged = merged_mask = None
    if given.merged is not None:
        merged_mask = inputs.suspect(given.merged, claim.arch).mask
        merged = check_fidelity(claim, given, data, given.merged, inputs) if data else verdict.not_run("F", given.no_pictures)
        inputs.note("--merged", given.merged)
    return verdict.key_mask(claim.v1, suspect.mask, key, committed, merged, merged_mask, aligned, later)


def check_triggers(opened: Opened, given: Given, committed: bool, inputs: Inputs) -> list[Check]:
    """V3, in a list: empty where it is not claimed. Raises Refused and UserError as `claimed_triggers` and `ask`."""
    claimed = opened.claim.v3
    if claimed is None:
        if given.suspect is None:
            raise UserError(f"--claim {opened.path}: has no V3, which is all that answers can show")
        return []
    triggers = claimed_triggers(claimed, given, inputs)
    if triggers is None:
        return [verdict.not_run("V3", "needs --trigger_key")]
    inputs.note("trigger set", f"{claimed.kind}, {claimed.pictures} pictures", claimed.sha256)
    if given.suspect is not None:
        try:
            answers = black_box.predict(given.suspect, opened.claim.arch, triggers.num_classes, triggers.pictures, triggers.names,
                                        given.mean, given.std, expected_by(opened.claim.arch))
        except UserError as error:
            return [verdict.not_run("V3", str(error))]
    else:
        answers = ask(given, triggers, inputs)
    expected = triggers.pictures.labels.numpy()
    return [verdict.triggers(claimed, expected, answers, given.trigger_key is not None, committed, given.max_false)]


def claimed_triggers(claimed: Triggers, given: Given, inputs: Inputs) -> TriggerSet | None:
    """The claim's trigger set, from its folder, which has the names that were sent, or else from its key; None where neither is
    given. Raises Refused for another set, UserError for files that can't be read."""
    found = []
    if given.trigger_dir is not None:
        found.append(inputs.exported_triggers(given.trigger_dir))
        if found[-1].fingerprint() != claimed.sha256:
            raise Refused(f"--trigger_dir {given.trigger_dir}: is not the trigger set that the claim names (v3.sha256)")
    if given.trigger_key is not None:
        found.append(inputs.keyed_triggers(given.trigger_key, claimed))
        if found[-1].fingerprint() != claimed.sha256:
            raise Refused(f"--trigger_key {given.trigger_key}: does not give the trigger set that the claim names (v3.sha256)")
    return found[0] if found else None


def ask(given: Given, triggers: TriggerSet, inputs: Inputs) -> np.ndarray:
    """int64 [pictures]: the suspect's answers, from a list or its address. Raises UserError as `black_box.read_predictions` and
    `open_inference.query_endpoint`."""
    if given.predictions is not None:
        answers = black_box.read_predictions(given.predictions, triggers.names, triggers.num_classes)
        inputs.note("--predictions", given.predictions)
        return answers
    address, images = open_inference.model_address(given.endpoint), triggers.pictures.images.numpy()
    return open_inference.query_endpoint(address, open_inference.Service(), images, triggers.names, triggers.num_classes)
