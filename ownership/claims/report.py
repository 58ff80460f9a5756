"""A verdict, or two rivals' verdicts, as one HTML page for people: nothing in it is loaded from elsewhere, no script runs in it,
all text is escaped."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from ownership import SCHEMES
from ownership.claims import rivals
from ownership.claims.p_values import scientific
from ownership.claims.verdict import Figure, Verdict, names_of_tests
from utils import checkpoint
from utils.cli import one_line

QUIET_ZONE = 2  # modules of white around a drawn code
DARK, LOST, ADDED = "#1a1a1a", "#f5a3a3", "#c00000"

PARTS = """{% macro head(title) %}<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .35rem .7rem .35rem 0; border-bottom: 1px solid #ddd;
  overflow-wrap: anywhere; }
th { font-weight: 600; white-space: nowrap; }
.verdict { display: inline-block; padding: .1rem .7rem; border-radius: .3rem; color: #fff; background: #555; }
.owned { background: #1b6e3c; } .refused { background: #a01818; }
.codes { display: flex; flex-wrap: wrap; gap: 2rem; } figure { margin: 0; }
figcaption { font-size: .85rem; max-width: 17rem; }
svg { width: 17rem; height: 17rem; border: 1px solid #ddd; display: block; }
code { font-size: .85rem; overflow-wrap: anywhere; }
.p { white-space: nowrap; }
.side { width: 42%; }
.claim { border-top: 3px solid #1a1a1a; margin-top: 3rem; } .conclusion { font-size: 1.1rem; font-weight: 600; }
</style>
{% endmacro %}{% macro checks(verdict) %}<table>
<tr><th>check</th><th>result</th><th>what was found</th><th>p-value</th></tr>
{% for check in verdict.checks %}<tr><th>{{ check.name }}: {{ titles[check.name] }}</th><td class="p">{{ check.result }}</td>
<td>{{ check.detail|shown }}</td><td class="p">{{ check.p|p_value if check.p is not none else "" }}</td></tr>
{% endfor %}</table>
{% endmacro %}{% macro figures(exhibit, whose) %}{% for figure in exhibit.figures %}<figure>{{ figure|drawing }}
<figcaption>{{ whose }}{{ figure.caption|shown }}:
{{ figure|modules_wrong }}</figcaption></figure>
{% endfor %}{% endmacro %}{% macro lines(exhibit, whose) %}{% for said, text in exhibit.lines
%}<p>{{ whose }}{{ said }}{% if text is not none %}<code>{{ text|shown }}</code>{% endif %}</p>
{% endfor %}{% endmacro %}{% macro origin(inputs, versions) %}<h2>Inputs</h2>
<table>
<tr><th>input</th><th>name</th><th>SHA-256</th></tr>
{% for row in inputs %}<tr><th>{{ row[0]|shown }}</th><td>{{ row[1]|shown }}</td><td><code>{{ row[2]|shown }}</code></td></tr>
{% endfor %}</table>
<h2>Made with</h2>
<table>
{% for name, value in versions.items() %}<tr><th>{{ name|shown }}</th><td>{{ value|shown }}</td></tr>
{% endfor %}</table>
{% endmacro %}"""

PAGE = """{% import "parts" as parts %}<!DOCTYPE html>
<html lang="en">
<head>
{{ parts.head("Verification: " ~ verdict.verdict) }}</head>
<body>
<h1>Verification of an ownership claim: <span class="verdict {{ verdict.verdict }}">{{ verdict.verdict }}</span></h1>
<table>
{% for name, value in facts.items() %}<tr><th>{{ name|shown }}</th><td>{{ value|shown }}</td></tr>
{% endfor %}{% if verdict.p is not none %}<tr><th>combined p-value</th>
<td>{{ verdict.p|p_value }}: the smallest of {{ tests }}, times the number of them in the claim (Bonferroni)</td></tr>
{% endif %}<tr><th>level</th>
<td>owned means p &le; {{ "%g"|format(verdict.level) }}, or the claimed key completing a locked ticket exactly</td></tr>
</table>
{% if verdict.notes %}<h2>{{ {"refused": "Why it was refused", "unreadable": "Why the suspect can't be read"}.get(verdict.verdict, "What this rests on") }}</h2>
<ul>
{% for note in verdict.notes %}<li>{{ note|shown }}</li>
{% endfor %}</ul>
{% endif %}{% if verdict.checks %}<h2>Checks</h2>
{{ parts.checks(verdict) }}{% for check in verdict.checks if check.exhibit
%}<h2>{{ check.name }}: {{ check.exhibit.title }}</h2>
<p>{{ check.exhibit.legend }}</p>
<div class="codes">
{{ parts.figures(check.exhibit, "") }}</div>
{{ parts.lines(check.exhibit, "") }}{% endfor %}{% endif %}{{ parts.origin(inputs, versions) }}
<p>This page tells what the claim keeps secret. Show it to those who may know.</p>
</body>
</html>
"""

RIVALS_PAGE = """{% import "parts" as parts %}<!DOCTYPE html>
<html lang="en">
<head>
{{ parts.head("Two claims: " ~ found.conclusion|shown) }}</head>
<body>
<h1>Two claims of ownership on one suspect</h1>
<p class="conclusion">{{ found.conclusion|shown }}</p>
<table>
<tr><th></th><th class="side">first claim</th><th class="side">second claim</th></tr>
<tr><th>verdict</th>{% for standing in standings
%}<td><span class="verdict {{ standing }}">{{ standing }}</span></td>{% endfor %}</tr>
{% for name, values in overview %}<tr><th>{{ name|shown }}</th>{% for value in values
%}<td{% if values|length == 1 %} colspan="2"{% endif %}>{{ value|shown }}</td>{% endfor %}</tr>
{% endfor %}<tr><th>level</th><td colspan="2">owned means p &le; {{ "%g"|format(sides[0][1].verdict.level) }}, or the claimed key
completing a locked ticket exactly; shown: that too, but it makes no owner beside the other claim</td></tr>
</table>
{% if rows %}<h2>What tells them apart</h2>
<table>
{% for name, text in rows %}<tr><th>{{ name }}</th><td>{{ text|shown }}</td></tr>
{% endfor %}</table>
{% endif %}{% if found.notes %}<ul>
{% for note in found.notes %}<li>{{ note|shown }}</li>
{% endfor %}</ul>
{% endif %}{% for scheme, shown in exhibits.items() if shown %}<h2>{{ scheme }}: {{ shown[0][1].titles }}</h2>
<p>{{ shown[0][1].legend }}</p>
<div class="codes">
{% for whose, exhibit in shown %}{{ parts.figures(exhibit, whose ~ " claim: ") }}{% endfor %}</div>
{% for whose, exhibit in shown %}{{ parts.lines(exhibit, whose ~ " claim, ") }}{% endfor %}{% endfor %}{% for name, side in sides
%}<div class="claim">
<h2>The {{ name }} claim: <span class="verdict {{ standings[loop.index0] }}">{{ standings[loop.index0] }}</span></h2>
{% if side.verdict.checks %}{{ parts.checks(side.verdict) }}{% endif %}{% if side.verdict.notes %}<ul>
{% for note in side.verdict.notes %}<li>{{ note|shown }}</li>
{% endfor %}</ul>
{% endif %}</div>
{% endfor %}{{ parts.origin(inputs, versions) }}
<p>This page tells what both claims keep secret. Show it to those who may know.</p>
</body>
</html>
"""

def write_report(path: str | Path, verdict: Verdict, facts: Mapping[str, str], inputs: Sequence[tuple[str, str, str]],
                 versions: Mapping[str, str]) -> None:
    """Write the page.

    Args:
        facts: shown at its head, e.g. who claims, and whose key signed.
        inputs: (flag, name, SHA-256) of everything that was read.
        versions: see `utils.run_dir.versions`.
    """
    _write(path, "verdict", verdict=verdict, facts=facts, inputs=inputs, versions=versions)


def write_comparison_report(path: str | Path, found: rivals.Comparison, inputs: Sequence[tuple[str, str, str]],
                            versions: Mapping[str, str]) -> None:
    """Write the page of two claims: both verdicts, both codes and what tells them apart.

    Args:
        inputs, versions: see `write_report`.
    """
    sides = list(zip(rivals.NAMES, found.sides))
    facts = dict.fromkeys(name for side in found.sides for name in side.facts if name != "suspect")
    suspects = dict.fromkeys(side.facts["suspect"] for side in found.sides)  # lists of answers may be two
    overview = [("suspect", list(suspects)), ("claim", [side.opened.path for side in found.sides]),
                ("commitment file", [side.opened.commitment_path or "none" for side in found.sides]),
                *((name, [side.facts.get(name, "") for side in found.sides]) for name in facts),
                ("combined p-value", ["" if side.verdict.p is None else scientific(side.verdict.p) for side in found.sides])]
    if any(side.refused for side in found.sides):
        overview.append(("refused because", [str(side.refused or "") for side in found.sides]))
    standings = [rivals.standing(found, number) for number in range(len(found.sides))]
    _write(path, "rivals", found=found, sides=sides, standings=standings, overview=overview, rows=rivals.rows(found),
           inputs=inputs, versions=versions, exhibits={scheme: [(name, check.exhibit) for name, side in sides
                                                                for check in side.verdict.checks
                                                                if check.name == scheme and check.exhibit]
                                                       for scheme in SCHEMES})


def _write(path: str | Path, page: str, **content) -> None:
    pages = Environment(loader=DictLoader({"parts": PARTS, "verdict": PAGE, "rivals": RIVALS_PAGE}), autoescape=True,
                        undefined=StrictUndefined, trim_blocks=False)
    # what does not print, or turns the direction of writing, is spelt out; autoescape does the rest
    pages.filters |= {"shown": lambda text: one_line(str(text)), "p_value": scientific, "drawing": draw,
                      "modules_wrong": _modules_wrong}
    pages.globals |= {"titles": {"F": "accuracy"} | {name: scheme.title for name, scheme in SCHEMES.items()},
                      "tests": names_of_tests()}
    text = pages.get_template(page).render(**content)
    checkpoint.write_atomic(path, lambda file: file.write(text.encode("utf-8", "backslashreplace")))


def draw(figure: Figure) -> Markup:
    """A mark as SVG, one path per colour; whole numbers are all that goes into it."""
    colours = {DARK: figure.modules & ~figure.wrong, ADDED: figure.modules & figure.wrong, LOST: ~figure.modules & figure.wrong}
    paths = "".join(f'<path fill="{colour}" d="{_squares(chosen)}"/>' for colour, chosen in colours.items() if chosen.any())
    size = len(figure.modules) + 2 * QUIET_ZONE
    return Markup(f'<svg viewBox="0 0 {size} {size}" shape-rendering="crispEdges" role="img" aria-label="QR code, '
                  f'{_modules_wrong(figure)}">{paths}</svg>')


def _modules_wrong(figure: Figure) -> str:
    wrong = int(figure.wrong.sum())
    return f"{wrong} {'module' if wrong == 1 else 'modules'} wrong"


def _squares(chosen: np.ndarray) -> str:
    return "".join(f"M{int(column) + QUIET_ZONE} {int(row) + QUIET_ZONE}h1v1h-1z" for row, column in np.argwhere(chosen))
