"""Scripts of tables and figures: their plans, the launcher that runs them, and the tables made of what they leave."""

import contextlib
import csv
import importlib
import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytestmark = pytest.mark.slow  # a process of its own, or several, each
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
SWEEPS = sorted(path.stem for pattern in ("table[0-9].sh", "fig[0-9].sh", "text_numbers.sh")
                for path in (ROOT / "scripts").glob(pattern))
PROFILES = ("paper", "short", "smoke")
OWN = ("PROFILE", "LAUNCH", "JOBS", "RUNS", "SEEDS", "CELLS", "LEVELS", "EPOCHS", "TICKET", "TRAINING", "KIND",
       "TRIGGERS_PER_BATCH", "TRIGGER_SET", "FINETUNING", "OTHER_SIGNATURE", "NETWORK", "TRANSFERS",
       "SCORES", "KEY_RATIO", "KEY_RATIOS", "SIGNATURE", "TRIGGER_DIR", "LAUNCH_FLAGS", "DATA_CIFAR10", "DATA_CIFAR100")


def bash(script: str, cwd: Path = ROOT, **settings) -> subprocess.CompletedProcess:
    """scripts/SCRIPT.sh with these settings and none of the tester's own."""
    env = {name: value for name, value in os.environ.items() if name not in OWN}
    env["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), env["PATH"]])
    return subprocess.run(["bash", f"scripts/{script}.sh"], cwd=cwd, env={**env, **settings}, capture_output=True, text=True)


def plan_of(script: str, **settings) -> str:
    done = bash(script, LAUNCH="print", **settings)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return done.stdout


def commands(plan: str) -> list[str]:
    return [line for line in plan.splitlines() if not line.startswith("#")]


def parsed(command: str):
    """(script, arguments) as the script's own parser understands them; exits where a flag is wrong."""
    python, script, *words = shlex.split(command)
    assert python == "python"
    return script, importlib.import_module(script.removesuffix(".py")).parse_args(words)


# --- plans ------------------------------------------------------------------------------------------------------------


def test_there_is_a_script_for_every_table_and_figure():
    assert SWEEPS == [f"fig{n}" for n in range(1, 7)] + [f"table{n}" for n in (1, 2, 3, 4, 5, 6, 8)] + ["text_numbers"]


@pytest.mark.slow
@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("script", SWEEPS)
def test_printed_plans_parse_and_are_in_an_order_that_works(script, profile):
    from launch import read_plan

    plan = plan_of(script, PROFILE=profile, RUNS="runs/never there")
    assert plan.startswith("# stage: " if profile != "smoke" else "# PROFILE=smoke: ")
    for command in commands(plan):
        name, args = parsed(command)
        trains = name in ("main_imp.py", "main_eval_all.py", "main_eval_trigger.py") or "finetune" in command
        assert not trains or args.epochs == {"paper": 182, "short": 12, "smoke": 12}[profile]
    # what a command reads, another one writes before
    jobs = read_plan(plan.splitlines(), Path("runs/never there/logs"))
    assert len(jobs) == len(commands(plan)), "no command twice"
    for job in jobs:
        read = {word for word in shlex.split(job.command) if word.startswith("runs/")} - {job.output}
        assert all(any(path == other.output or path.startswith(f"{other.output}/") for other in jobs
                       if other.name in job.needs) for path in read)
        assert bool(job.needs) == ("main_imp.py" not in job.command and "make_triggers.py" not in job.command)


def test_all_schemes_meet_the_same_attacks():
    from launch import read_plan

    plan = plan_of("passports", PROFILE="short", RUNS="runs/never there", TRAINING="--limit 500")
    jobs = read_plan(plan.splitlines(), Path("runs/never there/logs"))
    assert len(jobs) == len(commands(plan)) and all(job.needs or "main_imp.py" in job.command or "--new_" in job.command for job in jobs)
    attacks = [args for name, args in map(parsed, commands(plan)) if name == "main_attack.py"]
    removal = {}
    for args in attacks:
        removal.setdefault(Path(args.save_dir).parent.name, set()).add((args.attack, args.sweep, args.epochs, args.lr))
        trains = args.attack in ("finetune", "passport_fake2", "passport_fake3", "passport_block")
        assert args.limit == (500 if trains else None)
    assert list(removal) == ["whole", "locked", "signed_trained", "triggered", "deepipr1", "deepipr2", "deepipr3", "pan"]
    assert all(removal["whole"] == attack if scheme in ("locked", "signed_trained", "triggered") else removal["whole"] < attack
               for scheme, attack in removal.items() if scheme != "whole")
    owners = [args for name, args in map(parsed, commands(plan)) if name == "main_passport.py"]
    assert [args.scheme for args in owners] == ["deepipr1", "deepipr2", "deepipr3", "pan"] and len({args.mask_dir for args in owners}) == 1
    assert [bool(args.trigger_set) for args in owners] == [False, False, True, False]
    known = {str(Path(args.passports).parent) == str(Path(args.checkpoint).parent) for args in attacks if args.passports}
    assert known == {True} and {args.passports is not None for args in attacks if "passport_" in args.attack} == {True}


def test_the_papers_protocol():
    searches = [parsed(command)[1] for command in commands(plan_of("table1"))]
    assert {(args.arch, args.dataset, args.seed) for args in searches} == {
        (arch, data, 1) for arch in ("res20s", "res18") for data in ("cifar10", "cifar100")}
    for args in searches:
        assert (args.extreme, args.rates, args.rewind_epoch, args.data) == (True, (0.2, 0.1, 0.05, 0.01), 3,
                                                                            f"datasets/{args.dataset}")
        assert args.save_dir == f"runs/paper/{args.arch}/{args.dataset}/seed1/ticket"
    (_, prune), (_, random) = map(parsed, commands(plan_of("table6", CELLS="res18/cifar100"))[-2:])
    assert prune.sweep == random.sweep == (0, 0.05, 0.1, 0.2, 0.3, 0.5) and (prune.how, random.how) == ("magnitude", "random")
    transfers = [args for command in commands(plan_of("table4")) for name, args in [parsed(command)]
                 if name == "main_eval_all.py" and not args.fc]
    scores = ("omp", "ewp", "ewp_walks", "betweenness", "betweenness_published")
    assert [(args.dataset, Path(args.mask_dir).parts[3]) for args in transfers] == [("cifar100", "cifar10")] * 5 + [
        ("cifar10", "cifar100")] * 5
    assert [args.save_dir for args in transfers[:5]] == [f"runs/paper/res20s/cifar10/seed1/transferred_cifar100/{score}_0.05"
                                                         for score in scores]
    assert prune.include_stem and random.include_stem  # as in the published code
    assert {(args.trigger_set, args.trigger_labels) for args in (parsed(command)[1] for command in commands(plan_of("table3"))
                                                                 if "triggered" in command)} == {("adi", "published")}
    locks = {Path(args.save_dir).name: (args.split, args.select) for name, args in map(parsed, commands(plan_of("fig2")))
             if name == "main_eval_all.py" and args.split != "identity" and args.key_ratio == 0.05}
    assert locks == {"betweenness_0.05": ("betweenness", None), "betweenness_published_0.05": ("betweenness_published", None),
                     "ewp_0.05": ("ewp", "ranked"), "ewp_walks_0.05": ("ewp", "walks"), "omp_0.05": ("omp", None),
                     "random_path_0.05": ("random_path", "ranked"), "random_path_walks_0.05": ("random_path", "walks")}


def test_numbers_in_the_text():
    plan = [parsed(command) for command in commands(plan_of("text_numbers"))]
    tuned = [args for name, args in plan if name == "main_attack.py" and args.attack == "finetune"]
    assert [(args.dataset, args.data, args.epochs, args.lr, args.free_mask) for args in tuned] == [
        (data, f"datasets/{data}", 182, 0.1, free) for data in ("cifar100", "cifar10") for free in (False, True)]
    owners = {args.save_dir: args for name, args in plan if name == "main_eval_trigger.py"}
    for args in tuned:  # of a model that knows the triggers, trained on the other pictures
        owner = owners[str(Path(args.checkpoint).parent)]
        assert {owner.dataset, args.dataset} == {"cifar10", "cifar100"} and owner.trigger_set == args.trigger_set == "adi"
        assert Path(args.claim).parent == Path(owner.mask_dir).parent
    fakes = [args for name, args in plan if name == "main_attack.py" and args.attack == "fake3"]
    assert [(args.extent, args.insider) for args in fakes] == [
        ("published", False), ("region", False), ("data", False), ("data", True), ("published", False)]
    assert [Path(args.checkpoint).parent.name for args in fakes] == ["signed_trained"] * 4 + ["triggered"]
    for args in fakes:
        assert args.signature == "autograph" and args.noise == 0.1
    assert len({args.save_dir for args in tuned + fakes}) == 9
    one = commands(plan_of("text_numbers", FINETUNING="--epochs 7 --lr 0.02", NETWORK="res18", TRANSFERS="cifar10:digits"))
    assert [(args.arch, args.dataset, args.epochs, args.lr) for args in (parsed(line)[1] for line in one if "finetune" in line)
            ] == [("res18", "digits", 7, 0.02)] * 2


def test_a_network_and_data_set_of_ones_own(monkeypatch):
    import datasets
    import models

    monkeypatch.setitem(models.ARCHITECTURES, "vgg8", models.Architecture("mine", "vgg8", "VGG-8"))
    monkeypatch.setitem(datasets.DATASETS, "my-photos", datasets.Source("mine", "load", "photos"))
    for script in ("table2", "text_numbers"):
        plan = commands(plan_of(script, CELLS="vgg8/my-photos", DATA_MY_PHOTOS="/a b/c"))
        own = [args for _, args in map(parsed, plan) if args.arch == "vgg8" and "data" in args]
        assert own and {(args.dataset, args.data) for args in own} == {("my-photos", "/a b/c")}
    without = commands(plan_of("table1", CELLS="vgg8/my-photos"))
    assert parsed(without[0])[1].data is None


def test_settings_from_outside():
    plan = commands(plan_of("table2", CELLS="res18/cifar100", SEEDS="4 7", KIND="imagefolder", DATA_CIFAR100="/a b/it's",
                            EPOCHS="20", TRAINING="--limit 500 --compile", RUNS="x", SIGNATURE="Jane; rm -rf *"))
    args = [parsed(command)[1] for command in plan]
    assert [one.seed for one in args] == [4, 7] * 3
    assert {(one.dataset, one.data, one.epochs, one.limit, one.compile) for one in args[:2] + args[4:]} == {
        ("imagefolder", "/a b/it's", 20, 500, True)}
    assert {one.signature for one in args[2:4]} == {"Jane; rm -rf *"}
    assert [one.save_dir for one in args[2:4]] == [f"x/res18/cifar100/seed{seed}/signed" for seed in (4, 7)]


@pytest.mark.slow
def test_all_of_them_are_one_plan_that_shares_its_stages():
    from launch import read_plan

    for profile in PROFILES:
        plan = plan_of("tables", PROFILE=profile)
        whole = {job.command for job in read_plan(plan.splitlines(), Path("runs/logs"))}
        assert len(whole) == len(commands(plan))
        assert whole == {command for script in SWEEPS for command in commands(plan_of(script, PROFILE=profile))}
        searches = [command for command in whole if "main_imp.py" in command]
        assert len(searches) == (1 if profile == "smoke" else 4)


def test_an_owners_key_is_made_once(tmp_path):
    settings = {"TRIGGER_SET": "keyed", "RUNS": str(tmp_path)}
    assert sum("--new_key" in command for command in commands(plan_of("table3", **settings))) == 1
    (tmp_path / "trigger.key").touch()
    assert not any("--new_key" in command for command in commands(plan_of("table3", **settings)))


def test_a_folder_of_triggers_is_passed_on():
    found = [parsed(command)[1] for command in commands(plan_of("table5", TRIGGER_SET="folder", TRIGGER_DIR="mine"))
             if "--trigger_set" in command]
    assert {(one.trigger_set, one.trigger_dir) for one in found} == {("folder", "mine")}


def test_an_unknown_profile_is_one_line():
    done = bash("table1", PROFILE="long")
    assert done.returncode == 2 and done.stderr == "table1.sh: error: PROFILE=long: must be paper, short or smoke\n"


@pytest.mark.parametrize("script, name, value, told", [
    ("table1", "CELLS", " ", "CELLS=' ': is empty; must hold NETWORK/DATASET"),
    ("table1", "CELLS", "res20s/digits/", "CELLS: 'res20s/digits/': must be NETWORK/DATASET"),
    ("table6", "CELLS", "res20s/digits\nres20s-digits", "CELLS: 'res20s-digits': must be NETWORK/DATASET"),
    ("fig1", "CELLS", "res20s/cifar10,res18/cifar10", "CELLS: 'res20s/cifar10,res18/cifar10': must be NETWORK/DATASET"),
    ("table2", "CELLS", "res20s/", "CELLS: 'res20s/': must be"),
    ("table1", "SEEDS", "\n", "SEEDS=' ': is empty; must hold a whole number"),
    ("table4", "SEEDS", "1,2", "SEEDS: '1,2': must be a whole number"),
    ("fig3", "SEEDS", "01", "SEEDS: '01': must be a whole number"),
    ("table4", "TRANSFERS", "cifar10", "TRANSFERS: 'cifar10': must be DATASET:DATASET"),
    ("text_numbers", "TRANSFERS", " ", "TRANSFERS=' ': is empty"),
    ("fig2", "SCORES", "omp,ewp", "SCORES: 'omp,ewp': must be a score"),
    ("fig5", "SCORES", " ", "SCORES=' ': is empty"),
    ("fig5", "KEY_RATIOS", "0.05,0.1", "KEY_RATIOS: '0.05,0.1': must be a number"),
    ("fig2", "KEY_RATIOS", " ", "KEY_RATIOS=' ': is empty"),
    ("table4", "KEY_RATIO", "0.05 0.1", "KEY_RATIO='0.05 0.1': must be one number"),
    ("table5", "LEVELS", "0 0.1", "LEVELS='0 0.1': must be numbers separated by commas"),
    ("fig6", "LEVELS", " ", "LEVELS=' ': must be numbers"),
    ("table6", "LEVELS", "0,5,10", "LEVELS='0,5,10': must be numbers separated by commas, none above 1"),
    ("fig2", "KEY_RATIOS", "0.05 5", "KEY_RATIOS: '5': must be a number below 1"),
    ("table4", "KEY_RATIO", "5", "KEY_RATIO='5': must be one number below 1"),
    ("table3", "TRIGGERS_PER_BATCH", "0", "TRIGGERS_PER_BATCH='0': must be a whole number"),
    ("table1", "EPOCHS", "1e2", "EPOCHS='1e2': must be a whole number"),
    ("table5", "TRIGGER_SET", "folder", "TRIGGER_SET=folder: needs TRIGGER_DIR"),
    ("table4", "NETWORK", "res20s res18", "NETWORK='res20s res18': must be one network"),
    ("tables", "SEEDS", "one", "SEEDS: 'one': must be a whole number"),
    ("table6", "SEED", "3", "SEED='3': is no setting; SEEDS is"), ("table5", "LEVEL", "0.1", "LEVEL='0.1': is no setting; LEVELS is"),
    ("table1", "LAUNCH", "cluster", "LAUNCH='cluster': must be local, slurm or print")])
def test_lists_of_another_shape_are_one_line(tmp_path, script, name, value, told):
    for launching in ("local", "print"):
        settings = {"LAUNCH": launching, "LAUNCH_FLAGS": "--launch print", "RUNS": str(tmp_path / "runs")}
        done = bash(script, **{**settings, name: value})
        assert done.returncode == 2 and done.stdout == "" and not (tmp_path / "runs").exists()
        line, = done.stderr.splitlines()
        assert line.startswith(f"{script}.sh: error: {told}"), line


def test_smoke_stands_in_for_the_papers_lists_alone():
    def told(script: str, **settings) -> list[str]:
        return [line for line in plan_of(script, PROFILE="smoke", **settings).splitlines() if line.startswith("# PROFILE")]

    assert told("table6") == ["# PROFILE=smoke: res20s/digits stands in for CELLS='res20s/cifar10 res18/cifar100'"]
    assert told("fig2", CELLS="res18/cifar10\n") == ["# PROFILE=smoke: res20s/digits stands in for CELLS='res18/cifar10 '",
                                                     "# PROFILE=smoke: 0.05 0.2 stands in for KEY_RATIOS='0.01 0.05 0.1 0.2'"]
    assert told("table6", CELLS="mine/digits") == told("table4", TRANSFERS="digits:mine") == []
    own = commands(plan_of("fig2", PROFILE="smoke", CELLS="res18/digits res20s/digits", KEY_RATIOS="0.02 0.3", SCORES="omp"))
    assert {args.save_dir for _, args in map(parsed, own) if getattr(args, "key_ratio", None)} == {
        f"runs/smoke/{network}/digits/seed1/locked/omp_{ratio}" for network in ("res18", "res20s") for ratio in ("0.02", "0.3")}
    asked = [parsed(line)[1] for line in commands(plan_of("table5", PROFILE="smoke", TRIGGER_SET="folder", TRIGGER_DIR="mine"))]
    assert {args.trigger_set for args in asked if getattr(args, "trigger_set", None)} == {"folder"}


def test_lists_as_people_write_them():
    plan = plan_of("fig2", CELLS="\n res20s/digits\n res18/cifar10 ", SEEDS=" 0  10 ", KEY_RATIOS=".05 1e-2", SCORES="omp")
    assert {args.save_dir.removeprefix("runs/paper/") for _, args in map(parsed, commands(plan)) if "key_ratio" in args and
            args.key_ratio} == {f"{cell}/seed{seed}/locked/omp_{ratio}" for cell in ("res20s/digits", "res18/cifar10")
                                for seed in (0, 10) for ratio in (".05", "1e-2")}
    attack = commands(plan_of("table6", LEVELS="0, .05,1e-3", CELLS="res20s/digits"))[-1]
    assert parsed(attack)[1].sweep == (0, 0.05, 0.001)


@pytest.fixture
def edited(tmp_path):
    """edited(old, new, script="fig3", **settings): scripts/SCRIPT.sh in a copy of the project, `old` in it replaced by `new`."""
    shutil.copytree(ROOT / "scripts", tmp_path / "copy/scripts")
    for name in ("utils", "models", "datasets"):
        (tmp_path / "copy" / name).symlink_to(ROOT / name)

    def run(old: str, new: str, script: str = "fig3", **settings) -> subprocess.CompletedProcess:
        path = tmp_path / f"copy/scripts/{script}.sh"
        text = (ROOT / f"scripts/{script}.sh").read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")
        return bash(script, cwd=tmp_path / "copy", **settings)

    return run


@pytest.mark.slow
@pytest.mark.parametrize("old, new, told", [
    ("each signed\n", "each signd\n", "each signd: no such stage"),
    ("each signed\n", "signd res20s/cifar10 1\n", "exit code 127"),
    ("each signed\n", "each signed; false\n", "exit code 1"),
    ("$LEVELS\"", "$LEVLES\"", "exit code 1"),
    ("plan() {", "plan() { stage nothing; return; ", "plan holds no command")])
@pytest.mark.parametrize("launching", ["local", "print"])
def test_a_plan_that_fails_is_not_run_in_part(edited, tmp_path, old, new, told, launching):
    settings = {"LAUNCH": launching, "RUNS": str(tmp_path / "runs"), "LAUNCH_FLAGS": "--launch print"}
    done = edited(old, new, **settings)
    assert done.returncode == 2 and done.stdout == "", done.stdout
    *bashs, ours = done.stderr.splitlines()
    assert ours.startswith("fig3.sh: error: ") and told in ours
    assert len(bashs) <= 1 and not any("Traceback" in line for line in bashs)
    assert not (tmp_path / "runs").exists()
    # nor as a part of all of them
    done = edited("for script", "for script", script="tables", **settings)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.splitlines()[-1] == ours


@pytest.mark.parametrize("script, settings, told", [
    ("fig2", {"SCORES": "degree"}, "main_eval_all.py in stage 'training of the whole and of the locked tickets': argument --type:"),
    ("table6", {"CELLS": "resnet20/digits"}, "main_imp.py in stage 'tickets': argument --arch: invalid choice: 'resnet20'"),
    ("table1", {"CELLS": "res20s/digits", "TRAINING": "--epochss 3"}, "main_imp.py in stage 'tickets': unrecognized arguments: --epochss"),
    ("table1", {"CELLS": "res20s/digits", "LAUNCH": "slurm", "TICKET": "--rate 2"}, "main_imp.py in stage 'tickets': argument --rate")])
def test_what_a_script_would_refuse_is_refused_before_anything_is_run(tmp_path, script, settings, told):
    done = bash(script, PROFILE="smoke", RUNS=str(tmp_path / "runs"), **settings)
    assert done.returncode == 2 and done.stdout == "" and not (tmp_path / "runs").exists()
    line, = [line for line in done.stderr.splitlines() if "stands in for" not in line]
    assert line.startswith(f"launch.py: error: nothing was run: {told}"), line


@pytest.mark.parametrize("words", ["", "table6 table5", "'my sweep'", "../x"])
def test_a_launch_without_one_name_is_refused_before_anything_is_run(edited, tmp_path, words):
    done = edited("launch fig3", f"launch {words}", RUNS=str(tmp_path / "runs"))
    assert done.returncode == 2 and "fig3.sh: error: launch '" in done.stderr and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("others", [pytest.param(False, marks=pytest.mark.nightly), True])
def test_a_sweep_whose_commands_fail_ends_with_1(tmp_path, others):
    """Also where nothing is there to be put into a table, or a damaged result is."""
    result = tmp_path / "runs/res20s/digits/seed1/ticket/result.json"
    if others:
        result.parent.mkdir(parents=True)
        result.write_text("{")
    done = bash("table1", CELLS="res20s/cifar10", DATA_CIFAR10=str(tmp_path), RUNS=str(tmp_path / "runs"))
    assert done.returncode == 1 and "FAILED (exit code 2): python main_imp.py --arch res20s" in done.stdout
    assert [str(result) in line for line in done.stderr.splitlines() if "make_tables.py" in line] == [True] * others


# --- the launcher -------------------------------------------------------------------------------------------------------


MAKE = "sh -c 'mkdir -p \"$2\"' sh --save_dir {} {}"


@pytest.fixture
def launch(tmp_path):
    """launch(lines, *flags) -> CompletedProcess of the launcher in an empty folder, logs in `logs`."""

    def run(lines: list[str], *flags) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, ROOT / "scripts/launch.py", "--logs", "logs", *map(str, flags)], cwd=tmp_path,
                              input="\n".join(lines), capture_output=True, text=True, timeout=100)

    return run


def test_commands_without_a_bond_run_together_and_no_more_than_wanted(launch, tmp_path):
    meet = "sh -c 'touch {0}; until [ -e {1} ]; do sleep 0.02; done'"
    assert launch([meet.format("a", "b"), meet.format("b", "a")], "--jobs", 2).returncode == 0
    one = "sh -c 'echo on >> trace; sleep 0.05; echo off >> trace; : {}'"
    assert launch([one.format(number) for number in range(4)]).returncode == 0
    assert (tmp_path / "trace").read_text() == "on\noff\n" * 4


@pytest.mark.slow
def test_after_a_failure_the_rest_goes_on_and_what_needs_it_is_left_out(launch, tmp_path):
    plan = ["# stage: first", "sh -c 'echo some words; [ -e mended ]' sh --save_dir x/a", MAKE.format("x/b", ""),
            "# stage: second", MAKE.format("x/c", "--in x/a/file"), MAKE.format("x/d", "--in=x/b/*.json"),
            MAKE.format("x/e", "x/c"), MAKE.format("x/ab", "--in x/about.txt")]
    done = launch(plan)
    assert done.returncode == 1
    assert done.stdout.startswith("3 done, 0 were done before, 1 failed, 2 left out\n")
    assert "FAILED (exit code 1): sh -c 'echo some words" in done.stdout and "  log: logs/x/a.log\n" in done.stdout
    assert "  | some words\n" in done.stdout
    assert "LEFT OUT (needs x/a)" in done.stdout and "LEFT OUT (needs x/c)" in done.stdout
    lines = [line[20:] for line in done.stderr.splitlines()]  # no terminal: one per job that starts or ends, behind the time
    assert [line for line in lines if line.startswith("started ")] == [f"started {name}" for name in ("x/a", "x/b", "x/d", "x/ab")]
    assert [line.partition(",")[0] for line in lines if not line.startswith("started ")] == [
        "FAILED (1) x/a", "done x/b", "done x/d", "done x/ab"]
    assert " s; 1 of 6 ended, 1 failed, ETA 00:0" in lines[1] and lines[-1].endswith("6 of 6 ended, 1 failed, ETA 00:00")
    assert {path.name for path in (tmp_path / "x").iterdir()} == {"b", "d", "ab"}
    assert "some words" in (tmp_path / "logs/x/a.log").read_text()

    # the same plan runs what is missing and nothing else
    assert launch(plan).stdout.startswith("0 done, 3 were done before, 1 failed, 2 left out\n")
    (tmp_path / "mended").touch()
    plan[1] = plan[1].replace("[ -e mended ]", "mkdir x/a")
    assert launch(plan).stdout == "3 done, 3 were done before, 0 failed, 0 left out\n"
    assert launch(plan).stdout == "0 done, 6 were done before, 0 failed, 0 left out\n"


def test_what_is_done_is_run_again_where_its_command_its_folder_or_its_input_changed(launch, tmp_path):
    plan = [MAKE.format("a", ""), MAKE.format("b", "a/x"), MAKE.format("c", "")]
    assert launch(plan).returncode == 0
    shutil.rmtree(tmp_path / "a")
    assert launch(plan).stdout.startswith("2 done, 1 were done before"), "a, and b which reads it"
    plan[2] += " --seed 2"
    assert launch(plan).stdout.startswith("1 done, 2 were done before")


@pytest.mark.parametrize("plan, message", [
    (["true", "echo 'open"], "line 2"), ([], "no command"), (["# only a remark"], "no command"),
    (["true --save_dir a", "true --x --save-dir ./a/"], "line 2: writes to a like another"),
    (["true --save_dir b --in a/x", "true --save_dir a"], "line 1: reads what line 2 writes (a)")])
def test_bad_plans_are_one_line(launch, refused, plan, message):
    done = launch(plan)
    done.args[0] = "python"
    done.args = [str(word) for word in done.args]
    assert message in refused(done)


def test_bad_flags_are_one_line(launch, refused, tmp_path):
    for flags in (("--jobs", 0), ("--slurm", "account"), (tmp_path / "none.txt",)):
        done = launch(["true"], *flags)
        done.args = [str(word) for word in done.args]
        refused(done)


def test_printing_keeps_headings_and_drops_doubles(launch):
    plan = ["# stage: one", "true 1", "", "# remark", "true 2", "# stage: two", "true 1", "true 3"]
    assert launch(plan, "--launch", "print").stdout == "# stage: one\ntrue 1\ntrue 2\n# stage: two\ntrue 3\n"


@pytest.mark.parametrize("mark, encoding", [(b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le")])
def test_a_plan_that_an_editor_marked_is_read(launch, tmp_path, mark, encoding):
    (tmp_path / "plan.txt").write_bytes(mark + "true 1\r\ntrue 2\r\n".encode(encoding))
    assert launch([], "plan.txt", "--launch", "print").stdout == "true 1\ntrue 2\n"


def test_line_ends_stay_as_they_are_in_any_clone():
    """A shell stops at a carriage return, which a clone with core.autocrlf would put there."""
    attributes = subprocess.run(["git", "check-attr", "text", "eol", "--", "scripts/setup.sh", "scripts/lib/sweep.sh", "main_imp.py"],
                                cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
    assert len(attributes) == 6 and all(line.endswith((": auto", ": lf")) for line in attributes)


def test_devices_are_shared_in_turn(launch, monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    plan = [f"sh -c 'echo $CUDA_VISIBLE_DEVICES > {number}; sleep 0.3'" for number in range(4)]
    assert launch(plan, "--jobs", 4, "--devices", "3,5").returncode == 0
    assert [(tmp_path / str(number)).read_text().strip() for number in range(4)] == ["3", "5", "3", "5"]


def test_devices_count_among_those_that_are_shown(launch, refused, monkeypatch, tmp_path):
    """On a shared machine the launcher was given some; jobs that share one share its memory and the cores for compiling."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-17,6")
    words = "$CUDA_VISIBLE_DEVICES $PYTORCH_ALLOC_CONF $TORCHINDUCTOR_COMPILE_THREADS"
    plan = [f"sh -c 'echo {words} > {number}; sleep 0.3'" for number in range(4)]
    assert launch(plan, "--jobs", 4, "--devices", "1,0").returncode == 0
    threads = max(1, len(os.sched_getaffinity(0)) // 4)
    assert [(tmp_path / str(number)).read_text().split() for number in range(4)] == 2 * [
        [device, "per_process_memory_fraction:0.475", str(threads)] for device in ("6", "GPU-17")]
    done = launch(["true"], "--devices", "2")
    done.args = [str(word) for word in done.args]
    assert "--devices 2" in refused(done)


@pytest.mark.parametrize(("jobs", "share"), [(1, ""), (4, "per_process_memory_fraction:0.237")])
def test_jobs_without_devices_of_their_own_share_the_first(launch, monkeypatch, tmp_path, jobs, share):
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    assert launch(["sh -c 'echo $PYTORCH_ALLOC_CONF > share'"], "--jobs", jobs).returncode == 0
    assert (tmp_path / "share").read_text().strip() == share


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_stops_what_runs_and_the_same_plan_goes_on(launch, tmp_path, ending):
    plan = ["sh -c '[ -e started ] && exit 0; echo $$ > started; sleep 100'", "true"]
    process = subprocess.Popen([sys.executable, ROOT / "scripts/launch.py", "--logs", "logs"], cwd=tmp_path, text=True,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdin.write("\n".join(plan))
    process.stdin.close()
    while not (tmp_path / "started").exists() or not (tmp_path / "started").read_text():
        time.sleep(0.02)
    process.send_signal(ending)
    assert process.wait(20) == 130 and "goes on from there" in process.stderr.read()
    process.stdout.close()
    process.stderr.close()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "started").read_text()), 0)
    assert launch(plan).stdout.startswith("2 done")


def test_an_interruption_while_a_command_begins_stops_it_too(tmp_path, monkeypatch):
    """It would run on with nobody knowing of it, and the same plan again would find its folder locked."""
    from launch import LocalRunner, Logs, read_plan, run_plan

    begun, popen = [], subprocess.Popen

    def interrupted(*words, **more):
        begun.append(popen(*words, **more))
        signal.raise_signal(signal.SIGINT)
        return begun[0]

    monkeypatch.setattr(subprocess, "Popen", interrupted)
    logs, before = Logs(tmp_path), signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_plan(read_plan(["sleep 100"], tmp_path), LocalRunner(logs, 1, ()), logs)
        assert begun[0].poll() == -signal.SIGTERM and len(begun) == 1
    finally:
        begun[0].kill()
    assert signal.getsignal(signal.SIGINT) is before


class Rehearsal:
    """A runner that runs nothing: jobs end in an order and with codes that a test chooses, and its rules are checked."""

    pause = 0

    def __init__(self, jobs: int, draw):
        self.jobs, self.draw, self.running, self.begun, self.good = jobs, draw, [], [], set()

    def room(self) -> int:
        return self.jobs - len(self.running)

    def start(self, jobs) -> None:
        assert len(jobs) <= self.room()
        for job in jobs:
            assert self.good.issuperset(job.needs), "started before what it needs"
            self.running.append(job)
            self.begun.append(job.name)

    def ended(self):
        if not self.running:
            return []
        job = self.running.pop(self.draw(st.integers(0, len(self.running) - 1)))
        code = self.draw(st.sampled_from([0, 0, 0, 1]))
        if code == 0:
            self.good.add(job.name)
        return [(job, code)]


@pytest.mark.slow
@given(st.data())
def test_every_plan_comes_to_its_end(data):
    """Any plan, any failures, any order: each job is accounted for once; left out is what needs something that failed."""
    from launch import Logs, read_plan, run_plan

    size = data.draw(st.integers(1, 9))
    needs = [data.draw(st.sets(st.integers(0, index - 1), max_size=3)) if index else set() for index in range(size)]
    lines = [" ".join([f"work --save_dir w/{index}", *(f"--in w/{other}/x" for other in sorted(of))])
             for index, of in enumerate(needs)]
    plan = read_plan(lines, Path("logs"))
    assert [set(job.needs) for job in plan] == [{f"w/{other}" for other in of} for of in needs]
    runner = Rehearsal(data.draw(st.integers(1, 4)), data.draw)
    outcome = run_plan(plan, runner, Logs(Path("never there")))
    failed, left = {job.name for job, _ in outcome.failed}, {job.name for job, _ in outcome.left_out}
    ran = {job.name for job in outcome.ran}
    assert sorted([*ran, *failed, *left]) == sorted(job.name for job in plan)
    assert sorted(runner.begun) == sorted(ran | failed) and ran == runner.good
    for job in plan:  # in order, so what a job needs is known
        assert (job.name in left) == any(name in failed | left for name in job.needs)


class Cluster:
    """A Slurm whose users may have `limit` jobs in the queue, `others` of them not of this plan; one ends at each look at it."""

    def __init__(self, limit: int, others: int, largest_array: int):
        self.limit, self.largest_array, self.number = limit, largest_array, 0
        self.queue, self.sizes, self.most, self.others = {}, [], 0, [f"other_{index}" for index in range(others)]

    def AutoExecutor(self, **words):
        return self

    def update_parameters(self, **words):
        assert "slurm_array_parallelism" not in words

    @contextlib.contextmanager
    def batch(self):
        self.collected = []
        yield
        if len(self.collected) > self.largest_array:
            raise FailedJobError("sbatch: error: Invalid job array specification")
        if len(self.queue) + len(self.others) + len(self.collected) > self.limit:
            raise FailedJobError("sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job submission failed: Job violates "
                                 "accounting/QOS policy (job submit limit, user's size and/or time limits)")
        self.sizes.append(len(self.collected))
        self.queue |= {handle.job_id: handle.command for handle in self.collected}
        self.most = max(self.most, len(self.queue))

    def submit(self, command):
        self.number += 1
        self.collected.append(SimpleNamespace(job_id=f"4242_{self.number}", command=command))
        return self.collected[-1]

    def run(self, words, **more):
        if words[0] == "scontrol":
            assert words[1:] == ["show", "config"]
            return SimpleNamespace(stdout=f"MaxArraySize            = {self.largest_array}\nMaxJobCount = 10000\n", returncode=0)
        assert words[:2] == ["squeue", "--me"]
        if self.queue:
            command = self.queue.pop(next(iter(self.queue)))
            command.began = time.time()
            command.finish(0)
        return SimpleNamespace(stdout="\n".join([*self.queue, *self.others]), returncode=0)


class FailedJobError(Exception):
    pass


@pytest.fixture
def submitted_to(tmp_path, monkeypatch):
    """submitted_to(cluster, *flags) -> 30 jobs, and what came of them there."""
    from scripts.lib import slurm_runner
    from scripts.lib.plans import Logs, read_plan
    from scripts.lib.progress import run_plan

    def run(cluster: Cluster, *flags):
        for name, stand_in in (("submitit", cluster), ("FailedJobError", FailedJobError),
                               ("cloudpickle", SimpleNamespace(register_pickle_by_value=lambda module: None))):
            monkeypatch.setattr(slurm_runner, name, stand_in, raising=False)
        monkeypatch.setattr(subprocess, "run", cluster.run)
        monkeypatch.setattr(slurm_runner.SlurmRunner, "pause", 0)
        args = importlib.import_module("launch").parse_args(["--launch", "slurm", *map(str, flags)])
        logs, plan = Logs(tmp_path), read_plan([f"true {index}" for index in range(30)], tmp_path)
        return plan, run_plan(plan, slurm_runner.SlurmRunner(logs, args), logs)

    return run


@pytest.mark.parametrize("jobs, limit, others, largest_array, flag, most", [
    (30, 100, 0, 1001, None, 30),  # all at once
    (4, 100, 0, 1001, None, 4),  # --jobs bounds it
    (30, 20, 0, 1001, None, 20), (30, 20, 15, 1001, None, 5), (30, 1, 0, 1001, None, 1),  # as many as the site lets in
    (30, 100, 0, 1001, 7, 7), (30, 100, 5, 1001, 7, 2),  # or as its user says
    (30, 100, 0, 8, None, 30), (30, 13, 0, 1, None, 13)])
def test_a_plan_larger_than_a_sites_limits_is_submitted_bit_by_bit(submitted_to, jobs, limit, others, largest_array, flag, most):
    cluster = Cluster(limit, others, largest_array)
    plan, outcome = submitted_to(cluster, "--jobs", jobs, *(() if flag is None else ("--max_submitted", flag)))
    assert sorted(job.name for job in outcome.ran) == sorted(job.name for job in plan) and not outcome.failed
    assert cluster.most == most and max(cluster.sizes) <= largest_array and sum(cluster.sizes) == 30


def test_a_site_that_takes_no_job_at_all_is_one_line(submitted_to):
    from utils.errors import UserError

    with pytest.raises(UserError, match="QOSMaxSubmitJobPerUserLimit"):
        submitted_to(Cluster(0, 0, 1001), "--jobs", 9)


@pytest.mark.parametrize("cluster", ["local", "slurm"])
def test_on_a_cluster(launch, tmp_path, cluster):
    pytest.importorskip("submitit")
    if cluster == "slurm" and "TEST_SLURM" not in os.environ:
        pytest.skip("TEST_SLURM is not set; it says that Slurm is here and sees the same temporary folder")
    plan = [MAKE.format("x/a", ""), "sh -c 'echo no; exit 5' sh --save_dir x/b", MAKE.format("x/c", "x/a/f"),
            MAKE.format("x/d", "x/b")]
    flags = ("--launch", "slurm", "--submitit_cluster", cluster, "--gpus", 0, "--cpus", 1, "--minutes", 5)
    done = launch(plan, *flags)
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("2 done, 0 were done before, 1 failed, 1 left out\n")
    assert "FAILED (exit code 5)" in done.stdout and "  | no\n" in done.stdout
    assert (tmp_path / "x/c").is_dir() and not (tmp_path / "x/d").exists()
    assert launch([plan[0], plan[2]], *flags).stdout.startswith("0 done, 2 were done before")


def test_a_job_that_has_to_make_room_is_queued_again(tmp_path):
    submitit = pytest.importorskip("submitit")
    from scripts.lib.commands import Command

    command = Command("echo begun; sleep 100", str(tmp_path / "log"), str(tmp_path / "record"), {}, str(tmp_path))
    command.start()
    again = command.checkpoint()
    assert command.process.poll() is not None and not (tmp_path / "record").exists()
    assert isinstance(again, submitit.helpers.DelayedSubmission)
    assert (again.function.command, again.function.process) == (command.command, None)
    again.function.command = "true"
    assert again.function() == 0 and json.loads((tmp_path / "record").read_text())["code"] == 0


# --- the paper's numbers --------------------------------------------------------------------------------------------------


PUBLISHED = json.loads((ROOT / "scripts/paper_numbers.json").read_text(encoding="utf-8"))


def test_the_papers_numbers_agree_with_each_other():
    one, two, three, five, six, eight = (PUBLISHED[f"table{number}"] for number in (1, 2, 3, 5, 6, 8))
    assert set(one) == {cell for cell in two if "/" in cell} and len(one) == 4
    for cell, row in one.items():  # what remains follows from the rounds
        rates, remaining = (0.2, 0.1, 0.05, 0.01), 100.0
        for rate, rounds in zip(rates, row["rounds"]):
            remaining *= (1 - rate) ** rounds
        assert row["remaining"] == pytest.approx(remaining, abs=0.00081), cell  # one was cut off, not rounded
        # one drop in Table 2 was taken from the dense network
        before = row["dense_acc" if cell == "res18/cifar10" else "ticket_acc"]
        assert two[cell]["drop"] == pytest.approx(before - two[cell]["test_acc"], abs=1e-9)
    for cell, rows in three.items():
        if "/" in cell:
            assert rows["signed, triggers"] == five[cell]["0"]
            assert list(five[cell]) == ["0", "0.05", "0.1", "0.2", "0.5"]
    for cell in ("res20s/cifar10", "res18/cifar100"):
        assert six[cell]["prune magnitude"]["0"]["test_acc"] == two[cell]["test_acc"]
        assert list(six[cell]["prune magnitude"])[1:] == list(six[cell]["prune random"])
    rows = list(eight["res20s/cifar10"].values())
    opened = [(row["remaining"] - rows[0]["remaining"]) / (100 - rows[0]["remaining"]) for row in rows]
    # the levels are shares of the pruned entries, as far as the printed digits say
    assert opened == pytest.approx([0, 0.005, 0.01, 0.02, 0.05, 0.1], abs=4e-4)
    for row in rows:
        assert row["match"] == (rows[0]["test_acc"] - row["test_acc"] <= 1)


def test_every_number_as_the_paper_prints_it():
    """The tables again, as they read row by row."""
    six = """91.37 72.35|91.25 72.27|90.72 71.42|88.03 69.51|80.08 60.31|36.62 9.24"""
    random = """60.87 58.23|30.49 22.67|11.95 3.23|12.05 1.0|10.00 1.0"""
    five = """91.46 91.0 65.39 90.0|91.33 89.0 64.78 91.0|90.66 90.0 62.96 73.0|87.86 81.0 50.14 16.0|33.04 18.0 8.56 0.0"""
    four = """59.80 87.66|60.27 88.21|59.61 87.22"""

    def rows(text: str) -> list[list[float]]:
        return [[float(word) for word in row.split()] for row in text.split("|")]

    table = PUBLISHED["table6"]
    for name, text in (("prune magnitude", six), ("prune random", random)):
        columns = [[row["test_acc"] for row in table[cell][name].values()] for cell in ("res20s/cifar10", "res18/cifar100")]
        assert [list(row) for row in zip(*columns)] == rows(text)
    levels = [PUBLISHED["table5"][f"res20s/{data}"].values() for data in ("cifar10", "cifar100")]
    assert [[a["test_acc"], a["trigger_acc"], b["test_acc"], b["trigger_acc"]] for a, b in zip(*levels)] == rows(five)
    table = PUBLISHED["table4"]
    assert all(row["gap"] == round(PUBLISHED["table1"][f"res20s/{transfer.split(':')[1]}"]["ticket_acc"] - row["test_acc"], 2)
               for transfer, scores in table.items() if ":" in transfer for row in scores.values())
    assert [[table[transfer][score]["test_acc"] for transfer in ("res20s/cifar10:cifar100", "res20s/cifar100:cifar10")]
            for score in ("omp", "ewp", "betweenness")] == rows(four)
    assert [row["test_acc"] for cell, row in PUBLISHED["table2"].items() if "/" in cell] == [91.37, 66.14, 93.56, 72.35]
    tickets = PUBLISHED["table3"]
    assert [tickets[f"res20s/{data}"]["ticket"] for data in ("cifar10", "cifar100")] == [
        {"test_acc": 91.66, "trigger_acc": 16.0}, {"test_acc": 66.36, "trigger_acc": 0.0}]
    text = PUBLISHED["text_numbers"]
    assert [(key, *rows.items()) for key, rows in text.items() if ":" in key] == [
        ("res20s/cifar10:cifar100", ("fine-tuned", {"test_acc": 61.59})),
        ("res20s/cifar100:cifar10", ("fine-tuned", {"test_acc": 88.21})),
        ("res20s/cifar10:cifar10", ("fake3, published", {"before": 91.37, "test_acc": 57.0}))]
    assert text["res20s/cifar10:cifar10"]["fake3, published"]["before"] == PUBLISHED["table2"]["res20s/cifar10"]["test_acc"]
    assert [row["test_acc"] for row in PUBLISHED["table8"]["res20s/cifar10"].values()] == [
        91.53, 91.04, 90.23, 86.64, 79.49, 71.06]
    assert [[row["dense_acc"], row["ticket_acc"], row["remaining"]] for row in PUBLISHED["table1"].values()] == [
        [91.67, 91.66, 19.369], [66.36, 66.39, 19.901], [93.67, 93.60, 1.236], [72.44, 72.59, 2.251]]


# --- tables -------------------------------------------------------------------------------------------------------------


SEEDS = (1, 2, 3)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """A sweep's folders with made-up results of three seeds (two, where a run is missing), and what is in them."""
    folder, random = tmp_path_factory.mktemp("sweep"), np.random.default_rng(0)
    truth = {}

    def put(cell: str, seed: int, stage: str, **result) -> None:
        path = folder / cell / f"seed{seed}" / stage / "result.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"seed": seed, **result}))
        for name, value in result.items():
            truth.setdefault((cell, stage, name), []).append(value)

    for seed in SEEDS:
        cell, number = "res20s/cifar10", lambda: round(float(random.uniform(40, 95)), 2)
        put(cell, seed, "ticket", dense_acc=number(), ticket_acc=number(), density=number() / 400, rounds_per_rate=[seed, 1])
        if seed != 2:
            put(cell, seed, "signed_trained", test_acc=number())
        put(cell, seed, "triggered", test_acc=number(), trigger_acc=number())
        put(cell, seed, "transferred_cifar100/omp_0.05", test_acc=number())
        put(cell, seed, "transferred_cifar100/omp_0.1", test_acc=number())
        put("res20s/cifar100", seed, "transferred_cifar10/ewp_walks_0.05", test_acc=number())
        put(cell, seed, "tuned/cifar100", test_acc=number(), trigger_acc=number(), **{
            "read by ZXing": False, "read by zbar": False, "read by ordered statistics": seed > 1})
        if seed != 3:
            put(cell, seed, "replaced", test_acc=number(), **{
                "read by ZXing": False, "read by zbar": False, "read by ordered statistics": False})
        for level, drop in (("0", 0), ("0.005", 1.0), ("0.02", 1.01), ("0.3", 30)):
            put(cell, seed, f"added/level_{level}", test_acc=90 - drop + seed, density=0.2 + float(level), level=float(level),
                **{"read by ZXing": seed == 1 and level != "0.3", "read by zbar": level == "0",
                   "read by ordered statistics": True})
        for how in ("magnitude", "random"):
            put("res18/cifar100", seed, f"pruned_{how}/level_0.1", test_acc=number(), level=0.1)
    put("mine/photos", 1, "triggered_pruned/level_0.05", test_acc=50.0, trigger_acc=25.0, level=0.05)
    put("mine/photos", 1, "tuned_free_mask/others", test_acc=12.0)
    put("mine/photos", 1, "ticket", dense_acc=10.0, ticket_acc=20.0, density=0.5, rounds_per_rate=[1])
    return folder, truth


@pytest.fixture(scope="module")
def tables(sweep, tmp_path_factory, run_main):
    """(folder of the made tables, name -> rows of its CSV)."""
    out = tmp_path_factory.mktemp("tables")
    done = run_main("make_tables.py", "--runs", sweep[0], "--out", out)
    assert done.returncode == 0 and done.stderr == "" and str(out / "results.md") in done.stdout, done.stderr
    return out, {path.stem: list(csv.DictReader(path.open(newline="", encoding="utf-8"))) for path in out.glob("t*.csv")}


def check(row: dict[str, str], measure: str, ours: list[float], theirs: float | None) -> None:
    """A row's columns of one measure against numpy."""
    found = {what: row[f"{measure}, {what}"] for what in ("paper", "mean", "std", "n", "difference")}
    assert found["n"] == str(len(ours))
    assert found["paper"] == ("" if theirs is None else str(theirs))
    assert (found["mean"] != "") == bool(ours) and (found["std"] != "") == (len(ours) > 1)
    assert (found["difference"] != "") == (bool(ours) and theirs is not None)
    if ours:
        assert float(found["mean"]) == pytest.approx(np.mean(ours), rel=1e-12)
    if len(ours) > 1:
        assert float(found["std"]) == pytest.approx(np.sqrt(np.sum((np.array(ours) - np.mean(ours)) ** 2) / (len(ours) - 1)))
    if found["difference"]:
        assert float(found["difference"]) == pytest.approx(np.mean(ours) - theirs, abs=1e-9)


def rows_of(table: list[dict[str, str]], **labels) -> list[dict[str, str]]:
    return [row for row in table if all(row[name] == value for name, value in labels.items())]


def test_table_1(sweep, tables):
    truth, table = sweep[1], tables[1]["table1"]
    assert [(row["network"], row["data"]) for row in table] == [
        ("ResNet-20", "CIFAR-10"), ("ResNet-20", "CIFAR-100"), ("ResNet-18", "CIFAR-10"), ("ResNet-18", "CIFAR-100"),
        ("mine", "photos")]
    check(table[0], "dense accuracy", truth["res20s/cifar10", "ticket", "dense_acc"], 91.67)
    check(table[0], "ticket accuracy", truth["res20s/cifar10", "ticket", "ticket_acc"], 91.66)
    check(table[0], "remaining", [100 * one for one in truth["res20s/cifar10", "ticket", "density"]], 19.369)
    assert (table[0]["rounds at each rate, paper"], table[0]["rounds at each rate"]) == ("(5,1,8,1)", "(1,1); (2,1); (3,1)")
    check(table[1], "ticket accuracy", [], 66.39)
    assert table[1]["rounds at each rate"] == ""
    check(table[4], "dense accuracy", [10.0], None)


def test_tables_2_to_4(sweep, tables):
    truth, (_, made) = sweep[1], tables
    signed, ticket = (truth[("res20s/cifar10", *key)] for key in (("signed_trained", "test_acc"), ("ticket", "ticket_acc")))
    row, = rows_of(made["table2"], network="ResNet-20", data="CIFAR-10")
    check(row, "accuracy", signed, 91.37)
    check(row, "drop from the ticket", [ticket[0] - signed[0], ticket[2] - signed[1]], 0.29)
    row, = rows_of(made["table3"], model="signed, triggers", data="CIFAR-10")
    check(row, "triggers right", truth["res20s/cifar10", "triggered", "trigger_acc"], 91.0)
    row, = rows_of(made["table3"], model="ticket", data="CIFAR-10")
    check(row, "triggers right", [], 16.0)
    for key, theirs in (("5%", 59.8), ("10%", None)):
        row, = rows_of(made["table4"], score="omp", key=key, to="CIFAR-100", **{"from": "CIFAR-10"})
        check(row, "accuracy", truth["res20s/cifar10", f"transferred_cifar100/omp_{float(key[:-1]) / 100:g}", "test_acc"], theirs)
    row, = rows_of(made["table4"], score="ewp_walks")
    moved, found = truth["res20s/cifar100", "transferred_cifar10/ewp_walks_0.05", "test_acc"], truth["res20s/cifar10", "ticket", "ticket_acc"]
    check(row, "accuracy", moved, 88.21)
    check(row, "behind the ticket found there", [ticket - accuracy for ticket, accuracy in zip(found, moved)], 3.45)
    assert len(made["table4"]) == 8


def test_tables_5_to_8(sweep, tables):
    truth, (_, made) = sweep[1], tables
    row, = rows_of(made["table5"], network="mine")
    check(row, "accuracy", [50.0], None)
    assert len(made["table5"]) == 11
    for how, theirs in (("magnitude", 71.42), ("random", 22.67)):
        row, = rows_of(made["table6"], network="ResNet-18", method=how, pruned="10%")
        check(row, "accuracy", truth["res18/cifar100", f"pruned_{how}/level_0.1", "test_acc"], theirs)
    assert len(made["table6"]) == 22
    table = {row["added"]: row for row in made["table8"]}
    assert list(table) == ["0%", "0.5%", "1%", "2%", "5%", "10%", "30%"]
    check(table["2%"], "accuracy", truth["res20s/cifar10", "added/level_0.02", "test_acc"], 86.64)
    check(table["2%"], "remaining", [22.0] * 3, 21.009)
    check(table["30%"], "remaining", [50.0] * 3, None)
    assert [table[level]["decodable"] for level in table] == ["yes; yes; yes", "yes; no; no", "", "yes; no; no", "", "",
                                                              "no; no; no"]
    assert [table[level]["match"] for level in ("0%", "0.5%", "2%")] == ["yes; yes; yes"] * 2 + ["no; no; no"]
    assert [table[level]["match, paper"] for level in table] == ["yes", "yes", "no", "no", "no", "no", ""]
    assert table["1%"]["decodable, paper"] == "yes" and table["1%"]["accuracy, n"] == "0"


def test_numbers_in_the_text_beside_ours(sweep, tables):
    truth, rows = sweep[1], tables[1]["text_numbers"]
    assert [(row["attack"], row["network"], row["from"], row["to"]) for row in rows] == [
        ("fine-tuned", "ResNet-20", "CIFAR-10", "CIFAR-100"), ("fine-tuned", "ResNet-20", "CIFAR-100", "CIFAR-10"),
        ("fine-tuned, mask free", "mine", "photos", "others"), ("fake3, published", "ResNet-20", "CIFAR-10", "CIFAR-10"),
        ("fake3", "ResNet-20", "CIFAR-10", "CIFAR-10")]
    of = {name: truth[("res20s/cifar10", *name.split(" "))] for name in (
        "tuned/cifar100 test_acc", "tuned/cifar100 trigger_acc", "triggered test_acc", "replaced test_acc",
        "signed_trained test_acc")}
    check(rows[0], "accuracy", of["tuned/cifar100 test_acc"], 61.59)
    check(rows[0], "triggers right", of["tuned/cifar100 trigger_acc"], None)
    check(rows[0], "accuracy before", of["triggered test_acc"], None)
    assert rows[0]["signature read"] == "no; yes; yes"
    check(rows[1], "accuracy", [], 88.21)
    check(rows[2], "accuracy", [12.0], None)
    assert rows[2]["signature read"] == ""
    check(rows[3], "accuracy", [], 57.0)
    check(rows[3], "accuracy before", [], 91.37)
    check(rows[4], "accuracy", of["replaced test_acc"], None)
    check(rows[4], "accuracy before", of["signed_trained test_acc"][:1], None)  # seed 2 has none, seed 3 was not attacked
    assert rows[4]["signature read"] == "no; no"


def was_run(row: dict[str, str]) -> bool:
    return any(row[column] not in ("", "0") for column in row if column.endswith(", n"))


def test_the_markdown_shows_what_the_csv_holds(sweep, tables, run_main, tmp_path):
    out, made = tables
    text = (out / "results.md").read_text(encoding="utf-8")
    assert [line[3:10] for line in text.splitlines() if line.startswith("## Table")] == [f"Table {n}" for n in (1, 2, 3, 4, 5,
                                                                                                           6, 8)]
    for name, rows in made.items():
        table, run = (out / f"{name}.md").read_text(encoding="utf-8"), [row for row in rows if was_run(row)]
        assert table.rstrip() in text and table.count("\n") == len(run) + 2 < len(rows) + 2
        assert len({line.count("|") for line in table.splitlines()}) == 1
    ours = sweep[1]["res20s/cifar10", "ticket", "dense_acc"]
    assert f"| {np.mean(ours):.2f} +- {np.std(ours, ddof=1):.2f}% (n 3) | {np.mean(ours) - 91.67:+.2f} |" in text
    papers = "| ResNet-20 | CIFAR-100 | 66.36% |  |  | 66.39% |  |  | 19.901% |  |  | (6,0,4,7) |  |"
    assert papers not in text
    done = run_main("make_tables.py", "--runs", sweep[0], "--out", tmp_path, "--only", "table1", "--all_rows")
    assert done.returncode == 0 and (tmp_path / "table1.md").read_text().splitlines()[4:] == [papers, *(
        (tmp_path / "table1.md").read_text().splitlines()[5:])] and len((tmp_path / "table1.md").read_text().splitlines()) == 7
    # shown are all columns with something in them, and ours in any case
    for name, rows in made.items():
        rows = [row for row in rows if was_run(row)]
        heads = (out / f"{name}.md").read_text(encoding="utf-8").splitlines()[0].strip("| ").split(" | ")
        kept = [column.removesuffix(", mean") for column in rows[0] if not column.endswith((", n", ", std")) and (
            any(row[column] for row in rows) or not column.endswith((", paper", ", difference")))]
        assert heads == kept
    assert "triggers right" in (out / "text_numbers.md").read_text() and "triggers right, paper" in made["text_numbers"][0]
    assert "triggers right, paper" not in (out / "text_numbers.md").read_text()


def test_the_markdown_says_with_what_the_runs_were_made(tmp_path, run_main):
    for seed, script, stage, epochs, machine in ((2, "main_imp.py", "ticket", 12, "one"), (1, "main_imp.py", "ticket", 12, "two"),
                                                 (1, "main_attack.py", "tuned/cifar100", 7, "one")):
        folder = tmp_path / f"runs/res20s/cifar10/seed{seed}/{stage}"
        folder.mkdir(parents=True)
        sessions = [{"git": git, "torch": "2.11.0", "machine": machine} for git in ("older", "newer")]
        (folder / "run.json").write_text(json.dumps({
            "script": script, "arguments": {"seed": seed, "epochs": epochs, **({"test pictures": 359} if seed == 1 else {})},
            "sessions": sessions}))
    done = run_main("make_tables.py", "--runs", tmp_path / "runs", "--out", tmp_path / "tables")
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "tables/results.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith("- ")] == [
        "- runs: 3", "- seeds: 1, 2", "- epochs of a training: 12", "- git: newer", "- torch: 2.11.0", "- machine: one, two",
        "- test pictures: 359"]


def test_backups_are_no_seeds(sweep, tables, run_main, tmp_path):
    """Whatever else lies beside the folders of seeds and levels changes nothing."""
    runs = tmp_path / "runs"
    shutil.copytree(sweep[0], runs)
    cell = runs / "res20s/cifar10"
    for name in ("seed1_old", "seed01", "seeds", "old_seed1", "seed1.bak"):
        shutil.copytree(cell / "seed1", cell / name)
        record = {"script": "main_imp.py", "arguments": {"seed": 99, "epochs": 99}, "sessions": [{}]}
        (cell / name / "ticket/run.json").write_text(json.dumps(record))
    for stage, other in (("added/level_0", "added/level_0_old"), ("added/level_0", "added/level_x"),
                         ("added/level_0.02", "added/level_0.020"), ("added/level_0", "added/level_nan"),
                         ("transferred_cifar100/omp_0.1", "transferred_cifar100/omp_0.1_old"),
                         ("transferred_cifar100/omp_0.1", "locked/omp_0.1_old"), ("ticket", "added_old/level_0"),
                         ("ticket", "locked/mine")):
        shutil.copytree(cell / "seed1" / stage, cell / "seed1" / other)
    shutil.copytree(cell / "seed1", runs / "res20s/mine/seed1_old")
    (cell / "seed4").touch()
    out = tmp_path / "tables"
    done = run_main("make_tables.py", "--runs", runs, "--out", out)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    for path in tables[0].glob("t*.csv"):
        assert (out / path.name).read_text() == path.read_text(), path.name
    of_both = [(folder / "results.md").read_text().splitlines() for folder in (tables[0], out)]
    assert of_both[0][1:] == of_both[1][1:]


@pytest.fixture(scope="module")
def damaged(sweep, tmp_path_factory):
    """damaged(file, text) -> the runs with this text in place of one file of seed1 of res20s/cifar10; undone by the next call."""
    runs = tmp_path_factory.mktemp("damaged") / "runs"
    shutil.copytree(sweep[0], runs)
    record = {"script": "main_imp.py", "arguments": {"seed": 1, "epochs": 9}, "sessions": [dict.fromkeys(
        ("git", "torch", "machine"), "x")]}
    (runs / "res20s/cifar10/seed1/ticket/run.json").write_text(json.dumps(record))
    undo = []

    def damage(file: str, text: str) -> Path:
        path = runs / "res20s/cifar10/seed1" / file
        for other, content in undo:
            other.write_text(content)
        undo[:] = [(path, path.read_text())]
        path.write_text(text)
        return path

    return damage


@pytest.mark.parametrize("file, text, told", [
    ("ticket/result.json", "", "not a JSON file"), ("ticket/result.json", "{}", "has no 'dense_acc'"),
    ("ticket/result.json", '{"dense_acc": 1, "ticket_acc": 1, "density": 1}', "has no 'rounds_per_rate'"),
    ("ticket/result.json", '{"dense_acc": 1, "ticket_acc": 1, "density": 1, "rounds_per_rate": 3}', "'rounds_per_rate' is"),
    ("ticket/result.json", '{"dense_acc": "x"}', "'dense_acc' is"),
    ("triggered/result.json", '{"test_acc": [1]}', "'test_acc' is"), ("triggered/result.json", '{"seed": 1}', "has no 'test_acc'"),
    ("added/level_0.02/result.json", "[]", "holds no table"),
    ("added/level_0.02/result.json", '{"seed": 1}', "has no 'test_acc'"), ("added/level_0/result.json", '{"test', "not a JSON"),
    ("tuned/cifar100/result.json", '{"test_acc": 1, "read by ordered statistics": true, "read by ZXing": "no"}',
     "'read by ZXing' is")])
def test_damaged_results_are_one_line_that_names_the_mend(damaged, run_main, refused, tmp_path, file, text, told):
    from launch import Logs, read_plan

    path, recorded = damaged(file, text), text != "{}"  # whether the launcher ran the command
    runs, stage = path.parents[len(Path(file).parts) + 2], Path(file).parts[0]
    logs = Logs(runs / "logs")
    plan = plan_of("text_numbers" if stage == "tuned" else "table8" if stage == "added" else "table3", RUNS=str(runs),
                   TRANSFERS="cifar10:cifar100", CELLS="res20s/cifar10")
    job, = [job for job in read_plan(plan.splitlines(), logs.folder) if job.output in map(str, path.parents)]
    try:
        if recorded:
            logs.record(job).parent.mkdir(parents=True)
            logs.record(job).write_text(json.dumps({"command": job.command, "code": 0}))
        message = refused(run_main("make_tables.py", "--runs", runs, "--out", tmp_path))
        to_remove = f"remove {f'it and {logs.record(job)}' if recorded else 'it'}, and the same sweep makes it anew"
        assert f"error: {path}: {told}" in message and to_remove in message
    finally:
        shutil.rmtree(logs.folder, ignore_errors=True)


@pytest.mark.parametrize("text", [
    "{}", "[]", "{", '{"sessions": []}', '{"script": "main_imp.py", "arguments": {"seed": 1}, "sessions": [{}]}',
    '{"script": "main_imp.py", "arguments": 1, "sessions": [1]}',
    '{"script": "main_imp.py", "arguments": {"seed": [], "epochs": 1}, "sessions": [{"git": "", "torch": "", "machine": ""}]}',
    '{"script": "main_imp.py", "arguments": {"seed": 1, "epochs": 1}, "sessions": [{"git": 1, "torch": "", "machine": ""}]}'])
def test_damaged_records_are_one_line_that_names_the_mend(damaged, run_main, refused, tmp_path, text):
    path = damaged("ticket/run.json", text)
    message = refused(run_main("make_tables.py", "--runs", path.parents[4], "--out", tmp_path))
    assert f"error: {path}: " in message and f"remove {path.parent}, and the same sweep makes it anew" in message
    done = run_main("make_tables.py", "--runs", path.parents[4], "--out", tmp_path, "--only", "table1")
    assert done.returncode == 0, "one table alone does not say with what it was made"


VALUES = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
                      lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2), max_leaves=4)


@pytest.mark.slow
@hypothesis.settings(max_examples=30)
@given(data=st.data())
def test_no_value_in_a_result_ends_in_a_traceback(damaged, sweep, data):
    from scripts.lib.sweep_results import Sweep
    from scripts.lib.tables import TABLES
    from utils.errors import UserError

    seed = sweep[0] / "res20s/cifar10/seed1"
    file = data.draw(st.sampled_from(sorted(str(path.relative_to(seed)) for path in seed.rglob("result.json"))))
    content = json.loads((seed / file).read_text())
    column = data.draw(st.sampled_from(sorted(content)))
    path = damaged(file, json.dumps({**content, column: data.draw(VALUES)}))
    for name, make in TABLES.items():
        try:
            table = make(Sweep(path.parents[len(Path(file).parts) + 2]), PUBLISHED[name])
        except UserError as error:
            assert repr(column) in str(error) and str(path) in str(error)
        else:
            assert table.columns(texts=False) and table.markdown()


def test_one_table_alone_and_folders_without_runs(sweep, run_main, refused, tmp_path):
    done = run_main("make_tables.py", "--runs", sweep[0], "--out", tmp_path, "--only", "table8")
    assert done.returncode == 0 and "ResNet-20  CIFAR-10  0.5%   91.04%           91.00 +- 1.00% (n 3)  -0.04 " in done.stdout
    assert not any("|" in line or line.endswith(" ") for line in done.stdout.splitlines()), "aligned, as for a terminal"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["table8.csv", "table8.md"]
    done = run_main("make_tables.py", "--runs", tmp_path, "--out", tmp_path)
    assert str(tmp_path) in refused(done)


def put_run(folder: Path, script: str, result: dict | None = None, **arguments) -> None:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({
        "script": script, "arguments": {"arch": "mine", "dataset": "photos", "seed": 3, **arguments},
        "sessions": [{"written": "2026-01-01T10:00:00+00:00"}, {"written": "2026-01-02T11:30:59+00:00"}]}))
    if result is not None:
        (folder / "result.json").write_text(json.dumps(result))


def test_a_sweep_of_ones_own_shows_all_that_was_run(run_main, tmp_path):
    """launch NAME of no table of the paper; and list_runs.py, of any folder."""
    seed = tmp_path / "runs/mine/photos/seed3"
    put_run(seed / "ticket", "main_imp.py", {"ticket_acc": 91.5, "density": 0.25})
    put_run(seed / "odd_stage", "main_eval_all.py", {"test_acc": 90.125, "density": 0.2})
    put_run(seed / "half\nrun", "main_eval_all.py")
    put_run(seed / "pruned", "main_attack.py")
    for level, read in (("0", True), ("0.1", False)):
        (seed / f"pruned/level_{level}").mkdir()
        (seed / f"pruned/level_{level}/result.json").write_text(json.dumps(
            {"test_acc": None, "density": 0.2, "read by ZXing": read, "read by zbar": False}))
    put_run(seed / "broken", "main_attack.py")
    (seed / "broken/run.json").write_text("[1]")
    expected = [("broken", "", "", "", "damaged"), ("half\\nrun", "main_eval_all.py", "", "", "unfinished"),
                ("odd_stage", "main_eval_all.py", "90.12%", "", "done"), ("pruned/level_0", "main_attack.py", "", "yes", "done"),
                ("pruned/level_0.1", "main_attack.py", "", "no", "done"), ("ticket", "main_imp.py", "91.50%", "", "done")]
    done = run_main("make_tables.py", "--runs", tmp_path / "runs", "--out", tmp_path / "tables", "--only", "my_sweep")
    assert done.returncode == 0 and done.stdout.startswith("my_sweep: all that was run in "), done.stderr
    rows = list(csv.DictReader((tmp_path / "tables/runs.csv").open(newline="")))
    assert [tuple(row[name] for name in ("folder", "script", "accuracy", "code read", "state")) for row in rows] == [
        (f"mine/photos/seed3/{folder}", *rest) for folder, *rest in expected]
    assert {(row["network"], row["data"], row["seed"], row["date"]) for row in rows if row["state"] != "damaged"} == {
        ("mine", "photos", "3", "2026-01-02 11:30")}
    listed = run_main("list_runs.py", tmp_path / "runs")
    assert listed.returncode == 0 and listed.stdout.rstrip("\n") in done.stdout
    assert len(listed.stdout.splitlines()) == len(expected) + 1


# --- figures ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("able, told", [
    ((True, True, True), "read by all"), ((False, False, False), "read by nobody"),
    ((True, False, True), "read by ZXing,\nordered statistics"), ((False, False, True), "read by ordered statistics")])
def test_figures_say_who_reads_a_code(able, told):
    from utils.results import who_reads

    names = ("read by ZXing", "read by zbar", "read by ordered statistics")
    assert who_reads({"test_acc": 90.0, **dict(zip(names, able))}) == told


@pytest.fixture(scope="module")
def drawn(run_main, make_model, tmp_path_factory):
    """What the figures are drawn from, of one seed; and its ticket's mask."""
    import torch
    from PIL import Image

    from pruner import tickets
    from pruner.masks import Mask, prunable_layers

    seed = tmp_path_factory.mktemp("drawn") / "runs/res20s/digits/seed1"
    model, generator = make_model("res20s", classes=10), torch.Generator().manual_seed(1)
    mask = Mask({name: torch.rand(layer.weight.shape, generator=generator) < 0.1
                 for name, layer in prunable_layers(model).items()})

    def put(stage: str, **result) -> None:
        (seed / stage).mkdir(parents=True, exist_ok=True)
        (seed / stage / "result.json").write_text(json.dumps({"seed": 1, **result}))

    put("ticket", dense_acc=1.0, ticket_acc=1.0, density=0.1, rounds_per_rate=[1])
    tickets.write_masks(seed / "ticket/ticket.pth.tar", mask)
    done = run_main("embed_qrcode.py", "--mask_dir", seed / "ticket/ticket.pth.tar", "--dataset", "digits", "--save_dir",
                    seed / "signed")
    assert done.returncode == 0, done.stderr
    put("whole", test_acc=99.0)
    for ratio, without, forged in (("0.05", 90.0, 80.0), ("0.2", 70.0, 60.0)):
        put(f"locked/random_path_{ratio}", test_acc=without)
        put(f"forged/random_path_{ratio}", test_acc=forged)
    for stage in ("pruned_magnitude", "added"):
        for level in (0.1, 0.05, 0.5):
            put(f"{stage}/level_{level:g}", test_acc=1.0, density=0.1, level=level, p_corrected=level,
                **{"read by ZXing": level < 0.1})
            Image.new("L", (37, 37), 255).save(seed / stage / f"level_{level:g}/code.png")
    return seed, mask


@pytest.mark.slow
def test_figures_and_their_numbers(run_main, drawn, tmp_path):
    from PIL import Image

    (seed, mask), out = drawn, tmp_path / "tables"
    done = run_main("make_tables.py", "--runs", seed.parents[2], "--out", out)
    assert done.returncode == 0, done.stderr
    found = {}
    for number in range(1, 7):
        file = out / f"fig{number}_res20s_digits.png"
        assert Image.open(file).width > 300 and f"![ResNet-20 on digits]({file.name})" in (out / "results.md").read_text()
        found[number] = list(csv.DictReader(file.with_suffix(".csv").open(newline="")))
    claim = json.loads(next(seed.glob("signed/*.claim.json")).read_text())
    counts = np.array([int(row["before"]) for row in found[1]])
    assert (counts == mask[claim["layer"]].sum((2, 3)).flatten().numpy()).all()
    assert sum(int(row["after"]) for row in found[1]) != 0 and any(row["before"] != row["after"] for row in found[1])
    points = [("whole ticket", "0.0", "False", "99.0"), ("random_path", "0.05", "False", "90.0"),
              ("random_path", "0.2", "False", "70.0")]
    forged = [("random_path", "0.05", "True", "80.0"), ("random_path", "0.2", "True", "60.0")]
    for number, expected in ((2, points), (5, points + forged)):
        assert [(row["split"], row["key_ratio"], row["forged"], row["test_acc"]) for row in found[number]] == expected
    for number in (3, 4, 6):
        assert [(row["level"], row["read by ZXing"]) for row in found[number]] == [("0.05", "True"), ("0.1", "False"),
                                                                                 ("0.5", "False")]


@pytest.mark.parametrize("figure, file, content", [
    ("fig1", "ticket/ticket.pth.tar", None), ("fig1", "ticket/ticket.pth.tar", b"x"), ("fig1", "signed/*.claim.json", b"{}"),
    ("fig1", "signed/*.weight_mask.pth.tar", b""), ("fig1", "signed/*.weight_mask.pth.tar", None),
    ("fig3", "pruned_magnitude/level_0.1/code.png", b"x"), ("fig6", "added/level_0.5/code.png", b"half"),
    ("fig6", "added/level_0.05/code.png", b"changed"), ("fig6", "added/level_0.05/code.png", None)])
@pytest.mark.parametrize("recorded", [False, True])
def test_files_of_figures_that_are_damaged_are_one_line_that_names_the_mend(drawn, run_main, refused, tmp_path, figure, file,
                                                                            content, recorded):
    shutil.copytree(drawn[0], tmp_path / "runs/res20s/digits/seed1")
    path, = (tmp_path / "runs/res20s/digits/seed1").glob(file)
    good = path.read_bytes()
    record = tmp_path / f"runs/logs/res20s/digits/seed1/{file.partition('/')[0]}.json"
    if recorded:
        record.parent.mkdir(parents=True)
        record.write_text("{}")
    path.unlink()
    if content is not None:
        path.write_bytes({b"half": good[:60], b"changed": good[:40] + b"\0" + good[41:]}.get(content, content))
    message = refused(run_main("make_tables.py", "--runs", tmp_path / "runs", "--out", tmp_path / "out", "--only", figure))
    to_remove = " and ".join([*(["it"] if content is not None else []), *([str(record)] if recorded else [])])
    assert f"error: {path}: " in message
    assert message.endswith(f"; {f'remove {to_remove}, and ' if to_remove else ''}the same sweep makes it anew\n")


def test_a_network_that_is_no_longer_there_is_named(drawn, run_main, refused, tmp_path):
    shutil.copytree(drawn[0], tmp_path / "runs/mine/digits/seed1")
    done = run_main("make_tables.py", "--runs", tmp_path / "runs", "--out", tmp_path / "out", "--only", "fig1")
    assert f"{tmp_path / 'runs/mine/digits/seed1/signed'} is of a network that models/__init__.py" in refused(done)
    done = run_main("make_tables.py", "--runs", tmp_path / "runs", "--out", tmp_path / "out", "--only", "table1")
    assert done.returncode == 0 and "mine     digits" in done.stdout or "mine  " in done.stdout


# --- all of it ------------------------------------------------------------------------------------------------------------


@pytest.mark.nightly
def test_the_smallest_profile_from_end_to_end(tmp_path):
    settings = {"PROFILE": "smoke", "RUNS": str(tmp_path / "runs"), "JOBS": str(min(2, len(os.sched_getaffinity(0))))}
    done = bash("tables", **settings)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 failed, 0 left out" in done.stdout
    tables = tmp_path / "runs/tables"
    for name in ("table1", "table2", "table3", "table4", "table5", "table6", "table8"):
        own = [row for row in csv.DictReader((tables / f"{name}.csv").open(newline=""))
               if "digits" in (row.get("data"), row.get("from"))]
        assert own and all(row[column] for row in own for column in row if column.endswith(", mean"))
    own = {row["attack"]: row for row in csv.DictReader((tables / "text_numbers.csv").open(newline=""))
           if row["from"] == row["to"] == "digits"}
    assert list(own) == ["fine-tuned", "fine-tuned, mask free", "fake3, published", "fake3, region", "fake3", "fake3, insider",
                         "fake3, published, on V3"]
    assert all(row[f"{column}, mean"] for row in own.values() for column in ("accuracy before", "accuracy"))
    assert [row["signature read"] for row in own.values()] == ["yes"] + ["no"] * 6
    for number in range(1, 7):
        assert (tables / f"fig{number}_res20s_digits.png").exists() and (tables / f"fig{number}_res20s_digits.csv").exists()
    row, = [row for row in csv.DictReader((tables / "table1.csv").open(newline="")) if row["data"] == "digits"]
    assert float(row["ticket accuracy, mean"]) > 90 and float(row["remaining, mean"]) == pytest.approx(25, abs=0.01)
    assert bash("tables", **settings).stdout.startswith("0 done, ")


@pytest.fixture(scope="module")
def passports(tmp_path_factory):
    """Results as scripts/passports.sh leaves them, of two seeds."""
    runs = tmp_path_factory.mktemp("passports")
    for seed, more in ((1, 0), (2, 1)):
        for stage, content in {
                "whole": {"test_acc": 90.0, "seconds": 10.0}, "robbed/whole/finetune": {"test_acc": 89.0},
                "passports/pan": {"test_acc": 80.0 + more, "seconds": 21.0 + more, "bits": 64},
                "robbed/pan/prune/level_0.5": {"test_acc": 70.0, "signature_right": 60, "signature_bits": 64},
                "robbed/pan/permute": {"test_acc": 80.0, "signature_right": 30, "signature_bits": 64},
                "robbed/signed_trained/permute": {"test_acc": 88.0, "p_corrected": 1.0},
                "robbed/triggered/finetune": {"test_acc": 87.0, "trigger_p": 2e-30},
                "robbed/pan/passport_fake2/level_0.5": {"test_acc": 60.0, "forged_acc": 50.0 + more},
                "robbed/deepipr1/passport_block/level_0.1": {"test_acc": 77.0 + more, "forged_acc": 40.0},
                "robbed/pan/solve": {"signature_right": 64, "signature_bits": 64}}.items():
            path = runs / f"res18/cifar10/seed{seed}" / stage / "result.json"
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps(content))
    return runs


def test_the_table_of_all_schemes(passports, run_main, tmp_path):
    done = run_main("make_tables.py", "--runs", passports, "--out", tmp_path, "--only", "passports")
    assert done.returncode == 0, done.stderr
    rows = {row["what"]: {column.partition(":")[0]: value for column, value in row.items()
                          if not column.endswith((", n", ", paper"))} for row in csv.DictReader((tmp_path / "passports.csv").open(newline=""))}
    assert rows["test accuracy"]["PaN"] == "80.00%; 81.00%" and rows["training, x plain"]["PaN"] == "2.10; 2.20"
    p = 2**40 * sum(math.comb(64, count) for count in range(60, 65)) / 2**64
    accuracy, right, shown = rows["50% pruned"]["PaN"].split("; ")[0].split(" / ")
    assert (accuracy, right) == ("70.00%", "60 of 64 bits") and float(shown.removeprefix("p ")) == pytest.approx(p, rel=0.1)
    assert rows["renumbered"]["PaN"].startswith("80.00% / 30 of 64 bits / p 1; ")
    assert rows["renumbered"]["V2 code"].startswith("88.00% / p 1e+00")
    assert rows["fine-tuned"]["V3 triggers"].startswith("87.00% / p 2e-30")
    assert rows["fake2, half of the signs"]["PaN"] == "60.00% / 50.0% of the owner's signs; 60.00% / 51.0% of the owner's signs"
    assert rows["solved for"]["PaN"] == "64 of 64 bits; 64 of 64 bits" and rows["fine-tuned"]["V1 key mask"] == ""


def test_published_numbers_of_passports_stand_beside_ours(passports, run_main, tmp_path):
    done = run_main("make_tables.py", "--runs", passports, "--out", tmp_path, "--only", "passports_published", "--all_rows")
    assert done.returncode == 0, done.stderr
    rows = [row for row in csv.DictReader((tmp_path / "passports_published.csv").open(newline="")) if row["data"] == "CIFAR-10"]
    of = {(row["attack"], row["network"]): row for row in rows}
    own = of["CERB", "ResNet-18"]
    assert (own["accuracy, mean"], own["bits unlike the owner's, mean"], own["accuracy, paper"]) == ("77.5", "60.0", "")
    theirs = of["10 layers, CERB", "ResNet-18"]
    assert (theirs["accuracy, paper"], theirs["bits unlike the owner's, paper"], theirs["accuracy, mean"]) == ("92.87", "38.55", "")
    assert of["fake2", "ResNet-18"]["accuracy, paper"] == "70.0" and of["fake2", "ResNet-18"]["accuracy, mean"] == ""


@pytest.mark.nightly
def test_passports_from_end_to_end(tmp_path):
    settings = {"PROFILE": "smoke", "RUNS": str(tmp_path / "runs"), "JOBS": str(min(2, len(os.sched_getaffinity(0))))}
    done = bash("passports", **settings)
    assert done.returncode == 0 and "0 failed, 0 left out" in done.stdout, done.stdout + done.stderr
    rows = {row["what"]: row for row in csv.DictReader((tmp_path / "runs/tables/passports.csv").open(newline=""))}
    schemes = [column for column in rows["undamaged"] if ": a network" in column]
    for column in schemes[3:]:
        assert "10^-" in rows["undamaged"][column]
        assert re.search(r"^(\d+) of \1 bits", rows["solved for"][column])
    assert bash("passports", **settings).stdout.startswith("0 done, ")


@pytest.mark.nightly
def test_a_sweep_and_a_network_of_ones_own_at_the_first_try(tmp_path):
    """A copy of table6.sh with other lists, levels, seeds and a stage with a score, and the network of docs/extending.md."""
    from conftest import documented_blocks

    copy = tmp_path / "project"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv", "runs", "__pycache__", "tests"))
    (copy / "models/vgg.py").write_text(documented_blocks()["models/vgg.py"])
    registry = (copy / "models/__init__.py").read_text()
    head, brace, rest = registry.partition("ARCHITECTURES")[2].partition("\n}")
    entry = '\n    "vgg8": Architecture("models.vgg", "vgg8", "VGG-8", weight_decay=5e-4),'
    (copy / "models/__init__.py").write_text(registry.replace(head + brace + rest, head + entry + brace + rest))
    script = (copy / "scripts/table6.sh").read_text()
    for old, new in (("res20s/cifar10 res18/cifar100", "vgg8/digits"), ("0,0.05,0.1,0.2,0.3,0.5", "0,0.15,0.4"),
                     ("SEEDS=${SEEDS:-1}", 'SEEDS=${SEEDS:-2 5}\nSCORES="omp"\nKEY_RATIOS="0.03"'), ("launch table6", "launch mine"),
                     ('    stage "pruning"', '    for score in $SCORES; do each locked "$score" $KEY_RATIOS; done\n    stage "pruning"')):
        assert old in script
        script = script.replace(old, new)
    (copy / "scripts/mine.sh").write_text(script)
    done = bash("mine", cwd=copy, PROFILE="smoke", EPOCHS="3", JOBS="2")
    assert done.returncode == 0 and "12 done, 0 were done before, 0 failed, 0 left out\nmine: all that was run" in done.stdout, done.stderr
    rows = list(csv.DictReader((copy / "runs/smoke/tables/runs.csv").open(newline="")))
    assert {(row["network"], row["data"], row["state"]) for row in rows} == {("vgg8", "digits", "done")}
    assert {row["folder"].removeprefix("vgg8/digits/") for row in rows} == {
        f"seed{seed}/{stage}" for seed in (2, 5) for stage in ("ticket", "signed_trained", "locked/omp_0.03", *(
            f"pruned_{how}/level_{level}" for how in ("magnitude", "random") for level in ("0", "0.15", "0.4")))}
