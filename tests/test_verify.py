"""Claims, commitments, verdicts and their page: what opens, what is refused, who owns what, and hostile files."""

import copy
import hashlib
import json
import math
import os
import re
import shutil
import stat
from contextlib import nullcontext
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from scipy.stats import binom
from stand_ins import (OWNER_KEY, KEY, OTHER_KEY, OWNER, SIGNATURE, TRIGGERS, Page, assert_self_contained, hangs, random_mask,
                       serving)

from attacks.permute import permute
from attacks.prune import prune
from datasets import load_dataset, trigger
from models import build_model
from ownership.claims import arbiter, case, commitment, owner_claim, verdict, wording
from ownership.trigger_set import endpoint as open_inference, evidence as trigger_evidence
from ownership.qr_code.claim import CodeClaim, write_claim
from ownership.claims.commitment import Refused, open_claim
from ownership.claims.verdict import Standing
from ownership.key_mask.claim import mask_sha256
from ownership.qr_code import check as code_check
from ownership.trigger_set.claim import Triggers
from ownership.qr_code.evidence import p_value, parity_parts
from ownership.trigger_set.endpoint import Service
from ownership.claims.report import draw, write_report
from ownership.suspects.reading import Suspect
from pruner import tickets
from pruner.qr_code import geometry as qr_code
from pruner.channel_groups import ChannelGroups, channel_groups
from pruner.qr_code.linear_code import linear_code
from pruner.masks import Mask, prunable_layers
from utils import checkpoint
from utils.errors import UserError

@pytest.fixture(scope="module")
def verify(run_main, owner):
    """verify(*words, commitment=True): main_verify.py on the owner's claim."""

    def run(*words, claim=owner / "claim.json", commitment=owner / "commitment.json"):
        return run_main("main_verify.py", "--claim", claim, *(("--commitment", commitment) if commitment else ()), *words)

    return run


def results(stdout: str) -> dict[str, str]:
    """Check -> result, of the printed table."""
    return {match[1]: match[2] for match in re.finditer(r"^(F|V1|V2|V3) +(met|not met|shown|not shown|not run)  ", stdout, re.M)}


@pytest.fixture
def files(owner, tmp_path):
    """Claim and commitment as Python values, and write(content, name) -> path, in the form that make_claim.py has."""
    content = {name: json.loads((owner / f"{name}.json").read_text()) for name in ("claim", "commitment")}

    def write(name: str, changed) -> object:
        (tmp_path / f"{name}.json").write_bytes(commitment._text(changed))
        return tmp_path / f"{name}.json"

    return copy.deepcopy(content), write


# --- the claim and its commitment -------------------------------------------------------------------------------------


def test_a_claim_comes_back_as_it_was_made(owner):
    private, public = open_claim(owner / "claim.json", owner / "commitment.json", "owner_key")
    claim = owner_claim.from_fields(private.values, "claim")
    assert claim.owner == OWNER and claim.schemes == ["V1", "V2", "V3"] and claim.arch == "res20s"
    assert claim.parts["V2"].signature == SIGNATURE and claim.parts["V2"].random_state == {"state": 2**127 + 1}
    assert claim.parts["V3"] == Triggers("keyed", trigger.keyed(KEY.encode(), TRIGGERS, 10, 8).fingerprint(), TRIGGERS, 8, 10)
    assert claim.parts["V1"].key_nonzeros > 100 and claim.fidelity.tolerance == 1 and claim.fidelity.dataset == "digits"
    assert owner_claim.to_fields(claim) == private.values
    assert public.owner_key.hex() == claim.owner_key


def test_the_signature_is_one_that_others_can_check(owner):
    public = json.loads((owner / "commitment.json").read_text())
    message = b"lottery-verification/signature/2\0" + bytes.fromhex(public["root"]) + bytes.fromhex(public["label"])
    Ed25519PublicKey.from_public_bytes(bytes.fromhex(public["owner_key"])).verify(bytes.fromhex(public["signature"]), message)


def test_the_digests_are_what_the_documentation_says(owner):
    """Built by hand, so that another program can open a commitment in ten years."""
    private, public = (json.loads((owner / f"{name}.json").read_text()) for name in ("claim", "commitment"))

    def digest(*parts: bytes) -> bytes:
        return hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for part in parts)).digest()

    leaves = {}
    for name, field in private["fields"].items():
        value = json.dumps(field["value"], sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        leaves[name] = digest(b"lottery-verification/leaf/1", name.encode(), bytes.fromhex(field["salt"]), value)
    assert {name: leaf.hex() for name, leaf in leaves.items()} == public["leaves"]
    root = digest(b"lottery-verification/root/1", *(part for name in sorted(leaves) for part in (name.encode(), leaves[name])))
    assert root.hex() == public["root"] == private["root"]


def test_private_files_are_private_and_never_written_over(owner, run_main, refused):
    for name in ("claim.json", "owner.key"):
        assert stat.S_IMODE((owner / name).stat().st_mode) == 0o600
    before = (owner / "owner.key").read_bytes()
    assert "exists" in refused(run_main("make_claim.py", "--new_owner_key", owner / "owner.key"))
    assert (owner / "owner.key").read_bytes() == before
    claim = (owner / "claim.json").read_bytes()
    assert "commitment.json already" in refused(run_main("make_claim.py", "--owner", "x", "--v2", owner / "v2.json",
                                                         "--save_dir", owner))
    assert (owner / "claim.json").read_bytes() == claim


def test_a_commitment_tells_nothing_of_the_claim(owner, run_main, tmp_path):
    for name in ("first", "second"):
        assert run_main("make_claim.py", "--owner", OWNER, "--sign", owner / "owner.key", "--v2", owner / "v2.json", "--save_dir",
                        tmp_path / name).returncode == 0
    first, second = (json.loads((tmp_path / name / "commitment.json").read_text()) for name in ("first", "second"))
    whole = json.loads((owner / "commitment.json").read_text())
    # the same names, whatever is claimed; no leaf twice, neither of equal values here nor of many nulls there
    assert first["leaves"].keys() == second["leaves"].keys() == whole["leaves"].keys()
    leaves = [leaf for public in (first, second, whole) for leaf in public["leaves"].values()]
    assert len(set(leaves)) == len(leaves)
    public = (owner / "commitment.json").read_text()
    private = json.loads((owner / "claim.json").read_text())["fields"]
    assert not any(field["salt"] in public for field in private.values())
    assert not any(word in public for word in (SIGNATURE, "Jane", "digits", private["v3.sha256"]["value"]))


def as_refused(owner, name: str, content: bytes, folder) -> str:
    """The message that a changed file is refused with; the other one is Jane's."""
    paths = {other: owner / f"{other}.json" for other in ("claim", "commitment")}
    paths[name] = folder / f"changed_{name}.json"
    paths[name].write_bytes(content)
    with pytest.raises(Refused) as error:
        private, _ = open_claim(paths["claim"], paths["commitment"], "owner_key")
        owner_claim.from_fields(private.values, "claim")
    assert "\n" not in str(error.value)
    return str(error.value)


@given(data=st.data(), name=st.sampled_from(["claim", "commitment"]), flip=st.integers(1, 255),
       how=st.sampled_from(["change", "remove", "repeat"]))
def test_no_byte_can_be_changed(owner, tmp_path_factory, data, name, flip, how):
    folder = tmp_path_factory.getbasetemp()
    content = bytearray((owner / f"{name}.json").read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    before = bytes(content)
    if how == "change":
        content[at] ^= flip
    elif how == "remove":
        del content[at]
    else:
        content.insert(at, content[at])
    assert bytes(content) != before
    as_refused(owner, name, bytes(content), folder)


def test_changed_values_and_salts_are_named(owner, files, tmp_path):
    content, _ = files
    for name, field in content["claim"]["fields"].items():
        for part, other in (("value", "x" if field["value"] != "x" else "y"), ("salt", "0" * 64)):
            changed = copy.deepcopy(content["claim"])
            changed["fields"][name][part] = other
            assert f"changed since: '{name}'" in as_refused(owner, "claim", commitment._text(changed), tmp_path)


def test_a_consistent_change_is_found_by_the_commitment(owner, files, tmp_path):
    """The thief puts his own text in and makes the root anew: only the commitment knows better."""
    private, _ = commitment.read_claim(owner / "claim.json")
    forged = commitment.SaltedClaim({**private.values, "v2.signature": "John Roe 1999"}, private.salts)
    text = commitment._text(commitment._private_content(forged))
    (tmp_path / "forged.json").write_bytes(text)
    open_claim(tmp_path / "forged.json", None, "owner_key")
    assert "changed since: 'v2.signature'" in as_refused(owner, "claim", text, tmp_path)


def test_missing_and_additional_fields_are_named(owner, files, tmp_path):
    content, _ = files
    less, more = copy.deepcopy(content["claim"]), copy.deepcopy(content["claim"])
    del less["fields"]["v2.layer"]
    more["fields"]["../../etc/passwd"] = {"salt": "0" * 64, "value": 1}
    assert "lacks 'v2.layer'" in as_refused(owner, "claim", commitment._text(less), tmp_path)
    assert "'../../etc/passwd'" in as_refused(owner, "claim", commitment._text(more), tmp_path)


def test_changed_leaves_root_and_signature_are_refused(owner, files, tmp_path):
    content, _ = files
    public = content["commitment"]
    for change, message in ((lambda c: c["leaves"].update({"owner": "0" * 64}), "'root' is not that of the leaves"),
                            (lambda c: c.update(root="0" * 64), "'root' is not that of the leaves"),
                            (lambda c: c.update(signature="0" * 128), "'signature' is not that of the owner's key"),
                            (lambda c: c.update(owner_key="f" * 64), "'signature' is not that of the owner's key"),
                            (lambda c: c.pop("signature"), "both 'owner_key' and 'signature'"),
                            (lambda c: (c.pop("signature"), c.pop("owner_key")), "is not signed, the claim names")):
        changed = copy.deepcopy(public)
        change(changed)
        assert message in as_refused(owner, "commitment", commitment._text(changed), tmp_path)
    changed = {**content["claim"], "root": "0" * 64}
    assert "'root' was changed" in as_refused(owner, "claim", commitment._text(changed), tmp_path)


def test_another_claims_commitment_is_called_so(verify, run_main, owner, refused, tmp_path):
    """No field of it opens it: that is a file mistaken, not a claim that was changed in 28 places."""
    assert run_main("make_claim.py", "--owner", OWNER, "--sign", owner / "owner.key", "--v2", owner / "v2.json", "--save_dir", tmp_path).returncode == 0
    done = verify("--suspect", owner / "own.pth.tar", commitment=tmp_path / "commitment.json")
    assert f"does not open {tmp_path / 'commitment.json'}, which is another claim's commitment" in refused(done)
    assert "changed since" not in done.stdout + done.stderr
    # one field alike, and it is the claim's: then the others were changed
    private, _ = commitment.read_claim(owner / "claim.json")
    other = commitment.salted(private.values)
    other = commitment.SaltedClaim(other.values, {**other.salts, "arch": private.salts["arch"]})
    (tmp_path / "other.json").write_bytes(commitment._text(commitment._public_content(commitment.commit(other))))
    assert "changed since: 'fidelity.dataset'" in refused(verify("--suspect", owner / "own.pth.tar",
                                                                 commitment=tmp_path / "other.json"))


# all encodings, 0 <= y < 2^255, of the eight points of small order, with either sign of x
SMALL_ORDER = [(y | sign << 255).to_bytes(32, "little") for sign in (0, 1) for y in (
    0, 1, 2**255 - 20, 2**255 - 19, 2**255 - 18,
    2707385501144840649318225287225658788936804267575313519463743609750303402022,
    55188659117513257062467267217118295137698188065244968500265048394206261417927)]


def test_keys_for_which_anybody_can_sign_are_refused(tmp_path):
    """OpenSSL accepts the signature (identity, 0) of any message by any of them, up to a root that is ground in a few tries."""
    accepted = 0
    for key in SMALL_ORDER:
        for number in range(64):
            made = commitment.salted({"owner": f"J{number}"})
            forged = commitment.Commitment(made.leaves(), key, b"\1" + bytes(63))
            with pytest.raises(Refused, match="point of small order"):
                commitment.check_signature(forged, "it")
            try:
                Ed25519PublicKey.from_public_bytes(key).verify(forged.signature, commitment._signed_message(forged.root, forged.label))
                accepted += 1
                break
            except InvalidSignature:
                pass
    assert accepted >= 8, "the attack is real"
    path = tmp_path / "commitment.json"
    path.write_bytes(commitment._text(commitment._public_content(forged)))
    with pytest.raises(Refused, match="point of small order"):
        commitment.read_commitment(path)


def test_another_persons_signature_is_refused(owner, tmp_path):
    private, public = open_claim(owner / "claim.json", owner / "commitment.json", "owner_key")
    stolen = commitment.commit(private, Ed25519PrivateKey.generate())
    assert stolen.root == public.root and stolen.owner_key != public.owner_key
    text = commitment._text(commitment._public_content(stolen))
    assert "signed with another key" in as_refused(owner, "commitment", text, tmp_path)


@pytest.mark.parametrize("text", [b"", b"{", b"[" * 500000, b'{"a":' * 100000, b"null", b"[1]", b"\xff\xfe", b"1" * 5000,
                                  b" " * (1 << 20) + b"{}", b'{"format": NaN}', b'{"format": 1e999}', b'{"root": "\\ud800"}'])
def test_files_that_are_no_claims_are_one_line(owner, run_main, refused, tmp_path, text):
    (tmp_path / "bad.json").write_bytes(text)
    for words in (("--claim", tmp_path / "bad.json"),
                  ("--claim", owner / "claim.json", "--commitment", tmp_path / "bad.json")):
        assert "bad.json" in refused(run_main("main_verify.py", *words, "--suspect", owner / "own.pth.tar"))


def duplicated(text: str) -> str:
    return text.replace('{\n "fields"', '{\n "format": "lottery-ownership-claim/1",\n "fields"', 1)


@pytest.mark.parametrize(("change", "message"), [
    (duplicated, "'format' is there twice"),
    (lambda text: text.replace('"value": 3\n', '"value": NaN\n', 1), "NaN is no number"),
    (lambda text: text.replace('"value": 3\n', '"value": 1e999\n', 1), "holds a value that JSON can't"),
    (lambda text: text.replace('"value": 3\n', '"value": "\\ud800"\n', 1), "holds a value that JSON can't"),
    (lambda text: text.replace('"value": 3\n', '"value": 3.0\n', 1), "changed since: 'v2.version'"),
    (lambda text: text.replace('"value": 3\n', '"value":  3\n', 1), "not byte for byte"),
    (lambda text: text.replace("\n", "\r\n"), "not byte for byte"),
    (lambda text: "\ufeff" + text, "byte order mark"),
    (lambda text: text.replace("ö", "\\u00f6"), "not byte for byte"),
])
def test_spellings_are_refused(owner, tmp_path, change, message):
    text = (owner / "claim.json").read_text()
    changed = change(text)
    assert changed != text
    assert message in as_refused(owner, "claim", changed.encode(), tmp_path)


def test_devices_folders_and_missing_files_are_one_line(owner, run_main, refused, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, why in ((tmp_path, "is a folder; name a file in it"), (tmp_path / "pipe", "is no file, but a device or a pipe"),
                      (tmp_path / "none.json", "no such file"), ("/dev/zero", "is no file, but a device or a pipe")):
        message = refused(run_main("main_verify.py", "--claim", path, "--suspect", owner / "own.pth.tar"))
        assert f"{path}: {why}" in message


@pytest.mark.parametrize(("field", "value"), [
    ("arch", "../res20s"), ("arch", None), ("arch", ["res20s"]), ("owner", ""), ("owner", 7), ("owner", "x" * 2000),
    ("owner_key", "zz"), ("fidelity.dataset", "/etc"), ("fidelity.target", "80"), ("fidelity.target", 101),
    ("fidelity.tolerance", True), ("fidelity.image_size", 10**9), ("fidelity.test_sha256", "0" * 63), ("v1.key_nonzeros", 0),
    ("v1.key_nonzeros", 1.5), ("v1.ticket_mask_sha256", None), ("v2.signature", "x" * 500), ("v2.signature", None),
    ("v2.start_x", -1), ("v2.start_x", 10**400), ("v2.version", 41), ("v2.error_correction", "Z"), ("v2.arch", "res18"),
    ("v2.copies", [["layer2.0.conv2", 0, 0]] * 100), ("v2.copies", [["layer2.0.conv2", 0]]), ("v2.copies", {}),
    ("v2.threshold", 10**400), ("v2.threshold", -1.0), ("v2.random_state", []), ("v2.layer", "x" * 5000), ("v3.kind", None),
    ("v3.pictures", 10**9), ("v3.size", 10**6), ("v3.num_classes", 1), ("v3.num_classes", "10"), ("v3.pictures", 10_000)])
def test_values_out_of_range_are_named(owner, field, value):
    """Everything opens: a claimant may commit to anything."""
    private, _ = commitment.read_claim(owner / "claim.json")
    table = {**private.values, field: value}
    if field == "v3.pictures":
        table["v3.size"] = 512  # each may be, but not both
    with pytest.raises(Refused) as error:
        owner_claim.from_fields(table, "claim.json")
    message = str(error.value)
    assert message.startswith("claim.json") and len(message) < 300
    assert field in message or repr(field.rpartition(".")[2]) in message or "signature" in message or "QR code" in message


@pytest.mark.parametrize(("field", "value"), [("v2.layer", "../../etc/passwd"), ("v2.start_y", 60), ("v2.start_x", 1 << 20),
                                              ("arch", "/etc"), ("v2.copies", [["layer1.0.conv1", 0, 0]])])
def test_claims_of_what_can_not_be_are_refused(owner, run_main, refused, tmp_path, field, value):
    private, _ = commitment.read_claim(owner / "claim.json")
    made = commitment.salted({**private.values, field: value}, private.format)
    claim, public = commitment.write(tmp_path, made, commitment.commit(made, OWNER_KEY))
    done = run_main("main_verify.py", "--claim", claim, "--commitment", public, "--suspect", owner / "own.pth.tar")
    assert field.partition(".")[0] in refused(done) and "verdict:    refused" in done.stdout


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.integers(10**300, 10**310),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=6)


@pytest.mark.slow
@settings(max_examples=50)
@given(data=st.data(), count=st.integers(1, 4))
def test_whatever_stands_in_a_field_is_a_claim_or_refused(owner, data, count):
    private, _ = commitment.read_claim(owner / "claim.json")
    names = data.draw(st.lists(st.sampled_from(sorted(private.values)), min_size=count, max_size=count))
    try:
        claim = owner_claim.from_fields({**private.values, **{name: data.draw(JSON) for name in names}}, "claim")
    except Refused as error:
        assert "claim" in str(error)
    else:
        assert owner_claim.from_fields(owner_claim.to_fields(claim), "claim") == claim


def test_no_field_can_be_left_out(owner):
    private, _ = commitment.read_claim(owner / "claim.json")
    for name in ("owner", "v3.kind", "fidelity.image_size"):
        with pytest.raises(Refused, match=f"lacks the field '{name}'"):
            owner_claim.from_fields({key: value for key, value in private.values.items() if key != name}, "claim")


# --- verdicts ---------------------------------------------------------------------------------------------------------


ALL = ("--dataset", "digits", "--trigger_key")


def test_the_true_model_is_owned(verify, owner, tmp_path):
    done = verify("--suspect", owner / "own.pth.tar", *ALL, owner / "trigger.key", "--json", tmp_path / "verdict.json")
    assert done.returncode == 0, done.stderr
    assert results(done.stdout) == {"F": "met", "V1": "not run", "V2": "shown", "V3": "shown"}
    assert done.stdout.startswith("verdict:    owned\nmeans:      The suspect carries the mark that") and "without a commitment" not in done.stdout
    found = json.loads((tmp_path / "verdict.json").read_text())
    checks = {check["check"]: check for check in found["checks"]}
    assert found["verdict"] == "owned" and checks["V2"]["lost"] == checks["V2"]["added"] == 0
    # against chance by scipy; combined: the smallest p-value, three times. Tiny numbers: approx must not add its 1e-12
    def about(value: float):
        return pytest.approx(value, rel=1e-6, abs=0)

    assert checks["V3"]["correct"] == TRIGGERS and checks["V3"]["p"] == about(binom.sf(TRIGGERS - 1, TRIGGERS, 0.1) * 2**40 * 10_000)
    assert found["p"] == about(3 * min(checks["V2"]["p"], checks["V3"]["p"]))
    code, innocent = checks["V2"], tickets.read_model_file(owner / "own.pth.tar", build_model("res20s", 10)).mask
    places = sum(max(0, layer.shape[0] - size + 1) * max(0, layer.shape[1] - size + 1)
                 for layer in innocent.values() for size in range(21, 178, 4))
    assert code["p"] == about(code["p_alone"] * places * 8 * 4 * 2 * 2 * 2**40) and 2**-144 <= code["p_alone"] < 2**-138
    assert sum(code["log2_choices"].values()) == about(math.log2(places) + 7 + 40)
    hashed = {row["input"]: row["sha256"] for row in found["inputs"]}
    for flag, name in (("--claim", "claim.json"), ("--commitment", "commitment.json"), ("--suspect", "own.pth.tar")):
        assert hashed[flag] == hashlib.sha256((owner / name).read_bytes()).hexdigest()
    assert "--trigger_key" not in hashed, "the key is a secret, and may be guessed from its digest"


def test_what_is_hashed_is_what_all_checks_judge(verify, owner, tmp_path, monkeypatch):
    """Exchanged after the first look: the code was found in one model, the triggers asked of the other, and that one hashed."""
    suspect, load, answers = tmp_path / "suspect.pth.tar", torch.load, tmp_path / "gathered.csv"
    shutil.copy(owner / "own.pth.tar", suspect)

    def exchanging(*words, **more):
        content = load(*words, **more)
        shutil.copy(owner / "innocent.pth.tar", suspect)
        return content

    monkeypatch.setattr(torch, "load", exchanging)
    done = verify("--suspect", suspect, "--dataset", "digits", "--trigger_key", owner / "trigger.key", "--json", tmp_path / "v.json")
    assert results(done.stdout) == {"F": "met", "V1": "not run", "V2": "shown", "V3": "shown"}, done.stdout + done.stderr
    told = {row["input"]: row["sha256"] for row in json.loads((tmp_path / "v.json").read_text())["inputs"]}
    assert told["--suspect"] == hashlib.sha256((owner / "own.pth.tar").read_bytes()).hexdigest()

    monkeypatch.undo()
    shutil.copy(owner / "right.csv", answers)
    read = trigger_evidence.read_predictions

    def exchanged(*words):
        labels = read(*words)
        shutil.copy(owner / "wrong.csv", answers)
        return labels

    monkeypatch.setattr(trigger_evidence, "read_predictions", exchanged)
    verify("--predictions", answers, "--trigger_key", owner / "trigger.key", "--json", tmp_path / "v.json")
    told = {row["input"]: row["sha256"] for row in json.loads((tmp_path / "v.json").read_text())["inputs"]}
    assert told["--predictions"] == hashlib.sha256((owner / "right.csv").read_bytes()).hexdigest()


@pytest.mark.slow
def test_a_normalisation_that_hides_the_triggers_can_be_overridden(verify, owner, tmp_path):
    content = checkpoint.load(owner / "own.pth.tar")
    state = content["state_dict"]
    words = [word for name in ("mean", "std") for word in (f"--{name}", ",".join(map(str, state[f"normalize.{name}"].tolist())))]
    state["normalize.mean"] = state["normalize.mean"] + 5
    torch.save(content, tmp_path / "hidden.pth.tar")
    found = {}
    for given in ((), words):
        verify("--suspect", tmp_path / "hidden.pth.tar", "--dataset", "digits", "--trigger_key", owner / "trigger.key", *given,
               "--json", tmp_path / "v.json")
        found[given == words] = {check["check"]: check for check in json.loads((tmp_path / "v.json").read_text())["checks"]}
    results = {check: [found[given][check]["result"] for given in (False, True)] for check in ("F", "V3")}
    assert results == {"F": ["not met", "met"], "V3": ["not shown", "shown"]}
    choices = [found[given]["V3"]["log2_choices"] for given in (False, True)]
    assert "normalisations" not in choices[0] and choices[1]["normalisations"] == 1


@pytest.mark.slow
def test_a_suspect_whose_names_tell_nothing_is_read_by_a_map(verify, owner, tmp_path):
    content = checkpoint.load(owner / "own.pth.tar")
    names = {f"block_{number}": layer for number, layer in enumerate(dict.fromkeys(
        name.rpartition(".")[0] for name in content["state_dict"]))}
    called = {layer: name for name, layer in names.items()}
    state = {f"{called[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": tensor for name, tensor in content["state_dict"].items()}
    torch.save({"state_dict": dict(reversed(state.items()))}, tmp_path / "renamed.pth.tar")  # nor does their order
    (tmp_path / "names.json").write_text(json.dumps(names))
    words = "--suspect", tmp_path / "renamed.pth.tar", "--trigger_key", owner / "trigger.key", "--json", tmp_path / "v.json", "--restarts", 0
    done = verify(*words)
    assert done.returncode == 1, "by order and shape, the layers are others"
    done = verify(*words, "--rename", tmp_path / "names.json")
    assert results(done.stdout) == {"F": "not run", "V1": "not run", "V2": "shown", "V3": "shown"}, done.stdout + done.stderr
    verdict = json.loads((tmp_path / "v.json").read_text())
    assert checkpoint.sha256(tmp_path / "names.json") in [row["sha256"] for row in verdict["inputs"]]
    assert f"{len(names)} layers named by --rename" in done.stdout
    (tmp_path / "names.json").write_text(json.dumps({"nobody": "conv1"}))
    done = verify(*words, "--rename", tmp_path / "names.json")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "has no layer 'nobody'" in done.stderr, "no fault of the file"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["innocent", "other_owner"])
def test_what_belongs_to_others_is_not_shown(verify, owner, name):
    done = verify("--suspect", owner / f"{name}.pth.tar", *ALL, owner / "trigger.key", "--key", owner / "key.pth.tar",
                  "--restarts", 0)
    assert done.returncode == 1, done.stderr
    found = results(done.stdout)
    assert (found["V1"], found["V2"], found["V3"]) == ("not shown",) * 3 and "verdict:    not shown" in done.stdout


def test_a_pruned_copy_is_owned_whatever_it_lost(verify, owner, tmp_path):
    done = verify("--suspect", owner / "pruned.pth.tar", *ALL, owner / "trigger.key", "--json", tmp_path / "verdict.json")
    found = json.loads((tmp_path / "verdict.json").read_text())
    assert done.returncode == 0 and results(done.stdout)["V2"] == "shown"
    fidelity = found["checks"][0]
    assert (fidelity["result"] == "met") == (fidelity["accuracy"] >= fidelity["least"])
    assert any("damaged copy" in note for note in found["notes"]) == (fidelity["result"] == "not met")


@pytest.mark.slow
def test_a_locked_ticket_is_completed_by_its_key_alone(verify, owner, refused, tmp_path):
    # as the file of the locked ticket, and as a model that was trained from it; the code has lost no kernel's last weight
    for name in ("locked", "locked_trained"):
        done = verify("--suspect", owner / f"{name}.pth.tar", "--key", owner / "key.pth.tar")
        assert done.returncode == 0 and results(done.stdout)["V1"] == "shown", done.stdout + done.stderr
    message = refused(verify("--suspect", owner / "locked.pth.tar", "--key", owner / "wrong_key.pth.tar"))
    assert "is not the key that the claim names" in message
    message = refused(verify("--suspect", owner / "locked.pth.tar", "--key", owner / "locked.pth.tar"))
    assert "is not the key part" in message
    done = verify("--suspect", owner / "own.pth.tar", "--key", owner / "key.pth.tar")
    assert results(done.stdout)["V1"] == "not shown"


@pytest.mark.slow
def test_a_claim_on_an_image_folder_is_verified_on_it(run_main, owner, tmp_path):
    from PIL import Image

    from datasets import load_dataset

    digits = load_dataset("digits")
    for part, pictures in (("train", digits.train[torch.arange(300)]), ("test", digits.test)):
        for index, (image, label) in enumerate(zip(pictures.images, pictures.labels)):
            path = tmp_path / "my digits" / part / str(label.item()) / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.numpy()).save(path)
    data = ("--dataset", "imagefolder", "--data", tmp_path / "my digits")
    done = run_main("make_claim.py", "--owner", OWNER, "--sign", owner / "owner.key", "--v2", owner / "v2.json", "--checkpoint", owner / "own.pth.tar", *data,
                    "--save_dir", tmp_path / "claim")
    assert done.returncode == 0, done.stderr
    done = run_main("main_verify.py", "--claim", tmp_path / "claim/claim.json", "--commitment", tmp_path / "claim/commitment.json",
                    "--suspect", owner / "own.pth.tar", *data)
    assert done.returncode == 0, done.stderr
    assert results(done.stdout) == {"F": "met", "V2": "shown"}


@pytest.fixture(scope="module")
def key_alone(owner, run_main, tmp_path_factory):
    """A claim of V1 and accuracy alone."""
    folder = tmp_path_factory.mktemp("key_alone")
    done = run_main("make_claim.py", "--owner", OWNER, "--sign", owner / "owner.key", "--v1", owner / "locked.pth.tar", "--key", owner / "key.pth.tar",
                    "--checkpoint", owner / "own.pth.tar", "--dataset", "digits", "--save_dir", folder)
    assert done.returncode == 0, done.stderr
    return {"claim": folder / "claim.json", "commitment": folder / "commitment.json"}


def test_a_drawn_key_pays_more_without_a_commitment(verify, owner, key_alone):
    words = ("--suspect", owner / "locked.pth.tar", "--key", owner / "key.pth.tar")
    assert verify(*words, **key_alone).returncode == 0
    done = verify(*words, claim=key_alone["claim"], commitment=None)
    assert done.returncode == 0 and "x 2^80 nonces" in done.stdout and "nothing shows when the claim" in done.stdout


def test_one_weight_more_or_less_is_another_mask(verify, owner, key_alone, tmp_path):
    for change in (0, 1):
        content = torch.load(owner / "locked.pth.tar", weights_only=True)
        mask = content["state_dict"]["layer3.0.conv1.weight_mask"]
        place = tuple((mask == 1 - change).nonzero()[0])
        mask[place] = change
        torch.save(content, tmp_path / "changed.pth.tar")
        done = verify("--suspect", tmp_path / "changed.pth.tar", "--key", owner / "key.pth.tar", **key_alone)
        assert done.returncode == 1 and results(done.stdout)["V1"] == "not shown"


def test_every_layer_counts_in_the_digest_of_a_mask():
    mask = random_mask(build_model("res20s", 10), 0)
    digests = {mask_sha256(mask), mask_sha256(Mask(dict(reversed(mask.items()))))}
    assert len(digests) == 1, "the order of layers is not what counts"
    for name, layer in mask.items():
        flipped = layer.clone()
        flipped[-1, -1, -1, -1] ^= True
        digests.add(mask_sha256(Mask({**mask, name: flipped})))
    assert len(digests) == 1 + len(mask)


@pytest.mark.slow
def test_the_accuracy_of_ticket_and_key_together_is_told(verify, owner, key_alone, refused, tmp_path):
    words = ("--suspect", owner / "locked_trained.pth.tar", "--key", owner / "key.pth.tar", "--dataset", "digits", "--merged")
    done = verify(*words, owner / "own.pth.tar", **key_alone)
    assert done.returncode == 0 and "together: accuracy" in done.stdout
    broken = torch.load(owner / "own.pth.tar", weights_only=True)
    broken["state_dict"]["fc.weight"] *= -1
    torch.save(broken, tmp_path / "broken.pth.tar")
    done = verify(*words, tmp_path / "broken.pth.tar", **key_alone)  # told beside; what was drawn is missing all the same
    assert done.returncode == 0 and re.search(r"together: accuracy [0-4]?\d\.", done.stdout)
    assert "has another mask" in refused(verify(*words, owner / "innocent.pth.tar", **key_alone))


@pytest.mark.slow
def test_a_merged_model_without_a_claimed_accuracy_has_no_use(verify, run_main, owner, key_alone, refused, tmp_path):
    """What a message asks for must help: first --dataset was wanted, and then refused."""
    words = ("--suspect", owner / "locked_trained.pth.tar", "--key", owner / "key.pth.tar")
    merged = ("--merged", owner / "own.pth.tar")
    made = run_main("make_claim.py", "--owner", OWNER, "--sign", owner / "owner.key", "--v1", owner / "locked.pth.tar", "--key", owner / "key.pth.tar",
                    "--save_dir", tmp_path / "claim")
    assert made.returncode == 0, made.stderr
    bare = {"claim": tmp_path / "claim/claim.json", "commitment": tmp_path / "claim/commitment.json"}
    for dataset, flags in (((), "--merged"), (("--dataset", "digits"), "--merged and --dataset")):
        message = refused(verify(*words, *merged, *dataset, **bare))
        assert f"of which {bare['claim']} says nothing; leave out {flags}\n" in message
    assert verify(*words, **bare).returncode == 0
    assert "its accuracy is to be measured; give --dataset digits" in refused(verify(*words, *merged, **key_alone))
    assert verify(*words, *merged, "--dataset", "digits", **key_alone).returncode == 0


def test_a_merged_model_is_not_measured_on_the_pictures_of_a_rival(run_main, owner, tmp_path):
    """The first claim is about other pictures than those that were given for the second."""
    private, _ = commitment.read_claim(owner / "claim.json")
    made = commitment.salted({**private.values, "fidelity.dataset": "cifar10"}, private.format)
    claim, public = commitment.write(tmp_path, made, commitment.commit(made, OWNER_KEY))
    done = run_main("main_verify.py", "--claim", claim, "--claim", owner / "claim.json", "--commitment", public, "--commitment",
                    owner / "commitment.json", "--suspect", owner / "locked.pth.tar", "--key", owner / "key.pth.tar",
                    "--merged", owner / "own.pth.tar", "--dataset", "digits", "--restarts", 0, "--json", tmp_path / "out.json")
    assert done.returncode == 0, done.stderr
    keys = [next(check for check in side["checks"] if check["check"] == "V1")
            for side in json.loads((tmp_path / "out.json").read_text())["claims"]]
    assert "; together: the claim is about cifar10; of " in keys[0]["found"] and keys[0]["result"] == "shown"
    assert "; together: accuracy" in keys[1]["found"] and keys[1]["merged_accuracy"] > 0


@pytest.mark.parametrize("flag", ["--json", "--report"])
def test_where_no_verdict_can_be_written_is_said_before_the_work(verify, refused, tmp_path, flag):
    """The verdict itself would be lost, which takes minutes."""
    (tmp_path / "file").write_text("text")
    for path, why in ((tmp_path, "is a folder; name a file in it"), (tmp_path / "file/page", f"{tmp_path / 'file'} is a file")):
        assert f"error: {flag} {path}: {why}" in refused(verify("--suspect", tmp_path / "none", flag, path))


def test_answers_alone(verify, owner, refused):
    for source, code in (("right.csv", 0), ("wrong.csv", 1)):
        done = verify("--predictions", owner / source, "--trigger_key", owner / "trigger.key")
        assert done.returncode == code, done.stderr
        assert results(done.stdout) == {**dict.fromkeys(("F", "V1", "V2"), "not run"), "V3": "not shown" if code else "shown"}
    message = refused(verify("--predictions", owner / "right.csv", "--trigger_key", owner / "other.key"))
    assert "does not give the trigger set" in message


def test_a_service_is_asked_the_claimed_pictures(verify, owner, monkeypatch):
    set_ = trigger.keyed(KEY.encode(), TRIGGERS, 10, 8)

    def answer(address, service, triggers, *_):
        assert (address.url, triggers.fingerprint()) == ("http://localhost:1/v2/models/m", set_.fingerprint())
        return set_.pictures.labels.numpy()

    monkeypatch.setattr("ownership.trigger_set.endpoint.query_endpoint", answer)
    done = verify("--endpoint", "http://localhost:1/v2/models/m", "--trigger_key", owner / "trigger.key")
    assert done.returncode == 0 and results(done.stdout)["V3"] == "shown", done.stderr


def test_labels_that_the_owner_might_have_chosen_are_not_counted(verify, owner):
    done = verify("--predictions", owner / "right.csv", "--triggers", owner / "triggers")
    assert done.returncode == 1 and "not counted" in done.stdout and "p-value:" not in done.stdout
    done = verify("--predictions", owner / "right.csv", "--triggers", owner / "triggers", "--trigger_key", owner / "trigger.key")
    assert done.returncode == 0


def test_other_triggers_or_pictures_than_claimed_are_refused(verify, owner, refused, tmp_path, make_dataset, monkeypatch):
    trigger.export(trigger.keyed(OTHER_KEY.encode(), TRIGGERS, 10, 8), tmp_path / "others")
    message = refused(verify("--suspect", owner / "own.pth.tar", "--trigger_dir", tmp_path / "others"))
    assert "is not the trigger set that the claim names" in message
    monkeypatch.setattr("datasets.load_dataset", lambda *words: make_dataset(classes=10))
    message = refused(verify("--suspect", owner / "own.pth.tar", "--dataset", "digits"))
    assert "test pictures are not those that the claim names" in message


def test_without_a_commitment_the_verdict_says_what_is_missing(verify, owner, tmp_path):
    words = ("--suspect", owner / "own.pth.tar", "--trigger_key", owner / "trigger.key", "--json", tmp_path / "verdict.json")
    done = verify(*words, commitment=None)
    assert done.returncode == 0 and "nothing shows when the claim was made" in done.stdout
    assert "signed by:  nobody" in done.stdout
    checks = {check["check"]: check for check in json.loads((tmp_path / "verdict.json").read_text())["checks"]}
    code, shown = checks["V2"], results(done.stdout)
    # a text or a key: the best of 2^80, which 32 pictures don't outweigh
    assert code["log2_choices"]["nonces"] == checks["V3"]["log2_choices"]["keys"] == 80
    assert shown == {"F": "not run", "V1": "not run", "V2": "shown", "V3": "not shown"}
    assert checks["V3"]["p"] == pytest.approx(1e-32 * 2**80 * 10**4, rel=1e-6, abs=0)


def test_a_model_with_another_classifier_is_judged_by_its_mask(verify, owner, tmp_path):
    content = torch.load(owner / "own.pth.tar", weights_only=True)
    content["state_dict"] |= {"fc.weight": torch.zeros(7, 64), "fc.bias": torch.zeros(7)}
    torch.save(content, tmp_path / "transferred.pth.tar")
    done = verify("--suspect", tmp_path / "transferred.pth.tar", *ALL, owner / "trigger.key")
    assert done.returncode == 0, done.stderr
    assert results(done.stdout) == {"F": "not run", "V1": "not run", "V2": "shown", "V3": "not run"}


@pytest.mark.slow
def test_a_claim_that_does_not_show_on_the_own_model_is_not_made(owner, run_main, refused, tmp_path):
    words = ("--owner", OWNER, "--sign", owner / "owner.key", "--save_dir", tmp_path / "claim")
    for claimed in (("--v2", owner / "v2.json"), ("--v3", owner / "triggers")):
        message = refused(run_main("make_claim.py", *words, *claimed, "--checkpoint", owner / "innocent.pth.tar"))
        assert "does not show on it" in message
    message = refused(run_main("make_claim.py", *words, "--v2", owner / "v2.json", "--checkpoint", owner / "own.pth.tar",
                               "--dataset", "digits", "--fidelity", "100", "--tolerance", "0"))
    assert "--fidelity 100" in message and not (tmp_path / "claim").exists()
    assert "does not give the set" in refused(run_main("make_claim.py", *words, "--v3", owner / "triggers", "--trigger_key",
                                                       owner / "other.key"))
    (tmp_path / "no.key").write_text("no key")
    assert "is no Ed25519 private key" in refused(run_main("make_claim.py", *words, "--v2", owner / "v2.json", "--sign",
                                                           tmp_path / "no.key"))


# --- renumbered channels ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def renumbered(owner, tmp_path_factory):
    """A folder with the owner's model in another order of channels, as it is and 20% pruned; a locked ticket likewise; and the
    signed ticket's masks, in the owner's order."""
    folder, model = tmp_path_factory.mktemp("renumbered"), build_model("res20s", 10)
    own, locked = (tickets.read_model_file(owner / name, model) for name in ("own.pth.tar", "locked_trained.pth.tar"))
    for name, mask, weights in (("whole", own.mask, own.weights),
                                ("pruned", *prune(own.mask, own.weights, 0.2, "magnitude", 0)),
                                ("locked", locked.mask, locked.weights)):
        mask, weights = permute(mask, weights, model, seed=11)
        tickets.write_weights(folder / f"{name}.pth.tar", weights, {}, mask)
    tickets.write_masks(folder / "masks.pth.tar", own.mask)
    tickets.write_masks(folder / "other_network.pth.tar", Mask.dense(build_model("res18", 10)))
    (folder / "text.pth.tar").write_bytes(b"no model")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["whole", "pruned"])
def test_a_renumbered_copy_shows_the_code_once_it_is_aligned(verify, owner, renumbered, tmp_path, name):
    suspect, reference = ("--suspect", renumbered / f"{name}.pth.tar", "--restarts", 0), owner / "unsigned.pth.tar"
    done = verify(*suspect)
    assert done.returncode == 1 and results(done.stdout)["V2"] == "not shown", done.stderr
    done = verify(*suspect, "--aligned_to", reference, "--json", tmp_path / "verdict.json", "--report", tmp_path / "page.html")
    assert done.returncode == 0 and results(done.stdout)["V2"] == "shown", done.stdout + done.stderr
    found = json.loads((tmp_path / "verdict.json").read_text())
    code = next(check for check in found["checks"] if check["check"] == "V2")
    assert code["aligned_to"] == str(reference) and code["numberings"] == 2 and 380 < code["moved"] <= 400
    assert f"aligned to {reference}, {code['moved']} of 400 channels had another number" in code["found"]
    assert code["log2_choices"]["numberings of channels"] == 1, "two"
    assert code["log10_p"] == pytest.approx(code["log10_p_alone"] + sum(code["log2_choices"].values()) * math.log10(2), rel=1e-6)
    hashed = {row["input"]: (row["name"], row["sha256"]) for row in found["inputs"]}
    assert hashed["--aligned_to"] == (str(reference), hashlib.sha256(reference.read_bytes()).hexdigest())
    page = Page(tmp_path / "page.html")
    assert_self_contained(page)
    assert int(re.search(r"(\d+) of \d+ modules differ", page.text)[1]) == code["lost"] + code["added"] < 60
    assert f"channels in the numbering of\n{reference}" in page.text


def test_a_copy_that_was_not_renumbered_is_shown_as_it_is(verify, owner, tmp_path):
    found = []
    for words in ((), ("--aligned_to", owner / "unsigned.pth.tar")):
        done = verify("--suspect", owner / "pruned.pth.tar", *words, "--json", tmp_path / "verdict.json")
        assert done.returncode == 0, done.stderr
        found.append(next(check for check in json.loads((tmp_path / "verdict.json").read_text())["checks"]
                          if check["check"] == "V2"))
    alone, both = found
    assert not {"aligned_to", "numberings", "moved"} & alone.keys()
    assert both["aligned_to"] is None and both["moved"] == 0 and "in the suspect's own numbering" in both["found"]
    assert both["p"] == pytest.approx(2 * alone["p"], rel=1e-6, abs=0) and both["lost"] == alone["lost"]


def align_to(path, suspect: Suspect, claim) -> case.Aligned:
    """A suspect in the first numbering of a file of the owner's, whose claim was committed to."""
    judged = case.Case(claim, "claim.json", Standing.COMMITTED, case.Given("suspect", aligned_to=(str(path),)), case.Files())
    judged.__dict__["suspect"] = suspect
    return judged.aligned[0]


@pytest.mark.slow
def test_innocent_models_stay_innocent_when_they_are_aligned(verify, owner, renumbered):
    model = build_model("res20s", 10)
    claim = owner_claim.from_fields(open_claim(owner / "claim.json", None, "owner_key")[0].values, "claim")
    p_values = []
    for seed in range(20, 24):
        innocent = Suspect(random_mask(model, seed))
        aligned = align_to(owner / "unsigned.pth.tar", innocent, claim)
        assert aligned.counted == {"V2"} and aligned.mask.nonzeros == innocent.mask.nonzeros and aligned.mask != innocent.mask
        check = code_check.code(claim.parts["V2"], innocent, Standing.COMMITTED, restarts=0, aligned=[aligned])
        assert check.result == "not shown"
        p_values += [check.figures["p_alone"]]
    assert min(p_values) > 1e-3, "nothing to be corrected away"
    done = verify("--suspect", owner / "other_owner.pth.tar", "--key", owner / "key.pth.tar", "--aligned_to",
                  owner / "unsigned.pth.tar", "--restarts", 0)
    assert done.returncode == 1 and set(results(done.stdout).values()) <= {"not shown", "not run"}, done.stderr


@pytest.fixture(scope="module")
def code_alone(owner, run_main, tmp_path_factory):
    """A claim of V2 alone."""
    folder = tmp_path_factory.mktemp("code_alone")
    assert run_main("make_claim.py", "--owner", OWNER, "--sign", owner / "owner.key", "--v2", owner / "v2.json", "--save_dir", folder).returncode == 0
    return {"claim": folder / "claim.json", "commitment": folder / "commitment.json"}


def spelling(mask: Mask, claim: CodeClaim, groups: ChannelGroups) -> np.ndarray:
    """An order of an innocent model's channels under which it spells out a code: rows and columns in turn, each at best."""
    counts = np.minimum(mask[claim.layer].flatten(2).sum(2).numpy(), 3)
    size, is_data = qr_code.code_size(claim.version), qr_code.data_modules(claim.version)
    square = slice(claim.start_x, claim.start_x + size), slice(claim.start_y, claim.start_y + size)
    code = qr_code.encode(claim.signature, claim.code_format)[is_data]
    parts = parity_parts(linear_code(claim.code_format, len(claim.signature)))
    channels = [groups.axes[f"{claim.layer}.weight", dimension] for dimension in (0, 1)]
    places, weights, found = [np.arange(len(side)) for side in channels], [1.0] * len(parts), []
    for _ in range(12):
        wanted, region, modules = np.zeros(counts.shape), np.zeros((size, size)), np.zeros(len(code))
        for weight, part in zip(weights, parts):
            modules[part] = np.where(code[part], weight, -weight)
        region[is_data] = modules
        wanted[square] = region
        for dimension in (1, 0):
            shown, target = (counts, wanted) if dimension == 0 else (counts.T, wanted.T)
            scores, group = target @ shown[:, places[1 - dimension]].T, groups.group[channels[dimension]]
            scores[group[:, None] != group] = -1e6
            places[dimension] = linear_sum_assignment(scores, maximize=True)[1]
        seen = counts[np.ix_(*places)][square][is_data]
        p_values = [p_value(seen[part], code[part]) for part in parts]
        found.append((max(p_values), list(places)))
        weights[int(np.argmax(p_values))] *= 1.15  # the worst part counts
    order = np.arange(len(groups.group))
    for side, place in zip(channels, min(found, key=lambda one: one[0])[1]):
        order[side] = side[place]
    return order


@pytest.mark.slow
def test_a_reference_that_was_made_up_for_the_suspect_is_not_counted(verify, run_main, tmp_path):
    """The worst that a claimant with an early commitment can do to a model that he has nothing to do with: a mask file by which
    its channels spell out his code."""
    model = build_model("res20s", 10)
    innocent, groups = random_mask(model, 30), channel_groups(model)
    claim = CodeClaim("Adam Moe 1987", "res20s", "layer3.1.conv1", 10, 18, 3, "H", 2, 0.5, 1, 2, {"state": 1})
    write_claim(tmp_path / "v2.json", claim)
    assert run_main("make_claim.py", "--owner", "Adam", "--v2", tmp_path / "v2.json", "--save_dir", tmp_path).returncode == 0
    tickets.write_masks(tmp_path / "made_up.pth.tar", groups.renumbered_mask(innocent, spelling(innocent, claim, groups)))
    tickets.write_masks(tmp_path / "innocent.pth.tar", innocent)
    files = {"claim": tmp_path / "claim.json", "commitment": tmp_path / "commitment.json"}
    words = ("--suspect", tmp_path / "innocent.pth.tar", "--restarts", 0, "--aligned_to", tmp_path / "made_up.pth.tar")
    done = verify(*words, **files)
    assert done.returncode == 1 and results(done.stdout)["V2"] == "not shown", done.stderr
    assert int(re.search(r"aligned to \S+ p is [\d.]+ x 10\^-(\d+), not counted", done.stdout)[1]) > 9
    assert verify(*words, "--aligned_committed", **files).returncode == 1, "nobody's word makes a file count"


@pytest.mark.slow
def test_a_reference_counts_where_the_text_is_its_hash(verify, owner, renumbered, code_alone):
    words = ("--suspect", renumbered / "pruned.pth.tar", "--restarts", 0, "--aligned_to")
    for files in ({}, {"commitment": None}, code_alone):  # the hash needs no commitment to be believed, at a price
        assert verify(*words, owner / "unsigned.pth.tar", **files).returncode == 0
        done = verify(*words, owner / "own.pth.tar", "--aligned_committed", **files)
        assert done.returncode == 1 and "not counted: by a file that is not the ticket" in done.stdout, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("of_all", [True, False], ids=["beside V2", "alone"])
def test_a_key_completes_a_renumbered_ticket_once_it_is_aligned(verify, owner, renumbered, key_alone, tmp_path, of_all):
    words = ("--suspect", renumbered / "locked.pth.tar", "--key", owner / "key.pth.tar", "--restarts", 0)
    files = {} if of_all else key_alone
    assert results(verify(*words, **files).stdout)["V1"] == "not shown"
    done = verify(*words, "--aligned_to", owner / "signed_ticket.pth.tar", "--json", tmp_path / "verdict.json", **files)
    assert done.returncode == 0 and results(done.stdout)["V1"] == "shown", done.stdout + done.stderr
    check = next(check for check in json.loads((tmp_path / "verdict.json").read_text())["checks"] if check["check"] == "V1")
    assert check["completes"] and check["overlap"] == 0 and check["aligned_to"] == str(owner / "signed_ticket.pth.tar")
    done = verify("--suspect", renumbered / "pruned.pth.tar", *words[2:], "--aligned_to", owner / "signed_ticket.pth.tar", **files)
    assert results(done.stdout)["V1"] == "not shown" and "in none of 2 numberings" in done.stdout


def test_what_the_owner_cleans_for_the_code_is_still_there_for_the_key(owner, renumbered):
    """V1 compares whole masks, V2 those without what is below the claim's threshold."""
    model = build_model("res20s", 10)
    given = tickets.read_model_file(renumbered / "locked.pth.tar", model)
    suspect = Suspect(given.mask, {name: given.weights[f"{name}.weight"] for name in given.mask})
    claim = owner_claim.from_fields(open_claim(owner / "claim.json", None, "owner_key")[0].values, "claim")
    claim = replace(claim, parts={**claim.parts, "V2": replace(claim.parts["V2"], threshold=suspect.magnitude_below(0.05))})
    locked = tickets.read_model_file(owner / "locked_trained.pth.tar", model).mask
    for reference, counted in ((owner / "locked_trained.pth.tar", set()), (owner / "unsigned.pth.tar", {"V2"}),
                               (renumbered / "masks.pth.tar", {"V1"})):
        aligned = align_to(reference, suspect, claim)
        assert aligned.counted == counted and aligned.mask == locked
        assert (aligned.alignment.suspect.mask.nonzeros < 0.96 * given.mask.nonzeros) == (counted != {"V1"})


@pytest.mark.slow
def test_a_ticket_that_was_signed_and_then_split_is_aligned_by_both_its_files(verify, owner, renumbered):
    """The code by the ticket before it was signed, the key by the signed masks that it was split from."""
    words = ("--suspect", renumbered / "locked.pth.tar", "--key", owner / "key.pth.tar", "--restarts", 0)
    files = "--aligned_to", owner / "unsigned.pth.tar", "--aligned_to", renumbered / "masks.pth.tar"
    done = verify(*words, *files)
    found = results(done.stdout)
    assert done.returncode == 0 and (found["V1"], found["V2"]) == ("shown", "shown"), done.stdout + done.stderr
    assert verify(*words, *files, *files, *files).returncode == 2


@pytest.mark.parametrize("name", ["text", "other_network", "missing"])
def test_a_reference_that_is_no_model_of_this_network_is_one_line(verify, owner, renumbered, refused, tmp_path, name):
    message = refused(verify("--suspect", owner / "own.pth.tar", "--aligned_to", renumbered / f"{name}.pth.tar", "--json",
                             tmp_path / "verdict.json"))
    assert f"{name}.pth.tar" in message and not (tmp_path / "verdict.json").exists()


def test_an_alignment_needs_a_file_and_something_to_align_for(run_main, verify, owner, refused, tmp_path):
    answers = ("--predictions", owner / "right.csv", "--trigger_key", owner / "trigger.key")
    assert "argument --aligned_to: needs the --suspect's file" in refused(verify(*answers, "--aligned_to", owner / "own.pth.tar"))
    assert run_main("make_claim.py", "--owner", "Jane", "--v3", owner / "triggers", "--save_dir", tmp_path).returncode == 0
    message = refused(verify("--suspect", owner / "own.pth.tar", "--aligned_to", owner / "own.pth.tar",
                             claim=tmp_path / "claim.json", commitment=tmp_path / "commitment.json"))
    assert "--aligned_to: has no use" in message


# --- in plain words ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("result", "p", "level", "said"), [
    ("owned", Fraction(185, 10**99), 1e-9, "at most once in 10^96 such tests (probability 1.9 x 10^-97); once in 10^9 is needed"),
    ("owned", Fraction(1, 10**9), 1e-9, "at most once in 10^9 such tests (probability 10^-9); once in 10^9 is needed"),
    ("owned", Fraction(1, 30), 0.05, "at most once in 30 such tests (probability 0.034); once in 20 is needed"),
    ("not shown", Fraction(1), 1e-9, "with a probability of up to 1 a model that owes"),
    ("not shown", None, 1e-9, "none of the checks that were run counts"),
    ("refused", None, 1e-9, "does not hold together"), ("unreadable", None, 1e-9, "can't be read")])
def test_what_a_verdict_means_is_said_in_sentences(result, p, level, said):
    claim = owner_claim.OwnerClaim("Jane\x1b", None, "res20s")
    side = arbiter.Side(arbiter.Opened("claim.json", None, claim, None), verdict.Verdict(result, (), p, level, ()), {},
                        Standing.COMMITTED)
    assert said in wording.meaning(side) and "\x1b" not in wording.meaning(side)


# --- what becomes of p-values -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("p_values", "expected", "combined"), [
    ((None, None), "not shown", None),
    ((Fraction(1, 10**9), None), "not shown", Fraction(2, 10**9)),  # twice, though V3 was not run: it could have been
    ((Fraction(1, 2 * 10**9), None), "owned", Fraction(1, 10**9)),
    ((Fraction(1), Fraction(1, 10**400)), "owned", Fraction(2, 10**400)),
    ((Fraction(1), Fraction(1)), "not shown", Fraction(1)),
])
def test_the_combined_p_value_is_bonferronis(p_values, expected, combined):
    claim = owner_claim.OwnerClaim("x", None, "res20s", parts={"V2": object(), "V3": object()})
    checks = [verdict.Check(name, verdict.NOT_SHOWN, "", p) for name, p in zip(("V2", "V3"), p_values)]
    found = verdict.decide(claim, checks, Standing.COMMITTED, signed=True, level=Fraction(1, 10**9))
    assert (found.verdict, found.p) == (expected, combined)


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_shows_what_was_found_and_escapes_everything(verify, owner, tmp_path):
    suspect = tmp_path / "<script>alert(2)<\x1b[31m\u202e.pth.tar"
    content = torch.load(owner / "own.pth.tar", weights_only=True)
    private, _ = commitment.read_claim(owner / "claim.json")
    place = private.values
    code = torch.zeros_like(content["state_dict"][f"{place['v2.layer']}.weight_mask"])
    modules = tuple(slice(place[f"v2.start_{axis}"] + 12, place[f"v2.start_{axis}"] + 15) for axis in "xy")
    content["state_dict"][f"{place['v2.layer']}.weight_mask"][modules] = code[modules]  # nine modules emptied
    torch.save(content, suspect)
    done = verify("--suspect", suspect, *ALL, owner / "trigger.key", "--report", tmp_path / "report.html")
    assert done.returncode == 0, done.stderr
    page = Page(tmp_path / "report.html")
    assert_self_contained(page)
    assert OWNER in page.text, "as text, not as tags"
    assert "<script>alert(2)<\\x1b[31m\\u202e.pth.tar" in page.text and "\u202e" not in page.text
    assert "\u202e" not in done.stdout and "\x1b" not in done.stdout
    for path in ("claim.json", "commitment.json"):
        assert hashlib.sha256((owner / path).read_bytes()).hexdigest() in page.text
    assert SIGNATURE in page.text and "torch" in page.text and "owned" in page.text
    wrong = int(re.search(r"(\d+) of 567 modules differ; by chance about half would", page.text)[1])
    assert "no code was found here" not in page.text.lower() and "Confidential" in page.text
    paths = {attributes["fill"]: attributes["d"] for tag, attributes in page.tags if tag == "path"}
    assert 0 < wrong <= 9 and paths["#f5a3a3"].count("M") == wrong and "#c00000" not in paths


def test_the_page_of_a_refusal_says_why(verify, owner, refused, tmp_path):
    refused(verify("--suspect", owner / "own.pth.tar", "--triggers", owner / "triggers", "--trigger_key", owner / "other.key",
                   "--report", tmp_path / "report.html", "--json", tmp_path / "verdict.json"))
    page = Page(tmp_path / "report.html")
    assert_self_contained(page)
    assert "does not give the trigger set" in page.text and "Why it was refused" in page.text
    assert "Confidential" not in page.text, "it tells no secret"
    assert json.loads((tmp_path / "verdict.json").read_text())["verdict"] == "refused"


def test_the_page_of_a_claim_that_does_not_open_names_the_file(verify, owner, files, refused, tmp_path):
    content, write = files
    content["claim"]["fields"]["owner"]["value"] = "John Roe"
    claim = write("claim", content["claim"])
    refused(verify("--suspect", owner / "own.pth.tar", "--report", tmp_path / "report.html", claim=claim))
    text = Page(tmp_path / "report.html").text
    assert "changed since: 'owner'" in text and hashlib.sha256(claim.read_bytes()).hexdigest() in text
    assert hashlib.sha256((owner / "own.pth.tar").read_bytes()).hexdigest() in text, "of the suspect too"


def test_every_module_is_drawn_once_in_its_colour():
    random, measured = np.random.default_rng(0), qr_code.data_modules(3)
    modules, wrong = (random.random((29, 29)) < 0.5) & measured, (random.random((29, 29)) < 0.2) & measured
    drawn = draw(verdict.Figure("", modules, wrong, measured))
    assert f"{wrong.sum()} of 567 modules differ" in drawn
    colours = {fill: {(int(y) - 2, int(x) - 2) for x, y in re.findall(r"M(\d+) (\d+)h1v1h-1z", path)}
               for fill, path in re.findall(r'<path fill="(#\w+)" d="([^"]*)"/>', drawn)}
    for fill, chosen in (("#1a1a1a", modules & ~wrong), ("#c00000", modules & wrong), ("#f5a3a3", ~modules & wrong),
                         ("#dcdcdc", ~measured)):
        assert colours[fill] == set(map(tuple, np.argwhere(chosen).tolist()))


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{ 7*7 }}", "{% raw %}",
                                  "&lt;b&gt;", "'; --", "</style></td>", "\ud800"])
def test_no_text_of_anybody_becomes_a_tag(tmp_path, text):
    figure = verdict.Figure(text, np.eye(21, dtype=bool), np.zeros((21, 21), bool), np.ones((21, 21), bool))
    exhibit = verdict.Exhibit("the code", "the codes", "black and white", (figure,), (("zbar: ", text),))
    check = verdict.Check("V2", verdict.NOT_SHOWN, text, Fraction(1, 3), {}, exhibit)
    found = verdict.Verdict(verdict.NOT_SHOWN, (check,), Fraction(1, 3), 1e-9, (text,))
    claim = owner_claim.OwnerClaim(text, None, "res20s")
    side = arbiter.Side(arbiter.Opened(text, None, claim, None), found, {text: text}, Standing.NONE)
    write_report(tmp_path / "page.html", side, [(text, text, text)], {text: text})
    page = Page(tmp_path / "page.html")
    assert_self_contained(page)
    assert page.text.count(text if text != "\ud800" else "\\ud800") == 12


def test_a_value_that_can_not_be_written_is_an_error_of_the_caller():
    with pytest.raises(ValueError):
        commitment.salted({"x": float("nan")}).leaves()
    with pytest.raises(UserError):
        owner_claim.from_fields({}, "claim")


# --- messages name what this script has -------------------------------------------------------------------------------


def test_a_size_that_the_data_set_can_not_have_is_the_claims(owner, verify, refused, tmp_path):
    from PIL import Image

    private, _ = commitment.read_claim(owner / "claim.json")
    for part in ("train", "test"):
        for name, size in (("cat", (12, 12)), ("dog", (12, 12)), ("dog", (13, 12))):
            (tmp_path / "pictures" / part / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", size).save(tmp_path / "pictures" / part / name / f"{size[0]}.png")
    for number, (dataset, size, why) in enumerate((
            ("digits", 9, "(fidelity.image_size 9): digits are 8x8"), ("cifar10", 8, "(fidelity.image_size 8): cifar10 is 32x32"),
            ("imagefolder", 7, "(fidelity.image_size 7): must be at least 8"),
            ("imagefolder", None, "dog/13.png: is 13x12, others are 12x12"))):
        made = commitment.salted({**private.values, "fidelity.dataset": dataset, "fidelity.image_size": size}, private.format)
        claim, public = commitment.write(tmp_path / str(number), made, commitment.commit(made, OWNER_KEY))
        message = refused(verify("--suspect", owner / "own.pth.tar", "--dataset", dataset, "--data", tmp_path / "pictures",
                                 "--restarts", 0, claim=claim, commitment=public))
        assert f"--claim {claim}: the test pictures can't be had" in message and message.rstrip().endswith(why)
        assert "--image_size" not in message


def metadata(batch: int, outputs: int):
    """A service that says what its model takes and gives, and answers nothing."""
    content = {"inputs": [{"name": "pictures", "datatype": "FP32", "shape": [batch, 3, 8, 8]}],
               "outputs": [{"name": f"output{number}"} for number in range(outputs)]}
    return lambda *_: (200, json.dumps(content).encode())


@pytest.mark.parametrize(("answer", "path", "flag"), [
    (hangs, "/v2/models/m", "--timeout"), (metadata(64, 1), "/v2/models/m", "--batch"),
    (metadata(-1, 2), "/v2/models/m", "--output"), (metadata(-1, 0), "/v2/models/m", "--output"),
    (None, "http://a:b@c", "--token_env")])
def test_what_an_endpoint_needs_is_a_flag_of_the_other_script(verify, owner, refused, run_main, monkeypatch, answer, path, flag):
    monkeypatch.setattr(open_inference, "Service", lambda: Service(0.3, 0))
    with serving(answer) if answer else nullcontext("") as url:
        message = refused(verify("--endpoint", f"{url}{path}", "--trigger_key", owner / "trigger.key"))
    flags = {script: flags_of(run_main, script) for script in ("main_verify.py", "check_triggers.py")}
    named = set(re.findall(r"--\w+", message))
    assert flag in named - flags["main_verify.py"] <= flags["check_triggers.py"]
    assert re.search(rf"{flag}[\w -]* (of|to) check_triggers\.py", message)


def flags_of(run_main, script: str) -> set[str]:
    return set(re.findall(r"(?:^  |, )(--\w+)", run_main(script, "--help").stdout, re.M))


def broken_models(folder) -> list:
    """Files of other networks, or of none."""
    whole = build_model("res20s", 10).state_dict()
    mask = {f"{name}.weight_mask": torch.ones_like(layer.weight, dtype=torch.uint8)
            for name, layer in prunable_layers(build_model("res20s", 10)).items()}
    contents = {"lacks": {name: value for name, value in whole.items() if not name.startswith("layer3.2")},
                "other": build_model("res18", 10).state_dict(),
                "shape": {**whole, "layer1.0.conv1.weight": torch.ones(1, 2, 3, 3)},
                "no mask": {name: value for name, value in mask.items() if "layer2.1" not in name},
                "strange mask": {**mask, "layer1.0.conv1.weight_mask": torch.ones(3, 3)}}
    for name, content in contents.items():
        torch.save(content, folder / f"{name}.pth.tar")
    return [folder / f"{name}.pth.tar" for name in contents]


@pytest.mark.slow
def test_an_arbiter_is_told_of_no_flag_that_is_not_there(verify, run_main, refused, owner, tmp_path):
    """Which network and how many classes the claim says, and the data set and the triggers."""
    flags = flags_of(run_main, "main_verify.py")
    assert {"--suspect", "--checkpoint", "--merged"} <= flags and not {"--arch", "--mask_dir"} & flags
    for path in broken_models(tmp_path):
        for words in (("--suspect", path), ("--suspect", owner / "own.pth.tar", "--key", path),
                      ("--suspect", owner / "own.pth.tar", "--aligned_to", path)):
            done = verify(*words)
            assert done.returncode == (4 if path == words[1] else 2) and done.stderr.count("\n") == 1
            message = done.stderr
            assert str(path) in message and "the claim is about res20s" in message
            assert set(re.findall(r"--\w+", message)) <= flags, message
    torch.save(build_model("res20s", 7).state_dict(), tmp_path / "seven.pth.tar")
    done = verify("--suspect", tmp_path / "seven.pth.tar", "--dataset", "digits", "--trigger_key", owner / "trigger.key",
                  "--restarts", 0)
    assert "another class count? the test pictures have 10" in done.stdout
    assert "another class count? the trigger set has 10" in done.stdout
    assert set(re.findall(r"--\w+", done.stdout + done.stderr)) <= flags
    message = refused(verify("--endpoint", "http://localhost:1", "--trigger_key", owner / "trigger.key"))
    assert "does not end in /v2/models/NAME; name the model there" in message and set(re.findall(r"--\w+", message)) <= flags


def test_an_owner_is_told_of_the_flags_of_make_claim(run_main, refused, owner, tmp_path):
    words, flags = ("make_claim.py", "--owner", OWNER, "--sign", owner / "owner.key", "--save_dir", tmp_path / "claim"), flags_of(run_main, "make_claim.py")
    changed = torch.load(owner / "locked.pth.tar", weights_only=True)
    changed["init_weight"]["layer3.0.conv1.weight"] *= 2
    torch.save(changed, tmp_path / "changed.pth.tar")
    shutil.copytree(owner / "triggers", tmp_path / "triggers")
    (tmp_path / "triggers/labels.csv").write_text((owner / "triggers/labels.csv").read_text().translate({48: 49}))
    torch.save(build_model("res20s", 7).state_dict(), tmp_path / "seven.pth.tar")
    for given, message in (
            (("--v1", owner / "own.pth.tar", "--key", owner / "key.pth.tar"), "--v1 {1}: is not the locked part"),
            (("--v1", tmp_path / "changed.pth.tar", "--key", owner / "key.pth.tar"), "--v1 {1}: was changed after the split"),
            (("--v3", owner), "--v3 {1}: holds no triggers.json"), (("--v3", tmp_path / "triggers"), "{1}"),
            (("--v2", owner / "v2.json", "--dataset", "digits", "--checkpoint", tmp_path / "seven.pth.tar"),
             "another class count? the test pictures have 10")):
        said = refused(run_main(*words, *given))
        assert message.format(*given) in said and set(re.findall(r"--\w+", said)) <= flags, said
    assert not (tmp_path / "claim").exists()


def test_make_claim_names_the_flag_of_a_file_that_can_not_be_read(run_main, refused, owner, tmp_path):
    (tmp_path / "file").write_text("text")
    words = ("make_claim.py", "--owner", OWNER, "--v2", owner / "v2.json", "--sign", owner / "owner.key", "--save_dir")
    for flag, *others in (("--v2",), ("--sign",), ("--v1", "--key", owner / "key.pth.tar"),
                          ("--key", "--v1", owner / "locked.pth.tar"), ("--checkpoint", "--dataset", "digits")):
        for path in (tmp_path / "none", tmp_path, tmp_path / "file"):
            assert f"error: {flag} {path}: " in refused(run_main(*words, tmp_path / "claim", flag, path, *others))
    assert not (tmp_path / "claim").exists()


def test_a_folder_that_can_not_take_the_claim_is_named_before_anything_is_read(run_main, refused, owner, tmp_path):
    (tmp_path / "file").write_text("text")
    for name in ("claim.json", "commitment.json"):  # the first alone as after a kill
        (tmp_path / name.partition(".")[0]).mkdir()
        shutil.copy(owner / name, tmp_path / name.partition(".")[0])
    for folder, why in (("file", "is a file; name a folder"), ("claim", "holds claim.json already"),
                        ("commitment", "holds commitment.json already")):
        done = run_main("make_claim.py", "--owner", "x", "--v2", tmp_path / "none", "--save_dir", tmp_path / folder)
        assert f"--save_dir {tmp_path / folder}: {why}" in refused(done)
    assert (tmp_path / "file").read_text() == "text"
    assert [(tmp_path / name / f"{name}.json").read_bytes() == (owner / f"{name}.json").read_bytes()
            for name in ("claim", "commitment")] == [True, True] and len(list(tmp_path.rglob("*"))) == 5
