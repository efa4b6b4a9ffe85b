# SPDX-License-Identifier: Apache-2.0

# Every target is one line of work; `make help` lists them.
GO       ?= go
KERNELS  ?=
RUN      ?=
TIME     ?= 60s
REPORT   ?= reports

.DEFAULT_GOAL := help
.PHONY: help deps generate build test scenario bench cluster-test fuzz lint kernels clean

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

deps: ## Install the Debian packages that tests use (as root; else names them).
	@.ci/packages

generate: ## Build the BPF objects and their Go bindings anew (needs clang-19).
	$(GO) generate ./bpf

build: ## Build bin/weir, a static binary.
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o bin/weir ./cmd/weir

test: build ## Run every test that is not a scenario.
	$(GO) vet ./...
	$(GO) test -timeout 20m ./...

scenario: build ## Run the scenarios; KERNELS=all or 5.10,6.1 in those kernels, RUN=regexp some.
	bin/weir scenario run --report $(REPORT) $(if $(KERNELS),--kernel '$(KERNELS)') $(if $(RUN),--run '$(RUN)')

cluster-test: build ## Test on the cluster of KUBECONFIG, which is empty; docs/cluster.md says how.
	WEIR_CLUSTER_TEST=1 $(GO) test -count 1 -timeout 40m -v -run '^TestCluster$$' ./lab/cluster

bench: build ## Measure; ratios are of one run, with BASE beside them.
	$(GO) test -run '^$$' -bench . -benchtime 1x -timeout 20m ./...

fuzz: build ## Fuzz frames, program against model, for TIME=10m.
	bin/weir fuzz --time $(TIME)

kernels: build ## Fetch the locked kernels.
	bin/weir vm fetch

lint: ## Check formatting, vet and staticcheck.
	@unformatted=$$(gofmt -l .); test -z "$$unformatted" || { echo "gofmt -w $$unformatted"; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...

clean: ## Remove what was built and reported.
	rm -rf bin $(REPORT)
