r"""Run a plan of commands: as many at a time as wanted, each after those whose files it reads; here or on Slurm.

    # a plan is one command per line; "# stage: NAME" is a heading, other comments are ignored
    LAUNCH=print bash scripts/table2.sh > plan.txt
    python scripts/launch.py plan.txt --jobs 2 --logs runs/paper/logs
    # from stdin, four at a time on two GPUs
    LAUNCH=print bash scripts/fig2.sh | python scripts/launch.py --jobs 4 --devices 0,1 --logs runs/paper/logs
    # on a cluster, job arrays through submitit (pip install -r requirements-slurm.txt)
    python scripts/launch.py plan.txt --launch slurm --jobs 20 --partition gpu --minutes 720 --logs runs/paper/logs

A command that names a path in another one's --save_dir (or its --new_key) waits for it; if that one fails, it is left out,
and all the rest goes on. Each command has LOGS/<its folder>.log and, when it has ended, LOGS/<its folder>.json. The same
plan again runs what is missing: a command that ended well is not run twice, unless one that it depends on was.
Exit code 0: all done, 1: something failed or was left out, 2: bad input.
"""

import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

if __name__ == "__main__":  # a fault before main() must not end with 1, which is a verdict
    sys.excepthook = lambda *fault: os._exit(sys.__excepthook__(*fault) or 3)
    import utils  # noqa: F401  refuses a Python that is too old

from utils import cli
from utils.errors import UserError

STAGE = "# stage:"
OUTPUTS = ("--save_dir", "--save-dir", "--new_key", "--new-key")
# roughly how long scripts take, to each other: a search is a dozen trainings
WEIGHTS = {"main_imp.py": 60, "main_eval_all.py": 5, "main_eval_trigger.py": 5, "main_attack.py finetune": 5}
OTHER_WEIGHT = 1
LAST_LINES = 3  # of a failed command's log that are shown at the end
# Slurm's queue may not show a job yet, or a shared file system its record
PATIENCE = 60.0
LARGEST_ARRAY = 1000  # Slurm's own default
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LOST = -10000  # instead of the exit code of a Slurm job that left none


def parse_args(argv: Sequence[str] | None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("plan", nargs="*", type=cli.path, default=["-"], metavar="PLAN", help="files of commands; - is stdin")
    parser.add_argument("--launch", choices=("local", "slurm", "print"), default="local",
                        help="run here, on Slurm, or only print what would be run, in an order that works")
    parser.add_argument("--jobs", type=cli.positive_int, default=1, metavar="N",
                        help="commands at a time; on Slurm, of each job array")
    parser.add_argument("--logs", type=cli.Output(files={}), default="runs/logs", metavar="DIR", help="where logs and records go")
    parser.add_argument("--devices", type=cli.listed(str), default=(), metavar="D,D",
                        help="local: CUDA devices that the commands share, in turn (default: all see all)")

    group = parser.add_argument_group("slurm")
    group.add_argument("--partition", type=cli.text, default=None, metavar="NAME", help="partition")
    group.add_argument("--minutes", type=cli.positive_int, default=1440, metavar="N",
                       help="time limit of a job; at its end it is requeued and goes on from its last epoch")
    group.add_argument("--requeues", type=cli.natural, default=20, metavar="N", help="how often that may happen")
    group.add_argument("--gpus", type=cli.natural, default=1, metavar="N", help="GPUs of a job")
    group.add_argument("--cpus", type=cli.positive_int, default=4, metavar="N", help="CPU cores of a job")
    group.add_argument("--memory_gb", type=cli.positive_float, default=None, metavar="GB", help="memory of a job")
    group.add_argument("--slurm", action="append", default=[], metavar="KEY=VALUE",
                       help="any other option of sbatch, e.g. --slurm account=lab (may be given several times)")
    group.add_argument("--submitit_cluster", choices=("slurm", "local"), default="slurm",
                       help="local: submitit's own stand-in for Slurm, to try things out")
    args = parser.parse_args(argv)
    for option in args.slurm:
        if not option.partition("=")[0] or "=" not in option:
            parser.error(f"argument --slurm: {option!r}: must be KEY=VALUE")
    return args


# --- plans ------------------------------------------------------------------------------------------------------------


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


def lies_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + "/")


def log_name(command: str, output: str | None, logs: Path) -> str:
    """The output's path without what it has in common with the folder of the logs, as a relative path."""
    if output is None:
        return "command_" + hashlib.sha256(command.encode("utf-8", "surrogateescape")).hexdigest()[:12]
    beside = os.path.normpath(logs.parent)
    return output[len(beside) + 1:] if lies_in(output, beside) else output.lstrip("./")


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


# --- running one command ------------------------------------------------------------------------------------------------


@dataclass
class Command:
    """A job as a function without arguments that can be sent to another machine; returns its exit code.

    It waits for the command, its output in `log`, and writes `record` at its end. `checkpoint` is what submitit calls when
    the job runs into its time limit or has to make room: the same command is queued again, and goes on where it was.
    """

    command: str
    log: str
    record: str
    env: dict[str, str]
    cwd: str
    process: subprocess.Popen | None = None

    def start(self) -> None:
        os.makedirs(os.path.dirname(self.log), exist_ok=True)
        self.began = time.time()
        with open(self.log, "a", encoding="utf-8", errors="surrogateescape") as log:
            log.write(f"\n$ {self.command}   # {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
            log.flush()
            # Slurm's warning goes to all processes of a job; only the one that waits here knows what to do
            self.process = subprocess.Popen(["bash", "-c", f"trap '' USR2\n{self.command}"], cwd=self.cwd, stdout=log,
                                            stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
                                            env={**os.environ, **self.env})

    def finish(self, code: int) -> None:
        """Write the record, whole or not at all."""
        temporary = f"{self.record}.tmp"
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump({"command": self.command, "code": code, "seconds": round(time.time() - self.began, 1)}, file)
        os.replace(temporary, self.record)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)

    def __call__(self) -> int:
        self.start()
        while (code := self.process.poll()) is None:  # wait() would hold a lock that `stop`, out of a signal, needs
            time.sleep(0.2)
        self.finish(code)
        return code

    def checkpoint(self):
        import submitit

        self.stop()
        return submitit.helpers.DelayedSubmission(Command(self.command, self.log, self.record, self.env, self.cwd))


def environment(threads: int | None = None) -> dict[str, str]:
    """What commands find: this Python as `python`, and threads where nobody has said how many."""
    env = {"PATH": os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])}
    return env if threads is None or "OMP_NUM_THREADS" in os.environ else {**env, "OMP_NUM_THREADS": str(threads)}


@contextmanager
def interrupted_later() -> Iterator[None]:
    """ENDINGS that come meanwhile take effect at its end."""
    came: list[int] = []
    handlers = {ending: signal.getsignal(ending) for ending in ENDINGS}
    replaced = {ending: handler for ending, handler in handlers.items() if callable(handler)}  # what is ignored stays so
    for ending in replaced:
        signal.signal(ending, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        for ending, handler in replaced.items():
            signal.signal(ending, handler)
        for number in came[:1]:
            signal.raise_signal(number)


class LocalRunner:
    """Up to `jobs` commands at a time on this machine."""

    pause = 0.2

    def __init__(self, logs: Logs, jobs: int, devices: Sequence[str]):
        self.logs, self.devices = logs, devices
        self.slots: list[tuple[Job, Command] | None] = [None] * jobs
        self.threads = max(1, len(os.sched_getaffinity(0)) // jobs)

    def room(self) -> int:
        return self.slots.count(None)

    def start(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            slot = self.slots.index(None)
            env = environment(self.threads)
            if self.devices:
                env["CUDA_VISIBLE_DEVICES"] = self.devices[slot % len(self.devices)]
            command = Command(job.command, str(self.logs.log(job)), str(self.logs.record(job)), env, os.getcwd())
            with interrupted_later():  # a command that had begun, but stood in no slot, would not be stopped
                command.start()
                self.slots[slot] = job, command

    def ended(self) -> list[tuple[Job, int]]:
        """Jobs that have ended since, with their exit codes."""
        found = []
        for slot, running in enumerate(self.slots):
            if running is not None and (code := running[1].process.poll()) is not None:
                running[1].finish(code)
                found.append((running[0], code))
                self.slots[slot] = None
        return found

    def interrupt(self) -> str:
        for running in self.slots:
            if running is not None:
                running[1].stop()
        return "what ran was stopped; the same plan goes on from there"


class SlurmRunner:
    """Commands as Slurm jobs: whatever can start at one moment is one job array. Jobs outlive this process, and are taken
    up again by the next one."""

    pause = 5.0

    def __init__(self, logs: Logs, args):
        try:
            import submitit
        except ImportError:
            raise UserError("--launch slurm: needs submitit; pip install -r requirements-slurm.txt") from None
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
        if not self.here:
            self.executor.update_parameters(
                slurm_array_parallelism=args.jobs,
                slurm_additional_parameters=dict(option.split("=", 1) for option in args.slurm),
                **({"slurm_partition": args.partition} if args.partition else {}))
        self.running: dict[str, tuple[Job, str]] = {}  # name -> job and its number in Slurm
        self.handles, self.last_seen = {}, {}

    def submitted(self, job: Job) -> Path:
        return self.logs.folder / f"{job.name}.slurm"

    def room(self) -> int:
        return sys.maxsize

    def start(self, jobs: Sequence[Job]) -> None:
        """Submit jobs as arrays, but for those that an earlier launch submitted and that are still in the queue.

        Raises UserError if Slurm does not answer or refuses them.
        """
        from submitit.core.utils import FailedJobError

        until, new = time.monotonic() + PATIENCE, []
        while (queue := self.queue()) is None:
            if time.monotonic() > until:
                raise UserError("--launch slurm: squeue does not answer; see that Slurm is up")
            time.sleep(self.pause)
        for job in jobs:
            number = self.number_of(job)
            if number in queue:
                self.running[job.name] = job, number
                self.last_seen[job.name] = time.monotonic()
            else:
                new.append(job)
        for first in range(0, len(new), LARGEST_ARRAY):
            try:
                self.submit(new[first:first + LARGEST_ARRAY])
            except FailedJobError as error:
                raise UserError(f"--launch slurm: {' '.join(str(error).split())}") from None

    def submit(self, jobs: Sequence[Job]) -> None:
        """Submit jobs as one array, and note their numbers."""
        for job in jobs:
            self.logs.record(job).unlink(missing_ok=True)
        with self.executor.batch():
            handles = [self.executor.submit(Command(job.command, str(self.logs.log(job).absolute()),
                                                    str(self.logs.record(job).absolute()), environment(), os.getcwd()))
                       for job in jobs]
        for job, handle in zip(jobs, handles):
            self.running[job.name], self.handles[handle.job_id] = (job, handle.job_id), handle
            self.last_seen[job.name] = time.monotonic()
            self.submitted(job).parent.mkdir(parents=True, exist_ok=True)
            self.submitted(job).write_text(json.dumps({"command": job.command, "number": handle.job_id}), encoding="utf-8")

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


# --- running them all ---------------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """How a plan went: jobs that were run, were done already, failed (with exit codes), or were left out (with the job
    that they need)."""

    ran: list[Job]
    done_before: list[Job]
    failed: list[tuple[Job, int]]
    left_out: list[tuple[Job, str]]


def run_plan(plan: Sequence[Job], runner, logs: Logs, progress=None) -> Outcome:
    """Run every job as soon as there is room and all that it needs has ended well."""
    outcome, waiting, running = Outcome([], [], [], []), list(plan), 0
    good, fresh, bad = set(), set(), set()  # names: ended well; so, and in this call; failed or left out
    try:
        while waiting or running:
            ready, later = [], []
            for job in waiting:
                broken = next((name for name in job.needs if name in bad), None)
                if broken:
                    bad.add(job.name)
                    outcome.left_out.append((job, broken))
                elif not good.issuperset(job.needs):
                    later.append(job)
                elif fresh.isdisjoint(job.needs) and logs.is_done(job):
                    good.add(job.name)
                    outcome.done_before.append(job)
                elif len(ready) < runner.room():
                    ready.append(job)
                else:
                    later.append(job)
            settled = len(later) + len(ready) < len(waiting)
            waiting = later
            if ready:
                runner.start(ready)
                running += len(ready)
            ended = runner.ended()
            for job, code in ended:
                running -= 1
                if code:
                    bad.add(job.name)
                    outcome.failed.append((job, code))
                else:
                    good.add(job.name)
                    fresh.add(job.name)
                    outcome.ran.append(job)
            if progress:
                progress(outcome, running)
            if not ready and not ended and not settled:
                time.sleep(runner.pause)
    except BaseException:
        print(f"\n{runner.interrupt()}", file=sys.stderr)
        raise
    return outcome


def progress_bar(plan: Sequence[Job]):
    """A function for `run_plan` that shows how far the sweep is, by the weight of what has ended, with an ETA."""
    from tqdm import tqdm

    bar = tqdm(total=sum(job.weight for job in plan), smoothing=0, miniters=0, mininterval=0.1 if sys.stderr.isatty() else 60,
               bar_format="{percentage:3.0f}%|{bar:20}| {desc} [{elapsed}, ETA {remaining}]")

    def show(outcome: Outcome, running: int) -> None:
        out = [*outcome.done_before, *(job for job, _ in outcome.left_out)]
        bar.total = max(1, sum(job.weight for job in plan) - sum(job.weight for job in out))
        bar.n = sum(job.weight for job in [*outcome.ran, *(job for job, _ in outcome.failed)])
        ended = len(outcome.ran) + len(outcome.done_before) + len(outcome.failed) + len(outcome.left_out)
        bar.set_description_str(f"{ended} of {len(plan)} ended, {running} running, {len(outcome.failed)} failed", refresh=False)
        if ended == len(plan):
            bar.n = bar.total
            bar.close()
        else:
            bar.update(0)

    return show


def report(outcome: Outcome, logs: Logs) -> int:
    """Print how it went, failures with the end of their logs, and return the exit code."""
    print(f"{len(outcome.ran)} done, {len(outcome.done_before)} were done before, {len(outcome.failed)} failed, "
          f"{len(outcome.left_out)} left out")
    for job, code in outcome.failed:
        why = "ended without a word; see sacct" if code == LOST else f"exit code {code}"
        print(f"\nFAILED ({why}): {job.command}\n  log: {logs.log(job)}")
        for line in last_lines(logs.log(job)):
            print(f"  | {line}")
    for job, needed in outcome.left_out:
        print(f"\nLEFT OUT (needs {needed}): {job.command}")
    return cli.EXIT_NO_MATCH if outcome.failed or outcome.left_out else cli.EXIT_OK


def last_lines(log: Path) -> list[str]:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [cli.one_line(line) for line in lines if line.strip()][-LAST_LINES:]


def print_plan(plan: Sequence[Job]) -> None:
    """The plan without doubled lines; headings stay."""
    stage = ""
    for job in plan:
        if job.stage != stage:
            stage = job.stage
            print(f"{STAGE} {stage}")
        print(job.command)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)

    logs, lines = Logs(Path(args.logs)), []
    for name in args.plan:
        lines += sys.stdin.readlines() if name == "-" else Path(name).read_text("utf-8", "surrogateescape").splitlines()
    plan = read_plan(lines, logs.folder)
    if not plan:
        raise UserError(f"{', '.join('stdin' if name == '-' else name for name in args.plan)}: holds no command")
    if args.launch == "print":
        print_plan(plan)
        return cli.EXIT_OK
    for ending in ENDINGS:  # like Ctrl-C: what runs would not end by itself
        if signal.getsignal(ending) is signal.SIG_DFL:
            signal.signal(ending, signal.default_int_handler)
    runner = LocalRunner(logs, args.jobs, args.devices) if args.launch == "local" else SlurmRunner(logs, args)
    return report(run_plan(plan, runner, logs, progress_bar(plan)), logs)


if __name__ == "__main__":
    cli.run(main)
