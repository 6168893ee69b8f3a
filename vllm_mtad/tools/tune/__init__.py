"""`vllm-mtad tune` finds which `--speculative-config` serves a wish best, measured on the user's own prompts.

`arguments` and `settings` say what is asked for, `prepare` reads and checks what the user brings, `candidates` says
what is tried and in which order, `timing` runs the engines, `scoring` turns their answers into `rows`, `wishes`
chooses among rows, `report` shows it; `run` is the whole.
"""
