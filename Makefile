# Everything runs in .venv with the versions of constraints.txt; `make demo` and `make test` work on a fresh clone.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTEST := $(BIN)/python -m pytest
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help install demo test test-unit test-interpret test-compile test-wheel test-bench test-asan test-gpu bench lint types format wheel clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 18

install: $(READY)  ## make .venv, install the pinned versions, build the extension

$(READY): pyproject.toml setup.py constraints.txt MANIFEST.in $(shell find csrc -type f)
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10) and 'fastclr needs Python >= 3.10, got ' + sys.version)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt torch torchvision setuptools wheel ninja pybind11 build
	$(BIN)/pip install -q -c constraints.txt --no-build-isolation -e '.[dev]'
	touch $@

demo: $(READY)  ## pretrain on the built-in shapes, evaluate, print a table
	$(BIN)/fastclr demo

test: test-unit test-interpret test-compile test-bench test-wheel  ## all tests

test-unit: $(READY)  ## library, operators, loop
	$(PYTEST) tests --ignore tests/interpret --ignore tests/compile_only --ignore tests/wheel

test-interpret: $(READY)  ## the Triton kernels in Triton's interpreter (its variable must precede the import)
	TRITON_INTERPRET=1 $(PYTEST) tests/interpret

test-compile: $(READY)  ## registers, spills and instructions of the compiled kernels
	$(PYTEST) tests/compile_only

test-wheel: $(READY)  ## sdist and wheel, installed into a clean environment outside of the tree
	$(PYTEST) tests/wheel

test-gpu: $(READY)  ## what needs a CUDA device
	$(PYTEST) tests/gpu

bench: $(READY)  ## the CPU benchmarks, with the machine otherwise idle; then the tables of the README
	$(PYTEST) benchmarks/bench_loss.py --benchmark-json=benchmarks/results/loss-cpu.json
	$(PYTEST) benchmarks/bench_augment.py --benchmark-json=benchmarks/results/augment-cpu.json
	$(BIN)/python benchmarks/report.py

test-bench: $(READY)  ## every benchmark once, without timing, so that none rots
	$(PYTEST) benchmarks --benchmark-disable

ASAN := build/asan
ASAN_TESTS := tests/test_augment*.py tests/test_philox.py
SANITIZE := -fsanitize=address,undefined
test-asan: $(READY)  ## the augmentation's tests under AddressSanitizer and UBSan, in a copy of the tree
	rm -rf $(ASAN) && mkdir -p $(ASAN)
	cp -r csrc fastclr tests setup.py pyproject.toml README.md LICENSE $(ASAN)/
	rm -f $(ASAN)/fastclr/*.so
	cd $(ASAN) && FASTCLR_BUILD=cpu LDFLAGS="$(SANITIZE)" \
		CXXFLAGS="$(SANITIZE) -fno-sanitize-recover=all -fno-sanitize=vptr -DFASTCLR_NO_CLONES -g1" \
		$(abspath $(BIN)/python) setup.py -q build_ext --inplace
	cd $(ASAN) && PYTHONPATH=$(abspath $(ASAN)) ASAN_OPTIONS=detect_leaks=0 CXXFLAGS="$(SANITIZE) -fno-sanitize-recover=all" \
		LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so)" \
		$(abspath $(BIN)/python) -m pytest -p no:cacheprovider $(ASAN_TESTS)

lint: $(READY)  ## ruff and clang-format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	find csrc -type f | xargs $(BIN)/clang-format --dry-run --Werror

types: $(READY)  ## mypy --strict
	$(BIN)/mypy

format: $(READY)  ## rewrite the sources as `lint` wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	find csrc -type f | xargs $(BIN)/clang-format -i

wheel: $(READY)  ## dist/: sdist and wheel
	$(BIN)/python -m build --no-isolation

clean:  ## remove what was built
	rm -rf build dist *.egg-info fastclr/*.so fastclr/_build.json
