"""These checks say whether the installed vLLM can run mtad: its version is supported, and every seam stands."""

from __future__ import annotations

SUPPORTED_VLLM = ("0.32.0", "0.33.0")


def installed_vllm() -> str:
    import vllm

    return vllm.__version__


def is_supported_vllm() -> bool:
    """Whether the installed version is supported; a local part of it, such as +cpu, does not count."""
    return installed_vllm().split("+")[0] in SUPPORTED_VLLM


def check_available(runner: str | None = None) -> None:
    """Check the version, and that the seams of front end and engine stand, and those of a model runner if one is named.

    Imports what is patched, so it is asked only where mtad is asked for: with one seam missing, mtad would be half on.

    Args:
        runner: "v1" or "v2".
    Raises:
        ValueError: on a vLLM that this release is not made for, or naming the first seam that does not stand, and why.
    """
    from vllm_mtad.plugin.seams import SEAMS, why_missing

    if not is_supported_vllm():
        from importlib.metadata import version

        raise ValueError(
            f"Speculative method 'mtad' is not available: vllm-mtad {version('vllm-mtad')} supports vLLM"
            f" {', '.join(SUPPORTED_VLLM)}, and this is {installed_vllm()}."
        )
    for seam in SEAMS:
        if seam.runner in (None, runner) and (why := why_missing(seam)) is not None:
            raise ValueError(
                f"Speculative method 'mtad' is not available: vllm-mtad could not patch {seam.module}.{seam.name}"
                f" ({why}). Other methods are not concerned."
            )
