# Verbs, each a line or two. "make demo" and "make test" are all a newcomer needs.
GO       ?= go
VERSION  ?= $(shell git describe --always --dirty 2>/dev/null || echo unknown)
LDFLAGS   = -s -w -X main.version=$(VERSION)
FUZZTIME ?= 30s
STATES   ?= 10000
PKGS      = ./...

.PHONY: build test check lint fuzz bench crash demo boot-demo clean tools

build: ## bin/satchel, and bin/boot-select for an initramfs
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/satchel ./cmd/satchel
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w" -o bin/boot-select ./cmd/boot-select

test: lint tools ## everything that can pass or fail, with the race detector
	if command -v python3 >/dev/null; then .ci/vectors --mutate; fi
	.ci/test

check: test ## the same

lint: ## gofmt, vet, staticcheck, tidy, arrows between packages
	.ci/lint

tools: ## what the tests need beyond Go; says what is skipped when it cannot be had
	.ci/tools

fuzz: ## every fuzz target for FUZZTIME each
	.ci/fuzz $(FUZZTIME)

crash: tools ## STATES power cuts on four file systems, and a fault at every system call of an update: tables
	.ci/crash $(STATES)

bench: ## each benchmark once; ratios against cp and bare streams are in the same run
	$(GO) test -run '^$$' -bench . -benchtime 1x -timeout 60m $(PKGS)

demo: build ## a publisher and five laptops on this machine
	bin/satchel demo $(TREE) $(NEXT)

boot-demo: tools ## an emulated machine: gets a bad system, is back by itself, gets a good one and keeps it
	$(GO) test ./cmd/satchel -run '^TestBoot$$' -count 1 -v

clean:
	rm -rf bin
