#!/usr/bin/env bash
# All figures of a GPU machine, the most important first: scripts/gpu/run_all.sh OUT [SECONDS]
# What stands in OUT already is not measured again. AGVAS_COMMIT names the commit where there is no git.
set -u
out=${1:?the folder for the JSON files}
total=${2:-270}
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
began=$SECONDS
mkdir -p "$out"
export PYTHONPATH="$here/../..${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 OMP_WAIT_POLICY=PASSIVE

# step NAME SECONDS ARGUMENTS...: one process with a time limit of its own, never beyond the whole; where an error leaves
# the device unusable, a second process does the rest, without the attention kernels that could be at fault
step() {
  local name=$1 limit=$2 left try code kernels=()
  shift 2
  for try in 1 2; do
    left=$((total - (SECONDS - began) - 2))
    [ "$left" -lt 15 ] && { echo "$name: no time left"; return; }
    [ "$limit" -gt "$left" ] && limit=$left
    echo "== $name: at most $limit s of $left"
    timeout -k 5 "$limit" "$python" "$here/measure.py" --out "$out/$name.json" --seconds $((limit - 3)) "$@" "${kernels[@]}"
    code=$?
    [ "$code" -eq 3 ] || [ "$code" -gt 127 ] || return
    kernels=(--kernels flash efficient)
  done
}

step 7b 165 --preset 7b
step 0.5b 62 --preset 0.5b --steps build frame checks reference memory profile parts passes
step 0.5b-routes 45 --preset 0.5b --steps build compiled-decode
step 7b-routes 90 --preset 7b --steps build compiled-decode
step 0.5b-throughput 60 --preset 0.5b --steps build throughput

"$python" "$here/table.py" "$out"
