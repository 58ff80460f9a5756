"""Texts that a hash draws: where they come from, and what a region says about them, whatever the region is."""

import hashlib
import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from ownership.qr_code.drawn_text import Belief, log_symmetric
from ownership.qr_code.window import Window
from pruner.qr_code import geometry as qr_code
from pruner.qr_code.derived_text import SYMBOLS, derived_text, length_for
from pruner.qr_code.geometry import CodeFormat
from pruner.qr_code.linear_code import layout, reed_solomon_blocks

FORMAT = CodeFormat(3, "H", 5)


def drawn(random: np.random.Generator, length: int = 24) -> str:
    return bytes(random.choice(np.frombuffer(SYMBOLS, dtype=np.uint8), length)).decode("ascii")


def written(random: np.random.Generator, text: str, code_format: CodeFormat, lost: float = 0.0, added: float = 0.0) -> Window:
    """As a signed and damaged layer shows a code: six weights per one, one where a zero was filled."""
    ones = qr_code.encode(text, code_format)
    counts = np.where(ones, 1 + random.poisson(5, ones.shape), 0)
    return Window(np.where(random.random(ones.shape) < np.where(ones, lost, added), ~ones, counts), None)


REGIONS = {
    "empty": lambda random, size: np.zeros((size, size), dtype=int),
    "full": lambda random, size: np.full((size, size), 9),
    "sparse": lambda random, size: random.poisson(0.01, (size, size)),
    "random": lambda random, size: random.poisson(0.7, (size, size)),
    "dead rows and columns": lambda random, size: random.poisson(2, (size, size)) * (random.random(size) < 0.5)
    * (random.random((size, 1)) < 0.7),
    "dense above, sparse below": lambda random, size: random.poisson(np.linspace(3, 0, size)[:, None], (size, size)),
    "blocks": lambda random, size: np.kron(random.integers(0, 2, (size // 4 + 1,) * 2), np.ones((4, 4), dtype=int))[:size, :size],
    "2:4": lambda random, size: np.argsort(random.random((size, size // 4 + 1, 4)), axis=2).reshape(size, -1)[:, :size] // 2,
    "a code": lambda random, size: written(random, drawn(random, 1), CodeFormat((size - 17) // 4), 0.02, 0.02).counts,
}


def test_the_text_is_the_digest_that_the_documentation_names():
    parts = (b"lottery-verification/derived-text/1", bytes(range(32)), "Jane Doe, Zürich".encode(), bytes(16), bytes(range(32, 64)))
    digest = hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for part in parts)).digest()
    number, expected = int.from_bytes(digest, "big"), ""
    for at in range(42):
        expected += SYMBOLS.decode()[number >> (250 - 6 * at) & 63]
    for length in (1, 24, 42):
        assert derived_text(parts[1], "Jane Doe, Zürich", bytes(16), bytes(range(32, 64)).hex(), length) == expected[:length]
    others = {derived_text(bytes(32), "J", bytes(16), "00" * 32, 24), derived_text(bytes(32), "", b"J" + bytes(16), "00" * 32, 24),
              derived_text(bytes(32), "J", bytes(16), "00" * 31 + "01", 24), derived_text(b"J" + bytes(31), "", bytes(16), "00" * 32, 24)}
    assert len(others) == 4, "every part decides"


def test_a_text_is_as_long_as_its_code_holds():
    assert [length_for(3, level) for level in "HQML"] == [24, 32, 42, 42]
    assert [length_for(version, "H") for version in (1, 2, 40)] == [7, 14, 42]


@pytest.mark.parametrize("version, level", [(1, "L"), (3, "H"), (5, "Q"), (7, "H")])
def test_reed_solomon_blocks_are_where_they_are_said_to_be(version, level):
    """Two words of a block with k codewords of data differ in n - k + 1 at least, or nowhere: else the grouping is wrong."""
    random, code_format = np.random.default_rng(version), CodeFormat(version, level, 3)
    order, pattern = layout(version, 3)
    blocks = reed_solomon_blocks(version, level)
    total = sum(len(codewords) for codewords, _ in blocks)
    assert sorted(np.concatenate([codewords for codewords, _ in blocks])) == list(range(total))
    texts = [drawn(random, qr_code.capacity(version, level)) for _ in range(6)]
    texts += [texts[0][:-1] + symbol for symbol in "-_A"] + [symbol + texts[0][1:] for symbol in "-_A"]
    laid = [np.packbits((qr_code.encode(text, code_format)[qr_code.data_modules(version)] ^ pattern)[order])[:total] for text in texts]
    differing = {int((one[codewords] != other[codewords]).sum()) - len(codewords) + count
                 for one, other in itertools.combinations(laid, 2) for codewords, count in blocks
                 if (one[codewords] != other[codewords]).any()}
    assert min(differing) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("region", REGIONS)
def test_beliefs_in_all_texts_add_up_to_one_at_most(region):
    """Every one of the 64 texts of one symbol, in a code whose parity tells them apart; so does half the belief, of a reader."""
    random, code_format = np.random.default_rng(7), CodeFormat(1, "H", 6)
    belief = Belief([Window(REGIONS[region](random, 21), None)], code_format, 1)
    shares = [math.exp(belief.log_share(chr(symbol))) for symbol in SYMBOLS]
    assert sum(shares) <= 1 + 1e-12
    assert sum(1 / 64 / belief.p_value(chr(symbol), 0) for symbol in SYMBOLS) <= 64 and belief.p_value("A", 6) <= Fraction(2, 64)


def test_sums_over_all_choices_are_what_they_are_spelt_out():
    logs = np.random.default_rng(3).normal(0, 3, (2, 11))
    for chosen in (1, 4, 10, 11):
        spelt_out = [math.log(sum(math.exp(sum(row[at] for at in choice)) for choice in itertools.combinations(range(11), chosen)))
                     for row in logs]
        assert log_symmetric(logs, chosen) == pytest.approx(spelt_out, rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("region", REGIONS)
def test_drawn_texts_do_not_show_in_any_region(region):
    """2^10 draws in all: with a probability of 2^-40 a p-value of the smallest is 2^-40 or less."""
    random = np.random.default_rng(11)
    belief = Belief([Window(REGIONS[region](random, 29), None)], FORMAT, 24)
    assert min(belief.p_value(drawn(random), 0) for _ in range(2**10 // len(REGIONS) + 1)) > Fraction(1, 2**40)


@pytest.mark.parametrize("lost, added, log2", [(0, 0, -138), (0.02, 0, -128), (0.07, 0, -115), (0, 0.06, -126), (0, 0.17, -118),
                                               (0.05, 0.05, -105), (0.2, 0, -85), (0, 0.37, -108), (0.1, 0.1, -90)])
def test_what_was_written_shows_through_damage(lost, added, log2):
    """Shares of ones that were emptied and zeros that were filled; owned by a commitment of one needs about 2^-93."""
    for seed in range(3):
        random = np.random.default_rng(seed)
        text = drawn(random)
        p = Belief([written(random, text, FORMAT, lost, added)], FORMAT, 24).p_value(text, 0)
        assert Fraction(1, 2**144) <= p <= Fraction(2) ** log2


def test_copies_show_more_than_one(tmp_path):
    random = np.random.default_rng(0)
    text = drawn(random)
    windows = [written(random, text, FORMAT, 0.2, 0.1) for _ in range(3)]
    p_values = [Belief(windows[:count], FORMAT, 24).p_value(text, 0) for count in (1, 2, 3)]
    assert p_values == sorted(p_values, reverse=True) and p_values[2] < Fraction(1, 2**130)


def test_a_text_that_was_read_has_its_share_of_the_belief_and_never_less_than_its_bits():
    random = np.random.default_rng(0)
    text = drawn(random)
    unlike = Belief([Window(REGIONS["random"](random, 29), None)], FORMAT, 24)
    assert unlike.p_value(text, 0) == 1 and float(unlike.p_value(text, 1)) == pytest.approx(12 / 2**144)
    assert float(unlike.p_value(text, 6)) == pytest.approx(2 / 2**144)
    assert Belief([written(random, text, FORMAT)], FORMAT, 24).p_value(text, 6) >= Fraction(1, 2**144)
