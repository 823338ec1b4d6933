# make demo: a private federated fine-tuning on this machine. make test: every check, on what it installs itself.
PYTHON ?= python3.11
VENV := .venv
SOURCES := $(shell find __init__.py cli client learning privacy protocol server simulation strategies -name '*.py' -o -name '*.proto' -o -name '*.html')

.PHONY: demo test check proto clean
demo: $(VENV)/installed
	$(VENV)/bin/hortus demo

test: check
	$(VENV)/bin/pytest

check: $(VENV)/installed-dev
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/ruff check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/pip check

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --upgrade pip "setuptools>=80"

proto: $(VENV)/installed-dev
	$(VENV)/bin/python -m grpc_tools.protoc -I hortus/protocol/wire=protocol/wire --python_out=. --pyi_out=. --grpc_python_out=. protocol/wire/aggregation.proto
