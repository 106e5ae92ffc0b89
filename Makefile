PYTHON ?= python3
BIN := .venv/bin
# Tests run on one thread each, as many at once as there are cores, at most eight.
PYTEST := $(BIN)/python -m pytest -q -n logical --maxprocesses 8 --dist worksteal
# The container engine: docker, or podman with podman-compose. PROFILE: cpu or gpu.
ENGINE ?= docker
COMPOSE ?= $(if $(filter podman,$(ENGINE)),$(BIN)/podman-compose,docker compose)
IMAGE_BUILD ?= $(ENGINE) build
PROFILE ?= cpu
.PHONY: demo test check lint types imports coverage test-faults soak bench bench-gpu bench-real real study reference models ui up down deploy worker test-e2e test-stores test-nodes test-privileged clean \
	image image-gpu stack-secrets stack-up stack-down stack-test lock audit

demo: .venv/run.ready  ## Set up, and run three rounds on the built-in campaign.
	$(BIN)/ratchet run conf/demo.yaml

test: .venv/dev.ready  ## Set up, and run the tests.
	$(PYTEST) $(ARGS)

check: lint types imports test  ## What CI runs, before the demo.

lint: .venv/dev.ready  ## Style and common mistakes.
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: .venv/dev.ready  ## Types.
	$(BIN)/mypy

imports: .venv/dev.ready  ## Arrows point one way.
	$(BIN)/lint-imports

coverage: .venv/dev.ready  ## The tests with line and branch coverage.
	$(PYTEST) --cov --cov-report=term $(ARGS)

test-faults: .venv/dev.ready  ## Every fault at every moment: kills, full disks, damage, locks, outages; takes hours.
	RATCHET_FAULTS=all $(BIN)/python -m pytest -q -s -m "" tests/faults $(ARGS)

test-privileged: .venv/dev.ready  ## A full and a read-only disk, and the first process of a container; as root, in some minutes.
	$(PYTEST) -m privileged tests/faults $(ARGS)

soak: .venv/dev.ready  ## Fifty rounds with a fault in every third: memory, files, databases and seconds, into runs/bench; an hour.
	$(BIN)/python tests/benchmarks/soak.py $(ARGS)

bench: .venv/dev.ready  ## Training, sampling and a round beside TRL and transformers, the demo, growth, and what judges and machinery do; into runs/bench, in hours.
	$(BIN)/python tests/benchmarks/train_step.py
	$(BIN)/python tests/benchmarks/generate.py
	$(BIN)/python tests/benchmarks/whole_round.py
	$(BIN)/python tests/benchmarks/demo.py
	$(BIN)/python tests/benchmarks/growth.py
	$(BIN)/python tests/benchmarks/status_command.py
	$(BIN)/python tests/benchmarks/orchestration.py
	$(BIN)/python tests/benchmarks/constraints.py
	$(BIN)/python tests/benchmarks/active_choice.py
	$(BIN)/python tests/benchmarks/soft_labels.py
	$(BIN)/python tests/benchmarks/demonstrations.py
	$(BIN)/python tests/benchmarks/gate.py
	$(BIN)/python tests/benchmarks/validate_file.py
	$(BIN)/python tests/benchmarks/labelling.py

study: .venv/run.ready  ## Iterative DPO beside offline methods on the built-in world, two seeds; into runs/studies, in about ten minutes.
	$(BIN)/ratchet study conf/studies/methods.yaml $(ARGS)

real: .venv/dev.ready  ## One public recipe on a real model and real preferences, in an hour or two on two cores; ARGS="--model DIR --pairs FILE" without the hub.
	$(BIN)/python tests/benchmarks/real_model.py $(ARGS)

bench-real: .venv/dev.ready  ## A real model's training step and sampling beside TRL and transformers; ARGS="--model DIR --pairs FILE"; into runs/bench.
	$(BIN)/python tests/benchmarks/real_step.py $(ARGS)

bench-gpu: .venv/dev.ready  ## The training step on one GPU: exact, beside TRL, and beside what the GPU can do; into runs/bench.
	$(BIN)/python tests/benchmarks/gpu_step.py

reference: .venv/dev.ready  ## Write docs/configuration.md from the docstrings of the configuration.
	$(BIN)/python -m flows.reference docs/configuration.md

test-e2e: .venv/dev.ready  ## In a real browser, against real servers; needs Chromium. Screenshots in runs/e2e.
	$(BIN)/python -m pytest -q -m e2e --timeout 900 tests/e2e $(ARGS)

test-stores: .venv/dev.ready  ## A real Postgres and a real S3 behind MLflow; needs Debian's package postgresql.
	$(BIN)/pip install -q -c conf/versions.txt -e '.[stores]'
	$(BIN)/python -m pytest -q -m stores --timeout 900 tests/tracking $(ARGS)

test-nodes: .venv/dev.ready  ## Two hosts under a real Slurm and a real Ray, as root; needs Debian's slurmctld, slurmd, slurm-client, munge and iproute2.
	$(BIN)/pip install -q -c conf/versions.txt -e '.[ray]'
	$(BIN)/python -m pytest -q -s -m nodes --timeout 1800 tests/nodes $(ARGS)

up: .venv/run.ready  ## Prefect, MLflow, the labelling page and a worker in the background.
	$(BIN)/ratchet up

down: .venv/run.ready  ## End what `make up` started.
	$(BIN)/ratchet down

deploy: .venv/run.ready  ## The deployments, the work pool and the automations on the Prefect page.
	$(BIN)/ratchet deploy

worker: .venv/run.ready  ## One more worker, in the foreground, for the server in PREFECT_API_URL, else the one of `make up`.
	$(BIN)/ratchet worker

models: .venv/dev.ready  ## Try every family of models and chat templates, and write the tables of docs/models.md; takes some minutes.
	$(BIN)/python -m tests.models.families
	$(BIN)/python -m tests.models.template_families

ui: .venv/run.ready  ## The Prefect and MLflow pages over what ran; Ctrl-C ends them.
	$(BIN)/ratchet ui

image:  ## The CPU image, ratchet:cpu; TORCH_WHEELS=URL names the page of PyTorch's CPU builds.
	$(IMAGE_BUILD) -f docker/Dockerfile --target cpu -t ratchet:cpu $(if $(TORCH_WHEELS),--build-arg TORCH_WHEELS=$(TORCH_WHEELS)) .

image-gpu:  ## The GPU image, ratchet:gpu.
	$(IMAGE_BUILD) -f docker/Dockerfile --target gpu -t ratchet:gpu .

stack-secrets:  ## Random secrets of the stack in docker/secrets, each written once.
	docker/make-secrets

stack-up: stack-secrets  ## Postgres, Prefect, MLflow and a worker in containers; PROFILE=gpu gives the worker the GPUs.
	$(COMPOSE) -f docker/compose.yaml --profile $(PROFILE) up -d

stack-down:  ## End the stack; its volumes stay.
	$(COMPOSE) -f docker/compose.yaml --profile $(PROFILE) down

stack-test: .venv/dev.ready image  ## Run the stack: two rounds through Prefect, and each container killed in the middle of a round.
	STACK_ENGINE=$(ENGINE) STACK_COMPOSE="$(COMPOSE)" $(BIN)/python -m pytest -q -s -m stack --timeout 3600 tests/stack $(ARGS)

lock: .venv/dev.ready  ## Write the images' lock files from conf/versions.txt.
	$(BIN)/python docker/make_lock.py

audit: .venv/dev.ready  ## Known vulnerabilities of the locked packages; AUDIT=if-reachable passes where the advisories cannot be had.
	$(BIN)/python docker/audit.py $(AUDIT)

clean:  ## Remove the environment; campaigns under runs/ stay.
	rm -rf .venv

.venv/torch.ready: Makefile
	@test "$$(uname)" = Linux || { echo "Ratchet needs Linux, and this is $$(uname)"; exit 2; }
	$(PYTHON) -m venv .venv && $(BIN)/pip install -q torch==2.13.0 && touch $@

.venv/run.ready: .venv/torch.ready pyproject.toml conf/versions.txt
	$(BIN)/pip install -q -c conf/versions.txt -e . && touch $@

.venv/dev.ready: .venv/run.ready
	$(BIN)/pip install -q -c conf/versions.txt -e '.[dev]' && touch $@
