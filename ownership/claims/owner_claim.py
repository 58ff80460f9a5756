"""All that an owner claims of a model: accuracy, and what each scheme will show (paper, section 3.2).

In files a claim is a table of fields (see `ownership.claims.commitment`), `part.name` -> JSON value. All claims of a format
have the same fields, those of parts it lacks are null: so a commitment does not even tell which schemes there are. The newest
format is written, all are read: a commitment that was published must open for ever.
"""

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from datasets import DATASETS
from models import ARCHITECTURES
from ownership import SCHEMES
from ownership.claims import commitment
from ownership.claims.commitment import Refused
from ownership.claims.fields import ClaimPart, field, is_digest, is_text, number, or_none, whole
from utils import checkpoint
from utils.errors import UserError

MAX_SIDE = 512  # of pictures


@dataclass(frozen=True)
class Fidelity(ClaimPart):
    """How accurate the model is: percent of the test pictures, and how many points less a copy may have.

    dataset: a name of the registry. image_size: as its flag, or None. test_sha256: of test pictures and labels.
    """

    dataset: str = field(lambda value: value in list(DATASETS))
    image_size: int | None = field(or_none(whole(1, MAX_SIDE)))
    test_sha256: str = field(is_digest)
    target: float = field(number(0, 100))
    tolerance: float = field(number(0, 100))


@dataclass(frozen=True)
class OwnerClaim:
    """owner: a name. owner_key: the Ed25519 public key that signs the commitment, in hex, or None. arch: network. parts: scheme
    -> what is claimed of it."""

    owner: str = field(is_text)
    owner_key: str | None = field(or_none(is_digest))
    arch: str = field(lambda value: value in list(ARCHITECTURES))
    fidelity: Fidelity | None = None
    parts: Mapping[str, ClaimPart] = dataclasses.field(default_factory=dict)

    @property
    def schemes(self) -> list[str]:
        """Those that are claimed, in the order of their checks."""
        return [name for name in SCHEMES if name in self.parts]


def _kinds() -> dict[str, tuple[type, int]]:
    """What a part's fields begin with -> its class, and the first format that has it."""
    return {"fidelity": (Fidelity, 1), **{name.lower(): (scheme.claim.Part, scheme.since) for name, scheme in SCHEMES.items()}}


def _all_fields() -> dict[str, tuple[dataclasses.Field, int]]:
    """Name in the table -> field, and the first format that has it."""
    table = {one.name: (one, one.metadata["since"] or 1) for one in dataclasses.fields(OwnerClaim) if one.metadata}
    for part, (kind, since) in _kinds().items():
        table |= {f"{part}.{one.name}": (one, one.metadata.get("since") or since) for one in dataclasses.fields(kind)}
    return table


def formats() -> dict[int, dict[str, dataclasses.Field]]:
    """Format -> name in the table -> field; the newest is the last."""
    table = _all_fields()
    return {number: {name: one for name, (one, since) in table.items() if since <= number}
            for number in sorted({since for _, since in table.values()})}


def newest_format() -> int:
    """The one that is written."""
    return max(formats())


def format_of(names: Collection[str]) -> int:
    """The one that has just these fields; the newest where none has."""
    return next((number for number, fields in formats().items() if fields.keys() == set(names)), newest_format())


def to_fields(claim: OwnerClaim, claim_format: int | None = None) -> dict[str, Any]:
    """The claim as a table of JSON values, in a format (None: the newest)."""
    parts, table = {"fidelity": claim.fidelity, **{name.lower(): part for name, part in claim.parts.items()}}, {}
    for name in formats()[claim_format or newest_format()]:
        prefix, _, own_name = name.rpartition(".")
        held = parts.get(prefix) if prefix else claim
        table[name] = None if held is None else _plain(getattr(held, own_name))
    return table


def _plain(value: Any) -> Any:
    """As JSON holds it."""
    return [_plain(one) for one in value] if isinstance(value, tuple) else value


def from_fields(table: Mapping[str, Any], where: str, claim_format: int | None = None) -> OwnerClaim:
    """The reverse of `to_fields`, of a stranger's table in a format (None: the newest). Raises Refused, naming `where` and the
    field, for anything missing, unknown, of a wrong type or out of range, and for a format that there is not yet."""
    known = formats()
    if claim_format is not None and claim_format not in known:
        raise Refused(f"{where}: is of format {claim_format}, and formats up to {max(known)} are known here; take a newer "
                      "version")
    fields = known[claim_format or max(known)]
    for name in fields:
        if name not in table:
            raise Refused(f"{where}: lacks the field {name!r}")
    for name in table:
        if name not in fields:
            raise Refused(f"{where}: unknown field {name[:60]!r}")
    contents: dict[str, dict[str, Any]] = {}
    for name in fields:
        prefix, _, own_name = name.rpartition(".")
        contents.setdefault(prefix, {})[own_name] = table[name]
    claimed = {prefix for prefix, content in contents.items() if not prefix or any(v is not None for v in content.values())}
    for name, one in fields.items():
        if name.rpartition(".")[0] in claimed and not one.metadata.get("allowed", lambda value: True)(table[name]):
            raise Refused(f"{where}: field {name!r} holds no value that it can have")
    top, parts = contents.pop(""), {}
    for prefix, (kind, _) in _kinds().items():
        if prefix in claimed:
            try:
                parts[prefix] = kind.opened(contents[prefix], top["arch"], where, prefix)
            except UserError as error:
                raise Refused(str(error)) from None
            if prefix != "fidelity" and not parts[prefix].is_for(top["owner"], top["owner_key"]):
                raise Refused(f"{where}: its {prefix} was made for another owner than 'owner' and 'owner_key' say, who signs")
    return OwnerClaim(**top, fidelity=parts.pop("fidelity", None),
                      parts={name: parts[name.lower()] for name in SCHEMES if name.lower() in parts})


def read(path: str) -> OwnerClaim:
    """What an owner claims, of the private file that make_claim.py wrote, or of one that holds one scheme's part alone
    (embed_qrcode.py's), whose owner is "". Raises UserError for anything else."""
    content = checkpoint.load_json(path)
    if isinstance(content, dict) and str(content.get("format")).startswith(f"{commitment.CLAIM}/"):
        private, _ = commitment.open_claim(path, None, "owner_key")
        return from_fields(private.values, path, private.format)
    errors = []
    for name, scheme in SCHEMES.items():
        try:
            part = scheme.claim.Part.from_file(path)
        except UserError as error:
            errors.append(error)  # another scheme may know it, and better
            continue
        if part is not None:
            return OwnerClaim("", None, part.arch, parts={name: part})
    raise errors[-1]
