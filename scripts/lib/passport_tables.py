"""Passports as tables: all schemes under the same attacks, and the originals' numbers beside ours."""

from collections.abc import Mapping
from typing import Any

from ownership.claims.p_values import by_chance, written
from scripts.lib.sweep_results import Sweep, cell_titles, measured
from scripts.lib.tables import ACCURACY, Measure, Table

NONCES = 2**40  # what a committed claim of passports pays for
# what a column is headed with: scheme and what is handed out; the folder of its training, and the one under robbed/
SCHEMES = {"plain: a network": ("whole", "whole"), "V1 key mask: a locked ticket": ("locked/omp_0.05", "locked"),
           "V2 code: a network": ("signed_trained", "signed_trained"), "V3 triggers: a network": ("triggered", "triggered"),
           **{f"{title}: a network": (f"passports/{name}", name) for title, name in (
               ("DeepIPR 1", "deepipr1"), ("DeepIPR 2", "deepipr2"), ("DeepIPR 3", "deepipr3"), ("PaN", "pan"))}}
# what a row is called, and its folder there
ATTACKS = {"undamaged": "prune/level_0", "fine-tuned": "finetune",
           **{f"{level}% pruned": f"prune/level_{level / 100:g}" for level in (20, 50, 80)},
           **{f"{level}% added": f"addon/level_{level / 100:g}" for level in (2, 10)},
           "signs turned": "transform", "renumbered": "permute",
           **{f"{level}% of scales flipped": f"flip/level_{level / 100:g}" for level in (10, 50)},
           "fake1": "passport_fake1", "fake2, half of the signs": "passport_fake2/level_0.5",
           "fake3, signs kept": "passport_fake3/level_0", "fake3, 10% turned": "passport_fake3/level_0.1",
           "block, 10% of the pictures": "passport_block/level_0.1", "solved for": "solve"}


def comparison(sweep: Sweep, paper: Mapping[str, Any]) -> Table:
    table = Table("Lottery verification and passports under the same attacks", ("network", "data", "what"),
                  tuple(Measure(title, None) for title in SCHEMES))
    for cell in sweep.cells("passports/*"):
        trained = {title: sweep.by_seed(cell, stage) for title, (stage, _) in SCHEMES.items()}
        plain = trained["plain: a network"]
        rows = {"test accuracy": [[f"{one['test_acc']:.2f}%" for one in runs.values()] for runs in trained.values()],
                "training, x plain": [[f"{one['seconds'] / plain[seed]['seconds']:.2f}" for seed, one in runs.items() if seed in plain]
                                      for runs in trained.values()],
                "bits": [[str(one["bits"]) for one in runs.values() if "bits" in one] for runs in trained.values()],
                **{attack: [[in_words(one) for one in sweep.results(cell, f"robbed/{model}/{folder}")] for _, model in SCHEMES.values()]
                   for attack, folder in ATTACKS.items()}}
        for what, words in rows.items():
            table.add((*cell_titles(cell), what), *((None, ours) for ours in words))
    return table


def in_words(result: Mapping[str, Any]) -> str:
    """Accuracy, and what is left of the mark, or what was put beside it."""
    if "test_acc" not in result:
        return f"{result['signature_right']} of {result['signature_bits']} bits"
    words = [f"{result['test_acc']:.2f}%"]
    if "forged_acc" in result:
        return f"{words[0]} / {result['forged_acc']:.1f}% of the owner's signs"
    if "signature_right" in result:
        right, bits = result["signature_right"], result["signature_bits"]
        words.append(f"{right} of {bits} bits / p {written(min(1, NONCES * by_chance(right, bits, 2)))}")
    words += [f"p {result[column]:.0e}" for column in ("p_corrected", "trigger_p") if column in result]
    return " / ".join(words)


def published(sweep: Sweep, paper: Mapping[str, Any]) -> Table:
    """paper: network/data -> attack -> accuracy, and percent of the bits that differ from the owner's."""
    table = Table("What the originals and Chen et al. publish of other passports", ("attack", "network", "data"),
                  (ACCURACY, Measure("bits unlike the owner's")))
    folders = {"fake1": "passport_fake1", "fake2": "passport_fake2/level_0.5", "CERB": "passport_block/level_0.1"}
    for cell in sweep.cells("passports/*", paper):
        for attack in dict.fromkeys((*paper.get(cell, {}), *folders)):
            theirs = paper.get(cell, {}).get(attack, {})
            ours = sweep.results(cell, f"robbed/deepipr1/{folders.get(attack, attack)}")
            table.add((attack, *cell_titles(cell)), (theirs.get("test_acc"), measured(ours, "test_acc")),
                      (theirs.get("unlike"), [100 - agree for agree in measured(ours, "forged_acc")]))
    return table


PASSPORT_TABLES = {"passports": comparison, "passports_published": published}
