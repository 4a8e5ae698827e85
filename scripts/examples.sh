#!/usr/bin/env bash
# Runs the library's examples on the demonstration's model and rows, as `cargo test --workspace` has built them, and has
# a crate outside of the workspace that depends on `mesp` by path checked.
set -euo pipefail
cd "$(dirname "$0")/.."

built="${CARGO_TARGET_DIR:-target}/debug/examples"
model=assets/demo/model rows=assets/demo/train.jsonl
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

"$built/fine_tune" "$model" "$rows" "$work/adapter"
test -s "$work/adapter/adapter_model.safetensors"
"$built/plan_a_budget" "$model" "$rows" 1MB | tee "$work/plan"
grep -q "the smallest budget that would do is" "$work/plan"
"$built/events" "$model" "$rows" | tee "$work/events"
grep -q "stopped from outside: true" "$work/events"
"$built/generate" "$model" "What do you know about the wolf?" "$work/adapter"
"$built/gradients" "$model" "$rows" | tail -n 1
"$built/weighted_rows"

mkdir -p "$work/outside/src"
cp crates/mesp/examples/fine_tune.rs "$work/outside/src/main.rs"
cp Cargo.lock "$work/outside/"
cat > "$work/outside/Cargo.toml" <<TOML
[package]
name = "outside"
version = "0.1.0"
edition = "2024"

[dependencies]
mesp = { path = "$PWD/crates/mesp" }

[workspace]
TOML
CARGO_TARGET_DIR="$PWD/target/outside" cargo check --manifest-path "$work/outside/Cargo.toml"
