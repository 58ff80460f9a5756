"""Command-line habits shared by all entry scripts. Imports neither torch nor numpy, so `--help` answers at once."""

import argparse
import contextlib
import difflib
import fnmatch
import itertools
import os
import pwd
import re
import sys
import traceback
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from utils import checkpoint
from utils.errors import UserError
from utils.help_format import HelpFormatter
from utils.run_dir import names_in_runs

EXIT_OK = 0
EXIT_NO_MATCH = 1
EXIT_BAD_INPUT = 2
EXIT_FAILED = 3  # a fault of ours: never to be mistaken for a verdict
EXIT_UNREADABLE = 4  # main_verify.py alone: the suspect's file can't be read, so nothing was judged
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141


class ArgumentParser(argparse.ArgumentParser):
    """argparse with the conventions of this project.

    * `--save_dir` and `--save-dir` are the same flag, whichever way it was declared.
    * Flags can't be abbreviated, so a new flag never changes what an old script meant; the one that was meant is named.
    * A bad value is one line on stderr and exit code 2.
    * What a script writes (flags of type `Output`) is never what it reads (flags of type `path`), nor written twice, nor a
      secret; and over a file that is not its own it is written with `--force` alone, a flag that then is there by itself.
    """

    def __init__(self, description: str | None):
        super().__init__(description=description, formatter_class=HelpFormatter, allow_abbrev=False)
        self._tokens: list[str] = []

    def parse_known_args(self, args=None, namespace=None):
        if any(isinstance(action.type, Output) and action.type.may_replace for action in self._actions) \
                and "--force" not in self._option_string_actions:
            self.add_argument("--force", action="store_true", help="write also over files that this script did not write")
        spelling = {name.replace("_", "-"): name for name in self._option_string_actions}
        self._tokens = []
        for token in sys.argv[1:] if args is None else args:
            name, equals, value = token.partition("=")
            if name.startswith("--"):
                token = spelling.get(name.replace("_", "-"), name) + equals + value
            self._tokens.append(token)
        self._check_flags_are_known()
        parsed, unknown = super().parse_known_args(self._tokens, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self._why_too_many(unknown[0])}")
        try:
            self._check_paths(parsed)
        except UserError as error:
            self.error(str(error))
        return parsed, unknown

    def _check_flags_are_known(self) -> None:
        """Name a mistyped flag, before argparse misses the one that was meant."""
        flags = list(itertools.takewhile(lambda token: token != "--", self._tokens))
        for before, token in zip(["", *flags], flags):
            name = token.partition("=")[0]
            takes_value = before in self._option_string_actions and self._option_string_actions[before].nargs is None
            if name.startswith("--") and name not in self._option_string_actions and " " not in token and not takes_value:
                near = difflib.get_close_matches(name, self._option_string_actions, 1)
                self.error(f"unrecognized arguments: {token}" + (f"; did you mean {near[0]}?" if near else ""))

    def _why_too_many(self, word: str) -> str:
        """Which flag took a part of a list, by the first of the words that were left over."""
        flags = [token for token in self._tokens[:self._tokens.index(word)] if token.partition("=")[0] in self._option_string_actions]
        action = self._option_string_actions[flags[-1].partition("=")[0]] if flags and not word.startswith("-") else None
        if action is None or action.nargs == 0:
            return ""
        return f"; several values of {flags[-1]} are separated by commas" if getattr(action.type, "separated", False) else \
            f"; {flags[-1].partition('=')[0]} takes one value, so give one, also where a pattern matches several files"

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            near = difflib.get_close_matches(str(value).casefold(), map(str, action.choices), 1)
            more = " (docs/extending.md tells how to add one)" if action.dest in ("arch", "dataset") else ""
            raise argparse.ArgumentError(action, error.message + more + (f"; did you mean {near[0]}?" if near else "")) from None

    def _check_paths(self, args: argparse.Namespace) -> None:
        """Raise UserError where something that the flags say is read or kept would be written over."""
        reads, writes = [], []
        for action in self._actions:
            flag = next((name for name in action.option_strings if name.startswith("--")), action.metavar or action.dest)
            values = getattr(args, action.dest, None)
            for value in values if isinstance(values, (list, tuple)) else [values]:
                if isinstance(action.type, Output) and value is not None:
                    is_read = action.type.or_read and os.path.exists(value)
                    (reads if is_read else writes).append((flag, value, action.type))
                elif action.type is path and value is not None:
                    reads.append((flag, value, None))
        for index, (flag, value, output) in enumerate(writes):
            others = [*((*read, "reads") for read in reads),
                      *((*written, "writes") for at, written in enumerate(writes) if at != index)]
            for other, of, _, verb in others:
                if _same_file(value, of):
                    raise UserError(f"argument {flag}: {value} is what {other} {verb}; name another")
                if output.files is not None and output.would_write(value, of):
                    raise UserError(f"argument {flag}: would write over {of}, which {other} {verb}; name another folder")
        for flag, value, output in writes:
            (checkpoint.check_can_be_file if output.files is None else checkpoint.check_can_be_folder)(value, flag)
            for written, begins in output.there_already(value):
                _check_may_replace(flag, written, begins, [of for _, of, _ in reads], args)

    def error(self, message: str):
        lacking = re.fullmatch(r"argument .*?(--\w+): expected one argument", message)
        value = next((after for flag, after in zip(self._tokens, self._tokens[1:])
                      if lacking and flag == lacking[1] and after.startswith("-")
                      and after.partition("=")[0] not in self._option_string_actions), None)
        if value is not None:
            message += f"; a value that begins with - is given as {lacking[1]}={value}"
        self.exit(EXIT_BAD_INPUT, f"{self.prog}: error: {one_line(message)}\n")


def one_line(message: str) -> str:
    """The message with everything that does not print escaped: names in it may be a stranger's."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in message)


@contextlib.contextmanager
def named(flag: str) -> Iterator[None]:
    """Whatever is wrong with the file that is read here is wrong with what the flag names: a UserError says so."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error) if str(error).startswith("--") else f"{flag} {error}") from None


def run(main: Callable[[Sequence[str] | None], int | None]) -> None:
    """Run a script's `main(argv)` and exit: its return value, or 2 with one line for a `UserError`, a file that can't be read or
    written or a library that is not installed, or 3 with a traceback for a fault of ours."""
    script = os.path.basename(sys.argv[0])
    _replace_closed_streams()
    _name_the_user()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a path need not be valid text
    try:
        code = main(None)
        sys.stdout.flush()
    except UserError as error:
        code = _refused(script, str(error))
    except KeyboardInterrupt:
        code = _interrupted()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = EXIT_BROKEN_PIPE
    except OSError as error:
        code = _refused(script, (f"{error.filename}: " if error.filename else "") + (error.strerror or str(error)))
        try:
            sys.stdout.flush()
        except OSError:  # it is stdout that is full, and Python's own end would try again
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except ModuleNotFoundError as error:
        if (Path(__file__).parent.parent / error.name.partition(".")[0]).exists():  # a module of ours
            traceback.print_exc()
            code = EXIT_FAILED
        else:
            code = _refused(script, f"{sys.executable} lacks {error.name}; bash scripts/setup.sh installs it into .venv, then use "
                                    ".venv/bin/python")
    except Exception as error:
        # torch's writer turns a Ctrl-C in the middle of a file into an error of its own
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, KeyboardInterrupt):
            cause = cause.__context__
        if cause is not None:
            code = _interrupted()
        else:
            traceback.print_exc()
            code = EXIT_FAILED
    sys.exit(code or EXIT_OK)


def _replace_closed_streams() -> None:
    """Give a process that was started without stdin, stdout or stderr (`>&-`) empty ones: the next file that is opened would get
    the number of the one that lacks, and what is printed would go there."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))


def _name_the_user() -> None:
    """Say a name and a home for a user without an entry in the system's list, as in containers: torch and matplotlib ask for
    them, for their caches, and fail where there is none."""
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        for variable, value in (("LOGNAME", f"uid{os.getuid()}"), ("HOME", "/nonexistent")):
            os.environ[variable] = os.environ.get(variable) or value


def _refused(script: str, message: str) -> int:
    print(f"{script}: error: {one_line(message)}", file=sys.stderr)
    return EXIT_BAD_INPUT


def _interrupted() -> int:
    print("interrupted; the same command goes on from the last finished epoch", file=sys.stderr)
    return EXIT_INTERRUPTED


# --- values -----------------------------------------------------------------------------------------------------


def _number(kind: type, holds: Callable, must: str) -> Callable[[str], float]:
    def parse(text: str):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not holds(value):
            raise argparse.ArgumentTypeError(f"{text!r}: must be {must}")
        return value

    return parse


def text(value: str) -> str:
    """A text or a path: not empty. Raises ArgumentTypeError."""
    if not value:
        raise argparse.ArgumentTypeError("must not be empty")
    return value


def path(value: str) -> str:
    """A path that a script reads: never empty, and no `Output` may name it. Raises ArgumentTypeError."""
    return text(value)


def address(value: str) -> str:
    """An address on the web. Raises ArgumentTypeError."""
    if not re.match(r"https?://.", value):
        raise argparse.ArgumentTypeError(f"{value!r}: must be an address, http://... or https://...")
    return value


def date(value: str) -> datetime:
    """A time, in UTC where it says nothing else; a day stands for its beginning. Raises ArgumentTypeError."""
    try:
        when = datetime.fromisoformat(re.sub("Z$", "+00:00", value))  # Python 3.10 knows no Z
        return when.replace(tzinfo=when.tzinfo or timezone.utc).astimezone(timezone.utc)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{value!r}: must be a date, as 2026-03-01 or 2026-03-01T14:00:00Z") from None


# how files begin that are lost for good when something else is written over them
SECRETS = re.compile(rb"-----BEGIN|lottery-trigger-key/|\{\s*\"fields\": |\{\s*\"format\": \"lottery-(?:verification-claim|keyed-mask)|PK\x03\x04")
PNG_OF_A_CODE = rb"\x89PNG\r\n\x1a\n.{4}IHDR(.{4})\1[\1\x08]\x00"  # square and grey
PNG_OF_A_PLOT = rb"\x89PNG.{,200}Matplotlib"
BEGINNING = 4096  # bytes of a file that are looked at


@dataclass(frozen=True, eq=False)  # argparse wants types that can be hashed
class Output:
    """The type of a flag that names what a script writes: a file, or a folder with `files`.

    begins: pattern of how the script's own output begins, over which it may write; None where whoever writes sees to it that
    nothing is lost. files: of a folder: pattern of a name in it -> how that file begins, likewise. or_read: what is there
    already is read instead.
    """

    begins: bytes | None = None
    files: Mapping[str, bytes | None] | None = None
    or_read: bool = False

    def __call__(self, value: str) -> str:
        return text(value)

    @property
    def may_replace(self) -> bool:
        """Whether the flag may name something that this script did not write."""
        return any(begins is not None for begins in (self.begins, *(self.files or {}).values()))

    def would_write(self, folder: str, other: str) -> bool:
        """Whether something that is written into the folder is, or lies above, the path `other`."""
        below = os.path.relpath(os.path.realpath(other), os.path.realpath(folder)).split(os.sep)
        return any(fnmatch.fnmatch(_folded(below[0]), _folded(pattern)) for pattern in self.files) \
            or any(_same_file(there, other) for pattern in self.files for there in Path(folder).glob(pattern))

    def there_already(self, value: str) -> Iterator[tuple[str, bytes]]:
        """Existing files that would be written over, with how those begin that may be."""
        places = [(Path(value), self.begins)] if self.files is None else \
            [(there, begins) for pattern, begins in self.files.items() for there in Path(value).glob(pattern)]
        return ((str(place), begins) for place, begins in places if begins is not None and place.is_file())


def _folded(name: str) -> str:
    """A name as file systems compare it that tell neither capitals nor Unicode forms apart."""
    return unicodedata.normalize("NFC", name).casefold()


def _same_file(one: str | Path, other: str | Path) -> bool:
    """Whether two paths lead, or may lead once they exist, to the same file: by links or by another spelling."""
    try:
        return os.path.samefile(one, other)
    except (OSError, ValueError):  # one is not there yet
        return _folded(os.path.realpath(one)) == _folded(os.path.realpath(other))


def _check_may_replace(flag: str, written: str, begins: bytes, reads: Sequence[str], args: argparse.Namespace) -> None:
    """Raise UserError unless a file that is there may be written over."""
    with open(written, "rb") as file:
        beginning = file.read(BEGINNING)
    if not beginning or re.match(begins, beginning, re.DOTALL):
        return
    inside = next((folder for folder in reads if os.path.isdir(folder) and Path(os.path.realpath(folder)) in
                   Path(os.path.realpath(written)).parents), None)
    if inside is not None:
        raise UserError(f"argument {flag}: {written} belongs to {inside}, which is read; name another")
    if SECRETS.match(beginning):
        raise UserError(f"argument {flag}: {written} holds a claim, a key or a model, which is never written over; name another")
    if not args.force:
        raise UserError(f"argument {flag}: {written} exists and was not written by this script; name another, or give --force to "
                        "write over it")


def utf8_text(value: str) -> str:
    """A text that is valid UTF-8, not empty, whatever the locale made of its bytes. Raises ArgumentTypeError."""
    try:
        value = os.fsencode(value).decode("utf-8")
    except UnicodeError:  # typed in the locale's own encoding, then
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise argparse.ArgumentTypeError("must be valid UTF-8") from None
    return text(value)


positive_int = _number(int, lambda v: v > 0, "a whole number above 0")
several = _number(int, lambda v: v > 1, "a whole number above 1")
natural = _number(int, lambda v: v >= 0, "a whole number, 0 or more")
seed_int = _number(int, lambda v: 0 <= v < 2**63, "a whole number from 0 to 2^63 - 1")
positive_float = _number(float, lambda v: 0 < v < float("inf"), "a number above 0")
non_negative_float = _number(float, lambda v: 0 <= v < float("inf"), "a number, 0 or more")
ratio = _number(float, lambda v: 0 < v < 1, "a ratio between 0 and 1, both excluded")
share = _number(float, lambda v: 0 <= v <= 1, "a share from 0 to 1")
momentum = _number(float, lambda v: 0 <= v < 1, "at least 0 and below 1")


def listed(kind: Callable[[str], float]) -> Callable[[str], tuple]:
    """A parser of comma-separated values of `kind`, e.g. `--rates 0.2,0.1`; an empty text is the empty list."""

    def parse(text: str) -> tuple:
        return tuple(kind(item.strip()) for item in text.split(",") if item.strip())

    parse.separated = True  # by commas, as messages say
    return parse


def names_of(known: Iterable[str]) -> Callable[[str], tuple[str, ...]]:
    """A parser of comma-separated names, at least one, e.g. `--only damage,scan`. It raises ArgumentTypeError."""
    known = tuple(known)

    def parse(text: str) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
        if not names or not set(names) <= set(known):
            raise argparse.ArgumentTypeError(f"{text!r}: must be out of {', '.join(known)}")
        return names

    return parse


# --- flags that several scripts have -------------------------------------------------------------------------------


def add_model_and_data_flags(parser: ArgumentParser, architectures: Iterable[str], datasets: Iterable[str]) -> None:
    """Which network and which pictures, out of the names the registries know."""
    group = parser.add_argument_group("model and data")
    group.add_argument("--arch", choices=sorted(architectures), default="res20s", help="network")
    group.add_argument("--dataset", choices=sorted(datasets), default="digits",
                       help="digits and digit_points come with scikit-learn, imagefolder reads train/<class>/ and test/<class>/, modelnet "
                            "see docs/points.md")
    group.add_argument("--data", type=path, default=None, metavar="DIR",
                       help="folder of the data set (not needed for digits and digit_points; cifar10/100 default to datasets/<name>)")
    group.add_argument("--image_size", type=positive_int, default=None, metavar="N",
                       help="imagefolder: resize and centre-crop to NxN (default: the pictures' own size, if all alike)")
    group.add_argument("--limit", type=several, default=None, metavar="N",
                       help="train on a seeded, class-balanced subset of N pictures (default: all)")


def add_training_flags(parser: ArgumentParser) -> None:
    """The training protocol (paper, section 4, General Settings)."""
    group = parser.add_argument_group("training")
    group.add_argument("--epochs", type=positive_int, default=182, help="epochs of every training")
    group.add_argument("--batch_size", type=several, default=128, help="pictures per step, at least 2 (batch norm)")
    group.add_argument("--lr", type=positive_float, default=None, help="initial learning rate (default: 0.1 of SGD, 0.001 of Adam, which "
                       "networks of points take)")
    group.add_argument("--decreasing_lr", type=listed(positive_int), default=None, metavar="E,E",
                       help="epochs after which the rate is multiplied by 0.1 "
                            "(default: at 1/2 and 3/4 of --epochs, so 91,136 of 182)")
    group.add_argument("--warmup", type=natural, default=0, metavar="STEPS", help="steps of linear warm-up")
    group.add_argument("--momentum", type=momentum, default=0.9, help="SGD momentum, and Adam's first beta")
    group.add_argument("--weight_decay", type=non_negative_float, default=None,
                       help="weight decay (default: the network's, which its entry in models/__init__.py says: 5e-4 for "
                            "res50 and 1e-4 for the others, as in the paper)")
    group.add_argument("--seed", type=seed_int, default=1, help="seed of initial weights, batches and augmentation")


def add_run_flags(parser: ArgumentParser, save_dir_required: bool = True) -> None:
    """Where the run lives and what it runs on."""
    group = parser.add_argument_group("run")
    group.add_argument("--save_dir", type=Output(files=dict.fromkeys(names_in_runs())), required=save_dir_required, metavar="DIR",
                       help="run directory; the same command resumes there")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    group.add_argument("--compile", action="store_true", help="torch.compile the training step (needs a C++ compiler)")
    group.add_argument("--amp", action="store_true", default=None, dest="amp",
                       help="bf16 autocast, CUDA only (default there)")
    group.add_argument("--no_amp", action="store_false", dest="amp", help="fp32 on CUDA too")
    group.add_argument("--print_freq", "--workers", dest="ignored", metavar="N", default=None,
                       help="accepted from older command lines and ignored")


def add_ticket_flags(parser: ArgumentParser, mask_required: bool = True) -> argparse._ArgumentGroup:
    """Which ticket is trained or evaluated, and from which weights. Returns the group, for a script's own flags about it."""
    group = parser.add_argument_group("ticket")
    group.add_argument("--mask_dir", type=path, required=mask_required, default=None, metavar="FILE",
                       help="masks: a mask file, a ticket of main_imp.py, or a pruned model")
    group.add_argument("--pretrained", type=path, default=None, metavar="FILE",
                       help="weights to start from, e.g. epoch_3.pth.tar (default: those in the --mask_dir file)")
    group.add_argument("--fc", action="store_true", default=True, dest="fc",
                       help="start from the file's classifier too (default; the paper's commands say so)")
    group.add_argument("--no_fc", action="store_false", dest="fc",
                       help="start with a fresh classifier, e.g. to transfer to a data set of another class count")
    group.add_argument("--evaluate", action="store_true",
                       help="only measure the accuracy of the weights under the mask; writes nothing")
    group.add_argument("--prune_type", choices=("lt",), default="lt", help="accepted from the paper's commands")
    group.add_argument("--save_model", action="store_true",
                       help="accepted from the paper's commands; models are always saved")
    return group


def add_trigger_flags(parser: ArgumentParser, kinds: Mapping[str, Any], default: str | None) -> None:
    """Which trigger set (scheme V3), out of the registry `datasets.TRIGGER_SETS`; see `check_trigger_flags`."""
    group = parser.add_argument_group("trigger set (scheme V3)")
    group.add_argument("--trigger_set", choices=sorted(kinds), default=default,
                       help="; ".join(f"{name}: {kind.help}" for name, kind in kinds.items()))
    group.add_argument("--trigger_dir", type=path, default=None, metavar="DIR",
                       help="adi: holds pics/ and labels-cifar.txt (default: datasets/trigger_set, downloaded there where "
                            "the network allows); folder: what make_triggers.py wrote")
    group.add_argument("--trigger_resize", action="store_true",
                       help="adi: show whole pictures, scaled down (default: their central pixels, as the published code)")
    group.add_argument("--trigger_labels", choices=("published", "spread"), default=None,
                       help="adi: the published labels 0 to 9, or labels spread over all classes by a hash of each "
                            "picture's file (default: published for 10 classes, spread for others)")
    group.add_argument("--trigger_key", type=path, default=None, metavar="FILE",
                       help="keyed: the secret key (make_triggers.py --new_key makes one)")
    group.add_argument("--trigger_count", type=positive_int, default=100, metavar="N", help="keyed: pictures")


def check_trigger_flags(parser: ArgumentParser, args: argparse.Namespace, kinds: Mapping[str, Any]) -> None:
    """Refuse trigger flags that mean nothing to the kind of set that was asked for, and one that lacks what it needs."""
    kind = kinds.get(args.trigger_set)
    for flag in dict.fromkeys(flag for other in kinds.values() for flag in other.flags):
        if (kind is None or flag not in kind.flags) and getattr(args, flag) != parser.get_default(flag):
            parser.error(f"argument --{flag}: means nothing " +
                         (f"to --trigger_set {args.trigger_set}" if kind else "without --trigger_set"))
    for flag in kind.needs if kind else ():
        if getattr(args, flag) is None:
            parser.error(f"argument --trigger_set: {args.trigger_set} needs --{flag}")


def add_suspect_flags(parser: ArgumentParser, *file_flags: str, holds: str, claims: bool = False) -> argparse._ArgumentGroup:
    """The suspect: its file, its answers, or its address.

    Args:
        file_flags: names of the flag for its file. holds: what that file may be, for the help text.
        claims: answers may be given for each of several claims, so they are parsed to a list.
    Returns:
        the group, for a script's own flags about the suspect.
    """
    group = parser.add_argument_group(f"the suspect: one of {file_flags[0]}, --predictions, --endpoint")
    group.add_argument(*file_flags, type=path, default=None, metavar="FILE", help=f"its {holds}")
    add_reading_flags(group)
    group.add_argument("--mean", type=listed(non_negative_float), default=None, metavar="R,G,B",
                       help="of its training pictures, on the scale 0 to 1, where the file does not say, or says what may be wrong: then "
                            "both are tried, and counted (for V3)")
    group.add_argument("--std", type=listed(positive_float), default=None, metavar="R,G,B", help="likewise")
    group.add_argument("--predictions", type=path, action="append" if claims else "store", default=None, metavar="CSV",
                       help="its answers on the trigger set: columns image and predicted_label, every picture once"
                            + ("; of two claims one list each, in the claims' order" if claims else ""))
    group.add_argument("--endpoint", type=text, default=None, metavar="URL",
                       help="its address at a service that speaks the Open Inference Protocol: "
                            "http://host:port/v2/models/NAME[/versions/V]; where a token or more time is needed, "
                            "check_triggers.py has flags for that, and --save_predictions")
    return group


def add_reading_flags(group: argparse._ArgumentGroup | ArgumentParser) -> None:
    """Which of several networks in a suspect's file is meant, and what its layers are; see `pruner.derivation`."""
    group.add_argument("--entry", type=text, default=None, metavar="NAME",
                       help="where in that file the weights are, if it holds several networks: an entry (state_dict_ema) or what "
                            "its names begin with (teacher)")
    group.add_argument("--rename", type=path, default=None, metavar="FILE",
                       help="what layers of that file are, where order and shape do not tell: JSON, "
                            '{"name in the file": "name in the network"} (docs/extending.md)')


def add_timestamp_flags(parser: ArgumentParser) -> None:
    """Who dates a commitment; see `ownership.claims.timestamps.stamp`."""
    group = parser.add_argument_group("dates (docs/dates.md)")
    group.add_argument("--timestamp", type=address, default=None, metavar="URL",
                       help="have an RFC 3161 authority sign when the commitment's root was there: commitment.tsr")
    group.add_argument("--opentimestamps", type=listed(address), nargs="?", default=None, metavar="URL,URL",
                       const=("https://a.pool.opentimestamps.org", "https://b.pool.opentimestamps.org"),
                       help="have these calendars (default: OpenTimestamps' public ones) put the root into the Bitcoin chain: "
                            "commitment.ots, complete after some hours")
