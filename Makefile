# Every command of this repository. A fresh Debian or Ubuntu with make and Python 3.11 to 3.13 needs nothing else: tools/bootstrap.sh
# installs uv and the locked environment, and `tessera` builds what a local cluster needs.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

DEMO := tools/bootstrap.sh demo
DEV := tools/bootstrap.sh dev

.PHONY: help demo demo-down test test-unit test-simulation test-workloads test-integration test-e2e bench bench-scheduler bench-relayout soak-agent check lint generate value-table reproduce image

help: ## Show these targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## Local cluster, images, chart, training jobs on GPU slices, with a live view (2 min; the first time it builds Kubernetes, about 10 min more)
	@$(DEMO) tessera demo

demo-down: ## Remove the demo's cluster; what was built and fetched stays in ~/.cache/tessera
	@$(DEMO) tessera demo --down

test: ## All tests: unit, simulation, workloads, integration (real API server), e2e (real kubelet as root, else KWOK nodes)
	@$(DEV) tools/run-tests unit simulation workloads integration e2e

test-unit: ## Pure tests of everything but the workloads, no cluster
	@$(DEV) tools/run-tests unit

test-simulation: ## Policies on whole workloads: legality, golden figures, comparisons
	@$(DEV) tools/run-tests simulation

test-workloads: ## Workloads: their formulas, whole runs of workers, resume after SIGTERM and SIGKILL
	@$(DEV) tools/run-tests workloads

test-integration: ## Tests against a real API server
	@$(DEV) tools/run-tests integration

test-e2e: ## Tests on a whole local cluster
	@$(DEV) tools/run-tests e2e

bench: ## Placement speed, search for moves, static packing, services with SLOs: one JSON document each (minutes, one core)
	@OMP_NUM_THREADS=1 $(DEV) bash -euc '\
	  run() { printf "\n%s\n" "$$*" >&2; nice -n 10 python "$$@"; }; \
	  run tests/bench/placement_decisions.py; \
	  run tests/bench/move_search.py; \
	  run tests/bench/packing_tables.py static --json; echo; \
	  run tests/bench/packing_tables.py services --json; echo'

bench-scheduler: ## Pods to slices in a whole cluster: ours, kube-scheduler's own and the ceiling (BENCH_ARGS="--nodes 200 --pods 2000")
	@PYTHONPATH=tests $(DEV) python -m bench.scheduler_at_scale.main $(BENCH_ARGS)

bench-relayout: ## Another fixed layout for a fleet of simulated nodes (BENCH_ARGS="--nodes 200 --unavailable 5%")
	@PYTHONPATH=tests $(DEV) python -m bench.fleet_relayout.main $(BENCH_ARGS)

soak-agent: ## 10,000 random changes of a GPU's layout under random faults (SOAK_ARGS="--changes 1000 --seed 1")
	@PYTHONPATH=tests OMP_NUM_THREADS=1 $(DEV) nice -n 10 python -m simulation.agent_soak $(SOAK_ARGS)

check: lint ## Lint, types, layers, generated files, chart
	@$(DEV) tessera generate --check
	@$(DEV) tools/requirements --check
	@$(DEV) bash -c 'helm="$$(python -m tessera.local.prepare --print helm)" && "$$helm" lint --strict charts/tessera'

lint: ## Style, types and layers of the Python code
	@$(DEV) ruff check .
	@$(DEV) ruff format --check .
	@$(DEV) mypy operator/src/tessera workloads/src/tessera_workloads workloads/template/rings tests
	@$(DEV) lint-imports

generate: ## Write what is generated: CRDs, their copies in the chart, the kind reference, requirements/
	@$(DEV) tessera generate
	@$(DEV) tools/requirements

value-table: ## Train the learned values of layouts anew (minutes, one core), and print how good they are
	@OMP_NUM_THREADS=1 $(DEV) bash -c 'run() { nice -n 10 "$$UV" run --frozen --group train python "$$@"; }; \
	  for class in W8 W4; do run tools/value_table/train.py "$$class" --out operator/src/tessera/placement/values; done; \
	  run tools/value_table/evidence.py'

reproduce: ## Every workload at size ci with seeds 0-2, two at a time; writes docs/results/workloads.md (REPRODUCE_ARGS="--only noiser --seeds 0")
	@$(DEV) nice -n 10 python -m tessera_workloads.reproduction $(REPRODUCE_ARGS)

image: ## Build the operator image and the local worker image
	@$(DEMO) python -m tessera.local.prepare images
