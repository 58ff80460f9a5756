"""A verdict, or two rivals' verdicts, as JSON values for machines. `ownership.claims.report` is the page for people."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from ownership.claims.case import Files
from ownership.claims.p_values import SMALLEST, log10
from ownership.claims.rivals import NAMES, Comparison
from ownership.claims.verdict import Standing, Verdict


def verdict_as_json(found: Verdict, facts: Mapping[str, str] | None = None) -> dict[str, Any]:
    """A verdict with its checks, and what is known of the claim. p-values too small for a float are SMALLEST; their logarithms
    are given too."""
    checks = [{"check": check.name, "result": check.result, "found": check.detail, **_p_value(check.p), **check.figures}
              for check in found.checks]
    return {"verdict": found.verdict, "level": found.level, **_p_value(found.p), "notes": list(found.notes),
            **({"facts": facts} if facts else {}), "checks": checks}


def _p_value(p: Fraction | None) -> dict[str, float | None]:
    return {"p": None if p is None else max(SMALLEST, float(p)), "log10_p": None if p is None else log10(p)}


def comparison_as_json(found: Comparison) -> dict[str, Any]:
    """Both claims' verdicts, and what tells the claims apart."""
    own, name_of = found.own_models, {None: None, **dict(enumerate(NAMES))}
    return {
        "conclusion": found.conclusion,
        "claims": [{"claim": side.opened.path, "commitment": side.opened.commitment_path,
                    "later": side.standing is Standing.LATER,
                    **verdict_as_json(side.verdict, side.facts)} for side in found.sides],
        "rivals": {"owner": name_of[found.owner], **{key: value for one in found.schemes for key, value in one.figures.items()},
                   "accuracy": vars(found.accuracy), "own_models": own and {
                       "files": own.files, "supports": name_of[own.supports],
                       "shows": [[own.shows(claim, model) for model in range(2)] for claim in range(2)],
                       "verdicts": [[verdict_as_json(one) for one in row] for row in own.found]},
                   "notes": found.notes}}


def origin_as_json(files: Files, versions: Mapping[str, str]) -> dict[str, Any]:
    """What was read, and how where that took more than opening it; and what the verdict was made with, see
    `utils.run_dir.versions`."""
    how = {name: {"derivation": found.as_json()} for name, found in files.derivations.items() if found.in_words()}
    return {"inputs": [{"input": flag, "name": name, "sha256": digest, **how.get(name, {})} for flag, name, digest in files.rows],
            "versions": versions}
