"""What benchmarks/transforms.py measures: models, transforms of them, verdicts on these, and whether the bars hold."""

import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import binom
from torch import nn
from tqdm import tqdm

from attacks import KINDS
from attacks.prune import prune
from attacks.transform import transform
from benchmarks.lib.simulated_owners import Owner, Weights, a_code, random_text
from benchmarks.lib.simulated_tickets import STRUCTURED
from benchmarks.lib.verdicts import RARE, rows_of
from models import build_model
from ownership.claims import owner_claim, verdict
from ownership.claims.arbiter import run_checks
from ownership.claims.case import Case, Files, Given, suspects_of, tried
from ownership.claims.owner_claim import OwnerClaim
from ownership.claims.verdict import Standing
from ownership.qr_code.evidence import agreement
from ownership.qr_code.window import window_of
from pruner import tickets
from pruner.magnitude import prune_smallest
from pruner.masks import Mask, prunable_layers
from pruner.qr_code.embedding import Region, embed
from utils.errors import UserError

CLASSES = 10
ALPHAS = 0.05, 0.01, 0.001
PRUNED = 0.3
TUNED, REGROWN = 0.05, 0.01  # of a weight's size, and of its layer's weights'
ALONE = 0.1  # level of a transform that is done alone
SMALLEST_LEVEL = 1e-8
IMPOSSIBLE = "not made"  # where the transform refuses, since outputs would change


@dataclass(frozen=True)
class Accused:
    """Whose code is looked for. ticket: the file that its text was drawn from. regions: of a made-up owner's code."""

    claim: OwnerClaim
    ticket: str
    regions: Sequence[Region] = ()


# --- networks ---------------------------------------------------------------------------------------------------------


def network(arch: str, random: np.random.Generator) -> nn.Module:
    """A dense one with classes, rows and columns of different sizes and batch norms whose statistics are those of noise pictures."""
    torch.manual_seed(int(random.integers(1 << 31)))
    model = build_model(arch, CLASSES)
    with torch.no_grad():
        for layer in prunable_layers(model).values():
            out, into = layer.weight.shape[:2]
            layer.weight *= torch.exp(0.3 * torch.randn(out, 1, 1, 1) + 0.3 * torch.randn(1, into, 1, 1))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.3)
    return model


def with_mask(model: nn.Module, mask: Mask) -> Weights:
    """Complete state_dict of the network under a mask, with statistics of its own."""
    with torch.no_grad():
        for name, layer in prunable_layers(model).items():
            layer.weight *= mask[name]
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None  # the statistics are those of one pass
                module.reset_running_stats()
        model.train()(torch.rand(16, 3, 32, 32))
    return {key: tensor.clone() for key, tensor in model.state_dict().items()}


def by_magnitude(model: nn.Module, density: float) -> Mask:
    weights = {name: layer.weight.detach() for name, layer in prunable_layers(model).items()}
    return prune_smallest(weights, Mask.dense(model), 1 - density)


def put_weights(model: nn.Module, mask: Mask, random: np.random.Generator) -> None:
    """Entries that a code has opened get magnitudes like the others of their layer, as training gives them."""
    with torch.no_grad():
        for name, layer in prunable_layers(model).items():
            sizes = layer.weight.abs().flatten().topk(max(1, int(mask[name].sum()))).values
            drawn = sizes[torch.from_numpy(random.integers(len(sizes), size=tuple(layer.weight.shape)))]
            layer.weight.copy_(torch.where(layer.weight.abs() < sizes.min(), drawn * layer.weight.sign(), layer.weight))


def tuned(weights: Weights, mask: Mask, random: np.random.Generator) -> Weights:
    """As after training without the mask: weights have changed, and pruned ones have grown."""
    result = dict(weights)
    for name, there in mask.items():
        weight, noise = weights[f"{name}.weight"], torch.from_numpy(random.normal(size=tuple(there.shape))).float()
        size = weight[there].square().mean().sqrt() if there.any() else 0
        result[f"{name}.weight"] = torch.where(there, weight * (1 + TUNED * noise), REGROWN * size * noise)
    return result


def drawn_kinds(random: np.random.Generator) -> tuple[list[str], float]:
    """A composition, and its level."""
    return list(random.permutation(KINDS)[:random.integers(2, len(KINDS) + 1)]), 10 ** random.uniform(math.log10(SMALLEST_LEVEL), -1)


# --- verdicts ---------------------------------------------------------------------------------------------------------


def judged(mask: Mask, weights: Weights, kinds: Sequence[str], how: tuple[float, int], accused: Accused, args) -> dict[str, Any]:
    """Transform, write, read and judge, as a row, with p of agreement at the claimed place, uncorrected, in the suspect's numbering and
    mask and in the owner's. how: the transforms' level and seed."""
    row = {"kinds": "+".join(kinds), "strength": how[0]}
    no_tries = {"p own": "", "p aligned": ""}
    try:
        made, after = transform(mask, weights, args.network, kinds, *how)
    except UserError as error:
        return row | {"verdict": IMPOSSIBLE, "p": "", **no_tries, "read": str(error), "seconds": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/suspect.pth.tar"
        tickets.write_weights(path, after, {}, made)
        start = time.perf_counter()
        case = Case(accused.claim, "", Standing.COMMITTED, Given(path, aligned_to=(accused.ticket,), proofs={"restarts": 0}), Files())
        found = verdict.decide(accused.claim, run_checks(case), Standing.COMMITTED, True, args.level)
        seconds = time.perf_counter() - start
    part, tries = accused.claim.parts["V2"], tried(case.suspect, case.aligned)
    p_values = [agreement([window_of(suspect, place, part.version) for place in part.places], part.signature, part.code_format).p_value
                for suspect in suspects_of(tries)]
    return row | {"verdict": found.verdict, "p": float(found.p), "p own": p_values[0], "p aligned": p_values[-1],
                  "read": "; ".join(case.suspect.undone), "seconds": seconds}


def made_up_owner(args, random: np.random.Generator, folder: Path) -> tuple[Accused, Mask, nn.Module]:
    """Claim and ticket, whose file goes into the folder, the signed mask, and the dense network to put under it."""
    model = network(args.arch, random)
    mask = by_magnitude(model, float(random.choice((0.1, 0.2))))
    owner = Owner(args.arch, mask, {}, {})
    part, _ = a_code(owner, random)
    ticket = folder / f"{owner.text}.pth.tar"
    tickets.write_masks(ticket, mask)
    put_weights(model, owner.mask, random)
    claim = OwnerClaim("owner", None, args.arch, parts={"V2": replace(part, threshold=None)})
    return Accused(claim, str(ticket), owner.regions), owner.mask, model


# --- the owner's models -----------------------------------------------------------------------------------------------


def own_models(args, folder: Path) -> tuple[Accused, dict[str, tuple[Mask, Weights]]]:
    """Of --claim, --ticket and --model, or made up. Raises UserError for files that can't be read, and a claim without a code whose
    text is derived."""
    random = np.random.default_rng(args.seed)
    if args.claim:
        claim = owner_claim.read(args.claim)
        part = claim.parts.get("V2")
        if part is None or not part.derived or claim.arch != args.arch:
            raise UserError(f"--claim {args.claim}: holds no code of {args.arch} with a derived text (embed_qrcode.py --owner)")
        accused = Accused(OwnerClaim(claim.owner, None, args.arch, parts={"V2": replace(part, threshold=None)}), args.ticket)
        files = [tickets.read_model_file(path, args.network) for path in args.model]
        models = {path: (file.pattern("--model", args.network), file.need_weights("--model")) for path, file in zip(args.model, files)}
        mask, weights = models[args.model[0]]
        return accused, models | {f"{args.model[0]}, {PRUNED:.0%} pruned": prune(mask, weights, PRUNED, "magnitude", args.seed)}
    accused, mask, model = made_up_owner(args, random, folder)
    weights = with_mask(model, mask)
    fine = tuned(weights, mask, random)
    return accused, {"as it is": (mask, weights), f"{PRUNED:.0%} pruned": prune(mask, weights, PRUNED, "magnitude", args.seed),
                     "fine-tuned": (Mask({name: fine[f"{name}.weight"] != 0 for name in mask}), fine)}


def owned(args, done: int) -> Iterator[dict[str, Any]]:
    """One row per model and transform, from number `done` on: each alone, then compositions."""
    with tempfile.TemporaryDirectory() as folder:
        accused, models = own_models(args, Path(folder))
        rows = (len(KINDS) + args.count) * len(models)
        for index in tqdm(range(done, rows), desc="models", initial=done, total=rows, disable=None):
            number, of = divmod(index, len(models))
            name, (mask, weights) = list(models.items())[of]
            random = np.random.default_rng((args.seed, number))
            kinds, level = ([KINDS[number]], ALONE) if number < len(KINDS) else drawn_kinds(random)
            yield {"model": name, **judged(mask, weights, kinds, (level, int(random.integers(1 << 30))), accused, args)}


def owned_bar(args) -> bool:
    """Whether every transformed copy is owned. Raises UserError for files that can't be read."""
    args.network = build_model(args.arch, CLASSES)
    count = (len(KINDS) + args.count) * (1 + len(args.model) if args.model else 3)
    settings = {"arch": args.arch, "level": args.level, "seed": args.seed, "claim": args.claim, "ticket": args.ticket, "model": args.model}
    rows = rows_of(args, owned, f"owned.{args.arch}.csv", settings, count)
    print(f"\n{'model':<48}{'transforms':<12}{'judged':>8}{'missed':>8}{'largest p':>11}")
    for name in dict.fromkeys(row["model"] for row in rows):
        for what, several in (("alone", False), ("compositions", True)):
            of_them = [row for row in rows if row["model"] == name and ("+" in row["kinds"]) == several and row["verdict"] != IMPOSSIBLE]
            missed = sum(row["verdict"] != verdict.OWNED for row in of_them)
            print(f"{name[-46:]:<48}{what:<12}{len(of_them):>8}{missed:>8}{max((row['p'] for row in of_them), default=1):>11.1e}")
    missed = [row for row in rows if row["verdict"] not in (verdict.OWNED, IMPOSSIBLE)]
    for row in missed:
        print(f"missed: {row['model']}, {row['kinds']} at {float(row['strength']):.1e}: p {row['p']:.1e}")
    judged_ones = sum(row["verdict"] != IMPOSSIBLE for row in rows)
    print(f"missed: {len(missed)} of {judged_ones} at level {args.level:g}, {len(rows) - judged_ones} more can't be made; the bar is 0; "
          f"longest {max(float(row['seconds']) for row in rows):.0f} s to read and judge")
    return not missed


# --- models of others -------------------------------------------------------------------------------------------------


def innocent_model(kind: str, args, accused: Accused, random: np.random.Generator) -> tuple[Mask, Weights]:
    model = network(args.arch, random)
    if kind in STRUCTURED:
        mask = STRUCTURED[kind]({name: tuple(layer.weight.shape) for name, layer in prunable_layers(model).items()}, random)
    else:
        mask = Mask.dense(model) if kind == "dense" else by_magnitude(model, float(random.choice((0.1, 0.2, 0.4))))
    if kind == "another's code at the place":
        mask = embed(mask, random_text(random), [replace(region) for region in accused.regions], random)
        put_weights(model, mask, random)
    return mask, with_mask(model, mask)


INNOCENT = ("pruned by magnitude", "another's code at the place", "dense", *STRUCTURED)


def innocent(args, done: int) -> Iterator[dict[str, Any]]:
    """One row per model, from number `done` on. Each has its own random numbers."""
    with tempfile.TemporaryDirectory() as folder:
        random = np.random.default_rng(args.seed)
        owners = [made_up_owner(args, random, Path(folder))[0] for _ in tqdm(range(args.owners), desc="owners", disable=None)]
        for number in tqdm(range(done, args.count), desc="models", initial=done, total=args.count, disable=None):
            random = np.random.default_rng((args.seed, number))
            kind, accused = INNOCENT[number % len(INNOCENT)], owners[random.integers(len(owners))]
            mask, weights = innocent_model(kind, args, accused, random)
            kinds, level = drawn_kinds(random)
            yield {"kind": kind, **judged(mask, weights, kinds, (level, int(random.integers(1 << 30))), accused, args)}


def innocent_bar(args) -> bool:
    """Whether no innocent model is owned, and p-values are no smaller than chance has them."""
    args.network = build_model(args.arch, CLASSES)
    settings = {"arch": args.arch, "level": args.level, "seed": args.seed, "owners": args.owners}
    rows = rows_of(args, innocent, f"innocent.{args.arch}.csv", settings, args.count)
    judged_ones = [row for row in rows if row["verdict"] != IMPOSSIBLE]
    print(f"\n{'innocent models':<34}{'judged':>8}{'owned':>7}{'smallest p':>12}")
    for kind in INNOCENT:
        of_kind = [row for row in judged_ones if row["kind"] == kind]
        if of_kind:
            print(f"{kind:<34}{len(of_kind):>8}{sum(row['verdict'] == verdict.OWNED for row in of_kind):>7}"
                  f"{min(row['p'] for row in of_kind):>12.1e}")
    valid = True
    for column in ("p own", "p aligned"):
        p_values = np.array([row[column] for row in judged_ones])
        for alpha in ALPHAS:
            count, most = int((p_values <= alpha).sum()), int(binom.isf(RARE, len(p_values), alpha))
            valid &= count <= most
            print(f"{column} at most {alpha:g}: {count} of {len(p_values)} ({100 * count / len(p_values):.2f}%), the bar is {most}")
    owned_ones = sum(row["verdict"] == verdict.OWNED for row in judged_ones)
    print(f"owned: {owned_ones} of {len(judged_ones)} at level {args.level:g}, {len(rows) - len(judged_ones)} more can't be made; the bar is 0")
    return not owned_ones and valid
