"""What a vLLM says in which something has changed: `python -m tests.plugin.changed_vllm TARGET DRAFT`.

Prints a JSON object with all that each of `CASES` printed, by its name. vLLM takes ten seconds to import, so each case
is a fork of one process that has imported it and registered no plugin.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import replace


def left_out_of_vllm_plugins(target: str, draft: str) -> None:
    _load_plugins("another")


def named_in_vllm_plugins(target: str, draft: str) -> None:
    _load_plugins("mtad")


def _load_plugins(names: str) -> None:
    os.environ["VLLM_PLUGINS"] = names
    from vllm.plugins import load_general_plugins

    load_general_plugins()
    from vllm_mtad.plugin.seams import SEAMS, why_missing

    own = [seam for seam in SEAMS if seam.runner != "v2" and not seam.may_be_absent]
    print("STANDING", [seam.name for seam in own if why_missing(seam) is None])


def untested_asked_for_mtad(target: str, draft: str) -> None:
    _register()
    _ask(target, _mtad(draft))


def untested_asked_for_draft_model(target: str, draft: str) -> None:
    _register()
    _ask(target, _draft_model(draft))


def a_line_is_gone(target: str, draft: str) -> None:
    import vllm.v1.core.kv_cache_utils as module

    _register()
    module.update_kv_cache_capacity = module.get_kv_cache_capacity
    _ask_for_both_methods(target, draft)


def a_signature_is_another(target: str, draft: str) -> None:
    from vllm.v1.spec_decode.draft_model import DraftModelProposer

    _register()
    DraftModelProposer.initialize_attn_backend = lambda self, config: None
    _ask_for_both_methods(target, draft)


def an_overridden_method_is_gone(target: str, draft: str) -> None:
    from vllm.v1.spec_decode.draft_model import DraftModelProposer

    _register()
    for cls in DraftModelProposer.__mro__:
        if "_create_draft_vllm_config" in vars(cls):
            del cls._create_draft_vllm_config
    _ask_for_both_methods(target, draft)


def a_name_is_gone(target: str, draft: str) -> None:
    import vllm.v1.spec_decode.llm_base_proposer  # noqa: F401  # which has the name already
    import vllm.v1.spec_decode.utils as module

    _register()
    del module.compute_new_slot_mapping
    _ask_for_both_methods(target, draft)


def patched_names_are_others(target: str, draft: str) -> None:
    from vllm_mtad.plugin import seams

    others = [replace(seam, name=seam.name + "_renamed") for seam in seams.SEAMS if "EngineArgs" not in seam.name]
    seams.SEAMS = (*(seam for seam in seams.SEAMS if "EngineArgs" in seam.name), *others)
    _register()
    import vllm.v1.worker.gpu_model_runner  # noqa: F401

    _ask(target, None)
    _ask(target, "mtad")


CASES = (
    left_out_of_vllm_plugins, named_in_vllm_plugins, untested_asked_for_mtad, untested_asked_for_draft_model,
    a_line_is_gone, a_signature_is_another, an_overridden_method_is_gone, a_name_is_gone, patched_names_are_others,
)  # fmt: skip


def _register() -> None:
    """In a release that was not tested, as if this were the only registration."""
    import vllm
    import vllm.plugins

    vllm.plugins.plugins_loaded = True
    vllm.__version__ = "0.99.0"
    from vllm_mtad.plugin.registration import register

    register()


def _mtad(draft: str) -> dict:
    return {"method": "mtad", "model": draft}


def _draft_model(draft: str) -> dict:
    return {"method": "draft_model", "model": draft, "num_speculative_tokens": 2}


def _ask_for_both_methods(target: str, draft: str) -> None:
    _ask(target, _mtad(draft))
    _ask(target, _draft_model(draft))


def _ask(target: str, speculative: dict | str | None) -> None:
    from vllm.engine.arg_utils import EngineArgs

    try:
        config = EngineArgs(target, speculative_config=speculative).create_engine_config()
        print("MADE", type(config.speculative_config).__name__)
    except ValueError as error:
        print("REFUSED", error)


def _printed_by(case: Callable[[str, str], None], *models: str) -> str:
    with tempfile.TemporaryFile("w+") as file:
        if not (pid := os.fork()):
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            try:
                case(*models)
            except Exception:
                traceback.print_exc()
            sys.stdout.flush()
            os._exit(0)
        os.waitpid(pid, 0)
        file.seek(0)
        return file.read()


def main() -> None:
    import vllm.engine.arg_utils  # noqa: F401  # and nothing of mtad

    print(json.dumps({case.__name__: _printed_by(case, *sys.argv[1:]) for case in CASES}))


if __name__ == "__main__":
    main()
