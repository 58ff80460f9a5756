"""Embedding: the code is there, the number of weights is not changed, and nothing is moved further than it must."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ownership.qr_code.claim import read_claim, write_claim
from ownership.qr_code.extraction import SOFT_READER, extract
from ownership.qr_code.readers import available_readers
from ownership.qr_code.soft_decoding import LONGEST
from ownership.suspects.reading import Suspect
from pruner.qr_code import geometry as qr_code
from pruner.qr_code.embedding import Wish, embed, find_copies, find_region, occupancy
from pruner.masks import Mask, prunable_layers
from pruner.qr_code.geometry import CodeFormat
from utils.errors import UserError


@cache
def layer_shapes(arch: str) -> dict[str, tuple[int, ...]]:
    from models import build_model

    return {name: tuple(layer.weight.shape) for name, layer in prunable_layers(build_model(arch, 10)).items()}


def random_mask(shapes: dict[str, tuple[int, ...]], density: float, seed: int) -> Mask:
    generator = torch.Generator().manual_seed(seed)
    return Mask({name: torch.rand(shape, generator=generator) < density for name, shape in shapes.items()})


def small_mask(seed: int = 0, density: float = 0.3, **layers: tuple[int, int]) -> Mask:
    layers = layers or {"layer1.0.conv1": (30, 33), "layer1.0.conv2": (33, 31), "layer2.0.conv1": (40, 30)}
    return random_mask({name: (*shape, 2, 2) for name, shape in layers.items()}, density, seed)


def check_signed(before: Mask, after: Mask, signature: str, region) -> None:
    """Everything that embedding promises."""
    code = qr_code.encode(signature, region.code_format)
    is_data = qr_code.data_modules(region.code_format.version)
    size = region.code_format.size
    rows, columns = slice(region.start_x, region.start_x + size), slice(region.start_y, region.start_y + size)
    assert after.nonzeros == before.nonzeros
    assert list(after) == list(before) and all(after[name].shape == before[name].shape for name in before)
    assert (occupancy(after[region.layer])[rows, columns] == code)[is_data].all()

    # nearest first: no weight changes further out while one could still change nearer by
    layer_before, layer_after = before[region.layer].flatten(2).numpy(), after[region.layer].flatten(2).numpy()
    window = layer_after[rows, columns]
    counts = window[is_data & code].sum(1)
    outside = np.ones(layer_after.shape[:2], dtype=bool)
    outside[rows, columns] = ~is_data
    added = int((layer_after & ~layer_before)[outside].sum())
    removed = int((layer_before & ~layer_after)[outside].sum())
    elsewhere_added = sum(int((after[n] & ~before[n]).sum()) for n in before if n != region.layer)
    elsewhere_removed = sum(int((before[n] & ~after[n]).sum()) for n in before if n != region.layer)
    assert min(added, removed) == 0 and min(elsewhere_added, elsewhere_removed) == 0
    if added or elsewhere_added:
        assert (counts == layer_after.shape[2]).all(), "the code's ones are full before weights go elsewhere"
    if removed or elsewhere_removed:
        assert (counts == 1).all(), "the code's ones give all but one weight before others give any"
    if elsewhere_added:
        assert layer_after[outside].all()
    if elsewhere_removed:
        assert not layer_after[outside].any()


def check_read(mask: Mask, signature: str, region) -> None:
    found = extract(Suspect(mask), [region], [region.code_format], signature)
    assert set(found.texts) == {*available_readers(), SOFT_READER}
    soft = found.texts.pop(SOFT_READER)
    assert set(found.texts.values()) == {signature}
    assert soft == (signature if len(signature.encode("utf-8")) <= LONGEST else None)
    assert found.flips.count == 0


ASCII = st.characters(min_codepoint=33, max_codepoint=126)


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "examples"), [("res20s", 60), ("res18", 15), ("res50", 8)])
def test_density_is_kept_exactly_and_both_readers_read_it(arch, examples):
    @settings(max_examples=examples, suppress_health_check=[HealthCheck.too_slow])
    @given(density=st.floats(0.01, 0.9), seed=st.integers(0, 2**31), signature=st.text(ASCII, min_size=1, max_size=24))
    def check(density, seed, signature):
        before = random_mask(layer_shapes(arch), density, seed)
        copy = Mask({name: layer.clone() for name, layer in before.items()})
        region = find_region(before, signature)
        after = embed(before, signature, region, np.random.default_rng(seed))
        assert before == copy, "the given mask is not touched"
        assert region.code_format.version == 3
        check_signed(before, after, signature, region)
        check_read(after, signature, region)

    check()


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["res20s", "res18", "res50"])
@pytest.mark.parametrize("density", [0.01, 0.9])
def test_the_ends_of_the_range_of_densities(arch, density):
    before = random_mask(layer_shapes(arch), density, 7)
    region = find_region(before, "signature")
    after = embed(before, "signature", region, np.random.default_rng(0))
    check_signed(before, after, "signature", region)
    check_read(after, "signature", region)


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "size", "version"), [
    ("res20s", 25, 4),  # 33x33 no longer fits layer2's 32x32
    ("res20s", 119, 10),  # 57x57 of layer3's 64x64
    ("res18", 119, 10), ("res18", 130, 11), pytest.param("res18", 300, 18, marks=pytest.mark.nightly),
])
def test_longer_signatures_get_larger_codes(arch, size, version):
    signature = ("0123456789abcdef" * 20)[:size]
    before = random_mask(layer_shapes(arch), 0.2, 3)
    region = find_region(before, signature)
    assert region.code_format.version == version
    after = embed(before, signature, region, np.random.default_rng(0))
    check_signed(before, after, signature, region)
    check_read(after, signature, region)


def test_utf8_signature():
    before = random_mask(layer_shapes("res20s"), 0.2, 3)
    region = find_region(before, "Zoë → 票")
    after = embed(before, "Zoë → 票", region, np.random.default_rng(0))
    found = extract(Suspect(after), [region], [region.code_format], "Zoë → 票")
    assert found.texts["ZXing"] == "Zoë → 票" and found.flips.count == 0


def brute_force_region(mask: Mask, signature: str, layers, version: int, patterns, xs=None, ys=None):
    best = None
    is_data, size = qr_code.data_modules(version), qr_code.code_size(version)
    for name in layers:
        occupied = mask[name].flatten(2).any(2).numpy()
        for pattern in patterns:
            code = qr_code.encode(signature, CodeFormat(version, "H", pattern))
            for x in range(occupied.shape[0] - size + 1) if xs is None else xs:
                for y in range(occupied.shape[1] - size + 1) if ys is None else ys:
                    same = int((occupied[x:x + size, y:y + size] == code)[is_data].sum())
                    if best is None or same > best[0]:
                        best = (same, name, pattern, x, y)
    return best


@pytest.mark.slow
@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), density=st.floats(0.02, 0.6))
def test_region_is_the_most_similar_one(seed, density):
    mask = small_mask(seed, density)
    for low_level, layers in ((True, ["layer1.0.conv1", "layer1.0.conv2"]), (False, list(mask))):
        region = find_region(mask, "signature", low_level=low_level)
        same, name, pattern, x, y = brute_force_region(mask, "signature", layers, 3, range(8))
        assert (region.layer, region.code_format.mask_pattern, region.start_x, region.start_y) == (name, pattern, x, y)
        assert region.similarity == same / 567
    region = find_region(mask, "signature", Wish("layer2.0.conv1", 3, mask_pattern=5))
    same, name, pattern, x, y = brute_force_region(mask, "signature", ["layer2.0.conv1"], 3, [5], xs=[3])
    assert (region.code_format.mask_pattern, region.start_x, region.start_y) == (5, 3, y)
    assert region.similarity == same / 567


def test_ties_go_to_the_first_layer_pattern_and_offset():
    mask = Mask({name: torch.ones(31, 31, 1, 1) for name in ("layer1.0.conv1", "layer1.0.conv2")})
    region = find_region(mask, "signature", Wish(mask_pattern=2))
    assert (region.layer, region.start_x, region.start_y) == ("layer1.0.conv1", 0, 0)


def test_a_planted_code_is_found_again():
    mask = random_mask(layer_shapes("res20s"), 0.3, 0)
    planted = find_region(mask, "signature", Wish("layer2.1.conv1", 2, 3))
    signed = embed(mask, "signature", planted, np.random.default_rng(0))
    region = find_region(signed, "signature")
    assert (region.layer, region.start_x, region.start_y, region.similarity) == ("layer2.1.conv1", 2, 3, 1.0)
    assert embed(signed, "signature", region, np.random.default_rng(1)) == signed, "nothing is left to move"


def test_kernels_of_one_weight_are_left_where_larger_ones_have_room():
    mask = random_mask({"layer1.0.conv1": (40, 40, 1, 1), "layer1.0.conv2": (40, 40, 3, 3), "layer1.1.conv1": (40, 40, 1, 1),
                        "layer2.0.conv2": (40, 40, 5, 5)}, 0.3, 1)
    code = qr_code.encode("signature", CodeFormat(3, "H", 5))
    mask["layer1.1.conv1"][3:32, 4:33, 0, 0] = torch.from_numpy(code)  # as similar as can be
    assert find_region(mask, "signature").layer == "layer1.0.conv2"
    planted = find_region(mask, "signature", low_level=False)
    assert (planted.layer, planted.start_x, planted.start_y, planted.similarity) == ("layer1.1.conv1", 3, 4, 1.0)
    assert find_region(mask, "signature", Wish("layer1.1.conv1")) == planted
    only = Mask({name: layer for name, layer in mask.items() if name != "layer1.0.conv2"})
    assert find_region(only, "signature") == planted, "the first stage that has room stays the first"
    copies = find_copies(mask, "signature", find_region(mask, "signature"), 1)
    assert [copy.layer for copy in copies] == ["layer1.0.conv2"]
    with pytest.raises(UserError, match="--copies: no room is left"):
        find_copies(mask, "signature", copies[0], 5)


def test_narrow_networks_get_a_smaller_code():
    mask = small_mask(**{"layer1.0.conv1": (26, 28)})
    assert find_region(mask, "signature").code_format.version == 2
    assert find_region(mask, "short", Wish(version=1)).code_format.version == 1


def test_seed_decides_where_weights_go():
    mask = random_mask(layer_shapes("res20s"), 0.2, 1)
    region = find_region(mask, "signature")
    first, again, other = (embed(mask, "signature", region, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert first == again and first != other


def test_moved_weights_are_spread_over_the_ones_at_random():
    # 9 entries per kernel, one weight each at the start: every entry of a one must be as likely to be filled
    mask = Mask({"layer1.0.conv1": torch.zeros(29, 29, 3, 3)})
    mask["layer1.0.conv1"][:, :, 1, 1] = True
    region = find_region(mask, "signature")
    filled = np.zeros(9)
    for seed in range(20):
        signed = embed(mask, "signature", region, np.random.default_rng(seed))
        filled += signed["layer1.0.conv1"].flatten(2).sum((0, 1)).numpy()
    ring = np.delete(filled, 4)
    moved = ring.sum()
    assert moved > 4000
    assert np.abs(ring - moved / 8).max() < 5 * np.sqrt(moved / 8), "within 5 sigma of uniform"


@pytest.mark.parametrize(("signature", "wish", "complaint"), [
    ("", {}, "--signature: is empty"),
    ("x" * 25, {}, "--signature: has 25 bytes, a version 3 code at level H holds 24"),
    ("x" * 15, {"version": 2}, "--signature: has 15 bytes, a version 2 code at level H holds 14"),
    ("signature", {"version": 4}, "--version 4: its 33x33 modules do not fit into any layer; the largest version that does is 3"),
    ("signature", {"layer": "fc"}, "--max_name fc: no such layer"),
    ("signature", {"start_x": 20}, "no code fits into any layer at offset (20, 0)"),
    ("signature", {"layer": "layer1.0.conv1", "start_y": 5, "version": 3}, "--version 3: its 29x29 modules do not fit into layer"),
])
def test_wishes_that_cant_be_met_say_so(signature, wish, complaint):
    mask = small_mask(**{"layer1.0.conv1": (30, 33), "layer1.0.conv2": (32, 31)})
    with pytest.raises(UserError) as refusal:
        find_region(mask, signature, Wish(**wish))
    assert str(refusal.value).startswith(complaint)


def test_a_ticket_without_room_or_weights_is_refused():
    full = Mask({"layer1.0.conv1": torch.ones(29, 29, 3, 3)})
    with pytest.raises(UserError, match="no room to keep its 7569 weights"):
        embed(full, "signature", find_region(full, "signature"), np.random.default_rng(0))
    bare = Mask({"layer1.0.conv1": torch.zeros(29, 29, 3, 3)})
    bare["layer1.0.conv1"][0, :5, 0, 0] = True
    with pytest.raises(UserError, match="no room to keep its 5 weights"):
        embed(bare, "signature", find_region(bare, "signature"), np.random.default_rng(0))


@pytest.mark.slow
def test_script_writes_what_it_says_and_keeps_other_claims(run_main, refused, tmp_path):
    from pruner import tickets

    ticket = tmp_path / "ticket.pth.tar"
    mask = random_mask(layer_shapes("res20s"), 0.25, 0)
    tickets.write_masks(ticket, mask)
    words = ("embed_qrcode.py", "--mask_dir", ticket, "--dataset", "digits", "--save_dir", tmp_path / "signed",
             "--max_name", "layer2.1.conv1")
    done = run_main(*words, "--signature", "Jane Doe")
    assert done.returncode == 0, done.stderr
    written = {path.name: path.read_bytes() for path in (tmp_path / "signed").iterdir()}
    stem = "res20s_digits_qrcode_layer2.1.conv1"
    assert set(written) == {f"{stem}.weight_mask.pth.tar", f"{stem}.claim.json", f"{stem}.code.png",
                            f"{stem}.before_after.png"}
    content = torch.load(tmp_path / "signed" / f"{stem}.weight_mask.pth.tar", weights_only=True)
    assert sum(int(layer.sum()) for layer in content.values()) == mask.nonzeros
    assert f"({mask.nonzeros} weights)" in done.stdout and f"({mask.nonzeros})" in done.stdout

    claim = tmp_path / "signed" / f"{stem}.claim.json"
    assert claim.stat().st_mode & 0o777 == 0o600
    assert done.stdout.splitlines()[-1] == (f"to hand out: {tmp_path}/signed/{stem}.weight_mask.pth.tar or the model trained from it, "
                                            f"nothing else of {tmp_path}/signed")
    # a threshold that was recorded meanwhile stays
    write_claim(claim, replace(read_claim(claim), threshold=0.25), instead_of=read_claim(claim))
    written[claim.name] = claim.read_bytes()
    assert run_main(*words, "--signature", "Jane Doe").returncode == 0
    message = refused(run_main(*words, "--signature", "John Doe"))
    assert "holds another claim" in message
    elsewhere = refused(run_main(*words, "--signature", "John Doe", "--max_name", "layer2.2.conv1"))
    assert f"{stem}.claim.json is of another signature; name another folder" in elsewhere and len(list(claim.parent.iterdir())) == 4
    assert (tmp_path / "signed" / f"{stem}.claim.json").read_bytes() == written[f"{stem}.claim.json"]
    assert (tmp_path / "signed" / f"{stem}.weight_mask.pth.tar").read_bytes() == written[f"{stem}.weight_mask.pth.tar"]
