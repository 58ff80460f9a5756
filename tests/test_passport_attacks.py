"""Attacks on released nets with passports, judged by the owner's secret, and passports that are made up."""

import csv
import json

import numpy as np
import pytest
import torch
from stand_ins import OWNER_KEY, as_pem, signed

from attacks.flip import flip
from attacks.prune import prune
from models import build_model
from ownership.claims.commitment import new_owner_key
from ownership.passports.claim import ClaimedPassports
from passports.attachment import attach, released
from passports.draw import Draw, as_text
from passports.files import read_passports, write_passports
from passports.layers import normed_layers
from passports.signature import read_signature, total
from passports.vectors import make_vectors
from pruner import tickets
from pruner.key_mask.split import fingerprint
from pruner.masks import Mask, prunable_layers
from utils.engine import Engine, Record

OWNER = OWNER_KEY.public_key().public_bytes_raw()
TEXTS = {"layer3.2.conv1": "", "layer3.2.conv2": "Jane Doe"}
NORMS = {"layer3.2.conv1": "layer3.2.bn1", "layer3.2.conv2": "layer3.2.bn2"}
BITS = 128


@pytest.fixture(scope="module")
def own(run_main, tmp_path_factory, make_dataset):
    """A folder: owner.key, thief.key, start.pth.tar; of each scheme passports_SCHEME.pt and SCHEME.pth.tar, with all bits; a
    claim of pan's."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "owner.key").write_bytes(as_pem(OWNER_KEY))
    new_owner_key(folder / "thief.key")
    torch.manual_seed(1)
    plain = build_model("res20s", 10)
    start = {name: tensor + 0.1 if "bn" in name and name.endswith("bias") else tensor.clone()
             for name, tensor in plain.state_dict().items()}
    tickets.write_weights(folder / "start.pth.tar", start, {})
    draw = Draw(OWNER, "Jane", bytes(16), "res20s", fingerprint(Mask.dense(plain), start), TEXTS)
    for scheme in ("deepipr1", "deepipr2", "pan"):
        model = build_model("res20s", 10)
        vectors = make_vectors("vector", draw, plain, make_dataset().train, {})
        model.load_state_dict(signed(start, draw, vectors))
        passports = attach(model, scheme, draw, vectors)
        write_passports(folder / f"passports_{scheme}.pt", scheme, "vector", passports)
        tickets.write_weights(folder / f"{scheme}.pth.tar", released(model), {})
    done = run_main("make_claim.py", "--owner", "Jane", "--sign", folder / "owner.key", "--p", folder / "passports_pan.pt",
                    "--checkpoint", folder / "pan.pth.tar", "--save_dir", folder / "claim")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def attack(run_main, own, make_dataset, monkeypatch):
    """attack(scheme, words..., to=folder) -> the process of main_attack.py, on pictures of which there are few."""
    monkeypatch.setattr("pruner.experiment.load_dataset", lambda *_: make_dataset(train=60, val=20, test=40, classes=10))

    def run(scheme: str, *words, to):
        return run_main("main_attack.py", words[0], "--checkpoint", own / f"{scheme}.pth.tar", "--passports",
                        own / f"passports_{scheme}.pt", *words[1:], "--save_dir", to)

    return run


def weights_of(path) -> dict[str, torch.Tensor]:
    return tickets.read_model_file(path, build_model("res20s", 10)).weights


def result(folder) -> dict:
    return json.loads((folder / "result.json").read_text())


def bits_of(draw, layer) -> torch.Tensor:
    return torch.from_numpy(draw.bits(layer, 64))


# --- removal ----------------------------------------------------------------------------------------------------------


def test_flips_are_counted_and_touch_scales_alone(own):
    file, weights = read_passports(own / "passports_deepipr1.pt", "res20s"), weights_of(own / "deepipr1.pth.tar")
    mask, model = Mask.dense(build_model("res20s", 10)), build_model("res20s", 10)
    for level, count in ((0, 0), (0.1, 13), (0.5, 64), (1, BITS)):
        kept, flipped = flip(mask, weights, level, file, model, 3)
        turned = {name for name in weights if not torch.equal(weights[name], flipped[name])}
        assert kept is mask and turned <= {f"{norm}.weight" for norm in NORMS.values()}
        signs = [flipped[f"{norm}.weight"] == -weights[f"{norm}.weight"] for norm in NORMS.values()]
        assert sum(int(one.sum()) for one in signs) == count
        assert all(torch.equal(flipped[name].abs(), weights[name].abs()) for name in turned)
    assert not torch.equal(flip(mask, weights, 0.5, file, model, 4)[1]["layer3.2.bn1.weight"],
                           flip(mask, weights, 0.5, file, model, 5)[1]["layer3.2.bn1.weight"])


@pytest.mark.slow
def test_a_sweep_of_flips_says_what_scales_and_passports_show(attack, tmp_path):
    """The original asked the passports alone, and found all bits for ever."""
    done = attack("deepipr1", "flip", "--sweep", "0,0.25", to=tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert f"passports' bits {BITS} of {BITS}, by scales 96" in done.stdout
    with open(tmp_path / "run/attack.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["signature_right"] for row in rows] == [str(BITS)] * 2 and [row["scales_right"] for row in rows] == ["128", "96"]
    assert float(rows[0]["private_acc"]) == float(rows[1]["private_acc"]), "the owner's passports undo it"
    assert (tmp_path / "run/attack.png").is_file()
    done = attack("pan", "flip", "--level", 0.25, to=tmp_path / "pan")
    assert "scales_right" not in result(tmp_path / "pan"), "public scales are no signature"


@pytest.mark.parametrize("level", [0.1, 0.6, 0.9])
def test_all_parameters_are_pruned_together(make_model, level):
    model = make_model(classes=10)
    weights = {name: torch.randn_like(tensor) if tensor.is_floating_point() else tensor for name, tensor in model.state_dict().items()}
    mask = Mask.dense(model)
    left, pruned = prune(mask, weights, level, "magnitude", 1, all_params=True)
    parameters = dict(model.named_parameters())
    sizes = np.concatenate([weights[name].abs().numpy().ravel() for name in parameters])
    kept = np.concatenate([pruned[name].numpy().ravel() != 0 for name in parameters])
    assert kept.sum() == len(sizes) - round(level * len(sizes)) and sizes[kept].min() >= sizes[~kept].max()
    assert all(torch.equal(pruned[name], weights[name]) for name in weights if name not in parameters), "statistics stay"
    assert all(torch.equal(left[name], pruned[f"{name}.weight"] != 0) for name in mask) and list(left) == list(mask)
    assert any((pruned[name] == 0).any() for name in parameters if name.endswith("bias"))


@pytest.mark.slow
def test_the_lotterys_attacks_take_what_is_handed_out_and_report_p(run_main, own, tmp_path):
    claim = ("--no_accuracy", "--claim", own / "claim/claim.json")

    def run(attack, model, *words):
        done = run_main("main_attack.py", attack, "--checkpoint", model, *claim, *words, "--save_dir", tmp_path / attack)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "passports: " in run("prune", own / "pan.pth.tar", "--level", 0.2) and result(tmp_path / "prune")["p_passports"] < 1e-9
    run("addon", tmp_path / "prune/attacked.pth.tar", "--level", 0.5, "--noise", 0.01)
    assert result(tmp_path / "addon")["p_passports"] < 1e-9
    run("permute", own / "pan.pth.tar")
    assert result(tmp_path / "permute")["p_passports"] > 1e-9
    # channels more than the network has: told by a verdict alone
    run("transform", own / "pan.pth.tar", "--kinds", "dead", "--level", 0.1)
    assert "passport_right" not in result(tmp_path / "transform")


@pytest.mark.slow
def test_turned_signs_take_the_bits_until_they_are_aligned(run_main, own, tmp_path):
    done = run_main("main_attack.py", "transform", "--kinds", "sign", "--level", 0.1, "--checkpoint", own / "pan.pth.tar", "--no_accuracy",
                    "--save_dir", tmp_path / "turned")
    assert done.returncode == 0, done.stderr

    def verdict(*words):
        return run_main("main_verify.py", "--claim", own / "claim/claim.json", "--commitment", own / "claim/commitment.json",
                        "--suspect", tmp_path / "turned/attacked.pth.tar", *words)

    assert verdict().returncode == 1
    assert f"{BITS} of {BITS} bits right" in verdict("--aligned_to", own / "start.pth.tar").stdout


# --- others in the place of the owner's -------------------------------------------------------------------------------


SHORT = ("--epochs", 2, "--batch_size", 30)


@pytest.mark.slow
@pytest.mark.parametrize("scheme, words", [
    ("deepipr2", ("passport_fake1",)), ("deepipr2", ("passport_fake2", "--level", 0.25, *SHORT)), ("pan", ("passport_fake2_pan", *SHORT)),
    ("pan", ("passport_fake3", "--level", 0.5, *SHORT)), ("deepipr2", ("passport_block", "--level", 0.5, *SHORT)),
    ("deepipr2", ("passport_block", "--level", 0, "--block", "ierb", *SHORT))], ids=str)
def test_forged_branches_are_plain_networks_with_the_stolen_weights(attack, own, make_dataset, tmp_path, scheme, words):
    done = attack(scheme, *words, to=tmp_path / "run")
    assert done.returncode == 0, done.stderr
    before, after, row = weights_of(own / f"{scheme}.pth.tar"), weights_of(tmp_path / "run/attacked.pth.tar"), result(tmp_path / "run")
    affine = {f"{norm}.{kind}" for norm in NORMS.values() for kind in ("weight", "bias")}
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert affine <= changed and not [name for name in changed - affine if "running" not in name and "batches" not in name]
    plain = build_model("res20s", 10)
    plain.load_state_dict(after)
    assert Engine(plain, torch.device("cpu")).evaluate(make_dataset(train=60, val=20, test=40, classes=10).test)[1] == row["test_acc"]
    assert row["signature_right"] == row["signature_bits"] == BITS, "the owner's are where they were"
    if scheme == "deepipr2":  # the thief's signs are those of the scales
        draw = read_passports(own / "passports_deepipr2.pt", "res20s").draw
        right = sum(int((after[f"{norm}.weight"].sign() == bits_of(draw, layer)).sum()) for layer, norm in NORMS.items())
        assert row["forged_acc"] == pytest.approx(100 * right / BITS)
    if words[0] == "passport_fake2":
        assert abs(row["forged_acc"] - 75) < 5, "scales of size 1 hardly change their signs in a few steps"
    if words[0] == "passport_fake3":
        assert row["mse"] > 0 and row["cosine"] < 1 and row["forged_acc"] + row["target_acc"] == pytest.approx(150, abs=50)


@pytest.mark.nightly
def test_a_random_network_that_is_not_trained_learns_nothing(attack, tmp_path):
    """What the published fake3s did; the two others are trained."""
    moved = {}
    for mlp in ("known", "fresh", "random_frozen"):
        done = attack("pan", "passport_fake3", "--level", 0, "--mlp", mlp, "--epochs", 1, to=tmp_path / mlp)
        assert done.returncode == 0, done.stderr
        state = torch.load(tmp_path / mlp / "checkpoint.pth.tar", weights_only=True)["optimizer"]["state"]
        moved[mlp] = len([one for one in state.values() if one.get("momentum_buffer") is not None])
    # two passports, and two small networks of two layers
    assert moved == {"known": 2 + 4, "fresh": 2 + 4, "random_frozen": 2}


@pytest.mark.slow
def test_a_forging_that_was_killed_goes_on_with_the_same_bits(attack, tmp_path, monkeypatch):
    add, words = Record.add, ("deepipr2", "passport_fake2", "--level", 0.5, *SHORT)

    def killed(self, *rest):
        add(self, *rest)
        raise KeyboardInterrupt

    assert attack(*words, to=tmp_path / "whole").returncode == 0
    with monkeypatch.context() as patch:
        patch.setattr(Record, "add", killed)
        assert attack(*words, to=tmp_path / "killed").returncode == 130
    assert attack(*words, to=tmp_path / "killed").returncode == 0
    whole, resumed = (weights_of(tmp_path / run / "attacked.pth.tar") for run in ("whole", "killed"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert result(tmp_path / "whole")["forged_acc"] == result(tmp_path / "killed")["forged_acc"]


# --- solved for -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def solved(run_main, own):
    """passports.pt of a thief for a network that nobody trained for them."""
    done = run_main("main_attack.py", "forge", "--by", "solve", "--checkpoint", own / "start.pth.tar", "--no_accuracy", "--signature",
                    "stolen!", "--owner", own / "thief.key", "--owner_name", "Mallory", "--save_dir", own / "solved")
    assert done.returncode == 0, done.stderr
    assert "signature: 672 of 672 bits" in done.stdout
    return own / "solved/passports.pt"


@pytest.mark.slow
def test_solved_passports_fit_a_public_model_and_own_its_descendants(own, solved):
    file, weights, model = read_passports(solved, "res20s"), weights_of(own / "start.pth.tar"), build_model("res20s", 10).eval()
    layers = [name for name in normed_layers(model) if name != "conv1"]
    assert list(file.draw.texts) == layers == list(prunable_layers(model)), "every 3x3 convolution but the stem"

    def shown(state):
        return read_signature(file.draw, file.vectors, {name: state[f"{name}.weight"] for name in layers})

    readings = shown(weights)
    assert total(readings) == (672, 672) and "stolen!" in [one.text for one in readings.values()]
    # as accurate as the model: the same answers
    pictures = torch.rand(6, 3, 8, 8)
    model.load_state_dict(weights)
    expected = model(pictures)
    branch = attach(model, file.scheme, file.draw, file.vectors)
    branch.load_state_dict(file.private)
    torch.testing.assert_close(branch.call(branch.products(), pictures), expected, rtol=1e-3, atol=1e-3)
    # what somebody trains from it tomorrow, whose weights are a tenth others
    generator = torch.Generator().manual_seed(0)
    later = {name: tensor + 0.1 * tensor.std() * torch.randn(tensor.shape, generator=generator) if tensor.dim() == 4 else tensor
             for name, tensor in weights.items()}
    assert total(shown(later))[0] > 600


@pytest.mark.slow
def test_a_verdict_is_not_fooled_by_them(run_main, own, solved):
    done = run_main("make_claim.py", "--owner", "Mallory", "--sign", own / "thief.key", "--p", solved, "--checkpoint",
                    own / "start.pth.tar", "--save_dir", own / "thiefs")
    assert done.returncode == 0, done.stderr
    done = run_main("main_verify.py", "--claim", own / "thiefs/claim.json", "--commitment", own / "thiefs/commitment.json", "--suspect",
                    own / "start.pth.tar", "--passports", solved)
    assert done.returncode == 1 and "672 of 672 bits right" in done.stdout and "not counted" in done.stdout
    # and where he says that a hash drew them, the hash draws others
    draw = read_passports(solved, "res20s").draw
    claimed = ClaimedPassports("pan", "vector", "res20s", draw.owner_key.hex(), draw.owner_name, draw.nonce.hex(), draw.ticket_sha256,
                               as_text(draw.texts), "1" * 64)
    weights = weights_of(own / "start.pth.tar")
    right, bits = total(read_signature(draw, claimed.vectors(), {name: weights[f"{name}.weight"] for name in draw.texts}))
    assert abs(right - bits / 2) < 5 * np.sqrt(bits / 4)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words, message", [
    (("flip",), "argument --passports: flip needs the file"),
    (("passport_block", "--passports", "OWN/passports_pan.pt", "--no_accuracy"), "argument --no_accuracy: passport_block needs pictures"),
    (("flip", "--passports", "OWN/passports_pan.pt", "--no_accuracy", "--level", 1.5), "--level 1.5 (or --sweep): is a share"),
    (("passport_fake2", "--passports", "OWN/passports_pan.pt", "--limit", 60, "--level", 1.5), "--level 1.5 (or --sweep): is a share"),
    (("prune", "--passports", "OWN/passports_pan.pt", "--no_accuracy", "--arch", "res18"),
     "is about another network ('res20s') than res18"),
    (("flip", "--passports", "OWN/start.pth.tar", "--no_accuracy"), "is no file of passports"),
    (("forge", "--by", "solve", "--no_accuracy", "--owner", "OWN/thief.key", "--owner_name", "x"), "argument --signature:"),
    (("forge", "--by", "solve", "--no_accuracy", "--owner", "OWN/thief.key", "--owner_name", "x", "--signature", "nine bytes"),
     "the text of layer layer3.0.conv1 has 10 bytes, and its 64 channels hold 8"),
    (("forge", "--by", "solve", "--no_accuracy", "--owner", "OWN/claim/claim.json", "--owner_name", "x", "--signature", "x"), "--owner")])
def test_refusals(run_main, refused, own, tmp_path, words, message):
    words = [str(word).replace("OWN", str(own)) for word in words]
    assert message in refused(run_main("main_attack.py", *words, "--checkpoint", own / "pan.pth.tar", "--save_dir", tmp_path / "run"))
    assert not (tmp_path / "run").exists()
