#!/usr/bin/env bash
# For HEALTHCHECK: exit code 0 when /health/live says 200. Bash alone, because curl is not in the images and a Python
# costs twenty times as much, every ten seconds for ever.
set -euo pipefail

host=${HOST:-0.0.0.0}
case $host in
  0.0.0.0) host=127.0.0.1 ;;
  ::) host=::1 ;;
esac

exec 3<>"/dev/tcp/$host/${PORT:-18080}"
printf 'GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' >&3
read -r -t 5 _ status _ <&3
[[ $status == 200 ]]
