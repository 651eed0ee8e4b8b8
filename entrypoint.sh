#!/usr/bin/env bash
# Start the service as a container's process: settings are checked first, then this shell becomes the server, so that
# signals reach it. Run it under an init (tini) where it would be process 1.
set -euo pipefail

# One argument a line; with a bad setting this says which on stderr, and ends here with exit code 2.
arguments=$(jetface serve --dry-run)
mapfile -t arguments <<<"$arguments"

exec uvicorn --factory app.main:create_app --loop asyncio "${arguments[@]}"
