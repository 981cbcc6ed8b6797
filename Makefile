# Every target works on a machine that has only Python 3 and pip: uv is installed when it is missing.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help demo test check chaos competition uv

# Asked again in each recipe, because `make uv` may just have installed it.
UV = $$(for try in uv "python3 -m uv" .venv-uv/bin/uv; do $$try --version >/dev/null 2>&1 && echo $$try && break; done)
RUN = $(UV) run --no-sync
SYNC = $(UV) sync --frozen --quiet --extra cpu
TRIALS ?= 40

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: uv ## search 40 configurations of the embedded model, export the best, check the zip
	$(SYNC)
	$(RUN) python -m search.run --trials $(TRIALS)
	$(RUN) python -m search.export --out submit.zip
	$(RUN) python -m search.check submit.zip

test: check ## lint, types, then all tests, with real vLLM on the CPU
	$(RUN) pytest

check: uv ## lint, format and types
	$(SYNC)
	$(RUN) ruff check
	$(RUN) ruff format --check
	$(RUN) mypy

chaos: uv ## kill searches in every stage, fill disks, 10,000 malformed inputs (an hour on 2 cores)
	$(SYNC)
	CHAOS=long $(RUN) pytest tests/chaos -s

competition: uv ## prove that an exported zip answers the same with the contest's versions (on a CPU)
	$(SYNC)
	UV_PROJECT_ENVIRONMENT=.venv-competition $(UV) sync --frozen --quiet --no-dev --extra competition-cpu
	$(RUN) python tests/competition/proof.py --peer .venv-competition/bin/python

uv: # a package manager that reads uv.lock; pip fails in some system Pythons, a private venv does not
	@if [ -z "$(UV)" ]; then \
		echo "installing uv" >&2; \
		python3 -m pip install --quiet --user uv >&2 \
		|| python3 -m pip install --quiet uv >&2 \
		|| { python3 -m venv .venv-uv && .venv-uv/bin/pip install --quiet uv >&2; }; \
	fi
	@if [ -z "$(UV)" ]; then \
		echo "uv could not be installed; see https://docs.astral.sh/uv/getting-started/installation" >&2; exit 3; \
	fi
