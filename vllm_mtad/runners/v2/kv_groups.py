"""`KVGroup`: layers of a model whose KV lies in the same blocks.

vLLM puts layers that keep as much of a text, in pages as large, into one group, and gives each group a block table.
A model's layers may lie in several, beside the other model's or not.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class KVGroup:
    """`index`: of its block table. `page_size`: tokens of a page. `layers`: the names of some of its layers."""

    index: int
    page_size: int
    layers: tuple[str, ...]


def kv_groups_of(kv_cache_config: Any, names: Collection[str]) -> list[KVGroup]:
    """The groups that hold these layers, each with those of them that it holds."""
    groups = (
        KVGroup(index, group.kv_cache_spec.block_size, tuple(sorted(set(group.layer_names) & set(names))))
        for index, group in enumerate(kv_cache_config.kv_cache_groups)
    )
    return [group for group in groups if group.layers]
