"""Values of flags that several benchmarks have. Imports no torch, so `--help` answers at once."""

import argparse
from collections.abc import Callable, Iterable

CIFAR = 45000, 5000, 10000  # training, validation and test pictures: what an epoch consists of


def names_of(known: Iterable[str]) -> Callable[[str], tuple[str, ...]]:
    """A parser of comma-separated names, at least one, e.g. `--only damage,scan`. It raises ArgumentTypeError."""
    known = tuple(known)

    def parse(text: str) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
        if not names or not set(names) <= set(known):
            raise argparse.ArgumentTypeError(f"{text!r}: must be out of {', '.join(known)}")
        return names

    return parse
