#!/usr/bin/env bash
# Start the service as a container's process: the settings and the machine are checked first, then this shell becomes the
# server, so that signals reach it. Run it under an init (tini) where it would be process 1.
set -euo pipefail

# A bad setting, a model that is not there, a GPU out of reach, the wrong wheel, a port in use, ...: what would keep the
# service from starting ends it here, with exit code 3 and one line that says what mends it; all else goes to the log.
jetface doctor --preflight

exec jetface serve
