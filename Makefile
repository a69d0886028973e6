# make train | make test | make lab: each makes the environment first if it is not there.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: train test lab

train: .venv/installed
	mkdir -p runs
	$(BIN)/papermill --no-log-output notebooks/03_train_envnet.ipynb runs/03_train_envnet.ipynb

test: .venv/installed
	$(BIN)/python -m pytest --nbval

lab: .venv/installed
	$(BIN)/jupyter lab notebooks

# Renewed when the requirements change.
.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --editable .
	touch $@
