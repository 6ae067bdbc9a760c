# `make demo` and `make test` set everything up themselves: Python 3.11 or 3.12, pip and a C++ compiler are enough.
PYTHON ?= $(shell for python in python3 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null \
	&& echo $$python && break; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS_STAMP := $(VENV)/.installed-docs

.PHONY: setup demo nano deep-nano mini configs docs test lint

setup: $(STAMP)

# fairseq-fixed is built against the torch and numpy that are already there: an isolated build
# would fetch the newest CUDA torch only to throw it away.
$(STAMP): setup.py constraints.txt
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or 3.12 found; name one with PYTHON=..." >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt torch numpy cython setuptools wheel
	$(BIN)/python -m pip install -q -c constraints.txt --no-build-isolation -e '.[dev]'
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/speechprune demo

# The model in user_dir/speechprune/assets, from nothing: half an hour on one core.
nano: $(STAMP)
	$(BIN)/speechprune pretrain-nano --out user_dir/speechprune/assets/nano_wav2vec2.pt

# A narrow one of 12 layers, for experiments with dropping layers: forty minutes on one core.
deep-nano: $(STAMP)
	$(BIN)/speechprune pretrain-nano --out deep_nano.pt --folder deep-nano \
		model.encoder_layers=12 model.encoder_embed_dim=128 model.encoder_ffn_embed_dim=512 \
		model.encoder_layerdrop=0.05 optimization.lr=[0.001] lr_scheduler.warmup_updates=400

# A HuBERT of ten million parameters: two hours on one core, or an estimated eight minutes on a large GPU.
mini: $(STAMP)
	$(BIN)/speechprune pretrain-mini --out mini.pt

# The finetuning configs are one template with a few values changed in each.
configs: $(STAMP)
	$(BIN)/python config/generate.py

# The pages of docs/ and the API, as a site in site/; without a network once it is installed.
docs: $(DOCS_STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

$(DOCS_STAMP): $(STAMP)
	$(BIN)/python -m pip install -q -c constraints.txt --no-build-isolation -e '.[docs]'
	touch $(DOCS_STAMP)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Each core has files of its own; what tests of a file share is made once.
test: lint
	$(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile
