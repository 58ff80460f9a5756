"""The seams for further schemes: a registered one goes through claims, disputes, pages and sweeps; claims of all formats open."""

import csv
import dataclasses
import importlib
import json
import re
import shlex
import sys
from dataclasses import dataclass

import pytest
import torch
from conftest import ROOT, documented_blocks

import ownership
from models import build_model
from ownership import SCHEMES, Scheme
from ownership.claims import commitment, owner_claim
from ownership.claims.commitment import Refused
from ownership.claims.fields import field, is_text, or_none
from ownership.key_mask import claim as key_mask_claim
from ownership.key_mask.claim import KeyMask
from pruner import tickets
from pruner.masks import Mask, prunable_layers

OLD = ROOT / "tests/golden/files/all"  # a claim and its commitment, of the first format


def opened(folder) -> owner_claim.OwnerClaim:
    private, _ = commitment.open_claim(folder / "claim.json", folder / "commitment.json", "owner_key")
    return owner_claim.from_fields(private.values, "the claim", private.format)


# --- formats ----------------------------------------------------------------------------------------------------------


def test_the_first_format_has_these_fields_for_ever():
    fields = json.loads((OLD / "claim.json").read_text())["fields"]
    assert owner_claim.formats()[1].keys() == fields.keys()


def test_a_part_that_got_a_field_opens_claims_with_and_without_it(monkeypatch, tmp_path):
    """A class may grow: its new field says since which format, and the commitments of before open as they did."""
    number = owner_claim.newest_format() + 1

    @dataclass(frozen=True)
    class Grown(KeyMask):
        reference: str | None = field(or_none(is_text), since=number, default=None)

    before = opened(OLD)
    monkeypatch.setattr(key_mask_claim, "Part", Grown)
    assert owner_claim.newest_format() == number
    assert set(owner_claim.formats()[number]) - set(owner_claim.formats()[number - 1]) == {"v1.reference"}
    old = opened(OLD)
    assert old.parts["V1"] == Grown(**vars(before.parts["V1"])) and old.parts["V1"].reference is None
    assert [old.parts[name] == before.parts[name] for name in ("V2", "V3")] == [True, True]
    assert owner_claim.to_fields(old, 1) == commitment.read_claim(OLD / "claim.json")[0].values

    new = dataclasses.replace(old, owner_key=None,
                              parts={**old.parts, "V1": dataclasses.replace(old.parts["V1"], reference="a dated model")})
    private = commitment.salted(owner_claim.to_fields(new), owner_claim.newest_format())
    commitment.write(tmp_path, private, commitment.commit(private))
    assert json.loads((tmp_path / "claim.json").read_text())["format"] == f"lottery-ownership-claim/{number}"
    assert opened(tmp_path) == new

    table = owner_claim.to_fields(new)
    for claim_format, message in ((number - 1, "unknown field 'v1.reference'"),
                                  (number + 1, f"is of format {number + 1}, and formats up to {number} are known here")):
        with pytest.raises(Refused, match=message):
            owner_claim.from_fields(table, "the claim", claim_format)
    with pytest.raises(Refused, match="lacks the field 'v1.reference'"):
        owner_claim.from_fields(owner_claim.to_fields(new, number - 1), "the claim", number)
    with pytest.raises(Refused, match="field 'v1.reference' holds no value"):
        owner_claim.from_fields({**table, "v1.reference": 7}, "the claim", number)


def test_a_claim_of_a_later_version_is_refused_in_one_line(run_main, refused, tmp_path):
    private = commitment.read_claim(OLD / "claim.json")[0]
    later = commitment.salted({**private.values, "owner_key": None, "v9.text": "x"}, 9)
    claim, public = commitment.write(tmp_path, later, commitment.commit(later))
    done = run_main("main_verify.py", "--claim", claim, "--commitment", public, "--suspect", claim)
    assert f"is of format 9, and formats up to {owner_claim.newest_format()} are known here; take a newer version" in refused(done)


# --- a further scheme -------------------------------------------------------------------------------------------------


@pytest.fixture
def signs(monkeypatch, tmp_path):
    """The scheme of docs/extending.md, its package where it belongs (a folder that ownership's path is extended by), and its
    entry in SCHEMES: nothing else. The module of its check."""
    blocks = documented_blocks()
    files = {where: code for where, code in blocks.items() if where.startswith("ownership/signs/")}
    assert sum(bool(line.strip()) for code in files.values() for line in code.splitlines()) < 60
    (tmp_path / "modules/ownership/signs").mkdir(parents=True)
    for where, code in {**files, "ownership/signs/__init__.py": ""}.items():
        assert not (ROOT / where).exists()
        (tmp_path / "modules" / where).write_text(code)
    monkeypatch.setattr(ownership, "__path__", [*ownership.__path__, str(tmp_path / "modules/ownership")])
    importlib.invalidate_caches()
    entry = eval("{" + blocks["ownership/__init__.py, in SCHEMES"] + "}", {"Scheme": Scheme})
    monkeypatch.setitem(SCHEMES, *next(iter(entry.items())))
    yield importlib.import_module("ownership.signs.check")
    for name in [name for name in sys.modules if name.startswith("ownership.signs")]:
        del sys.modules[name]


@pytest.fixture
def own(signs, tmp_path):
    """A folder with Jane's secret, her model with its signs, and John's secret."""
    model, generator = build_model("res20s", 10), torch.Generator().manual_seed(0)
    mask = Mask({name: torch.rand(layer.weight.shape, generator=generator) < 0.25
                 for name, layer in prunable_layers(model).items()})
    for name in ("jane", "john"):
        (tmp_path / f"{name}.key").write_text(f"{name}'s secret")
    state = model.state_dict()
    weights = state["layer3.0.conv1.weight"]
    drawn = signs.signs((tmp_path / "jane.key").read_bytes(), tuple(weights.shape))
    state["layer3.0.conv1.weight"] = weights.abs().clamp_min(1e-6) * torch.from_numpy(drawn).float()
    tickets.write_weights(tmp_path / "own.pth.tar", {**state, **{f"{name}.weight": state[f"{name}.weight"] * kept
                                                                 for name, kept in mask.items()}}, {}, mask)
    return tmp_path


@pytest.mark.slow
def test_a_registered_scheme_goes_all_the_way(run_main, refused, own, monkeypatch):
    """The documented commands as they stand, then a dispute, a page, and what is refused."""
    monkeypatch.chdir(own)
    text = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
    block = re.search(r"^# claimed, proved, and after an attack\n(.*?)^```", text, re.DOTALL | re.MULTILINE)[1]
    made, verified, attacked = (run_main(*shlex.split(line)[1:]) for line in block.replace("\\\n", " ").splitlines())
    for done in (made, verified, attacked):
        assert done.returncode == 0, done.stderr
    fields = json.loads((own / "runs/signs/claim/claim.json").read_text())
    assert fields["format"] == "lottery-ownership-claim/5" and fields["fields"]["s.layer"]["value"] == "layer3.0.conv1"
    assert re.search(r"^S on the own model: (\d+) of \1 signs, p .+\^-\d+$", made.stdout, re.M) and "claims:     S\n" in made.stdout
    assert re.search(r"^S +shown +.+\^-\d+ +(\d+) of \1 signs$", verified.stdout, re.M)
    assert "the number of V1, V2, V3, V4, P and S in the claim" in verified.stdout and "verdict:    owned" in verified.stdout
    # 20% of all weights went, the smallest first; those of the layer are counted
    rows = list(csv.DictReader((own / "runs/signs/pruned/attack.csv").open(newline="")))
    left = [int(row["signed_weights"]) for row in rows]
    assert left[0] > left[1] > 0 and f"; signs: {left[1]} weights left\n" in attacked.stdout

    # John, who has seen the model and committed later, names signs of his own
    assert run_main("make_claim.py", "--owner", "John", "--s", "john.key", "--save_dir", "john").returncode == 0
    rivals = [word for folder in ("runs/signs/claim", "john") for word in ("--claim", f"{folder}/claim.json", "--commitment",
                                                                           f"{folder}/commitment.json")]
    keys = ("--sign_key", "john.key", "--sign_key", "jane.key")  # in any order: each goes to whose claim names it
    done = run_main("main_verify.py", *rivals, "--suspect", "own.pth.tar", *keys, "--own", "own.pth.tar", "--own", "own.pth.tar",
                    "--json", "out.json", "--report", "page.html")
    assert done.returncode == 0, done.stderr
    assert "the first claim (Jane Doe) owns; the second does not show" in done.stdout
    found = json.loads((own / "out.json").read_text())
    assert [[check["check"] for check in claim["checks"]] for claim in found["claims"]] == [["S"], ["S"]]
    assert found["rivals"]["own_models"]["supports"] == "first"
    assert {row["input"] for row in found["inputs"]} == {"--claim", "--commitment", "--suspect", "--sign_key", "--own"}
    assert (own / "page.html").read_text().count("<th>S: signs of weights<span") == 2

    # a claim of the first format beside it, whose commitment is older than the scheme
    words = ("--claim", OLD / "claim.json", "--commitment", OLD / "commitment.json", *rivals[:4], "--suspect", "own.pth.tar",
             "--restarts", 0, "--sign_key", "jane.key")
    done = run_main("main_verify.py", *words)
    assert done.returncode == 0 and "owns; the first does not show" in done.stdout, done.stderr
    assert "--sign_key john.key: belongs to neither claim (s.key_sha256)" in refused(run_main("main_verify.py", *words[:-1],
                                                                                              "john.key"))
    done = run_main("main_verify.py", "--claim", OLD / "claim.json", "--suspect", "own.pth.tar", "--sign_key", "jane.key")
    assert "--sign_key: the claim has no S" in refused(done)
    assert "argument --sign_key: needs the --suspect's file" in refused(run_main(
        "main_verify.py", *rivals[:4], "--predictions", "x.csv", "--sign_key", "jane.key"))
