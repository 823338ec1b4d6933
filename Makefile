# make demo: a private federated fine-tuning on this machine. make test: every check and test.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LAYERS := api cli client learning pages parties planning privacy protocol runtime server simulation strategies
SOURCES := __init__.py $(shell find $(LAYERS) -regex '.*\.\(py\|html\|css\|js\|md\|svg\|yaml\)')
# Tests run side by side: threads that wait leave the processor to others.
export OMP_WAIT_POLICY := PASSIVE
PIP := $(BIN)/pip install --quiet --disable-pip-version-check

.PHONY: demo test check format proto docs clean

demo: $(VENV)/demo
	$(BIN)/hortus demo

# Files in the order of their names, those marked `minutes` first: pytest-xdist would leave few but long tests for last.
# Three files of processes at a time: each waits on clocks for a third of its time.
test: check
	$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder -m "not processes"
	$(BIN)/pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder -m processes

check: $(VENV)/dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pip check

format: $(VENV)/dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# The wire format's Python, after a change of aggregation.proto.
proto: $(VENV)/dev
	$(BIN)/python -m grpc_tools.protoc -I hortus/protocol/wire=protocol/wire \
		--python_out=$(VENV) --pyi_out=$(VENV) --grpc_python_out=$(VENV) protocol/wire/aggregation.proto
	mv $(VENV)/hortus/protocol/wire/aggregation_pb2* protocol/wire/

# The generated parts of docs/.
docs: $(VENV)/dev
	$(BIN)/python -m hortus.cli.plan_reference docs/plan.md
	$(BIN)/python benchmarks/support.py --render docs/support.md

# A strict editable install links each file by itself, so a new file asks for a new install.
$(VENV)/demo: $(VENV)/pip pyproject.toml constraints.txt $(SOURCES)
	$(PIP) --no-build-isolation --constraint constraints.txt \
		--config-settings editable_mode=strict --editable '.[demo]'
	touch $@

$(VENV)/dev: $(VENV)/pip pyproject.toml constraints.txt $(SOURCES)
	$(PIP) --no-build-isolation --constraint constraints.txt \
		--config-settings editable_mode=strict --editable '.[dev]'
	touch $@ $(VENV)/demo

$(VENV)/pip:
	$(PYTHON) -m venv $(VENV)
	$(PIP) --constraint constraints.txt --upgrade pip setuptools
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info runs
