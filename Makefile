# Conveniences; everything else is `.venv/bin/snakemake`.
PYTHON ?= python3
UV = .venv/bin/python -m uv pip

.PHONY: release test check setup locks generated

release: .venv/workflow ## take the releases of config/config.yaml to a verdict and a bundle
	.venv/bin/snakemake release

setup: .venv/workflow ## make the driver environment

test: check ## run all tests
	.venv/bin/python -m pytest

check: .venv/develop ## lint and formats
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/snakefmt --check --quiet Snakefile rules
	.venv/bin/snakemake --lint --quiet

locks: .venv/develop ## remake envs/*.lock from envs/*.in, and the catalogue of ModelOpt's recipes
	.venv/bin/python scripts/make_locks.py
	.venv/bin/snakemake --quiet all -- .envs/quantize.cpu.json
	.envs/quantize.cpu/bin/python scripts/make_recipe_catalogue.py

generated: .venv/develop ## remake the schemas and the picture of the graph (needs graphviz)
	.venv/bin/python scripts/make_schemas.py
	.venv/bin/snakemake --forceall --dag dot -- release > docs/graph.dot
	tred docs/graph.dot | dot -Tsvg > docs/graph.svg

.venv/workflow: envs/workflow.lock
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, found " + sys.version) if sys.version_info < (3, 11) else None'
	test -x .venv/bin/python || $(PYTHON) -m venv .venv || { rm -rf .venv; echo 'venv is missing: apt-get install python3-venv'; exit 1; }
	awk '/^[a-z]/ { keep = /^uv==/ } keep' $< > .venv/uv.lock
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --requirement .venv/uv.lock
	$(UV) install --quiet --require-hashes --no-deps --compile-bytecode --requirements $<
	touch $@

.venv/develop: envs/develop.lock .venv/workflow
	$(UV) install --quiet --require-hashes --no-deps --compile-bytecode --requirements $<
	touch $@
