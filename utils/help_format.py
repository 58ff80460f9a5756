"""How --help looks."""

import argparse
import re
import textwrap
from collections.abc import Iterator


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the script's docstring as it is written where the terminal has room for it, and shows every default that says
    something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, (), []) or isinstance(action.default, bool) or action.required:
            return action.help
        if isinstance(action.default, tuple):  # as it is typed
            return f"{action.help} (default: {','.join(map(str, action.default))})"
        return super()._get_help_string(action)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(indent + line for block in _blocks(text) for line in _fitted(block, width))


def _blocks(text: str) -> Iterator[list[str]]:
    """Lines that are broken anew together: a paragraph, a comment, a command with what continues it."""
    block: list[str] = []
    for line in text.splitlines():
        begin, before = _beginning(line), _beginning(block[-1]) if block else None
        alone = not line.strip() or begin != before or begin.isspace() or block and not block[-1].strip()
        if block and alone and not block[-1].endswith("\\"):
            yield block
            block = []
        block.append(line)
    yield block


def _beginning(line: str) -> str:
    """What a line of prose begins with: nothing, or a comment's sign."""
    return re.match(r" *(# ?)?", line)[0]


def _fitted(block: list[str], width: int) -> list[str]:
    """The block as it is, or broken anew where it is too wide: a command before its flags, text between words."""
    if max(map(len, block)) <= width:
        return block
    begin = _beginning(block[0])
    if begin.isspace():  # a command
        words = " ".join(line.removesuffix("\\").strip() for line in block).replace(" ", "\0").replace("\0--", " --")
        lines = textwrap.wrap(words, width - 2, initial_indent=begin, subsequent_indent=begin + "    ", break_long_words=False,
                              break_on_hyphens=False)
        return [line.replace("\0", " ") + (" \\" if line is not lines[-1] else "") for line in lines]
    text = " ".join(line.removeprefix(begin) for line in block)
    return textwrap.wrap(text, width, initial_indent=begin, subsequent_indent=begin, break_long_words=False, break_on_hyphens=False)
