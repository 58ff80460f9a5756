"""Extraction: what is read, what is counted, how the script answers, and what it does with hostile files."""

import json
import os

import numpy as np
import pytest
import torch

from ownership.claim import Claim, read_claim
from ownership.extraction import count_flips, extract, region_modules
from ownership.readers import available_readers
from pruner import qr_code, tickets
from pruner.embedding import embed, find_region
from pruner.masks import Mask, pack_state, prunable_layers
from pruner.qr_code import CodeFormat
from utils.errors import UserError

SIGNATURE = "Jane Doe 2026"


@pytest.fixture(scope="module")
def signed(make_model):
    """(mask, region, model) of a signed ResNet-20 at 25% density."""
    model = make_model("res20s", classes=10)
    generator = torch.Generator().manual_seed(0)
    mask = Mask({name: torch.rand(layer.weight.shape, generator=generator) < 0.25
                 for name, layer in prunable_layers(model).items()})
    region = find_region(mask, SIGNATURE)
    return embed(mask, SIGNATURE, region, np.random.default_rng(0)), region, model


@pytest.fixture(scope="module")
def files(signed, tmp_path_factory):
    """A signed model as trained, the same with plain names, its mask file, and the claim."""
    mask, region, model = signed
    folder = tmp_path_factory.mktemp("signed")
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.save({"state_dict": pack_state(state, mask), "epoch": 3}, folder / "model.pth.tar")
    for name, layer in mask.items():
        state[f"{name}.weight"] *= layer
    torch.save(state, folder / "plain.pth.tar")
    torch.save({f"{name}.weight_mask": layer.float() for name, layer in mask.items()}, folder / "masks.pth.tar")
    claim = Claim(SIGNATURE, "res20s", region.layer, region.start_x, region.start_y, 3, "H",
                  region.code_format.mask_pattern, region.similarity, mask.nonzeros, mask.entries, {})
    from ownership.claim import write_claim

    write_claim(folder / "claim.json", claim)
    return folder


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """The script's default folder for what it finds is relative."""
    monkeypatch.chdir(tmp_path)


def by_hand(region) -> tuple:
    return "--max-name", region.layer, "--start-x", region.start_x, "--start-y", region.start_y


@pytest.mark.parametrize("name", ["model", "plain", "masks"])
def test_every_kind_of_file_is_read(run_main, files, name, tmp_path):
    done = run_main("extract_qrcode.py", "--checkpoint", files / f"{name}.pth.tar", "--claim", files / "claim.json",
                    "--save_dir", tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"ZXing:   {SIGNATURE!r}" in done.stdout and "verdict: match" in done.stdout
    assert "flipped: 0 of 567 data modules (0.00%)" in done.stdout
    result = json.loads((tmp_path / "extraction.json").read_text())
    assert result["readers"] == dict.fromkeys(available_readers(), SIGNATURE) and result["match"] is True
    import zxingcpp
    from PIL import Image

    assert zxingcpp.read_barcodes(Image.open(tmp_path / "code.png"))[0].text == SIGNATURE


def test_a_weight_that_became_zero_counts_as_pruned_whatever_the_mask_says(run_main, signed, files, tmp_path):
    mask, region, model = signed
    content = torch.load(files / "model.pth.tar", weights_only=True)
    code = qr_code.encode(SIGNATURE, region.code_format) & qr_code.data_modules(3)
    i, j = np.argwhere(code)[0]
    content["state_dict"][f"{region.layer}.weight_orig"][region.start_x + i, region.start_y + j] = 0
    torch.save(content, tmp_path / "zeroed.pth.tar")
    done = run_main("extract_qrcode.py", "--checkpoint", tmp_path / "zeroed.pth.tar", "--claim", files / "claim.json")
    assert "flipped: 1 of 567 data modules (0.18%): 1 of the code's ones are empty, 0" in done.stdout


def test_the_place_by_hand_needs_no_claim(run_main, signed, files):
    _, region, _ = signed
    place = by_hand(region)
    done = run_main("extract_qrcode.py", "--checkpoint", files / "model.pth.tar", *place)
    assert done.returncode == 0 and repr(SIGNATURE) in done.stdout and "a text was read" in done.stdout
    assert run_main("extract_qrcode.py", "--checkpoint", files / "model.pth.tar", *place, "--signature",
                    SIGNATURE).returncode == 0
    done = run_main("extract_qrcode.py", "--checkpoint", files / "model.pth.tar", *place, "--signature", "John Doe")
    assert done.returncode == 1 and "verdict: no match" in done.stdout


def test_an_unsigned_ticket_is_no_match(run_main, signed, files, make_model, tmp_path):
    _, region, model = signed
    generator = torch.Generator().manual_seed(9)
    other = Mask({name: torch.rand(layer.weight.shape, generator=generator) < 0.25
                  for name, layer in prunable_layers(model).items()})
    tickets.write_masks(tmp_path / "other.pth.tar", other)
    done = run_main("extract_qrcode.py", "--checkpoint", tmp_path / "other.pth.tar", "--claim", files / "claim.json")
    assert done.returncode == 1
    assert "ZXing:   nothing read" in done.stdout and "verdict: no match" in done.stdout
    done = run_main("extract_qrcode.py", "--checkpoint", tmp_path / "other.pth.tar", *by_hand(region))
    assert done.returncode == 1 and "verdict: no text was read" in done.stdout


def test_flips_are_counted_on_data_modules_only(signed):
    mask, region, _ = signed
    found = region_modules(mask, region.layer, region.start_x, region.start_y, 3)
    is_data = qr_code.data_modules(3)
    code = qr_code.encode(SIGNATURE, region.code_format)
    rng = np.random.default_rng(0)
    for lost, added in ((0, 0), (1, 0), (0, 1), (17, 5), (40, 0)):
        damaged = found.copy()
        for places, count in ((code & is_data, lost), (~code & is_data, added)):
            chosen = rng.permutation(np.argwhere(places))[:count]
            damaged[chosen[:, 0], chosen[:, 1]] ^= True
        damaged[~is_data] = rng.random((~is_data).sum()) < 0.5
        flips = count_flips(damaged, SIGNATURE, region.code_format)
        assert (flips.lost, flips.added, flips.count, flips.data_modules) == (lost, added, lost + added, 567)
        assert flips.share == (lost + added) / 567


def test_what_is_shown_does_not_come_from_the_claim(signed):
    # data modules are shown as found even where the claim knows better: a ruined code stays ruined
    mask, region, _ = signed
    ruined = Mask({name: layer.clone() for name, layer in mask.items()})
    code, is_data = qr_code.encode(SIGNATURE, region.code_format), qr_code.data_modules(3)
    chosen = np.random.default_rng(1).permutation(np.argwhere(code & is_data))[:120]
    ruined[region.layer][region.start_x + chosen[:, 0], region.start_y + chosen[:, 1]] = False
    found = extract(ruined, region.layer, region.start_x, region.start_y, [region.code_format], SIGNATURE)
    assert found.flips.lost == 120
    assert ((found.modules != code) & is_data).sum() == 120
    assert (found.modules == code)[~is_data].all()
    assert set(found.texts.values()) == {None}


def test_without_zbar_zxing_reads_alone_and_says_so_once(run_script, files, tmp_path):
    package = tmp_path / "pyzbar"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "pyzbar.py").write_text("raise ImportError('Unable to find zbar shared library')")
    done = run_script("extract_qrcode.py", "--checkpoint", files / "model.pth.tar", "--claim", files / "claim.json",
                      "--save_dir", tmp_path, env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 0 and f"ZXing:   {SIGNATURE!r}" in done.stdout and "zbar:" not in done.stdout
    assert done.stderr.count("zbar is not installed") == 1


@pytest.mark.parametrize(("change", "complaint"), [
    (lambda c: c.pop("layer"), "the claim lacks 'layer'"),
    (lambda c: c.update(more=1), "unknown entry 'more'"),
    (lambda c: c.update(format="else"), "not a claim"),
    (lambda c: c.update(start_x="2"), "'start_x' has the wrong type"),
    (lambda c: c.update(start_x=True), "'start_x' has the wrong type"),
    (lambda c: c.update(start_x=-1), "can't be negative"),
    (lambda c: c.update(start_x=9), "leaves layer"),
    (lambda c: c.update(version=41), "none of a QR code's"),
    (lambda c: c.update(error_correction="X"), "none of a QR code's"),
    (lambda c: c.update(mask_pattern=8), "none of a QR code's"),
    (lambda c: c.update(signature=""), "a signature of 0 bytes"),
    (lambda c: c.update(signature="x" * 25), "a signature of 25 bytes"),
    (lambda c: c.update(signature="\ud800"), "no valid text"),
    (lambda c: c.update(layer="layer9"), "no such layer"),
    (lambda c: c.update(arch="res18"), "is about res18"),
])
def test_a_damaged_claim_is_one_line(run_main, refused, files, tmp_path, change, complaint):
    content = json.loads((files / "claim.json").read_text())
    change(content)
    (tmp_path / "claim.json").write_text(json.dumps(content))
    message = refused(run_main("extract_qrcode.py", "--checkpoint", files / "model.pth.tar", "--claim",
                               tmp_path / "claim.json", "--save_dir", tmp_path / "out"))
    assert complaint in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["", "[]", "{", "null", "[" * 100_000, '{"format": 1e999}'])
def test_a_file_that_is_no_claim_is_one_line(run_main, refused, files, tmp_path, text):
    (tmp_path / "claim.json").write_text(text)
    assert "claim.json" in refused(run_main("extract_qrcode.py", "--checkpoint", files / "model.pth.tar", "--claim",
                                            tmp_path / "claim.json"))


def test_claims_survive_being_written_and_read(files, tmp_path):
    from ownership.claim import write_claim

    claim = read_claim(files / "claim.json")
    write_claim(tmp_path / "again.json", claim)
    assert read_claim(tmp_path / "again.json") == claim


class Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


def hostile(name: str, state: dict[str, torch.Tensor]):
    layer = "layer1.0.conv1"
    if name == "pickle bomb":
        return {"state_dict": Bomb()}
    if name == "NaN":
        state[f"{layer}.weight"] = state[f"{layer}.weight"] * float("nan")
    if name == "missing layer":
        del state[f"{layer}.weight"]
    if name == "unknown key":
        state["layer4.0.conv1.weight"] = torch.zeros(1)
    if name == "wrong shape":
        state[f"{layer}.weight"] = torch.zeros(16, 16, 5, 5)
    if name == "integers":
        state[f"{layer}.weight"] = torch.zeros(16, 16, 3, 3, dtype=torch.int32)
    if name == "not a tensor":
        state[f"{layer}.weight"] = "weights"
    return state


@pytest.mark.parametrize("name", ["pickle bomb", "NaN", "missing layer", "unknown key", "wrong shape", "integers",
                                  "not a tensor"])
def test_hostile_suspects_are_one_line(run_main, refused, signed, files, tmp_path, name):
    torch.save(hostile(name, dict(signed[2].state_dict())), tmp_path / "suspect.pth.tar")
    message = refused(run_main("extract_qrcode.py", "--checkpoint", tmp_path / "suspect.pth.tar", "--claim",
                               files / "claim.json", "--save_dir", tmp_path / "out"))
    assert "suspect.pth.tar" in message
    assert not (tmp_path / "exploded").exists() and not (tmp_path / "out").exists()


def test_a_truncated_suspect_and_a_wrong_architecture_are_one_line(run_main, refused, files, make_model, tmp_path):
    whole = (files / "model.pth.tar").read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 100):
        (tmp_path / "cut.pth.tar").write_bytes(whole[:size])
        assert "cut.pth.tar" in refused(run_main("extract_qrcode.py", "--checkpoint", tmp_path / "cut.pth.tar",
                                                 "--claim", files / "claim.json"))
    torch.save(make_model("res18").state_dict(), tmp_path / "res18.pth.tar")
    assert "see --arch" in refused(run_main("extract_qrcode.py", "--checkpoint", tmp_path / "res18.pth.tar", "--claim",
                                            files / "claim.json"))


def test_the_script_says_which_flags_are_missing_or_doubled(run_main, refused, files):
    suspect = ("extract_qrcode.py", "--checkpoint", files / "model.pth.tar")
    assert "--start_x and --start_y must say" in refused(run_main(*suspect, "--max_name", "layer2.0.conv2"))
    assert "--claim says --start_x already" in refused(run_main(*suspect, "--claim", files / "claim.json", "--start_x", 1))


def test_a_signature_that_fits_nowhere_is_refused(signed):
    mask, region, _ = signed
    with pytest.raises(UserError, match="25 bytes do not fit"):
        extract(mask, region.layer, 0, 0, [CodeFormat(3)], "x" * 25)
