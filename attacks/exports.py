"""A model's file in the other forms in which models are handed out."""

import io
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save

from models import HEAD, build_model
from models.fitting import fitted
from utils import checkpoint


def write_safetensors(path: Path, arch: str, weights: Mapping[str, torch.Tensor]) -> None:
    """Plain weights, pruned entries zero."""
    content = save({name: tensor.contiguous() for name, tensor in weights.items()})
    checkpoint.write_atomic(path, lambda file: file.write(content))


def write_onnx(path: Path, arch: str, weights: Mapping[str, torch.Tensor]) -> None:
    """By torch's exporter, which folds batch norms into convolutions. It takes float pictures [N, 3, 32, 32] on the scale 0 to 1, of
    any number, in the weights' dtype.

    Args:
        arch: a key of ARCHITECTURES. weights: state_dict, whose shapes may be others than the network's.
    """
    network = fitted(build_model(arch, len(weights[f"{HEAD}.weight"])), weights).to(weights[f"{HEAD}.weight"].dtype)
    pictures, content = torch.zeros(1, 3, 32, 32, dtype=weights[f"{HEAD}.weight"].dtype), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that torch's other exporter, which takes another library, is the newer one
        torch.onnx.export(network, (pictures,), content, dynamo=False, input_names=["pictures"], output_names=["logits"],
                          dynamic_axes={"pictures": {0: "count"}, "logits": {0: "count"}})
    checkpoint.write_atomic(path, lambda file: file.write(content.getvalue()))


# forms of `utils.run_dir.COPIES` other than torch's -> what writes them
EXPORTS: dict[str, Callable[[Path, str, Mapping[str, torch.Tensor]], None]] = {"safetensors": write_safetensors, "onnx": write_onnx}
