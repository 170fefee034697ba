# `make demo` and `make test` need only Rust: they install missing Debian packages, or name them if
# that is not possible.

.PHONY: help demo test lint verify fix bench torture simulate replay many model fuzz soak release static deb image install uninstall build-deps test-deps

help:
	@echo 'make demo    three servers, one leader: kill it by a key, and watch another take over (compiles first: 1 to 2 minutes)'
	@echo 'make test    all tests, on real etcd servers (half an hour, and 800 MB of Debian packages)'
	@echo 'make verify  format, lints, documentation and tests, changing nothing: what CI runs'
	@echo 'make fix     format, and apply what the lints suggest'
	@echo 'make simulate SEEDS=1000000   that many runs of the Raft simulation; FIRST=n: from that seed on'
	@echo 'make replay SEED=42           one of them, with every message'
	@echo 'make many N=50                the Raft scenarios, each with so many fresh seeds'
	@echo 'make model   Raft, and the choice of a leader on etcd, under a model checker, further than the tests go (minutes)'
	@echo 'make torture MINUTES=30 SEED=7  seven candidates on etcd, five among peers, and all that can go wrong (2 minutes)'
	@echo 'make fuzz MINUTES=3 TARGET=http   a fuzzer on one parser, or on each in turn'
	@echo 'make soak MINUTES=10          200 elections in one process: nothing it takes may grow'
	@echo 'make bench   measure beside etcdctl, Go and a bare program; writes docs/benchmarks.md (50 minutes)'
	@echo 'make bench WHAT="handoff idle"  some of it, written beside what was built; BENCH_QUICK=1: few trials'
	@echo 'make install the binary, its manual, completions and systemd units, into PREFIX (/usr/local)'
	@echo 'make deb     the same as a package of Debian, beside what was built'
	@echo 'make static  a binary that needs nothing of the machine that it runs on'
	@echo 'make image   a container image: leader-election'

# Not --quiet: shows the compilation.
demo: build-deps
	cargo run --bin elect -- demo

# Simulations and model checkers only compute: lightly optimized they take a fifth of the time, for 50 s more of compiling.
OPTIMIZED = --config profile.dev.package.leader-election.opt-level=1

# Uses cargo-nextest if installed: it limits each test's time and runs tests side by side.
test: export TEST_TOOLS = required
test: test-deps
	if cargo nextest --version >/dev/null 2>&1; then \
		cargo build --examples && cargo nextest run --lib $(OPTIMIZED) && cargo nextest run --bins --test '*' && \
		cargo nextest run --lib --no-default-features --features etcd -E 'not test(model::)' && \
		cargo nextest run --lib --no-default-features --features peers -E 'not test(/raft::(sim|model)::/)'; \
	else cargo test --all-targets; fi
	cargo test --doc
	bash tests/wait_for_it.sh
	bash tests/compose.sh

lint: build-deps
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo clippy --lib --no-default-features --features etcd -- -D warnings
	cargo clippy --lib --no-default-features --features peers -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --no-deps
	sh scripts/deny.sh
	@sh scripts/install.sh python3:python3
	python3 -B scripts/words.py

verify: lint test

fix: build-deps
	cargo fmt --all
	cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged

# Go is not installed: benches/go/build.sh unpacks it into the target directory.
WHAT ?=

bench: build-deps
	@sh scripts/install.sh etcdctl:etcd-client
	cargo bench --package leader-election-bench -- $(WHAT)

# MINUTES=2 by default, half of it on etcd and half among peers; ON=etcd or ON=peers selects one backend, for 1 minute by
# default. SEED=n repeats a schedule, else one is drawn and printed; TIMELINE=1 keeps the picture of good runs too;
# LOOPBACK=1 uses proxies on loopback in place of network namespaces, which need root.
torture: build-deps
	@sh scripts/install.sh ip:iproute2 iptables:iptables \
		'/usr/lib/$(shell uname -m)-linux-gnu/faketime/libfaketimeMT.so.1:libfaketime' \
		|| echo 'without them: loopback, and no clocks of other rates'
	MINUTES=$(MINUTES) SEED=$(SEED) ON=$(ON) TIMELINE=$(TIMELINE) LOOPBACK=$(LOOPBACK) \
		cargo test --quiet --test torture torture -- --ignored --exact --nocapture

# The simulator is a test that runs until stopped. Optimized, but not linked for size.
RAFT = CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
	cargo test --release --lib --no-default-features --features peers
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
	$(RAFT) etcd::model::choosing:: -- --ignored --nocapture --test-threads=1

# Each target has its own default for MINUTES, which may be a fraction for `soak`.
fuzz: build-deps
	sh scripts/fuzz.sh $(or $(MINUTES),3) $(TARGET)

soak: build-deps
	MINUTES=$(or $(MINUTES),10) cargo test --test soak minutes -- --ignored --exact --nocapture

# Reproducible: build paths are left out, so the same source and the same Rust give the same bytes.
HOME_OF_CARGO = $(or $(CARGO_HOME),$(HOME)/.cargo)
REMAPPED = $(RUSTFLAGS) --remap-path-prefix=$(HOME_OF_CARGO)=/cargo --remap-path-prefix=$(CURDIR)=/elect \
	$(if $(CARGO_TARGET_DIR),--remap-path-prefix=$(abspath $(CARGO_TARGET_DIR))=/elect/target)

release: build-deps
	RUSTFLAGS='$(REMAPPED)' cargo build --release --locked --bin elect

# With musl, from rustup, and Debian's C compiler for it (ring has C in it). Fails with a message if rustup has no such target for this machine.
MUSL = $(shell uname -m)-unknown-linux-musl

static: build-deps
	@sh scripts/install.sh musl-gcc:musl-tools
	rustup target add $(MUSL)
	CC_$(subst -,_,$(MUSL))=musl-gcc RUSTFLAGS='$(REMAPPED)' cargo build --release --locked --bin elect --target $(MUSL)
	@echo 'built $(or $(CARGO_TARGET_DIR),target)/$(MUSL)/release/elect'

# ELECT_BINARY=FILE packs that file, such as the static one, and compiles nothing. The same for `image`.
deb: $(if $(ELECT_BINARY),,release)
	sh scripts/deb.sh '$(BINARY)' '$(or $(CARGO_TARGET_DIR),target)'

# Contains only Debian, the binary, and wait-for-it.sh.
IMAGE = leader-election

image: $(if $(ELECT_BINARY),,release)
	sh scripts/image.sh '$(BINARY)' '$(IMAGE)'

# Debian's directories. PREFIX=/usr is for packages; DESTDIR goes in front of every path, also for packages.
# ELECT_BINARY=FILE installs that file and compiles nothing, as under sudo, without cargo:
#
#   make release && sudo make install ELECT_BINARY=target/release/elect
PREFIX = /usr/local
DESTDIR =
ELECT_BINARY =
BINARY = $(or $(ELECT_BINARY),$(or $(CARGO_TARGET_DIR),target)/release/elect)
INTO = $(DESTDIR)$(PREFIX)
MAN = $(INTO)/share/man/man1
BASH_COMPLETIONS = $(INTO)/share/bash-completion/completions
# Debian's zsh reads vendor-completions under /usr only.
ZSH_COMPLETIONS = $(INTO)/share/zsh/$(if $(filter /usr,$(PREFIX)),vendor-completions,site-functions)
FISH_COMPLETIONS = $(INTO)/share/fish/vendor_completions.d
UNITS = $(INTO)/lib/systemd/system
USERS = $(INTO)/lib/sysusers.d
SETTINGS = $(DESTDIR)/etc/default
# The manual names these pages, and they name each other.
DOCUMENTS = $(INTO)/share/doc/leader-election

install: $(if $(ELECT_BINARY),,release)
	install -D -m 755 '$(BINARY)' '$(INTO)/bin/elect'
	install -d '$(MAN)' '$(BASH_COMPLETIONS)' '$(ZSH_COMPLETIONS)' '$(FISH_COMPLETIONS)' '$(UNITS)' '$(USERS)' '$(SETTINGS)'
	'$(BINARY)' man '$(MAN)'
	'$(BINARY)' completions bash >'$(BASH_COMPLETIONS)/elect'
	'$(BINARY)' completions zsh >'$(ZSH_COMPLETIONS)/_elect'
	'$(BINARY)' completions fish >'$(FISH_COMPLETIONS)/elect.fish'
	for unit in elect@.service elect-run@.service elect-witness.service; do \
		sed 's|/usr/bin/elect|$(PREFIX)/bin/elect|' "deploy/systemd/$$unit" >"$(UNITS)/$$unit" || exit 1; \
	done
	install -m 644 deploy/systemd/sysusers.conf '$(USERS)/elect.conf'
	install -d '$(DOCUMENTS)/benchmarks'
	install -m 644 README.md docs/*.* '$(DOCUMENTS)'
	install -m 644 docs/benchmarks/*.svg '$(DOCUMENTS)/benchmarks'
	chmod 644 '$(MAN)'/elect*.1 '$(BASH_COMPLETIONS)/elect' '$(ZSH_COMPLETIONS)/_elect' \
		'$(FISH_COMPLETIONS)/elect.fish' '$(UNITS)'/elect@.service '$(UNITS)'/elect-run@.service \
		'$(UNITS)'/elect-witness.service
	@# Existing settings are never written over, nor removed.
	[ -e '$(SETTINGS)/elect' ] || install -m 644 deploy/systemd/default.elect '$(SETTINGS)/elect'

uninstall:
	rm -f '$(INTO)/bin/elect' '$(MAN)/elect.1' '$(MAN)'/elect-*.1 '$(BASH_COMPLETIONS)/elect' \
		'$(ZSH_COMPLETIONS)/_elect' '$(FISH_COMPLETIONS)/elect.fish' \
		'$(UNITS)/elect@.service' '$(UNITS)/elect-run@.service' '$(UNITS)/elect-witness.service' \
		'$(USERS)/elect.conf'
	rm -rf '$(DOCUMENTS)'

build-deps:
	@sh scripts/install.sh protoc:protobuf-compiler /usr/include/google/protobuf/timestamp.proto:libprotobuf-dev

# Programs for the tests of deploy/, beyond etcd: 170 MB to download and 800 MB
# on disk, most of that Chromium, for the tests of the page.
test-deps: build-deps
	@sh scripts/install.sh etcd:etcd-server etcdctl:etcd-client python3:python3 \
		haproxy:haproxy promtool:prometheus zsh:zsh fish:fish man:man-db \
		/usr/lib/python3/dist-packages/yaml/__init__.py:python3-yaml \
		chromium:chromium chromedriver:chromium-driver
