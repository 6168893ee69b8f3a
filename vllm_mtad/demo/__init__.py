"""`vllm-mtad demo`: the bundled pair decodes held-out questions three ways in vLLM.

`run` does it with the parts of `vllm_mtad.measure`; `larger` times the same pair at the cost of larger models;
`figures` sums up, `report` prints.
"""
