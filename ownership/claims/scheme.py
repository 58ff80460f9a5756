"""What the court asks of a scheme. A scheme's module `check` has a class `Checker`, which answers what it needs to."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ownership import SCHEMES
from ownership.claims.case import Case, Files
from ownership.claims.owner_claim import OwnerClaim
from ownership.claims.verdict import Check
from ownership.suspects.reading import Suspect
from pruner.masks import Mask

@dataclass(frozen=True)
class Comparison:
    """What tells two claims of one scheme apart. rows: (name, the first claim's and the second's) or (name, text of both) for
    people. figures: by name, for machines."""

    rows: tuple[tuple[str, tuple[str, ...]], ...] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Remains:
    """What is left of a mark in an attacked model. columns: of the result, numbers and truths. draw: writes what the owner sees
    to a path as a picture; None where there is nothing to see."""

    columns: Mapping[str, Any]
    draw: Callable[[Path], None] | None = None


@dataclass(frozen=True)
class SchemeCheck:
    """One scheme of one claim. name: in SCHEMES, and of its line in a verdict. part: what is claimed."""

    name: str
    part: Any

    def check(self, case: Case) -> Check:
        """What the suspect shows. Raises NotRun where what was given does not do, Refused for what contradicts the claim, and
        UserError for files that can't be read."""
        raise NotImplementedError

    def look_ahead(self, case: Case) -> None:
        """Raise UserError for flags that would turn out to have no use, before anything is read."""

    def check_on_own_model(self, case: Case) -> Check | None:
        """What the owner's own model shows, before the claim is made; None for a scheme that is not about it."""
        return self.check(case)

    def belongs(self, flag: str, path: str, files: Files, arch: str) -> bool:
        """Whether this claim, rather than a rival's, names the file that is given by one of the scheme's flags PROOFS. Raises
        UserError for a file that can't be read as what the flag says."""
        raise NotImplementedError

    def left_out(self, mask: Mask) -> Mapping[str, torch.Tensor]:
        """Layer -> bool [out, in], the kernels that hold a mark, by which no numbering of channels may be found."""
        return {}

    def cleaned(self, suspect: Suspect) -> Suspect:
        """The suspect as the owner cleans it before the channels are put in order."""
        return suspect

    def is_drawn_from(self, reference: Suspect) -> bool:
        """Whether the hash that drew the mark is of this ticket, so that a numbering by it was fixed before the mark was."""
        return False

    def left_after(self, suspect: Suspect) -> Remains | None:
        """What is left of the mark after an attack, for who has the claim alone; None where that shows nothing."""
        return None

    def left_in_words(self, row: Mapping[str, Any], prefix: str) -> tuple[str, str] | None:
        """What lines about results call the mark, and what is left of it, by the columns of `left_after` in a result, whose names
        begin with `prefix`; None where that shows nothing."""
        return None

    def told(self) -> Mapping[str, Any]:
        """Where the mark lies, to a thief who has the claim: values for flags of main_attack.py, by name."""
        return {}

    def is_hit(self, layer: str, start_x: int, start_y: int) -> bool | None:
        """Whether a square that begins there is (mostly) the mark's; None for a scheme that has none."""
        return None

    @classmethod
    def compare(cls, parts: Sequence[Any], checks: Sequence[Check | None]) -> Comparison:
        """What two claims' parts and checks of this scheme, None where there is none, say beside each other."""
        return Comparison()


def compare_schemes(claims: Sequence[OwnerClaim | None], checks: Sequence[Sequence[Check]]) -> list[Comparison]:
    """What each scheme tells of two claims.

    Args:
        claims: None for one that did not open.
        checks: of each claim, those that were made.
    """
    found = []
    for name, scheme in SCHEMES.items():
        parts = [claim.parts.get(name) if claim else None for claim in claims]
        of_scheme = [next((one for one in made if one.name == name), None) for made in checks]
        found.append(scheme.check.Checker.compare(parts, of_scheme))
    return found
