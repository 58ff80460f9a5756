"""Scheme V3, the check: how a model that can only be queried answers on the owner's trigger set, and what that proves.

(Paper, section 3.4.) The labels of a keyed trigger set are uniform over the classes and independent of the pictures, to
all who lack the key. So the number that a model gets right is Binomial(pictures, 1 / classes), whatever model it is and
however it was trained, as long as it owes nothing to the key. Labels of a public set are no secret, and may follow from
what the pictures show; there, the measured accuracy of an innocent model is what to compare with. More stands in
docs/black_box_checks.md.
"""

import csv
import io
import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datasets.pictures import Pictures
from models import build_model
from models.fitting import fitted
from ownership.claims.p_values import SMALLEST, by_chance, log10
from ownership.suspects.classifier import check_takes
from pruner import tickets
from utils import checkpoint
from utils.checkpoint import FileBytes
from utils.errors import UserError

COLUMNS = ("image", "predicted_label")
SPACE = " \t"  # around values; nothing else that some call white space
BYTES_PER_PICTURE, BYTES_BESIDE = 1024, 1 << 20  # more is no list of predictions for the set
EVAL_BATCH = 125
UNANSWERED = -1  # instead of a label
MIN_SIDE = 8  # of pictures, for every network of the registry

ALPHA = 1e-9  # as `ownership.qr_code.soft_decoding.MAX_FALSE`


# --- evidence ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TriggerEvidence:
    """What `correct` right labels of `total` prove.

    innocent_correct: how many an innocent model has right, or None. p_chance: exact probability to have as many right
    by chance. p_innocent: of as large a difference to the innocent model, were the suspect innocent too; or None.
    needed: the least number right at which all of that is at most `alpha`; None where even all would not do.
    """

    correct: int
    total: int
    num_classes: int
    alpha: float
    innocent_correct: int | None
    p_chance: Fraction
    p_innocent: Fraction | None
    needed: int | None

    @property
    def p_value(self) -> Fraction:
        """The larger of the two."""
        return max(self.p_chance, self.p_innocent or Fraction(0))

    @property
    def shown(self) -> bool:
        return self.p_value <= self.alpha

    def as_json(self) -> dict[str, Any]:
        """Plain values; p-values too small for a float as SMALLEST, and their logarithms as they are."""
        result = {"correct": self.correct, "pictures": self.total, "accuracy": 100 * self.correct / self.total,
                  "num_classes": self.num_classes, "innocent_correct": self.innocent_correct, "needed": self.needed,
                  "alpha": self.alpha}
        for name, p in (("p_value", self.p_value), ("p_chance", self.p_chance), ("p_innocent", self.p_innocent)):
            result |= {name: None if p is None else max(SMALLEST, float(p)),
                       f"log10_{name}": None if p is None else log10(p)}
        return result


def evidence_of(correct: int, total: int, num_classes: int, innocent_accuracy: float | Fraction | None = None,
                alpha: float = ALPHA) -> TriggerEvidence:
    """Test a trigger accuracy against chance, and against an innocent model's where that is known.

    Args:
        innocent_accuracy: share of the same pictures that an innocent model has right, 0 to 1; of a share between two
            numbers of pictures, the larger one is taken. It is measured like the suspect's, so the test is one of two
            samples: Fisher's exact test. That takes all pictures for equally hard; where they are not, p is too large.
    Raises:
        ValueError: numbers that no set can give.
    """
    if not 0 <= correct <= total or total < 1 or num_classes < 2:
        raise ValueError(f"{correct} of {total} pictures of {num_classes} classes")
    if innocent_accuracy is not None and not 0 <= innocent_accuracy <= 1:
        raise ValueError(f"accuracy {innocent_accuracy}: must be a share from 0 to 1")
    innocent = None if innocent_accuracy is None else math.ceil(round(innocent_accuracy * total, 6))

    def p_values(right: int) -> tuple[Fraction, Fraction | None]:
        return by_chance(right, total, num_classes), None if innocent is None else fisher(right, innocent, total)

    def reached(right: int) -> bool:
        return max(p for p in p_values(right) if p is not None) <= alpha

    needed = bisect_left(range(total + 1), True, key=reached)  # both fall as more are right
    return TriggerEvidence(correct, total, num_classes, alpha, innocent, *p_values(correct),
                           needed if needed <= total else None)


def fisher(correct: int, innocent: int, total: int) -> Fraction:
    """Fisher's exact test, one-sided: the probability that of `correct` + `innocent` right answers in two times `total`
    as many fall to the first, were all ways to deal them out alike."""
    right = correct + innocent
    term = math.comb(total, correct) * math.comb(total, innocent)
    tail = term
    for first in range(correct, total):
        term = term * (total - first) * (right - first) // ((first + 1) * (total - right + first + 1))
        tail += term
    return Fraction(tail, math.comb(2 * total, right))


# --- predictions ------------------------------------------------------------------------------------------------------


def read_predictions(path: str | Path | FileBytes, names: Sequence[str], num_classes: int) -> np.ndarray:
    """Labels that somebody gathered from a service: CSV with the columns image and predicted_label, in any order.

    Args:
        names: the pictures of the set; each must be there once, and no other.
        num_classes: labels are whole numbers below.
    Returns:
        int64 [pictures], in the order of `names`.
    Raises:
        UserError: for anything else, naming file and line.
    """
    rows = csv.reader(io.StringIO(_read_text(path, len(names)), newline=""), strict=True)
    known, found = frozenset(names), {}
    try:
        header = [column.strip(SPACE) for column in next((row for row in rows if row), [])]
        if sorted(header) != sorted(COLUMNS):
            raise UserError(f"{path}: must begin with the line {','.join(COLUMNS)!r}, separated by commas; it begins "
                            f"with {','.join(header)[:100]!r}")
        for row in rows:
            if not row:
                continue
            where = f"{path}, line {rows.line_num}"
            if len(row) != len(header):
                raise UserError(f"{where}: has {len(row)} values instead of {len(header)}")
            fields = dict(zip(header, (value.strip(SPACE) for value in row)))
            name, label = fields["image"], fields["predicted_label"]
            if name not in known:
                raise UserError(f"{where}: {name[:100]!r} is no picture of the trigger set")
            if name in found:
                raise UserError(f"{where}: {name!r} is there twice")
            digits = label.removeprefix("-")
            if not (digits.isascii() and digits.isdigit()):
                raise UserError(f"{where}: predicted_label {label[:100]!r} is no whole number")
            if label != digits or len(digits) > 18 or int(digits) >= num_classes:
                raise UserError(f"{where}: predicted_label {label[:100]} is none of the {num_classes} classes (0 to "
                                f"{num_classes - 1}) of the trigger set")
            found[name] = int(digits)
    except csv.Error as error:
        raise UserError(f"{path}, line {rows.line_num}: not CSV ({error})") from None
    missing = [name for name in names if name not in found]
    if missing:
        raise UserError(f"{path}: lacks {len(missing)} of {len(names)} pictures, {missing[0]!r} the first; gather them "
                        "all")
    return np.array([found[name] for name in names], dtype=np.int64)


def most_bytes(pictures: int) -> int:
    """Of a list of predictions for so many pictures."""
    return BYTES_BESIDE + BYTES_PER_PICTURE * pictures


def _read_text(path: str | Path | FileBytes, pictures: int) -> str:
    """A text file of a size that fits the set."""
    content = checkpoint.read_bounded(path, most_bytes(pictures))
    if content is None:
        raise UserError(f"{path}: is larger than any list of predictions for {pictures} pictures")
    content = checkpoint.without_mark(content)
    if b"\0" in content:
        raise UserError(f"{path}: no text file (it holds NUL bytes); save it as CSV in UTF-8")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content[:error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: not UTF-8; save it as CSV in UTF-8") from None


def write_predictions(path: str | Path, names: Sequence[str], labels: np.ndarray) -> None:
    """Write what `read_predictions` reads, without the pictures that have no label (below 0), which it then asks for."""
    checkpoint.save_csv([dict(zip(COLUMNS, row)) for row in zip(names, labels.tolist()) if row[1] >= 0], COLUMNS, path)


def predict(path: str | Path | FileBytes, arch: str, num_classes: int, pictures: Pictures,
            mean: tuple[float, ...] | None = None, std: tuple[float, ...] | None = None,
            expected: tickets.Expected = tickets.Expected()) -> np.ndarray:
    """Labels that a model file gives, computed in float64, in which large biases hide no scores: int64 [pictures], as `surest`.

    Args:
        mean, std: per channel on the scale 0 to 1, instead of the file's own; None for these.
        expected: which network, for messages.
    Raises:
        UserError: as `pruner.tickets.read_model_file`; no trained weights; pictures too small; normalisation unknown.
    """
    unknown = (math.nan,) * 3  # unless the file says it
    model = build_model(arch, num_classes, unknown, unknown)
    check_takes(model, pictures)
    height, width = pictures.images.shape[1:3]
    if min(height, width) < MIN_SIDE:
        raise UserError(f"{arch}: takes pictures of at least {MIN_SIDE}x{MIN_SIDE} pixels, the triggers have "
                        f"{width}x{height}")
    expected = replace(expected, classes=f"the trigger set has {num_classes}")
    weights = tickets.read_model_file(path, model, expected=expected, any_width=True).weights
    if weights is None:
        raise UserError(f"--checkpoint {path}: holds no trained weights; give a model, not a ticket or mask file")
    for flag, given in (("mean", mean), ("std", std)):
        if given:
            weights[f"normalize.{flag}"] = torch.tensor(given)
        if weights[f"normalize.{flag}"].isnan().any():
            raise UserError(f"--checkpoint {path}: does not say how its pictures are normalised; give --mean and --std "
                            "as in its training")
    model = fitted(model, weights).double()
    with torch.no_grad():
        return surest(torch.cat([model(images.double()) for images, _ in pictures.batches(EVAL_BATCH)]).numpy())


def surest(scores: np.ndarray) -> np.ndarray:
    """int64 [pictures]: the class of the highest score of each; UNANSWERED, so wrong, where scores are not finite, or two are
    highest: a thief who brings that about has gained no more than by a wrong answer.

    Args:
        scores: float [pictures, classes].
    """
    good = np.isfinite(scores).all(1) & ((scores == scores.max(1, keepdims=True)).sum(1) == 1)
    return np.where(good, scores.argmax(1), UNANSWERED).astype(np.int64)
