"""Check P: what counts and what is told, that its p-value holds for any weights, claims and verdicts from end to end."""

import dataclasses
import json
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy import stats
from stand_ins import OWNER_KEY, as_pem, signed

from models import build_model
from ownership.claims import owner_claim
from ownership.claims.case import Case, Files, Given, NotRun
from ownership.claims.commitment import Refused
from ownership.claims.owner_claim import OwnerClaim
from ownership.claims.verdict import Standing
from ownership.passports.check import Checker
from ownership.passports.claim import ClaimedPassports
from ownership.suspects.reading import Suspect
from passports.attachment import attach
from passports.draw import Draw, as_text
from passports.files import write_passports
from passports.signature import read_signature
from passports.vectors import make_vectors
from pruner import tickets
from pruner.key_mask.split import fingerprint
from pruner.masks import Mask

OWNER = OWNER_KEY.public_key().public_bytes_raw()
TEXTS = {"layer3.1.conv1": "Jane Doe", "layer3.1.conv2": "", "layer3.2.conv1": ""}
DRAWN = ClaimedPassports("pan", "vector", "res20s", OWNER.hex(), "Jane", "0" * 32, "0" * 64, as_text(TEXTS), "1" * 64)


@pytest.fixture(scope="module")
def own(tmp_path_factory, make_dataset):
    """A folder: owner.key, vector.pt and random.pt of two runs, and the models that show their signatures."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "owner.key").write_bytes(as_pem(OWNER_KEY))
    torch.manual_seed(1)
    plain = build_model("res20s", 10)
    start = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    tickets.write_weights(folder / "start.pth.tar", start, {})
    draw = Draw(OWNER, "Jane", bytes(16), "res20s", fingerprint(Mask.dense(plain), start), TEXTS)
    for key_type in ("vector", "random"):
        model = build_model("res20s", 10)
        vectors = make_vectors(key_type, draw, plain, make_dataset().train, {})
        write_passports(folder / f"{key_type}.pt", "pan", key_type, attach(model, "pan", draw, vectors))
        tickets.write_weights(folder / f"{key_type}.pth.tar", signed(start, draw, vectors), {})
    return folder


def check(part: ClaimedPassports, weights: dict[str, torch.Tensor] | None, standing=Standing.COMMITTED, **proofs):
    mask = Mask({name: weight != 0 for name, weight in (weights or {"layer3.1.conv1": torch.ones(1, 1)}).items()})
    case = Case(OwnerClaim("Jane", part.owner_key, "res20s", parts={"P": part}), "claim.json", standing, Given("x", proofs=proofs), Files())
    object.__setattr__(case, "suspect", Suspect(mask, weights))
    return Checker("P", part).check(case)


def random_weights(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {layer: torch.randn(64, 64, 3, 3, generator=generator) for layer in TEXTS}


# --- what counts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("standing, nonces", [(Standing.COMMITTED, 40), (Standing.LATER, 80), (Standing.NONE, 80)])
def test_the_binomial_is_exact_and_every_nonce_is_paid_for(standing, nonces):
    state = {f"{layer}.weight": weight for layer, weight in random_weights(1).items()}
    vectors = {layer: vector.float() for layer, vector in DRAWN.vectors().items()}
    state = signed(state, DRAWN.draw, vectors, share=0.9)
    found = check(DRAWN, {layer: state[f"{layer}.weight"] for layer in TEXTS}, standing)
    right = found.figures["right"]
    assert right == 3 * 58 and found.figures["bits"] == 192
    tail = sum(Fraction(math.comb(192, count), 2**192) for count in range(right, 193))
    assert found.p == min(1, tail * 2**nonces)
    assert (found.result == "shown") == (found.p <= 1e-9)
    assert "x 2^%d nonces" % nonces in found.detail and "layer3.1.conv1 reads 'Jane Do" in found.detail


def test_whatever_weights_a_suspect_has_the_bits_are_coin_tosses():
    """Over nonces: of weights that are all alike, of a network's, and of one that shows every bit of another draw."""
    alike = {layer: torch.ones(64, 64, 3, 3) for layer in TEXTS}
    other = {f"{layer}.weight": weight for layer, weight in random_weights(2).items()}
    other = signed(other, DRAWN.draw, {layer: vector.float() for layer, vector in DRAWN.vectors().items()})
    for weights in (alike, random_weights(3), {layer: other[f"{layer}.weight"] for layer in TEXTS}):
        right = []
        for number in range(60):
            draw = dataclasses.replace(DRAWN, nonce=f"{number + 1:032x}").draw
            vectors = {layer: torch.from_numpy(draw.normal(layer, "scale", 576))[:, None] for layer in TEXTS}
            right.append(sum(one.right for one in read_signature(draw, vectors, weights).values()))
        assert stats.kstest((np.array(right) - 96) / np.sqrt(48), "norm").pvalue > 1e-3
        assert abs(np.mean(right) - 96) < 5 * np.sqrt(48 / 60) and 0.5 < np.var(right) / 48 < 1.7


@given(st.sampled_from(["owner_key", "owner_name", "nonce", "ticket_sha256", "texts"]))
@settings(max_examples=5)
def test_another_draw_shows_nothing(name):
    state = {f"{layer}.weight": weight for layer, weight in random_weights(4).items()}
    state = signed(state, DRAWN.draw, {layer: vector.float() for layer, vector in DRAWN.vectors().items()})
    weights = {layer: state[f"{layer}.weight"] for layer in TEXTS}
    assert check(DRAWN, weights).figures["right"] == 192
    others = {"owner_key": "1" * 64, "owner_name": "Jame", "nonce": "1" * 32, "ticket_sha256": "1" * 64,
              "texts": as_text(dict.fromkeys(TEXTS, ""))}  # a text that is fitted to the signs would be another draw
    found = check(dataclasses.replace(DRAWN, **{name: others[name]}), weights)
    assert 60 < found.figures["right"] < 132 and found.result == "not shown"


def test_lost_filters_count_as_wrong_and_masks_alone_show_nothing():
    weights = random_weights(5)
    state = signed({f"{layer}.weight": weight for layer, weight in weights.items()}, DRAWN.draw,
                   {layer: vector.float() for layer, vector in DRAWN.vectors().items()})
    weights = {layer: state[f"{layer}.weight"] for layer in TEXTS}
    weights["layer3.2.conv1"][10:20] = 0
    assert check(DRAWN, weights).figures["layers"]["layer3.2.conv1"] == [54, 64]
    with pytest.raises(NotRun, match="needs the suspect's weights"):
        check(DRAWN, None)
    with pytest.raises(NotRun, match="has no layer layer3.2.conv1 of the claim's shape"):
        check(DRAWN, {**weights, "layer3.2.conv1": torch.ones(64, 32, 3, 3)})


# --- claims -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change, message", [
    (dict(texts='[["layer9.0.conv1",""]]'), "names no layers of the network res20s that can have passports"),
    (dict(texts="[]"), "names no layers"), (dict(texts="{"), "names no layers"), (dict(texts='[["layer3.0.conv1",5]]'), "names no layers"),
    (dict(texts='[["layer3.0.conv1", ""]]'), "names no layers"), (dict(texts='[["layer3.0.conv1","nine bits"]]'), "has 9 bytes"),
    (dict(arch="res18"), "names no layers"), (dict(key_type="mine"), "holds no value that it can have"),
    (dict(owner_name="John"), "was made for another owner"), (dict(nonce="z" * 32), "names no layers")])
def test_strangers_claims_are_refused_in_one_line(change, message):
    table = owner_claim.to_fields(OwnerClaim("Jane", OWNER.hex(), "res20s", parts={"P": dataclasses.replace(DRAWN, **change)}))
    with pytest.raises(Refused, match=message):
        owner_claim.from_fields(table, "the claim")


def test_a_claim_comes_back():
    claim = OwnerClaim("Jane", OWNER.hex(), "res20s", parts={"P": DRAWN})
    assert owner_claim.from_fields(owner_claim.to_fields(claim), "the claim") == claim and claim.parts["P"].draw.texts == TEXTS


def verdict(run_main, folder, suspect, *words, claim="claim"):
    return run_main("main_verify.py", "--claim", folder / claim / "claim.json", "--commitment", folder / claim / "commitment.json",
                    "--suspect", suspect, *words)


@pytest.mark.slow
def test_from_the_file_to_the_verdict(run_main, refused, own, tmp_path):
    words = ("--owner", "Jane", "--sign", own / "owner.key")
    done = run_main("make_claim.py", *words, "--p", own / "vector.pt", "--checkpoint", own / "vector.pth.tar", "--save_dir", own / "claim")
    assert done.returncode == 0, done.stderr
    assert "P on the own model: 192 of 192 bits right; layer3.1.conv1 reads 'Jane Doe'" in done.stdout
    assert json.loads((own / "claim/claim.json").read_text())["format"] == "lottery-ownership-claim/4"

    # the claim alone says all: no file of passports
    done = verdict(run_main, own, own / "vector.pth.tar")
    assert done.returncode == 0 and "verdict:    owned" in done.stdout, done.stderr
    p = float(Fraction(2**40, 2**192))
    assert f"{p:.1e}"[:3] in done.stdout and "192 of 192 bits right" in done.stdout
    done = verdict(run_main, own, own / "start.pth.tar")
    assert done.returncode == 1 and "verdict:    not shown" in done.stdout

    # renumbered channels are undone by the weights that the hash is of
    done = run_main("main_attack.py", "permute", "--checkpoint", own / "vector.pth.tar", "--no_accuracy", "--save_dir", tmp_path / "permuted")
    assert done.returncode == 0, done.stderr
    suspect = tmp_path / "permuted/attacked.pth.tar"
    assert verdict(run_main, own, suspect).returncode == 1
    done = verdict(run_main, own, suspect, "--aligned_to", own / "start.pth.tar")
    assert done.returncode == 0 and "x 2 numberings of channels" in done.stdout and "192 of 192 bits right" in done.stdout, done.stdout
    done = verdict(run_main, own, suspect, "--aligned_to", own / "vector.pth.tar")
    assert done.returncode == 1, "by another file it would be a choice"

    # what is left of it, level by level
    done = run_main("main_attack.py", "prune", "--checkpoint", own / "vector.pth.tar", "--no_accuracy", "--claim", own / "claim/claim.json",
                    "--level", 0.5, "--save_dir", tmp_path / "pruned")
    assert done.returncode == 0 and " of 192 bits right, p " in done.stdout, done.stderr

    # vectors that somebody chose are told and never counted
    done = run_main("make_claim.py", *words, "--p", own / "random.pt", "--checkpoint", own / "random.pth.tar", "--save_dir", own / "chosen")
    assert done.returncode == 0, done.stderr
    done = verdict(run_main, own, own / "random.pth.tar", "--passports", own / "random.pt", claim="chosen")
    assert done.returncode == 1 and "192 of 192 bits right" in done.stdout and "not counted: vectors of type random" in done.stdout
    assert "needs the owner's --passports" in verdict(run_main, own, own / "random.pth.tar", claim="chosen").stdout
    # of one claim a file that is not the one that it names contradicts it, or is nobody's
    assert "p.file_sha256" in (done := verdict(run_main, own, own / "random.pth.tar", "--passports", own / "vector.pt",
                                               claim="chosen")).stdout + done.stderr and done.returncode == 2

    assert "--p " in refused(run_main("make_claim.py", *words, "--p", own / "owner.key", "--save_dir", own / "bad"))
    assert "is about another network ('res20s') than res18" in refused(run_main(
        "make_claim.py", *words, "--arch", "res18", "--p", own / "vector.pt", "--save_dir", own / "bad"))
    assert "was made for another owner" in refused(run_main(
        "make_claim.py", "--owner", "John", "--sign", own / "owner.key", "--p", own / "vector.pt", "--save_dir", own / "bad"))
