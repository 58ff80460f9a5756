"""Networks: names and counts of parameters, torchvision's keys, and ResNet-20 against a plain reimplementation."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision

from models import ARCHITECTURES, build_model


def state(arch: str, classes: int = 10) -> dict[str, torch.Tensor]:
    return build_model(arch, classes).state_dict()


@pytest.mark.parametrize("arch, millions", [("res20s", "0.27"), ("res18", "11.17"), ("res50", "23.52")])
def test_parameter_counts_are_the_papers(arch, millions):
    assert f"{sum(p.numel() for p in build_model(arch, 10).parameters()) / 1e6:.2f}" == millions


def test_names_of_res20s_are_the_originals():
    expected = {"conv1.weight": (16, 3, 3, 3), "fc.weight": (10, 64), "fc.bias": (10,)}

    def norm(name: str, channels: int) -> None:
        expected.update({f"{name}.{kind}": (channels,) for kind in ("weight", "bias", "running_mean", "running_var")})
        expected[f"{name}.num_batches_tracked"] = ()

    norm("bn1", 16)
    for layer, inputs, channels in ((1, 16, 16), (2, 16, 32), (3, 32, 64)):
        for block in range(3):
            prefix = f"layer{layer}.{block}"
            expected[f"{prefix}.conv1.weight"] = (channels, channels if block else inputs, 3, 3)
            expected[f"{prefix}.conv2.weight"] = (channels, channels, 3, 3)
            norm(f"{prefix}.bn1", channels)
            norm(f"{prefix}.bn2", channels)
    found = {name: tuple(tensor.shape) for name, tensor in state("res20s").items() if not name.startswith("normalize.")}
    assert found == expected


@pytest.mark.slow
@pytest.mark.parametrize("arch, theirs", [("res18", torchvision.models.resnet18),
                                          ("res50", torchvision.models.resnet50)])
def test_names_are_torchvisions(arch, theirs):
    ours = {name: tuple(tensor.shape) for name, tensor in state(arch, 7).items()}
    assert ours.pop("normalize.mean") == ours.pop("normalize.std") == (3,)
    expected = {name: tuple(tensor.shape) for name, tensor in theirs(num_classes=7).state_dict().items()}
    assert expected.pop("conv1.weight") == (64, 3, 7, 7)
    assert ours.pop("conv1.weight") == (64, 3, 3, 3)
    assert ours == expected
    assert "layer2.0.downsample.0.weight" in ours


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["res18", "res50"])
def test_behind_the_stem_the_network_is_torchvisions(arch):
    torch.manual_seed(0)
    ours = build_model(arch, 5).eval()
    theirs = getattr(torchvision.models, arch.replace("res", "resnet"))(num_classes=5).eval()
    theirs.conv1 = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    theirs.maxpool = torch.nn.Identity()
    theirs.load_state_dict({name: tensor for name, tensor in ours.state_dict().items()
                            if not name.startswith("normalize.")})
    pictures = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(ours(pictures), theirs(pictures))


def resnet20_by_hand(weights: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """He et al. 2016, section 4.2, written down from the paper: option A, identity shortcuts with zero padding."""

    def norm(name, x):
        mean, var, scale, shift = (weights[f"{name}.{kind}"][None, :, None, None]
                                   for kind in ("running_mean", "running_var", "weight", "bias"))
        return (x - mean) / torch.sqrt(var + 1e-5) * scale + shift

    def convolution(name, x, stride=1):
        return F.conv2d(x, weights[f"{name}.weight"], stride=stride, padding=1)

    x = (x - weights["normalize.mean"][None, :, None, None]) / weights["normalize.std"][None, :, None, None]
    x = norm("bn1", convolution("conv1", x)).clamp(min=0)
    for layer in (1, 2, 3):
        for block in (0, 1, 2):
            name, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            y = norm(f"{name}.bn1", convolution(f"{name}.conv1", x, stride)).clamp(min=0)
            y = norm(f"{name}.bn2", convolution(f"{name}.conv2", y))
            if stride == 2:
                shortcut = torch.zeros_like(y)
                quarter = y.shape[1] // 4
                shortcut[:, quarter:3 * quarter] = x[:, :, 0::2, 0::2]
            else:
                shortcut = x
            x = (y + shortcut).clamp(min=0)
    return x.sum((2, 3)) / (x.shape[2] * x.shape[3]) @ weights["fc.weight"].T + weights["fc.bias"]


@pytest.mark.parametrize("size", [8, 9, 15, 32, 40])
def test_res20s_equals_the_plain_reimplementation(size):
    generator = torch.Generator().manual_seed(size)
    model = build_model("res20s", 6, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)).double().eval()
    for name, tensor in model.state_dict().items():  # running statistics and biases that are not zero and one
        if tensor.is_floating_point() and not name.startswith("normalize."):
            positive = name.endswith(("running_var", "bn1.weight"))
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5 if positive
                         else torch.randn(tensor.shape, generator=generator) * 0.2)
    pictures = torch.rand(3, 3, size, size, generator=generator).double()
    torch.testing.assert_close(model(pictures), resnet20_by_hand(model.state_dict(), pictures), rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("arch, sizes", [("res20s", range(8, 41)), ("res18", (8, 13, 24, 32, 40)),
                                         ("res50", (8, 31, 40))])
def test_pictures_of_8_to_40_pixels_and_training_work(arch, sizes):
    model = build_model(arch, 4)
    for size in sizes:
        logits = model(torch.rand(2, 3, size, size))
        assert logits.shape == (2, 4) and logits.isfinite().all()
    logits.sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("arch, classes", [("res20s", 1), ("res20s", 2), ("res20s", 1000), ("res18", 100),
                                           ("res50", 2)])
def test_any_class_count(arch, classes):
    model = build_model(arch, classes).eval()
    assert model.fc.weight.shape[0] == classes and model(torch.rand(1, 3, 8, 8)).shape == (1, classes)


@pytest.mark.slow
@pytest.mark.parametrize("arch", sorted(arch for arch, network in ARCHITECTURES.items() if network.kind == "pictures"))
def test_pictures_are_normalised_by_the_network_itself(arch):
    torch.manual_seed(0)
    plain = build_model(arch, 3).eval()
    mean, std = (0.1, 0.5, 0.7), (0.2, 0.25, 0.5)
    torch.manual_seed(0)
    normalising = build_model(arch, 3, mean, std).eval()
    pictures = torch.rand(2, 3, 8, 8)
    by_hand = torch.stack([(pictures[:, c] - mean[c]) / std[c] for c in range(3)], dim=1)
    torch.testing.assert_close(normalising(pictures), plain(by_hand), rtol=1e-4, atol=1e-5)
    assert normalising.state_dict()["normalize.mean"].tolist() == pytest.approx(mean)
    assert not any(name.startswith("normalize") for name, _ in normalising.named_parameters())


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["res20s", "res18", "res50"])
def test_initial_weights_follow_the_seed_and_have_the_variance_of_he(arch):
    def weights(seed):
        torch.manual_seed(seed)
        return build_model(arch, 10).state_dict()["layer3.0.conv2.weight"]

    assert torch.equal(weights(1), weights(1)) and not torch.equal(weights(1), weights(2))
    values = weights(1).double()
    fan = values[0].numel()  # in and out channels of this layer are equal
    assert math.isclose(values.std().item(), math.sqrt(2 / fan), rel_tol=0.02)
    assert abs(np.mean(values.numpy())) < 4 * math.sqrt(2 / fan) / math.sqrt(values.numel())
