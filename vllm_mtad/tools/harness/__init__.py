"""This package starts engines, lets them take turns, decodes, scores and stops.

The tuner, the demo and the benchmarks stand on it.

`methods` says how an engine decodes and how requests sample, `engines` starts and stops, `turns` orders rounds,
`decoding` runs one, `likelihood` and `checker` judge the text, `figures` and `intervals` sum up; `prompts` reads a
user's file, `progress` shows how far a run is, `machine` says what it ran on. vLLM's public interface is used, but for
`corrected_worker`, which mends vLLM 0.32.0's own sampled drafting on a CPU, and the end of an engine.
"""
