#!/usr/bin/env bash
# The OpenTelemetry Collector, built from the modules that otelcol.yaml names: the peer on both sides of ours.
#
# Where Go fetches modules from and what it checks them against is the environment's own configuration.
set -euo pipefail

version=v0.162.0
manifest=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/otelcol.yaml
program=$KLYRA_PEERS_CACHE/otelcol/$(sha256sum "$manifest" | cut -c1-16)/otelcol

if [ -x "$program" ]; then
  echo "$version at $program"
  exit 0
fi
if ! command -v go >/dev/null; then
  echo "there is no Go here to build it with"
  exit 3
fi
mkdir -p "$(dirname "$program")"
# Built beside its place and moved there, so that a build broken off leaves nothing that looks finished.
unfinished=$(mktemp -d "$KLYRA_PEERS_CACHE/otelcol.XXXXXX")
trap 'rm -rf "$unfinished"' EXIT
export CGO_ENABLED=0
if ! GOBIN=$unfinished go install "go.opentelemetry.io/collector/cmd/builder@$version" >&2; then
  echo "go install of the collector's builder $version failed (its messages stand above)"
  exit 3
fi
cp "$manifest" "$unfinished/otelcol.yaml"
if ! (cd "$unfinished" && ./builder --config otelcol.yaml --ldflags="-s -w") >&2; then
  echo "building the collector $version failed (the builder's messages stand above)"
  exit 3
fi
mv "$unfinished/otelcol/otelcol" "$program"
echo "built $version at $program"
