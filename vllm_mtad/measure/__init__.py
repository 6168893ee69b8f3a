"""Measuring ways to decode, through vLLM's public API: what the demo, the tuner and the benchmarks share.

`methods` names the ways to decode, `engines` starts one, `sizes` gives a pair the cost of larger models, `decoding`
runs prompts and keeps what each target call gave, `figures` and `likelihood` turn that into numbers, `intervals` says
how far two ways really differ and `pareto` which are worth choosing from. `corrected_worker` makes vLLM's own
draft_model right on a CPU.
"""
