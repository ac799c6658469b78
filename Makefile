# Everything runs in one environment, made on first use: the active virtual environment, else .venv.
# Another one:      make setup VENV=/path/to/env        another Python for a new one: make setup PYTHON=python3.12
# Further settings: make table2 ARGS="scale=smoke seed=1"

PYTHON ?= python3
VENV   ?= $(if $(VIRTUAL_ENV),$(VIRTUAL_ENV),.venv)
ARGS   ?=
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/.installed
PIP    := $(PY) -m pip --disable-pip-version-check
EXTRAS := detection,export,figures,hf,notebooks,page,sweeps,tracking,docs,dev

.DEFAULT_GOAL := help
.PHONY: help setup demo validate table2 weights smoke test testall coverage lint layers types docs clean

help: ## Show this list
	@grep -hE '^[a-z0-9]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: $(STAMP) ## Install tokenprune, its tools and Detectron2 (again only when setup.cfg changes)

demo: $(STAMP) ## Start here: a picture, a table and a curve in three minutes, linked by results/demo/index.html
	$(PY) -m tokenprune.demo $(ARGS)

validate: $(STAMP) ## Check every row of every experiment at every scale, without data or weights
	$(PY) -m tokenprune.validate $(ARGS)

# Two rows beside each other, a thread each: a second thread would make a row of this size little faster. BESIDE= runs one after another.
BESIDE ?= launcher=joblib hydra.launcher.n_jobs=2

table2: $(STAMP) ## Run Table 2 (preserve against remove) on the embedded data and print it
	$(PY) -m tokenprune.run +experiment=table2_preserve $(BESIDE) $(ARGS)

weights: $(STAMP) ## Retrain the demo's models that the rows start from, in the order that they start from one another
	$(PY) -m tokenprune.run +experiment=demo_weights $(ARGS)
	$(PY) -m tokenprune.run +experiment=demo_classifier $(ARGS)
	$(PY) -m tokenprune.run +experiment=demo_adapter $(ARGS)
	$(PY) -m tokenprune.run +experiment=demo_elastic $(ARGS)
	$(PY) -m tokenprune.run +experiment=demo_classifiers $(ARGS)
	$(PY) -m tokenprune.run +experiment=demo_segmenter $(ARGS)

smoke: $(STAMP) ## Run every experiment in seconds a row: does it work at all?
	$(PY) -m tokenprune.smoke $(ARGS)

# One OpenMP thread a worker: two workers with a thread pool each would fight over two cores.
test: $(STAMP) ## Run the tests but those of whole commands: six minutes on two cores
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n 2 --dist loadfile -m 'not slow and not system' $(ARGS)

testall: $(STAMP) ## Run the tests, those of whole commands, sweeps, exports and processes as well
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n 2 --dist loadfile $(ARGS)

# The two rooms are held to their own tests and to those that measure them; exports trace a model, which takes minutes under coverage.
# The rooms are named as folders: coverage imports a package that is named, drops it again, and the second import of torch ends the process.
coverage: $(STAMP) ## Print which lines of engine/ and methods/ their tests run; below 90 % is an error
	COVERAGE_FILE=$(VENV)/.coverage OMP_NUM_THREADS=1 $(PY) -m pytest -q -n 2 --dist loadfile --cov=tokenprune/engine --cov=tokenprune/methods --cov-report=term \
		--cov-fail-under=90 --ignore=tests/engine/test_export.py tests/engine tests/methods tests/measure $(ARGS)

lint: $(STAMP) ## Check style and format with ruff
	$(PY) -m ruff check . $(ARGS)
	$(PY) -m ruff format --check -q .

layers: $(STAMP) ## Check that rooms import downwards only
	$(VENV)/bin/lint-imports --no-cache

types: $(STAMP) ## Check the types of engine/, methods/ and runs/
	$(VENV)/bin/basedpyright --pythonpath $(PY)

# No --quiet: it hides warnings from --strict, too.
docs: $(STAMP) ## Write the generated pages of docs/ again and build the site, without the network, into site/
	$(PY) -m tokenprune.docs $(ARGS)
	NO_MKDOCS_2_WARNING=true $(PY) -m mkdocs build --strict

clean: ## Remove builds and caches; environments and results stay
	rm -rf build dist site *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +

# The constraints hold a torch that is already there in place: without them torchvision would replace it by its own favourite.
$(STAMP): setup.cfg
	@test -x $(PY) || $(PYTHON) -m venv $(VENV) || \
		{ echo "error: '$(PYTHON) -m venv' failed: install Python 3.10+ with its venv module, or pass PYTHON= or VENV="; exit 1; }
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PY) -m ensurepip >/dev/null
	@$(PIP) list --format=freeze 2>/dev/null | grep -E '^torch(vision|audio)?==' > $(VENV)/torch-constraints.txt || true
	@echo "setting up $(VENV): some minutes and about 6 GB the first time"
	$(PIP) install -q -c $(VENV)/torch-constraints.txt -e '.[$(EXTRAS)]'
	$(PY) -m tokenprune.install_detectron2
	@touch $@
