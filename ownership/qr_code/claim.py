"""The owner's claim: a small JSON file that says which text lies where. It is the secret half of scheme V2."""

from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from models import ARCHITECTURES
from ownership.claims.commitment import CLAIM as OWNERS_CLAIM
from ownership.claims.fields import DrawnPart, field, is_digest, is_text, number, of_flag, or_none, whole
from pruner.qr_code import geometry as qr_code
from pruner.qr_code.derived_text import derived_text, length_for
from pruner.qr_code.embedding import Place
from pruner.qr_code.geometry import CodeFormat
from utils import checkpoint
from utils.digests import NONCE_BYTES
from utils.errors import UserError

CLAIM_FORMAT = "lottery-verification-claim/4"
DARK, LIGHT = POLARITIES = "dark", "light"
MOST_CHANNELS, MOST_ENTRIES, MOST_COPIES, LONGEST_NAME = 1 << 20, 1 << 40, 1 << 10, 1000
LARGEST_THRESHOLD = 1e30
MAX_VERSION = 14  # of a code; looking for one of version 40 takes a court 39 minutes and 5 GB
MAX_COPIES, MAX_START = 32, 1 << 20  # in an owner's claim; the time of reading grows with the copies
READABLE_FORMATS = (*(f"lottery-verification-claim/{number}" for number in (1, 2, 3)), CLAIM_FORMAT)  # of fewer fields each
DERIVED_FROM = ("owner_key", "owner_name", "nonce", "ticket_sha256")


@dataclass(frozen=True)
class CodeClaim(DrawnPart):
    """What was embedded, where, and how to do it again.

    signature: the text. arch: network. layer, start_x, start_y, version, error_correction, mask_pattern: see
    `pruner.qr_code.embedding.Region` and `pruner.qr_code.geometry.CodeFormat`. random_state: numpy's bit generator before embedding.
    nonzeros, entries: of the signed ticket. similarity: of the region before embedding. copies: [layer, start_x, start_y]
    of every further copy of the same code. threshold: magnitude below which weights of a suspect are noise to the owner,
    the paper's t (section 3.4), or None. owner_key, owner_name, nonce, ticket_sha256: what the text was derived from, as
    `pruner.qr_code.derived_text` says, keys and digests in hex; all None for a text that somebody chose. polarity: which modules
    the occupied kernels are, see `pruner.qr_code.geometry.CodeFormat`.
    """

    signature: str
    arch: str
    layer: str = field(is_text)
    start_x: int = field(whole(0, MAX_START))
    start_y: int = field(whole(0, MAX_START))
    version: int
    error_correction: str
    mask_pattern: int
    similarity: float
    nonzeros: int
    entries: int
    random_state: dict[str, Any]
    copies: tuple[tuple[str, int, int], ...] = field(lambda value: isinstance(value, list) and len(value) < MAX_COPIES,
                                                     default=())
    threshold: float | None = field(or_none(number(0, LARGEST_THRESHOLD)), default=None)
    owner_key: str | None = field(or_none(is_digest), since=2, default=None)
    owner_name: str | None = field(or_none(is_text), since=2, default=None)
    nonce: str | None = field(or_none(is_text), since=2, default=None)
    ticket_sha256: str | None = field(or_none(is_digest), since=2, default=None)
    polarity: str = field(lambda value: value in POLARITIES, since=3, default=DARK)

    @property
    def code_format(self) -> CodeFormat:
        return CodeFormat(self.version, self.error_correction, self.mask_pattern, self.polarity == LIGHT)

    @property
    def places(self) -> list[Place]:
        """Where the code lies, the further copies behind the first."""
        return [Place(self.layer, self.start_x, self.start_y), *(Place(*copy) for copy in self.copies)]

    @property
    def derived(self) -> bool:
        """Whether the text follows from owner, nonce and ticket; that it does was checked when it was read."""
        return self.owner_key is not None

    def is_for(self, owner: str, owner_key: str | None) -> bool:
        return not self.derived or super().is_for(owner, owner_key)

    @classmethod
    def opened(cls, content: dict[str, Any], arch: str, where: str, prefix: str) -> Self:
        """Raises UserError as `checked_claim`, and for another network than the claim is about."""
        return checked_claim(f"{where}: {prefix}", content).about(arch, where, prefix)

    @classmethod
    def from_file(cls, path: str) -> Self:
        """As `read_claim`."""
        return read_claim(path)


Part = CodeClaim


def make(args) -> CodeClaim:
    """From the file that embed_qrcode.py wrote. Raises UserError for anything else, or for a claim about another network."""
    return of_flag(args, "v2", read_claim)


def write_claim(path: str | Path, claim: CodeClaim, instead_of: CodeClaim | None = None) -> None:
    """Write a claim file. A threshold that was recorded in one that is there stays. Raises UserError if another claim is there, but
    for `instead_of`: a model may have been signed with it."""
    if Path(path).exists():
        there = read_claim(path)
        if claim.threshold is None:
            claim = replace(claim, threshold=there.threshold)
        if there not in (claim, instead_of):
            raise UserError(f"{path}: holds another claim, which may belong to a signed model; name another --save_dir")
    checkpoint.save_json({"format": CLAIM_FORMAT, **asdict(claim)}, path, secret=True)


def read_claim(path: str | Path) -> CodeClaim:
    """Read and check a claim file. Raises UserError for anything missing, unknown, of a wrong type or out of range."""
    content = checkpoint.load_json(path)
    claim_format = content.pop("format", None) if isinstance(content, dict) else None
    if claim_format not in READABLE_FORMATS:
        why = "is make_claim.py's claim; give the *.claim.json of embed_qrcode.py that it was made from" \
            if str(claim_format).startswith(f"{OWNERS_CLAIM}/") else \
            f"not a claim ('format' must be {CLAIM_FORMAT!r}); embed_qrcode.py writes them"
        raise UserError(f"{path}: {why}")
    return checked_claim(path, content)


def checked_claim(path: str | Path, content: dict[str, Any]) -> CodeClaim:
    """The claim whose entries stand in `content`, as JSON holds them. Raises UserError, naming `path`, as `read_claim`."""
    types = {field.name: field.type for field in fields(CodeClaim)}
    for name in [field.name for field in fields(CodeClaim) if field.default is MISSING and field.name not in content]:
        raise UserError(f"{path}: the claim lacks {name!r}")
    for name, value in content.items():
        if name not in types:
            raise UserError(f"{path}: unknown entry {checkpoint.shortened(name)}")
        expected = {"copies": list, "threshold": (int, float, type(None)), "random_state": dict,
                    "similarity": (int, float)}.get(name, types[name])
        if not isinstance(value, expected) or isinstance(value, bool):
            raise UserError(f"{path}: {name!r} has the wrong type ({type(value).__name__})")
    claim = CodeClaim(**{**content, "copies": tuple(_checked_copy(path, copy) for copy in content.get("copies", ()))})
    if claim.error_correction not in qr_code.ERROR_CORRECTION or claim.version not in qr_code.VERSIONS \
            or claim.mask_pattern not in qr_code.MASK_PATTERNS or claim.polarity not in POLARITIES:
        raise UserError(f"{path}: version, error_correction, mask_pattern or polarity is none of a QR code's")
    if claim.version > MAX_VERSION:
        raise UserError(f"{path}: a code of version {claim.version} is too large for a claim; at most {MAX_VERSION}")
    if claim.arch not in ARCHITECTURES:
        raise UserError(f"{path}: 'arch' is {checkpoint.shortened(claim.arch)}, which is none of {', '.join(ARCHITECTURES)}")
    if len(claim.copies) > MOST_COPIES or any(len(place.layer) > LONGEST_NAME for place in claim.places):
        raise UserError(f"{path}: has more than {MOST_COPIES} copies, or a layer's name of more than {LONGEST_NAME} letters")
    if not all(0 <= start < MOST_CHANNELS for place in claim.places for start in (place.start_x, place.start_y)):
        raise UserError(f"{path}: start_x and start_y must be numbers of channels, 0 or more")
    if len(set(claim.places)) < len(claim.places):
        raise UserError(f"{path}: names a place twice; each of 'copies' must lie elsewhere")
    if claim.threshold is not None and not 0 <= claim.threshold <= LARGEST_THRESHOLD:
        raise UserError(f"{path}: threshold must be a number from 0 to {LARGEST_THRESHOLD:g}, or null")
    if not 0 <= claim.similarity <= 1 or not 0 <= claim.nonzeros <= claim.entries <= MOST_ENTRIES:
        raise UserError(f"{path}: similarity must be a share, nonzeros and entries numbers of weights")
    if not _is_state(claim.random_state):
        raise UserError(f"{path}: random_state is no state of numpy's")
    try:
        size = len(claim.signature.encode("utf-8"))
    except UnicodeEncodeError:
        raise UserError(f"{path}: the signature is no valid text") from None
    if not 0 < size <= qr_code.capacity(claim.version, claim.error_correction):
        raise UserError(f"{path}: a signature of {size} bytes does not fit a version {claim.version} code")
    if "\0" in claim.signature:
        raise UserError(f"{path}: the signature has a NUL, which no text has")
    stated = [getattr(claim, name) for name in DERIVED_FROM]
    if stated != [None] * len(stated) and claim.signature != _derived(*stated, length_for(claim.version, claim.error_correction)):
        raise UserError(f"{path}: the signature does not follow from {', '.join(DERIVED_FROM)}")
    return claim


def _derived(owner_key: Any, owner_name: Any, nonce: Any, ticket_sha256: Any, length: int) -> str | None:
    """The text, None where it is derived from what can't be so."""
    if not (is_digest(owner_key) and is_text(owner_name) and is_digest(ticket_sha256) and isinstance(nonce, str)):
        return None
    try:
        parts = bytes.fromhex(owner_key), owner_name, bytes.fromhex(nonce), ticket_sha256
        return derived_text(*parts, length) if parts[2].hex() == nonce and len(parts[2]) == NONCE_BYTES else None
    except ValueError:
        return None


def _is_state(table: dict[str, Any], inner: bool = False) -> bool:
    """Whether a table holds numbers and texts, or tables of such: numpy's bit generators have no more."""
    return all(isinstance(value, (int, str)) or not inner and isinstance(value, dict) and _is_state(value, inner=True)
               for value in table.values())


def _checked_copy(path: str | Path, copy: Any) -> tuple[str, int, int]:
    if not isinstance(copy, list) or [type(value) for value in copy] != [str, int, int]:
        raise UserError(f"{path}: each of 'copies' must be [layer, start_x, start_y]")
    return tuple(copy)
