"""Imports run one way and in no circle: scripts -> attacks/run*.py -> ownership, attacks -> pruner, passports -> models, datasets
-> utils."""

import ast
import re
from pathlib import Path

import networkx
import pytest

from ownership import SCHEMES

ROOT = Path(__file__).resolve().parent.parent
MOST_ARGUMENTS = 8
MAY_IMPORT = {
    "utils": set(),
    "datasets": {"utils"},
    "models": {"utils"},
    "pruner": {"models", "datasets", "utils"},
    "passports": {"models", "datasets", "utils"},
    "attacks": {"pruner", "passports", "models", "datasets", "utils"},  # not ownership: a thief has none of it
    "ownership": {"pruner", "passports", "models", "datasets", "utils"},
}
SCRIPTS = sorted(path.relative_to(ROOT) for path in ROOT.glob("*.py"))
FILES = sorted(path.relative_to(ROOT) for folder in MAY_IMPORT for path in (ROOT / folder).glob("**/*.py"))
MODULES = {".".join(path.with_suffix("").parts).removesuffix(".__init__"): path
           for path in [*FILES, *SCRIPTS]}


def imported(source: str) -> set[str]:
    """The project's modules that a source imports, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports are not followed here"
            names |= {child if (child := f"{node.module}.{alias.name}") in MODULES else node.module for alias in node.names}
            assert all(alias.name != "*" for alias in node.names)
    return names & MODULES.keys()


def test_imports_are_seen_wherever_they_stand():
    assert imported("import utils.checkpoint\ndef f():\n    from pruner import masks\n    from attacks.prune import prune\n"
                    "    import json, torch") == {"utils.checkpoint", "pruner.masks", "attacks.prune"}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_folder_imports_only_what_lies_below_it(path):
    own = path.parts[0]
    folders = {name.split(".")[0] for name in imported((ROOT / path).read_text())}
    meets = {"ownership"} if path.match("attacks/run*.py") else set()  # the one place where a thief meets an owner
    assert folders <= MAY_IMPORT[own] | {own} | meets  # so neither the other of two on one level, nor an entry script


@pytest.mark.parametrize("path", [path for path in FILES if path.parts[0] == "ownership"], ids=str)
def test_schemes_are_known_by_their_registry_alone(path):
    """So that a further one is a folder and a line; and a suspect's file is read without a look at what is claimed."""
    folders = {scheme.module for scheme in SCHEMES.values()}
    own = ".".join(path.parts[:2])
    others = folders - {own} | ({"ownership.claims"} if own == "ownership.suspects" else set())
    assert not [name for name in imported((ROOT / path).read_text()) if name in others or name.rpartition(".")[0] in others]


@pytest.mark.parametrize("path", [*(path for path in FILES if path.match("ownership/claims/*.py") or path.match("attacks/run*.py")),
                                  *(Path(f"{name}.py") for name in ("make_claim", "main_verify", "main_attack")),
                                  Path("benchmarks/verdicts.py"), Path("benchmarks/lib/verdicts.py")], ids=str)
def test_no_scheme_is_named(path):
    """But in the examples of a script. What is called by a single letter may be a variable's name too, and is no text."""
    tree, names = ast.parse((ROOT / path).read_text()), "|".join(name for name in SCHEMES if len(name) > 1)
    assert isinstance(tree.body.pop(0).value, ast.Constant)
    assert re.findall(rf"\b(?:{names}|{names.lower()})\b", ast.unparse(tree)) == []
    metavars = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "metavar"}
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in metavars}
    assert not texts & {name for name in SCHEMES if len(name) == 1}


def test_every_folder_of_modules_has_its_place():
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} == set(MAY_IMPORT)


@pytest.mark.slow
@pytest.mark.parametrize("path", SCRIPTS, ids=str)
def test_what_lies_beside_the_scripts_is_a_script_and_no_others_module(path):
    last = ast.parse((ROOT / path).read_text()).body[-1]
    assert isinstance(last, ast.If) and ast.unparse(last) == "if __name__ == '__main__':\n    cli.run(main)"
    importers = [other for other in MODULES.values() if path.stem in imported((ROOT / other).read_text())]
    assert importers == [], "--help of what others import would be silent"


def test_no_module_imports_itself_through_others():
    graph = networkx.DiGraph((name, other) for name, path in MODULES.items()
                             for other in imported((ROOT / path).read_text()))
    assert graph.number_of_edges() > len(MODULES)
    assert list(networkx.simple_cycles(graph)) == []


def arguments(function: ast.FunctionDef) -> list[str]:
    """All that a function takes, but the object that a method is of."""
    given = function.args
    names = [argument.arg for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return names[1:] if names[:1] in (["self"], ["cls"]) else names


def test_what_counts_as_an_argument():
    body = ast.parse("class A:\n    def f(self, a, /, b, *c, d=1, **e): ...").body[0].body
    assert arguments(body[0]) == ["a", "b", "d"]


def test_no_function_takes_more_than_eight_arguments():
    """What belongs together travels as one value."""
    sources = [path for folder in ("scripts", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    long = [f"{path}:{node.lineno} {node.name}: {', '.join(arguments(node))}"
            for path in [*(ROOT / path for path in MODULES.values()), *sources]
            for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            if len(arguments(node)) > MOST_ARGUMENTS]
    assert not long
