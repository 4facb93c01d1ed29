# `make` sets everything up and runs the default study; `make test` runs the tests.
# Nothing but python3 (3.11-3.13, with venv) is needed beforehand.

PYTHON ?= python3
UV_VERSION := 0.13.0
STUDY ?= default
STUDIES = $(sort $(basename $(notdir $(wildcard config/studies/*.yaml))))
CONFIG = $(if $(filter default,$(STUDY)),,--configfile $(if $(filter $(STUDY),$(STUDIES)),config/studies/$(STUDY).yaml,$(error unknown STUDY $(STUDY); known: default $(STUDIES))))
ENV := .venv/.ready
# Scripts call `python`, `snakemake` and `ruff` by name: take ours.
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: study
study: $(ENV)  ## run a study and write its report (STUDY=name for config/studies/name.yaml)
	snakemake --cores all $(CONFIG)
	snakemake --report results/$(STUDY)/workflow.html $(CONFIG) --quiet
	@echo "report: results/$(STUDY)/report.html"

.PHONY: verify
verify: $(ENV)  ## recompute every invariant of the bounds for a sample of a study's checkpoints (STUDY=name)
	@echo "up to 30 checkpoints are drawn and every bound of each computed anew: minutes for small networks, an hour for large ones"
	snakemake --cores all $(CONFIG) --forcerun verify -- results/$(STUDY)/verification.json

.PHONY: status
status: $(ENV)  ## what of a study is done, running, failed; disk used, time left (STUDY=name)
	@python scripts/status.py $(STUDY)

.PHONY: archive
archive: $(ENV)  ## pack a study's table, figures, findings and provenance with checksums (STUDY=name)
	python scripts/archive.py $(STUDY)

.PHONY: check-archive
check-archive: $(ENV)  ## verify the checksums of an archive (STUDY=name)
	python scripts/archive.py --check results/$(STUDY).tar.gz

.PHONY: test
test: $(ENV)  #- run the tests
	OMP_NUM_THREADS=1 python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# Counting costs 29 % more CPU time (Python 3.11's tracer; 27.7 s -> 35.8 s for tests of layers and
# structure), so `make test` goes without. Jobs in processes of their own are not counted.
.PHONY: coverage
coverage: $(ENV)  #- run the tests and print which lines of the library they reach
	OMP_NUM_THREADS=1 python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder --cov

.PHONY: gpu-wheels
gpu-wheels: $(ENV)  #- fetch what benchmarks/gpu.sh needs on a GPU machine without a network, into .whl
	python benchmarks/gpu_wheels.py

.PHONY: docs-numbers
docs-numbers: $(ENV)  #- take tables and numbers of docs/ from the studies in results/, write them
	python benchmarks/docs_numbers.py

.PHONY: reproduction
reproduction: $(ENV)  #- take what results/ say of the papers' statements, write docs/reproduction.md
	python benchmarks/reproduction.py

.PHONY: docs-check
docs-check: $(ENV)  #- run the default study; do the numbers in docs/ agree with it within its seeds?
	snakemake --cores all
	python benchmarks/docs_numbers.py --agree default

.PHONY: docs
docs: $(ENV)  #- write the pages and a reference of the library to site/html
	rm -rf site && mkdir -p site/pages/results site/pages/config
	cp README.md site/pages/index.md && cp -r CONTRIBUTING.md CHANGELOG.md CITATION.cff LICENSE docs site/pages
	cp config/config.yaml site/pages/config && cp results/README.md site/pages/results
	python scripts/reference.py site/pages/reference
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet

.PHONY: lint
lint: $(ENV)  #- check style and types of the code, and the workflow
	ruff check .
	ruff format --check .
	mypy
	snakefmt --check Snakefile workflow
	snakemake --lint

.PHONY: format
format: $(ENV)  #- bring code and workflow into the project's style
	ruff check --fix .
	ruff format .
	snakefmt Snakefile workflow

.PHONY: protocols
protocols: $(ENV)  #- write docs/protocols.md from the headers of the papers' studies
	python benchmarks/protocols.py

.PHONY: rooms
rooms: $(ENV)  #- draw the rooms of the library and their imports anew (docs/rooms.md)
	python scripts/rooms.py docs/rooms.md

.PHONY: plugin
plugin: $(ENV)  #- write a plug-in to begin with (KIND=bounds NAME=my_bound)
	@python scripts/skeleton.py $(KIND) $(NAME)

.PHONY: table-words
table-words: $(ENV)  #- write what the table's columns and quantities are into docs/table.md
	python scripts/table_words.py docs/table.md

.PHONY: env
env: $(ENV)  #- set up .venv only

$(ENV): requirements.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v < (3, 14) or sys.exit(f"Python 3.11 to 3.13 is needed, {sys.executable} is %d.%d; say make PYTHON=..." % v)'
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet uv==$(UV_VERSION)
	.venv/bin/uv pip install --quiet --python .venv --require-hashes --compile-bytecode -r requirements.txt
	@touch $@

.PHONY: lock
lock: $(ENV)  #- pin every dependency anew
	uv pip compile pyproject.toml --group dev --group cluster --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --quiet -o requirements.txt

.PHONY: clean
clean:  ## delete a study's results (STUDY=name)
	@case "$(STUDY)" in ''|.*|*/*) echo "STUDY=$(STUDY): allowed is the name of a study" >&2; exit 1;; esac
	@test -d "results/$(STUDY)" || { echo "STUDY=$(STUDY): there is no results/$(STUDY); there are: $$(cd results && ls -d */ 2>/dev/null | tr -d / | tr '\n' ' ')" >&2; exit 1; }
	rm -rf "results/$(STUDY)"

# Targets with what stands behind their mark: ## of studies, #- of the code.
told = grep -hE '^[a-z-]+:.*$(1) ' $(MAKEFILE_LIST) | sed -E 's/:.*$(1) /:/; s/^/  /' | column -t -s: -l 2

.PHONY: help
help:  ## show this list
	@echo "For studies:"; $(call told,##)
	@echo "For changing the code and the pages:"; $(call told,#-)
	@echo "STUDY=name is one of: default $(STUDIES)" | fold -s -w 100
