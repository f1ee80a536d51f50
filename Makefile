# Every target works on its own on a machine with Python >= 3.11, a C++17 compiler and make. It creates a
# virtual environment, and installs CMake and Ninja as Python packages if they are missing.
#
#   make demo           compress a trained spiking network in 18 ways and print a table
#   make test           run the test suite
#   make lint           run ruff, clang-format and mypy
#   make docs           build the documentation into build/docs
#   make sanitize       run the C++ kernels under AddressSanitizer and UndefinedBehaviorSanitizer
#   make bench-kernels  time every kernel against its rival (3 minutes on two quiet AVX-512 cores)

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
BUILD ?= build
# Processes of the tests: as many as there are processors, and no more than memory holds frameworks.
JOBS ?= auto
WORKERS := -n $(JOBS) --maxprocesses 8 --dist worksteal
# Packages that the tests compare with, or whose models they run. They are installed without dependencies,
# of which they import only the few listed here.
FRAMEWORKS ?= spikingjelly==2.0.0 snntorch==1.0.0 norse==1.1.0 sinabs==3.1.3 nir==1.0.8 nirtorch==2.6 \
	neurobench==2.3.0 jax==0.10.2 jaxlib==0.10.2 ml_dtypes==0.6.0 opt_einsum==3.4.0 loguru h5py pbr
BIN := $(VENV)/bin
SOURCES := pyproject.toml setup.py CMakeLists.txt $(shell find csrc python sbc_kernels -type f \
	-not -name '*.so' -not -path '*/__pycache__/*')

.PHONY: demo test lint docs sanitize bench-kernels format clean

demo: $(VENV)/installed
	$(BIN)/sbc demo --out sbc-demo

# The second line runs the GPU tests in Triton's interpreter.
test: $(VENV)/installed $(VENV)/frameworks
	$(BIN)/pytest $(WORKERS)
	TRITON_INTERPRET=1 OMP_NUM_THREADS=1 $(BIN)/pytest $(WORKERS) -q tests/gpu tests/ops tests/backends/test_registry.py

lint: $(VENV)/installed $(VENV)/linters
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files '*.cpp' '*.h' '*.cu')
	$(BIN)/mypy

docs: $(VENV)/installed $(VENV)/frameworks $(VENV)/sphinx
	$(BIN)/sphinx-build -W --keep-going -q -b html -d $(BUILD)/doctrees docs $(BUILD)/docs

format: $(VENV)/linters
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$(git ls-files '*.cpp' '*.h' '*.cu')

sanitize: $(VENV)/tools
	PATH="$(abspath $(BIN)):$$PATH" cmake -S . -B $(BUILD)/sanitize -G Ninja \
		-DCMAKE_BUILD_TYPE=RelWithDebInfo -DSBC_TESTS=ON -DSBC_PYTHON=OFF -DSBC_CUDA=OFF \
		-DSBC_SANITIZE=address,undefined
	PATH="$(abspath $(BIN)):$$PATH" cmake --build $(BUILD)/sanitize
	$(BUILD)/sanitize/tests/native/kernel_check

bench-kernels: $(VENV)/installed
	mkdir -p $(BUILD)
	$(BIN)/pytest benchmarks -c benchmarks/pytest.ini -q --benchmark-json=$(BUILD)/kernels.json
	$(BIN)/python benchmarks/table.py $(BUILD)/kernels.json

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip

$(VENV)/torch: | $(BIN)/python
	$(BIN)/pip install --quiet "$(TORCH)"
	touch $@

$(VENV)/installed: $(SOURCES) $(VENV)/torch
	$(BIN)/pip install --quiet ".[demo,test]"
	touch $@

$(VENV)/frameworks: | $(VENV)/installed
	$(BIN)/pip install --quiet --no-deps $(FRAMEWORKS)
	touch $@

# The packages of one extra, without this package itself, which need not be built for linting or the pages.
extra = $$($(BIN)/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['$(1)'])")

$(VENV)/linters: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet $(call extra,lint)
	touch $@

$(VENV)/sphinx: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet $(call extra,docs)
	touch $@

$(VENV)/tools: | $(BIN)/python
	$(BIN)/pip install --quiet "cmake>=3.25" ninja
	touch $@

clean:
	rm -rf $(VENV) $(BUILD) dist *.egg-info sbc-demo
