"""Users of the plugin type these commands: `vllm-mtad doctor`, `tune` and `demo`. The latter two stand on `harness`."""
