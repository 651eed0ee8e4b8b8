#!/usr/bin/env bash
# Keep what a host of jetface has and an image does not: weights, engines, settings; and bring it back. Run on the host.
set -euo pipefail

folder=/opt/jetface/deploy
image=
wait=60

usage() {
  cat <<TEXT
usage: deploy/jetson/backup.sh [option ...] backup FILE.tar
       deploy/jetson/backup.sh [option ...] restore FILE.tar

backup writes the volumes jetface_models and jetface_engines and the settings of a host into one file that only its owner
can read (API keys are in it). The service may run meanwhile: its files appear whole.

restore stops the service, brings all of it back and starts it again. Engines fit one kind of module and one build of
TensorRT: where either differs they are left out, which is said, and the service builds its own. Of the settings those in
local/ come back, and of the rest what is missing; what a restore replaces is kept as *.before-restore.

  --folder DIR   where the compose file and its settings are ($folder)
  --image NAME   image whose tar reads and writes the volumes (the one that runs)
  --wait SECONDS longest wait for the service to stop ($wait)
  --help         this text

Exit code: 0 done; 1 something failed, the message says what was changed; 2 nothing was begun.
TEXT
}

refuse() {
  printf 'backup.sh: %s\n' "$*" >&2
  exit 2
}

while (($#)); do
  case $1 in
    --help | -h)
      usage
      exit 0
      ;;
    --folder | --image | --wait)
      (($# > 1)) || refuse "$1 needs a value"
      printf -v "${1#--}" %s "$2"
      shift
      ;;
    -*) refuse "unknown option $1; see --help" ;;
    *) break ;;
  esac
  shift
done
(($# == 2)) && [[ $1 == backup || $1 == restore ]] || refuse "backup FILE.tar or restore FILE.tar; see --help"
action=$1
file=$2

for tool in docker tar sha256sum; do command -v $tool >/dev/null || refuse "$tool is not installed here"; done
docker info >/dev/null 2>&1 || refuse "the Docker engine does not answer: is it running, is this user in the group docker?"
[[ -d $folder ]] || refuse "$folder is not there; --folder names where the compose file is"
[[ $wait =~ ^[1-9][0-9]*$ ]] || refuse "--wait $wait is no number above 0"

container=$(docker ps --all --quiet --filter label=com.docker.compose.project=jetface \
  --filter label=com.docker.compose.service=jetface | head -n 1)
if [[ -z $image ]]; then
  [[ -n $container ]] || refuse "jetface has no container here; --image names an image to read the volumes with"
  image=$(docker inspect --format '{{.Image}}' "$container")
fi
docker image inspect "$image" >/dev/null 2>&1 || refuse "there is no image $image here"

umask 077
work=$(mktemp -d "$(dirname "$file")/.jetface-backup-XXXXXX")
half_done= # while a restore is under way: what is done and what is not
finish() {
  local code=$?
  rm -rf "$work"
  ((code == 0)) || [[ -z $half_done ]] ||
    printf 'backup.sh: the restore was cut off: %s; run it again\n' "$half_done" >&2
  exit "$code"
}
trap finish EXIT
trap 'exit 1' INT TERM

# A program of the image over a volume, without GPU, network or entrypoint.
in_volume() {
  local volume=$1 mode=$2 # ro or rw
  shift 2
  docker run --rm --interactive --network none --user 0 --volume "$volume:/volume:$mode" --entrypoint "$1" "$image" "${@:2}"
}

# What engines depend on, a line each: equal lines, and they fit.
describe() {
  local model=/proc/device-tree/model
  printf 'module: %s\n' "$(if [[ -r $model ]]; then tr -d '\0' <$model; else uname -m; fi)"
  printf 'TensorRT: %s\n' "$(docker run --rm --network none --entrypoint dpkg-query "$image" \
    --show --showformat '${Version}' libnvinfer10 2>/dev/null || echo none)"
}

backup() {
  local name volume
  describe >"$work/made-on"
  printf 'host: %s, %s\n' "$(uname -n)" "$(date -u +%FT%TZ)" >"$work/about"
  for name in models engines; do
    volume=jetface_$name
    docker volume inspect "$volume" >/dev/null 2>&1 || refuse "there is no volume $volume here"
    in_volume "$volume" ro tar -C /volume --numeric-owner -cf - . >"$work/$name.tar" || refuse "the volume $volume cannot be read"
  done
  tar -C "$folder" -cf "$work/settings.tar" .
  (cd "$work" && sha256sum made-on about models.tar engines.tar settings.tar >SHA256SUMS)
  tar -C "$work" -cf "$file.part" SHA256SUMS made-on about models.tar engines.tar settings.tar
  mv "$file.part" "$file"
  printf 'kept in %s, %d MB: settings, weights and engines of\n%s\n' "$file" $(($(stat -c %s "$file") / 1000000)) \
    "$(cat "$work/about" "$work/made-on")"
}

restore() {
  local name here names=(models) compose said
  [[ -r $file ]] || refuse "$file cannot be read"
  tar -C "$work" -xf "$file" SHA256SUMS made-on about models.tar engines.tar settings.tar 2>/dev/null ||
    refuse "$file is no backup of jetface"
  (cd "$work" && sha256sum --quiet --check SHA256SUMS >&2) || refuse "$file is damaged; nothing was restored"
  here=$(describe)
  if [[ $here == "$(cat "$work/made-on")" ]]; then
    names+=(engines)
  else
    printf 'engines are left out and will be built here. They were made on\n%s\nand this is\n%s\n' \
      "$(cat "$work/made-on")" "$here"
  fi
  if [[ -n $container ]]; then
    docker stop --time "$wait" "$container" >/dev/null || refuse "the service cannot be stopped; nothing was restored"
  fi
  for name in "${names[@]}"; do
    half_done="the service is stopped, and $name are half restored"
    docker volume create "jetface_$name" >/dev/null
    in_volume "jetface_$name" rw tar -C /volume --numeric-owner -xf - <"$work/$name.tar"
    printf '%s: restored\n' "$name"
  done
  half_done='the service is stopped, weights are restored, settings are not'
  restore_settings
  printf 'settings: restored\n'
  half_done='all is restored, and the service is not started'
  for compose in compose.yaml compose.jetson.yaml; do
    [[ -e $folder/$compose ]] || continue
    said=$(cd "$folder" && docker compose -p jetface -f "$compose" up --detach --no-build 2>&1) || {
      printf '%s\n' "$said" >&2
      exit 1
    }
    printf 'started\n'
    return
  done
  printf 'there is no compose file in %s: start the service yourself\n' "$folder"
}

# Those of local/ are the host's own. The rest came with an image, and .env names one that need not be here.
restore_settings() {
  local name from=$work/settings
  mkdir "$from"
  tar -C "$from" -xf "$work/settings.tar"
  while IFS= read -r -d '' name; do
    if [[ -e $folder/$name ]]; then
      if [[ $name != local/* ]] || cmp -s "$from/$name" "$folder/$name"; then continue; fi
      mv "$folder/$name" "$folder/$name.before-restore"
      printf 'settings: %s is replaced\n' "$name"
    fi
    mkdir -p "$(dirname "$folder/$name")"
    cp -p "$from/$name" "$folder/$name"
  done < <(cd "$from" && find . -type f ! -name '*.before-restore' ! -path ./.env -printf '%P\0')
}

"$action"
