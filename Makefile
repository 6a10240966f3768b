# `make demo` and `make test` do all the set-up they need, once.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

CLIP ?=
PROMPT ?= oil painting
FRAMES ?= 72
OUT ?= out/demo

NATIVE := setup.py CMakeLists.txt $(wildcard csrc/*)

.PHONY: demo test check format gpu-check clean

demo: $(VENV)/.native
	$(BIN)/flowguide demo --prompt "$(PROMPT)" --frames $(FRAMES) --out-dir "$(OUT)" $(if $(CLIP),--clip "$(CLIP)")

test: $(VENV)/.native
	$(BIN)/pytest --numprocesses auto --dist worksteal

check: $(VENV)/.native
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.packages
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# A Python that already has torch with CUDA is taken as it is, so that no network is needed.
gpu-check:
	if $(PYTHON) -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; \
	then $(PYTHON) benchmarks/gpu_check.py; \
	else $(MAKE) $(VENV)/.native && $(BIN)/python benchmarks/gpu_check.py; fi

clean:
	rm -rf build out $(VENV)

# torch comes first: a package that depends on it would otherwise choose the build.
$(VENV)/.packages: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) setuptools pybind11 cmake ninja
	FLOWGUIDE_BUILD=off $(PIP) --no-build-isolation --editable ".[dev,triton,onnx,exr,plot]"
	touch $@

$(VENV)/.native: $(VENV)/.packages $(NATIVE)
	$(PIP) --no-build-isolation --no-deps --editable .
	touch $@
