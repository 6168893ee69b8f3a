"""Shapes of the (target, draft) pairs that the start-up tests configure."""

from benchmarks.gpu_checks.models import LLAMA_1B, LLAMA_8B, ModelShape

QWEN_32B = ModelShape(5120, 25_600, 64, 64, 8, 128, 151_936, tie_word_embeddings=False)
QWEN_06B = ModelShape(1024, 3072, 28, 16, 8, 128, 151_936, tie_word_embeddings=True)
PAIRS = {"Llama": (LLAMA_8B, LLAMA_1B), "Qwen": (QWEN_32B, QWEN_06B)}
