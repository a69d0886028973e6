# make train | check | test | lab | bench | speedrun | results | notebooks: each makes the environment first if it is not there.
PYTHON ?= python3
BIN := .venv/bin
LESSONS := $(wildcard notebooks/*.ipynb notebooks/solutions/*.ipynb)

.PHONY: train check test lab bench speedrun results notebooks

train: .venv/installed
	$(BIN)/papermill --no-progress-bar --stdout-file - --stderr-file - notebooks/03_train_envnet.ipynb runs/03_train_envnet.ipynb

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: .venv/installed
	$(BIN)/python -m pytest --nbval

# In a copy of yours, made once; what you change stays as it is.
lab: .venv/installed
	$(BIN)/python -m esc_lib.lessons
	$(BIN)/jupyter lab my_lessons

# About half an hour on two cores. Add BENCH="envnet m5 --dataset esc10" for less, or for other clips.
bench: .venv/installed
	$(BIN)/python -m esc_lib.bench $(BENCH)

# Repeats M18 of the README's board, in about 25 minutes on two cores; SPEEDRUN="m11 --epochs 50" tries another.
speedrun: .venv/installed
	$(BIN)/python -m esc_lib.bench.speedrun $(SPEEDRUN)

# Writes the tables of measured results in the README, docs/results.md and the notebooks from data/results.
results: .venv/installed
	$(BIN)/python -m esc_lib.results

# Renewed when the requirements change.
.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11, 4) and "Python 3.11.4 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --editable '.[cluster,dev]'
	touch $@

# Runs every notebook in its own order and keeps what it printed (of progress bars the last state): what is committed.
notebooks: .venv/installed
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace --ExecutePreprocessor.record_timing=False $(LESSONS)
	$(BIN)/jupyter nbconvert --to notebook --inplace --coalesce-streams $(LESSONS)
