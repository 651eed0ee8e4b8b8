#!/usr/bin/env bash
# Start the service as a container's process: settings are checked first, then the machine, then this shell becomes the
# server, so that signals reach it. Run it under an init (tini) where it would be process 1.
set -euo pipefail

# One argument a line; with a bad setting this says which on stderr, and ends here with exit code 2.
arguments=$(jetface serve --dry-run)
mapfile -t arguments <<<"$arguments"

# Cores that are off, a GPU out of reach, the wrong wheel, a port in use, ...: what would keep the service from starting
# ends it here, with one line that says what mends it; all else goes to the log.
jetface doctor --preflight

exec uvicorn --factory app.main:create_app "${arguments[@]}"
