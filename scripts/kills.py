#!/usr/bin/env python3
"""Kills `mesp` (SIGKILL) at random moments of commands that write, and looks at what is left.

    scripts/kills.py --mesp target/release/mesp [--kills 100] [--seed 1] [--output results/kills.json]

Commands: train, merge, quantize, export, data tokenize. After each kill every output that has its name must be whole
(other commands read it), the inputs unchanged, and the same command must then succeed: train by --resume where a
checkpoint is there. Exit status 1 where something was lost.
"""

import argparse, hashlib, json, os, random, shutil, signal, subprocess, sys, tempfile, time

ASSETS = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "assets", "demo"))


def digest(folder):
    total = hashlib.sha256()
    for root, _, files in sorted(os.walk(folder)):
        for name in sorted(files):
            with open(os.path.join(root, name), "rb") as file:
                total.update(name.encode() + b"\0" + file.read())
    return total.hexdigest()


def call(command):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mesp", required=True)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output")
    args = parser.parse_args()
    mesp, output = os.path.abspath(args.mesp), os.path.abspath(args.output) if args.output else None
    chance = random.Random(args.seed)
    os.chdir(tempfile.mkdtemp())
    shutil.copytree(ASSETS, "demo")
    model, data = "demo/model", "demo/train.jsonl"
    made = call([mesp, "train", "--model", model, "--data", data, "--steps", "2", "--output", "adapter"])
    assert made.returncode == 0, made.stderr
    before = digest("demo") + digest("adapter")
    train = ["train", "--model", model, "--data", data, "--output", "run", "--steps", "12", "--save-every", "3"]
    commands = {
        "train": (train, None),
        "merge": (["merge", "--model", model, "--adapter", "adapter", "--output", "merged"],
                  ["eval", "--model", "merged", "--data", "demo/eval.jsonl"]),
        "quantize": (["quantize", "--model", model, "--type", "q8_0", "--output", "m.gguf"], ["inspect", "m.gguf"]),
        "export": (["export", "--model", model, "--adapter", "adapter", "--to", "mlx", "--output", "mlx"],
                   ["eval", "--model", model, "--adapter", "mlx", "--data", "demo/eval.jsonl"]),
        "data tokenize": (["data", "tokenize", "--model", model, "--data", data, "--output", "rows.tokens"],
                          ["data", "show", "--model", model, "--data", "rows.tokens"]),
    }
    counts, lost, inside = dict.fromkeys(commands, 0), [], 0
    names = list(commands)
    for kill in range(args.kills):
        name = names[kill % len(names)]
        command, reader = commands[name]
        target = command[command.index("--output") + 1]
        for path in os.listdir("."):
            if path not in ("demo", "adapter"):
                shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)
        started = time.time()
        whole = call([mesp] + command)
        length = time.time() - started
        if whole.returncode != 0:
            sys.exit(f"{name}: {whole.stderr}")
        overwrite = ["--overwrite"] if chance.random() < 0.5 else []
        if not overwrite:
            shutil.rmtree(target) if os.path.isdir(target) else os.remove(target)
        process = subprocess.Popen([mesp] + command + overwrite, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(chance.random() * length)
        inside += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        counts[name] += 1
        problem = None
        if digest("demo") + digest("adapter") != before:
            problem = "an input was changed"
        if name == "train":
            checkpoints = os.path.join(target, "checkpoints")
            some = os.path.isdir(checkpoints) and any(entry.startswith("step-") for entry in os.listdir(checkpoints))
            again = call([mesp] + command + (["--resume"] if some else ["--overwrite"]))
        else:
            if os.path.exists(target):
                read = call([mesp] + reader)
                if read.returncode != 0:
                    problem = f"what has its name is not whole: {read.stderr}"
            again = call([mesp] + command + ["--overwrite"])
        if again.returncode != 0:
            problem = f"the same command afterwards: {again.stderr}"
        left = [entry for entry in os.listdir(".") if entry not in ("demo", "adapter", target)]
        if left:
            problem = f"left beside the output: {left}"
        if problem:
            lost.append({"kill": kill, "command": name, "problem": problem})
            print(json.dumps(lost[-1]), file=sys.stderr, flush=True)
    summary = {"kills": args.kills, "while_it_ran": inside, "seed": args.seed, "commands": counts, "lost": lost}
    if output:
        with open(output, "w") as file:
            file.write(json.dumps(summary, indent=1) + "\n")
    print(json.dumps({"kills": args.kills, "while_it_ran": inside, "lost": len(lost)}))
    sys.exit(1 if lost else 0)


main()
