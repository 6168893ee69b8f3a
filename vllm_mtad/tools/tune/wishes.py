"""`choose` picks among measured ways to decode, by what the user wishes for.

Two rules hold for every wish. Text that is lossless by construction counts as exactly as likely as plain sampling's,
whatever its sample gave. And an MTAD setting whose accuracy is shown to be lower than plain sampling's (the 95 %
interval of the paired difference lies wholly below 0) is never chosen.

    fastest     the fastest whose text is shown no less likely than plain sampling's: the interval of the difference in
                mean negative log-likelihood per token has its upper end at or below 0. A lossy setting must also be
                shown faster than the fastest lossless way: each of its timed rounds than each of the other's.
    likeliest   the lowest mean negative log-likelihood per token (ties to 0.001 nats: the faster) among MTAD settings
                shown likelier than plain sampling (upper end below 0) that are at least as fast as the target alone:
                who asks for speculation does not want to wait longer. `any_speed` lifts that.
    budget      as likeliest, but at least (1 - slowdown) x as fast as the fastest lossless way, whether that is the
                target alone or draft_model: what one gives up for likelier text is the speed one could have had.

Where no MTAD setting qualifies, the choice is the fastest lossless way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from vllm_mtad.tools.harness.pareto import pareto_front
from vllm_mtad.tools.tune.rows import Row

WishName = Literal["fastest", "likeliest", "budget"]
WISHES: tuple[WishName, ...] = get_args(WishName)
TIE = 3
"""Decimals of nats per token, as the table shows them, to which two texts are equally likely."""


@dataclass(frozen=True)
class Wish:
    """`slowdown` belongs to the wish budget, `any_speed` to likeliest."""

    name: WishName = "fastest"
    slowdown: float = 0.05
    any_speed: bool = False


@dataclass(frozen=True)
class Choice:
    """`row` serves `wish` best at `concurrency` requests in flight; `why` is a sentence, `cautions` are what weakens
    it.
    """

    wish: Wish
    concurrency: int
    row: Row
    why: str
    cautions: tuple[str, ...] = ()


def choose(rows: Sequence[Row], wish: Wish, concurrency: int) -> Choice:
    """The choice among `rows`; the target alone must be one of them, and measured."""
    measured = [row for row in rows if row.failure is None]
    safe = fastest_lossless(measured, concurrency)
    suited = _suited(measured, wish, concurrency)
    chosen = [row for row in suited if wish.name != "fastest" or _shown_faster(row, safe, concurrency)]
    if not chosen:
        return Choice(wish, concurrency, safe, _why_not(measured, wish, concurrency, suited[0] if suited else None))
    best, floor = chosen[0], _slowest_accepted(measured, wish, concurrency)
    why = _why(best, safe, wish, concurrency)
    return Choice(wish, concurrency, best, why, _cautions(best, safe, wish, concurrency, floor))


def best_mtad(rows: Sequence[Row], wish: Wish, concurrency: int) -> Row | None:
    """The MTAD setting that serves the wish best, the fastest if none does, None if none was measured."""
    measured = [row for row in rows if row.failure is None]
    mtad = [row for row in measured if row.is_mtad]
    suited = _suited(measured, wish, concurrency)
    return suited[0] if suited else max(mtad, key=lambda row: _ratio(row, concurrency), default=None)


def fastest_lossless(rows: Sequence[Row], concurrency: int) -> Row:
    """The fastest lossless row, the first of them if several are."""
    return max((row for row in rows if row.lossless and row.failure is None), key=lambda row: _ratio(row, concurrency))


def on_front(rows: Sequence[Row], concurrency: int) -> list[bool]:
    """Whether no other row is as fast and as likely and better in one; lossless rows stand at plain sampling's
    likelihood."""
    measured = [i for i, row in enumerate(rows) if row.failure is None]
    points = [
        (_ratio(rows[i], concurrency), 0.0 if rows[i].lossless else -rows[i].nats_difference.value) for i in measured
    ]
    front = {measured[i] for i in pareto_front(points)}
    return [i in front for i in range(len(rows))]


def _suited(measured: Sequence[Row], wish: Wish, concurrency: int) -> list[Row]:
    """MTAD settings that qualify, the best first."""
    floor = _slowest_accepted(measured, wish, concurrency)
    suited = [row for row in measured if _likely_enough(row, wish) and not _less_accurate(row)]
    suited = [row for row in suited if _ratio(row, concurrency) >= floor]
    if wish.name == "fastest":
        return sorted(suited, key=lambda row: (-_ratio(row, concurrency), row.nats))
    return sorted(suited, key=lambda row: (round(row.nats, TIE), -_ratio(row, concurrency)))


def _shown_faster(row: Row, safe: Row, concurrency: int) -> bool:
    return row.speeds[concurrency].low > safe.speeds[concurrency].high


def _ratio(row: Row, concurrency: int) -> float:
    return row.speeds[concurrency].ratio


def _likely_enough(row: Row, wish: Wish) -> bool:
    """Whether a lossy row's text is shown likely enough; False for lossless ones, which are the fallback."""
    if row.lossless:
        return False
    high = row.nats_difference.high
    return high <= 0 if wish.name == "fastest" else high < 0


def _less_accurate(row: Row) -> bool:
    return row.accuracy_difference is not None and row.accuracy_difference.high < 0


def _slowest_accepted(measured: Sequence[Row], wish: Wish, concurrency: int) -> float:
    if wish.name == "budget":
        return (1 - wish.slowdown) * _ratio(fastest_lossless(measured, concurrency), concurrency)
    return 1.0 if wish.name == "likeliest" and not wish.any_speed else 0.0


def _rounds(row: Row, concurrency: int) -> str:
    found = row.speeds[concurrency]
    return f"{found.low:.2f}x to {found.high:.2f}x"


def _difference(row: Row) -> str:
    found = row.nats_difference
    return f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


def _why(best: Row, safe: Row, wish: Wish, concurrency: int) -> str:
    speed, of_safe = _ratio(best, concurrency), _ratio(safe, concurrency)
    likelier = f"{_difference(best)} nats/token against plain sampling"
    if wish.name == "fastest":
        return (
            f"{speed:.2f}x the target alone, more than the fastest lossless way ({safe.label}, {of_safe:.2f}x), and"
            f" shown no less likely: {likelier}."
        )
    accepted = {
        "likeliest": "at any speed" if wish.any_speed else "among those at least as fast as the target alone",
        "budget": f"within {wish.slowdown:.0%} of the fastest lossless way ({safe.label}, {of_safe:.2f}x)",
    }[wish.name]
    return f"the most likely text {accepted}: {likelier}, at {speed:.2f}x the target alone."


def _why_not(measured: Sequence[Row], wish: Wish, concurrency: int, best: Row | None) -> str:
    """Why the fastest lossless way is chosen."""
    safe = fastest_lossless(measured, concurrency)
    if safe.is_mtad:
        return f"{safe.label} is the fastest way, and at temperature 0 MTAD gives greedy decoding's own text."
    speed = f"{safe.label} is the fastest lossless way ({_ratio(safe, concurrency):.2f}x the target alone)"
    if best is not None:
        return (
            f"{speed}, and the fastest MTAD setting shown no less likely than plain sampling, {best.label}, is not"
            f" shown faster ({_ratio(best, concurrency):.2f}x, rounds {_rounds(best, concurrency)}, against"
            f" {_rounds(safe, concurrency)})."
        )
    mtad = [row for row in measured if row.is_mtad]
    if not mtad:
        return f"{speed}, and no MTAD setting could be measured."
    likely = [row for row in mtad if _likely_enough(row, wish)]
    accurate = [row for row in likely if not _less_accurate(row)]
    wanted = "no less likely" if wish.name == "fastest" else "likelier"
    if not likely:
        nearest = min(mtad, key=lambda row: row.nats_difference.high)
        return (
            f"{speed}, and none of {len(mtad)} MTAD settings was shown {wanted} than plain sampling (nearest:"
            f" {nearest.label}, {_difference(nearest)} nats/token; more prompts or samples narrow the interval)."
        )
    if not accurate:
        return f"{speed}, and every MTAD setting shown {wanted} than plain sampling is shown less accurate."
    floor = _slowest_accepted(measured, wish, concurrency)
    quickest = max(accurate, key=lambda row: _ratio(row, concurrency))
    return (
        f"{speed}, and no MTAD setting shown {wanted} than plain sampling reaches the {floor:.2f}x asked for: the"
        f" fastest, {quickest.label}, reaches {_ratio(quickest, concurrency):.2f}x."
    )


def _cautions(best: Row, safe: Row, wish: Wish, concurrency: int, floor: float) -> tuple[str, ...]:
    own, of_safe = best.speeds[concurrency], safe.speeds[concurrency]
    found = []
    if own.low < floor:
        found.append(f"Its slowest round ({own.low:.2f}x) is below the {floor:.2f}x asked for.")
    if wish.name != "fastest" and of_safe.ratio > own.ratio:
        found.append(f"{safe.label} is faster ({of_safe.ratio:.2f}x) and lossless: this trades speed for likelihood.")
    if wish.name != "fastest":
        found.append(
            "Plain sampling at a lower temperature also gives likelier text; likelier is not always better, which a"
            " checker can tell."
        )
    accuracy = best.accuracy_difference
    if accuracy is not None and not accuracy.excludes_zero:
        found.append("Its accuracy is not shown to differ from plain sampling's on these prompts.")
    return tuple(found)
