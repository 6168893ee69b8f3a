"""Which vLLM this release is made for."""

from __future__ import annotations

SUPPORTED_VLLM = ("0.32.0",)


def installed_vllm() -> str:
    import vllm

    return vllm.__version__


def unsupported_reason(vllm_version: str) -> str | None:
    """One sentence, or None if mtad works on `vllm_version` (a local part such as +cpu does not count)."""
    from importlib.metadata import version

    if vllm_version.split("+")[0] in SUPPORTED_VLLM:
        return None
    return (
        f"Speculative method 'mtad' is not available: vllm-mtad {version('vllm-mtad')} supports vLLM"
        f" {', '.join(SUPPORTED_VLLM)}, and this is {vllm_version}."
    )
