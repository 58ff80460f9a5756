"""k trainings at once against k trainings one by one, and their files."""

import csv
import dataclasses

import pytest
import torch
from torch import nn

from pruner.masks import Mask, MaskedWeights, prunable_layers
from utils import checkpoint
from utils.engine import Engine, TrainingProtocol
from utils.errors import UserError
from utils.many import Stack, StackedEngine, Training, fit_many, side_by_side
from utils.run_dir import TrainingFiles

CPU = torch.device("cpu")
PROTOCOL = TrainingProtocol(epochs=2, lr=0.02, milestones=(1,), batch_size=16, momentum=0.9, weight_decay=5e-4, warmup=3)
CLOSE = {"rtol": 1e-5, "atol": 1e-6}  # losses are taken in single precision


def mask_of(model: nn.Module, seed: int) -> Mask:
    generator = torch.Generator().manual_seed(seed)
    return Mask({name: torch.rand(layer.weight.shape, generator=generator) < 0.2 + 0.1 * seed
                 for name, layer in prunable_layers(model).items()})


def network(seed: int) -> nn.Module:
    """Small, but with what a residual network has: strides, batch norm, a sum, a stem, a classifier.

    In double precision: in single, ReLUs at zero switch by rounding, and what follows is another training.
    """
    from models.resnet_cifar import ResNetCifar

    class Double(ResNetCifar):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images.double())

    torch.manual_seed(seed)
    return Double(1, 3, (0.4, 0.5, 0.6), (0.2, 0.3, 0.2)).double()


@pytest.fixture
def begin(tmp_path):
    """begin("name", seeds) -> fresh Trainings, one per seed, every second one masked, with files below `name`."""

    def make(name: str, seeds=(1, 2, 3), build=network) -> list[Training]:
        trainings = []
        for seed in seeds:
            model = build(seed)
            constraint = MaskedWeights(model, mask_of(model, seed)) if seed % 2 else None
            trainings.append(Training(model, TrainingFiles(tmp_path / name / str(seed)), seed, constraint,
                                      {"arch": "tiny", "seed": seed}, f"seed {seed}"))
        return trainings

    return make


def alone(training: Training, data, protocol=PROTOCOL):
    trainer = Engine(training.model, CPU)
    return trainer.fit(data, protocol, training.files, training.seed, training.constraint, facts=training.facts,
                       title=training.title)


def rows(files: TrainingFiles) -> list[dict[str, float]]:
    with open(files.metrics, newline="", encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def assert_alike(left: TrainingFiles, right: TrainingFiles) -> None:
    """The same files but for rounding."""
    for name in ("last", "best"):
        ours, theirs = (checkpoint.load(getattr(files, name)) for files in (left, right))
        assert ours.keys() == theirs.keys()
        if name == "best":
            assert ours["epoch"] == theirs["epoch"]
        assert ours["state_dict"].keys() == theirs["state_dict"].keys()
        for tensor, value in ours["state_dict"].items():
            expected = theirs["state_dict"][tensor]
            assert value.stride() == expected.stride() and value.dtype == expected.dtype, tensor
            torch.testing.assert_close(value, expected, **CLOSE, msg=lambda text: f"{name} {tensor}: {text}")
            assert torch.equal(value == 0, expected == 0), tensor
    ours, theirs = (checkpoint.load(files.last) for files in (left, right))
    assert ours["optimizer"]["param_groups"] == theirs["optimizer"]["param_groups"]
    assert ours["scheduler"] == theirs["scheduler"]
    assert ours["optimizer"]["state"].keys() == theirs["optimizer"]["state"].keys()
    for number, state in ours["optimizer"]["state"].items():
        torch.testing.assert_close(state["momentum_buffer"], theirs["optimizer"]["state"][number]["momentum_buffer"], **CLOSE)
    assert torch.equal(ours["random"]["generator"], theirs["random"]["generator"])
    for mine, other in zip(rows(left), rows(right), strict=True):
        assert mine.keys() == other.keys()
        assert {**mine, "seconds": 0} == pytest.approx({**other, "seconds": 0}, rel=1e-3)
    assert left.curve.exists()
    assert abs(left.last.stat().st_size - right.last.stat().st_size) < 2000  # one model's data in each file


def test_three_at_once_are_three_alone(begin, make_dataset):
    data = make_dataset(train=60, flip=True)  # three full batches and a short one
    together, apart = begin("together"), begin("apart")
    outcomes = fit_many(together, data, PROTOCOL, CPU)
    expected = [alone(training, data) for training in apart]
    for one, other, training, single in zip(outcomes, expected, together, apart):
        assert dataclasses.replace(one, seconds=0) == dataclasses.replace(other, seconds=0)
        assert one.seconds > 0
        assert_alike(training.files, single.files)
        for name, tensor in training.model.state_dict().items():
            torch.testing.assert_close(tensor, single.model.state_dict()[name], **CLOSE)
            assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()  # released
    # and the trainings do differ, so that a mix-up of models would show
    losses = [row["train_loss"] for training in together for row in rows(training.files)]
    assert len({round(loss, 3) for loss in losses}) == len(losses)


@pytest.mark.parametrize("arch", ["res20s", "res18", "res50"])
def test_one_step_of_each_architecture(make_model, make_dataset, arch):
    """Gradients and batch-norm statistics of two stacked models are those of the models alone."""
    data = make_dataset(train=12)
    models, singles = ([make_model(arch, seed=seed) for seed in (1, 2)] for _ in range(2))
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    images, labels = next(side_by_side(data, 6, generators))
    trainer = StackedEngine(models, CPU)
    losses, hits = trainer.loss(images, labels)
    losses.sum().backward()
    for index, (model, single) in enumerate(zip(models, singles)):
        alone = Engine(single, CPU)
        loss, right = alone.loss(*next(data.train_batches(6, torch.Generator().manual_seed(index + 1))))
        loss.backward()
        torch.testing.assert_close(losses[index], loss, rtol=1e-4, atol=1e-5)
        assert hits[index] == right
        for name, weight, (_, expected) in zip(trainer.stack.weight_names, trainer.stack.weights, single.named_parameters()):
            error = (weight.grad[index] - expected.grad).norm() / expected.grad.norm()
            assert error < 1e-3, name
            assert weight.grad[index].stride() == expected.grad.stride(), name  # as the fused optimizer reads them
        for name, buffer in single.named_buffers():
            torch.testing.assert_close(model.get_buffer(name), buffer, rtol=1e-4, atol=1e-5)


def test_evaluation_is_each_models_own(make_dataset):
    data = make_dataset(val=300)
    models = [network(seed).train() for seed in (1, 2, 3)]
    expected = [Engine(model, CPU).evaluate(data.val) for model in models]
    trainer = StackedEngine(models, CPU)
    trainer.stack.train()
    before = {name: tensor.clone() for name, tensor in trainer.stack.state_dict().items()}
    for (loss, hits), (expected_loss, expected_hits) in zip(trainer.evaluate(data.val), expected, strict=True):
        assert loss == pytest.approx(expected_loss, rel=1e-5) and hits == expected_hits
    assert trainer.stack.training and trainer.stack.blank[0].training
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.stack.state_dict().items())


def test_models_and_stack_are_one_memory_until_released():
    models = [network(seed).to(memory_format=torch.channels_last) for seed in (1, 2)]
    originals = [{name: tensor.clone() for name, tensor in model.state_dict().items()} for model in models]
    strides = [{name: tensor.stride() for name, tensor in model.state_dict().items()} for model in models]
    stack = Stack(models)
    for model, values, steps in zip(models, originals, strides):
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, values[name]) and tensor.stride() == steps[name], name
    with torch.no_grad():
        stack.weights[0][1].fill_(7)
        models[0].conv1.weight.fill_(5)
    assert (models[1].conv1.weight == 7).all() and (stack.weights[0][0] == 5).all()
    stack.release()
    with torch.no_grad():
        models[0].conv1.weight.fill_(1)
    assert (stack.weights[0][0] == 5).all()


# --- files and resuming -----------------------------------------------------------------------------------------------


def test_what_is_begun_together_goes_on_alone_and_the_other_way_round(begin, make_dataset):
    data, protocol = make_dataset(train=40), dataclasses.replace(PROTOCOL, epochs=3, milestones=(2,))
    whole = begin("whole", (1, 2))
    for training in whole:
        alone(training, data, protocol)

    first = dataclasses.replace(protocol, epochs=1)
    fit_many(begin("parted", (1, 2)), data, first, CPU)
    for training in begin("parted", (1, 2)):
        alone(training, data, protocol)
    for training in begin("joined", (1, 2)):
        alone(training, data, first)
    fit_many(begin("joined", (1, 2)), data, protocol, CPU)
    for training, parted, joined in zip(whole, begin("parted", (1, 2)), begin("joined", (1, 2))):
        assert_alike(parted.files, training.files)
        assert_alike(joined.files, training.files)


class Killed(BaseException):
    pass


def test_killed_between_two_models_files_it_still_ends_the_same(begin, make_dataset, monkeypatch):
    data, protocol = make_dataset(train=40), dataclasses.replace(PROTOCOL, epochs=4, milestones=(2,))
    whole = begin("whole")
    expected = fit_many(whole, data, protocol, CPU)

    saves, save = [], checkpoint.save

    def dies(content, path):
        if "optimizer" in content:
            saves.append(path)
            if len(saves) == 8:  # epoch 3: the first model's is written, the second's and the third's are not
                raise Killed
        save(content, path)

    with monkeypatch.context() as context:
        context.setattr(checkpoint, "save", dies)
        with pytest.raises(Killed):
            fit_many(begin("killed"), data, protocol, CPU)
    parts = begin("killed")
    assert [checkpoint.load(training.files.last)["epoch"] for training in parts] == [3, 2, 2]
    done = fit_many(parts, data, protocol, CPU)
    for one, other, left, right in zip(done, expected, parts, whole):
        assert dataclasses.replace(one, seconds=0) == dataclasses.replace(other, seconds=0)
        assert_alike(left.files, right.files)

    times = [training.files.last.stat().st_mtime_ns for training in parts]
    assert fit_many(begin("killed"), data, protocol, CPU) == done  # a finished one only reports
    assert times == [training.files.last.stat().st_mtime_ns for training in parts]


def test_divergence_names_the_training(begin, make_dataset):
    trainings = begin("run")
    with torch.no_grad():
        trainings[1].model.fc.weight[0, 0] = float("nan")
    with pytest.raises(UserError, match="seed 2 diverged in epoch 1"):
        fit_many(trainings, make_dataset(train=32), PROTOCOL, CPU)


@pytest.mark.parametrize("build", [lambda seed: nn.Linear(seed, 2), None])
def test_other_shapes_and_nothing_are_refused(begin, make_dataset, build):
    with pytest.raises(ValueError):
        fit_many(begin("run", (2, 4), build) if build else [], make_dataset(), PROTOCOL, CPU)


# --- compiled -----------------------------------------------------------------------------------------------------------


def test_a_compiled_step_of_a_stack(make_dataset):
    """Recorded as on CUDA: the graph takes the stack's weights as they lie, and changes the statistics in them."""
    data = make_dataset(train=12)

    def small(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))

    stacks = [StackedEngine([small(seed) for seed in (1, 2)], CPU) for _ in range(2)]
    images, labels = next(side_by_side(data, 6, [torch.Generator().manual_seed(seed) for seed in (1, 2)]))
    results = []
    for trainer, function in zip(stacks, (stacks[0].loss, torch.compile(stacks[1].loss, backend="aot_eager", dynamic=False))):
        trainer.stack.train()
        for _ in range(2):
            loss, hits = function(images, labels)
        loss.sum().backward()
        results.append([loss, *(weight.grad for weight in trainer.stack.weights), *trainer.stack.buffers()])
    for plain, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, plain, rtol=1e-3, atol=1e-5)


def test_many_on_cuda_are_as_alone(run_script, cuda_env):
    program = """
import torch
from torch._dynamo.utils import counters
from datasets.pictures import Dataset, Pictures
from models import build_model
from utils import engine
from utils.many import StackedEngine, side_by_side
device = torch.device("cuda")
images = torch.randint(0, 256, (400, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
part = Pictures(images, torch.arange(400) % 10)
data = Dataset("random", part, part, part, tuple(map(str, range(10))), (0.5,) * 3, (0.2,) * 3, True).to(device)
protocol = engine.TrainingProtocol(3, 0.02, (), 128, 0.9, 1e-4)
def models():
    for seed in (1, 2, 3):
        torch.manual_seed(seed)
        yield build_model("res20s", 10)
expected = []
for seed, model in enumerate(models(), 1):
    trainer = engine.Engine(model, device, amp=False)
    optimizer = engine.make_optimizer(model.parameters(), protocol)
    expected.append(trainer.train_on(data.train_batches(128, torch.Generator().manual_seed(seed)), optimizer)[0])
for compiled in (False, True):
    trainer = StackedEngine(list(models()), device, compiled, amp=False)
    optimizer = engine.make_optimizer(trainer.stack.parameters(), protocol)
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2, 3)]
    done = trainer.train_on(side_by_side(data, 128, generators), optimizer)
    torch.testing.assert_close(torch.tensor([loss for loss, _ in done]), torch.tensor(expected), rtol=0.02, atol=0)
assert counters["inductor"]["cudagraph_skips"] == 0, counters["inductor"]
"""
    done = run_script("-c", program, env=cuda_env)
    assert done.returncode == 0, done.stderr
