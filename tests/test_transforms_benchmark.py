"""The benchmark of transforms: what it makes up is owned and innocent as it says, and it sees a bar that is missed."""

import csv

import pytest


@pytest.fixture
def run(run_main, monkeypatch):
    """run(*words) -> (exit code, what was printed); two kinds of transforms and no more."""
    from benchmarks.lib import transforms

    monkeypatch.setattr(transforms, "KINDS", ("sign", "permute"))

    def call(*words) -> tuple[int, str]:
        done = run_main("benchmarks/transforms.py", *words)
        return done.returncode, done.stdout + done.stderr.rpartition("error: ")[2]

    return call


def rows_of(path) -> list[dict]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.nightly
def test_transformed_models_of_an_owner_are_owned_and_a_missed_one_is_told(run, tmp_path, monkeypatch):
    words = "--only", "owned", "--count", 0, "--out", tmp_path
    code, printed = run(*words)
    assert code == 0 and "missed: 0 of 6" in printed
    rows = rows_of(tmp_path / "owned.res20s.csv")
    assert [(row["model"], row["kinds"]) for row in rows] == [
        (model, kind) for kind in ("sign", "permute") for model in ("as it is", "30% pruned", "fine-tuned")]
    permuted = [row for row in rows if row["kinds"] == "permute"]
    assert all(float(row["p own"]) > 1e-9 > float(row["p aligned"]) for row in permuted)
    before, _, behind = (tmp_path / "owned.res20s.csv").read_text().rpartition("owned")
    (tmp_path / "owned.res20s.csv").write_text(f"{before}not shown{behind}")
    monkeypatch.setattr("benchmarks.lib.transforms.own_models", lambda *_: (None, dict.fromkeys(range(3))))  # nothing is measured again
    code, printed = run(*words)
    assert code == 1 and "missed: 1 of 6" in printed and "missed: fine-tuned, permute" in printed


@pytest.mark.slow
def test_transformed_models_of_others_are_not_owned(run, tmp_path):
    code, printed = run("--only", "innocent", "--owners", 1, "--count", 2, "--out", tmp_path)
    assert code == 0 and "owned: 0 of 2" in printed
    rows = rows_of(tmp_path / "innocent.res20s.csv")
    assert [row["kind"] for row in rows] == ["pruned by magnitude", "another's code at the place"]
    assert all(float(row["p"]) == 1 for row in rows)
