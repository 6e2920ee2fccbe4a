"""Curves as SVG text (charts.html): no script, no plotting library; a page's stylesheet gives the colours."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import fmean
from typing import Any, NamedTuple, TypeVar

from markupsafe import Markup

from algos.maths.statistics import mean_interval
from algos.report.templates import TEMPLATES, number
from algos.run_folder.read import Curve

T = TypeVar("T")
Points = Sequence[tuple[float, ...]]

MOST_POINTS, MOST_STRIPS = 240, 40


class Area(NamedTuple):
    """The part of a chart inside its axes."""

    left: int = 54
    right: int = 346
    top: int = 8
    bottom: int = 168


@dataclass
class Line:
    """One line of a chart: its points, the curves drawn faintly behind it, and its band ``(step, low, high)``."""

    name: str
    colour: str
    points: Points
    faint: Sequence[Points] = ()
    band: Points = ()


def smooth(curve: Curve) -> Curve:
    """The centred mean over :func:`window` steps, over fewer at both ends."""
    steps, half = sorted(curve), window(len(curve)) // 2
    values = [curve[step] for step in steps]
    return {step: fmean(values[max(0, i - half) : i + half + 1]) for i, step in enumerate(steps)}


def window(points: int) -> int:
    """The number of steps in each mean over a curve with ``points`` points; always odd."""
    return 2 * (points // 25) + 1


def line_of(name: str, colour: str, curves: Sequence[Curve]) -> Line:
    """One run: its smoothed curve over the raw one. Several: their mean, its interval, and each one faintly."""
    curves = [curve for curve in curves if curve]
    smoothed = [smooth(curve) for curve in curves]
    common = sorted(set.intersection(*map(set, smoothed))) if smoothed else []
    found = [(step, *mean_interval([curve[step] for curve in smoothed])) for step in common]
    faint = smoothed if len(curves) > 1 else [curve for curve in curves if window(len(curve)) > 1]
    band = [(step, low, high) for step, _, low, high in found] if len(curves) > 1 else []
    return Line(name, colour, [row[:2] for row in found], [sorted(curve.items()) for curve in faint], band)


def line_chart(label: str, lines: Sequence[Line], percent: bool = False) -> Markup:
    """Lines over steps; ``percent`` shows fractions on an axis from 0 to 100 %."""
    area = Area()
    steps = [point[0] for line in lines for part in (line.points, *line.faint) for point in part]
    first, last = (min(steps), max(steps)) if steps else (0.0, 1.0)
    low, high = (-0.02, 1.02) if percent else _value_range(lines)

    def x(step: float) -> float:
        return area.left + (step - first) / ((last - first) or 1) * (area.right - area.left)

    def y(value: float) -> float:
        return area.top + min(max((high - value) / (high - low), -1.0), 2.0) * (area.bottom - area.top)

    def path(points: Points, column: int = 1) -> str:
        return " ".join(f"{x(point[0]):.1f},{y(point[column]):.1f}" for point in points)

    thinned = [
        replace(line, points=_thin(line.points), faint=list(map(_thin, line.faint)), band=_thin(line.band))
        for line in lines
    ]
    y_ticks = [(tick, f"{tick:.0%}" if percent else text) for tick, text in _ticks(low, high)]
    x_ticks = [(tick, text) for tick, text in _ticks(first, last) if tick == int(tick)]
    x_ticks = [(tick, text.rstrip("0").rstrip(".") if "." in text else text) for tick, text in x_ticks]  # whole steps
    macros: Any = TEMPLATES.get_template("charts.html").module
    svg: Markup = macros.line_chart(
        label, thinned, area, x, y, path, x_ticks, y_ticks, _strips(lines, x, area, percent)
    )
    return svg


def _strips(
    lines: Sequence[Line], x: Callable[[float], float], area: Area, percent: bool
) -> Iterator[tuple[float, float, str]]:
    """From where to where on the x axis the pointer shows which values."""
    values = [{point[0]: point[1] for point in line.points} for line in lines]
    steps = sorted({step for curve in values for step in curve})
    shown = [chunk[len(chunk) // 2] for chunk in _chunks(steps, MOST_STRIPS)]
    edges = [area.left, *((x(a) + x(b)) / 2 for a, b in pairwise(shown)), area.right]
    for step, (start, end) in zip(shown, pairwise(edges)):
        named = [f"{line.name} {number(v[step], percent)}" for line, v in zip(lines, values) if step in v]
        yield start, end, "\n".join([f"step {step:g}", *named])


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
