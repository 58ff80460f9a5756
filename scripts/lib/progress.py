"""Running a plan to its end, and saying how it goes."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.lib.plans import Job, Logs
from scripts.lib.slurm_runner import LOST
from utils import cli

LAST_LINES = 3  # of a failed command's log that are shown at the end


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
            ready, later, room = [], [], runner.room()
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
                elif len(ready) < room:
                    ready.append(job)
                else:
                    later.append(job)
            settled = len(later) + len(ready) < len(waiting)
            if ready:
                unstarted = runner.start(ready) or ()
                ready = [job for job in ready if job not in unstarted]
                later = [job for job in waiting if job in later or job in unstarted]
                running += len(ready)
            waiting = later
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
                progress(outcome, running, ready, ended)
            if not ready and not ended and not settled:
                time.sleep(runner.pause)
    except BaseException:
        print(f"\n{runner.interrupt()}", file=sys.stderr)
        raise
    return outcome


def progress_of(plan: Sequence[Job]):
    """A function for `run_plan` that shows on stderr how far the sweep is, by the weight of what has ended, with an ETA: a bar
    on a terminal, elsewhere a line for each job that starts or ends."""
    return _bar(plan) if sys.stderr.isatty() else _lines(plan)


def _weights(plan: Sequence[Job], outcome: Outcome) -> tuple[int, int]:
    """Of what was run here and has ended, and of all that has to be run."""
    out = [*outcome.done_before, *(job for job, _ in outcome.left_out)]
    return (sum(job.weight for job in [*outcome.ran, *(job for job, _ in outcome.failed)]),
            max(1, sum(job.weight for job in plan) - sum(job.weight for job in out)))


def _ended(outcome: Outcome) -> int:
    return len(outcome.ran) + len(outcome.done_before) + len(outcome.failed) + len(outcome.left_out)


def _bar(plan: Sequence[Job]):
    from tqdm import tqdm

    bar = tqdm(total=sum(job.weight for job in plan), smoothing=0, miniters=0,
               bar_format="{percentage:3.0f}%|{bar:20}| {desc} [{elapsed}, ETA {remaining}]")

    def show(outcome: Outcome, running: int, *_) -> None:
        bar.n, bar.total = _weights(plan, outcome)
        bar.set_description_str(f"{_ended(outcome)} of {len(plan)} ended, {running} running, {len(outcome.failed)} failed",
                                refresh=False)
        if _ended(outcome) == len(plan):
            bar.n = bar.total
            bar.close()
        else:
            bar.update(0)

    return show


def _lines(plan: Sequence[Job]):
    from tqdm import tqdm

    start, began = time.monotonic(), {}

    def say(text: str) -> None:
        print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {cli.one_line(text)}", file=sys.stderr, flush=True)

    def show(outcome: Outcome, running: int, started: Sequence[Job], ended: Sequence[tuple[Job, int]]) -> None:
        for job in started:
            began[job.name] = time.monotonic()
            say(f"started {job.name}")
        done, total = _weights(plan, outcome)
        left = (time.monotonic() - start) / max(1, done) * (total - done)
        for job, code in ended:
            say(f"{f'FAILED ({code})' if code else 'done'} {job.name}, {time.monotonic() - began[job.name]:.0f} s; {_ended(outcome)} of "
                f"{len(plan)} ended, {len(outcome.failed)} failed, ETA {tqdm.format_interval(left)}")

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
