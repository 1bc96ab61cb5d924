#!/usr/bin/env bash
# Builds, runs, times and compares a TensorRT engine of every graph that tensorrt_graphs.py writes:
# scripts/gpu/tensorrt.sh GRAPHS OUT, with TensorRT's Python in TRT_RUN (a command that runs FILE ARGUMENTS).
#
# OUT/NAME.json holds the figures, or OUT/NAME.txt the end of what the failure said. What stands in OUT is not done
# again. LIMIT: seconds a graph (90). WAIT: seconds to wait for graphs that are still being written (0); of those there,
# the first of NAMES is taken. TOTAL: seconds for everything. OPTIONS: more for tensorrt_try.py.
set -u
graphs=${1:?the folder of the graphs}
out=${2:?the folder for the figures}
run=${TRT_RUN:-python3}
limit=${LIMIT:-90} total=${TOTAL:-100000}
here=$(cd "$(dirname "$0")" && pwd)
names=({7b,0.5b}-{pixel_encoder,decoder,semantic_encoder,spam})
[ -z "${NAMES:-}" ] || read -ra names <<<"$NAMES"
began=$SECONDS
mkdir -p "$out"

done_with() { [ -e "$out/$1.json" ] || [ -e "$out/$1.txt" ]; }

# `name` becomes the first graph that is there and not done; `missing` those that are not there
look() {
  local each
  name='' missing=0
  for each in "${names[@]}"; do
    done_with "$each" && continue
    [ -d "$graphs/$each" ] || { missing=$((missing + 1)); continue; }
    [ -n "$name" ] || name=$each
  done
}

# try_one NAME SECONDS: into OUT/NAME.json or OUT/NAME.txt
try_one() {
  local name=$1 model=$graphs/$1/${1#*-} from=$SECONDS code
  # shellcheck disable=SC2086
  timeout -k 5 "$2" $run "$here/../../tools/tensorrt_try.py" "$model.onnx" --range B=1,1,1 --range G=1,1,4 \
    --inputs "$graphs/$name/inputs.npz" --compare "$graphs/$name/outputs.npz" ${OPTIONS:-} \
    >"$out/.$name.json" 2>"$out/.$name.err"
  code=$?
  if [ "$code" -eq 0 ]; then
    mv "$out/.$name.json" "$out/$name.json"
  else
    { echo "exit code $code after $((SECONDS - from)) s"; tail -c 4000 "$out/.$name.err"; } >"$out/$name.txt"
  fi
  echo "$name: exit code $code, $((SECONDS - from)) s"
  if [ "$code" -eq 0 ]; then grep -E '"(replay|run)_ms"' "$out/$name.json"; else tail -n 3 "$out/.$name.err"; fi
  rm -f "$out/.$name".*
}

while look; do
  left=$((total - (SECONDS - began)))
  if [ -z "$name" ] && [ "$missing" -eq 0 ]; then
    break
  elif [ "$left" -lt 10 ]; then
    echo "no time left"
    break
  elif [ -n "$name" ]; then
    try_one "$name" $((limit < left ? limit : left))
  elif [ "$missing" -gt 0 ] && [ $((SECONDS - began)) -lt "${WAIT:-0}" ]; then
    sleep 0.5
  else
    break
  fi
done

"${PYTHON:-python3}" "$here/tensorrt_table.py" "$out" "${names[@]}"
