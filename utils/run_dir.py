"""Run directories: the only place that knows the names of the files a run leaves, and whether a stage is done."""

import contextlib
import json
import math
import platform
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from utils import checkpoint
from utils.errors import UserError
from utils.log import keep_log
from utils.locks import Taken, take

# flags that may differ between a run and its resumption: they say where and how fast, not what (of the pictures and of
# files given, the contents are compared)
RUN_ONLY_FLAGS = frozenset({"save_dir", "device", "compile", "ignored", "data", "init", "mask_dir", "pretrained", "key",
                            "trigger_dir", "trigger_key", "checkpoint", "claim", "passports",
                            "sign_keyed"})


# what a stolen model's copy is called, by the form in which it is written
COPIES = {"pth": "attacked.pth.tar", "safetensors": "attacked.safetensors", "onnx": "attacked.onnx"}


class TrainingFiles:
    """Names of what one training leaves in its folder."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.last = self.folder / "checkpoint.pth.tar"  # after the last finished epoch; training resumes from it
        self.best = self.folder / "model_best.pth.tar"  # of the epoch with the best validation accuracy
        self.metrics = self.folder / "metrics.csv"
        self.curve = self.folder / "curve.png"
        self.result = self.folder / "result.json"


class RunDir(TrainingFiles):
    """A run directory, opened for one process at a time.

    Opening records the arguments and versions in `run.json`; opening it again with arguments that change what is
    computed is refused, so that one directory never mixes two experiments.
    """

    def __init__(self, folder: str | Path):
        super().__init__(folder)
        self.record = self.folder / "run.json"
        self.log = self.folder / "log.txt"  # what its commands printed
        self.rounds = self.folder / "rounds.csv"
        self.rounds_plot = self.folder / "accuracy_density.png"
        self.clouds = self.folder / "clouds.png"  # of points: some, and what the model calls them
        self.ticket = self.folder / "ticket.pth.tar"
        self.key = self.folder / "key.pth.tar"
        self.locked = self.folder / "locked.pth.tar"
        self.released = self.folder / "released.pth.tar"  # what is handed out of a network with passports
        self.passports = self.folder / "passports.pt"  # and their owner's secret
        self.keyed = self.folder / "keyed.key.json"  # of a ticket that was signed in the search
        self.unsigned = self.folder / "unsigned.weight_mask.pth.tar"  # and what its key was drawn for
        self.triggers = self.folder / "triggers"  # a folder: the set that was trained with, for the owner's claim
        self._lock = None

    def weights_after(self, epoch: int) -> Path:
        """The dense network's weights after `epoch` epochs: what tickets are rewound to."""
        return self.folder / f"epoch_{epoch}.pth.tar"

    def round(self, index: int) -> "RoundFiles":
        """Files of one round of iterative pruning; round 0 is the dense network."""
        return RoundFiles(self.folder / f"round_{index:02d}")

    def open(self, script: str, arguments: dict[str, Any], may_grow: frozenset[str] = frozenset(), **told: str) -> None:
        """Create the directory or come back to it; from then on, what is printed goes into its log too.

        Args:
            script: name of the entry script.
            arguments: resolved arguments, JSON values or tuples.
            may_grow: names of arguments that a resumed run may raise (e.g. the number of rounds; None is no limit).
            told: what else the record says of this session, which no later one is held to.
        Raises:
            UserError: the directory is another experiment's, holds files that this run would take for its own, is in
                use, or can't be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = take(self.folder / ".lock")
        except Taken as error:
            raise UserError(f"--save_dir {self.folder}: {error}") from None
        except OSError as error:
            raise UserError(f"--save_dir {self.folder}: can't be written ({error.strerror})") from None

        arguments = json.loads(json.dumps(arguments))  # tuples become lists, as they come back from the file
        sessions = []
        if self.record.exists():
            sessions = self._check_same_run(script, arguments, may_grow)
        else:
            for path in self._leavings():
                raise UserError(f"--save_dir {self.folder}: holds {path.name} but no {self.record.name} that says which run left "
                                "it; name another folder")
        for leftover in self.folder.rglob(f".*{checkpoint.TEMPORARY}"):
            leftover.unlink(missing_ok=True)
        sessions.append({"command": shlex.join(["python", *sys.argv]), **told, **versions()})
        checkpoint.save_json({"script": script, "arguments": arguments, "sessions": sessions}, self.record)
        keep_log(self.log, sessions[-1]["command"])

    def _leavings(self) -> list[Path]:
        """What is there of all that runs leave, whichever script's; a signature, or the picture of one that was read, may be
        there before its ticket is trained."""
        patterns = names_in_runs() - {AttackFiles(self.folder).code.name}
        return sorted(path for pattern in patterns for path in self.folder.glob(pattern) if path.exists())

    def _check_same_run(self, script: str, arguments: dict[str, Any], may_grow: frozenset[str]) -> list[dict[str, Any]]:
        """The sessions recorded so far. Raises UserError where the record is another run's."""
        try:
            before = checkpoint.load_json(self.record)
        except UserError as error:
            raise UserError(f"{error}; name another --save_dir") from None
        if not isinstance(before, dict) or not isinstance(before.get("arguments"), dict) \
                or not isinstance(before.get("sessions"), list):
            raise UserError(f"{self.record}: is damaged; name another --save_dir")
        if before.get("script") != script:
            raise UserError(f"--save_dir {self.folder}: holds a run of {before.get('script')}; name another folder")
        old, differ = before["arguments"], []
        for name in sorted((old.keys() & arguments.keys()) - RUN_ONLY_FLAGS):
            grown = name in may_grow and (arguments[name] is None or (isinstance(old[name], int)
                                                                      and arguments[name] >= old[name]))
            if old[name] != arguments[name] and not grown:
                differ.append("{} {} then, {} now".format(*_as_given(name, old, arguments)))
        if differ:
            raise UserError(f"--save_dir {self.folder}: holds a run with other arguments ({', '.join(differ)}); "
                            "give the same ones to resume, or name another folder")
        return before["sessions"]


def _as_given(name: str, *arguments: dict[str, Any]) -> list[str]:
    """An argument as it is called, and its values; of a digest what it is of, and its first digits."""
    what, is_digest, _ = name.partition(" (sha256)")
    if not is_digest:
        return [f"--{name}", *(str(given[name]) for given in arguments)]
    return [f"--{what}" if what in arguments[-1] else f"the {what}",
            *(f"{given.get(what) or ''} ({str(given[name])[:8]}...)".strip() for given in arguments)]


class RoundFiles(TrainingFiles):
    """Files of one round: a training, and the ticket it started from."""

    def __init__(self, folder: str | Path):
        super().__init__(folder)
        self.ticket = self.folder / "ticket.pth.tar"


class SignatureFiles:
    """Names of what embedding a signature leaves; the mask file is named as in the original."""

    def __init__(self, folder: str | Path, arch: str, dataset: str, layer: str):
        stem = f"{arch}_{dataset}_qrcode_{layer}"
        self.masks = Path(folder) / f"{stem}.weight_mask.pth.tar"
        self.claim = Path(folder) / f"{stem}.claim.json"
        self.code = Path(folder) / f"{stem}.code.png"
        self.before_and_after = Path(folder) / f"{stem}.before_after.png"

    def others(self, layer: str) -> list[Path]:
        """Claims about the same network and data set in other layers."""
        name = self.claim.name.removesuffix(f"{layer}.claim.json")
        return sorted(path for path in self.claim.parent.glob("*.claim.json") if path.name.startswith(name) and path != self.claim)


class KeyedFiles:
    """Names of what embedding a keyed mask leaves."""

    def __init__(self, folder: str | Path, arch: str, dataset: str):
        stem = f"{arch}_{dataset}_keyed"
        self.masks = Path(folder) / f"{stem}.weight_mask.pth.tar"
        self.key = Path(folder) / f"{stem}.key.json"


class ExtractionFiles:
    """Names of what reading a signature leaves."""

    def __init__(self, folder: str | Path):
        self.code = Path(folder) / "code.png"
        self.result = Path(folder) / "extraction.json"
        self.keyed = Path(folder) / "keyed.json"  # of a keyed mask


class AttackFiles(TrainingFiles):
    """Names of what one attack leaves in its folder, its model in a form of COPIES; fine-tuning leaves a training's files too."""

    def __init__(self, folder: str | Path, form: str = "pth"):
        super().__init__(folder)
        self.form = form
        self.model = self.folder / COPIES[form]
        self.table = self.folder / "attack.csv"  # of a sweep: one row per level
        self.plot = self.folder / "attack.png"
        self.code = self.folder / "code.png"  # as the owner's claim finds it
        self.codes = self.folder / "codes.png"  # of a sweep: one per level
        self.forged = self.folder / "forged.claim.json"

    def level(self, level: float) -> "AttackFiles":
        """Files of one level of a sweep."""
        return AttackFiles(self.folder / f"level_{level:.15g}", self.form)

    def levels(self) -> list[float]:
        """Levels of a sweep that are done, in their order. Folders that are named in another way, such as backups, are none."""
        found = set()
        for result in self.folder.glob("level_*/result.json"):
            with contextlib.suppress(ValueError):
                level = float(result.parent.name.removeprefix("level_"))
                found |= {level} if math.isfinite(level) and self.level(level).result == result else set()
        return sorted(found)


def names_in_runs() -> set[str]:
    """Patterns of the names of all that runs leave in their folder, whichever script's."""
    named = (path.name for files in (RunDir("run"), AttackFiles("run")) for path in vars(files).values()
             if isinstance(path, Path) and path != files.folder)
    return {*named, *COPIES.values(), "round_*", "level_*", "epoch_*.pth.tar"}


def versions() -> dict[str, str]:
    """Versions of what decides a result, and this code's git hash ('unknown' outside a checkout)."""
    import numpy
    import torch

    def git(*words: str) -> str:
        try:
            return subprocess.run(["git", "-C", str(Path(__file__).parent), *words], capture_output=True, text=True,
                                  check=True, timeout=10).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            return ""

    commit = git("rev-parse", "HEAD") or "unknown"
    return {
        "written": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "git": commit + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else ""),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "machine": f"{processor()}, {torch.get_num_threads()} thread{'s' if torch.get_num_threads() > 1 else ''}"
                   + (f", {torch.cuda.get_device_name()}" if torch.cuda.is_initialized() else ""),
    }


def processor() -> str:
    """The processor's model where Linux says it, elsewhere its kind."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
