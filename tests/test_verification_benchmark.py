"""benchmarks/verification.py: it times verdicts that are the right ones, and alignments that come to something."""

import re
import time

import numpy as np
import pytest

from benchmarks import verification as script
from benchmarks.lib import verification
from models import build_model
from ownership.suspects.alignment import Alignment
from pruner import tickets
from utils.errors import UserError


@pytest.fixture
def args():
    """args(*words) -> the script's flags."""
    return lambda *words: script.parse_args(["--repeats", "1", *words])


@pytest.mark.slow
def test_a_verdict_is_timed_with_fewer_and_fewer_checks(args, monkeypatch):
    commands, ran = [], verification.here

    def command(words, refused=False):
        commands.append((words, refused))
        return 5.0, 4.0, "" if refused else ran(words)[2]

    def here(words):
        took = ran(words)
        return *took[:2], f"{took[2]} by {' '.join(word for word in words if word in ('--dataset', '--trigger_key'))}"

    monkeypatch.setattr(verification, "command", command)
    monkeypatch.setattr(verification, "here", here)
    rows = list(verification.verify(args("--only", "verify")))
    assert [row["found"] for row in rows] == [
        "not shown", "", "not shown by --dataset --trigger_key", "not shown by --trigger_key", "not shown by "]  # a chosen text
    assert all(0 < row["processor"] and row["low"] <= row["seconds"] <= row["high"] for row in rows)
    assert [refused for _, refused in commands] == [False, True] and "359 test pictures" in rows[0]["what"]


def test_a_ticket_is_no_suspect_whose_accuracy_is_timed(args, tmp_path):
    """Neither accuracy nor triggers would be looked at, and that took no time."""
    signed, _, _ = verification.signed_ticket("res20s", np.random.default_rng(1))
    _, code = verification.simulated_suspect(tmp_path)
    tickets.write_ticket(tmp_path / "ticket.pth.tar", signed, build_model("res20s", 10).state_dict(), {})
    given = args("--suspect", str(tmp_path / "ticket.pth.tar"), "--code", code)
    with pytest.raises(UserError, match=f"--suspect {re.escape(str(tmp_path / 'ticket.pth.tar'))}: holds no trained weights"):
        next(verification.verify(given))


@pytest.mark.nightly
def test_a_command_that_ends_otherwise_than_it_should_is_not_timed(tmp_path):
    words = "--claim", str(tmp_path / "none"), "--suspect", str(tmp_path / "none")
    seconds, processor, found = verification.command(words, refused=True)
    assert seconds > 0 and processor > 0 and found == ""
    with pytest.raises(UserError, match="ended with 2: .*none"):
        verification.command(words)


def test_an_alignment_is_timed_and_looked_at(args, monkeypatch):
    stolen, innocent = verification.alignment(args("--arch", "res20s"))
    assert "ResNet-20 at 26" in stolen["what"] and stolen["found"] == "every weight back"
    name, correlation = innocent["found"].split()
    assert name == "correlation" and 0 <= float(correlation) < 0.3
    monkeypatch.setattr(verification, "align", lambda owner, suspect, *rest: Alignment(
        suspect, np.arange(1), *2 * (agreement_with(owner, suspect),)))
    assert next(verification.alignment(args("--arch", "res20s")))["found"] == "not found"


def agreement_with(owner, suspect):
    from ownership.qr_code.window import region_kernels
    from ownership.suspects.alignment import agreement_of

    return agreement_of(owner, suspect, region_kernels(owner.mask, [], 3))


def test_what_is_timed_is_the_work_alone():
    took, processor, result = verification.timed(lambda: time.sleep(0.05) or "slept")
    assert result == "slept" and took >= 0.05 > processor
    row = verification.row("work", [(1.0, 0.5, "a"), (9.0, 0.7, "b"), (2.0, 0.6, "a")])
    assert row == {"what": "work", "seconds": 2.0, "low": 1.0, "high": 9.0, "processor": 0.6, "runs": 3, "found": "a, b"}
