"""Passports: mean patches against convolutions spelled out, the two branches against plain networks, bits, texts, files."""

import copy
import itertools
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch import nn

from models import build_model
from passports import KEY_TYPES, SCHEMES
from passports.attachment import attach, released
from passports.config import read_config
from passports.draw import Draw
from passports.files import read_passports, write_passports
from passports.layers import normed_layers
from passports.signature import read_signature, total
from passports.vectors import inputs_of, make_vectors, mean_patch, mixed
from utils.errors import UserError

TEXTS = {"layer3.0.conv1": "", "layer3.1.conv2": "Jane Doe"}


def draw_of(arch: str = "res20s", texts: dict[str, str] = TEXTS, nonce: bytes = bytes(16)) -> Draw:
    return Draw(bytes(32), "Jane", nonce, arch, "0" * 64, texts)


@pytest.fixture
def with_passports(make_model, make_dataset):
    """with_passports(scheme, arch="res20s") -> (network, its passports)."""

    def make(scheme: str, arch: str = "res20s", texts: dict[str, str] = TEXTS):
        model, draw = make_model(arch), draw_of(arch, texts)
        return model, attach(model, scheme, draw, make_vectors("vector", draw, model, make_dataset().train, {}))

    return make


# --- networks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch, plain", [("res20s_gn", "res20s"), pytest.param("res18_gn", "res18", marks=pytest.mark.slow), ("alexnet_gn", "alexnet")])
def test_with_group_norm_only_the_norms_are_others(arch, plain):
    ours, theirs = build_model(arch, 10), build_model(plain, 10)
    assert list(dict(ours.named_parameters())) == list(dict(theirs.named_parameters()))
    norms = [module for module in ours.modules() if isinstance(module, nn.GroupNorm)]
    assert [(norm.num_channels, norm.num_groups) for norm in norms] == [
        (norm.num_features, norm.num_features // 16) for norm in theirs.modules() if isinstance(norm, nn.BatchNorm2d)]
    assert not any(isinstance(module, nn.BatchNorm2d) for module in ours.modules())


def test_alexnet_is_deepiprs():
    model = build_model("alexnet", 10)
    assert sum(parameter.numel() for parameter in model.parameters()) == 2493386
    weights = {name: torch.randn_like(tensor) * 0.05 for name, tensor in model.named_parameters()}
    model.load_state_dict({**model.state_dict(), **weights})
    x = pictures = torch.rand(2, 3, 32, 32)
    for number, padding, pooled in ((1, 2, True), (2, 2, True), (3, 1, False), (4, 1, False), (5, 1, True)):
        x = F.conv2d(x, weights[f"conv{number}.weight"], padding=padding)
        mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
        x = (x - mean) / (var + 1e-5).sqrt() * weights[f"bn{number}.weight"].view(-1, 1, 1) + weights[f"bn{number}.bias"].view(-1, 1, 1)
        x = F.max_pool2d(x.clamp_min(0), 2) if pooled else x.clamp_min(0)
    expected = x.flatten(1) @ weights["fc.weight"].T + weights["fc.bias"]
    torch.testing.assert_close(model.train()(pictures), expected, rtol=1e-4, atol=1e-4)
    assert model(torch.rand(2, 3, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize("arch, count", [("res20s", 19), ("res20s_gn", 19), ("res18", 20), ("alexnet_gn", 5)])
def test_every_convolution_has_its_norm(arch, count):
    model = build_model(arch, 10)
    pairs = normed_layers(model)
    assert len(pairs) == len(set(pairs.values())) == count
    assert list(pairs) == [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    if arch == "res18":
        assert pairs["layer2.0.downsample.0"] == "layer2.0.downsample.1" and pairs["layer2.0.conv2"] == "layer2.0.bn2"


class Odd(nn.Module):
    """Layers that can't have passports, and one behind dropout that can."""

    def __init__(self):
        super().__init__()
        self.bare, self.split, self.twice = (nn.Conv2d(4, 4, 1) for _ in range(3))
        self.grouped, self.normed, self.dropped = nn.Conv2d(4, 4, 1, groups=2), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.a, self.b, self.c, self.d = (nn.BatchNorm2d(4) for _ in range(4))
        self.plain, self.dropout = nn.BatchNorm2d(4, affine=False), nn.Dropout(0.5)

    def forward(self, x):
        x = self.bare(x).relu()
        y = self.split(x)
        x = self.a(y) + y
        x = self.b(self.twice(self.twice(x)))
        return self.d(self.dropout(self.dropped(self.plain(self.normed(self.c(self.grouped(x)))))))


def test_layers_without_a_norm_of_their_own_are_none():
    assert normed_layers(Odd()) == {"dropped": "d"}


# --- W m --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [dict(kernel_size=3, padding=1), dict(kernel_size=3, stride=2, padding=1),
                                   dict(kernel_size=1, stride=2), dict(kernel_size=5, padding=2),
                                   dict(kernel_size=(3, 1), padding=(2, 0), dilation=2)], ids=str)
def test_a_product_with_the_mean_patch_is_the_mean_of_the_convolution(words):
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 7, bias=False, **words)
    passport = torch.rand(1, 4, 9, 8) * 2 - 1
    by_hand = layer.double()(passport.double()).mean((0, 2, 3))  # DeepIPR: the convolution, then the mean over positions
    torch.testing.assert_close(layer.weight.flatten(1) @ mean_patch(layer, passport), by_hand, rtol=1e-12, atol=1e-14)


def test_key_types(make_model, make_dataset):
    model, data = make_model(), make_dataset()
    layers = {name: model.get_submodule(name) for name in TEXTS}
    made = {kind: make_vectors(kind, draw_of(), model, data.train, {"layer3.0.conv1": 0.25}) for kind in KEY_TYPES}
    for kind, vectors in made.items():
        assert list(vectors) == list(TEXTS)
        for name, vector in vectors.items():
            assert vector.shape == (layers[name].in_channels * 9, 2) and vector.dtype == torch.float32
            assert not torch.equal(vector[:, 0], vector[:, 1])
        again = make_vectors(kind, draw_of(), model, data.train, {"layer3.0.conv1": 0.25})
        others = make_vectors(kind, draw_of(nonce=bytes([1] * 16)), model, data.train, {"layer3.0.conv1": 0.25})
        assert all(torch.equal(vectors[name], again[name]) and not torch.equal(vectors[name], others[name]) for name in TEXTS)
    # as long as scales of standard deviation 1 need, of He's weights, a quarter of which are there
    assert [vector.square().sum(0).tolist() for vector in made["vector"].values()] == [
        pytest.approx([64 * 9 / 2 * 4] * 2), pytest.approx([64 * 9 / 2] * 2)]
    # `image`: some training picture's activations, whichever it was
    entering = inputs_of(model, TEXTS, torch.cat([images for images, _ in data.train.batches(64)]))["layer3.0.conv1"]
    patches = torch.stack([mean_patch(layers["layer3.0.conv1"], one[None]) for one in entering])
    assert (made["image"]["layer3.0.conv1"][:, 0] - patches).abs().max(1).values.min() < 1e-5
    assert (made["shuffle"]["layer3.0.conv1"][:, 0] - patches).abs().max(1).values.min() > 1e-3
    assert made["random"]["layer3.1.conv2"].abs().max() < 1 and abs(made["random"]["layer3.1.conv2"].mean()) < 0.1


def test_mixed_pictures_give_each_channel_once():
    pictures = torch.arange(3 * 7).view(3, 7, 1, 1).float()
    passport = mixed(pictures, np.random.default_rng(0)).flatten().tolist()
    assert [int(value) // 7 for value in passport] == [0, 1, 2, 0, 1, 2, 0], "the pictures in turn"
    assert len(set(passport)) == 7


# --- the branches -----------------------------------------------------------------------------------------------------


def by_hand(model, passports, scheme):
    """A plain network with the passports' scales and shifts in its norms, as DeepIPR and PaN write them down."""
    plain = build_model("res20s", 3)
    plain.load_state_dict(released(model))
    for (name, norm), layer in zip((("layer3.0.conv1", "layer3.0.bn1"), ("layer3.1.conv2", "layer3.1.bn2")), passports.layers.values()):
        weight, vectors = plain.get_submodule(name).weight, layer.vectors
        affine = [torch.stack([(row * vectors[:, kind].view_as(row)).sum() for row in weight]) for kind in (0, 1)]
        if scheme == "pan":
            a, b = layer.mlp[0].weight, layer.mlp[2].weight
            affine = [b @ torch.where(a @ value > 0, a @ value, 0.01 * (a @ value)) for value in affine]
        plain.get_submodule(norm).weight.data, plain.get_submodule(norm).bias.data = affine
    return plain


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_both_branches_are_plain_networks(with_passports, scheme):
    model, passports = with_passports(scheme)
    pictures = torch.rand(6, 3, 8, 8)
    for parameter in model.parameters():
        parameter.data += 0.01 * torch.randn(parameter.shape)
    plain, products = by_hand(model, passports, scheme), passports.products()
    for training in (True, False):  # in this order: the second sees the statistics of the first
        model.train(training), plain.train(training)
        torch.testing.assert_close(passports.call(products, pictures), plain(pictures), rtol=1e-4, atol=1e-4)
    # what is handed out computes the public branch, or the only one there is, bit for bit
    handed_out = build_model("res20s", 3).eval()
    handed_out.load_state_dict(released(model))
    own = model(pictures) if SCHEMES[scheme].public else passports.call(passports.products(), pictures)
    assert torch.equal(handed_out(pictures), own)
    assert not torch.equal(model(pictures), passports.call(products, pictures))


def test_running_statistics_are_shared_or_the_private_branchs_own(with_passports):
    pictures = torch.rand(8, 3, 8, 8)
    for scheme in ("deepipr2", "pan"):
        model, passports = with_passports(scheme)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        passports.call(passports.products(), pictures)
        changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
        public = {f"layer3.{norm}.{kind}" for norm in ("0.bn1", "1.bn2") for kind in ("running_mean", "running_var", "num_batches_tracked")}
        assert ("layer1.0.bn1.running_mean" in changed) and (public <= changed) == (scheme == "deepipr2")
        private = {name for name in changed if name.startswith("passport.")}
        assert len(private) == (6 if scheme == "pan" else 0) and public.isdisjoint(changed) == (scheme == "pan")


def test_the_sign_loss_is_deepiprs(with_passports):
    _, passports = with_passports("deepipr2")
    products = [torch.randn(64, 2) * 0.2 for _ in TEXTS]
    hinge, squares, right = 0.0, 0.0, 0
    for name, product in zip(TEXTS, products):
        for bit, value in zip(passports.draw.bits(name, 64), product[:, 0].tolist()):
            hinge += max(0.0, 0.1 - bit * value)
            squares += value * value
            right += bit * value > 0
    assert passports.sign_loss(products, 0.3).item() == pytest.approx(0.3 * hinge + 1e-5 * squares, rel=1e-5)
    assert (passports.right(products)[0].item(), passports.right(products)[1]) == (right, 128)
    products[0][0, 0] = 0
    assert passports.right(products)[0] <= right, "zero is no sign"


def test_gradients_reach_the_weights_through_the_passports(with_passports):
    pictures, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
    for scheme in SCHEMES:
        model, passports = with_passports(scheme)
        products = passports.products()
        F.cross_entropy(passports.call(products, pictures), labels).backward()
        weight = model.layer3[0].conv1.weight
        through_convolutions = copy.deepcopy(model)
        through_convolutions.zero_grad()
        F.cross_entropy(through_convolutions.passport.call([product.detach() for product in products], pictures), labels).backward()
        assert not torch.allclose(weight.grad, through_convolutions.layer3[0].conv1.weight.grad)
        assert through_convolutions.passport.layers["layer3/0/conv1"].layer[0] is through_convolutions.layer3[0].conv1, "a copy is whole"
        trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
        assert ("passport.layers.layer3/0/conv1.mlp.0.weight" in trained) == SCHEMES[scheme].mlp
        assert "layer3.0.bn1.weight" not in trained, "the public branch's own"


# --- bits and texts ---------------------------------------------------------------------------------------------------


@given(st.text(max_size=6).filter(lambda text: "\0" not in text and len(text.encode("utf-8", "replace")) <= 8
                                  and text.isprintable()), st.binary(min_size=16, max_size=16))
@settings(max_examples=15)
def test_a_text_is_read_back_from_its_signs(text, nonce):
    draw = draw_of(texts={"conv": text}, nonce=nonce)
    bits = draw.bits("conv", 64)
    assert set(bits.tolist()) <= {-1, 1} and draw.read_text("conv", bits * 0.5) == text
    mask = 2 * draw.mask("conv", 64).astype(int) - 1
    assert (bits[8 * len(text.encode()):] == mask[8 * len(text.encode()):]).all()


def test_bits_of_a_text_are_coin_tosses():
    """In ASCII the first bit of every letter is 0; over nonces each bit is as often 1 as not."""
    bits = np.stack([draw_of(texts={"conv": "AAAAAAAA"}, nonce=number.to_bytes(16, "big")).bits("conv", 64) for number in range(400)])
    assert np.abs(bits.mean(0)).max() < 5 / np.sqrt(400) and np.abs(bits[:, ::8].mean()) < 5 / np.sqrt(8 * 400)
    correlations = np.corrcoef(bits.T) - np.eye(64)
    assert np.abs(correlations).max() < 6 / np.sqrt(400)


def test_all_that_is_drawn_from_changes_everything():
    draws = [draw_of(), draw_of(nonce=bytes([1]) + bytes(15)), draw_of("res20s_gn"), draw_of(texts={**TEXTS, "layer3.2.conv1": ""}),
             draw_of(texts={**TEXTS, "layer3.0.conv1": "x"}), Draw(bytes(32), "Jame", bytes(16), "res20s", "0" * 64, TEXTS),
             Draw(bytes([1] * 32), "Jane", bytes(16), "res20s", "0" * 64, TEXTS), Draw(bytes(32), "Jane", bytes(16), "res20s", "1" * 64, TEXTS)]
    for one, other in itertools.combinations(draws, 2):
        assert abs((one.mask("layer3.0.conv1", 4096) == other.mask("layer3.0.conv1", 4096)).mean() - 0.5) < 0.05
        assert abs(np.corrcoef(one.normal("layer3.0.conv1", "scale", 2000), other.normal("layer3.0.conv1", "scale", 2000))[0, 1]) < 0.12
    values = draws[0].normal("layer3.0.conv1", "scale", 20000)
    assert abs(values.mean()) < 0.04 and abs(values.std() - 1) < 0.03
    assert draws[0].bits("layer3.0.conv1", 8).tolist() == draw_of().bits("layer3.0.conv1", 64)[:8].tolist()


def test_what_is_drawn_stays_for_ever():
    """By hashlib alone, from what the docs say."""
    import hashlib

    def joined(*parts):
        return hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for part in parts)).digest()

    seed = joined(b"lottery-verification/passports/1", bytes(32), b"Jane", bytes(16), b"res20s", bytes(32),
                  b'[["layer3.0.conv1",""],["layer3.1.conv2","Jane Doe"]]')
    expected = hashlib.shake_256(joined(seed, b"layer3.1.conv2", b"bits")).digest(8)
    turned = bytes(one ^ letter for one, letter in zip(expected, b"Jane Doe"))
    assert draw_of().bits("layer3.1.conv2", 64).tolist() == [2 * int(bit) - 1 for bit in "".join(f"{byte:08b}" for byte in turned)]


def test_free_vectors_can_be_solved_for(make_model):
    """Why they count for nothing: on anybody's model, without a picture, the bits of any draw, and the deployed scales and shifts."""
    model, draw = make_model(), draw_of(nonce=bytes([7] * 16))
    with torch.no_grad():
        for name in TEXTS:
            norm = model.get_submodule(normed_layers(model)[name])
            norm.weight.uniform_(0.5, 1.5), norm.bias.normal_()
    weights = {name: model.get_submodule(name).weight.detach() for name in TEXTS}
    inverses = {name: torch.linalg.pinv(weight.flatten(1).double()) for name, weight in weights.items()}
    norms = {name: model.get_submodule(normed_layers(model)[name]) for name in TEXTS}
    any_bits = {name: (inverses[name] @ torch.from_numpy(draw.bits(name, 64)).double())[:, None] for name in TEXTS}
    assert total(read_signature(draw, any_bits, weights)) == (128, 128)
    assert read_signature(draw, any_bits, weights)["layer3.1.conv2"].text == "Jane Doe"
    deployed = {name: (inverses[name] @ torch.stack((norm.weight, norm.bias), 1).detach().double()).float() for name, norm in norms.items()}
    pictures = torch.rand(4, 3, 8, 8)
    passports = attach(model.eval(), "deepipr2", draw, deployed)
    torch.testing.assert_close(passports.call(passports.products(), pictures), model(pictures), rtol=1e-3, atol=1e-3)


# --- files ------------------------------------------------------------------------------------------------------------


def config(tmp_path, content) -> str:
    path = tmp_path / "passports.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


RESNET = {"convbnrelu_1": False, **{f"layer{stage}": {
    block: {"convbnrelu_1": stage == 4, "convbn_2": "text" if (stage, block) == (4, "1") else stage == 4,
            **({"shortcut": stage == 4} if stage > 1 and block == "0" else {"shortcut": False})}
    for block in ("0", "1")} for stage in (1, 2, 3, 4)}}


def test_deepiprs_files_are_read_as_they_are(tmp_path):
    alexnet = {"0": False, "2": False, "4": True, "5": True, "6": "this is my signature"}
    assert read_config(config(tmp_path, alexnet), build_model("alexnet", 3)) == {"conv3": "", "conv4": "", "conv5": "this is my signature"}
    assert read_config(config(tmp_path, RESNET), build_model("res18_gn", 3)) == {
        "layer4.0.conv1": "", "layer4.0.conv2": "", "layer4.0.downsample.0": "", "layer4.1.conv1": "", "layer4.1.conv2": "text"}


def test_names_and_patterns(tmp_path, make_model):
    found = read_config(config(tmp_path, {"layer3.0.conv1": False, "layer3.*": True, "layer3.1.conv2": "Jane"}), make_model())
    assert found == {"layer3.0.conv2": "", "layer3.1.conv1": "", "layer3.1.conv2": "Jane", "layer3.2.conv1": "", "layer3.2.conv2": ""}


@pytest.mark.parametrize("content, message", [
    ({"layer3.0.conv1": "nine letters are one too many"}, "the text of layer layer3.0.conv1 has 29 bytes, and its 64 channels hold 8"),
    ({"layer3.0.conv1": "ÄÖÜÄÖ"}, "has 10 bytes"), ({"layer4.0.conv1": True}, "'layer4.0.conv1' is no layer of the network"),
    (RESNET, "is no layer of the network"), ({"layer9.*": True}, "is no layer"), ({"layer3.*": False}, "gives no layer a passport"),
    ({}, "gives no layer a passport"), ({"layer3.*": 1}, "must be true, false or a text"), ([], "must be a table"), ("{", "not a JSON file")])
def test_bad_configs_are_refused(tmp_path, make_model, content, message):
    with pytest.raises(UserError, match=message) as refused:
        read_config(config(tmp_path, content), make_model())
    assert "passports.json" in str(refused.value) and "\n" not in str(refused.value)


def test_a_layer_without_a_norm_is_refused(tmp_path):
    with pytest.raises(UserError, match="layer bare has no norm of its own"):
        read_config(config(tmp_path, {"bare": True}), Odd())


@pytest.mark.parametrize("scheme", ["deepipr1", "pan"])
def test_the_owners_file_comes_back(with_passports, tmp_path, scheme):
    _, passports = with_passports(scheme)
    path = tmp_path / "passports.pt"
    write_passports(path, scheme, "vector", passports)
    assert path.stat().st_mode & 0o777 == 0o600
    read = read_passports(path, "res20s")
    assert (read.scheme, read.key_type, read.draw) == (scheme, "vector", passports.draw)
    assert all(torch.equal(read.vectors[name], layer.vectors) for name, layer in zip(TEXTS, passports.layers.values()))
    assert read.private.keys() == passports.state_dict().keys()
    with pytest.raises(UserError, match="exists; it is never written over"):
        write_passports(path, scheme, "vector", passports)
    with pytest.raises(UserError, match=r"is about another network \('res20s'\) than res18; see --arch"):
        read_passports(path, "res18")


@pytest.mark.slow
@pytest.mark.parametrize("change", [
    lambda content: content.pop("vectors"), lambda content: content["vectors"].pop("layer3.0.conv1"),
    lambda content: content["vectors"].update({"layer3.0.conv1": torch.zeros(3, 2)}),
    lambda content: content["vectors"]["layer3.0.conv1"].fill_(float("nan")), lambda content: content.update(owner_key="00"),
    lambda content: content.update(scheme="deepipr4"), lambda content: content["private"].popitem(), lambda content: content.update(texts=[]),
    lambda content: content.update(nonce=5), lambda content: content["texts"].update({"layer3.0.conv1": 5}),
    lambda content: content["private"].update(x=torch.zeros(1)), lambda content: content.update(ticket_sha256="00")], ids=range(12))
def test_damaged_files_are_refused(with_passports, tmp_path, change):
    write_passports(tmp_path / "passports.pt", "pan", "vector", with_passports("pan")[1])
    content = torch.load(tmp_path / "passports.pt", weights_only=True)
    change(content)
    torch.save(content, tmp_path / "changed.pt")
    with pytest.raises(UserError, match="changed.pt: is damaged; give the file that main_passport.py wrote"):
        read_passports(tmp_path / "changed.pt", "res20s")
    torch.save({"state_dict": {}}, tmp_path / "model.pt")
    with pytest.raises(UserError, match="is no file of passports"):
        read_passports(tmp_path / "model.pt", "res20s")
