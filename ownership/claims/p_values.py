"""p-values: exact, and in words and figures where they are too small for a float."""

import math
from collections.abc import Mapping
from fractions import Fraction

SMALLEST = 1e-300  # what JSON and floats show of a p-value below


def by_chance(correct: int, total: int, num_classes: int) -> Fraction:
    """Probability that at least `correct` of `total` uniform labels are right: exact, however small."""
    term = tail = 1  # of all right; over num_classes ** total
    for right in range(total, correct, -1):
        term = term * right * (num_classes - 1) // (total - right + 1)
        tail += term
    return Fraction(tail, num_classes ** total)


def log10(p: Fraction) -> float:
    """Of a positive fraction too small for a float too."""
    return math.log10(p.numerator) - math.log10(p.denominator)


def of_log10(exponent: float) -> Fraction:
    """The p-value of this logarithm, of whatever size, rounded up by more than a float's error; at most 1."""
    whole = math.floor(exponent)
    return min(Fraction(1), Fraction(math.ceil(10 ** (exponent - whole + 6)) + 1, 10**6) * Fraction(10) ** whole)


def scientific(p: Fraction) -> str:
    """Like `format(p, ".1e")`, but rounded up, and for numbers too small for a float too."""
    exponent = math.floor(log10(p) + 1e-9)
    mantissa = math.ceil(10 * 10 ** (log10(p) - exponent) - 1e-6)
    if mantissa == 100:
        mantissa, exponent = 10, exponent + 1
    return f"{mantissa / 10:.1f}e{exponent:+03d}"


def written(p: Fraction) -> str:
    """As people write it, rounded up likewise: 1, 0.034, 10^-9, 1.9 x 10^-97."""
    mantissa, exponent = scientific(p).split("e")
    if int(exponent) > -3:
        return f"{float(f'{mantissa}e{exponent}'):.2g}"
    return f"{'' if mantissa == '1.0' else f'{mantissa} x '}10^{int(exponent)}"


def corrected(p: Fraction, choices: Mapping[str, int]) -> tuple[Fraction, str, dict[str, object]]:
    """Bonferroni's correction for what the maker of a claim could choose: p times the number of all choices.

    Args:
        choices: what could be chosen -> among how many.
    Returns:
        the corrected p-value; how it came about, for people; the same for machines.
    """
    total = min(Fraction(1), p * math.prod(choices.values()))
    counts = {name: str(count) if count < 10**6 else f"2^{math.log2(count):.0f}" for name, count in choices.items()}
    text = f"p {written(p)}" + "".join(f" x {counts[name]} {name}" for name in choices) + f" = {written(total)}"
    return total, text, {"p_alone": max(SMALLEST, float(p)), "log10_p_alone": log10(p),
                         "log2_choices": {name: math.log2(count) for name, count in choices.items()}}
