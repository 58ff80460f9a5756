"""Plans: commands, one a line, with what each writes and needs; and what has come of them."""

import contextlib
import hashlib
import importlib
import io
import json
import os
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.errors import UserError

ROOT = Path(__file__).resolve().parent.parent.parent
STAGE = "# stage:"
OUTPUTS = ("--save_dir", "--save-dir", "--new_key", "--new-key", "--new_owner_key", "--new-owner-key")
# roughly how long scripts take, to each other: a search is a dozen trainings
WEIGHTS = {"main_imp.py": 60, "main_eval_all.py": 5, "main_eval_trigger.py": 5, "main_attack.py finetune": 5}
OTHER_WEIGHT = 1


@dataclass(frozen=True)
class Job:
    """One command of a plan.

    name: of its logs. output: the folder (or file) it writes, None where it names none. needs: names of the jobs before
    it that must have ended well.
    """

    name: str
    command: str
    stage: str
    output: str | None
    needs: tuple[str, ...]

    @property
    def weight(self) -> int:
        """Roughly how long it takes, in no unit; the progress bar is only as good as this."""
        return next((number for script, number in WEIGHTS.items() if script in self.command), OTHER_WEIGHT)


def read_plan(lines: Iterable[str], logs: Path) -> list[Job]:
    """Jobs in the plan's order, doubled lines once.

    Raises:
        UserError: a line is no shell command, two different commands write to one folder, or a command stands before one
            whose files it reads.
    """
    jobs: dict[str, Job] = {}
    writers: dict[str, Job] = {}
    read_before: dict[str, int] = {}  # path -> number of the line that names it
    stage = ""
    for number, line in enumerate(map(str.strip, lines), 1):
        if line.startswith(STAGE):
            stage = line.removeprefix(STAGE).strip()
        if not line or line.startswith("#") or line in jobs:
            continue
        try:
            words = [part for word in shlex.split(line) for part in word.split("=", 1)]
        except ValueError as error:
            raise UserError(f"plan, line {number}: {line!r}: no shell command ({error})") from None
        outputs = [index + 1 for index, word in enumerate(words[:-1]) if word in OUTPUTS]
        output = os.path.normpath(words[outputs[-1]]) if outputs else None
        named = [os.path.normpath(word) for index, word in enumerate(words)
                 if ("/" in word or "." in word) and index not in outputs]
        if output in writers:
            raise UserError(f"plan, line {number}: writes to {output} like another command ({writers[output].command}); give "
                            "each a folder of its own")
        early = next((at for path, at in read_before.items() if output and lies_in(path, output)), None)
        if early:
            raise UserError(f"plan, line {early}: reads what line {number} writes ({output}); put it after that line")
        needs = tuple(dict.fromkeys(job.name for path, job in writers.items() if any(lies_in(word, path) for word in named)))
        jobs[line] = Job(log_name(line, output, logs), line, stage, output, needs)
        if output:
            writers[output] = jobs[line]
        read_before |= {word: number for word in named if word not in read_before}
    return list(jobs.values())


def check_flags(plan: Sequence[Job]) -> None:
    """Let this project's scripts look at the flags of their commands, before any is run.

    Raises:
        UserError: what a script would refuse, e.g. a network, a data set or a score that there is not.
    """
    for job in plan:
        program, script, *words = [*shlex.split(job.command), ""]
        if program != "python" or Path(script).resolve().parent != ROOT or not Path(script).is_file():
            continue
        complaint = io.StringIO()
        try:
            with contextlib.redirect_stderr(complaint):
                importlib.import_module(Path(script).stem).parse_args(words[:-1])
        except SystemExit:
            raise UserError(f"nothing was run: {script} in stage {job.stage!r}: {complaint.getvalue().partition('error: ')[2].strip()}"
                            ) from None


def lies_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + "/")


def log_name(command: str, output: str | None, logs: Path) -> str:
    """The output's path without what it has in common with the folder of the logs, as a relative path."""
    if output is None:
        return "command_" + hashlib.sha256(command.encode("utf-8", "surrogateescape")).hexdigest()[:12]
    beside = os.path.normpath(logs.parent)
    return output[len(beside) + 1:] if lies_in(output, beside) else output.lstrip("./")


def print_plan(plan: Sequence[Job]) -> None:
    """The plan without doubled lines; headings stay."""
    stage = ""
    for job in plan:
        if job.stage != stage:
            stage = job.stage
            print(f"{STAGE} {stage}")
        print(job.command)


@dataclass(frozen=True)
class Logs:
    """What the jobs leave: a log each, and a record when it has ended."""

    folder: Path

    def log(self, job: Job) -> Path:
        return self.folder / f"{job.name}.log"

    def record(self, job: Job) -> Path:
        return self.folder / f"{job.name}.json"

    def ended(self, job: Job) -> int | None:
        """Exit code of the very command; None where it has not ended, or another one stood there."""
        try:
            record = json.loads(self.record(job).read_text(encoding="utf-8"))
            return record["code"] if record["command"] == job.command else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def is_done(self, job: Job) -> bool:
        return self.ended(job) == 0 and (job.output is None or os.path.exists(job.output))
