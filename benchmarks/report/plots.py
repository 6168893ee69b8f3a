"""These functions plot a run's figures as PNG, one file each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.catalogue import GROUPS
from benchmarks.report.results import BASE, Answers, Results, Speedup
from vllm_mtad.config.options import METHOD
from vllm_mtad.tools.harness.intervals import Interval, interval
from vllm_mtad.tools.harness.methods import Method
from vllm_mtad.tools.harness.pareto import pareto_front

COLOURS = {"target": "#555555", "draft_model": "#1f77b4", "ngram": "#2ca02c", METHOD: "#d62728"}
_DPI = 130
Figure = tuple[str, Callable[[Answers, Speedup | None], Interval | None]]


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _accuracy(row: Answers, _: Speedup | None) -> Interval | None:
    if not row.is_judged:
        return None
    found = interval(row.accuracy())
    return Interval(*(100 * v for v in (found.value, found.low, found.high)))


def _nll(row: Answers, _: Speedup | None) -> Interval | None:
    return interval(row.mean_nll())


def _efficiency(row: Answers, _: Speedup | None) -> Interval | None:
    return row.mean_acceptance_length


def _speed(_: Answers, speed: Speedup | None) -> Interval | None:
    return None if speed is None else _spread(speed)


def _spread(speed: Speedup) -> Interval:
    return Interval(speed.ratio, speed.low, speed.high)


def _errors(values: Sequence[Interval]) -> list[list[float]]:
    """Below and above; a quantile of equal values may lie past them by rounding."""
    return [[max(v.value - v.low, 0.0) for v in values], [max(v.high - v.value, 0.0) for v in values]]


FIGURES: tuple[Figure, ...] = (
    ("tokens per target call", _efficiency),
    ("correct answers, %", _accuracy),
    ("negative log-likelihood per token", _nll),
    ("speed, × the target alone", _speed),
)


def sweep_plot(
    results: Results, prompt_set: str, series: Sequence[tuple[str, Sequence[tuple[float, str]]]], axis: str, file: Path
) -> Path | None:
    """Every figure over one factor, with 95 % intervals (of speed: smallest and largest round).

    Args:
        series: (label, [(x, method)]); methods without answers are left out.
    """
    answers = results.answers[prompt_set]
    series = [(label, [(x, name) for x, name in points if name in answers]) for label, points in series]
    series = [(label, points) for label, points in series if len(points) > 1]
    if not series:
        return None
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(2, 2, figsize=(9, 6), constrained_layout=True)
    for axes_of_one, (title, value_of) in zip(axes.flat, FIGURES):
        for label, points in series:
            found = [(x, value_of(answers[name], results.speed_of(prompt_set, name))) for x, name in points]
            _line(axes_of_one, [(x, value) for x, value in found if value is not None], label)
        base = value_of(answers[BASE], results.speed_of(prompt_set, BASE))
        if base is not None:
            axes_of_one.axhline(base.value, color=COLOURS["target"], linestyle=":", label=BASE)
        axes_of_one.set_title(title, fontsize=10)
        axes_of_one.set_xlabel(axis)
        axes_of_one.grid(alpha=0.3)
    axes.flat[0].legend(fontsize=8)
    figure.savefig(file, dpi=_DPI)
    pyplot.close(figure)
    return file


def _line(axes: Any, points: Sequence[tuple[float, Interval]], label: str) -> None:
    if points:
        colour = COLOURS["draft_model"] if label.startswith("draft_model") else COLOURS[METHOD]
        axes.errorbar(
            [x for x, _ in points],
            [value.value for _, value in points],
            yerr=_errors([value for _, value in points]),
            marker="o",
            markersize=4,
            capsize=3,
            color=colour,
            label=label,
        )


def pareto_plot(results: Results, prompt_set: str, file: Path) -> Path | None:
    """Speed against what the answers are worth (correct ones, else likelihood), every method that was timed on it."""
    answers = results.answers[prompt_set]
    timed = [(name, row, speed) for name, row in answers.items() if (speed := results.speed_of(prompt_set, name))]
    if len(timed) < 3:
        return None
    judged = answers[BASE].is_judged
    title, value_of = FIGURES[1] if judged else ("log-likelihood per token", _log_likelihood)
    found = [(name, speed, value) for name, row, speed in timed if (value := value_of(row, speed)) is not None]
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(figsize=(8.5, 5.5), constrained_layout=True)
    families = {method.name: method.family for group in GROUPS.values() for method in group}
    for name, speed, value in found:
        errors = {"xerr": _errors([_spread(speed)]), "yerr": _errors([value])}
        axes.errorbar(
            speed.ratio, value.value, fmt="o", color=COLOURS[families.get(name, METHOD)], elinewidth=0.5, **errors
        )
        axes.annotate(name, (speed.ratio, value.value), fontsize=7, xytext=(4, 3), textcoords="offset points")
    front = pareto_front([(speed.ratio, value.value) for _, speed, value in found])
    axes.plot(
        [found[i][1].ratio for i in front], [found[i][2].value for i in front], color="black", alpha=0.4, label="front"
    )
    axes.set_xlabel(FIGURES[3][0])
    axes.set_ylabel(title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(file, dpi=_DPI)
    pyplot.close(figure)
    return file


def _log_likelihood(row: Answers, _: Speedup | None) -> Interval:
    found = interval(row.mean_nll())
    return Interval(-found.value, -found.high, -found.low)


def concurrency_plot(found: dict[int, dict[str, Speedup]], methods: Sequence[Method], file: Path) -> Path | None:
    """Requests in flight against speed; `found`: concurrency -> method -> speed."""
    if len(found) < 2:
        return None
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(figsize=(7, 4), constrained_layout=True)
    for method in methods:
        points = [(c, own[method.name]) for c, own in sorted(found.items()) if method.name in own]
        if method.name == BASE or not points:
            continue
        axes.errorbar(
            [c for c, _ in points],
            [s.ratio for _, s in points],
            yerr=_errors([_spread(s) for _, s in points]),
            marker="o",
            capsize=3,
            color=COLOURS[method.family],
            label=method.name,
        )
    axes.axhline(1.0, color=COLOURS["target"], linestyle=":", label=BASE)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(found), [str(c) for c in sorted(found)])
    axes.set_xlabel("requests in flight")
    axes.set_ylabel(FIGURES[3][0])
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(file, dpi=_DPI)
    pyplot.close(figure)
    return file
