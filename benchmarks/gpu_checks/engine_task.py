"""This task runs one engine on the bundled pair, or the slow reference.

It gives, as JSON, what each generates for the same prompts.

Kinds of request: `greedy`; `sampled`, at T = 1; `truncated`, at T = 1 with top-k 10 and top-p 0.9. Those that sample
have seeds. In an engine each kind is a batch of its own.
"""

from __future__ import annotations

from typing import Any

from benchmarks.gpu_checks.graph_use import count_first_passes, count_replays
from benchmarks.pairs import MINISQL
from benchmarks.pairs.minisql.task import evaluation_examples

SAMPLING: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "sampled": {"temperature": 1.0},
    "truncated": {"temperature": 1.0, "top_k": 10, "top_p": 0.9},
}


def prompt_ids(count: int) -> list[list[int]]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MINISQL.target)
    return [tokenizer(example.prompt).input_ids for example in evaluation_examples("held_out", count)]


def generate(
    mtad: dict[str, Any] | None, kinds: list[str], count: int, max_tokens: int, options: dict[str, Any]
) -> dict[str, Any]:
    """Run one engine.

    Args:
        mtad: fields of the speculative configuration; None for the target alone.
        kinds: of `SAMPLING`.
        options: of `LLM`.

    Returns:
        `tokens`: by kind, a list of token ids for each prompt. `margins`, for the target alone: by kind and prompt, the
        gap in log p between the best two tokens at each position. `facts`: how the engine really ran.
    """
    from vllm import LLM, SamplingParams

    speculative = None if mtad is None else {"method": "mtad", "model": str(MINISQL.draft)} | mtad
    prompts: Any = [{"prompt_token_ids": ids} for ids in prompt_ids(count)]
    llm = LLM(str(MINISQL.target), speculative_config=speculative, **options)
    llm.collective_rpc(count_graphs)
    tokens: dict[str, Any] = {}
    margins: dict[str, Any] = {}
    for kind in kinds:
        sampling = [
            SamplingParams(
                max_tokens=max_tokens,
                seed=None if kind == "greedy" else 1000 + i,
                logprobs=2 if mtad is None else None,
                **SAMPLING[kind],
            )
            for i in range(count)
        ]
        completions = [request.outputs[0] for request in llm.generate(prompts, sampling, use_tqdm=False)]
        tokens[kind] = [list(completion.token_ids) for completion in completions]
        if mtad is None:
            margins[kind] = [[_margin(position) for position in completion.logprobs] for completion in completions]
    (facts,) = llm.collective_rpc(describe_worker)
    facts["async_scheduling"] = llm.llm_engine.vllm_config.scheduler_config.async_scheduling
    llm.llm_engine.engine_core.shutdown()
    return {"tokens": tokens, "margins": margins, "facts": facts}


def _margin(position: dict[int, Any]) -> float:
    best, second = sorted((entry.logprob for entry in position.values()), reverse=True)[:2]
    return best - second


def count_graphs(worker: Any) -> None:
    """In the worker: count from now on how the parts of each drafting round run."""
    if (speculator := getattr(worker.model_runner, "speculator", None)) is not None:
        count_first_passes(speculator)
        for name in ("first_pass_graphs", "beam_graphs"):
            count_replays(getattr(speculator, name))


def describe_worker(worker: Any) -> dict[str, Any]:
    """In the worker: its classes, its attention backends, its graphs and how drafting rounds ran."""
    runner = worker.model_runner
    speculator = getattr(runner, "speculator", None)
    facts: dict[str, Any] = {
        "runner": f"{type(runner).__module__}.{type(runner).__name__}",
        "attention": sorted({group.backend.get_name() for groups in runner.attn_groups for group in groups}),
        "target_graphs": len(runner.cudagraph_manager.graphs),
    }
    if speculator is not None:
        facts["speculator"] = type(speculator).__name__
        facts["rejection_sampler"] = type(runner.rejection_sampler).__name__
        facts["draft_attention"] = sorted(
            {group.backend.get_name() for groups in speculator.attn_groups for group in groups}
        )
        facts["first_passes"] = dict(speculator.first_passes)
        facts["other_candidates_kept"] = int(speculator.beams.trees.tally[:, 2].sum())
        for name in ("first_pass_graphs", "beam_graphs"):
            manager = getattr(speculator, name)
            facts[name] = {"captured": len(manager.graphs), "replays": manager.replays}
    return facts


def reference(
    num_speculative_tokens: int, beam_width: int, num_candidates: int, count: int, max_tokens: int
) -> list[dict[str, float | list[int]]]:
    """The slow reference's joint greedy text of each prompt, on the CPU, and how near it came to a tie."""
    import torch

    from vllm_mtad.algorithm.reference import ReferenceDecoder, ReferenceSettings, hugging_face_model

    torch.set_num_threads(2)
    settings = ReferenceSettings(
        num_speculative_tokens, beam_width, greedy="joint", temperature=0.0, num_candidates=num_candidates
    )
    target, draft = (hugging_face_model(str(path)) for path in (MINISQL.target, MINISQL.draft))
    decoder = ReferenceDecoder(target, draft, settings)
    decoded = [decoder.generate(ids, max_tokens, eos_token_id=2) for ids in prompt_ids(count)]
    return [
        {"tokens": output.tokens, "smallest_margin": output.smallest_margin, "accepted": output.accepted}
        for output in decoded
    ]
