# make run   the whole program at work, on ports 2587 and 2465 of 127.0.0.1
# make test  linters, types, layers and all tests
# make crash only the tests that stop the program, at every single write and otherwise
# make bench Debian's Postfix and mtad, side by side
# make fuzz  random sessions, routing rules, mail and servers, put to Postfix and to mtad: SEEDS="1000 9000"
# make man   the manual page of the parameters, docs/mtad-parameters.5

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
JOBS ?= 3
SEEDS ?= 1000 5000

.PHONY: run test lint bench crash fuzz man clean

run: $(VENV)/.installed
	@exec $(BIN)/mtad demo $(ARGS)

test: lint
	$(BIN)/pytest --numprocesses $(JOBS) --dist loadfile $(ARGS)

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.installed-test
	$(MAKE) -C benchmarks
	$(BIN)/python benchmarks/bench.py $(ARGS)

crash: $(VENV)/.installed-test
	$(BIN)/pytest -s tests/crash $(ARGS)

fuzz: $(VENV)/.installed-test
	cd tests && ../$(BIN)/python -m oracle.fuzz $(SEEDS)
	cd tests && ../$(BIN)/python -m oracle.fuzz_resolve $(SEEDS)
	cd tests && ../$(BIN)/python -m oracle.fuzz_intake $(SEEDS)
	cd tests && ../$(BIN)/python -m oracle.fuzz_client $(SEEDS)

man: $(VENV)/.installed
	@mkdir -p docs
	$(BIN)/mtad postconf --man > docs/mtad-parameters.5

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "mtad needs Python 3.11 or later: make PYTHON=python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "no venv module: apt-get install python3-venv" >&2; rm -rf $(VENV); exit 1; }

$(VENV)/.installed: $(BIN)/pip pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.installed-test: $(BIN)/pip pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[ldap]' >/dev/null 2>&1 || \
	  echo "python-ldap needs gcc, python3-dev, libldap-dev and libsasl2-dev: the tests of ldap: are skipped"
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[gssapi]' >/dev/null 2>&1 || \
	  echo "gssapi needs gcc, python3-dev and libkrb5-dev: the tests of GSSAPI are skipped"
	@touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) build *.egg-info benchmarks/bin
	find . -name __pycache__ -prune -exec rm -rf {} +
