#!/usr/bin/env bash
# Everything that only a machine with a GPU can tell, from programs that lie beside this file: no network, no cargo.
#   run.sh [RESULTS] [GPU]
# Each part has a time limit and writes RESULTS/PART.txt (or .json); `cargo xtask gpu-check read RESULTS` makes one file of
# them. Most important parts first, so that a run that is cut short is of use.
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=${1:-results} gpu=${2:-0}
mkdir -p "$out" && out=$(cd "$out" && pwd)
cd "$here"
# The GPU is the only one that is visible, and so the first.
export CUDA_VISIBLE_DEVICES=$gpu KERNELS_TEST_GPU=0 XDG_CACHE_HOME="$out/cache" PYTHONUNBUFFERED=1

# NVIDIA's compiler library comes with PyTorch, wherever that is installed.
if [ -z "${NVRTC_LIBRARY:-}" ] && command -v python3 >/dev/null; then
  NVRTC_LIBRARY=$(python3 - <<'PY'
import glob, sys
for path in sys.path:
    for found in sorted(glob.glob(path + "/nvidia/*/lib/libnvrtc.so.*")):
        print(found)
        sys.exit()
PY
  )
  [ -n "$NVRTC_LIBRARY" ] && export NVRTC_LIBRARY || unset NVRTC_LIBRARY
fi

# part NAME SECONDS COMMAND...: says how it went and goes on.
part() {
  local name=$1 limit=$2 since=$SECONDS code=0
  shift 2
  timeout -k 5 "$limit" "$@" >"$out/$name" 2>"$out/$name.log" || code=$?
  printf '%s\t%d\t%d\n' "$name" "$code" $((SECONDS - since)) | tee -a "$out/parts.tsv"
  [ $code = 0 ] || tail -n 5 "$out/$name.log" "$out/$name" | cut -c1-300
}

: >"$out/parts.tsv"
part gpu.csv 20 nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader
part devices.txt 60 ./worker devices
part conformance.txt 60 env CUDA_MOCK=off ./mock-tests conformance --test-threads 1
part kernels.txt 120 ./kernel-tests --test-threads 1
part model.txt 60 ./model-tests cuda --test-threads 1

# The same bits again, from one worker and from two, in the precision of every day and in the reference one.
for precision in bf16 fp32; do
  sed "s|^\(slices *=.*\)|\1\nprecision = \"$precision\"|; s|^path *=.*|path = \"$here/digits\"|" digits/job.toml >"$out/digits-$precision.toml"
  for run in 1-first 1-again 2-workers; do
    part "digits-$precision-$run.txt" 60 ./coordinator train "$out/digits-$precision.toml" --workers "${run%%-*}" --devices all \
      --state "$out/state/$precision-$run"
  done
done

# Images a second of whole steps, with the time of each op, and PyTorch on the same card.
for batch in 256 128 512; do
  part "resnet50-$batch.json" 60 ./worker bench --gpu 0 --model resnet50 --input 3x224x224 --classes 1000 --batch $batch --seconds 5 --json
done
part resnet18-cifar-512.json 60 ./worker bench --gpu 0 --model resnet18 --input 3x32x32 --batch 512 --seconds 5 --json
part resnet50-64-fp32.json 60 ./worker bench --gpu 0 --precision fp32 --model resnet50 --input 3x224x224 --classes 1000 --batch 64 --seconds 3 --json
part pytorch.json 240 python3 pytorch_gpu.py

if command -v compute-sanitizer >/dev/null; then
  part memcheck.txt 90 compute-sanitizer --tool memcheck --error-exitcode 9 ./kernel-tests --test-threads 1 norm pool linear
  part racecheck.txt 90 compute-sanitizer --tool racecheck --error-exitcode 9 ./kernel-tests --test-threads 1 norm_backward
fi
rm -rf "$out/cache" "$out/state"
