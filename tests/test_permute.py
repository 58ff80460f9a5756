"""Renumbered channels: which can be renumbered, the attack that does it, and the owner's way back."""

import json
from dataclasses import astuple, replace
from functools import cache
from math import comb

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from attacks.permute import permute
from attacks.prune import prune
from models import build_model
from ownership.suspects.alignment import Agreement, agreement_of, align, read_reference
from ownership.qr_code.claim import CodeClaim, read_claim, write_claim
from ownership.qr_code.window import align_claimed, region_kernels, window_of
from ownership.qr_code.evidence import agreement
from ownership.suspects.reading import Suspect
from pruner import tickets
from pruner.channel_groups import FIXED, channel_groups
from pruner.qr_code.embedding import Place, Wish, embed, find_region
from pruner.masks import Mask, prunable_layers
from utils.errors import UserError

ARCHITECTURES = ("res20s", "res18", "res50")
SIGNATURE = "Jane Doe"


class Tiny(nn.Module):
    """Biases; an identity shortcut; a padded one, uneven; a batch norm behind a sum; a sum of two convolutions."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.a = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm_a = nn.BatchNorm2d(4)
        self.b = nn.Conv2d(4, 9, 3, padding=1)
        self.norm_sum = nn.BatchNorm2d(9)
        self.c = nn.Conv2d(9, 5, 1)
        self.norm_c = nn.BatchNorm2d(5)
        self.down = nn.Conv2d(9, 5, 1, bias=False)
        self.norm_down = nn.BatchNorm2d(5)
        self.fc = nn.Linear(5, 2)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        x = F.relu(self.norm_a(self.a(x)) + x)
        x = F.relu(self.norm_sum(self.b(x) + F.pad(x, (0, 0, 0, 0, 2, 3))))
        x = F.relu(self.norm_c(self.c(x)) + self.norm_down(self.down(x)))
        return self.fc(x.mean((2, 3)))


class Chain(nn.Module):
    """Two groups of 32 channels, which meet in `inner` alone: whatever aligns them is in that layer."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, bias=False)
        self.inner = nn.Conv2d(32, 32, 3, bias=False)
        self.fc = nn.Linear(32, 2)

    def forward(self, x):
        return self.fc(F.relu(self.inner(F.relu(self.conv1(x)))).mean((2, 3)))


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in eval mode, with batch norms in which no two channels are alike."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            # with shifts upward, so that no channel is dead behind its rectifier
            for tensor in (module.weight.data, module.running_var, module.bias.data):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
            module.running_mean.copy_(-0.5 * torch.rand(module.running_mean.shape, generator=generator))
    return model.eval()


def random_mask(model: nn.Module, density: float, seed: int) -> Mask:
    generator = torch.Generator().manual_seed(seed)
    return Mask({name: torch.rand(layer.weight.shape, generator=generator) < density
                 for name, layer in prunable_layers(model).items()})


def masked(mask: Mask, state: dict) -> dict:
    return {**state, **{f"{name}.weight": state[f"{name}.weight"] * kept for name, kept in mask.items()}}


def seen(mask: Mask, state: dict) -> Suspect:
    return Suspect(mask, {name: state[f"{name}.weight"] for name in mask})


def same(first: dict, second: dict) -> bool:
    return list(first) == list(second) and all(torch.equal(first[key], second[key]) for key in first)


@cache
def network(arch: str):
    """(model, its groups); tests leave it as it is."""
    torch.manual_seed(0)
    model = Tiny() if arch == "tiny" else build_model(arch, 10)
    return model, channel_groups(model)


# --- groups -----------------------------------------------------------------------------------------------------------


def test_groups_of_a_tiny_net_by_hand():
    groups = channel_groups(Tiny())
    stream, outer, last = groups.axes["conv1.weight", 0], groups.axes["b.weight", 0], groups.axes["c.weight", 0]
    # the stream of 4 lies at 2 to 5 of the 9; what is beside it moves on its own; the picture and the classes don't move
    assert outer[2:6].tolist() == stream.tolist()
    assert sorted(np.unique(groups.group, return_counts=True)[1]) == [4, 5, 5]
    for channels in (stream, outer[[0, 1, 6, 7, 8]], last):
        assert len(set(groups.group[channels].tolist())) == 1
    assert {axis: channels.tolist() for axis, channels in groups.axes.items()} == {
        axis: channels.tolist() for channels, axes in (
            (stream, [("conv1.weight", 0), ("conv1.bias", 0), ("a.weight", 0), ("a.weight", 1), ("b.weight", 1)]),
            (stream, [(f"norm_a.{kind}", 0) for kind in ("weight", "bias", "running_mean", "running_var")]),
            (outer, [("b.weight", 0), ("b.bias", 0), ("c.weight", 1), ("down.weight", 1)]),
            (outer, [(f"norm_sum.{kind}", 0) for kind in ("weight", "bias", "running_mean", "running_var")]),
            (last, [("c.weight", 0), ("c.bias", 0), ("down.weight", 0), ("fc.weight", 1)]),
            (last, [(f"{norm}.{kind}", 0) for norm in ("norm_c", "norm_down")
                    for kind in ("weight", "bias", "running_mean", "running_var")])) for axis in axes}


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "sizes"), [
    # the streams; then twice (three times) the inside of each block
    ("res20s", [16, 16, 32] + 3 * [16, 32, 64]),
    ("res18", [64, 128, 256, 512] + 2 * [64, 128, 256, 512]),
    ("res50", [64, 256, 512, 1024, 2048] + 2 * (3 * [64] + 4 * [128] + 6 * [256] + 3 * [512])),
])
def test_groups_of_our_networks(arch, sizes):
    model, groups = network(arch)
    assert sorted(len(channels) for channels in groups.members()) == sorted(sizes)
    # nothing that has channels is left out, and of the rest nothing is in
    norms = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert set(groups.axes) == (
        {(f"{name}.weight", 0) for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
        | {(f"{name}.weight", 1) for name in prunable_layers(model)} | {("fc.weight", 1)}
        | {(f"{name}.{kind}", 0) for name in norms for kind in ("weight", "bias", "running_mean", "running_var")})
    assert all((channels != FIXED).all() for channels in groups.axes.values())


def test_res20s_wider_streams_hold_the_narrower_ones_in_the_middle():
    axes = network("res20s")[1].axes
    narrow, middle, wide = (axes[f"layer{stage}.2.conv2.weight", 0].tolist() for stage in (1, 2, 3))
    assert middle[8:24] == narrow and wide[16:48] == middle


def test_padded_zeros_that_a_layer_reads_stay():
    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.reads, self.fc = nn.Conv2d(3, 2, 3), nn.Conv2d(5, 4, 3), nn.Linear(4, 2)

        def forward(self, x):
            return self.fc(self.reads(F.pad(self.conv1(x), (0, 0, 0, 0, 1, 2))).mean((2, 3)))

    axes = channel_groups(Padded()).axes
    assert axes["reads.weight", 1].tolist() == [FIXED, *axes["conv1.weight", 0], FIXED, FIXED]


def test_what_cant_be_followed_is_refused():
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(16, 2)

        def forward(self, x):
            return self.fc(torch.flatten(self.conv1(x), 1))

    class Grouped(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.halves, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, groups=2), nn.Linear(4, 2)

        def forward(self, x):
            return self.fc(self.halves(self.conv1(x)).mean((2, 3)))

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.same, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 2)

        def forward(self, x):
            return self.fc(self.same(self.same(self.conv1(x))).mean((2, 3)))

    with pytest.raises(UserError, match="fc does not read whole channels"):
        channel_groups(Flat())
    with pytest.raises(UserError, match="halves has 2 groups of channels"):
        channel_groups(Grouped())
    with pytest.raises(UserError, match="same is used more than once"):
        channel_groups(Twice())


def test_depthwise_convolutions_move_with_their_channels():
    class Separable(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.norm_1 = nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5)
            self.depth, self.norm_depth = nn.Conv2d(5, 5, 3, padding=1, groups=5), nn.BatchNorm2d(5)
            self.point, self.wide = nn.Conv2d(5, 4, 1), nn.Conv2d(9, 9, 3, padding=1, groups=9)
            self.fc = nn.Linear(9, 3)

        def forward(self, x):
            x = F.relu(self.norm_1(self.conv1(x)))
            y = self.point(F.relu(self.norm_depth(self.depth(x))))
            return self.fc(F.relu(self.wide(torch.cat([y, x], 1))).mean((2, 3)))

    model = randomised(Separable())
    groups = channel_groups(model)
    # the 5 of the stem are carried on by `depth` and as the last 5 of `wide`; the 4 of `point` are its first
    assert sorted(map(len, groups.members())) == [4, 5]
    wide, stem, depth = (groups.axes[f"{name}.weight", 0] for name in ("wide", "conv1", "depth"))
    assert (wide[4:] == stem).all() and (depth == stem).all() and ("depth.weight", 1) not in groups.axes
    pictures = torch.rand(4, 3, 8, 8, dtype=torch.float64)
    model.double().eval()
    before, state = model(pictures), model.state_dict()
    order = groups.random_order(np.random.default_rng(1))
    assert (order != np.arange(9)).any()
    moved = groups.renumbered(state, order)
    assert not torch.equal(moved["depth.weight"], state["depth.weight"])
    model.load_state_dict(moved)
    torch.testing.assert_close(model(pictures), before, rtol=1e-12, atol=1e-12)


# --- the attack -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_outputs_stay_the_same(make_model, arch):
    model = randomised(make_model(arch, classes=10))
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    weights = masked(random_mask(model, 0.5, seed=1), before)
    mask = Mask({name: weights[f"{name}.weight"] != 0 for name in prunable_layers(model)})
    pictures = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    model.load_state_dict(weights)
    with torch.no_grad():
        expected, exact = model(pictures), model.double()(pictures.double())
    renumbered_mask, renumbered = permute(mask, weights, model, seed=3)
    assert same(weights, masked(mask, before)), "the inputs were changed"
    for name, kept in renumbered_mask.items():
        assert torch.equal(renumbered[f"{name}.weight"] != 0, kept) and not torch.equal(kept, mask[name])
    assert not torch.equal(renumbered["fc.weight"], weights["fc.weight"])
    model.load_state_dict(renumbered)
    with torch.no_grad():
        assert (model(pictures.double()) - exact).abs().max() < 1e-11 * exact.abs().max()
        assert (model.float()(pictures) - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("fresh", [Tiny, lambda: build_model("res20s", 10)], ids=["tiny", "res20s"])
def test_any_parameter_that_did_not_move_along_would_show(fresh):
    torch.manual_seed(0)
    model = randomised(fresh()).double()
    groups, before = channel_groups(model), {key: tensor.clone() for key, tensor in model.state_dict().items()}
    after = groups.renumbered(before, groups.random_order(np.random.default_rng(0)))
    pictures = torch.rand(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def outputs(state):
        model.load_state_dict(state)
        with torch.no_grad():
            return model(pictures)

    expected = outputs(before)
    assert (outputs(after) - expected).abs().max() < 1e-11 * expected.abs().max()
    for key in {key for key, _ in groups.axes}:
        assert (outputs({**after, key: before[key]}) - expected).abs().max() > 1e-6 * expected.abs().max(), key


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), tiny=st.booleans())
def test_undone_is_undone(seed, tiny):
    model, groups = network("tiny" if tiny else "res20s")
    state = model.state_dict()
    order = groups.random_order(np.random.default_rng(seed))
    assert (groups.group[order] == groups.group).all() and sorted(order) == list(range(len(order)))
    moved = groups.renumbered(state, order)
    assert same(groups.renumbered(moved, np.argsort(order)), state)
    again = groups.random_order(np.random.default_rng(seed + 1))
    # channel c gets what channel again[c] has, which is what channel order[again[c]] had
    assert same(groups.renumbered(moved, again), groups.renumbered(state, order[again]))
    for (key, dimension), channels in groups.axes.items():
        for channel in channels[channels != FIXED][:2]:
            to, start = (int(np.flatnonzero(channels == c)[0]) for c in (channel, order[channel]))
            slices = moved[key].select(dimension, to), state[key].select(dimension, start)
            assert torch.equal(*(values.flatten().sort().values for values in slices)), "but for the other dimension's order"


def test_every_renumbering_is_drawn():
    groups = channel_groups(Tiny())
    stream = groups.axes["conv1.weight", 0]
    drawn = [groups.random_order(np.random.default_rng(seed)) for seed in range(600)]
    counts = np.unique([order[stream] for order in drawn], axis=0, return_counts=True)[1]
    assert len(counts) == 24 and counts.max() < 25 + 6 * 5, "the 24 orders of 4 channels, 25 times each, within 6 sigma"


# --- the way back -----------------------------------------------------------------------------------------------------


def renumbered_suspect(model, groups, mask, state, seed):
    """The suspect, and the renumbering that was drawn for it."""
    order = groups.random_order(np.random.default_rng(seed))
    moved_mask, moved = permute(mask, state, model, seed)
    return seen(moved_mask, moved), order


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "density", "weights", "masks_only", "level"), [
    ("res20s", 0.2, "tuned", False, 0.2),
    ("res20s", 0.2, "tuned", True, 0.5),
    ("res20s", 0.05, "others", False, 0.2),
    ("res18", 0.015, "tuned", False, 0.2),
    ("res18", 0.015, "others", True, 0.2),
    pytest.param("res50", 0.05, "tuned", False, 0.2, marks=pytest.mark.nightly),
])
def test_a_pruned_and_tuned_model_is_renumbered_back(arch, density, weights, masks_only, level):
    model, groups = network(arch)
    mask, generator = random_mask(model, density, seed=1), torch.Generator().manual_seed(2)
    # a signed ticket, the layer of the code full in its region
    place = Place("layer2.1.conv2", 1, 2)
    mask[place.layer][1:30, 2:31] = torch.rand(mask[place.layer][1:30, 2:31].shape, generator=generator) < 0.5
    state = masked(mask, model.state_dict())
    theirs = dict(state)
    for name, kept in mask.items():
        weight = state[f"{name}.weight"]
        noise = weight.std() * torch.randn(weight.shape, generator=generator) * kept
        theirs[f"{name}.weight"] = weight + 0.1 * noise if weights == "tuned" else noise
    pruned_mask, pruned = prune(mask, theirs, level, "magnitude", 0)
    suspect, order = renumbered_suspect(model, groups, pruned_mask, pruned, seed=3)
    alignment = align(Suspect(mask) if masks_only else seen(mask, state), suspect, groups, region_kernels(mask, [place], 3))
    assert (alignment.order == order).all()
    assert alignment.suspect.mask == pruned_mask and same(dict(alignment.suspect.weights), seen(mask, pruned).weights)
    assert alignment.moved == (order != np.arange(len(order))).sum()
    assert alignment.after.share == 1 and alignment.after.correlation > 0.6 > 0.05 > abs(alignment.before.correlation)


@pytest.mark.slow
@settings(max_examples=8)
@given(seed=st.integers(0, 10**6), density=st.floats(0.01, 0.9), dead=st.integers(0, 12), masks_only=st.booleans())
def test_the_drawn_renumbering_is_found_but_for_empty_channels(seed, density, dead, masks_only):
    model, groups = network("res20s")
    mask, random = random_mask(model, density, seed), np.random.default_rng(seed)
    # some channels without any weight, inside a block and along a stream
    for channel in random.choice(len(groups.group), dead, replace=False):
        for (key, dimension), channels in groups.axes.items():
            if key.removesuffix(".weight") in mask:
                mask[key.removesuffix(".weight")].transpose(0, dimension)[np.flatnonzero(channels == channel)] = False
    empty = np.ones(len(groups.group), dtype=bool)
    for (key, dimension), channels in groups.axes.items():
        kept = mask.get(key.removesuffix(".weight"))
        if kept is not None:
            empty[channels[kept.transpose(0, dimension).flatten(1).any(1).numpy()]] = False
    state = masked(mask, model.state_dict())
    owner = Suspect(mask) if masks_only else seen(mask, state)
    suspect, order = renumbered_suspect(model, groups, mask, state, seed)
    alignment = align(owner, suspect, groups, {})
    assert alignment.suspect.mask == mask and same(dict(alignment.suspect.weights), seen(mask, state).weights)
    # what was moved to channel c was channel order[c]
    assert (alignment.order == order)[~empty[order]].all()
    assert alignment.after.share == 1 and alignment.after.correlation == pytest.approx(1)


def test_an_unchanged_model_is_left_alone():
    model, groups = network("res20s")
    mask = random_mask(model, 0.2, seed=4)
    mask["layer3.1.conv1"][5:9] = False  # four channels that can't be told apart
    mask["layer3.1.conv2"][:, 5:9] = False
    alignment = align(Suspect(mask), Suspect(mask), groups, region_kernels(mask, [Place("layer2.1.conv2", 0, 0)], 3))
    assert alignment.moved == 0 and alignment.suspect.mask == mask and alignment.suspect.weights is None
    assert alignment.before == alignment.after


def test_signs_alone_will_do_and_scaled_channels_change_nothing():
    """A model whose masked weights have all grown back, its channels scaled against each other."""
    model, groups = network("res20s")
    mask, generator = random_mask(model, 0.3, seed=5), torch.Generator().manual_seed(6)
    state = masked(mask, model.state_dict())
    grown = dict(state)
    for name in mask:
        weight = state[f"{name}.weight"]
        weight = weight + 0.02 * weight.std() * torch.randn(weight.shape, generator=generator)
        grown[f"{name}.weight"] = weight * torch.exp(2 * torch.randn(len(weight), 1, 1, 1, generator=generator))
    everywhere = Mask({name: grown[f"{name}.weight"] != 0 for name in mask})
    suspect, order = renumbered_suspect(model, groups, everywhere, grown, seed=7)
    alignment = align(seen(mask, state), suspect, groups, {})
    assert (alignment.order == order).all()
    assert alignment.after.correlation == 0
    assert abs(alignment.before.signs - 0.5) < 0.01 < 0.99 < alignment.after.signs


def test_agreement_counted_by_hand():
    def layers(**values) -> Suspect:
        weights = {name: torch.tensor(rows)[:, :, None, None] for name, rows in values.items()}
        return Suspect(Mask({name: weight != 0 for name, weight in weights.items()}), weights)

    owner, suspect = layers(a=[[1.0, -2.0], [0.0, 0.0]], b=[[1.0]]), layers(a=[[3.0, 0.0], [0.0, 1.0]])
    nothing, one = ({"a": torch.tensor([[False, False], [False, last]])} for last in (False, True))
    assert agreement_of(owner, suspect, nothing) == Agreement(0.5, 0.5, 0.0, 1.0)
    # owner 1 1 0, suspect 1 0 0: covariance 1 - 2/3, variances 2/3 and 2/3
    assert astuple(agreement_of(owner, suspect, one)) == pytest.approx((1.0, 2 / 3, 0.5, 1.0))
    assert agreement_of(owner, layers(a=[[1.0, 2.0], [0.0, 0.0]]), nothing) == Agreement(1.0, 0.5, 1.0, 0.5)
    assert agreement_of(owner, layers(a=[[0.0, 0.0], [0.0, 0.0]]), nothing) == Agreement(0.0, 0.0, 0.0, 0.0)
    assert agreement_of(Suspect(owner.mask), suspect, nothing).signs is None


# --- what an alignment must not do ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("same_origin", [True, False], ids=["stolen", "innocent"])
def test_what_is_in_the_region_has_no_influence(same_origin):
    """Whatever the owner's region holds, code or not, in whichever layer, the alignment is the same."""
    model, groups = network("res20s")
    places = [Place("layer2.1.conv2", 2, 1), Place("layer3.0.conv1", 20, 3)]
    mask = random_mask(model, 0.1, seed=8)
    state = masked(mask, model.state_dict())
    damaged = prune(*((mask, state) if same_origin else (random_mask(model, 0.1, seed=9), model.state_dict())),
                    0.2, "random", 0)
    suspect, _ = renumbered_suspect(model, groups, *damaged, seed=10)
    found = align(seen(mask, state), suspect, groups, region_kernels(mask, places, 3))
    inside = region_kernels(mask, places, version=3)
    assert sum(int(kernels.sum()) for kernels in inside.values()) == 2 * 29 * 29
    for content in (0.0, 0.5, 1.0):
        generator = torch.Generator().manual_seed(11)
        other = {name: torch.where(inside[name][:, :, None, None], torch.rand(kept.shape, generator=generator) < content, kept)
                 for name, kept in mask.items()}
        weights = {name: torch.where(inside[name][:, :, None, None], torch.randn(kept.shape, generator=generator),
                                     state[f"{name}.weight"]) * other[name] for name, kept in mask.items()}
        again = align(Suspect(Mask(other), weights), suspect, groups, region_kernels(mask, places, 3))
        assert (again.order == found.order).all() and (again.before, again.after) == (found.before, found.after)
        if content == 0.5:
            whole = [align(owner, suspect, groups, {}).order
                     for owner in (seen(mask, state), Suspect(Mask(other), weights))]
            assert same_origin or (whole[0] != whole[1]).any(), "with the region it has"


@pytest.mark.slow
def test_innocent_models_do_not_come_to_hold_the_code():
    """p-values of unrelated tickets after alignment: not too small with the region left out, but with it."""
    model, runs = Chain(), 60
    groups, p_values = channel_groups(model), {"left out": [], "included": []}
    for run in range(runs):
        random = np.random.default_rng([12, run])

        def ticket():
            # channels differ in density, as a real ticket's do
            density = 0.06 * np.exp(0.4 * random.normal(size=(32, 1, 1, 1)) + 0.4 * random.normal(size=(1, 32, 1, 1)))
            return Mask({"inner": torch.from_numpy(random.random((32, 32, 3, 3)) < density)})

        owner, innocent = ticket(), ticket()
        text = "".join(random.choice(list("abcdefghijklmnopqrstuvwxyz"), 8))
        region = find_region(owner, text, Wish(start_x=2, start_y=2))
        signed = Suspect(embed(owner, text, region, random))
        for case, places in (("left out", [region]), ("included", [])):
            aligned = align(signed, Suspect(innocent), groups, region_kernels(signed.mask, places, 3)).suspect
            p_values[case].append(agreement([window_of(aligned, region, 3)], text, region.code_format).p_value)
    for level in (0.01, 0.05, 0.2, 0.5):
        count = sum(p <= level for p in p_values["left out"])
        more = sum(comb(runs, k) * level**k * (1 - level)**(runs - k) for k in range(count, runs + 1))
        assert more > 1e-3, f"{count} of {runs} p-values at or below {level}"
    assert np.mean(np.array(p_values["included"]) <= 0.01) > 0.25, "fitted to the code, an innocent model shows it"


# --- the scripts ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def signed(make_model, tmp_path_factory):
    """A folder with a signed model, its ticket, its masks, and the claim."""
    model, folder = make_model("res20s", classes=10), tmp_path_factory.mktemp("signed")
    mask = random_mask(model, 0.25, seed=13)
    region = find_region(mask, SIGNATURE)
    mask = embed(mask, SIGNATURE, region, np.random.default_rng(0))
    tickets.write_weights(folder / "model.pth.tar", masked(mask, model.state_dict()), {"arch": "res20s"}, mask)
    tickets.write_ticket(folder / "ticket.pth.tar", mask, model.state_dict(), {})
    tickets.write_masks(folder / "masks.pth.tar", mask)
    write_claim(folder / "claim.json", CodeClaim(
        SIGNATURE, "res20s", region.layer, region.start_x, region.start_y, 3, "H", region.code_format.mask_pattern,
        region.similarity, mask.nonzeros, mask.entries, {}))
    return folder


@pytest.fixture(scope="module")
def thief(run_main, signed, tmp_path_factory):
    """The file that permute made of the model."""
    folder = tmp_path_factory.mktemp("thief")
    done = run_main("main_attack.py", "permute", "--checkpoint", signed / "model.pth.tar", "--no_accuracy", "--claim",
                    signed / "claim.json", "--save_dir", folder, "--seed", 14)
    assert done.returncode == 0, done.stderr
    assert "read by nobody" in done.stdout
    return folder / "attacked.pth.tar"


@pytest.mark.slow
def test_the_attack_script_writes_the_same_network(make_model, signed, thief):
    model = make_model("res20s", classes=10)
    before, after = (tickets.read_model_file(path, model) for path in (signed / "model.pth.tar", thief))
    result = json.loads((thief.parent / "result.json").read_text())
    assert result["attack"] == "permute" and result["seed"] == 14 and result["level"] is None
    assert result["nonzeros"] == before.mask.nonzeros and result["removed"] == result["added"] > 0
    assert same(permute(before.mask, before.weights, model, seed=14)[1], after.weights)


@pytest.mark.slow
def test_a_file_of_masks_is_renumbered_alike(run_main, make_model, signed, thief, tmp_path):
    done = run_main("main_attack.py", "permute", "--checkpoint", signed / "masks.pth.tar", "--no_accuracy", "--save_dir",
                    tmp_path, "--seed", 14)
    assert done.returncode == 0, done.stderr
    model = make_model("res20s", classes=10)
    assert tickets.read_model_file(tmp_path / "attacked.pth.tar", model).mask == tickets.read_model_file(thief, model).mask


@pytest.mark.slow
@pytest.mark.parametrize("reference", ["model", "ticket", "masks"])
def test_the_owner_reads_after_alignment(run_main, signed, thief, tmp_path, reference):
    words = ("extract_qrcode.py", "--checkpoint", thief, "--claim", signed / "claim.json", "--save_dir", tmp_path)
    if reference == "model":
        assert run_main(*words, "--restarts", 0).returncode == 1
        assert "aligned_to" not in json.loads((tmp_path / "extraction.json").read_text())
    done = run_main(*words, "--aligned_to", signed / f"{reference}.pth.tar")
    assert done.returncode == 0 and f"ZXing:   {SIGNATURE!r}" in done.stdout, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("aligned: ") and lines[0].endswith(" of 400 channels had another number")
    assert lines[1].startswith("agrees:  outside the code, 100.0% of the suspect's weights")
    assert ("; 100.0% of the signs" in lines[1]) == (reference != "masks")
    result = json.loads((tmp_path / "extraction.json").read_text())
    assert result["match"] and result["channels"] == 400 and 380 < result["moved"] <= 400 and result["flipped"] == 0
    assert result["after"]["correlation"] == pytest.approx(1) and result["after"]["share"] == 1
    assert abs(result["before"]["correlation"]) < 0.05


@pytest.mark.slow
def test_the_owners_threshold_comes_before_the_alignment(make_model, signed, thief, tmp_path):
    """Noise below the threshold in every empty kernel: masks without cleaning say nothing."""
    model = make_model("res20s", classes=10)
    claim, given = read_claim(signed / "claim.json"), tickets.read_model_file(thief, model)
    weights = {name: given.weights[f"{name}.weight"] for name in given.mask}
    weights = {name: torch.where(weight == 0, 1e-7, weight) for name, weight in weights.items()}
    noisy = Suspect(Mask({name: weight != 0 for name, weight in weights.items()}), weights)
    owner = read_reference(signed / "masks.pth.tar", model)
    assert align_claimed(owner, noisy, model, claim).after.correlation == 0
    assert align_claimed(owner, noisy, model, replace(claim, threshold=1e-6)).after.correlation > 0.99


@pytest.mark.slow
@pytest.mark.parametrize(("words", "named"), [
    (("--signature", SIGNATURE, "--aligned_to", "masks"), "--aligned_to: needs the owner's --claim"),
    (("--claim", "claim", "--aligned_to", "masks", "--record_threshold", "0.1"), "--aligned_to"),
    (("--claim", "claim", "--aligned_to", "claim"), "claim.json"),
    (("--claim", "claim", "--aligned_to", "other"), "other.pth.tar"),
    (("--claim", "claim", "--aligned_to", "missing"), "missing.pth.tar"),
], ids=["no claim", "threshold", "no model", "another network", "missing"])
def test_bad_input_is_one_line(run_main, refused, make_model, signed, thief, tmp_path, words, named):
    tickets.write_masks(tmp_path / "other.pth.tar", Mask.dense(make_model("res18")))
    files = {"masks": signed / "masks.pth.tar", "claim": signed / "claim.json", "other": tmp_path / "other.pth.tar",
             "missing": tmp_path / "missing.pth.tar"}
    words = [files.get(word, word) for word in words]
    assert named in refused(run_main("extract_qrcode.py", "--checkpoint", thief, "--save_dir", tmp_path / "out", *words))
    assert not (tmp_path / "out").exists()


def test_permute_has_no_level(run_main, refused, signed, tmp_path):
    for words in (("--level", "0.1"), ("--noise", "0.2")):
        assert words[0] in refused(run_main("main_attack.py", "permute", "--checkpoint", signed / "model.pth.tar",
                                            "--no_accuracy", "--save_dir", tmp_path / "run", *words))
