# What is run here, by name. `just` lists it.

set shell := ["bash", "-euo", "pipefail", "-c"]
set positional-arguments

# Where the packages of others are, or are installed
peers := env("MESP_PEERS", "target/peers")

_list:
    @just --list --unsorted

# What must pass before a change lands
ci:
    .ci/run

# The tests
test *args:
    cargo test --workspace "$@"

# Kernels on one thread, against other libraries; a name as argument picks some
bench *args:
    cargo bench -p mesp-kernels -- "$@"

# Adapters and merged models against PEFT, llama.cpp and mlx-lm, into results/interop.json
interop *families: _peers
    cargo build --release -p mesp-cli
    {{ peers }}/bin/python scripts/interop.py --mesp target/release/mesp "$@"

# Fuzz targets under libFuzzer, into results/fuzz.json; needs a nightly compiler and cargo-fuzz
fuzz *args:
    scripts/fuzz.py "$@"

# Computes the goldens again and compares
golden: _peers
    {{ peers }}/bin/python golden/generate.py --check
    {{ peers }}/bin/python golden/task.py --check
    {{ peers }}/bin/python golden/sampling.py --check

# The packages of the two above; llama-cpp-python is built from source and takes minutes
_peers:
    [ -d {{ peers }} ] || python3 -m venv {{ peers }}
    {{ peers }}/bin/pip install --quiet torch transformers peft gguf "mlx[cpu]" mlx-lm llama-cpp-python
