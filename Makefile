# Everything installs into .venv (and .venv-3.X) here and nowhere else. The stamps in them are what make a second
# `make test` start at once: they are renewed only when a source that gets installed has changed.

PYTHON ?= python3
VENV ?= .venv
EXTRA ?= test
PYTEST_ARGS ?=
WERROR ?=
# Test processes side by side: most tests wait for a process or a clock. 0 runs them in pytest's own, as a debugger wants.
JOBS ?= $(shell echo $$((2 * $$(nproc))))

SOURCES := $(shell find advlog_fast csrc -name '*.py' -o -name '*.pyi' -o -name 'py.typed' -o -name '*.[ch]' -o -path '*/static/*' -type f)
PACKAGING := pyproject.toml setup.py $(wildcard MANIFEST.in README.md LICENSE)

.PHONY: help demo test test-all test-versions test-gpu test-ui test-integrations test-integrations-all vendor test-spark pytest pytest-asan stress coverage measure bench bench-gpu bench-gate lint ctest ctest-asan ctest-tsan fuzz clean
.DELETE_ON_ERROR:

help: ## Say what can be made
	@sed -n 's/^\([a-z.][a-z0-9.%-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | sed 's/3\.%/3.12/' | \
		while IFS='|' read -r target text; do printf '  make %-22s %s\n' "$$target" "$$text"; done

demo: $(VENV)/has-demo ## Train a classifier on real images, and show its logs
	$(VENV)/bin/advlog demo

test: ctest pytest ## All tests: the C core's, then Python's with torch

# From tests/, with the scripts of the environment: the checkout is then nowhere on sys.path, and the package that is
# tested is the installed one. tests/conftest.py refuses any other.
run_pytest = cd tests && ADVLOG_TEST_INSTALLED=1 PYTHONSAFEPATH=1 ../$(VENV)/bin/pytest $(PYTEST_ARGS)
in_parallel = $(if $(filter-out 0,$(JOBS)),-n $(JOBS) --dist worksteal)

pytest: $(VENV)/has-$(EXTRA) ## The Python tests alone; PYTEST_ARGS chooses, by paths below tests/
	$(run_pytest) $(in_parallel)

# One after another, since each needs the machine. The limit ends a test that hangs: the longest takes 20 minutes alone.
stress: $(VENV)/has-$(EXTRA) ## The Python tests that take minutes; PYTEST_ARGS chooses
	$(run_pytest) -m stress -o faulthandler_timeout=5400

test-all: ## All Python tests but those that need torch, on every CPython from 3.10 to 3.15 that is found
	@versions=$$($(find_pythons) | cut -d ' ' -f 1); \
	test -n "$$versions" || { echo "make test-all: no CPython from 3.10 to 3.15 with venv and ensurepip" >&2; exit 1; }; \
	echo "CPython:" $$versions; \
	$(MAKE) --no-print-directory --keep-going $$(printf 'test-%s ' $$versions)

# What reads the project's text is the same for every interpreter.
OF_THE_TEXT := $(patsubst %,unit/test_%.py,layers ordering_edges powers_of_ten words)

# What the interpreter's version can change: its C API, exits, signals, forks, threads, pickles, warnings.
OF_THE_VERSION := unit/engine unit/session unit/control unit/sampling unit/cli property usage hostile/test_signals.py \
	hostile/test_locks.py stress/test_exits.py stress/test_interrupts.py \
	$(filter-out $(OF_THE_TEXT),$(patsubst tests/%,%,$(wildcard tests/unit/test_*.py)))

test-versions: ## The Python tests that depend on CPython's version, on every CPython found but PYTHON's own
	@own=$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	versions=$$($(find_pythons) | cut -d ' ' -f 1 | grep -vx "$$own"); \
	echo "CPython:" $$versions "beside $$own"; \
	$(MAKE) --no-print-directory --keep-going $$(printf 'test-%s ' $$versions) PYTEST_ARGS="$(OF_THE_VERSION) $(PYTEST_ARGS)"

test-3.%: ## All Python tests but those that need torch, on one CPython
	@python=$$($(find_pythons) | sed -n 's/^3\.$* //p'); \
	test -n "$$python" || { echo "make $@: no CPython 3.$* with venv and ensurepip" >&2; exit 1; }; \
	$(MAKE) --no-print-directory pytest PYTHON="$$python" VENV=.venv-3.$* EXTRA=test-core

# In environments of their own, since frameworks pin what others want newer.
test-integrations: ## Lightning, Transformers, Accelerate, TensorBoard and an S3 server, in an environment of its own
	$(MAKE) --no-print-directory pytest VENV=.venv-integrations EXTRA=$@ PYTEST_ARGS="integrations $(PYTEST_ARGS)"

test-integrations-all: ## The same on the newest versions, and with what is asked for less often: Ray, MLflow, W&B, TRL, recipes
	$(MAKE) --no-print-directory pytest VENV=.venv-integrations-all EXTRA=$@ PYTEST_ARGS="integrations $(PYTEST_ARGS)"

test-ui: ## What people look at: pages in a real browser, screens in a real terminal
	$(MAKE) --no-print-directory pytest VENV=.venv-ui EXTRA=$@ JOBS=2 PYTEST_ARGS="browser $(PYTEST_ARGS)"

vendor: ## Fetch what pages are drawn with, and check that it is what the project has
	npm pack --silent --pack-destination build uplot@1.6.32
	cd build && tar xzf uplot-1.6.32.tgz
	cp build/package/dist/uPlot.iife.min.js build/package/dist/uPlot.min.css advlog_fast/views/static/vendor
	cp build/package/LICENSE advlog_fast/views/static/vendor/uPlot.LICENSE
	git diff --exit-code advlog_fast/views/static/vendor

test-gpu: $(VENV)/has-$(EXTRA) ## What needs a CUDA device, the long forms too
	$(run_pytest) gpu -m "gpu"

test-spark: ## What PySpark reads; needs Java
	@$(MAKE) --no-print-directory pytest VENV=.venv-spark EXTRA=test-spark JOBS=0 PYTEST_ARGS="readers $(PYTEST_ARGS)"

# The sanitizers' runtime must come before the interpreter. Leaks are not looked for: the interpreter has its own.
pytest-asan: ## All Python tests but those that need torch, on a core built with AddressSanitizer and UndefinedBehaviorSanitizer
	ADVLOG_SANITIZE=address,undefined $(MAKE) --no-print-directory .venv-asan/has-test-core VENV=.venv-asan
	cd tests && ADVLOG_TEST_INSTALLED=1 PYTHONSAFEPATH=1 PYTHONMALLOC=malloc \
		ASAN_OPTIONS=detect_leaks=0:verify_asan_link_order=0 UBSAN_OPTIONS=halt_on_error=1 \
		LD_PRELOAD="$$($(CC) -print-file-name=libasan.so) $$($(CC) -print-file-name=libstdc++.so)" \
		../.venv-asan/bin/pytest $(PYTEST_ARGS) $(in_parallel)

# One point below what was measured.
PYTHON_BRANCHES ?= 78.4
C_LINES ?= 95.9
COVERED_BY ?= unit usage integrations

coverage: ## What the tests reach: branches of Python, lines of C, in per cent; fails below PYTHON_BRANCHES or C_LINES
	@$(MAKE) --no-print-directory measure VENV=.venv-coverage

coverage = $(VENV)/bin/coverage
gcovr = $(CURDIR)/$(VENV)/bin/gcovr
counts = $(CURDIR)/build/coverage/counts
each_process = import os; os.environ["GCOV_PREFIX"] = f"$(counts)/{os.getpid()}"

# Each process leaves the counts of C in a folder of its own: one that is killed while it writes them tears no other's.
measure: export COVERAGE_RCFILE = $(CURDIR)/pyproject.toml
measure: export COVERAGE_FILE = $(CURDIR)/build/coverage/python
measure:
	ADVLOG_COVERAGE=1 ADVLOG_DEBUG=1 $(MAKE) --no-print-directory $(VENV)/has-coverage
	echo '$(each_process)' >$$($(VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/counts.pth
	rm -rf build/coverage build/c/coverage && mkdir -p $(counts)
	$(c_tests) VARIANT=coverage OPTIMIZE="-O0 --coverage -fprofile-update=atomic"
	cd tests && ADVLOG_TEST_INSTALLED=1 PYTHONSAFEPATH=1 ../$(coverage) run -m pytest -n 4 $(COVERED_BY) $(PYTEST_ARGS)
	$(coverage) combine --quiet
	$(coverage) json --quiet -o build/coverage/python.json
	.ci/merge-counts $(counts) build/coverage/merged
	find $(VENV)/source -name '*.gcda' -delete
	cp -R build/coverage/merged/$(CURDIR)/$(VENV)/source $(VENV)
	$(gcovr) --root $(VENV)/source --filter '.*/csrc/' --json build/coverage/modules.json $(VENV)/source
	cd tests/c && $(gcovr) --root ../.. --filter '.*/csrc/' --json $(CURDIR)/build/coverage/tests.json ../../build/c/coverage/core
	$(gcovr) -a build/coverage/modules.json -a build/coverage/tests.json --json-summary build/coverage/c.json
	$(VENV)/bin/python .ci/coverage-figures build/coverage $(PYTHON_BRANCHES) $(C_LINES)

# The peers are measured where they are installed: `make bench BENCH_EXTRA=bench-peers`. So are the environments that
# `make test-all` has made.
BENCH_EXTRA ?= bench
RESULTS ?= local

bench: $(VENV)/has-$(BENCH_EXTRA) ## Measure everything, into benchmarks/results/: 20 minutes of a machine that does nothing else
	mkdir -p build
	cd benchmarks && ../$(VENV)/bin/pytest --benchmark-json=../build/bench.json $(PYTEST_ARGS)
	$(VENV)/bin/python benchmarks/report.py build/bench.json benchmarks/results/$(RESULTS)

bench-gpu: ## Measure values on a GPU, beside its peers: five minutes of a machine with one; RESULTS names the files
	$(MAKE) --no-print-directory bench BENCH_EXTRA=bench-peers PYTEST_ARGS=bench_gpu.py

bench-gate: $(VENV)/has-bench ## What no change may make dearer: instructions, and ratios within one run
	cd benchmarks && ../$(VENV)/bin/pytest gate.py

lint: $(VENV)/has-dev ## ruff, its formatter, mypy, pyright, clang-format
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	cd tests && PYTHONPATH=.. ../$(VENV)/bin/pytest unit/test_typing.py $(PYTEST_ARGS)
	$(VENV)/bin/clang-format --dry-run -Werror $(shell find csrc tests benchmarks -name '*.[ch]')

clean: ## Remove the environments and everything built
	rm -rf .venv .venv-3.* .venv-coverage .venv-spark .venv-integrations .venv-integrations-all .venv-ui build

# --- environments ---------------------------------------------------------------------------------------------------

# "3.12 /path/to/python" a line, the first that works of each version. A name on PATH may be a shim that fails.
define find_pythons
for python in $(PYTHON) python3.10 python3.11 python3.12 python3.13 python3.14 python3.15 \
	"$$HOME"/.pyenv/versions/*/bin/python3; do \
	"$$python" -c 'import ensurepip, sys, sysconfig, venv; v = sys.version_info; \
		(3, 10) <= v[:2] <= (3, 15) and v.releaselevel == "final" and sys.implementation.name == "cpython" \
		and not sysconfig.get_config_var("Py_GIL_DISABLED") and print("%d.%d" % v[:2], sys.executable)' 2>/dev/null; \
done | sort -t . -k 2,2n -s | awk '!seen[$$1]++'
endef

$(VENV)/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "$(PYTHON) is older than 3.10 or missing: name another with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make environments: install its venv module (Debian: apt install python3-venv)" >&2; exit 1; }
	@command -v $(firstword $(CC)) >/dev/null || { \
		echo "there is no C compiler: install one (Debian: apt install gcc)" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

# From a clean copy: nothing that an earlier build left gets in, and two versions never build in one place.
define install # the extra's name
@rm -rf $(VENV)/source && mkdir $(VENV)/source
@cp -R $(PACKAGING) advlog_fast csrc $(VENV)/source
CPATH=$$(.ci/python-headers $(VENV)/bin/python $(VENV)/headers) && export CPATH && \
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check "$(VENV)/source[$(1)]"
@touch $@
endef

# has-demo, has-test, has-test-core: the package, with what that extra names.
$(VENV)/has-%: $(SOURCES) $(PACKAGING) .ci/python-headers | $(VENV)/made
	$(call install,$*)

# The linters read the checkout: they need what the package needs, and not its newest build.
$(VENV)/has-dev: pyproject.toml | $(VENV)/made
	$(call install,dev)

# --- the C core, without Python -------------------------------------------------------------------------------------

# Warnings are errors where .ci/run says so: another compiler's new warning must not keep anyone from testing.
c_tests = $(MAKE) --no-print-directory -j$$(nproc) -C tests/c WARNINGS="-Wall -Wextra $(WERROR)"

ctest: ## The C core's tests
	$(c_tests)

ctest-asan: ## The same under AddressSanitizer and UndefinedBehaviorSanitizer
	$(c_tests) SANITIZE=address,undefined

# ThreadSanitizer cannot place its shadow memory where the kernel randomises addresses too widely.
ctest-tsan: ## The same under ThreadSanitizer
	+$(shell setarch -R true 2>/dev/null && echo setarch -R) $(c_tests) SANITIZE=thread

# A driver refuses what is newer than itself, and the code needs nothing that is newer than these: ptxas of CUDA 11.8 takes it too.
ptx: ## The code that copies values from a GPU, compiled again; needs nvcc
	mkdir -p build && nvcc --ptx -arch=sm_75 csrc/put.cu -o build/put.ptx
	{ echo "// csrc/put.cu, compiled by \`make ptx\`: $$(nvcc --version | sed -n 's/.*, \(release.*\)/nvcc \1/p');"; \
	  echo "// .version and .target lowered, so that drivers from CUDA 10.0 on take it."; \
	  sed -e '/^\/\//d' -e '/^$$/d' -e 's/^\.version .*/.version 6.3/' -e 's/^\.target .*/.target sm_70/' build/put.ptx; } \
		>advlog_fast/engine/put.ptx

FUZZ_SECONDS ?= 60

fuzz: ## Damaged rings, spools, names and slots, each FUZZ_SECONDS long; needs clang
	@command -v $(or $(CLANG),clang) >/dev/null || { \
		echo "there is no clang: install it with its runtime (Debian: apt install clang)" >&2; exit 1; }
	$(c_tests) fuzz FUZZ_SECONDS=$(FUZZ_SECONDS)
