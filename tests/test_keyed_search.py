"""main_imp.py --sign_keyed: a ticket that is signed before the search is over, and the same bits after an interruption."""

import shutil

import pytest
import torch
from stand_ins import OWNER_KEY, as_pem

from models import build_model
from ownership.keyed_mask.claim import read_key
from pruner import tickets
from pruner.key_mask.split import fingerprint
from pruner.keyed_mask.pattern import count_agreement, in_all, place_agreement


def mask_of(path):
    return tickets.read_model_file(path, build_model("res20s", 10)).mask


def z_of(key, mask):
    return in_all(place_agreement(key, mask)).z, in_all(count_agreement(key, mask)).z


@pytest.fixture(scope="module")
def search(run_main, tmp_path_factory):
    """search(folder, *flags) -> a search of rounds of 40%, on few digits."""
    owner = tmp_path_factory.mktemp("owner") / "owner.key"
    owner.write_bytes(as_pem(OWNER_KEY))

    def run(folder, *flags):
        return run_main("main_imp.py", "--limit", 60, "--epochs", 1, "--rewind_epoch", 0, "--rate", 0.4, "--save_dir", folder, "--sign_keyed",
                        owner, "--owner_name", "Jane Doe", *flags)

    return run


@pytest.mark.slow
def test_the_last_round_prunes_what_was_signed_and_a_resumed_search_has_the_same_bits(search, refused, tmp_path):
    done = search(tmp_path / "run", "--pruning_times", 2)
    assert done.returncode == 0 and f"key:    {tmp_path}/run/keyed.key.json (secret)" in done.stdout, done.stderr
    run = tmp_path / "run"
    key = read_key(run / "keyed.key.json").key
    assert (run / "keyed.key.json").stat().st_mode & 0o777 == 0o600
    unsigned, early, last = (mask_of(path) for path in (run / "unsigned.weight_mask.pth.tar", run / "round_01/ticket.pth.tar", run / "ticket.pth.tar"))
    assert key.ticket_sha256 == fingerprint(unsigned) and key.largest == last.nonzeros and early.nonzeros == unsigned.nonzeros
    assert z_of(key, early)[0] >= 60 and abs(z_of(key, unsigned)[0]) < 4 and abs(z_of(key, early)[1]) < 4
    assert z_of(key, last)[0] > 24 and z_of(key, last)[1] >= 25  # places are what pruning left, counts are written last
    assert all(torch.equal(early[name].flatten(2).sum(2), unsigned[name].flatten(2).sum(2)) for name in early)
    assert mask_of(run / "round_02/ticket.pth.tar") == last
    assert "comes with --owner_name" not in done.stderr

    other = tmp_path / "other"  # killed in the last round, and before the signed one
    shutil.copytree(run, other)
    for path in ("round_01", "round_02"):
        shutil.rmtree(other / path)
    for path in ("ticket.pth.tar", "result.json", "keyed.key.json"):
        (other / path).unlink()
    assert search(other, "--pruning_times", 2).returncode == 0
    for path in ("ticket.pth.tar", "keyed.key.json", "unsigned.weight_mask.pth.tar", "round_01/ticket.pth.tar", "round_02/ticket.pth.tar"):
        assert (other / path).read_bytes() == (run / path).read_bytes(), path
    before, after = (torch.load(folder / "round_02/checkpoint.pth.tar", weights_only=True)["state_dict"] for folder in (run, other))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert "--pruning_times 2 then, 3 now" in refused(search(other, "--pruning_times", 3))  # it would be signed elsewhere
    (other / "keyed.key.json").unlink()
    assert "round_01/ticket.pth.tar is there and is not signed" in refused(search(other, "--pruning_times", 2))


def test_what_can_not_be_signed_is_refused_before_anything_is_written(search, run_main, refused, tmp_path):
    for flags, message in ((("--pruning_times", 1), "there is no round 1 before the last"), (("--pruning_times", 3, "--sign_at", "last-3"), "there is no round 3"),
                           (("--sign_at", "last"), "must be last-1, last-2"), (("--sign_at", "last-0"), "must be last-1"), (("--extreme",), "can't be foreseen")):
        assert message in refused(search(tmp_path / "run", *flags))
    assert "comes with --owner_name" in refused(run_main("main_imp.py", "--save_dir", tmp_path / "run", "--sign_keyed", "x"))
    assert not (tmp_path / "run").exists()
