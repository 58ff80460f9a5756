"""Made-up signatures: tiny p-values for any model, and what becomes of them when all texts are counted."""

import json

import numpy as np
import pytest
import torch

from attacks.forge import _letters, _of_letters, forge
from ownership.evidence import agreement, places_for
from ownership.suspect import Suspect
from pruner import qr_code, tickets
from pruner.linear_code import linear_code
from pruner.masks import Mask, prunable_layers
from pruner.qr_code import CodeFormat


@pytest.fixture(scope="module")
def unsigned(make_model, tmp_path_factory):
    """A model's file; nothing was written into it."""
    model = make_model("res20s", classes=10)
    generator = torch.Generator().manual_seed(3)
    mask = Mask({name: torch.rand(layer.weight.shape, generator=generator) < 0.1
                 for name, layer in prunable_layers(model).items()})
    path = tmp_path_factory.mktemp("unsigned") / "model.pth.tar"
    tickets.write_weights(path, model.state_dict(), {"num_classes": 10}, mask)
    return path, mask


@pytest.mark.parametrize("text", [b"abcdefghi", b"signature", b"`{|}~\x7fxyz"])
def test_texts_of_letters_are_a_code_of_their_own(text):
    code = linear_code(CodeFormat(3, "H", 4), len(text))
    bits = np.unpackbits(np.frombuffer(text, np.uint8)).astype(bool)
    free = bits.reshape(-1, 8)[:, 3:].ravel()
    assert (_letters(free) == bits).all()
    assert (_of_letters(code).encode(free) == code.encode(bits)).all()


def test_a_made_up_signature_agrees_with_a_model_that_knows_nothing_of_it(unsigned):
    _, mask = unsigned
    few, more = (forge(mask, budget, 11, 3, "H", 1) for budget in (5, 40))
    assert more.agreement >= few.agreement and forge(mask, 5, 11, 3, "H", 1) == few
    assert len(more.signature.encode()) == 11 and all(byte >> 5 == 0b011 for byte in more.signature.encode())
    searched = places_for(mask, 3)
    made_up = agreement([Suspect(mask).window(more.place, 3)], more.signature, more.code_format, searched)
    honest = agreement([Suspect(mask).window(more.place, 3)], "honest owner"[:11], more.code_format, searched)
    assert made_up.p_value < 1e-10 < 1e-4 < honest.p_value
    assert made_up.p_any_text == honest.p_any_text == 1.0
    # and the agreement is with the code as the library writes it
    ones = qr_code.encode(more.signature, more.code_format)[qr_code.data_modules(3)]
    window = np.minimum(Suspect(mask).window(more.place, 3).counts, 3)[qr_code.data_modules(3)]
    mixes = linear_code(more.code_format, 11).mixes_text
    assert window[mixes & ones].mean() - window[mixes & ~ones].mean() > 0.2 * window[mixes].mean()


def test_the_script_claims_it_and_the_owners_reader_does_not_believe_it(run_main, unsigned, tmp_path):
    path, mask = unsigned
    before = path.read_bytes()
    words = ("main_attack.py", "forge", "--checkpoint", path, "--no_accuracy", "--budget", "60", "--save_dir", tmp_path / "forged")
    done = run_main(*words)
    assert done.returncode == 0, done.stderr
    assert path.read_bytes() == before and not list((tmp_path / "forged").glob("*.pth.tar")), "nothing is written into the model"
    result = json.loads((tmp_path / "forged/result.json").read_text())
    assert result["p_corrected"] < 1e-4 and result["p_any_text"] == 1.0
    claim = (tmp_path / "forged/forged.claim.json").read_bytes()
    stated = json.loads(claim)
    x, y = stated["start_x"], stated["start_y"]
    occupied = mask[stated["layer"]][x:x + 29, y:y + 29].flatten(2).any(2).numpy()
    ones = qr_code.encode(stated["signature"], CodeFormat(3, "H", stated["mask_pattern"]))
    assert stated["similarity"] == (occupied == ones)[qr_code.data_modules(3)].mean()
    assert run_main(*words).stdout == done.stdout and (tmp_path / "forged/forged.claim.json").read_bytes() == claim

    read = ("extract_qrcode.py", "--checkpoint", path, "--claim", tmp_path / "forged/forged.claim.json", "--restarts", "0",
            "--save_dir", tmp_path / "read", "--max_false", "1e-4")
    done = run_main(*read)
    assert done.returncode == 1 and "verdict: no match" in done.stdout
    # only who vouches that it was committed to before is taken in by it
    done = run_main(*read, "--committed")
    assert done.returncode == 0 and "verdict: match by agreement" in done.stdout


@pytest.mark.parametrize("words, message", [
    (("--length", "25"), "a version 3-H code holds 24 bytes"),
    (("--version", "20"), "no layer of this network has room"),
    (("--budget", "0"), "argument --budget"),
    (("--noise", "0.2"), "means nothing to forge"),
])
def test_what_can_not_be_forged_is_refused(run_main, refused, unsigned, tmp_path, words, message):
    assert message in refused(run_main("main_attack.py", "forge", "--checkpoint", unsigned[0], "--no_accuracy", *words,
                                       "--save_dir", tmp_path / "x"))
