"""docs/extending.md, run as it stands: its modules and registry entries, its commands, and what it says is refused."""

import csv
import glob
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import networkx
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, documented_blocks
from torch import nn

import datasets
import models
from datasets import Source, load_dataset
from models import Architecture, build_model
from models.normalize import Normalize
from pruner import tickets
from pruner.channel_graph import channel_graph
from pruner.masks import Mask, prunable_layers
from pruner.key_mask.scores import SCORES, Scoring
from utils.errors import UserError

TEXT = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
SIZE, CLASSES = 28, 10


def write_fashion(folder: Path, train: int = 240, test: int = 40) -> None:
    """Learnable pictures in the files of torchvision's FashionMNIST (the IDX format)."""
    random, raw = np.random.default_rng(0), folder / "FashionMNIST/raw"
    patterns = random.integers(40, 216, (CLASSES, SIZE, SIZE))
    raw.mkdir(parents=True)
    for part, count in (("train", train), ("t10k", test)):
        labels = (np.arange(count) % CLASSES).astype(np.uint8)
        images = np.clip(patterns[labels] + random.normal(0, 30, (count, SIZE, SIZE)), 0, 255).astype(np.uint8)
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">i4").tobytes()
            (raw / f"{part}-{name}-ubyte").write_bytes(header + array.tobytes())


@pytest.fixture
def extended(documented_entries, monkeypatch, tmp_path):
    """The document's modules where they belong (folders that the packages' paths are extended by), and its entries."""
    for where, code in documented_blocks().items():
        package, _, file = where.rpartition("/")
        if re.fullmatch(r"\w+\.py", file) and package in ("models", "datasets"):
            assert not (ROOT / where).exists()
            (tmp_path / "modules" / package).mkdir(parents=True, exist_ok=True)
            (tmp_path / "modules" / where).write_text(code)
            monkeypatch.delitem(sys.modules, f"{package}.{file[:-3]}", raising=False)
    for package in (models, datasets):
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path / "modules" / package.__name__)])
    importlib.invalidate_caches()
    return documented_entries


# --- the pipeline -----------------------------------------------------------------------------------------------------


def commands(heading: str = "Through the whole pipeline") -> list[list[str]]:
    """The commands of the first block of commands under a heading."""
    block = re.search(rf"^## {heading}\n.*?```bash\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)[1]
    lines = block.replace("\\\n", " ").splitlines()
    return [shlex.split(line)[1:] for line in lines if line.startswith("python ")]


def test_every_step_is_documented():
    assert [words[0] for words in commands()] == [
        "main_imp.py", "make_claim.py", "embed_qrcode.py", "main_eval_all.py", "extract_qrcode.py", "main_eval_all.py", "main_attack.py",
        "main_attack.py", "extract_qrcode.py", "make_claim.py", "main_verify.py"]


@pytest.mark.slow
def test_the_commands_as_they_stand(extended, run_main, monkeypatch, tmp_path):
    """All of them, in an empty folder, with fewer epochs, rounds and pictures."""
    monkeypatch.chdir(tmp_path)
    write_fashion(tmp_path / "datasets/fashion")
    smaller = {"main_imp.py": ["--epochs", 3, "--pruning_times", 2, "--limit", 64],
               "main_eval_all.py": ["--epochs", 2, "--limit", 64]}
    for script, *words in commands():
        words = [path for word in words for path in (sorted(glob.glob(word)) if "*" in word else [word])]
        done = run_main(script, *words, *smaller.get(script, []))
        assert done.returncode == 0 and done.stderr == "", (script, words, done.stdout, done.stderr)
    run = tmp_path / "runs/fashion"

    def result(name: str) -> dict:
        return json.loads((run / name / "result.json").read_text())

    # the network's own layers, weight decay and count of weights
    model = build_model("vgg8", CLASSES)
    entries = sum(9 * a * b for a, b in ((32, 32), (32, 32), (32, 64), (64, 64), (64, 128), (128, 128)))
    kept = entries
    for _ in range(2):
        kept -= round(0.2 * kept)
    found = result("ticket")
    assert (found["nonzeros"], found["density"]) == (kept, kept / entries)
    arguments = json.loads((run / "ticket/run.json").read_text())["arguments"]
    assert (arguments["weight_decay"], arguments["dataset"]) == (5e-4, "fashion")
    # the signature, in a model that was trained with it and after all that a thief did
    signed = tickets.read_model_file(next((run / "signed").glob("*.weight_mask.pth.tar")), model).mask
    place = json.loads(next((run / "signed").glob("*.claim.json")).read_text())
    assert signed.nonzeros == kept and place["layer"] in ("stage1.0", "stage1.3")
    text = place["signature"]
    assert re.fullmatch(r"[\w-]{24}", text), "a derived text: 24 letters of base64url at version 3-H"
    for name in ("extracted", "aligned"):
        reading = json.loads((run / name / "extraction.json").read_text())
        assert reading["match"] and set(reading["readers"].values()) == {text} and reading["flipped"] == 0
    scattered = tickets.read_model_file(run / "permuted/attacked.pth.tar", model).mask
    assert scattered.nonzeros == kept and scattered != signed
    rows = list(csv.DictReader((run / "pruned/attack.csv").open(newline="")))
    assert [int(row["nonzeros"]) for row in rows] == [kept - round(level * kept) for level in (0, 0.1, 0.3)]
    assert rows[0]["read by ordered statistics"] == "True"
    # the key is the share asked for
    locked = result("locked")
    assert locked["split"] == "betweenness" and locked["key_nonzeros"] == round(0.05 * kept)
    claim = json.loads((run / "claim/claim.json").read_text())
    assert "Fashion-MNIST" not in json.dumps(claim) and '"fashion"' in json.dumps(claim)


@pytest.mark.slow
def test_a_checkpoint_of_ones_own_there_and_back(owner, run_main, monkeypatch, tmp_path):
    """The commands as they stand, on a model whose code calls two layers otherwise."""
    monkeypatch.chdir(tmp_path)
    names = re.search(r"^cat names.json   # (.*)$", TEXT, re.MULTILINE)[1]
    called = {ours: theirs for theirs, ours in json.loads(names).items()}
    weights = tickets.read_model_file(owner / "own.pth.tar", build_model("res20s", 10)).weights
    theirs = {f"{called.get(name.rpartition('.')[0], name.rpartition('.')[0])}.{name.rpartition('.')[2]}": tensor
              for name, tensor in weights.items() if not name.startswith("normalize.")}
    torch.save({"state_dict": theirs}, "their_model.pth")
    Path("names.json").write_text(names)
    Path("runs/signed").mkdir(parents=True)
    shutil.copy(owner / "own.pth.tar", "runs/signed/model_best.pth.tar")
    shutil.copy(owner / "v2.json", "code.claim.json")
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    for script, *words in commands("From a checkpoint of your own"):
        done = run_main(script.removeprefix("scripts/"), *words)
        assert done.returncode == 0 and done.stderr == "", (script, done.stdout, done.stderr)
    assert json.loads(Path("runs/read/extraction.json").read_text())["derivation"]["chosen"] == json.loads(names)
    back = torch.load("own_names.pth", weights_only=True)
    assert back.keys() == theirs.keys() and all(torch.equal(back[name], tensor) for name, tensor in theirs.items())


@pytest.mark.slow
def test_a_deeper_network_and_own_arrays(extended, run_main, tmp_path, make_dataset):
    made = make_dataset(train=60, test=20, size=9, classes=3)
    np.savez(tmp_path / "own.npz", train_images=made.train.images.numpy(), train_labels=made.train.labels.numpy(),
             test_images=made.test.images.numpy(), test_labels=made.test.labels.numpy())
    loaded = load_dataset("arrays", str(tmp_path / "own.npz"))
    assert (len(loaded.train), len(loaded.val), len(loaded.test), loaded.num_classes) == (54, 6, 20, 3)
    done = run_main("main_imp.py", "--arch", "res32s", "--dataset", "arrays", "--data", tmp_path / "own.npz", "--epochs", 1,
                    "--rewind_epoch", 0, "--rate", 0.5, "--pruning_times", 1, "--save_dir", tmp_path / "run")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    arguments = json.loads((tmp_path / "run/run.json").read_text())["arguments"]
    assert arguments["weight_decay"] == 1e-4
    model = build_model("res32s", 3)
    # He et al. 2016, Table 6: 0.46 million at 10 classes
    assert f"{sum(p.numel() for p in build_model('res32s', 10).parameters()) / 1e6:.2f}" == "0.46"
    mask = tickets.read_model_file(tmp_path / "run/ticket.pth.tar", model).mask
    entries = sum(layer.weight.numel() for layer in prunable_layers(model).values())
    assert len(mask) == 30 and mask.nonzeros == entries - round(0.5 * entries)


# --- the channel graph of the new networks ----------------------------------------------------------------------------


def sparse(model: nn.Module, density: float) -> Mask:
    generator = torch.Generator().manual_seed(0)
    return Mask({name: torch.rand(layer.weight.shape, generator=generator) < density
                 for name, layer in prunable_layers(model).items()})


@pytest.mark.slow
def test_vgg_channel_graph_written_down_by_hand(extended):
    """A chain of layers: its graph, the products along all paths and betweenness, from the weights alone."""
    torch.manual_seed(0)
    model = build_model("vgg8", CLASSES).double()
    mask = sparse(model, 0.02)
    order = ["conv1", *mask, "fc"]
    assert order[1:-1] == [f"stage{number}.{place}" for number in (1, 2, 3) for place in (0, 3)]
    state = model.state_dict()
    strengths = [(state[f"{name}.weight"] * mask.get(name, True)).abs().flatten(2 if name != "fc" else 1)
                 .reshape(*state[f"{name}.weight"].shape[:2], -1).sum(2).numpy() for name in order]
    scoring = Scoring(model, mask)
    graph, ours = scoring.graph()
    assert [step.layer for step in graph.steps] == order and graph.nodes == 3 + 32 + 2 * 32 + 2 * 64 + 2 * 128 + CLASSES
    for name, strength in zip(order, strengths):
        np.testing.assert_allclose(ours[name], strength, rtol=1e-12)

    by_hand = networkx.DiGraph()
    for depth, strength in enumerate(strengths):
        for out, into in np.argwhere(strength > 0).tolist():
            by_hand.add_edge((depth, into), (depth + 1, out), distance=1 / strength[out, into])
    expected = networkx.edge_betweenness_centrality(by_hand, normalized=False, weight="distance")
    betweenness, products = SCORES["betweenness"](scoring), SCORES["ewp"](scoring)
    ahead = [np.ones(3)]
    for strength in strengths:
        ahead.append(strength @ ahead[-1])
    behind = [np.ones(CLASSES)]
    for strength in strengths[::-1]:
        behind.append(behind[-1] @ strength)
    paths = {name: behind[-2 - depth][:, None] * strengths[depth] * ahead[depth] for depth, name in enumerate(order)}
    top = max(paths[name].max() for name in mask)
    for depth, name in enumerate(order[1:-1], 1):
        for out, into in np.argwhere(strengths[depth] > 0).tolist():
            kept = mask[name][out, into]
            assert betweenness[name][out, into][kept].tolist() == pytest.approx(
                [expected[(depth, into), (depth + 1, out)]] * int(kept.sum()), rel=1e-9, abs=1e-9)
            assert products[name][out, into][kept].tolist() == pytest.approx(
                [paths[name][out, into] / top] * int(kept.sum()), rel=1e-9)


def test_res32s_channel_graph_against_what_the_network_computes(extended):
    """A class depends on a picture's channel exactly if the graph has a path between them."""
    graph = channel_graph(build_model("res32s", 4))
    assert graph.nodes == 3 + 16 + 2 * 5 * (16 + 32 + 64) + 4
    assert sum(step.layer is None for step in graph.steps) == 15
    joined, apart = 0, 0
    for seed in range(4):
        model, generator = build_model("res32s", 4).double().eval(), torch.Generator().manual_seed(seed)
        for module in model.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                keep = torch.rand(module.weight.shape[:2], generator=generator) < 0.8 / module.weight.shape[1]
                module.weight.data = module.weight.data.abs()
                module.weight.data[~keep] = 0
        picture = torch.rand(1, 3, 8, 8, generator=generator, dtype=torch.float64, requires_grad=True)
        logits = model(picture)
        reached = np.zeros((graph.nodes, 3), dtype=bool)
        reached[graph.inputs] = np.eye(3, dtype=bool)
        layers = dict(model.named_modules())
        for step in graph.steps:  # in the order of computation
            passed = (reached[step.sources] & (step.sources >= 0)[:, None]).astype(int)
            if step.layer is not None:
                passed = (layers[step.layer].weight.detach().flatten(2 if layers[step.layer].weight.dim() > 2 else 1)
                          .reshape(len(step.targets), len(step.sources), -1).abs().sum(2) > 0).numpy().astype(int) @ passed
            reached[step.targets] |= passed > 0
        for label, output in enumerate(graph.outputs):
            gradient, = torch.autograd.grad(logits[0, label], picture, retain_graph=True)
            for channel in range(3):
                assert bool(gradient[0, channel].any()) == reached[output, channel]
                joined, apart = joined + reached[output, channel], apart + (not reached[output, channel])
    assert joined and apart, "the nets must have both"


# --- what the document says is refused --------------------------------------------------------------------------------


class Plain(nn.Module):
    """As little as a network may be."""

    def __init__(self, num_classes, mean, std):
        super().__init__()
        self.normalize = Normalize(mean, std)
        self.conv1, self.conv2 = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1)
        self.fc = nn.Linear(32, num_classes)

    def forward(self, x):
        x = self.features(F.relu(self.conv1(self.normalize(x))))
        return self.fc(x.mean((2, 3)))

    def features(self, x):
        return F.relu(self.conv2(x))


class Gated(Plain):
    def features(self, x):
        return self.conv2(x) * torch.sigmoid(x)


class Depthwise(Plain):
    def __init__(self, *task):
        super().__init__(*task)
        self.conv2 = nn.Conv2d(32, 32, 3, padding=1, groups=32)


@pytest.fixture
def register(monkeypatch):
    """register(builder) makes it the network `mine`."""

    def add(builder) -> None:
        monkeypatch.setitem(models.ARCHITECTURES, "mine", Architecture(__name__, "builder", "Mine"))
        monkeypatch.setattr(sys.modules[__name__], "builder", builder, raising=False)

    return add


def without(name: str, instead: nn.Module | None = None):
    def build(*task):
        model = Plain(*task)
        setattr(model, name, instead)
        return model

    return build


def parametrized(*task):
    model = Plain(*task)
    nn.utils.parametrizations.weight_norm(model.conv2)
    return model


@pytest.mark.parametrize("builder, named", [
    (without("normalize"), "`normalize`"), (without("normalize", nn.Identity()), "`normalize`"),
    (without("conv1"), "called `conv1`"), (without("conv1", nn.Conv2d(1, 32, 3)), "called `conv1`"),
    (without("fc"), "called `fc`"), (without("fc", nn.Linear(32, 7)), "Linear of 10 outputs"),
    (without("conv2"), "no Conv2d to prune"), (parametrized, "no plain parameter `conv2.weight`")])
def test_a_network_that_lacks_something_is_refused(register, run_main, refused, tmp_path, builder, named):
    register(builder)
    message = refused(run_main("main_imp.py", "--arch", "mine", "--save_dir", tmp_path / "run"))
    assert "--arch mine" in message and named in message and "docs/extending.md" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_least_network_goes_all_the_way(register, run_main, tmp_path):
    register(Plain)
    small = ("--arch", "mine", "--epochs", 2, "--limit", 60)
    for words in (("main_imp.py", *small, "--rate", 0.5, "--pruning_times", 1, "--rewind_epoch", 1, "--save_dir", "ticket"),
                  ("embed_qrcode.py", "--arch", "mine", "--mask_dir", "ticket/ticket.pth.tar", "--save_dir", "signed"),
                  ("main_eval_all.py", *small, "--mask_dir", "ticket/ticket.pth.tar", "--type", "ewp", "--key_ratio", 0.1,
                   "--save_dir", "locked")):
        done = run_main(*(tmp_path / word if word in ("ticket", "signed", "locked", "ticket/ticket.pth.tar") else word
                          for word in words))
        assert done.returncode == 0, done.stderr
    claim = json.loads(next((tmp_path / "signed").glob("*.claim.json")).read_text())
    assert (claim["arch"], claim["layer"], claim["nonzeros"]) == ("mine", "conv2", 32 * 32 * 9 // 2)


@pytest.mark.slow
def test_what_the_channel_graph_cant_follow_is_one_line_and_the_rest_works(register, run_main, refused, tmp_path):
    register(Gated)
    task = ("--arch", "mine", "--epochs", 1, "--limit", 60)
    done = run_main("main_imp.py", *task, "--rate", 0.5, "--pruning_times", 1, "--rewind_epoch", 0, "--save_dir", tmp_path / "t")
    assert done.returncode == 0, done.stderr
    ticket = ("--mask_dir", tmp_path / "t/ticket.pth.tar", "--key_ratio", 0.1)
    message = refused(run_main("main_eval_all.py", *task, *ticket, "--type", "ewp", "--save_dir", tmp_path / "e"))
    documented = re.search(r"^error: (the channel graph can't follow .*)$", TEXT, re.MULTILINE)[1]
    assert message == f"main_eval_all.py: error: {documented}\n"
    assert not (tmp_path / "e").exists()
    assert run_main("main_eval_all.py", *task, *ticket, "--type", "omp", "--save_dir", tmp_path / "o").returncode == 0


def test_depthwise_layers_are_pruned_scored_and_have_no_room_for_a_code(register, run_main, refused, tmp_path):
    register(Depthwise)
    model = build_model("mine", 3)
    mask = sparse(model, 0.5)
    scores = SCORES["betweenness"](Scoring(model, mask))["conv2"]
    assert torch.isfinite(scores[mask["conv2"]]).all() and mask["conv2"].shape == (32, 1, 3, 3)
    tickets.write_masks(tmp_path / "mask.pth.tar", mask)
    message = refused(run_main("embed_qrcode.py", "--arch", "mine", "--mask_dir", tmp_path / "mask.pth.tar", "--save_dir",
                               tmp_path / "signed"))
    assert "no code fits into layer conv2: the smallest is 21 channels wide and high" in message


def changed(part: str, **values):
    """A loader of a synthetic data set of which one part is replaced."""
    def change(made):
        pictures = replace(getattr(made, part), **{name: value(getattr(getattr(made, part), name))
                                                   for name, value in values.items()})
        return replace(made, **{part: pictures})

    return change


@pytest.mark.parametrize("change, named", [
    (changed("train", inputs=lambda images: images.float()), "train images must be uint8"),
    (changed("train", inputs=lambda images: images[..., :1]), "train images must be uint8"),
    (changed("val", inputs=lambda images: images[:, :7]), "val images must be uint8"),
    (changed("test", inputs=lambda images: images[:, 1:, 1:]), "test images must be uint8"),
    (changed("test", labels=lambda labels: labels.int()), "test labels must be int64"),
    (changed("val", labels=lambda labels: labels[1:]), "val labels must be int64"),
    (changed("train", labels=lambda labels: labels + 1), "train labels must be from 0 to 2, and run from 1 to 3"),
    (changed("val", labels=lambda labels: labels[:0], inputs=lambda images: images[:0]), "at least one"),
    (lambda made: replace(made, mean=(0.5,)), "mean and std must be three numbers"),
    (lambda made: replace(made, std=(0.5, 0.0, 0.5)), "mean and std must be three numbers")])
def test_a_data_set_that_is_not_what_training_relies_on_is_refused(monkeypatch, make_dataset, change, named):
    monkeypatch.setitem(datasets.DATASETS, "mine", Source(__name__, "loader", "Mine"))
    monkeypatch.setattr(sys.modules[__name__], "loader", lambda root, size: change(make_dataset()), raising=False)
    with pytest.raises(UserError, match=f"--dataset mine: .*{re.escape(named)}.*docs/extending.md"):
        load_dataset("mine")


def test_the_documents_loaders_refuse_what_they_cant_do(extended, tmp_path):
    for data, root, size, named in (("fashion", None, 32, "--image_size 32"), ("arrays", None, None, "needs the .npz file"),
                                    ("arrays", "x.npz", 9, "no --image_size")):
        with pytest.raises(UserError, match=named):
            load_dataset(data, root, size)
    np.savez(tmp_path / "odd.npz", train_images=np.zeros(3))
    with pytest.raises(UserError, match="is no such .npz file"):
        load_dataset("arrays", str(tmp_path / "odd.npz"))


# --- without touching the repository ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_script_of_ones_own(make_dataset, tmp_path):
    blocks, made = documented_blocks(), make_dataset(train=40, test=10)
    (tmp_path / "mine.py").write_text(blocks["mine.py"])
    for name in ("models/vgg.py", "datasets/arrays.py"):
        (tmp_path / Path(name).name).write_text(blocks[name])
    np.savez(tmp_path / "own.npz", train_images=made.train.images.numpy(), train_labels=made.train.labels.numpy(),
             test_images=made.test.images.numpy(), test_labels=made.test.labels.numpy())
    command = re.search(r"^PYTHONPATH=\S+ python (mine\.py .*)$", TEXT, re.MULTILINE)[1]
    words = [*shlex.split(command), "--epochs", "1", "--rewind_epoch", "0", "--pruning_times", "0"]

    def run(*words) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, timeout=120,
                              env={**os.environ, "PYTHONPATH": str(ROOT)})

    done = run(*words)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "runs/mine/run.json").read_text())
    assert (record["script"], record["arguments"]["arch"], record["arguments"]["weight_decay"]) == ("main_imp.py", "vgg8", 1e-4)
    alone = run("mine.py")
    assert alone.returncode == 1 and alone.stderr == "give a script of this project and its flags, e.g. main_imp.py --help\n"
    wrong = run("mine.py", "main_imp.py", "--arch", "vgg9")
    assert wrong.returncode == 2 and wrong.stderr.startswith("main_imp.py: error: argument --arch") and "vgg8" in wrong.stderr
