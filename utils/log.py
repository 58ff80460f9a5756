"""What a run prints, kept in its folder."""

import contextlib
import sys
import time
from pathlib import Path
from typing import TextIO


class Copied:
    """A stream whose text goes into a file as well, but for progress bars, which are drawn over and over. All else is the
    stream's own."""

    def __init__(self, stream: TextIO, file: TextIO):
        self.stream, self.file = stream, file

    def __getattr__(self, name: str):
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        if "\r" not in text:
            with contextlib.suppress(OSError):  # a run does not fail for its log
                self.file.write(text)
        return self.stream.write(text)


def keep_log(path: Path, command: str) -> None:
    """Let what this process prints from now on go into the file, too, behind the command and the time; and into no other one."""
    file = open(path, "a", encoding="utf-8", errors="backslashreplace", buffering=1)
    file.write(f"$ {command}   # {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        setattr(sys, name, Copied(stream.stream if isinstance(stream, Copied) else stream, file))
