"""Check V4: that its p-values hold for any mask, what is claimed and how it is read, both scripts, verdicts and rivals."""

import dataclasses
import itertools
import json
import math
import re
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from stand_ins import OWNER_KEY, as_pem

from models import build_model
from ownership.claims import owner_claim, rivals
from ownership.claims.case import Case, Files, Given
from ownership.claims.commitment import Refused
from ownership.claims.owner_claim import OwnerClaim
from ownership.claims.p_values import log10, of_log10
from ownership.claims.report import draw_bars
from ownership.claims.verdict import NOT_SHOWN, OWNED, SHOWN, Chart, Check, Standing
from ownership.keyed_mask.check import Checker
from ownership.keyed_mask.claim import KeyedMask, read_key, write_key
from ownership.keyed_mask.evidence import (ALL, BOTH, COUNTS, LARGEST, PLACES, hoeffding, largest_of, log10_of_tail, read)
from ownership.suspects import canonical
from ownership.suspects.reading import Suspect
from pruner import tickets
from pruner.keyed_mask.embedding import Strength, embed, shares, usual_strength
from pruner.keyed_mask.pattern import Key
from pruner.key_mask.split import fingerprint
from pruner.masks import Mask, prunable_layers
from utils.errors import UserError

OWNER = OWNER_KEY.public_key().public_bytes_raw()


def random_mask(seed: int = 0, density: float = 0.262) -> Mask:
    generator = torch.Generator().manual_seed(seed)
    return Mask({name: torch.rand(layer.weight.shape, generator=generator) < density
                 for name, layer in prunable_layers(build_model("res20s", 10)).items()})


UNSIGNED = random_mask()
STRENGTH = usual_strength(UNSIGNED.nonzeros)
KEY = Key(OWNER, "Jane Doe", bytes(16), "res20s", fingerprint(UNSIGNED), *shares(STRENGTH, UNSIGNED), UNSIGNED.nonzeros)
SIGNED = embed(UNSIGNED, KEY, STRENGTH)


def weights_of(mask: Mask, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: (0.05 + torch.rand(kept.shape, generator=generator)) * torch.randn(kept.shape, generator=generator).sign() * kept
            for name, kept in mask.items()}


def check(suspect: Suspect, key: Key = KEY, standing=Standing.COMMITTED) -> Check:
    part = KeyedMask.of(key)
    case = Case(OwnerClaim(key.owner_name, part.owner_key, "res20s", parts={"V4": part}), "claim.json", standing, Given("x"), Files())
    object.__setattr__(case, "suspect", suspect)
    return Checker("V4", part).check(case)


# --- p-values ---------------------------------------------------------------------------------------------------------


def test_the_tail_of_fair_coins_is_exact():
    for total in (1, 2, 7, 40):
        for count in range(total + 2):
            exact = Fraction(sum(math.comb(total, heads) for heads in range(count, total + 1)), 2**total)
            if exact:
                assert log10_of_tail(count, total) == pytest.approx(log10(exact), abs=1e-11)
                p = of_log10(log10_of_tail(count, total))
                assert exact <= p <= exact * (1 + Fraction(1, 10**5))
    for total in (1000, 4900, 70_061, 412_345):
        for z in (-4, -0.5, 0, 0.3, 2, 6, 12, 25, 37):
            count = math.ceil((total + z * math.sqrt(total)) / 2)
            expected = stats.binom.logsf(count - 1, total, 0.5) / math.log(10)
            if expected > -290:  # scipy's own goes no further
                assert log10_of_tail(count, total) == pytest.approx(expected, rel=1e-8, abs=1e-8)
    assert log10_of_tail(70_061, 70_061) == pytest.approx(-70_061 * math.log10(2), rel=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_the_bound_of_counts_and_of_both_holds_over_all_signs(seed):
    """All signs of 13 numbers: as many as the bound allows, at most, reach any z."""
    numbers = np.random.default_rng(seed).normal(size=13) ** 3
    signs = np.array([*itertools.product((-1, 1), repeat=13)])
    z = np.sort(signs @ numbers / math.sqrt((numbers**2).sum()))
    assert all(float(hoeffding(value)) >= (len(z) - at) / len(z) for at, value in enumerate(z))
    assert hoeffding(0) == hoeffding(-3) == 1 and log10(hoeffding(60)) == pytest.approx(-1800 / math.log(10), rel=1e-6)


@pytest.mark.slow
def test_of_an_innocent_suspect_p_is_small_as_rarely_as_it_says():
    """Over 250 keys, on a mask that another key was written into: of all six tests, and of the smallest times six."""
    suspect, smallest = Suspect(Mask({name: SIGNED[name] for name in list(SIGNED)[10:14]})), []
    by_test = []
    for number in range(250):
        reading = read(dataclasses.replace(KEY, salt=number.to_bytes(16, "little"), owner_name="John"), suspect)
        by_test.append([float(test.p) for test in reading.tests])
        smallest.append(min(1, 6 * float(reading.best.p)))
    for p in np.array(by_test).T:
        assert (p <= 0.05).sum() <= stats.binom.isf(1e-4, 250, 0.05)
    assert (np.array(smallest) <= 0.05).sum() <= stats.binom.isf(1e-4, 250, 0.05)
    assert stats.kstest([p[0] for p in by_test], "uniform").pvalue > 1e-3  # places: exact, not a bound


def test_every_try_is_paid_for():
    for standing, nonces in ((Standing.COMMITTED, 40), (Standing.LATER, 80), (Standing.NONE, 80)):
        found = check(Suspect(SIGNED), standing=standing)
        best = read(KEY, Suspect(SIGNED)).best
        assert found.p == best.p * 6 * 2**nonces and found.result == SHOWN
        assert f"x 2^{nonces} nonces x 6 tests" in found.detail and "so the suspect comes from a model with this mark" in found.detail
    assert check(Suspect(UNSIGNED)).result == NOT_SHOWN and check(Suspect(UNSIGNED)).p == 1


@pytest.mark.parametrize("z, committed, uncommitted", [(6.4, False, False), (9.5, False, False), (10.5, True, False), (13.5, True, True)])
def test_what_is_needed_with_a_commitment_and_without(z, committed, uncommitted):
    key = dataclasses.replace(KEY, counts=0)
    mask = UNSIGNED
    signed = embed(mask, key, Strength(z, 0))
    assert read(key, Suspect(signed)).z(PLACES) == pytest.approx(z, abs=0.1)
    for standing, shown in ((Standing.COMMITTED, committed), (Standing.NONE, uncommitted)):
        assert (check(Suspect(signed), key, standing).result == SHOWN) == shown


# --- suspects ---------------------------------------------------------------------------------------------------------


def test_noise_in_pruned_entries_is_told_from_weights_whatever_they_are_scaled_by():
    weights, generator = weights_of(SIGNED), torch.Generator().manual_seed(1)
    noise = {name: ~kept & (torch.rand(kept.shape, generator=generator) < 0.5) for name, kept in SIGNED.items()}
    filled = {name: weight + noise[name] * 0.01 * torch.randn(weight.shape, generator=generator) for name, weight in weights.items()}
    readings = []
    for scaled in (False, True):
        scales = {name: 10 ** torch.rand(weight.shape[:2], generator=generator)[:, :1, None, None] for name, weight in filled.items()}
        shown = {name: weight * scales[name] if scaled else weight for name, weight in filled.items()}
        suspect = Suspect(Mask({name: weight != 0 for name, weight in shown.items()}), shown)
        largest = largest_of(suspect, KEY.largest)
        assert largest.nonzeros == KEY.largest
        readings.append(read(KEY, suspect))
        assert readings[-1].z(PLACES, LARGEST) >= 0.8 * 35 and readings[-1].z(COUNTS, LARGEST) >= 0.8 * 25
        assert readings[-1].z(PLACES) < 22
    assert readings[0].z(PLACES, LARGEST) == pytest.approx(readings[1].z(PLACES, LARGEST), abs=0.2)
    found = canonical.magnitudes(SIGNED, weights)["layer3.0.conv1"].square().flatten(2).sum(2)
    assert torch.allclose(found.mean(1), found.mean(), rtol=0.1) and torch.allclose(found.mean(0), found.mean(), rtol=1e-6)


def test_layers_that_lack_or_have_another_shape_are_left_to_chance():
    some = Suspect(Mask({name: kept for name, kept in SIGNED.items() if not name.startswith("layer3.2")}))
    assert check(some).result == SHOWN and set(check(some).figures["layers"]) == set(some.mask)
    other = Suspect(Mask({**SIGNED, "layer3.2.conv1": SIGNED["layer3.2.conv1"][:, :60]}))
    assert check(other).result == SHOWN and abs(check(other).figures["layers"]["layer3.2.conv1"][0]) < 4
    nothing = check(Suspect(Mask({name: kept & False for name, kept in SIGNED.items()})))
    assert (nothing.result, nothing.p) == (NOT_SHOWN, 1)
    empty = check(Suspect(Mask({})))
    assert (empty.result, empty.p) == (NOT_SHOWN, 1)


def test_both_carriers_together_see_more_than_either():
    reading = read(KEY, Suspect(SIGNED))
    assert reading.best.carrier == BOTH and reading.z(BOTH) == pytest.approx((reading.z(PLACES) + reading.z(COUNTS)) / math.sqrt(2))
    assert [(test.carrier, test.weights) for test in reading.tests] == [*itertools.product((PLACES, COUNTS, BOTH), (ALL,)),
                                                                      *itertools.product((PLACES, COUNTS, BOTH), (LARGEST,))]


# --- claims and key files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change, message", [
    (dict(arch="res18"), "field 'v4.arch' is another network"), (dict(owner_name="John"), "its v4 was made for another owner"),
    (dict(salt="zz" * 16), "'v4.salt' holds no value"), (dict(places=2**32 + 1), "'v4.places' holds no value"), (dict(counts=True), "v4.counts"),
    (dict(largest=0), "v4.largest"), (dict(payload_bits=65), "v4.payload_bits"), (dict(ticket_sha256="0"), "v4.ticket_sha256")])
def test_strangers_claims_are_refused_in_one_line(change, message):
    part = dataclasses.replace(KeyedMask.of(KEY), **change)
    table = owner_claim.to_fields(OwnerClaim("Jane Doe", OWNER.hex(), "res20s", parts={"V4": part}))
    with pytest.raises(Refused, match=message):
        owner_claim.from_fields(table, "the claim")


def test_a_claim_comes_back_and_draws_the_same():
    claim = OwnerClaim("Jane Doe", OWNER.hex(), "res20s", parts={"V4": KeyedMask.of(KEY)})
    again = owner_claim.from_fields(json.loads(json.dumps(owner_claim.to_fields(claim))), "the claim")
    assert again == claim and again.parts["V4"].key == KEY


@pytest.mark.parametrize("change, message", [
    ({"salt": "0" * 31 + "1"}, "was changed since"), ({"places": 7}, "was changed since"), ({"check": None}, "was changed since"),
    ({"places": -1}, "'places' holds no value"), ({"salt": None}, "'salt' holds no value"), ({"owner_key": "x"}, "'owner_key' holds no value"),
    ({"more": 1}, "has an unknown entry 'more'"), ({"format": "lottery-keyed-mask/2"}, "is no key of a keyed mask"), ({"arch": "vgg"}, "'arch' holds")])
def test_altered_key_files_are_refused_in_one_line(run_main, refused, tmp_path, change, message):
    path = tmp_path / "k.json"
    write_key(path, KEY)
    assert read_key(path).key == KEY and path.stat().st_mode & 0o777 == 0o600
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert message in refused(run_main("extract_keyed.py", "--checkpoint", path, "--key", path))


def test_a_key_file_that_lacks_something_or_is_something_else_is_refused(run_main, refused, tmp_path):
    path = tmp_path / "k.json"
    write_key(path, KEY)
    content = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in content.items() if name != "salt"}))
    assert "lacks 'salt'" in refused(run_main("extract_keyed.py", "--checkpoint", path, "--key", path))
    with pytest.raises(UserError, match="lacks 'salt'"):  # as a claim too, and not that it is no code's
        owner_claim.read(str(path))
    for text in ("[]", "{", '{"format": "lottery-verification-claim/4"}'):
        path.write_text(text)
        refused(run_main("extract_keyed.py", "--checkpoint", path, "--key", path))
        refused(run_main("make_claim.py", "--owner", "J", "--v4", path, "--save_dir", tmp_path / "c"))


# --- the scripts ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own(tmp_path_factory, run_main):
    """A folder: the ticket with its rewind weights, owner.key, what embed_keyed.py made of them, own.pth.tar under the signed mask."""
    folder = tmp_path_factory.mktemp("keyed")
    torch.manual_seed(0)
    state = build_model("res20s", 10).state_dict()
    tickets.write_ticket(folder / "ticket.pth.tar", UNSIGNED, state, {})
    (folder / "owner.key").write_bytes(as_pem(OWNER_KEY))
    done = run_main("embed_keyed.py", "--mask_dir", folder / "ticket.pth.tar", "--dataset", "digits", "--owner", folder / "owner.key",
                    "--owner_name", "Jane Doe", "--save_dir", folder)
    assert done.returncode == 0, done.stderr
    signed = tickets.read_model_file(folder / "res20s_digits_keyed.weight_mask.pth.tar", build_model("res20s", 10)).mask
    trained = {**state, **{f"{name}.weight": weight for name, weight in weights_of(signed).items()}}
    tickets.write_weights(folder / "own.pth.tar", trained, {}, signed)
    return folder


KEY_FILE, MASKS = "res20s_digits_keyed.key.json", "res20s_digits_keyed.weight_mask.pth.tar"


def embedding(own, folder, *more):
    return ("embed_keyed.py", "--mask_dir", own / "ticket.pth.tar", "--dataset", "digits", "--owner", own / "owner.key", "--owner_name",
            "Jane Doe", "--save_dir", folder, *more)


def test_the_same_command_writes_the_same_bits_and_no_other_goes_over_them(run_main, refused, own, tmp_path):
    files = {name: (own / name).read_bytes() for name in (KEY_FILE, MASKS)}
    assert (own / KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert run_main(*embedding(own, tmp_path)).returncode == 0
    assert {name: (tmp_path / name).read_bytes() for name in files} == files
    (tmp_path / MASKS).unlink()  # killed between the two
    assert run_main(*embedding(own, tmp_path)).returncode == 0 and (tmp_path / MASKS).read_bytes() == files[MASKS]
    assert "holds another key" in refused(run_main(*embedding(own, tmp_path, "--strength", "20,20")))
    (tmp_path / KEY_FILE).unlink()
    assert "is there without res20s_digits_keyed.key.json" in refused(run_main(*embedding(own, tmp_path)))
    assert (tmp_path / MASKS).read_bytes() == files[MASKS]
    for words, message in ((("--strength", "20"), "must be two numbers"), (("--strength", "0,0"), "must be two numbers"),
                           (("--strength", "0,9", "--payload", "x"), "give a --strength of them"), (("--payload", "x" * 15), "at most 14"),
                           (("--strength", "500,0"), "can't be reached in this mask")):
        assert message in refused(run_main(*embedding(own, tmp_path / "new", *words)))
    assert not (tmp_path / "new").exists()


def test_a_ticket_of_other_weights_is_signed_by_another_key(run_main, own, tmp_path):
    """What the mark refers to is in the hash: mask and weights before signing, owner, name, strength and payload."""
    salts = {read_key(own / KEY_FILE).salt}
    tickets.write_masks(tmp_path / "masks.pth.tar", UNSIGNED)
    done = run_main("embed_keyed.py", "--mask_dir", tmp_path / "masks.pth.tar", "--owner", own / "owner.key", "--owner_name", "Jane Doe",
                    "--save_dir", tmp_path)
    assert done.returncode == 0
    part = read_key(tmp_path / "res20s_cifar10_keyed.key.json")
    assert part.ticket_sha256 == fingerprint(UNSIGNED) and part.salt not in salts and part.largest == UNSIGNED.nonzeros


def test_reading(run_main, own, tmp_path):
    done = run_main("extract_keyed.py", "--checkpoint", own / "own.pth.tar", "--key", own / KEY_FILE, "--save_dir", tmp_path)
    assert done.returncode == 0 and "verdict: the mark is there" in done.stdout, done.stderr
    found = json.loads((tmp_path / "keyed.json").read_text())
    assert found["shown"] and found["z"]["places, all"] >= 35 and found["z"]["counts, largest"] >= 25 and "2^80 nonces" in done.stdout
    other = tmp_path / "unsigned.pth.tar"
    tickets.write_masks(other, UNSIGNED)
    done = run_main("extract_keyed.py", "--checkpoint", other, "--key", own / KEY_FILE, "--save_dir", tmp_path, "--committed")
    assert done.returncode == 1 and "verdict: not shown" in done.stdout and "2^40 nonces" in done.stdout


@pytest.mark.slow
def test_a_renumbered_copy_is_read_by_the_ticket_that_the_key_was_drawn_for(run_main, own, tmp_path):
    words = "main_attack.py", "permute", "--checkpoint", own / "own.pth.tar", "--no_accuracy", "--claim", own / KEY_FILE
    done = run_main(*words, "--save_dir", tmp_path / "p")
    assert done.returncode == 0 and re.search(r"keyed mask: z -?\d\.\d of places, -?\d\.\d of counts, p ", done.stdout), done.stderr
    reading = "extract_keyed.py", "--checkpoint", tmp_path / "p/attacked.pth.tar", "--key", own / KEY_FILE, "--save_dir", tmp_path
    assert run_main(*reading).returncode == 1
    done = run_main(*reading, "--aligned_to", own / "ticket.pth.tar")
    assert done.returncode == 0, done.stdout + done.stderr
    straight = run_main("extract_keyed.py", "--checkpoint", own / "own.pth.tar", "--key", own / KEY_FILE, "--save_dir", tmp_path / "s")
    assert straight.returncode == 0
    assert json.loads((tmp_path / "keyed.json").read_text())["z"] == json.loads((tmp_path / "s/keyed.json").read_text())["z"]
    assert "x 2 numberings of channels" in done.stdout
    done = run_main(*reading, "--aligned_to", own / MASKS)  # as good for the owner, and no evidence
    assert done.returncode == 1 and "not counted: by a file that is not the ticket that the key was drawn for" in done.stdout
    # an innocent model is no more alike when it is aligned
    tickets.write_masks(tmp_path / "innocent.pth.tar", random_mask(5))
    done = run_main("extract_keyed.py", "--checkpoint", tmp_path / "innocent.pth.tar", "--key", own / KEY_FILE, "--aligned_to",
                    own / "ticket.pth.tar", "--save_dir", tmp_path)
    assert done.returncode == 1 and all(abs(z) < 4.5 for z in json.loads((tmp_path / "keyed.json").read_text())["z"].values())


@pytest.mark.slow
def test_a_payload_goes_the_way(run_main, own, tmp_path):
    assert run_main(*embedding(own, tmp_path, "--payload", "copy 7")).returncode == 0
    done = run_main("extract_keyed.py", "--checkpoint", tmp_path / MASKS, "--key", tmp_path / KEY_FILE, "--save_dir", tmp_path)
    assert done.returncode == 0 and "payload: 'copy 7'" in done.stdout and "x 2^48 payloads" in done.stdout
    assert json.loads((tmp_path / "keyed.json").read_text())["payload"] == "copy 7"


@pytest.mark.slow
def test_from_claim_to_verdict_and_beside_a_rival(run_main, own, tmp_path):
    done = run_main("make_claim.py", "--owner", "Jane Doe", "--sign", own / "owner.key", "--v4", own / KEY_FILE, "--checkpoint",
                    own / "own.pth.tar", "--save_dir", tmp_path / "jane")
    assert done.returncode == 0 and "V4 on the own model: z 35.0 of places" in done.stdout, done.stderr
    jane = "--claim", tmp_path / "jane/claim.json", "--commitment", tmp_path / "jane/commitment.json"
    done = run_main("main_verify.py", *jane, "--suspect", own / "own.pth.tar", "--report", tmp_path / "page.html", "--json", tmp_path / "v.json")
    assert done.returncode == 0 and re.search(r"^V4 +shown +.+10\^-\d+ +z 35\.0 of places, 25\.0 of counts", done.stdout, re.M), done.stderr
    page = (tmp_path / "page.html").read_text()
    assert page.count('<figure class="chart">') == 2 and page.count(">layer3.2.conv2</text>") == 2
    assert json.loads((tmp_path / "v.json").read_text())["checks"][0]["layers"]["layer3.2.conv2"][0] > 3

    # a thief writes a key of his own into the copy and commits to it, too
    (tmp_path / "thief.key").unlink(missing_ok=True)
    assert run_main("make_claim.py", "--new_owner_key", tmp_path / "thief.key").returncode == 0
    assert run_main("embed_keyed.py", "--mask_dir", own / "own.pth.tar", "--dataset", "digits", "--owner", tmp_path / "thief.key", "--owner_name",
                    "John", "--save_dir", tmp_path / "john").returncode == 0
    assert run_main("make_claim.py", "--owner", "John", "--sign", tmp_path / "thief.key", "--v4", tmp_path / "john" / KEY_FILE, "--save_dir",
                    tmp_path / "john").returncode == 0
    john = "--claim", tmp_path / "john/claim.json", "--commitment", tmp_path / "john/commitment.json"
    done = run_main("main_verify.py", *john, *jane, "--suspect", tmp_path / "john" / MASKS, "--own", tmp_path / "john" / MASKS, "--own",
                    own / "own.pth.tar", "--report", tmp_path / "both.html")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "conclusion: both show; the suspect comes from a model with the first's mark, which may be another's" in done.stdout
    assert "the second's mark is in the first's own model, the first's is not in the second's own; that supports the second" in done.stdout
    assert re.search(r"^keyed mask: +first p .+10\^-\d+; second p .+10\^-\d+$", done.stdout, re.M)
    assert (tmp_path / "both.html").read_text().count('<figure class="chart">') == 4


@pytest.mark.parametrize("names, dated, owner", [(["V4"], None, None), (["V4"], "yesterday", 0), (["V2", "V4"], None, 0), (["V2"], None, 0)])
def test_beside_a_rival_a_keyed_mask_alone_makes_an_owner_by_a_verified_date(names, dated, owner):
    checks = [Check(name, SHOWN, "", Fraction(1, 10**20)) for name in names]
    side = SimpleNamespace(verdict=SimpleNamespace(verdict=OWNED, checks=checks), claim=SimpleNamespace(owner="x"), standing=Standing.LATER,
                           opened=SimpleNamespace(dated=dated and SimpleNamespace(before=1)))
    other = SimpleNamespace(**vars(side) | {"opened": SimpleNamespace(dated=None)})
    assert rivals.conclude([side, other])[0] == owner


def test_a_chart_shows_numbers_and_names_as_they_are():
    drawn = str(draw_bars(Chart("c", {"a<b": 3.0, "c": -1.5})))
    bars = [tuple(map(float, match)) for match in re.findall(r'fill="#1a1a1a" x="([\d.]+)" y="\d+" width="([\d.]+)"', drawn)]
    assert bars == [(280.0, 150.0), (205.0, 75.0)] and "a&lt;b" in drawn


@pytest.mark.slow
def test_an_attack_is_followed_by_the_key_alone(run_main, own, tmp_path):
    done = run_main("main_attack.py", "prune", "--checkpoint", own / "own.pth.tar", "--no_accuracy", "--claim", own / KEY_FILE, "--sweep", "0,0.3",
                    "--save_dir", tmp_path)
    assert done.returncode == 0, done.stderr
    z = [float(value) for value in re.findall(r"keyed mask: z (\d+\.\d) of places", done.stdout)]
    assert z[0] == 35.0 and 25 < z[1] < 35
