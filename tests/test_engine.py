"""The training loop against a plain one, its records, and what it refuses."""

import copy
import csv
import dataclasses
import math
import random
import re
import sysconfig

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.nn.utils import prune
from torch.utils._python_dispatch import TorchDispatchMode

from pruner.masks import Mask, MaskedWeights, prunable_layers
from utils import checkpoint, engine
from utils.engine import Engine, TrainingProtocol
from utils.errors import UserError
from utils.run_dir import TrainingFiles, versions

CPU = torch.device("cpu")
# so short that a mistake which goes unnoticed does not hold up the tests
SHORT = ("--epochs", 4, "--limit", 64, "--pruning_times", 0)
PROTOCOL = TrainingProtocol(epochs=3, lr=0.02, milestones=(2,), batch_size=16, momentum=0.9, weight_decay=5e-4)


def random_mask(model: nn.Module, share: float = 0.3) -> Mask:
    generator = torch.Generator().manual_seed(5)
    return Mask({name: torch.rand(layer.weight.shape, generator=generator) < share
                 for name, layer in prunable_layers(model).items()})


def metrics(files: TrainingFiles) -> list[dict[str, float]]:
    with open(files.metrics, newline="", encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def copy_of(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in state.items()}


def assert_same(left: dict, right: dict) -> None:
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


# --- the arithmetic of training ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("warmup", [0, 5])
@pytest.mark.parametrize("masked", [False, True])
def test_training_equals_a_plain_loop(make_model, make_dataset, tmp_path, masked, warmup):
    """Masks in place against weights reparametrised by torch.nn.utils.prune, same batches, same SGD."""
    data, model, plain = make_dataset(train=60), make_model(), make_model()
    protocol = dataclasses.replace(PROTOCOL, warmup=warmup)
    mask = random_mask(model) if masked else None
    trainer = Engine(model, CPU)
    trainer.fit(data, protocol, TrainingFiles(tmp_path), 7, MaskedWeights(model, mask) if masked else None)

    if masked:
        for name, layer in prunable_layers(plain).items():
            prune.custom_from_mask(layer, "weight", mask[name])
    optimizer = torch.optim.SGD(plain.parameters(), protocol.lr, protocol.momentum, weight_decay=protocol.weight_decay,
                                foreach=False, fused=False)
    generator = torch.Generator().manual_seed(7)
    step, losses, hits = 0, [], []
    plain.train()
    for epoch in range(1, protocol.epochs + 1):
        rate = protocol.lr * 0.1 ** sum(milestone < epoch for milestone in protocol.milestones)
        losses.append(0.0)
        hits.append(0)
        for images, labels in data.train_batches(protocol.batch_size, generator):
            step += 1
            optimizer.param_groups[0]["lr"] = rate * (min(1.0, step / warmup) if warmup else 1.0)
            logits = plain(images)
            loss = F.cross_entropy(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1] += loss.item() * len(labels)
            hits[-1] += (logits.argmax(1) == labels).sum().item()

    expected = plain.state_dict()
    for name, tensor in model.state_dict().items():
        layer = name.removesuffix(".weight")
        if masked and layer in mask:
            kept = mask[layer]
            assert (tensor[~kept] == 0).all(), f"{name}: a pruned weight came back"
            torch.testing.assert_close(tensor[kept], expected[f"{layer}.weight_orig"][kept], rtol=1e-4, atol=1e-5)
        else:
            torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-5, msg=lambda m: f"{name}: {m}")
    assert len(metrics(TrainingFiles(tmp_path))) == protocol.epochs
    for row, loss, correct in zip(metrics(TrainingFiles(tmp_path)), losses, hits):
        assert math.isclose(row["train_loss"], loss / len(data.train), rel_tol=1e-4)
        assert row["train_acc"] == 100 * correct / len(data.train)


@pytest.mark.slow
def test_pruned_weights_stay_zero_after_every_epoch_and_in_both_files(make_model, make_dataset, tmp_path):
    model, files = make_model(), TrainingFiles(tmp_path)
    mask = random_mask(model)
    seen = []

    def look(epoch: int) -> None:
        for name, layer in prunable_layers(model).items():
            assert (layer.weight[~mask[name]] == 0).all(), f"epoch {epoch}, {name}"
        seen.append(epoch)

    Engine(model, CPU).fit(make_dataset(), PROTOCOL, files, 1, MaskedWeights(model, mask), look)
    assert seen == [0, 1, 2, 3]
    for path in (files.last, files.best):
        state = torch.load(path, weights_only=True)["state_dict"]
        for name, kept in mask.items():
            assert torch.equal(state[f"{name}.weight_mask"].bool(), kept)
            assert (state[f"{name}.weight_orig"][~kept] == 0).all()
            assert f"{name}.weight" not in state


@pytest.mark.slow
def test_the_network_learns(make_model, make_dataset, tmp_path):
    data = make_dataset(train=192, classes=3)
    done = Engine(make_model(), CPU).fit(data, dataclasses.replace(PROTOCOL, epochs=8, milestones=(4, 6), lr=0.1),
                                         TrainingFiles(tmp_path), 1)
    assert done.test_acc > 90  # chance is 33; the patterns are far apart


# --- records ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_metrics_are_what_an_independent_evaluation_finds(make_model, make_dataset, tmp_path):
    data, model, files = make_dataset(train=48, val=29, test=31), make_model(), TrainingFiles(tmp_path)
    states = {}
    done = Engine(model, CPU).fit(data, PROTOCOL, files, 1,
                                  after_epoch=lambda epoch: states.update({epoch: copy_of(model.state_dict())}))
    rows = metrics(files)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    judge = make_model(seed=9).eval()
    for row in rows:
        judge.load_state_dict(states[row["epoch"]])
        for split in ("val", "test"):
            pictures = getattr(data, split)
            images = torch.from_numpy(pictures.images.numpy().transpose(0, 3, 1, 2).astype(np.float32) / 255)
            with torch.no_grad():
                logits = torch.cat([judge(image[None]) for image in images]).double()
            correct = sum(int(row.argmax() == label) for row, label in zip(logits, pictures.labels))
            assert row[f"{split}_acc"] == 100 * correct / len(pictures)
            loss = -torch.log_softmax(logits, 1)[range(len(pictures)), pictures.labels].mean().item()
            assert math.isclose(row[f"{split}_loss"], loss, rel_tol=1e-4)
    assert done.epochs == 3 and done.test_acc_last == rows[-1]["test_acc"]
    assert math.isclose(done.seconds, sum(row["seconds"] for row in rows)) and all(row["seconds"] > 0 for row in rows)
    assert files.curve.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.parametrize("val, best", [
    ([50, 70, 70, 60], 3), ([50, 50, 50, 50], 4), ([80, 70, 60, 50], 1), ([0, 0, 0, 0], 4), ([10, 90, 20, 90], 4)])
def test_the_best_epoch_is_the_later_of_equals_by_validation(make_model, make_dataset, tmp_path, val, best):
    data, model, files = make_dataset(train=16), make_model(), TrainingFiles(tmp_path)
    test = [41.0, 42.0, 43.0, 44.0]
    states = {}

    class Scripted(Engine):
        def evaluate(self, pictures):
            epoch = len(states)
            return 1.0, float(val[epoch] if pictures is data.val else test[epoch])

    done = Scripted(model, CPU).fit(data, dataclasses.replace(PROTOCOL, epochs=4), files, 1, after_epoch=lambda epoch:
                                    epoch and states.update({epoch: copy_of(model.state_dict())}))
    assert (done.best_epoch, done.val_acc, done.test_acc) == (best, val[best - 1], test[best - 1])
    assert done.test_acc_last == 44.0
    saved = torch.load(files.best, weights_only=True)
    assert (saved["epoch"], saved["val_acc"], saved["test_acc"]) == (best, val[best - 1], test[best - 1])
    assert_same(saved["state_dict"], states[best])
    assert_same(torch.load(files.last, weights_only=True)["state_dict"], states[4])


@pytest.mark.slow
def test_files_hold_the_given_facts_and_the_epoch(make_model, make_dataset, tmp_path):
    files = TrainingFiles(tmp_path)
    Engine(make_model(), CPU).fit(make_dataset(train=16), PROTOCOL, files, 1, facts={"arch": "res20s", "density": 0.5})
    for path in (files.last, files.best):
        content = torch.load(path, weights_only=True)
        assert (content["arch"], content["density"]) == ("res20s", 0.5)
    assert torch.load(files.last, weights_only=True)["epoch"] == 3


@pytest.mark.slow
@pytest.mark.parametrize("epochs, milestones, rates", [
    (6, (2, 4), [0.1, 0.1, 0.01, 0.01, 0.001, 0.001]),
    (4, (1,), [0.1, 0.01, 0.01, 0.01]),
    (3, (), [0.1, 0.1, 0.1]),
    (3, (3, 9), [0.1, 0.1, 0.1]),
])
def test_the_rate_falls_after_each_milestone(make_model, make_dataset, tmp_path, epochs, milestones, rates):
    protocol = dataclasses.replace(PROTOCOL, epochs=epochs, lr=0.1, milestones=milestones)
    files = TrainingFiles(tmp_path)
    Engine(make_model(), CPU).fit(make_dataset(train=8, val=3, test=3), protocol, files, 1)
    assert [row["lr"] for row in metrics(files)] == pytest.approx(rates, rel=1e-12)


def test_evaluation_leaves_the_model_as_it_was(make_model, make_dataset):
    model, data = make_model(), make_dataset()
    trainer = Engine(model, CPU)
    before = copy_of(model.state_dict())
    for mode in (True, False):
        model.train(mode)
        trainer.evaluate(data.test)
        assert model.training is mode
    assert_same(model.state_dict(), before)


# --- resuming ---------------------------------------------------------------------------------------------------------


class Noisy(nn.Module):
    """Dropout, so that the result depends on torch's global random state."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3)
        self.conv2 = nn.Conv2d(4, 8, 3)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        x = F.relu(self.conv2(F.relu(self.conv1(x)))).mean((2, 3))
        return self.fc(self.drop(x) + random.random() + np.random.rand())  # and on Python's and numpy's


class Killed(BaseException):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("stops", [(1,), (2, 5), (6,), (1, 2, 3, 4, 5, 6)])
def test_stopped_and_resumed_training_equals_an_uninterrupted_one(make_dataset, tmp_path, stops, masked):
    data = make_dataset(train=40, flip=True)
    protocol = dataclasses.replace(PROTOCOL, epochs=6, milestones=(2, 4), warmup=8)

    def fresh() -> Engine:
        torch.manual_seed(3)
        return Engine(Noisy(), CPU)

    def constraint(trainer: Engine):
        return MaskedWeights(trainer.model, random_mask(trainer.model)) if masked else None

    whole, parts = TrainingFiles(tmp_path / "whole"), TrainingFiles(tmp_path / "parts")
    trainer = fresh()
    expected = trainer.fit(data, protocol, whole, 1, constraint(trainer))
    for stop in stops:  # killed while it writes what belongs to this epoch

        def kill(epoch: int) -> None:
            if epoch == stop:
                raise Killed

        trainer = fresh()
        with pytest.raises(Killed):
            trainer.fit(data, protocol, parts, 1, constraint(trainer), kill)
        torch.rand(7), random.random(), np.random.rand()  # another process has another random state
    trainer = fresh()
    done = trainer.fit(data, protocol, parts, 1, constraint(trainer))

    assert dataclasses.replace(done, seconds=0) == dataclasses.replace(expected, seconds=0)
    for name in ("last", "best"):
        left, right = (torch.load(getattr(files, name), weights_only=True) for files in (whole, parts))
        assert_same(left["state_dict"], right["state_dict"])
    assert ([{**row, "seconds": 0} for row in metrics(parts)] == [{**row, "seconds": 0} for row in metrics(whole)])


@pytest.mark.slow
def test_a_finished_training_only_reports(make_model, make_dataset, tmp_path):
    data, files = make_dataset(), TrainingFiles(tmp_path)
    first = Engine(make_model(), CPU).fit(data, PROTOCOL, files, 1)
    before, best = (files.last.stat().st_mtime_ns, files.last.read_bytes()), torch.load(files.best, weights_only=True)
    epochs, model = [], make_model(seed=4)
    assert Engine(model, CPU).fit(data, PROTOCOL, files, 1, after_epoch=epochs.append) == first
    assert epochs == []
    assert before == (files.last.stat().st_mtime_ns, files.last.read_bytes())
    again = torch.load(files.best, weights_only=True)
    assert_same(best.pop("state_dict"), again.pop("state_dict"))
    assert best == again
    assert_same(model.state_dict(), torch.load(files.last, weights_only=True)["state_dict"])


@pytest.mark.slow
def test_a_damaged_checkpoint_is_refused_by_name(make_model, make_dataset, tmp_path):
    files = TrainingFiles(tmp_path)
    Engine(make_model(), CPU).fit(make_dataset(), PROTOCOL, files, 1)
    files.last.write_bytes(files.last.read_bytes()[:5000])
    with pytest.raises(UserError, match="checkpoint.pth.tar"):
        Engine(make_model(), CPU).fit(make_dataset(), PROTOCOL, files, 1)


# --- what can't be done -----------------------------------------------------------------------------------------------


def test_divergence_is_an_error_that_names_the_rate(make_model, make_dataset, tmp_path):
    files = TrainingFiles(tmp_path)
    with pytest.raises(UserError, match="--lr 1e[+]30.*diverged in epoch 1"):
        Engine(make_model(), CPU).fit(make_dataset(), dataclasses.replace(PROTOCOL, lr=1e30), files, 1)
    assert not files.last.exists() and not files.best.exists()


@pytest.mark.slow
def test_nan_in_a_later_epoch_leaves_the_files_of_the_epoch_before(make_model, make_dataset, tmp_path):
    model, files = make_model(), TrainingFiles(tmp_path)

    def poison(epoch: int) -> None:
        if epoch == 2:
            with torch.no_grad():
                model.fc.weight[0, 0] = math.nan

    with pytest.raises(UserError, match="diverged in epoch 3"):
        Engine(model, CPU).fit(make_dataset(), PROTOCOL, files, 1, after_epoch=poison)
    assert torch.load(files.last, weights_only=True)["epoch"] == 2
    assert len(metrics(files)) == 2


@pytest.mark.slow
def test_script_reports_divergence_in_one_line(run_main, refused, tmp_path):
    message = refused(run_main("main_imp.py", *SHORT, "--lr", 1e30, "--save_dir", tmp_path / "run"))
    assert "--lr" in message and "diverged" in message


@pytest.mark.parametrize("name", ["gpu", "cuda:-1", "cuda:x", "meta", "mps", "", "cuda:99"])
def test_devices_this_machine_lacks_are_refused(name):
    with pytest.raises(UserError, match="--device"):
        engine.resolve_device(name)


@pytest.fixture
def first_sum(monkeypatch):
    """first_sum(error) -> what CUDA answers when it is first used, on a machine with two devices."""
    ones = torch.ones

    def answer(error: Exception | None) -> None:
        def on_device(*words, device=None, **more):
            if torch.device(device or "cpu").type == "cuda" and error is not None:
                raise error
            return ones(*words, **more)

        monkeypatch.setattr(torch, "ones", on_device)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)

    return answer


def test_auto_takes_cuda_where_there_is_one(monkeypatch, first_sum):
    assert engine.resolve_device("auto") == engine.resolve_device("cpu") == CPU
    first_sum(None)
    assert engine.resolve_device("auto") == engine.resolve_device("cuda") == torch.device("cuda:0")
    assert engine.resolve_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(UserError, match="--device cuda:2: this machine has 2"):
        engine.resolve_device("cuda:2")


@pytest.mark.parametrize(("error", "named"), [
    ("CUDA error: no kernel image is available for execution on the device\nCUDA kernel errors might be", "Old GPU.*6[.]1.*install"),
    ("The NVIDIA driver on your system is too old (found version 11040).", "too old")])
def test_a_gpu_that_can_not_be_used_is_one_line(monkeypatch, capsys, tmp_path, first_sum, error, named):
    first_sum(RuntimeError(error))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Old GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
    with pytest.raises(UserError, match=f"--device cuda: .*{named}") as refusal:
        engine.resolve_device("cuda")
    assert "\n" not in str(refusal.value)
    monkeypatch.setattr(engine, "GPU_DRIVERS", (str(tmp_path),))  # there is a GPU, so the fall-back is worth a line
    assert engine.resolve_device("auto") == CPU
    assert re.search(named, capsys.readouterr().err)
    monkeypatch.setattr(engine, "GPU_DRIVERS", (str(tmp_path / "none"),))
    assert engine.resolve_device("auto") == CPU and capsys.readouterr().err == ""


def test_amp_on_cpu_is_refused(make_model, run_main, refused, tmp_path):
    with pytest.raises(UserError, match="--amp"):
        Engine(make_model(), CPU, amp=True)
    message = refused(run_main("main_imp.py", *SHORT, "--amp", "--device", "cpu", "--save_dir", tmp_path / "run"))
    assert "--amp" in message and not (tmp_path / "run").exists()


@pytest.mark.slow
def test_compile_without_a_compiler_is_one_line(run_script, refused, tmp_path):
    message = refused(run_script("main_imp.py", *SHORT, "--compile", "--device", "cpu", "--save_dir", tmp_path / "run",
                                 env={"PATH": "", "CXX": "/nowhere/g++"}))
    assert "--compile" in message


def test_compile_on_cuda_needs_a_c_compiler_and_pythons_headers(monkeypatch, tmp_path):
    for name, content in (("gcc", "#!/bin/sh\n"),):
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o755)
    cuda = torch.device("cuda", 0)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="--compile: needs a C compiler.*gcc"):
        engine.check_can_compile(cuda)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="--compile: needs .*Python.h.*python3-dev"):
        engine.check_can_compile(cuda)
    (tmp_path / "Python.h").touch()
    engine.check_can_compile(cuda)


def test_a_record_of_a_cpu_run_does_not_start_cuda(monkeypatch):
    """It would take memory on the device, and put its random state into the checkpoints of a CPU run."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    def start():
        raise AssertionError("CUDA was started")

    monkeypatch.setattr(torch.cuda, "_lazy_init", start)
    assert "thread" in versions()["machine"]


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["res20s", "res18", "res50"])
def test_a_last_batch_of_one_picture_trains(make_model, make_dataset, tmp_path, arch):
    """At 8x8 pictures the last stage of res18 and res50 is 1x1, where one picture has no batch statistics."""
    data = make_dataset(train=5, val=3, test=3)
    done = Engine(make_model(arch), CPU).fit(data, dataclasses.replace(PROTOCOL, epochs=1, batch_size=4),
                                             TrainingFiles(tmp_path), 1)
    assert done.epochs == 1


@pytest.mark.slow
def test_checkpoints_load_with_weights_only(make_model, make_dataset, tmp_path):
    files = TrainingFiles(tmp_path)
    Engine(make_model(), CPU).fit(make_dataset(), PROTOCOL, files, 1)
    assert checkpoint.load(files.last)["epoch"] == 3 and checkpoint.load(files.best)["val_acc"] >= 0


# --- what a GPU needs, as far as a CPU shows it ---------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("train, sizes", [(40, [16, 16]), (33, [16])])
def test_graphs_are_recorded_of_one_batch_size_only_and_once(make_dataset, tmp_path, train, sizes):
    """40 pictures are two full batches and a short one, which runs unrecorded; of 33 the last batch has one more."""
    data = make_dataset(train=train, val=8, test=8)
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    model = copy.deepcopy(plain)
    expected = Engine(plain, CPU).fit(data, PROTOCOL, TrainingFiles(tmp_path / "plain"), 1)

    trainer, seen, counter = Engine(model, CPU), [], CompileCounter()
    compiled = torch.compile(trainer.loss, backend=counter, dynamic=False)
    trainer.records_graphs = True
    trainer.recorded_loss = lambda images, labels: (seen.append(len(labels)), compiled(images, labels))[1]
    done = trainer.fit(data, PROTOCOL, TrainingFiles(tmp_path / "recorded"), 1)
    assert seen == sizes * PROTOCOL.epochs
    assert counter.frame_count == 1
    assert dataclasses.replace(done, seconds=0) == dataclasses.replace(expected, seconds=0)
    assert_same(model.state_dict(), plain.state_dict())


class Waits(TorchDispatchMode):
    """Notes every operator whose result the host waits for when its input is on a GPU."""

    def __init__(self):
        super().__init__()
        self.found, self.seen = [], 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        masks = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
        if masks or name in ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique_dim", "_unique2"):
            self.found.append(name)
        self.seen += 1
        return function(*args, **(kwargs or {}))


def test_nothing_in_an_epoch_waits_for_the_device(make_model, make_dataset):
    data, model = make_dataset(train=60, flip=True), make_model()
    trainer = Engine(model, CPU)
    optimizer, constraint = engine.make_optimizer(model.parameters(), PROTOCOL), MaskedWeights(model, random_mask(model))
    waits = Waits()

    def watched():
        batches = data.train_batches(16, torch.Generator().manual_seed(1))
        with waits:  # from the first draw to the end of the last step
            yield from batches

    trainer.train_on(watched(), optimizer, constraint)
    assert waits.seen > 1000 and waits.found == []
    with waits:
        trainer.train_on(data.train_batches(16, torch.Generator().manual_seed(1)), optimizer, constraint)
    assert waits.found == ["_local_scalar_dense"] * 2  # loss and accuracy, once per epoch


# --- on CUDA ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [(), ("--no_amp",)])
def test_a_search_on_cuda_keeps_its_masks_and_learns(run_script, cuda_env, tmp_path, words):
    done = run_script("main_imp.py", "--device", "cuda", "--epochs", 12, "--pruning_times", 1, "--rate", 0.5, *words,
                      "--save_dir", tmp_path / "run", env=cuda_env)
    assert done.returncode == 0, done.stderr
    last = tmp_path / "run/round_01/checkpoint.pth.tar"
    state = torch.load(last, map_location="cpu", weights_only=True)["state_dict"]
    for name in (name for name in state if name.endswith(".weight_mask")):
        assert (state[name.replace("_mask", "_orig")][state[name] == 0] == 0).all(), name
    with open(tmp_path / "run/rounds.csv", newline="", encoding="utf-8") as file:
        assert all(float(row["test_acc"]) > 80 for row in csv.DictReader(file))


def test_batches_are_the_same_on_cuda(run_script, cuda_env):
    program = """
import torch
from datasets.pictures import Dataset, Pictures
images = torch.randint(0, 256, (40, 8, 8, 3), dtype=torch.uint8)
part = Pictures(images, torch.arange(40))
data = Dataset("random", part, part, part, tuple(map(str, range(40))), (0,) * 3, (1,) * 3, True)
here, there = (d.train_batches(16, torch.Generator().manual_seed(5)) for d in (data, data.to(torch.device("cuda"))))
for (images, labels), (cuda_images, cuda_labels) in zip(here, there, strict=True):
    assert cuda_images.is_cuda and torch.equal(images, cuda_images.cpu()) and torch.equal(labels, cuda_labels.cpu())
"""
    done = run_script("-c", program, env=cuda_env)
    assert done.returncode == 0, done.stderr


def test_recorded_steps_on_cuda_never_wait_nor_record_twice_and_train_alike(run_script, cuda_env):
    program = """
import torch
from torch._dynamo.utils import counters
from datasets.pictures import Dataset, Pictures
from models import build_model
from pruner.masks import Mask, MaskedWeights, prunable_layers
from utils import engine
images = torch.randint(0, 256, (1000, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
part = Pictures(images, torch.arange(1000) % 10)
data = Dataset("random", part, part, part, tuple(map(str, range(10))), (0.5,) * 3, (0.2,) * 3, True).to(torch.device("cuda"))
protocol = engine.TrainingProtocol(3, 0.05, (), 128, 0.9, 1e-4)
losses = []
for compiled in (False, True):
    torch.manual_seed(2)
    model = build_model("res20s", 10)
    mask = Mask({name: torch.rand(layer.weight.shape) < 0.3 for name, layer in prunable_layers(model).items()})
    trainer = engine.Engine(model, torch.device("cuda"), compiled, amp=False)
    masked, optimizer = MaskedWeights(model, mask), engine.make_optimizer(model.parameters(), protocol)
    generator = torch.Generator().manual_seed(3)
    def watched(strict):
        batches = data.train_batches(128, generator)
        yield next(batches)
        torch.cuda.set_sync_debug_mode("error" if strict else "default")
        yield from batches
        torch.cuda.set_sync_debug_mode("default")
    losses.append([trainer.train_on(watched(epoch > 2), optimizer, masked)[0] for epoch in range(6)])
    assert all((layer.weight[~mask[name].cuda()] == 0).all() for name, layer in prunable_layers(model).items())
assert counters["stats"]["unique_graphs"] == 1, counters["stats"]
assert counters["inductor"]["cudagraph_skips"] == 0, counters["inductor"]
torch.testing.assert_close(torch.tensor(losses[0][:2]), torch.tensor(losses[1][:2]), rtol=0.02, atol=0)
"""
    done = run_script("-c", program, env=cuda_env)
    assert done.returncode == 0, done.stderr


# --- other objectives, and data that are no pictures ------------------------------------------------------------------


class Sequences:
    """Series of numbers [N, 12] with labels, in three splits; what the engine asks of data and nothing else."""

    class Split:
        def __init__(self, count: int, seed: int):
            generator = torch.Generator().manual_seed(seed)
            self.labels = torch.arange(count) % 3
            self.series = torch.randn(count, 12, generator=generator) + 3 * F.one_hot(self.labels, 12)

        def __len__(self) -> int:
            return len(self.labels)

        def batches(self, size: int):
            return zip(self.series.split(size), self.labels.split(size))

    def __init__(self, probes=()):
        self.train, self.val, self.test = self.Split(96, 1), self.Split(30, 2), self.Split(30, 3)
        self.probes = dict(probes)

    def train_batches(self, size: int, generator: torch.Generator):
        order = torch.randperm(len(self.train), generator=generator)
        for part in order.split(size):
            yield self.train.series[part], self.train.labels[part]


class Large:
    """A probe that is no set of examples: how large the first weights are."""

    def evaluate(self, trainer: Engine) -> tuple[float, float]:
        size = trainer.model[0].weight.abs().mean().item()
        return size, 100 * min(1.0, size)


def small_weights(network, inputs, labels):
    """Two forward passes that should agree, and a further term."""
    logits, again = network(inputs), network(inputs + 0.1)
    loss = F.cross_entropy(logits, labels) + 0.5 * F.mse_loss(logits, again) + 0.1 * network[0].weight.square().sum()
    return loss, (logits.detach().argmax(1) == labels).sum()


def tower() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))


@pytest.mark.slow
def test_another_objective_trains_resumes_with_the_same_bits_and_follows_its_own_probe(tmp_path):
    protocol, data = dataclasses.replace(PROTOCOL, epochs=5, lr=0.1), Sequences({"large": Large()})
    whole, parts = TrainingFiles(tmp_path / "whole"), TrainingFiles(tmp_path / "parts")
    expected = Engine(tower(), CPU, objective=small_weights).fit(data, protocol, whole, 1)

    def kill(epoch: int) -> None:
        if epoch == 3:
            raise Killed

    with pytest.raises(Killed):
        Engine(tower(), CPU, objective=small_weights).fit(data, protocol, parts, 1, after_epoch=kill)
    done = Engine(tower(), CPU, objective=small_weights).fit(data, protocol, parts, 1)
    assert dataclasses.replace(done, seconds=0) == dataclasses.replace(expected, seconds=0)
    states = [torch.load(files.last, weights_only=True)["state_dict"] for files in (whole, parts)]
    assert_same(*states)
    assert done.probes["large_acc_last"] == pytest.approx(100 * states[0]["0.weight"].abs().mean().item())
    usual = Engine(tower(), CPU).fit(data, protocol, TrainingFiles(tmp_path / "usual"), 1)
    assert done.probes["large_acc_last"] < 0.7 * usual.probes["large_acc_last"]  # the further term is in force


def test_the_loss_of_an_objective_is_its_own_mean(tmp_path):
    """By hand: one epoch at a rate of (almost) zero sees the same weights in every step."""
    data, model = Sequences(), tower()
    model[3].p = 0.0
    files = TrainingFiles(tmp_path)
    Engine(model, CPU, objective=lambda network, inputs, labels: (inputs.mean(), (labels == 0).sum())
           if not network.training else (0 * network(inputs).sum() + inputs.mean(), (labels == 0).sum())).fit(
        data, dataclasses.replace(PROTOCOL, epochs=1), files, 1)
    row, = metrics(files)
    assert row["train_loss"] == pytest.approx(data.train.series.mean().item(), rel=1e-5)
    assert row["train_acc"] == pytest.approx(100 / 3)


def test_data_that_are_no_pictures_train(tmp_path):
    done = Engine(tower(), CPU).fit(Sequences(), dataclasses.replace(PROTOCOL, epochs=12, lr=0.1, milestones=(8,)),
                                    TrainingFiles(tmp_path), 1)
    assert done.test_acc > 60 and done.epochs == 12  # chance is 33
