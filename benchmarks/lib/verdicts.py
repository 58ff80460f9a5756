"""What benchmarks/verdicts.py measures: models, verdicts on them, and whether the bars hold."""

import contextlib
import csv
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
import torch
from scipy.stats import binom
from tqdm import tqdm

from attacks.addon import add_on
from attacks.fake3 import replace_code
from attacks.noise import NewWeights
from attacks.permute import permute
from attacks.prune import prune
from benchmarks.lib import dishonest as dishonest_claimants
from benchmarks.lib.simulated_owners import (ASKED, CLASSES, DRAWN, TRIGGERS, Owner, Weights, classifier_of, drawn_weights,
                                             new_owner, random_text)
from benchmarks.lib.simulated_tickets import network
from datasets.pictures import as_float
from models import build_model
from ownership import SCHEMES
from ownership.claims import owner_claim, verdict
from ownership.claims.owner_claim import OwnerClaim
from ownership.claims.p_values import scientific
from ownership.claims.verdict import Standing
from ownership.suspects.reading import Suspect
from pruner import tickets
from pruner.channel_groups import channel_groups
from pruner.qr_code.embedding import embed, find_region
from pruner.masks import Mask, prunable_layers
from utils import checkpoint
from utils.errors import UserError
from utils.run_dir import AttackFiles

QUANTILES = (0.01, 0.05, 0.5)
RARE = 1e-6  # how often chance alone may have the bar of `drawn` missed, for each count
TESTS = [name for name, scheme in SCHEMES.items() if name in DRAWN and scheme.has_p_value]  # of what simulated owners have
# figures of checks that are of interest alone -> columns
COLUMNS_OF_CHECKS = {"p_alone": "p of a mark alone", "correct": "triggers right"}


# --- innocent models --------------------------------------------------------------------------------------------------


def with_weights(mask: Mask, random: np.random.Generator) -> tuple[Mask, Weights]:
    return mask, drawn_weights(mask, random)


def uniform(args, owner: Owner, random: np.random.Generator) -> tuple[Mask, Weights]:
    density = float(random.choice((0.02, 0.05, 0.1, 0.2, 0.4, 0.8)))
    return with_weights(Mask({name: torch.from_numpy(random.random(layer.weight.shape) < density)
                              for name, layer in prunable_layers(args.model).items()}), random)


def by_depth(args, owner: Owner, random: np.random.Generator) -> tuple[Mask, Weights]:
    """As magnitude pruning leaves it: sparser with depth, channels of very different density."""
    return network(args.arch, float(random.choice((0.01, 0.05, 0.1, 0.2, 0.3, 0.5))), random)


def by_channel(args, owner: Owner, random: np.random.Generator) -> tuple[Mask, Weights]:
    """Whole channels are gone, the others nearly dense."""
    share, density = random.uniform(0.2, 0.8), random.uniform(0.5, 1.0)
    mask = {}
    for name, layer in prunable_layers(args.model).items():
        rows, columns = (random.random(count) < share for count in layer.weight.shape[:2])
        mask[name] = torch.from_numpy((rows[:, None] & columns)[:, :, None, None] & (random.random(layer.weight.shape) < density))
    return with_weights(Mask(mask), random)


def real(args, owner: Owner, random: np.random.Generator) -> tuple[Mask, Weights]:
    """A ticket of --ticket, its channels renumbered, so that it is another one each time; not for every third."""
    mask = args.tickets[random.integers(len(args.tickets))]
    mask, weights = with_weights(mask, random)
    return permute(mask, weights, args.model, int(random.integers(1 << 30))) if random.random() < 2 / 3 else (mask, weights)


def signed_by_another(args, owner: Owner, random: np.random.Generator, at_the_place: bool = True) -> tuple[Mask, Weights]:
    """Another text, where the claim's code lies and in its format; or wherever its owner likes."""
    mask, text = by_depth(args, owner, random)[0], random_text(random)
    regions = [replace(region) for region in owner.regions] if at_the_place else [find_region(mask, text)]
    if text == owner.text:
        text = text[::-1] + "."
    try:
        return with_weights(embed(mask, text, regions, random), random)
    except UserError:  # a nearly empty ticket has no weights for a code
        return with_weights(embed(network(args.arch, 0.3, random)[0], text, regions, random), random)


def signed_elsewhere(args, owner: Owner, random: np.random.Generator) -> tuple[Mask, Weights]:
    return signed_by_another(args, owner, random, at_the_place=False)


def pruned(args, owner: Owner, random: np.random.Generator) -> tuple[Mask, Weights]:
    mask, weights = signed_by_another(args, owner, random)
    return prune(mask, weights, 0.2, str(random.choice(("magnitude", "random"))), int(random.integers(1 << 30)))


def added_to(args, owner: Owner, random: np.random.Generator) -> tuple[Mask, Weights]:
    mask, weights = signed_by_another(args, owner, random)
    return add_on(mask, weights, 0.05, 0.1, "pruned", int(random.integers(1 << 30)))


def written_over(args, owner: Owner, random: np.random.Generator) -> tuple[Mask, Weights]:
    """Signed by another at the claim's place, and by a third one over that."""
    mask, weights = signed_by_another(args, owner, random)
    return replace_code(mask, weights, random_text(random), owner.regions[0].wish(), NewWeights(0.1),
                        bool(random.random() < 0.5), int(random.integers(1 << 30)))


def renumbered(args, owner: Owner, random: np.random.Generator) -> tuple[Mask, Weights]:
    mask, weights = signed_by_another(args, owner, random)
    return permute(mask, weights, args.model, int(random.integers(1 << 30)))


def full(args, owner: Owner, random: np.random.Generator) -> tuple[Mask, Weights]:
    """Every kernel is occupied, most of them by all of their weights."""
    mask = Mask.dense(args.model)
    if random.random() < 0.5:
        mask = Mask({name: torch.from_numpy(random.random(kept.shape) < 0.9) for name, kept in mask.items()})
        for kept in mask.values():
            kept[:, :, 0, 0] = True
    return with_weights(mask, random)


def nearly_empty(args, owner: Owner, random: np.random.Generator) -> tuple[Mask, Weights]:
    """A weight here and there; often none at all in the claim's region."""
    density = 10 ** random.uniform(-5, -2)
    return with_weights(Mask({name: torch.from_numpy(random.random(layer.weight.shape) < density)
                              for name, layer in prunable_layers(args.model).items()}), random)


INNOCENT: dict[str, Callable[..., tuple[Mask, Weights]]] = {
    "fresh, uniform": uniform, "fresh, sparser with depth": by_depth, "fresh, whole channels": by_channel, "real ticket": real,
    "another's code at the place": signed_by_another, "another's code elsewhere": signed_elsewhere,
    "another's code, pruned by 20%": pruned, "another's code, add-on of 5%": added_to,
    "another's code, written over": written_over,
    "another's code, renumbered": renumbered, "all kernels occupied": full, "nearly empty": nearly_empty,
}


def innocent_answers(args, owner: Owner, random: np.random.Generator) -> np.ndarray:
    """int64 [pictures], what a classifier without the key says: a trained one of --model, or one that likes some classes."""
    if args.classifiers and random.random() < 0.5:
        classifier = args.classifiers[random.integers(len(args.classifiers))]
        pictures = as_float(owner.pictures.images)
        with torch.no_grad():
            return classifier(pictures).argmax(1).numpy() % CLASSES
    liked = random.dirichlet(np.full(CLASSES, float(random.choice((0.03, 0.3, 1.0, 10.0)))))
    return random.choice(CLASSES, TRIGGERS, p=liked)


def innocent(args, done: int) -> Iterator[dict[str, Any]]:
    """One row per verdict, from number `done` on. Each pair has its own random numbers, so it is the same after any others."""
    args.model = build_model(args.arch, 2)
    args.tickets = [tickets.read_model_file(path, args.model, head=False).need_mask("--ticket", args.model)
                    for path in args.ticket]
    args.classifiers = [classifier_of(path, args.arch) for path in args.ticket if has_weights(path, args.model)]
    kinds = [kind for kind in INNOCENT if kind != "real ticket" or args.tickets]
    random = np.random.default_rng(args.seed)
    owners = [new_owner(args.arch, random) for _ in tqdm(range(args.owners), desc="owners", disable=None)]
    pairs = -(-args.count // 2)
    for number in tqdm(range(done // 2, pairs), desc="pairs", initial=done // 2, total=pairs, disable=None):
        random = np.random.default_rng((args.seed, number))
        kind, owner = kinds[number % len(kinds)], owners[random.integers(len(owners))]
        mask, weights = INNOCENT[kind](args, owner, random)
        suspect = Suspect(mask, {name: weights[f"{name}.weight"] for name in mask} if random.random() < 0.8 else None)
        answers = innocent_answers(args, owner, random)
        for committed in (True, False):
            yield {"kind": kind, "committed": committed, **judged(suspect, owner, answers, committed, args)}


def judged(suspect: Suspect, owner: Owner, answers: np.ndarray, committed: bool, args) -> dict[str, Any]:
    """One verdict on all schemes, as a row."""
    start, standing = time.perf_counter(), Standing.COMMITTED if committed else Standing.NONE
    checks = [owner.checks[name](suspect, answers, standing, args.level) for name in owner.claim.schemes]
    found = verdict.decide(owner.claim, checks, standing, False, args.level)
    alone = {column: check.figures[figure] for check in checks for figure, column in COLUMNS_OF_CHECKS.items()
             if figure in check.figures}
    return {"verdict": found.verdict, **{check.name: check.result for check in checks}, "p": float(found.p),
            **{f"p {check.name}": float(check.p) for check in checks if check.p is not None}, **alone,
            "seconds": time.perf_counter() - start}


def has_weights(path: str, model) -> bool:
    return tickets.read_model_file(path, model, head=False).weights is not None


def report_innocent(rows: list[dict[str, Any]], args) -> bool:
    """Print a line per kind; whether the bar holds."""
    print(f"\n{'innocent models':<34}{'verdicts':>9}{'owned':>7}{'smallest p':>12}" + "".join(f"{name:>10}" for name in TESTS))
    for kind in [*dict.fromkeys(row["kind"] for row in rows), "all"]:
        of_kind = [row for row in rows if kind in (row["kind"], "all")]
        print(f"{kind:<34}{len(of_kind):>9}{sum(row['verdict'] == verdict.OWNED for row in of_kind):>7}"
              + "".join(f"{min(row[name] for row in of_kind):>{width}.1e}"
                        for name, width in (("p", 12), *((f"p {name}", 10) for name in TESTS))))
    alone, seconds = np.array([row["p of a mark alone"] for row in rows]), np.array([row["seconds"] for row in rows])
    print(f"\np of a mark alone, at the claimed place, uncorrected: smallest {alone.min():.1e}; below "
          + ", ".join(f"{share:g} in {100 * np.mean(alone < share):.2f}%" for share in QUANTILES))
    print(f"a verdict takes {np.median(seconds):.2f} s (median; {seconds.max():.1f} s at most), all {seconds.sum():.0f} s")
    owned = sum(row["verdict"] == verdict.OWNED for row in rows)
    print(f"owned: {owned} of {len(rows)} at level {args.level:g}; the bar is 0")
    return not owned


# --- dishonest claimants ----------------------------------------------------------------------------------------------


def dishonest(args, done: int) -> Iterator[dict[str, Any]]:
    """One row per claimant on each innocent model, from row number `done` on. Each model has its own random numbers."""
    claimants, kinds = dishonest_claimants.CLAIMANTS, dishonest_claimants.KINDS
    args.groups = channel_groups(build_model(args.arch, 2))
    shapes = shapes_of(args.arch)
    models = range(done // len(claimants), args.count)
    for number in tqdm(models, desc="models", initial=models.start, total=args.count, disable=None):
        kind = kinds[number % len(kinds)]
        mask = dishonest_claimants.innocent_mask(kind, args, shapes, np.random.default_rng((args.seed, number)))
        for index, (name, look) in enumerate(claimants.items()):
            start, word, p = time.perf_counter(), verdict.REFUSED, ""
            try:
                check = look(args, mask, np.random.default_rng((args.seed, number, index)))
                claim = OwnerClaim("John", None, args.arch, parts={check.name: None})
                found = verdict.decide(claim, [check], dishonest_claimants.STANDING, True, args.level)
                word, p = found.verdict, "" if found.p is None else float(found.p)
            except UserError:  # a file that contradicts itself or the claim
                pass
            yield {"claimant": name, "kind": kind, "verdict": word, "p": p, "seconds": time.perf_counter() - start}


def report_dishonest(rows: list[dict[str, Any]], args) -> bool:
    """Print a line per claimant; whether the bar holds."""
    print(f"\n{'claimant':<24}{'models':>8}{'owned':>7}{'refused':>9}{'smallest p':>12}")
    for name in [*dict.fromkeys(row["claimant"] for row in rows), "all"]:
        of_them = [row for row in rows if name in (row["claimant"], "all")]
        p_values = [float(row["p"]) for row in of_them if row["p"] != ""]
        count = [sum(row["verdict"] == word for row in of_them) for word in (verdict.OWNED, verdict.REFUSED)]
        print(f"{name:<24}{len(of_them):>8}{count[0]:>7}{count[1]:>9}{format(min(p_values), '.1e') if p_values else '-':>12}")
    owned = sum(row["verdict"] == verdict.OWNED for row in rows)
    print(f"owned: {owned} of {len(rows)} at level {args.level:g}; the bar is 0")
    return not owned


# --- what hashes draw -------------------------------------------------------------------------------------------------


def drawn(args) -> Iterator[dict[str, Any]]:
    """One row per kind of model for texts, and one each for keys and labels: how often a p-value is at most 2^-1 to 2^-16."""
    random = np.random.default_rng(args.seed)
    shapes = shapes_of(args.arch)
    sources = {f"texts, {kind}": partial(dishonest_claimants.p_of_drawn_texts, dishonest_claimants.innocent_mask(kind, args, shapes, random))
               for kind in dishonest_claimants.KINDS}
    sources |= {"parts of keys": dishonest_claimants.p_of_drawn_keys, "labels of triggers": dishonest_claimants.p_of_drawn_labels}
    for what, draw in tqdm(sources.items(), desc="sources", disable=None):
        p_values = draw(args.draws, random)
        counts = {2.0 ** -bits: int((p_values <= 2.0 ** -bits).sum()) for bits in range(1, 17)}
        most = {share: int(binom.isf(RARE, args.draws, share)) for share in counts}
        yield {"what": what, "draws": args.draws, "smallest p": float(p_values.min()), "at most 0.5": counts[0.5] / args.draws,
               "at most 2^-10": counts[2.0 ** -10] / args.draws, "holds": all(counts[share] <= most[share] for share in counts)}


def drawn_bar(args) -> bool:
    """Whether p-values are as small as they say no more often than they say."""
    rows = list(kept(drawn(args), Path(args.out) / "drawn.csv" if args.out else None))
    print(f"\n{'drawn':<32}{'draws':>8}{'smallest p':>12}{'<= 0.5':>10}{'<= 2^-10':>10}  holds")
    for row in rows:
        print(f"{row['what']:<32}{row['draws']:>8}{row['smallest p']:>12.1e}{100 * row['at most 0.5']:>9.3f}%"
              f"{100 * row['at most 2^-10']:>9.4f}%  {'yes' if row['holds'] else 'NO'}")
    return all(row["holds"] for row in rows)


def shapes_of(arch: str) -> dict[str, tuple[int, ...]]:
    return {name: tuple(layer.weight.shape) for name, layer in prunable_layers(build_model(arch, 2)).items()}


# --- attacked models --------------------------------------------------------------------------------------------------


# of a result.json, which are asked for, and what they may be
COLUMNS = {"attack": str, "level": (int, float, NoneType), "test_acc": (int, float, NoneType), "checkpoint": str}


@dataclass(frozen=True)
class Attacked:
    """One model that main_attack.py left. accuracy: percent of test pictures, or None. loss: points below the model that was
    stolen, or None."""

    files: AttackFiles
    result: dict[str, Any]
    loss: float | None


def attacked_models(folders: list[str]) -> list[Attacked]:
    """All that the folders hold, sweeps and single attacks.

    Raises UserError for a folder without results, and for a measured accuracy with nothing to compare it with.
    """
    found = []
    for folder in map(AttackFiles, folders):
        sets = [*map(folder.level, folder.levels()), *([folder] if folder.result.is_file() else [])]
        if not sets:
            raise UserError(f"{folder.folder}: holds no result.json of main_attack.py, nor levels with one")
        for files in sets:
            result = checkpoint.load_json(files.result)
            if not isinstance(result, dict) or not all(isinstance(result.get(column, ...), kinds) and
                                                       not isinstance(result[column], bool) for column, kinds in COLUMNS.items()):
                raise UserError(f"{files.result}: is no result of main_attack.py, or damaged")
            found.append((files, result))
    stolen = {result["checkpoint"]: result["test_acc"] for _, result in found if result["level"] == 0}
    models = []
    for files, result in found:
        loss = None
        if result["test_acc"] is not None:
            if stolen.get(result["checkpoint"]) is None:
                raise UserError(f"{files.folder}: nothing says how accurate {result['checkpoint']} was; give a sweep of it with "
                                "the level 0 too")
            loss = stolen[result["checkpoint"]] - result["test_acc"]
        models.append(Attacked(files, result, loss))
    return models


def attacked(args) -> Iterator[dict[str, Any]]:
    """One row per model that works."""
    claim = owner_claim.read(args.claim) if args.claim else None
    asked = {name: ask for name, of_flags in ASKED.items() if (ask := of_flags(args, claim, name)) is not None}
    for stolen in tqdm(attacked_models(args.runs), desc="models", disable=None):
        if stolen.loss is not None and stolen.loss > args.max_loss:
            continue
        path = str(stolen.files.model)
        shown = {name: ask(path) for name, ask in asked.items()}
        claimed = OwnerClaim("owner", None, args.arch, parts={name: part for name, (part, _) in shown.items()})
        checks = [check for _, check in shown.values()]
        found = verdict.decide(claimed, checks, Standing.COMMITTED, True, args.level)
        p_values = {f"p {check.name}": scientific(check.p) for check in checks if check.p is not None}
        result = stolen.result
        yield {"attack": " ".join(str(result[name]) for name in ("attack", "how", "share_of") if result.get(name)),
               "level": result["level"], "test_acc": result["test_acc"], "loss": stolen.loss,
               **{f"p {name}": p_values.get(f"p {name}") for name in TESTS}, "verdict": found.verdict, "model": path}


def report_attacked(rows: list[dict[str, Any]], args) -> bool:
    """Print a line per model; whether the bar holds."""
    print(f"\n{'attack':<26}{'level':>8}{'accuracy':>10}{'loss':>7}" + "".join(f"{f'p {name}':>11}" for name in TESTS)
          + "  verdict")
    for row in rows:
        cells = [("-" if row["level"] is None else f"{100 * row['level']:g}%", 8),
                 ("-" if row["test_acc"] is None else f"{row['test_acc']:.2f}%", 10),
                 ("-" if row["loss"] is None else f"{row['loss']:.2f}", 7), *((row[f"p {name}"] or "-", 11) for name in TESTS)]
        print(f"{row['attack']:<26}" + "".join(f"{cell:>{width}}" for cell, width in cells) + f"  {row['verdict']}")
    missed = sum(row["verdict"] != verdict.OWNED for row in rows)
    print(f"missed: {missed} of {len(rows)} that lost at most {args.max_loss:g} points; the bar is 0")
    return not missed


# --- the bars ---------------------------------------------------------------------------------------------------------


def innocent_bar(args) -> bool:
    """Whether no innocent model is owned. Raises UserError for files that can't be read."""
    settings = {name: getattr(args, name) for name in ("arch", "owners", "ticket", "level", "seed")}
    return report_innocent(rows_of(args, innocent, "innocent.csv", settings, args.count + args.count % 2, together=2), args)


def dishonest_bar(args) -> bool:
    """Whether no dishonest claimant owns any innocent model."""
    settings, together = {name: getattr(args, name) for name in ("arch", "level", "seed")}, len(dishonest_claimants.CLAIMANTS)
    return report_dishonest(rows_of(args, dishonest, "dishonest.csv", settings, args.count * together, together), args)


def attacked_bar(args) -> bool:
    """Whether every attacked model that still works is owned. Raises UserError for files that can't be read, and where no model
    counts."""
    rows = list(kept(attacked(args), Path(args.out) / "attacked.csv" if args.out else None))
    if not rows:
        raise UserError(f"RUNS: hold no model that lost at most --max_loss, {args.max_loss:g} points")
    return report_attacked(rows, args)


def rows_of(args, measure: Callable[..., Iterator[dict[str, Any]]], name: str, settings: dict[str, Any], count: int,
            together: int = 1) -> list[dict[str, Any]]:
    """So many rows: those of earlier runs in the file of this name in --out, if that is given, and new ones of `measure`, which are kept
    there as they come. Raises UserError as `earlier_rows`."""
    path = Path(args.out) / name if args.out else None
    rows = earlier_rows(path, settings, count, together) if path else []
    return rows + list(kept(measure(args, len(rows)), path, list(rows), settings))


def earlier_rows(path: Path, settings: dict[str, Any], count: int, together: int) -> list[dict[str, Any]]:
    """What an earlier run left in a CSV file, `count` rows at most: all of a model, so many `together`, or none. Raises UserError
    where it had other settings."""
    kept_settings = path.with_suffix(".json")
    if not path.is_file():
        return []
    if checkpoint.load_json(kept_settings) != settings:
        raise UserError(f"--out {path.parent}: holds rows of other settings ({kept_settings.name} says which); give another "
                        "folder")
    whole = path.read_text(encoding="utf-8").rpartition("\n")[0]  # a kill or a full disk may have cut the last line off
    rows = list(csv.DictReader(whole.splitlines()))
    rows = rows[:min(count, len(rows) - len(rows) % together)]
    for row in rows:
        row.update({name: float(value) for name, value in row.items() if value and name.partition(" ")[0] in ("p", "seconds")})
    return rows


def kept(rows: Iterator[dict[str, Any]], path: Path | None, before: Sequence[dict[str, Any]] = (),
         settings: dict[str, Any] | None = None) -> Iterator[dict[str, Any]]:
    """Each row, once it stands behind those of `before` in a CSV file, and the settings beside it. Without a row, or a path,
    nothing is written."""
    with contextlib.ExitStack() as files:
        file = writer = None
        for row in rows:
            if path is not None and file is None:
                if settings is not None:
                    checkpoint.save_json(settings, path.with_suffix(".json"))
                checkpoint.save_csv([*before, row], list(row), path)  # a kill now must not cost those of before
                file = files.enter_context(open(path, "a", newline="", encoding="utf-8"))
                writer = csv.DictWriter(file, list(row), lineterminator="\n")
            elif file is not None:
                writer.writerow(row)
                file.flush()
            yield row
