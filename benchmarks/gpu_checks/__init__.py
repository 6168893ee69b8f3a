"""Checks of mtad on one GPU as one command, `python -m benchmarks.gpu_checks`.

`correctness` compares what engines generate, `drafting` times a drafting round without a target (`speculator_alone`),
`step` finds what acceptance and drafting take of an engine's step. `subprocesses` runs each of them apart, `tasks` is
what runs there, `timing` reads the device's clock, `models` writes models of given shapes. `machine` and `report` say
where it ran and what came out, `aims` what was hoped for.
"""
