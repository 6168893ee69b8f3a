"""`Verdict` says what must hold of a server after a soak, and `Vitals` what it shows of itself."""

from __future__ import annotations

import time
import urllib.request
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import psutil
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.soak.asks import GREEDY
from benchmarks.soak.load import Answer

MOST_GROWTH = 0.05
"""Of the resident memory of all processes, from the end of the warm-up on, that counts as flat."""
REST_S = 120.0
"""So long a server may take to come to rest after its last request: aborts arrive late."""


@dataclass(frozen=True)
class Vitals:
    """`running`, `waiting`: requests. `kv_cache_usage`: share. `preemptions`: so far. `resident`: bytes of memory."""

    running: float
    waiting: float
    kv_cache_usage: float
    preemptions: float
    resident: int

    @classmethod
    def of(cls, url: str, pid: int) -> Vitals:
        """`pid`: of the server's first process."""
        text = urllib.request.urlopen(f"{url}/metrics", timeout=60).read().decode()
        values: defaultdict[str, float] = defaultdict(float)
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                values[sample.name] += sample.value
        first = psutil.Process(pid)
        resident = sum(process.memory_info().rss for process in (first, *first.children(recursive=True)))
        return cls(
            running=values["vllm:num_requests_running"],
            waiting=values["vllm:num_requests_waiting"],
            kv_cache_usage=values["vllm:kv_cache_usage_perc"],
            preemptions=values["vllm:num_preemptions_total"],
            resident=resident,
        )

    @classmethod
    def at_rest(cls, url: str, pid: int) -> Vitals:
        """When nothing runs any more, or after `REST_S` whatever it is then."""
        end = time.monotonic() + REST_S
        while (found := cls.of(url, pid)).running + found.waiting + found.kv_cache_usage and time.monotonic() < end:
            time.sleep(0.5)
        return found


@dataclass
class Verdict:
    """`figures`: counts, by name. `failures`: what did not hold, each in a sentence."""

    figures: dict[str, float] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, answers: Sequence[Answer], quiet: Mapping[str, str], warm: Vitals, rest: Vitals) -> Verdict:
        """
        Args:
            quiet: what each greedy prompt was answered when nothing else ran.
            warm, rest: the server's after the warm-up, and when all was over.
        """
        found = cls()
        found._count(answers)
        for answer in answers:
            found._judge(answer, quiet)
        if rest.running or rest.waiting:
            found.failures.append(f"{rest.running:g} requests still run and {rest.waiting:g} wait, though all ended.")
        if rest.kv_cache_usage:
            found.failures.append(f"{rest.kv_cache_usage:.1%} of the KV cache is in use at rest.")
        growth = rest.resident / warm.resident - 1
        found.figures |= {"preemptions": rest.preemptions, "memory growth after warm-up": growth}
        if growth > MOST_GROWTH:
            found.failures.append(f"Memory grew by {growth:.1%} after the warm-up, more than {MOST_GROWTH:.0%}.")
        return found

    def _count(self, answers: Sequence[Answer]) -> None:
        malformed = [a for a in answers if a.ask.status != 200]
        aborted = [a for a in answers if a.is_aborted]
        greedy = [a for a in answers if a.ask.kind == GREEDY]
        self.figures = {
            "requests": len(answers),
            "kinds": len({a.ask.kind for a in answers}),
            "malformed": len(malformed),
            "aborted": len(aborted),
            "greedy, compared": len(greedy),
            "lost": sum(a.ask.status == 200 and not a.is_aborted and not a.is_whole for a in answers),
        }

    def _judge(self, answer: Answer, quiet: Mapping[str, str]) -> None:
        ask = answer.ask
        if answer.status != ask.status:
            why = answer.error or f"HTTP {answer.status}"
            self.failures.append(f"{ask.kind!r} was answered with {why}, not with HTTP {ask.status}: {ask.body}")
        elif ask.status == 200 and not answer.is_aborted and not answer.is_whole:
            self.failures.append(f"{ask.kind!r} was lost ({answer.error or answer.finished}): {ask.body}")
        elif ask.kind == GREEDY and isinstance(ask.body, dict):
            expected = quiet[ask.body["prompt"]]
            if answer.texts != [expected]:
                self.failures.append(
                    f"A greedy answer is {answer.texts[0]!r}, and was {expected!r} when all was quiet."
                )
