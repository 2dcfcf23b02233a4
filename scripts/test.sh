#!/usr/bin/env bash
# Runs everything that must pass, and prints how long each part took. What
# cannot run here is left out loudly; with CI set it is a failure.
set -uo pipefail
cd "$(dirname "$0")/.."

mkdir -p bin
started=$SECONDS
report=() failed=() left=()
heard=$(mktemp) # what the unit and end-to-end tests say
trap 'rm -f "$heard"' EXIT

part() { # part NAME COMMAND...
	local name=$1 begun=$SECONDS code=0
	shift
	printf '\n== %s\n' "$name"
	"$@" || code=$?
	local took=$((SECONDS - begun))
	if ((code)); then
		failed+=("$name")
		report+=("$(printf '%-28s %4d s  FAILED' "$name" "$took")")
	else
		report+=("$(printf '%-28s %4d s  ok' "$name" "$took")")
	fi
}

leave_out() { # leave_out NAME REASON
	printf '\n!! LEFT OUT: %s: %s\n' "$1" "$2"
	left+=("$1: $2")
	if [ -n "${CI:-}" ]; then failed+=("$1 (left out)"); fi
}

# The programs that the end-to-end tests need, and the packages they are in.
packages=(docker.io docker-registry podman skopeo busybox-static runc containernetworking-plugins iproute2 openssh-server openssh-client pass gnupg)
programs=(dockerd docker-registry podman skopeo busybox runc /usr/lib/cni/bridge ip /usr/sbin/sshd ssh pass gpg)

install_programs() {
	local missing=()
	for i in "${!programs[@]}"; do
		command -v "${programs[$i]}" >/dev/null 2>&1 || missing+=("${packages[$i]}")
	done
	((${#missing[@]})) || return 0
	if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
		leave_out "install" "${missing[*]} are missing: install them as root; the tests that need them are skipped"
		return 0
	fi
	# What is installed must not start as a service: see invoke-rc.d(8).
	local policy=/usr/sbin/policy-rc.d code=0 ours=
	if [ ! -e "$policy" ]; then
		printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy" && ours=1
	fi
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null || code=$?
	[ -z "$ours" ] || rm -f "$policy"
	return "$code"
}

lint() {
	go build -C tools -o "$PWD/bin/golangci-lint" github.com/golangci/golangci-lint/v2/cmd/golangci-lint || return
	bin/golangci-lint config verify 2>/dev/null || true
	bin/golangci-lint run ./... && (cd e2e && ../bin/golangci-lint run -c ../.golangci.yml ./...) &&
		(cd tools/charts && ../../bin/golangci-lint run -c ../../.golangci.yml ./...) || return
	local module tags
	for module in "${differential[@]}"; do
		tags=
		[ "${module##*/}" = podman ] && tags=containers_image_openpgp
		(cd "$module" && "$OLDPWD/bin/golangci-lint" run -c "$OLDPWD/.golangci.yml" --build-tags "$tags" ./...) || return
	done
}

cross_build() {
	local system
	for system in linux/arm64 darwin/arm64 windows/amd64; do
		CGO_ENABLED=0 GOOS=${system%/*} GOARCH=${system#*/} go build -o /dev/null ./cmd/regkeeper || return
	done
}

tidy() {
	local module
	for module in . e2e tools/charts "${differential[@]}"; do
		go -C "$module" mod tidy -diff || return
	done
}

# The clients' own libraries, each in a program of a module of its own.
differential=(consumer/differential consumer/differential/peer consumer/differential/peers/*)

libraries() { go -C consumer/differential test -count=1 -timeout 20m -v ./... 2>&1 | grep -Ev '^(=== (RUN|PAUSE|CONT|NAME))' | tee -a "$heard"; return "${PIPESTATUS[0]}"; }

# Compiling the peers ahead fills Go's build cache; the tests then only link.
peers() {
	go build -C e2e/peers/gitea/build -tags "sqlite sqlite_unlock_notify" -o /dev/null code.gitea.io/gitea &&
		go build -C e2e/peers/runner/build -o /dev/null gitea.com/gitea/runner &&
		go build -C e2e/peers/gitlabrunner/build -o /dev/null . &&
		go build -C e2e/peers/credhelpers/build -o /dev/null tool &&
		go build -C e2e/peers/kubernetes/build -o /dev/null . &&
		go build -C e2e/peers/containerd/build -tags "no_btrfs no_devmapper no_zfs" -o /dev/null tool &&
		go build -C e2e/peers/kwok/build -o /dev/null sigs.k8s.io/kwok/cmd/kwok &&
		go build -C e2e/peers/distribution/build -o /dev/null tool &&
		go build -C e2e/peers/cosign/build -o /dev/null tool &&
		go build -C e2e/peers/buildx/build -o /dev/null tool
}

# quiet keeps of go test -v the packages' results, what was left out, and all
# that a package which failed has said.
quiet() {
	awk '/^(=== (RUN|PAUSE|CONT)|PASS$|\?)/ || /^ *--- PASS/ { next }
		/^(ok|FAIL)[ \t]/ { printf "%s", $1 == "FAIL" ? said : left; print; said = left = ""; next }
		{ said = said $0 "\n" }
		/LEFT OUT/ { left = left $0 "\n" }
		END { printf "%s", said }'
}

unit() { go test -race -shuffle=on -v "${@:-./...}" 2>&1 | quiet | tee -a "$heard"; return "${PIPESTATUS[0]}"; }

e2e() { go -C e2e test -count=1 -timeout 60m -v ./... 2>&1 | grep -Ev '^(=== (RUN|PAUSE|CONT|NAME))' | tee -a "$heard"; return "${PIPESTATUS[0]}"; }

part "programs" install_programs
part "build" go build ./...
# The heavy peers build while the quick parts run.
if [ "$(uname)" = Linux ]; then
	peers &
	peers_pid=$!
fi
part "build for other systems" cross_build
part "vet" go vet ./...
part "vet end-to-end" go -C e2e vet ./...
part "tidy" tidy
part "lint" lint
part "unit and integration, race" unit
part "100,000 plans" go test ./plan -run '^TestSafety' -plans 100000
part "2,000 deliveries by exec" go test ./target/pods -run '^TestNothingIsLost$' -deliveries 2000
part "clients' own libraries" libraries
part "Helm chart and kustomize" go -C tools/charts test ./...
part "benchmarks run" go test -run '^$' -bench . -benchtime 1x ./...
if [ "$(uname)" = Linux ]; then
	part "compile the peers" wait "$peers_pid"
	part "end-to-end" e2e
else
	leave_out "end-to-end" "the peers run on Linux"
fi

printf '\n== parts\n'
printf '%s\n' "${report[@]}"
printf '%-28s %4d s\n' total $((SECONDS - started))
while IFS= read -r line; do left+=("$line"); done < <(grep -oE '(LEFT OUT|PEER MISSING).*' "$heard" | sed 's/^LEFT OUT: //' | sort -u)
if ((${#left[@]})); then
	printf '\n!! LEFT OUT:\n'
	printf '!!   %s\n' "${left[@]}"
fi
if ((${#failed[@]})); then
	printf '\nFAILED: %s\n' "${failed[*]}"
	printf '%d passed, %d failed\n' $((${#report[@]} - ${#failed[@]})) "${#failed[@]}"
	exit 1
fi
printf '%d passed, 0 failed\n' "${#report[@]}"
