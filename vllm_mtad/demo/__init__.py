"""`vllm-mtad demo`: the bundled pair decodes held-out questions three ways in vLLM.

`ways` starts an engine per way, `decoding` runs prompts and keeps what each target call gave, `figures` turns
that into numbers, `report` prints them. `corrected_worker` makes vLLM's own draft_model right on a CPU.
"""
