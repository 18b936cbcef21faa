# Conveniences; everything else is `.venv/bin/snakemake`.
PYTHON ?= python3
UV = .venv/bin/python -m uv pip

SUITES = graph-a-q graph-r-z e2e slurm evaluation exports unit-a-d unit-e-z

.PHONY: release test test-quick environments check setup locks generated docs browser coverage $(SUITES:%=test-%)

release: .venv/workflow ## take the releases of config/config.yaml to a verdict and a bundle
	.venv/bin/snakemake release

setup: .venv/workflow ## make the driver environment

test: check docs ## run all tests, the end-to-end ones included
	$(MAKE) --jobs 3 --keep-going --output-sync=target $(SUITES:%=test-%)

test-quick: .venv/develop ## run the tests that need no server, no cluster and no environment of a stage
	$(MAKE) --jobs 2 --keep-going --output-sync=target test-unit-a-d test-unit-e-z

# One process each, three at a time on two cores, begun in this order as soon as what they need is there, since a third
# of their time is waiting: for clusters, servers, deadlines. The folders share no file that they write.
$(SUITES:%=test-%):
	.venv/bin/python -m pytest $(PYTEST_OPTIONS) $(or $(FOLDERS),$(@:test-%=tests/%))

# The folder with the most tests, in two parts by the first letter of the file.
test-graph-a-q test-graph-r-z: private FOLDERS = $(@:test-graph-%=tests/graph/test_[%]*.py)
# The unit tests by the first letter of the folder; the library of faults shares what they import.
test-unit-a-d: private FOLDERS = tests/unit/[a-d]*/ tests/unit/test_*.py tests/faults
test-unit-e-z: private FOLDERS = tests/unit/[e-z]*/
test-unit-e-z: browser
test-evaluation test-e2e test-exports test-slurm: environments

# Lines that tests/unit runs in its own process. It doubles the time of these tests, so that `make test` leaves it out.
coverage: .venv/develop ## say how much of scripts/day0 the unit tests run
	.venv/bin/python -m pytest --quiet --cov --cov-report=term:skip-covered tests/unit

environments: .venv/workflow ## make what the tests with the real tools share: the environments and the embedded model
	.venv/bin/snakemake --quiet all -- environments .envs/nemo-evaluator.json .envs/mlflow.json results/tiny-llama/source.json

check: .venv/develop ## lint, formats and types
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/snakefmt --check Snakefile rules
	.venv/bin/mypy

browser: ## install what the tests of the pages need; without it they are skipped
	@{ command -v chromium && command -v pdftotext; } > /dev/null || \
		{ apt-get update --quiet && apt-get install --quiet --yes --no-install-recommends chromium poppler-utils; } || \
		echo 'no chromium or pdftotext, and no right to install them: the tests of the pages are skipped'

locks: .venv/develop ## remake envs/*.lock from envs/*.in, the catalogue of ModelOpt's recipes, the tables of vLLM
	.venv/bin/python scripts/make_locks.py
	.venv/bin/snakemake --quiet all -- .envs/quantize.cpu.json
	.envs/quantize.cpu/bin/python scripts/make_recipe_catalogue.py
	.venv/bin/snakemake --quiet all -- .envs/serve.cpu.json
	.envs/serve.cpu/bin/python scripts/make_server_options.py
	.envs/serve.cpu/bin/python scripts/make_engine_table.py

generated: .venv/develop ## remake the schemas and the pictures of the packages and of the graph (needs graphviz)
	.venv/bin/python scripts/make_schemas.py
	.venv/bin/python scripts/make_package_picture.py
	.venv/bin/snakemake --forceall --dag dot -- release > docs/graph.dot
	tred docs/graph.dot | dot -Tsvg > docs/graph.svg

docs: .venv/workflow .envs/docs.json ## build the documentation as a site, links checked: site/index.html
	.venv/bin/python scripts/make_docs.py
	NO_MKDOCS_2_WARNING=1 .envs/docs/bin/mkdocs build --quiet --strict
	@echo 'the documentation is in site/index.html'

# No target of the graph: two snakemakes in one folder would wait for each other.
.envs/docs.json: envs/docs.lock .venv/workflow
	.venv/bin/python scripts/build_environment.py --lock $< --output $@
	@touch $@

.venv/workflow: envs/workflow.lock envs/driver.pth
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed, found " + sys.version)'
	@# Debian keeps what venv needs in a package of its own.
	@test -x .venv/bin/pip || $(PYTHON) -m venv --clear .venv || { rm -rf .venv; apt-get install --yes python3-venv; } || \
		{ echo 'error: Python has no venv module; install it (Debian: apt-get install python3-venv) and run make again'; exit 1; }
	@test -x .venv/bin/pip || $(PYTHON) -m venv --clear .venv
	awk '/^[a-z]/ { keep = /^uv==/ } keep' $< > .venv/uv.lock
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --requirement .venv/uv.lock
	$(UV) install --quiet --require-hashes --no-deps --compile-bytecode --requirements $<
	@# By this line Snakemake finds the project's plugin for its terminal.
	for folder in .venv/lib/python3*/site-packages; do cp envs/driver.pth "$$folder/day0.pth"; done
	touch $@

.venv/develop: envs/develop.lock .venv/workflow
	$(UV) install --quiet --require-hashes --no-deps --compile-bytecode --requirements $<
	touch $@
