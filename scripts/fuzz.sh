#!/usr/bin/env bash
# Lets every fuzz target look for what it has not seen, FUZZTIME each. What was
# found before is in testdata and runs with the unit tests.
set -euo pipefail
cd "$(dirname "$0")/.."

grep -rHoE --include='*_test.go' --exclude-dir=e2e '^func Fuzz[A-Za-z0-9_]+' . | while IFS=: read -r file name; do
	go -C "$(dirname "$file")" test . -run '^$' -fuzz "^${name#func }\$" -fuzztime "${FUZZTIME:-1m}" </dev/null
done
