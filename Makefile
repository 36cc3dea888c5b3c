# Two commands do everything: `make demo` and `make test`. Python 3.11 or newer and a package registry are all they need.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
# One more process than cores, since many tests wait for processes that they start.
WORKERS := $(shell $(PYTHON) -c "import os; print(min(8, (os.cpu_count() or 1) + 1))")
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test browser check site notebooks dist endure faults test-oldest constraints clean

demo: $(VENV)/.installed
	$(BIN)/hardviews pretrain

test: $(VENV)/.installed-test browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

check: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Reports are looked at in a real browser, the system's. Where there is none and it can't be had, those tests are skipped.
browser:
	@for name in chromium chromium-browser google-chrome; do command -v $$name >/dev/null && exit 0; done; \
	[ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null || exit 0; \
	echo "installing chromium, which the tests of reports are shown in"; \
	export DEBIAN_FRONTEND=noninteractive; \
	{ timeout 60 apt-get update && timeout 240 apt-get install -y --no-install-recommends chromium fonts-dejavu-core; } >/dev/null 2>&1 \
	|| echo "it can't be installed; those tests are skipped"

# The documentation as a site, in site/. Broken links and missing pages are errors.
site: $(VENV)/.installed-test
	rm -rf site
	$(BIN)/python -m sphinx -q -n -W --keep-going -b html -d site/.doctrees docs site/html
	@echo "the site lies in site/html/index.html"

# Runs the notebooks of the documentation and stores what they show.
notebooks: $(VENV)/.installed-test
	$(BIN)/python docs/run_notebooks.py

# Wheel and sdist, and the wheel in an environment of its own.
dist: $(VENV)/.installed-test
	rm -rf dist $(VENV)-wheel
	$(BIN)/python -m build --no-isolation
	$(PYTHON) -m venv $(VENV)-wheel
	$(VENV)-wheel/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt dist/*.whl
	$(VENV)-wheel/bin/hardviews --version
	rm -rf $(VENV)-wheel

# What takes hours: the full counts of what `make test` runs a sample of, and tests that take long.
endure: $(VENV)/.installed-test
	ENDURE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 tests/endure
	ENDURE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 -m endure tests

# Puts every fault into real runs, and writes down what came of it.
faults: $(VENV)/.installed-test
	ENDURE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 -m fault --faults docs/faults.md

# The lower bounds of pyproject.toml, on the oldest versions they allow.
test-oldest:
	$(PYTHON) -m venv $(VENV)-oldest
	$(VENV)-oldest/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-oldest.txt -e '.[test]'
	OMP_NUM_THREADS=1 $(VENV)-oldest/bin/python -m pytest -n auto --maxprocesses 8

# Writes down the versions of an environment in which the tests have just passed: names and numbers, no hosts.
constraints: test
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+.*//' | grep -v -i -E '^(nvidia|cuda|triton|-e|.* @ )' > constraints.txt

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing into $(VENV): some minutes and about 6 GB, most of it PyTorch"
	$(PIP) -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-test: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing into $(VENV): some minutes and about 6 GB, most of it PyTorch"
	$(PIP) -c constraints.txt -e '.[test]'
	@touch $(VENV)/.installed $@

clean:
	rm -rf dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
