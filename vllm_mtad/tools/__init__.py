"""Users of the plugin type these commands: `vllm-mtad tune` and `vllm-mtad demo`. They stand on `harness`."""
