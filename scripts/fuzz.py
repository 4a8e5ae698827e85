#!/usr/bin/env python3
"""Runs fuzz targets one after another and keeps what came of it in results/fuzz.json.

    scripts/fuzz.py                                       every target, 1,000,000 inputs or 10 minutes each, with ASan
    scripts/fuzz.py --targets tables,parquet --seconds 0  1,000,000 inputs each, however long it takes
    scripts/fuzz.py --sanitizer none --targets tables     without ASan, which is two to ten times as fast
    scripts/fuzz.py --corpus fuzz/corpus --seed 2         goes on from the inputs that an earlier run kept there

Needs a nightly compiler and cargo-fuzz (`cargo install cargo-fuzz`). A target begins with its seeds, fuzz/seeds/TARGET,
and an empty corpus, unless --corpus names one. The file is written after each target; a target that was run before
with the same sanitizer and seed is replaced in it. The status is 1 if a target found something; inputs are then in fuzz/artifacts/TARGET.
"""

import argparse
import json
import os
import pathlib
import re
import resource
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGETS = sorted(path.stem for path in (ROOT / "fuzz/fuzz_targets").glob("*.rs"))
# The slowest input of a target may take this long; without ASan and on an idle machine a few seconds do.
TIMEOUT = 60


def said(*command, **kwargs):
    return subprocess.run(command, check=True, text=True, capture_output=True, cwd=ROOT, **kwargs).stdout.strip()


def processor():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return None


def built(sanitizer):
    """Builds all targets; gives the folder of the programs."""
    cargo_fuzz = os.environ.get("CARGO_FUZZ", "cargo-fuzz")
    command = [cargo_fuzz, "build", "--sanitizer", sanitizer]
    subprocess.run(command, check=True, cwd=ROOT, env=os.environ | {"RUSTUP_TOOLCHAIN": "nightly"})
    host = re.search(r"host: (\S+)", said("rustc", "+nightly", "-vV"))[1]
    return ROOT / "fuzz/target" / host / "release"


def number(pattern, log):
    found = re.findall(pattern, log)
    return int(found[-1]) if found else None


def run(target, programs, args):
    """Runs one target; gives its entry, and whether it found something."""
    artifacts = ROOT / "fuzz/artifacts" / target
    artifacts.mkdir(parents=True, exist_ok=True)
    options = [f"-seed={args.seed}", f"-runs={args.runs}", f"-timeout={TIMEOUT}", "-print_final_stats=1"]
    # Names of functions that are reached first would be looked up in 100 MB of debug information.
    options += ["-print_funcs=0", "-reload=0"]
    if args.seconds:
        options.append(f"-max_total_time={args.seconds}")
    with tempfile.TemporaryDirectory() as empty:
        corpus = pathlib.Path(empty)
        if args.corpus:
            corpus = args.corpus.resolve() / target
            corpus.mkdir(parents=True, exist_ok=True)
        begins_with = len(list(corpus.iterdir()))
        command = ["nice", "-n", "19", str(programs / target), str(corpus), f"fuzz/seeds/{target}"]
        command += options + [f"-artifact_prefix={artifacts}/"]
        begin, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        ran = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        seconds, after = time.monotonic() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
        processor_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    log = ran.stderr.decode(errors="replace")
    (artifacts / "log").write_text(log)
    inputs = number(r"stat::number_of_executed_units:\s+(\d+)", log) or number(r"^#(\d+)\s", log) or 0
    # A run that fails says in one line what it found.
    finding = None
    if ran.returncode:
        lines = re.findall(r"^(?:SUMMARY: |==\d+== ?ERROR: |thread .* panicked ).*$", log, re.MULTILINE)
        finding = lines[0][:300] if lines else f"status {ran.returncode}"
    toolchain = said("rustc", "+nightly", "--version")
    sanitizer = f" --sanitizer {args.sanitizer}" if args.sanitizer != "address" else ""
    return {
        "target": target,
        "sanitizer": args.sanitizer,
        "command": f"cargo +nightly fuzz run{sanitizer} {target} fuzz/corpus/{target} fuzz/seeds/{target} -- {' '.join(options)}",
        "toolchain": toolchain,
        "commit": said("git", "rev-parse", "HEAD") if not said("git", "status", "--porcelain", "--", "crates", "fuzz") else None,
        "host": {"cpu": processor(), "cores": os.cpu_count()},
        "seed": args.seed,
        "seeds": len(list((ROOT / "fuzz/seeds" / target).iterdir())),
        "begins_with": begins_with,
        "inputs": inputs,
        "seconds": round(seconds, 1),
        "inputs_per_second": round(inputs / seconds, 1),
        "processor_seconds": round(processor_seconds, 1),
        "coverage": {"edges": number(r"\bcov: (\d+)", log), "features": number(r"\bft: (\d+)", log)},
        "corpus": number(r"\bcorp: (\d+)/", log),
        "slowest_seconds": number(r"stat::slowest_unit_time_sec:\s+(\d+)", log),
        "peak_rss_mb": number(r"stat::peak_rss_mb:\s+(\d+)", log),
        "findings": [] if finding is None else [finding],
    }


def keep(entry, output):
    document = {
        "schema": 1,
        "kind": "fuzz",
        "definitions": {
            "begins_with": "inputs that an earlier run of this target kept and that this one began with, beside the seeds",
            "inputs": "inputs that the target was run with, seeds and those begun with included (libFuzzer's number_of_executed_units)",
            "seconds": "wall time of the process at nice 19, on a machine that may have done other work",
            "processor_seconds": "of the process, user and system",
            "coverage": "edges and features that libFuzzer counted at the end, of the target and all crates in it",
            "corpus": "inputs that were kept because each reached something new",
            "slowest_seconds": "of one input, whole seconds",
            "findings": "crashes, failed assertions, inputs over the time or memory limit: none is an empty list",
        },
        "runs": [],
    }
    if output.exists():
        document["runs"] = json.loads(output.read_text())["runs"]
    same = lambda other: all(other[key] == entry[key] for key in ("target", "sanitizer", "seed"))
    document["runs"] = [other for other in document["runs"] if not same(other)] + [entry]
    document["runs"].sort(key=lambda entry: (entry["target"], entry["sanitizer"], entry["seed"]))
    output.write_text(json.dumps(document, indent=2) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", default=",".join(TARGETS), help="names, with commas between")
    parser.add_argument("--runs", type=int, default=1_000_000, help="inputs of a target")
    parser.add_argument("--seconds", type=int, default=600, help="seconds of a target at most; 0 for no end")
    parser.add_argument("--sanitizer", choices=["address", "none"], default="address")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--corpus", type=pathlib.Path, help="a folder with one of each target, kept between calls")
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "results/fuzz.json")
    parser.add_argument("--programs", type=pathlib.Path, help="a folder with targets that were built before")
    args = parser.parse_args()
    targets = args.targets.split(",")
    if unknown := [name for name in targets if name not in TARGETS]:
        parser.error(f"unknown targets {', '.join(unknown)}, expected some of {', '.join(TARGETS)}")
    programs = args.programs or built(args.sanitizer)
    found = False
    for target in targets:
        entry = run(target, programs, args)
        keep(entry, args.output)
        found |= bool(entry["findings"])
        print(f"{target}: {entry['inputs']} inputs in {entry['seconds']} s, {entry['findings'] or 'nothing found'}", flush=True)
    return int(found)


if __name__ == "__main__":
    sys.exit(main())
