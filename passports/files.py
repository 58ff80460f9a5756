"""passports.pt, the owner's secret: from whom it was drawn, the vectors, and what else the private branch has."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models import build_model
from passports import KEY_TYPES, SCHEMES
from passports.attachment import Passports
from passports.config import check_texts
from passports.draw import Draw
from passports.layers import normed_layers
from utils import checkpoint
from utils.checkpoint import FileBytes
from utils.errors import UserError

FORMAT = "lottery-passports/1"


@dataclass(frozen=True)
class PassportFile:
    """vectors: layer -> float32 [in * height * width, 2]. private: what was trained of the private branch alone, by name."""

    scheme: str
    key_type: str
    draw: Draw
    vectors: Mapping[str, torch.Tensor]
    private: Mapping[str, torch.Tensor]


def write_passports(path: str | Path, scheme: str, key_type: str, passports: Passports) -> None:
    """Write what the owner keeps, readable by nobody else. Raises UserError if the file exists."""
    draw = passports.draw
    content = {"format": FORMAT, "scheme": scheme, "key_type": key_type, "arch": draw.arch, "owner_key": draw.owner_key.hex(),
               "owner_name": draw.owner_name, "nonce": draw.nonce.hex(), "ticket_sha256": draw.ticket_sha256,
               "texts": dict(draw.texts),
               "vectors": {name: layer.vectors.cpu() for name, layer in zip(draw.texts, passports.layers.values())},
               "private": {name: tensor.detach().cpu() for name, tensor in passports.state_dict().items()}}
    file = io.BytesIO()
    torch.save(content, file)
    checkpoint.write_secret(path, file.getvalue(), "--save_dir")


def read_passports(path: str | Path | FileBytes, arch: str) -> PassportFile:
    """Raises UserError for anything but the file of passports for the network `arch`."""
    content = checkpoint.load(path, "file of passports")
    if content.get("format") != FORMAT:
        raise UserError(f"{path}: is no file of passports ('format' must be {FORMAT!r}); main_passport.py writes them")
    if content.get("arch") != arch:
        raise UserError(f"{path}: is about another network ({checkpoint.shortened(str(content.get('arch')))}) than {arch}; see --arch")
    try:
        return _checked(path, content, build_model(arch, num_classes=2))
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError):
        raise UserError(f"{path}: is damaged; give the file that main_passport.py wrote") from None


def _checked(path: str | Path | FileBytes, content: Mapping[str, Any], model: nn.Module) -> PassportFile:
    """Raises UserError, or whatever a value of a wrong type makes fail."""
    layers, texts, vectors, private = normed_layers(model), content["texts"], content["vectors"], content["private"]
    if not set(texts) <= set(layers) or not texts or list(texts) != list(vectors):
        raise ValueError("layers")
    shapes = {name: (model.get_submodule(name).weight[0].numel(), 2) for name in texts}
    finite = all(tensor.is_floating_point() is False or bool(tensor.isfinite().all()) for tensor in (*vectors.values(), *private.values()))
    if any(vectors[name].shape != shape or vectors[name].dtype != torch.float32 for name, shape in shapes.items()) or not finite:
        raise ValueError("vectors")
    check_texts(str(path), texts, dict(model.named_modules()))
    draw = Draw(bytes.fromhex(content["owner_key"]), str(content["owner_name"]), bytes.fromhex(content["nonce"]), content["arch"],
                content["ticket_sha256"], dict(texts))
    if len(draw.owner_key) != 32 or len(bytes.fromhex(draw.ticket_sha256)) != 32 or content["key_type"] not in KEY_TYPES \
            or content["scheme"] not in SCHEMES:
        raise ValueError("owner or kind")
    Passports(model, content["scheme"], draw, vectors).load_state_dict(private)
    return PassportFile(content["scheme"], content["key_type"], draw, dict(vectors), dict(private))
