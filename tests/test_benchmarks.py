"""Benchmarks as users call them: help at once, printed commands that parse, bad input in one line."""

import ast
import csv
import importlib
import itertools
import re
import shlex
from pathlib import Path

import pytest

from benchmarks.lib import rows

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py"))


def documentation(name: str) -> str:
    return ast.get_docstring(ast.parse((ROOT / f"benchmarks/{name}.py").read_text(encoding="utf-8")), clean=False)


def printed_commands() -> list[str]:
    """Every `python benchmarks/SCRIPT ...` in the documentation and in the benchmarks themselves, continued lines joined."""
    texts = [path.read_text(encoding="utf-8") for folder in ("", "docs", "benchmarks") for path in (ROOT / folder).glob("*.md")]
    texts += [documentation(name) for name in BENCHMARKS]
    commands = itertools.chain.from_iterable(re.findall(r"python benchmarks/\w+\.py[^\n`]*", re.sub(r"\\\n\s*", "", text))
                                             for text in texts)
    return sorted({command.partition("#")[0].strip() for command in commands})


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHMARKS)
def test_help_answers_without_loading_torch(name, run_script):
    done = run_script(f"benchmarks/{name}.py", "--help", env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert done.returncode == 0 and documentation(name).strip().splitlines()[0] in " ".join(done.stdout.split())
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "argparse" in loaded and not loaded & {"torch", "torchvision", "numpy", "matplotlib", "PIL", "networkx"}


def test_every_benchmark_prints_commands_and_stands_in_the_table():
    table = (ROOT / "benchmarks/README.md").read_text(encoding="utf-8")
    for name in BENCHMARKS:
        assert any(f"benchmarks/{name}.py" in command for command in printed_commands())
        assert re.search(rf"^\| `{name}\.py`", table, re.MULTILINE)


@pytest.mark.parametrize("command", printed_commands())
def test_printed_commands_parse(command):
    words = shlex.split(command)[1:]
    importlib.import_module(words[0].removesuffix(".py").replace("/", ".")).parse_args(words[1:])  # exits where a flag is wrong


@pytest.mark.parametrize(("module", "registry"), [
    ("reading", "SECTIONS"), ("train_loop", "SECTIONS"), ("verification", "SECTIONS")])
def test_every_section_is_a_function(module, registry):
    for name in getattr(importlib.import_module(f"benchmarks.{module}"), registry):
        function = getattr(importlib.import_module(f"benchmarks.lib.{module}"), name)
        assert function.__module__ == f"benchmarks.lib.{module}" and function.__doc__


@pytest.mark.parametrize(("command", "named"), [
    ("reading --only foo", "--only"), ("reading --only ,", "--only"), ("reading --trials 0", "--trials"),
    ("reading --arch res99", "--arch"), ("reading --only hidden --ticket FOLDER/none", "FOLDER/none"),
    ("reading --csv FOLDER", "FOLDER"),
    ("verdicts --only innocent --owners 0", "--owners"), ("verdicts --only innocent --count 0", "--count"),
    ("verdicts --only innocent --level 0", "--level"), ("verdicts --only innocent FOLDER", "RUNS"),
    ("verdicts --only innocent --ticket FOLDER/none --out FOLDER/out", "FOLDER/none"),
    ("verdicts --only attacked", "RUNS"), ("verdicts --only attacked FOLDER", "--claim"),
    ("verdicts --only attacked FOLDER --claim FOLDER/none", "FOLDER/none"),
    ("train_loop --device cuda --out FOLDER/out", "--device cuda"), ("train_loop --sections foo", "--sections"),
    ("train_loop --batch_size 1", "--batch_size"), ("train_loop --limit 9", "--limit"),
    ("train_loop --sections epoch --epochs 1", "--epochs"),
    ("train_loop --device cpu --pictures 64 20 20", "--batch_size 128"), ("train_loop --dataset imagefolder", "--data"),
    ("verification --only reading", "--only"), ("verification --arch res20s,res99", "--arch"),
    ("verification --suspect FOLDER/none", "--code"), ("verification --suspect FOLDER/none --code FOLDER/none", "FOLDER/none"),
])
def test_bad_input_is_one_line(command, named, run_main, refused, tmp_path):
    name, *words = command.replace("FOLDER", str(tmp_path)).split()
    assert named.replace("FOLDER", str(tmp_path)) in refused(run_main(f"benchmarks.{name}.py", *words))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_rows_name_the_device_that_was_asked_for(monkeypatch):
    """The engine makes it the current one, but only later than the heading is written."""
    from types import SimpleNamespace

    import torch

    from benchmarks.lib import train_loop

    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: f"chip of {device}")
    device = torch.device("cuda:1")
    assert train_loop.Setting.chip.fget(SimpleNamespace(device=device)) == "chip of cuda:1"


@pytest.mark.slow
def test_innocent_tickets_are_aligned_with_the_region_and_without():
    from types import SimpleNamespace

    import numpy as np

    from benchmarks.lib import reading

    found = list(reading.aligned(SimpleNamespace(tickets=20), np.random.default_rng(1)))
    assert [row["what"] for row in found] == [f"20 innocent tickets, {case}" for case in (
        "not aligned", "aligned, region left out", "aligned, region included")]
    # fitted to the code it seems to be there, and only then
    assert found[2]["median"] < 0.2 < min(found[0]["median"], found[1]["median"])
    assert all(0 < row["smallest"] <= row["median"] < 0.9 and row["p <= 0.01"] <= row["p <= 0.05"] for row in found)


# --- rows -----------------------------------------------------------------------------------------------------------------


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_rows_are_kept_as_they_come(tmp_path, capsys):
    def measure():
        yield {"what": "a", "seconds": 1.5}
        assert table(tmp_path / "new/rows.csv") == [{"what": "before", "seconds": ""}, {"what": "a", "seconds": "1.5"}]
        yield {"what": "b", "times": 2}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rows.show(measure(), lambda row: f"<{row['what']}>", tmp_path / "new/rows.csv", [{"what": "before"}])
    assert capsys.readouterr().out == "<a>\n<b>\n"
    assert table(tmp_path / "new/rows.csv")[2] == {"what": "b", "seconds": "", "times": "2"}


def test_a_file_that_can_not_be_written_is_seen_at_once(tmp_path):
    (tmp_path / "rows.csv").write_text("earlier\n")
    rows.check_writable(tmp_path / "rows.csv")
    rows.check_writable(tmp_path / "a/b/rows.csv")
    rows.check_writable(None)
    assert (tmp_path / "rows.csv").read_text() == "earlier\n" and not (tmp_path / "a/b/rows.csv").exists()
    for path in (tmp_path, tmp_path / "rows.csv/below"):
        with pytest.raises(OSError):
            rows.check_writable(path)


def test_appended_rows_share_one_header(tmp_path):
    for number in range(2):
        rows.append(tmp_path / "rows.csv", ("what", "value"), [{"what": number}])
    assert (tmp_path / "rows.csv").read_text().split() == ["what,value", "0,", "1,"]
