"""What an owner's claim says of attacked models: columns of a sweep, pictures, the block that `locate` finds, tables."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ownership.qr_code.claim import CodeClaim, write_claim
from pruner.qr_code.embedding import embed, find_region
from pruner.masks import Mask, pack_state, prunable_layers

ROOT = Path(__file__).resolve().parent.parent
SIGNATURE = "signature"


@pytest.fixture(scope="module")
def stolen(make_model, tmp_path_factory):
    """Folder with a signed ResNet-20 at 25% density (model.pth.tar) and its claim.json."""
    model, folder = make_model("res20s", classes=10), tmp_path_factory.mktemp("stolen")
    generator = torch.Generator().manual_seed(0)
    mask = Mask({name: torch.rand(layer.weight.shape, generator=generator) < 0.25
                 for name, layer in prunable_layers(model).items()})
    region = find_region(mask, SIGNATURE)
    mask = embed(mask, SIGNATURE, region, np.random.default_rng(0))
    torch.save({"state_dict": pack_state(model.state_dict(), mask)}, folder / "model.pth.tar")
    write_claim(folder / "claim.json", CodeClaim(
        SIGNATURE, "res20s", region.layer, region.start_x, region.start_y, 3, "H", region.code_format.mask_pattern,
        region.similarity, mask.nonzeros, mask.entries, {}))
    return folder


def sweep(run_main, stolen, attack: str, levels: str, out: Path, *more) -> list[dict[str, str]]:
    done = run_main("main_attack.py", attack, "--checkpoint", stolen / "model.pth.tar", "--claim", stolen / "claim.json",
                    "--no_accuracy", "--sweep", levels, "--save_dir", out, *more)
    assert done.returncode == 0, done.stderr
    with open(out / "attack.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_sweep_tells_what_the_owner_reads_at_each_level(run_main, stolen, tmp_path):
    rows = sweep(run_main, stolen, "addon", "0,0.02,0.1", tmp_path / "addon")
    assert [int(row["code_added"]) > 0 for row in rows] == [False, True, True]
    assert {row["code_lost"] for row in rows} == {"0"}
    assert [row["read by ordered statistics"] for row in rows] == ["True"] * 3
    assert [row["read by ZXing"] for row in rows] == ["True", "False", "False"]
    p_values = [float(row["p_corrected"]) for row in rows]
    assert p_values == sorted(p_values) and p_values[-1] < 1e-9
    from PIL import Image

    assert Image.open(tmp_path / "addon/codes.png").width > Image.open(tmp_path / "addon/level_0/code.png").width
    rows = sweep(run_main, stolen, "prune", "0.5", tmp_path / "prune", "--how", "random")
    assert rows[0]["code_added"] == "0" and int(rows[0]["code_lost"]) > 5 and rows[0]["read by ordered statistics"] == "True"


@pytest.mark.slow
@pytest.mark.parametrize("then", ["clear", "fill"])
def test_locate_finds_the_code_without_the_claim_and_ruins_it(run_main, stolen, tmp_path, then):
    done = run_main("main_attack.py", "locate", "--checkpoint", stolen / "model.pth.tar", "--claim", stolen / "claim.json",
                    "--no_accuracy", "--then", then, "--save_dir", tmp_path)
    assert done.returncode == 0 and "the code" in done.stdout
    result, claim = json.loads((tmp_path / "result.json").read_text()), json.loads((stolen / "claim.json").read_text())
    assert result["hit"] is True and result["found_layer"] == claim["layer"]
    assert (result["removed"] > 0, result["added"] > 0) == (then == "clear", then == "fill")
    assert result["code_lost"] == result["code_ones"] if then == "clear" else result["code_added"] == result["code_zeros"]
    if then == "clear":
        assert result["p_value"] == 1.0


def tabulate(*words) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, ROOT / "scripts/tabulate_attacks.py", *map(str, words)], capture_output=True,
                          text=True)


@pytest.mark.slow
def test_the_tables_put_the_papers_numbers_beside(run_main, stolen, tmp_path):
    sweep(run_main, stolen, "addon", "0,0.005", tmp_path / "addon")
    sweep(run_main, stolen, "prune", "0.05,0.4", tmp_path / "prune")
    done = tabulate(tmp_path / "addon", tmp_path / "prune", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "attacks.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["attack"], row["level"], row["paper's accuracy"], row["paper's reader"]) for row in rows] == [
        ("addon pruned", "0%", "91.53%", "yes"), ("addon pruned", "0.5%", "91.04%", "yes"),
        ("prune magnitude", "5%", "91.25%", "yes"), ("prune magnitude", "40%", "", "")]
    assert {row["test accuracy"] for row in rows} == {""}
    assert [row["ordered statistics"] for row in rows] == ["yes"] * 4
    assert (tmp_path / "attacks.md").read_text().count("\n") == 2 + len(rows)
    done = tabulate(tmp_path, "--out", tmp_path / "out")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "attack.csv" in done.stderr


@pytest.mark.slow
def test_signing_hidden_and_in_copies(run_main, refused, make_model, tmp_path):
    from ownership.qr_code.claim import read_claim
    from pruner import tickets

    model = make_model("res20s", classes=10)
    generator = torch.Generator().manual_seed(1)
    mask = Mask({name: torch.rand(layer.weight.shape, generator=generator) < 0.1
                 for name, layer in prunable_layers(model).items()})
    tickets.write_masks(tmp_path / "ticket.pth.tar", mask)
    sign = ("embed_qrcode.py", "--mask_dir", tmp_path / "ticket.pth.tar", "--dataset", "x", "--signature", SIGNATURE)
    for more in (("--copies", 3), ("--hidden", 1), ("--hidden", 0.5, "--copies", 2)):
        folder = tmp_path / "-".join(map(str, more))
        done = run_main(*sign, "--save_dir", folder, *more)
        assert done.returncode == 0, done.stderr
        claim_file, = folder.glob("*.claim.json")
        masks, = folder.glob("*.weight_mask.pth.tar")
        assert len(read_claim(claim_file).places) == (more[-1] if "--copies" in more else 1)
        assert f"({mask.nonzeros} weights)" in done.stdout and f"({mask.nonzeros})" in done.stdout
        done = run_main("extract_qrcode.py", "--checkpoint", masks, "--claim", claim_file, "--save_dir", folder)
        assert done.returncode == 0 and "flipped: 0 of" in done.stdout
    assert "leave out --start_x" in refused(run_main(*sign, "--hidden", 1, "--start_x", 2, "--save_dir", tmp_path / "no"))
    assert "no room is left for another copy" in refused(run_main(*sign, "--copies", 6, "--save_dir", tmp_path / "no"))
    assert not (tmp_path / "no").exists()
