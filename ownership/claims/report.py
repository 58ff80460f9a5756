"""A verdict, or two rivals' verdicts, as one HTML page for people: nothing in it is loaded from elsewhere, no script runs in it,
all text is escaped. It is made to be read on a phone, and to be printed on A4."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from ownership import SCHEMES
from ownership.claims import rivals, wording
from ownership.claims.arbiter import Side
from ownership.claims.p_values import written
from ownership.claims.verdict import Chart, Figure, names_of_tests
from utils import checkpoint
from utils.cli import one_line

QUIET_ZONE = 2  # modules of white around a drawn code
DARK, LOST, ADDED, UNMEASURED = "#1a1a1a", "#f5a3a3", "#c00000", "#dcdcdc"
HINTS = {"claimed by": "the claim's own word", "commitment": "compare it with the one that was published",
         "signed by": "a public key: compare it with the one that the owner is known by"}
IN_FOOTERS = 16  # digits of a commitment
BAND = 1.96  # standard deviations, within which 19 of 20 standard normal numbers are
NAMES_WIDTH, ROOM, ROW = 130, 300, 14  # of a chart: its names, its bars, and a bar's row

PARTS = """{% macro head(title, roots) %}<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.3; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .35rem .7rem .35rem 0; border-bottom: 1px solid #ddd; }
th { font-weight: 600; } .facts th { width: 14rem; } .checks th:first-child { width: 17rem; } .checks .short, thead th { white-space: nowrap; }
.checks.inputs th:first-child { width: 8rem; }
.sides th:first-child { width: 20%; } .sides th, .sides td { width: 40%; }
.hint { display: block; font-size: .85rem; font-weight: 400; color: #555; }
.verdict { display: inline-block; padding: .1rem .7rem; border-radius: .3rem; color: #fff; background: #555;
  print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.owned { background: #1b6e3c; } .refused { background: #a01818; }
.secret { border: 2px solid #a01818; padding: .3rem .7rem; }
.conclusion, .meaning { font-size: 1.1rem; } .conclusion { font-weight: 600; }
.blanks td { border: 1px solid #888; height: 2rem; padding-left: .5rem; }
.codes { display: flex; flex-wrap: wrap; gap: 2rem; } figure { margin: 0; }
figcaption { font-size: .85rem; max-width: 17rem; }
svg { width: 17rem; height: 17rem; border: 1px solid #ddd; display: block; }
.chart svg { width: 28rem; max-width: 100%; height: auto; } .chart text { font: 9px sans-serif; }
code { font-size: .85rem; }
.claim { border-top: 3px solid #1a1a1a; margin-top: 3rem; }
@media screen and (max-width: 40rem) {
  .facts th { width: 7rem; }
  .checks thead { display: none; } .checks tr { display: block; border-bottom: 1px solid #ddd; padding: .5rem 0; }
  .checks th, .checks.inputs th, .checks th:first-child, .checks td { display: block; width: auto; border: 0; padding: .1rem 0; }
  .sides tr { display: flex; flex-wrap: wrap; border-bottom: 1px solid #ddd; } .sides th, .sides td { box-sizing: border-box; border: 0; }
  .sides tbody th:first-child, .sides td[colspan] { width: 100%; } .sides thead th, .sides td { width: 50%; }
  .sides thead th:first-child, .checks td:empty { display: none; } .checks td[data-name]::before { content: attr(data-name) ": "; color: #555; }
}
@page { size: A4; margin: 18mm;
  @bottom-left { font: 8pt sans-serif; color: #555; content: "{{ title }} {{ roots }}"; }
  @bottom-right { font: 8pt sans-serif; color: #555; content: counter(page) " / " counter(pages); } }
@media print {
  body { font-size: 10pt; margin: 0; padding: 0; max-width: none; } h1 { margin-top: 0; } h2 { margin-top: 1.2rem; }
  h2, .legend { break-after: avoid; } tr, li, figure, .blanks { break-inside: avoid; } .claim { margin-top: 1.5rem; }
  svg { width: 13rem; height: 13rem; } code, .hint, .legend, figcaption { font-size: 8pt; }
  p, ul { margin: .4rem 0; } th, td { padding: .2rem .5rem .2rem 0; }
}
</style>
{% endmacro %}{% macro secrecy(whose) %}<p class="secret">Confidential. This page tells what {{ whose }} secret: where a mark lies,
and what it says. Show it to those alone who may know.</p>
{% endmacro %}{% macro badge(verdict) %}<span class="verdict {{ verdict if verdict in ("owned", "refused") }}">{{ verdict }}</span>{%
endmacro %}{% macro notes(texts) %}<ul>
{% for note in texts %}<li>{{ note|shown }}</li>
{% endfor %}</ul>
{% endmacro %}{% macro blanks() %}<table class="facts blanks">
{% for name in ("case number", "arbiter", "commitment published on, by whom") %}<tr><th>{{ name
}}<span class="hint">to be written in</span></th><td></td></tr>
{% endfor %}</table>
{% endmacro %}{% macro checks(verdict) %}<table class="checks">
<thead><tr><th>what was checked</th><th>result</th><th>p-value</th><th>what was found</th></tr></thead>
<tbody>
{% for check in verdict.checks %}<tr><th>{{ check.name }}: {{ questions[check.name][0]
}}<span class="hint">{{ questions[check.name][1] }}</span></th><td class="short">{{ check.result }}</td>
<td class="short" data-name="p-value">{{ check.p|p_value if check.p is not none }}</td><td>{{ check.detail|shown }}</td></tr>
{% endfor %}</tbody>
</table>
<p>The p-value is the probability that a model that owes the claimant nothing shows as much by chance, at most; what the claimant
could choose or try is paid for.{% if verdict.p is not none %} Together: {{ verdict.p|p_value }}, the smallest p-value times the
number of {{ tests }} in the claim, since any of them could have shown (Bonferroni). At most {{ verdict.level|p_value }} is
needed.{% endif %}</p>
{% endmacro %}{% macro figures(exhibit, whose) %}{% for figure in exhibit.figures %}<figure>{{ figure|drawing }}
<figcaption>{{ whose }}{{ figure.caption|shown }}: {{ figure|differing }}; by chance about half would{%
if exhibit.absent %}. <b>{{ exhibit.absent|capitalize }}.</b>{% endif %}</figcaption></figure>
{% endfor %}{% for chart in exhibit.charts %}<figure class="chart">{{ chart|bars }}
<figcaption>{{ whose }}{{ chart.caption|shown }}</figcaption></figure>
{% endfor %}{% endmacro %}{% macro lines(exhibit, whose) %}{% for said, text in exhibit.lines
%}<p>{{ whose }}{{ said }}{% if text is not none %}<code>{{ text|shown }}</code>{% endif %}</p>
{% endfor %}{% endmacro %}{% macro origin(inputs, versions) %}<h2>Inputs</h2>
<table class="checks inputs">
<thead><tr><th>input</th><th>name</th><th>SHA-256</th></tr></thead>
<tbody>
{% for row in inputs %}<tr><th>{{ row[0]|shown }}</th><td>{{ row[1]|shown }}</td><td><code>{{ row[2]|shown }}</code></td></tr>
{% endfor %}</tbody>
</table>
<h2>Made with</h2>
<table class="facts">
{% for name, value in versions.items() %}<tr><th>{{ name|shown }}</th><td>{{ value|shown }}</td></tr>
{% endfor %}</table>
{% endmacro %}"""

PAGE = """{% import "parts" as parts %}<!DOCTYPE html>
<html lang="en">
<head>
{{ parts.head("Verification: " ~ verdict.verdict, roots) }}</head>
<body>
{% if verdict.checks %}{{ parts.secrecy("the claim keeps") }}{% endif
%}<h1>Verification of an ownership claim: {{ parts.badge(verdict.verdict) }}</h1>
<p class="meaning">{{ meaning }}</p>
{% if verdict.notes %}<h2>{{ {"refused": "Why it was refused", "unreadable": "Why the suspect can't be read"}.get(verdict.verdict,
"What this rests on") }}</h2>
{{ parts.notes(verdict.notes) }}{% endif %}<h2>The case</h2>
<table class="facts">
{% for name, value in facts.items() %}<tr><th>{{ name|shown }}{% if name in hints %}<span class="hint">{{ hints[name] }}</span>{%
endif %}</th><td>{{ value|shown }}</td></tr>
{% endfor %}</table>
{{ parts.blanks() }}{% if verdict.checks %}<h2>Checks</h2>
{{ parts.checks(verdict) }}{% for check in verdict.checks if check.exhibit
%}<h2>{{ check.name }}: {{ check.exhibit.title }}</h2>
<p class="legend">{{ check.exhibit.legend }}</p>
<div class="codes">
{{ parts.figures(check.exhibit, "") }}</div>
{{ parts.lines(check.exhibit, "") }}{% endfor %}{% endif %}{{ parts.origin(inputs, versions) }}</body>
</html>
"""

RIVALS_PAGE = """{% import "parts" as parts %}<!DOCTYPE html>
<html lang="en">
<head>
{{ parts.head("Two claims on one suspect", roots) }}</head>
<body>
{% if sides[0][1].verdict.checks or sides[1][1].verdict.checks %}{{ parts.secrecy("both claims keep") }}{% endif
%}<h1>Two claims of ownership on one suspect</h1>
<p class="conclusion">{{ found.conclusion|shown }}</p>
<p class="meaning">{{ meaning }}</p>
{% if found.notes %}<h2>What this rests on</h2>
{{ parts.notes(found.notes) }}{% endif %}<h2>The case</h2>
<table class="sides">
<thead><tr><th></th><th>first claim</th><th>second claim</th></tr></thead>
<tbody>
<tr><th>verdict</th>{% for _, side in sides %}<td>{{ parts.badge(side.verdict.verdict) }}</td>{% endfor %}</tr>
{% for name, values in overview %}<tr><th>{{ name|shown }}{% if name in hints %}<span class="hint">{{ hints[name] }}</span>{%
endif %}</th>{% for value in values %}<td{% if values|length == 1 %} colspan="2"{% endif %}>{{ value|shown }}</td>{% endfor %}</tr>
{% endfor %}</tbody>
</table>
{{ parts.blanks() }}{% if rows %}<h2>What tells them apart</h2>
<table class="sides">
<thead><tr><th></th><th>first claim</th><th>second claim</th></tr></thead>
<tbody>
{% for name, values in rows %}<tr><th>{{ name }}</th>{% for value in values
%}<td{% if values|length == 1 %} colspan="2"{% endif %}>{{ value|shown }}</td>{% endfor %}</tr>
{% endfor %}</tbody>
</table>
{% endif %}{% for scheme, shown in exhibits.items() if shown %}<h2>{{ scheme }}: {{ shown[0][1].titles }}</h2>
<p class="legend">{{ shown[0][1].legend }}</p>
<div class="codes">
{% for whose, exhibit in shown %}{{ parts.figures(exhibit, whose ~ " claim: ") }}{% endfor %}</div>
{% for whose, exhibit in shown %}{{ parts.lines(exhibit, whose ~ " claim, ") }}{% endfor %}{% endfor %}{% for name, side in sides
%}<div class="claim">
<h2>The {{ name }} claim: {{ parts.badge(side.verdict.verdict) }}</h2>
{% if side.verdict.checks %}{{ parts.checks(side.verdict) }}{% endif %}{% if side.verdict.notes
%}{{ parts.notes(side.verdict.notes) }}{% endif %}</div>
{% endfor %}{{ parts.origin(inputs, versions) }}</body>
</html>
"""


def write_report(path: str | Path, side: Side, inputs: Sequence[tuple[str, str, str]], versions: Mapping[str, str]) -> None:
    """Write the page of one claim.

    Args:
        inputs: (flag, name, SHA-256) of everything that was read.
        versions: see `utils.run_dir.versions`.
    """
    _write(path, "verdict", verdict=side.verdict, meaning=wording.meaning(side), facts=_facts(side), roots=_root_of(side),
           inputs=inputs, versions=versions)


def write_comparison_report(path: str | Path, found: rivals.Comparison, inputs: Sequence[tuple[str, str, str]],
                            versions: Mapping[str, str]) -> None:
    """Write the page of two claims: both verdicts, both codes and what tells them apart.

    Args:
        inputs, versions: see `write_report`.
    """
    sides, facts = list(zip(rivals.NAMES, found.sides)), [_facts(side) for side in found.sides]
    names = dict.fromkeys(name for of_side in facts for name in of_side if name != "suspect")
    suspects = dict.fromkeys(of_side["suspect"] for of_side in facts)  # lists of answers may be two
    overview = [("suspect", list(suspects)), ("claim", [side.opened.path for side in found.sides]),
                ("commitment file", [side.opened.commitment_path or "none" for side in found.sides]),
                *((name, [of_side.get(name, "") for of_side in facts]) for name in names),
                ("combined p-value", ["" if side.verdict.p is None else written(side.verdict.p) for side in found.sides])]
    if any(side.refused for side in found.sides):
        overview.append(("refused because", [str(side.refused or "") for side in found.sides]))
    _write(path, "rivals", found=found, meaning=wording.meaning_of_two(found), sides=sides, overview=overview,
           rows=rivals.rows(found), roots=" and ".join(map(_root_of, found.sides)), inputs=inputs, versions=versions,
           exhibits={scheme: [(name, check.exhibit) for name, side in sides for check in side.verdict.checks
                              if check.name == scheme and check.exhibit] for scheme in SCHEMES})


def _facts(side: Side) -> dict[str, str]:
    """Which schemes are claimed is seen of the checks."""
    return {name: value for name, value in side.facts.items() if name != "claims"}


def _root_of(side: Side) -> str:
    """The beginning of the commitment's root, for footers."""
    return side.opened.public.root.hex()[:IN_FOOTERS] if side.opened.public else "no commitment"


def _write(path: str | Path, page: str, **content) -> None:
    pages = Environment(loader=DictLoader({"parts": PARTS, "verdict": PAGE, "rivals": RIVALS_PAGE}), autoescape=True,
                        undefined=StrictUndefined, trim_blocks=False)
    # what does not print, or turns the direction of writing, is spelt out; autoescape does the rest
    pages.filters |= {"shown": lambda text: one_line(str(text)), "p_value": lambda p: written(Fraction(p)), "drawing": draw, "bars": draw_bars,
                      "differing": _differing}
    questions = {"F": ("accuracy", "does the suspect get as many test pictures right as the claim says?")} | {
        name: (scheme.title, scheme.asks) for name, scheme in SCHEMES.items()}
    pages.globals |= {"questions": questions, "hints": HINTS, "tests": names_of_tests()}
    text = pages.get_template(page).render(**content)
    checkpoint.write_atomic(path, lambda file: file.write(text.encode("utf-8", "backslashreplace")))


def draw(figure: Figure) -> Markup:
    """A mark as SVG, one path per colour; whole numbers are all that goes into it."""
    colours = {DARK: figure.modules & ~figure.wrong, ADDED: figure.modules & figure.wrong, LOST: ~figure.modules & figure.wrong,
               UNMEASURED: ~figure.measured}
    paths = "".join(f'<path fill="{colour}" d="{_squares(chosen)}"/>' for colour, chosen in colours.items() if chosen.any())
    size = len(figure.modules) + 2 * QUIET_ZONE
    return Markup(f'<svg viewBox="0 0 {size} {size}" shape-rendering="crispEdges" role="img" aria-label="QR code, '
                  f'{_differing(figure)}">{paths}</svg>')


def draw_bars(chart: Chart) -> Markup:
    """A bar for each number, in standard deviations, beside what chance gives, as SVG."""
    most = max(BAND, *map(abs, chart.bars.values()))
    scale, middle, height = ROOM / (2 * most), NAMES_WIDTH + ROOM / 2, ROW * len(chart.bars)
    rows = Markup("").join(
        Markup('<rect fill="{}" x="{:.1f}" y="{}" width="{:.1f}" height="{}"/><text x="0" y="{}">{}</text>').format(
            DARK, middle + min(0, z * scale), ROW * row + 2, abs(z * scale), ROW - 4, ROW * row + ROW - 4, one_line(name))
        for row, (name, z) in enumerate(chart.bars.items()))
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}"><rect fill="{}" x="{:.1f}" y="0" width="{:.1f}" height="{}"/>{}</svg>').format(
        NAMES_WIDTH + ROOM, height, one_line(chart.caption), UNMEASURED, middle - BAND * scale, 2 * BAND * scale, height, rows)


def _differing(figure: Figure) -> str:
    return f"{int(figure.wrong.sum())} of {int(figure.measured.sum())} modules differ"


def _squares(chosen: np.ndarray) -> str:
    return "".join(f"M{int(column) + QUIET_ZONE} {int(row) + QUIET_ZONE}h1v1h-1z" for row, column in np.argwhere(chosen))
