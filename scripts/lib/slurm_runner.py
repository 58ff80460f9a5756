"""Commands of a plan on a cluster, through submitit."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from scripts.lib import commands
from scripts.lib.plans import Job, Logs
from utils import checkpoint
from utils.errors import UserError

try:  # only for --launch slurm
    import cloudpickle
    import submitit
    from submitit.core.utils import FailedJobError
except ImportError:
    submitit = None

# Slurm's queue may not show a job yet, or a shared file system its record
PATIENCE = 60.0
LARGEST_ARRAY = 1000
LOST = -10000  # instead of the exit code of a Slurm job that left none
# as sbatch says that a user, an account or the whole cluster has as many jobs as it may, e.g. QOSMaxSubmitJobPerUserLimit
LIMIT = re.compile("MaxSubmit|job submit limit|GrpSubmit|temporarily unable to accept|Resource temporarily unavailable", re.IGNORECASE)


class SlurmRunner:
    """Commands as Slurm jobs, up to `jobs` at a time: whatever can start at one moment is one job array. Jobs outlive this
    process, and are taken up again by the next one."""

    pause = 5.0

    def __init__(self, logs: Logs, args):
        if submitit is None:
            raise UserError("--launch slurm: needs submitit; pip install -r requirements-slurm.txt")
        self.logs, self.here = logs, args.submitit_cluster == "local"
        if self.here:
            self.pause = 0.2
        folder = logs.folder / "slurm"
        own = {} if self.here else {"slurm_max_num_timeout": args.requeues}
        try:
            self.executor = submitit.AutoExecutor(folder=folder, cluster=args.submitit_cluster, **own)
        except RuntimeError as error:
            raise UserError(f"--launch slurm: {error}") from None
        self.executor.update_parameters(
            name="lottery", timeout_min=args.minutes, cpus_per_task=args.cpus,
            **({"gpus_per_node": args.gpus} if args.gpus else {}), **({"mem_gb": args.memory_gb} if args.memory_gb else {}))
        self.jobs, self.limit, self.largest_array = args.jobs, args.max_submitted or sys.maxsize, 1
        if not self.here:
            self.executor.update_parameters(
                slurm_additional_parameters=dict(option.split("=", 1) for option in args.slurm),
                **({"slurm_partition": args.partition} if args.partition else {}))
            self.largest_array = largest_array()
        cloudpickle.register_pickle_by_value(commands)  # whoever runs them need not find this code
        self.running: dict[str, tuple[Job, str]] = {}  # name -> job and its number in Slurm
        self.handles, self.last_seen, self.known_queue = {}, {}, set()

    def submitted(self, job: Job) -> Path:
        return self.logs.folder / f"{job.name}.slurm"

    def room(self) -> int:
        """How many more may be submitted. Raises UserError if Slurm does not answer."""
        until = time.monotonic() + PATIENCE
        while (queue := self.queue()) is None:
            if time.monotonic() > until:
                raise UserError("--launch slurm: squeue does not answer; see that Slurm is up")
            time.sleep(self.pause)
        self.known_queue = queue
        return max(0, min(self.jobs - len(self.running), self.limit - len(self.in_queue())))

    def start(self, jobs: Sequence[Job]) -> list[Job]:
        """Submit jobs as arrays, but for those that an earlier launch submitted and that are still in the queue.

        Returns:
            those that the site's limit left no room for; they may fit once others have ended.
        Raises:
            UserError: Slurm refuses them for another reason, or though nothing of this user is in the queue.
        """
        new = []
        for job in jobs:
            number = self.number_of(job)
            if number in self.known_queue:
                self.running[job.name] = job, number
                self.last_seen[job.name] = time.monotonic()
            else:
                new.append(job)
        size = self.largest_array
        while new:
            size = min(size, len(new))
            try:
                self.submit(new[:size])
                new = new[size:]
            except FailedJobError as error:
                message, in_queue = " ".join(str(error).split()), len(self.in_queue())
                if not LIMIT.search(message) or size == 1 and not in_queue:
                    raise UserError(f"--launch slurm: {message}") from None
                if size == 1:
                    print(f"note: Slurm takes {in_queue} jobs of this user at once; the others wait", file=sys.stderr)
                    self.limit = in_queue
                    break
                size //= 2
        return new

    def in_queue(self) -> set[str]:
        """Numbers of this user's jobs as far as is known; one that was just submitted may not be shown yet."""
        return self.known_queue | {number for _, number in self.running.values()}

    def submit(self, jobs: Sequence[Job]) -> None:
        """Submit jobs as one array, and note their numbers."""
        for job in jobs:
            self.logs.record(job).unlink(missing_ok=True)
        with self.executor.batch():
            handles = [self.executor.submit(commands.Command(job.command, str(self.logs.log(job).absolute()),
                                                             str(self.logs.record(job).absolute()), commands.environment(),
                                                             os.getcwd()))
                       for job in jobs]
        for job, handle in zip(jobs, handles):
            self.running[job.name], self.handles[handle.job_id] = (job, handle.job_id), handle
            self.last_seen[job.name] = time.monotonic()
            self.submitted(job).parent.mkdir(parents=True, exist_ok=True)
            checkpoint.save_json({"command": job.command, "number": handle.job_id}, self.submitted(job))

    def number_of(self, job: Job) -> str | None:
        try:
            record = json.loads(self.submitted(job).read_text(encoding="utf-8"))
            return record["number"] if record["command"] == job.command else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def queue(self) -> set[str] | None:
        """Numbers of the jobs that wait or run, None where Slurm does not answer."""
        # squeue, since sacct wants a data base that small clusters lack
        if self.here:
            return {number for number, handle in self.handles.items() if not handle.done()}
        asked = subprocess.run(["squeue", "--me", "--array", "--noheader", "--format", "%i"], capture_output=True, text=True)
        return set(asked.stdout.split()) if asked.returncode == 0 else None

    def ended(self) -> list[tuple[Job, int]]:
        queue, found = self.queue(), []
        if queue is None:  # a controller that is away for a moment loses no job
            return []
        for name, (job, number) in list(self.running.items()):
            code = self.logs.ended(job)
            if number in queue:
                self.last_seen[name] = time.monotonic()
            elif code is None and time.monotonic() - self.last_seen[name] > (0 if self.here else PATIENCE):
                code = LOST  # cancelled, or its machine died
            if code is not None and number not in queue:
                found.append((job, code))
                del self.running[name]
        return found

    def interrupt(self) -> str:
        numbers = " ".join(number for _, number in self.running.values())
        return f"jobs go on in Slurm, the same plan takes them up; to stop them: scancel {numbers}" if numbers else \
            "no job was in Slurm"


def largest_array() -> int:
    """How many jobs one array may have here; Slurm's own default where it does not say."""
    try:
        config = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, timeout=PATIENCE).stdout
    except (OSError, subprocess.SubprocessError):
        config = ""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", config, re.MULTILINE)
    return max(1, int(found[1])) if found else LARGEST_ARRAY

