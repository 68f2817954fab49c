# Two commands matter: `make demo` shows what stn does, `make test` checks that it does it.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt

.PHONY: setup demo test test-all lint format docs bench gpu gpu-test gpu-bench gpu-reproduce sanitize clean
.DEFAULT_GOAL := help

help:
	@echo "make demo      fetch MNIST, train a plain net and its spatial-transformer twin, write the report"
	@echo "make test      lint and test (minutes)"
	@echo "make test-all  every test (longer)"
	@echo "make docs      build the site into site/"
	@echo "make bench     time stn against other libraries (half an hour on a quiet machine)"
	@echo "make gpu       test, time and reproduce on a GPU; every piece goes on where it was stopped"

setup: $(STAMP)

NATIVE := CMakeLists.txt $(wildcard native/*)

$(STAMP): pyproject.toml constraints.txt $(NATIVE)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "stn needs Python 3.10 or newer, got " + sys.version)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $(STAMP)

DEMO := runs/mnist-tc_fcn_quick_0 runs/mnist-tc_st-fcn-affine_quick_0

demo: setup
	$(BIN)/stn data mnist
	$(BIN)/stn train mnist-tc --model fcn
	$(BIN)/stn train mnist-tc --model st-fcn-affine
	$(BIN)/stn report $(DEMO) --output runs/demo/report.html

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

test: lint
	$(BIN)/pytest -n 2 --dist worksteal -m "not slow"

test-all: lint
	$(BIN)/pytest -n 2 --dist worksteal

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup
	$(BIN)/python docs/make_reference.py
	$(BIN)/zensical build --strict --clean

bench: setup
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/stn bench --page docs/performance.md

gpu: gpu-test gpu-bench gpu-reproduce

gpu-test: setup
	$(BIN)/pytest tests/test_triton.py tests/test_native.py -m "not slow"

gpu-bench: setup
	$(BIN)/stn bench --device cuda --budget-s 450 --page docs/performance.md

gpu-reproduce: setup
	$(BIN)/stn reproduce all --column faithful --seeds 3 --processes 8 --budget-s 240
	$(BIN)/stn reproduce all --column best --seeds 3 --processes 4 --budget-s 120

# Two thousand random calls of the native kernels under AddressSanitizer.
sanitize: setup
	cmake -S . -B build/sanitize -DSTN_SANITIZE=ON
	cmake --build build/sanitize --parallel
	STN_LIBRARY=$(CURDIR)/build/sanitize/libstn_native.so ASAN_OPTIONS=detect_leaks=0 \
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
	$(BIN)/python -c 'from tests.test_native import TOLERANCE, compare; [compare(s, t) for s in range(500) for t in TOLERANCE]'

clean:
	rm -rf .venv build dist runs
