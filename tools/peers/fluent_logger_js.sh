#!/usr/bin/env bash
# @fluent-org/logger, the Fluent project's own Forward client and server for Node: the Forward tests speak with both.
#
# Its package-lock.json pins it; where npm fetches packages from is the environment's own configuration.
set -euo pipefail

sources=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../tests/integration/fluent" && pwd)
digest=$(sha256sum "$sources/package-lock.json" | cut -c1-16)
folder=$KLYRA_PEERS_CACHE/fluent_logger_js/$digest

if ! command -v node >/dev/null; then
  echo "there is no Node here to run it with"
  exit 3
fi
if [ -d "$folder/node_modules/@fluent-org/logger" ]; then
  echo "present at $folder"
  exit 0
fi
if ! command -v npm >/dev/null; then
  echo "there is no npm here to install it with"
  exit 3
fi
mkdir -p "$(dirname "$folder")"
# Installed beside its place and moved there, so that an installation broken off leaves nothing that looks finished.
unfinished=$(mktemp -d "$KLYRA_PEERS_CACHE/fluent_logger_js.XXXXXX")
trap 'rm -rf "$unfinished"' EXIT
cp "$sources/package.json" "$sources/package-lock.json" "$unfinished"
if ! (cd "$unfinished" && npm ci --ignore-scripts --no-audit --no-fund) >&2; then
  echo "npm ci failed (its messages stand above)"
  exit 3
fi
chmod 755 "$unfinished"
mv "$unfinished" "$folder"
trap - EXIT
echo "installed at $folder"
