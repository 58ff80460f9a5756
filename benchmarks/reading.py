"""How much damage each reader survives, how often a wrong text is believed, whether p-values hold, and how long it takes.

    python benchmarks/reading.py                    # about 10 minutes on 2 CPU cores
    python benchmarks/reading.py --only damage,scan --trials 20

damage: version 3-H codes of "signature" and of "Jane Doe 2026" with shares of their ones, of their zeros, or of all modules
flipped, drawn at random; read by ZXing, zbar and ordered statistics. false: random regions (dead rows and columns, any
density), each read for one text length and mask pattern. calibration: the raw p-value on unrelated pairs of window and
signature. scan: all layers of a network. hidden: how often `locate` finds the code by place, and whether the text survives when
the block is filled; on simulated tickets, or on a real one given as --ticket. sparse: tickets as of ResNet-18 at 1.2%
(simulated: see `network`), attacked.
"""

import argparse
import csv
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from attacks.addon import add_on
from attacks.locate import fill, locate
from attacks.prune import prune
from models import build_model
from ownership.evidence import COUNTED, agreement, parity_parts, places_for, totals
from ownership.extraction import extract, search_everywhere
from ownership.readers import read_all, write_code
from ownership.scan import scan
from ownership.soft_decoding import read_softly
from ownership.suspect import Suspect, Window
from pruner import qr_code, tickets
from pruner.embedding import Place, embed, find_region
from pruner.linear_code import linear_code
from pruner.masks import Mask, prunable_layers
from pruner.placement import best_place
from pruner.qr_code import CodeFormat
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
    for _ in tqdm(range(args.pairs // 100), desc="unrelated pairs", disable=None):
        suspect = suspects[random.integers(len(suspects))]
        layer = str(random.choice([name for name, kept in suspect.mask.items() if min(kept.shape[:2]) >= 29]))
        place = Place(layer, *(int(random.integers(side - 28)) for side in suspect.mask[layer].shape[:2]))
        length = int(random.integers(4, 25))
        compared = parity_parts(linear_code(CodeFormat(3), length))[0]
        scores = np.minimum(suspect.window(place, 3).counts[is_data][compared], COUNTED)
        table = totals(scores, len(scores) * 3 // 4)
        for _ in range(100):
            text = "".join(random.choice(letters, length))
            ones = qr_code.encode(text, CodeFormat(3, "H", int(random.integers(8))))[is_data][compared]
            row = table[ones.sum()]
            p_values.append(row[scores[ones].sum():].sum() / row.sum())
    for alpha in (0.05, 0.01, 0.001):
        yield {"what": f"share of {len(p_values)} unrelated pairs with p < {alpha:g}",
               "value": np.mean(np.array(p_values) < alpha)}


def network(arch: str, density: float, random: np.random.Generator) -> tuple[Mask, dict[str, torch.Tensor]]:
    """A ticket that looks like one: layers get sparser with depth, rows and columns differ, magnitudes are log-normal."""
    layers = prunable_layers(build_model(arch, 10))
    entries = sum(layer.weight.numel() for layer in layers.values())
    rough = {}
    for index, (name, layer) in enumerate(layers.items()):
        rows, columns = (random.gamma(2.0, size=count) for count in layer.weight.shape[:2])
        rough[name] = np.broadcast_to((rows[:, None] * columns * 4.0 ** (-3 * index / len(layers)))[:, :, None, None],
                                      layer.weight.shape)
    low, high = 1e-6, 1e3
    for _ in range(60):  # the scale at which the expected density is the one asked for
        middle = np.sqrt(low * high)
        low, high = (low, middle) if sum(np.clip(middle * p, 0, 0.9).sum() for p in rough.values()) > density * entries \
            else (middle, high)
    mask = Mask({name: torch.from_numpy(random.random(p.shape) < np.clip(low * p, 0, 0.9)) for name, p in rough.items()})
    weights = {f"{name}.weight": kept * torch.from_numpy(0.1 * random.lognormal(0, 0.6, kept.shape)
                                                         * random.choice([-1, 1], kept.shape)).float()
               for name, kept in mask.items()}
    return mask, weights


def scan_times(args, random: np.random.Generator):
    """Finding the place, and reading there."""
    for arch, density in (("res20s", 0.26), ("res18", 0.012)):
        mask, _ = network(arch, density, random)
        mask = embed(mask, TEXTS[0], find_region(mask, TEXTS[0]), random)
        for signature in (TEXTS[0], None):
            start = time.perf_counter()
            _, found = search_everywhere(Suspect(mask), None, "H", None, signature)
            what = f"search {arch}, signature {'known' if signature else 'unknown'}"
            yield {"what": what, "value": found.text, "seconds": time.perf_counter() - start}
        start = time.perf_counter()
        scan(mask, [3, 4, 5, 6], "H", None)
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
            other = agreement([suspect.window(region, 3)], "autograph", region.code_format)
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


SECTIONS = {"hidden": hidden, "damage": damage, "false": false, "calibration": calibration, "scan": scan_times, "sparse": sparse}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(SECTIONS), metavar="NAME,NAME", help=f"out of {', '.join(SECTIONS)}")
    parser.add_argument("--trials", type=int, default=100, help="codes per damage")
    parser.add_argument("--regions", type=int, default=10000, help="random regions")
    parser.add_argument("--pairs", type=int, default=10000, help="unrelated pairs")
    parser.add_argument("--seeds", type=int, default=5, help="simulated sparse tickets")
    parser.add_argument("--ticket", default=None, metavar="FILE", help="hidden: a real ticket instead of simulated ones")
    parser.add_argument("--arch", default="res20s", help="hidden: its network")
    parser.add_argument("--codes", default=None, metavar="FILE", help="sparse: the first ticket's codes under pruning, PNG")
    parser.add_argument("--csv", default=None, metavar="FILE", help="write the rows there too")
    args = parser.parse_args()
    rows = []
    for name in args.only.split(","):
        print(f"\n== {name}", flush=True)
        for row in SECTIONS[name](args, np.random.default_rng(1)):
            rows.append(row)
            print("; ".join(f"{column} {value:.3g}" if isinstance(value, float) else f"{value}" if column == "what"
                            else f"{column} {value}" for column, value in row.items()), flush=True)
    if args.csv:
        with open(args.csv, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(column for row in rows for column in row)))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
