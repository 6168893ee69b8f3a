"""`vllm-mtad demo`: a pair of models decodes its own prompts in vLLM in several ways, which are compared.

`task` reads what a pair's folder asks for, `run` measures, `figures` sums up, `report` prints.
"""
