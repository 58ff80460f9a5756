"""Second claims: made-up signatures and keys, a thief's own codes, and what each is worth on which model, and when."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attacks import run_forge as forging
from attacks.run import left_in_words, read_result
from attacks import ATTACKS, FORGERIES
from attacks.forgeries.forge import _letters, _of_letters, forge
from attacks.locate import locate
from attacks.forgeries.second_claim import by_adding, by_key, by_replacing, by_signing_again
from attacks.noise import NewWeights
from ownership.claims import owner_claim
from ownership.qr_code.claim import CodeClaim, read_claim, write_claim
from ownership.qr_code.evidence import agreement, places_for
from ownership.qr_code.window import window_of
from ownership.suspects.reading import Suspect
from pruner import tickets
from pruner.key_mask import split as key_masks
from pruner.qr_code import geometry as qr_code
from pruner.qr_code.embedding import Wish, embed, find_copies, find_region
from pruner.qr_code.linear_code import linear_code
from pruner.masks import Mask, prunable_layers
from pruner.qr_code.geometry import CodeFormat
from utils.errors import UserError

OWNERS, THIEFS = "Jane Doe 2026", "a thief"


@pytest.fixture(scope="module")
def unsigned(make_model, tmp_path_factory):
    """A model's file; nothing was written into it."""
    model = make_model("res20s", classes=10)
    generator = torch.Generator().manual_seed(3)
    mask = Mask({name: torch.rand(layer.weight.shape, generator=generator) < 0.1
                 for name, layer in prunable_layers(model).items()})
    path = tmp_path_factory.mktemp("unsigned") / "model.pth.tar"
    tickets.write_weights(path, model.state_dict(), {"num_classes": 10}, mask)
    return path, mask


@pytest.mark.parametrize("text", [b"abcdefghi", b"signature", b"`{|}~\x7fxyz"])
def test_texts_of_letters_are_a_code_of_their_own(text):
    code = linear_code(CodeFormat(3, "H", 4), len(text))
    bits = np.unpackbits(np.frombuffer(text, np.uint8)).astype(bool)
    free = bits.reshape(-1, 8)[:, 3:].ravel()
    assert (_letters(free) == bits).all()
    assert (_of_letters(code).encode(free) == code.encode(bits)).all()


def test_a_made_up_signature_agrees_with_a_model_that_knows_nothing_of_it(unsigned):
    _, mask = unsigned
    few, more = (forge(mask, budget, 11, 3, "H", 1) for budget in (5, 40))
    assert more.agreement >= few.agreement and forge(mask, 5, 11, 3, "H", 1) == few
    assert len(more.signature.encode()) == 11 and all(byte >> 5 == 0b011 for byte in more.signature.encode())
    searched = places_for(mask, 3)
    made_up = agreement([window_of(Suspect(mask), more.place, 3)], more.signature, more.code_format, searched)
    honest = agreement([window_of(Suspect(mask), more.place, 3)], "honest owner"[:11], more.code_format, searched)
    assert made_up.p_value < 1e-10 < 1e-4 < honest.p_value
    assert made_up.p_any_text == honest.p_any_text == 1.0
    # and the agreement is with the code as the library writes it
    ones = qr_code.encode(more.signature, more.code_format)[qr_code.data_modules(3)]
    window = np.minimum(window_of(Suspect(mask), more.place, 3).counts, 3)[qr_code.data_modules(3)]
    mixes = linear_code(more.code_format, 11).mixes_text
    assert window[mixes & ones].mean() - window[mixes & ~ones].mean() > 0.2 * window[mixes].mean()


@pytest.mark.slow
def test_the_script_claims_it_and_the_owners_reader_does_not_believe_it(run_main, unsigned, tmp_path):
    path, mask = unsigned
    before = path.read_bytes()
    words = ("main_attack.py", "forge", "--checkpoint", path, "--no_accuracy", "--budget", "60", "--save_dir", tmp_path / "forged")
    done = run_main(*words)
    assert done.returncode == 0, done.stderr
    assert path.read_bytes() == before and not list((tmp_path / "forged").glob("*.pth.tar")), "nothing is written into the model"
    result = json.loads((tmp_path / "forged/result.json").read_text())
    assert result["p_corrected"] < 1e-4 and result["p_any_text"] == 1.0
    claim = (tmp_path / "forged/forged.claim.json").read_bytes()
    stated = json.loads(claim)
    x, y = stated["start_x"], stated["start_y"]
    occupied = mask[stated["layer"]][x:x + 29, y:y + 29].flatten(2).any(2).numpy()
    ones = qr_code.encode(stated["signature"], CodeFormat(3, "H", stated["mask_pattern"]))
    assert stated["similarity"] == (occupied == ones)[qr_code.data_modules(3)].mean()
    assert run_main(*words).stdout == done.stdout and (tmp_path / "forged/forged.claim.json").read_bytes() == claim

    read = ("extract_qrcode.py", "--checkpoint", path, "--claim", tmp_path / "forged/forged.claim.json", "--restarts", "0",
            "--save_dir", tmp_path / "read", "--max_false", "1e-4")
    done = run_main(*read)
    assert done.returncode == 1 and "verdict: no match" in done.stdout
    # only who vouches that it was committed to before is taken in by it
    done = run_main(*read, "--committed")
    assert done.returncode == 0 and "verdict: match by agreement" in done.stdout


@pytest.mark.parametrize("words, message", [
    (("--length", "25"), "a version 3-H code holds 24 bytes"),
    (("--version", "20"), "no layer of this network has room"),
    (("--budget", "0"), "argument --budget"),
    (("--noise", "0.2"), "means nothing to forge"),
])
def test_what_can_not_be_forged_is_refused(run_main, refused, unsigned, tmp_path, words, message):
    assert message in refused(run_main("main_attack.py", "forge", "--checkpoint", unsigned[0], "--no_accuracy", *words,
                                       "--save_dir", tmp_path / "x"))
    assert not (tmp_path / "x").exists()


# --- a thief's own codes, on small masks ------------------------------------------------------------------------------


def small_ticket(seed: int, density: float) -> tuple[Mask, dict[str, torch.Tensor]]:
    """Layers with little room for the smallest code, one with none, and a state_dict with more than they have."""
    rng = np.random.default_rng(seed)
    shapes = {"layer1.0.conv1": (22, 23, 2, 2), "layer2.0.conv1": (5, 40, 3, 3), "layer2.0.conv2": (21, 22, 3, 3)}
    mask = Mask({name: torch.from_numpy(rng.random(shape) < density) for name, shape in shapes.items()})
    weights = {f"{name}.weight": torch.from_numpy(rng.normal(size=kept.shape)).float() * kept for name, kept in mask.items()}
    return mask, weights | {"fc.weight": torch.ones(3, 2)}


def window(mask: Mask, code) -> torch.Tensor:
    """The kernels of a code's place, bool [size, size, area]."""
    x, y, size = code.place.start_x, code.place.start_y, code.code_format.size
    return mask[code.place.layer][x:x + size, y:y + size].flatten(2)


def check_untouched(before, made, inside: bool = True, outside: bool = True) -> None:
    """Weights outside the code's window (`inside`: there, too) that were there and still are have their values, the others are
    zero or new; with `outside`, only the window has changed."""
    mask, weights = before
    assert list(made.mask) == list(mask) and list(made.weights) == list(weights)
    assert torch.equal(made.weights["fc.weight"], weights["fc.weight"])
    for name, kept in mask.items():
        old, new = weights[f"{name}.weight"], made.weights[f"{name}.weight"]
        both, changed = kept & made.mask[name], kept != made.mask[name]
        if name == made.code.place.layer:
            x, y, size = made.code.place.start_x, made.code.place.start_y, made.code.code_format.size
            changed[x:x + size, y:y + size] = False
            both[x:x + size, y:y + size] &= inside
        assert torch.equal(new[both], old[both]) and torch.equal(new != 0, made.mask[name])
        assert not (outside and changed.any())


def agrees(mask: Mask, code) -> bool:
    """Whether the data modules read exactly as the code."""
    is_data = qr_code.data_modules(code.code_format.version)
    return bool((window(mask, code).any(2).numpy() == qr_code.encode(code.signature, code.code_format))[is_data].all())


@pytest.mark.slow
@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), density=st.sampled_from([0.02, 0.1, 0.3, 0.6]), top_up=st.booleans(),
       each=st.sampled_from([None, 1, 3]))
def test_a_code_that_is_only_added_lies_where_the_fewest_zeros_are_occupied(seed, density, top_up, each):
    mask, weights = small_ticket(seed, density)
    made = by_adding(mask, weights, "ab", Wish(version=1), 10**6, NewWeights(0.1, each), top_up, seed)
    is_data, merits = qr_code.data_modules(1), {}
    for name, layer in mask.items():
        for x in range(layer.shape[0] - 20):
            for y in range(layer.shape[1] - 20):
                for pattern in range(8):
                    code = qr_code.encode("ab", CodeFormat(1, "H", pattern))[is_data]
                    there = layer[x:x + 21, y:y + 21].sum((2, 3)).numpy()[is_data] > 0
                    merits[name, x, y, pattern] = (there & ~code).sum(), -(there == code).sum()
    place = made.code.place
    assert made.tried == len(merits) == 8 * (2 * 3 + 2)
    assert merits[place.layer, place.start_x, place.start_y, made.code.code_format.mask_pattern] == min(merits.values())

    check_untouched((mask, weights), made)
    before, after = window(mask, made.code), window(made.mask, made.code)
    assert not (before & ~after).any(), "nothing is removed"
    ones = torch.from_numpy(qr_code.encode("ab", made.code.code_format) & is_data)
    assert torch.equal(before[~ones], after[~ones]) and after[ones].any(1).all()
    counts = mask[place.layer].sum((2, 3))
    wanted = each or max(1, round(float(counts[counts > 0].double().mean())))
    held = before[ones].sum(1)
    filled = (held == 0) | torch.tensor(top_up)
    assert torch.equal(after[ones].sum(1), torch.where(filled, held.clamp(min=wanted), held))


def test_a_budget_is_spent_on_different_places_and_the_seed_decides():
    mask, weights = small_ticket(1, 0.2)
    some = [by_adding(mask, weights, "ab", Wish(version=1), 6, NewWeights(0.1), False, seed) for seed in (1, 1, 2, 3, 4)]
    assert [made.tried for made in some] == [6] * 5
    assert some[0].mask == some[1].mask and len({(made.code.place, made.code.code_format) for made in some}) > 1


@settings(max_examples=10)
@given(seed=st.integers(0, 10**6), density=st.sampled_from([0.1, 0.3, 0.6]))
def test_a_re_signed_copy_has_its_density_and_leaves_the_suspected_block_alone(seed, density):
    mask, weights = small_ticket(seed, density)
    made = by_signing_again(mask, weights, "ab", Wish(), 0.1, seed)
    assert made.mask.nonzeros == mask.nonzeros and agrees(made.mask, made.code)
    check_untouched((mask, weights), made, outside=False)
    found, place, size = locate(mask, limit=1)[0], made.code.place, made.code.code_format.size
    assert place.layer != found.layer or abs(place.start_x - found.start_x) >= size or abs(place.start_y - found.start_y) >= size
    best = find_region(mask, "ab", Wish(place.layer, place.start_x, place.start_y), low_level=False)
    assert made.code.code_format == best.code_format
    assert made.tried == 8 * (2 * 3 + 2)


def test_a_network_with_one_place_only_has_no_second():
    mask, weights = small_ticket(1, 0.3)
    alone = Mask({"layer1.0.conv1": mask["layer1.0.conv1"][:21, :21]})
    with pytest.raises(UserError, match="^--by resign: no layer has room"):
        by_signing_again(alone, weights, "ab", Wish(), 0.1, 1)
    with pytest.raises(UserError, match="^--signature"):
        by_signing_again(alone, weights, "too long for it", Wish(), 0.1, 1)


@pytest.mark.parametrize("mask_pattern, tried", [(None, 8), (5, 1)])
def test_another_code_lies_where_it_is_told_or_where_one_is_suspected(mask_pattern, tried):
    mask, weights = small_ticket(4, 0.3)
    how = NewWeights(0.1), False, 4
    told = by_replacing(mask, weights, "ab", Wish("layer2.0.conv2", 0, 1, mask_pattern=mask_pattern), *how)
    assert (told.code.place.layer, told.code.place.start_x, told.code.place.start_y) == ("layer2.0.conv2", 0, 1)
    guessed, found = by_replacing(mask, weights, "ab", Wish(mask_pattern=mask_pattern), *how), locate(mask, limit=1)[0]
    assert (guessed.code.place.layer, guessed.code.place.start_x, guessed.code.place.start_y, guessed.code.code_format.version) \
        == (found.layer, found.start_x, found.start_y, found.version)
    for made in (told, guessed):
        assert agrees(made.mask, made.code) and made.tried == tried
        check_untouched((mask, weights), made, inside=False)  # it is cleared first
        assert mask_pattern in (None, made.code.code_format.mask_pattern)


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), ratio=st.floats(0.001, 0.8))
def test_a_forged_key_has_its_share_and_no_weight_of_the_model(seed, ratio):
    mask, weights = small_ticket(seed, 0.1)
    made = by_key(mask, weights, ratio, 0.1, seed)
    key = Mask({name: made.mask[name] & ~kept for name, kept in mask.items()})
    assert all((made.mask[name] & kept).equal(kept) for name, kept in mask.items())
    assert abs(key.nonzeros / made.mask.nonzeros - ratio) < 1 / made.mask.nonzeros
    assert made.tried == 1 and made.code is None


@pytest.mark.parametrize("ratio", [1e-9, 0.999])
def test_a_key_without_weights_or_without_room_is_refused(ratio):
    with pytest.raises(UserError, match="^--key_ratio"):
        by_key(*small_ticket(1, 0.3), ratio, 0.1, 1)


# --- the script, and what becomes of its claims -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def owner(make_model, run_main, tmp_path_factory):
    """A folder with Jane's signed model, which bears two copies of her code, and with her committed claims: of the first copy
    (one/) and of both (two/)."""
    folder, model = tmp_path_factory.mktemp("owner"), make_model("res20s", classes=10)
    generator = torch.Generator().manual_seed(5)
    mask = Mask({name: torch.rand(layer.weight.shape, generator=generator) < 0.12
                 for name, layer in prunable_layers(model).items()})
    regions = find_copies(mask, OWNERS, find_region(mask, OWNERS), 2)
    mask = embed(mask, OWNERS, regions, np.random.default_rng(0))
    tickets.write_weights(folder / "model.pth.tar", model.state_dict(), {"num_classes": 10}, mask)
    first = regions[0]
    one = CodeClaim(OWNERS, "res20s", first.layer, first.start_x, first.start_y, 3, "H", first.code_format.mask_pattern,
                first.similarity, mask.nonzeros, mask.entries, {})
    second = [(copy.layer, copy.start_x, copy.start_y) for copy in regions[1:]]
    for name, copies in (("one", ()), ("two", tuple(second))):
        write_claim(folder / f"{name}.json", CodeClaim(**{**vars(one), "copies": copies}))
        done = run_main("make_claim.py", "--owner", "Jane", "--v2", folder / f"{name}.json", "--checkpoint",
                        folder / "model.pth.tar", "--save_dir", folder / name)
        assert done.returncode == 0, done.stderr
    return folder


WAYS = {"fake2": ("--budget", 300, "--top_up", "--weights_per_kernel", 3), "fake3": (), "resign": ()}


@pytest.fixture(scope="module")
def thief(owner, run_main, tmp_path_factory):
    """thief(by) -> the folder of main_attack.py forge, with the copy, and the thief's committed claim in claimed/."""
    made = {}

    def forge_by(by: str):
        if by not in made:
            folder = made[by] = tmp_path_factory.mktemp(by)
            claim = owner / "one.json"
            done = run_main("main_attack.py", "forge", "--by", by, "--checkpoint", owner / "model.pth.tar", "--no_accuracy",
                            "--signature", THIEFS, "--claim", claim, *WAYS[by], "--save_dir", folder)
            assert done.returncode == 0, done.stderr
            (folder / "out.txt").write_text(done.stdout)
            done = run_main("make_claim.py", "--owner", "John", "--v2", folder / "forged.claim.json", "--checkpoint",
                            folder / "attacked.pth.tar", "--save_dir", folder / "claimed")
            assert done.returncode == 0, done.stderr
        return made[by]

    return forge_by


@pytest.fixture(scope="module")
def owned(run_main):
    """owned(folder of a claim, suspect, committed=True, *words) -> whether main_verify.py says so."""

    def verdict(claim, suspect, *words, committed: bool = True) -> bool:
        before = ("--commitment", claim / "commitment.json") if committed else ()
        done = run_main("main_verify.py", "--claim", claim / "claim.json", *before, "--suspect", suspect, "--restarts", 0, *words)
        said = {0: "verdict:    owned", 1: "verdict:    not shown"}[done.returncode]
        assert said in done.stdout
        return done.returncode == 0

    return verdict


def result(folder) -> dict:
    return json.loads((folder / "result.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("by", WAYS)
def test_a_written_code_is_on_the_copy_alone_and_the_owners_on_both(thief, owner, run_main, by):
    """All of them are texts that somebody chose, so all are told and none owns."""

    def told(claim, suspect) -> bool:
        done = run_main("main_verify.py", "--claim", claim / "claim.json", "--commitment", claim / "commitment.json", "--suspect",
                        suspect, "--restarts", 0)
        assert done.returncode == 1, done.stdout
        return "the text is there; anybody could have named it" in done.stdout

    copy, own, thiefs = thief(by) / "attacked.pth.tar", owner / "model.pth.tar", thief(by) / "claimed"
    assert told(thiefs, copy) and not told(thiefs, own)
    assert told(owner / "one", own) and told(owner / "two", own)
    assert told(owner / "one", copy) == (by != "fake3"), "only what was written over is gone"
    assert told(owner / "two", copy), "the other copy is there still"


@pytest.mark.slow
@pytest.mark.parametrize("by", ["fake3", "resign"])
def test_a_text_of_his_own_choice_owns_nothing_though_it_was_written(thief, owned, by):
    for committed in (True, False):
        assert not owned(thief(by) / "claimed", thief(by) / "attacked.pth.tar", committed=committed)


@pytest.mark.parametrize("by", WAYS)
def test_the_result_says_what_was_changed_and_what_the_owners_test_says(thief, owner, make_model, by):
    model, row = make_model("res20s", classes=10), result(thief(by))
    before, after = (tickets.read_model_file(path, model).pattern("--checkpoint", model)
                     for path in (owner / "model.pth.tar", thief(by) / "attacked.pth.tar"))
    assert row["removed"] == sum(int((before[name] & ~after[name]).sum()) for name in before)
    assert row["added"] == sum(int((after[name] & ~before[name]).sum()) for name in before)
    assert row["nonzeros"] == after.nonzeros == read_claim(thief(by) / "forged.claim.json").nonzeros
    assert {"fake2": row["removed"] == 0 < row["added"], "fake3": row["removed"] > 0 < row["added"],
            "resign": row["removed"] == row["added"] > 0}[by]
    assert row["budget"] == {"fake2": 300, "fake3": 1, "resign": places_for(before, 3)}[by]
    claim = read_claim(thief(by) / "forged.claim.json")
    assert (claim.signature, claim.layer, claim.start_x) == (THIEFS, row["layer"], row["start_x"])
    for prefix, mask in (("stolen_", before), ("", after)):
        found = agreement([window_of(Suspect(mask), claim.places[0], 3)], THIEFS, claim.code_format, places_for(mask, 3))
        assert (row[f"{prefix}p_value"], row[f"{prefix}p_corrected"], row[f"{prefix}p_any_text"], row[f"{prefix}agreeing"]) \
            == (found.p_value, found.p_corrected, found.p_any_text, found.agreeing)
    assert row["p_corrected"] < 1e-9 < 1e-3 < row["stolen_p_corrected"]
    # and of the owner's code, as other attacks tell it
    first = read_claim(owner / "one.json")
    x, y, code = first.start_x, first.start_y, qr_code.encode(OWNERS, first.code_format)
    there = after[first.layer][x:x + 29, y:y + 29].sum((2, 3)).numpy() > 0
    lost, added = ((which & qr_code.data_modules(3)).sum() for which in (code & ~there, ~code & there))
    assert (row["owner_code_lost"], row["owner_code_added"]) == (lost, added)
    assert (lost + added > 100) == (by == "fake3")
    said = (thief(by) / "out.txt").read_text()
    assert f"owner:     {lost} of " in said and f"-{row['removed']} +{row['added']}" in said


@pytest.mark.slow
def test_a_made_up_signature_never_counts(owner, owned, run_main, tmp_path):
    done = run_main("main_attack.py", "forge", "--checkpoint", owner / "model.pth.tar", "--budget", 60, "--claim",
                    owner / "one.json", "--save_dir", tmp_path / "forged")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 5 and "owner:     0 of " in done.stdout
    assert not list((tmp_path / "forged").glob("*.pth.tar"))
    assert run_main("make_claim.py", "--owner", "John", "--v2", tmp_path / "forged/forged.claim.json", "--save_dir",
                    tmp_path / "claimed").returncode == 0
    loose = ("--max_false", "1e-3")  # this small budget does not reach the default of 1e-9
    for committed in (True, False):
        assert not owned(tmp_path / "claimed", owner / "model.pth.tar", *loose, committed=committed)


@pytest.mark.slow
def test_a_forged_key_completes_a_ticket_and_never_counts(owner, owned, run_main, make_model, refused, tmp_path):
    words = ("main_attack.py", "forge", "--by", "fake1", "--checkpoint", owner / "model.pth.tar", "--key_ratio", 0.1,
             "--save_dir", tmp_path / "forged")
    done = run_main(*words)
    assert done.returncode == 0, done.stderr
    assert run_main(*words).stdout == done.stdout and "1 key tried" in done.stdout
    model = make_model("res20s", classes=10)
    stolen = tickets.read_model_file(owner / "model.pth.tar", model)
    locked, key = (tickets.read_model_file(tmp_path / f"forged/{part}.pth.tar", model) for part in ("locked", "key"))
    whole, weights = key_masks.merge(locked, key)
    row = result(tmp_path / "forged")
    assert locked.mask == stolen.pattern("", model) and row["key_nonzeros"] == key.mask.nonzeros
    assert row["key_ratio"] == key.mask.nonzeros / whole.nonzeros and abs(row["key_ratio"] - 0.1) < 1 / whole.nonzeros
    assert all(torch.equal(weights[name][kept], stolen.weights[name][kept])
               for name, kept in ((f"{layer}.weight", kept) for layer, kept in locked.mask.items()))
    drawn = torch.cat([weights[f"{name}.weight"][kept] for name, kept in key.mask.items()])
    assert 0.09 < drawn.std() < 0.11

    files = ("--key", tmp_path / "forged/key.pth.tar")
    done = run_main("make_claim.py", "--owner", "John", "--v1", tmp_path / "forged/locked.pth.tar", *files, "--save_dir",
                    tmp_path / "claimed")
    assert done.returncode == 0, done.stderr
    for committed in (True, False):
        assert not owned(tmp_path / "claimed", owner / "model.pth.tar", *files, committed=committed)
    # a file of masks has no weights that a locked ticket could hold
    tickets.write_masks(tmp_path / "masks.pth.tar", locked.mask)
    from_file = ("main_attack.py", "forge", "--by", "fake1", "--checkpoint")
    message = refused(run_main(*from_file, tmp_path / "masks.pth.tar", "--save_dir", tmp_path / "x"))
    assert "holds masks but no weights" in message and not (tmp_path / "x").exists()
    # of a locked ticket the true key's size is known
    done = run_main(*from_file, tmp_path / "forged/locked.pth.tar", "--save_dir", tmp_path / "again")
    assert done.returncode == 0 and result(tmp_path / "again")["key_nonzeros"] == key.mask.nonzeros


def test_masks_will_do_for_a_code(owner, run_main, make_model, tmp_path):
    model = make_model("res20s", classes=10)
    tickets.write_masks(tmp_path / "masks.pth.tar", tickets.read_model_file(owner / "model.pth.tar", model).pattern("", model))
    done = run_main("main_attack.py", "forge", "--by", "resign", "--signature", THIEFS, "--no_accuracy", "--checkpoint",
                    tmp_path / "masks.pth.tar", "--save_dir", tmp_path / "copy")
    assert done.returncode == 0, done.stderr
    copy = tickets.read_model_file(tmp_path / "copy/attacked.pth.tar", model)
    assert copy.weights is None and copy.mask.nonzeros == result(tmp_path / "copy")["nonzeros"]


@pytest.mark.slow
def test_pictures_are_loaded_only_where_a_model_is_written_and_triggers_are_followed(owner, run_main, refused, make_dataset,
                                                                                   tmp_path, monkeypatch):
    def no_pictures(*_):
        raise AssertionError("pictures were loaded")

    forge_by = ("main_attack.py", "forge", "--checkpoint", owner / "model.pth.tar", "--by")
    monkeypatch.setattr("pruner.experiment.load_dataset", no_pictures)
    for by, words in (("search", ("--budget", 2)), ("fake1", ())):
        done = run_main(*forge_by, by, *words, "--save_dir", tmp_path / by)
        assert done.returncode == 0, done.stderr
        assert not any("acc" in name for name in result(tmp_path / by))
    (tmp_path / "trigger.key").write_text("a secret that only Jane has")
    triggers = ("--trigger_set", "keyed", "--trigger_key", tmp_path / "trigger.key", "--trigger_count", 20)
    assert "forge --by search changes no model" in refused(run_main(*forge_by, "search", *triggers, "--save_dir", tmp_path / "x"))

    monkeypatch.setattr("pruner.experiment.load_dataset", lambda *_: make_dataset(train=60, val=20, test=20, classes=10))
    done = run_main(*forge_by, "fake3", "--signature", THIEFS, *triggers, "--save_dir", tmp_path / "fake3")
    assert done.returncode == 0, done.stderr
    row = result(tmp_path / "fake3")
    assert all(0 <= row[f"{which}{name}_acc"] <= 100 for which in ("", "stolen_") for name in ("val", "test", "trigger"))
    assert 0 < row["trigger_p"] <= 1 and f"test {row['test_acc']:.2f}%" in done.stdout and "triggers:" in done.stdout
    assert "--no_accuracy" in refused(run_main(*forge_by, "fake3", "--signature", THIEFS, *triggers, "--no_accuracy",
                                               "--save_dir", tmp_path / "x"))
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_a_killed_run_is_finished_and_a_finished_one_skipped(owner, run_main, refused, tmp_path, monkeypatch):
    words = ("main_attack.py", "forge", "--by", "fake2", "--signature", THIEFS, "--checkpoint", owner / "model.pth.tar",
             "--no_accuracy", "--budget", 50, "--save_dir", tmp_path)
    first = run_main(*words)
    assert first.returncode == 0, first.stderr
    row, claim = (tmp_path / "result.json").read_bytes(), (tmp_path / "forged.claim.json").read_bytes()
    for missing in ("result.json", "attacked.pth.tar", "forged.claim.json"):  # result.json is written last
        (tmp_path / missing).unlink()
        again = run_main(*words)
        assert again.returncode == 0 and again.stdout == first.stdout
        assert (tmp_path / "result.json").read_bytes() == row and (tmp_path / "forged.claim.json").read_bytes() == claim
    monkeypatch.setattr("attacks.run_forge.make", None)
    assert run_main(*words).stdout == first.stdout
    monkeypatch.undo()
    assert "--seed 1 then, 2 now" in refused(run_main(*words, "--seed", 2))


def test_a_result_of_an_earlier_version_is_named_and_made_anew_once_it_is_gone(unsigned, run_main, refused, tmp_path):
    words = ("main_attack.py", "forge", "--checkpoint", unsigned[0], "--no_accuracy", "--budget", 5, "--save_dir", tmp_path)
    first, path, claim = run_main(*words), tmp_path / "result.json", tmp_path / "forged.claim.json"
    assert first.returncode == 0, first.stderr
    written, claimed, row = path.read_bytes(), claim.read_bytes(), result(tmp_path)
    old = ("attack", "seed", "budget", "length", "agreeing", "p_value", "p_corrected", "p_any_text", "claim")
    path.write_text(json.dumps({name: row[name] for name in old}))
    message = refused(run_main(*words))
    assert f"{path}: has no 'signature'" in message and "remove it" in message
    assert claim.read_bytes() == claimed
    path.unlink()
    assert run_main(*words).stdout == first.stdout
    assert (path.read_bytes(), claim.read_bytes()) == (written, claimed)


@pytest.mark.slow
@pytest.mark.parametrize("by, words", [("search", ("--budget", 1)), ("fake1", ()), ("resign", ("--signature", THIEFS))])
def test_a_damaged_column_is_named_or_not_asked_for(owner, run_main, refused, tmp_path, by, words):
    words = ("main_attack.py", "forge", "--by", by, "--checkpoint", owner / "model.pth.tar", "--no_accuracy", *words, "--claim",
             owner / "one.json", "--save_dir", tmp_path)
    first, path = run_main(*words), tmp_path / "result.json"
    assert first.returncode == 0, first.stderr
    claim = owner_claim.read(str(owner / "one.json"))
    whole = [*forging.in_words(by, read_result(path)), *left_in_words(read_result(path), claim, "owner_")]
    row, refusals = result(tmp_path), set()
    for name in row:
        others = {other: value for other, value in row.items() if other != name}
        for content in (others, *({**row, name: value} for value in ([1], {}, 10**400))):
            path.write_text(json.dumps(content))
            try:
                lines = [*forging.in_words(by, read_result(path)), *left_in_words(read_result(path), claim, "owner_")]
            except UserError as error:
                assert str(error).startswith(f"{path}: ") and repr(name) in str(error) and "remove it" in str(error)
                refusals.add(name)
            else:
                assert name.startswith("owner_read by ") or lines == whole, "what is damaged is not shown"
    assert {"owner_code_lost", "owner_p_corrected", "locked" if by == "fake1" else "p_any_text"} <= refusals
    path.write_text("")
    message = refused(run_main(*words))
    assert f"{path}: not a JSON file" in message and "remove it" in message
    path.unlink()
    assert run_main(*words).stdout == first.stdout and result(tmp_path) == row


def test_every_way_has_its_function_and_its_flags():
    from main_attack import parse_args

    args = parse_args(["forge", "--checkpoint", "x", "--save_dir", "y"])
    assert args.by == "search" and set(FORGERIES) == {"search", "fake1", "fake2", "fake3", "resign", "solve"}
    for forgery in FORGERIES.values():
        assert callable(forgery.load()) and all(hasattr(args, name) for name in forgery.settings)
    assert ATTACKS["forge"].settings == ("by",)


TEXT, PLACED = ("--signature", THIEFS), ("--max_name", "layer2.0.conv2", "--start_x", 0, "--start_y", 0)


@pytest.mark.slow
@pytest.mark.parametrize("words, message", [
    (("forge", "--by", "fake2"), "argument --signature: forge --by fake2 needs the text"),
    (("forge", "--by", "fake3"), "argument --signature: forge --by fake3 needs the text"),
    (("forge", "--by", "resign"), "argument --signature: forge --by resign needs the text"),
    (("forge", "--by", "theft"), "argument --by"),
    (("forge", *TEXT), "--signature: means nothing to forge --by search"),
    (("forge", "--by", "fake1", *TEXT), "--signature: means nothing to forge --by fake1"),
    (("forge", "--by", "fake1", "--budget", 7), "--budget: means nothing to forge --by fake1"),
    (("forge", "--by", "fake2", *TEXT, "--length", 7), "--length: means nothing to forge --by fake2"),
    (("forge", "--by", "fake2", *TEXT, *PLACED), "--max_name: means nothing to forge --by fake2"),
    (("forge", "--by", "fake3", *TEXT, "--budget", 7), "--budget: means nothing to forge --by fake3"),
    (("forge", "--by", "fake3", *TEXT, "--top_up"), "--top_up: means nothing to forge --by fake3"),
    (("forge", "--by", "resign", *TEXT, "--insider"), "--insider: means nothing to forge --by resign"),
    (("forge", "--by", "resign", *TEXT, "--key_ratio", 0.1), "--key_ratio: means nothing to forge --by resign"),
    (("prune", "--by", "fake2"), "--by: means nothing to prune"),
    (("addon", "--top_up"), "--top_up: means nothing to addon"),
    (("forge", "--by", "fake1", "--level", 0.1), "--level: forge is no matter of degree"),
    (("forge", "--by", "fake3", *TEXT, *PLACED[:4]), "--start_y must say where forge --by fake3 writes"),
    (("forge", "--by", "fake3", *TEXT, *PLACED, "--claim", "c.json"), "--claim says --max_name already"),
    (("forge", "--by", "fake3", *TEXT, "--mask_pattern", 1, "--claim", "c.json"), "--claim says --mask_pattern already"),
    (("forge", "--by", "fake1", "--key_ratio", 0.99), "--key_ratio 0.99"),
    (("forge", "--by", "fake2", "--signature", "x" * 200), "--signature: has 200 bytes"),
    (("forge", "--by", "resign", *TEXT, "--version", 20), "--version 20"),
    (("forge", "--by", "fake2", *TEXT, "--weights_per_kernel", 10), "a kernel of layer"),
    (("forge", "--by", "resign", *TEXT, "--arch", "res18"), "see --arch"),
])
def test_what_makes_no_sense_is_one_line_and_nothing_is_written(run_main, refused, unsigned, tmp_path, words, message):
    said = refused(run_main("main_attack.py", *words, "--checkpoint", unsigned[0], "--no_accuracy", "--save_dir", tmp_path / "x"))
    assert message in said and not (tmp_path / "x").exists()
