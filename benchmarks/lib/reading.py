"""What benchmarks/reading.py measures: a function per section, from flags and random numbers to rows."""

import string
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from attacks.addon import add_on
from attacks.locate import fill, locate
from attacks.prune import prune
from benchmarks.lib.simulated_tickets import network
from models import build_model
from ownership.suspects.alignment import align
from ownership.qr_code.evidence import COUNTED, agreement, parity_parts, places_for, totals
from ownership.qr_code.extraction import extract, search_everywhere
from ownership.qr_code.readers import read_all, write_code
from ownership.qr_code.scan import scan as scan_layers
from ownership.qr_code.soft_decoding import read_softly
from ownership.qr_code.window import Window, region_kernels, window_of
from ownership.suspects.reading import Suspect
from pruner import tickets
from pruner.qr_code import geometry as qr_code
from pruner.channel_groups import channel_groups
from pruner.qr_code.embedding import Place, Wish, embed, find_region
from pruner.qr_code.linear_code import linear_code
from pruner.qr_code.placement import best_place
from pruner.qr_code.geometry import CodeFormat
from utils import plots

TEXTS = ("signature", "Jane Doe 2026")
DAMAGE = tuple({"ones": share} for share in (0.1, 0.2, 0.3, 0.4, 0.45, 0.5)) + tuple(
    {"zeros": share} for share in (0.1, 0.3, 0.4, 0.5)) + tuple(
    {"ones": share, "zeros": share} for share in (0.02, 0.05, 0.08, 0.1, 0.12))


def damage(args, random: np.random.Generator):
    """Share of trials that each reader reads, and seconds per soft decoding."""
    for text in TEXTS:
        for levels in DAMAGE:
            read, seconds = Counter(), []
            for _ in tqdm(range(args.trials), desc=f"{text} {levels}", disable=None, leave=False):
                code_format = CodeFormat(3, "H", int(random.integers(8)))
                code = qr_code.encode(text, code_format)
                flipped = random.random(code.shape) < np.where(code, levels.get("ones", 0), levels.get("zeros", 0))
                texts = read_all(qr_code.restore_patterns(code ^ flipped, code_format))
                read.update(reader for reader, found in texts.items() if found == text)
                start = time.perf_counter()
                found = read_softly([Window((code ^ flipped).astype(int), None)], [code_format])
                seconds.append(time.perf_counter() - start)
                read["soft" if found and found.text == text else "soft, wrong" if found else "soft, nothing"] += 1
            share = {reader: read[reader] / args.trials for reader in ("ZXing", "zbar", "soft", "soft, wrong")}
            yield {"what": f"{text!r}, flipped: " + ", ".join(f"{100 * v:g}% of {k}" for k, v in levels.items()),
                   **share, "seconds (median)": np.median(seconds), "seconds (worst)": max(seconds)}


def natural_window(random: np.random.Generator) -> np.ndarray:
    """bool [29, 29]: rows and columns of very different density, some of them dead."""
    rows, columns = (random.beta(1.5, 1.5, 29) * (random.random(29) > 0.15) for _ in range(2))
    return random.random((29, 29)) < np.clip(rows[:, None] * columns * random.uniform(0.5, 8), 0, 1)


def false(args, random: np.random.Generator):
    """Texts accepted where none was written."""
    accepted = 0
    for _ in tqdm(range(args.regions), desc="random regions", disable=None):
        length, code_format = int(random.integers(1, 25)), CodeFormat(3, "H", int(random.integers(8)))
        accepted += read_softly([Window(natural_window(random).astype(int), None)], [code_format], restarts=20,
                                lengths=[length]) is not None
    yield {"what": f"texts accepted in {args.regions} random regions", "value": accepted}


def calibration(args, random: np.random.Generator):
    """Rate of small p-values on unrelated pairs: windows of simulated tickets, a hundred texts of one length for each."""
    is_data, letters, p_values = qr_code.data_modules(3), list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJ0123456789 "), []
    suspects = [Suspect(network("res20s", density, random)[0]) for density in (0.02, 0.05, 0.1, 0.2, 0.4)]
    for _ in tqdm(range(-(-args.pairs // 100)), desc="unrelated pairs", disable=None):
        suspect = suspects[random.integers(len(suspects))]
        layer = str(random.choice([name for name, kept in suspect.mask.items() if min(kept.shape[:2]) >= 29]))
        place = Place(layer, *(int(random.integers(side - 28)) for side in suspect.mask[layer].shape[:2]))
        length = int(random.integers(4, 25))
        compared = parity_parts(linear_code(CodeFormat(3), length))[0]
        scores = np.minimum(window_of(suspect, place, 3).counts[is_data][compared], COUNTED)
        table = totals(scores, len(scores) * 3 // 4)
        for _ in range(100):
            text = "".join(random.choice(letters, length))
            ones = qr_code.encode(text, CodeFormat(3, "H", int(random.integers(8))))[is_data][compared]
            row = table[ones.sum()]
            p_values.append(row[scores[ones].sum():].sum() / row.sum())
    for alpha in (0.05, 0.01, 0.001):
        yield {"what": f"share of {len(p_values)} unrelated pairs with p < {alpha:g}",
               "value": np.mean(np.array(p_values) < alpha)}


def aligned(args, random: np.random.Generator):
    """p-values of innocent tickets before and after their channels are put into the order that agrees best with the owner's."""
    groups, p_values = channel_groups(build_model("res20s", 2)), {}
    for _ in tqdm(range(args.tickets), desc="innocent tickets", disable=None):
        owner, innocent = (network("res20s", 0.25, random)[0] for _ in range(2))
        text = "".join(random.choice(list(string.ascii_lowercase), 9))
        region = find_region(owner, text)
        signed, suspect, version = Suspect(embed(owner, text, region, random)), Suspect(innocent), region.code_format.version
        for case, found in (("not aligned", suspect),
                            ("aligned, region left out", align(signed, suspect, groups, region_kernels(signed.mask, [region], version)).suspect),
                            ("aligned, region included", align(signed, suspect, groups, {}).suspect)):
            evidence = agreement([window_of(found, region, version)], text, region.code_format)
            p_values.setdefault(case, []).append(evidence.p_value)
    for case, values in p_values.items():
        yield {"what": f"{len(values)} innocent tickets, {case}", "p <= 0.05": np.mean(np.array(values) <= 0.05),
               "p <= 0.01": np.mean(np.array(values) <= 0.01), "median": np.median(values), "smallest": min(values)}


def scan(args, random: np.random.Generator):
    """Finding the place, and reading there."""
    for arch, density in (("res20s", 0.26), ("res18", 0.012)):
        mask, _ = network(arch, density, random)
        mask = embed(mask, TEXTS[0], find_region(mask, TEXTS[0]), random)
        for signature in (TEXTS[0], None):
            start = time.perf_counter()
            _, found = search_everywhere(Suspect(mask), Wish(), signature)
            what = f"search {arch}, signature {'known' if signature else 'unknown'}"
            yield {"what": what, "value": found.text, "seconds": time.perf_counter() - start}
        start = time.perf_counter()
        scan_layers(mask, [3, 4, 5, 6], "H", None)
        yield {"what": f"scan {arch}, nothing known, versions 3 to 6", "seconds": time.perf_counter() - start}


def sparse(args, random: np.random.Generator):
    """A ResNet-18 ticket at 1.2%, where a kernel holds a weight or none: read after attacks, `--seeds` tickets."""
    rows: dict[str, list] = {}
    codes: dict[str, Path] = {}
    for seed in tqdm(range(args.seeds), desc="sparse tickets", disable=None):
        mask, _ = network("res18", 0.012, random)
        region = find_region(mask, TEXTS[0])
        signed = embed(mask, TEXTS[0], region, random)
        drawn = {f"{name}.weight": torch.from_numpy(0.1 * random.lognormal(0, 0.6, kept.shape)).float() * kept
                 for name, kept in signed.items()}
        attacks = [("no attack", lambda: (signed, drawn))]
        for how in ("magnitude", "random"):
            attacks += [(f"prune, {how}, {100 * level:g}%", lambda level=level, how=how: prune(signed, drawn, level, how, seed))
                        for level in (0.05, 0.1, 0.2, 0.3)]
        for share, levels in (("surviving", (0.01, 0.05, 0.1, 0.2)), ("pruned", (0.01, 0.02, 0.05, 0.1))):
            attacks += [(f"add-on, {100 * level:g}% of {share}",
                         lambda level=level, share=share: add_on(signed, drawn, level, 0.1, share, seed)) for level in levels]
        for name, attack in attacks:
            attacked, after = attack()
            suspect = Suspect(attacked, {layer: after[f"{layer}.weight"] for layer in attacked})
            found = extract(suspect, [region], [region.code_format], TEXTS[0], places_for(attacked, 3))
            other = agreement([window_of(suspect, region, 3)], "autograph", region.code_format)
            if args.codes and seed == 0 and name.startswith(("no attack", "prune, magnitude")):
                codes[name] = Path(args.codes).with_name(f".code{len(codes)}.png")
                write_code(found.modules, codes[name])
            rows.setdefault(name, []).append((found.flips.lost / found.flips.ones, found.flips.added / found.flips.zeros,
                                              *(found.texts.get(reader) == TEXTS[0] for reader in
                                                ("ZXing", "zbar", "ordered statistics")),
                                              found.evidence.p_corrected, other.p_value))
    if codes:
        plots.row_of_pictures(list(codes.values()), list(codes), args.codes)
        for path in codes.values():
            path.unlink()
    for name, values in rows.items():
        lost, added, zxing, zbar, soft, p, other = zip(*values)
        yield {"what": name, "ones lost": np.mean(lost), "zeros added": np.mean(added), "ZXing": np.mean(zxing),
               "zbar": np.mean(zbar), "soft": np.mean(soft), "largest p, corrected": max(p), "another's smallest p": min(other)}


def hidden(args, random: np.random.Generator):
    """Ends of the placement: found without the claim? read after the found block was filled, and after pruning?"""
    if args.ticket:
        model = build_model(args.arch, 10)
        given = tickets.read_model_file(args.ticket, model, head=False)
        sources = {Path(args.ticket).name: lambda: given.need_mask("--ticket", model)}
    else:
        sources = {f"{arch} at {100 * density:g}%": lambda arch=arch, density=density: network(arch, density, random)[0]
                   for arch, density in (("res20s", 0.26), ("res18", 0.012))}
    for source, make in sources.items():
        for placement in ("similar", 0.0, 0.5, 1.0):
            outcomes = []
            for seed in tqdm(range(args.seeds), desc=f"{source}, {placement}", disable=None, leave=False):
                mask, text = make(), "".join(random.choice(list("abcdefghijklmnopqrstuvwxyz"), 9))
                region = find_region(mask, text) if placement == "similar" else best_place(mask, text, hidden=placement)
                signed = embed(mask, text, region, random)
                weights = {f"{name}.weight": torch.from_numpy(0.1 * random.lognormal(0, 0.6, kept.shape)).float() * kept
                           for name, kept in signed.items()}
                found = locate(signed, limit=1)[0]
                hit = found.layer == region.layer and max(abs(found.start_x - region.start_x),
                                                          abs(found.start_y - region.start_y)) < found.size / 2
                read = []
                for after, kept in (fill(signed, weights, found, 0.1, seed), prune(signed, weights, 0.5, "magnitude", seed)):
                    suspect = Suspect(after, {name: kept[f"{name}.weight"] for name in after})
                    read.append(text in extract(suspect, [region], [region.code_format], text,
                                                places_for(after, 3)).texts.values())
                moved = sum(int((signed[name] & ~mask[name]).sum()) for name in mask)
                outcomes.append((hit, *read, moved))
            hits, filled, pruned, moved = (np.mean(values) for values in zip(*outcomes))
            yield {"what": f"{source}, {'most similar' if placement == 'similar' else f'--hidden {placement:g}'}", "found": hits,
                   "read after fill": filled, "read after pruning 50%": pruned, "weights moved": moved}
