#!/usr/bin/env bash
# The steps of fleet.sh that run on a host, which sends this file as the input of `bash -s -- STEP`. From its
# environment: FOLDER, IMAGE, IDENTITY (and the format it is in), ARCHITECTURE and SIZE (bytes) of the image, ARCHIVE and its
# SHA256, PORT, WAIT_S. Its last line is what runs: a file that was cut off on the way does nothing.
set -euo pipefail

incoming=$FOLDER/incoming
current=$FOLDER/deploy
previous=$FOLDER/deploy.previous
marker=$FOLDER/UPDATING # lies there while the host is between two states
kept_image=jetface:previous

fail() {
  printf '%s\n' "$*" >&2
  exit 1
}

compose() {
  # The project is jetface whatever the folder is called; .env beside the file names the image.
  (cd "$current" && docker compose -p jetface -f compose.yaml "$@")
}

running_image() {
  local container
  container=$(docker ps --quiet --filter label=com.docker.compose.project=jetface \
    --filter label=com.docker.compose.service=jetface | head -n 1)
  [[ -n $container ]] && docker inspect --format '{{.Image}}' "$container"
}

identity_of() {
  docker image inspect --format "$IDENTITY_FORMAT" "$1" 2>/dev/null
}

has() { command -v "$1" >/dev/null; }

# Everything that would fail later, while nothing is changed yet.
look() {
  local machine place free compose
  has docker || fail 'docker is not installed'
  docker info >/dev/null 2>&1 || fail 'the Docker engine does not answer: is it running, is this user in the group docker?'
  compose=$(docker compose version --short 2>/dev/null) ||
    fail 'docker compose is not installed: apt install docker-compose-v2'
  machine=$(uname -m)
  case $ARCHITECTURE:$machine in
    arm64:aarch64 | amd64:x86_64) ;;
    *) fail "the image is for $ARCHITECTURE, this host is $machine" ;;
  esac
  case $ARCHIVE in *.zst) has zstd || fail 'zstd is not installed: apt install zstd, or --compress gzip' ;; esac
  mkdir -p "$FOLDER" 2>/dev/null && [[ -w $FOLDER ]] ||
    fail "$FOLDER is not writable: sudo install -d -o $(id -un) $FOLDER"
  printf 'machine %s, running %s\n' "$machine" "$(running_image || echo nothing)"
  # An update builds nothing; who builds here by hand would lose `build.network` (docker/compose#12951).
  if [[ ${COMPOSE_BAKE:-} != false && $compose =~ ^v?([0-9]+)\.([0-9]+)\.([0-9]+) ]] &&
    ((BASH_REMATCH[1] * 1000000 + BASH_REMATCH[2] * 1000 + BASH_REMATCH[3] < 2037003)); then
    printf 'Compose %s does not pass on build.network: to build on this host, 2.37.3 or COMPOSE_BAKE=false\n' "$compose"
  fi
  has_image || for place in "$FOLDER" "$(docker info --format '{{.DockerRootDir}}')"; do
    free=$(df --output=avail --block-size=1 "$place" | tail -n 1)
    ((free > SIZE * 3 / 2)) ||
      fail "$((free / 1000000)) MB free in $place: the image ($((SIZE / 1000000)) MB) and its archive need one and a half of it"
  done
  [[ ! -e $marker ]] || printf 'an earlier update was cut off here: %s\n' "$(cat "$marker")"
}

# The service runs this image and no update was cut off.
is_current() {
  local image
  [[ ! -e $marker ]] && image=$(running_image) && [[ $(identity_of "$image") == "$IDENTITY" ]]
}

# shellcheck disable=SC2153 # IMAGE comes from the environment
has_image() { [[ $(identity_of "$IMAGE") == "$IDENTITY" ]]; }

prepare() { mkdir -p "$incoming"; }

check() {
  local found
  found=$(sha256sum <"$incoming/$ARCHIVE" | cut -d' ' -f1)
  [[ $found == "$SHA256" ]] && return
  rm -f "$incoming/$ARCHIVE"
  fail "sha256 $found, not $SHA256"
}

load() {
  local unpress=(gzip -dc) image
  case $ARCHIVE in *.zst) unpress=(zstd -dc --quiet) ;; esac
  # The running image loses its name when the new one has the same: another name keeps it from being pruned. Not after
  # an update that was cut off, when what runs may be the new one already.
  if [[ ! -e $marker ]] && image=$(running_image); then docker tag "$image" $kept_image; fi
  "${unpress[@]}" "$incoming/$ARCHIVE" | docker load
  has_image || fail "the archive was loaded, and $IMAGE is not the image that was saved"
}

# Whoever calls compose there by hand starts the same image; other lines of .env are the host's own.
name_image() {
  {
    grep -v '^JETFACE_IMAGE=' "$current/.env" 2>/dev/null || true
    printf 'JETFACE_IMAGE=%s\n' "$1"
  } >"$current/.env.new"
  mv "$current/.env.new" "$current/.env"
}

# From here to `finish` the host is between two states.
up() {
  local image
  if [[ ! -e $marker ]]; then
    if image=$(running_image); then docker tag "$image" $kept_image; fi
    rm -rf "$previous"
    [[ ! -d $current ]] || cp -a "$current" "$previous"
    printf 'to %s since %s\n' "$IMAGE" "$(date -u +%FT%TZ)" >"$marker"
  fi
  mkdir -p "$current"
  cp "$incoming/compose.yaml" "$current/"
  cp "$incoming"/*.env "$current/"
  name_image "$IMAGE"
  compose up --detach --no-build
}

# 200 of /health/ready, asked by bash alone: a minimal host has no curl.
ask_ready() {
  local answer
  exec 3<>"/dev/tcp/127.0.0.1/$PORT" || return 1
  printf 'GET /health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' >&3
  read -r -t 10 answer <&3 || true
  exec 3>&-
  [[ $answer == 'HTTP/1.1 200 '* ]]
}

wait_ready() {
  local deadline=$((SECONDS + WAIT_S))
  until (ask_ready) 2>/dev/null; do
    ((SECONDS < deadline)) || fail "/health/ready did not answer 200 within $WAIT_S s"
    sleep 0.5
  done
  echo 'ready'
}

say_why() { compose ps --all && compose logs --tail 40; }

roll_back() {
  docker image inspect $kept_image >/dev/null 2>&1 || fail 'there is no image to go back to'
  if [[ -d $previous ]]; then
    rm -rf "$current"
    cp -a "$previous" "$current"
  fi
  name_image $kept_image
  compose up --detach --no-build
}

finish() { rm -rf "$marker" "$incoming"; }

"$@"
