"""One process at a time in a folder, also on file systems that can't lock (Lustre without -o flock, some NFS and SMB mounts)."""

import contextlib
import fcntl
import json
import os
import platform
import subprocess
import sys
import uuid
import weakref
from pathlib import Path
from typing import Any, TextIO

from utils import checkpoint
from utils.errors import UserError


class Taken(Exception):
    """Another process holds the lock, or may hold it. Its text says who, and the mend."""


def take(path: Path) -> TextIO:
    """Make the file at `path` and lock it, for as long as the file that is returned stays open. Where its file system can't lock,
    `path`.owner says who holds it.

    Raises:
        Taken: by another process.
        OSError: nothing can be written there.
    """
    lock = open(path, "w", encoding="utf-8")
    owner = path.with_name(f"{path.name}.owner")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise Taken("another process is writing there; wait, or name another") from None
    except OSError as error:
        print(f"note: {path.parent}: its file system can't lock ({error.strerror}); {owner.name} says there who is writing",
              file=sys.stderr)
        _create(owner)
        # the process that forks off must not end its parent's lock
        weakref.finalize(lock, lambda pid=os.getpid(): os.getpid() == pid and owner.unlink(missing_ok=True))
    return lock


def _create(owner: Path) -> None:
    """Write who this process is to a file that is not there yet, or is that of a process of this host that has ended.

    Raises Taken where it is another's.
    """
    content = json.dumps(this_process())
    for _ in range(3):  # others may take away or make the file meanwhile
        try:
            with open(owner, "x", encoding="utf-8") as file:
                file.write(content)
                return
        except FileExistsError:
            _remove_stale(owner)
    raise Taken("other processes start writing there; wait, or name another")


def _remove_stale(owner: Path) -> None:
    """Take the file of a process of this host that has ended out of the way. Raises Taken for any other."""
    with contextlib.suppress(FileNotFoundError):
        holder = _read(owner)
        if holder is None:
            raise Taken(f"{owner.name} is not whole; remove it if nobody is writing there")
        this = this_process()
        if holder["host"] != this["host"]:
            raise Taken(f"process {holder['pid']} of {holder['host']} is writing there, or was killed; remove {owner} if it does "
                        "not run any more, or name another")
        if holder["started"] == started(holder["pid"]):
            raise Taken(f"process {holder['pid']} is writing there; wait, or name another")
        aside = owner.with_name(f"{owner.name}.{uuid.uuid4().hex}{checkpoint.TEMPORARY}")
        os.rename(owner, aside)
        if _read(aside) != holder:  # somebody else was faster, and this is the new one's
            with contextlib.suppress(FileExistsError):
                os.link(aside, owner)
            aside.unlink()
            raise Taken("another process is writing there; wait, or name another")
        aside.unlink()


def _read(owner: Path) -> dict[str, Any] | None:
    """Host, pid and start of a process; None for a file that is cut off."""
    if not owner.exists():
        raise FileNotFoundError
    with contextlib.suppress(UserError):
        holder = checkpoint.load_json(owner)
        if isinstance(holder, dict) and [type(holder.get(name)) for name in ("host", "pid", "started")] == [str, int, str]:
            return holder
    return None


def this_process() -> dict[str, Any]:
    """What tells this process from all others, of this host and of others, before and after a restart of the machine."""
    with contextlib.suppress(OSError):  # a container counts its processes by itself, and may have its host's name
        return {"host": f"{platform.node()} {os.readlink('/proc/self/ns/pid')}", "pid": os.getpid(), "started": started(os.getpid())}
    return {"host": platform.node(), "pid": os.getpid(), "started": started(os.getpid())}


def started(pid: int) -> str | None:
    """When a process began; None where there is none with that number."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return None if fields[0] == "Z" else f"{boot} {fields[19]}"
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
    return subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True).stdout.strip() or None
