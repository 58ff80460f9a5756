"""Free transforms: the attack that makes them, and the owner's way back."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from test_permute import Tiny, masked, random_mask, randomised
from torchvision.models.resnet import Bottleneck

from attacks import KINDS as NAMES
from attacks.transform import KINDS, transform
from models import build_model
from models.fitting import fitted
from models.normalize import Normalize
from ownership.claims import owner_claim
from ownership.claims.arbiter import run_checks
from ownership.claims.case import Case, Files, Given, checks_of
from ownership.claims.verdict import Standing
from ownership.suspects.alignment import align
from ownership.suspects.reading import Suspect, of_state, read_suspect
from pruner import tickets
from pruner.channel_graph import channel_graph
from pruner.channel_groups import channel_groups
from pruner.magnitude import prune_smallest
from pruner.masks import Mask
from utils import checkpoint
from utils.errors import UserError

WIDER = "dead", "duplicate", "split"
EXACT = 1e-7


class Bottlenecks(nn.Module):
    """A stem and three blocks as in ResNet-50, two of which project their shortcuts; one stream of a single block, one of two."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        down = [nn.Sequential(nn.Conv2d(into, out, 1, stride, bias=False), nn.BatchNorm2d(out))
                for into, out, stride in ((8, 16, 1), (16, 24, 2))]
        self.blocks = nn.Sequential(Bottleneck(8, 4, 1, down[0]), Bottleneck(16, 4), Bottleneck(16, 6, 2, down[1]))
        self.fc = nn.Linear(24, 3)

    def forward(self, x):
        return self.fc(self.blocks(torch.relu(self.bn1(self.conv1(x)))).mean((2, 3)))


NARROW = {"tiny": Tiny, "bottlenecks": Bottlenecks}


def model_and_ticket(arch: str, density: float, seed: int):
    """A network, and mask and weights of a pruned one of its kind."""
    torch.manual_seed(seed)
    model = randomised(NARROW[arch]() if arch in NARROW else build_model(arch, 10), seed)
    model.normalize = Normalize((0.0,) * 3, (1.0,) * 3)  # every file has it
    mask = random_mask(model, density, seed)
    return model, mask, masked(mask, model.state_dict())


def outputs(model: nn.Module, state: dict) -> torch.Tensor:
    pictures = torch.rand(4, 3, 10, 10, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    with torch.no_grad():
        return fitted(model, state).double()(pictures)


# --- the attack -------------------------------------------------------------------------------------------------------


def test_the_flags_names_are_the_kinds():
    assert tuple(KINDS) == NAMES


@pytest.mark.slow
@settings(max_examples=8)
@given(seed=st.integers(0, 10**6), kinds=st.permutations(NAMES), count=st.integers(1, len(NAMES)))
def test_no_output_changes_whatever_is_done_in_whatever_order(seed, kinds, count):
    model, mask, state = model_and_ticket("tiny", 0.4, seed)
    before = {key: tensor.clone() for key, tensor in state.items()}
    made, after = transform(mask, state, model, kinds[:count], EXACT, seed)
    expected, shown = outputs(model, state), outputs(model, after)
    assert (shown - expected).abs().max() < 1e-5 * expected.abs().max() and (shown.argmax(1) == expected.argmax(1)).all()
    assert all(torch.equal(tensor, state[key]) for key, tensor in before.items()), "inputs were changed"
    assert all(torch.equal(after[f"{name}.weight"] != 0, kept) for name, kept in made.items())


@pytest.mark.slow
@pytest.mark.parametrize("kind", NAMES)
def test_each_kind_changes_what_it_says(kind):
    model, mask, state = model_and_ticket("res20s", 0.3, seed=1)
    made, after = transform(mask, state, model, [kind], EXACT, seed=2)
    name, weight = "layer1.0.conv1", "layer1.0.conv1.weight"
    norm = "layer1.0.bn1.weight"
    wider = {key for key in state if key in after and after[key].shape != state[key].shape}
    assert bool(wider) == (kind in WIDER)
    if kind == "fold":
        assert not any("bn" in key for key in after) and after[f"{name}.bias"].shape == (16,)
    if kind == "scale":
        ratio = (after[weight] / state[weight])[mask[name]]
        assert made == mask and ratio.max() / ratio.min() > 8 and (ratio > 0).all()
    if kind == "sign":
        turned = after[norm] / state[norm]
        assert made == mask and set(turned.tolist()) == {-1.0, 1.0}
        assert torch.equal(after[weight], state[weight] * turned[:, None, None, None])
    if kind == "fill":
        assert made.density == 1 and torch.equal(after[weight][mask[name]], state[weight][mask[name]])
        assert after[weight][~mask[name]].abs().max() < 1e-5 * state[weight].abs().max()
    if kind == "dtype":
        assert after[weight].dtype == torch.float64 and torch.equal(after[weight].float(), state[weight])
    if kind in WIDER:
        assert after["conv1.weight"].shape[0] == after["layer3.0.conv1.weight"].shape[1] - 16 == (18 if kind == "dead" else 17)
    if kind == "permute":
        assert made.nonzeros == mask.nonzeros and made != mask


def test_level_0_is_the_model_as_it_is_and_masks_are_no_model():
    model, mask, state = model_and_ticket("tiny", 0.4, seed=1)
    made, after = transform(mask, state, model, NAMES, 0, seed=1)
    assert made == mask and all(torch.equal(after[key], tensor) for key, tensor in state.items())
    with pytest.raises(UserError, match="holds masks only"):
        transform(mask, {f"{name}.weight": kept.float() for name, kept in mask.items()}, model, NAMES, 0.1, seed=1)


def test_a_network_that_is_not_indifferent_is_refused():
    class Smooth(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.conv2, self.fc = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3), nn.Linear(6, 2)

        def forward(self, x):
            return self.fc(torch.nn.functional.gelu(self.conv2(torch.nn.functional.gelu(self.conv1(x)))).mean((2, 3)))

    torch.manual_seed(0)
    smooth = Smooth()
    with pytest.raises(UserError, match="--kinds scale: changes the outputs"):
        transform(random_mask(smooth, 0.5, 0), smooth.state_dict(), smooth, ["scale"], 0.1, seed=1)


def test_a_wider_network_is_followed_and_one_that_does_not_fit_is_refused():
    model, _, state = model_and_ticket("tiny", 0.4, seed=1)
    groups = channel_groups(model)
    stream, beside, last = groups.axes["conv1.weight", 0][1], groups.axes["b.weight", 0][0], groups.axes["c.weight", 0][1]
    for channel in (stream, last):
        copies = np.zeros(len(groups.group), dtype=np.int64)
        copies[channel] = 3
        found, expected = channel_groups(fitted(model, groups.copied(state, copies))), groups.with_copies(copies)
        assert found.axes.keys() == expected.axes.keys() and (found.group == expected.group).all()
        assert all((found.axes[axis] == expected.axes[axis]).all() for axis in found.axes)
    copies = np.zeros(len(groups.group), dtype=np.int64)
    copies[beside] = 1  # a shortcut puts two and three channels of zeros beside the stream, and no more
    with pytest.raises(UserError, match="9 channels are added to 10|10 channels are added to 9"):
        channel_graph(fitted(model, groups.copied(state, copies)))


@pytest.mark.slow
def test_the_script_sweeps_and_measures_other_shapes(run_main, make_dataset, monkeypatch, tmp_path):
    monkeypatch.setattr("pruner.experiment.load_dataset", lambda *_: make_dataset(train=60, val=20, test=20, classes=10))
    model, mask, state = model_and_ticket("res20s", 0.3, seed=3)
    checkpoint.save({"state_dict": state}, tmp_path / "model.pth.tar")
    done = run_main("main_attack.py", "transform", "--checkpoint", tmp_path / "model.pth.tar", "--kinds", "fold,dead,scale,fill",
                    "--sweep", f"0,{EXACT}", "--dataset", "digits", "--device", "cpu", "--save_dir", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    rows = [json.loads((tmp_path / f"out/level_{level}/result.json").read_text()) for level in ("0", f"{EXACT:g}")]
    assert rows[0]["test_acc"] == rows[1]["test_acc"] and rows[0]["density"] < 0.31 < 0.9 < rows[1]["density"]
    assert rows[1]["kinds"] == ["fold", "dead", "scale", "fill"]


# --- the way back: what was filled, scaled and turned -----------------------------------------------------------------


@pytest.fixture(scope="module")
def by_magnitude():
    """A ResNet-20, and mask and weights of the quarter of it that is largest, all layers together."""
    model, mask, _ = model_and_ticket("res20s", 1.1, seed=4)
    state = model.state_dict()
    mask = prune_smallest({name: state[f"{name}.weight"] for name in mask}, mask, 0.75)
    return model, mask, masked(mask, state)


@pytest.mark.slow
@pytest.mark.parametrize(("kinds", "level"), [
    (("fill",), 1e-25), (("fill", "scale"), EXACT), (("scale", "fill", "scale", "sign"), 1e-3), (("fold", "fill", "scale"), 0.1),
    (("scale", "fill", "sign"), 0.1)], ids=str)
def test_what_was_filled_is_cut_whatever_rows_and_columns_were_scaled_by(by_magnitude, kinds, level):
    model, mask, state = by_magnitude
    made, after = transform(mask, state, model, kinds, level, seed=1)
    assert made.density == 1
    cut = of_state(made, after).cut
    wrong = sum(int((cut.mask[name] != kept).sum()) for name, kept in mask.items())
    assert wrong <= (0 if level < 1e-2 else 2e-4 * mask.entries)
    assert cut.is_cut and cut.cut is None and cut.cleaned(1e30) is cut, "nothing more is to be cleaned"


def test_one_value_in_place_of_zeros_is_cut(by_magnitude):
    _, mask, state = by_magnitude
    filled = {key: torch.where(tensor == 0, 1e-30, tensor) if tensor.dim() == 4 else tensor for key, tensor in state.items()}
    assert of_state(Mask({name: filled[f"{name}.weight"] != 0 for name in mask}), filled).cut.mask == mask


@settings(max_examples=10)
@given(seed=st.integers(0, 10**6), density=st.floats(0.02, 1), spread=st.floats(0, 1))
def test_where_nothing_was_filled_nothing_is_cut(seed, density, spread):
    """Normal weights, rows and columns of different sizes, pruned at random or by magnitude."""
    random = np.random.default_rng(seed)
    weight = random.normal(size=(40, 30, 3, 3)) * random.lognormal(0, spread, (40, 1, 1, 1)) * random.lognormal(0, spread, (1, 30, 1, 1))
    for kept in (random.random(weight.shape) < density, np.abs(weight) >= np.quantile(np.abs(weight), 1 - density)):
        suspect = Suspect(Mask({"a": torch.from_numpy(kept)}), {"a": torch.from_numpy(weight * kept).float()})
        assert suspect.cut is None
    assert Suspect(suspect.mask).cut is None, "masks alone have no magnitudes"


def test_turned_signs_are_no_other_numbering(by_magnitude):
    """Filled with noise, so that signs alone tell the channels; half of them turned."""
    model, mask, state = by_magnitude
    made, after = transform(mask, state, model, ("sign", "permute", "scale"), EXACT, seed=2)
    groups, owner, suspect = channel_groups(model), of_state(Mask.dense(model), state), of_state(Mask.dense(model), after)
    aligned = align(owner, suspect, groups, {})
    assert aligned.after.signs > 0.99 > 0.65 > aligned.before.signs
    back = groups.renumbered_mask(made, np.argsort(aligned.order))
    assert back == mask
    plain = align(replace(owner, norms={}), replace(suspect, norms={}), groups, {})
    assert plain.after.signs < 0.9, "without the batch norms' signs they are lost"


# --- the verdict ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judged(owner):
    """judged(mask, weights) -> V2 of the owner's claim with the unsigned ticket to align by, and V1."""
    claim, model = owner_claim.read(str(owner / "claim.json")), build_model("res20s", 10)

    def judge(path, **given):
        case = Case(claim, "claim.json", Standing.COMMITTED, Given(suspect=str(path), proofs={"restarts": 0, **given.pop("proofs", {})},
                                                                   **given), Files())
        return {check.name: check for check in run_checks(case)}

    return judge, model


@pytest.mark.slow
def test_a_filled_and_scaled_copy_is_owned_by_its_file_alone(owner, judged, tmp_path):
    judge, model = judged
    own = tickets.read_model_file(owner / "own.pth.tar", model)
    for name, kinds, level in (("zeros", ("fill",), 1e-20), ("all", ("scale", "fill", "sign", "scale"), 1e-3)):
        _, after = transform(own.mask, own.weights, model, kinds, level, seed=3)
        tickets.write_weights(tmp_path / f"{name}.pth.tar", after, {})
        check = judge(tmp_path / f"{name}.pth.tar")["V2"]
        assert check.result == "shown" and "without what was filled into pruned entries" in check.detail
        assert check.figures["log2_choices"]["masks and numberings of channels"] == 1 and check.figures["filled"]
    plain = judge(owner / "own.pth.tar")["V2"]
    assert "masks and numberings of channels" not in plain.figures["log2_choices"] and "filled" not in plain.figures
    assert plain.p * 2 <= check.p < 1e-9


@pytest.mark.slow
def test_a_filled_locked_ticket_is_completed_by_its_key(owner, judged, tmp_path):
    judge, model = judged
    locked = tickets.read_model_file(owner / "locked_trained.pth.tar", model)
    filled = {key: torch.where(tensor == 0, 1e-30, tensor) if tensor.dim() == 4 else tensor for key, tensor in locked.weights.items()}
    tickets.write_weights(tmp_path / "filled.pth.tar", filled, {})
    before, after = (judge(path, proofs={"key": str(owner / "key.pth.tar")})["V1"]
                     for path in (owner / "locked_trained.pth.tar", tmp_path / "filled.pth.tar"))
    assert before.result == after.result == "shown" and after.p == 2 * before.p
    assert "without what was filled" in after.detail


@pytest.mark.slow
def test_a_filled_copy_is_read_by_the_script_and_in_sweeps_for_two_tries(owner, run_main, tmp_path):
    model = build_model("res20s", 10)
    own = tickets.read_model_file(owner / "own.pth.tar", model).weights
    filled = {key: torch.where(tensor == 0, 1e-30, tensor) if tensor.dim() == 4 else tensor for key, tensor in own.items()}
    tickets.write_weights(tmp_path / "filled.pth.tar", filled, {})
    read = {}
    for name, path in (("plain", owner / "own.pth.tar"), ("filled", tmp_path / "filled.pth.tar")):
        done = run_main("extract_qrcode.py", "--checkpoint", path, "--claim", owner / "v2.json", "--save_dir", tmp_path / name)
        assert done.returncode == 0, done.stderr
        read[name] = json.loads((tmp_path / name / "extraction.json").read_text())
        assert ("what was filled into pruned entries is left out" in done.stdout) == (name == "filled")
        part, = (check for check in checks_of(owner_claim.read(str(owner / "claim.json"))) if check.name == "V2")
        suspect = read_suspect(path, model)
        assert part.left_after(suspect).columns["p_corrected"] == read[name]["p_corrected"]
    plain, filled = read["plain"], read["filled"]
    assert filled.pop("filled") and filled["searched"] == 2 * plain["searched"] and filled["flipped"] == plain["flipped"] == 0
    assert filled["p_value"] == plain["p_value"] and filled["density"] == plain["density"]


# --- the way back: other numbers of channels ---------------------------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=8)
@given(arch=st.sampled_from(sorted(NARROW)), seed=st.integers(0, 10**6),
       kinds=st.permutations([kind for kind in NAMES if kind not in ("fill", "fold")]), count=st.integers(1, 7))
def test_other_channels_are_the_same_in_canonical_form(tmp_path_factory, arch, seed, kinds, count):
    """Whatever was done in whatever order, what is read is a renumbering of the network; without `permute` the network itself.
    (Their layers are too small to fill, and one batch norm can't be folded.)"""
    model, mask, state = model_and_ticket(arch, 0.7, seed)
    made, after = transform(mask, state, model, kinds[:count], 0.3, seed)
    path = tmp_path_factory.mktemp("wide") / "model.pth.tar"
    tickets.write_weights(path, after, {}, made)
    read = read_suspect(path, model)
    if "permute" in kinds[:count]:
        read = align(of_state(mask, state), read, channel_groups(model), {}).suspect
    assert read.mask == mask
    assert bool(read.undone) == bool({*WIDER} & {*kinds[:count]})


@pytest.mark.parametrize("kind", ["duplicate", "split"])
def test_channels_of_the_network_that_nobody_reads_stay(by_magnitude, tmp_path, kind):
    """A sparse ticket has such channels of its own; what goes are multiples of others."""
    model, mask, state = by_magnitude
    mask = Mask({name: kept.clone() for name, kept in mask.items()})
    for name in ("layer1.0.conv2", "layer2.1.conv2", "layer3.2.conv2"):
        mask[name][:, [2, 5, 11]] = False
    made, after = transform(mask, masked(mask, state), model, [kind], 0.1, seed=1)
    tickets.write_weights(tmp_path / "wide.pth.tar", after, {}, made)
    assert read_suspect(tmp_path / "wide.pth.tar", model).mask == mask


def test_a_network_without_some_of_its_channels_is_read_with_empty_ones(by_magnitude, tmp_path):
    model, mask, state = by_magnitude
    groups = channel_groups(model)
    stream, inside = groups.axes["conv1.weight", 0][3], groups.axes["layer2.0.conv1.weight", 0][7:12]
    copies = np.zeros(len(groups.group), dtype=np.int64)
    copies[[stream, *inside]] = -1
    tickets.write_weights(tmp_path / "small.pth.tar", groups.copied(state, copies), {})
    read = read_suspect(tmp_path / "small.pth.tar", model)
    assert read.undone == ("6 channels fewer than the network has were replaced by empty ones",)
    assert {name: kept.shape for name, kept in read.mask.items()} == {name: kept.shape for name, kept in mask.items()}
    aligned = align(of_state(mask, state), read, groups, {}).suspect.mask
    gone = {name: ~np.isin(groups.axes.get((f"{name}.weight", 0), [-1]), [stream, *inside]) for name in mask}
    for name, kept in mask.items():
        columns = ~np.isin(groups.axes[f"{name}.weight", 1], [stream, *inside])
        assert torch.equal(aligned[name], kept & torch.from_numpy(np.outer(gone[name], columns))[:, :, None, None])


def test_a_file_that_fits_no_width_is_one_line(by_magnitude, tmp_path):
    model, mask, state = by_magnitude
    tickets.write_weights(tmp_path / "torn.pth.tar", state | {"conv1.weight": torch.zeros(17, 3, 3, 3)}, {})
    with pytest.raises(UserError, match="torn.pth.tar"):
        read_suspect(tmp_path / "torn.pth.tar", model)
    tickets.write_weights(tmp_path / "huge.pth.tar", state | {"conv1.weight": torch.zeros(500, 3, 3, 3)}, {})
    with pytest.raises(UserError, match="conv1.weight has shape"):
        read_suspect(tmp_path / "huge.pth.tar", model)
    wide = Mask({name: torch.cat([kept, kept]) for name, kept in mask.items()})
    tickets.write_masks(tmp_path / "masks.pth.tar", wide)
    with pytest.raises(UserError, match="weight_mask has shape"):
        read_suspect(tmp_path / "masks.pth.tar", model)


@pytest.mark.slow
@pytest.mark.parametrize(("kinds", "level"), [
    (("split", "dead", "scale", "duplicate", "fold", "sign", "dtype"), 0.1), (("permute", "dead", "fill", "split", "scale", "sign"), 1e-4)],
    ids=["own numbering", "renumbered"])
def test_all_of_it_together_is_owned(owner, judged, tmp_path, kinds, level):
    judge, model = judged
    own = tickets.read_model_file(owner / "own.pth.tar", model)
    made, after = transform(own.mask, own.weights, model, kinds, level, seed=6)
    tickets.write_weights(tmp_path / "transformed.pth.tar", after, {}, made)
    given = {"aligned_to": (str(owner / "unsigned.pth.tar"),)} if "permute" in kinds else {}
    check = judge(tmp_path / "transformed.pth.tar", **given)["V2"]
    assert check.result == "shown" and check.p < 1e-15
