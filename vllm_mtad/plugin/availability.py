"""These checks say whether the installed vLLM can run mtad: a release that was tested, or one that is as they are."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator

from vllm_mtad.config.errors import one_sentence
from vllm_mtad.releases import TESTED

logger = logging.getLogger("vllm.mtad")


def installed_vllm() -> str:
    import vllm

    return vllm.__version__


def is_tested_vllm() -> bool:
    """Whether the installed release was tested; a local part of its version, such as +cpu, does not count."""
    return installed_vllm().split("+")[0] in TESTED


def check_available(runner: str | None = None) -> None:
    """Check that the seams of front end and engine stand, and those of a model runner if one is named; of a release
    that was not tested, all that mtad relies on. Such a one is named in a warning.

    Imports what is patched, so it is asked only where mtad is asked for: with one seam missing, mtad would be half on.

    Args:
        runner: "v1" or "v2".
    Raises:
        ValueError: naming the first seam that does not stand, or what else of vLLM is not as mtad needs it, and why.
    """
    from vllm_mtad.plugin.seams import SEAMS, why_missing

    for seam in SEAMS:
        if seam.runner in (None, runner) and (why := why_missing(seam)) is not None:
            raise _not_available(f"vllm-mtad could not patch {seam.module}.{seam.name} ({why})")
    if not is_tested_vllm():
        if (why := next(differences(runner), None)) is not None:
            raise _not_available(why)
        if runner is not None:
            _warn(installed_vllm())


def differences(runner: str | None) -> Iterator[str]:
    """What the installed vLLM has otherwise than mtad needs it."""
    from vllm_mtad.plugin.contract_table import broken_contracts
    from vllm_mtad.plugin.overrides import broken_overrides

    yield from broken_contracts(runner)
    try:
        yield from broken_overrides(runner)
    except Exception as error:
        yield f"vllm-mtad's own modules cannot be imported beside it ({one_sentence(error)})"


def _not_available(why: str) -> ValueError:
    tested = (
        "" if is_tested_vllm() else f" It was tested with vLLM {', '.join(TESTED)}, and this is {installed_vllm()}."
    )
    return ValueError(f"Speculative method 'mtad' is not available: {why}.{tested} Other methods are not concerned.")


@functools.cache
def _warn(version: str) -> None:
    logger.warning(
        "mtad was tested with vLLM %s, and this is %s. All that is checked of it is as it was there, so it runs.",
        ", ".join(TESTED),
        version,
    )
