# make train | check | test | lab | bench | speedrun | results | pictures | notebooks | site | test-browser:
# each makes the environment first if it is not there.
PYTHON ?= python3
BIN := .venv/bin
LESSONS := $(wildcard notebooks/*.ipynb notebooks/solutions/*.ipynb)

.PHONY: train check test lab bench speedrun results pictures notebooks site test-browser

train: .venv/installed
	$(BIN)/papermill --no-progress-bar --stdout-file - --stderr-file - notebooks/03_train_envnet.ipynb runs/03_train_envnet.ipynb

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: .venv/installed
	$(BIN)/python -m pytest --nbval

# In a copy of yours, made once; what you change stays as it is. The root is here, so that links to docs/ lead there.
lab: .venv/installed
	$(BIN)/python -m esc_lib.lessons
	$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/my_lessons/00_start_here.ipynb

# About half an hour on two cores. Add BENCH="envnet m5 --dataset esc10" for less, or for other clips.
bench: .venv/installed
	$(BIN)/python -m esc_lib.bench $(BENCH)

# Repeats M34-res of the README's board, on the official wavs, in about 40 minutes on two cores; SPEEDRUN="m11 --epochs 50"
# tries another.
speedrun: .venv/installed
	$(BIN)/python -m esc_lib.bench.speedrun $(SPEEDRUN)

# Writes the tables of measured results in the README, docs/results.md and the notebooks from data/results.
results: .venv/installed
	$(BIN)/python -m esc_lib.results

# The notebooks as they are committed, the docs and the library's reference. Warnings are errors, so all is read afresh.
site: .venv/installed-site
	rm -rf site/_build/html
	mkdir -p site/_build/html
	$(BIN)/python site/layout.py
	test ! -f site/live/build.py || $(BIN)/python site/live/build.py
	$(BIN)/python -m sphinx -E -n -q -W --keep-going -c site -d site/_build/doctrees site/_build/source site/_build/html
	@echo 'The site is in site/_build/html. To look at it: $(BIN)/python -m http.server -d site/_build/html, then http://localhost:8000'

.venv/installed-site: .venv/installed
	$(BIN)/python -m pip install --editable '.[site,export]'
	touch $@

# The built site, the page that listens and JupyterLab in Chromium, which is installed on Debian if it is not there.
test-browser: site .venv/installed-browser
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || { \
		command -v apt-get >/dev/null || { echo 'Install Chromium first: these tests drive it.' >&2; exit 1; }; \
		root=$$(test "$$(id -u)" = 0 || echo sudo); \
		$$root apt-get update && $$root apt-get install --yes --no-install-recommends chromium || { \
			echo 'Chromium could not be installed; these tests drive it. Install it, and try again.' >&2; exit 1; }; }
	$(BIN)/python -m pytest --numprocesses=0 tests/browser

.venv/installed-browser: .venv/installed
	$(BIN)/python -m pip install --editable '.[browser]'
	touch $@

# The README's pictures, from data/ and the executed notebooks.
pictures: .venv/installed
	$(BIN)/python docs/pictures/draw.py

# Renewed when the requirements change.
.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11, 4) and "Python 3.11.4 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --editable '.[cluster,dev,export]'
	touch $@

# Runs every notebook in its own order and keeps what it printed (of progress bars the last state): what is committed.
notebooks: .venv/installed
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace --ExecutePreprocessor.record_timing=False $(LESSONS)
	$(BIN)/jupyter nbconvert --to notebook --inplace --coalesce-streams $(LESSONS)
