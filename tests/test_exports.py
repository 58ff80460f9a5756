"""Stolen models as files of other forms: what they compute, that they are read back, and judged."""

import json

import pytest
import torch

from attacks.exports import EXPORTS
from attacks.transform import transform
from models import build_model
from models.fitting import fitted
from pruner.masks import Mask, prunable_layers
from pruner.tickets import read_model_file


@pytest.fixture(scope="module")
def wide(make_model):
    """A state_dict of more channels than the network's, with statistics of its input."""
    network = make_model(classes=10, seed=4)
    network.normalize.mean, network.normalize.std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.4, 0.5, 0.6])
    mask = Mask({name: torch.rand(layer.weight.shape, generator=torch.Generator().manual_seed(0)) < 0.4
                 for name, layer in prunable_layers(network).items()})
    weights = {name: tensor * mask[name.removesuffix(".weight")] if name.removesuffix(".weight") in mask else tensor
               for name, tensor in network.state_dict().items()}
    return transform(mask, weights, network, ("scale", "dead", "split"), 1e-7, 1)[1]


@pytest.mark.slow
@pytest.mark.parametrize("form", EXPORTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_exported_is_read_back(form, dtype, wide, tmp_path):
    weights = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in wide.items()}
    EXPORTS[form](tmp_path / "attacked", "res20s", weights)
    assert [path.name for path in tmp_path.iterdir()] == ["attacked"]
    found = read_model_file(tmp_path / "attacked", build_model("res20s", 10), any_width=True)
    pictures = torch.rand(4, 3, 16, 16)
    expected = fitted(build_model("res20s", 10), wide)(pictures).detach()
    logits = fitted(found.network, found.weights)(pictures).detach()
    assert torch.allclose(logits, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    for name in prunable_layers(found.network):
        assert torch.equal(found.weights[f"{name}.weight"] != 0, wide[f"{name}.weight"] != 0)
    assert found.derivation.folded == (19 if form == "onnx" else 0)


@pytest.mark.slow
def test_a_sweep_of_transforms_as_onnx_is_judged(run_main, owner, tmp_path):
    done = run_main("main_attack.py", "transform", "--checkpoint", owner / "own.pth.tar", "--no_accuracy", "--sweep", "0,1e-8", "--kinds",
                    "scale,sign,dead,fill", "--save_as", "onnx", "--save_dir", tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(path.parent.name for path in tmp_path.rglob("attacked.*")) == ["level_0", "level_1e-08"]
    suspect = tmp_path / "level_1e-08/attacked.onnx"
    assert json.loads((suspect.parent / "result.json").read_text())["model"] == str(suspect)
    done = run_main("main_verify.py", "--claim", owner / "claim.json", "--commitment", owner / "commitment.json", "--suspect", suspect,
                    "--trigger_key", owner / "trigger.key", "--json", tmp_path / "v.json")
    assert done.returncode == 0, done.stdout + done.stderr
    checks = {check["check"]: check["result"] for check in json.loads((tmp_path / "v.json").read_text())["checks"]}
    assert (checks["V2"], checks["V3"]) == ("shown", "shown"), "its normalisation is that of the graph"
    again = run_main("main_attack.py", "prune", "--checkpoint", owner / "own.pth.tar", "--no_accuracy", "--save_as", "onnx", "--save_dir",
                     tmp_path / "x")
    assert again.returncode == 2 and "--save_as: means nothing to prune" in again.stderr
