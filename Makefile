# SPDX-License-Identifier: Apache-2.0
#
# make demo and make test do all their set-up themselves, on a machine with Go and make. Tests with real interfaces and real
# peers need root, and the programs below; as root, make test installs what is missing.

export CGO_ENABLED := 0
GO       ?= go
FUZZTIME ?= 10s
ROUNDS   ?= 251
SOAK     ?= 10m
TOOLS    := ip:iproute2 tcpdump:tcpdump tshark:tshark ethtool:ethtool nft:nftables ping:iputils-ping ovs-vswitchd:openvswitch-switch setpriv:util-linux nsenter:util-linux unshare:util-linux mount:mount prlimit:util-linux openssl:openssl nc:netcat-openbsd crun:crun

.PHONY: build generate demo test test-net test-arm64 test-avx512 check cross suricata race fuzz bench bench-quick bench-options options-table bench-tools bench-path report sizing soak bench-flood bench-crypto tools install-extcap install-dissector clean

build: ## the binary, bin/ntap, and its links with nTap's names
	$(GO) build -trimpath -o bin/ntap ./cmd/ntap
	ln -sf ntap bin/ntap_remote
	ln -sf ntap bin/ntap_collector

install-extcap: build ## ntap among the interfaces of Wireshark and tshark: into EXTCAPDIR, else the user's folder, else (as root) the system's
	@dir="$(EXTCAPDIR)"; \
	[ -n "$$dir" ] || dir="$$(tshark -G folders 2>/dev/null | sed -n 's/^Personal Extcap path:[[:space:]]*//p')"; \
	[ -n "$$dir" ] || dir="$$(tshark -G folders 2>/dev/null | sed -n 's/^\(Global \)\{0,1\}Extcap path:[[:space:]]*//p')"; \
	[ -n "$$dir" ] || { echo "no tshark here that says where its extcap folder is: make install-extcap EXTCAPDIR=DIR"; exit 1; }; \
	mkdir -p "$$dir" && install -m 755 bin/ntap "$$dir/ntap" && echo "$$dir/ntap; tshark -D lists ntap now"

install-dissector: ## Wireshark's view of ntap's datagrams: into PLUGINDIR, else the user's folder for plugins in Lua
	@dir="$(PLUGINDIR)"; \
	[ -n "$$dir" ] || dir="$$(tshark -G folders 2>/dev/null | sed -n 's/^Personal Lua Plugins:[[:space:]]*//p')"; \
	[ -n "$$dir" ] || { echo "no tshark here that says where its plugins in Lua are: make install-dissector PLUGINDIR=DIR"; exit 1; }; \
	mkdir -p "$$dir" && install -m 644 wireshark/ntap.lua "$$dir/ntap.lua" && echo "$$dir/ntap.lua; UDP port 5678 is ntap's now, and what looks like it elsewhere"

generate: ## the assembly of AES-256-GCM, from crypto/gcmasm
	$(GO) run ./crypto/gcmasm crypto

demo: build ## remote and collector on this machine, live (as root)
	bin/ntap demo

test: tools ## all tests
	$(GO) test -timeout 15m ./...

test-net: tools ## all tests, and a test that would be skipped fails
	CI=true $(GO) test -timeout 15m ./...

test-arm64: ## crypto, proto and the program as arm64 runs them, under qemu-user
	internal/emulate/arm64.sh

test-avx512: ## the AVX-512 kernel of crypto, on an emulated CPU where this one has none
	internal/emulate/avx512.sh

giouring: tools ## the second backend of io_uring, by the same tests; it links only with -checklinkname=0
	$(GO) vet -tags giouring ./...
	$(GO) test -tags giouring -ldflags=-checklinkname=0 -run 'Uring|Inbox|Kernel' ./ring
	$(GO) test -tags giouring -ldflags=-checklinkname=0 -run 'Tap|Trains|IO' ./collector
	$(GO) test -tags giouring -ldflags=-checklinkname=0 -run 'Uring|IO' ./remote
	$(GO) test -tags giouring -ldflags=-checklinkname=0 -run 'WaysOfIO' ./cmd/ntap

tools: ## as root on Debian: installs what the tests need and is missing
	@missing=""; for t in $(TOOLS); do command -v $${t%%:*} >/dev/null 2>&1 || missing="$$missing $${t##*:}"; done; \
	if [ -n "$$missing" ]; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
			echo "installing$$missing"; \
			{ apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y $$missing >/dev/null; } || \
				echo "could not install$$missing: tests that need them are skipped, or fail where CI=true"; \
		else echo "not installed:$$missing: tests that need them are skipped (as root, make test installs them)"; fi; fi

suricata: ## as root on Debian: Suricata for the tests, from the backports of a release that has none
	@command -v suricata >/dev/null || internal/testnet/suricata.sh

check: cross ## what has to be clean: format, the import picture, licence lines, vet, staticcheck, modules, generated code, other systems
	@bad="$$($$($(GO) env GOROOT)/bin/gofmt -l .)"; test -z "$$bad" || { echo "not gofmt-clean:"; echo "$$bad"; exit 1; }
	$(GO) test .
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	$(GO) mod tidy -diff
	@d=$$(mktemp -d) && $(GO) run ./crypto/gcmasm $$d && diff -q $$d/gcm_amd64.s crypto/gcm_amd64.s && \
		diff -q $$d/gcm_stub_amd64.go crypto/gcm_stub_amd64.go && rm -r $$d || { echo "crypto/gcm_amd64*: run make generate"; exit 1; }

cross: ## builds for arm64, and what other systems see is in order
	GOARCH=arm64 $(GO) build -o /dev/null ./cmd/ntap
	GOARCH=arm64 $(GO) vet ./...
	GOOS=darwin $(GO) vet ./...

race: ## tests with the race detector, which needs cgo
	CGO_ENABLED=1 $(GO) test -race -timeout 30m ./...

fuzz: ## every fuzzer for FUZZTIME
	@set -e; for p in $$($(GO) list ./...); do \
		for f in $$($(GO) test -list '^Fuzz' $$p | grep '^Fuzz' || true); do \
			echo "$$p $$f"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) $$p; done; done

bench: tools bench-tools ## everything, beside its peers, in under ten minutes: a results file (as root)
	bin/bench
	$(GO) run ./benchmarks/report

bench-options: bench-tools ## what each option of a remote costs a frame, in seven minutes: a results file of its own (as root; 2 GiB of memory)
	bin/bench -only options
	$(GO) run ./benchmarks/report

options-table: ## what options cost in docs/CAPTURE.md, of RESULTS=FILE or the newest of make bench-options
	$(GO) run ./benchmarks/report -costs $(RESULTS)

report: ## the report and plots of a results file: RESULTS=FILE, or the newest of benchmarks/results
	$(GO) run ./benchmarks/report $(RESULTS)

sizing: ## SIZING.md, and the profile that ntap size has built in, of RESULTS=FILE or the newest
	$(GO) run ./benchmarks/report -sizing $(RESULTS)

bench-quick: tools bench-tools ## that make bench runs: a little of everything, no figures (as root)
	bin/bench -quick

soak: bench-tools ## ten minutes at 80 % of the highest rate: nothing lost, kept or collected (as root)
	bin/bench -soak $(SOAK)

bench-tools: ## bin/bench, and the peers that are built from source
	$(GO) build -trimpath -o bin/bench ./benchmarks/bench
	cd benchmarks/peers && $(GO) build -trimpath -o ../../bin/peers/wireguard golang.zx2c4.com/wireguard || \
		echo "wireguard-go could not be built: its rows will say so"

bench-path: build ## CPU per frame of each side alone, as benchmarks/README.md has it (as root)
	for size in 60 300 1300; do benchmarks/path.sh $$size 300000; done

bench-flood: build ## a collector under attack, beside good traffic at the rate that half of its CPU carries (as root)
	benchmarks/flood.sh

bench-crypto: ## every cipher beside crypto/cipher and, where it is installed, Intel's IPsec-MB
	$(GO) test -run '^$$' -bench '^BenchmarkKernels$$' -benchtime 50ms ./crypto
	$(GO) run ./benchmarks/crypto -rounds $(ROUNDS)

clean:
	rm -rf bin
