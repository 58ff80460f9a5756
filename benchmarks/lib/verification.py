"""What benchmarks/verification.py measures: a function per section, from flags to rows."""

import contextlib
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

import main_verify
import make_claim
from attacks.permute import permute
from attacks.prune import prune
from attacks.transform import transform
from benchmarks.lib import transforms
from benchmarks.lib.simulated_tickets import network
from datasets import load_dataset, trigger
from models import ARCHITECTURES, build_model
from ownership.claims.verdict import Standing
from ownership.suspects.alignment import align
from ownership.qr_code.check import code
from ownership.qr_code.claim import MAX_COPIES, MAX_VERSION, CodeClaim, read_claim, write_claim
from ownership.qr_code.window import region_kernels
from ownership.suspects.reading import Suspect, of_state, read_suspect
from pruner import tickets
from pruner.channel_groups import FIXED, ChannelGroups, channel_groups
from pruner.qr_code.derived_text import length_for
from pruner.qr_code.embedding import PREFERRED_VERSION, Region, embed, find_region
from pruner.masks import Mask
from utils import cli
from utils.errors import UserError

SIGNATURE, TRIGGERS = "signature", 100
DENSITY = {"res20s": 0.26, "res18": 0.015, "res50": 0.1}
OTHER_DENSITY = 0.1  # of a network that was added
PRUNED = 0.2  # share of the stolen model's weights
WIDE, WIDE_LEVEL, WIDE_DENSITY = ("dead", "duplicate", "fill", "split", "permute", "scale", "sign"), 0.02, 0.1  # canonical


# --- a whole verdict --------------------------------------------------------------------------------------------------


def verify(args) -> Iterator[dict[str, Any]]:
    """main_verify.py on one suspect, as a command and in a process that has loaded everything, with fewer and fewer checks."""
    with tempfile.TemporaryDirectory() as folder:
        suspect, code = (args.suspect, args.code) if args.suspect else simulated_suspect(Path(folder))
        words, pictures = make_the_claim(args, Path(folder), suspect, code)
        whole = [*words["claim"], "--suspect", suspect, *words["F"], *words["V3"]]
        yield row(f"main_verify.py, {pictures} test pictures, code, {TRIGGERS} triggers",
                  [command(whole) for _ in range(args.repeats)])
        nothing = [*words["claim"], "--suspect", str(Path(folder) / "none")]
        yield row("... of that until it has loaded everything", [command(nothing, refused=True) for _ in range(args.repeats)])
        alone = [*words["claim"], "--suspect", suspect]
        for what, checked in (("the same in a process that has", whole), ("... without the accuracy", [*alone, *words["V3"]]),
                              ("... the code alone", alone)):
            yield row(what, [here(checked) for _ in range(args.repeats)])


def simulated_suspect(folder: Path) -> tuple[str, str]:
    """A signed ResNet-20 of random weights, and its claim as embed_qrcode.py leaves it: what a trained one costs too."""
    random = np.random.default_rng(1)
    signed, weights, region = signed_ticket("res20s", random)
    torch.manual_seed(1)
    state = build_model("res20s", 10).state_dict() | weights
    tickets.write_weights(folder / "suspect.pth.tar", state, {}, signed)
    code = region.code_format
    write_claim(folder / "code.json", CodeClaim(SIGNATURE, "res20s", region.layer, region.start_x, region.start_y, code.version,
                                            code.error_correction, code.mask_pattern, region.similarity, signed.nonzeros,
                                            signed.entries, {}))
    return str(folder / "suspect.pth.tar"), str(folder / "code.json")


def make_the_claim(args, folder: Path, suspect: str, code: str) -> tuple[dict[str, list[str]], int]:
    """main_verify.py's words for a signed and committed claim of F, V2 and V3, and how many test pictures F takes. Raises
    UserError for files that can't be read, a claim of another network than its suspect's, and a suspect that answers nothing."""
    arch, data = read_claim(code).arch, load_dataset(args.dataset, args.data)
    if tickets.read_model_file(suspect, build_model(arch, data.num_classes)).weights is None:
        raise UserError(f"--suspect {suspect}: holds no trained weights; give a model, not a ticket or mask file")
    secret, exported, key = str(folder / "trigger.key"), str(folder / "triggers"), str(folder / "owner.key")
    trigger.new_key(secret)
    trigger.export(trigger.keyed(trigger.read_key(secret), TRIGGERS, data.num_classes, data.test.images.shape[1]), exported)
    pictures = ["--dataset", args.dataset, *(["--data", args.data] if args.data else [])]
    with contextlib.redirect_stdout(io.StringIO()):
        make_claim.main(["--new_owner_key", key])
        # any accuracy will do: measuring it takes as long
        make_claim.main(["--owner", "owner", "--sign", key, "--arch", arch, "--v2", code, "--v3", exported, "--trigger_key",
                         secret, *pictures, "--fidelity", "50", "--save_dir", str(folder / "claim")])
    claim = ["--claim", str(folder / "claim/claim.json"), "--commitment", str(folder / "claim/commitment.json")]
    return {"claim": claim, "F": [*pictures, "--device", "cpu"], "V3": ["--trigger_key", secret]}, len(data.test)


def command(words: Sequence[str], refused: bool = False) -> tuple[float, float, str]:
    """A process of its own, of one thread: seconds, the processor's, and the verdict. Raises UserError where it ends otherwise
    than it should."""
    before, start = os.times(), time.perf_counter()
    done = subprocess.run([sys.executable, main_verify.__file__, *words], capture_output=True, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    took, after = time.perf_counter() - start, os.times()
    if (done.returncode == cli.EXIT_BAD_INPUT) != refused or done.returncode > cli.EXIT_BAD_INPUT:
        raise UserError(f"main_verify.py ended with {done.returncode}: {(done.stderr.splitlines() or ['no message'])[-1]}")
    processor = after.children_user + after.children_system - before.children_user - before.children_system
    return took, processor, verdict_in(done.stdout)


def here(words: Sequence[str]) -> tuple[float, float, str]:
    """The same in this process."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        took, processor, _ = timed(lambda: main_verify.main(words))
    return took, processor, verdict_in(printed.getvalue())


def verdict_in(printed: str) -> str:
    return next((line.partition(":")[2].strip() for line in printed.splitlines() if line.startswith("verdict:")), "")


# --- the largest claim ------------------------------------------------------------------------------------------------


def largest(args) -> Iterator[dict[str, Any]]:
    """What a rival can have a court do."""
    mask, weights = network("res18", DENSITY["res18"], np.random.default_rng(1))
    layer = max(mask, key=lambda name: min(mask[name].shape[:2]))
    for version, level in ((MAX_VERSION, "L"), (MAX_VERSION, "H"), (PREFERRED_VERSION, "H")):
        length = length_for(version, level)
        claim = CodeClaim("x" * length, "res18", layer, 0, 0, version, level, 0, 0.5, 1, 2, {},
                          tuple((layer, 0, copy) for copy in range(1, MAX_COPIES)), 0.02, "00" * 32)
        took, processor, check = timed(lambda: code(claim, Suspect(mask, layers_of(mask, weights)), Standing.NONE))
        yield row(f"V2 of {MAX_COPIES} copies of version {version}-{level}, an innocent ResNet-18", [(took, processor, check.result)])


# --- alignment --------------------------------------------------------------------------------------------------------


def alignment(args) -> Iterator[dict[str, Any]]:
    """Renumbered channels put back, in a stolen model and, where there is nothing to find, in an innocent one."""
    for arch in tqdm(args.arch, desc="networks", disable=None):
        random, groups = np.random.default_rng(1), channel_groups(build_model(arch, 2))
        signed, weights, region = signed_ticket(arch, random)
        stolen, kept = prune(signed, weights, PRUNED, "magnitude", 1)
        owner, title = Suspect(signed, layers_of(signed, weights)), ARCHITECTURES[arch].title

        def put_back(mask: Mask, state: dict[str, torch.Tensor]):
            suspect = Suspect(mask, layers_of(mask, state))
            return timed(lambda: align(owner, suspect, groups, region_kernels(signed, [region], region.code_format.version)))

        found = []
        for seed in range(args.repeats):
            took, processor, aligned = put_back(*permute(stolen, kept, build_model(arch, 2), seed))
            exact = all(torch.equal(aligned.suspect.mask[name], stolen[name]) for name in stolen)
            found.append((took, processor, "every weight back" if exact else "not found"))
        yield row(f"alignment, {title} at {100 * signed.density:.3g}%, renumbered and {100 * PRUNED:g}% pruned", found)
        took, processor, aligned = put_back(*network(arch, signed.density, random))
        yield row(f"... an innocent {title}", [(took, processor, f"correlation {aligned.after.correlation:.2f}")])


def signed_ticket(arch: str, random: np.random.Generator) -> tuple[Mask, dict[str, torch.Tensor], Region]:
    """A simulated ticket with the signature in it, weights in its mask, and where it was written."""
    mask, _ = network(arch, DENSITY.get(arch, OTHER_DENSITY), random)
    region = find_region(mask, SIGNATURE)
    signed = embed(mask, SIGNATURE, region, random)
    weights = {f"{name}.weight": torch.from_numpy(0.1 * random.lognormal(0, 0.6, kept.shape)
                                                  * random.choice([-1, 1], kept.shape)).float() * kept
               for name, kept in signed.items()}
    return signed, weights, region


def layers_of(mask: Mask, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: state[f"{name}.weight"] for name in mask}


# --- canonical form ---------------------------------------------------------------------------------------------------


def canonical(args) -> Iterator[dict[str, Any]]:
    """A copy with more channels, renumbered, scaled, turned and filled: read in canonical form, and put in order."""
    for arch in tqdm(args.arch, desc="networks", disable=None):
        model = transforms.network(arch, np.random.default_rng(1))
        groups, mask = channel_groups(model), transforms.by_magnitude(model, WIDE_DENSITY)
        state = transforms.with_mask(model, mask)
        made, wide = transform(mask, state, model, WIDE, WIDE_LEVEL, seed=1)
        with tempfile.TemporaryDirectory() as folder:
            tickets.write_weights(path := Path(folder) / "wide.pth.tar", wide, {}, made)
            reading = timed(lambda: read_suspect(path, model))
        ordering = timed(lambda: align(of_state(mask, state), reading[2], groups, {}))
        wrong, at_work = wrong_entries(ordering[2].suspect.mask, mask, state, groups)
        title = ARCHITECTURES[arch].title
        yield row(f"canonical form, {title} at {100 * WIDE_DENSITY:g}%", [(*reading[:2], "; ".join(reading[2].undone))])
        yield row("... and its channels in order", [(*ordering[:2], f"{wrong} of {mask.nonzeros} entries wrong, {at_work} of them between "
                                                     "channels that see something and are read")])


def wrong_entries(shown: Mask, mask: Mask, state: dict[str, torch.Tensor], groups: ChannelGroups) -> tuple[int, int]:
    """How many entries differ from the true mask, and how many of these lie between channels that see something and are read."""
    sides = np.zeros((2, len(groups.group) + 1), dtype=bool)  # the last one stands for what is fixed
    sides[:, FIXED] = True
    for (key, side), channels in groups.axes.items():
        if state[key].dim() > 1:
            sides[side, channels] |= (state[key] != 0).transpose(0, side).flatten(1).any(1).numpy()
    at_work, wrong, wrong_at_work = sides.all(0), 0, 0
    for name, kept in mask.items():
        differ = (shown[name] != kept).flatten(2).sum(2).numpy()
        ends = [at_work[groups.axes.get((f"{name}.weight", side), np.full(differ.shape[side], FIXED))] for side in (0, 1)]
        wrong, wrong_at_work = wrong + int(differ.sum()), wrong_at_work + int(differ[np.ix_(*ends)].sum())
    return wrong, wrong_at_work


# --- rows -------------------------------------------------------------------------------------------------------------


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds, the processor's seconds, and what came of it."""
    start, processor = time.perf_counter(), time.process_time()
    result = work()
    return time.perf_counter() - start, time.process_time() - processor, result


def row(what: str, runs: Sequence[tuple[float, float, str]]) -> dict[str, Any]:
    """Medians of several runs with the extremes. found: what came of them, each outcome once."""
    seconds, processor, found = zip(*runs)
    return {"what": what, "seconds": statistics.median(seconds), "low": min(seconds), "high": max(seconds),
            "processor": statistics.median(processor), "runs": len(runs), "found": ", ".join(dict.fromkeys(found))}
