"""`vllm-mtad demo`: the bundled pairs decode held-out questions, and tales, in several ways in vLLM.

`run` does it with the parts of `vllm_mtad.measure`; `timed` times the other pair, and the same one at the cost of
larger models; `figures` sums up, `report` prints.
"""
