# make demo   set up .venv and run the main example
# make test   set up .venv and run lint, types and tests
# make test-slow   run what tiny fixtures can't show: examples, code of documents, files for other engines
# make smoke  run the benchmarks' smoke suite on the bundled series, and report it in build/smoke; a run that takes
#             10 minutes is ended, as a failure (by GNU timeout)
# make gpu-check  try everything once on a GPU, in about 5 minutes, and write what was found to build/gpu/gpu.jsonl; with
#             PYTHON=python3 it runs in that interpreter, without .venv; ARGS="--device cpu --quick" tries the script
# make oldest a short part of the tests with the oldest supported versions of what the package needs, in build/oldest;
#             make newest: with the newest, in build/newest. torch is the one named below: PyPI has others with CUDA only
# make docs   build the documentation's site in build/site; a warning is a failure
# make gpu-pretrain  pretrain a model of 3.7 M parameters on a CUDA GPU for GPU_SECONDS; GPU_OUT and GPU_WORKERS (processes
#             that make the series) can be given too. No .venv: PYTHON needs torch with CUDA
# make notebooks  run the notebooks and store what they show; minutes
# make pictures  draw the documentation's pictures of forecasts anew; minutes
# make dist   build the sdist and the wheel in dist
# make wheelhouse  collect the wheels of the package and of all that it needs, for a machine without a network, in
#             build/wheelhouse; torch alone is 200 MB or more
# make clean  remove .venv, caches and build outputs
# Needs Python >= 3.11 and make. Another interpreter: make demo PYTHON=/path/to/python

.DELETE_ON_ERROR:
.PHONY: demo test test-slow smoke gpu-check gpu-pretrain oldest newest docs notebooks pictures dist wheelhouse lint types unit setup-demo setup-test clean

ifeq ($(origin PYTHON),undefined)
  PYTHONS := python3 python3.13 python3.12 python3.11
else
  PYTHONS := $(PYTHON)
endif

TORCH := torch==2.13.0
MOMENTFM := momentfm==0.1.4 # it pins old versions of what it needs, hence --no-deps
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --no-compile # Python compiles what is imported, once
MADE := $(VENV)/.ready-torch
DEMO_READY := $(VENV)/.ready-demo
TEST_READY := $(VENV)/.ready-test
SMOKE := build/smoke
WHEELHOUSE := build/wheelhouse
SOURCES := $(wildcard darts_msft darts_msft_command tests examples benchmarks)

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_REQUIRE_VIRTUALENV := 1
unexport PYTHONDONTWRITEBYTECODE # every process would compile torch and Darts anew

demo: setup-demo
	$(BIN)/python examples/01_quickstart.py $(ARGS)

test: setup-test
	$(MAKE) --no-print-directory --jobs=3 --output-sync=line lint types unit

unit: setup-test
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow"

test-slow: setup-test
	$(BIN)/python -m pytest -n auto --dist worksteal -m slow

smoke: setup-test
	rm -rf $(SMOKE)
	timeout --foreground 600 env OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks run --suite smoke --results $(SMOKE)
	$(BIN)/python -m benchmarks show --results $(SMOKE) --output $(SMOKE)/show

gpu-check: $(if $(PYTHON),,setup-test)
	$(or $(PYTHON),$(BIN)/python) -m benchmarks.gpu_check $(ARGS)
	DARTS_MSFT_TEST_ACCELERATOR=gpu $(or $(PYTHON),$(BIN)/python) -m pytest -n 8 -o filterwarnings=default \
	  tests/model/test_model_fit_predict.py tests/model/test_long_memory.py

# the lower bounds of pyproject.toml
LOWEST := sed -n 's/^    "\([A-Za-z0-9_-]*\)\(\[.*\]\)*>=\([0-9.]*\).*/\1==\3/p' pyproject.toml | grep -v '^torch='
# of what needs no optional package
VERSIONS_TESTS := tests/model/test_model_fit_predict.py tests/storage/test_adapter_files.py tests/test_datasets.py \
  tests/test_golden_moirai.py --deselect 'tests/test_golden_moirai.py::test_forecasts_are_as_written_down[points-2]'

oldest newest: $(MADE)
	rm -rf build/$@
	$(BIN)/python -m venv build/$@
	$(if $(filter oldest,$@),$(LOWEST),true) > build/$@/versions.txt
	build/$@/bin/python -m pip install --quiet -c build/$@/versions.txt $(TORCH) -e . beartype hypothesis pytest pytest-socket
	build/$@/bin/python -m pip list
	build/$@/bin/python -m pytest -q -p no:cacheprovider -W default $(VERSIONS_TESTS)

docs: setup-test
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

notebooks: setup-test
	$(BIN)/python examples/notebooks/execute.py

pictures: setup-demo
	$(BIN)/python examples/01_quickstart.py --out build/pictures --forecast docs/images/forecast.png
	$(BIN)/python examples/05_totals.py --dataset sea_temperature --picture docs/images/paths.png
	$(BIN)/python examples/08_look_inside.py --picture docs/images/scales.png

dist: setup-test
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist

wheelhouse: dist
	rm -rf $(WHEELHOUSE)
	$(BIN)/python -m pip wheel --wheel-dir $(WHEELHOUSE) -c constraints.txt $(TORCH) dist/*.whl

lint: setup-test
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/lint-imports

types: setup-test
	$(BIN)/mypy

GPU_OUT := runs/mini
GPU_SECONDS := 480
GPU_WORKERS := 14

gpu-pretrain:
	PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True OMP_NUM_THREADS=1 $(or $(PYTHON),python3) -m darts_msft.pretraining \
	  --device cuda --precision bfloat16 --any-order --out $(GPU_OUT) --width 192 --layers 8 --tokens 98304 \
	  --steps 30000 --seconds $(GPU_SECONDS) --learning-rate 0.0012 --hidden-learning-rate 0.004 --warmup 300 \
	  --decay 0.34 --ema 0.98 --clear 600 --rates 0.3 --workers $(GPU_WORKERS) --log-every 25 --save-every 1500

setup-demo: $(DEMO_READY)
setup-test: $(TEST_READY)

# A stamp is written only after all of its step succeeded, so what failed or was interrupted is done again. The marker
# .installing outlives an interrupted or failed pip, whose half-written packages pip itself may not notice: start afresh then.
$(MADE): pyproject.toml constraints.txt
	@found=; tried=; clear=; \
	for p in $(PYTHONS); do \
	  if $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then found=$$p; break; fi; \
	  tried="$$tried $$p ($$($$p --version 2>/dev/null || echo 'does not run'))"; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "darts-msft needs Python 3.11 or newer; tried:$$tried. Name another: make PYTHON=/path/to/python3.11" >&2; \
	  exit 1; \
	fi; \
	if [ -e $(VENV)/.installing ] || ! $(BIN)/python -m pip --version >/dev/null 2>&1; then clear=--clear; fi; \
	echo "setting up $(VENV) with $$($$found --version)"; \
	$$found -m venv $$clear $(VENV)
	@rm -f $@ $(DEMO_READY) $(TEST_READY); touch $(VENV)/.installing
	$(PIP_INSTALL) $(TORCH)
	@rm $(VENV)/.installing; touch $@

$(DEMO_READY): $(MADE)
	@touch $(VENV)/.installing
	$(PIP_INSTALL) -c constraints.txt -e .
	@rm $(VENV)/.installing; touch $@

$(TEST_READY): $(MADE)
	@rm -f $(DEMO_READY); touch $(VENV)/.installing
	$(PIP_INSTALL) -c constraints.txt -e '.[moment,peft,tune,baselines,benchmarks,docs,onnx,dev]'
	$(PIP_INSTALL) -c constraints.txt --no-deps $(MOMENTFM)
	$(BIN)/python -W ignore -c 'import darts.models, uni2ts.model.moirai.forecast, momentfm, peft' # compiled here, once
	@rm $(VENV)/.installing; touch $(DEMO_READY) $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache darts_logs lightning_logs
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +
