"""Files that were published long ago still open, are written again byte for byte, and give the verdict that they gave."""

import pytest
import torch
from golden.verdicts import CASES, FILES, VERDICTS, ask, unpack

from datasets import trigger
from models import build_model
from ownership.claims import commitment, owner_claim
from ownership.qr_code.claim import read_claim, write_claim
from pruner import tickets
from pruner.key_mask import split
from pruner.masks import Mask
from pruner.qr_code.derived_text import derived_text
from utils import checkpoint

SLOW = {"rivals", "aligned", "aligned_uncommitted", "nothing_given", "not_shown"}
CLAIMS = ("all", "v1", "v2", "v3", "thief", "derived")


@pytest.fixture(scope="module")
def golden(tmp_path_factory):
    folder = tmp_path_factory.mktemp("golden") / "files"
    unpack(folder)
    return folder


@pytest.mark.parametrize("name", CLAIMS)
def test_claims_and_commitments_are_written_again_byte_for_byte(golden, tmp_path, name):
    paths = [golden / name / file for file in (commitment.CLAIM_FILE, commitment.COMMITMENT_FILE)]
    private, public = commitment.open_claim(*paths, "owner_key")
    claim = owner_claim.from_fields(private.values, name, private.format)
    assert owner_claim.to_fields(claim, private.format) == private.values
    key_file = golden / {"thief": "thief.key.pem", "derived": "derived_owner.key.pem"}.get(name, "owner.key.pem")
    owner_key = commitment.read_owner_key(key_file) if public.signature else None
    written = commitment.write(tmp_path, commitment.SaltedClaim(owner_claim.to_fields(claim, private.format), private.salts,
                                                                private.format),
                               commitment.commit(private, owner_key, public.label))
    assert [path.read_bytes() for path in written] == [path.read_bytes() for path in paths]


def test_what_the_claims_say(golden):
    private = {name: commitment.read_claim(golden / name / "claim.json")[0] for name in CLAIMS}
    read = {name: owner_claim.from_fields(one.values, name, one.format) for name, one in private.items()}
    assert {name: claim.schemes for name, claim in read.items()} == {
        "all": ["V1", "V2", "V3"], "v1": ["V1"], "v2": ["V2"], "v3": ["V3"], "thief": ["V2", "V3"],
        "derived": ["V1", "V2", "V3"]}
    assert read["all"].owner == "Jane Doe & Söhne" and read["v3"].fidelity.target == 95
    assert read["all"].parts["V2"] == read["v2"].parts["V2"] == read_claim(golden / "code.json")


def test_what_a_hash_drew_is_drawn_again(golden):
    private, _ = commitment.read_claim(golden / "derived/claim.json")
    parts = owner_claim.from_fields(private.values, "derived", private.format).parts
    code, model = parts["V2"], build_model("res20s", 10)
    assert code.signature == derived_text(bytes.fromhex(code.owner_key), code.owner_name, bytes.fromhex(code.nonce), code.ticket_sha256, 24)
    key, locked = (tickets.read_model_file(golden / f"derived_{name}.pth.tar", model) for name in ("key", "locked_mask"))
    ticket, drawn = Mask({name: key.mask[name] | locked.mask[name] for name in key.mask}), split.drawn_part(key)
    assert split.follows(drawn, key.mask, ticket, parts["V1"].ticket_sha256) and len(drawn.positions) == 256
    keyed = trigger.keyed(trigger.read_key(golden / "derived.trigger.key"), 32, 10, 8)
    assert keyed.fingerprint() == parts["V3"].sha256


def test_code_claims_of_older_formats(golden, tmp_path):
    code = read_claim(golden / "code.json")
    assert code.copies == (("layer2.1.conv1", 0, 0),) and code.threshold == 0.05802164971828461
    write_claim(tmp_path / "code.json", code)
    underived = {**dict.fromkeys(("owner_key", "owner_name", "nonce", "ticket_sha256")), "polarity": "dark"}
    assert checkpoint.load_json(tmp_path / "code.json") == {**checkpoint.load_json(golden / "code.json"), **underived,
                                                            "format": "lottery-verification-claim/4"}

    first = read_claim(golden / "code_first_format.json")
    assert (first.signature, first.copies, first.threshold) == ("Jane Doe 2025", (), None)
    write_claim(tmp_path / "newer.json", first)
    stated, newer = (checkpoint.load_json(path) for path in (golden / "code_first_format.json", tmp_path / "newer.json"))
    assert stated.pop("format") == "lottery-verification-claim/1"
    assert newer == {"format": "lottery-verification-claim/4", **stated, "copies": [], "threshold": None, **underived}


def test_key_and_locked_mask_make_the_claimed_ticket(golden):
    locked, key, signed = (tickets.read_model_file(golden / f"{name}.pth.tar", build_model("res20s", 10))
                           for name in ("locked", "key", "signed_mask"))
    mask, weights = split.merge(locked, key)
    private, _ = commitment.read_claim(golden / "v1/claim.json")
    claimed = owner_claim.from_fields(private.values, "v1", private.format).parts["V1"]
    assert split.fingerprint(mask, weights) == claimed.ticket_sha256
    assert split.fingerprint(key.mask, key.initial) == claimed.key_sha256
    assert all(torch.equal(mask[name], signed.mask[name]) for name in mask)


def test_the_key_makes_the_exported_trigger_set(golden, tmp_path):
    exported = trigger.load_exported(golden / "triggers")
    keyed = trigger.keyed(trigger.read_key(golden / "owner.trigger.key"), 24, 10, 8)
    assert keyed.fingerprint() == exported.fingerprint()
    trigger.export(keyed, tmp_path / "again")
    for name in ("labels.csv", "triggers.json"):
        assert (tmp_path / "again" / name).read_bytes() == (golden / "triggers" / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("name, flags", [
    ("permuted", ["permute"]),
    ("resigned", ["forge", "--by", "resign", "--signature", "John Roe"])])
def test_attacks_make_the_same_model(run_main, golden, tmp_path, name, flags):
    done = run_main("main_attack.py", *flags, "--checkpoint", golden / "model.pth.tar", "--no_accuracy", "--save_dir", tmp_path)
    assert not done.returncode, done.stderr
    made, was = (checkpoint.load(path) for path in (tmp_path / "attacked.pth.tar", golden / f"{name}.pth.tar"))
    tensors = made.pop("state_dict"), was.pop("state_dict")
    assert made == was and tensors[0].keys() == tensors[1].keys()
    assert all(torch.equal(tensor, tensors[1][key]) for key, tensor in tensors[0].items())


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in CASES])
def test_verdicts_are_the_same(run_main, golden, monkeypatch, name):
    monkeypatch.chdir(golden)  # so that no path in a verdict depends on the machine
    for end, text in ask(name, golden, lambda *args: run_main("main_verify.py", *args)).items():
        assert text == (VERDICTS / f"{name}{end}").read_text(encoding="utf-8")


def test_each_case_has_a_golden_verdict_and_no_other_has_one():
    assert {path.name for path in VERDICTS.iterdir()} == {f"{name}{end}" for name in CASES for end in (".json", ".txt")}
    assert not [path for path in FILES.rglob("*.pth.tar")], "models are packed"
