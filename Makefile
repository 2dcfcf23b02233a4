# Two commands matter: `go run ./cmd/regkeeper up`, and `make test`.

.PHONY: test quick lint fuzz bench build

test: ## Everything that must pass, installing and building what it needs.
	@scripts/test.sh

quick: ## The quick loop: no network, no root, under two minutes.
	go test ./...

lint: ## The linter alone.
	go build -C tools -o ../bin/golangci-lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint
	bin/golangci-lint run ./...

fuzz: ## Look for inputs that break a parser; never ends the same twice, so not in test.
	@scripts/fuzz.sh

bench: ## The benchmarks, ready for benchstat.
	go test -run '^$$' -bench . -count 6 ./internal/benchmarks

build: ## The static binary, and the small one that clients run as a helper.
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o bin/regkeeper ./cmd/regkeeper
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o bin/docker-credential-regkeeper ./cmd/docker-credential-regkeeper
