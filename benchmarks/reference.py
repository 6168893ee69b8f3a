"""`answer_slowly` decodes prompts by the slow reference (`algorithm.reference`), and keeps its tokens per target call.

The engine's, on the same pair and prompts, must agree with them.

Rows of `reference`: one a prompt set, with the tokens of each call for the first prompts.
"""

from __future__ import annotations

from benchmarks.plan import Plan, Quality
from benchmarks.store import Store
from benchmarks.workload import load_workload
from vllm_mtad.algorithm.reference import ReferenceDecoder, ReferenceOutput, ReferenceSettings, hugging_face_model
from vllm_mtad.tools.harness.methods import DEFAULT, PAPER
from vllm_mtad.tools.harness.progress import Work


def answer_slowly(plan: Plan, quality: Quality, store: Store, work: Work) -> None:
    """Decode the first `num_reference` prompts with MTAD's defaults, unless `store` has them."""
    if not quality.num_reference or any(r["prompt_set"] == quality.prompt_set for r in store.rows("reference")):
        return
    workload = load_workload(plan.models, quality)
    target, draft = (hugging_face_model(str(path)) for path in (workload.pair.target, workload.pair.draft))
    settings = ReferenceSettings(
        DEFAULT.num_speculative_tokens,
        DEFAULT.beam_width,
        DEFAULT.acceptance_threshold,
        temperature=PAPER.temperature,
        top_k=PAPER.top_k,
        top_p=PAPER.top_p,
    )
    end, calls = target.config.eos_token_id, []  # type: ignore[attr-defined]
    work.say(f"the slow reference, {quality.num_reference} prompts of {quality.prompt_set}")
    for seed, prompt in enumerate(workload.prompt_ids[: quality.num_reference]):
        decoder = ReferenceDecoder(target, draft, settings, seed)
        calls.append(calls_of(decoder.generate(prompt, workload.prompt_set.max_tokens, end)))
    store.add("reference", {"prompt_set": quality.prompt_set, "calls": calls})


def calls_of(output: ReferenceOutput) -> list[int]:
    """Tokens that each call gave, the prefill's one first; what follows a stop is not counted."""
    calls, left = [1], len(output.tokens) - 1
    for accepted in output.accepted:
        calls.append(min(accepted + 1, left))
        left -= calls[-1]
    return calls
