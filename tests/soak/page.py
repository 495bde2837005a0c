"""A run as one HTML page: nothing to load, light or dark as the reader likes it."""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING

from tests.soak.journal import MILLISECOND
from tests.soak.summary import (
    FAULT_HEAD,
    NOTES,
    fault_rows,
    is_wrong,
    missing,
    rows,
    verdict,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from botsessions.conformance.histories.history import Call
    from tests.soak.figures import Figures
    from tests.soak.judging import Finding
    from tests.soak.summary import Run

_WIDTH, _HEIGHT, _TOP = 760, 150, 16
# So many columns a picture has at most, and so many calls a wrong history shows.
_COLUMNS = 240
_SHOWN = 400

_WHAT = (
    "Several processes used the same sessions while faults were injected by schedule. "
    "Every call was written down with its beginning and its answer, and all of it was "
    "held against the laws."
)

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2126; --paper: #fff; --faint: #68707a;
  --line: #d9dde2; --bar: #4878a8; --fault: #c2562d; --good: #2b7a3d; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e3e6ea; --paper: #16191d;
  --faint: #98a1ab; --line: #363c44; --bar: #6d9fce; --fault: #e08a5f;
  --good: #6cc07f; --bad: #f0837c; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink);
  background: var(--paper); max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .75rem .25rem 0;
  text-align: left; vertical-align: top; font-weight: normal; }
thead th { font-weight: 600; } td { font-variant-numeric: tabular-nums; }
code, pre { font: 13px/1.4 ui-monospace, monospace; }
pre { overflow-x: auto; border: 1px solid var(--line); padding: .75rem; }
.good { color: var(--good); } .bad { color: var(--bad); }
.faint { color: var(--faint); }
svg { max-width: 100%; height: auto; } svg text { fill: var(--faint); font-size: 11px; }
.bar { fill: var(--bar); } .fault { stroke: var(--fault); stroke-width: 1.5; }
.axis { stroke: var(--line); }
"""


def page(run: Run, figures: Mapping[str, Figures]) -> str:
    """Return the page of a run."""
    head, lacking = verdict(run, figures), missing(run, figures)
    colour = "bad" if is_wrong(figures) else "faint" if lacking else "good"
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>Soak: {head}</title><style>{_STYLE}</style></head><body>",
        f'<h1>Soak: <span class="{colour}">{head}</span></h1>',
        f"<p>{_WHAT}</p>",
        _table([], ([name, fact] for name, fact in run.facts)),
        *(f"<p>{html.escape(what)}</p>" for what in lacking),
        "<h2>All places</h2>",
        _all_places(figures),
        f'<p class="faint">{NOTES}</p>',
    ]
    for name, one in figures.items():
        parts += _place(name, one)
    parts.append("</body></html>\n")
    return "\n".join(parts)


def _all_places(figures: Mapping[str, Figures]) -> str:
    head, *table = rows(figures)
    plain = [[cell.replace("**", "") for cell in row] for row in table]
    return _table(head, plain)


def _place(name: str, figures: Figures) -> list[str]:
    title = f"{name}: {figures.title}"
    parts = [f"<h2>{html.escape(title)}</h2>", picture(figures)]
    parts.append(_table(FAULT_HEAD, fault_rows(figures)))
    for finding in figures.findings:
        parts += _finding(finding)
    return parts


def _finding(finding: Finding) -> list[str]:
    calls = finding.calls[-_SHOWN:]
    left = len(finding.calls) - len(calls)
    before = f"({left} calls before these are left out)\n" if left else ""
    shown = html.escape(before + "\n".join(map(_line, calls)))
    wrong, key = html.escape(finding.wrong.value), html.escape(finding.key)
    return [
        f'<h3 class="bad">{wrong}: <code>{key}</code></h3>',
        f"<pre>{html.escape(finding.what)}</pre>",
        "<details><summary>all calls for this key</summary>",
        f"<pre>{shown}</pre></details>",
    ]


def _line(call: Call) -> str:
    """Return a call behind the milliseconds after which it began."""
    return f"{call.called / MILLISECOND:10.1f} ms  {call}"


def _table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        inner = "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)
        return f"<tr>{inner}</tr>"

    above = f"<thead>{row(head, 'th')}</thead>" if head else ""
    lines = "\n".join(row(cells, "td") for cells in body)
    return f'<div class="wide"><table>{above}<tbody>{lines}</tbody></table></div>'


def picture(figures: Figures) -> str:
    """Draw how many calls were acknowledged each second, and when faults began."""
    seconds = max(1, math.ceil(figures.seconds))
    step = math.ceil(seconds / _COLUMNS)
    columns = math.ceil(seconds / step)
    rates = [
        sum(figures.flow[number * step + i] for i in range(step)) / step
        for number in range(columns)
    ]
    most = max(1.0, *rates)
    width = _WIDTH / columns
    bottom = _HEIGHT - _TOP
    drawn = []
    for number, rate in enumerate(rates):
        height = rate / most * (bottom - _TOP)
        drawn.append(
            f'<rect class="bar" x="{number * width:.1f}" y="{bottom - height:.1f}" '
            f'width="{max(width - 0.5, 0.5):.1f}" height="{height:.1f}">'
            f"<title>{number * step} s: {rate:,.0f} a second</title></rect>"
        )
    marks: dict[int, list[str]] = {}
    for when, kind in figures.marks:
        marks.setdefault(int(when / step), []).append(kind)
    for number, kinds in sorted(marks.items()):
        x = min((number + 0.5) * width, _WIDTH - 1)
        drawn.append(
            f'<line class="fault" x1="{x:.1f}" x2="{x:.1f}" y1="2" y2="{_TOP - 4}">'
            f"<title>{number * step} s: {html.escape(', '.join(kinds))}</title></line>"
        )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        'aria-label="acknowledged calls per second, and faults">'
        f'<line class="axis" x1="0" x2="{_WIDTH}" y1="{bottom}" y2="{bottom}"/>'
        + "".join(drawn)
        + f'<text x="0" y="{_HEIGHT - 3}">0 s</text>'
        f'<text x="{_WIDTH}" y="{_HEIGHT - 3}" text-anchor="end">{seconds} s of use; '
        f"at most {most:,.0f} acknowledged calls a second; marks above: faults</text>"
        "</svg>"
    )
