"""`Results` computes figures from the raw rows of a run."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from benchmarks.store import Store
from vllm_mtad.tools.harness.figures import (
    acceptance_per_position,
    acceptance_rate,
    distinct,
    mean_acceptance_length,
    repetition_rate,
)
from vllm_mtad.tools.harness.intervals import Interval, Ratio, interval, paired_difference

BASE = "target alone"


@dataclass(frozen=True)
class Answers:
    """All answers of one method to one prompt set, by seed: `answers[seed][prompt]`."""

    method: str
    gamma: int
    answers: dict[int, list[dict[str, Any]]]
    nats: dict[int, list[float]]

    @cached_property
    def calls(self) -> list[list[int]]:
        return [a["calls"] for answers in self.answers.values() for a in answers]

    @property
    def mean_acceptance_length(self) -> Interval | None:
        if not self.gamma or mean_acceptance_length(self.calls) is None:
            return None
        return interval(self._ratio(lambda a, _: sum(a["calls"][1:]), lambda a: len(a["calls"]) - 1, self.answers))

    @property
    def acceptance_rate(self) -> float | None:
        return acceptance_rate(self.calls, self.gamma)

    @property
    def per_position(self) -> list[float]:
        return acceptance_per_position(self.calls, self.gamma)

    @property
    def right_at_least_once(self) -> float:
        """Share of the prompts that at least one of the seeds answered right."""
        by_prompt = list(zip(*self.answers.values()))
        return sum(any(a["correct"] for a in of_prompt) for of_prompt in by_prompt) / len(by_prompt)

    @property
    def is_judged(self) -> bool:
        return all(a["correct"] is not None for answers in self.answers.values() for a in answers)

    def accuracy(self, seeds: Sequence[int] | None = None) -> Ratio:
        return self._ratio(lambda a, _: float(a["correct"]), lambda _: 1.0, seeds or self.answers)

    def mean_nll(self, seeds: Sequence[int] | None = None) -> Ratio:
        """Nats per token."""
        return self._ratio(lambda _, nats: nats, lambda a: len(a["tokens"]), seeds or self.answers)

    def joint_nll(self, seeds: Sequence[int] | None = None) -> Ratio:
        """Nats per answer."""
        return self._ratio(lambda _, nats: nats, lambda _: 1.0, seeds or self.answers)

    @property
    def perplexity(self) -> float:
        return math.exp(self.mean_nll().value())

    @property
    def mean_length(self) -> float:
        return statistics.mean(len(a["tokens"]) for answers in self.answers.values() for a in answers)

    @property
    def repetition(self) -> float:
        return statistics.mean(repetition_rate(a["tokens"]) for answers in self.answers.values() for a in answers)

    def distinct(self, n: int) -> float:
        """Over the answers of the first seed, so that runs with more seeds do not look poorer."""
        return distinct([a["tokens"] for a in self.answers[min(self.answers)]], n)

    def _ratio(
        self,
        numerator: Callable[[dict[str, Any], float], float],
        denominator: Callable[[dict[str, Any]], float],
        seeds: Any,
    ) -> Ratio:
        """Sums over seeds of one prompt."""
        count = len(self.answers[min(self.answers)])
        above, below = [0.0] * count, [0.0] * count
        for seed in seeds:
            for i, answer in enumerate(self.answers[seed]):
                above[i] += numerator(answer, self.nats[seed][i] if seed in self.nats else 0.0)
                below[i] += denominator(answer)
        return Ratio.of(above, below)


def difference(of: Answers, base: Answers, figure: str) -> Interval:
    """The difference, paired over prompts, on the seeds that both have. `figure`: accuracy, mean_nll or joint_nll."""
    seeds = sorted(set(of.answers) & set(base.answers))
    return paired_difference(getattr(of, figure)(seeds), getattr(base, figure)(seeds))


@dataclass(frozen=True)
class Speedup:
    """Over rounds: median with smallest and largest of tokens/s by the target alone's in the same round and turn."""

    ratio: float
    low: float
    high: float
    tokens_per_second: float
    seconds_per_token: float
    rounds: int


class Results:
    """Everything in a folder, by prompt set and method."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.unavailable = {row["method"]: row["reason"] for row in store.rows("unavailable")}
        nats: dict[tuple[str, str, int], list[float]] = {
            (row["prompt_set"], row["method"], row["seed"]): row["nats"] for row in store.rows("likelihoods")
        }
        grouped: dict[str, dict[str, Answers]] = defaultdict(dict)
        for row in store.rows("answers"):
            key = (row["prompt_set"], row["method"], row["seed"])
            if key not in nats:
                continue
            found = grouped[key[0]].setdefault(key[1], Answers(key[1], row["gamma"], {}, {}))
            found.answers[key[2]], found.nats[key[2]] = row["answers"], nats[key]
        self.answers = dict(grouped)

    def reference_efficiency(self, prompt_set: str) -> tuple[Interval, Interval] | None:
        """Block efficiency of the slow reference, and MTAD's in the engine on the same prompts, if both are there."""
        row = next((row for row in self.store.rows("reference") if row["prompt_set"] == prompt_set), None)
        engine = self.answers.get(prompt_set, {}).get("MTAD")
        if row is None or engine is None:
            return None
        calls = row["calls"]
        slow = Ratio.of([sum(c[1:]) for c in calls], [len(c) - 1 for c in calls])
        own = [[a["calls"] for a in answers[: len(calls)]] for answers in engine.answers.values()]
        above = [sum(sum(seed[i][1:]) for seed in own) for i in range(len(calls))]
        below = [sum(len(seed[i]) - 1 for seed in own) for i in range(len(calls))]
        return interval(slow), interval(Ratio.of(above, below))

    @cached_property
    def speedups(self) -> dict[tuple[str, str | None, int], dict[str, Speedup]]:
        """(prompt set, size, concurrency) -> method -> its speed beside the target alone's."""
        rows: dict[tuple[str, str | None, int], list[dict[str, Any]]] = defaultdict(list)
        for row in self.store.rows("speed"):
            rows[row["prompt_set"], row["size"], row["concurrency"]].append(row)
        return {key: _speedups(own) for key, own in rows.items()}

    def speed_of(self, prompt_set: str, method: str) -> Speedup | None:
        """The speed with one request in flight, at the size `size_of`."""
        return self.speedups.get((prompt_set, self.size_of(prompt_set), 1), {}).get(method)

    def size_of(self, prompt_set: str) -> str | None:
        """The size at which most methods were timed with one request in flight."""
        timed = {size: len(found) for (own, size, c), found in self.speedups.items() if own == prompt_set and c == 1}
        return max(timed, key=timed.__getitem__, default=None)


def _speedups(rows: list[dict[str, Any]]) -> dict[str, Speedup]:
    base = {(row["turn"], row["round"]): row for row in rows if row["method"] == BASE}
    pairs: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = defaultdict(list)
    for row in rows:
        beside = base.get((row["turn"], row["round"]))
        if beside is not None:
            pairs[row["method"]].append((row, beside))
    found = {}
    for method, own in pairs.items():
        ratios = [row["tokens_per_second"] / beside["tokens_per_second"] for row, beside in own]
        found[method] = Speedup(
            statistics.median(ratios),
            min(ratios),
            max(ratios),
            statistics.median(row["tokens_per_second"] for row, _ in own),
            statistics.median(row["seconds_per_token"] for row, _ in own if row["seconds_per_token"]),
            len(ratios),
        )
    return found
