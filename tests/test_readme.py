"""The documentation as a new user reads it: every command runs, in its order (at night), links lead somewhere, sentences are
short."""

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOUR = ("README.md", "docs/code_in_the_mask.md")  # pages whose commands go on from each other
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")])
NOT_COPIED = shutil.ignore_patterns(".git", ".venv", "runs", "__pycache__", ".pytest_cache", ".hypothesis", "cifar-*")
ELSEWHERE = {  # commands that are executed, but not by this file
    "bash scripts/test.sh": "this very suite",
    'bash scripts/test.sh -m "not slow"': "a part of it",
    "bash scripts/test.sh -m nightly": "its nightly part",
    "TEST_DATA=/path/to/data bash scripts/test.sh": "this suite with pictures",
    "PROFILE=smoke JOBS=2 bash scripts/tables.sh": "test_sweeps.py, nightly",
}


def tour() -> str:
    return "\n".join((ROOT / page).read_text(encoding="utf-8") for page in TOUR)


def blocks(kind: str) -> list[str]:
    """The tour's fenced blocks of a kind ("bash", or "" for what is only shown)."""
    text = tour()
    return [body for found, body in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE) if found == kind]


def commands() -> list[str]:
    """Every command of the tour, continued lines joined, without the comments behind them."""
    lines = re.sub(r"\\\n\s*", "", "".join(blocks("bash"))).splitlines()
    return [line for line in (re.sub(r"(^|\s)#.*", "", line).strip() for line in lines) if line]


@pytest.fixture
def fresh_copy(tmp_path) -> Path:
    """The project as after a clone, with an environment that is installed already: this one."""
    copy = tmp_path / "project"
    shutil.copytree(ROOT, copy, ignore=NOT_COPIED)
    programs = copy / ".venv/bin"
    programs.mkdir(parents=True)
    (programs / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (programs / "python").chmod(0o755)
    (programs / "activate").write_text('export PATH="$PWD/.venv/bin:$PATH"\n')
    wanted = subprocess.run("cksum <requirements.txt", shell=True, cwd=copy, capture_output=True, text=True, check=True)
    (copy / ".venv/installed").write_text(wanted.stdout)
    return copy


def test_what_is_executed_elsewhere_is_still_in_the_tour():
    assert ELSEWHERE.keys() <= set(commands())


@pytest.mark.slow
def test_the_quickstart(fresh_copy):
    """With fewer epochs: a code in a mask needs no training to be read."""
    done = run(fresh_copy, 3, ["bash scripts/quickstart.sh"])
    assert re.search(r"^flipped: +0 of 567 data modules$", done, re.MULTILINE), done[-3000:]


def test_every_command_of_the_tour_has_known_flags():
    """Its own script parses each; the nightly test below runs them."""
    parsed = 0
    for line in commands():
        command = re.search(r"python (\w+)\.py ([^|;]*)", line)
        if command:
            importlib.import_module(command[1]).parse_args(shlex.split(command[2]))
            parsed += 1
    assert parsed > 10


@pytest.mark.nightly
@pytest.mark.parametrize("epochs", [3, 30])
def test_every_command_of_the_tour(fresh_copy, epochs):
    """As printed, and with fewer epochs, but where answers are to be learned."""
    run_tour(fresh_copy, epochs)


@pytest.mark.nightly
def test_the_tour_runs_again_in_the_same_clone(fresh_copy):
    """The quickstart, with which it begins, too; what is done is skipped, what was claimed stays as it is."""
    run_tour(fresh_copy, 3)
    kept = ("runs/quickstart/owner.key", "runs/tour/trigger.key", "runs/tour/claim/claim.json", "runs/tour/claim/commitment.json")
    before = [(fresh_copy / name).read_bytes() for name in kept]
    run_tour(fresh_copy, 3)
    assert [(fresh_copy / name).read_bytes() for name in kept] == before


def run_tour(fresh_copy: Path, epochs: int) -> None:
    stdout = run(fresh_copy, epochs, commands())
    assert re.findall(r"^verdict: +(.*)$", stdout, re.MULTILINE)[-3:] == ["owned", "not shown", "match"]
    made = re.findall(r"(runs/[\w./-]+\.(?:png|html|json))", tour())
    assert made and all((fresh_copy / name).stat().st_size for name in made if "smoke" not in name)


def run(fresh_copy: Path, epochs: int, lines: list[str]) -> str:
    """What the commands print; answers to triggers need all their epochs."""
    quickstart = fresh_copy / "scripts/quickstart.sh"
    text = (ROOT / "scripts/quickstart.sh").read_text(encoding="utf-8")
    assert "\nEPOCHS=30\n" in text
    quickstart.write_text(text.replace("\nEPOCHS=30\n", f"\nEPOCHS={epochs}\n"), encoding="utf-8")
    shorter = [line if "trigger_per_batch" in line else line.replace("--epochs 30 ", f"--epochs {epochs} ") for line in lines]
    script = "\n".join(["set -xeuo pipefail", *(line for line in shorter if line not in ELSEWHERE)])
    done = subprocess.run(["bash", "-c", script], cwd=fresh_copy, capture_output=True, text=True, timeout=1800,
                          env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_the_search_of_the_readme_with_small_stand_ins(run_main, make_dataset, tmp_path, monkeypatch):
    """Pictures, epochs and the tolerance that ends the search are stand-ins; the words are the README's."""
    command, = [block for block in blocks("") if block.startswith("python ")]
    monkeypatch.chdir(tmp_path)
    asked = []

    def load(*words):
        asked.append(words[:2])
        return make_dataset(train=30, val=10, test=10)

    monkeypatch.setattr("pruner.experiment.load_dataset", load)
    done = run_main(*shlex.split(command)[1:], "--epochs", 3, "--rates", "0.5", "--match_tolerance", "0.01")
    assert done.returncode == 0, done.stderr
    assert asked == [("cifar10", "datasets/cifar10")] and (tmp_path / "runs/cifar10/ticket/ticket.pth.tar").is_file()


def anchors(page: Path) -> set[str]:
    """What GitHub makes of a page's headings."""
    heads = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE),
                       re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not link.startswith("http"):
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            assert target.is_file() or target.is_dir(), f"{page.name}: {link}"
            assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


def sentences(page: Path) -> list[str]:
    """A page's sentences without code blocks and addresses; code in a line is one word, a cell of a table a text of its own."""
    text = re.sub(r"^```.*?^```$", "\n\n", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"`[^`]*`", "CODE", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text))
    text = re.sub(r"^( *- |#)", r"\n\n\1", text, flags=re.MULTILINE).replace("|", "\n\n")
    return [sentence for block in re.split(r"\n\s*\n", text)
            for sentence in re.split(r"(?<=[.!?])[*)\"]*\s+(?=[\"*(]*[A-Z\d])", " ".join(block.split()))]


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "RESULTS.md", *sorted((ROOT / "docs/results").glob("*.md"))],
                         ids=lambda page: page.name)
def test_sentences_are_short(page):
    assert not [sentence for sentence in sentences(page) if len(sentence.split()) > 40]


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 200
