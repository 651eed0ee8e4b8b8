#!/usr/bin/env bash
# Set two images of jetface side by side, as Markdown: size, layers, and the versions found inside.
#   deploy/jetson/compare_images.sh [--build] [IMAGE [OTHER]]      # jetface:jetson and jetface:jetson-slim
# --build builds those two, and jetface:jetson7, where they are missing. Nothing is run on a GPU; images of another architecture than this
# machine's can be measured but not looked into.
set -euo pipefail

fail() {
  printf '%s\n' "$@" >&2
  exit 1
}

is_building=false
if [[ ${1:-} == --build ]]; then
  is_building=true
  shift
fi
[[ ${1:-} != -* ]] || fail "usage: compare_images.sh [--build] [IMAGE [OTHER]]"
first=${1:-jetface:jetson}
second=${2:-jetface:jetson-slim}
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

command -v docker >/dev/null || fail "docker is not installed here: run this where the images are, on the Jetson."
docker info >/dev/null 2>&1 ||
  fail "docker answers, but not its engine. Is it running (systemctl status docker), and are you in the group docker?"

# Says where the Dockerfile of a default image is.
dockerfile_of() {
  case $1 in
    jetface:jetson) echo Dockerfile.jetson ;;
    jetface:jetson-slim) echo deploy/jetson/Dockerfile.slim ;;
    jetface:jetson7) echo deploy/jetson/Dockerfile.jp7 ;;
  esac
}

for image in "$first" "$second"; do
  docker image inspect "$image" >/dev/null 2>&1 && continue
  dockerfile=$(dockerfile_of "$image")
  [[ -n $dockerfile ]] || fail "There is no image $image here: docker images lists those that are."
  build=(docker build --network host -f "$dockerfile" -t "$image" .)
  $is_building || fail "There is no image $image here. Build it: ${build[*]}" "or have it built: compare_images.sh --build"
  "${build[@]}" >&2
done

# Runs inside: a line `name=version` for each; nothing after the sign where it is not there.
read -r -d '' look_inside <<'SCRIPT' || true
package() { dpkg-query --show --showformat '${Version}' "$1" 2>/dev/null || true; }
python() { /opt/venv/bin/python -c "from importlib.metadata import version; print(version('$1'))" 2>/dev/null || true; }
first() { for found in "$@"; do [ -z "$found" ] || { echo "$found"; return; }; done; }
echo "Python=$(/opt/venv/bin/python -c 'import platform; print(platform.python_version())' 2>/dev/null)"
echo "CUDA runtime=$(first "$(package cuda-cudart-12-6)" "$(package cuda-cudart-12-9)" "$(package cuda-cudart-13-2)")"
echo "cuDNN=$(first "$(package libcudnn9-cuda-12)" "$(package libcudnn9-cuda-13)")"
echo "TensorRT=$(package libnvinfer10)"
echo "TensorRT for Python=$(package python3-libnvinfer)"
echo "nvcc=$(find /usr/local -maxdepth 3 -name nvcc 2>/dev/null | head -n 1)"
echo "onnxruntime=$(first "$(python onnxruntime-gpu)" "$(python onnxruntime)")"
echo "numpy=$(python numpy)"
echo "OpenCV=$(python opencv-python-headless)"
echo "cuda-python=$(python cuda-python)"
SCRIPT

inside() {
  docker run --rm --network none --entrypoint sh "$1" -c "$look_inside" ||
    fail "$1 cannot be run here. Is it for another architecture? This machine is $(uname -m)."
}

size_of() { docker image inspect --format '{{.Size}}' "$1"; }
layers_of() { docker image inspect --format '{{len .RootFS.Layers}}' "$1"; }
gigabytes() { awk -v bytes="$1" 'BEGIN { printf "%.2f GB", bytes / 1e9 }'; }
row() { printf '| %s | %s | %s |\n' "$1" "${2:-none}" "${3:-none}"; }

first_inside=$(inside "$first")
second_inside=$(inside "$second")
first_size=$(size_of "$first")
second_size=$(size_of "$second")

row "" "\`$first\`" "\`$second\`"
echo '|---|---|---|'
row size "$(gigabytes "$first_size")" "$(gigabytes "$second_size")"
row layers "$(layers_of "$first")" "$(layers_of "$second")"
while IFS='=' read -r name version; do
  row "$name" "$version" "$(sed -n "s|^$name=||p" <<<"$second_inside")"
done <<<"$first_inside"
echo
awk -v a="$first_size" -v b="$second_size" -v image="\`$second\`" -v other="\`$first\`" 'BEGIN {
  difference = a - b
  word = difference < 0 ? "larger" : "smaller"
  if (difference < 0) difference = -difference
  printf "%s is %.2f GB (%.1f %%) %s than %s.\n", image, difference / 1e9, 100 * difference / a, word, other
}'
