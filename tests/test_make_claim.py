"""make_claim.py: a signed claim can be made again, two commitments of it can't be linked, and a bundle sorts its files."""

import hashlib
import hmac
import json
import shutil
import stat

import pytest
from stand_ins import OWNER, OWNER_KEY

from ownership.claims import commitment


@pytest.fixture
def make(owner, run_main):
    """make(folder, *flags) -> the run that claims the owner's code into a folder, signed; unsigned, the trigger set."""

    def run(folder, *flags, sign=True):
        claimed = ("--sign", owner / "owner.key", "--v2", owner / "v2.json") if sign else ("--v3", owner / "triggers")
        return run_main("make_claim.py", "--owner", OWNER, *claimed, "--save_dir", folder, *flags)

    return run


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def salt_by_hand(label: str, name: str) -> str:
    parts = [b"lottery-verification/salt/1", bytes.fromhex(label), name.encode()]
    message = hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for part in parts)).digest()
    return hmac.new(OWNER_KEY.private_bytes_raw(), message, hashlib.sha256).hexdigest()


def test_a_lost_claim_is_made_again_with_the_same_bytes(make, tmp_path):
    first = make(tmp_path / "one")
    assert first.returncode == 0, first.stderr
    before = contents(tmp_path / "one")
    assert set(before) == {"claim.json", "commitment.json"}
    assert first.stdout.endswith(f"\nto publish now: {tmp_path}/one/commitment.json, nothing else of {tmp_path}/one\n")
    label, fields = json.loads(before["commitment.json"])["label"], json.loads(before["claim.json"])["fields"]
    assert {name: field["salt"] for name, field in fields.items()} == {name: salt_by_hand(label, name) for name in fields}
    assert make(tmp_path / "one").returncode == 0 and contents(tmp_path / "one") == before
    # lost, and the published commitment is put where it was; so it is after a kill between the two files
    (tmp_path / "one/claim.json").unlink()
    assert make(tmp_path / "one").returncode == 0 and contents(tmp_path / "one") == before
    assert stat.S_IMODE((tmp_path / "one/claim.json").stat().st_mode) == 0o600


def test_two_commitments_of_the_same_claim_have_nothing_in_common(make, tmp_path):
    for name in ("one", "two"):
        assert make(tmp_path / name).returncode == 0
    one, two = (json.loads((tmp_path / name / "commitment.json").read_text()) for name in ("one", "two"))
    leaves = [*one["leaves"].values(), *two["leaves"].values()]
    assert one["leaves"].keys() == two["leaves"].keys() and len(set(leaves)) == len(leaves)
    assert one["label"] != two["label"] and one["owner_key"] == two["owner_key"]


def test_what_can_not_be_made_again_stays_as_it_is(make, owner, run_main, refused, tmp_path):
    assert make(tmp_path / "signed").returncode == 0 and make(tmp_path / "unsigned", sign=False).returncode == 0
    assert json.loads((tmp_path / "unsigned/commitment.json").read_text()).keys() == {"format", "root", "leaves"}
    assert run_main("make_claim.py", "--new_owner_key", tmp_path / "other.key").returncode == 0
    before = {name: contents(tmp_path / name) for name in ("signed", "unsigned")}
    already = "holds commitment.json already; name another folder"
    for name, words, why in (("unsigned", {"sign": False}, already), ("unsigned", {}, already), ("signed", {"sign": False}, already)):
        assert f"--save_dir {tmp_path / name}: {why}" in refused(make(tmp_path / name, **words))
    other = run_main("make_claim.py", "--owner", OWNER, "--sign", tmp_path / "other.key", "--v3", owner / "triggers",
                     "--save_dir", tmp_path / "signed")
    assert already in refused(other)
    changed = refused(make(tmp_path / "signed", "--v3", owner / "triggers"))
    assert "holds commitment.json of another claim, which differs in 'v3." in changed
    assert {name: contents(tmp_path / name) for name in before} == before
    # a claim that is there is never written over, be it damaged
    (tmp_path / "signed/claim.json").write_text("{}")
    assert "holds another claim.json already" in refused(make(tmp_path / "signed"))
    assert (tmp_path / "signed/claim.json").read_text() == "{}"


def test_a_label_that_was_changed_makes_nothing(make, refused, tmp_path):
    assert make(tmp_path / "one").returncode == 0
    (tmp_path / "one/claim.json").unlink()
    path = tmp_path / "one/commitment.json"
    label = json.loads(path.read_text())["label"]
    path.write_text(path.read_text().replace(label, "0" * 32))
    assert "'signature' is not that of the owner's key on this root and label" in refused(make(tmp_path / "one"))
    assert list(contents(tmp_path / "one")) == ["commitment.json"]


def test_a_commitment_says_its_format_and_its_label(make, run_main, refused, owner, tmp_path):
    assert make(tmp_path / "one").returncode == 0
    path = tmp_path / "one/commitment.json"
    good = json.loads(path.read_text())
    assert good["format"] == "lottery-ownership-commitment/2"
    for change, why in (({"label": "00"}, "'label' must be 32 hexadecimal digits"), ({"label": None}, "'signature' is not that"),
                        ({"format": "lottery-ownership-commitment/1"}, "not byte for byte"),
                        ({"format": "lottery-ownership-commitment/3"}, "'format' is not")):
        content = {name: value for name, value in {**good, **change}.items() if value is not None}
        path.write_text(json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
        assert why in refused(make(tmp_path / "one"))


def test_a_bundle_sorts_the_files_by_who_may_have_them(make, owner, refused, tmp_path):
    flags = ("--v3", owner / "triggers", "--trigger_key", owner / "trigger.key", "--v1", owner / "locked.pth.tar",
             "--key", owner / "key.pth.tar")
    bundle = tmp_path / "bundle"
    done = make(tmp_path / "claim", *flags, "--bundle", bundle)
    assert done.returncode == 0, done.stderr
    found = {path.relative_to(bundle).as_posix(): path for path in bundle.rglob("*") if path.is_file()}
    pictures = {f"secret/triggers/{path.name}" for path in (owner / "triggers").iterdir()}
    assert set(found) == {"README.txt", "secret/claim.json", "secret/owner.key", "secret/v2.json", "secret/trigger.key",
                          "secret/key.pth.tar",
                          "public/commitment.json", "hand_out/locked.pth.tar", *pictures}
    for name, path in found.items():
        if name != "README.txt":
            source = next(folder / name.partition("/")[2] for folder in (tmp_path / "claim", owner)
                          if (folder / name.partition("/")[2]).is_file())
            assert path.read_bytes() == source.read_bytes()
        assert (stat.S_IMODE(path.stat().st_mode) == 0o600) == name.startswith("secret/"), name
    assert stat.S_IMODE((bundle / "secret").stat().st_mode) == 0o700
    # what a kill left out is completed, what is something else stays
    (bundle / "hand_out/locked.pth.tar").unlink()
    assert make(tmp_path / "claim", *flags, "--bundle", bundle).returncode == 0 and (bundle / "hand_out/locked.pth.tar").exists()
    (bundle / "secret/trigger.key").write_text("mine")
    message = refused(make(tmp_path / "claim", *flags, "--bundle", bundle))
    assert f"--bundle: {bundle}/secret/trigger.key is there and is not {owner}/trigger.key" in message
    assert (bundle / "secret/trigger.key").read_text() == "mine"
    shutil.rmtree(bundle)
    assert "is what --sign reads" in refused(make(tmp_path / "claim", "--bundle", owner / "owner.key"))


def test_the_two_files_called_claims_are_told_apart(make, owner, run_main, refused):
    message = refused(run_main("make_claim.py", "--owner", OWNER, "--v2", owner / "claim.json", "--save_dir", owner / "none"))
    assert f"--v2 {owner}/claim.json: is make_claim.py's claim; give the *.claim.json of embed_qrcode.py" in message
    for read, file, why in ((commitment.read_claim, "v2.json", "is embed_qrcode.py's claim of one code"),
                            (commitment.read_claim, "commitment.json", "is a commitment, no claim"),
                            (commitment.read_commitment, "claim.json", "is a claim, no commitment")):
        with pytest.raises(commitment.Refused, match=f"{owner / file}: {why}.*; make_claim.py writes claim.json and commitment.json"):
            read(owner / file)
