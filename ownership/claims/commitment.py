"""Public commitments to private claims: what an owner can publish today to show later what was claimed today.

A claim is a table of fields, JSON values by name. Each field has a salt of its own, which nobody else can know: random, or of a
signed claim what HMAC makes of the owner's private key, a public label that each commitment has of its own, and the field's name,
so that the same claim can be made again. Its *leaf* is the SHA-256 of name,
salt and value, and the *root* the SHA-256 of all leaves. The public file holds leaves and root, and the owner's Ed25519
signature of the root if there is one: without the salts it says nothing about the values, not even which are alike. The
private file holds values and salts, which open it. Both are read from strangers: sizes are bounded before anything is read, and
a file that is not, byte for byte, what `write` would write is refused.
"""

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from utils import checkpoint
from utils.checkpoint import shortened
from utils.digests import NONCE_BYTES, sha256_of_parts
from utils.errors import UserError

CLAIM, COMMITMENT = "lottery-ownership-claim", "lottery-ownership-commitment"  # of a format /1, /2 and so on
DOMAIN = "lottery-verification"  # no digest or signature made for another purpose can be taken for one of these
SALT_BYTES, LABEL_BYTES = 32, 16
MAX_BYTES = 1 << 20  # of either file; a claim has a few thousand
MAX_KEY_BYTES = 1 << 16
FIELD_PRIME = (1 << 255) - 19  # of Ed25519's coordinates
# y coordinates of the eight points of small order: of order 1, 4 (two points), 2, and of order 8 (two points each)
_Y_OF_ORDER_8 = int.from_bytes(bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"), "little")
SMALL_ORDER = frozenset({1, 0, FIELD_PRIME - 1, _Y_OF_ORDER_8, FIELD_PRIME - _Y_OF_ORDER_8})
CLAIM_FILE, COMMITMENT_FILE = "claim.json", "commitment.json"
# what is given in the place of one of the two
OTHER_FILES = {CLAIM: "a claim, no commitment", COMMITMENT: "a commitment, no claim",
               "lottery-verification-claim": "embed_qrcode.py's claim of one code, which a claim is made from"}


class Refused(UserError):
    """A claim that does not hold together: it does not open, its signature is wrong, or files contradict it."""


class AnotherFile(Refused):
    """A file of ours of another kind, which was given by mistake; a rival's mistake is his claim's refusal all the same."""


@dataclass(frozen=True)
class SaltedClaim:
    """The private part. values: field -> JSON value; salts: field -> SALT_BYTES bytes. format: its number, which says
    what fields there are (`ownership.claims.owner_claim`)."""

    values: dict[str, Any]
    salts: dict[str, bytes]
    format: int = 1

    def leaves(self) -> dict[str, bytes]:
        """Field -> 32 bytes. Raises ValueError for values that JSON can't hold."""
        return {name: _digest("leaf", name.encode("utf-8"), self.salts[name], canonical(value))
                for name, value in self.values.items()}


@dataclass(frozen=True)
class Commitment:
    """The public part. leaves: field -> 32 bytes. owner_key, signature: Ed25519, 32 and 64 bytes, or both None. label: LABEL_BYTES
    bytes that the salts follow from, None where they are random."""

    leaves: dict[str, bytes]
    owner_key: bytes | None = None
    signature: bytes | None = None
    label: bytes | None = None

    @property
    def root(self) -> bytes:
        return root_of(self.leaves)


def canonical(value: Any) -> bytes:
    """The one way to write a JSON value. Raises ValueError for NaN, infinities, texts that are no Unicode, and what is nested
    too deeply."""
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _digest(purpose: str, *parts: bytes) -> bytes:
    """Of one purpose no digest is another purpose's."""
    return sha256_of_parts(f"{DOMAIN}/{purpose}/1".encode(), *parts)


def root_of(leaves: Mapping[str, bytes]) -> bytes:
    """32 bytes that stand for all leaves and their names."""
    return _digest("root", *(part for name in sorted(leaves) for part in (name.encode("utf-8"), leaves[name])))


def salted(values: Mapping[str, Any], claim_format: int = 1, owner_key=None, label: bytes | None = None) -> SaltedClaim:
    """A claim with fresh salts; with the owner's private key and a label (see `new_label`) with those that follow from both."""
    if label is None:
        return SaltedClaim(dict(values), {name: secrets.token_bytes(SALT_BYTES) for name in values}, claim_format)
    key = owner_key.private_bytes_raw()
    return SaltedClaim(dict(values), {name: hmac.digest(key, _digest("salt", label, name.encode("utf-8")), "sha256")
                                      for name in values}, claim_format)


def new_label() -> bytes:
    """A commitment's own: with another one's, equal fields of two claims would have equal leaves, and all could see it."""
    return secrets.token_bytes(LABEL_BYTES)


# --- signatures -------------------------------------------------------------------------------------------------------


def new_owner_key(path: str | Path) -> bytes:
    """Write a fresh Ed25519 private key (PEM, readable by its owner alone) and return the public one, 32 bytes. Raises UserError
    if the file exists."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = Ed25519PrivateKey.generate()
    checkpoint.write_secret(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), "--new_owner_key")
    return key.public_key().public_bytes_raw()


def nonce_of(owner_key, purpose: str, *parts: str) -> bytes:
    """NONCE_BYTES bytes that nobody can foresee without the private key, and that the same command makes again."""
    return hashlib.sha256(owner_key.sign(_digest(f"nonce/{purpose}", *(part.encode("utf-8") for part in parts)))).digest()[:NONCE_BYTES]


def read_owner_key(path: str | Path):
    """The private key in a PEM file. Raises UserError for anything but an Ed25519 key without a password."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(checkpoint.without_mark(_read_bounded(path, MAX_KEY_BYTES)), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise UserError(f"{path}: is no Ed25519 private key (PEM, without a password); make_claim.py --new_owner_key "
                        "makes one")
    return key


def commit(claim: SaltedClaim, owner_key=None, label: bytes | None = None) -> Commitment:
    """The public part of a claim, signed where there is a private key (see `read_owner_key`). label: the salts', if they have one."""
    leaves = claim.leaves()
    if owner_key is None:
        return Commitment(leaves)
    return Commitment(leaves, owner_key.public_key().public_bytes_raw(), owner_key.sign(_signed_message(root_of(leaves), label)), label)


def _signed_message(root: bytes, label: bytes | None) -> bytes:
    if label is None:
        return f"{DOMAIN}/signature/1\0".encode() + root
    return f"{DOMAIN}/signature/2\0".encode() + root + label


def is_of_small_order(public_key: bytes) -> bool:
    """Whether an Ed25519 public key, 32 bytes in any spelling, is a point for which signatures of any message can be made up."""
    y = int.from_bytes(public_key, "little") & ((1 << 255) - 1)  # without the sign of x
    return y % FIELD_PRIME in SMALL_ORDER


def check_signature(commitment: Commitment, where: str) -> None:
    """Raise Refused, naming `where`, unless the signature is the owner key's of this very root and label."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    if is_of_small_order(commitment.owner_key):
        raise Refused(f"{where}: 'owner_key' is a point of small order, for which anybody can sign anything")
    try:
        Ed25519PublicKey.from_public_bytes(commitment.owner_key).verify(
            commitment.signature, _signed_message(commitment.root, commitment.label))
    except (InvalidSignature, ValueError):
        what = "root" if commitment.label is None else "root and label"
        raise Refused(f"{where}: 'signature' is not that of the owner's key on this {what}") from None


# --- files ------------------------------------------------------------------------------------------------------------


def _text(content: Any) -> bytes:
    return (json.dumps(content, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n").encode("utf-8")


def _private_content(claim: SaltedClaim) -> dict[str, Any]:
    return {"format": f"{CLAIM}/{claim.format}", "root": root_of(claim.leaves()).hex(),
            "fields": {name: {"salt": claim.salts[name].hex(), "value": value} for name, value in claim.values.items()}}


def _public_content(commitment: Commitment) -> dict[str, Any]:
    signed = {} if commitment.signature is None else {"owner_key": commitment.owner_key.hex(),
                                                      "signature": commitment.signature.hex()}
    labelled = {} if commitment.label is None else {"label": commitment.label.hex()}
    return {"format": f"{COMMITMENT}/{2 if labelled else 1}", "root": commitment.root.hex(), **signed, **labelled,
            "leaves": {name: leaf.hex() for name, leaf in commitment.leaves.items()}}


def made_before(folder: str | Path, owner_key=None) -> Commitment | None:
    """The commitment in a folder where a claim is to be written, for which it is then made again; None for a folder without one.

    Raises:
        UserError: a claim or a commitment is there that the owner's key can't make again, as what was committed to once must stay;
            or the folder can't be one.
    """
    checkpoint.check_can_be_folder(folder, "--save_dir")
    there = [name for name in (COMMITMENT_FILE, CLAIM_FILE) if (Path(folder) / name).exists()]
    if COMMITMENT_FILE in there and owner_key is not None:
        earlier = read_commitment(Path(folder) / COMMITMENT_FILE)
        if earlier.label is not None and earlier.owner_key == owner_key.public_key().public_bytes_raw():
            return earlier
    if there:
        raise UserError(f"--save_dir {folder}: holds {there[0]} already; name another folder")
    return None


def write(folder: str | Path, claim: SaltedClaim, commitment: Commitment) -> tuple[Path, Path]:
    """Write both parts, the private one readable by its owner alone, and return their paths. What is there already stays. Raises
    UserError where that is something else."""
    private, public = Path(folder) / CLAIM_FILE, Path(folder) / COMMITMENT_FILE
    texts = {public: _text(_public_content(commitment)), private: _text(_private_content(claim))}
    for path, text in texts.items():
        if path.exists() and _read_bounded(path, MAX_BYTES) != text:
            raise UserError(f"--save_dir {folder}: holds another {path.name} already; name another folder")
    if not public.exists():  # first, for the label in it: after a kill, the same command goes on with it
        checkpoint.write_atomic(public, lambda file: file.write(texts[public]))
    if not private.exists():
        checkpoint.write_secret(private, texts[private], "--save_dir")
    return private, public


def read_claim(path: str | Path) -> tuple[SaltedClaim, bytes]:
    """The private part, and the root that the file states, which `open_claim` checks. Raises Refused for a file that is none."""
    content, raw = _read_json(path, CLAIM, {"fields"})
    fields = content["fields"]
    for name, field in fields.items():
        if not isinstance(field, dict) or field.keys() != {"salt", "value"}:
            raise Refused(f"{path}: {shortened(name)} must hold 'salt' and 'value'")
    claim = SaltedClaim({name: field["value"] for name, field in fields.items()},
                        {name: _bytes(path, f"salt of {shortened(name)}", field["salt"], SALT_BYTES)
                         for name, field in fields.items()}, int(content["format"].rpartition("/")[2]))
    try:
        expected = _private_content(claim)
    except ValueError as error:
        raise Refused(f"{path}: holds a value that JSON can't ({error})") from None
    _check_bytes(path, raw, {**expected, "root": content["root"]})
    return claim, bytes.fromhex(content["root"])


def read_commitment(path: str | Path) -> Commitment:
    """Read the public part and check root and signature. Raises Refused for a file that is none, or was changed."""
    content, raw = _read_json(path, COMMITMENT, {"leaves"}, {"owner_key", "signature", "label"})
    leaves = {name: _bytes(path, f"leaf of {shortened(name)}", leaf, 32) for name, leaf in content["leaves"].items()}
    if ("owner_key" in content) != ("signature" in content):
        raise Refused(f"{path}: must hold both 'owner_key' and 'signature', or neither")
    commitment = Commitment(leaves, label=_bytes(path, "'label'", content["label"], LABEL_BYTES) if "label" in content else None)
    if "signature" in content:
        commitment = replace(commitment, owner_key=_bytes(path, "'owner_key'", content["owner_key"], 32),
                             signature=_bytes(path, "'signature'", content["signature"], 64))
    try:
        root = commitment.root.hex()
    except ValueError as error:
        raise Refused(f"{path}: a leaf's name is no valid text ({error})") from None
    if content["root"] != root:
        raise Refused(f"{path}: 'root' is not that of the leaves; one of them was changed")
    if commitment.signature is not None:
        check_signature(commitment, str(path))
    _check_bytes(path, raw, _public_content(commitment))
    return commitment


def open_claim(path: str | Path, commitment_path: str | Path | None,
               owner_key_field: str) -> tuple[SaltedClaim, Commitment | None]:
    """Read a claim and, where there is one, check it against its commitment.

    Args:
        owner_key_field: the field that says which key signs the commitment (hex; None for no signature), so that a signature can
            be neither taken off nor exchanged.
    Raises:
        Refused: naming the fields that were changed, are missing or are too many; or the root or signature; or the commitment is
            another claim's.
    """
    claim, stated = read_claim(path)
    leaves = claim.leaves()
    if commitment_path is None:
        if stated != root_of(leaves):
            raise Refused(f"{path}: 'root' is not that of the fields; it or one of them was changed (--commitment tells "
                          "which)")
        return claim, None
    commitment = read_commitment(commitment_path)
    changed = changed_fields(claim, commitment)
    if changed >= leaves.keys() and stated != commitment.root:
        raise Refused(f"{path}: does not open {commitment_path}, which is another claim's commitment: no field is in both")
    both = leaves.keys() & commitment.leaves.keys()
    for complaint, names in (("lacks", commitment.leaves.keys() - leaves.keys()),
                             ("has more than was committed to:", leaves.keys() - commitment.leaves.keys()),
                             ("does not open the commitment; changed since:", changed & both)):
        if names:
            raise Refused(f"{path}: {complaint} {in_words(names)}")
    if stated != commitment.root:
        raise Refused(f"{path}: 'root' was changed")
    key = None if commitment.owner_key is None else commitment.owner_key.hex()
    if key != claim.values.get(owner_key_field):
        raise Refused(f"{commitment_path}: " + ("is not signed, the claim names an owner's key" if key is None else
                                                "is signed with another key than the claim names"))
    return claim, commitment


def changed_fields(claim: SaltedClaim, commitment: Commitment) -> set[str]:
    """The fields that one of the two lacks, or that have another value or salt in the claim."""
    leaves = claim.leaves()
    return {name for name in leaves.keys() | commitment.leaves.keys() if leaves.get(name) != commitment.leaves.get(name)}


def in_words(names: Iterable[str]) -> str:
    """The first few fields, and how many more there are."""
    names = sorted(names)
    return ", ".join(map(shortened, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _read_bounded(path: str | Path, limit: int) -> bytes:
    content = checkpoint.read_bounded(path, limit, regular=True)
    if content is None:
        raise Refused(f"{path}: is larger than {limit} bytes, so not what it should be")
    return content


def _read_json(path: str | Path, kind: str, tables: set[str],
               optional: set[str] = frozenset()) -> tuple[dict[str, Any], bytes]:
    """A JSON object with 'format', 'root' and tables of fields, and the bytes it was read from."""
    raw = _read_bounded(path, MAX_BYTES)
    try:
        content = checkpoint.parse_json(raw)
    except ValueError as error:
        raise Refused(f"{path}: not a JSON file that can be read ({error})") from None
    numbers = "[1-9][0-9]?" if kind == CLAIM else "[12]"  # of a claim's, what is known is for the reader of its fields to say
    if not isinstance(content, dict) or not re.fullmatch(f"{kind}/{numbers}", str(content.get("format"))):
        found = str(content.get("format")).rpartition("/")[0] if isinstance(content, dict) else kind
        if found in OTHER_FILES.keys() - {kind}:
            raise AnotherFile(f"{path}: is {OTHER_FILES[found]} (swapped?); make_claim.py writes {CLAIM_FILE} and {COMMITMENT_FILE}")
        raise Refused(f"{path}: 'format' is not '{kind}/1'; make_claim.py writes {CLAIM_FILE} and {COMMITMENT_FILE}")
    must = {"format", "root", *tables}
    for name in sorted(must - content.keys()):
        raise Refused(f"{path}: lacks {name!r}")
    for name in sorted(content.keys() - must - optional):
        raise Refused(f"{path}: unknown entry {shortened(name)}")
    for name in tables:
        if not isinstance(content[name], dict):
            raise Refused(f"{path}: {name!r} must be a table of fields")
    _bytes(path, "'root'", content["root"], 32)
    return content, raw


def _check_bytes(path: str | Path, raw: bytes, content: Any) -> None:
    try:
        same = raw == _text(content)
    except (ValueError, RecursionError):
        same = False
    if not same:
        raise Refused(f"{path}: is not byte for byte what make_claim.py writes of its content; spaces, line ends, a "
                      "byte order mark or the spelling of a value were changed")


def _bytes(path: str | Path, what: str, text: Any, count: int) -> bytes:
    if isinstance(text, str) and len(text) == 2 * count and set(text) <= set("0123456789abcdef"):
        return bytes.fromhex(text)
    raise Refused(f"{path}: {what} must be {2 * count} hexadecimal digits")
