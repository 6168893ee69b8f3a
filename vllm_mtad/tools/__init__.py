"""What users of the plugin type: `vllm-mtad tune` and `vllm-mtad demo`, on top of `harness`."""
