#!/usr/bin/env bash
# The tests of the kernels on aarch64, under qemu: plain code, NEON, NEON with products of bf16 pairs. Says why and
# does nothing where a tool is missing and cannot be installed.
set -euo pipefail
cd "$(dirname "$0")/.."

target=aarch64-unknown-linux-gnu
skip() { echo "aarch64 is not tested: $1"; exit 0; }

if ! command -v qemu-aarch64 >/dev/null || ! command -v aarch64-linux-gnu-gcc >/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        { apt-get update -qq && apt-get install -qq -y --no-install-recommends \
            qemu-user gcc-aarch64-linux-gnu libc6-dev-arm64-cross; } >/dev/null || skip "no qemu and compiler"
    else
        skip "no qemu-aarch64 and aarch64-linux-gnu-gcc"
    fi
fi
command -v rustup >/dev/null || skip "no rustup to add the target with"
rustup target add "$target" >/dev/null 2>&1 || skip "the target cannot be added"

export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -cpu max -L /usr/aarch64-linux-gnu"
test() { cargo test -q -p mesp-kernels --target "$target" "$@"; }

for isa in neonbf16 neon portable; do
    echo "$isa"
    # Vector operations are the same code in all three. Few rows have no path of their own here, and their test is
    # the longest.
    [ $isa = neonbf16 ] && tests=() || tests=(isa:: matmul:: attention::)
    MESP_ISA=$isa test --lib -- "${tests[@]}" --skip few_rows_are_rows_of_many
    MESP_ISA=$isa test --test bounds -- --exact operations_on_guarded_buffers --ignored
done
