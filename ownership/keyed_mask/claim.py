"""The part of a claim that says what a keyed mask's signs were drawn from (scheme V4), and the file that holds it: the key."""

from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from models import ARCHITECTURES
from ownership.claims.commitment import nonce_of
from ownership.claims.fields import DrawnPart, field, is_digest, is_text, of_flag, whole
from pruner.keyed_mask.pattern import LABEL, WHOLE, Key
from pruner.keyed_mask.payload import MODULES
from utils import checkpoint
from utils.digests import NONCE_BYTES
from utils.errors import UserError

FORMAT = "lottery-keyed-mask/1"
CHECK_BYTES = 8  # of the key file's checksum


@dataclass(frozen=True)
class KeyedMask(DrawnPart):
    """As `pruner.keyed_mask.pattern.Key`, keys and digests in hex."""

    owner_key: str = field(is_digest)
    owner_name: str = field(is_text)
    salt: str = field(lambda value: isinstance(value, str) and len(value) == 2 * NONCE_BYTES and is_digest(2 * value))
    arch: str = field(lambda value: value in list(ARCHITECTURES))
    ticket_sha256: str = field(is_digest)
    places: int = field(whole(0, WHOLE))
    counts: int = field(whole(0, WHOLE))
    largest: int = field(whole(1, 1 << 40))
    payload_bits: int = field(lambda value: type(value) is int and value in (0, *MODULES))

    @cached_property
    def key(self) -> Key:
        texts = {"owner_key": bytes.fromhex(self.owner_key), "salt": bytes.fromhex(self.salt)}
        return Key(**asdict(self) | texts)

    @classmethod
    def of(cls, key: Key) -> Self:
        return cls(**asdict(key) | {"owner_key": key.owner_key.hex(), "salt": key.salt.hex()})

    @classmethod
    def opened(cls, content: dict[str, Any], arch: str, where: str, prefix: str) -> Self:
        """Raises UserError for another network than the claim is about."""
        return cls(**content).about(arch, where, prefix)

    @classmethod
    def from_file(cls, path: str) -> Self | None:
        """Of a key's file, None for another one. Raises UserError as `read_key`."""
        content = checkpoint.load_json(path)
        return read_key(path) if isinstance(content, dict) and content.get("format") == FORMAT else None


Part = KeyedMask


def make(args) -> KeyedMask:
    """From a key's file. Raises UserError for anything else, or for one about another network."""
    return of_flag(args, "v4", read_key)


def draw_key(owner_key, owner_name: str, arch: str, ticket_sha256: str, **how: int) -> Key:
    """The owner's key for a ticket, which the same private key draws again. how: the other fields of `Key`."""
    salt = nonce_of(owner_key, LABEL, owner_name, ticket_sha256)
    return Key(owner_key.public_key().public_bytes_raw(), owner_name, salt, arch, ticket_sha256, **how)


def write_key(path: str | Path, key: Key) -> None:
    """Write a key's file, readable by its owner alone. Raises UserError if another one is there: a model may be signed with it."""
    content = {"format": FORMAT, **asdict(KeyedMask.of(key)), "check": _check(key)}
    if Path(path).exists() and checkpoint.load_json(path) != content:
        raise UserError(f"{path}: holds another key, which may belong to a signed model; name another --save_dir")
    checkpoint.save_json(content, path, secret=True)


def read_key(path: str | Path) -> KeyedMask:
    """Raises UserError for anything but the file of a key as it was written."""
    content = checkpoint.load_json(path)
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise UserError(f"{path}: is no key of a keyed mask ('format' must be {FORMAT!r}); embed_keyed.py writes them")
    check = content.pop("check", None)
    known = {one.name: one.metadata["allowed"] for one in fields(KeyedMask)}
    for name in [*(name for name in known if name not in content), *(name for name in content if name not in known)]:
        raise UserError(f"{path}: {'lacks' if name in known else 'has an unknown entry'} {checkpoint.shortened(name)}; give the file that "
                        "embed_keyed.py wrote")
    for name, allowed in known.items():
        if not allowed(content[name]):
            raise UserError(f"{path}: {name!r} holds no value that it can have; give the file that embed_keyed.py wrote")
    part = KeyedMask(**content)
    if check != _check(part.key):
        raise UserError(f"{path}: was changed since embed_keyed.py wrote it ('check' is of other values); give that file")
    return part


def _check(key: Key) -> str:
    """Tells whether a file was changed, and nothing else of the key."""
    return key.bytes_for("check", CHECK_BYTES).hex()
