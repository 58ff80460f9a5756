"""Two claims on one suspect: who owns what, which file is whose, what the codes and models say, and the page."""

import importlib
import itertools
import json
import re
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from stand_ins import (OTHER_KEY, OWNER, THIEFS_KEY, TRIGGERS, Page, as_pem, assert_self_contained, derived_for, trained)

from attacks.forgeries.forge import forge
from attacks.permute import permute
from datasets import trigger
from models import build_model
from ownership.claims import arbiter, commitment, rivals, sorting, verdict
from ownership.qr_code.claim import CodeClaim, write_claim
from ownership.claims.owner_claim import Fidelity, OwnerClaim
from ownership.claims.report import write_comparison_report
from ownership.claims.rivals import EARLIER_OWNS, UNDECIDED
from ownership.claims.verdict import NOT_SHOWN, OWNED, REFUSED, SHOWN, Check, Standing, Verdict
from ownership.qr_code.check import Regions, compare_regions
from pruner import tickets
from pruner.key_mask import split as key_masks
from pruner.masks import Mask
from pruner.qr_code import geometry as qr_code
from pruner.qr_code.embedding import Place, Wish, embed, find_region


# --- a thief, and others ----------------------------------------------------------------------------------------------


def claim_of(mask, text: str, place: Place, code_format, **derived) -> CodeClaim:
    return CodeClaim(text, "res20s", place.layer, place.start_x, place.start_y, code_format.version, code_format.error_correction,
                 code_format.mask_pattern, 0.5, mask.nonzeros, mask.entries, {"state": 1}, **derived)


@pytest.fixture(scope="module")
def thief(run_main, owner, digits, tmp_path_factory):
    """A folder with what John made of Jane's model: signed again in another layer, and that once more over a part of his code;
    a text that he made up. For each a signed claim: with accuracy, without, and with a trigger set."""
    folder, model = tmp_path_factory.mktemp("thief"), build_model("res20s", 10)
    own = tickets.read_model_file(owner / "own.pth.tar", model).mask
    (folder / "thief.key").write_bytes(as_pem(THIEFS_KEY))

    def commit(name: str, claim: CodeClaim, *words) -> None:
        write_claim(folder / f"{name}.v2.json", claim)
        done = run_main("make_claim.py", "--owner", "John", "--sign", folder / "thief.key", "--v2", folder / f"{name}.v2.json",
                        *words, "--save_dir", folder / name)
        assert done.returncode == 0, done.stderr

    def sign(name: str, mask, nonce: int, **place):
        derived = derived_for(THIEFS_KEY, "John", mask, nonce)
        text = derived.pop("signature")
        region = find_region(mask, text, Wish(**place))
        signed = embed(mask, text, region, np.random.default_rng(3))
        tickets.write_weights(folder / f"{name}.pth.tar", trained(signed, 1, digits), {}, signed)
        commit(name, claim_of(signed, text, region, region.code_format, **derived), "--checkpoint", folder / f"{name}.pth.tar", "--dataset",
               "digits")
        return signed, region

    again, region = sign("again", own, 1, layer="layer3.1.conv2")
    sign("over", again, 2, layer=region.layer, start_y=region.start_y,
         start_x=region.start_x + 24 if region.start_x + 24 + 29 <= 64 else region.start_x - 24)
    made_up = forge(own, budget=600, length=11, version=3, error_correction="H", seed=1)
    forged = claim_of(own, made_up.signature, made_up.place, made_up.code_format)
    commit("forged", forged)
    trigger.export(trigger.keyed(OTHER_KEY.encode(), TRIGGERS, 10, 8), folder / "trigger_set")
    commit("triggers", forged, "--v3", folder / "trigger_set", "--dataset", "digits", "--fidelity", 50)
    return folder


@pytest.fixture(scope="module")
def dispute(run_main, owner, thief):
    """dispute(first, second, *words): main_verify.py on two claims, "jane" or one of John's, with their commitments."""

    def files(name: str):
        folder = owner if name == "jane" else thief / name
        return folder / "claim.json", folder / "commitment.json"

    def run(first: str, second: str, *words, suspect=thief / "again.pth.tar"):
        claims, commitments = zip(files(first), files(second))
        return run_main("main_verify.py", *itertools.chain(*(("--claim", path) for path in claims)),
                        *itertools.chain(*(("--commitment", path) for path in commitments)), "--restarts", 0,
                        *(("--suspect", suspect) if suspect else ()), *words)

    return run


def conclusion(done) -> str:
    return re.search(r"^conclusion: +(.*)$", done.stdout, re.M)[1]


def verdicts(done) -> list[str]:
    return re.findall(r"^verdict: +(.*)$", done.stdout, re.M)


# --- who owns it ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_of_two_marks_the_earlier_one_decides(dispute, tmp_path):
    for first, second, name in (("jane", "again", OWNER), ("again", "jane", "John")):
        done = dispute(first, second, "--json", tmp_path / "out.json")
        assert done.returncode == 0, done.stderr
        assert verdicts(done) == ["owned", EARLIER_OWNS] and done.stdout.startswith("conclusion: both show; the earlier")
        assert conclusion(done) == f"both show; the earlier commitment decides: the first claim ({name}) owns"
        assert "so it counts as written into what was the first's already" in done.stdout
        found = json.loads((tmp_path / "out.json").read_text())
        assert [claim["verdict"] for claim in found["claims"]] == ["owned", EARLIER_OWNS]
        assert found["conclusion"] == conclusion(done) and found["rivals"]["owner"] == "first"
        assert [claim["later"] for claim in found["claims"]] == [False, True]
        # signed by whom, and which commitment opens
        assert len({claim["facts"]["signed by"] for claim in found["claims"]} - {"nobody"}) == 2
        assert all(claim["facts"]["commitment"] == json.loads(open(claim["commitment"]).read())["root"]
                   for claim in found["claims"])
        assert found["rivals"]["regions"] == {"overlap": 0, "contested": 0}


def test_the_later_claim_counts_as_not_committed_to(dispute, run_main, thief, tmp_path):
    words = ("--suspect", thief / "again.pth.tar", "--restarts", 0, "--json", tmp_path / "alone.json")
    dispute("jane", "again", "--json", tmp_path / "two.json")
    later = json.loads((tmp_path / "two.json").read_text())["claims"][1]
    run_main("main_verify.py", "--claim", thief / "again/claim.json", *words)
    alone = json.loads((tmp_path / "alone.json").read_text())
    assert later["checks"][1] == alone["checks"][1] and later["p"] == alone["p"]
    assert any("committed to later than the other claim" in note for note in later["notes"])
    assert not any("without a commitment" in note for note in later["notes"])


@pytest.mark.slow
def test_a_made_up_text_owns_nothing_alone_nor_beside_the_owner(dispute, run_main, owner, thief):
    alone = run_main("main_verify.py", "--claim", thief / "forged/claim.json", "--commitment", thief / "forged/commitment.json",
                     "--suspect", owner / "own.pth.tar", "--restarts", 0)
    assert alone.returncode == 1 and verdicts(alone) == ["not shown"], alone.stdout
    done = dispute("jane", "forged", suspect=owner / "own.pth.tar")
    assert done.returncode == 0 and verdicts(done) == ["owned", "not shown"]
    assert conclusion(done) == f"the first claim ({OWNER}) owns; the second does not show"


@pytest.mark.slow
def test_on_somebody_elses_model_neither_shows(dispute, owner):
    done = dispute("jane", "again", suspect=owner / "innocent.pth.tar")
    assert done.returncode == 1 and verdicts(done) == ["not shown"] * 2 and conclusion(done) == "not shown"
    done = dispute("forged", "jane", suspect=owner / "pruned.pth.tar")
    assert conclusion(done).startswith(("the second claim", "both show"))


@pytest.mark.slow
def test_only_the_second_shows(dispute, owner):
    done = dispute("again", "jane", suspect=owner / "own.pth.tar")
    assert done.returncode == 0 and verdicts(done) == ["not shown", "owned"]
    assert conclusion(done) == f"the second claim ({OWNER}) owns; the first does not show"


@pytest.mark.slow
def test_a_key_for_a_mask_that_was_seen_is_not_counted(run_main, owner, thief, tmp_path):
    """Somebody who has the locked ticket names any weights outside it as his key."""
    locked = tickets.read_model_file(owner / "locked.pth.tar", build_model("res20s", 10))
    made_up = Mask({name: ~layer & (torch.arange(layer.numel()).view(layer.shape) % 50 == 0) for name, layer in locked.mask.items()})
    key_masks.write_split(tmp_path / "key.pth.tar", tmp_path / "locked.pth.tar", made_up, locked.mask, locked.initial, {})
    words = ("--save_dir", tmp_path / "first", "--v1", tmp_path / "locked.pth.tar", "--key", tmp_path / "key.pth.tar")
    assert run_main("make_claim.py", "--owner", "John", *words).returncode == 0
    words = ("--save_dir", tmp_path / "second", "--v1", owner / "locked.pth.tar", "--key", owner / "key.pth.tar")
    assert run_main("make_claim.py", "--owner", OWNER, "--sign", owner / "owner.key", *words).returncode == 0
    done = run_main("main_verify.py", "--claim", tmp_path / "first/claim.json", "--claim", tmp_path / "second/claim.json",
                    "--commitment", tmp_path / "second/commitment.json", "--commitment", tmp_path / "first/commitment.json",
                    "--suspect", owner / "locked.pth.tar", "--key", owner / "key.pth.tar", "--key", tmp_path / "key.pth.tar")
    assert done.returncode == 0 and verdicts(done) == ["not shown", "owned"], done.stdout + done.stderr
    assert "not counted: no part of the key was drawn, so anybody could have foreseen it" in done.stdout


@pytest.mark.parametrize("first", [OWNED, NOT_SHOWN, REFUSED])
@pytest.mark.parametrize("second", [OWNED, NOT_SHOWN, REFUSED])
def test_conclusions(first, second):
    sides = [side(found, name) for found, name in ((first, "Jane"), (second, "John"))]
    number, text = rivals.conclude(sides)
    assert number == (0 if first == OWNED else 1 if second == OWNED else None)
    expected = {(OWNED, OWNED): "both show; the earlier commitment decides: the first claim (Jane) owns",
                (OWNED, NOT_SHOWN): "the first claim (Jane) owns; the second does not show",
                (OWNED, REFUSED): "the first claim (Jane) owns; the second is refused",
                (NOT_SHOWN, OWNED): "the second claim (John) owns; the first does not show",
                (REFUSED, OWNED): "the second claim (John) owns; the first is refused",
                (NOT_SHOWN, NOT_SHOWN): "not shown", (NOT_SHOWN, REFUSED): "not shown; the second claim is refused",
                (REFUSED, NOT_SHOWN): "not shown; the first claim is refused", (REFUSED, REFUSED): "both claims are refused"}
    assert text == expected[first, second]


def side(found: str, name: str, committed: bool = True, fidelity=None, accuracy: float | None = None) -> arbiter.Side:
    public = commitment.Commitment({}) if committed else None
    checks = () if accuracy is None else (Check("F", "met", "", figures={"accuracy": accuracy}),)
    claim = OwnerClaim(name, None, "res20s", fidelity)
    return arbiter.Side(arbiter.Opened(name, None, claim, public),
                        Verdict(found, checks, Fraction(1, 10**12), 1e-9, ()), {}, Standing.COMMITTED if committed else Standing.NONE)


def test_without_commitments_nothing_tells_which_is_the_earlier(run_main, owner, thief):
    done = run_main("main_verify.py", "--claim", owner / "claim.json", "--claim", thief / "again/claim.json", "--suspect",
                    thief / "again.pth.tar", "--restarts", 0)
    assert done.returncode == 1 and verdicts(done) == [UNDECIDED] * 2
    assert conclusion(done) == "both show; neither was committed to, so nothing tells which is the earlier"


def test_of_two_marks_the_one_that_was_committed_to_decides(run_main, owner, thief):
    done = run_main("main_verify.py", "--claim", owner / "claim.json", "--claim", thief / "again/claim.json", "--commitment",
                    owner / "commitment.json", "--suspect", thief / "again.pth.tar", "--restarts", 0)
    assert done.returncode == 0 and verdicts(done) == ["owned", EARLIER_OWNS], done.stderr
    assert conclusion(done) == f"both show; only the first was committed to: the first claim ({OWNER}) owns"
    assert "the second was not committed to, so it counts" in done.stdout and "committed to later" not in done.stdout


# --- claims that do not hold ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def altered(owner, thief, tmp_path_factory):
    """Both claims with another name in them."""
    folder, paths = tmp_path_factory.mktemp("altered"), {}
    for name, path in (("jane", owner / "claim.json"), ("again", thief / "again/claim.json")):
        content = json.loads(path.read_text())
        content["fields"]["owner"]["value"] = "Jack"
        paths[name] = folder / f"{name}.json"
        paths[name].write_bytes(commitment._text(content))
    return paths


@pytest.mark.slow
@pytest.mark.parametrize("turned", [False, True], ids=["in order", "turned"])
def test_a_claim_that_was_altered_is_refused_and_the_other_one_judged(run_main, owner, thief, altered, tmp_path, turned):
    true = {"jane": owner / "claim.json", "again": thief / "again/claim.json"}
    published = [owner / "commitment.json", thief / "again/commitment.json"]
    words = (*itertools.chain(*(("--commitment", path) for path in (published[::-1] if turned else published))),
             "--suspect", thief / "again.pth.tar", "--restarts", 0, "--json", tmp_path / "out.json")

    def run(first, second):
        done = run_main("main_verify.py", "--claim", first, "--claim", second, *words)
        return done, json.loads((tmp_path / "out.json").read_text())

    done, found = run(altered["jane"], true["again"])
    assert done.returncode == 0 and verdicts(done) == ["refused", "owned"], done.stderr
    assert conclusion(done) == "the second claim (John) owns; the first is refused"
    assert "changed since: 'owner'" in done.stdout and "changed since: 'owner'" in found["claims"][0]["notes"][0]
    # alone means as committed
    run_main("main_verify.py", "--claim", true["again"], "--commitment", published[1], *words[4:6], "--restarts", 0, "--json",
             tmp_path / "alone.json")
    alone = json.loads((tmp_path / "alone.json").read_text())
    assert not found["claims"][1]["later"] and found["claims"][1]["p"] == alone["p"]

    done, found = run(true["jane"], altered["again"])
    assert done.returncode == 0 and verdicts(done) == ["owned", "refused"]
    assert conclusion(done) == f"the first claim ({OWNER}) owns; the second is refused"

    done, _ = run(altered["jane"], altered["again"])
    assert done.returncode == 2 and conclusion(done) == "both claims are refused"
    assert len(done.stderr.splitlines()) == 1 and done.stderr.count("changed since: 'owner'") == 2


def test_an_altered_copy_of_the_owners_claim_does_not_take_her_commitment(run_main, owner, altered):
    """It states her root, but her own file is what opens it."""
    done = run_main("main_verify.py", "--claim", altered["jane"], "--claim", owner / "claim.json", "--commitment",
                    owner / "commitment.json", "--suspect", owner / "own.pth.tar", "--restarts", 0)
    assert done.returncode == 0 and verdicts(done) == ["refused", "owned"], done.stderr
    assert "'root' is not that of the fields" in done.stdout


A, B, C = (bytes([number]) * 32 for number in range(3))


@pytest.mark.parametrize(("claims", "commitments", "expected"), [
    ([(A, A), (B, B)], [A, B], [0, 1]), ([(A, A), (B, B)], [B, A], [1, 0]), ([(A, A), (B, B)], [B], [None, 0]),
    ([(A, A), (B, B)], [], [None, None]), ([(C, A), (B, B)], [B, A], [1, 0]), ([(C, A), (A, A)], [A], [None, 0]),
    ([(C, A), (A, A)], [B, A], [None, 1]), ([(C, C), (B, B)], [A, B], [None, 1]), ([(C, C), (B, B)], [B, A], [None, 0]),
    ([(None, None), (B, B)], [None, B], [0, 1]), ([(None, None), (None, None)], [A, B], [0, 1]),
    ([(None, None), (B, B)], [C], [0, None]), ([(A, A), (None, None)], [C, A], [1, 0]),
    ([(A, A), (B, B)], [None], [None, None]), ([(A, A), (B, B)], [C, A], [1, None])])
def test_commitments_go_to_whom_they_belong(claims, commitments, expected):
    assert sorting.pair_commitments(claims, commitments) == expected


@pytest.mark.parametrize(("given", "message"), [
    ("strange", "--commitment {0}: belongs to neither claim; leave it out"),
    ("strange jane", "--commitment {0}: belongs to neither claim; leave it out"),
    ("again strange", "--commitment {1}: belongs to neither claim; leave it out"),
    ("some", "{0}: belongs to neither claim; the first has some of its fields, and differs from it in 'v2.version'."),
    ("some again", "--commitment {0}: belongs to neither claim; the first has some of its fields"),
    ("false again", "--commitment {0}: belongs to neither claim, as it can't be read ({0}: 'root' is not that of the leaves"),
    ("text again", "--commitment {0}: belongs to neither claim, as it can't be read ({0}: not a JSON file"),
    ("signed again", "--commitment {0}: has the fields of the first claim, but is signed by another key; take the file from"),
    ("unsigned again", "--commitment {0}: has the fields of the first claim, but is signed by nobody; take the file from")])
def test_no_claim_is_refused_for_a_commitment_of_the_rivals_making(run_main, owner, thief, refused, tmp_path, given, message):
    """John names what refutes Jane's claim, and would own her model: another claim's commitment, one that shares all published
    leaves but one with hers, a damaged copy, and hers without her signature."""
    hers = json.loads((owner / "commitment.json").read_text())
    private, _ = commitment.read_claim(owner / "claim.json")
    public = commitment.read_commitment(owner / "commitment.json")
    some = commitment.Commitment({**public.leaves, "v2.version": bytes(32)})
    contents = {"some": commitment._public_content(some), "false": {**hers, "root": "0" * 64},
                "signed": commitment._public_content(commitment.commit(private, Ed25519PrivateKey.generate())),
                "unsigned": commitment._public_content(commitment.commit(private))}
    for name, content in contents.items():
        (tmp_path / f"{name}.json").write_bytes(commitment._text(content))
    (tmp_path / "text.json").write_text("no commitment")
    paths = {"strange": thief / "forged/commitment.json", "jane": owner / "commitment.json",
             "again": thief / "again/commitment.json", **{name: tmp_path / f"{name}.json" for name in (*contents, "text")}}
    files = [paths[name] for name in given.split()]
    done = run_main("main_verify.py", "--claim", owner / "claim.json", "--claim", thief / "again/claim.json",
                    *itertools.chain(*(("--commitment", path) for path in files)), "--suspect", thief / "again.pth.tar",
                    "--restarts", 0, "--json", tmp_path / "out.json", "--report", tmp_path / "page.html")
    assert message.format(*files) in refused(done) and not done.stdout
    assert not (tmp_path / "out.json").exists() and not (tmp_path / "page.html").exists()


def test_a_claim_that_was_made_consistent_again_opens_nothing(run_main, owner, thief, refused, tmp_path):
    private, _ = commitment.read_claim(thief / "again/claim.json")
    changed = commitment.SaltedClaim({**private.values, "owner": "Jack", "arch": "res18"}, private.salts)
    (tmp_path / "changed.json").write_bytes(commitment._text(commitment._private_content(changed)))
    done = run_main("main_verify.py", "--claim", owner / "claim.json", "--claim", tmp_path / "changed.json", "--commitment",
                    owner / "commitment.json", "--commitment", thief / "again/commitment.json", "--suspect",
                    thief / "again.pth.tar", "--restarts", 0)
    assert "belongs to neither claim; the second has some of its fields, and differs from it in 'arch', 'owner'." in refused(done)


def test_a_rival_whose_claim_can_not_be_read_is_refused_whatever_his_commitment_is(run_main, owner, thief, tmp_path):
    (tmp_path / "claim.json").write_text("{")
    done = run_main("main_verify.py", "--claim", tmp_path / "claim.json", "--claim", owner / "claim.json", "--commitment",
                    thief / "forged/commitment.json", "--commitment", owner / "commitment.json", "--suspect",
                    owner / "own.pth.tar", "--restarts", 0)
    assert done.returncode == 0 and verdicts(done) == ["refused", "owned"], done.stderr
    assert "claim.json: not a JSON file that can be read" in done.stdout


@pytest.mark.slow
def test_claims_about_another_network_are_refused(run_main, owner, thief, tmp_path):
    private, _ = commitment.read_claim(thief / "again/claim.json")
    other = commitment.salted({**private.values, "arch": "res18", "v2.arch": "res18"}, private.format)
    claim, public = commitment.write(tmp_path, other, commitment.commit(other, THIEFS_KEY))
    done = run_main("main_verify.py", "--claim", claim, "--claim", owner / "claim.json", "--commitment", public, "--commitment",
                    owner / "commitment.json", "--suspect", owner / "own.pth.tar", "--restarts", 0)
    assert done.returncode == 0 and verdicts(done) == ["refused", "owned"], done.stderr
    assert "is about res18, which the suspect is not" in done.stdout


# --- which file is whose ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("turned", [False, True])
def test_keys_and_sets_go_to_the_claim_that_names_them(dispute, owner, thief, tmp_path, turned):
    words = [("--trigger_key", owner / "trigger.key"), ("--trigger_key", owner / "other.key"),
             ("--trigger_dir", thief / "trigger_set"), ("--key", owner / "key.pth.tar")]
    done = dispute("jane", "triggers", *itertools.chain(*(words[::-1] if turned else words)), "--json", tmp_path / "out.json",
                   suspect=owner / "own.pth.tar")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    triggers = [next(check for check in claim["checks"] if check["check"] == "V3") for claim in found["claims"]]
    assert [check["key_shown"] for check in triggers] == [True, True]
    assert triggers[0]["correct"] == TRIGGERS > 12 > triggers[1]["correct"]
    assert [check["check"] for check in found["claims"][0]["checks"]] == ["F", "V1", "V2", "V3"]
    assert len({row["sha256"] for row in found["inputs"] if row["input"] == "trigger set"}) == 2


def test_what_both_claims_need_is_read_once(dispute, owner, thief, monkeypatch):
    """The suspect by both claims; a key's file and a trigger set to tell whose they are, and to check them."""
    read = []
    for module, name in (("ownership.claims.case", "read_suspect"), ("pruner.tickets", "read_model_file"),
                         ("datasets.trigger", "load_exported"), ("datasets.trigger", "keyed")):
        original = getattr(importlib.import_module(module), name)
        monkeypatch.setattr(f"{module}.{name}", lambda what, *words, name=name, original=original, **more: (
            read.append((name, what)), original(what, *words, **more))[1])
    done = dispute("jane", "again", "--key", owner / "key.pth.tar", "--trigger_dir", owner / "triggers", "--trigger_key",
                   owner / "trigger.key")
    assert done.returncode == 0, done.stderr
    of_key = [what for name, what in read if name == "read_model_file" and str(what) == str(owner / "key.pth.tar")]
    assert len(of_key) == 1
    assert [(name, str(what) if name == "read_suspect" else what) for name, what in read if name != "read_model_file"] == [
        ("load_exported", str(owner / "triggers")), ("keyed", (owner / "trigger.key").read_bytes().strip()),
        ("read_suspect", str(thief / "again.pth.tar"))]


def test_answers_of_both_sets(dispute, run_main, owner, thief, refused, tmp_path):
    keys = ("--trigger_key", owner / "trigger.key", "--trigger_key", owner / "other.key")
    done = dispute("jane", "triggers", *keys, "--predictions", owner / "right.csv", "--predictions", owner / "right.csv",
                   suspect=None)
    assert done.returncode == 0 and verdicts(done) == ["owned", "not shown"], done.stderr
    message = refused(dispute("jane", "triggers", *keys, "--predictions", owner / "right.csv", suspect=None))
    assert "argument --predictions: of two claims one list each" in message
    done = dispute("jane", "again", *keys[:2], *["--predictions", owner / "right.csv"] * 2, suspect=None)
    assert done.returncode == 0 and verdicts(done) == ["owned", "refused"] and "has no V3" in done.stdout


# --- accuracy ---------------------------------------------------------------------------------------------------------


def test_the_later_mark_costs_accuracy(dispute, monkeypatch, tmp_path):
    from ownership.suspects import classifier as suspect_model

    calls, measure = [], suspect_model.accuracy_of
    monkeypatch.setattr(suspect_model, "accuracy_of", lambda *words: calls.append(words) or measure(*words))
    done = dispute("jane", "again", "--dataset", "digits", "--json", tmp_path / "out.json")
    found = json.loads((tmp_path / "out.json").read_text())
    targets = [json.loads(open(claim["claim"]).read())["fields"]["fidelity.target"]["value"] for claim in found["claims"]]
    accuracy = found["rivals"]["accuracy"]
    assert len(calls) == 1, "measured once"
    assert accuracy["targets"] == targets and accuracy["suspect"] == [targets[1]] * 2, "John's target is of this very model"
    assert accuracy["claimed_cost"] == accuracy["suspect_cost"] == targets[0] - targets[1]
    way = "above" if targets[1] > targets[0] else "below"
    assert f"target is {abs(targets[0] - targets[1]):.2f} points {way} the first's target" in done.stdout
    assert [claim["checks"][0]["check"] for claim in found["claims"]] == ["F", "F"]


@pytest.mark.slow
def test_a_rival_who_speaks_of_other_pictures_is_not_measured(dispute, run_main, owner, thief, refused, tmp_path):
    private, _ = commitment.read_claim(thief / "again/claim.json")
    for name, changes, why in (("cifar", {"fidelity.dataset": "cifar10"}, "the claim is about cifar10"),
                               ("test", {"fidelity.test_sha256": "0" * 64}, "the claim is about other test pictures of digits"),
                               ("size", {"fidelity.image_size": 9, "fidelity.test_sha256": "0" * 64},
                                "the test pictures can't be had as the claim names them (--image_size 9: digits are 8x8; leave the "
                                "flag out)")):
        other = commitment.salted({**private.values, **changes}, private.format)
        claim, public = commitment.write(tmp_path / name, other, commitment.commit(other, THIEFS_KEY))
        words = ("--suspect", thief / "again.pth.tar", "--restarts", 0, "--dataset", "digits")
        done = run_main("main_verify.py", "--claim", owner / "claim.json", "--claim", claim, "--commitment", public,
                        "--commitment", owner / "commitment.json", *words, "--json", tmp_path / "out.json")
        assert done.returncode == 0, done.stderr
        found = json.loads((tmp_path / "out.json").read_text())
        first, second = (claim["checks"][0] for claim in found["claims"])
        assert first["result"] in ("met", "not met") and (second["result"], second["found"]) == ("not run", why)
        assert found["rivals"]["accuracy"]["claimed_cost"] is None
        assert found["rivals"]["accuracy"]["suspect"] == [first["accuracy"], None]
    both = [thief / "forged", tmp_path / "cifar"]
    message = refused(run_main("main_verify.py", *itertools.chain(*(
        ("--claim", folder / "claim.json", "--commitment", folder / "commitment.json") for folder in both)), *words))
    assert "--dataset digits: neither claim is about these test pictures" in message


@pytest.mark.parametrize(("measured", "same", "expected"), [((90.0, 90.0), True, (2.0, 3.0)), ((None, None), True, (2.0, None)),
                                                            ((90.0, None), False, (None, 3.0))])
def test_costs_by_hand(measured, same, expected):
    claimed = [Fidelity("digits", None, "a" * 64, 93.0, 1), Fidelity("digits", None, ("a" if same else "b") * 64, 91.0, 1)]
    found = rivals.compare_accuracy([side(OWNED, "x", True, *words) for words in zip(claimed, measured)])
    assert (found.claimed_cost, found.suspect_cost) == expected


@pytest.mark.parametrize(("measured", "said"), [
    (92.72, "the suspect is 0.28 points below the first's target, within its tolerance"),
    (92.0, "the suspect is 1.00 points below the first's target, within its tolerance"),
    (91.99, "the suspect is 1.01 points below the first's target, more than its tolerance"),
    (93.5, "the suspect is 0.50 points above the first's target"), (93.0, "the suspect is as high as the first's target")])
def test_what_the_tolerance_allows_is_said_beside_the_loss(measured, said):
    """F counts it as met, so the comparison must not read as if the suspect had failed."""
    claimed = Fidelity("digits", None, "a" * 64, 93.0, 1)
    check = verdict.fidelity(claimed, measured)
    first = replace(side(OWNED, "Jane", True, claimed), verdict=Verdict(OWNED, (check,), None, 1e-9, ()))
    found = rivals.compare_accuracy([first, side(OWNED, "John")])
    assert found.met == (check.result == "met", None) and rivals.cost_in_words(found)[-1] == said


# --- where the codes lie ----------------------------------------------------------------------------------------------


@st.composite
def codes(draw) -> CodeClaim:
    text = draw(st.text("abcdefgh", min_size=1, max_size=7))
    places = draw(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=3))
    return CodeClaim(text, "res20s", *places[0], draw(st.integers(1, 3)), "H" if len(text) < 7 else "L",
                 draw(st.integers(0, 7)), 0.5, 1, 2, {}, tuple(places[1:]))


@pytest.mark.slow
@settings(max_examples=60)
@given(first=codes(), second=codes())
def test_overlaps_by_brute_force(first, second):
    def kernels(claim):
        written, size = {}, qr_code.code_size(claim.version)
        code, is_data = qr_code.encode(claim.signature, claim.code_format), qr_code.data_modules(claim.version)
        for place in claim.places:
            for x in range(size):
                for y in range(size):
                    values = written.setdefault((place.layer, place.start_x + x, place.start_y + y), set())
                    values |= {bool(code[x, y])} if is_data[x, y] else set()
        return written

    one, other = kernels(first), kernels(second)
    both = one.keys() & other.keys()
    contested = sum(any(a != b for a in one[kernel] for b in other[kernel]) for kernel in both)
    assert compare_regions(first, second) == Regions(len(both), contested)
    assert compare_regions(second, first) == Regions(len(both), contested)


def test_a_code_over_another_is_told_by_its_place(dispute, thief, tmp_path):
    done = dispute("again", "over", "--json", tmp_path / "out.json", suspect=thief / "over.pth.tar")
    found = json.loads((tmp_path / "out.json").read_text())
    regions = found["rivals"]["regions"]
    assert regions["overlap"] == 5 * 29 and 0 < regions["contested"] < regions["overlap"]
    first, second = (next(check for check in claim["checks"] if check["check"] == "V2") for claim in found["claims"])
    # the first code is wrong just where the second was written over it with something else
    assert first["lost"] + first["added"] >= regions["contested"] and second["lost"] == second["added"] == 0
    assert verdicts(done) == ["owned", EARLIER_OWNS]
    assert f"overlap in {regions['overlap']} modules; in {regions['contested']} of these" in done.stdout


@pytest.mark.slow
def test_a_rivals_text_of_nothing_but_nuls_is_his_refusal_alone(run_main, owner, thief, tmp_path):
    """Whoever is named first; the owner stays the owner."""
    private, _ = commitment.read_claim(thief / "again/claim.json")
    claim = commitment.salted({**private.values, "v2.signature": "\0" * 24}, private.format)
    commitment.write(tmp_path, claim, commitment.commit(claim, commitment.read_owner_key(thief / "thief.key")))
    for order in ([owner, tmp_path], [tmp_path, owner]):
        done = run_main("main_verify.py", *itertools.chain(*(("--claim", folder / "claim.json", "--commitment", folder /
                        "commitment.json") for folder in order)), "--suspect", owner / "own.pth.tar", "--restarts", 0)
        assert done.returncode == 0 and sorted(verdicts(done)) == ["owned", "refused"], done.stdout + done.stderr
        assert f"({OWNER}) owns" in conclusion(done) and "the signature has a NUL" in done.stdout


@pytest.mark.slow
def test_in_two_numberings_places_are_not_compared(dispute, run_main, owner, thief, tmp_path):
    """John renumbers Jane's model, signs it, and each brings a model of the own numbering."""
    model = build_model("res20s", 10)
    own = tickets.read_model_file(owner / "own.pth.tar", model)
    mask, weights = permute(own.mask, own.weights, model, seed=5)
    derived = derived_for(THIEFS_KEY, "John", mask)
    text = derived.pop("signature")
    region = find_region(mask, text, Wish("layer3.1.conv2"))
    signed = embed(mask, text, region, np.random.default_rng(0))
    assert signed.nonzeros == mask.nonzeros
    weights = {**weights, **{f"{name}.weight": torch.where(kept, torch.where(weights[f"{name}.weight"] != 0,
                                                                             weights[f"{name}.weight"], 0.01), 0.0)
                             for name, kept in signed.items()}}
    tickets.write_weights(tmp_path / "suspect.pth.tar", weights, {}, signed)
    write_claim(tmp_path / "v2.json", claim_of(signed, text, region, region.code_format, **derived))
    assert run_main("make_claim.py", "--owner", "John", "--sign", thief / "thief.key", "--v2", tmp_path / "v2.json", "--save_dir", tmp_path).returncode == 0
    done = run_main("main_verify.py", "--claim", owner / "claim.json", "--claim", tmp_path / "claim.json", "--commitment",
                    tmp_path / "commitment.json", "--commitment", owner / "commitment.json", "--suspect",
                    tmp_path / "suspect.pth.tar", "--aligned_to", owner / "unsigned.pth.tar", "--aligned_to",
                    tmp_path / "suspect.pth.tar", "--restarts", 0, "--json", tmp_path / "out.json")
    assert done.returncode == 0 and verdicts(done) == ["owned", EARLIER_OWNS], done.stdout + done.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    first, second = (next(check for check in claim["checks"] if check["check"] == "V2") for claim in found["claims"])
    assert first["aligned_to"] == str(owner / "unsigned.pth.tar") and second.get("aligned_to") is None
    # hers is the ticket that her text is the hash of; his text is that of neither file
    assert first["numberings"] == 2 and "uncounted_p" in first and "numberings" not in second and "uncounted_p" in second
    assert found["rivals"]["regions"] is None and "the codes show in different numberings" in done.stdout


# --- the claimants' own models ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_own_models_tell_who_had_it_first_whatever_the_dates_say(dispute, owner, thief, tmp_path):
    jane, john = owner / "own.pth.tar", thief / "again.pth.tar"
    for first, second, models in (("jane", "again", (jane, john)), ("again", "jane", (john, jane))):
        done = dispute(first, second, "--own", models[0], "--own", models[1], "--json", tmp_path / "out.json")
        assert done.returncode == 0, done.stderr
        found = json.loads((tmp_path / "out.json").read_text())
        own = found["rivals"]["own_models"]
        assert [claim["verdict"] for claim in found["claims"]] == ["owned", EARLIER_OWNS]
        assert {one["verdict"] for row in own["verdicts"] for one in row} <= {"shown", "not shown"}, "nobody owns his own model"
        assert re.search("^mark in the first's own model: +first shown, p .*; second (not )?shown, p ", done.stdout, re.M)
        assert own["files"] == [str(path) for path in models]
        assert own["supports"] == ("first" if first == "jane" else "second")
        assert own["shows"] == ([[True, True], [False, True]] if first == "jane" else [[True, False], [True, True]])
        assert ("contradict the conclusion" in done.stdout) == (first == "again")


@pytest.mark.slow
def test_a_made_up_text_that_was_committed_to_first_is_no_mark(dispute, owner, tmp_path):
    """John has Jane's model before she commits, and makes up a text. Its date is the earlier, but he chose it."""
    own = owner / "own.pth.tar"
    done = dispute("forged", "jane", "--own", own, "--own", own, suspect=own)
    assert verdicts(done) == ["not shown", "owned"]
    assert conclusion(done) == f"the second claim ({OWNER}) owns; the first does not show"


@pytest.mark.slow
def test_own_models_with_both_marks_or_none_tell_nothing(dispute, owner, thief):
    john, other = thief / "again.pth.tar", owner / "innocent.pth.tar"
    for first, second, text in ((john, john, "each mark is in the other's own model"),
                                (owner / "own.pth.tar", other, "neither mark is in the other's own model")):
        done = dispute("jane", "again", "--own", first, "--own", second)
        assert f"own models: {text}; that tells nothing" in done.stdout and "contradict" not in done.stdout


@pytest.mark.slow
def test_trigger_sets_are_asked_of_own_models(dispute, owner, thief, tmp_path):
    words = ("--trigger_key", owner / "trigger.key", "--own", owner / "own.pth.tar", "--own", thief / "again.pth.tar")
    dispute("jane", "again", *words, "--json", tmp_path / "out.json")
    table = json.loads((tmp_path / "out.json").read_text())["rivals"]["own_models"]["verdicts"]
    names = [[[check["check"] for check in found["checks"]] for found in row] for row in table]
    assert names == [[["V1", "V2", "V3"]] * 2, [["V2"]] * 2]
    on_own, on_other = (next(check for check in found["checks"] if check["check"] == "V3") for found in table[0])
    assert on_own["correct"] == TRIGGERS > on_other["correct"]


@pytest.mark.parametrize(("crossed", "expected"), [((True, False), 0), ((False, True), 1), ((True, True), None),
                                                   ((False, False), None), ((None, True), None), ((True, None), None)])
def test_support_by_hand(crossed, expected):
    def found(shows):
        return Verdict(SHOWN if shows else NOT_SHOWN, (), None if shows is None else Fraction(1, 3), 1e-9, ())

    own = rivals.OwnModels(("a", "b"), ((found(True), found(crossed[0])), (found(crossed[1]), found(True))))
    assert own.supports == expected
    assert ("supports the " + rivals.NAMES[expected] if expected is not None else "tells nothing") in rivals.in_words(own)


# --- the page ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_page_shows_both_codes_and_escapes_everything(dispute, owner, thief, tmp_path):
    done = dispute("again", "over", "--dataset", "digits", "--own", owner / "own.pth.tar", "--own", thief / "over.pth.tar",
                   "--json", tmp_path / "out.json", "--report", tmp_path / "page.html", suspect=thief / "over.pth.tar")
    page = Page(tmp_path / "page.html")
    assert_self_contained(page)
    found = json.loads((tmp_path / "out.json").read_text())
    codes = [next(check for check in claim["checks"] if check["check"] == "V2") for claim in found["claims"]]
    assert [int(count) for count in re.findall(r"(\d+) of 567 modules differ; by chance about half would", page.text)] \
        == [code["lost"] + code["added"] for code in codes]
    fills = [[attributes["fill"], attributes["d"].count("M")] for tag, attributes in page.tags if tag == "path"]
    assert ["#f5a3a3", codes[0]["lost"]] in fills and ["#c00000", codes[0]["added"]] in fills
    texts = [json.loads((thief / f"{name}.v2.json").read_text())["signature"] for name in ("again", "over")]
    for text in (*texts, found["conclusion"], *found["rivals"]["notes"], "points", "overlap in"):
        assert text in page.text
    for row in found["inputs"]:
        assert row["sha256"] in page.text
    assert done.returncode == 0


@pytest.mark.parametrize(("found", "committed", "badges"), [
    ((OWNED, OWNED), (True, True), ("owned", EARLIER_OWNS)), ((OWNED, OWNED), (False, False), (UNDECIDED, UNDECIDED)),
    ((NOT_SHOWN, OWNED), (True, True), ("not shown", "owned")), ((REFUSED, OWNED), (True, True), ("refused", "owned")),
    ((OWNED, NOT_SHOWN), (True, True), ("owned", "not shown"))])
def test_one_claim_at_most_is_green_on_the_page(tmp_path, found, committed, badges):
    """Who looks at the colours alone must see who owns the suspect."""
    sides = [replace(side(one, name, is_so), facts={"suspect": "suspect"})
             for one, name, is_so in zip(found, ("Jane", "John"), committed)]
    write_comparison_report(tmp_path / "page.html", rivals.compare(sides), [], {})
    page = Page(tmp_path / "page.html")
    colours = [attributes["class"] for tag, attributes in page.tags if (attributes.get("class") or "").startswith("verdict ")]
    assert colours == [f"verdict {badge if badge in ('owned', 'refused') else ''}" for badge in (*badges, *badges)]
    assert re.findall(r'<span class="verdict [^"]*">([^<]*)<', (tmp_path / "page.html").read_text()) == [*badges, *badges]


def test_the_page_names_what_was_refused(run_main, owner, thief, altered, tmp_path):
    run_main("main_verify.py", "--claim", altered["jane"], "--claim", thief / "again/claim.json", "--commitment",
             owner / "commitment.json", "--commitment", thief / "again/commitment.json", "--suspect", thief / "again.pth.tar",
             "--restarts", 0, "--report", tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    assert_self_contained(page)
    assert "changed since: 'owner'" in page.text and "the first is refused" in page.text and "refused" in page.text


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("words", "message"), [
    (("--claim jane --claim jane",), "argument --claim: {jane} is given twice"),
    (("--claim jane --claim copy",), "are the same claim"),
    (("--claim jane --claim again --claim forged",), "argument --claim: given 3 times"),
    (("--claim jane --commitment jane.public --commitment again.public",), "argument --commitment: given 2 times, --claim once"),
    (("--claim jane --key key --key key",), "argument --key: given 2 times, --claim once"),
    (("--claim jane --claim again --commitment jane.public --commitment jane.public",), "are the same commitment"),
    (("--claim jane --claim again --commitment again.public",), "name the other one first"),
    (("--claim jane --own own --own own",), "argument --own: is for two claims"),
    (("--claim jane.public --claim again.public --commitment jane --commitment again",), "is a claim, no commitment (swapped?)"),
    (("--claim jane.public --claim again --commitment jane --commitment again.public",), "is a claim, no commitment (swapped?)"),
    (("--claim jane.code --claim jane.public",), "jane.v2.json: is embed_qrcode.py's claim of one code"),
    (("--claim jane --claim again --own own",), "argument --own: is for two claims, and needs both"),
    (("--claim jane --claim again --own own --own text",), "text"),
    (("--claim jane --claim again --key wrong_key",), "belongs to neither claim (v1.key_sha256)"),
    (("--claim jane --claim again --key own",), "is not the key part of a split ticket"),
    (("--claim jane --claim again --trigger_key other.key",), "belongs to neither claim (v3.sha256)"),
    (("--claim jane --claim again --trigger_key trigger.key --trigger_key trigger.key",), "the first claim has its own"),
    (("--claim jane --claim again --trigger_dir triggers",), "belongs to neither claim (v3.sha256)"),
    (("--claim jane --claim again --aligned_to text",), "text"),
    (("--claim jane --claim again" + " --aligned_to own" * 9,), "argument --aligned_to: given 9 times"),
    (("--claim jane --claim none",), "no such file"), (("--claim jane --claim again --commitment none",), "no such file")])
def test_bad_input_is_one_line(run_main, owner, thief, refused, tmp_path, words, message):
    (tmp_path / "copy.json").write_bytes((owner / "claim.json").read_bytes())
    (tmp_path / "text").write_text("no model")
    (tmp_path / "jane.v2.json").write_bytes((owner / "v2.json").read_bytes())
    names = {"jane": owner / "claim.json", "jane.public": owner / "commitment.json", "copy": tmp_path / "copy.json",
             "jane.code": tmp_path / "jane.v2.json", "again": thief / "again/claim.json", "again.public": thief / "again/commitment.json",
             "forged": thief / "forged/claim.json", "own": owner / "own.pth.tar", "key": owner / "key.pth.tar",
             "wrong_key": owner / "wrong_key.pth.tar", "other.key": owner / "other.key", "trigger.key": owner / "trigger.key",
             "triggers": thief / "trigger_set", "text": tmp_path / "text", "none": tmp_path / "none"}
    done = run_main("main_verify.py", *(names.get(word, word) for word in words[0].split()), "--suspect", owner / "own.pth.tar",
                    "--restarts", 0, "--json", tmp_path / "out.json", "--report", tmp_path / "page.html")
    assert message.replace("{jane}", str(names["jane"])) in refused(done) and "verdict" not in done.stdout
    assert not (tmp_path / "out.json").exists() and not (tmp_path / "page.html").exists()


@pytest.mark.slow
@settings(max_examples=30)
@given(order=st.permutations([0, 1]), text=st.text(max_size=30))
def test_a_hostile_name_can_not_write_a_conclusion(order, text):
    sides = [side(OWNED, text), side(NOT_SHOWN, "John")]
    number, said = rivals.conclude([sides[index] for index in order])
    assert order[number] == 0 and said.endswith("does not show")
