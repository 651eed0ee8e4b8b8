#!/usr/bin/env bash
# Bring an image to many Jetsons over ssh: save, compress, copy, load, up, wait for health, and back where that fails.
# docs/fleet.md tells more. What runs on a host is deploy/jetson/fleet_host.sh, sent along with each step.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
deploy=$(cd "$here/.." && pwd)

dry_run=0
parallel=4
work=fleet
folder=/opt/jetface
compose=$deploy/compose.jetson.yaml
env=$deploy/jetson.env
wait=900
compress=

usage() {
  cat <<TEXT
usage: deploy/jetson/fleet.sh [option ...] HOSTS_FILE IMAGE

Updates every host of HOSTS_FILE to IMAGE, an image of the Docker engine here. The first host goes alone; when it fails,
no other is touched. A host that does not get healthy goes back to the image it ran before.

HOSTS_FILE: one host a line, as ssh knows it (orin-1, admin@10.0.0.7), then the service's port if it is not 18080;
what follows a # is a comment.

  --dry-run        look at every host, change none, and say what would be done
  --parallel N     most hosts at a time ($parallel)
  --compress HOW   zstd (faster, must be on the hosts too) or gzip; without it zstd where it is installed here
  --wait SECONDS   longest wait for /health/ready after a start ($wait)
  --folder DIR     the host's folder of compose file, settings and archives, writable for the ssh user ($folder)
  --compose FILE   compose file to send (deploy/compose.jetson.yaml)
  --env FILE       env file to send beside it (deploy/jetson.env); the host's own local/jetface.env is left alone
  --work DIR       archives and logs here ($work)
  --help           this text

Exit code: 0 all hosts run IMAGE; 1 some do not, the summary says which and what they run; 2 nothing was begun.
TEXT
}

refuse() {
  printf 'fleet.sh: %s\n' "$*" >&2
  exit 2
}

while (($#)); do
  case $1 in
    --help | -h)
      usage
      exit 0
      ;;
    --dry-run) dry_run=1 ;;
    --parallel | --compress | --wait | --folder | --compose | --env | --work)
      (($# > 1)) || refuse "$1 needs a value"
      printf -v "${1#--}" %s "$2"
      shift
      ;;
    -*) refuse "unknown option $1; see --help" ;;
    *) break ;;
  esac
  shift
done
(($# == 2)) || refuse "HOSTS_FILE and IMAGE are needed; see --help"
hosts_file=$1
image=$2

# --- What must hold before any host is touched ------------------------------------------------------------------------

for number in parallel wait; do
  [[ ${!number} =~ ^[1-9][0-9]*$ ]] || refuse "--$number ${!number} is no number above 0"
done
[[ $folder =~ ^/[A-Za-z0-9._/-]+$ ]] || refuse "--folder $folder is not an absolute path of plain characters"
[[ $image =~ ^[A-Za-z0-9][A-Za-z0-9._:/@-]*$ ]] || refuse "$image is no image's name"
for file in "$hosts_file" "$compose" "$env"; do [[ -r $file ]] || refuse "$file cannot be read"; done
for tool in docker ssh sha256sum; do command -v $tool >/dev/null || refuse "$tool is not installed here"; done
[[ -n $compress ]] || compress=$(command -v zstd >/dev/null && echo zstd || echo gzip)
[[ $compress == zstd || $compress == gzip ]] || refuse "--compress $compress: zstd or gzip"
command -v "$compress" >/dev/null || refuse "$compress is not installed here"

hosts=()
declare -A port_of
while read -r host port rest; do
  [[ -n $host ]] || continue
  [[ $host =~ ^[A-Za-z0-9][A-Za-z0-9@._-]*$ && -z $rest && ${port:-18080} =~ ^[0-9]+$ ]] ||
    refuse "$hosts_file: not understood: $host $port $rest"
  [[ -z ${port_of[$host]:-} ]] || refuse "$hosts_file names $host twice"
  hosts+=("$host")
  port_of[$host]=${port:-18080}
done < <(sed 's/#.*//' "$hosts_file")
((${#hosts[@]})) || refuse "$hosts_file names no host"

# What is the same on every Docker engine, whichever way it stores images; its Id is not.
identity_format='{{.Architecture}} {{.Created}} {{json .RootFS.Layers}}'
identity=$(docker image inspect --format "$identity_format" "$image" 2>/dev/null) ||
  refuse "there is no image $image here: docker images lists those that are"
architecture=${identity%% *}
size=$(docker image inspect --format '{{.Size}}' "$image")
digest=$(sha256sum <<<"$identity" | cut -c1-16)

# --- The archive ------------------------------------------------------------------------------------------------------

case $compress in
  zstd) suffix=zst press=(zstd --quiet -T0 -3) ;;
  gzip) suffix=gz press=(gzip -6) ;;
esac
archive=$work/archives/jetface-$digest.tar.$suffix
logs=$work/logs/$(date -u +%Y%m%dT%H%M%SZ)-$$
mkdir -p "$work/archives" "$logs"

make_archive() {
  if [[ -s $archive && -s $archive.sha256 ]]; then
    echo "archive: $archive is there"
    return
  fi
  echo "archive: saving $image to $archive"
  docker save "$image" | "${press[@]}" >"$archive.part" || refuse "$image cannot be saved to $archive"
  sha256sum <"$archive.part" | cut -d' ' -f1 >"$archive.sha256"
  mv "$archive.part" "$archive"
}

# --- One host ---------------------------------------------------------------------------------------------------------

ssh_options=(-o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=15)
name=$(basename "$archive")

# Run a step of fleet_host.sh on a host; its values travel as words of one quoted command.
on() {
  local host=$1
  shift
  # shellcheck disable=SC2029 # quoted for the shell there
  ssh "${ssh_options[@]}" "$host" "$(printf '%q ' env "FOLDER=$folder" "IMAGE=$image" "ARCHIVE=$name" \
    "SHA256=$(cat "$archive.sha256" 2>/dev/null || true)" "IDENTITY=$identity" "IDENTITY_FORMAT=$identity_format" \
    "ARCHITECTURE=$architecture" "SIZE=$size" "PORT=${port_of[$host]}" "WAIT_S=$wait" bash -s -- "$@")" <"$here/fleet_host.sh"
}

# rsync goes on where it was cut off, scp begins anew; the checksum is what decides.
copy() {
  local host=$1
  if command -v rsync >/dev/null && on "$host" has rsync; then
    rsync --partial --append-verify --inplace -e "ssh ${ssh_options[*]}" "$archive" "$host:$folder/incoming/$name"
  else
    echo "no rsync on both sides: scp, which cannot go on where it was cut off"
    scp "${ssh_options[@]}" "$archive" "$host:$folder/incoming/$name"
  fi
}

step() {
  printf 'UNFINISHED at: %s\n' "$1" >"$result"
  printf '== %s\n' "$1"
}

end() {
  printf '%s\n' "$1" >"$result"
  printf '== %s\n' "$1"
  [[ $1 != OK* ]] || exit 0
  exit 1
}

# Start the service by a step, and wait for it. 255 is ssh's own: then nobody knows how far the host has come.
start_on() {
  local code=0
  { on "$1" "$2" && on "$1" wait_ready; } || code=$?
  ((code != 255)) || end "HALF-UPDATED: the connection was lost at $2; run again to finish it"
  return $code
}

# Runs in a process of its own, and keeps in its result file how far the host has come: a word, then a sentence.
update() {
  local host=$1 result=$logs/$1.result
  step 'look'
  on "$host" look || end 'UNCHANGED: it cannot be updated, see its log'
  if on "$host" is_current; then end 'OK: ran it already'; fi
  if ((dry_run)); then end 'OK: would be updated'; fi
  if ! on "$host" has_image; then
    step 'copy'
    { on "$host" prepare && copy "$host"; } || end 'UNCHANGED: the copy was cut off; run again, it goes on from there'
    step 'checksum'
    on "$host" check || end 'UNCHANGED: the archive arrived damaged and was removed; run again'
    step 'load (the service runs its old image)'
    on "$host" load || end 'UNCHANGED: docker load failed; the service runs its old image'
  fi
  step 'send settings (the service runs its old image)'
  {
    on "$host" prepare && scp "${ssh_options[@]}" "$compose" "$host:$folder/incoming/compose.yaml" &&
      scp "${ssh_options[@]}" "$env" "$host:$folder/incoming/$(basename "$env")"
  } ||
    end 'UNCHANGED: compose file and settings did not arrive; the service runs its old image'
  step 'up (HALF-UPDATED if this is the last word: run again)'
  if start_on "$host" up; then
    on "$host" finish || true
    end 'OK: updated'
  fi
  step 'roll back (HALF-UPDATED if this is the last word: run again)'
  on "$host" say_why || true
  if start_on "$host" roll_back; then
    on "$host" finish || true
    end 'ROLLED BACK: it did not get healthy and runs its old image again'
  fi
  end 'BROKEN: it did not get healthy, and neither did its old image (or there was none); see its log'
}

# --- All hosts --------------------------------------------------------------------------------------------------------

declare -A host_of
interrupted=0

summary() {
  local host failed=0 line
  printf '\n%-24s %s\n' HOST OUTCOME
  for host in "${hosts[@]}"; do
    line=$(cat "$logs/$host.result" 2>/dev/null || echo 'NOT BEGUN')
    printf '%-24s %s\n' "$host" "$line"
    [[ $line == OK* ]] || failed=1
  done
  printf 'logs: %s\n' "$logs"
  return $failed
}

stop() {
  interrupted=1
  # Each host's process group: what a host was doing when its connection ended is in its result.
  for pid in "${!host_of[@]}"; do kill -TERM -- "-$pid" 2>/dev/null || true; done
}

begin() {
  set -m # a process group of its own
  update "$1" >"$logs/$1.log" 2>&1 </dev/null &
  set +m
  host_of[$!]=$1
  printf '%s: begun\n' "$1"
}

# Wait until one of those begun has ended; its exit code.
reap() {
  local pid code=0
  wait -n -p pid "${!host_of[@]}" || code=$?
  [[ -n ${pid:-} ]] || return $code # a signal came first
  printf '%s: %s\n' "${host_of[$pid]}" "$(cat "$logs/${host_of[$pid]}.result")"
  unset "host_of[$pid]"
  return $code
}

((dry_run)) || make_archive
trap stop INT TERM
begin "${hosts[0]}"
if reap; then
  for host in "${hosts[@]:1}"; do
    while ((${#host_of[@]} >= parallel && interrupted == 0)); do reap || true; done
    ((interrupted == 0)) || break
    begin "$host"
  done
else
  echo 'The first host failed: no other is touched.'
fi
while ((${#host_of[@]} && interrupted == 0)); do reap || true; done
((interrupted == 0)) || wait || true
summary
