"""What `main_attack.py` does to a stolen model: attack it, measure it, read it as the owner would, write it."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attacks import ATTACKS, FORGERIES, FORMAT, PLACE, Entry
from attacks.exports import EXPORTS
from attacks.locate import locate
from attacks.noise import NewWeights
from attacks.forgeries.second_claim import SecondClaim
from attacks.private_branch import what_is_left
from attacks.victim import Training, Victim, class_count, read_victim
from datasets import DATASETS, load_triggers
from datasets.decoding import read_rgb
from datasets.trigger import TriggerSet, following
from models import ARCHITECTURES, build_model
from models.fitting import fitted
from ownership.claims import owner_claim
from ownership.claims.case import checks_of
from ownership.claims.commitment import read_owner_key
from ownership.claims.owner_claim import OwnerClaim
from ownership.claims.scheme import Remains
from ownership.suspects.reading import Suspect
from ownership.trigger_set.evidence import evidence_of
from passports.files import PassportFile, read_passports
from pruner import tickets
from pruner.qr_code.embedding import Wish, find_region
from pruner.experiment import Experiment, prepare
from pruner.masks import Mask
from utils import checkpoint, cli, plots
from utils.engine import Engine
from utils.errors import UserError
from utils.results import Result, is_read, who_reads
from utils.run_dir import AttackFiles


# of what is read from a result.json
TEXTS = frozenset({"attack", "arch", "signature", "layer", "found_layer", "model", "claim", "key", "locked", "passports"})
MAYBE = frozenset({"level", "test_acc", "signature_acc", "private_acc"})
WISHED = frozenset(flag.name for flag in (*PLACE, *FORMAT))


@dataclass(frozen=True)
class Thief:
    """What a thief has.

    victim: the stolen model. network: a module of its shape; what is in its weights changes. own_head: whether the stolen
    classifier is kept, or a new one put in its place. experiment: pictures to train and measure `network` with; None without.
    triggers: the owner's set, to see what is left of it; None where that is not asked. passports: likewise the owner's file of them,
    of which an attack may know more or less.
    """

    victim: Victim
    network: nn.Module
    own_head: bool
    experiment: Experiment | None
    triggers: TriggerSet | None
    passports: PassportFile | None

    def fits(self, weights: Mapping[str, torch.Tensor]) -> bool:
        """Whether a state_dict is of the network's own names and shapes."""
        own = self.network.state_dict()
        return weights.keys() == own.keys() and all(tensor.shape == own[name].shape for name, tensor in weights.items())


@dataclass(frozen=True)
class Attacked:
    """A model after an attack. mask: where weights are there and not zero. weights: complete state_dict. figures: of the attack
    itself, as columns, such as what a training came to."""

    mask: Mask
    weights: Mapping[str, torch.Tensor]
    figures: Mapping[str, float]


def read_result(path: Path) -> Result:
    """A result.json of main_attack.py. Raises UserError for a file that holds no table."""
    return Result(path, fits, "remove it, and the same command makes it anew")


def fits(column: str, value: Any) -> bool:
    """Whether a column that is asked for can hold this: TEXTS are texts, all others numbers, those in MAYBE None too."""
    if column in TEXTS:
        return isinstance(value, str)
    return isinstance(value, (int, float)) and abs(value) <= sys.float_info.max or value is None and column in MAYBE


# --- before anything is written ---------------------------------------------------------------------------------------


def read_thief(args: argparse.Namespace) -> Thief:
    """What the flags give the thief; those that training needs are filled in as by `pruner.experiment.prepare`.

    Raises:
        UserError: a file or pictures can't be had, or the pictures have other classes than the model, which only fine-tuning
            can do with.
    """
    classes = class_count(args.checkpoint)
    forgery = FORGERIES[args.by] if args.attack == "forge" else None
    has_pictures = not args.no_accuracy and (forgery is None or forgery.writes)
    experiment = prepare(args) if has_pictures else None
    network = experiment.engine.model if experiment else build_model(args.arch, classes or 2)
    own_head = not args.no_fc
    if experiment and classes not in (None, experiment.data.num_classes):
        if args.attack != "finetune":
            raise UserError(f"--dataset {args.dataset}: has {experiment.data.num_classes} classes, the model in "
                            f"{args.checkpoint} {classes}; name the pictures it was trained on, or give --no_accuracy")
        own_head = False
    triggers = None
    if args.trigger_set:
        triggers = load_triggers(args, classes or experiment.data.num_classes, experiment.data.train.side)
        if own_head:
            experiment = replace(experiment, data=following(experiment.data, triggers))
    needs_weights = experiment is not None or (args.attack == "prune" and args.how == "magnitude") \
        or args.passports is not None or (forgery is not None and forgery.needs_weights)
    passports = None
    if args.passports:
        with cli.named("--passports"):
            passports = read_passports(args.passports, args.arch)
    return Thief(read_victim(args.checkpoint, network, own_head, needs_weights), network, own_head, experiment, triggers, passports)


def read_owners_claim(args: argparse.Namespace) -> OwnerClaim | None:
    """The claim in --claim, if there is one. Raises UserError if it can't be read or is about another network than --arch."""
    if not args.claim:
        return None
    claim = owner_claim.read(args.claim)
    if claim.arch != args.arch:
        raise UserError(f"{args.claim}: is about {claim.arch}, not {args.arch}; see --arch")
    return claim


def fill_in(args: argparse.Namespace, victim: Victim, claim: OwnerClaim | None) -> None:
    """Set the flags that files decide where they were not given: where and how fake3 writes, the size of a forged key, and the
    levels, of which --level has one or --sweep all (the other is None). Raises UserError where nothing says."""
    forges = args.attack == "forge"
    if args.attack == "fake3" or (forges and args.by == "fake3" and claim):
        vars(args).update(_place_and_format(args, victim.mask, claim))
    if forges and args.by == "fake1" and args.key_ratio is None:
        args.key_ratio = victim.key_share
    if ATTACKS[args.attack].level is None:
        return
    if args.level is None and args.sweep is None:
        args.level = victim.key_share if args.attack == "fake1" else None
        args.sweep = ATTACKS[args.attack].levels or None
        if args.level is None and args.sweep is None:
            raise UserError(f"--level: {args.checkpoint} does not say how large its key was (a locked.pth.tar does); "
                            "give the key's share of the whole ticket")
    if args.sweep:
        args.sweep = tuple(dict.fromkeys(args.sweep))


def _place_and_format(args: argparse.Namespace, mask: Mask, claim: OwnerClaim | None) -> dict[str, Any]:
    """Values of the flags that say where and how fake3 writes: by hand or from the claim, the rest chosen."""
    told = {flag: value for check in checks_of(claim) for flag, value in check.told().items()} if claim else {}
    if claim and not told:
        raise UserError(f"--claim {args.claim}: does not say where a code lies; leave it out and give the place by hand")
    wish = wish_of(argparse.Namespace(**vars(args) | told))
    chosen = find_region(mask, args.signature, wish, low_level=False).code_format
    return {"max_name": wish.layer, "start_x": wish.start_x, "start_y": wish.start_y, "version": chosen.version,
            "error_correction": chosen.error_correction, "mask_pattern": chosen.mask_pattern}


def wish_of(args: argparse.Namespace) -> Wish:
    """What the flags say of where and how a thief's code is to lie."""
    return Wish(args.max_name, args.start_x, args.start_y, args.version, args.error_correction or "H", args.mask_pattern)


def values_of(entry: Entry, args: argparse.Namespace) -> dict[str, Any]:
    """What an attack's function takes of the flags, by name: place and form of a code together, what is written into each kernel, and
    of a key the public half."""
    values = {flag.name: getattr(args, flag.name) for flag in entry.flags}
    values.pop("no_fc", None)  # `read_thief` has seen to it
    values.pop("save_as", None)  # `write` will
    if "version" in values:
        values = {name: value for name, value in values.items() if name not in WISHED} | {"wish": wish_of(args)}
    if "weights_per_kernel" in values:
        values["new"] = NewWeights(values.pop("noise"), values.pop("weights_per_kernel"))
    if "owner" in values:
        with cli.named("--owner"):
            values["owner"] = read_owner_key(args.owner).public_key().public_bytes_raw()
    return values


def refuse_impossible(args: argparse.Namespace, level: float | None, thief: Thief) -> None:
    """Raises UserError for what the attack could only fail at when under way: too high a level."""
    if not ATTACKS[args.attack].needs_pictures:
        perform(args, level, thief, AttackFiles(args.save_dir))
    elif level is not None and level > 1:
        raise UserError(f"--level {level:g} (or --sweep): is a share, from 0 to 1")


def recorded(args: argparse.Namespace, thief: Thief) -> dict[str, Any]:
    """What a run directory is held to: files by their contents; not the levels, each of which stands for itself."""
    own = {name: value for name, value in vars(args).items() if name != "sweep"}
    return {**own, "checkpoint (sha256)": checkpoint.sha256(args.checkpoint),
            **{f"{name} (sha256)": checkpoint.sha256(getattr(args, name)) if getattr(args, name) else None
               for name in ("claim", "passports")},
            **(thief.experiment.fingerprints() if thief.experiment else {})}


# --- attack, measure, read, write -------------------------------------------------------------------------------------


def attack(args: argparse.Namespace, level: float | None, thief: Thief, files: AttackFiles) -> Attacked:
    """The attack and settings in the flags; fine-tuning writes its checkpoints and goes on from them. Raises UserError as the
    attack's function."""
    mask, weights, figures = perform(args, level, thief, files)
    # what is written is what counts: noise may be too small for the weights' dtype
    return Attacked(Mask({name: weights[f"{name}.weight"] != 0 for name in mask}), weights, figures)


def perform(args: argparse.Namespace, level: float | None, thief: Thief,
            files: AttackFiles) -> tuple[Mask, Mapping[str, torch.Tensor], Mapping[str, float]]:
    """Mask, weights and figures by the attack. Raises UserError as its function."""
    chosen = ATTACKS[args.attack]
    values = values_of(chosen, args)
    values |= {} if chosen.level is None else {"level": level}
    values |= {"model": thief.network} if chosen.needs_model else {}
    values |= {"passports": thief.passports} if chosen.needs_passports else {}
    values |= {"training": Training(thief.experiment, files)} if chosen.needs_pictures else {}
    made = chosen.load()(thief.victim.mask, thief.victim.weights, seed=args.seed, **values)
    return made if chosen.needs_pictures else (*made, {})


def measure(args: argparse.Namespace, thief: Thief, attacked: Attacked | SecondClaim) -> dict[str, Any]:
    """What the thief is left with, as columns: the attack's own figures, `accuracies` where these have none, and where triggers are
    followed the probability that chance knows as many."""
    columns = dict(attacked.figures) if isinstance(attacked, Attacked) else {}
    columns = columns if "test_acc" in columns else accuracies(thief, attacked.weights) | columns
    if thief.triggers:
        if not thief.own_head:
            columns["trigger_acc"] = _under_the_owners_classifier(args, thief, attacked.weights)
        right = round(columns["trigger_acc"] * len(thief.triggers) / 100)
        evidence = evidence_of(right, len(thief.triggers), thief.triggers.num_classes)
        columns["trigger_p"] = evidence.as_json()["p_value"]
    if thief.passports and not thief.fits(attacked.weights):  # of layers of other shapes nothing shows
        return columns | {"signature_acc": None, "private_acc": None}
    return columns | (what_is_left(thief.network, attacked.weights, thief.passports, thief.experiment) if thief.passports else {})


def accuracies(thief: Thief, weights: Mapping[str, torch.Tensor]) -> dict[str, float | None]:
    """Accuracy in percent on validation and test pictures, and on triggers if they are followed; None without pictures."""
    if thief.experiment is None:
        return {"val_acc": None, "test_acc": None}
    engine, data = thief.experiment.engine, thief.experiment.data
    if thief.fits(weights):
        thief.network.load_state_dict(weights)
    else:
        engine = Engine(fitted(thief.network, weights).float(), engine.device, amp=engine.amp)
    return {f"{name}_acc": engine.evaluate(pictures)[1]
            for name, pictures in {"val": data.val, "test": data.test, **data.probes}.items()}


def _under_the_owners_classifier(args: argparse.Namespace, thief: Thief, weights: Mapping[str, torch.Tensor]) -> float:
    """Trigger accuracy in percent of a model that got another classifier, with the stolen one's put back.

    Labels mean nothing to a new classifier; the owner can show that the layers below it still know the set.
    """
    engine, model = thief.experiment.engine, build_model(args.arch, thief.triggers.num_classes)
    stolen = tickets.read_model_file(args.checkpoint, model).need_weights("--checkpoint")
    head = {name: tensor for name, tensor in stolen.items() if name.startswith(f"{tickets.HEAD}.")}
    model.load_state_dict({**weights, **head})
    return Engine(model, engine.device, amp=engine.amp).evaluate(thief.triggers.pictures.to(engine.device))[1]


def located(args: argparse.Namespace, mask: Mask, claim: OwnerClaim | None) -> dict[str, Any]:
    """Where `locate` finds a block, as columns; with a claim, whether it is (mostly) one of the code's. None of other attacks."""
    if args.attack != "locate":
        return {}
    found = locate(mask, limit=1)[0]
    columns = {"found_layer": found.layer, "found_x": found.start_x, "found_y": found.start_y,
               "found_version": found.version, "found_score": found.score}
    hits = [check.is_hit(found.layer, found.start_x, found.start_y) for check in checks_of(claim)] if claim else []
    return columns | ({"hit": any(hits)} if set(hits) - {None} else {})


def read_as_owner(claim: OwnerClaim | None, victim: Victim, model: Victim | Attacked | SecondClaim) -> list[Remains]:
    """What the owner finds of the claimed marks in the stolen model or what was made of it; nothing without a claim.

    Raises:
        UserError: the claim is about another network.
    """
    if claim is None:
        return []
    kept = None if victim.masks_only else {name: model.weights[f"{name}.weight"] for name in model.mask}
    left = [check.left_after(Suspect(model.mask, kept)) for check in checks_of(claim)]
    return [one for one in left if one is not None]


def in_columns(reading: Sequence[Remains]) -> dict[str, Any]:
    """What was found of the claimed marks, as columns."""
    return {name: value for one in reading for name, value in one.columns.items()}


def left_in_words(row: Mapping[str, Any], claim: OwnerClaim | None, prefix: str = "") -> list[tuple[str, str]]:
    """Of each claimed mark what it is called, and what is left of it, by its columns in a result, which begin with `prefix`."""
    said = [check.left_in_words(row, prefix) for check in checks_of(claim)] if claim else []
    return [one for one in said if one is not None]


def is_done(files: AttackFiles, has_picture: bool) -> bool:
    """Whether all that `write` leaves is there, and the picture can be read, which joins those of other levels."""
    if has_picture:
        try:
            read_rgb(files.code)
        except UserError:
            return False
    return files.result.exists() and files.model.exists()


def write(args: argparse.Namespace, level: float | None, victim: Victim, attacked: Attacked, columns: Mapping[str, Any],
          reading: Sequence[Remains], files: AttackFiles) -> None:
    """Write the model, what the owner sees of the mark, and last the result with its `columns`, which says that all is done."""
    if args.save_as in EXPORTS:
        EXPORTS[args.save_as](files.model, args.arch, attacked.weights)
    else:
        write_model(args, victim, attacked, files.model, args.attack, {} if level is None else {"level": level})
    for one in reading:
        if one.draw:
            one.draw(files.code)
    settings = {name: getattr(args, name) for name in ATTACKS[args.attack].settings}
    checkpoint.save_json({"attack": args.attack, "arch": args.arch, "level": level, "seed": args.seed, **settings,
                          **changes(victim.mask, attacked.mask), **attacked.mask.size, **columns,
                          "checkpoint": args.checkpoint, "model": str(files.model)}, files.result)


def write_model(args: argparse.Namespace, victim: Victim, made: Attacked | SecondClaim, path: Path, by: str,
                facts: Mapping[str, Any]) -> None:
    """A file like the stolen one, of weights or of masks. by: what attacked it. facts: go into a file of weights, too."""
    if victim.masks_only:
        tickets.write_masks(path, made.mask)
        return
    tickets.write_weights(path, made.weights, {
        "arch": args.arch, "num_classes": len(made.weights[f"{tickets.HEAD}.weight"]), "attack": by, "seed": args.seed,
        "density": made.mask.density, "nonzeros": made.mask.nonzeros, **facts}, made.mask)


def changes(before: Mask, after: Mask) -> dict[str, int]:
    """Numbers of weights that went and came, as columns; of a layer of another shape, as far as both have the same indices."""
    stayed = 0
    for name, kept in before.items():
        common = tuple(map(slice, map(min, kept.shape, after[name].shape)))
        stayed += int((kept[common] & after[name][common]).sum())
    return {"removed": before.nonzeros - stayed, "added": after.nonzeros - stayed}


def write_sweep(args: argparse.Namespace, thief: Thief, has_picture: bool, files: AttackFiles) -> dict[str, Path]:
    """Write a sweep's table, with pictures its plot, and where there is a mark to see how the owner sees it; of all levels in the
    folder, whichever call did them.

    Returns:
        name -> file, in the order above.
    """
    levels = files.levels()
    rows = [read_result(files.level(level).result) for level in levels]
    checkpoint.save_csv(rows, list(dict.fromkeys(column for row in rows for column in row)), files.table)
    written = {"table": files.table}
    if thief.experiment:
        names = ("val", "test", *thief.experiment.data.probes, *(name for name in ("private", "signature", "forged")
                                                                 if all(f"{name}_acc" in row for row in rows)))
        curves = {name: [row[f"{name}_acc"] for row in rows] for name in names}
        level, _, _ = ATTACKS[args.attack].level.partition(" (")
        plots.accuracy_by_level(levels, curves, [is_read(row) for row in rows], in_words(args), f"{level}, %", files.plot)
        written["plot"] = files.plot
    if has_picture:
        plots.row_of_pictures([files.level(level).code for level in levels],
                              [f"{100 * level:g}%\n{who_reads(row)}" for level, row in zip(levels, rows)], files.codes)
        written["codes"] = files.codes
    return written


def in_words(args: argparse.Namespace) -> str:
    """What was done to which model, as the title of a picture: two lines."""
    what, _, _ = ATTACKS[args.attack].help.partition(" (")
    settings = "".join(f", --{flag.name} {value}" for flag in ATTACKS[args.attack].flags
                       if (value := getattr(args, flag.name)) is not False)
    return (f"{args.attack} {what}\n{ARCHITECTURES[args.arch].title} on {DATASETS[args.dataset].title}, seed {args.seed}"
            + settings.replace(" True", ""))
