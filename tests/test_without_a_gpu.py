"""What CUDA would refuse or wait for, found without a GPU: the scripts run with --device cuda on tensors that have no values.

Tensors that are asked for on CUDA are made on `meta`, PyTorch's device for shapes, strides and types alone. Every operator passes
through `Gpu`, which refuses what CUDA refuses (tensors of two devices) or would be slow with (wrong memory formats, steps that
wait for a result).
"""

import json
import sys

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from datasets.pictures import Dataset, Pictures
from datasets.trigger import TriggerSet, with_triggers
from ownership.suspects.classifier import accuracy_of
from pruner.key_mask.scores import SCORES, Scoring
from pruner.masks import Mask, MaskedWeights, prunable_layers
from utils import engine
from utils.engine import Engine, TrainingProtocol

CUDA = torch.device("cuda", 0)
PROTOCOL = TrainingProtocol(1, 0.05, (), 16, 0.9, 1e-4)
WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "unique_dim", "_unique2", "is_nonzero"}
BETWEEN_DEVICES = {"_to_copy", "copy_"}  # the only operators that CUDA lets cross


class Refused(AssertionError):
    pass


def on(tensors, kind: str) -> bool:
    return any(tensor.device.type == kind for tensor in tensors)


class Gpu(TorchDispatchMode):
    """strict: inside a training step, where nothing may wait for the device. steps, convolutions, masked: how often weights were
    stepped, layers computed, and masks applied on the device."""

    def __init__(self):
        super().__init__()
        self.strict, self.steps, self.convolutions, self.masked = False, 0, 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name, kwargs = function.overloadpacket.__name__, dict(kwargs or {})
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        here = on(tensors, "meta")
        wide = [tensor for tensor in tensors if tensor.dim()]  # numbers on the CPU are welcome everywhere
        if on(wide, "meta") and on(wide, "cpu") and name not in BETWEEN_DEVICES:
            raise Refused(f"{name}: tensors of two devices")
        if here and name in ("index", "index_put_", "index_put") and any(
                index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]):
            return self.waits(name)
        target = kwargs.get("device")
        if target is not None and torch.device(target).type == "cuda":
            kwargs["device"] = torch.device("meta")
        if here and (name in WAITING or name == "_to_copy" and target is not None and torch.device(target).type == "cpu"
                     or name == "copy_" and args[0].device.type == "cpu"):
            return self.waits(name, args[0] if name == "copy_" else None, args)
        if name in ("convolution", "convolution_backward"):
            self.convolutions += here
            for tensor in wide if here and self.strict else ():
                if tensor.dim() == 4 and not tensor.is_contiguous(memory_format=torch.channels_last):
                    raise Refused(f"{name}: {tuple(tensor.shape)} with strides {tensor.stride()} is not channels-last")
            # as cuDNN returns them; shapes alone come back in rows
            return tree_map(lambda x: x.contiguous(memory_format=torch.channels_last) if here and x is not None and x.dim() == 4 else x,
                            function(*args, **kwargs))
        self.masked += here and name == "_foreach_mul_"
        if name == "_fused_sgd_":  # has no kernel for shapes alone
            self.steps += here
            for weight, gradient, momentum in zip(*args[:3]):
                if not weight.stride() == gradient.stride() == momentum.stride():
                    raise Refused("_fused_sgd_: weight, gradient and momentum differ in strides")
            return None if here else function(*args, **kwargs)
        return function(*args, **kwargs)

    def waits(self, name, into=None, args=()):
        """What the host would get, were there values: some that are finite and differ."""
        if self.strict:
            raise Refused(f"{name}: a step waits for the device")
        if name == "_local_scalar_dense":
            return 0 if not args[0].dtype.is_floating_point else 0.5
        if name in BETWEEN_DEVICES:
            source = args[1] if name == "copy_" else args[0]
            values = torch.empty_strided(source.shape, source.stride(), dtype=source.dtype)
            values.copy_(torch.linspace(0.1, 1.0, source.numel()).view(source.shape))
            return into.copy_(values) if into is not None else values
        raise Refused(f"{name}: its result has no shape here; does CUDA need it?")


@pytest.fixture
def gpu(monkeypatch):
    """A `Gpu` in force; what is stubbed is the driver."""
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)
    monkeypatch.setattr(torch._C, "_cuda_setDevice", lambda index: None)
    monkeypatch.setattr(torch._C, "_cuda_getDeviceCount", lambda: 1)
    monkeypatch.setattr(sys.modules["torch.optim.sgd"], "_device_dtype_check_for_fused", lambda *_, **__: None)
    mode = Gpu()

    def strictly(self, *words, **more):
        mode.strict = True
        try:
            return run(self, *words, **more)
        finally:
            mode.strict = False

    run = Engine.run
    monkeypatch.setattr(Engine, "run", strictly)
    with mode:
        yield mode


def random_mask(model: nn.Module) -> Mask:
    generator = torch.Generator().manual_seed(5)
    return Mask({name: torch.rand(layer.weight.shape, generator=generator) < 0.3 for name, layer in prunable_layers(model).items()})


# --- the harness itself -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [
    lambda: torch.ones(3)[torch.ones(2, dtype=torch.int64, device=CUDA)],
    lambda: torch._foreach_mul_([torch.ones(2, device=CUDA)], [torch.ones(2)]),
    lambda: torch.ones(2, device=CUDA) + torch.ones(2)])
def test_two_devices_are_refused(gpu, fault):
    with pytest.raises(Refused, match="two devices"):
        fault()


@pytest.mark.parametrize("fault", [lambda x: x.sum().item(), lambda x: x[x > 0], lambda x: x.cpu(), lambda x: x.nonzero(),
                                   lambda x: bool((x > 0).all())])
def test_a_step_that_waits_is_refused(gpu, fault):
    gpu.strict = True
    with pytest.raises(Refused, match="waits"):
        fault(torch.ones(2, device=CUDA))


def test_a_wrong_memory_format_is_refused(gpu):
    gpu.strict = True
    with pytest.raises(Refused, match="not channels-last"):
        nn.Conv2d(3, 4, 3).to(CUDA)(torch.ones(2, 3, 8, 8, device=CUDA))


# --- parts ------------------------------------------------------------------------------------------------------------


def test_the_device_of_an_index_is_made_the_current_one(monkeypatch, make_model):
    """`cuda` without an index is the current device, which set_device would not take."""
    set_to = []
    monkeypatch.setattr(torch._C, "_cuda_setDevice", set_to.append)
    monkeypatch.setattr(nn.Module, "to", lambda self, *_, **__: self)  # there is no driver to move it
    Engine(make_model(), torch.device("cuda"), amp=False)
    Engine(make_model(), torch.device("cuda", 1), amp=False)
    assert set_to == [1]


@pytest.mark.slow
def test_masks_follow_a_model_that_moves(gpu, make_model, make_dataset):
    model = make_model()
    masked = MaskedWeights(model, random_mask(model))
    masked.apply()
    trainer = Engine(model, CUDA, amp=False)
    data = make_dataset(train=40, flip=True).to(CUDA)
    trainer.run(data.train_batches(16, torch.Generator().manual_seed(1)), engine.make_optimizer(model.parameters(), PROTOCOL), masked)
    assert gpu.steps == gpu.masked == 3 and gpu.convolutions > 100


def test_masks_follow_strides(make_model):
    """On a CPU: built before the engine puts weights into channels-last memory, where factors of other strides are slow."""
    model = make_model()
    mask = random_mask(model)
    masked = MaskedWeights(model, mask)
    masked.apply()
    Engine(model, torch.device("cpu"))
    masked.apply()
    weights = [layer.weight for layer in prunable_layers(model).values()]
    assert [factor.stride() for factor in masked.factors] == [weight.stride() for weight in weights]
    assert all((weight[~kept] == 0).all() and (weight[kept] != 0).all() for weight, kept in zip(weights, mask.values()))


@pytest.mark.slow
def test_triggers_are_mixed_in_on_the_device(gpu, make_model, make_dataset):
    data, model = make_dataset(train=40).to(CUDA), make_model()
    pictures = Pictures(torch.zeros(5, 8, 8, 3, dtype=torch.uint8), torch.arange(5) % 3)
    triggers = TriggerSet("adi", pictures, tuple(map(str, range(5))), 3)
    trainer, mixed = Engine(model, CUDA, amp=False), with_triggers(data, triggers, 2)
    trainer.run(mixed.train_batches(16, torch.Generator().manual_seed(1)), engine.make_optimizer(model.parameters(), PROTOCOL))
    trainer.evaluate(mixed.probes["trigger"])
    assert gpu.steps == 3


def test_a_subset_is_drawn_of_pictures_on_the_device(gpu, make_dataset):
    assert make_dataset(train=40).to(CUDA).limited(12, 1).train.images.shape == (12, 8, 8, 3)


@pytest.mark.slow
@pytest.mark.parametrize("score", sorted(SCORES))
def test_scores_are_computed_for_a_model_on_the_device(gpu, make_model, make_dataset, score):
    model = Engine(make_model(), CUDA, amp=False).model
    pictures, labels = next(make_dataset(train=20).to(CUDA).train.batches(20))
    scores = SCORES[score](Scoring(model, random_mask(model), pictures, labels, num_paths=20))
    assert all(tensor.device.type == "cpu" for tensor in scores.values())


# --- whole scripts ----------------------------------------------------------------------------------------------------


SHORT = ("--dataset", "digits", "--limit", 150, "--epochs", 1, "--batch_size", 64)


@pytest.fixture
def on_gpu(gpu, monkeypatch, run_main):
    """on_gpu("main_imp.py", ...) runs a script with --device cuda; how many steps it trained."""
    monkeypatch.setattr(engine, "cuda_fault", lambda device: None)

    def run(name: str, *words) -> int:
        before = gpu.steps
        done = run_main(name, *words, "--device", "cuda", "--no_amp")
        assert done.returncode == 0, done.stderr
        return gpu.steps - before

    return run


@pytest.fixture(scope="session")
def small_ticket(run_main, tmp_path_factory):
    folder = tmp_path_factory.mktemp("small_ticket")
    words = (*SHORT, "--rate", 0.5, "--pruning_times", 1, "--rewind_epoch", 1, "--save_dir", folder, "--device", "cpu")
    assert run_main("main_imp.py", *words).returncode == 0
    return folder


@pytest.mark.slow
def test_a_search(on_gpu, tmp_path):
    assert on_gpu("main_imp.py", *SHORT, "--rate", 0.5, "--pruning_times", 1, "--rewind_epoch", 1, "--save_dir", tmp_path) == 2 * 3
    assert json.loads((tmp_path / "result.json").read_text())["density"] == pytest.approx(0.5, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("split", ["identity", "taylor1_abs"])
def test_a_ticket(on_gpu, small_ticket, tmp_path, split):
    key = () if split == "identity" else ("--key_ratio", 0.1)
    assert on_gpu("main_eval_all.py", *SHORT, "--type", split, *key, "--mask_dir", small_ticket / "ticket.pth.tar", "--save_dir",
                  tmp_path) == 3


@pytest.mark.slow
def test_a_ticket_with_triggers(on_gpu, run_main, small_ticket, tmp_path):
    assert run_main("make_triggers.py", "--new_key", tmp_path / "key").returncode == 0
    assert on_gpu("main_eval_trigger.py", *SHORT, "--mask_dir", small_ticket / "ticket.pth.tar", "--trigger_set", "keyed",
                  "--trigger_key", tmp_path / "key", "--trigger_count", 10, "--save_dir", tmp_path / "run") == 3


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["deepipr1", "pan"])
def test_passports(on_gpu, run_main, tmp_path, scheme):
    assert run_main("make_claim.py", "--new_owner_key", tmp_path / "owner.key").returncode == 0
    assert on_gpu("main_passport.py", *SHORT, "--scheme", scheme, "--owner", tmp_path / "owner.key", "--owner_name", "Jane",
                  "--save_dir", tmp_path / "run") == 3


@pytest.mark.slow
@pytest.mark.parametrize("attack", [("finetune", "--free_mask"), ("finetune",), ("prune", "--level", "0.1"),
                                    ("transform", "--level", "1e-7")], ids=" ".join)
def test_an_attack(on_gpu, small_ticket, tmp_path, attack):
    training = SHORT[2:] if "finetune" in attack else ()
    steps = on_gpu("main_attack.py", *attack, "--dataset", "digits", *training, "--checkpoint",
                   small_ticket / "round_01/model_best.pth.tar", "--save_dir", tmp_path)
    assert steps == (3 if training else 0)


def test_the_accuracy_of_a_verdict(gpu, monkeypatch, make_model, make_dataset):
    """Neither TF32 nor whichever kernel was the fastest today."""
    monkeypatch.setattr(engine, "cuda_fault", lambda device: None)
    flags = []
    model = make_model()
    model.register_forward_hook(lambda *_: flags.append((torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark)))
    accuracy_of(model, make_dataset(test=30).test, "cuda")
    assert flags == [(False, False)]
    assert torch.backends.cudnn.allow_tf32 is True  # as it was


def test_float32_is_float32_in_training_too(gpu, make_model, make_dataset):
    flags, data, model = [], make_dataset(train=16).to(CUDA), make_model()
    trainer = Engine(model, CUDA, amp=False)
    model.register_forward_hook(lambda *_: flags.append((torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark)))
    trainer.run(data.train_batches(16, torch.Generator()), engine.make_optimizer(model.parameters(), PROTOCOL))
    assert flags == [(False, True)]
