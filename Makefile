# Targets install what they need into .venv once; pyproject.toml or constraints.txt changing
# installs again.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Jupyter asks whoever is root, in a container say, to say so.
AS_ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)

.PHONY: demo test torture portable lab site cuda cuda-pack cuda-first cuda-tables clean

demo: $(VENV)/.installed-demo
	$(BIN)/python -m avmixup_kit demo

# Running a notebook is no change of it: CONTRIBUTING.md says how to store its outputs anew.
lab: $(VENV)/.installed-notebooks
	@[ ! -e .git ] || git config --local filter.avmixup-notebook.clean '$(BIN)/python notebooks/clean.py %f' || true
	$(BIN)/python -m jupyterlab --ServerApp.ip=127.0.0.1 --ServerApp.root_dir=. \
		--FileContentsManager.post_save_hook=notebooks.clean.saved \
		--LabApp.default_url=/lab/tree/notebooks/06_start_here.ipynb $(AS_ROOT)

# Notebooks, proofs, explorers and API as pages that need no kernel and no network.
site: $(VENV)/.installed-docs
	$(BIN)/sphinx-build -q -W --keep-going -c docs/site -d build/doctrees . build/site
	@echo "open build/site/index.html"

# Every part runs, whatever the parts before it said; which ones failed stands at the end.
test: $(VENV)/.installed-test
	@failed=; export OMP_NUM_THREADS=$${AVMIXUP_TEST_THREADS:-1}; \
	part() { echo "== $$*"; "$$@" || failed="$$failed\n    $$*"; }; \
	part $(BIN)/ruff check .; \
	part $(BIN)/ruff format --check .; \
	part $(BIN)/pyright; \
	part $(BIN)/pytest -n 2 --dist loadfile $(PYTEST_ARGS); \
	part $(BIN)/pytest --nbval notebooks -n 2 --dist loadfile $(PYTEST_ARGS); \
	[ -z "$$failed" ] || { printf "FAILED:$$failed\n"; exit 1; }

# Kills, full disks, power losses, damaged and hostile files, for half an hour; killed itself, the
# same command goes on. Its table is committed with the commit it is about.
torture: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.torture $(TORTURE_ARGS)

# Everything that trains, as other CPUs would round it. About two hours on two cores.
portable: $(VENV)/.installed-test
	BIN=$(BIN) .ci/portable

# What a change must pass before it is pushed; types are checked beside tests that take little.
.PHONY: check
FAST := $(addprefix tests/,_base $(addsuffix .py,$(addprefix gaussian/test_,arguments limits \
	reference speed) \
	methods/test_attacks test_layers test_private_apis test_paper test_doors))
check: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@$(BIN)/pyright & types=$$!; \
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q $(FAST) $(PYTEST_ARGS); tests=$$?; \
	wait $$types && exit $$tests

# Installs nothing: it runs on images that have torch and no network. $(PYTHON), else the venv.
cuda:
	@python="$(PYTHON)"; \
	$$python -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null || \
		{ [ -x $(BIN)/python ] && python=$(BIN)/python; }; \
	$$python benchmarks/cuda_benchmark.py $(CUDA_ARGS)

# What a machine without network lacks, below 40 MiB, into the ignored folder cuda-pack/.
cuda-pack: $(VENV)/.installed-test
	$(BIN)/python benchmarks/cuda_pack.py --images $${AVMIXUP_TEST_DATA:-data}

# A GPU's first twenty minutes; they write below $$OUT and install nothing.
cuda-first cuda-tables:
	$(PYTHON) benchmarks/cuda_runs.py $(@:cuda-%=%) $(CUDA_ARGS)

$(VENV)/.created:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed"'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.installed-demo: EXTRAS = cli,plots
$(VENV)/.installed-notebooks: EXTRAS = notebooks
$(VENV)/.installed-docs: EXTRAS = docs
$(VENV)/.installed-test: EXTRAS = test

$(VENV)/.installed-%: $(VENV)/.created pyproject.toml constraints.txt
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[$(EXTRAS)]'
	touch $@

clean:
	rm -rf $(VENV) demo
