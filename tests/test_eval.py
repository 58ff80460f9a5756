"""Retraining a ticket, and the original README's commands for scheme 2 from end to end."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from pruner import tickets
from pruner.qr_code import geometry as qr_code
from pruner.qr_code.embedding import Region, embed
from pruner.masks import Mask, prunable_layers
from pruner.qr_code.geometry import CodeFormat

SHORT = ("--dataset", "digits", "--limit", "300", "--epochs", "3")


@pytest.fixture(scope="module")
def ticket(make_model, tmp_path_factory):
    """A folder with weights.pth.tar, masks.pth.tar (25%) and ticket.pth.tar (both in one)."""
    folder = tmp_path_factory.mktemp("ticket")
    model = make_model("res20s", classes=10)
    generator = torch.Generator().manual_seed(0)
    mask = Mask({name: torch.rand(layer.weight.shape, generator=generator) < 0.25
                 for name, layer in prunable_layers(model).items()})
    tickets.write_weights(folder / "weights.pth.tar", model.state_dict(), {})
    tickets.write_masks(folder / "masks.pth.tar", mask)
    tickets.write_ticket(folder / "ticket.pth.tar", mask, model.state_dict(), {})
    return folder


def load(path):
    return torch.load(path, weights_only=True)


@pytest.mark.slow
def test_the_mask_holds_through_training_and_the_numbers_are_the_models(run_main, ticket, tmp_path):
    done = run_main("main_eval_all.py", *SHORT, "--mask_dir", ticket / "masks.pth.tar", "--pretrained",
                    ticket / "weights.pth.tar", "--save_dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    masks, start = load(ticket / "masks.pth.tar"), load(ticket / "weights.pth.tar")["state_dict"]
    for name in ("checkpoint", "model_best"):
        state = load(tmp_path / "run" / f"{name}.pth.tar")["state_dict"]
        for layer, mask in masks.items():
            weight = state[layer.replace("weight_mask", "weight_orig")]
            assert torch.equal(state[layer], mask)
            assert not weight[mask == 0].any()
            assert not torch.equal(weight, start[layer.replace("weight_mask", "weight")] * mask), "it was trained"
    result = json.loads((tmp_path / "run/result.json").read_text())
    kept = sum(int(mask.sum()) for mask in masks.values())
    assert result["nonzeros"] == kept and result["density"] == kept / result["entries"]

    again = run_main("main_eval_all.py", *SHORT, "--mask_dir", tmp_path / "run/model_best.pth.tar", "--evaluate",
                     "--save_dir", tmp_path / "unused")
    assert f"test: {result['test_acc']:.2f}%" in again.stdout and f"val: {result['val_acc']:.2f}%" in again.stdout
    assert not (tmp_path / "unused").exists(), "--evaluate writes nothing"


@pytest.mark.slow
def test_a_ticket_file_brings_its_own_weights(run_main, ticket, tmp_path):
    outcomes = []
    for name, words in (("a", ("--mask_dir", ticket / "ticket.pth.tar")),
                        ("b", ("--mask_dir", ticket / "masks.pth.tar", "--pretrained", ticket / "weights.pth.tar"))):
        done = run_main("main_eval_all.py", *SHORT, *words, "--save_dir", tmp_path / name)
        assert done.returncode == 0, done.stderr
        outcomes.append(load(tmp_path / name / "checkpoint.pth.tar")["state_dict"])
    assert all(torch.equal(outcomes[0][name], outcomes[1][name]) for name in outcomes[0])


@pytest.mark.slow
def test_killed_and_resumed_ends_with_the_same_bits(run_main, ticket, tmp_path):
    words = ["main_eval_all.py", *SHORT[:4], "--epochs", "12", "--mask_dir", str(ticket / "ticket.pth.tar")]
    assert run_main(*words, "--save_dir", tmp_path / "whole").returncode == 0
    process = subprocess.Popen([sys.executable, *words, "--save_dir", str(tmp_path / "killed")],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    last = tmp_path / "killed/checkpoint.pth.tar"
    while not last.exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    reached = load(last)["epoch"]
    assert reached < 12, "killed before the end"
    assert run_main(*words, "--save_dir", tmp_path / "killed").returncode == 0
    for name in ("checkpoint", "model_best"):
        whole, resumed = (load(tmp_path / run / f"{name}.pth.tar")["state_dict"] for run in ("whole", "killed"))
        assert list(whole) == list(resumed)
        assert all(torch.equal(whole[key], resumed[key]) for key in whole)


@pytest.mark.slow
def test_another_mask_under_the_same_name_is_noticed(run_main, refused, ticket, tmp_path):
    mask_file = tmp_path / "masks.pth.tar"
    mask_file.write_bytes((ticket / "masks.pth.tar").read_bytes())
    words = ("main_eval_all.py", *SHORT, "--mask_dir", mask_file, "--pretrained", ticket / "weights.pth.tar",
             "--save_dir", tmp_path / "run")
    assert run_main(*words).returncode == 0
    masks = load(mask_file)
    masks["layer1.0.conv1.weight_mask"][0, 0, 0, 0] ^= 1
    torch.save(masks, mask_file)
    before = (tmp_path / "run/checkpoint.pth.tar").read_bytes()
    assert f"{mask_file} (" in refused(run_main(*words))
    assert (tmp_path / "run/checkpoint.pth.tar").read_bytes() == before


@pytest.mark.slow
def test_weights_of_another_class_count_need_a_fresh_classifier(run_main, refused, ticket, make_model, tmp_path):
    torch.save(make_model("res20s", classes=100).state_dict(), tmp_path / "hundred.pth.tar")
    words = ("main_eval_all.py", *SHORT, "--mask_dir", ticket / "masks.pth.tar", "--pretrained",
             tmp_path / "hundred.pth.tar", "--save_dir", tmp_path / "run")
    assert "--no_fc" in refused(run_main(*words))
    assert not (tmp_path / "run").exists()
    assert run_main(*words, "--no_fc").returncode == 0


def test_masks_without_weights_are_refused(run_main, refused, ticket, tmp_path):
    message = refused(run_main("main_eval_all.py", *SHORT, "--mask_dir", ticket / "masks.pth.tar", "--save_dir",
                               tmp_path / "run"))
    assert "masks but no weights" in message and not (tmp_path / "run").exists()


@pytest.mark.parametrize(("fewer", "epochs"), [pytest.param(("--epochs", 3), 3, marks=pytest.mark.slow, id="3 epochs"),
                                               pytest.param((), 182, marks=pytest.mark.nightly, id="as printed")])
def test_the_original_readmes_commands_for_scheme_2(run_main, make_model, make_dataset, tmp_path, monkeypatch, fewer, epochs):
    """As printed, but for the scripts' new names; the data set is a small stand-in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pruner.experiment.load_dataset",
                        lambda *_: make_dataset(train=40, val=12, test=12, size=8, classes=10))
    model = make_model("res20s", classes=10)
    generator = torch.Generator().manual_seed(0)
    mask = Mask({name: torch.rand(layer.weight.shape, generator=generator) < 0.19369
                 for name, layer in prunable_layers(model).items()})
    # the published commands name layer2.1.conv1 at (2, 3): a ticket in which that is the most similar region
    mask = embed(mask, "signature", Region("layer2.1.conv1", 2, 3, CodeFormat(3, "H", 0), 0.0), np.random.default_rng(0))
    mask["layer2.1.conv1"][2:12, 3:13] = False
    (tmp_path / "ownership").mkdir()
    tickets.write_masks("ownership/res20s_cifar10_extreme.pth.tar", mask)
    tickets.write_weights("ownership/epoch_3.pth.tar", model.state_dict(), {})

    done = run_main("embed_qrcode.py")
    assert done.returncode == 0, done.stderr
    done = run_main(*"main_eval_all.py --data datasets/cifar10 --dataset cifar10 --arch res20s --save_dir "
                    "res20s_cifar10_lt_qr --pretrained ownership/epoch_3.pth.tar --mask_dir "
                    "ownership/res20s_cifar10_qrcode_layer2.1.conv1.weight_mask.pth.tar --fc --prune-type lt --type "
                    "identity --save_model".split(), *fewer)
    assert done.returncode == 0, done.stderr
    assert load("res20s_cifar10_lt_qr/checkpoint.pth.tar")["epoch"] == epochs
    done = run_main(*"extract_qrcode.py --save_dir _ --data datasets/cifar10 --checkpoint "
                    "res20s_cifar10_lt_qr/checkpoint.pth.tar --arch res20s --max-name layer2.1.conv1 --start-x 2 "
                    "--start-y 3".split())
    assert done.returncode == 0, done.stderr
    assert "ZXing:   'signature'" in done.stdout
    assert (tmp_path / "_/code.png").exists()
    assert qr_code.data_modules(3).sum() == 567
