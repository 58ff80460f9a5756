"""Soft decoding: the code as a matrix against the qrcode library, the decoder against brute force, and what is believed."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ownership.qr_code import soft_decoding
from ownership.qr_code.soft_decoding import log2_chance, read_softly
from ownership.qr_code.window import Window
from pruner.qr_code import geometry as qr_code
from pruner.qr_code.linear_code import LinearCode, linear_code
from pruner.qr_code.ordered_statistics import decode
from pruner.qr_code.geometry import CodeFormat

SIGNATURE = "signature"


def bits_of(content: bytes) -> np.ndarray:
    return np.unpackbits(np.frombuffer(content, dtype=np.uint8)).astype(bool)


def window(modules: np.ndarray) -> Window:
    """What a mask with these modules shows, one weight per kernel."""
    return Window(modules.astype(int), None)


def damaged(code: np.ndarray, lost: float, added: float, random: np.random.Generator) -> np.ndarray:
    """A code with shares of its ones and of its zeros flipped, modules drawn at random."""
    draw = random.random(code.shape)
    return np.where(code, draw >= lost, draw < added)


@pytest.mark.slow
@pytest.mark.parametrize("version", [2, 3, 4, *(pytest.param(version, marks=pytest.mark.nightly) for version in (5, 6))])
@pytest.mark.parametrize("level", "LMQH")
def test_the_matrix_encodes_as_the_qrcode_library_does(version, level):
    random = np.random.default_rng(version)
    is_data, longest = qr_code.data_modules(version), qr_code.capacity(version, level)
    for length in range(1, longest + 1):
        content = random.integers(1, 256, length, dtype=np.uint8).tobytes()
        for pattern in qr_code.MASK_PATTERNS if length in (1, 9, longest) else (length % 8,):
            code_format = CodeFormat(version, level, pattern)
            expected = qr_code.encode_bytes(content, code_format)[is_data]
            assert (linear_code(code_format, length).encode(bits_of(content)) == expected).all()


def test_lengths_that_do_not_fit_are_refused():
    for length in (0, 25):
        with pytest.raises(ValueError, match="do not fit"):
            linear_code(CodeFormat(3, "H"), length)


def test_the_parts_share_neither_modules_nor_bits_and_cover_the_text():
    for length in (1, 9, 13, 24):
        code = linear_code(CodeFormat(3, "H", 1), length)
        modules = np.concatenate([part[0] for part in code.parts])
        bits = np.concatenate([part[1] for part in code.parts])
        assert sorted(bits) == list(range(8 * length)) and len(set(modules)) == len(modules)
        assert sorted(modules) == list(np.flatnonzero(code.depends_on_text))
    # 13 data codewords per block: header and 11.5 bytes of text fill the first
    assert [len(linear_code(CodeFormat(3, "H"), length).parts) for length in (1, 11, 12, 24)] == [1, 1, 2, 2]


def test_a_short_text_leaves_more_than_half_of_a_code_the_same():
    code = linear_code(CodeFormat(3, "H"), len(SIGNATURE))
    assert code.depends_on_text.sum() == 248
    texts = [np.random.default_rng(seed).integers(0, 2, 72).astype(bool) for seed in range(50)]
    varies = np.ptp(np.stack([code.encode(text) for text in texts]).astype(int), axis=0) > 0
    assert (varies == code.depends_on_text).all()


def small_code(random: np.random.Generator, modules: int, bits: int) -> LinearCode:
    generator = random.random((modules, bits)) < 0.5
    generator[random.permutation(modules)[:bits]] = np.eye(bits, dtype=bool)
    return LinearCode(random.random(modules) < 0.5, generator)


@given(st.integers(0, 2**32 - 1), st.integers(1, 3))
@example(15135, 3)  # the best text differs in exactly two of the surest modules
@settings(max_examples=60, deadline=None)
def test_decoding_against_all_texts_that_differ_in_so_few_of_the_surest_modules(seed, order):
    random = np.random.default_rng(seed)
    code = small_code(random, 20, 6)
    weights = random.normal(size=20)
    decoded = decode(weights, code, order)

    # independently: the surest independent modules by ranks, then every text by its distance there
    texts = np.array(list(itertools.product([False, True], repeat=6)))
    words = code.offset ^ (texts @ code.generator.T.astype(int) % 2 == 1)
    expected = np.zeros(6, dtype=bool)
    for _, bits in code.parts:
        basis: list[int] = []
        rows = code.generator[:, bits]
        for module in np.argsort(-np.where(rows.any(1), np.abs(weights), -1), kind="stable"):
            span = {tuple(np.bitwise_xor.reduce(rows[list(some)], axis=0, initial=False))
                    for size in range(len(basis) + 1) for some in itertools.combinations(basis, size)}
            if tuple(rows[module]) not in span:
                basis.append(int(module))
        own = ~np.delete(texts, bits, axis=1).any(1)  # texts that use these bits only
        wrong = (words[:, basis] != (weights[basis] > 0)).sum(1)
        allowed = np.flatnonzero(own & (wrong <= order))
        modules = rows.any(1)
        scores = np.where(words[allowed][:, modules], weights[modules], -weights[modules]).sum(1)
        expected[bits] = texts[allowed[scores.argmax()]][bits]
    assert (decoded == expected).all()


@pytest.mark.parametrize("content", [b"a", b"Q", b"~"])
def test_one_letter_is_decoded_as_brute_force_does(content):
    # with 182 modules and 8 bits ordered statistics of three misses nothing
    code = linear_code(CodeFormat(3, "H", 3), 1)
    texts = np.array([bits_of(bytes([letter])) for letter in range(256)])
    words = code.offset ^ (texts.astype(int) @ code.generator.T.astype(int) % 2 == 1)
    random = np.random.default_rng(5)
    for _ in range(20):
        weights = np.where(code.encode(bits_of(content)), 1.0, -1.0) + random.normal(0, 1.5, len(code.offset))
        assert (decode(weights, code, 3) == texts[np.where(words, weights, -weights).sum(1).argmax()]).all()


@pytest.mark.slow
@pytest.mark.parametrize("lost, added, least", [(0.3, 0, 100), (0.4, 0, 97), (0, 0.3, 100), pytest.param(0, 0.4, 97, marks=pytest.mark.nightly)])
def test_a_hundred_codes_with_one_sided_damage(lost, added, least):
    random = np.random.default_rng(11)
    code_format = CodeFormat(3, "H", 5)
    code = qr_code.encode(SIGNATURE, code_format)
    texts = [getattr(read_softly([window(damaged(code, lost, added, random))], [code_format], restarts=100), "text", None)
             for _ in range(100)]
    assert set(texts) <= {SIGNATURE, None}
    assert texts.count(SIGNATURE) >= least


@pytest.mark.slow
def test_symmetric_damage_needs_restarts():
    random, code_format = np.random.default_rng(2), CodeFormat(3, "H", 5)
    code = qr_code.encode(SIGNATURE, code_format)
    found = [read_softly([window(damaged(code, 0.09, 0.09, random))], [code_format]) for _ in range(3)]
    assert {reading.text for reading in found if reading} == {SIGNATURE} and sum(map(bool, found)) >= 2
    assert any(reading.restarts for reading in found if reading)


def test_several_patterns_and_texts_with_any_letters():
    random, formats = np.random.default_rng(3), [CodeFormat(3, "H", pattern) for pattern in range(8)]
    for text in ("Zoë → 票", "Jane Doe 2026", "x", "A" * 24):
        damage = damaged(qr_code.encode(text, formats[6]), 0.2, 0, random)
        reading = read_softly([window(damage)], formats)
        assert reading.text == text and reading.code_format == formats[6] and reading.false_probability <= 1e-9


@pytest.mark.slow
def test_copies_are_read_together():
    # each alone is lost: half of the ones and a quarter of the zeros wrong
    random, code_format = np.random.default_rng(4), CodeFormat(3, "H", 0)
    code = qr_code.encode(SIGNATURE, code_format)
    copies = [window(damaged(code, 0.45, 0.2, random)) for _ in range(4)]
    assert all(read_softly([copy], [code_format], restarts=0) is None for copy in copies)
    assert read_softly(copies, [code_format], restarts=0).text == SIGNATURE


@pytest.mark.slow
def test_what_kernels_hold_reads_what_occupancy_does_not():
    # every second zero was opened by a single weight, where a one holds three or more
    random, code_format = np.random.default_rng(5), CodeFormat(3, "H", 2)
    code = qr_code.encode("A" * 24, code_format)
    opened = ~code & (random.random(code.shape) < 0.5)
    counts = np.where(code, random.integers(3, 10, code.shape), opened)
    assert read_softly([window(counts > 0)], [code_format], restarts=0) is None
    assert read_softly([Window(counts, None)], [code_format], restarts=0).text == "A" * 24
    # or by a small weight where a one holds a large one
    largest = np.where(code, random.normal(2, 0.3, code.shape), np.where(opened, random.normal(0.7, 0.3, code.shape), 0))
    assert read_softly([Window((counts > 0).astype(int), np.abs(largest))], [code_format], restarts=0).text == "A" * 24


@pytest.mark.slow
def test_a_region_without_a_code_is_not_read():
    random = np.random.default_rng(6)
    for density in (0.0, 0.1, 0.5, 0.9, 1.0):
        modules = random.random((29, 29)) < density
        modules[random.random(29) < 0.2] = False
        modules[:, random.random(29) < 0.2] = False
        assert read_softly([window(modules)], [CodeFormat(3, "H", pattern) for pattern in (0, 5)], restarts=5) is None


def test_a_wrong_part_is_not_carried_by_a_right_one():
    # "Jane Doe 2026" fills the first block and a byte and a half of the second: a text that shares only the second agrees in
    # 78 of 100 modules, and must not be believed
    code = linear_code(CodeFormat(3, "H", 2), 13)
    true, wrong = bits_of(b"Jane Doe 2026"), bits_of(b"Jane Doe 2026")
    wrong[:88] = np.random.default_rng(7).random(88) < 0.5
    weights = np.where(code.encode(true), 1.0, -1.0)
    assert log2_chance(weights, code, true) < -100
    assert log2_chance(weights, code, wrong) > 0


def test_the_bound_against_exact_tails():
    # with weights all alike the score is a binomial count, whose tail is known
    from scipy.stats import binom

    code = linear_code(CodeFormat(3, "H", 2), 9)
    text, depends = bits_of(SIGNATURE.encode()), code.depends_on_text
    for wrong in (0, 10, 40, 80, 110):
        word = code.encode(text)
        flipped = np.flatnonzero(depends)[:wrong]
        word[flipped] ^= True
        bound = log2_chance(np.where(word, 1.0, -1.0), code, text)
        exact = 2 + 9 * math.log2(27) + binom.logsf(248 - wrong - 1, 248, 0.5) / math.log(2)
        assert exact <= bound + 1e-9 and bound - exact < 8
        assert log2_chance(np.where(word, 1.0, -1.0), code, text, exact=True) == pytest.approx(exact, abs=1e-6)


def test_the_summed_tail_against_all_signs():
    random = np.random.default_rng(12)
    for _ in range(20):
        magnitudes = np.append(random.random(11), 1.0)
        sums = (np.array(list(itertools.product((-1, 1), repeat=12))) * magnitudes).sum(1)
        for score in (sums.max(), random.choice(sums), 0.3 * sums.max()):
            summed = soft_decoding._log2_summed_tail(magnitudes, float(score))
            # never below the truth, nor above that of a score less by what rounding can do: half a step for each, twice
            assert math.log2((sums >= score - 1e-9).mean()) <= summed + 1e-9
            assert summed <= math.log2((sums >= score - 12 / soft_decoding.TAIL_STEPS).mean()) + 1e-9


def test_the_class_of_a_text():
    for text, letters in ((b"jane doe", 27), (b"Jane 2026", 63), (b"J.Doe", 95), ("Zoë".encode(), 256)):
        assert soft_decoding.bits_per_byte(bits_of(text)) == pytest.approx(math.log2(letters))
