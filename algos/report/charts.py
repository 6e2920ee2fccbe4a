"""Curves and intervals as SVG text: no script, no plotting library; a page's stylesheet gives the colours."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise
from statistics import fmean
from typing import TypeVar

from algos.maths.statistics import mean_interval
from algos.run_folder.read import Curve

T = TypeVar("T")
Points = Sequence[tuple[float, ...]]

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 360, 54, 14, 8, 22
MOST_POINTS, MOST_STRIPS = 240, 40


@dataclass
class Line:
    """One line of a chart: its points, what is drawn faintly behind it, and its band ``(step, low, high)``."""

    name: str
    colour: str
    points: list[tuple[float, float]]
    faint: list[list[tuple[float, float]]] = field(default_factory=list)
    band: list[tuple[float, float, float]] = field(default_factory=list)


@dataclass
class Interval:
    """A rate with its 95 % interval, before and after; ``None`` where it is not known."""

    name: str
    before: tuple[float, float, float] | None
    after: tuple[float, float, float] | None


def smooth(curve: Curve) -> Curve:
    """The centred mean over :func:`window` steps, over fewer at both ends."""
    steps, half = sorted(curve), window(len(curve)) // 2
    values = [curve[step] for step in steps]
    return {step: fmean(values[max(0, i - half) : i + half + 1]) for i, step in enumerate(steps)}


def window(points: int) -> int:
    """How many of so many points are averaged; always odd."""
    return 2 * (points // 25) + 1


def line_of(name: str, colour: str, curves: Sequence[Curve]) -> Line:
    """One run: its smoothed curve over the raw one. Several: their mean, its interval, and each one faintly."""
    curves = [curve for curve in curves if curve]
    smoothed = [smooth(curve) for curve in curves]
    if len(curves) < 2:
        points = [_points(curve) for curve in smoothed]
        return Line(
            name, colour, points[0] if points else [], [_points(curve) for curve in curves if window(len(curve)) > 1]
        )
    common = sorted(set.intersection(*(set(curve) for curve in curves)))
    found = {step: mean_interval([curve[step] for curve in smoothed]) for step in common}
    means = [(step, mean) for step, (mean, _, _) in found.items()]
    band = [(step, low, high) for step, (_, low, high) in found.items()]
    return Line(name, colour, means, [_points(curve) for curve in smoothed], band)


def _points(curve: Curve) -> list[tuple[float, float]]:
    return sorted(curve.items())


def line_chart(label: str, lines: Sequence[Line], percent: bool = False) -> str:
    """Lines over steps; ``percent`` shows fractions on an axis from 0 to 100 %."""
    height, bottom, right = 190, 190 - BOTTOM, WIDTH - RIGHT
    steps = [point[0] for line in lines for part in (line.points, *line.faint) for point in part]
    first, last = (min(steps), max(steps)) if steps else (0.0, 1.0)
    low, high = (-0.02, 1.02) if percent else _value_range(lines)

    def x(step: float) -> float:
        return LEFT + (step - first) / ((last - first) or 1) * (right - LEFT)

    def y(value: float) -> float:
        return TOP + min(max((high - value) / (high - low), -1.0), 2.0) * (bottom - TOP)

    def path(points: Points) -> str:
        return " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in points)

    axes, drawn = [], []
    for tick, text in _ticks(low, high):
        text = f"{tick:.0%}" if percent else text
        axes.append(f'<path class="grid" d="M{LEFT} {y(tick):.1f}H{right}"/>')
        axes.append(f'<text x="{LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{text}</text>')
    for tick, text in [(tick, text) for tick, text in _ticks(first, last) if tick == int(tick)]:
        text = text.rstrip("0").rstrip(".") if "." in text else text  # steps are whole
        axes.append(f'<text x="{x(tick):.1f}" y="{height - 6}" text-anchor="middle">{text}</text>')
    for line in lines:
        band = _thin(line.band)
        edge = [(step, low) for step, low, _ in band] + [(step, high) for step, _, high in reversed(band)]
        drawn.append(f'<polygon class="band {line.colour}" points="{path(edge)}"/>' if edge else "")
        for part in line.faint:
            drawn.append(f'<polyline class="faint {line.colour}" points="{path(_thin(part))}"/>')
    for line in lines:
        points = _thin(line.points)
        drawn.append(f'<polyline class="line {line.colour}" points="{path(points)}"/>')
        if len(points) <= 12:
            drawn += [f'<circle class="dot {line.colour}" cx="{x(s):.1f}" cy="{y(v):.1f}" r="3"/>' for s, v in points]
    # A nested <svg> clips what lies outside the axes.
    box = f'<svg x="{LEFT}" y="{TOP}" width="{right - LEFT}" height="{bottom - TOP}" '
    box += f'viewBox="{LEFT} {TOP} {right - LEFT} {bottom - TOP}">'
    hover = _hover(lines, x, bottom, percent)
    return _svg(label, height, "".join(axes) + box + "".join(drawn) + "</svg>" + hover)


def interval_chart(label: str, rows: Sequence[Interval]) -> str:
    """Before (hollow) and after (filled) of some rates, with their intervals, on an axis from 0 to 100 %."""
    left, right, row_height = 10, WIDTH - 16, 58
    height = len(rows) * row_height + BOTTOM

    def x(rate: float) -> float:
        return left + min(max(rate, 0.0), 1.0) * (right - left)

    parts = []
    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts.append(f'<path class="grid" d="M{x(tick):.1f} 0V{height - BOTTOM}"/>')
        parts.append(f'<text x="{x(tick):.1f}" y="{height - 6}" text-anchor="middle">{tick:.0%}</text>')
    for number, row in enumerate(rows):
        top = number * row_height
        known = [f"{found[0]:.1%}" for found in (row.before, row.after) if found]
        parts.append(f'<text class="name" x="{left}" y="{top + 15}">{escape(row.name)}</text>')
        parts.append(f'<text class="name" x="{right}" y="{top + 15}" text-anchor="end">{" → ".join(known)}</text>')
        for found, when, y in ((row.before, "before", top + 30), (row.after, "after", top + 44)):
            if found:
                rate, low, high = found
                parts.append(f'<path class="whisker {when}" d="M{x(low):.1f} {y}H{x(high):.1f}"/>')
                title = f"<title>{when}: {rate:.1%} [{low:.1%}, {high:.1%}]</title>"
                parts.append(f'<circle class="mark {when}" cx="{x(rate):.1f}" cy="{y}" r="5">{title}</circle>')
    return _svg(label, height, "".join(parts))


def _svg(label: str, height: int, inside: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label)}">{inside}</svg>'


def _hover(lines: Sequence[Line], x: Callable[[float], float], bottom: int, percent: bool) -> str:
    """Invisible strips that tell the values under the pointer."""
    values = [dict(line.points) for line in lines]
    steps = sorted({step for curve in values for step in curve})
    shown = [chunk[len(chunk) // 2] for chunk in _chunks(steps, MOST_STRIPS)]
    edges = [float(LEFT), *((x(a) + x(b)) / 2 for a, b in pairwise(shown)), float(WIDTH - RIGHT)]
    strips = []
    for step, (start, end) in zip(shown, pairwise(edges)):
        told = [f"{line.name} {number(v[step], percent)}" for line, v in zip(lines, values) if step in v]
        box = f'x="{start:.1f}" y="{TOP}" width="{end - start:.1f}" height="{bottom - TOP}"'
        title = escape("\n".join([f"step {step:g}", *told]))
        strips.append(f'<rect class="strip" {box}><title>{title}</title></rect>')
    return "".join(strips)


def number(value: float, percent: bool = False) -> str:
    """A value as a reader wants it: per cent, or four digits."""
    return f"{value:.1%}" if percent else f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def _value_range(lines: Sequence[Line]) -> tuple[float, float]:
    """Covers every line, and what is faint but for its rare spikes; noise in the last digits stays a flat line."""
    values = [point[1] for line in lines for point in line.points]
    for line in lines:
        for part in line.faint:
            raw, rare = sorted(value for _, value in part), len(part) // 50
            values += raw[rare : len(raw) - rare]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    missing = max(1e-3 * max(abs(low), abs(high)) - (high - low), 0.0)
    margin = 0.06 * (high - low) + missing or 1.0
    return low - margin, high + margin


def _ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Three to eight round numbers between ``low`` and ``high``, and how they are written."""
    if not high > low:
        return [(low, f"{low:g}")]
    unit = 10.0 ** math.floor(math.log10((high - low) / 3))
    unit *= max(m for m in (1, 2, 5) if m * unit <= (high - low) / 3)
    ticks = [i * unit for i in range(math.ceil(low / unit), math.floor(high / unit) + 1)]
    largest, size, letter = max(abs(low), abs(high)), 1.0, ""
    if largest < 1e-3 or largest >= 1e9:
        return [(tick, f"{tick:.2e}".replace("e-0", "e-") if tick else "0") for tick in ticks]
    if largest >= 1e5:
        size, letter = (1e6, "M") if largest >= 1e6 else (1e3, "k")
    digits = max(0, -math.floor(math.log10(unit / size) + 1e-9))
    return [(tick, f"{tick / size:,.{digits}f}{letter}" if tick else "0") for tick in ticks]


def _chunks(items: Sequence[T], most: int) -> list[Sequence[T]]:
    size = math.ceil(len(items) / most) or 1
    return [items[i : i + size] for i in range(0, len(items), size)]


def _thin(points: Points) -> list[tuple[float, ...]]:
    """At most ``MOST_POINTS`` points: neighbours become their mean."""
    return [tuple(fmean(column) for column in zip(*chunk)) for chunk in _chunks(points, MOST_POINTS)]
