# SPDX-License-Identifier: Apache-2.0

# Every target is one line of work; `make help` lists them.
GO       ?= go
KERNELS  ?=
RUN      ?=
TIME     ?= 60s
REPORT   ?= reports
comma    := ,

.DEFAULT_GOAL := help
.PHONY: help deps generate build test scenario reference bench cluster-test fuzz lint kernels clean

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

deps: ## Install the packages of all targets, clang-19 too (as root; else list them).
	@.ci/packages

generate: ## Build the BPF objects and their Go bindings anew; installs clang-19.
	@.ci/packages build generate
	$(GO) generate ./bpf

build: ## Build bin/weir, a static binary; installs ca-certificates.
	@.ci/packages build
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o bin/weir ./cmd/weir

# These take longest: begun last, they would end alone.
longest := ./datapath ./lab/netns ./vmtest ./agent ./scenarios/fuzz ./cmd/weir ./replay
test: ## Run every test that is not a scenario; installs QEMU, clang-19, a browser, real programs, kernels.
	@.ci/packages build generate vm test -- all
	@$(MAKE) --no-print-directory kernels
	$(GO) tool gotestsum --format pkgname-and-test-fails -- -timeout 20m $(longest) ./...

# Without root it runs in the newest kernel of the lock.
scenario: in_guests = $(or $(KERNELS),$(if $(filter-out 0,$(shell id -u)),newest))
scenario: ## Run the scenarios, RUN=regexp some; KERNELS=all or 5.10,6.1 installs QEMU, kernels; THOROUGH=1.
	@.ci/packages build $(if $(in_guests),vm -- $(subst $(comma), ,$(in_guests)))
	@$(MAKE) --no-print-directory build
	bin/weir scenario run --report $(REPORT) $(if $(KERNELS),--kernel '$(KERNELS)') $(if $(THOROUGH),--thorough) $(if $(RUN),--run '$(RUN)')

cluster-test: build ## Test on the cluster of KUBECONFIG, which is empty; docs/cluster.md says how.
	WEIR_CLUSTER_TEST=1 $(GO) test -count 1 -timeout 40m -v -run '^TestCluster$$' ./lab/cluster

reference: build ## Run the cluster's scenarios on a new cluster with Kubernetes' own network; docs/reference.md.
	REPORT=$(REPORT) .ci/reference

bench: build ## Measure everything into reports/bench.txt, and hold it against the goals; installs real programs.
	@.ci/packages build test
	@mkdir -p $(REPORT)
	$(GO) test -run '^$$' -bench . -benchtime 1x -timeout 60m ./... >$(REPORT)/bench.txt || { cat $(REPORT)/bench.txt; exit 1; }
	bin/weir bench goals --before lab/bench/before.txt $(REPORT)/bench.txt

fuzz: build ## Fuzz frames, program against model, and changes, for TIME=10m.
	bin/weir fuzz --time $(TIME)

kernels: ## Fetch the locked kernels; installs QEMU and xz.
	@.ci/packages build vm -- all
	@$(MAKE) --no-print-directory build
	bin/weir vm fetch

lint: ## Check formatting, vet, staticcheck, and the C of bpf/; installs clang-19.
	@.ci/packages build generate lint
	@unformatted=$$(gofmt -l .); test -z "$$unformatted" || { echo "gofmt -w $$unformatted"; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	.ci/headers
	.ci/format

clean: ## Remove what was built and reported.
	rm -rf bin $(REPORT)
