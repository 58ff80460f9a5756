"""What an arbiter is given, and what was read of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import datasets
from datasets import trigger
from datasets.pictures import Dataset, fingerprint
from models import build_model
from ownership.suspects import classifier as suspect_model
from ownership.claims.owner_claim import Triggers
from ownership.qr_code.soft_decoding import MAX_FALSE, RESTARTS
from ownership.suspects.reading import Suspect, expected_by, read_suspect
from pruner import tickets
from utils import checkpoint
from utils.errors import UserError


@dataclass(frozen=True)
class Given:
    """What there is to judge one claim by. Names of files and folders, None for what was not given.

    suspect, predictions, endpoint: the suspect's file, its answers on the trigger set, or its address; one of them. mean, std: of
    the suspect's training pictures, per channel on the scale 0 to 1, where its file does not say. dataset, data: a name of the
    registry, and its folder. no_pictures: why the accuracy is not measured, where the data set is not meant for this claim. key,
    merged, trigger_dir, trigger_key: what is claimed, see `ownership.claims.verdict`. aligned_to: the owner's files of another numbering
    of channels; aligned_committed: they were published before. restarts: of the soft decoder. max_false: owned means that chance
    is at most this probable.
    """

    suspect: str | None = None
    predictions: str | None = None
    endpoint: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    dataset: str | None = None
    data: str | None = None
    no_pictures: str | None = None
    key: str | None = None
    merged: str | None = None
    trigger_dir: str | None = None
    trigger_key: str | None = None
    aligned_to: tuple[str, ...] = ()
    aligned_committed: bool = False
    device: str = "auto"
    restarts: int = RESTARTS
    max_false: float = MAX_FALSE


class Unmeasured(UserError):
    """A file that holds no trained model for the claim's classes. What is in its masks can be checked all the same."""


class Inputs:
    """Reads what was given, and lists it. Masks, keys, pictures and trigger sets are read, accuracies measured once, whichever
    claim or check asks for them.

    rows: (flag, name, SHA-256) for the verdict, each file once.
    """

    def __init__(self):
        self.rows: list[tuple[str, str, str]] = []
        self._read: dict[tuple, Any] = {}

    def note(self, flag: str, name: str, digest: str | None = None) -> None:
        """List a file, or with a digest of its own anything else. Raises OSError for a file that can't be read."""
        row = flag, name, digest or self._once(("sha256", name), lambda: checkpoint.sha256(name))
        if row not in self.rows:
            self.rows.append(row)

    def suspect(self, path: str, arch: str) -> Suspect:
        """Which weights a file has. Raises UserError as `ownership.suspects.reading.read_suspect`."""
        return self._once(("suspect", path, arch),
                          lambda: read_suspect(path, build_model(arch, num_classes=2), expected_by(arch)))

    def key(self, path: str, arch: str) -> tickets.ModelFile:
        """What the file of a key mask holds. Raises UserError as `pruner.tickets.read_model_file`."""
        return self._once(("key", path, arch),
                          lambda: tickets.read_model_file(path, build_model(arch, num_classes=2), False, expected_by(arch)))

    def exported_triggers(self, path: str) -> trigger.TriggerSet:
        """The trigger set in a folder. Raises UserError as `datasets.trigger.load_exported`."""
        return self._once(("exported", path), lambda: trigger.load_exported(path))

    def keyed_triggers(self, path: str, claimed: Triggers) -> trigger.TriggerSet:
        """The trigger set that the key in a file gives, of the claimed size. Raises UserError as `datasets.trigger.read_key`."""
        return self._once(("keyed", path, claimed), lambda: trigger.keyed(self.trigger_key(path), claimed.pictures,
                                                                          claimed.num_classes, claimed.size))

    def trigger_key(self, path: str) -> bytes:
        """A secret. Raises UserError as `datasets.trigger.read_key`."""
        return self._once(("trigger key", path), lambda: trigger.read_key(path))

    def pictures(self, dataset: str, folder: str | None, image_size: int | None) -> tuple[Dataset, str]:
        """A data set, and the SHA-256 of its test pictures and labels. Raises UserError as `datasets.load_dataset`."""

        def read():
            data = datasets.load_dataset(dataset, folder, image_size)
            return data, fingerprint((data.test.images, data.test.labels))

        return self._once(("pictures", dataset, folder, image_size), read)

    def accuracy(self, path: str, arch: str, data: Dataset, digest: str, device: str) -> float:
        """Percent of the test pictures, whose SHA-256 is `digest`, that the model in a file has right. Raises Unmeasured, and
        UserError for a device that this machine lacks."""

        def measure():
            try:
                model = suspect_model.load_trained(path, arch, data.num_classes, data.mean, data.std, expected_by(arch))
            except UserError as error:
                raise Unmeasured(str(error)) from None
            return suspect_model.accuracy_of(model, data.test, device)

        return self._once(("accuracy", path, arch, digest), measure)

    def _once(self, what: tuple, read: Callable[[], Any]) -> Any:
        if what not in self._read:
            self._read[what] = read()
        return self._read[what]
