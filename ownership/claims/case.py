"""One claim before the court: what is claimed, what was given for it, and what was read of that."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

import numpy as np

import datasets
from datasets import ImageSizeError
from datasets.pictures import Dataset, fingerprint
from models import build_model
from ownership import SCHEMES
from ownership.claims.commitment import Refused
from ownership.claims.owner_claim import OwnerClaim
from ownership.claims.timestamps import Dated
from ownership.claims.verdict import LEVEL, NOT_RUN, Check, Standing, fidelity
from ownership.suspects import classifier
from ownership.suspects.alignment import Alignment, align, read_reference
from ownership.suspects.reading import Suspect, expected_by, read_suspect
from pruner.channel_groups import channel_groups
from pruner.masks import Mask
from pruner.tickets import Expected
from utils import checkpoint
from utils.checkpoint import FileBytes
from utils.errors import UserError


SUSPECT_FLAG = "--suspect"


@dataclass(frozen=True)
class Prior:
    """A model that may be older than a claim. dated: None where nothing says how old it is."""

    path: str
    dated: Dated | None = None


@dataclass(frozen=True)
class Given:
    """What there is to judge one claim by. Names of files and folders, None for what was not given.

    suspect, predictions, endpoint: the suspect's file, its answers on the trigger set, or its address; one of them. mean, std: of
    the suspect's training pictures, per channel on the scale 0 to 1, where its file does not say or may say it wrongly. dataset, data: a name of the
    registry, and its folder. no_pictures: why the accuracy is not measured, where the data set is not meant for this claim.
    aligned_to: the owner's files of another numbering of channels. suspect_dated: when others could first see the suspect, on
    the arbiter's word. priors: models that are said to be older than the claim.
    max_false: owned means that chance is at most this probable. proofs: the flags of the schemes, of which each knows its own.
    suspect_flag, expected: what names the suspect's file, and its network, in messages; None where the claim says.
    """

    suspect: str | None = None
    predictions: str | None = None
    endpoint: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    dataset: str | None = None
    data: str | None = None
    no_pictures: str | None = None
    aligned_to: tuple[str, ...] = ()
    suspect_dated: datetime | None = None
    priors: tuple[Prior, ...] = ()
    device: str = "auto"
    max_false: float = LEVEL
    proofs: Mapping[str, Any] = field(default_factory=dict)
    suspect_flag: str = SUSPECT_FLAG
    expected: Expected | None = None

    @property
    def normalisations(self) -> tuple[classifier.Normalisation, ...]:
        """Those by which the suspect's file answers: as it was given, and the file's own. Each is a try."""
        return tuple(dict.fromkeys(((self.mean, self.std), (None, None))))


@dataclass(frozen=True)
class Aligned:
    """The suspect in the owner's numbering of channels.

    reference: the owner's file that says what it is. alignment: its suspect is cleaned as the claim asks. mask: the suspect's,
    renumbered alike and not cleaned. counted: the schemes whose mark was drawn by a hash of this very file's ticket. By any other
    file somebody can have any model show any code: he sorts its channels.
    """

    reference: str
    alignment: Alignment
    mask: Mask
    counted: frozenset[str]


class NotRun(UserError):
    """Why a check can't be run on what was given; the others can be all the same."""


class Unreadable(UserError):
    """Why the suspect's file, which is there, can't be read as a model of the claim's network."""


class Files:
    """What was read, each file once, whichever claim or check asks for it.

    rows: (flag, name, SHA-256) for the verdict, each once. derivations: how models were read, by their files' names.
    """

    def __init__(self, how: Mapping[str | None, Mapping[str, str | None]] | None = None):
        """how: of models' files, what somebody has said of reading them (`utils.checkpoint.read_model`)."""
        self.how, self.derivations = how or {}, {}
        self.rows: list[tuple[str, str, str]] = []
        self._read: dict[tuple, Any] = {}

    def record(self, flag: str, name: str, digest: str | None = None) -> None:
        """List a file that was read, or with a digest of its own anything else."""
        rows = [(name, digest)]
        if digest is None:
            file = self._read["bytes", name]
            rows = [(one.path, one.sha256) for one in (file, file.names, *file.parts.values()) if one is not None]
        self.rows += [(flag, *row) for row in rows if (flag, *row) not in self.rows]

    def once(self, what: tuple, read: Callable[[], Any]) -> Any:
        """What `read` returned when it was first asked for."""
        if what not in self._read:
            self._read[what] = read()
        return self._read[what]

    def bytes_of(self, path: str, limit: int | None = None) -> FileBytes:
        """A file as it was when it was first asked for, so that all checks judge the same bytes, and the verdict has their
        SHA-256. limit: as far as it is read; None for a model's. Raises UserError as `utils.checkpoint.read_once`."""
        return self.once(("bytes", path), lambda: checkpoint.read_model(path, **self.how.get(path, {})) if limit is None else
                         checkpoint.read_once(path, limit))

    def suspect(self, path: str, arch: str, expected: Expected | None = None) -> Suspect:
        """Which weights a file has. Raises UserError as `ownership.suspects.reading.read_suspect`."""

        def read():
            suspect = read_suspect(self.bytes_of(path), build_model(arch, num_classes=2), expected or expected_by(arch))
            self.derivations[path] = suspect.derivation
            return suspect

        return self.once(("suspect", path, arch), read)

    def pictures(self, dataset: str, folder: str | None, image_size: int | None) -> tuple[Dataset, str]:
        """A data set, and the SHA-256 of its test pictures and labels. Raises UserError as `datasets.load_dataset`."""

        def read():
            data = datasets.load_dataset(dataset, folder, image_size)
            return data, fingerprint((data.test.inputs, data.test.labels))

        return self.once(("pictures", dataset, folder, image_size), read)

    def accuracy(self, path: str, arch: str, data: Dataset, digest: str, given: Given) -> float:
        """Percent of the test pictures, whose SHA-256 is `digest`, that the model in a file has right; of the suspect, by the
        normalisation by which it is most. Raises NotRun for a file that holds no trained model for their classes, and UserError for
        a device that this machine lacks."""
        normalisations = given.normalisations if path == given.suspect else ((None, None),)

        def measure():
            try:
                models = [classifier.load_trained(self.bytes_of(path), arch, data, normalisation, expected_by(arch))
                          for normalisation in normalisations]
            except UserError as error:
                raise NotRun(str(error)) from None
            return max(classifier.accuracy_of(model, data.test, given.device) for model in models)

        return self.once(("accuracy", path, arch, digest, normalisations), measure)


@dataclass(frozen=True)
class Case:
    """path: the claim's file, for messages. standing: what the checks go by. files: read for this claim and for others."""

    claim: OwnerClaim
    path: str
    standing: Standing
    given: Given
    files: Files

    @property
    def committed(self) -> bool:
        """Whether the claim counts as made before anybody looked at the suspect."""
        return self.standing is Standing.COMMITTED

    @property
    def expected(self) -> Expected:
        """Whose word it is which network files must be of."""
        return self.given.expected or expected_by(self.claim.arch)

    def read(self, flag: str, path: str, read: Callable[[Files, str, str], Any]) -> Any:
        """What `read` (of files, path and network) makes of a file, which joins the inputs with its hash."""
        content = read(self.files, path, self.claim.arch)
        self.files.record(flag, path)
        return content

    @cached_property
    def suspect(self) -> Suspect:
        """Raises NotRun where only answers are there, UserError where there is no such file, and as
        `ownership.suspects.reading.read_suspect`: Unreadable where that is of what is judged."""
        flag, path = self.given.suspect_flag, self.given.suspect
        if path is None:
            raise NotRun("needs the suspect's file")
        self.files.bytes_of(path)  # what is not there is a mistyped flag
        self.files.record(flag, path)
        try:
            return self.files.suspect(path, self.claim.arch, self.expected)
        except UserError as error:
            if flag != SUSPECT_FLAG or isinstance(error, checkpoint.NamesError):
                raise
            raise Unreadable(str(error)) from None

    @cached_property
    def aligned(self) -> list[Aligned]:
        """The suspect in the numbering of each of the owner's files, its --aligned_to: one for each mark that counts by it, and
        one that counts for none where there is none.

        What holds a mark takes no part, or the mark's p-value would be worth nothing. Nor does what the claimant says of another
        mark, or he could choose among numberings.

        Raises UserError as `ownership.suspects.alignment.read_reference`, and if the network's structure can't be followed.
        """
        return [one for path in self.given.aligned_to for one in self._align_to(path)]

    def _align_to(self, path: str) -> Iterator[Aligned]:
        model, marks = build_model(self.claim.arch, num_classes=2), checks_of(self.claim)
        owner = self.read("--aligned_to", path, lambda files, *_: read_reference(files.bytes_of(path), model, self.expected))
        groups, whole = channel_groups(model), self.suspect.cut or self.suspect
        drawn = [[mark] for mark in marks if mark.is_drawn_from(owner)]
        for together in drawn or [marks]:
            suspect, left_out = whole, {}
            for mark in together:
                suspect = mark.cleaned(suspect)
                for layer, kernels in mark.left_out(owner.mask).items():
                    left_out[layer] = left_out.get(layer, False) | kernels
            alignment = align(owner, suspect, groups, left_out)
            mask = groups.renumbered_mask(whole.mask, np.argsort(alignment.order))
            yield Aligned(path, alignment, mask, frozenset(mark.name for mark in together if drawn))

    @cached_property
    def pictures(self) -> Dataset | None:
        """The claim's data set, or None where it is not given. Raises Refused where its test pictures are others, UserError as
        `datasets.load_dataset`, and for a data set that the claim is not about."""
        claimed, given = self.claim.fidelity, self.given
        if given.dataset is None:
            return None
        if claimed is None:
            raise UserError("--dataset: the claim says nothing of accuracy; leave it out")
        if claimed.dataset != given.dataset:
            raise UserError(f"--dataset {given.dataset}: the claim is about {claimed.dataset}")
        try:
            data, digest = self.files.pictures(given.dataset, given.data, claimed.image_size)
        except ImageSizeError as error:
            raise wrong_size(self.claim, self.path, error) from None
        if digest != claimed.test_sha256:
            raise Refused("--data: its test pictures are not those that the claim names (fidelity.test_sha256)")
        self.files.record("--dataset", f"{given.dataset}, test pictures", digest)
        return data

    def fidelity_of(self, path: str) -> Check:
        """F of the model in a file. Raises Refused and UserError as `pictures`, and UserError for a device that this machine
        lacks."""
        if self.pictures is None:
            return Check("F", NOT_RUN, self.given.no_pictures or "needs --dataset")
        claimed = self.claim.fidelity
        try:
            return fidelity(claimed, self.files.accuracy(path, self.claim.arch, self.pictures, claimed.test_sha256, self.given))
        except NotRun as error:
            return Check("F", NOT_RUN, str(error))


def checks_of(claim: OwnerClaim) -> list[Any]:
    """The `ownership.claims.scheme.SchemeCheck` of each scheme of a claim, in the order of their checks."""
    return [SCHEMES[name].check.Checker(name, claim.parts[name]) for name in claim.schemes]


def wrong_size(claim: OwnerClaim, path: str, error: ImageSizeError) -> UserError:
    """The same error for somebody who gave a claim, and no flag for the size of its pictures."""
    size = claim.fidelity.image_size
    return UserError(f"--claim {path}: the test pictures can't be had as it names them (fidelity.image_size "
                     f"{'null' if size is None else size}): {error.why}")


def tried(suspect: Suspect, aligned: Sequence[Aligned]) -> list[Suspect | Aligned]:
    """What the claim is looked for in, each a try: the suspect as it is, without what was filled into it, and in other numberings."""
    return [*suspect.masks, *aligned]


def suspects_of(tries: Sequence[Suspect | Aligned]) -> list[Suspect]:
    """What is looked at in each of `tried`."""
    return [one if isinstance(one, Suspect) else one.alignment.suspect for one in tries]


def numbering(shown: Suspect | Aligned, tries: Sequence[Suspect | Aligned]) -> tuple[str, dict[str, object]]:
    """For a check's detail and figures: which of `tried` it was found in, where there was more than one."""
    if len(tries) == 1:
        return "", {}
    filled = any(isinstance(one, Suspect) and one.is_cut for one in tries)
    figures = {"numberings": len(tries)} | ({"filled": shown is not tries[0]} if filled else {})
    if isinstance(shown, Suspect):
        words = "; without what was filled into pruned entries" if shown.is_cut else ""
        return f"{words}; in the suspect's own numbering of channels", {**figures, "aligned_to": None, "moved": 0}
    moved, channels = shown.alignment.moved, len(shown.alignment.order)
    words = "; without what was filled into pruned entries" if filled else ""
    return f"{words}; aligned to {shown.reference}, {moved} of {channels} channels had another number", {
        **figures, "aligned_to": shown.reference, "moved": moved}


def price_of(tries: Sequence[Suspect | Aligned]) -> dict[str, int]:
    """What more than one try is paid for as."""
    name = "masks and numberings of channels" if any(one.is_cut for one in suspects_of(tries)) else "numberings of channels"
    return {name: len(tries)} if len(tries) > 1 else {}
