#!/usr/bin/env bash
# The one command for the owner of a board: build, start, measure, load, stop and start again, and one Markdown report with
# a row for everything that docs/ calls unverified. The steps are in verifying/; this starts and stops around them.
# shellcheck disable=SC2329 # functions are called by the name of their step
set -euo pipefail
umask 022 # a container reads what is written here, as a user of its own

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(cd "$here/../.." && pwd)

mode=docker
compose=
image=
url=
venv=$repository/.venv
golden=
soak_minutes=30
callers=4
requests=50
bench_seconds=5
engine_minutes=60
report=
is_kept=0
steps=

usage() {
  cat <<TEXT
usage: deploy/jetson/verify.sh [option ...]

Verifies jetface on this machine and writes a report, Markdown, fit for an issue. On a Jetson, before:
  sudo nvpmodel -m 0      # a fresh kit asks to restart, and stays in its old mode until then
  sudo jetson_clocks
Takes the soak's $soak_minutes minutes, a build of the image and of the engines, and some 10 minutes more. Nothing is sent anywhere.

  --report FILE         where the report goes (verify-HOST-DATE.md)
  --golden FOLDER       pictures of yours, with golden.json for the faces they show if you have it; else drawn ones
  --soak-minutes N      length of the soak ($soak_minutes); leaks are judged from 10 on
  --callers N           callers at once, in soak and drain ($callers)
  --requests N          requests of each kind that speed is measured by ($requests)
  --bench-seconds N     length of a measurement of jetface bench ($bench_seconds); 0 leaves it out
  --engine-minutes N    longest wait for downloads and engines ($engine_minutes)
  --keep                leave the service running in the end
  --steps FOLDER        keep what each step found there

Which service:
  --compose FILE        compose file (deploy/compose.jetson.yaml on a Jetson with JetPack 6, deploy/compose.jetson7.yaml with
                        JetPack 7, else deploy/compose.cpu.yaml)
  --image NAME          an image that is here or in a registry, instead of building one
  --no-docker           start entrypoint.sh of this checkout in its virtual environment
  --venv FOLDER         that environment ($venv)
  --url URL             a service that runs: nothing is started or stopped; JETFACE_API_KEY holds its key

Exit code: 0 no claim failed; 1 one did, or the service did not start: the report says which; 2 nothing was begun.
TEXT
}

refuse() {
  printf 'verify.sh: %s\n' "$*" >&2
  exit 2
}

while (($#)); do
  case $1 in
    --help | -h)
      usage
      exit 0
      ;;
    --no-docker) mode=checkout ;;
    --keep) is_kept=1 ;;
    --report | --golden | --soak-minutes | --callers | --requests | --bench-seconds | --engine-minutes | --steps | --compose | --image | --venv | --url)
      (($# > 1)) || refuse "$1 needs a value"
      name=${1#--}
      printf -v "${name//-/_}" %s "$2"
      shift
      ;;
    *) refuse "unknown option $1; see --help" ;;
  esac
  shift
done
[[ -z $url ]] || mode=url
for number in soak_minutes bench_seconds engine_minutes; do
  [[ ${!number} =~ ^[0-9]+(\.[0-9]+)?$ ]] || refuse "--${number//_/-} takes a number, not ${!number}"
done
[[ -z $golden || -d $golden ]] || refuse "$golden is no folder"
[[ -z $golden ]] || golden=$(cd "$golden" && pwd)
report=${report:-verify-$(uname -n)-$(date -u +%Y-%m-%d).md}
touch "$report" 2>/dev/null || refuse "$report cannot be written"
is_temporary=0
if [[ -z $steps ]]; then
  steps=$(mktemp -d)
  is_temporary=1
fi
mkdir -p "$steps"
steps=$(cd "$steps" && pwd)
rm -f "$steps"/*.json "$steps"/*.log
chmod 755 "$steps"

# --- The three ways to a service: beside ARGUMENT ... runs a command of jetface there, verifying ARGUMENT ... a step ------

service= # process id, without Docker
waiting= # process group that waits for the service's first answer
port=${PORT:-18080}

case $mode in
  docker)
    command -v docker >/dev/null || refuse "docker is not installed; --no-docker takes the checkout's own environment"
    docker info >/dev/null 2>&1 || refuse "docker's engine does not answer: is it running, are you in the group docker?"
    found=$(docker compose version --short 2>/dev/null) ||
      refuse "docker compose is not installed: apt install docker-compose-v2"
    if [[ -z $compose ]]; then
      compose=$repository/deploy/compose.cpu.yaml
      if grep -qs '^# R3[89] ' /etc/nv_tegra_release; then
        compose=$repository/deploy/compose.jetson7.yaml
      elif [[ -e /etc/nv_tegra_release ]]; then
        compose=$repository/deploy/compose.jetson.yaml
      fi
    fi
    [[ -f $compose ]] || refuse "$compose is not there"
    [[ -z $image ]] || export JETFACE_IMAGE=$image
    # Compose before 2.37.3 has bake build, without `build.network`, and a Jetson's kernel cannot do without (docker/compose#12951).
    if [[ -z $image && ${COMPOSE_BAKE:-} != false && $found =~ ^v?([0-9]+)\.([0-9]+)\.([0-9]+) ]] &&
      grep -q '^ *network: host' "$compose" &&
      ((BASH_REMATCH[1] * 1000000 + BASH_REMATCH[2] * 1000 + BASH_REMATCH[3] < 2037003)); then
      refuse "Compose $found does not pass on build.network: install 2.37.3 or later (Docker's own package" \
        "docker-compose-plugin), or: export COMPOSE_BAKE=false"
    fi
    if [[ $compose == *jetson* && -z ${JETFACE_RENDER_GID:-} ]]; then
      JETFACE_RENDER_GID=$(getent group render | cut -d: -f3 || true)
      export JETFACE_RENDER_GID=${JETFACE_RENDER_GID:-104}
    fi
    mounts=(--volume "$steps:/verify:ro" --volume "$here/verifying:/verifying/verifying:ro")
    [[ -z $golden ]] || mounts+=(--volume "$golden:/golden:ro")
    stack() { docker compose --file "$compose" "$@"; }
    container() { stack ps --all --quiet jetface | head -n 1; }
    # In a container of its own, on the host's network or the service's: it outlives the service.
    # By entrypoint.sh, for its search path of libraries.
    beside() { stack run --rm --no-deps --no-TTY "${mounts[@]}" --entrypoint /app/entrypoint.sh jetface "$@"; }
    verifying() { beside exec env PYTHONPATH=/verifying:/app/app python3 -m verifying "$@"; }
    [[ -z $(container) ]] ||
      refuse "a service is here already: docker compose -f $compose down ends it, --url verifies it as it is"
    address() {
      local network
      network=$(docker inspect --format '{{.HostConfig.NetworkMode}}' "$(container)") || return
      port=$(stack exec --no-TTY jetface printenv PORT || echo 18080)
      if [[ $network == host ]]; then url=http://127.0.0.1:$port; else url=http://jetface:$port; fi
    }
    ;;
  checkout)
    [[ -x $venv/bin/jetface ]] || refuse "$venv has no jetface: make run sets it up, --venv names another"
    beside() { "$venv/bin/jetface" "$@"; }
    verifying() { PYTHONPATH=$here "$venv/bin/python" -m verifying "$@"; }
    url=http://127.0.0.1:$port
    ;;
  url)
    [[ -x $venv/bin/jetface ]] || refuse "$venv has no jetface to ask $url with: make run sets it up, --venv names another"
    beside() { "$venv/bin/jetface" "$@"; }
    verifying() { PYTHONPATH=$here "$venv/bin/python" -m verifying "$@"; }
    ;;
esac

say() { printf '%s  %s\n' "$(date -u +%H:%M:%S)" "$*" >&2; }

# step NAME COMMAND ... leaves NAME.json and NAME.log; a step that fails costs its own rows only.
step() {
  local name=$1
  shift
  say "$name ..."
  if "$@" >"$steps/$name.json" 2>"$steps/$name.log"; then return 0; fi
  say "$name: $(tail -n 1 "$steps/$name.log")"
  return 1
}

asked() { verifying --url "$url" "$@"; }

not_run() { printf '{"not_run": "%s"}\n' "$2" >"$steps/$1.json"; }

# --- Start, stop ------------------------------------------------------------------------------------------------------

# `set -e` does not hold in what `if` and `||` call: each line says itself that it is the end.
build() {
  local started=$SECONDS size
  if [[ -z $image ]]; then
    stack build >&2 || return
  else
    docker image inspect "$image" >/dev/null 2>&1 || docker pull "$image" >&2 || return
  fi
  size=$(docker image inspect --format '{{.Size}}' "$(stack config --images jetface | head -n 1)") || return
  printf '{"seconds": %d, "image_bytes": %d}\n' $((SECONDS - started)) "$size"
}

# A container that dies is started again and again, as its compose file wants.
is_up() {
  case $mode in
    docker) [[ $(docker inspect --format '{{.RestartCount}}' "$(container)") == [0-2] ]] ;;
    checkout) kill -0 "$service" 2>/dev/null ;;
  esac
}

last_words() {
  if [[ $mode == docker ]]; then stack logs --no-log-prefix --tail 1 jetface 2>&1; else tail -n 1 "$steps/service.log"; fi
}

start() {
  local code=0
  case $mode in
    docker)
      stack up --detach --no-build >&2 || return
      address || return
      ;;
    checkout)
      (cd "$repository" && PATH="$venv/bin:$PATH" HOST=127.0.0.1 exec ./entrypoint.sh) >>"$steps/service.log" 2>&1 &
      service=$!
      ;;
  esac
  # A process group of its own: what is to end is the program, not only the shell that runs it.
  set -m
  asked start --timeout "$(awk -v minutes="$engine_minutes" 'BEGIN { print minutes * 60 }')" &
  waiting=$!
  set +m
  while kill -0 "$waiting" 2>/dev/null; do
    if ! is_up; then
      kill -- "-$waiting" 2>/dev/null || true
      wait "$waiting" || true
      waiting=
      printf 'the service has ended: %s\n' "$(last_words)" >&2
      return 1
    fi
    sleep 0.2
  done
  wait "$waiting" || code=$?
  waiting=
  return "$code"
}

stop() {
  local code=0 started
  started=$(date +%s%N)
  if [[ $mode == docker ]]; then
    stack stop jetface >&2 || return
    code=$(docker inspect --format '{{.State.ExitCode}}' "$(container)") || return
  else
    kill -TERM "$service"
    wait "$service" || code=$?
    service=
  fi
  awk -v code="$code" -v nanoseconds=$(($(date +%s%N) - started)) \
    'BEGIN { printf "{\"exit_code\": %d, \"seconds\": %.3f}\n", code, nanoseconds / 1e9 }'
}

# The load runs beside, and says when the service may be stopped.
drain_and_stop() {
  local load
  asked drain --callers "$callers" >"$steps/drain.json" 2>"$steps/drain.log" &
  load=$!
  until grep -qs 'under load' "$steps/drain.log"; do
    kill -0 "$load" 2>/dev/null || break
    sleep 0.1
  done
  stop >"$steps/stop.json" 2>"$steps/stop.log" || say "stop: $(tail -n 1 "$steps/stop.log")"
  wait "$load" || say "drain: $(tail -n 1 "$steps/drain.log")"
}

finish() {
  local code=$?
  trap - EXIT
  [[ -z $waiting ]] || kill -- "-$waiting" 2>/dev/null || true
  if [[ -n $service ]]; then
    kill -TERM "$service" 2>/dev/null || true
    wait "$service" || true
  fi
  # The volumes stay: the next start finds weights and engines.
  [[ $mode != docker || $is_kept == 1 ]] || stack down >/dev/null 2>&1 || true
  [[ $is_temporary == 0 ]] || rm -rf "$steps"
  exit "$code"
}

# --- The steps, in order ----------------------------------------------------------------------------------------------

revision=$(git -C "$repository" describe --always --dirty 2>/dev/null || echo unknown)
printf '{"mode": "%s", "started": "%s", "revision": "%s", "image": "%s"}\n' \
  "$mode" "$(date -u '+%Y-%m-%d %H:%M UTC')" "$revision" "${image:-built here}" >"$steps/run.json"
[[ $mode == docker ]] || sed -i 's/, "image": "[^"]*"//' "$steps/run.json"
trap finish EXIT
trap 'exit 130' INT TERM

if [[ $mode == docker ]]; then
  step build build || refuse "the image is not here: $(tail -n 1 "$steps/build.log")"
fi
if [[ $mode == url ]]; then
  not_run doctor "--url: the service may be on another machine"
else
  step doctor beside doctor --json || true
  ! grep -qs '"port-in-use"' "$steps/doctor.json" || refuse "the port is in use: end what has it, or set PORT to another"
fi

if step start start; then
  if [[ $mode == docker && -n $golden ]]; then golden=/golden; fi
  step answers asked answers ${golden:+--golden "$golden"} || true
  if [[ $mode == url ]]; then
    not_run engines "--url: its engines are kept elsewhere"
    not_run bench "--url: it would measure this machine"
    not_run plates "--url: it would measure this machine"
  else
    step engines verifying engines || true
  fi
  step speed asked speed --requests "$requests" || true
  step soak asked soak --minutes "$soak_minutes" --callers "$callers" ${golden:+--pictures "$golden"} || true
  if [[ $mode == url ]]; then
    not_run drain "--url: it is not ours to stop"
    not_run stop "--url: it is not ours to stop"
    not_run restart "--url: it is not ours to stop"
  else
    say "drain, stop ..."
    drain_and_stop
    # Here, while no service takes its share of the machine.
    if [[ $bench_seconds == 0 ]]; then
      not_run bench "--bench-seconds 0"
      not_run plates "--bench-seconds 0"
    else
      step bench beside bench --json --seconds "$bench_seconds" || true
      step plates beside bench --task plates --json --seconds "$bench_seconds" || true
    fi
    step restart start || true
  fi
fi

code=0
if [[ $mode == docker ]]; then
  verifying report /verify >"$report" || code=$?
else
  verifying report "$steps" >"$report" || code=$?
fi
if [[ ! -s $report ]]; then
  is_temporary=0
  refuse "the report could not be written; what was found is in $steps"
fi
say "report: $report"
exit "$code"
