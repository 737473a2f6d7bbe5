#!/usr/bin/env bash
# The speed sheet of a machine with a GPU, nothing downloaded: random weights take as long as trained ones.
#
#   bash scripts/bench/gpu.sh                # about 25 minutes; gpu_sheet/SHEET.md
#   bash scripts/bench/gpu.sh --small        # the same parts at a size that any CPU can do: nothing in it is untried
#   OUT=elsewhere bash scripts/bench/gpu.sh  # again = go on: parts that ended are not run again
#   SLACK=5 bash scripts/bench/gpu.sh        # five times the time for every part: a busy machine
#
# Each part has its own time limit and fails alone; its output, whole or as far as it came, is in the sheet.
set -u
cd "$(dirname "$0")/../.."
out=${OUT:-gpu_sheet}
size=${1:-}
python=${PYTHON:-python}
mkdir -p "$out"

if [ "$size" = "--small" ]; then
  base=miniature; dtype=fp32; device=cpu
  layers="--rounds 2 --small"; packs="--packs 1 2 --steps 2 --processes"; draw="--batches 2 --steps 2 --rounds 1"
  table="--pack 2 --steps 2 --draw-batch 2"; rivals="--packs 1 2 --steps 6"
else
  base=sd15-architecture; dtype=bf16; device=cuda
  layers="--rounds 30"; packs="--packs 1 2 4 8 16 30 --steps 8 --processes"; draw="--batches 1 8 32 --rounds 2"
  table="--pack 30 --steps 8 --draw-batch 32"; rivals="--packs 1 8 30 --steps 60"
fi

# part NAME SECONDS TITLE COMMAND...
part() {
  local name=$1 limit=$2 title=$3; shift 3
  echo "$title" > "$out/$name.title"
  echo "$*" > "$out/$name.command"
  [ -e "$out/$name.done" ] && { echo "$name: done before"; return; }
  echo "$name: $title"
  local began=$SECONDS status=0
  timeout -k 10 "$((limit * ${SLACK:-1}))" "$@" > "$out/$name.txt" 2> "$out/$name.err" || status=$?
  echo "$((SECONDS - began)) $status" > "$out/$name.cost"
  if [ $status -eq 0 ]; then touch "$out/$name.done"; else echo "$name: failed ($status), see $out/$name.err"; fi
}

part 01-machine 120 "What this machine is" "$python" -m delora_sd.cli doctor "model.base=$base" self_test=false
part 02-layers 240 "Adapted layers, forward and backward, relative to peft's LoRA" \
  "$python" scripts/bench/bench_layers.py --device $device $layers
part 03-packs 300 "Packs of adapters" "$python" scripts/bench/bench_packs.py --base $base --dtype $dtype $packs
part 04-checkpointing 180 "The same with gradient checkpointing" \
  "$python" scripts/bench/bench_packs.py --base $base --dtype $dtype $packs --checkpointing
part 05-int8 120 "A base in 8 bits" \
  "$python" scripts/bench/bench_packs.py --base $base --dtype $dtype --packs 1 --steps 4 --processes --quantization int8
part 06-int4 120 "A base in 4 bits" \
  "$python" scripts/bench/bench_packs.py --base $base --dtype $dtype --packs 1 --steps 4 --processes --quantization int4
part 07-drawing 240 "Drawing, beside diffusers' pipeline" \
  "$python" scripts/bench/bench_generation.py --base $base --dtype $dtype $draw
part 08-table3 240 "A row of Table 3, by composition" \
  "$python" scripts/bench/bench_table3.py --base $base --dtype $dtype $table
part 09-rivals 300 "The tools people could pick instead" \
  "$python" scripts/bench/rivals.py --base $base --dtype $dtype $rivals
for name in $("$python" scripts/bench/gpu_sheet.py --architectures $size); do
  part "10-family-$name" 150 "$name: two training steps and an image" \
    "$python" scripts/bench/smoke_full_size.py --base "$name"
done

"$python" scripts/bench/gpu_sheet.py "$out" > "$out/SHEET.md" && echo "sheet: $out/SHEET.md"
