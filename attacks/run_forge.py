"""What `main_attack.py forge` writes and says of a second claim."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from attacks import run as attacking
from attacks import FORGERIES
from attacks.forgeries.second_claim import SecondClaim
from attacks.victim import Victim
from passports.files import write_passports
from ownership.qr_code.claim import CodeClaim, write_claim
from ownership.qr_code.evidence import agreement, places_for
from ownership.qr_code.window import window_of
from ownership.suspects.reading import Suspect
from pruner.key_mask import split as key_masks
from pruner.qr_code import geometry as qr_code
from pruner.masks import Mask
from utils.run_dir import AttackFiles, RunDir


def make(args: argparse.Namespace, thief: attacking.Thief) -> SecondClaim:
    """The second claim by the way and settings in the flags. Raises UserError where it can't be made."""
    forgery, victim = FORGERIES[args.by], thief.victim
    model = {"model": thief.network, "arch": args.arch} if forgery.needs_model else {}
    made = forgery.load()(victim.mask, victim.weights, seed=args.seed, **attacking.values_of(forgery, args), **model)
    if forgery.writes:  # what is written is what counts: noise may be too small for the weights' dtype
        made = replace(made, mask=Mask({name: made.weights[f"{name}.weight"] != 0 for name in made.mask}))
    return made


def written_files(args: argparse.Namespace) -> dict[str, Path]:
    """What a way leaves in --save_dir beside its result, by the names of the result's columns."""
    files, run, forgery = AttackFiles(args.save_dir), RunDir(args.save_dir), FORGERIES[args.by]
    places = {"key": run.key, "locked": run.locked, "claim": files.forged, "passports": run.passports}
    claimed = {name: places[name] for name in forgery.leaves}
    return {"model": files.model, **claimed} if forgery.writes else claimed


def write(args: argparse.Namespace, victim: Victim, made: SecondClaim) -> dict[str, Any]:
    """Write the copy, if there is one, and what make_claim.py asks of the thief: a claim of a code, or both parts of a ticket.

    Returns:
        columns of the result: what was tried, changed and written, and for a code what the owner's test says of it on the
        stolen model as it is (`stolen_...`) and on the copy (the same, where there is none).
    Raises:
        UserError: --save_dir holds another claim.
    """
    forgery, mask, paths = FORGERIES[args.by], made.mask, written_files(args)
    row = {"attack": args.attack, "by": args.by, "seed": args.seed,
           **{name: getattr(args, name) for name in forgery.settings}, "budget": made.tried}
    if made.passports is not None:
        write_passports(paths["passports"], "pan", "random", made.passports)
        right, bits = made.passports.right(made.passports.products())
        row |= {"layers": len(made.passports.layers), "signature_right": int(right), "signature_bits": bits}
    elif made.code is None:
        key = Mask({name: kept & ~victim.mask[name] for name, kept in mask.items()})
        key_masks.write_split(paths["key"], paths["locked"], key, victim.mask, made.weights,
                              {"arch": args.arch, "split": "forged"})
        row |= {"key_nonzeros": key.nonzeros, "key_ratio": key.nonzeros / mask.nonzeros}
    else:
        text, place, code_format = made.code.signature, made.code.place, made.code.code_format
        before, after = of_the_code(victim.mask, made), of_the_code(mask, made)
        right = window_of(Suspect(victim.mask), place, code_format.version).occupied == qr_code.encode(text, code_format)
        similarity = float(right[qr_code.data_modules(code_format.version)].mean())
        write_claim(paths["claim"], CodeClaim(text, args.arch, place.layer, place.start_x, place.start_y, code_format.version,
                                          code_format.error_correction, code_format.mask_pattern, similarity, mask.nonzeros,
                                          mask.entries, {}))
        row |= {"signature": text, "layer": place.layer, "start_x": place.start_x, "start_y": place.start_y,
                "version": code_format.version, "error_correction": code_format.error_correction,
                "mask_pattern": code_format.mask_pattern, "similarity": similarity,
                **{f"stolen_{name}": value for name, value in before.items()}, **after}
    if forgery.writes:
        attacking.write_model(args, victim, made, paths["model"], f"{args.attack} {args.by}", {})
        row |= attacking.changes(victim.mask, mask)
    return {**row, **mask.size, "checkpoint": args.checkpoint, **{name: str(path) for name, path in paths.items()}}


def of_the_code(mask: Mask, made: SecondClaim) -> dict[str, float]:
    """The owner's test of the thief's code on a model with this mask."""
    code_format = made.code.code_format
    found = agreement([window_of(Suspect(mask), made.code.place, code_format.version)], made.code.signature, code_format,
                      places_for(mask, code_format.version))
    return {"agreeing": found.agreeing, "p_value": found.p_value, "p_corrected": found.p_corrected,
            "p_any_text": found.p_any_text}


def in_words(by: str, row: dict[str, Any]) -> list[str]:
    """Lines about one result, without the owner's own code."""
    if by == "search":
        return [f"signature: {row['signature']!r} in {row['layer']} at ({row['start_x']}, {row['start_y']}), the best of "
                f"{row['budget']} places",
                f"p-value:   {row['p_value']:.1e}, {row['p_corrected']:.1e} corrected for places and patterns: what a claim that "
                "was committed to before is judged by",
                f"           {row['p_any_text']:.1e} corrected for all texts of its kind: what this one is judged by",
                f"claim:     {row['claim']}"]
    if by == "solve":
        return [f"signature: {row['signature_right']} of {row['signature_bits']} bits, of vectors that were solved for in "
                f"{row['layers']} layers", f"passports: {row['passports']}"]
    if by == "fake1":
        whole = row["nonzeros"]
        return [f"key:       {row['key_nonzeros']} weights, {100 * row['key_ratio']:.3f}% of the {whole} that the ticket would "
                f"have; {row['budget']} key tried, since any completes a mask exactly",
                f"judged by: its commitment alone; without one that came first {FORGERIES[by].claims} does not count. What the "
                "key is worth shows in training:",
                f"           main_eval_all.py --mask_dir {row['locked']} --key {row['key']}",
                f"locked:    {row['locked']}", f"key file:  {row['key']}"]
    lines = [f"signature: {row['signature']!r} in {row['layer']} at ({row['start_x']}, {row['start_y']}), version "
             f"{row['version']}, mask pattern {row['mask_pattern']}; place and pattern "
             + ("as told" if row["budget"] == 1 else f"the best of {row['budget']}"),
             f"weights:   -{row['removed']} +{row['added']}, {row['nonzeros']} remain, {100 * row['density']:.3f}% of "
             f"{row['entries']}"]
    for name, prefix in (("stolen:", "stolen_"), ("the copy:", "")):
        accuracy = "" if row["test_acc"] is None else (f"; accuracy val {row[f'{prefix}val_acc']:.2f}%, test "
                                                       f"{row[f'{prefix}test_acc']:.2f}%")
        lines.append(f"{name:<11}p {row[f'{prefix}p_value']:.1e}, {row[f'{prefix}p_corrected']:.1e} corrected for places and "
                     f"patterns, {row[f'{prefix}p_any_text']:.1e} for all texts too{accuracy}")
    if "trigger_acc" in row:
        lines.append(f"triggers:  stolen model {row['stolen_trigger_acc']:.2f}%; the copy {row['trigger_acc']:.2f}%, p "
                     f"{row['trigger_p']:.1e}")
    return [*lines, f"model:     {row['model']}", f"claim:     {row['claim']}"]
