# `make help` lists the targets. Each sets up what it needs: .venv/<group>/<python> has
# the packages that requirements/<group>.txt pins, and this one, editable.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.SECONDEXPANSION:
MAKEFLAGS += --no-builtin-rules --no-print-directory
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# The tests start hundreds of Pythons: none of them should compile what another has.
unexport PYTHONDONTWRITEBYTECODE

# A Python counts when it runs and can make a venv. A pyenv shim may refuse to run, so
# the interpreters behind the shims are tried as well.
SUPPORTED := 3.11 3.12 3.13
PYENV := $(or $(PYENV_ROOT),$(HOME)/.pyenv)
probe = $(shell $(1) -c 'import sys, venv, ensurepip; print(sys.executable)' 2>/dev/null)
find = $(firstword $(foreach p,python$(1) $(wildcard $(PYENV)/versions/$(1).*/bin/python),$(call probe,$(p))))
$(foreach v,$(SUPPORTED),$(eval PYTHON_$(v) := $(call find,$(v))))
FOUND := $(foreach v,$(SUPPORTED),$(if $(PYTHON_$(v)),$(v)))
MISSING := $(filter-out $(FOUND),$(SUPPORTED))
MAIN := $(or $(firstword $(FOUND)),3.11)

CLI := .venv/cli/$(MAIN)
CHECK := .venv/check/$(MAIN)
TEST := .venv/test/$(MAIN)
BENCH := .venv/bench/$(MAIN)
OLDEST := .venv/oldest/$(MAIN)
LOCK := .venv/lock/3.11
PIP := .venv/pip/$(MAIN)
AUDIT := .venv/audit/$(MAIN)
PEERS := aiogram telegram

CHECKS := formatting lint types layers wheel $(FOUND:%=tests-%) peers oldest

.PHONY: help demo test pythons servers $(CHECKS) $(PEERS:%=peers-%) oldest-tests oldest-types
.PHONY: bench soak mutants lock audit format clean

help: ## list the targets
	@sed -nE 's/^([a-z]+):.* ## (.*)/make \1\t\2/p' Makefile | expand -t 14

demo: private export PATH := $(CURDIR)/$(CLI)/bin:$(PATH)
demo: private export PYTHONPATH := .
demo: $(CLI)/.ready ## replay recorded updates through an example bot, show its sessions
	botsessions replay examples/updates.jsonl --handler examples.signup_bot:handle --store sqlite:///demo.db
	botsessions list --store sqlite:///demo.db
	botsessions show chat=512406937/user=512406937 --store sqlite:///demo.db

test: pythons servers ## run every check there is
	@$(MAKE) --jobs 3 $(CHECK)/.ready $(FOUND:%=.venv/test/%/.ready) $(PEERS:%=.venv/peers-%/$(MAIN)/.ready) \
	    $(OLDEST)/.ready
	@passed=0; failed=; \
	for check in $(CHECKS); do \
	    echo "=== $$check"; \
	    if $(MAKE) $$check; then passed=$$((passed + 1)); else failed+=" $$check"; fi; \
	done; \
	set -- $$failed; \
	echo "==="; \
	$(if $(MISSING),echo "NOT TESTED on Python $(MISSING): not found";) \
	[ $$# = 0 ] || echo "FAILED: $$*"; \
	echo "checks: $$passed passed, $$# failed"; \
	[ $$# = 0 ]

pythons:
	@$(foreach v,$(FOUND),echo "Python $(v): $(PYTHON_$(v))";)
	@$(foreach v,$(MISSING),echo "Python $(v): NOT FOUND, nothing is tested on it";)
	@[ -n "$(if $(filter true,$(CI)),$(PYTHON_3.11),$(FOUND))" ] || { echo "no Python to test on"; exit 1; }

servers:
	@.ci/servers

formatting: $(CHECK)/.ready
	@$(CHECK)/bin/ruff format --check .

lint: $(CHECK)/.ready
	@$(CHECK)/bin/ruff check .

types: $(CHECK)/.ready
	@$(CHECK)/bin/mypy

layers: $(CHECK)/.ready
	@$(CHECK)/bin/lint-imports --no-logo --no-cache

# What a user gets: the built wheel, in a venv with nothing but what it asks for.
wheel: $(CHECK)/.ready $(PIP)/.ready
	@rm -rf .venv/wheel
	@$(call pip,$(CHECK)) wheel -qq --no-deps --no-build-isolation -w .venv/wheel .
	@$(PYTHON_$(MAIN)) -m venv --without-pip .venv/wheel/clean
	@$(call pip,.venv/wheel/clean) install -qq --require-hashes -r requirements/runtime.txt
	@$(call pip,.venv/wheel/clean) install -qq --no-deps --no-index .venv/wheel/*.whl
	@$(call pip,.venv/wheel/clean) check
	@.venv/wheel/clean/bin/python -I -c "import botsessions as b, pathlib as p; \
	    assert 'site-packages' in b.__file__, b.__file__; \
	    assert p.Path(b.__file__).with_name('py.typed').is_file(), 'no py.typed'; \
	    print('the wheel of', b.__version__, 'installs, imports and is typed')"

# All is tested on the oldest Python. Another one is new to the language and to asyncio, not
# to servers that fail, to processes, to a day of traffic, or to what is broken on purpose:
# the newest plays a part of the simulation, and leaves out what ONCE names and servers of
# a kind that it tries already. What both ends of the range agree on needs no third: those
# between have to do with the laws, the engine and the store.
# Three processes for two cores: the tests of servers that fail wait most of their time.
ONCE := $(addprefix tests/,redis postgres soak nats security test_network.py test_deploy.py \
    test_codec.py \
    $(addprefix adapters/test_,day.py telebot_bots.py) \
    $(addprefix conformance/test_,attempt.py child.py kit.py places.py wrong.py) \
    $(addprefix simulation/test_,locks.py mutants.py replay.py soak.py) \
    $(addprefix sqlite/test_,kill.py processes.py) \
    $(addprefix cli/test_,process.py copy.py export.py resume.py kill.py))
NEWEST := $(ONCE:%=--ignore=%) -k "not (Valkey or Sentinels or Cluster)" \
    --deselect=tests/simulation/test_cancellation.py::test_the_engine_is_cancelled
BETWEEN := $(addprefix tests/test_,batches.py inline.py laws.py lock.py rules.py \
    strange_backends.py sync_laws.py sync_store.py) tests/simulation/test_simulation.py \
    -k "not (Postgres or Redis or Valkey)"
ENDS := $(firstword $(FOUND)) $(lastword $(FOUND))
$(FOUND:%=tests-%): tests-%: .venv/test/%/.ready
	@$(if $(filter-out $(MAIN),$*),SIMULATION_RUNS=15) .venv/test/$*/bin/python -m pytest \
	    --numprocesses 3 --dist worksteal \
	    $(if $(filter $(ENDS),$*),$(if $(filter-out $(MAIN),$*),$(NEWEST)),$(BETWEEN))

# The tests that aiogram, aiogram_dialog and python-telegram-bot have of their storages,
# in memory, in a SQLite file, and but for aiogram_dialog's on servers.
peers:
	@$(MAKE) --jobs 2 $(PEERS:%=peers-%)

$(PEERS:%=peers-%): peers-%: .venv/peers-%/$(MAIN)/.ready
	@.venv/peers-$*/$(MAIN)/bin/python -m tests.peers $* .venv/peers-$*/sources

# The lower bounds in pyproject.toml: the adapters, on all backends and so with all drivers,
# and of the command line what shows most; not the faults of the frameworks' own storages,
# which are others there, nor the example without a framework. pyTelegramBotAPI has types
# before 4.26 as well, and does not say so. Most of it is days of traffic, which wait.
ADAPTERS := $(filter-out %/test_examples_frameworks.py,$(wildcard tests/adapters/*.py))
oldest:
	@$(MAKE) --jobs 2 oldest-tests oldest-types

oldest-tests: $(OLDEST)/.ready
	@$(OLDEST)/bin/python -m pytest --numprocesses 4 --dist worksteal -k "not their" \
	    $(filter tests/adapters/test_%,$(ADAPTERS)) tests/cli/test_replay.py

oldest-types: $(OLDEST)/.ready $(CHECK)/.ready
	@$(CHECK)/bin/mypy --python-executable $(OLDEST)/bin/python --cache-dir .mypy_cache/oldest \
	    --follow-untyped-imports src/botsessions/adapters $(ADAPTERS)

bench: $(BENCH)/.ready ## measure, beside aiogram's storage and the bare floor; ONLY=NAME of these
	@$(BENCH)/bin/python -m benchmarks $(ONLY)

# All three are run, whatever came of the one before, unless it was a Ctrl-C. The first
# takes FIXED minutes and a third of MINUTES, and each of the others MINUTES: in so many
# the simulation plays a million calls and more on two cores.
MINUTES ?= 15
FIXED := 10
soak: private export MINUTES := $(MINUTES)
soak: servers $(TEST)/.ready ## run the long forms of the tests, the longest for MINUTES
	@awk "BEGIN { printf \"This takes about %d minutes in all\", $(FIXED) + 7 / 3 * $(MINUTES) }"; \
	echo ": MINUTES=$(MINUTES) for the simulation, as many for real servers, and before"; \
	echo "that what has a length of its own. A Ctrl-C ends it, and shows what was found."
	@trap 'exit 130' INT TERM; failed=; \
	run() { echo "=== $$1"; $(TEST)/bin/python -m "$${@:2}" || failed+=" $$1,"; }; \
	run "tests in their long form" pytest -vv -m soak; \
	run simulation tests.simulation --minutes $(MINUTES); \
	run "real servers" tests.soak --minutes $(MINUTES) --report soak.html; \
	echo "==="; \
	[ -z "$$failed" ] || { echo "FAILED:$${failed%,}"; exit 1; }; \
	echo "all passed"

mutants: $(TEST)/.ready ## plant every known fault again, and write down which check catches it
	@$(TEST)/bin/python -m tests.conformance.table

# From the index alone: nothing that this machine's pip is configured with gets in.
# check.txt comes first and binds the others, so that each package has one version.
lock: $(LOCK)/.ready ## pin the requirements; UPGRADE=--upgrade takes the newest of each
	@unset PIP_FIND_LINKS PIP_EXTRA_INDEX_URL; \
	export PIP_CONFIG_FILE=/dev/null CUSTOM_COMPILE_COMMAND="make lock"; \
	group() { $(LOCK)/bin/python -m dependency_groups $$1; }; \
	pin() { echo "pinning $$1"; \
	    $(LOCK)/bin/python -m piptools compile -q $(UPGRADE) -o requirements/$$1.txt "$${@:2}"; }; \
	also="-c requirements/check.txt --no-annotate"; \
	group check | pin check pyproject.toml --extra cli -; \
	group test | pin test pyproject.toml --extra cli - $$also; \
	group bench | pin bench pyproject.toml - $$also; \
	group oldest | pin oldest pyproject.toml - -c requirements/build.txt --no-annotate; \
	for peer in $(PEERS); do group peers-$$peer | pin peers-$$peer pyproject.toml -; done; \
	pin runtime pyproject.toml $$also; \
	pin cli pyproject.toml --extra cli $$also; \
	pin build pyproject.toml --only-build-deps --all-build-deps $$also; \
	group lock | pin lock - $$also; \
	group pip | pin pip - -c requirements/lock.txt --no-annotate; \
	group audit | pin audit - $$also -c requirements/lock.txt

# Not a part of `test`: what it finds depends on the day, and on a service that may be
# away. A package that cannot be asked about fails it: an index without advisories audits
# nothing. What `oldest` pins is old on purpose, and installed by nobody else.
audit: $(AUDIT)/.ready ## look for known vulnerabilities in what requirements/ pins
	@cannot=; found=; \
	for file in $(filter-out %/oldest.txt,$(wildcard requirements/*.txt)); do \
	    echo "=== $$file"; \
	    if said=$$($(AUDIT)/bin/python -m pip_audit --strict --disable-pip --require-hashes \
	        --progress-spinner off -r $$file 2>&1); then echo "$$said"; \
	    elif grep -q "^Found [0-9]* known" <<< "$$said"; then echo "$$said"; found+=" $$file"; \
	    else tail -n 1 <<< "$$said"; cannot+=" $$file"; fi; \
	done; \
	echo "==="; \
	[ -z "$$found" ] || echo "VULNERABLE:$$found"; \
	[ -z "$$cannot" ] || echo "NOT AUDITED:$$cannot (the advisories could not be had for all packages)"; \
	[ -z "$$found$$cannot" ] && echo "no known vulnerabilities"

format: $(CHECK)/.ready ## format the code and mend what ruff can
	@$(CHECK)/bin/ruff check -q --fix-only .
	@$(CHECK)/bin/ruff format .

clean: ## remove all that make made
	rm -rf .venv .mypy_cache .ruff_cache .hypothesis demo.db* soak.html
	find . -name __pycache__ -prune -exec rm -rf {} +

# One pip for all of them, newer than most Pythons bring: it needs a third of the time.
# What it installs is compiled when it is first imported, which most of it never is.
pip = $(PIP)/bin/python -m pip --python $(1)/bin/python

$(PIP)/.ready: requirements/pip.txt
	@echo "setting up $(@D) from $<"
	@$(or $(PYTHON_$(MAIN)),$(error no usable Python was found)) -m venv --clear $(@D)
	@$(@D)/bin/python -m pip install -qq --require-hashes -r $<
	@touch $@

.venv/%/.ready: requirements/$$(*D).txt requirements/build.txt $(PIP)/.ready
	@echo "setting up $(@D) from $<"
	@$(or $(PYTHON_$(*F)),$(error no usable Python $(*F) was found)) -m venv --clear --without-pip $(@D)
	@$(call pip,$(@D)) install -qq --no-compile --require-hashes -r $< -r requirements/build.txt
	@$(call pip,$(@D)) install -qq --no-deps --no-build-isolation --editable .
	@touch $@
