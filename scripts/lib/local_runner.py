"""Commands of a plan on this machine."""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from scripts.lib.commands import Command, environment
from scripts.lib.plans import Job, Logs
from utils.errors import UserError

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


def visible_devices(devices: Sequence[str], shown: str | None) -> list[str]:
    """What CUDA_VISIBLE_DEVICES is to hold for each of `devices`: numbers count among those that it shows now (None: all), so that
    a launcher on a shared machine keeps to what it was given. Raises UserError for a number that is not among them."""
    among = None if shown is None else [device.strip() for device in shown.split(",") if device.strip()]
    for device in devices:
        if among is not None and device.isdecimal() and int(device) >= len(among):
            raise UserError(f"--devices {device}: CUDA_VISIBLE_DEVICES={shown} shows only {len(among)} devices, counted from 0")
    return [among[int(device)] if among is not None and device.isdecimal() else device for device in devices]


class LocalRunner:
    """Up to `jobs` commands at a time on this machine."""

    pause = 0.2

    def __init__(self, logs: Logs, jobs: int, devices: Sequence[str]):
        self.logs, self.devices = logs, visible_devices(devices, os.environ.get("CUDA_VISIBLE_DEVICES"))
        self.slots: list[tuple[Job, Command] | None] = [None] * jobs
        self.threads = max(1, len(os.sched_getaffinity(0)) // jobs)
        self.on_one_device = -(-jobs // max(1, len(devices)))  # where all see all, all take the first

    def room(self) -> int:
        return self.slots.count(None)

    def start(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            slot = self.slots.index(None)
            env = environment(self.threads)
            if self.devices:
                env["CUDA_VISIBLE_DEVICES"] = self.devices[slot % len(self.devices)]
            if self.on_one_device > 1:  # the first would take all memory, and each compile with a process for every core
                share = {"PYTORCH_ALLOC_CONF": f"per_process_memory_fraction:{0.95 / self.on_one_device:.3f}",
                         "TORCHINDUCTOR_COMPILE_THREADS": str(self.threads)}
                env |= {name: value for name, value in share.items() if name not in os.environ}
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
