"""Fields of an owner's claim: since which format there are, and which values they can have.

A claim's part is a frozen dataclass. Which of its fields stand in a file is for the file's format to say, so the class may
grow: a further field names the format that has it first (`since`), and needs a default for the claims made before.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Self, TypeVar

from utils import cli
from utils.errors import UserError

MAX_TEXT = 1000  # letters of a name


def field(allowed: Callable[[Any], bool], since: int | None = None, **more) -> Any:
    """A field of a dataclass. allowed: whether it can have a value, which may be anything that JSON holds. since: the first
    format of claims that has it, None for its part's own. more: as `dataclasses.field`, e.g. `default`."""
    return dataclasses.field(metadata={"allowed": allowed, "since": since}, **more)


class ClaimPart:
    """What a scheme has in an owner's claim."""

    @classmethod
    def opened(cls, content: dict[str, Any], arch: str, where: str, prefix: str) -> Self:
        """From a stranger's values, each of which its field allows, of a claim about the network `arch`.

        Raises UserError, naming `where` and the field, which is `prefix` and its name, for values that don't go together.
        """
        return cls(**content)

    def is_for(self, owner: str, owner_key: str | None) -> bool:
        """Whether it can be claimed by this owner, of this public key in hex."""
        return True

    @classmethod
    def from_file(cls, path: str) -> Self | None:
        """From a file that holds this part alone; None where there are none such. Raises UserError for any other file."""
        return None


class DrawnPart(ClaimPart):
    """What a scheme drew by a hash of the owner's public key, `owner_key` in hex, and of `owner_name`, for the network `arch`."""

    def is_for(self, owner: str, owner_key: str | None) -> bool:
        return (self.owner_name, self.owner_key) == (owner, owner_key)

    def about(self, arch: str, where: str, prefix: str) -> Self:
        """It, where it is about the network that the claim is about. Raises UserError."""
        if self.arch != arch:
            raise UserError(f"{where}: field '{prefix}.arch' is another network than 'arch'")
        return self


Drawn = TypeVar("Drawn", bound=DrawnPart)


def of_flag(args, flag: str, read: Callable[[str], Drawn]) -> Drawn:
    """What `read` makes of the file in a flag. Raises UserError as it does, or for one about another network than --arch."""
    path = getattr(args, flag)
    with cli.named(f"--{flag}"):
        part = read(path)
    if part.arch != args.arch:
        raise UserError(f"--{flag} {path}: is about {part.arch}, not {args.arch}; see --arch")
    return part


def is_text(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_TEXT


def is_digest(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")


def whole(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and low <= value <= high


def number(low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: type(value) in (int, float) and low <= value <= high


def or_none(allowed: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or allowed(value)
