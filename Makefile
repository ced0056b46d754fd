# The two commands: `make demo` and `make test`.
PYTHON ?= python3
ADIN := .venv/bin/adin
TEST_STACK := ADIN_HOME=$(CURDIR)/.adin-test ADIN_PORT_BASE=27000 ADIN_CONTRACT_PORT_BASE=23000
LINE_STACK := ADIN_HOME=$(CURDIR)/.adin-line ADIN_PORT_BASE=25000 ADIN_CONTRACT_PORT_BASE=24000
PROBLEM ?= flights_delay

.PHONY: setup environments demo up down test lint unit servers contract integration accept acceptance contract-acceptance testdoc matrix maturity bench

setup:
	@$(PYTHON) bootstrap.py

environments:
	@$(PYTHON) bootstrap.py --environments

demo: setup
	@$(ADIN) demo $(PROBLEM)

up: setup
	@$(ADIN) stack up

down:
	@$(ADIN) stack down

lint: environments
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	@.venv/bin/pytest --collect-only tests >.ruff_cache/collected || { cat .ruff_cache/collected; false; }

unit: environments
	.venv/bin/pytest tests/unit -m "not ml"
	.venv-ml/bin/pytest tests/unit -m ml

# Real servers. The halves wait for servers much of their time, so they run side by side; each prints when it has ended.
servers: setup
	@$(MAKE) -j2 -Otarget --no-print-directory contract integration

# Servers that the tests start themselves; in a home without a stack, so that none of the user's is taken.
CONTRACT := ADIN_HOME=$(CURDIR)/.adin-contract
# These need lakeFS, Spark, the model server of the stack.
ON_STACK := tests/contract/test_operators.py
ML_ON_STACK := tests/contract/test_recurring.py
contract: setup
	@failed=0; \
	$(CONTRACT) .venv/bin/pytest -m "not ml" tests/contract tests/regression --ignore $(ON_STACK) || failed=1; \
	$(CONTRACT) .venv-ml/bin/pytest -m ml tests/contract tests/regression --ignore $(ML_ON_STACK) || failed=1; exit $$failed

# The test stack, in a home and on ports of its own; it is stopped whatever happens.
integration: setup
	@$(TEST_STACK) $(ADIN) stack down; rm -rf .adin-test
	@trap '$(TEST_STACK) $(ADIN) stack down' EXIT; set -e; \
	$(TEST_STACK) $(ADIN) stack up; failed=0; \
	$(TEST_STACK) .venv/bin/pytest -m "not ml" tests/integration $(ON_STACK) || failed=1; \
	$(TEST_STACK) .venv-ml/bin/pytest -m ml tests/integration $(ML_ON_STACK) || failed=1; exit $$failed

# The whole line through the scheduler, on an empty stack of its own.
acceptance:
	@$(PYTHON) bootstrap.py --tests
	@$(LINE_STACK) $(ADIN) stack down; rm -rf .adin-line
	@trap '$(LINE_STACK) $(ADIN) stack down' EXIT; set -e; \
	$(LINE_STACK) $(ADIN) stack up; \
	$(LINE_STACK) .venv/bin/pytest --timeout 3600 tests/acceptance

# Ours, the stock tool and the limit side by side, on the running stack after `make demo`; one row with ROW=serving.
bench: setup
	@$(ADIN) bench $(ROW)

# Tests that prove one flow: make accept FLOW=6. On a test stack; where ADIN_CONN_SPARK is set, on the servers of the
# connections in the environment, in tables of the tests' own. Exit code 5: none of them is for that environment.
accept: setup
	@set -e; if [ -z "$$ADIN_CONN_SPARK" ]; then \
	trap '$(TEST_STACK) $(ADIN) stack down' EXIT; $(TEST_STACK) $(ADIN) stack up; fi; \
	$(TEST_STACK) .venv/bin/pytest -m "not ml" --flow $(FLOW) || test $$? -eq 5; \
	$(TEST_STACK) .venv-ml/bin/pytest -m ml --flow $(FLOW) || test $$? -eq 5

testdoc: environments
	@.venv/bin/pytest -q -m "not ml" --testdoc; test $$? -eq 5
	@.venv-ml/bin/pytest -q -m ml --testdoc; test $$? -eq 5

# Operators x fault cases, from the results of the last `make servers` and `make acceptance`; also written to docs/operators.md.
matrix:
	@.venv/bin/python tests/matrix.py

# Levels of our own modules, counted from code and tests, into docs/maturity.md.
maturity:
	@$(PYTHON) tests/maturity.py

# All of it. What runs on a stack needs longest, so the acceptance tests follow those that have none.
test: setup lint unit
	@$(MAKE) -j2 -Otarget --no-print-directory contract-acceptance integration

contract-acceptance:
	@failed=0; $(MAKE) contract || failed=1; $(MAKE) acceptance && exit $$failed
