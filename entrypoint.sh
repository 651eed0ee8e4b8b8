#!/usr/bin/env bash
# Start the service as a container's process: this shell becomes the server, so that signals reach it. Run it under an
# init (tini) where it would be process 1. With arguments it becomes `jetface ARGUMENTS` instead,
# in the same environment; with `exec COMMAND ...` that command.
set -euo pipefail

# TensorRT before 10.8 does not load without libnvdla_compiler.so on a Jetson. Where the host mounts none, or an empty one,
# the image's copy is found: first, because ld.so ends its search at an empty file.
if [[ -s ${DLA_COMPILER_DIR:-}/libnvdla_compiler.so ]]; then
  mounted=
  IFS=: read -r -a folders <<<"${LD_LIBRARY_PATH:-}"
  for folder in "${folders[@]}"; do
    if [[ -e $folder/libnvdla_compiler.so ]]; then
      mounted=$folder/libnvdla_compiler.so
      break
    fi
  done
  [[ -s $mounted ]] || export LD_LIBRARY_PATH=$DLA_COMPILER_DIR${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
fi

if [[ ${1:-} == exec ]]; then
  shift
  exec "$@"
fi
if (($#)); then exec jetface "$@"; fi

# It checks settings and machine first. A bad setting, a model that is not there, a GPU out of reach, the wrong wheel, a
# port in use, ...: what keeps the service from starting ends it with exit code 3 and one line that says what mends it.
exec jetface serve
