"""One command of a plan, as a process of its own. It is sent to other machines as it stands here, so it takes the standard library
alone."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass


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
