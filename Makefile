# `make demo` and `make test` are the only commands that a new machine needs.

CARGO ?= cargo
built := $(or $(CARGO_TARGET_DIR),target)/debug
released := $(or $(CARGO_TARGET_DIR),target)/release
part := .ci/part
quick := --lib --bins --test architecture --test cli --test plan --test schema --test topology

# cargo-nextest keeps the tests that start servers apart (.config/nextest.toml); `cargo test` gets one thread for that.
ifeq ($(shell $(CARGO) nextest --version >/dev/null 2>&1 && echo yes),yes)
run_quick := $(CARGO) nextest run --locked --workspace $(quick)
run_tests := $(part) 'Tests' $(CARGO) nextest run --locked --workspace
else
run_quick := $(CARGO) test --locked --workspace $(quick)
run_tests := $(part) 'Unit tests' $(CARGO) test --locked --workspace --lib --bins && \
	$(part) 'Tests with servers' $(CARGO) test --locked --workspace --no-fail-fast --test '*' -- --test-threads=1
endif

properties := $(or $(CARGO_TARGET_DIR),target)/torture/properties.json

.PHONY: help test check demo lab bench soak torture root tools packages

help:
	@echo 'make demo    drain a facility and bring it back, on real servers, under load (root; about two minutes after the build)'
	@echo 'make test    everything that CI runs (root)'
	@echo 'make check   format, lints and quick tests; no servers, no root'
	@echo 'make lab     start the servers of topology.yaml and leave them running (root)'
	@echo 'make bench   measure handover beside what people use today (root; under 25 minutes; BENCH_PAIRS=2 for a try)'
	@echo 'make soak    ten drains and restores in a row under load, at 20 and 80 ms (root; SOAK_ROUNDS=2 for a try)'
	@echo 'make torture lose facilities, kill it at every kind of record, make servers ill at every step, go on and compare (root; TORTURE_S=2400 bounds it)'
	@echo
	@echo 'demo, test, lab, bench, soak and torture install missing Debian packages first; none of their services is started on this machine.'

test: root tools packages
	@$(part) 'Format' $(CARGO) fmt --all --check
	@$(part) 'Lints' $(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	@$(part) 'Build' $(CARGO) build --locked --workspace --all-targets
	@$(run_tests)
	@$(part) 'Examples in documentation' $(CARGO) test --locked --workspace --doc
	@RUSTDOCFLAGS='-D warnings' $(part) 'Documentation' $(CARGO) doc --locked --workspace --no-deps
	@printf '\nAll parts passed.\n'

check: tools
	@$(part) 'Format' $(CARGO) fmt --all --check
	@$(part) 'Lints' $(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	@$(part) 'Quick tests' $(run_quick)

demo: root packages
	@$(part) 'Build' $(CARGO) build --locked --workspace
	@$(built)/lab demo

soak: root packages
	@$(part) 'Build' $(CARGO) build --locked --workspace
	@$(built)/lab soak

# The properties on simulated targets come first: $(SIMULATED_CASES) cases, beside which the rest of the time is for real servers.
torture: root packages
	@mkdir -p $(dir $(properties))
	@$(part) 'Build' $(CARGO) build --locked --workspace
	@SIMULATED_CASES=$(or $(SIMULATED_CASES),100000) SIMULATED_SEED=$(or $(SIMULATED_SEED),$(shell date +%s)) SIMULATED_REPORT=$(abspath $(properties)) \
		$(part) 'Simulated targets' $(CARGO) test --locked --release --test simulated
	@$(built)/lab torture --simulated $(properties)

bench: root
	@$(part) 'Debian packages' lab/install.sh patroni etcd-server postgresql-15-repmgr python3-venv
	@$(part) 'Build' $(CARGO) build --locked --release --workspace
	@$(part) 'octoDNS' bench/octodns.sh target/bench/octodns
	@$(released)/bench run

lab: root packages
	@$(part) 'Build' $(CARGO) build --locked --workspace
	@$(built)/lab up
	@echo
	@echo 'Go on with:'
	@echo "  PATH=$(abspath $(built)):\$$PATH"
	@echo '  lab status'
	@echo '  lab exec -- handover status --topology /srv/topology.yaml'
	@echo '  lab down'

root:
	@[ "$$(id -u)" -eq 0 ] || { echo 'This needs root: it starts servers in network namespaces. Try: sudo env "PATH=$$PATH" make …' >&2; exit 1; }

tools:
	@$(CARGO) fmt --version >/dev/null 2>&1 && $(CARGO) clippy --version >/dev/null 2>&1 || \
		{ echo 'cargo fmt or cargo clippy is missing: rustup component add rustfmt clippy' >&2; exit 1; }

packages:
	@$(part) 'Debian packages' lab/install.sh
