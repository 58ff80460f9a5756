"""The table at the end of scripts/quickstart.sh (the script itself runs with the README, test_readme.py)."""

import json

import pytest

SCRIPT = "scripts/quickstart_report.py"
RESULTS = {
    "ticket/result.json": {"dense_acc": 97.5, "ticket_acc": 96.25, "density": 0.262, "nonzeros": 70062},
    "signed/result.json": {"entries": 267264, "test_acc": 95.0, "density": 0.2621, "nonzeros": 70063},
    "extracted/extraction.json": {"readers": {"ZXing": None, "ordered statistics": "signature"}, "flipped": 3, "data_modules": 567},
}


@pytest.fixture
def run(tmp_path):
    """What the stages leave."""
    for name, result in RESULTS.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(json.dumps(result))
    (tmp_path / "seconds.csv").write_text("find,70\nsign,4\n")
    return tmp_path


def test_the_table(run_script, run):
    done = run_script(SCRIPT, run, env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines() if line]
    assert ["dense", "97.50%", "100.000%", "267264"] in lines and ["ticket", "96.25%", "26.200%", "70062"] in lines
    assert ["signed", "ticket", "95.00%", "26.210%", "70063"] in lines
    assert ["ZXing", "reads:", "nothing"] in lines and "ordered statistics reads: 'signature'" in done.stdout
    assert "3 of 567 data modules" in done.stdout and "find 70, sign 4" in done.stdout
    assert str(run / "ticket/accuracy_density.png") in done.stdout and "| torch" not in done.stderr


def test_help_is_help(run_script):
    done = run_script(SCRIPT, "--help", env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert done.returncode == 0 and "DIR" in done.stdout and "| torch" not in done.stderr


def test_a_folder_is_asked_for(run_script, refused):
    assert "DIR" in refused(run_script(SCRIPT))


@pytest.mark.slow
@pytest.mark.parametrize("name", RESULTS)
@pytest.mark.parametrize("content", [None, "", "[]", "{}", "nulls"])
def test_a_missing_or_damaged_result_is_one_line_with_the_mend(run_script, refused, run, name, content):
    (run / name).unlink()
    if content is not None:
        (run / name).write_text(json.dumps(dict.fromkeys(RESULTS[name])) if content == "nulls" else content)
    message = refused(run_script(SCRIPT, run))
    assert str(run / name) in message and "scripts/quickstart.sh" in message
