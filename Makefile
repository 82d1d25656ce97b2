# kmsd, kmsfs, kmsctl. Every target works on a bare Debian 12 with Rust, git and make: what else a
# target needs from Debian is installed by `scripts/deps.sh`, which says what it installs.

PREFIX     ?= /usr
DESTDIR    ?=
UNITDIR    ?= /lib/systemd/system
CARGO      ?= cargo
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)

.PHONY: help demo demo-down test test-full bench bench-full bench-kmsd bench-revoke lint fmt install deps

help:
	@echo "make demo        try it: swtpm, kmsd and an encrypted directory under ./demo"
	@echo "make demo-down   remove every trace of the demo"
	@echo "make test        all tests (root: real mounts, swtpm, one boot of systemd)"
	@echo "make test-full   the same with longer file system exercises, more crash points and the FIPS suite"
	@echo "make bench       speed of kmsfs beside gocryptfs, and of kmsd with and without its log"
	@echo "make bench-kmsd  only the latter"
	@echo "make bench-revoke how long ending access takes with 1,000 open files, part of make bench"
	@echo "make bench-full  the same in both content modes, seven rounds each, a million headers rewrapped, 100,000 keys"
	@echo "make lint        rustfmt, clippy and cargo-deny"
	@echo "make install     programs, units and documents below \$$(DESTDIR)\$$(PREFIX)"
	@echo "make deps        Debian packages for all of the above"

demo:
	@scripts/demo.sh up

demo-down:
	@scripts/demo.sh down

test:
	@scripts/test.sh

test-full:
	@KMS_TESTS_FULL=1 scripts/test.sh

bench:
	@scripts/deps.sh build bench
	@bench/run
	@$(MAKE) --no-print-directory bench-kmsd
	@$(MAKE) --no-print-directory bench-revoke

bench-kmsd:
	@scripts/deps.sh build
	@$(CARGO) build --release --locked -q -p kmsd
	@$(CARGO) bench --locked -q -p kms-tests --bench kmsd_load

bench-revoke:
	@scripts/deps.sh build test
	@$(CARGO) build --release --locked -q -p kmsd -p kmsfs -p kmsctl
	@$(CARGO) bench --locked -q -p kms-tests --bench revoke

bench-full:
	@scripts/deps.sh build bench
	@for mode in xts gcm; do \
		echo "== mode $$mode"; \
		bench/run --rounds 7 --mode $$mode --out "$(TARGET_DIR)/bench-full-$$mode.json" || exit 1; \
	done
	@echo "== 1,000,000 headers rewrapped"
	@bench/rewrap --out "$(TARGET_DIR)/bench-rewrap.json"
	@echo "== 100,000 keys"
	@$(CARGO) build --release --locked -q -p kmsd
	@$(CARGO) bench --locked -q -p kms-tests --bench kmsd_load -- --keys 100000
	@echo "== 100,000 keys, 10,000 versions of one of them"
	@KMS_TESTS_FULL=1 $(CARGO) test --release --locked -q -p kmsd --lib scale -- --nocapture

lint:
	@scripts/deps.sh build
	@scripts/lint.sh

fmt:
	$(CARGO) fmt --all

deps:
	@scripts/deps.sh build demo test bench

install:
	@scripts/deps.sh build
	$(CARGO) build --release --locked -p kmsd -p kmsfs -p kmsctl
	@scripts/install.sh "$(TARGET_DIR)/release" "$(DESTDIR)" "$(PREFIX)" "$(UNITDIR)"
