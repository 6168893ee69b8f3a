"""This check holds the target's attention over trees against `xformers.ops.tree_attention`, and times both.

Both get the same tensors: a paged prefix, and a newest token with a tree behind it for every request. xformers' kernels
need a GPU; its masks do not, and with these dense attention stands in for it on toy shapes.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_checks.models import LLAMA_8B, TINY_TARGET, ModelShape
from benchmarks.gpu_checks.report import append
from benchmarks.gpu_checks.timing import Times
from vllm_mtad.algorithm.tree import node_depths

GAMMA, CANDIDATES, PAGE_SIZE = 4, 4, 16
BATCHES, CONTEXTS = (1, 4, 16, 32), (48, 2048, 16_384)
"""With few tokens before it a tree weighs enough for a wrong one to be seen in half precision."""
TOLERANCE = {torch.bfloat16: 2e-2, torch.float32: 1e-4}
REPEATS, WARM_UPS = 25, 3


@dataclass(frozen=True)
class TreeInputs:
    """One layer's inputs. All requests have the same tree, since xformers takes one mask for all.

    `query` `[rows, num_heads, head_size]`, `key`, `value` `[rows, num_kv_heads, head_size]`, rows as `DraftTrees` has
    them; `cache` `[pages, num_kv_heads, page_size, 2 * head_size]`, in memory page, slot, head, as FlashAttention's;
    `block_table` int32 `[num_reqs, pages of one]`; `parents` int32 `[nodes]`. Of each request `context` tokens are in
    the cache before its newest, and the newest is too.
    """

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    cache: torch.Tensor
    block_table: torch.Tensor
    parents: torch.Tensor
    context: int

    @classmethod
    def random(
        cls, shape: ModelShape, num_reqs: int, context: int, dtype: torch.dtype, device: torch.device
    ) -> TreeInputs:
        generator = torch.Generator(device).manual_seed(num_reqs + context)

        def normal(*size: int) -> torch.Tensor:
            return torch.randn(*size, generator=generator, device=device, dtype=dtype)

        heads, kv_heads, head_size = shape.num_attention_heads, shape.num_key_value_heads, shape.head_dim
        rows = num_reqs * (1 + GAMMA * CANDIDATES)
        qkv = normal(rows, heads + 2 * kv_heads, head_size)  # one projection's
        query, key, value = qkv.split([heads, kv_heads, kv_heads], dim=1)
        pages = -(-(context + 1 + GAMMA * CANDIDATES) // PAGE_SIZE)
        order = torch.randperm(num_reqs * pages, generator=generator, device=device)
        cache = normal(num_reqs * pages, PAGE_SIZE, kv_heads, 2 * head_size).transpose(1, 2)
        inputs = cls(
            query, key, value, cache, order.view(num_reqs, pages).int(), _random_tree().to(device, torch.int32), context
        )
        inputs._write_newest()
        return inputs

    @property
    def num_reqs(self) -> int:
        return len(self.block_table)

    @property
    def rows_of_a_request(self) -> int:
        return len(self.parents) + 1

    def _write_newest(self) -> None:
        """As vLLM has done before attention: the newest token's key and value are in the cache."""
        newest = slice(None, None, self.rows_of_a_request)
        page, slot = self.block_table[:, self.context // PAGE_SIZE].long(), self.context % PAGE_SIZE
        self.cache[page, :, slot] = torch.cat([self.key[newest], self.value[newest]], dim=-1)

    def ours(self, *, flash: bool) -> OurAttention:
        return OurAttention(self, flash=flash)

    def for_xformers(self) -> dict[str, Any]:
        """Arguments of `xformers.ops.tree_attention.tree_attention`. There the newest token is the root of the tree,
        and not of the prefix."""
        from xformers.ops.fmha.attn_bias import BlockDiagonalPaddedKeysMask, PagedBlockDiagonalPaddedKeysMask

        kv_heads, head_size, width = self.key.shape[1], self.key.shape[2], self.rows_of_a_request
        group = self.query.shape[1] // kv_heads

        def of_requests(rows: torch.Tensor, heads_of_a_group: int) -> torch.Tensor:
            """`[num_reqs, rows of one, num_kv_heads, query heads of one, head_size]`"""
            grouped = rows.reshape(self.num_reqs, width, kv_heads, heads_of_a_group, head_size)
            return grouped.expand(-1, -1, -1, group, -1)

        keys, values = (
            part.transpose(1, 2).reshape(1, -1, kv_heads, 1, head_size).expand(-1, -1, -1, group, -1)
            for part in self.cache.split(head_size, dim=-1)
        )
        prefix = BlockDiagonalPaddedKeysMask.from_seqlens(
            q_seqlen=[width] * self.num_reqs,
            kv_seqlen=[self.context] * self.num_reqs,
            kv_padding=self.block_table.shape[1] * PAGE_SIZE,
        )
        return {
            "q": of_requests(self.query, group),
            "spec_k": of_requests(self.key, 1),
            "spec_v": of_requests(self.value, 1),
            "cache_k": keys,
            "cache_v": values,
            "spec_attn_bias": self.tree_mask().to(self.query),
            "prefix_attn_bias": prefix.to(self.query.device).make_paged(
                self.block_table, PAGE_SIZE, PagedBlockDiagonalPaddedKeysMask
            ),
        }

    def tree_mask(self) -> torch.Tensor:
        """float32 `[rows of one, rows of one]`: 0 where a row sees another of its request, -inf elsewhere."""
        mask = torch.full((self.rows_of_a_request,) * 2, -torch.inf)
        parents = [0, *self.parents.tolist()]
        for row in range(self.rows_of_a_request):
            seen = row
            while seen:
                mask[row, seen] = 0
                seen = parents[seen]
            mask[row, 0] = 0
        return mask


class OurAttention:
    """`attend` is one layer's attention as the engine launches it; `plan` what comes once before all layers."""

    def __init__(self, inputs: TreeInputs, *, flash: bool) -> None:
        from benchmarks.kernels_on_paper.pieces import Shape, attention_layer
        from vllm_mtad.runners.v2.shared_prefix import Prefixes, prefix_readers
        from vllm_mtad.runners.v2.tree_verification import TreeAttention, TreeAttentionMetadata

        query, device, num_reqs = inputs.query, inputs.query.device, inputs.num_reqs
        width, num_heads, head_size = inputs.rows_of_a_request, *query.shape[1:]
        shape = Shape(num_heads=num_heads, num_kv_heads=inputs.key.shape[1], head_size=head_size)
        self._layer: Any = attention_layer(shape, device)
        self._layer.impl.vllm_flash_attn_version = 3 if flash else 2
        most_len = inputs.context + width
        (self._reader,) = prefix_readers([self._layer], width, len(query), most_len, query.dtype, device)
        TreeAttention(self._layer, self._reader, device)
        starts = torch.arange(num_reqs + 1, dtype=torch.int32, device=device) * width
        lens = torch.full((num_reqs,), inputs.context + 1, dtype=torch.int32, device=device)
        depths = torch.zeros(width, dtype=torch.int32, device=device)  # only a window reads them
        self._prefixes = Prefixes(lens, inputs.block_table, starts, inputs.context + 1, PAGE_SIZE, depths)
        ancestry = _ancestry(inputs.parents).to(device).expand(num_reqs, -1, -1).contiguous()
        self._inputs, self._out = inputs, torch.empty_like(query, memory_format=torch.contiguous_format)
        plans = {self._reader: self.plan()}
        self._metadata = TreeAttentionMetadata(self._prefixes, ancestry, plans, len(query))

    def plan(self) -> torch.Tensor | None:
        return self._reader.plan(self._prefixes)

    def attend(self) -> torch.Tensor:
        inputs = self._inputs
        query, key, value = (part.flatten(1) for part in (inputs.query, inputs.key, inputs.value))
        self._layer.impl.forward(
            self._layer, query, key, value, inputs.cache, self._metadata, self._out.view(len(query), -1)
        )
        return self._out


def _random_tree() -> torch.Tensor:
    """`[nodes]`, the row that each node extends: the chosen draft's chain, and others on nodes of the depth before."""
    generator = torch.Generator().manual_seed(0)
    depths = [0, *node_depths(GAMMA, CANDIDATES)]
    parents = [*range(GAMMA)]
    for row in range(1 + GAMMA, len(depths)):
        before = [other for other in range(row) if depths[other] == depths[row] - 1]
        parents.append(before[int(torch.randint(len(before), (), generator=generator))])
    return torch.tensor(parents)


def _ancestry(parents: torch.Tensor) -> torch.Tensor:
    """int32 `[1, 1 + nodes, gamma]`, as `lay_out_trees` gives it."""
    rows = []
    for row in range(len(parents) + 1):
        path: list[int] = []
        while row:
            path.insert(0, row)
            row = int(parents[row - 1])
        rows.append(path + [-1] * (GAMMA - len(path)))
    return torch.tensor([rows], dtype=torch.int32)


def dense(inputs: TreeInputs) -> torch.Tensor:
    """What xformers' function gives by its own masks, in float32: `[rows, num_heads, head_size]`."""
    given = inputs.for_xformers()
    q, cache_k, cache_v = (given[name].float() for name in ("q", "cache_k", "cache_v"))
    num_reqs, width, kv_heads, group, head_size = q.shape
    prefix = given["prefix_attn_bias"].materialize((num_reqs * width, cache_k.shape[1]))
    out = torch.empty(num_reqs, width, kv_heads, group, head_size)
    for request in range(num_reqs):
        rows = slice(request * width, (request + 1) * width)
        bias = torch.cat([prefix[rows], given["spec_attn_bias"].float()], dim=1)
        keys, values = (
            torch.cat([cache[0], given[spec][request].float()])
            for cache, spec in ((cache_k, "spec_k"), (cache_v, "spec_v"))
        )
        logits = torch.einsum("mghd,nghd->ghmn", q[request], keys) * head_size**-0.5 + bias
        out[request] = torch.einsum("ghmn,nghd->mghd", logits.softmax(-1), values)
    return out.flatten(0, 1).flatten(1, 2)


def measure(file: str, tiny: bool) -> bool:
    """Appends a record for each batch to `file`."""
    try:
        import xformers  # noqa: F401
    except ImportError:
        append(Path(file), {"part": "trees", "skipped": "xformers is not installed: pip install xformers"})
        return True
    for record in _tiny() if tiny else _on_gpu(Path(file)):
        append(Path(file), {"part": "trees"} | record)
    return True


def _tiny() -> Iterator[dict[str, Any]]:
    inputs = TreeInputs.random(TINY_TARGET, 3, 50, torch.float32, torch.device("cpu"))
    yield _compared(inputs, "triton", inputs.ours(flash=False).attend(), dense(inputs)) | {"timed": False}


def _on_gpu(file: Path) -> Iterator[dict[str, Any]]:
    from xformers.ops.tree_attention import tree_attention

    device, readers = torch.device("cuda"), {"triton": False}
    if torch.cuda.get_device_capability()[0] == 9:
        readers["fa3"] = True
    for context in CONTEXTS:
        for num_reqs in BATCHES:
            try:
                inputs = TreeInputs.random(LLAMA_8B, num_reqs, context, torch.bfloat16, device)
                given = inputs.for_xformers()
                attends = {name: inputs.ours(flash=flash).attend for name, flash in readers.items()}
                attends["xformers"] = partial(tree_attention, **given)
                expected = attends["xformers"]().flatten(0, 1).flatten(1, 2)
                found = {name: attends[name]() for name in readers}
            except Exception:
                append(file, {"part": "trees", "requests": num_reqs, "error": traceback.format_exc(limit=-6)})
                continue
            times = {name: Times() for name in attends}
            for repeat in range(-WARM_UPS, REPEATS):
                for name, attend in attends.items():
                    times[name].time(attend, repeat >= 0, behind=True)
                    times[name].time(attend, repeat >= 0, behind=False)
            yield {
                "requests": num_reqs,
                "context": context,
                "variant": "xformers",
                "timed": True,
            } | times["xformers"].summary()
            for name in readers:
                yield _compared(inputs, name, found[name], expected) | {"timed": True} | times[name].summary()


def _compared(inputs: TreeInputs, name: str, found: torch.Tensor, expected: torch.Tensor) -> dict[str, Any]:
    difference = float((found.float() - expected.float()).abs().max())
    return {
        "requests": inputs.num_reqs,
        "context": inputs.context,
        "variant": name,
        "check": f"attention over trees ({name}) equals xformers': {inputs.num_reqs} requests of {inputs.context}",
        "passed": difference <= TOLERANCE[inputs.query.dtype],
        "detail": {"largest_difference": difference},
    }
