"""Commands of a plan on this machine."""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from scripts.lib.commands import Command, environment
from scripts.lib.plans import Job, Logs

ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


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
