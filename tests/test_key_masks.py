"""Scheme V1: splitting, merging, forging, and the script that trains the outcome."""

import csv
import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attacks.fake1 import forge_key
from ownership.claims import commitment
from pruner import PATH_SPLITS, SPLITS, WALK_SPLITS, tickets
from pruner.key_mask import split as key_masks
from pruner.masks import Mask, prunable_layers
from pruner.key_mask.scores import PATH_SCORES, SCORES, WALKS, Scoring
from utils.errors import UserError

SHORT = ("--dataset", "digits", "--limit", "300", "--epochs", "2")


def random_ticket(model, density: float = 0.25, seed: int = 0) -> Mask:
    generator = torch.Generator().manual_seed(seed)
    return Mask({name: torch.rand(layer.weight.shape, generator=generator) < density
                 for name, layer in prunable_layers(model).items()})


@pytest.fixture(scope="module")
def ticket(make_model, tmp_path_factory):
    """(file of a ticket at 25%, its model, its mask)."""
    model = make_model("res20s", classes=10)
    mask = random_ticket(model)
    path = tmp_path_factory.mktemp("ticket") / "ticket.pth.tar"
    tickets.write_ticket(path, mask, model.state_dict(), {})
    return path, model, mask


@pytest.fixture(scope="module")
def parts(run_main, ticket, tmp_path_factory):
    """The run directory of a split at 5% by ewp."""
    folder = tmp_path_factory.mktemp("split") / "run"
    done = run_main("main_eval_all.py", *SHORT, "--mask_dir", ticket[0], "--type", "ewp", "--key_ratio", "0.05",
                    "--save_dir", folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_registry_and_what_help_says_of_it_agree():
    assert set(SPLITS) == set(SCORES) | {"identity"}
    assert set(PATH_SCORES) <= set(SCORES)
    assert set(PATH_SCORES) == set(PATH_SPLITS)
    assert set(WALKS) == set(WALK_SPLITS)


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), density=st.floats(0.05, 1.0), ratio=st.floats(0.01, 0.99), levels=st.integers(1, 9))
def test_budget_is_exact_and_parts_make_the_whole(seed, density, ratio, levels):
    rng = np.random.default_rng(seed)
    shapes = {"layer1.0.conv1": (5, 4, 3, 3), "layer1.0.conv2": (3, 5, 1, 1), "layer2.0.conv1": (1, 1, 3, 3)}
    mask = Mask({name: torch.from_numpy(rng.random(shape) < density) for name, shape in shapes.items()})
    # few levels: most weights tie
    scores = {name: torch.where(kept, torch.from_numpy(rng.integers(-levels, levels, kept.shape)).double(), -torch.inf)
              for name, kept in mask.items()}
    count = round(ratio * mask.nonzeros)
    if not 0 < count < mask.nonzeros:
        with pytest.raises(UserError, match="--key_ratio"):
            key_masks.split(mask, scores, ratio)
        return
    key, locked = key_masks.split(mask, scores, ratio)
    assert key.nonzeros == count
    for name in mask:
        assert torch.equal(key[name] | locked[name], mask[name])
        assert not (key[name] & locked[name]).any()
    # Algorithm 1 by sorting: score down, then position up
    flat = [(-float(scores[name].flatten()[place]), order, place) for order, name in enumerate(mask)
            for place in np.flatnonzero(mask[name])]
    wanted = {(order, place) for _, order, place in sorted(flat)[:count]}
    assert wanted == {(order, place) for order, name in enumerate(key) for place in np.flatnonzero(key[name])}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SCORES if name not in ("taylor1_abs", "hessian_abs", "intgrads")])
def test_every_score_meets_the_budget_on_a_network(ticket, name):
    _, model, mask = ticket
    scores = SCORES[name](Scoring(model, mask, num_paths=500))
    for ratio in (0.001, 0.05, 0.5):
        key, locked = key_masks.split(mask, scores, ratio)
        assert key.nonzeros == round(ratio * mask.nonzeros)
        assert key.nonzeros + locked.nonzeros == mask.nonzeros


def test_paths_alone_give_the_key_all_that_lies_on_them(ticket):
    _, model, mask = ticket
    counts = PATH_SCORES["ewp"](Scoring(model, mask, num_paths=3))
    key, locked = key_masks.split_visited(mask, counts)
    for name in mask:
        visited = (counts[name].amax((2, 3)) > 0)[:, :, None, None]
        assert torch.equal(key[name], mask[name] & visited)
        assert torch.equal(key[name] | locked[name], mask[name])
    with pytest.raises(UserError, match="run through the whole ticket"):
        key_masks.split_visited(mask, {name: torch.where(kept, 1.0, -torch.inf) for name, kept in mask.items()})


@pytest.mark.slow
def test_number_of_walks_or_ratio_or_ranked(run_main, ticket, tmp_path):
    """What the paper's command means, the same at a ratio, and the kernels of whole paths as before."""
    _, model, mask = ticket
    wanted = {"walks": ("ewp_walks", key_masks.split_visited(mask, WALKS["ewp"](Scoring(model, mask, num_paths=5)))[0]),
              "ratio": ("ewp_walks", key_masks.split(mask, WALKS["ewp"](Scoring(model, mask, key_nonzeros=100)), 100 / mask.nonzeros)[0]),
              "ranked": ("ewp", key_masks.split_visited(mask, PATH_SCORES["ewp"](Scoring(model, mask, num_paths=5)))[0])}
    words = {"walks": ("--num-paths", 5), "ratio": ("--key_ratio", 100 / mask.nonzeros, "--select", "walks"),
             "ranked": ("--num-paths", 5, "--select", "ranked")}
    for name, (split, key) in wanted.items():
        folder = tmp_path / name
        done = run_main("main_eval_all.py", "--dataset", "digits", "--limit", "20", "--epochs", "1", "--mask_dir", ticket[0],
                        "--type", "ewp", *words[name], "--save_dir", folder)
        assert done.returncode == 0, done.stderr
        part = tickets.read_model_file(folder / "key.pth.tar", model)
        assert part.mask == key and part.facts["split"] == split
        assert json.loads((folder / "result.json").read_text())["split"] == split


def test_files_hold_the_split_weights_and_merge_bit_for_bit(parts, ticket):
    _, model, mask = ticket
    key, locked = (tickets.read_model_file(parts / f"{name}.pth.tar", model) for name in ("key", "locked"))
    start = model.state_dict()
    for part in (key, locked):
        for name, kept in part.mask.items():
            assert torch.equal(part.initial[f"{name}.weight"], start[f"{name}.weight"] * kept)
    merged, weights = key_masks.merge(locked, key)
    assert merged == mask
    for name, tensor in start.items():
        layer = name.removesuffix(".weight")
        assert torch.equal(weights[name], tensor * mask[layer] if layer in mask else tensor)
    assert key.mask.nonzeros == round(0.05 * mask.nonzeros)


@pytest.mark.slow
def test_the_merged_ticket_trains_like_the_whole_one(run_main, parts, ticket, tmp_path):
    for name, words in (("merged", ("--mask_dir", parts / "locked.pth.tar", "--key", parts / "key.pth.tar")),
                        ("whole", ("--mask_dir", ticket[0]))):
        done = run_main("main_eval_all.py", *SHORT, *words, "--save_dir", tmp_path / name)
        assert done.returncode == 0, done.stderr
    merged, whole = (torch.load(tmp_path / name / "checkpoint.pth.tar", weights_only=True)["state_dict"]
                     for name in ("merged", "whole"))
    assert all(torch.equal(merged[name], whole[name]) for name in whole)


@pytest.mark.slow
def test_the_locked_part_trains_the_same_in_its_owners_hands_and_in_anybody_elses(run_main, parts, tmp_path):
    done = run_main("main_eval_all.py", *SHORT, "--mask_dir", parts / "locked.pth.tar", "--save_dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    owners, others = (torch.load(run / "checkpoint.pth.tar", weights_only=True)["state_dict"]
                      for run in (parts, tmp_path / "run"))
    assert all(torch.equal(owners[name], others[name]) for name in owners)
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["key_ratio"] == pytest.approx(0.05, abs=1e-5) and not result["merged"] and not result["forged"]


def tampered(folder, name: str, change, tmp_path):
    content = torch.load(folder / f"{name}.pth.tar", weights_only=True)
    change(content)
    torch.save(content, tmp_path / f"{name}.pth.tar")
    return tmp_path / f"{name}.pth.tar"


def flip_mask(content):
    content["state_dict"]["layer3.0.conv1.weight_mask"][0, 0, 0, 0] ^= 1


def nudge_weight(content):
    name = next(name for name, mask in content["state_dict"].items() if mask.any()).removesuffix("_mask")
    content["init_weight"][name][content["state_dict"][f"{name}_mask"].bool()] *= 1.0001


@pytest.mark.slow
@pytest.mark.parametrize(("part", "change", "complaint"), [
    ("key", flip_mask, "key.pth.tar: was changed"),
    ("key", nudge_weight, "key.pth.tar: was changed"),
    ("locked", nudge_weight, "locked.pth.tar: was changed"),
    ("locked", flip_mask, "was changed"),
    ("key", lambda c: c.update(ticket_sha256="0" * 64), "is the key of another ticket"),
    ("key", lambda c: c.update(part="locked"), "is not the key part"),
    ("locked", lambda c: c.pop("part"), "is not the locked part"),
])
def test_a_wrong_or_changed_part_is_named(run_main, refused, parts, tmp_path, part, change, complaint):
    files = {name: parts / f"{name}.pth.tar" for name in ("key", "locked")}
    files[part] = tampered(parts, part, change, tmp_path)
    message = refused(run_main("main_eval_all.py", *SHORT, "--mask_dir", files["locked"], "--key", files["key"],
                               "--save_dir", tmp_path / "run"))
    assert complaint in message
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("size", [0, -1, 10**9, "many", True, 1.5])
def test_a_locked_file_with_an_impossible_key_size_is_refused(run_main, refused, parts, tmp_path, size):
    locked = tampered(parts, "locked", lambda content: content.update(key_nonzeros=size), tmp_path)
    message = refused(run_main("main_eval_all.py", *SHORT, "--mask_dir", locked, "--add_back", "--save_dir",
                               tmp_path / "run"))
    assert "key_nonzeros" in message and not (tmp_path / "run").exists()


def test_the_key_of_another_ticket_is_named(run_main, refused, parts, make_model, tmp_path):
    model = make_model("res20s", classes=10)
    mask = random_ticket(model, seed=5)
    key, locked = key_masks.split(mask, SCORES["omp"](Scoring(model, mask)), 0.05)
    key_masks.write_split(tmp_path / "key.pth.tar", tmp_path / "locked.pth.tar", key, locked, model.state_dict(), {})
    assert (tmp_path / "key.pth.tar").stat().st_mode & 0o077 == 0, "readable by its owner alone"
    message = refused(run_main("main_eval_all.py", *SHORT, "--mask_dir", parts / "locked.pth.tar", "--key",
                               tmp_path / "key.pth.tar", "--save_dir", tmp_path / "run"))
    assert "is the key of another ticket" in message


def test_a_forged_key_has_the_true_ones_size_and_random_places(parts, ticket):
    _, model, _ = ticket
    locked = tickets.read_model_file(parts / "locked.pth.tar", model)
    count = locked.facts["key_nonzeros"]
    mask, weights = forge_key(locked.mask, locked.initial, count, 0.01, seed=3)
    assert mask.nonzeros == locked.mask.nonzeros + count
    added = {name: mask[name] & ~locked.mask[name] for name in mask}
    drawn = torch.cat([weights[f"{name}.weight"][places] for name, places in added.items()])
    assert len(drawn) == count and abs(drawn.std() - 0.01) < 0.001 and abs(drawn.mean()) < 0.001
    for name, kept in locked.mask.items():
        assert not (locked.mask[name] & ~mask[name]).any()
        assert torch.equal(weights[f"{name}.weight"][kept], locked.initial[f"{name}.weight"][kept])
        # uniform over empty positions: every layer gets its share, within 5 sigma
        share = (~kept).sum() / (locked.mask.entries - locked.mask.nonzeros)
        assert abs(added[name].sum() - count * share) < 5 * (count * share) ** 0.5
    again, _ = forge_key(locked.mask, locked.initial, count, 0.01, seed=3)
    other, _ = forge_key(locked.mask, locked.initial, count, 0.01, seed=4)
    assert again == mask and other != mask
    with pytest.raises(UserError, match="does not fit"):
        forge_key(locked.mask, locked.initial, mask.entries, 0.01, seed=3)


@pytest.mark.slow
def test_forging_while_splitting_still_saves_the_true_parts(run_main, parts, ticket, tmp_path):
    done = run_main("main_eval_all.py", *SHORT, "--mask_dir", ticket[0], "--type", "ewp", "--key_ratio", "0.05",
                    "--add-back", "--save_dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    for name in ("key", "locked"):
        forged, plain = (torch.load(run / f"{name}.pth.tar", weights_only=True) for run in (tmp_path / "run", parts))
        assert forged["ticket_sha256"] == plain["ticket_sha256"] and forged["key_sha256"] == plain["key_sha256"]
        assert all(torch.equal(forged["state_dict"][key], plain["state_dict"][key]) for key in plain["state_dict"])
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["forged"] and result["nonzeros"] == ticket[2].nonzeros
    assert result["key_ratio"] == pytest.approx(0.05, abs=1e-5)


@pytest.mark.slow
def test_a_layer_left_empty_by_the_split_trains(run_main, make_model, tmp_path):
    model = make_model("res20s", classes=10)
    mask = random_ticket(model)
    locked = Mask({name: kept.clone() for name, kept in mask.items()})
    for name in ("layer1.0.conv1", "layer2.0.conv1", "layer3.2.conv2"):
        locked[name][:] = False
    key = Mask({name: mask[name] & ~locked[name] for name in mask})
    key_masks.write_split(tmp_path / "key.pth.tar", tmp_path / "locked.pth.tar", key, locked, model.state_dict(), {})
    done = run_main("main_eval_all.py", *SHORT, "--mask_dir", tmp_path / "locked.pth.tar", "--save_dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    state = torch.load(tmp_path / "run/checkpoint.pth.tar", weights_only=True)["state_dict"]
    assert all(torch.isfinite(tensor).all() for tensor in state.values())
    assert not state["layer2.0.conv1.weight_orig"].any()


@pytest.mark.slow
def test_transfer_to_another_class_count(run_main, make_model, tmp_path):
    # Table 4: the locked ticket of one data set on another, the classifier anew
    model = make_model("res20s", classes=100)
    mask = random_ticket(model)
    key, locked = key_masks.split(mask, SCORES["omp"](Scoring(model, mask)), 0.05)
    key_masks.write_split(tmp_path / "key.pth.tar", tmp_path / "locked.pth.tar", key, locked, model.state_dict(), {})
    done = run_main("main_eval_all.py", *SHORT, "--mask_dir", tmp_path / "locked.pth.tar", "--no_fc", "--save_dir",
                    tmp_path / "run")
    assert done.returncode == 0, done.stderr
    state = torch.load(tmp_path / "run/checkpoint.pth.tar", weights_only=True)["state_dict"]
    assert state["fc.weight"].shape == (10, 64)
    assert all(torch.equal(state[f"{name}.weight_mask"].bool(), kept) for name, kept in locked.items())


@pytest.mark.slow
def test_the_published_transfer_makes_the_stem_anew(run_main, parts, make_model, tmp_path):
    """At a rate that moves nothing."""
    stems = {}
    for name, words in {"kept": (), "new": ("--new_stem",), "again": ("--new_stem",)}.items():
        done = run_main("main_eval_all.py", *SHORT, "--epochs", "1", "--lr", "1e-30", "--weight_decay", "0", "--mask_dir",
                        parts / "locked.pth.tar", *words, "--save_dir", tmp_path / name)
        assert done.returncode == 0, done.stderr
        state = torch.load(tmp_path / name / "checkpoint.pth.tar", weights_only=True)["state_dict"]
        stems[name] = state["conv1.weight"]
    source = torch.load(parts / "locked.pth.tar", weights_only=True)["init_weight"]["conv1.weight"]
    assert torch.equal(stems["kept"], source) and torch.equal(stems["new"], stems["again"])
    assert not torch.equal(stems["new"], source) and abs(float(stems["new"].std() / source.std()) - 1) < 0.5


@pytest.mark.parametrize(("words", "complaint"), [
    (("--type", "ewp"), "needs --key_ratio or --num_paths"),
    (("--type", "omp", "--num_paths", "10"), "omp needs --key_ratio"),
    (("--type", "omp", "--key_ratio", "0.1", "--select", "walks"), "--select"),
    (("--type", "ewp", "--key_ratio", "0.1", "--num_paths", "10", "--select", "walks"), "one of the two"),
    (("--type", "omp", "--key_ratio", "0"), "--key_ratio"),
    (("--type", "omp", "--key_ratio", "1"), "--key_ratio"),
    (("--type", "omp", "--key_ratio", "-0.1"), "--key_ratio"),
    (("--type", "omp", "--key_ratio", "nan"), "--key_ratio"),
    (("--type", "omp", "--key_ratio", "1e-9"), "choose another ratio"),
    (("--type", "magic", "--key_ratio", "0.1"), "--type"),
    (("--key_ratio", "0.1"), "splits nothing off"),
    (("--add_back",), "is no locked ticket"),
])
def test_wishes_that_make_no_sense_are_one_line(run_main, refused, ticket, tmp_path, words, complaint):
    message = refused(run_main("main_eval_all.py", *SHORT, "--mask_dir", ticket[0], *words, "--save_dir",
                               tmp_path / "run"))
    assert complaint in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("fewer", "epochs"), [pytest.param(("--epochs", 3), 3, marks=pytest.mark.slow, id="3 epochs"),
                                               pytest.param((), 182, marks=pytest.mark.nightly, id="as printed")])
def test_the_original_readmes_command_for_scheme_1(run_main, make_dataset, ticket, tmp_path, monkeypatch, fewer, epochs):
    """As printed; the data set is a small stand-in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pruner.experiment.load_dataset",
                        lambda *_: make_dataset(train=40, val=12, test=12, size=8, classes=10))
    _, model, mask = ticket
    (tmp_path / "res20s_cifar10_lt_0.2").mkdir()
    tickets.write_weights("res20s_cifar10_lt_0.2/epoch_3.pth.tar", model.state_dict(), {})
    tickets.write_masks("res20s_cifar10_extreme.pth.tar", mask)
    done = run_main(*"main_eval_all.py --data datasets/cifar10 --dataset cifar10 --arch res20s --save_dir "
                    "res20s_cifar10_lt_extreme --pretrained res20s_cifar10_lt_0.2/epoch_3.pth.tar --mask_dir "
                    "res20s_cifar10_extreme.pth.tar --fc --num-paths 1000 --type ewp --prune-type lt".split(), *fewer)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "res20s_cifar10_lt_extreme/result.json").read_text())
    assert result["split"] == "ewp_walks" and result["epochs"] == epochs and result["key_nonzeros"] + result["nonzeros"] == mask.nonzeros


@pytest.mark.slow
def test_figures_are_made_from_a_tree_of_runs(run_main, run_script, refused, parts, ticket, tmp_path):
    tree = tmp_path / "tree"
    splitting = ("--mask_dir", ticket[0], "--type", "ewp", "--key_ratio", "0.05")
    runs = {"a/seed1": (*splitting, "--seed", 1), "a/seed2": (*splitting, "--seed", 2),
            "b": ("--mask_dir", ticket[0]),
            "c": ("--mask_dir", parts / "locked.pth.tar", "--add_back"),
            "d": ("--mask_dir", parts / "locked.pth.tar", "--key", parts / "key.pth.tar")}
    results = {}
    for name, words in runs.items():
        assert run_main("main_eval_all.py", *SHORT, *words, "--save_dir", tree / name).returncode == 0
        results[name] = json.loads((tree / name / "result.json").read_text())["test_acc"]
    done = run_script("scripts/plot_key_masks.py", tree)
    assert done.returncode == 0, done.stderr
    with open(tree / "key_masks.csv", newline="") as file:
        rows = {(row["split"], float(row["key_ratio"]), row["forged"]): row for row in csv.DictReader(file)}
    assert set(rows) == {("whole ticket", 0.0, "False"), ("ewp", 0.05, "False"), ("ewp", 0.05, "True")}
    seeds = [results["a/seed1"], results["a/seed2"]]
    row = rows["ewp", 0.05, "False"]
    assert (float(row["test_acc"]), int(row["n"])) == (pytest.approx(np.mean(seeds)), 2)
    assert float(row["std"]) == pytest.approx(np.std(seeds, ddof=1))
    assert float(rows["whole ticket", 0.0, "False"]["test_acc"]) == pytest.approx((results["b"] + results["d"]) / 2)
    assert float(rows["ewp", 0.05, "True"]["test_acc"]) == results["c"]
    assert all((tree / name).stat().st_size > 1000 for name in ("figure2.png", "figure5.png"))
    assert "holds no run" in refused(run_script("scripts/plot_key_masks.py", tree / "b"))
    assert not (tree / "b/key_masks.csv").exists()


# --- the drawn part ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_drawn_key_has_its_size_and_a_part_that_the_hash_picks(run_main, ticket, tmp_path):
    path, model, mask = ticket
    public = commitment.new_owner_key(tmp_path / "owner.key")
    words = ("main_eval_all.py", *SHORT, "--epochs", "1", "--mask_dir", path, "--type", "omp", "--key_ratio", "0.05", "--owner",
             tmp_path / "owner.key", "--drawn", "200", "--save_dir", tmp_path / "run")
    assert (done := run_main(*words)).returncode == 0, done.stderr
    key, locked = (tickets.read_model_file(tmp_path / f"run/{name}.pth.tar", model) for name in ("key", "locked"))
    drawn = key_masks.drawn_part(key)
    assert key.mask.nonzeros == round(0.05 * mask.nonzeros) and len(drawn.positions) == 200
    assert drawn.owner_key == public and key_masks.drawn_part(locked) is None and "drawn" not in locked.facts
    whole, weights = key_masks.merge(locked, key)
    assert all(torch.equal(whole[name], mask[name]) for name in mask)
    digest = key_masks.fingerprint(whole, weights)
    assert digest == locked.facts["ticket_sha256"] and key_masks.follows(drawn, key.mask, whole, digest)
    assert not key_masks.follows(drawn, key.mask, whole, "0" * 64)
    for changed in (replace(drawn, nonce=bytes(16)), replace(drawn, owner_key=bytes(32)),
                    replace(drawn, positions=drawn.positions[:-1]),
                    replace(drawn, positions=(*drawn.positions[:-1], drawn.positions[-1] - 1))):
        assert not key_masks.follows(changed, key.mask, whole, digest)
    # what was not drawn is what the score alone picks first
    scored, _ = key_masks.split(mask, SCORES["omp"](Scoring(model, mask)), 0.05, less=200)
    flags = torch.cat([key.mask[name][mask[name]] for name in mask])
    assert int((flags & ~torch.cat([scored[name][mask[name]] for name in mask])).sum()) == 200
    before = (tmp_path / "run/key.pth.tar").read_bytes()
    (tmp_path / "run/locked.pth.tar").unlink()  # as after a kill between the two
    assert run_main(*words).returncode == 0
    again = tickets.read_model_file(tmp_path / "run/key.pth.tar", model)
    assert key_masks.drawn_part(again) == drawn and len(before) == (tmp_path / "run/key.pth.tar").stat().st_size


def test_every_choice_is_drawn_equally_often():
    """All 10 choices of 2 of 5 weights: 400 nonces, Pearson's test; and none of what the score picked."""
    ticket = Mask({"layer": torch.tensor([1, 1, 0, 1, 1, 1, 1, 0]).bool().view(2, 2, 2, 1)})
    scored = Mask({"layer": torch.tensor([0, 1, 0, 0, 0, 0, 0, 0]).bool().view(2, 2, 2, 1)})
    seen = Counter()
    for number in range(400):
        key, drawn = key_masks.draw(ticket, "00" * 32, scored, 2, bytes(32), number.to_bytes(16, "big"))
        assert key.nonzeros == 3 and key["layer"].flatten()[1] and len(drawn.positions) == 2
        seen[tuple(np.flatnonzero(key["layer"].numpy()))] += 1
    assert len(seen) == 10 and sum((count - 40)**2 / 40 for count in seen.values()) < 35


@pytest.mark.parametrize("spoil", [
    lambda facts: facts.update(drawn=""), lambda facts: facts.update(drawn=facts["drawn"][::-1]), lambda facts: facts.pop("drawn_nonce"),
    lambda facts: facts.update(drawn=7), lambda facts: facts.update(drawn_for="0"), lambda facts: facts.update(drawn_nonce="x"),
    lambda facts: facts.update(drawn=f"{facts['drawn']} {10**9}"), lambda facts: facts.update(drawn="0" + facts["drawn"]),
    lambda facts: facts.update(drawn="-1 " + facts["drawn"])])
def test_a_damaged_drawn_part_is_named(ticket, spoil):
    _, model, mask = ticket
    scored, _ = key_masks.split(mask, SCORES["omp"](Scoring(model, mask)), 0.05, less=9)
    key, drawn = key_masks.draw(mask, "00" * 32, scored, 9, bytes(32), bytes(16))
    facts = drawn.facts()
    assert key_masks.drawn_part(tickets.ModelFile("k", None, key, {}, facts)) == drawn
    spoil(facts)
    with pytest.raises(UserError, match="--key k: its drawn part is damaged"):
        key_masks.drawn_part(tickets.ModelFile("k", None, key, {}, facts))


@pytest.mark.parametrize("words, complaint", [
    (("--owner", "o"), "needs --type and --key_ratio"), (("--drawn", "5"), "--drawn: needs --owner"),
    (("--owner", "/nonexistent", "--type", "omp", "--key_ratio", "0.05"), "--owner /nonexistent: no such file"),
    (("--owner", "KEY", "--type", "omp", "--key_ratio", "0.001"), "--drawn 256: the key has")])
def test_what_can_not_be_drawn_is_one_line(run_main, refused, ticket, tmp_path, words, complaint):
    commitment.new_owner_key(tmp_path / "KEY")
    words = [tmp_path / word if word == "KEY" else word for word in words]
    assert complaint in refused(run_main("main_eval_all.py", *SHORT, "--mask_dir", ticket[0], *words, "--save_dir", tmp_path / "run"))
    assert not (tmp_path / "run").exists()
