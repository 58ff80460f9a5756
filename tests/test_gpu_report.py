"""benchmarks/gpu_report.sh: it comes back to what is unfinished, and takes no part for another's."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
STUB = """#!/bin/sh
if [ "$1" = -c ]; then
    [ -z "$BROKEN" ] || { echo Traceback >&2; echo "$BROKEN" >&2; exit 1; }
    echo "a warning" >&2; echo "${CHIP:-A chip}"; exit 0
fi
echo "$@" >> CALLS
case "$*" in
    *"${FAIL:-nothing}"*) echo broken >&2; exit 3;;
    "-m pytest"*) echo "${TESTED:-3 passed, 200 deselected in 9s}";;
    *) echo measured;;
esac
"""


@pytest.fixture
def report(tmp_path):
    """report(*words, **environment) -> gpu_report.sh with a python that notes its words and fails where FAIL is among them, and
    what it was called with for each part."""
    stub = tmp_path / "python"
    stub.write_text(STUB.replace("CALLS", str(tmp_path / "calls")))
    stub.chmod(0o755)
    inherited = {name: value for name, value in os.environ.items() if name not in ("TINY", "DEVICE", "BUDGET", "PYTHON")}

    def run(*words, script: Path = ROOT / "benchmarks/gpu_report.sh", **environment: str):
        (tmp_path / "calls").write_text("")
        done = subprocess.run(["bash", script, *(words or (tmp_path / "report",))], capture_output=True, text=True, timeout=60,
                              env={**inherited, "PYTHON": str(stub), **environment})
        return done, (tmp_path / "calls").read_text().splitlines()

    return run


def refusal(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stderr.startswith("gpu_report.sh: error: "), done
    return done.stderr


def test_it_goes_on_where_it_failed(report, tmp_path):
    done, calls = report(FAIL="res18")
    assert done.returncode == 1 and "broken" in done.stderr
    smoke, *benchmarks, tests = calls
    assert smoke.startswith("benchmarks/smoke.py --device cuda")
    assert len(benchmarks) == 4 and tests.startswith("-m pytest")
    assert all("--device cuda" in call and f"--out {tmp_path}/report/" in call for call in benchmarks)
    leftover = tmp_path / "report/res18/train_loop.csv"
    leftover.parent.mkdir()
    leftover.write_text("half of it")
    done, calls = report()
    assert done.returncode == 0 and len(calls) == 1 and "--arch res18" in calls[0]
    assert (tmp_path / "report/res18.log").read_text() == "measured\n" and not leftover.exists()
    assert report()[1] == []
    assert "A chip" in (tmp_path / "report/machine.log").read_text()


def test_it_keeps_to_its_budget(report):
    done, calls = report(BUDGET="0")
    assert done.returncode == 1 and calls == []


def test_a_tiny_run_measures_everything_but_the_tests(report):
    from benchmarks import train_loop

    done, calls = report(TINY="1")
    smoke, *calls = calls
    assert done.returncode == 0 and smoke.startswith("benchmarks/smoke.py --device cpu") and len(calls) == 4
    for call in calls:
        assert "--device cpu" in call and "--tiny --no_compile" in call  # as in test_train_loop.py
        if "train_loop" in call:
            sections = call.split("--sections ")[1].split()[0].split(",")
            assert set(sections) <= set(train_loop.SECTIONS)


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [
    ({"TINY": "1"}, {}), ({}, {"TINY": "1"}), ({"TINY": "1", "DEVICE": "cuda"}, {"DEVICE": "cuda"}),
    ({}, {"DEVICE": "cuda:1"}), ({}, {"CHIP": "Another chip"}),
])
def test_results_of_another_setting_are_not_taken_for_these(report, tmp_path, first, then):
    assert report(**first)[0].returncode == 0
    kept = {path: path.read_bytes() for path in (tmp_path / "report").rglob("*") if path.is_file()}
    done, calls = report(**then)
    assert "name another folder" in refusal(done) and calls == []
    assert kept == {path: path.read_bytes() for path in (tmp_path / "report").rglob("*") if path.is_file()}
    done, calls = report(tmp_path / "another", **then)
    assert done.returncode == 0 and len(calls) >= 5
    assert report(**first)[1] == []


def test_results_of_another_commit_are_not_taken_for_these(report, tmp_path):
    def git(*words: str) -> None:
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=copy, check=True, capture_output=True)

    copy = tmp_path / "copy"
    script = copy / "benchmarks/gpu_report.sh"
    script.parent.mkdir(parents=True)
    script.write_bytes((ROOT / "benchmarks/gpu_report.sh").read_bytes())
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    assert report(script=script)[0].returncode == 0 and report(script=script)[1] == []
    script.write_text(script.read_text() + "# changed\n")
    assert "changed" in refusal(report(script=script)[0])
    git("commit", "-am", "second")
    done, calls = report(script=script)
    assert "another setting" in refusal(done) and calls == []


def test_tests_that_were_skipped_are_not_done(report, tmp_path):
    """The selection by name also holds some that need no device, so that some pass all the same."""
    done, calls = report(TESTED="4 passed, 3 skipped, 200 deselected in 9s")
    assert done.returncode == 1 and "skipped" in done.stderr and len(calls) == 6
    done, calls = report()
    assert done.returncode == 0 and len(calls) == 1 and calls[0].startswith("-m pytest")


def test_without_the_device_it_stops_at_once(report, tmp_path):
    done, calls = report(BROKEN="RuntimeError: no CUDA GPUs are available")
    message = refusal(done)
    assert "DEVICE=cuda" in message and "no CUDA GPUs are available" in message and "TINY=1" in message
    assert calls == [] and not (tmp_path / "report").exists()


@pytest.mark.slow
@pytest.mark.skipif(os.path.exists("/dev/nvidiactl"), reason="has a CUDA device")
def test_the_real_interpreter_says_that_there_is_no_device(report, tmp_path):
    message = refusal(report(PYTHON=sys.executable, CUDA_VISIBLE_DEVICES="")[0])
    assert "DEVICE=cuda" in message and "Traceback" not in message and not (tmp_path / "report").exists()


@pytest.mark.parametrize(("words", "environment", "named"), [
    (("a", "b"), {}, "usage"), (("",), {}, "usage"), ((), {"BUDGET": "soon"}, "BUDGET"), ((), {"TINY": "yes"}, "TINY"),
])
def test_bad_words_are_one_line(report, words, environment, named):
    assert named in refusal(report(*words, **environment)[0])


def test_a_call_that_was_killed_before_it_began_is_no_other_setting(report, tmp_path):
    (tmp_path / "report").mkdir()
    (tmp_path / "report/setting.txt").touch()
    assert report(TINY="1")[0].returncode == 0
    kept = (tmp_path / "report/setting.txt").stat().st_mtime_ns, (tmp_path / "report/setting.txt").read_text()
    assert report(TINY="1")[1] == [] and "TINY=1" in kept[1]
    assert kept[0] == (tmp_path / "report/setting.txt").stat().st_mtime_ns, "written once, so that no kill can empty it"


def test_a_folder_of_other_things_is_left_alone(report, tmp_path):
    (tmp_path / "report").mkdir()
    (tmp_path / "report/notes.txt").write_text("mine")
    assert "name another folder" in refusal(report()[0])
    assert [path.name for path in (tmp_path / "report").iterdir()] == ["notes.txt"]
