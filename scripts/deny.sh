#!/usr/bin/env bash
# Holds the dependencies to deny.toml with cargo-deny, where it is installed: building it takes longer than all tests.
# Known faults are looked up in a database on GitHub; without it the other checks run.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v cargo-deny >/dev/null; then
    echo "skipped: cargo-deny is not installed (cargo install cargo-deny --locked)"
    exit 0
fi
cargo deny check licenses sources bans
if cargo deny fetch db; then
    cargo deny check advisories
else
    echo "skipped: the database of advisories cannot be reached"
fi
