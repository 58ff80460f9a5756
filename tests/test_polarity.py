"""Codes whose ones are light modules, as the original's embed script writes them: made, found, read, claimed."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stand_ins import UNSIGNED

from ownership.qr_code.claim import read_claim
from ownership.qr_code.drawn_text import Belief
from ownership.qr_code.evidence import PRICE_OF_LIGHT, freedom
from ownership.qr_code.extraction import search_everywhere
from ownership.qr_code.window import window_of
from ownership.suspects.reading import Suspect
from pruner import tickets
from pruner.masks import Mask
from pruner.qr_code import geometry as qr_code
from pruner.qr_code.embedding import Wish, embed, find_region
from pruner.qr_code.geometry import CodeFormat
from pruner.qr_code.linear_code import linear_code

TEXT = "Jane Doe 2026"


@given(text=st.text(st.characters(codec="ascii"), min_size=1, max_size=20), pattern=st.integers(0, 7), version=st.sampled_from((3, 4)))
@settings(max_examples=15)
def test_light_is_dark_with_its_data_modules_turned(text, pattern, version):
    dark, light = (CodeFormat(version, "H", pattern, light) for light in (False, True))
    is_data = qr_code.data_modules(version)
    turned = qr_code.encode(text, light)
    assert np.array_equal(turned, np.where(is_data, ~qr_code.encode(text, dark), qr_code.encode(text, dark)))
    bits = np.unpackbits(np.frombuffer(text.encode(), dtype=np.uint8)).astype(bool)
    assert np.array_equal(linear_code(light, len(text)).encode(bits), turned[is_data])
    assert np.array_equal(qr_code.restore_patterns(turned, light), qr_code.encode(text, dark)), "what readers see is a usual code"


@pytest.mark.parametrize("signature", [TEXT, None])
def test_a_light_code_is_found_without_its_place(signature):
    region = find_region(UNSIGNED, TEXT, Wish(light=True))
    signed = embed(UNSIGNED, TEXT, region, np.random.default_rng(0))
    places, found = search_everywhere(Suspect(signed), Wish(), signature)
    assert found.code_format == region.code_format and found.code_format.light and found.text == TEXT
    assert (places[0].layer, places[0].start_x, places[0].start_y) == (region.layer, region.start_x, region.start_y)


def test_a_drawn_text_is_believed_alike_in_both_polarities():
    """A window that shows one code light, and the other dark, holds the same weights."""
    beliefs = []
    for light in (False, True):
        region = find_region(UNSIGNED, "x" * 24, Wish("layer2.0.conv2", 1, 1, 3, "H", 2, light))
        signed = embed(UNSIGNED, "x" * 24, region, np.random.default_rng(0))
        window = window_of(Suspect(signed), region, 3)
        beliefs.append([Belief([window], region.code_format, 24).log_share(text) for text in ("x" * 24, "y" * 24)])
    assert all(true > other + 50 for true, other in beliefs)


@pytest.mark.slow
def test_the_scripts_write_read_and_say_it(run_main, tmp_path):
    tickets.write_masks(tmp_path / "ticket.pth.tar", UNSIGNED)
    done = run_main("embed_qrcode.py", "--mask_dir", tmp_path / "ticket.pth.tar", "--dataset", "digits", "--signature", TEXT,
                    "--polarity", "light", "--save_dir", tmp_path)
    assert done.returncode == 0, done.stderr
    (masks,), (path,) = tmp_path.glob("*.weight_mask.pth.tar"), tmp_path.glob("*.claim.json")
    claim = read_claim(path)
    assert claim.polarity == "light" and claim.code_format.light
    for where in (("--claim", path), ("--max_name", claim.layer, "--start_x", claim.start_x, "--start_y", claim.start_y)):
        done = run_main("extract_qrcode.py", "--checkpoint", masks, *where, "--save_dir", tmp_path / "out")
        assert done.returncode == 0 and "ones:    light modules" in done.stdout, done.stdout + done.stderr
        assert json.loads((tmp_path / "out/extraction.json").read_text())["polarity"] == "light"
        assert f"ZXing:   '{TEXT}'" in done.stdout


def test_the_choice_of_polarity_is_paid_for(tmp_path):
    content = {"format": "lottery-verification-claim/3", "signature": TEXT, "arch": "res20s", "layer": "layer2.0.conv2", "start_x": 0,
               "start_y": 0, "version": 3, "error_correction": "H", "mask_pattern": 0, "similarity": 0.5, "nonzeros": 1, "entries": 2,
               "random_state": {}}
    (tmp_path / "claim.json").write_text(json.dumps(content))
    dark = read_claim(tmp_path / "claim.json")
    (tmp_path / "claim.json").write_text(json.dumps({**content, "polarity": "light"}))
    mask = Mask({name: layer for name, layer in UNSIGNED.items() if name.startswith("layer2")})
    light = freedom(mask, read_claim(tmp_path / "claim.json"))
    assert dark.polarity == "dark" and light == {**freedom(mask, dark), "polarity": PRICE_OF_LIGHT}
