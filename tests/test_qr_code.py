"""QR geometry, against the standard's own arithmetic and against independent readers."""

import numpy as np
import pytest
import zxingcpp
from hypothesis import given, settings
from hypothesis import strategies as st

from ownership.qr_code.readers import available_readers, render
from pruner.qr_code import geometry as qr_code
from pruner.qr_code.geometry import CodeFormat

LEVELS = list(qr_code.ERROR_CORRECTION)


def raw_data_modules(version: int) -> int:
    """Modules left for data and parity, counted from the standard's description of the function patterns."""
    size = 17 + 4 * version
    alignments = 0 if version == 1 else version // 7 + 2
    # three finders with separators, two timing lines between them, format information twice and the dark module
    modules = size * size - 3 * 64 - 2 * (size - 16) - 2 * 15 - 1
    if alignments:
        # a pattern stands at every crossing but the three finders'; those on the timing lines share 5 modules with it
        modules -= 25 * (alignments * alignments - 3) - 2 * 5 * (alignments - 2)
    return modules - (36 if version >= 7 else 0)


@pytest.mark.parametrize("version", range(1, 41))
def test_data_modules_are_what_the_function_patterns_leave(version):
    is_data = qr_code.data_modules(version)
    assert is_data.shape == (17 + 4 * version,) * 2
    assert is_data.sum() == raw_data_modules(version)
    assert not is_data[4 * version + 9, 8], "the dark module"
    assert not is_data[:9, :9].any() and not is_data[:9, -8:].any() and not is_data[-8:, :9].any()


def test_version_3_has_567_data_modules_and_its_dark_module_at_21_8():
    assert qr_code.data_modules(3).sum() == 567
    for pattern in range(8):
        assert qr_code.function_patterns(CodeFormat(3, "H", pattern))[0][21, 8]


@pytest.mark.parametrize(("version", "level", "size"), [
    # ISO/IEC 18004, table 7, byte mode
    (1, "H", 7), (2, "H", 14), (3, "H", 24), (3, "L", 53), (4, "Q", 46), (9, "M", 180), (10, "L", 271), (40, "H", 1273),
    (40, "L", 2953),
])
def test_capacity_is_the_standards(version, level, size):
    assert qr_code.capacity(version, level) == size
    qr_code.encode("a" * size, CodeFormat(version, level))
    with pytest.raises(ValueError, match=f"{size + 1} bytes"):
        qr_code.encode("a" * (size + 1), CodeFormat(version, level))


@pytest.mark.slow
@settings(max_examples=150)
@given(version=st.integers(1, 12), level=st.sampled_from(LEVELS), pattern=st.integers(0, 7), data=st.data(),
       seed=st.integers(0, 2**32 - 1))
def test_function_patterns_come_back_from_the_standard_whatever_the_mask_holds(version, level, pattern, data, seed):
    code_format = CodeFormat(version, level, pattern)
    room = qr_code.capacity(version, level)
    signature = data.draw(st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1,
                                  max_size=room).filter(lambda text: len(text.encode()) <= room))
    code = qr_code.encode(signature, code_format)
    noise = np.random.default_rng(seed).random(code.shape) < 0.5
    restored = qr_code.restore_patterns(np.where(qr_code.data_modules(version), code, noise), code_format)
    assert (restored == code).all()

    found = zxingcpp.read_barcodes(render(restored), formats=zxingcpp.BarcodeFormat.QRCode)
    assert bytes(found[0].bytes).decode() == signature
    assert found[0].extra["Version"] == str(version)
    assert found[0].extra["ECLevel"] == level
    assert found[0].extra["DataMask"] == pattern


def test_both_readers_read_every_version_that_fits_a_resnet18():
    if "zbar" not in available_readers():
        pytest.skip("libzbar0 is not installed")
    for version in range(1, 12):
        code = qr_code.encode("ticket", CodeFormat(version, "H", version % 8))
        assert {read(render(code)) for read in available_readers().values()} == {"ticket"}


def test_digits_only_texts_are_laid_down_in_byte_mode_too():
    # in numeric mode the layout would depend on the text's letters, not only on its length
    code_format = CodeFormat(3, "H", 0)
    differ = qr_code.encode("0000000000000", code_format) ^ qr_code.encode("0000000000001", code_format)
    found = zxingcpp.read_barcodes(render(qr_code.encode("12345", code_format)))
    assert differ.sum() <= 1 + 22 * 8, "one data bit and the parity of its block"
    assert found[0].text == "12345"
