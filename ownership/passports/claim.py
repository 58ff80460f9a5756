"""The part of a claim that says what a network's passports were drawn from (scheme P)."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import torch

from models import build_model
from ownership.claims.fields import DrawnPart, field, is_digest, is_text
from passports import KEY_TYPES, SCHEMES, VECTOR
from passports.config import check_texts
from passports.draw import Draw, as_text
from passports.files import read_passports
from passports.layers import normed_layers
from utils import checkpoint, cli
from utils.digests import NONCE_BYTES
from utils.errors import UserError

LONGEST = 1 << 16  # letters of all layers' names and texts


@dataclass(frozen=True)
class ClaimedPassports(DrawnPart):
    """scheme, key_type: in `passports`. texts: layers with their texts, as `passports.draw.as_text`. file_sha256: of the owner's
    passports.pt. The others as `passports.draw.Draw`, in hex; arch is the claim's."""

    scheme: str = field(lambda value: value in list(SCHEMES))
    key_type: str = field(lambda value: value in list(KEY_TYPES))
    arch: str = field(is_text)
    owner_key: str = field(is_digest)
    owner_name: str = field(is_text)
    nonce: str = field(lambda value: isinstance(value, str) and len(value) == 2 * NONCE_BYTES)
    ticket_sha256: str = field(is_digest)
    texts: str = field(lambda value: isinstance(value, str) and 0 < len(value) <= LONGEST)
    file_sha256: str = field(is_digest)

    @property
    def is_drawn(self) -> bool:
        """Whether nobody chose the vectors."""
        return self.key_type == VECTOR

    @cached_property
    def draw(self) -> Draw:
        """Raises ValueError for what can't be drawn from."""
        texts = dict(checkpoint.parse_json(self.texts.encode()))
        if not all(isinstance(word, str) for words in texts.items() for word in words) or as_text(texts) != self.texts:
            raise ValueError("texts")
        return Draw(bytes.fromhex(self.owner_key), self.owner_name, bytes.fromhex(self.nonce), self.arch, self.ticket_sha256, texts)

    @classmethod
    def opened(cls, content: dict[str, Any], arch: str, where: str, prefix: str) -> Self:
        """Raises UserError for another network's layers, layers without a norm, and texts that they can't hold."""
        claimed, texts = cls(**content), None
        if claimed.arch == arch:
            with contextlib.suppress(ValueError, TypeError, RecursionError):
                model, texts = build_model(arch, num_classes=2), claimed.draw.texts
        if not texts or not texts.keys() <= normed_layers(model).keys():
            raise UserError(f"{where}: field '{prefix}.texts' names no layers of the network {arch} that can have passports")
        check_texts(f"{where}: field '{prefix}.texts'", texts, dict(model.named_modules()))
        return claimed

    def vectors(self) -> Mapping[str, torch.Tensor]:
        """Layer -> float64 [in * height * width, 1], as the hash draws them; of any length."""
        model = build_model(self.arch, num_classes=2)
        return {layer: torch.from_numpy(self.draw.normal(layer, "scale", model.get_submodule(layer).weight[0].numel()))[:, None]
                for layer in self.draw.texts}


Part = ClaimedPassports


def make(args) -> ClaimedPassports:
    """From the file that main_passport.py wrote. Raises UserError for anything else, or for one about another network."""
    with cli.named("--p"):
        file = read_passports(args.p, args.arch)
    draw = file.draw
    return ClaimedPassports(file.scheme, file.key_type, draw.arch, draw.owner_key.hex(), draw.owner_name, draw.nonce.hex(),
                            draw.ticket_sha256, as_text(draw.texts), checkpoint.sha256(args.p))
