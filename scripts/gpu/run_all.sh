#!/usr/bin/env bash
# All figures of a GPU machine, the most important first: scripts/gpu/run_all.sh OUT [SECONDS]
# What stands in OUT already is not measured again. AGVAS_COMMIT names the commit where there is no git.
#
# Where none uses up its limit, every process below is reached within ten minutes (SECONDS is 590 unless told); the last
# one has what is left. On an H100 7b took 100 s and 0.5b 50 s with their compiled code in the cache, and about half a
# minute more without. `compiled-decode` of 7b did not compile in 299 s beside other programs: what its limit cuts off is
# told so in its file, and tried again in the next run. OUT gets JSON files only; compiled code stays in ~/.cache/agvas/compiled, or TORCHINDUCTOR_CACHE_DIR.
set -u
out=${1:?the folder for the JSON files}
total=${2:-590}
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
began=$SECONDS
mkdir -p "$out"
export PYTHONPATH="$here/../..${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 OMP_WAIT_POLICY=PASSIVE

# step NAME SECONDS ARGUMENTS...: one process with a time limit of its own, never beyond the whole; where it lost the
# device (code 3, or a signal), a second one does the rest, without the attention kernels that could be at fault
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
    case $code in
      3) ;;
      124 | 137) return ;; # its time was up
      *) [ "$code" -gt 127 ] || return ;;
    esac
    kernels=(--kernels flash efficient --attention split)
  done
}

step 7b 190 --preset 7b
step 0.5b 110 --preset 0.5b
step 0.5b-routes 120 --preset 0.5b --steps build compiled-decode
step 0.5b-throughput 60 --preset 0.5b --steps build throughput_1 throughput_4
step 7b-routes 330 --preset 7b --steps build compiled-decode

"$python" "$here/table.py" "$out"
