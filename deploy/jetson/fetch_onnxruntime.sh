#!/usr/bin/env bash
# Put NVIDIA's build of ONNX Runtime for JetPack 6 (CUDA 12.6, Python 3.10) into a folder, or fail and say what to do.
#   fetch_onnxruntime.sh FOLDER
#
# PyPI has no such wheel: `pip install onnxruntime-gpu` finds none, and `onnxruntime` runs on the CPU without a word. The
# index that has it has moved, been away for days and dropped packages; so there is a second source, both are tried
# again, and a file named below that already lies beside this script (or in its folder wheels/) is taken first.
# Two builds were published under the one name; each is held to its checksum.
set -euo pipefail

wheel=onnxruntime_gpu-1.23.0-cp310-cp310-linux_aarch64.whl
sources=${ONNXRUNTIME_SOURCES:-"
  https://pypi.jetson-ai-lab.io/jp6/cu126/+f/4eb/e6a8902dc7708/$wheel
  https://github.com/ultralytics/assets/releases/download/v0.0.0/$wheel"}
checksums=${ONNXRUNTIME_SHA256:-"
  4ebe6a8902dc7708434b2e1541b3fe629ebf434e16ab5537d1d6a622b42c622b
  e1e9e3dc2f4d5551c5f0b5554cf490d141cd0d339a5a7f4826ac0e04f20a35fc"}

folder=${1:?usage: fetch_onnxruntime.sh FOLDER}
here=$(dirname "${BASH_SOURCE[0]}")
mkdir -p "$folder"

# Says whether a file is one of the builds; tells its checksum when it is not.
is_known() {
  local found known
  found=$(sha256sum "$1" | cut -d ' ' -f 1)
  for known in $checksums; do
    [[ $found == "$known" ]] && return 0
  done
  echo "$2: its sha256 is $found, which is none of the known builds" >&2
  return 1
}

for local_copy in "$here/$wheel" "$here/wheels/$wheel"; do
  if [[ -f $local_copy ]] && is_known "$local_copy" "$local_copy"; then
    cp "$local_copy" "$folder/$wheel"
    echo "$wheel: from $local_copy"
    exit 0
  fi
done

part=$folder/$wheel.part
for source in $sources; do
  if curl --fail --location --silent --show-error --connect-timeout 20 --speed-limit 1000 --speed-time 60 \
    --retry "${ONNXRUNTIME_RETRIES:-4}" --retry-all-errors --output "$part" "$source" && is_known "$part" "$source"; then
    mv "$part" "$folder/$wheel"
    echo "$wheel: from $source"
    exit 0
  fi
  rm -f "$part"
  echo "$source: not usable" >&2
done

cat >&2 <<MESSAGE
No source has $wheel.
Mend it in one of these ways:
  - put the wheel into deploy/jetson/wheels/ and build again;
  - name another source: --build-arg ONNXRUNTIME_SOURCES="https://..." and, for another build that you trust,
    --build-arg ONNXRUNTIME_SHA256=...
  - do without ONNX Runtime: deploy/jetson/Dockerfile.slim, which is for TensorRT alone.
MESSAGE
exit 1
