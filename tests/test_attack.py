"""Attacks: what they change and what they leave alone, counted exactly, and the script that does them."""

import csv
import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune as torch_prune

from attacks import run as attacking, run_forge as forging
from attacks import ATTACKS, Attack, Flag
from attacks.addon import add_on
from attacks.fake1 import forge
from attacks.fake3 import replace_code
from attacks.noise import NewWeights
from attacks.prune import prune
from attacks.victim import class_count, read_victim
from main_attack import in_words
from ownership.claims import owner_claim
from pruner import tickets
from pruner.qr_code import geometry as qr_code
from pruner.qr_code.embedding import Wish, embed, find_region, occupancy
from pruner.key_mask.split import write_split
from pruner.key_mask.split import split as split_key
from pruner.masks import Mask, prunable_layers
from utils import checkpoint
from utils.engine import Engine
from utils.errors import UserError
from utils.randomness import draw_positions
from utils.run_dir import RunDir

SIGNATURE, OTHER = "Jane Doe 2026", "a thief"


def random_ticket(seed: int, density: float, layers: int = 3) -> tuple[Mask, dict[str, torch.Tensor]]:
    """Masks of small layers, and a state_dict with what attacks must not touch beside them."""
    rng = np.random.default_rng(seed)
    shapes = {f"layer{index}.conv1": (*rng.integers(1, 7, 2), *rng.choice([1, 3], 2)) for index in range(layers)}
    mask = Mask({name: torch.from_numpy(rng.random(shape) < density) for name, shape in shapes.items()})
    weights = {f"{name}.weight": torch.from_numpy(rng.normal(size=kept.shape)).float() * kept
               for name, kept in mask.items()}
    # few values, so that magnitudes tie
    weights = {name: (weight * 4).round() / 4 + 0.01 * weight.sign() for name, weight in weights.items()}
    mask = Mask({name: weights[f"{name}.weight"] != 0 for name in mask})
    others = {"conv1.weight": torch.ones(2, 3, 3, 3), "bn1.bias": torch.ones(2), "fc.weight": torch.ones(3, 2)}
    return mask, weights | others


def copied(weights):
    return {name: tensor.clone() for name, tensor in weights.items()}


def same(a, b) -> bool:
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


def check_unharmed(before, after) -> None:
    """The given mask and weights were not changed, and what is no masked layer's weight is as it was."""
    (mask, weights), (mask_copy, weights_copy) = before
    attacked_mask, attacked = after
    assert mask == mask_copy and same(weights, weights_copy), "inputs were changed"
    assert list(attacked_mask) == list(mask) and list(attacked) == list(weights)
    for name, tensor in weights.items():
        if name.removesuffix(".weight") not in mask:
            assert torch.equal(attacked[name], tensor)
    for name, kept in attacked_mask.items():
        weight = attacked[f"{name}.weight"]
        assert weight.dtype == weights[f"{name}.weight"].dtype and weight.shape == kept.shape
        assert torch.equal(weight != 0, kept), "the mask is where weights are"


@pytest.fixture(scope="module")
def signed(make_model):
    """(mask, weights, region, model) of a signed ResNet-20 at 25% density."""
    model = make_model("res20s", classes=10)
    generator = torch.Generator().manual_seed(0)
    mask = Mask({name: torch.rand(layer.weight.shape, generator=generator) < 0.25
                 for name, layer in prunable_layers(model).items()})
    region = find_region(mask, SIGNATURE)
    mask = embed(mask, SIGNATURE, region, np.random.default_rng(0))
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name, kept in mask.items():
        weights[f"{name}.weight"] *= kept
    return mask, weights, region, model


@pytest.fixture(scope="module")
def stolen(signed, tmp_path_factory):
    """The signed model's file, its mask file, and the owner's claim."""
    from ownership.qr_code.claim import CodeClaim, write_claim

    mask, weights, region, _ = signed
    folder = tmp_path_factory.mktemp("stolen")
    tickets.write_weights(folder / "model.pth.tar", weights, {"arch": "res20s"}, mask)
    tickets.write_masks(folder / "masks.pth.tar", mask)
    code_format = region.code_format
    write_claim(folder / "claim.json", CodeClaim(
        SIGNATURE, "res20s", region.layer, region.start_x, region.start_y, code_format.version,
        code_format.error_correction, code_format.mask_pattern, region.similarity, mask.nonzeros, mask.entries, {}))
    return folder


@pytest.fixture
def synthetic(make_dataset, monkeypatch):
    """Small pictures in place of those that --dataset names; returns a function that sets their number of classes."""

    def use(classes: int):
        monkeypatch.setattr("pruner.experiment.load_dataset",
                            lambda *_: make_dataset(train=60, val=20, test=20, classes=classes))

    use(10)
    return use


def place(region) -> dict:
    return {"max_name": region.layer, "start_x": region.start_x, "start_y": region.start_y}


def there(region, mask_pattern: int) -> Wish:
    return replace(region.wish(), mask_pattern=mask_pattern)


def by_hand(region) -> tuple:
    return tuple(word for flag, value in place(region).items() for word in (f"--{flag}", value))


def modules(mask: Mask, region) -> np.ndarray:
    """The region as found: bool [size, size]."""
    size = region.code_format.size
    return occupancy(mask[region.layer])[region.start_x:region.start_x + size, region.start_y:region.start_y + size]


def result(folder) -> dict:
    return json.loads((folder / "result.json").read_text())


# --- the registry -----------------------------------------------------------------------------------------------------


def test_every_entry_of_the_registry_has_its_function_and_its_flags():
    from main_attack import parse_args

    args = parse_args(["prune", "--checkpoint", "x", "--save_dir", "y"])
    for attack in ATTACKS.values():
        assert callable(attack.load())
        assert all(hasattr(args, name) for name in attack.settings)
        assert not attack.levels or attack.level and attack.levels[0] == 0, "a table begins with the model as it is"
    assert ATTACKS["fake2"] is ATTACKS["addon"]


def halve(mask, weights, factor: float, seed: int):
    return mask, {**weights, "fc.bias": weights["fc.bias"] * factor}


def test_a_new_attack_with_a_flag_of_its_own_is_one_entry(run_main, refused, monkeypatch, stolen, tmp_path):
    factor = Flag("factor", "what the classifier's bias is multiplied by", dict(type=float, default=0.5))
    monkeypatch.setitem(ATTACKS, "halve", Attack(__name__, "halve", "makes the bias smaller", (factor,)))
    command = "main_attack.py", "halve", "--checkpoint", stolen / "model.pth.tar", "--no_accuracy", "--save_dir", tmp_path
    assert run_main(*command, "--factor", 0.25).returncode == 0
    before, after = (checkpoint.load(path)["state_dict"]["fc.bias"]
                     for path in (stolen / "model.pth.tar", tmp_path / "attacked.pth.tar"))
    assert torch.equal(after, before * 0.25) and before.any()
    assert json.loads((tmp_path / "result.json").read_text())["factor"] == 0.25
    assert "--factor: means nothing to permute" in refused(run_main("main_attack.py", "permute", *command[2:], "--factor", 2))


# --- pruning ----------------------------------------------------------------------------------------------------------


@settings(max_examples=80)
@given(seed=st.integers(0, 10**6), density=st.floats(0.1, 1.0), level=st.floats(0.0, 0.99),
       how=st.sampled_from(("magnitude", "random")))
@example(seed=94, density=0.125, level=0.0, how="magnitude")  # a ticket without weights, of which none are removed
def test_pruning_removes_exactly_its_share(seed, density, level, how):
    mask, weights = random_ticket(seed, density)
    count = round(level * mask.nonzeros)
    if count and count >= mask.nonzeros:
        with pytest.raises(UserError, match="--level"):
            prune(mask, weights, level, how, seed)
        return
    before = (mask, weights), (Mask(mask), copied(weights))
    pruned, left = prune(mask, weights, level, how, seed)
    check_unharmed(before, (pruned, left))
    assert mask.nonzeros - pruned.nonzeros == count
    for name, kept in pruned.items():
        assert not (kept & ~mask[name]).any()
        assert torch.equal(left[f"{name}.weight"][kept], weights[f"{name}.weight"][kept])
    again = prune(mask, weights, level, how, seed)
    assert again[0] == pruned and same(again[1], left)


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), level=st.floats(0.05, 0.9))
def test_magnitude_pruning_is_torchs(seed, level):
    mask, weights = random_ticket(seed, 0.6)
    count = round(level * mask.nonzeros)
    if not 0 < count < mask.nonzeros:
        return
    layers = {name: nn.Conv2d(kept.shape[1], kept.shape[0], kept.shape[2:], bias=False) for name, kept in mask.items()}
    for name, layer in layers.items():
        layer.weight.data.copy_(weights[f"{name}.weight"])
        torch_prune.custom_from_mask(layer, "weight", mask[name])
    torch_prune.global_unstructured([(layer, "weight") for layer in layers.values()], torch_prune.L1Unstructured,
                                    amount=count)
    pruned, left = prune(mask, weights, level, "magnitude", 1)
    for name, layer in layers.items():
        assert torch.equal(pruned[name], layer.weight_mask.bool())
        assert torch.equal(left[f"{name}.weight"], layer.weight.data)


@pytest.mark.parametrize("how", ["magnitude", "random"])
def test_with_the_stem_its_weights_count_and_go_too(make_model, run_main, refused, stolen, tmp_path, how):
    model = make_model("res20s", classes=10)
    path = tmp_path / "model.pth.tar"
    tickets.write_weights(path, model.state_dict(), {}, Mask.dense(model))
    words = ("main_attack.py", "prune", "--level", 0.5, "--how", how, "--no_accuracy", "--include_stem", "--checkpoint")
    done = run_main(*words, path, "--save_dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    state = torch.load(tmp_path / "run/attacked.pth.tar", weights_only=True)["state_dict"]
    assert "conv1.weight_mask" not in state
    layers = {name: layer.weight.detach() for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)}
    left = {name: (state[f"{name}.weight" if name == "conv1" else f"{name}.weight_orig"] != 0) for name in layers}
    total = sum(layer.numel() for layer in layers.values())
    assert sum(int(layer.sum()) for layer in left.values()) == total - round(0.5 * total)
    assert 0 < int(left["conv1"].sum()) < layers["conv1"].numel()
    if how == "magnitude":  # one threshold for all layers
        assert max(layers[name][~there].abs().max() for name, there in left.items()) <= min(
            layers[name][there].abs().min() for name, there in left.items())
    assert result(tmp_path / "run")["nonzeros"] == sum(int(there.sum()) for name, there in left.items() if name != "conv1")
    if how == "random":
        assert "--include_stem" in refused(run_main(*words, stolen / "masks.pth.tar", "--save_dir", tmp_path / "masks"))
        assert not (tmp_path / "masks").exists()


@pytest.mark.parametrize("level", [1.0, 2.0, 0.999999])
def test_pruning_leaves_something(level):
    mask, weights = random_ticket(0, 0.5)
    with pytest.raises(UserError, match="--level .* --sweep"):
        prune(mask, weights, level, "random", 1)


# --- noise ------------------------------------------------------------------------------------------------------------


@settings(max_examples=80)
@given(seed=st.integers(0, 10**6), density=st.floats(0.1, 0.95), level=st.floats(0.0, 1.5),
       share_of=st.sampled_from(("pruned", "surviving")))
def test_an_add_on_opens_exactly_its_share_and_touches_no_survivor(seed, density, level, share_of):
    mask, weights = random_ticket(seed, density)
    empty = mask.entries - mask.nonzeros
    count = round(level * (empty if share_of == "pruned" else mask.nonzeros))
    if count > empty:
        with pytest.raises(UserError, match=f"--level .* do not fit into the {empty} pruned"):
            add_on(mask, weights, level, 0.1, share_of, seed)
        return
    before = (mask, weights), (Mask(mask), copied(weights))
    opened, noisy = add_on(mask, weights, level, 0.1, share_of, seed)
    check_unharmed(before, (opened, noisy))
    assert opened.nonzeros - mask.nonzeros == count
    for name, kept in mask.items():
        assert not (kept & ~opened[name]).any()
        assert torch.equal(noisy[f"{name}.weight"][kept], weights[f"{name}.weight"][kept])
    again = add_on(mask, weights, level, 0.1, share_of, seed)
    assert again[0] == opened and same(again[1], noisy)


def test_the_seed_decides(signed):
    mask, weights, region, _ = signed
    for attack in (lambda seed: prune(mask, weights, 0.1, "random", seed),
                   lambda seed: add_on(mask, weights, 0.01, 0.1, "pruned", seed),
                   lambda seed: forge(mask, weights, 0.05, 0.1, seed),
                   lambda seed: replace_code(mask, weights, OTHER, there(region, 0), NewWeights(0.1), False, seed)):
        assert attack(1)[0] == attack(1)[0] and same(attack(1)[1], attack(1)[1])
        assert attack(1)[0] != attack(2)[0]


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), density=st.sampled_from((0.0, 0.1, 0.7, 1.0)), arrays=st.integers(0, 4),
       share=st.sampled_from((0.0, 0.3, 1.0)))
def test_positions_are_drawn_as_if_several_arrays_were_one(seed, density, arrays, share):
    rng = np.random.default_rng(seed)
    candidates = [rng.random(tuple(rng.integers(0, 6, rng.integers(1, 4)))) < density for _ in range(arrays)]
    joined = np.concatenate([np.zeros(0, dtype=bool), *(array.ravel() for array in candidates)])
    count = round(share * joined.sum())
    drawn = draw_positions(candidates, count, np.random.default_rng(seed))
    assert len(drawn) == arrays
    chosen = [np.isin(np.arange(array.size), positions) for array, positions in zip(candidates, drawn)]
    wanted = np.zeros(len(joined), dtype=bool)
    wanted[np.argwhere(joined)[np.random.default_rng(seed).choice(int(joined.sum()), count, replace=False)]] = True
    assert wanted.sum() == count == sum(map(len, drawn))
    assert np.array_equal(np.concatenate([np.zeros(0, dtype=bool), *chosen]), wanted)


def test_random_positions_are_uniform_over_all_layers(signed):
    mask, weights, _, _ = signed
    opened, noisy = add_on(mask, weights, 0.1, 0.1, "pruned", 5)
    pruned, _ = prune(mask, weights, 0.2, "random", 5)
    for share, drawn_from, changed in ((0.1, {name: ~kept for name, kept in mask.items()}, opened),
                                       (0.2, mask, pruned)):
        for name, candidates in drawn_from.items():
            hit = (mask[name] != changed[name])
            assert not (hit & ~candidates).any()
            # of all layers, and of both halves of each, the same share, within 5 sigma
            for part in (slice(None), slice(0, len(hit) // 2), slice(len(hit) // 2, None)):
                expected = share * float(candidates[part].sum())
                assert abs(float(hit[part].sum()) - expected) < 5 * (expected * (1 - share)) ** 0.5
    drawn = torch.cat([noisy[f"{name}.weight"][opened[name] & ~mask[name]] for name in mask])
    assert abs(float(drawn.std()) - 0.1) < 0.003 and abs(float(drawn.mean())) < 0.003


def test_a_forged_key_is_the_share_of_the_whole_ticket(signed):
    mask, weights, _, _ = signed
    for level in (0.0, 0.01, 0.05, 0.5):
        forged, _ = forge(mask, weights, level, 0.1, 1)
        assert abs((forged.nonzeros - mask.nonzeros) / forged.nonzeros - level) < 1 / forged.nonzeros
    for level in (0.9, 1.0):  # more than fits; no share
        with pytest.raises(UserError):
            forge(mask, weights, level, 0.1, 1)


# --- another signature ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("insider", [False, True])
@pytest.mark.parametrize("mask_pattern", [0, 5])
def test_another_signature_is_there_exactly_and_nothing_else_changed(signed, insider, mask_pattern):
    mask, weights, region, _ = signed
    code_format = qr_code.CodeFormat(3, "H", mask_pattern)
    before = (mask, weights), (Mask(mask), copied(weights))
    attacked, noisy = replace_code(mask, weights, OTHER, there(region, mask_pattern), NewWeights(0.1), insider, 1)
    check_unharmed(before, (attacked, noisy))
    code, is_data = qr_code.encode(OTHER, code_format), qr_code.data_modules(3)
    assert np.array_equal(modules(attacked, region)[is_data], code[is_data])
    # kernels whose weights changed at all
    touched = {name: (weights[f"{name}.weight"] != noisy[f"{name}.weight"]).flatten(2).any(2).numpy() for name in mask}
    assert not any(touched[name].any() for name in mask if name != region.layer)
    here = touched[region.layer]
    window = here[region.start_x:region.start_x + 29, region.start_y:region.start_y + 29].copy()
    here[region.start_x:region.start_x + 29, region.start_y:region.start_y + 29] = False
    assert not here.any() and not (window & ~is_data).any()
    differs = is_data & (qr_code.encode(SIGNATURE, region.code_format) != code)
    if insider:
        assert np.array_equal(window, differs)
    else:
        assert (window & is_data)[code & is_data].all()


@pytest.mark.parametrize("extent", ["region", "published"])
def test_a_region_that_is_replaced_keeps_no_trained_weight(signed, extent):
    mask, weights, region, _ = signed
    attacked, noisy = replace_code(mask, weights, OTHER, there(region, 2), NewWeights(0.1), False, 1, extent)
    code, is_data = qr_code.encode(OTHER, qr_code.CodeFormat(3, "H", 2)), qr_code.data_modules(3)
    assert np.array_equal(modules(attacked, region)[is_data], code[is_data])
    window = (slice(region.start_x, region.start_x + 29), slice(region.start_y, region.start_y + 29))
    before, after = (layers[region.layer][window].flatten(2).numpy() for layers in (mask, attacked))
    old, new = (tensors[f"{region.layer}.weight"][window].flatten(2).numpy() for tensors in (weights, noisy))
    assert not ((old == new) & after).any()
    outside = noisy[f"{region.layer}.weight"].clone()
    outside[window] = weights[f"{region.layer}.weight"][window]
    assert torch.equal(outside, weights[f"{region.layer}.weight"])
    filled = before.any(2) & code  # what the published code fills up
    if extent == "region":
        assert np.array_equal(after[~is_data], before[~is_data])
        return
    assert np.array_equal(after[~is_data & ~filled], before[~is_data & ~filled])
    assert (after[is_data & code & ~before.any(2)].sum(1) == 1).all() and not (before & ~after)[filled].any()
    whole, room = int(mask[region.layer].sum()), int((~before)[filled].sum())
    least = int(before[~is_data | code].sum() + (is_data & code & ~before.any(2)).sum())
    assert int(after.sum()) == min(max(whole, least), least + room)


def test_newly_occupied_kernels_look_like_those_beside_them(signed):
    mask, weights, region, _ = signed
    is_data, code = qr_code.data_modules(3), qr_code.encode(OTHER, qr_code.CodeFormat(3, "H", 2))
    window = (slice(region.start_x, region.start_x + 29), slice(region.start_y, region.start_y + 29))
    held = mask[region.layer][window].flatten(2).sum(2).numpy()
    for wanted in (None, 4):
        attacked, _ = replace_code(mask, weights, OTHER, there(region, 2), NewWeights(0.1, wanted), False, 1)
        counts = attacked[region.layer][window].flatten(2).sum(2).numpy()[is_data & code]
        assert (counts == (wanted or round(held[is_data & (held > 0)].mean()))).all()
    with pytest.raises(UserError, match="--weights_per_kernel 10"):
        replace_code(mask, weights, OTHER, there(region, 2), NewWeights(0.1, 10), False, 1)


# --- files ------------------------------------------------------------------------------------------------------------


def test_what_a_file_holds_is_what_is_attacked(signed, stolen, make_model, tmp_path):
    mask, weights, _, model = signed
    assert class_count(stolen / "model.pth.tar") == 10 and class_count(stolen / "masks.pth.tar") is None
    victim = read_victim(stolen / "model.pth.tar", model, True, True)
    assert victim.mask == mask and same(victim.weights, weights) and victim.key_share is None
    # a weight that is zero is not there, whatever the mask says
    zeroed = copied(weights)
    zeroed["layer1.0.conv1.weight"][0] = 0
    tickets.write_weights(tmp_path / "zeroed.pth.tar", zeroed, {}, mask)
    victim = read_victim(tmp_path / "zeroed.pth.tar", model, True, True)
    assert not victim.mask["layer1.0.conv1"][0].any()
    # a ticket's initial weights are all there, its mask says which count
    tickets.write_ticket(tmp_path / "ticket.pth.tar", mask, make_model("res20s", classes=10).state_dict(), {})
    victim = read_victim(tmp_path / "ticket.pth.tar", model, True, True)
    assert class_count(tmp_path / "ticket.pth.tar") == 10 and victim.mask == mask
    assert all(torch.equal(victim.weights[f"{name}.weight"] != 0, kept) for name, kept in mask.items())
    victim = read_victim(stolen / "masks.pth.tar", model, True, False)
    assert victim.masks_only and victim.mask == mask
    with pytest.raises(UserError, match="masks but no weights"):
        read_victim(stolen / "masks.pth.tar", model, True, True)


def test_the_stem_is_attacked_if_and_only_if_the_mask_has_it(signed, make_model, run_main, tmp_path):
    model = make_model("res20s", classes=10)
    for stem in (False, True):
        path = tmp_path / f"{stem}.pth.tar"
        tickets.write_weights(path, model.state_dict(), {}, Mask.dense(model, stem))
        done = run_main("main_attack.py", "prune", "--checkpoint", path, "--level", 0.5, "--how", "random",
                        "--no_accuracy", "--save_dir", tmp_path / f"run{stem}")
        assert done.returncode == 0, done.stderr
        state = torch.load(tmp_path / f"run{stem}/attacked.pth.tar", weights_only=True)["state_dict"]
        assert ("conv1.weight_mask" in state) == stem
        dense = Mask.dense(model, stem)
        assert result(tmp_path / f"run{stem}")["nonzeros"] == dense.nonzeros - round(0.5 * dense.nonzeros)


@pytest.mark.parametrize("rows, message", [((10**9, 64), "fc.weight"), (None, "no classifier")])
def test_a_classifier_that_claims_more_than_it_holds_is_refused(stolen, run_main, refused, tmp_path, rows, message):
    content = torch.load(stolen / "model.pth.tar", weights_only=True)
    content["state_dict"]["fc.weight"] = torch.zeros(1).expand(rows) if rows else torch.zeros(())
    torch.save(content, tmp_path / "hostile.pth.tar")
    assert message in refused(run_main("main_attack.py", "prune", "--checkpoint", tmp_path / "hostile.pth.tar",
                                       "--no_accuracy", "--save_dir", tmp_path / "run"))
    assert not (tmp_path / "run").exists()


# --- the script -------------------------------------------------------------------------------------------------------


def test_a_model_is_written_measured_and_read_again(run_main, signed, stolen, synthetic, tmp_path):
    mask, weights, _, model = signed
    done = run_main("main_attack.py", "prune", "--checkpoint", stolen / "model.pth.tar", "--level", "0.2", "--save_dir",
                    tmp_path / "run")
    assert done.returncode == 0, done.stderr
    row, wanted = result(tmp_path / "run"), prune(mask, weights, 0.2, "magnitude", 1)
    given = tickets.read_model_file(tmp_path / "run/attacked.pth.tar", model)
    assert given.mask == wanted[0] and same(given.weights, wanted[1])
    assert given.facts["attack"] == "prune" and given.facts["num_classes"] == 10
    assert row["nonzeros"] == given.mask.nonzeros and row["density"] == given.mask.density
    assert (row["removed"], row["added"], row["level"], row["how"]) == (round(0.2 * mask.nonzeros), 0, 0.2, "magnitude")
    again = run_main("main_eval_all.py", "--dataset", "digits", "--mask_dir", tmp_path / "run/attacked.pth.tar",
                     "--evaluate")
    assert f"test: {row['test_acc']:.2f}%" in again.stdout and f"val: {row['val_acc']:.2f}%" in again.stdout


@pytest.mark.slow
def test_a_sweep_skips_what_is_done_and_resumes(run_main, stolen, synthetic, tmp_path):
    words = ("main_attack.py", "addon", "--checkpoint", stolen / "model.pth.tar", "--save_dir", tmp_path / "run")
    done = run_main(*words, "--sweep", "0,0.05")
    assert done.returncode == 0, done.stderr
    first = (tmp_path / "run/level_0.05/attacked.pth.tar").stat().st_mtime_ns
    kept = (tmp_path / "run/level_0.05/attacked.pth.tar").read_bytes()
    (tmp_path / "run/level_0/result.json").unlink()  # as if killed before the result was written
    done = run_main(*words, "--sweep", "0,0.1,0")
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^addon (\S+):", done.stdout, re.MULTILINE) == ["0%", "10%"]  # table and plot have the earlier levels, too
    assert (tmp_path / "run/level_0.05/attacked.pth.tar").stat().st_mtime_ns == first
    with open(tmp_path / "run/attack.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["level"]) for row in rows] == [0, 0.05, 0.1]
    assert rows[0]["added"] == "0" and int(rows[1]["added"]) == round(
        0.05 * (int(rows[0]["entries"]) - int(rows[0]["nonzeros"])))
    assert all(0 <= float(row[f"{split}_acc"]) <= 100 for row in rows for split in ("val", "test"))
    assert {"attack", "level", "seed", "noise", "share_of", "nonzeros", "entries", "density"} <= set(rows[0])
    assert (tmp_path / "run/attack.png").stat().st_size > 1000
    # the same level alone is the same model
    done = run_main(*words[:-1], tmp_path / "alone", "--level", "0.05")
    assert done.returncode == 0, done.stderr
    alone = torch.load(tmp_path / "alone/attacked.pth.tar", weights_only=True)["state_dict"]
    (tmp_path / "kept.pth.tar").write_bytes(kept)
    assert same(alone, torch.load(tmp_path / "kept.pth.tar", weights_only=True)["state_dict"])


@pytest.mark.slow
def test_without_a_level_the_papers_are_swept_and_masks_will_do(run_main, stolen, tmp_path):
    done = run_main("main_attack.py", "fake2", "--checkpoint", stolen / "masks.pth.tar", "--no_accuracy", "--claim",
                    stolen / "claim.json", "--save_dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "run/attack.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["level"]) for row in rows] == list(ATTACKS["addon"].levels)
    assert not any(row["test_acc"] for row in rows) and not (tmp_path / "run/attack.png").exists()
    masks = torch.load(tmp_path / "run/level_0.1/attacked.pth.tar", weights_only=True)
    assert sum(int(mask.sum()) for mask in masks.values()) == int(rows[-1]["nonzeros"])
    assert set(masks) == set(torch.load(stolen / "masks.pth.tar", weights_only=True))


def test_a_forged_key_is_as_large_as_the_true_one(run_main, refused, signed, stolen, tmp_path):
    mask, weights, _, _ = signed
    key, locked = split_key(mask, {name: torch.where(kept, weights[f"{name}.weight"].abs(), -torch.inf)
                                   for name, kept in mask.items()}, 0.05)
    write_split(tmp_path / "key.pth.tar", tmp_path / "locked.pth.tar", key, locked, weights, {})
    done = run_main("main_attack.py", "fake1", "--checkpoint", tmp_path / "locked.pth.tar", "--no_accuracy",
                    "--save_dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert result(tmp_path / "run")["added"] == key.nonzeros
    assert "--level" in refused(run_main("main_attack.py", "fake1", "--checkpoint", stolen / "model.pth.tar",
                                         "--no_accuracy", "--save_dir", tmp_path / "none"))


@pytest.mark.slow
@pytest.mark.parametrize("insider", [(), ("--insider",)])
def test_the_owner_reads_the_thiefs_text(run_main, signed, stolen, tmp_path, insider):
    _, _, region, _ = signed
    words = ("main_attack.py", "fake3", "--checkpoint", stolen / "model.pth.tar", "--signature", OTHER, "--no_accuracy",
             *insider)
    assert run_main(*words, "--claim", stolen / "claim.json", "--save_dir", tmp_path / "claim").returncode == 0
    row = result(tmp_path / "claim")
    assert (row["version"], row["mask_pattern"]) == (3, region.code_format.mask_pattern)
    assert run_main(*words, *by_hand(region), "--save_dir", tmp_path / "hand").returncode == 0
    for run in ("claim", "hand"):
        done = run_main("extract_qrcode.py", "--checkpoint", tmp_path / run / "attacked.pth.tar", *by_hand(region),
                        "--signature", OTHER, "--version", 3, "--save_dir", tmp_path / "read")
        assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_fine_tuning_keeps_the_pattern_unless_it_is_freed(run_main, signed, stolen, synthetic, tmp_path):
    mask, weights, _, model = signed
    for name, words in (("kept", ()), ("free", ("--free_mask",))):
        done = run_main("main_attack.py", "finetune", "--checkpoint", stolen / "model.pth.tar", "--epochs", 1, *words,
                        "--save_dir", tmp_path / name)
        assert done.returncode == 0, done.stderr
        given, row = tickets.read_model_file(tmp_path / name / "attacked.pth.tar", model), result(tmp_path / name)
        layer = "layer1.0.conv1.weight"
        assert not torch.equal(given.weights[layer], weights[layer]), "it was trained"
        assert (given.mask == mask) == (name == "kept")
        assert row["nonzeros"] == given.mask.nonzeros and row["entries"] == mask.entries
        best = tickets.read_model_file(tmp_path / name / "model_best.pth.tar", model)
        assert same(best.weights, given.weights) and row["epochs"] == 1
    assert row["density"] > 0.9 and row["lr"] == 0.01


@pytest.mark.slow
def test_other_pictures_get_a_new_classifier(run_main, refused, stolen, synthetic, tmp_path):
    synthetic(4)
    words = ("--checkpoint", stolen / "model.pth.tar", "--save_dir", tmp_path / "run")
    message = refused(run_main("main_attack.py", "prune", *words))
    assert "--dataset" in message and "4 classes" in message and not (tmp_path / "run").exists()
    assert run_main("main_attack.py", "finetune", *words, "--epochs", 1).returncode == 0
    state = torch.load(tmp_path / "run/attacked.pth.tar", weights_only=True)
    assert state["num_classes"] == 4 and state["state_dict"]["fc.weight"].shape[0] == 4


@pytest.mark.slow
def test_fine_tuning_goes_on_where_it_was_stopped(run_main, stolen, synthetic, tmp_path, monkeypatch):
    words = ("main_attack.py", "finetune", "--epochs", 3, "--checkpoint", stolen / "model.pth.tar")
    assert run_main(*words, "--save_dir", tmp_path / "whole").returncode == 0
    train = Engine._train_epoch

    def stops(self, *arguments):
        if arguments[-1] == 3:
            raise KeyboardInterrupt
        return train(self, *arguments)

    with monkeypatch.context() as context:
        context.setattr(Engine, "_train_epoch", stops)
        assert run_main(*words, "--save_dir", tmp_path / "stopped").returncode == 130
    assert not (tmp_path / "stopped/result.json").exists()
    assert run_main(*words, "--save_dir", tmp_path / "stopped").returncode == 0
    whole, resumed = (torch.load(tmp_path / run / "attacked.pth.tar", weights_only=True)["state_dict"]
                      for run in ("whole", "stopped"))
    assert same(whole, resumed)
    # and what is done is not done again
    with monkeypatch.context() as context:
        context.setattr(Engine, "_train_epoch", lambda *_: pytest.fail("trained again"))
        assert run_main(*words, "--save_dir", tmp_path / "stopped").returncode == 0


BAD = [
    (("prune", "--level", "1"), "--level"),
    (("prune", "--level", "-0.1"), "--level"),
    (("prune", "--sweep", "0.1,1.5"), "--sweep"),
    (("prune", "--sweep", ","), "--sweep"),
    (("prune", "--level", "0.1", "--sweep", "0.1"), "--sweep"),
    (("prune", "--noise", "0.5"), "--noise"),
    (("prune", "--epochs", "3"), "--epochs"),
    (("addon", "--share_of", "surviving", "--level", "30"), "--level"),
    (("addon", "--noise", "0"), "--noise"),
    (("finetune", "--level", "0.1"), "--level"),
    (("fake3", *("--max_name layer2.0.conv2 --start_x 0 --start_y 0".split())), "--signature"),
    (("fake3", "--signature", "x"), "--max_name"),
    (("fake3", "--signature", "x", *("--max_name layer1.0.conv1 --start_x 0 --start_y 0 --version 3".split())),
     "layer1.0.conv1"),
    (("fake3", "--signature", "x", *("--max_name layer9 --start_x 0 --start_y 0".split())), "--max_name"),
    (("fake3", "--signature", "x" * 99, *("--max_name layer2.0.conv2 --start_x 0 --start_y 0".split())), "--signature"),
    (("fake3", "--signature", "x", *("--max_name layer2.0.conv2 --start_x 9 --start_y 9".split()), "--version", "3"),
     "--version"),
    (("fake3", "--signature", "x", "--weights_per_kernel", "10",
      *("--max_name layer2.0.conv2 --start_x 0 --start_y 0".split())), "--weights_per_kernel"),
    (("fake3", "--signature", "x", "--insider", "--extent", "region",
      *("--max_name layer2.0.conv2 --start_x 0 --start_y 0".split())), "--extent"),
    (("fake3", "--signature", "x", "--weights_per_kernel", "2", "--extent", "published",
      *("--max_name layer2.0.conv2 --start_x 0 --start_y 0".split())), "--extent"),
    (("addon", "--include_stem"), "--include_stem"),
    (("prune", "--arch", "res18"), "--arch"),
    (("steal",), "attack"),
]


@pytest.mark.slow
@pytest.mark.parametrize("words, named", BAD, ids=[" ".join(words)[:60] for words, _ in BAD])
def test_bad_input_is_one_line_and_nothing_is_written(run_main, refused, stolen, tmp_path, words, named):
    done = run_main("main_attack.py", *words, "--checkpoint", stolen / "model.pth.tar", "--save_dir", tmp_path / "run",
                    *([] if words[0] == "finetune" else ["--no_accuracy"]))
    assert named in refused(done)
    assert not (tmp_path / "run").exists()


def test_bad_files_are_one_line_and_nothing_is_written(run_main, refused, stolen, tmp_path):
    run = ("--save_dir", tmp_path / "run", "--no_accuracy")
    model = ("--checkpoint", stolen / "model.pth.tar")
    (tmp_path / "no_claim.json").write_text("{}")
    claim = json.loads((stolen / "claim.json").read_text())
    (tmp_path / "other.json").write_text(json.dumps({**claim, "arch": "res18"}))
    for words, named in (
            (("prune", "--checkpoint", tmp_path / "missing.pth.tar", *run), "missing.pth.tar"),
            (("prune", "--checkpoint", stolen / "claim.json", *run), "claim.json"),
            (("prune", "--checkpoint", stolen / "masks.pth.tar", *run), "masks but no weights"),
            (("prune", *model, "--claim", tmp_path / "no_claim.json", *run), "no_claim.json"),
            (("addon", *model, "--claim", tmp_path / "other.json", *run), "--arch"),
            (("fake3", *model, "--signature", "x", "--claim", tmp_path / "other.json", *run), "--arch"),
            (("fake3", *model, "--signature", "x", "--claim", stolen / "claim.json", "--start_x", 1, *run),
             "--start_x"),
            (("finetune", *model, *run), "--no_accuracy")):
        assert str(named) in refused(run_main("main_attack.py", *words))
        assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_folder_with_another_attack_is_refused(run_main, refused, stolen, tmp_path):
    model = tmp_path / "model.pth.tar"
    shutil.copy(stolen / "model.pth.tar", model)
    words = ("main_attack.py", "prune", "--checkpoint", model, "--no_accuracy", "--save_dir", tmp_path / "run")
    assert run_main(*words, "--level", 0.1).returncode == 0
    written = (tmp_path / "run/result.json").read_bytes()
    for other in (("--level", 0.2), ("--level", 0.1, "--how", "random"), ("--sweep", "0.1"),
                  ("--level", 0.1, "--seed", 2), ("--level", 0.1, "--claim", stolen / "claim.json")):
        assert "other arguments" in refused(run_main(*words, *other))
    content = torch.load(model, weights_only=True)
    content["state_dict"]["fc.bias"] += 1
    torch.save(content, model)
    message = refused(run_main(*words, "--level", 0.1))  # the file then and now, and what it held
    assert re.search(rf"\(--checkpoint {model} \([0-9a-f]{{8}}...\) then, {model} \([0-9a-f]{{8}}...\) now\)", message), message
    assert (tmp_path / "run/result.json").read_bytes() == written


@pytest.mark.slow
def test_a_sweep_that_lost_its_record_is_not_taken_for_another(run_main, refused, stolen, tmp_path):
    words = ("main_attack.py", "prune", "--checkpoint", stolen / "model.pth.tar", "--no_accuracy", "--sweep", "0,0.1",
             "--save_dir", tmp_path / "run")
    assert run_main(*words).returncode == 0
    (tmp_path / "run/run.json").unlink()
    files = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    for how in ("random", "magnitude"):
        assert "but no run.json" in refused(run_main(*words, "--how", how))
    for path in (tmp_path / "run").glob("attack.*"):  # as if killed before the end
        path.unlink()
        del files[path]
    assert "holds level_0 but no run.json" in refused(run_main(*words, "--how", "random"))
    assert files == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}


def test_a_folder_is_locked_while_it_is_written(run_main, stolen, tmp_path, monkeypatch):
    refusals = []

    def tried_by_another(function):
        def try_it(*arguments):
            with pytest.raises(UserError, match="another process is writing there"):
                RunDir(tmp_path / "run").open("main_attack.py", {})
            refusals.append(function.__name__)
            return function(*arguments)

        return try_it

    for module, name in ((attacking, "write"), (forging, "write")):
        monkeypatch.setattr(module, name, tried_by_another(getattr(module, name)))
    for attack, more in (("prune", ("--sweep", "0,0.1")), ("forge", ("--budget", 1))):
        done = run_main("main_attack.py", attack, "--checkpoint", stolen / "model.pth.tar", "--no_accuracy", *more, "--save_dir",
                        tmp_path / "run")
        assert done.returncode == 0, done.stderr
        shutil.rmtree(tmp_path / "run")
    assert refusals == ["write"] * 3


@pytest.mark.slow
def test_a_damaged_result_is_named_and_made_anew_once_it_is_gone(run_main, refused, stolen, tmp_path):
    words = ("main_attack.py", "locate", "--checkpoint", stolen / "model.pth.tar", "--no_accuracy",
             "--claim", stolen / "claim.json", "--save_dir", tmp_path / "run")
    first, path = run_main(*words), tmp_path / "run/result.json"
    assert first.returncode == 0, first.stderr
    written, mend = path.read_bytes(), "remove it, and the same command makes it anew"
    row = json.loads(written)
    numbers = ("nonzeros", "density", "entries", "removed", "added", "code_lost", "p_corrected", "found_x")
    changed = [(name, value) for name in numbers for value in ("x", None, [1], 10**400)]
    changed += [("level", "abc"), ("test_acc", "x"), ("attack", 1), ("found_layer", None), ("hit", "x")]
    damaged = [(json.dumps({**row, name: value}), f"{name!r} is not what it should be") for name, value in changed]
    damaged += [(json.dumps({other: row[other] for other in row if other != name}), f"has no {name!r}")
                for name in ("removed", "level", "test_acc", "code_zeros", "found_version")]
    damaged += [(content, "not a JSON file that can be read") for content in ("", "{", "null,", written[:-9].decode())]
    damaged += [("[]", "holds no table"), ("{}", "has no '")]
    claim = owner_claim.read(words[words.index("--claim") + 1])
    for content, expected in damaged:
        path.write_text(content)
        with pytest.raises(UserError, match=f"^{re.escape(f'{path}: {expected}')}.*; {mend}$"):
            in_words(attacking.read_result(path), claim)
    for content in ("", "[]", json.dumps({**row, "level": "abc"}), json.dumps({**row, "test_acc": "x"})):
        path.write_text(content)
        message = refused(run_main(*words))
        assert f"{path}: " in message and mend in message
    path.unlink()
    assert run_main(*words).stdout == first.stdout and path.read_bytes() == written


@pytest.mark.slow
@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b""),
                                    lambda path: path.write_bytes(path.read_bytes()[:-60])])
def test_a_picture_of_the_code_that_is_lost_is_drawn_again(run_main, stolen, tmp_path, damage):
    words = ("main_attack.py", "addon", "--checkpoint", stolen / "model.pth.tar", "--no_accuracy", "--sweep", "0,0.1",
             "--claim", stolen / "claim.json", "--save_dir", tmp_path / "run")
    first, path = run_main(*words), tmp_path / "run/level_0.1/code.png"
    assert first.returncode == 0, first.stderr
    written, others = path.read_bytes(), (tmp_path / "run/level_0/code.png").stat().st_mtime_ns
    damage(path)
    again = run_main(*words)
    assert again.returncode == 0 and again.stdout == first.stdout, again.stderr
    assert path.read_bytes() == written and (tmp_path / "run/level_0/code.png").stat().st_mtime_ns == others
