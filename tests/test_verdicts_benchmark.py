"""The bars on verdicts: that the benchmark's innocent models are what it says, and that it sees a bar which is missed."""

import csv
import json
import os
import shutil
from argparse import Namespace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from stand_ins import OWNER_KEY, THIEFS_KEY, derived_for

from datasets import trigger
from datasets.pictures import as_float
from models import build_model
from ownership.claims.verdict import Check
from ownership.qr_code.claim import CodeClaim, write_claim
from ownership.suspects.reading import Suspect
from pruner import tickets
from pruner.qr_code import geometry as qr_code
from pruner.qr_code.embedding import embed, find_region
from pruner.masks import Mask, prunable_layers


@pytest.fixture(scope="module")
def verdicts():
    """What benchmarks/verdicts.py measures with."""
    from benchmarks.lib import verdicts

    return verdicts


@pytest.fixture(scope="module")
def random() -> np.random.Generator:
    return np.random.default_rng(5)


@pytest.fixture(scope="module")
def owner(verdicts, random):
    return verdicts.new_owner("res20s", random)


@pytest.fixture(scope="module")
def setting(owner) -> Namespace:
    return Namespace(arch="res20s", model=build_model("res20s", 2), tickets=[owner.mask], classifiers=[], level=1e-9)


@pytest.fixture
def run(run_main):
    """run(*words) -> (exit code, what was printed)."""

    def call(*words) -> tuple[int, str]:
        done = run_main("benchmarks/verdicts.py", *words)
        return done.returncode, done.stdout + done.stderr.rpartition("error: ")[2]

    return call


# --- innocent models ----------------------------------------------------------------------------------------------------


def occupied(mask: Mask, name: str) -> np.ndarray:
    return mask[name].numpy().any((2, 3))


def test_innocent_models_are_what_they_are_called(verdicts, setting, owner, random):
    made = {kind: make(setting, owner, random) for kind, make in verdicts.INNOCENT.items()}
    for kind, (mask, weights) in made.items():
        mask.check_fits(setting.model)
        for name, kept in mask.items():
            assert not weights[f"{name}.weight"][~kept].any() and torch.isfinite(weights[f"{name}.weight"]).all(), kind
    assert all(occupied(made["all kernels occupied"][0], name).all() for name in owner.mask)
    assert 0 < made["nearly empty"][0].density < 0.02
    channels = made["fresh, whole channels"][0]["layer3.0.conv1"].numpy()
    assert not channels.any((1, 2, 3)).all() and not channels.any((0, 2, 3)).all()
    assert made["real ticket"][0].nonzeros == owner.mask.nonzeros


def code_at_the_place(mask: Mask, owner) -> np.ndarray:
    """bool [data modules], as they are occupied where the owner's code would lie."""
    region = owner.regions[0]
    size = region.code_format.size
    window = occupied(mask, region.layer)[region.start_x:region.start_x + size, region.start_y:region.start_y + size]
    return window[qr_code.data_modules(region.code_format.version)]


def test_another_owners_code_lies_at_the_very_place(verdicts, setting, owner, random, monkeypatch):
    monkeypatch.setattr(verdicts, "random_text", lambda random: "somebody else")
    region = owner.regions[0]
    other = qr_code.encode("somebody else", region.code_format)[qr_code.data_modules(region.code_format.version)]
    assert (code_at_the_place(verdicts.signed_by_another(setting, owner, random)[0], owner) == other).all()
    assert (code_at_the_place(verdicts.pruned(setting, owner, random)[0], owner) == other).mean() > 0.8
    assert not (code_at_the_place(verdicts.renumbered(setting, owner, random)[0], owner) == other).all()


@pytest.mark.nightly
def test_owners_differ_and_their_own_models_are_owned(verdicts, setting, random):
    """Else no innocent model being owned would say nothing."""
    owners = [verdicts.new_owner("res20s", random) for _ in range(4)]
    assert len({owner.text for owner in owners}) == len({owner.parts["V3"].sha256 for owner in owners}) == 4
    for number, owner in enumerate(owners):
        row = verdicts.judged(Suspect(owner.mask), owner, np.zeros(100, dtype=np.int64), True, setting)
        assert row["verdict"] == "owned" and row["p V2"] < 1e-9 < row["p V3"]
        dearer = verdicts.judged(Suspect(owner.mask), owner, np.zeros(100, dtype=np.int64), False, setting)
        assert dearer["p V2"] == pytest.approx(row["p V2"] * 2**40)  # more nonces could have been tried
        row = verdicts.judged(Suspect(owners[number - 1].mask), owner, owner.expected, True, setting)
        assert row["verdict"] == "owned" and row["p V3"] < 1e-80 < row["p V2"]


def test_innocent_answers_prefer_classes(verdicts, setting, owner, random):
    answers = [verdicts.innocent_answers(setting, owner, random) for _ in range(40)]
    assert all(answer.shape == (100,) and 0 <= answer.min() and answer.max() < 10 for answer in answers)
    most = [np.bincount(answer).max() for answer in answers]
    assert max(most) > 90 and min(most) < 30


@pytest.mark.nightly
def test_a_small_run_on_innocent_models(verdicts, run, tmp_path):
    code, printed = run("--only", "innocent", "--count", 22, "--owners", 2, "--out", tmp_path)
    assert code == 0 and "owned: 0 of 22" in printed
    with open(tmp_path / "innocent.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 22 and {row["verdict"] for row in rows} == {"not shown"}
    assert {row["kind"] for row in rows} == set(verdicts.INNOCENT) - {"real ticket"}
    assert [row["committed"] for row in rows] == ["True", "False"] * 11
    for row in rows:
        assert 0 < float(row["p"]) <= 1
        assert float(row["p"]) == pytest.approx(min(1, 2 * min(float(row["p V2"]), float(row["p V3"]))))


def innocent_rows(folder: Path) -> list[dict]:
    with open(folder / "innocent.csv", newline="", encoding="utf-8") as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


@pytest.mark.nightly
def test_a_run_that_was_killed_goes_on(run, tmp_path):
    """Cut off within a row, it comes to the very rows of one that was not."""
    words = "--only", "innocent", "--owners", 2, "--seed", 3
    assert run(*words, "--count", 6, "--out", tmp_path / "whole")[0] == 0
    assert run(*words, "--count", 4, "--out", tmp_path / "killed")[0] == 0
    path = tmp_path / "killed/innocent.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]) + "fresh, uni")
    code, printed = run(*words, "--count", 6, "--out", tmp_path / "killed")
    assert code == 0 and "owned: 0 of 6" in printed
    assert innocent_rows(tmp_path / "killed") == innocent_rows(tmp_path / "whole")
    printed = run(*words, "--count", 6, "--out", tmp_path / "killed")[1]  # all are there
    assert "owned: 0 of 6" in printed and innocent_rows(tmp_path / "killed") == innocent_rows(tmp_path / "whole")
    code, printed = run(*words[:-1], 4, "--count", 6, "--out", tmp_path / "killed")
    assert code == 2 and "other settings" in printed and len(innocent_rows(tmp_path / "killed")) == 6


def made_up_rows(count: int) -> list[dict]:
    return [{"kind": "fresh", "p": number / 8, "p V1": 1.0, "p V2": 1.0, "p V3": 1.0, "p of a mark alone": 0.5, "seconds": 1.25}
            for number in range(count)]


@pytest.mark.parametrize("end", ["", ","])
def test_a_row_whose_end_is_lost_is_judged_again(verdicts, tmp_path, end):
    """With it goes the other one of its pair."""
    path = tmp_path / "innocent.csv"
    assert list(verdicts.kept(iter(made_up_rows(6)), path, settings={"seed": 1})) == made_up_rows(6)
    assert verdicts.earlier_rows(path, {"seed": 1}, 10, 2) == made_up_rows(6)
    path.write_text(path.read_text().rpartition(",")[0] + end)
    assert verdicts.earlier_rows(path, {"seed": 1}, 10, 2) == made_up_rows(4)


def test_a_kill_while_rows_are_taken_over_costs_none(verdicts, tmp_path, monkeypatch):
    path, rows = tmp_path / "innocent.csv", made_up_rows(6)
    list(verdicts.kept(iter(rows[:4]), path))
    before, replace = path.read_bytes(), os.replace

    def killed(*files):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        list(verdicts.kept(iter(rows[4:]), path, rows[:4]))
    assert path.read_bytes() == before
    monkeypatch.setattr(os, "replace", replace)
    list(verdicts.kept(iter(rows[4:]), path, rows[:4]))
    (tmp_path / "innocent.json").write_text("{}")
    assert verdicts.earlier_rows(path, {}, 6, 2) == rows


def test_an_owned_innocent_model_misses_the_bar(verdicts, run, monkeypatch):
    monkeypatch.setitem(verdicts.INNOCENT, "fresh, uniform", lambda args, owner, random: (
        owner.mask, verdicts.drawn_weights(owner.mask, random)))
    code, printed = run("--only", "innocent", "--count", 2, "--owners", 1)
    assert code == 1 and "owned: 2 of 2" in printed


# --- dishonest claimants ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_dishonest_claimants_own_nothing_and_one_who_does_misses_the_bar(run, tmp_path, monkeypatch):
    from benchmarks.lib import dishonest

    code, printed = run("--only", "dishonest", "--count", 1, "--out", tmp_path)
    names = list(dishonest.CLAIMANTS)
    assert code == 0 and f"owned: 0 of {len(names)}" in printed
    for name in names:
        monkeypatch.setitem(dishonest.CLAIMANTS, name, lambda args, mask, random: Check("V2", "shown", "", Fraction(1, 10**10)))
    code, printed = run("--only", "dishonest", "--count", 3, "--out", tmp_path)  # goes on behind the first model
    assert code == 1 and f"owned: {2 * len(names)} of {3 * len(names)}" in printed
    with open(tmp_path / "dishonest.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["claimant"] for row in rows] == names * 3 and [row["verdict"] for row in rows[::len(names)]][1:] == ["owned"] * 2
    assert {row["verdict"] for row in rows if row["claimant"].startswith(("key of", "V1 around"))} == {"refused", "owned"}


@pytest.mark.slow
def test_p_values_of_what_is_drawn_hold_and_too_small_ones_are_seen(run, monkeypatch):
    from benchmarks.lib import dishonest

    monkeypatch.setattr(dishonest, "KINDS", ("sorted",))
    code, printed = run("--only", "drawn", "--draws", 200)
    assert code == 0 and printed.count("  yes") == 3
    monkeypatch.setattr(dishonest, "p_of_drawn_labels", lambda draws, random: random.random(draws) / 4)
    code, printed = run("--only", "drawn", "--draws", 200)
    assert code == 1 and printed.count("  yes") == 2 and printed.count("  NO") == 1


# --- attacked models ----------------------------------------------------------------------------------------------------

pytestmark = pytest.mark.slow  # many verdicts each
KEY = b"a secret that only Jane has"


@pytest.fixture(scope="module")
def stolen(run_main, tmp_path_factory):
    """A signed model that knows 32 triggers by heart, its claim and key, and two sweeps of attacks on it."""
    folder = tmp_path_factory.mktemp("stolen")
    torch.manual_seed(0)
    model = build_model("res20s", 10)
    generator = torch.Generator().manual_seed(0)
    mask = Mask({name: torch.rand(layer.weight.shape, generator=generator) < 0.25
                 for name, layer in prunable_layers(model).items()})
    own, others = derived_for(OWNER_KEY, "Jane", mask), derived_for(THIEFS_KEY, "John", mask)
    region = find_region(mask, own["signature"])
    mask = embed(mask, own["signature"], region, np.random.default_rng(0))
    layers, seen = dict(model.named_modules()), []
    triggers = trigger.keyed(KEY, 32, 10, 8)
    with torch.no_grad():
        for name, kept in mask.items():
            layers[name].weight.mul_(kept)
        model.eval().fc.register_forward_hook(lambda module, given, out: seen.append(given[0]))
        model(as_float(triggers.pictures.images))
        features = torch.cat((seen[0], torch.ones(32, 1)), 1).double()
        fitted = torch.linalg.lstsq(features, torch.nn.functional.one_hot(triggers.pictures.labels, 10).double(),
                                    driver="gelsd").solution
        model.fc.weight.copy_(fitted[:-1].T)
        model.fc.bias.copy_(fitted[-1])
    tickets.write_weights(folder / "model.pth.tar", model.state_dict(), {}, mask)
    (folder / "trigger.key").write_bytes(KEY)
    for derived, name in ((own, "claim.json"), (others, "other.json")):
        write_claim(folder / name, CodeClaim(
            arch="res20s", layer=region.layer, start_x=region.start_x, start_y=region.start_y, version=3, error_correction="H",
            mask_pattern=region.code_format.mask_pattern, similarity=region.similarity, nonzeros=mask.nonzeros,
            entries=mask.entries, random_state={}, **derived))
    for attack, *words in (("prune", "--sweep", "0,0.1,0.3"), ("addon", "--sweep", "0.02"), ("permute",)):
        done = run_main("main_attack.py", attack, "--checkpoint", folder / "model.pth.tar", "--no_accuracy", "--save_dir",
                        folder / attack, *words)
        assert done.returncode == 0, done.stderr
    return folder


def triggers_of(folder: Path) -> tuple:
    return "--trigger_key", folder / "trigger.key", "--trigger_count", 32, "--trigger_size", 8


@pytest.mark.slow
def test_attacked_models_are_owned(run, stolen, tmp_path):
    code, printed = run("--only", "attacked", stolen / "prune", stolen / "addon", "--claim", stolen / "claim.json",
                        *triggers_of(stolen),
                        "--out", tmp_path)
    assert code == 0 and "missed: 0 of 4" in printed
    with open(tmp_path / "attacked.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["attack"], row["level"]) for row in rows] == [
        ("prune magnitude", "0.0"), ("prune magnitude", "0.1"), ("prune magnitude", "0.3"), ("addon pruned", "0.02")]
    assert all(float(row["p V2"]) < 1e-9 for row in rows) and float(rows[0]["p V3"]) == pytest.approx(1e-24)


@pytest.mark.slow
def test_a_miss_is_counted(run, stolen):
    code, printed = run("--only", "attacked", stolen / "prune", "--claim", stolen / "other.json")
    assert code == 1 and "missed: 3 of 3" in printed
    code, printed = run("--only", "attacked", stolen / "permute", "--claim", stolen / "claim.json")
    assert code == 1 and "missed: 1 of 1" in printed  # a scattered code is not read; the answers are as before
    code, printed = run("--only", "attacked", stolen / "permute", "--claim", stolen / "claim.json", *triggers_of(stolen))
    assert code == 0 and "missed: 0 of 1" in printed


def test_models_that_lost_too_much_are_no_misses(run, stolen, tmp_path):
    for number, (level, accuracy) in enumerate((("0", 80.0), ("0.1", 79.0), ("0.3", 78.99))):
        folder = tmp_path / "sweep" / f"level_{level}"
        folder.mkdir(parents=True)
        result = json.loads((stolen / "prune" / f"level_{level}" / "result.json").read_text())
        (folder / "result.json").write_text(json.dumps({**result, "test_acc": accuracy}))
        (folder / "attacked.pth.tar").write_bytes((stolen / "prune" / f"level_{level}" / "attacked.pth.tar").read_bytes())
    words = "--only", "attacked", tmp_path / "sweep", "--claim", stolen / "other.json"
    assert "missed: 2 of 2 that lost at most 1 points" in run(*words)[1]
    assert "missed: 3 of 3 that lost at most 1.1 points" in run(*words, "--max_loss", 1.1)[1]
    (tmp_path / "sweep/level_0/result.json").unlink()
    code, printed = run(*words)
    assert code == 2 and "nothing says how accurate" in printed


def test_backups_of_levels_are_none(run, stolen, tmp_path):
    shutil.copytree(stolen / "prune", tmp_path / "prune")
    for name in ("level_0.1_old", "level_x", "level_0.10", "level_nan", "level_inf"):
        shutil.copytree(tmp_path / "prune/level_0.1", tmp_path / "prune" / name)
    code, printed = run("--only", "attacked", tmp_path / "prune", "--claim", stolen / "claim.json")
    assert code == 0 and "missed: 0 of 3" in printed


@pytest.mark.parametrize("change", [{"test_acc": "x"}, {"test_acc": [1]}, {"level": "0.1"}, {"level": True}, {"checkpoint": None},
                                    {"attack": 1}])
def test_a_damaged_result_is_named(run, stolen, tmp_path, change):
    shutil.copytree(stolen / "prune", tmp_path / "prune")
    path = tmp_path / "prune/level_0.1/result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    code, printed = run("--only", "attacked", tmp_path / "prune", "--claim", stolen / "claim.json")
    assert code == 2 and f"{path}: is no result of main_attack.py, or damaged" in printed


@pytest.mark.parametrize(("words", "message"), [
    (("RUN",), "--claim"), (("--claim", "CLAIM"), "RUNS"), (("RUN/none", "--claim", "CLAIM"), "no result.json"),
])
def test_what_is_missing_is_said(run, stolen, words, message):
    words = [word.replace("RUN", str(stolen / "prune")).replace("CLAIM", str(stolen / "claim.json")) for word in words]
    code, printed = run("--only", "attacked", *words)
    assert code == 2 and message in printed
