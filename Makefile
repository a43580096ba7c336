# Every target sets up what is missing first; CI calls the same targets as a person.
PYTHON ?= python3
VENV   := .venv
BIN    := $(CURDIR)/$(VENV)/bin
STAMP  := $(VENV)/.requirements
export PATH := $(BIN):$(PATH)
# No stage may reach outside, and DVC sends no usage statistics.
export DVC_NO_ANALYTICS := 1
# Without it glibc keeps memory that the stages have freed; two arenas serve two cores.
export MALLOC_ARENA_MAX ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup repro test check format lint types audit deps preset compare bench drill lock clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | sort | expand -t 12

$(STAMP): requirements.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Python 3.11 or newer is needed, got {v[0]}.{v[1]}; set PYTHON=/path/to/python")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	@cp requirements.lock $@

setup: $(STAMP)  ## the environment alone: .venv from requirements.lock, hashes checked

repro: setup  ## check params.yaml, then run what its changes call for (one run at a time)
	@python -m pipeline.jobs.repro

test: setup  ## the tests
	python -m pytest

lint: setup
	ruff check .
	ruff format --check .

types: setup
	mypy

check: lint types audit  ## lint, format and type checks, and what is known to be unsafe

# Without a way to the advisories nothing is audited, and that is said; a finding fails.
audit: setup
	bandit --quiet --configfile pyproject.toml --recursive pipeline stages benchmarks
	@pip-audit --requirement requirements.lock --no-deps --disable-pip --progress-spinner off > $(VENV)/.audit 2>&1 \
	  || { grep -q '^Found' $(VENV)/.audit && cat $(VENV)/.audit && exit 1; } || echo 'pip-audit: the advisories cannot be reached'
	@grep -v '^WARNING' $(VENV)/.audit | head -1

format: setup  ## let ruff mend what it can
	ruff check --fix .
	ruff format .

deps: setup  ## write every stage's import closure into dvc.yaml
	@python -m pipeline.jobs.code

preset: setup  ## switch params.yaml to a preset: make preset NAME=digits
	@python -m pipeline.params --preset '$(NAME)'

compare: setup  ## two reports side by side: make compare A=reports/digits B=HEAD~1 (folders, or git revisions)
	@python -m pipeline.report.compare $(if $(A),'$(A)') $(if $(B),'$(B)')

bench: setup  ## the benchmarks
	python -m benchmarks

drill: setup  ## disturb whole runs in thirteen ways, and compare how they end (benchmarks/drill.csv)
	python -m benchmarks.drill

lock:  ## compile requirements.lock anew (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --custom-compile-command 'make lock' --extra timm --group dev --group bench pyproject.toml --output-file requirements.lock

clean:  ## empty the job store: finished jobs and resume points (results stay, in DVC's cache)
	rm -rf .jobs
