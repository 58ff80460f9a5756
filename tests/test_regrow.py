"""main_attack.py regrow and unswap: how many weights move, which, and what is left of a keyed mask."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from attacks.regrow import regrow
from attacks.unswap import unswap
from models import build_model
from pruner import tickets
from pruner.keyed_mask.embedding import embed_counts, embed_places, shares, Strength
from pruner.keyed_mask.pattern import Key, count_agreement, in_all, place_agreement
from pruner.masks import Mask, prunable_layers
from utils.errors import UserError

with torch.random.fork_rng():
    torch.manual_seed(0)
    MODEL = build_model("res20s", 10)


def made(density: float = 0.3, seed: int = 0) -> tuple[Mask, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    mask = Mask({name: torch.rand(layer.weight.shape, generator=generator) < density for name, layer in prunable_layers(MODEL).items()})
    return mask, {**MODEL.state_dict(), **{f"{name}.weight": torch.randn(kept.shape, generator=generator) * kept for name, kept in mask.items()}}


@given(st.sampled_from([0.05, 0.3, 0.9]), st.sampled_from([0.0, 0.1, 0.5, 0.97]), st.sampled_from(["magnitude", "random"]),
       st.sampled_from(["kernel", "layer"]))
@settings(max_examples=12)
def test_every_kernel_or_layer_keeps_its_weights_and_those_that_stay_are_untouched(density, level, how, within):
    mask, weights = made(density)
    before = {name: tensor.clone() for name, tensor in weights.items()}
    after, changed = regrow(mask, weights, level, how, within, 0.1, seed=3)
    gone = sum(int((mask[name] & (weights[f"{name}.weight"] != changed[f"{name}.weight"])).sum()) for name in mask)
    assert gone == round(level * mask.nonzeros) and after.nonzeros == mask.nonzeros
    for name in mask:
        dimensions = (2, 3) if within == "kernel" else (0, 1, 2, 3)
        assert torch.equal(after[name].sum(dimensions), mask[name].sum(dimensions))
        assert torch.equal(changed[f"{name}.weight"] != 0, after[name])
        assert torch.equal(weights[f"{name}.weight"], before[f"{name}.weight"])
    if how == "magnitude" and level:
        sizes = [torch.cat([weights[f"{name}.weight"][mask[name] & chosen(name)].abs() for name in mask])
                 for chosen in (lambda name: changed[f"{name}.weight"] != weights[f"{name}.weight"],
                                lambda name: changed[f"{name}.weight"] == weights[f"{name}.weight"])]
        assert sizes[0].max() <= sizes[1].min()
    again = regrow(mask, weights, level, how, within, 0.1, seed=3)
    assert again[0] == after and all(torch.equal(again[1][name], changed[name]) for name in changed)


def test_entries_that_were_pruned_are_opened_first():
    mask, weights = made(0.3)
    after, _ = regrow(mask, weights, 0.5, "magnitude", "layer", 0.1, seed=1)
    assert sum(int((after[name] & ~mask[name]).sum()) for name in mask) == round(0.5 * mask.nonzeros)


@pytest.fixture
def rewind(tmp_path):
    """A file of rewind weights with which the mask of made() agrees but for what a mark moved."""
    path = tmp_path / "epoch_3.pth.tar"
    tickets.write_weights(path, MODEL.state_dict(), {})
    return path


@pytest.mark.parametrize("within", ["kernel", "layer"])
def test_unswap_makes_the_largest_inversions_right(rewind, within):
    mask, weights = made()
    start = tickets.read_model_file(rewind, MODEL).weights
    undone, changed = unswap(mask, weights, 1.0, within, str(rewind), MODEL, seed=0)
    for name, kept in undone.items():
        sizes = start[f"{name}.weight"].abs()
        rows = (sizes.flatten(0, 1).flatten(1), kept.flatten(0, 1).flatten(1)) if within == "kernel" else (sizes.view(1, -1), kept.view(1, -1))
        for size, there in list(zip(*rows))[:50]:  # in each the largest are there, as many as before
            assert there.all() or not there.any() or size[there].min() >= size[~there].max()
        new = kept & ~mask[name]
        assert torch.equal(changed[f"{name}.weight"][new], start[f"{name}.weight"][new])
        assert torch.equal(changed[f"{name}.weight"][kept & mask[name]], weights[f"{name}.weight"][kept & mask[name]])
        dimensions = (2, 3) if within == "kernel" else (0, 1, 2, 3)
        assert torch.equal(kept.sum(dimensions), mask[name].sum(dimensions))
    few, _ = unswap(mask, weights, 0.01, within, str(rewind), MODEL, seed=0)
    assert sum(int((few[name] & ~mask[name]).sum()) for name in mask) == round(0.01 * mask.nonzeros)
    assert unswap(mask, weights, 0.0, within, str(rewind), MODEL, seed=0)[0] == mask


def test_unswap_needs_the_weights_of_pruned_entries(tmp_path):
    mask, weights = made()
    ticket = tmp_path / "ticket.pth.tar"
    tickets.write_ticket(ticket, mask, MODEL.state_dict(), {})
    torch.save(tickets.for_others(torch.load(ticket, weights_only=True)), tmp_path / "handed_out.pth.tar")
    assert unswap(mask, weights, 0.1, "kernel", str(ticket), MODEL, seed=0)[0] != mask
    for path, message in ((None, "--rewind: unswap needs"), (tmp_path / "handed_out.pth.tar", "tells nothing of what was moved")):
        with pytest.raises(UserError, match=message):
            unswap(mask, weights, 0.1, "kernel", path and str(path), MODEL, seed=0)


@pytest.fixture(scope="module")
def signed():
    """(key, mask, weights): of a ticket whose mask agrees with the rewind weights, signed afterwards, with the moved weights the smallest."""
    start = {name: layer.weight.detach().abs() for name, layer in prunable_layers(MODEL).items()}
    mask = Mask({name: size > np.quantile(size.numpy(), 0.74) for name, size in start.items()})
    strength = Strength(35, 25)
    key = Key(bytes(32), "Jane", bytes(16), "res20s", "0" * 64, *shares(strength, mask), mask.nonzeros)
    marked = embed_places(embed_counts(mask, key, 25, start), key, 35)
    generator = torch.Generator().manual_seed(0)
    weights = {f"{name}.weight": (torch.rand(kept.shape, generator=generator) + mask[name].float()) * kept for name, kept in marked.items()}
    return key, marked, {**MODEL.state_dict(), **weights}


def test_what_is_left_of_a_keyed_mask(signed, rewind):
    """Replacing the smallest within kernels takes places and spares counts to the last weight; the rewind weights show what was moved."""
    key, mask, weights = signed
    z = lambda shown: (in_all(place_agreement(key, shown)).z, in_all(count_agreement(key, shown)).z)
    places, counts = z(mask)
    in_kernels, in_layers = (z(regrow(mask, weights, 0.1, "magnitude", within, 0.1, seed=1)[0]) for within in ("kernel", "layer"))
    assert in_kernels[1] == counts and in_kernels[0] < places / 2
    assert in_layers[0] < places / 2 and in_layers[1] < counts
    moved = z(regrow(mask, weights, 0.25, "random", "kernel", 0.1, seed=1)[0])
    assert moved[0] >= 0.55 * places and moved[1] == counts
    undone = z(unswap(mask, weights, 0.03, "kernel", str(rewind), MODEL, seed=1)[0])
    assert undone[0] < 3 and undone[1] == counts


def test_the_commands(run_main, refused, signed, rewind, tmp_path):
    key, mask, weights = signed
    tickets.write_weights(tmp_path / "own.pth.tar", weights, {"num_classes": 10}, mask)
    words = "--checkpoint", tmp_path / "own.pth.tar", "--no_accuracy"
    done = run_main("main_attack.py", "regrow", *words, "--sweep", "0,0.3", "--within", "layer", "--save_dir", tmp_path / "r")
    assert done.returncode == 0 and f"({-round(0.3 * mask.nonzeros)} +{round(0.3 * mask.nonzeros)})" in done.stdout, done.stdout + done.stderr
    done = run_main("main_attack.py", "unswap", *words, "--level", 0.01, "--rewind", rewind, "--save_dir", tmp_path / "u")
    assert done.returncode == 0 and f"+{round(0.01 * mask.nonzeros)})" in done.stdout, done.stderr
    assert "--rewind: unswap needs the file" in refused(run_main("main_attack.py", "unswap", *words, "--level", 0.01, "--save_dir", tmp_path / "n"))
    assert "means nothing to regrow" in refused(run_main("main_attack.py", "regrow", *words, "--rewind", rewind, "--save_dir", tmp_path / "n"))
