#!/bin/sh
# Trains in a memory cgroup whose limit holds for everything: anonymous memory, page cache, the model's pages.
#
#   scripts/cgroup.sh [--limit BYTES] [--output FILE.json] -- mesp train --model M.gguf --data ... --output RUN
#
# Needs root, and a memory controller (version 1 or 2); makes a group below the caller's own and removes it.
# The model's file is put out of the page cache first, so that its pages count for the group.
# Writes the group's own counters beside those of the run, as JSON. The status is the run's.
set -eu

limit=128000000 output=
while [ $# -gt 0 ]; do
    case $1 in
        --limit) limit=$2; shift 2 ;;
        --output) output=$2; shift 2 ;;
        --) shift; break ;;
        *) break ;;
    esac
done
[ $# -gt 0 ] || { echo "usage: $0 [--limit BYTES] [--output FILE.json] -- mesp train ..." >&2; exit 2; }

model= run= previous=
for word; do
    case $previous in --model) model=$word ;; --output) run=$word ;; esac
    previous=$word
done
[ -n "$model" ] && [ -n "$run" ] || { echo "expected --model FILE and --output DIR in the command" >&2; exit 2; }

v1=$(awk '$3 == "cgroup" && $4 ~ /(^|,)memory(,|$)/ { print $2; exit }' /proc/mounts)
v2=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
if [ -n "$v1" ]; then
    version=1 base=$v1$(awk -F: '$2 ~ /(^|,)memory(,|$)/ { print $3; exit }' /proc/self/cgroup)
elif [ -n "$v2" ] && grep -qw memory "$v2/cgroup.controllers"; then
    # Version 2 lets no group have both processes and groups with controllers: the root is the exception.
    version=2 base=$v2
    echo +memory > "$base/cgroup.subtree_control"
else
    echo "no memory controller is mounted here" >&2
    exit 2
fi
group=$base/mesp-check-$$
mkdir "$group"
trap 'rmdir "$group" 2>/dev/null || true' EXIT

if [ $version = 1 ]; then
    echo "$limit" > "$group/memory.limit_in_bytes"
    # Memory and swap together: no swap. Some kernels do not count swap.
    echo "$limit" > "$group/memory.memsw.limit_in_bytes" 2>/dev/null || true
    set_peak=memory.max_usage_in_bytes set_fails=memory.failcnt
else
    echo "$limit" > "$group/memory.max"
    echo 0 > "$group/memory.swap.max" 2>/dev/null || true
    set_peak=memory.peak set_fails=memory.events
fi
dd if="$model" iflag=nocache count=0 2>/dev/null

status=0
sh -c 'echo $$ > "$1/cgroup.procs"; shift; exec "$@"' sh "$group" "$@" || status=$?

stat() { awk -v key="$1" '$1 == key { print $2; exit }' "$group/memory.stat"; }
peak=$(cat "$group/$set_peak" 2>/dev/null || echo null)
if [ $version = 1 ]; then
    refusals=$(cat "$group/$set_fails")
else
    refusals=$(awk '$1 == "max" { print $2 }' "$group/$set_fails")
fi
kills=$(awk '$1 == "oom_kill" { print $2 }' "$group/memory.oom_control" "$group/memory.events" 2>/dev/null | head -n 1)
majors=$(stat pgmajfault)
ran=null
[ $status -eq 0 ] && ran=$(cat "$run/run.json")
result=$(printf '{\n"kind": "cgroup",\n"cgroup_version": %s,\n"limit_bytes": %s,\n"peak_bytes": %s,\n"refused_charges": %s,\n"killed": %s,\n"major_faults": %s,\n"exit_status": %s,\n"run": %s\n}' \
    "$version" "$limit" "$peak" "$refusals" "${kills:-null}" "${majors:-null}" "$status" "$ran")
if [ -n "$output" ]; then printf '%s\n' "$result" > "$output"; fi
printf 'cgroup: limit %s, peak %s, %s charges refused, %s killed, status %s\n' \
    "$limit" "$peak" "$refusals" "${kills:-unknown}" "$status" >&2
exit $status
