"""PROVE: claims of ownership, and what suspects show of them.

A scheme is a folder here and one entry in SCHEMES, which is all that claims, verdicts and scripts know of it.
"""

import importlib
from dataclasses import dataclass
from types import ModuleType


@dataclass(frozen=True)
class Scheme:
    """One entry of the registry; what command lines, claims and verdicts need to know before anything heavy is loaded.

    module: a package of the modules `flags`, `claim` and `check` (docs/extending.md says what is in them).
    title: what reports call it. asks: the question that its check answers, for people who know nothing of it.
    corrected_for: what the maker of a claim could try until one fits, which the check's p-value pays for; None where the check is
        no test of chance, and has no p-value: it is told, and makes no owner.
    since: the first format of owners' claims that has its fields.
    numbered: whether it looks at channels by their number, so that a renumbering of the suspect's is to be undone.
    by_answers: whether the answers of a model can show it, without its file.
    needs_date: whether, where a rival's mark shows too, it makes an owner only by a verified date of its commitment.
    """

    module: str
    title: str
    asks: str
    corrected_for: str | None
    since: int = 1
    numbered: bool = False
    by_answers: bool = False
    needs_date: bool = False

    @property
    def has_p_value(self) -> bool:
        return self.corrected_for is not None

    @property
    def flags(self) -> ModuleType:
        """What command lines have of it; loads nothing heavy."""
        return importlib.import_module(f"{self.module}.flags")

    @property
    def claim(self) -> ModuleType:
        """Its part of a claim, with everything that imports."""
        return importlib.import_module(f"{self.module}.claim")

    @property
    def check(self) -> ModuleType:
        """How it is checked, with everything that imports."""
        return importlib.import_module(f"{self.module}.check")


# in the order of the checks
SCHEMES: dict[str, Scheme] = {
    "V1": Scheme("ownership.key_mask", "key mask", "do the suspect's weights and the owner's key, put together, give the claimed ticket?",
                 "nonces", numbered=True),
    "V2": Scheme("ownership.qr_code", "code in the mask", "does the pattern of the suspect's weights hold the claimed QR code?",
                 "derived texts", numbered=True),
    "V3": Scheme("ownership.trigger_set", "trigger set", "does the suspect give pictures the labels that the owner's key alone tells?",
                 "trigger keys", by_answers=True),
    "V4": Scheme("ownership.keyed_mask", "keyed mask",
                 "does the pattern of the suspect's weights agree with the signs that the owner's key draws?",
                 "nonces", since=4, numbered=True, needs_date=True),
    "P": Scheme("ownership.passports", "passports", "do the suspect's weights answer the owner's passports with the signature's bits?",
                "nonces", since=3, numbered=True),
}


def in_a_row(names: list[str], word: str = "and") -> str:
    """The names as a text lists them: "V1, V2 and V3"."""
    return f" {word} ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
