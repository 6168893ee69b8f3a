"""Prefix and suffix attention, merged, against dense attention over each beam's own text."""

import pytest
import torch

from vllm_mtad.runners.v2.kernels.prefix_attention import TILE_KEYS, plan_splits, prefix_attention
from vllm_mtad.runners.v2.kernels.suffix_attention import suffix_attention
from vllm_mtad.runners.v2.shared_prefix import least_tiles

TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2}


def dense_attention(query, keys, values, scale, window=0, soft_cap=0.0, sinks=None):
    """Attention of one token, the last of the keys: query `[num_heads, head_size]`, keys and values `[n, num_kv_heads,
    head_size]`."""
    group = query.shape[0] // keys.shape[1]
    keys, values = (t.float()[-window:].repeat_interleave(group, dim=1) for t in (keys, values))
    logits = torch.einsum("hd,nhd->hn", query.float(), keys) * scale
    if soft_cap:
        logits = soft_cap * torch.tanh(logits / soft_cap)
    if sinks is not None:
        logits = torch.cat([logits, sinks[:, None].float()], dim=1)
    return torch.einsum("hn,nhd->hd", logits.softmax(-1)[:, : len(keys)], values)


def dense_lse(query, keys, scale):
    group = query.shape[0] // keys.shape[1]
    return (torch.einsum("hd,nhd->hn", query.float(), keys.float().repeat_interleave(group, dim=1)) * scale).logsumexp(
        1
    )


class Case:
    """A paged prefix, and a beam tree of `depth + 1` tokens whose last is fed now."""

    def __init__(
        self,
        device,
        lens,
        beam_width=4,
        depth=2,
        heads=(8, 2),
        head_size=32,
        page=16,
        dtype=torch.float32,
        window=0,
        soft_cap=0.0,
        has_sinks=False,
    ):
        generator = torch.Generator().manual_seed(len(lens) * 100 + beam_width * 10 + depth)

        def random(*shape):
            return torch.randn(*shape, generator=generator).to(device, dtype)

        num_heads, num_kv_heads = heads
        self.lens, self.beam_width, self.depth, self.page = lens, beam_width, depth, page
        self.scale = head_size**-0.5
        self.window, self.soft_cap, self.sinks = window, soft_cap, random(num_heads) if has_sinks else None
        num_reqs, rows = len(lens), len(lens) * beam_width
        self.max_depth = depth + 2
        pages = max(1, -(-max(lens) // page))
        total = num_reqs * pages + 3
        self.block_table = (
            torch.randperm(total, generator=generator)[: num_reqs * pages].view(num_reqs, pages).int().to(device)
        )
        cache = random(total, num_kv_heads, page, 2 * head_size)
        self.keys, self.values = cache[..., :head_size], cache[..., head_size:]
        # As a fused qkv projection leaves them: rows further apart than they are wide.
        qkv = random(rows, (num_heads + 2 * num_kv_heads) * head_size)
        self.query, self.new_key, self.new_value = (
            part.view(rows, -1, head_size)
            for part in qkv.split([num_heads * head_size, *[num_kv_heads * head_size] * 2], dim=1)
        )
        shape = (num_reqs + 2, self.max_depth, beam_width, num_kv_heads, head_size)
        self.key_scratch, self.value_scratch = random(*shape), random(*shape)
        self.ancestry = (
            torch.randint(0, beam_width, (num_reqs + 2, beam_width, 6), generator=generator).int().to(device)
        )
        self.ancestry[:, :, depth] = torch.arange(beam_width, device=device)
        self.prefix_lens = torch.tensor(lens, dtype=torch.int32, device=device)

    def run(self, splits=2, upcast=None, programs=64):
        rows, num_heads, head_size = self.query.shape
        device = self.query.device
        prefix = torch.full((splits, rows, num_heads, head_size), torch.nan, device=device)
        lse = torch.full((splits, rows, num_heads), torch.nan, device=device)
        upcast = device.type == "cpu" if upcast is None else upcast
        tiles_per_split = torch.zeros(1, dtype=torch.int32, device=device)
        plan_splits(
            self.prefix_lens, tiles_per_split, num_kv_heads=self.keys.shape[1], programs=programs, window=self.window
        )
        depths = torch.full((self.beam_width,), self.depth + 1, dtype=torch.int32, device=device)
        first_rows = torch.arange(len(self.lens) + 1, dtype=torch.int32, device=device) * self.beam_width
        prefix_attention(
            self.query, self.keys, self.values, self.block_table, first_rows, self.prefix_lens, tiles_per_split,
            prefix, lse, scale=self.scale, max_rows=self.beam_width, upcast=upcast, window=self.window, depths=depths,
            soft_cap=self.soft_cap,
        )  # fmt: skip
        return self.merge(prefix, lse, upcast), prefix, lse

    def merge(self, prefix, lse, upcast):
        out = torch.full_like(self.query, torch.nan, memory_format=torch.contiguous_format)
        suffix_attention(
            self.query, self.new_key, self.new_value, self.key_scratch, self.value_scratch, self.ancestry, prefix,
            lse, out, num_older=self.depth, scale=self.scale, upcast=upcast, soft_cap=self.soft_cap, sinks=self.sinks,
        )  # fmt: skip
        return out

    def prefix_of(self, request):
        n, pages = self.lens[request], self.block_table[request].long()
        return tuple(cache[pages].transpose(1, 2).flatten(0, 1)[:n] for cache in (self.keys, self.values))

    def expected(self):
        out = torch.empty(self.query.shape)
        for request in range(len(self.lens)):
            prefix = self.prefix_of(request)
            for beam in range(self.beam_width):
                row = request * self.beam_width + beam
                slots = self.ancestry[request, beam].long()
                own = [
                    torch.cat([*(scratch[request, t, slots[t]][None] for t in range(self.depth)), new[row][None]])
                    for scratch, new in ((self.key_scratch, self.new_key), (self.value_scratch, self.new_value))
                ]
                keys, values = (torch.cat(parts) for parts in zip(prefix, own))
                out[row] = dense_attention(
                    self.query[row], keys, values, self.scale, self.window, self.soft_cap, self.sinks
                )
        return out

    def check(self, splits=2):
        expected = self.expected()
        out, _, _ = self.run(splits)
        tolerance = TOLERANCE[self.query.dtype]
        torch.testing.assert_close(out.float().cpu(), expected, atol=tolerance, rtol=tolerance)


RAGGED = [70, 1, 33, 16]


@pytest.mark.parametrize("beam_width", [1, 2, 4, 8])
@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_equals_dense_attention_over_each_beams_text(device, beam_width, depth):
    Case(device, RAGGED, beam_width, depth).check()


@pytest.mark.parametrize("heads", [(2, 2), (4, 2), (8, 2), (8, 1)])
def test_grouped_query_ratios(device, heads):
    Case(device, RAGGED, heads=heads).check()


@pytest.mark.parametrize("head_size", [16, 48, 64, 128])
def test_head_sizes(device, head_size):
    Case(device, [20, 3], head_size=head_size).check()


@pytest.mark.parametrize("page", [16, 32, 64, 128])
def test_page_sizes(device, page):
    Case(device, [130, 7], page=page).check()


@pytest.mark.parametrize("programs", [1, 8, 1000])
@pytest.mark.parametrize("splits", [1, 3, 32])
def test_splits_of_the_prefix_merge_to_the_same(device, splits, programs):
    case = Case(device, [200, 1, 64, 0])
    out, _, _ = case.run(splits, programs=programs)
    torch.testing.assert_close(out.float().cpu(), case.expected(), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("lens", [[2048] * 15 + [32768], [1024] * 31 + [32768], [2048] * 32, [5, 0, 0], [100_000]])
@pytest.mark.parametrize(("num_kv_heads", "programs"), [(8, 264), (2, 264), (2, 2)])
def test_the_longest_split_is_not_far_above_its_share(device, lens, num_kv_heads, programs):
    """A long prefix beside short ones must not keep the device waiting: splits of equal length for the whole batch."""
    tiles = [-(-n // TILE_KEYS) for n in lens]
    per_split = torch.zeros(1, dtype=torch.int32, device=device)
    lens = torch.tensor(lens, dtype=torch.int32, device=device)
    plan_splits(lens, per_split, num_kv_heads=num_kv_heads, programs=programs)
    share = sum(tiles) * num_kv_heads / programs
    assert share <= int(per_split) < share + 1 + num_kv_heads
    most = programs // num_kv_heads
    assert all(-(-n // int(per_split)) <= most for n in tiles), "a reader has outputs for no more"


@pytest.mark.parametrize(("rows", "group"), [(1, 1), (4, 4), (16, 4), (17, 4), (17, 5), (65, 8)])
def test_a_split_has_as_many_tokens_as_weigh_what_its_outputs_do(device, rows, group):
    per_split, lens = (torch.full((1,), n, dtype=torch.int32, device=device) for n in (0, 100_000))
    plan_splits(lens, per_split, num_kv_heads=1, programs=10_000, least_tiles=least_tiles(rows, group))
    outputs, token = 2 * 4 * rows * group, 2 * 2  # bytes of a dimension: float32 twice; a key and a value in bfloat16
    tokens = int(per_split) * TILE_KEYS
    assert tokens * token >= outputs
    assert (tokens - TILE_KEYS) * token < outputs


@pytest.mark.parametrize("window", [4, 17, 64, 65, 128, 500])
@pytest.mark.parametrize("splits", [1, 3])
def test_a_window_ends_so_many_tokens_before_the_beam_s_own(device, window, splits):
    Case(device, [300, 1, 0, 64, 65, 16], window=window).check(splits)


@pytest.mark.parametrize("lens", [[100_000], [2048] * 15 + [32768]])
def test_of_a_long_prefix_only_the_window_is_shared_out(device, lens):
    """So that a layer with a window costs what its window costs."""
    per_split = torch.zeros(1, dtype=torch.int32, device=device)
    lens = torch.tensor(lens, dtype=torch.int32, device=device)
    plan_splits(lens, per_split, num_kv_heads=1, programs=1, window=512)
    tiles = 512 // TILE_KEYS * len(lens)
    assert tiles <= int(per_split) <= tiles + len(lens)


def test_keys_outside_of_a_window_are_not_read(device):
    """They may be another request's."""
    case = Case(device, [300, 200], window=70)
    expected = case.expected()
    for request, n in enumerate(case.lens):
        for position in range(n - 70):
            page, slot = int(case.block_table[request, position // case.page]), position % case.page
            case.keys[page, :, slot] = torch.nan
            case.values[page, :, slot] = torch.nan
    torch.testing.assert_close(case.run()[0], expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("window", [0, 20])
def test_a_soft_cap(device, window):
    case = Case(device, RAGGED, soft_cap=1.5, window=window)
    assert (case.expected() - Case(device, RAGGED, window=window).expected()).abs().max() > 0.05
    case.check()


def test_a_soft_cap_far_from_zero(device):
    """The exponential in it is beyond what a float32 holds."""
    case = Case(device, RAGGED, soft_cap=2.0)
    case.scale = 1000.0
    case.check()


@pytest.mark.parametrize("splits", [1, 3])
def test_sinks_take_their_share_once(device, splits):
    Case(device, [70, 1, 0, 16], has_sinks=True).check(splits)


def test_all_of_them_together(device):
    Case(device, RAGGED, window=18, soft_cap=1.5, has_sinks=True).check()


def test_drafts_of_many_tokens_and_many_beams(device):
    """More older tokens than one tile of keys holds."""
    Case(device, [20, 3], beam_width=16, depth=4).check()


def test_bfloat16(device):
    Case(device, RAGGED, dtype=torch.bfloat16).check()


def test_a_cache_of_another_layout(device):
    """vLLM's CPU engine keeps a page's keys with the dimension first."""
    case = Case(device, RAGGED)
    case.keys = case.keys.transpose(2, 3).contiguous().transpose(2, 3)
    case.check()


def test_padding_has_no_prefix_and_harms_nobody(device):
    case = Case(device, [40, 0, 0])
    case.check()


def test_the_prefix_alone_and_its_log_sum_exp(device):
    case = Case(device, [70, 5])
    _, prefix, lse = case.run(splits=1)
    for row in range(len(case.query)):
        keys, values = case.prefix_of(row // case.beam_width)
        expected = dense_attention(case.query[row], keys, values, case.scale)
        torch.testing.assert_close(prefix[0, row], expected, atol=2e-5, rtol=2e-5)
        torch.testing.assert_close(lse[0, row], dense_lse(case.query[row], keys, case.scale), atol=2e-5, rtol=2e-5)


def test_merges_what_flash_attention_returns(device):
    """Its output in the model's dtype and its log-sum-exp as [num_heads, rows], +inf where there are no keys."""
    case = Case(device, [40, 0, 9])
    expected = case.expected()
    _, prefix, lse = case.run(splits=1)
    lse = torch.where(lse == -torch.inf, torch.inf, lse)[0].T.contiguous().T[None]
    prefix = torch.where(lse[..., None] == torch.inf, torch.nan, prefix)
    torch.testing.assert_close(
        case.merge(prefix, lse, device.type == "cpu").float().cpu(), expected, atol=2e-5, rtol=2e-5
    )


def test_stores_the_newest_keys_and_values_and_nothing_else(device):
    case = Case(device, RAGGED, depth=1)
    before = case.key_scratch.clone(), case.value_scratch.clone()
    case.run()
    for scratch, old, new in zip((case.key_scratch, case.value_scratch), before, (case.new_key, case.new_value)):
        old[: len(RAGGED), 1] = new.view(len(RAGGED), case.beam_width, *new.shape[1:])
        assert torch.equal(scratch, old)
