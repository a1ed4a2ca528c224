# One command for each thing one does here. `make` lists them.

# Outside the clone, so that RocksDB and librdkafka are compiled once on a machine and not once in a clone.
export CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/nepenthe/target

# Further arguments of real, torture, fuzz, ingest, latency and bench: make ingest ARGS="--events 1000000"
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup kafka build demo test simulate mutants fuzz real torture ingest latency bench fmt lint page

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

setup: ## install what the build needs (Debian packages; as root)
	@scripts/setup

kafka: ## fetch Apache Kafka's jars for tests and measurements
	@scripts/setup
	@scripts/kafka fetch

build: setup ## compile the binary
	cargo build --locked

demo: setup ## see the whole way on an embedded broker with generated data
	@cargo build --locked
	@cargo run --locked --quiet -- demo

test: ## formatting, lints and every test, also on a real Kafka
	@scripts/test

simulate: ## 10,000 seeds of crashes and failures; SEED=n lives through one again
	@SEED=$(SEED) scripts/simulate $(ARGS)

mutants: ## break invariants on purpose: the simulation must notice each
	@scripts/mutants $(ARGS)

fuzz: setup ## every decoder for a minute each, guided by coverage; ARGS="-s SECONDS NAME"
	@scripts/fuzz $(ARGS)

page: setup ## the status page in a Chromium; ARGS="--shots DIR" leaves pictures
	@scripts/kafka fetch
	@cargo build --locked
	@scripts/kafka with scripts/page check {} $(ARGS)

real: ## MovieLens-100K the whole way on a real Kafka, with figures
	@scripts/real $(ARGS)

torture: ## kills, lost brokers, zombies, full disks, flipped bytes, on a real Kafka
	@scripts/torture $(ARGS)

ingest: ## 5 million events from a real Kafka, against a bare consumer
	@scripts/ingest $(ARGS)

latency: ## how long a forget takes while 10,000 events a second come from a real Kafka
	@scripts/latency $(ARGS)

bench: ## the engine's ratios: sgemm, other libraries (PyPI), retrains, memory
	@scripts/bench $(ARGS)

fmt: ## format the sources
	cargo fmt

lint: setup ## clippy, warnings are errors
	cargo clippy --locked --all-targets -- -D warnings

.PHONY: reference
reference: setup ## write docs/reference anew from the code
	@NEPENTHE_WRITE_REFERENCE=1 cargo test --locked --quiet --lib -- the_configuration_page the_metrics_page
