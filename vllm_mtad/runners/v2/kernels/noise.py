"""This is the device side of `algorithm.noise`: the same counter-based noise, bit for bit up to the last logarithms."""

from vllm.triton_utils import tl, triton
from vllm.v1.worker.gpu.sample.gumbel import _log1p_neg_stable

_GOLDEN = tl.constexpr(0x9E3779B97F4A7C15)
_FIRST_MULTIPLIER = tl.constexpr(0xBF58476D1CE4E5B9)
_SECOND_MULTIPLIER = tl.constexpr(0x94D049BB133111EB)
_UNIFORM_BITS = tl.constexpr(23)


@triton.jit
def _mix(x):
    """SplitMix64's finaliser on uint64."""
    x = (x ^ (x >> 30)) * _FIRST_MULTIPLIER
    x = (x ^ (x >> 27)) * _SECOND_MULTIPLIER
    return x ^ (x >> 31)


@triton.jit
def draft_key(seed, root_position, depth):
    """uint64 key of one beam step of one request; `seed` and `root_position` are int64, `depth` int32."""
    root = _mix(_mix(seed.to(tl.uint64) + _GOLDEN) + root_position.to(tl.uint64))
    return _mix(root + depth.to(tl.uint64))


@triton.jit
def gumbel(key, counters):
    """float32 Gumbel noise, one per int64 counter (beam * vocab_size + token)."""
    bits = _mix(key + counters.to(tl.uint64) * _GOLDEN) >> (64 - _UNIFORM_BITS)
    uniform = (bits.to(tl.int32).to(tl.float32) + 0.5) * 1.1920928955078125e-07  # 2^-23
    # A logarithm of 1 - u would lose the winning tail, u -> 0, to the hardware's approximation near 1.
    return -tl.log(-_log1p_neg_stable(uniform))
