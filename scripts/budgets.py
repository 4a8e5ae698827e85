#!/usr/bin/env python3
"""Runs `mesp train` with many budgets, and reads the anonymous memory of it and its children every 2 ms.

    scripts/budgets.py --mesp target/release/mesp [--each 17] [--output results/budgets.json]

Twelve settings; of each the least budget that `mesp plan` names, and budgets up to twice that. A run is over its budget
where the sum of RssAnon of the process and its children was more, at any time it was read. Exit status 1 where one was.
"""

import argparse, json, os, re, subprocess, sys, tempfile, time

ASSETS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "assets", "demo")
TOKENS = ["--data", "tokens.jsonl"]
TEXT = ["--data", os.path.join(ASSETS, "train.jsonl")]
SETTINGS = [
    TOKENS,
    TOKENS + ["--batch-size", "4", "--max-seq-len", "200"],
    TOKENS + ["--batch-tokens", "500"],
    TOKENS + ["--optimizer", "sgd", "--update", "per-block"],
    TOKENS + ["--checkpoints", "file"],
    TOKENS + ["--checkpoints", "bf16", "--activations", "bf16"],
    TOKENS + ["--rank", "64", "--target-modules", "q_proj,v_proj"],
    TOKENS + ["--method", "mezo"],
    TOKENS + ["--eval-split", "0.2", "--dora"],
    ["--data", "many.jsonl"],
    TEXT + ["--batch-size", "2"],
    TOKENS + ["--sample-prompt", "What is a wolf?", "--sample-tokens", "16"],
]


def anonymous(pid):
    try:
        with open(f"/proc/{pid}/status") as status:
            return int(re.search(r"RssAnon:\s+(\d+)", status.read()).group(1)) * 1024
    except (OSError, AttributeError):
        return 0


def children(pid):
    found = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as file:
                found += [int(child) for child in file.read().split()]
    except OSError:
        pass
    return found


def words(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except OSError:
        return b""


def tree(pid):
    """Of a process and its children. A child that has not begun its own program yet shows its parent's memory."""
    own = words(pid)
    begun = [child for child in children(pid) if words(child) not in (own, b"")]
    return anonymous(pid) + sum(anonymous(child) for child in begun)


def run(command):
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    most = 0
    while process.poll() is None:
        most = max(most, tree(process.pid))
        time.sleep(0.002)
    out, err = process.communicate()
    return process.returncode, most, out, err


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mesp", required=True)
    parser.add_argument("--each", type=int, default=17)
    parser.add_argument("--output")
    args = parser.parse_args()
    mesp = os.path.abspath(args.mesp)
    output = os.path.abspath(args.output) if args.output else None
    model = os.path.abspath(os.path.join(ASSETS, "model"))
    os.chdir(tempfile.mkdtemp())
    with open("tokens.jsonl", "w") as file:
        for row in range(24):
            file.write(json.dumps({"input_ids": [1 + (row * 7 + i) % 500 for i in range(100 + row)]}) + "\n")
    with open("many.jsonl", "w") as file:
        file.write('{"input_ids":[5,6,7,8]}\n' * 200000)
    results, over, runs, refused = [], 0, 0, 0
    for options in SETTINGS:
        base = ["--model", model, "--threads", "2"] + options
        code, _, _, err = run([mesp, "train", "--steps", "3", "--output", "run", "--overwrite", "--memory-budget", "1000"] + base)
        named = re.search(r"would do is (\d+)", err)
        if code != 3 or not named:
            sys.exit(f"no least budget of {options}: {err}")
        least = int(named.group(1))
        budgets = [least + least * i // max(args.each - 1, 1) for i in range(args.each)]
        highest = 0.0
        for budget in budgets:
            command = [mesp, "train", "--steps", "3", "--output", "run", "--overwrite", "--json", "--memory-budget", str(budget)]
            code, most, out, err = run(command + base)
            runs += 1
            if code == 3:
                refused += 1
                print(f"refused at {budget} though {least} was named: {options}\n{err}", file=sys.stderr)
                continue
            if code != 0:
                sys.exit(f"status {code} of {options} at {budget}: {err}")
            kept = json.loads(out)["memory"]["budget_kept"]
            highest = max(highest, most / budget)
            if most > budget:
                over += 1
                print(f"over: {most} of {budget}, said kept: {kept}: {options}", file=sys.stderr)
        shown = [os.path.basename(option) for option in options]
        results.append({"options": shown, "least_bytes": least, "budgets": len(budgets), "highest_share": round(highest, 3)})
        print(json.dumps(results[-1]), flush=True)
    summary = {"runs": runs, "over": over, "refused": refused, "settings": results}
    if output:
        with open(output, "w") as file:
            file.write(json.dumps(summary, indent=1) + "\n")
    print(json.dumps({key: summary[key] for key in ("runs", "over", "refused")}))
    sys.exit(1 if over or refused else 0)


main()
