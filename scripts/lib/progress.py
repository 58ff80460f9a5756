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
