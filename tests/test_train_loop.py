"""The benchmarks of the training loop: that they measure what they say, and run."""

import csv
import itertools
import time
from argparse import Namespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pruner.masks import prunable_layers
from utils import engine

CLOSE = {"rtol": 1e-5, "atol": 1e-6}  # ours takes the loss in single precision
TINY = ("--tiny", "--no_compile", "--device", "cpu")


@pytest.fixture(scope="module")
def train_loop():
    """What benchmarks/train_loop.py measures with."""
    from benchmarks.lib import train_loop

    return train_loop


@pytest.fixture
def setting(train_loop):
    """setting(arch="res20s") -> a small Setting on the CPU."""

    def make(arch: str = "res20s"):
        return train_loop.Setting(Namespace(arch=arch, device="cpu", dataset=None, pictures=(24, 8, 8), epochs=1,
                                            batch_size=8, density=0.26, compile=False, tiny=True, steps=1, blocks=1))

    return make


# --- the two loops ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_both_loops_take_the_same_step(setting):
    """Same weights, mask and batch: the conventional loop is no straw man that computes something else."""
    here = setting()
    single = here.model
    here.model = lambda seed=1: single(seed).double()  # in single precision ReLUs at zero switch by rounding
    ours, theirs = here.loop("ours"), here.loop("conventional")
    images, labels = torch.rand(8, 3, 32, 32, dtype=torch.double), torch.arange(8)
    for _ in range(2):
        assert theirs._train([(images, labels)]) == 8
        ours.engine.train_on([(images.to(memory_format=torch.channels_last), labels)], ours.optimizer, ours.constraint)
    layers = dict(theirs.model.named_modules())
    for name, layer in prunable_layers(ours.engine.model).items():
        mask = layers[name].weight_mask.bool()
        assert torch.equal(layer.weight != 0, mask) and 0.2 < mask.float().mean() < 0.32
        torch.testing.assert_close(layer.weight, layers[name].weight_orig * mask, **CLOSE)
    torch.testing.assert_close(ours.engine.model.fc.weight, theirs.model.fc.weight, **CLOSE)


@pytest.mark.slow
def test_the_conventional_loop_reads_the_same_pictures(setting):
    """Every crop lies in the padded picture, mirrored or not; labels go along; each picture comes once per epoch."""
    here = setting()
    loop = here.loop("conventional")
    padded = F.pad(here.data.train.images, (0, 0, 4, 4, 4, 4)).permute(0, 3, 1, 2).float() / 255
    found = []
    for images, labels in loop.loader:
        for image, label in zip(images, labels):
            # the middle is never padding, so it tells which picture and crop it is
            crops = padded.unfold(2, 32, 1).unfold(3, 32, 1)[:, :, :, :, 8:24, 8:24]
            here_is = [index for turned in (image, image.flip(2)) for index in
                       (crops == turned[:, None, None, 8:24, 8:24]).all(5).all(4).all(1).flatten(1).any(1).nonzero()]
            assert any(here.data.train.labels[index] == label for index in here_is)
            found += here_is[:1]
    assert sorted(map(int, found)) == list(range(24))


@pytest.mark.slow
def test_steps_count_pictures(setting):
    here = setting()
    assert here.loop("ours").steps(5) == 40  # over the end of an epoch of 3 batches
    assert here.loop("conventional").steps(5) == 40


# --- the roofline -------------------------------------------------------------------------------------------------------


def test_traffic_of_a_convolution_is_its_operands(train_loop):
    layer, images = nn.Conv2d(4, 8, 3, padding=1, bias=False), torch.rand(2, 4, 16, 16)
    with train_loop.Traffic() as traffic:
        out = layer(images)
        out.relu()
    reads, weights, writes = 2 * 4 * 256, 8 * 4 * 9, 2 * 8 * 256
    assert traffic.heavy == 4 * (reads + weights + writes)
    assert traffic.all == traffic.heavy + 4 * 2 * writes
    with train_loop.Traffic() as traffic:
        out.sum().backward()
    # gradient in, picture and weights in, the weights' gradient out: the picture needs none
    assert traffic.heavy == 4 * (writes + reads + weights + weights)


@pytest.mark.slow
def test_arithmetic_of_a_step_is_that_of_its_layers(train_loop, setting):
    here = setting()
    work = 0

    def count(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal work
        once = 2 * output.numel() * layer.weight[0].numel()
        # forward, and backward to the weights and to the input, which the pictures don't need
        work += once * (3 if inputs[0].requires_grad else 2)

    model = here.model()
    for layer in model.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.register_forward_hook(count)
    model(torch.rand(8, 3, 32, 32))
    rows = {row["what"]: row for row in train_loop.roofline(here)}
    assert rows["arithmetic of a step"]["value"] == pytest.approx(work / 1e9, rel=1e-9)
    step, floor = rows["a step takes"]["value"], rows["floor by arithmetic"]
    assert floor["share"] == pytest.approx(floor["value"] / step) and floor["value"] > 0
    heavy, every = (rows[f"traffic of a step: {what}"]["value"]
                    for what in ("convolutions and products", "all operators, unfused"))
    assert 0 < heavy < every


# --- whole epochs --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_happens_once_is_not_counted_per_epoch(train_loop, setting, monkeypatch):
    """On a clock that only moves by what each part is said to take."""
    clock = 0.0

    def takes(owner: type, name: str, seconds) -> None:
        real = getattr(owner, name)

        def slow(*args, **kwargs):
            nonlocal clock
            clock += next(seconds)
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, slow)

    monkeypatch.setattr(time, "perf_counter", lambda: clock)
    takes(engine.Record, "resume", iter([7.0]))
    takes(engine.Engine, "_train_epoch", itertools.chain([20.0], itertools.repeat(3.0)))
    takes(engine.Engine, "evaluate", itertools.repeat(0.25))  # validation and test
    takes(engine.Record, "add", itertools.repeat(0.125))
    takes(engine.Record, "finish", iter([1000.0]))
    here = setting()
    here.args.epochs = 5
    rows = {row["what"]: row for row in train_loop.epoch(here)}
    assert [row["value"] for row in rows.values()] == [20.5, 3.5, 0.125, 1007, 20.5 + 181 * 3.5 + 182 * 0.125 + 1007]
    assert list(rows)[0] == "first epoch of 24 + 8 + 8 pictures" and list(rows)[-1] == "182 epochs"
    assert rows["... and writing its files"]["low"] == rows["... and writing its files"]["high"] == 0.125


# --- as users run them ----------------------------------------------------------------------------------------------------


@pytest.mark.nightly
def test_a_tiny_run_of_the_benchmark(run_script, tmp_path):
    done = run_script("benchmarks/train_loop.py", *TINY, "--sections", "loop,parts,epoch", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "random pictures" in done.stdout.splitlines()[0] and done.stdout.splitlines()[-1].startswith("| res20s |")
    with open(tmp_path / "train_loop.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["section"] for row in rows} == {"loop", "parts", "epoch"}
    values = {row["what"]: row for row in rows}
    ratio = next(row for what, row in values.items() if what.startswith("ours / conventional"))
    assert 0 < float(ratio["low"]) <= float(ratio["value"]) <= float(ratio["high"])
    shares = [float(row["share"]) for what, row in values.items() if what.startswith("step: ")]
    assert len(shares) == 4 and sum(shares) == pytest.approx(1)
