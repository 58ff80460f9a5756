"""main_passport.py from end to end: what is handed out, what is kept, on tickets, resumed, read back, and refused."""

import csv
import json

import pytest
import torch

from models import build_model
from ownership.claims.commitment import new_owner_key
from pruner import tickets
from pruner.masks import Mask, prunable_layers
from utils.engine import Engine, Record

LAYERS = ("layer3.2.conv1", "layer3.2.conv2")
TINY = ("--limit", 60, "--epochs", 2, "--batch_size", 30, "--lr", 0.01, "--owner_name", "Jane Doe", "--norm-type", "bn")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With owner.key, config.json, weights.pth.tar, and ticket.pth.tar, a quarter of the weights."""
    folder = tmp_path_factory.mktemp("passports")
    new_owner_key(folder / "owner.key")
    (folder / "config.json").write_text(json.dumps({"layer3.2.conv1": True, "layer3.2.conv2": "Jane Doe"}))
    torch.manual_seed(3)
    model = build_model("res20s_gn", 10)
    tickets.write_weights(folder / "weights.pth.tar", build_model("res20s", 10).state_dict(), {})
    mask = Mask({name: torch.rand(layer.weight.shape) < 0.25 for name, layer in prunable_layers(model).items()})
    tickets.write_ticket(folder / "ticket.pth.tar", mask, model.state_dict(), {})
    return folder


@pytest.fixture(scope="module")
def train(run_main, folder):
    def run(name: str, *words):
        return run_main("main_passport.py", *TINY, "--owner", folder / "owner.key", "--passport-config", folder / "config.json",
                        "--save_dir", folder / name, *words)
    return run


@pytest.fixture(scope="module")
def pan(train, folder):
    """The folder of a run, and what it printed."""
    done = train("pan", "--scheme", "pan")
    assert done.returncode == 0, done.stderr
    return folder / "pan", done.stdout


def load(path):
    return torch.load(path, weights_only=True)


def values(tensors) -> set[tuple[float, float]]:
    """All pairs of neighbours, since single numbers of 32 bits may be equal by chance."""
    lists = [tensor.flatten().tolist() for tensor in tensors if tensor.is_floating_point()]
    return {pair for one in lists for pair in zip(one, one[1:])}


@pytest.mark.slow
def test_what_is_handed_out_holds_nothing_of_the_secret(pan):
    folder, _ = pan
    secret, handed_out = load(folder / "passports.pt"), load(folder / "released.pth.tar")
    assert (folder / "passports.pt").stat().st_mode & 0o777 == 0o600
    plain = build_model("res20s", 10)
    plain.load_state_dict(handed_out["state_dict"])  # all of its names and no others
    # but what both branches have computed alike when the first norm with passports comes
    alike = {f"layers.layer3/2/conv1.{kind}" for kind in ("running_mean", "running_var")}
    private = values([*secret["vectors"].values(), *(tensor for name, tensor in secret["private"].items() if name not in alike)])
    assert len([name for name in secret["private"] if ".mlp." in name]) == 4
    assert len(private) > 0.99 * (2 * 2 * 576 + 2 * 2 * 64 * 16)
    assert not private & values(handed_out["state_dict"].values())
    raw = (folder / "released.pth.tar").read_bytes()
    for word in ("passport", "Jane", secret["nonce"], secret["owner_key"], "pan", "vector"):
        assert word.encode() not in raw
    # and it is the public branch, to the bit
    best = load(folder / "model_best.pth.tar")["state_dict"]
    assert all(torch.equal(tensor, best[name]) for name, tensor in handed_out["state_dict"].items())


@pytest.mark.slow
def test_figures_are_those_of_plain_networks(pan, digits, run_main):
    folder, printed = pan
    secret, state = load(folder / "passports.pt"), load(folder / "released.pth.tar")["state_dict"]
    result = json.loads((folder / "result.json").read_text())
    plain = build_model("res20s", 10)

    def accuracy() -> float:
        plain.load_state_dict(state)
        return Engine(plain, torch.device("cpu")).evaluate(digits.test)[1]

    assert accuracy() == pytest.approx(result["test_acc"])
    right = 0
    for name in LAYERS:  # PaN: scale and shift through the same small network, statistics of the branch's own
        norm, own = name.replace("conv", "bn"), f"layers.{name.replace('.', '/')}"
        products = state[f"{name}.weight"].flatten(1) @ secret["vectors"][name]
        right += int((products[:, 0] > 0).sum())
        first, second = (secret["private"][f"{own}.mlp.{at}.weight"] for at in (0, 2))
        affine = second @ torch.nn.functional.leaky_relu(first @ products, 0.01)
        state[f"{norm}.weight"], state[f"{norm}.bias"] = affine[:, 0], affine[:, 1]
        state |= {f"{norm}.{kind}": secret["private"][f"{own}.{kind}"] for kind in ("running_mean", "running_var")}
    assert accuracy() == pytest.approx(result["private_acc"], abs=0.3)  # one picture, by rounding
    assert 0 < right < 128
    with open(folder / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 and {"test_acc", "private_acc", "signature_acc", "signature_loss"} <= rows[0].keys()
    assert float(rows[result["best_epoch"] - 1]["private_acc"]) == result["private_acc"]
    assert (folder / "curve.png").is_file() and result["bits"] == 128 and result["layers"] == list(LAYERS)

    done = run_main("main_passport.py", "--evaluate", "--pretrained", folder / "released.pth.tar", "--passports", folder / "passports.pt")
    assert done.returncode == 0, done.stderr
    assert f"test: {result['test_acc']:.2f}%" in done.stdout and f"private branch on test: {result['private_acc']:.2f}%" in done.stdout
    signature = printed[printed.index("signature: "):printed.index("hand out")]
    assert signature in done.stdout and f"signature: {round(1.28 * result['signature_acc'])} of 128 bits\n" in signature


@pytest.mark.slow
def test_killed_and_resumed_ends_with_the_same_bits(pan, train, folder, monkeypatch):
    add = Record.add

    def killed(self, *words):
        add(self, *words)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Record, "add", killed)
        assert train("killed", "--scheme", "pan").returncode == 130
    assert load(folder / "killed/checkpoint.pth.tar")["epoch"] == 1 and not (folder / "killed/passports.pt").exists()
    for _ in range(2):  # and once more, when all is done
        assert train("killed", "--scheme", "pan").returncode == 0
        for name in ("checkpoint.pth.tar", "model_best.pth.tar", "released.pth.tar"):
            whole, resumed = (load(folder / run / name)["state_dict"] for run in ("pan", "killed"))
            assert list(whole) == list(resumed) and all(torch.equal(whole[key], resumed[key]) for key in whole)
        whole, resumed = (load(folder / run / "passports.pt") for run in ("pan", "killed"))
        for part in ("vectors", "private"):
            assert all(torch.equal(whole[part][key], resumed[part][key]) for key in whole[part])
        assert {**whole, "vectors": 0, "private": 0} == {**resumed, "vectors": 0, "private": 0}


@pytest.mark.slow
def test_on_a_ticket_with_triggers_the_mask_is_kept(train, folder):
    (folder / "trigger.key").write_text("a secret that only Jane has")
    done = train("deepipr3", "--scheme", "deepipr3", "--norm-type", "gn", "--mask_dir", folder / "ticket.pth.tar", "--trigger_set",
                 "keyed", "--trigger_key", folder / "trigger.key", "--trigger_count", 20)
    assert done.returncode == 0, done.stderr
    masks, state = load(folder / "ticket.pth.tar")["state_dict"], load(folder / "deepipr3/released.pth.tar")["state_dict"]
    for name, mask in masks.items():
        assert torch.equal(state[name], mask) and not state[name.replace("weight_mask", "weight_orig")][mask == 0].any()
    result = json.loads((folder / "deepipr3/result.json").read_text())
    assert {"trigger_acc", "private_trigger_acc", "private_acc", "signature_acc"} <= result.keys()
    assert result["nonzeros"] == sum(int(mask.sum()) for mask in masks.values())
    read = tickets.read_model_file(folder / "deepipr3/released.pth.tar", build_model("res20s_gn", 10))
    assert read.mask is not None
    # vectors are longer where weights are missing
    density = float(masks[f"{LAYERS[0]}.weight_mask"].float().mean())
    vectors = load(folder / "deepipr3/passports.pt")["vectors"][LAYERS[0]]
    assert vectors.square().sum(0).tolist() == pytest.approx([64 * 9 / 2 / density] * 2)


@pytest.mark.slow
def test_one_branch_is_handed_out_with_the_passports_scales(train, folder, digits):
    done = train("deepipr1", "--scheme", "deepipr1", "--key_type", "shuffle", "--pretrained", folder / "weights.pth.tar", "--epochs", 1)
    assert done.returncode == 0, done.stderr
    secret, state = load(folder / "deepipr1/passports.pt"), load(folder / "deepipr1/released.pth.tar")["state_dict"]
    plain = build_model("res20s", 10)
    plain.load_state_dict(state)
    assert Engine(plain, torch.device("cpu")).evaluate(digits.test)[1] == pytest.approx(
        json.loads((folder / "deepipr1/result.json").read_text())["test_acc"])
    for name in LAYERS:
        products = state[f"{name}.weight"].flatten(1) @ secret["vectors"][name]
        torch.testing.assert_close(state[name.replace("conv", "bn") + ".weight"], products[:, 0])
        torch.testing.assert_close(state[name.replace("conv", "bn") + ".bias"], products[:, 1])
    assert secret["key_type"] == "shuffle" and secret["private"] == {}


OWNED = ("--scheme", "pan", "--owner", "F/owner.key", "--owner_name", "Jane", "--save_dir", "F/refused", "--epochs", 1)


@pytest.mark.parametrize("words, message", [
    (("--epochs", 1), "argument --scheme: is needed for training"),
    (OWNED[:2], "argument --owner: is needed for training"),
    (("--scheme", "deepipr3", *OWNED[2:]), "argument --scheme: deepipr3 needs --trigger_set"),
    ((*OWNED, "--key_type", "image"), "argument --key_type: image needs the weights that pictures go through; give --pretrained"),
    ((*OWNED, "--arch", "res50", "--norm_type", "gn"), "argument --norm_type: there is no res50_gn"),
    ((*OWNED, "--passports", "F/config.json"), "argument --passports: comes with --evaluate"),
    (("--evaluate", "--passports", "F/config.json"), "argument --pretrained: is needed"),
    ((*OWNED, "--passport_config", "F/long.json"), "the text of layer layer3.0.conv1 has 9 bytes, and its 64 channels hold 8"),
    ((*OWNED, "--passport_config", "F/unknown.json"), "'layer4.0.conv1' is no layer of the network"),
    ((*OWNED, "--passport_config", "F/stem.json"), "the stem conv1 is in no mask"),
    ((*OWNED, "--passport_config", "F/none.json"), "F/none.json: can't be read"),
    ((*OWNED, "--owner", "F/config.json"), "--owner F/config.json: is no Ed25519 private key"),
    (("--evaluate", "--pretrained", "F/weights.pth.tar", "--passports", "F/weights.pth.tar"), "is no file of passports"),
])
def test_refusals(run_main, refused, folder, words, message, monkeypatch):
    (folder / "long.json").write_text('{"layer3.0.conv1": "nine bits"}')
    (folder / "unknown.json").write_text('{"layer4.0.conv1": true}')
    (folder / "stem.json").write_text('{"conv1": true}')
    monkeypatch.chdir(folder)
    (folder / "F").exists() or (folder / "F").symlink_to(folder)
    assert message in refused(run_main("main_passport.py", *words))
    assert not (folder / "refused").exists()


@pytest.mark.slow
def test_passports_of_another_network_are_refused(run_main, refused, folder, pan):
    assert "is about another network ('res20s') than res20s_gn; see --arch" in refused(run_main(
        "main_passport.py", "--evaluate", "--arch", "res20s_gn", "--mask_dir", folder / "ticket.pth.tar", "--passports",
        pan[0] / "passports.pt"))


@pytest.mark.slow
def test_another_configuration_in_the_same_folder_is_refused(train, refused, folder, pan):
    before = (folder / "config.json").read_text()
    try:
        (folder / "config.json").write_text('{"layer3.2.conv1": true}')
        assert "holds a run with other arguments (--texts" in refused(train("pan", "--scheme", "pan"))
    finally:
        (folder / "config.json").write_text(before)
