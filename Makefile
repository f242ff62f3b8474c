# Two commands matter: `make up` and `make test`. Each installs what it is missing and says so.
SHELL := /bin/bash
CACHE := $(or $(SKEIN_CACHE),/var/cache/skein)
TARGET := $(or $(CARGO_TARGET_DIR),target)
export ROCKSDB_LIB_DIR := $(CACHE)/rocksdb
export ROCKSDB_STATIC := 1

.PHONY: up down test test-all suite sim fuzz mutants soak bench record go-types check fix build deps

up: build           ## a three-node cluster on this machine, with real containers
	@$(TARGET)/debug/skein lab up --nodes 3

down:               ## stop it and leave nothing behind
	@$(TARGET)/debug/skein lab down

deps:               ## what a build needs: Debian packages, RocksDB
	@tests/setup.sh

build: deps
	@echo "building (about 20 minutes from cold on 2 cores, most of it dependencies)"
	cargo build --workspace --locked

test: build         ## the whole suite: unit tests, rules, clusters of real processes and containers
	@kubectl=$$(tests/kubectl.sh | tail -n 1) && KUBECTL=$$kubectl PROPTEST_RNG_SEED=1 cargo test --workspace --locked -- --test-threads=1

suite: build        ## Kubernetes' own conformance tests on three nodes: make suite FOCUS='EndpointSlice'
	@tests/suite/run.sh $(TARGET)/debug/skein '$(FOCUS)'

test-all: test sim fuzz mutants suite  ## everything; hours

sim: build          ## fresh seeds of simulated clusters: make sim SEEDS=1000
	@$(TARGET)/debug/skein-sim --seeds $(or $(SEEDS),200)

mutants: build      ## breaks the code in known ways and sees each caught by its invariant
	@chaos/mutants/run.sh

fuzz: build         ## whatever clients may send, CASES at a time: make fuzz CASES=100000
	PROPTEST_CASES=$(or $(CASES),20000) cargo test --workspace --locked any_

soak: build         ## all faults and a load on five real nodes: make soak MINUTES=30
	@chaos/soak.sh $(TARGET)/debug/skein $(or $(MINUTES),10) $(SEED)

bench: build        ## the table of numbers
	@$(TARGET)/debug/skein-bench

record: build       ## ask a running Kubernetes what it answers; needs KUBE_URL, KUBE_CA, KUBE_CERT and KUBE_KEY
	@$(TARGET)/debug/skein-record "$(KUBE_URL)" "$(KUBE_CA)" "$(KUBE_CERT)" "$(KUBE_KEY)" > answers.json.new
	@mv answers.json.new tests/conformance/answers.json

go-types:           ## writes anew what only Go's types know of Kubernetes' objects; needs Go
	@cd proto/gotypes && go run . object ../object/schema/kubernetes-v1.37.json > go.txt && mv go.txt ../object/schema/go.txt
	@cd proto/gotypes && go run . protobuf ../protobuf/schema > go.txt && mv go.txt ../protobuf/schema/go.txt

check:              ## only looks
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

fix:                ## only mends
	cargo clippy --workspace --all-targets --fix --allow-dirty
	cargo fmt --all
