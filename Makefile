# Targets install what they need into .venv once; pyproject.toml or constraints.txt changing
# installs again.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lab check notebooks clean

demo: $(VENV)/.installed-demo
	$(BIN)/python -m avmixup_kit demo

lab: $(VENV)/.installed-notebooks
	$(BIN)/jupyter lab --ServerApp.ip=127.0.0.1 --notebook-dir=notebooks

test: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile $(PYTEST_ARGS)

$(VENV)/.created:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed"'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.installed-demo: EXTRAS = cli,plots
$(VENV)/.installed-notebooks: EXTRAS = notebooks
$(VENV)/.installed-test: EXTRAS = test

$(VENV)/.installed-%: $(VENV)/.created pyproject.toml constraints.txt
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[$(EXTRAS)]'
	touch $@

clean:
	rm -rf $(VENV) demo
