"""One command, `python -m benchmarks.gpu_checks`, checks mtad on one GPU.

`correctness` compares what engines generate, `drafting` times a drafting round without a target (`speculator_alone`),
`step` finds what acceptance and drafting take of an engine's step. `subprocesses` runs each of them apart, `tasks` is
what runs there, `timing` reads the device's clock, `models` writes models of given shapes. `report` says what came
out, `aims` what was hoped for.
"""
