"""Iterative magnitude pruning: rewinding, lineage of masks, the extreme search, and runs that are killed."""

import collections
import contextlib
import csv
import dataclasses
import fcntl
import itertools
import json
import math
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune

import main_imp
from models.resnet_cifar import ResNetCifar
from pruner import imp
from pruner.experiment import Experiment, prepare
from pruner.imp import Search, find_ticket
from pruner.schedule import ExtremeSearch, FixedRate
from utils import checkpoint
from utils.engine import Trained, TrainingProtocol, usual_milestones
from utils.run_dir import RunDir

ROOT = Path(main_imp.__file__).parent
State = dict[str, torch.Tensor]


def load(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def assert_same(left: State, right: State) -> None:
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


def masks(content: dict) -> State:
    """Layer -> bool mask of a ticket or a checkpoint."""
    return {name.removesuffix(".weight_mask"): tensor.bool()
            for name, tensor in content["state_dict"].items() if name.endswith(".weight_mask")}


def trained_weights(content: dict) -> State:
    """Plain state_dict of a checkpoint, pruned entries zero."""
    state = dict(content["state_dict"])
    for layer, mask in masks(content).items():
        state[f"{layer}.weight"] = state.pop(f"{layer}.weight_orig") * mask
        del state[f"{layer}.weight_mask"]
    return state


def masked(state: State, mask: State) -> State:
    return {name: tensor * mask[name.removesuffix(".weight")] if name.removesuffix(".weight") in mask else tensor
            for name, tensor in state.items()}


def pruned_by_torch(weights: State, mask: State, rate: float) -> State:
    """The next mask, by torch.nn.utils.prune."""
    layers = {}
    for name, kept in mask.items():
        layers[name] = nn.Conv2d(kept.shape[1], kept.shape[0], kept.shape[2:], bias=False)
        layers[name].weight.data = weights[f"{name}.weight"].contiguous()
        prune.custom_from_mask(layers[name], "weight", kept)
    prune.global_unstructured([(layer, "weight") for layer in layers.values()], prune.L1Unstructured, amount=rate)
    return {name: layer.weight_mask.bool() for name, layer in layers.items()}


def ones_like_ticket(content: dict) -> State:
    return {name: torch.ones_like(mask) for name, mask in masks(content).items()}


# --- the search without training: outcomes are scripted ---------------------------------------------------------------


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3)
        self.a = nn.Conv2d(4, 6, 3)
        self.bn = nn.BatchNorm2d(6)
        self.b = nn.Conv2d(6, 5, 1)
        self.fc = nn.Linear(5, 3)


class ScriptedEngine:
    """Moves all weights at random instead of training them, and reaches the accuracies it is told."""

    def __init__(self, model: nn.Module, accuracies):
        self.model, self.accuracies, self.starts = model, iter(accuracies), []

    def state(self) -> State:
        return {name: tensor.clone() for name, tensor in self.model.state_dict().items()}

    def fit(self, data, protocol, files, seed, constraint, after_epoch, facts, title):
        if constraint:
            constraint.apply()
        self.starts.append(self.state())
        after_epoch(0)
        draws = torch.Generator().manual_seed(seed)
        for epoch in range(1, protocol.epochs + 1):
            with torch.no_grad():
                for tensor in self.model.state_dict().values():
                    if tensor.is_floating_point():
                        tensor += torch.randn(tensor.shape, generator=draws) / 5
                for module in self.model.modules():
                    if isinstance(module, nn.BatchNorm2d):
                        module.running_var.abs_()
            if constraint:
                constraint.apply()
            after_epoch(epoch)
        pack = constraint.pack if constraint else dict
        checkpoint.save({"state_dict": pack(self.model.state_dict())}, files.last)
        accuracy = next(self.accuracies)
        return Trained(accuracy, accuracy, protocol.epochs, accuracy, protocol.epochs, 1.0)


def scripted_search(folder, accuracies, model=None, **options) -> tuple[Search, ScriptedEngine]:
    torch.manual_seed(0)
    engine = ScriptedEngine(model or Net(), accuracies)
    protocol = TrainingProtocol(4, 0.1, (2,), 8, 0.9, 0.0)
    return Search(Experiment(engine, None, protocol, {"arch": "net"}), RunDir(folder), 1, **options), engine


@pytest.mark.slow
@settings(max_examples=40)
@given(outcomes=st.lists(st.booleans(), max_size=9),
       rates=st.lists(st.sampled_from((0.5, 0.3, 0.12)), min_size=1, max_size=3),
       stem=st.booleans(), prune_type=st.sampled_from(("lt", "ft")), rewind_head=st.booleans(),
       rewind_epoch=st.integers(0, 4))
def test_every_round_builds_on_the_last_kept_one(outcomes, rates, stem, prune_type, rewind_head, rewind_epoch):
    outcomes = outcomes[:9] + [False] * len(rates)
    with tempfile.TemporaryDirectory() as folder:
        # a point below the dense network still matches, anything lower does not
        accuracies = [80.0] + [79.0 if matched else 78.99 for matched in outcomes]
        search, engine = scripted_search(folder, accuracies, stem=stem, rewind_epoch=rewind_epoch,
                                         prune_type=prune_type, rewind_head=rewind_head)
        done = find_ticket(search, ExtremeSearch(rates))

        files = search.files
        assert [outcome.round for outcome in done] == list(range(len(done)))
        assert [outcome.kept for outcome in done[1:]] == outcomes[:len(done) - 1]
        rewound = load(files.weights_after(rewind_epoch))["state_dict"]
        mask, source, restart = ones_like_ticket(load(files.round(0).ticket)), 0, engine.starts[0]
        assert mask.keys() == {"a", "b"} | ({"conv1"} if stem else set())
        for outcome in done[1:]:
            ticket = load(files.round(outcome.round).ticket)
            trained = trained_weights(load(files.round(source).last))
            expected = pruned_by_torch(trained, mask, outcome.rate)
            assert_same(masks(ticket), expected)
            kept = sum(int(layer.sum()) for layer in expected.values())
            assert (outcome.nonzeros, ticket["nonzeros"]) == (kept, kept)
            assert outcome.density == ticket["density"] == kept / sum(layer.numel() for layer in expected.values())
            start = dict(trained if prune_type == "ft" else rewound)
            if prune_type == "lt" and not rewind_head:
                start.update({name: trained[name] for name in ("fc.weight", "fc.bias")})
            assert_same(ticket["init_weight"], start)
            assert_same(engine.starts[outcome.round], masked(start, expected))
            if outcome.kept:
                mask, source, restart = expected, outcome.round, start
        final = load(files.ticket)
        assert_same(masks(final), mask)
        assert_same(final["init_weight"], restart)
        assert final["round"] == source


@pytest.mark.slow
@pytest.mark.parametrize("counts, printed", [((5, 1, 8, 1), 19.369), pytest.param((6, 0, 4, 7), 19.901, marks=pytest.mark.nightly)])
def test_table_1_on_resnet_20(make_model, tmp_path, counts, printed):
    outcomes = itertools.chain(*([True] * count + [False] for count in counts))
    search, _ = scripted_search(tmp_path, [91.67] + [91.66 if matched else 20.0 for matched in outcomes],
                                model=make_model(classes=10))
    schedule = ExtremeSearch((0.2, 0.1, 0.05, 0.01))
    done = find_ticket(search, schedule)
    assert tuple(schedule.counts) == counts and len(done) == 1 + sum(counts) + 4
    weights = 9 * (6 * 16 * 16 + 16 * 32 + 5 * 32 * 32 + 32 * 64 + 5 * 64 * 64)
    for rate, count in zip((0.2, 0.1, 0.05, 0.01), counts):
        for _ in range(count):
            weights -= round(rate * weights)
    ticket = load(search.files.ticket)
    assert ticket["nonzeros"] == weights == sum(int(mask.sum()) for mask in masks(ticket).values())
    assert abs(100 * ticket["density"] - printed) < 0.001 + 100 * 0.5 * sum(counts) / 267264  # half a weight per round


@pytest.mark.parametrize("match_on", ["test", "val"])
def test_the_accuracy_compared_is_the_chosen_one(tmp_path, match_on):
    search, engine = scripted_search(tmp_path, [80.0, 70.0, 80.0], match_on=match_on)
    real = engine.fit
    # the split that is not compared says the opposite
    engine.fit = lambda *words, **named: dataclasses.replace(
        trained := real(*words, **named), **{"val_acc" if match_on == "test" else "test_acc": 150 - trained.test_acc})
    done = find_ticket(search, FixedRate(0.5, 2))
    assert [outcome.matched for outcome in done] == [True, False, True]


def test_rates_that_can_not_be_applied_are_failures_without_a_round(tmp_path):
    """246 weights: 0.999 would take all, 0.001 none."""
    search, _ = scripted_search(tmp_path, [80.0] * 9)
    schedule = ExtremeSearch((0.999, 0.5, 0.001), max_rounds=3)
    done = find_ticket(search, schedule)
    assert [(outcome.round, outcome.rate, outcome.nonzeros) for outcome in done] == [
        (0, 0.0, 246), (1, 0.5, 123), (2, 0.5, 123 - 62), (3, 0.5, 61 - 30)]
    assert schedule.counts == [0, 3, 0] and not search.files.round(4).folder.exists()

    search, _ = scripted_search(tmp_path / "fixed", [80.0] * 20)
    done = find_ticket(search, schedule := FixedRate(0.5, 15))
    assert [outcome.nonzeros for outcome in done] == [246, 123, 61, 31, 15, 7, 3, 1]
    assert schedule.counts == [7] and load(search.files.ticket)["nonzeros"] == 1


def test_max_rounds_ends_the_search(tmp_path):
    search, _ = scripted_search(tmp_path, [80.0] * 9)
    assert len(find_ticket(search, ExtremeSearch((0.2, 0.1), max_rounds=3))) == 4


def test_a_search_that_keeps_nothing_leaves_the_dense_ticket(tmp_path):
    search, _ = scripted_search(tmp_path, [80.0, 1.0, 1.0])
    done = find_ticket(search, ExtremeSearch((0.5, 0.1)))
    assert [outcome.kept for outcome in done] == [True, False, False]
    final = load(search.files.ticket)
    assert final["density"] == 1 and final["round"] == 0 and all(mask.all() for mask in masks(final).values())


# --- real trainings on digits -----------------------------------------------------------------------------------------


SHORT = ("--dataset", "digits", "--limit", 300, "--epochs", 5, "--decreasing_lr", "2,4")
STEPS = 3  # of an epoch: 300 pictures in batches of 128


@contextlib.contextmanager
def every_training_step():
    """Collects the network's state at the beginning of every training step of this process."""
    states: list[State] = []

    def look(module, inputs):
        if isinstance(module, ResNetCifar) and module.training:
            states.append({name: tensor.clone() for name, tensor in module.state_dict().items()})

    handle = nn.modules.module.register_module_forward_pre_hook(look)
    try:
        yield states
    finally:
        handle.remove()


Done = collections.namedtuple("Done", "folder files starts dense_states process")


@pytest.fixture(scope="module")
def search_run(tmp_path_factory, run_main):
    """search_run(*flags) -> the run, with the weights its trainings really started from; equal flags run once."""
    runs = {}

    def run(*flags) -> Done:
        if flags not in runs:
            folder = tmp_path_factory.mktemp("run") / "run"
            with every_training_step() as states:
                process = run_main("main_imp.py", *SHORT, *flags, "--save_dir", folder)
            assert process.returncode == 0, process.stderr
            epochs = int(flags[flags.index("--epochs") + 1]) if "--epochs" in flags else 5
            trainings = [states[i:i + epochs * STEPS] for i in range(0, len(states), epochs * STEPS)]
            runs[flags] = Done(folder, RunDir(folder), [training[0] for training in trainings], trainings[0], process)
        return runs[flags]

    return run


@pytest.mark.slow
def test_the_published_code_counts_trainings(run_main, refused, tmp_path):
    words = ("main_imp.py", "--limit", 60, "--epochs", 1, "--rewind_epoch", 0, "--count", "trainings", "--save_dir", tmp_path / "run")
    assert "--pruning_times" in refused(run_main(*words, "--pruning_times", 0))
    done = run_main(*words, "--pruning_times", 2)
    assert done.returncode == 0, done.stderr
    assert [row["rate"] for row in rows(tmp_path / "run/rounds.csv")] == ["0.0", "0.2"]


TWO_ROUNDS = ("--pruning_times", 2, "--rate", 0.4)


@pytest.mark.slow
def test_the_rewinding_weights_are_those_after_three_epochs(search_run):
    run = search_run(*TWO_ROUNDS)
    rewinding = load(run.files.weights_after(3))
    assert_same(rewinding["state_dict"], run.dense_states[3 * STEPS])  # at the first step of the fourth epoch
    assert rewinding["epoch"] == 3
    assert [path.name for path in run.folder.glob("epoch_*")] == ["epoch_3.pth.tar"]
    # a training that ends after three epochs
    truncated = search_run("--epochs", 3, "--pruning_times", 0)
    assert_same(rewinding["state_dict"], load(truncated.files.round(0).last)["state_dict"])
    final = load(run.files.round(0).last)["state_dict"]
    assert not torch.equal(final["fc.weight"], rewinding["state_dict"]["fc.weight"])


@pytest.mark.slow
@pytest.mark.parametrize("epoch", [0, pytest.param(1, marks=pytest.mark.nightly), pytest.param(5, marks=pytest.mark.nightly)])
def test_any_epoch_can_be_rewound_to(search_run, epoch):
    run = search_run("--pruning_times", 1, "--rewind_epoch", epoch)
    after = load(run.files.weights_after(epoch))["state_dict"]
    expected = run.dense_states[epoch * STEPS] if epoch < 5 else load(run.files.round(0).last)["state_dict"]
    assert_same(after, expected)
    assert_same(run.starts[1], masked(after, masks(load(run.files.round(1).ticket))))


@pytest.mark.slow
def test_rounds_start_from_the_rewound_weights_under_their_mask(search_run):
    run = search_run(*TWO_ROUNDS)
    rewinding = load(run.files.weights_after(3))["state_dict"]
    assert len(run.starts) == 3
    mask = ones_like_ticket(load(run.files.round(0).ticket))
    for index in (1, 2):
        ticket = load(run.files.round(index).ticket)
        mask = pruned_by_torch(trained_weights(load(run.files.round(index - 1).last)), mask, 0.4)
        assert_same(masks(ticket), mask)
        assert_same(ticket["init_weight"], rewinding)
        for name, tensor in run.starts[index].items():
            layer = name.removesuffix(".weight")
            if layer in mask:
                assert torch.equal(tensor[mask[layer]], rewinding[name][mask[layer]]), name
                assert (tensor[~mask[layer]] == 0).all(), name
            else:
                assert torch.equal(tensor, rewinding[name]), name  # batch normalisation and classifier too
        assert_same(masks(load(run.files.round(index).last)), mask)
        assert_same(masks(load(run.files.round(index).best)), mask)
    assert_same(masks(load(run.files.ticket)), mask)
    assert_same(load(run.files.ticket)["init_weight"], rewinding)


@pytest.mark.slow
def test_no_fc_leaves_the_classifier_as_trained(search_run):
    run = search_run(*TWO_ROUNDS, "--no_fc")
    rewinding = load(run.files.weights_after(3))["state_dict"]
    for index in (1, 2):
        trained = trained_weights(load(run.files.round(index - 1).last))
        for name, tensor in masked(rewinding, masks(load(run.files.round(index).ticket))).items():
            if name.startswith("fc."):
                assert torch.equal(run.starts[index][name], trained[name])
                assert not torch.equal(tensor, trained[name])
            else:
                assert torch.equal(run.starts[index][name], tensor), name


@pytest.mark.slow
def test_ft_goes_on_from_the_trained_weights(search_run):
    run = search_run(*TWO_ROUNDS, "--prune_type", "ft")
    for index in (1, 2):
        trained = trained_weights(load(run.files.round(index - 1).last))
        assert_same(run.starts[index], masked(trained, masks(load(run.files.round(index).ticket))))


@pytest.mark.slow
def test_conv1_prunes_the_stem_too(search_run):
    run = search_run("--pruning_times", 1, "--rate", 0.4, "--conv1")
    mask = masks(load(run.files.ticket))
    assert "conv1" in mask and not mask["conv1"].all()
    assert sum(layer.numel() for layer in mask.values()) == 267264 + 432
    assert "conv1" not in masks(load(search_run(*TWO_ROUNDS).files.ticket))


@pytest.mark.slow
def test_tables_and_results_agree_with_each_other_and_with_the_files(search_run):
    run = search_run(*TWO_ROUNDS)
    table, result = rows(run.files.rounds), json.loads(run.files.result.read_text())
    assert [int(row["round"]) for row in table] == [0, 1, 2]
    for row in table:
        files = run.files.round(int(row["round"]))
        assert {name: str(value) for name, value in json.loads(files.result.read_text()).items()} == row
        curve = rows(files.metrics)
        best = max(curve, key=lambda epoch: (float(epoch["val_acc"]), int(epoch["epoch"])))
        assert [row[name] for name in ("best_epoch", "test_acc", "val_acc")] == [
            best[name] for name in ("epoch", "test_acc", "val_acc")]
        assert row["test_acc_last"] == curve[-1]["test_acc"]
        assert load(files.best)["epoch"] == int(best["epoch"])
        kept = sum(int(mask.sum()) for mask in masks(load(files.ticket)).values())
        assert int(row["nonzeros"]) == kept and float(row["density"]) == kept / 267264
        assert [float(epoch["lr"]) for epoch in curve] == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001])
    dense, ticket = float(table[0]["test_acc"]), float(table[2]["test_acc"])
    assert [row["matched"] == "True" for row in table[1:]] == [float(row["test_acc"]) >= dense - 1 for row in table[1:]]
    assert (result["dense_acc"], result["ticket_acc"], result["nonzeros"]) == (dense, ticket, int(table[2]["nonzeros"]))
    assert result["density"] == result["nonzeros"] / 267264 and result["rounds_per_rate"] == [2]
    assert result["ticket"] == str(run.files.ticket)
    assert math.isclose(result["seconds"], sum(float(row["seconds"]) for row in table))
    for plot in (run.files.rounds_plot, run.files.round(1).curve):
        assert plot.read_bytes().startswith(b"\x89PNG")
    assert str(run.files.ticket) in run.process.stdout


@pytest.mark.slow
def test_the_default_milestones_are_a_half_and_three_quarters(tmp_path, run_main):
    args = main_imp.parse_args(["--save_dir", str(tmp_path)])
    protocol = prepare(args).protocol
    assert (protocol.epochs, protocol.milestones, protocol.lr, protocol.batch_size) == (182, (91, 136), 0.1, 128)
    assert (protocol.momentum, protocol.weight_decay) == (0.9, 1e-4)
    assert prepare(main_imp.parse_args(["--save_dir", str(tmp_path), "--arch", "res50"])).protocol.weight_decay == 5e-4
    done = run_main("main_imp.py", "--limit", 60, "--epochs", 8, "--pruning_times", 0, "--save_dir", tmp_path / "run")
    assert done.returncode == 0
    assert [float(row["lr"]) for row in rows(RunDir(tmp_path / "run").round(0).metrics)] == pytest.approx(
        [0.1] * 4 + [0.01] * 2 + [0.001] * 2)


@pytest.mark.slow
def test_a_training_of_one_epoch_has_the_rate_asked_for(tmp_path, run_main):
    done = run_main("main_imp.py", "--limit", 60, "--epochs", 1, "--rewind_epoch", 0, "--pruning_times", 0,
                    "--lr", 0.05, "--save_dir", tmp_path / "run")
    assert done.returncode == 0
    assert [float(row["lr"]) for row in rows(RunDir(tmp_path / "run").round(0).metrics)] == [0.05]


@pytest.mark.slow
def test_initial_weights_are_written_once_and_then_loaded(tmp_path, run_main):
    words = ("main_imp.py", *SHORT, "--epochs", 3, "--pruning_times", 0, "--init", tmp_path / "init.pth.tar")
    (tmp_path / "init.pth").touch()  # what a mistyped name may have meant
    with every_training_step() as first:
        one = run_main(*words, "--seed", 1, "--save_dir", tmp_path / "one")
    assert one.returncode == 0
    assert_same(load(tmp_path / "init.pth.tar")["state_dict"], first[0])
    before = (tmp_path / "init.pth.tar").read_bytes()
    with every_training_step() as second:
        two = run_main(*words, "--seed", 2, "--save_dir", tmp_path / "two")
    assert two.returncode == 0
    assert_same(first[0], second[0])
    told = {"one": f"{tmp_path}/init.pth.tar not there: drawn with seed 1, written to {tmp_path}/init.pth.tar (near it lies "
                   f"{tmp_path}/init.pth; was that meant?)", "two": f"read from {tmp_path}/init.pth.tar"}
    for done, name in ((one, "one"), (two, "two")):
        assert done.stdout.startswith(f"initial weights: {told[name]}\n")
        session, = json.loads((tmp_path / name / "run.json").read_text())["sessions"]
        assert session["initial_weights"] == told[name]
        # weeks later: one line that can be pasted, and what was printed
        assert shlex.split(session["command"])[:2] == ["python", "main_imp.py"]
        heading, _, printed = (tmp_path / name / "log.txt").read_text().partition("\n")
        assert heading.startswith(f"$ {session['command']}   # {session['written'][:2]}") and printed == done.stdout
    again = run_main(*words, "--seed", 2, "--save_dir", tmp_path / "two")
    assert re.search(r"^== round 0 of 0: .* s; done before$", again.stdout, re.MULTILINE) and "done before" not in two.stdout
    assert not torch.equal(first[-1]["fc.weight"], second[-1]["fc.weight"]), "the seed still draws the batches"
    assert (tmp_path / "init.pth.tar").read_bytes() == before


@pytest.mark.slow
def test_a_ticket_given_as_init_brings_its_initial_weights(tmp_path, run_main, search_run):
    ticket = search_run(*TWO_ROUNDS).files.ticket
    with every_training_step() as states:
        done = run_main("main_imp.py", *SHORT, "--pruning_times", 0, "--init", ticket, "--save_dir", tmp_path / "run")
    assert done.returncode == 0
    assert_same(states[0], load(ticket)["init_weight"])


@pytest.mark.nightly
def test_the_seed_decides_everything(search_run, tmp_path, run_main):
    run = search_run(*TWO_ROUNDS)
    assert run_main("main_imp.py", *SHORT, *TWO_ROUNDS, "--save_dir", tmp_path / "again").returncode == 0
    assert_same_run(run.folder, tmp_path / "again")
    assert run_main("main_imp.py", *SHORT, *TWO_ROUNDS, "--seed", 2, "--save_dir", tmp_path / "other").returncode == 0
    first, other = (load(RunDir(folder).round(0).ticket)["init_weight"] for folder in (run.folder, tmp_path / "other"))
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


# --- the extreme search for real --------------------------------------------------------------------------------------


@pytest.mark.nightly
def test_the_extreme_search_undoes_rounds_and_goes_on(run_main, tmp_path):
    done = run_main("main_imp.py", "--extreme", "--rates", "0.999,0.4,0.2", "--match_tolerance", 20, "--max_rounds", 3,
                    "--epochs", 6, "--save_dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    files = RunDir(tmp_path / "run")
    table, result = rows(files.rounds), json.loads(files.result.read_text())

    dense = float(table[0]["test_acc"])
    expected = [row["matched"] == "True" for row in table]
    assert expected == [float(row["test_acc"]) >= dense - 20 for row in table]
    assert [row["kept"] == "True" for row in table] == expected
    # 0.1% of the weights can't do it, 60% can: the test needs an undone round with a kept one behind it
    assert not expected[1] and any(expected[2:]), "the settings of this test no longer force an undone round"

    position, counts = 0, [0, 0, 0]
    mask, source = ones_like_ticket(load(files.round(0).ticket)), 0
    for row, kept in zip(table[1:], expected[1:]):
        rate, index = (0.999, 0.4, 0.2)[position], int(row["round"])
        assert float(row["rate"]) == rate
        candidate = pruned_by_torch(trained_weights(load(files.round(source).last)), mask, rate)
        assert_same(masks(load(files.round(index).ticket)), candidate)
        assert_same(masks(load(files.round(index).last)), candidate)
        counts[position] += kept
        position += not kept
        if kept:
            mask, source = candidate, index
    assert len(table) == 4 or position == 3
    final = load(files.ticket)
    assert_same(masks(final), mask)
    assert_same(final["init_weight"], load(files.weights_after(3))["state_dict"])
    assert final["round"] == source
    assert result["rounds_per_rate"] == counts and result["rates"] == [0.999, 0.4, 0.2]
    assert result["ticket_acc"] == float(table[source]["test_acc"])
    assert result["density"] == float(table[source]["density"])
    assert done.stdout.count("undone") == expected.count(False)


# --- killed, resumed, run again ---------------------------------------------------------------------------------------


def without_seconds(value):
    if isinstance(value, dict):
        return {name: without_seconds(item) for name, item in value.items() if name not in ("seconds", "ticket")}
    return [without_seconds(item) for item in value] if isinstance(value, list) else value


def assert_equal_content(left, right, where: str) -> None:
    assert type(left) is type(right), where
    if isinstance(left, torch.Tensor):
        assert left.dtype == right.dtype and torch.equal(left, right), where
    elif isinstance(left, dict):
        assert left.keys() == right.keys(), where
        for name in left:
            assert_equal_content(left[name], right[name], f"{where}[{name}]")
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right), where
        for index, pair in enumerate(zip(left, right)):
            assert_equal_content(*pair, f"{where}[{index}]")
    else:
        assert left == right, where


def assert_same_run(left: Path, right: Path) -> None:
    """Every tensor of every file, and every table but for the seconds."""
    names = {path.relative_to(left) for path in left.rglob("*") if path.is_file()}
    assert names == {path.relative_to(right) for path in right.rglob("*") if path.is_file()}
    assert sum(name.name == "checkpoint.pth.tar" for name in names) >= 1
    for name in sorted(names):
        a, b = left / name, right / name
        if name.name.endswith(".pth.tar"):
            assert_equal_content(without_seconds(load(a)), without_seconds(load(b)), str(name))
        elif name.suffix == ".csv":
            assert without_seconds(rows(a)) == without_seconds(rows(b)), name
        elif name.name == "result.json":
            assert without_seconds(json.loads(a.read_text())) == without_seconds(json.loads(b.read_text())), name


class Killed(BaseException):
    pass


@pytest.mark.parametrize("apart", [pytest.param(4, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.nightly)])
def test_a_run_stopped_before_any_of_its_writes_ends_the_same(tmp_path, monkeypatch, make_dataset, apart):
    words = "--epochs 2 --rewind_epoch 1 --pruning_times 1 --rate 0.5 --lr 0.05 --save_dir".split()
    real, left = checkpoint.write_atomic, math.inf

    def write(path, fill, *secret):
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        real(path, fill, *secret)

    monkeypatch.setattr(checkpoint, "write_atomic", write)
    # what takes time and is no state
    for name in ("training_curve", "accuracy_by_density"):
        monkeypatch.setattr(f"utils.plots.{name}", lambda *words: write(words[-1], lambda file: file.write(b"plot")))
    monkeypatch.setattr("utils.run_dir.versions", dict)
    monkeypatch.setattr("pruner.experiment.load_dataset", lambda *_: make_dataset(train=20, val=10, test=10))
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)  # all the "processes" are this one

    main_imp.main([*words, str(tmp_path / "whole")])
    for stop in itertools.count(0, apart):
        folder, left = tmp_path / f"stopped{stop:02}", stop
        try:
            main_imp.main([*words, str(folder)])
            break  # it needs no more writes than this
        except Killed:
            left = math.inf
        main_imp.main([*words, str(folder)])
        assert_same_run(tmp_path / "whole", folder)
    assert stop > 20


def start(*words) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "main_imp.py", *map(str, words)], cwd=ROOT, stdout=subprocess.DEVNULL,
                            stderr=subprocess.PIPE, text=True)


def interrupt_in(folder: Path, signal_number: int, *words, moment: float = 0) -> tuple[int, str]:
    """Run until the round's folder has a checkpoint of a first epoch, then send the signal: (exit code, stderr)."""
    process = start(*words)
    deadline = time.monotonic() + 120
    while not (folder / "checkpoint.pth.tar").exists():
        assert process.poll() is None, f"ended before it could be interrupted: {process.stderr.read()}"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    time.sleep(moment)
    process.send_signal(signal_number)
    _, errors = process.communicate(timeout=60)
    epoch = load(folder / "checkpoint.pth.tar")["epoch"]
    assert 1 <= epoch < 8, "it was too late to interrupt this round"
    return process.returncode, errors


@pytest.mark.slow
def test_killed_runs_resume_bit_for_bit(run_main, tmp_path):
    words = ("--dataset", "digits", "--limit", 300, "--epochs", 6, "--pruning_times", 2, "--rate", 0.4, "--save_dir")
    killed = tmp_path / "killed"
    assert interrupt_in(killed / "round_00", signal.SIGKILL, *words, killed)[0] == -signal.SIGKILL
    assert not (killed / "round_01").exists()
    assert interrupt_in(killed / "round_01", signal.SIGKILL, *words, killed)[0] == -signal.SIGKILL
    assert run_main("main_imp.py", *words, killed).returncode == 0
    assert run_main("main_imp.py", *words, tmp_path / "whole").returncode == 0
    assert_same_run(tmp_path / "whole", killed)


@pytest.mark.slow
@pytest.mark.parametrize("moment", [0, 0.05])
def test_ctrl_c_is_one_line_and_exit_code_130(tmp_path, moment):
    """The first moment falls into the writing of a file, the second, most likely, into training."""
    words = ("--dataset", "digits", "--limit", 500, "--epochs", 100, "--pruning_times", 0, "--save_dir", tmp_path / "run")
    code, errors = interrupt_in(tmp_path / "run/round_00", signal.SIGINT, *words, moment=moment)
    assert code == 130 and errors.count("\n") == 1 and "same command" in errors, errors


def snapshot(folder: Path, but: tuple[str, ...] = (".lock",)) -> dict:
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name not in but}


@pytest.fixture
def finished(search_run, tmp_path):
    """A copy of a finished run, and the words of its command."""
    subprocess.run(["cp", "-a", search_run(*TWO_ROUNDS).folder, tmp_path / "run"], check=True)
    return tmp_path / "run", ("main_imp.py", *SHORT, *TWO_ROUNDS, "--save_dir", tmp_path / "run")


@pytest.mark.slow
def test_a_finished_run_trains_nothing_again(finished, run_main):
    folder, words = finished
    trainings = ("checkpoint.pth.tar", "model_best.pth.tar", "epoch_3.pth.tar", "metrics.csv", "curve.png")
    before = {path: state for path, state in snapshot(folder).items()
              if path.name in trainings or path.parent != folder and path.name == "ticket.pth.tar"}
    table, ticket = rows(folder / "rounds.csv"), load(folder / "ticket.pth.tar")
    with every_training_step() as steps:
        assert run_main(*words).returncode == 0
    assert not steps and len(before) == 3 * 5 + 1
    after = snapshot(folder)
    assert all(after[path] == state for path, state in before.items())
    assert rows(folder / "rounds.csv") == table
    assert_equal_content(load(folder / "ticket.pth.tar"), ticket, "ticket")


@pytest.mark.slow
@pytest.mark.parametrize("change", [
    ("--rate", 0.3), ("--seed", 2), ("--epochs", 6), ("--limit", 299), ("--lr", 0.2), ("--decreasing_lr", "3,4"),
    ("--prune_type", "ft"), ("--no_fc",), ("--conv1",), ("--rewind_epoch", 2), ("--extreme",), ("--arch", "res18"),
    ("--batch_size", 64), ("--momentum", 0.5), ("--weight_decay", 0.01), ("--warmup", 9), ("--no_amp",),
    ("--pruning_times", 1)])
def test_other_arguments_in_the_same_directory_are_refused(finished, run_main, refused, change):
    folder, words = finished
    before = snapshot(folder)
    message = refused(run_main(*words, *change))
    assert change[0].lstrip("-").removeprefix("no_") in message
    assert snapshot(folder) == before


@pytest.mark.slow
def test_arguments_that_change_no_result_may_change(finished, run_main):
    _, words = finished
    with every_training_step() as steps:
        assert run_main(*words, "--device", "cpu", "--print_freq", 50, "--data", "elsewhere").returncode == 0
    assert not steps


@pytest.mark.slow
def test_other_initial_weights_under_the_same_name_are_refused(tmp_path, run_main, refused, make_model):
    words = ("main_imp.py", *SHORT, "--pruning_times", 0, "--init", tmp_path / "init.pth.tar",
             "--save_dir", tmp_path / "run")
    assert run_main(*words).returncode == 0
    assert run_main(*words).returncode == 0
    torch.save(make_model(classes=10, seed=77).state_dict(), tmp_path / "init.pth.tar")
    before = snapshot(tmp_path / "run")
    assert "weights" in refused(run_main(*words))
    assert snapshot(tmp_path / "run") == before


@pytest.mark.parametrize("name", ["checkpoint.pth.tar", "ticket.pth.tar", "round_00/ticket.pth.tar"])
def test_a_directory_with_files_of_something_else_is_refused(tmp_path, run_main, refused, name):
    (tmp_path / "run" / name).parent.mkdir(parents=True)
    (tmp_path / "run" / name).write_bytes(b"precious")
    message = refused(run_main("main_imp.py", *SHORT, *TWO_ROUNDS, "--save_dir", tmp_path / "run"))
    assert name.partition("/")[0] in message and (tmp_path / "run" / name).read_bytes() == b"precious"


@pytest.mark.parametrize("record", ["", "[]", "{}", "{", '{"script": "main_imp.py", "arguments": 3, "sessions": []}',
                                    '{"script": "main_eval_all.py", "arguments": {}, "sessions": []}'])
def test_a_damaged_or_foreign_record_is_one_line(finished, run_main, refused, record):
    folder, words = finished
    (folder / "run.json").write_text(record)
    message = refused(run_main(*words))
    assert str(folder) in message and (folder / "run.json").read_text() == record


@pytest.mark.slow
def test_more_pruning_times_extend_the_run(run_main, search_run, tmp_path):
    words = ("main_imp.py", *SHORT, "--rate", 0.4, "--save_dir", tmp_path / "run")
    assert run_main(*words, "--pruning_times", 1).returncode == 0
    before = snapshot(tmp_path / "run" / "round_01", but=("result.json",))
    assert run_main(*words, "--pruning_times", 2).returncode == 0
    assert snapshot(tmp_path / "run" / "round_01", but=("result.json",)) == before
    assert_same_run(search_run(*TWO_ROUNDS).folder, tmp_path / "run")


def test_a_directory_in_use_is_refused(finished, run_main, refused):
    folder, words = finished
    with open(folder / ".lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = snapshot(folder)
        assert "another process" in refused(run_main(*words))
        assert snapshot(folder) == before


def test_a_save_dir_that_can_not_be_written_is_refused(run_main, refused, tmp_path):
    (tmp_path / "file").write_text("in the way")
    for path in (tmp_path / "file", tmp_path / "file" / "run", tmp_path / ("x" * 300)):
        assert "--save_dir" in refused(run_main("main_imp.py", *SHORT, "--save_dir", path))


def test_the_directory_records_arguments_and_versions(search_run):
    record = json.loads(search_run(*TWO_ROUNDS).files.record.read_text())
    arguments = record["arguments"]
    assert (arguments["rate"], arguments["epochs"], arguments["weight_decay"]) == (0.4, 5, 1e-4)
    assert arguments["decreasing_lr"] == [2, 4]
    (session,) = record["sessions"]
    assert session["torch"] == torch.__version__ and session["command"].startswith("python main_imp.py ")
    if platform.machine() == "x86_64" and (lscpu := shutil.which("lscpu")):
        told = subprocess.run([lscpu], env={"LC_ALL": "C"}, capture_output=True, text=True, check=True).stdout
        model, = re.findall(r"^Model name:\s*(.*?)\s*$", told, re.MULTILINE)
        assert session["machine"] == f"{model}, 1 thread"
    commit = session["git"].removesuffix("+changes")
    if (ROOT / ".git").exists():
        subprocess.run(["git", "-C", ROOT, "cat-file", "-e", f"{commit}^{{commit}}"], check=True)
    else:
        assert commit == "unknown"


def test_weights_that_are_not_finite_are_never_pruned(search_run, run_main, refused, tmp_path):
    """A checkpoint that went bad on disk stops the search with a line that names it."""
    subprocess.run(["cp", "-a", search_run(*TWO_ROUNDS).folder, tmp_path / "run"], check=True)
    subprocess.run(["rm", "-r", tmp_path / "run/round_02"], check=True)
    bad = load(tmp_path / "run/round_01/checkpoint.pth.tar")
    bad["state_dict"]["layer1.0.conv1.weight_orig"][0, 0, 0, 0] = math.nan
    torch.save(bad, tmp_path / "run/round_01/checkpoint.pth.tar")
    message = refused(run_main("main_imp.py", *SHORT, *TWO_ROUNDS, "--save_dir", tmp_path / "run"))
    assert "round_01/checkpoint.pth.tar" in message


def test_selections_are_the_choices_of_the_flag():
    for choice in imp.SELECTIONS:
        assert main_imp.parse_args(["--save_dir", "x", "--match_on", choice]).match_on == choice


@pytest.mark.slow
def test_the_dense_network_gets_epochs_of_its_own(search_run):
    run = search_run("--pruning_times", 1, "--rate", 0.4, "--dense_epochs", 8)
    assert [len(rows(run.folder / folder / "metrics.csv")) for folder in ("round_00", "round_01")] == [8, 5]
    rates = [float(row["lr"]) for row in rows(run.folder / "round_00" / "metrics.csv")]
    assert rates == pytest.approx([0.1] * 2 + [0.01] * 2 + [0.001] * 4)  # milestones that were given hold for both
    usual = search_run("--pruning_times", 0, "--dense_epochs", 8, "--decreasing_lr", "")
    assert {float(row["lr"]) for row in rows(usual.folder / "round_00" / "metrics.csv")} == {0.1}


def test_rewinding_past_the_dense_epochs_is_refused(run_main, refused, tmp_path):
    message = refused(run_main("main_imp.py", *SHORT, "--dense_epochs", 2, "--save_dir", tmp_path / "run"))
    assert "--dense_epochs 2" in message


def test_usual_milestones_are_the_papers():
    assert usual_milestones(182) == (91, 136) and usual_milestones(1) == () and usual_milestones(15) == (7, 11)
    protocol = TrainingProtocol(12, 0.1, (6, 9), 128, 0.9, 1e-4)
    assert protocol.lasting(15, None).milestones == (7, 11) and protocol.lasting(15, (6, 9)).milestones == (6, 9)
