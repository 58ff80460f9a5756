"""Extraction: what is read, what is counted, how the script answers, and what it does with hostile files."""

import json
import os
import unicodedata

import numpy as np
import pytest
import torch

from ownership.qr_code.claim import CodeClaim, read_claim
from ownership.qr_code.extraction import SOFT_READER, count_flips, extract, search_everywhere
from ownership.qr_code.readers import available_readers
from ownership.qr_code.window import window_of
from ownership.suspects.reading import Suspect
from pruner import tickets
from pruner.qr_code import geometry as qr_code
from pruner.qr_code.embedding import Place, Wish, embed, find_region
from pruner.masks import Mask, pack_state, prunable_layers
from pruner.qr_code.geometry import CodeFormat
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
    claim = CodeClaim(SIGNATURE, "res20s", region.layer, region.start_x, region.start_y, 3, "H",
                  region.code_format.mask_pattern, region.similarity, mask.nonzeros, mask.entries, {})
    from ownership.qr_code.claim import write_claim

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
    assert result["readers"] == dict.fromkeys([*available_readers(), SOFT_READER], SIGNATURE) and result["match"] is True
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


@pytest.mark.slow
def test_the_place_by_hand_needs_no_claim(run_main, signed, files):
    _, region, _ = signed
    place = by_hand(region)
    done = run_main("extract_qrcode.py", "--checkpoint", files / "model.pth.tar", *place)
    assert done.returncode == 0 and repr(SIGNATURE) in done.stdout and "a text was read" in done.stdout
    assert run_main("extract_qrcode.py", "--checkpoint", files / "model.pth.tar", *place, "--signature",
                    SIGNATURE).returncode == 0
    done = run_main("extract_qrcode.py", "--checkpoint", files / "model.pth.tar", *place, "--version", 3, "--signature", "John Doe", "--restarts", 20)
    assert done.returncode == 1 and "verdict: no match" in done.stdout


@pytest.mark.slow
def test_an_unsigned_ticket_is_no_match(run_main, signed, files, make_model, tmp_path):
    _, region, model = signed
    generator = torch.Generator().manual_seed(9)
    other = Mask({name: torch.rand(layer.weight.shape, generator=generator) < 0.25
                  for name, layer in prunable_layers(model).items()})
    tickets.write_masks(tmp_path / "other.pth.tar", other)
    done = run_main("extract_qrcode.py", "--checkpoint", tmp_path / "other.pth.tar", "--claim", files / "claim.json", "--restarts", 20)
    assert done.returncode == 1
    assert "ZXing:   nothing read" in done.stdout and "verdict: no match" in done.stdout
    done = run_main("extract_qrcode.py", "--checkpoint", tmp_path / "other.pth.tar", *by_hand(region), "--version", 3, "--restarts", 20)
    assert done.returncode == 1 and "verdict: no text was read" in done.stdout


def test_flips_are_counted_on_data_modules_only(signed):
    mask, region, _ = signed
    found = window_of(Suspect(mask), region, 3).occupied
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


@pytest.mark.slow
def test_what_is_shown_does_not_come_from_the_claim(signed):
    # data modules are shown as found even where the claim knows better: a ruined code stays ruined
    mask, region, _ = signed
    ruined = Mask({name: layer.clone() for name, layer in mask.items()})
    code, is_data = qr_code.encode(SIGNATURE, region.code_format), qr_code.data_modules(3)
    chosen = np.random.default_rng(1).permutation(np.argwhere(code & is_data))[:120]
    ruined[region.layer][region.start_x + chosen[:, 0], region.start_y + chosen[:, 1]] = False
    found = extract(Suspect(ruined), [region], [region.code_format], SIGNATURE, restarts=0)
    assert found.flips.lost == 120
    assert ((found.modules != code) & is_data).sum() == 120
    assert (found.modules == code)[~is_data].all()
    assert {found.texts[reader] for reader in available_readers()} == {None}


@pytest.mark.slow
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
    (lambda c: c.update(start_x=-1), "must be numbers of channels, 0 or more"),
    (lambda c: c.update(start_x=9), "leaves layer"),
    (lambda c: c.update(version=41), "none of a QR code's"),
    (lambda c: c.update(error_correction="X"), "none of a QR code's"),
    (lambda c: c.update(mask_pattern=8), "none of a QR code's"),
    (lambda c: c.update(signature=""), "a signature of 0 bytes"),
    (lambda c: c.update(signature="x" * 25), "a signature of 25 bytes"),
    (lambda c: c.update(signature="\ud800"), "surrogates not allowed"),
    (lambda c: c.update(layer="layer9"), "no such layer"),
    (lambda c: c.update(arch="res18"), "is about res18"),
    (lambda c: c.update(copies=[["layer2.0.conv2", 0]]), "each of 'copies' must be"),
    (lambda c: c.update(copies="layer"), "'copies' has the wrong type"),
    (lambda c: c.update(copies=[["layer2.0.conv2", 0, -1]]), "must be numbers of channels, 0 or more"),
    (lambda c: c.update(copies=[["layer1.0.conv1", 0, 0]]), "leaves layer"),
    (lambda c: c.update(threshold="0.1"), "'threshold' has the wrong type"),
    (lambda c: c.update(threshold=-0.1), "threshold must be"),
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
    from ownership.qr_code.claim import write_claim

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


@pytest.mark.slow
def test_a_truncated_suspect_and_a_wrong_architecture_are_one_line(run_main, refused, files, make_model, tmp_path):
    whole = (files / "model.pth.tar").read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 100):
        (tmp_path / "cut.pth.tar").write_bytes(whole[:size])
        assert "cut.pth.tar" in refused(run_main("extract_qrcode.py", "--checkpoint", tmp_path / "cut.pth.tar",
                                                 "--claim", files / "claim.json"))
    torch.save(make_model("res18").state_dict(), tmp_path / "res18.pth.tar")
    assert "see --arch" in refused(run_main("extract_qrcode.py", "--checkpoint", tmp_path / "res18.pth.tar", "--claim",
                                            files / "claim.json"))


def test_results_do_not_go_into_a_file(run_main, refused, files, tmp_path):
    """Said before anything is read, as that may take half a minute."""
    (tmp_path / "file").write_text("text")
    done = run_main("extract_qrcode.py", "--checkpoint", tmp_path / "none", "--claim", files / "claim.json", "--save_dir",
                    tmp_path / "file")
    assert f"--save_dir {tmp_path / 'file'}: is a file; name a folder" in refused(done)
    assert (tmp_path / "file").read_text() == "text"


def test_the_script_says_which_flags_are_missing_or_doubled(run_main, refused, files):
    suspect = ("extract_qrcode.py", "--checkpoint", files / "model.pth.tar")
    assert "--start_x and --start_y must say" in refused(run_main(*suspect, "--max_name", "layer2.0.conv2"))
    assert "--claim says --start_x already" in refused(run_main(*suspect, "--claim", files / "claim.json", "--start_x", 1))


def test_a_signature_that_fits_nowhere_is_refused(signed):
    mask, region, _ = signed
    with pytest.raises(UserError, match="25 bytes do not fit"):
        extract(Suspect(mask), [Place(region.layer, 0, 0)], [CodeFormat(3)], "x" * 25)


@pytest.mark.slow
@pytest.mark.parametrize("embedded, asked", [("NFD", "NFC"), ("NFC", "NFD")])
def test_a_text_is_found_in_whichever_form_it_was_embedded(run_main, make_model, tmp_path, embedded, asked):
    texts = {form: unicodedata.normalize(form, "Z\u00fcrich") for form in ("NFC", "NFD")}
    model = make_model("res20s", classes=10)
    mask = Mask.dense(model)
    mask = Mask({name: torch.rand(layer.shape, generator=torch.Generator().manual_seed(1)) < 0.25 for name, layer in mask.items()})
    region = find_region(mask, texts[embedded])
    signed = embed(mask, texts[embedded], region, np.random.default_rng(0))
    torch.save({f"{name}.weight_mask": layer.float() for name, layer in signed.items()}, tmp_path / "masks.pth.tar")
    words = ("extract_qrcode.py", "--checkpoint", tmp_path / "masks.pth.tar", "--save_dir", tmp_path, *by_hand(region), "--version", 3)
    done = run_main(*words, "--signature", texts[asked])
    assert done.returncode == 0 and "in another of Unicode's forms" in done.stdout and "verdict: match\n" in done.stdout
    assert "forms" not in run_main(*words, "--signature", texts[embedded]).stdout
    assert run_main(*words, "--signature", "Zurich", "--restarts", 0).returncode == 1


@pytest.mark.parametrize("size, told", [(67, "give --version 8"), (2000, "none of level H does, see --error_correction")])
def test_a_text_too_long_for_the_versions_that_are_searched_is_told_the_right_flag(signed, size, told):
    with pytest.raises(UserError, match=f"--signature: no code of version 3 to . holds its {size} bytes; {told}"):
        search_everywhere(Suspect(signed[0]), Wish(), "x" * size, restarts=0)


def test_claims_of_the_first_format_are_still_read(files, tmp_path):
    content = json.loads((files / "claim.json").read_text())
    assert content["format"] == "lottery-verification-claim/4"
    old = {**content, "format": "lottery-verification-claim/1"}
    for name in ("copies", "threshold", "owner_key", "owner_name", "nonce", "ticket_sha256"):
        del old[name]
    (tmp_path / "claim.json").write_text(json.dumps(old))
    assert read_claim(tmp_path / "claim.json") == read_claim(files / "claim.json")


def damaged_model(signed, path, lost: float) -> None:
    """The signed model with a share of all kernels emptied."""
    mask, _, model = signed
    random = np.random.default_rng(3)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name, layer in mask.items():
        state[f"{name}.weight"] *= layer & torch.from_numpy(random.random(layer.shape[:2]) >= lost)[:, :, None, None]
    torch.save(state, path)


def test_a_code_that_zxing_and_zbar_lose_is_read(run_main, signed, files, tmp_path):
    damaged_model(signed, tmp_path / "damaged.pth.tar", 0.25)
    done = run_main("extract_qrcode.py", "--checkpoint", tmp_path / "damaged.pth.tar", "--claim", files / "claim.json",
                    "--save_dir", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "ZXing:   nothing read" in done.stdout and f"ordered statistics: {SIGNATURE!r}" in done.stdout
    result = json.loads((tmp_path / "extraction.json").read_text())
    assert result["false_probability"] <= 1e-9 and result["p_corrected"] < 1e-15
    assert result["p_corrected"] == pytest.approx(result["p_value"] * result["searched"])
    # 63 letters: small, capital, figures, the blank; one of four kinds of text
    assert result["p_any_text"] == pytest.approx(min(1, result["p_corrected"] * 4.0 * 63**13), rel=1e-6)
    assert "even if the text was made up after" in done.stdout
    # another's claim finds nothing there, though the text is read
    content = {**json.loads((files / "claim.json").read_text()), "signature": "John Doe 2026"}
    (tmp_path / "other.json").write_text(json.dumps(content))
    done = run_main("extract_qrcode.py", "--checkpoint", tmp_path / "damaged.pth.tar", "--claim", tmp_path / "other.json",
                    "--save_dir", tmp_path / "other")
    assert done.returncode == 1 and "verdict: no match" in done.stdout
    result = json.loads((tmp_path / "other/extraction.json").read_text())
    assert result["p_value"] > 1e-3 and result["readers"][SOFT_READER] == SIGNATURE


@pytest.mark.slow
def test_where_no_text_is_left_to_read_the_agreement_may_still_prove_it(run_main, signed, files, tmp_path):
    damaged_model(signed, tmp_path / "damaged.pth.tar", 0.5)
    suspect = ("extract_qrcode.py", "--checkpoint", tmp_path / "damaged.pth.tar", "--claim", files / "claim.json",
               "--save_dir", tmp_path, "--restarts", 3)
    assert run_main(*suspect).returncode == 1
    result = json.loads((tmp_path / "extraction.json").read_text())
    assert 1e-9 < result["p_corrected"] < 1e-3 and result["p_any_text"] == 1.0
    # only of a text that was fixed before
    most = ("--max_false", 2 * result["p_corrected"])
    assert run_main(*suspect, *most).returncode == 1
    done = run_main(*suspect, *most, "--committed")
    assert done.returncode == 0 and "verdict: match by agreement; the text was not read" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("known", [True, False])
def test_without_a_place_everything_is_searched(run_main, signed, files, tmp_path, known):
    _, region, _ = signed
    done = run_main("extract_qrcode.py", "--checkpoint", files / "model.pth.tar", "--save_dir", tmp_path,
                    *(("--signature", SIGNATURE) if known else ()))
    assert done.returncode == 0, done.stderr
    assert f"place:   {region.layer}, start_x {region.start_x}, start_y {region.start_y}\n" in done.stdout
    result = json.loads((tmp_path / "extraction.json").read_text())
    assert result["readers"] == dict.fromkeys([*available_readers(), SOFT_READER], SIGNATURE)


@pytest.mark.slow
def test_the_threshold_is_measured_on_the_owners_model_and_kept_in_the_claim(run_main, refused, signed, files, tmp_path):
    mask, region, model = signed
    claim = tmp_path / "claim.json"
    claim.write_text((files / "claim.json").read_text())
    done = run_main("extract_qrcode.py", "--checkpoint", files / "model.pth.tar", "--claim", claim, "--record_threshold", 0.1)
    assert done.returncode == 0, done.stderr
    threshold = read_claim(claim).threshold
    magnitudes = torch.cat([model.state_dict()[f"{name}.weight"][layer].abs() for name, layer in mask.items()])
    assert (magnitudes < threshold).float().mean() == pytest.approx(0.1, abs=1e-4)
    # noise below it, in every empty kernel, does no harm
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name, layer in mask.items():
        state[f"{name}.weight"] = torch.where(layer, state[f"{name}.weight"], 0.5 * threshold)
    torch.save(state, tmp_path / "noisy.pth.tar")
    suspect = ("extract_qrcode.py", "--checkpoint", tmp_path / "noisy.pth.tar", "--save_dir", tmp_path / "out")
    cut = "what was filled into pruned entries is left out"  # without a threshold it is found by itself
    for claimed, by_threshold in (((claim,), True), ((files / "claim.json",), False), ((files / "claim.json", "--threshold", threshold), True)):
        done = run_main(*suspect, "--claim", *claimed)
        assert done.returncode == 0 and f"ZXing:   {SIGNATURE!r}" in done.stdout
        assert (cut not in done.stdout) == by_threshold
    assert "holds masks only" in refused(run_main("extract_qrcode.py", "--checkpoint", files / "masks.pth.tar", "--claim",
                                                  claim, "--record_threshold", 0.1))
    assert "needs the owner's --claim" in refused(run_main(*suspect, "--signature", "x", "--record_threshold", 0.1))
