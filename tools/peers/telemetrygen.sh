#!/usr/bin/env bash
# telemetrygen, OpenTelemetry's own load generator: it sends to our collector while that is killed.
#
# Its version is pinned here and its content by Go's checksum database; where Go fetches modules from is the
# environment's own configuration.
set -euo pipefail

version=v0.161.0
place=$KLYRA_PEERS_CACHE/telemetrygen-$version

if [ -x "$place/telemetrygen" ]; then
  echo "$version at $place"
  exit 0
fi
if ! command -v go >/dev/null; then
  echo "there is no Go here to build it with"
  exit 3
fi
mkdir -p "$KLYRA_PEERS_CACHE"
# Built beside its place and moved there, so that a build broken off leaves nothing that looks finished.
unfinished=$(mktemp -d "$KLYRA_PEERS_CACHE/telemetrygen.XXXXXX")
trap 'rm -rf "$unfinished"' EXIT
module=github.com/open-telemetry/opentelemetry-collector-contrib/cmd/telemetrygen
if ! GOBIN=$unfinished CGO_ENABLED=0 go install -trimpath "$module@$version" >&2; then
  echo "go install $module@$version failed (its messages stand above)"
  exit 3
fi
chmod 755 "$unfinished"
mv "$unfinished" "$place"
trap - EXIT
echo "built $version at $place"
