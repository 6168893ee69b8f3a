"""What mtad adds to vLLM's metrics, against the calls themselves; and the dashboard that shows it."""

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import prometheus_client
import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
from vllm.v1.metrics.prometheus import unregister_vllm_metrics
from vllm.v1.spec_decode.metrics import SpecDecodingProm, SpecDecodingStats

from vllm_mtad.config.options import MTADOptions
from vllm_mtad.plugin.metrics import MTADMetrics

LABELS = {"model_name": "some", "engine": "0"}


def metrics(method: str, **options):
    unregister_vllm_metrics()
    own = MTADOptions(**options)
    config = SimpleNamespace(method=method, options=own, num_speculative_tokens=own.num_nodes)
    return SpecDecodingProm(config, list(LABELS), {0: list(LABELS.values())})


def value(name: str, **labels: str) -> float:
    return prometheus_client.REGISTRY.get_sample_value(name, LABELS | labels) or 0.0


@pytest.mark.parametrize("options", [{}, {"num_candidates": 3}, {"num_speculative_tokens": 1}])
def test_the_histogram_is_that_of_the_calls(options):
    shown, own = metrics("mtad", **options), MTADOptions(**options)
    assert isinstance(shown, MTADMetrics)
    generator, calls, steps = np.random.default_rng(1), [], Counter()
    for _ in range(50):
        stats, longest = SpecDecodingStats.new(own.num_nodes), 0
        for _ in range(int(generator.integers(0, 5))):
            drafted = int(generator.integers(0, own.num_nodes + 1))  # 0: a grammar took them all back
            kept = int(generator.integers(0, min(drafted, own.num_speculative_tokens) + 1))
            stats.observe_draft(drafted, kept)
            calls.append(kept + 1)
            longest = max(longest, drafted)
        shown.observe(stats)
        steps[str(longest)] += longest > 0
    for most in range(1, own.num_speculative_tokens + 2):
        assert value("vllm:mtad_call_tokens_bucket", le=f"{most}.0") == sum(n <= most for n in calls)
    assert value("vllm:mtad_call_tokens_count") == len(calls) == value("vllm:spec_decode_num_drafts_total")
    assert value("vllm:mtad_call_tokens_sum") == sum(calls)
    for longest, count in steps.items():
        assert value("vllm:mtad_steps_total", draft_tokens=longest) == count


def test_other_methods_show_what_vllm_shows():
    assert type(metrics("draft_model")) is SpecDecodingProm
    assert not [name for name in prometheus_client.REGISTRY._names_to_collectors if "mtad" in name]


def test_the_dashboard_is_one_by_grafanas_schema():
    """Read and written by Grafana's own classes, it loses nothing and changes nothing."""
    given = json.loads(Path("docs/grafana-dashboard.json").read_text())
    written = json.loads(JSONEncoder().encode(Dashboard.from_json(given)))
    assert_among(given, written)
    assert written["panels"][0]["targets"][0]["expr"].startswith("sum by (model_name)")


def assert_among(part, whole, where: str = "dashboard") -> None:
    """That everything in `part` is in `whole`, at the same place."""
    if isinstance(part, dict):
        for key, inner in part.items():
            assert key in whole, f"{where}.{key}"
            assert_among(inner, whole[key], f"{where}.{key}")
    elif isinstance(part, list):
        assert len(part) == len(whole), where
        for i, (inner, other) in enumerate(zip(part, whole)):
            assert_among(inner, other, f"{where}[{i}]")
    else:
        assert part == whole, where
