"""Masks: what they accept, what they count, and how they hold a model."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.utils import prune

from pruner.masks import Mask, MaskedWeights, pack_state, prunable_layers
from pruner.tickets import read_model_file
from utils.errors import UserError


def random_mask(model, share: float = 0.3, stem: bool = False, seed: int = 0) -> Mask:
    generator = torch.Generator().manual_seed(seed)
    return Mask({name: torch.rand(layer.weight.shape, generator=generator) < share
                 for name, layer in prunable_layers(model, stem).items()})


@pytest.mark.parametrize("arch, convolutions", [("res20s", 19), ("res18", 20), ("res50", 53)])
def test_every_convolution_but_the_stem_is_prunable(make_model, arch, convolutions):
    model = make_model(arch)
    with_stem, without = prunable_layers(model, stem=True), prunable_layers(model)
    assert len(with_stem) == convolutions
    assert with_stem.keys() - without.keys() == {"conv1"}
    assert all(f"{name}.weight" in model.state_dict() for name in with_stem)


@given(values=st.lists(st.integers(0, 1), min_size=1, max_size=50),
       dtype=st.sampled_from((torch.bool, torch.uint8, torch.int64, torch.float16, torch.float32, torch.float64)))
def test_zeros_and_ones_of_any_dtype_are_counted(values, dtype):
    mask = Mask({"a": torch.tensor(values).to(dtype), "b": torch.ones(3, dtype=dtype)})
    assert mask["a"].tolist() == [bool(value) for value in values]
    assert (mask.nonzeros, mask.entries) == (sum(values) + 3, len(values) + 3)
    assert mask.density == (sum(values) + 3) / (len(values) + 3)


@pytest.mark.parametrize("value", [0.5, -1.0, 2.0, float("nan"), float("inf"), 1 + 1e-6])
def test_anything_but_zeros_and_ones_is_refused(value):
    with pytest.raises(UserError, match="layer a: must hold zeros and ones only"):
        Mask({"a": torch.tensor([0.0, 1.0, value], dtype=torch.float64)})


def test_a_file_of_anything_else_is_named(make_model, tmp_path):
    model = make_model()
    mask = {f"{name}.weight_mask": layer.to(torch.uint8) for name, layer in Mask.dense(model).items()}
    mask["layer2.0.conv1.weight_mask"][0, 0, 0, 0] = 3
    path = tmp_path / "odd.pth.tar"
    torch.save(mask, path)
    with pytest.raises(UserError, match=f"^{re.escape(str(path))}: mask of layer layer2.0.conv1: must hold zeros"):
        read_model_file(path, model)


def test_density_is_measured_over_the_masked_layers(make_model):
    model = make_model()
    mask = random_mask(model)
    kept = np.concatenate([layer.numpy().ravel() for layer in mask.values()])
    assert mask.nonzeros == np.count_nonzero(kept) and mask.entries == kept.size
    assert kept.size == sum(m.weight.numel() for n, m in model.named_modules()
                            if isinstance(m, torch.nn.Conv2d) and n != "conv1")
    assert Mask.dense(model).density == 1 and Mask.dense(model, stem=True).entries == kept.size + 3 * 16 * 9


def test_masks_of_another_model_do_not_fit(make_model):
    model, mask = make_model(), random_mask(make_model())
    mask.check_fits(model)
    random_mask(model, stem=True).check_fits(model)
    missing, unknown, reshaped = Mask(mask), Mask(mask), Mask(mask)
    del missing["layer2.1.conv1"]
    unknown["layer9.conv1"] = torch.ones(1, dtype=torch.bool)
    reshaped["layer3.0.conv1"] = reshaped["layer3.0.conv1"][:, :, :, :1]
    for bad, name in ((missing, "layer2.1.conv1"), (unknown, "layer9.conv1"), (reshaped, "layer3.0.conv1")):
        with pytest.raises(UserError, match=name):
            bad.check_fits(model)
    with pytest.raises(UserError, match="--arch"):
        mask.check_fits(make_model("res18"))


def test_the_first_layer_in_the_networks_order_is_named(make_model):
    """Not another one each time: the order of a set changes from run to run."""
    with pytest.raises(UserError, match="no mask for layer layer1.0.conv1;"):
        Mask({}).check_fits(make_model())
    with pytest.raises(UserError, match="masks an unknown layer z;"):
        Mask({**random_mask(make_model()), **{name: torch.ones(1, dtype=torch.bool) for name in "zyxwvuts"}}).check_fits(make_model())


def test_masks_are_equal_only_entry_for_entry(make_model):
    mask = random_mask(make_model())
    other = Mask({name: layer.clone() for name, layer in mask.items()})
    assert mask == other
    other["layer1.0.conv1"][0, 0, 0, 0] ^= True
    assert mask != other
    assert mask != {name: layer.clone() for name, layer in mask.items()}


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_apply_zeroes_the_pruned_weights_and_no_others(make_model, memory_format):
    model = make_model().to(memory_format=memory_format)
    mask = random_mask(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    MaskedWeights(model, mask).apply()
    for name, tensor in model.state_dict().items():
        layer = name.removesuffix(".weight")
        expected = before[name] * mask[layer] if layer in mask else before[name]
        assert torch.equal(tensor, expected), name


def test_packed_weights_are_what_torch_prune_writes(make_model):
    model = make_model()
    mask = random_mask(model)
    constraint = MaskedWeights(model, mask)
    constraint.apply()
    packed = constraint.pack(model.state_dict())

    theirs = make_model()
    for name, layer in prunable_layers(theirs).items():
        prune.custom_from_mask(layer, "weight", mask[name])
    assert packed.keys() == theirs.state_dict().keys()
    theirs.load_state_dict(packed)  # the original's way of loading its files
    pictures = torch.rand(4, 3, 8, 8)
    assert torch.equal(theirs.eval()(pictures), model.eval()(pictures))

    unpacked = constraint.unpack(packed)
    assert unpacked.keys() == model.state_dict().keys()
    assert all(torch.equal(unpacked[name], tensor) for name, tensor in model.state_dict().items())
    assert pack_state(model.state_dict(), mask).keys() == packed.keys()


def test_unpacking_zeroes_weights_that_stand_under_the_mask(make_model):
    model = make_model()
    mask = random_mask(model)
    unpacked = MaskedWeights(model, mask).unpack(pack_state(model.state_dict(), mask))  # never applied
    for name, layer in mask.items():
        assert torch.equal(unpacked[f"{name}.weight"] != 0, layer), name
