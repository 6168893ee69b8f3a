"""MTAD in plain torch, without vLLM: what V1 runs, and what the kernels of V2, its twins, are held against.

`warp` turns logits into the distributions p and q. `beams` drafts jointly, with the noise of `noise`, and
chooses one draft. `tree` says which beams the target sees where it sees several. `acceptance` keeps the longest
prefix, or the deepest node, whose joint ratio passes, and draws the extra token.
`reference` is a slow decoder written from the specification alone; nothing else here imports it.
"""
