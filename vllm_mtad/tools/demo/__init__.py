"""`vllm-mtad demo` lets a pair of models decode its own prompts in vLLM in several ways, and compares them.

`task` reads what a pair's folder asks for, `run` measures, `figures` sums up, `report` prints.
"""
