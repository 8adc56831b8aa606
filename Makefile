# The commands of this repository. Each step does nothing, and says nothing, when its work is done already.
#
#   make run     build, and run a node in the foreground on the embedded default workspace
#   make test    install what the tests need, run every test
#   make fuzz    the fuzzers alone, FUZZ_SECS seconds each (600)
#   make lint    format, clippy, dependency rules
#   make bench   the quick benchmark suite
#   make deb     target/debian/pintle_<version>_<arch>.deb
#   make audit   dependency rules and known vulnerabilities (needs the advisory database)
#
# One profile serves run, test, bench and deb, so that RocksDB is compiled once in a target directory.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
export CARGO_TARGET_DIR := $(abspath $(or $(CARGO_TARGET_DIR),target))
PROFILE_DIR := $(CARGO_TARGET_DIR)/debug
# What the tests and the package need beside Rust: SDKs, tools, a clean Debian root.
export PINTLE_TEST_TOOLS := $(CARGO_TARGET_DIR)/tools
# Where `make run` keeps its data.
DATA ?= data
# More flags of `make run`, for example ARGS="--listen 127.0.0.1:9080".
ARGS ?=

# Our own crate at the level that its dependencies always have: their artefacts are shared with `make test`.
OPTIMISED := CARGO_PROFILE_DEV_OPT_LEVEL=3 CARGO_PROFILE_DEV_DEBUG_ASSERTIONS=false CARGO_PROFILE_DEV_OVERFLOW_CHECKS=false
# And in one piece: a minute longer to build, and about a tenth faster on the way of an event.
IN_ONE_PIECE := --config profile.dev.package.pintle.codegen-units=1

.PHONY: help run test fuzz test-tools build-packages lint bench deb audit

help:
	@sed -n '3,9s/^#   //p' Makefile

build-packages:
	@tests/setup build

run: build-packages
	@$(OPTIMISED) $(CARGO) build --locked $(IN_ONE_PIECE) --bin pintle
	@exec "$(PROFILE_DIR)/pintle" run --data-dir "$(DATA)" $(ARGS)

test-tools: build-packages
	@tests/setup test

test: test-tools
	$(CARGO) test --locked

FUZZ_SECS ?= 600
fuzz: build-packages
	PINTLE_FUZZ_SECS=$(FUZZ_SECS) $(CARGO) test --locked --test fuzz -- --test-threads 1 --nocapture

lint: build-packages
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	@tests/setup cargo-deny
	PATH="$$PATH:$(PINTLE_TEST_TOOLS)/bin" $(CARGO) deny --all-features check --hide-inclusion-graph bans licenses sources

audit: build-packages
	@tests/setup cargo-deny
	PATH="$$PATH:$(PINTLE_TEST_TOOLS)/bin" $(CARGO) deny --all-features check

bench: build-packages
	$(OPTIMISED) $(CARGO) bench --locked $(IN_ONE_PIECE) --profile dev --bench load -- suite quick --profile-name dev-o3 --out "$(CARGO_TARGET_DIR)/bench.json"

deb: build-packages
	@tests/setup cargo-deb
	@$(OPTIMISED) $(CARGO) build --locked $(IN_ONE_PIECE) --bin pintle
	@packaging/build-deb
