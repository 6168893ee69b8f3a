"""`headline` gives the few sentences and the table that a hurried reader takes away."""

from __future__ import annotations

from benchmarks.report.ceiling import steps_of, verdict
from benchmarks.report.results import BASE, Results, difference
from benchmarks.report.tables import quality_table, with_interval

MAIN = (BASE, "draft_model", "MTAD")


def headline(results: Results) -> list[str]:
    blocks = []
    for prompt_set, answers in results.answers.items():
        if not all(name in answers for name in MAIN):
            continue
        size = results.size_of(prompt_set)
        at = f"; speeds at the cost of the {size} size, one request in flight" if size else ""
        count, seeds = len(next(iter(answers[BASE].answers.values()))), len(answers[BASE].answers)
        blocks.append(f"### {prompt_set}: {count} prompts, {seeds} seed{'s' if seeds > 1 else ''}{at}")
        blocks += [quality_table(results, prompt_set, MAIN), _sentences(results, prompt_set)]
    return blocks


def _any_right(results: Results, prompt_set: str) -> list[str]:
    """What is lost in variety, where there are several samples of each prompt."""
    rows = [row for name in MAIN if (row := results.answers[prompt_set].get(name)) and len(row.answers) > 1]
    if not rows or len({len(row.answers) for row in rows}) > 1:
        return []
    shares = ", ".join(f"{row.method} {row.right_at_least_once:.1%}" for row in rows)
    return [f"- Prompts that at least one of {len(rows[0].answers)} samples answers right: {shares}."]


def _sentences(results: Results, prompt_set: str) -> str:
    answers = results.answers[prompt_set]
    mtad, base = answers["MTAD"], answers[BASE]
    lines = []
    if mtad.is_judged:
        accuracy = difference(mtad, base, "accuracy")
        lines.append(
            f"- Correct answers, MTAD − plain sampling: {with_interval(accuracy, 1, True, 100)} points"
            f" ({_reading(accuracy.low > 0, accuracy.high < 0)})."
        )
        lines += _any_right(results, prompt_set)
    nll = difference(mtad, base, "mean_nll")
    lines.append(
        f"- Negative log-likelihood per token, MTAD − plain sampling: {with_interval(nll, 3, True)} nats"
        f" ({_reading(nll.high < 0, nll.low > 0)})."
    )
    slow = results.reference_efficiency(prompt_set)
    if slow:
        lines.append(
            f"- Mean acceptance length of the slow reference (the algorithm written plainly, on Hugging Face):"
            f" {with_interval(slow[0], 2)}; of the engine on the same prompts: {with_interval(slow[1], 2)}."
        )
    found = verdict(steps_of(results, prompt_set))
    if found:
        lines.append(
            f"- Against vanilla speculative decoding at the cost of the {_steps_size(results)} size, each at its"
            f" fastest draft length of those timed ({found['mtad']}; {found['vanilla']}): {found['reached']:.2f}× its"
            f" speed where the forward passes alone would allow {found['allowed']:.2f}×, {found['share']:.0%} of it;"
            f" {found['over_target']:.2f}× the target alone."
        )
    lines += _losses(results, prompt_set)
    return "\n".join(lines)


def _steps_size(results: Results) -> str:
    return results.store.rows("steps")[0]["size"] or "its own"


def _reading(better: bool, worse: bool) -> str:
    return "better, outside the interval" if better else "worse, outside the interval" if worse else "within noise"


def _losses(results: Results, prompt_set: str) -> list[str]:
    """Where MTAD is slower than what a user would pick instead, in the same turn of engines."""
    slower: dict[str, list[str]] = {}
    for (own, size, concurrency), found in sorted(results.speedups.items(), key=lambda item: item[0][2]):
        mtad, vanilla = found.get("MTAD"), found.get("draft_model")
        if own == prompt_set and mtad and vanilla and mtad.ratio < max(vanilla.ratio, 1.0):
            told = f"{concurrency} ({mtad.ratio:.2f}× the target alone, `draft_model` {vanilla.ratio:.2f}×)"
            slower.setdefault(size or "its own", []).append(told)
    if not slower:
        return []
    at = "; ".join(f"at the {size} size with {', '.join(told)} in flight" for size, told in slower.items())
    return [f"- **Where MTAD loses**: it is slower than `draft_model` or the target alone at the default γ {at}."]
