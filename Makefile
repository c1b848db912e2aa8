# What a contributor types. The work is in scripts/.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.NOTPARALLEL:
export PYTHON ?= python3
WITH_ENGINE = engine="$$(scripts/testbed env)"; eval "$$engine";

.PHONY: help few setup run demo cgit test unit chaos check bench lock image clean

help: ## this list
	@sed -nE 's/^([a-z]+):.* ## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

few: # what needs no base image, and so no root where an engine runs
	scripts/testbed setup nginx backend

setup: ## Debian packages, .venv, a Docker engine, the images of the tests
	scripts/testbed setup

run: export PROXYCTL_STATE__DIR = $(CURDIR)/.testbed/run/state
run: export PROXYCTL_STATE__RUNTIME = $(CURDIR)/.testbed/run/runtime
run: export PROXYCTL_API__SOCKET = .testbed/run/api.sock
run: export PROXYCTL_NGINX__IMAGE = proxyctl-testbed/nginx:1.31.3
run: export PROXYCTL_NGINX__PULL = never
run: export PROXYCTL_NGINX__PUBLISH = ["127.0.0.1:18080:80"]
run: few ## the controller, in the foreground; nginx at http://127.0.0.1:18080
	$(WITH_ENGINE) exec .venv/bin/proxyctl run

demo: few ## what it does, in a few minutes; KEEP=1 leaves it running
	$(WITH_ENGINE) .venv/bin/python examples/demo/demo.py $(if $(KEEP),--keep)

cgit: ## cgit behind Debian's nginx on a machine of systemd units, through a new version and power cuts; KEEP=1 leaves it running
	scripts/testbed setup cgit
	$(WITH_ENGINE) .venv/bin/python -m examples.cgit $(if $(KEEP),--keep)

ifeq ($(ENGINE),trixie)
test:
	scripts/testbed inside trixie make test
else
test: setup check ## everything: setup, check, tests; ENGINE=trixie does so on a bare Debian 13 in a container, with its newer engine
	$(WITH_ENGINE) .venv/bin/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder
endif

unit: ## the tests that need no engine
	scripts/testbed venv
	.venv/bin/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder tests/unit

chaos: few ## every fault with five seeds, on a real engine under load, then 10,000 crowds of hostile labels; SEED=7 begins with another one
	$(WITH_ENGINE) .venv/bin/python -m tests.chaos --seed $(or $(SEED),1) --seeds 5
	HYPOTHESIS_PROFILE=chaos .venv/bin/pytest $(if $(SEED),--hypothesis-seed=$(SEED)) -s tests/unit/test_injection.py
	HYPOTHESIS_PROFILE=chaos .venv/bin/pytest $(if $(SEED),--hypothesis-seed=$(SEED)) tests/unit/test_engine_json_fuzz.py tests/unit/test_api_fuzz.py tests/unit/test_rollout_machine.py

check: ## format, lint, types, borders; needs no engine
	scripts/testbed venv
	scripts/check

bench: setup ## the figures of the documentation, measured here
	$(WITH_ENGINE) .venv/bin/python -m benchmarks

lock: ## resolves pyproject.toml again into requirements/
	scripts/lock

image: ## the controller's image, proxyctl; BASE_IMAGE=... on another base
	$(WITH_ENGINE) docker build --tag proxyctl $(if $(BASE_IMAGE),--build-arg BASE_IMAGE=$(BASE_IMAGE)) .

clean: ## removes all that setup made, but packages: also the private engine, which other clones share
	scripts/testbed clean
