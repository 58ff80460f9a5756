"""The text whose code agrees best with what modules show: ordered statistics over GF(2).

Fossorier and Lin, "Soft-decision decoding of linear block codes based on ordered statistics", IEEE Trans. IT 41 (1995).
A weight per module says how sure it is to be 1 (positive) or 0 (negative). The decoder takes the surest modules that
determine the text, and tries all texts that differ from theirs in at most `order` of these modules. Whether to believe a text is
another question: there is one for every region, code or no code (`ownership.qr_code.soft_decoding`, `attacks.forgeries.forge`).
"""

import numpy as np

from pruner.qr_code.linear_code import LinearCode

MOST_FOR_THREE = 128  # bits of a part up to which three flips at once are tried; beyond, they take minutes


def decode(weights: np.ndarray, code: LinearCode, order: int = 2, noise: np.random.Generator | None = None) -> np.ndarray:
    """The text whose modules agree best with the weights, of those that ordered statistics looks at.

    Args:
        weights: float [modules]; positive for 1, negative for 0, the larger the surer; 0 for unknown.
        code: which modules belong to which text. Its independent parts are decoded one by one.
        order: modules of a part's surest ones that may be wrong, at most 3; the time grows with bits ** order.
        noise: draw how sure modules are at random, keeping their signs, as in information-set decoding: where all look
            alike, as in symmetric damage, restarts find the text that a single order of modules does not.
    Returns:
        bool [8 * length], the bits of the text.
    """
    text = np.zeros(code.generator.shape[1], dtype=bool)
    for part in code.parts:
        text[part[1]] = decode_part(weights, code, part, order, noise)
    return text


def decode_part(weights: np.ndarray, code: LinearCode, part: tuple[np.ndarray, np.ndarray], order: int,
                 noise: np.random.Generator | None) -> np.ndarray:
    """`decode` for one of `code.parts`: bool, one per bit of the part."""
    modules, bits = part
    if len(bits) > MOST_FOR_THREE:
        order = min(order, 2)
    weights, generator, offset = weights[modules], code.generator[np.ix_(modules, bits)], code.offset[modules]
    sureness = np.abs(weights)
    if noise is not None:
        sureness = sureness * noise.exponential(size=len(sureness))
    surest = np.argsort(-sureness, kind="stable")
    basis, rows, texts = _reduce(generator, surest)

    received = (weights > 0) ^ offset  # as bits of generator * text
    text = np.bitwise_xor.reduce(texts[received[basis]], axis=0, initial=False)
    start = offset ^ np.bitwise_xor.reduce(rows[received[basis]], axis=0, initial=False)
    flips = _best_flips(np.where(start, weights, -weights), 1.0 - 2.0 * rows, order)
    return np.bitwise_xor.reduce(texts[list(flips)], axis=0, initial=False) ^ text


def _reduce(generator: np.ndarray, surest: np.ndarray) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Find modules that determine the text, the surest first.

    Args:
        generator: bool [modules, bits].
        surest: int [modules], an order.
    Returns:
        (basis, rows, texts): the modules; bool [bits, modules], for each the modules that change with it alone, and
        bool [bits, bits], the bits of the text that do.
    """
    modules, bits = generator.shape
    packed = np.packbits(np.concatenate([generator.T, np.eye(bits, dtype=bool)], axis=1), axis=1)
    basis: list[int] = []
    for module in surest:
        column = packed[:, module >> 3] >> (7 - (module & 7)) & 1
        found = np.flatnonzero(column[len(basis):])
        if not len(found):
            continue
        pivot, done = len(basis) + int(found[0]), len(basis)
        if pivot != done:
            packed[[done, pivot]] = packed[[pivot, done]]
            column[[done, pivot]] = column[[pivot, done]]
        column[done] = 0
        packed[np.flatnonzero(column)] ^= packed[done]
        basis.append(int(module))
        if len(basis) == bits:
            break
    unpacked = np.unpackbits(packed, axis=1)[:, :modules + bits].astype(bool)
    return basis, unpacked[:, :modules], unpacked[:, modules:]


def _best_flips(agreement: np.ndarray, signs: np.ndarray, order: int) -> tuple[int, ...]:
    """Which rows to XOR onto the start so that it agrees best, none to `order` of them.

    Args:
        agreement: float [modules], each weight's agreement with the start: the start's score is their sum.
        signs: float [rows, modules], -1 where a row changes a module, 1 elsewhere.
    """
    best, flips = float(agreement.sum()), ()
    if order < 1:
        return flips
    scores = signs @ agreement
    if scores.max() > best:
        best, flips = float(scores.max()), (int(scores.argmax()),)
    # two or three at once: the agreement with all of them is a matrix product. Equal rows undo each other, so three at once
    # are one or three flips, and two have to be looked at by themselves
    for third in () if order < 2 else (None,) if order == 2 else (None, *range(len(signs))):
        weighted = agreement if third is None else agreement * signs[third]
        pairs = (signs * weighted) @ signs.T
        first, second = np.unravel_index(pairs.argmax(), pairs.shape)
        if pairs[first, second] > best + 1e-9:
            best = float(pairs[first, second])
            flips = (int(first), int(second)) + (() if third is None else (third,))
    return flips
