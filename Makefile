# Two commands do everything on a fresh machine; each makes what it needs in .venv.
.PHONY: demo test test-of-next lint-and-next next lint clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PADDED := build/minisql-0.5b
NEXT_RELEASE := 0.33.0
NEXT := build/vllm-$(NEXT_RELEASE)
PYTEST := -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder
ENGINE_TESTS_OF_V2 := $(addprefix tests/engine/test_,\
	damaged_draft.py joint_greedy.py several_candidates.py lossless_and_sampling.py serve.py)
# Of V2 these run on one release: on the next, if it is there.
ENGINE_TESTS_OF_NEXT := $(addprefix tests/engine/test_,models.py request_options.py schedule.py targets.py)

# A module is compiled once, by the first process that imports it: most of what is installed is never imported.
export PIP_COMPILE := 0
unexport PYTHONDONTWRITEBYTECODE

demo: $(READY)
	$(BIN)/python -m benchmarks.pairs.sizes minisql 0.5b $(PADDED)
	$(BIN)/vllm-mtad demo --pair benchmarks/pairs/minisql benchmarks/pairs/tales $(PADDED)

# Model Runner V1 on vLLM's CPU engine; then V2, in Triton's interpreter. Two files at a time with a thread each: on
# models this small a second thread only spins.
test: lint-and-next
	OMP_NUM_THREADS=1 VLLM_CPU_OMP_THREADS_BIND=nobind $(BIN)/python $(PYTEST) tests --ignore tests/v2
	$(BIN)/python -m tests.interpreter $(PYTEST) tests/v2 $(ENGINE_TESTS_OF_V2) \
		$(shell [ -e $(NEXT)/.ready ] || echo $(ENGINE_TESTS_OF_NEXT))
	if [ -e $(NEXT)/.ready ]; then $(MAKE) test-of-next; fi

# What may differ between releases of vLLM: the configuration, the seams, the engines. Kernels are our own.
test-of-next:
	OMP_NUM_THREADS=1 VLLM_CPU_OMP_THREADS_BIND=nobind $(NEXT)/bin/python $(PYTEST) tests/plugin tests/config tests/runners \
		tests/patches $(addprefix tests/engine/test_,joint_greedy.py schedule.py start.py)
	$(NEXT)/bin/python -m tests.interpreter $(PYTEST) tests/v2/startup $(ENGINE_TESTS_OF_NEXT) \
		$(addprefix tests/v2/test_,capture.py draft_config.py draft_log_q.py graphs.py warm_up.py)

# At once: one waits for the network, and mypy has one thread.
lint-and-next: $(READY)
	$(MAKE) --jobs=2 lint next

# The other release that is supported, if its wheel can be had.
next: $(READY)
	[ -e $(NEXT)/.ready ] || bash packaging/overlay.sh $(BIN)/python $(NEXT) $(NEXT_RELEASE)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(READY): pyproject.toml packaging/install_cpu.sh packaging/vllm-cpu-alias/pyproject.toml
	$(PYTHON) -m venv --upgrade-deps $(VENV)
	bash packaging/install_cpu.sh $(BIN)/python test,bench,tools
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
