#!/usr/bin/env bash
# Fetch or build the programs of others that some tests run against: one script each in tools/peers/.
#
# A script gets KLYRA_PEERS_CACHE, the folder it may fill, and prints one line on stdout: what it found or did.
# It exits 0 when the program is there, 3 when it cannot be had here (the line says why), anything else when it broke.
set -euo pipefail
cd "$(dirname "$0")/.."

export KLYRA_PEERS_CACHE=${XDG_CACHE_HOME:-${HOME:-/nonexistent}/.cache}/klyra-audit
broken=0
for script in tools/peers/*.sh; do
  name=$(basename "$script" .sh)
  status=0
  line=$(bash "$script" </dev/null) || status=$?
  case $status in
    0) echo "present  $name: $line" ;;
    3) echo "absent   $name: $line" ;;
    *) echo "broken   $name: $script ended with status $status. $line"; broken=1 ;;
  esac
done
exit $broken
