#!/usr/bin/env bash
# Prove the service on arm64 without a board: Debian's arm64 userland under qemu, aarch64 wheels, entrypoint.sh under
# tini as process 1, a real picture, the probes, a drain. See docs/jetson-emulation.md for what this shows and what not.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(cd "$here/../.." && pwd)

jetpack=6
packages=python3,python3-venv,tini,libgomp1
mirror=http://deb.debian.org/debian
work=
shared=${SHARED_DIR:-$repository/../shared}
picture=t1.jpg
python=
patience_s=600 # longest wait for any one answer

usage() {
  cat <<TEXT
usage: sudo deploy/jetson/emulate.sh [option ...]

Starts the service in an emulated arm64 Debian on this machine, on the CPU, and checks it: probes, /extract against golden
boxes, a drain on SIGTERM. Prints PASS or FAIL for each step; exit code 0 when all passed.

  --jetpack N      6 (Debian 12, Python 3.11, requirements/run.txt) or 7 (Debian 13, Python 3.13, requirements/jetson7.txt and
                   the ONNX Runtime of run.txt, since the image has none) ($jetpack)
  --work DIR       where the userland and the wheels are kept between runs (/var/tmp/jetface-emulate-N), some 1.5 GB
  --shared DIR     holds models/det_500m.onnx, models/w600k_mbf_dequantized.onnx, images/ and golden/ (../shared)
  --picture FILE   a picture of images/ that golden/insightface.json knows ($picture)
  --mirror URL     Debian archive ($mirror)
  --python FILE    a Python of the userland's version with pip, which chooses and downloads the wheels (python3.11, python3.13)
  --help           this text

Needs root (chroot, mounts, binfmt_misc), and from Debian or Ubuntu:
  apt install debootstrap qemu-user-static binfmt-support curl
All mounts lie in a namespace that ends with the script; binfmt_misc is left as it was found.
TEXT
}

refuse() {
  printf 'emulate.sh: %s\n' "$*" >&2
  exit 2
}

while (($#)); do
  case $1 in
    --help | -h)
      usage
      exit 0
      ;;
    --jetpack | --work | --shared | --picture | --mirror | --python)
      (($# > 1)) || refuse "$1 needs a value"
      printf -v "${1#--}" %s "$2"
      shift 2
      ;;
    *) refuse "unknown option $1; see --help" ;;
  esac
done

# The lock's markers are read by a Python of the suite's own version.
case $jetpack in
  6) suite=bookworm python_version=3.11 locks=(run) ;;
  7) suite=trixie python_version=3.13 locks=(jetson7 jetson7-onnxruntime) ;;
  *) refuse "--jetpack takes 6 or 7, not $jetpack" ;;
esac
work=${work:-/var/tmp/jetface-emulate-$jetpack}

# --- What must be there, all of it said at once -----------------------------------------------------------------------

missing=()
for tool in debootstrap:debootstrap update-binfmts:binfmt-support qemu-aarch64-static:qemu-user-static \
  curl:curl pgrep:procps unshare:util-linux; do
  command -v "${tool%%:*}" >/dev/null || missing+=("${tool##*:}")
done
((${#missing[@]} == 0)) || refuse "not installed: apt install ${missing[*]}"
(($(id -u) == 0)) || refuse "needs root, for chroot, mounts and binfmt_misc; nothing outside $work is changed"
for file in models/det_500m.onnx models/w600k_mbf_dequantized.onnx "images/$picture" golden/insightface.json; do
  [[ -f $shared/$file ]] || refuse "$shared/$file is not there; --shared names the folder that has it"
done
python=${python:-$(command -v "python$python_version" || command -v python3 || true)}
[[ -n $python ]] || refuse "no Python $python_version; --python names one"
found=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>&1) || refuse "$python does not run: $found"
[[ $found == "$python_version" ]] ||
  refuse "$python is Python $found, and the wheels must be chosen by Python $python_version; --python names one"
"$python" -m pip --version >/dev/null 2>&1 || refuse "$python has no pip"

# --- Steps ------------------------------------------------------------------------------------------------------------

work=$(realpath --canonicalize-missing "$work")
root=$work/userland
wheels=$work/wheels
log=$work/service.log
started=$SECONDS
step_started=$SECONDS
service= # process id of unshare, the parent of the emulated tini
mounted_binfmt=0
enabled_handler=0

pass() {
  printf 'PASS %5d s  %s\n' $((SECONDS - step_started)) "$*"
  step_started=$SECONDS
}

fail() {
  printf 'FAIL %5d s  %s\n' $((SECONDS - step_started)) "$*"
  if [[ -s $log ]]; then
    printf -- '--- last lines of %s\n' "$log"
    tail -n 30 "$log"
  fi
  exit 1
}

finish() {
  local code=$?
  trap - EXIT
  # Killing unshare ends everything below it (--kill-child), and with its namespace its mounts.
  [[ -z $service ]] || kill -KILL "$service" 2>/dev/null || true
  ((enabled_handler == 0)) || update-binfmts --disable qemu-aarch64 || true
  ((mounted_binfmt == 0)) || umount /proc/sys/fs/binfmt_misc || true
  printf '%s after %d s\n' "$([[ $code == 0 ]] && echo 'ALL PASSED' || echo FAILED)" $((SECONDS - started))
  exit "$code"
}
trap finish EXIT
trap 'exit 130' INT TERM

# On this machine; what it says goes to a file, since it warns of much that does not matter here.
pip() {
  "$python" -m pip "$@" >>"$work/pip.log" 2>&1
}

# Run a program of the userland as its root, in a process and mount namespace of its own.
in_userland() {
  unshare --pid --fork --kill-child --mount-proc="$root/proc" \
    chroot "$root" /usr/bin/env -i PATH=/opt/jetface/bin:/usr/bin:/usr/sbin:/bin:/sbin LC_ALL=C.UTF-8 HOME=/root \
    DEBIAN_FRONTEND=noninteractive "$@"
}

enable_emulation() {
  local misc=/proc/sys/fs/binfmt_misc
  if [[ ! -e $misc/register ]]; then
    mount -t binfmt_misc binfmt_misc $misc || fail "binfmt_misc cannot be mounted on $misc: is it in this kernel?"
    mounted_binfmt=1
  fi
  if ! grep -qs '^enabled' $misc/qemu-aarch64; then
    update-binfmts --enable qemu-aarch64 || fail "update-binfmts --enable qemu-aarch64"
    enabled_handler=1
  fi
  # F: the kernel holds the interpreter open, so that it need not lie inside the userland.
  grep -q '^flags:.*F' $misc/qemu-aarch64 || fail "the handler of qemu-aarch64 lacks the flag F: use qemu-user-static"
  pass "emulation: $(qemu-aarch64-static --version | head -n 1)"
}

build_userland() {
  local stamp=$root/.jetface-userland wanted="$suite $packages"
  if [[ $(cat "$stamp" 2>/dev/null) == "$wanted" ]]; then
    pass "userland: reused, Debian $(cat "$root/etc/debian_version")"
    return
  fi
  rm -rf "$root"
  debootstrap --foreign --arch=arm64 --variant=minbase --include="$packages" "$suite" "$root" "$mirror" \
    >"$work/debootstrap.log" 2>&1 || fail "debootstrap, first stage: see $work/debootstrap.log"
  in_userland /debootstrap/debootstrap --second-stage >>"$work/debootstrap.log" 2>&1 ||
    fail "debootstrap, second stage, emulated: see $work/debootstrap.log and $root/debootstrap/debootstrap.log"
  printf '%s\n' "$wanted" >"$stamp"
  pass "userland: debootstrap, Debian $(cat "$root/etc/debian_version"), arm64"
}

# Everything of the lock as wheels for aarch64, held to the lock's checksums; what has no wheel is pure Python, built here.
download_wheels() {
  local platform platforms=() name files=() wanted
  for name in "${locks[@]}"; do files+=("$repository/requirements/$name.txt"); done
  if ((jetpack == 7)); then
    # An entry is a line and the indented ones below it; that for Python 3.10 has another version.
    awk '/^[^ ]/ { is_wanted = /^onnxruntime==/ && /python_full_version >= / } is_wanted' \
      "$repository/requirements/run.txt" >"$work/onnxruntime.txt"
    [[ -s $work/onnxruntime.txt ]] || fail "requirements/run.txt has no onnxruntime for Python 3.11 and later"
    files+=("$work/onnxruntime.txt")
  fi
  wanted=$(cat "${files[@]}" | sha256sum)
  if [[ $(cat "$wheels/.lock" 2>/dev/null) == "$wanted" ]]; then
    pass "wheels: reused, $(find "$wheels" -name '*.whl' | wc -l)"
    return
  fi
  # Debian 12 has glibc 2.36, 13 has 2.41: wheels for any older one run on it.
  for platform in manylinux2014 manylinux_2_{17,24,26,27,28,31,34,35}; do platforms+=(--platform "${platform}_aarch64"); done
  rm -rf "$wheels"
  mkdir -p "$wheels"
  pip download --quiet --no-deps --only-binary=:all: --implementation cp --python-version "$python_version" \
    "${platforms[@]}" --require-hashes --dest "$wheels" "${files[@]/#/--requirement=}" ||
    fail "wheels of ${locks[*]} for aarch64: see $work/pip.log"
  pip download --quiet --no-deps --only-binary=:all: --dest "$wheels" pip ||
    fail "wheel of pip: see $work/pip.log"
  printf '%s\n' "$wanted" >"$wheels/.lock"
  pass "wheels: $(find "$wheels" -name '*.whl' | wc -l), $(find "$wheels" -name '*aarch64.whl' | wc -l) of them aarch64"
}

# The userland has no network of its own to rely on: pip sees the folder of wheels and nothing else.
install_service() {
  local stamp=$root/opt/jetface/.lock pip
  pip wheel --quiet --no-deps --wheel-dir "$work/own" "$repository" ||
    fail "wheel of jetface: see $work/pip.log"
  rm -rf "$root/wheels"
  mkdir -p "$root/wheels"
  cp "$wheels"/*.whl "$work/own"/jetface-*.whl "$root/wheels/"
  pip=$(cd "$root" && echo wheels/pip-*.whl)
  if ! cmp -s "$wheels/.lock" "$stamp"; then
    rm -rf "$root/opt/jetface"
    in_userland python3 -m venv --without-pip /opt/jetface || fail "venv in the userland"
    in_userland sh -c "find /wheels -name '*.whl' ! -name 'pip-*' ! -name 'jetface-*' |
      xargs /opt/jetface/bin/python /$pip/pip install --quiet --no-index --no-deps --no-compile" || fail "pip install --no-index"
    cp "$wheels/.lock" "$stamp"
  fi
  in_userland sh -c "/opt/jetface/bin/python /$pip/pip install --quiet --no-index --no-deps --no-compile --force-reinstall \
    /wheels/jetface-*.whl" || fail "pip install --no-index jetface"
  rm -rf "$root/wheels" "$work/own"
  install -D --mode=755 "$repository/entrypoint.sh" "$root/srv/jetface/entrypoint.sh"
  rm -rf "$root/srv/weights" "$root/srv/models"
  install -D --mode=644 --target-directory="$root/srv/weights" "$shared"/models/{det_500m,w600k_mbf_dequantized}.onnx
  install -d --owner=10001 --group=10001 "$root/srv/models"
  pass "installed: $(in_userland /opt/jetface/bin/python -c 'import platform, importlib.metadata as m
print("Python", platform.python_version(), platform.machine(), *("%s %s" % (n, m.version(n))
  for n in ("jetface", "numpy", "opencv-python-headless", "onnxruntime")), sep=", ")')"
}

start_service() {
  port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  url=http://127.0.0.1:$port
  local settings=(
    HOST=127.0.0.1 "PORT=$port" BACKEND=onnxruntime MODELS_DIR=/srv/models MODEL_MIRROR=/srv/weights MODEL_DOWNLOAD=0
    DET_MODEL=det_500m REC_MODEL=w600k_mbf_dequantized MODEL_PRELOAD=1
    DET_SCALES=1                                                        # one look, as the golden answers were made
    "REQUEST_TIMEOUT_S=$patience_s" "SHUTDOWN_GRACE_S=$patience_s" "WATCHDOG_S=$patience_s" # emulated time is long
  )
  # No /sys: ONNX Runtime looks up the cores of /sys in /proc/cpuinfo, here both those of the machine below, and crashes
  # when an ARM build finds another kind of CPU described. Without /sys it says so in the log and goes on.
  unshare --pid --fork --kill-child --mount-proc="$root/proc" \
    chroot --userspec=10001:10001 "$root" /usr/bin/env -i PATH=/opt/jetface/bin:/usr/bin:/bin LC_ALL=C.UTF-8 \
    HOME=/srv/models "${settings[@]}" tini -- /srv/jetface/entrypoint.sh >"$log" 2>&1 &
  service=$!
}

# Wait for a 200 of a path while the service runs.
await() {
  local deadline=$((SECONDS + patience_s))
  until curl --silent --fail --max-time 60 --output /dev/null "$url$1"; do
    kill -0 "$service" 2>/dev/null || fail "$1: the service has ended"
    ((SECONDS < deadline)) || fail "$1: no 200 within $patience_s s"
    sleep 0.5
  done
  pass "$1 answers 200"
}

extract() {
  local type=jpeg
  [[ $picture != *.png ]] || type=png
  curl --silent --show-error --fail --max-time "$patience_s" --header "Content-Type: image/$type" \
    --data-binary "@$shared/images/$picture" --output "$1" "$url/extract?threshold=0.5"
}

check_answer() {
  local verdict
  extract "$work/answer.json" || fail "/extract of $picture"
  verdict=$("$python" "$here/golden_boxes.py" "$shared/golden/insightface.json" "$picture" "$work/answer.json" 2>&1) ||
    fail "/extract of $picture: $verdict"
  pass "/extract of $picture: $verdict"
  extract "$work/answer.json" || fail "/extract of $picture, again"
  pass "/extract again"
}

drain() {
  local init request code=0
  init=$(pgrep --parent "$service") || fail "no process 1 to signal"
  extract "$work/last.json" &
  request=$!
  until curl --silent --max-time 60 "$url/metrics" | grep -q '^jetface_requests_in_flight 1'; do
    kill -0 "$request" 2>/dev/null || fail "the picture was answered before it could be seen in flight"
  done
  kill -TERM "$init"
  until [[ $(curl --silent --max-time 60 --output /dev/null --write-out '%{http_code}' "$url/health/ready") == 503 ]]; do
    kill -0 "$request" 2>/dev/null || fail "/health/ready did not say 503 while a request was in flight"
  done
  pass "SIGTERM to tini: /health/ready answers 503, a request is in flight"
  wait "$request" || fail "the request in flight was lost"
  cmp -s <("$python" "$here/golden_boxes.py" "$shared/golden/insightface.json" "$picture" "$work/last.json") \
    <("$python" "$here/golden_boxes.py" "$shared/golden/insightface.json" "$picture" "$work/answer.json") ||
    fail "the request in flight was answered wrongly"
  wait "$service" || code=$?
  service=
  [[ $code == 0 ]] || fail "exit code $code, not 0"
  pass "drained: the request in flight was answered, exit code 0"
}

mkdir -p "$work"
: >"$log"
: >"$work/pip.log"
printf 'jetface %s on emulated arm64, %s\n' "$(git -C "$repository" describe --tags --always 2>/dev/null || echo 'of no commit')" \
  "$(date -u '+%Y-%m-%d %H:%M UTC')"
enable_emulation
build_userland
download_wheels
install_service
start_service
await /health/live
await /health/ready
check_answer
drain
