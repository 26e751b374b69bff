#!/usr/bin/env bash
# Torchwood's litewitness, a C2SP witness that others run in production; the witnessing tests have it cosign a ledger.
#
# Where Go fetches modules from and what it checks them against is the environment's own configuration.
set -euo pipefail

module=filippo.io/torchwood/cmd/litewitness
version=v0.9.0
program=$KLYRA_PEERS_CACHE/litewitness-$version/litewitness

# It keeps its key in an ssh-agent.
has_agent() { command -v ssh-agent >/dev/null && command -v ssh-add >/dev/null && command -v ssh-keygen >/dev/null; }
if ! has_agent && command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
  export DEBIAN_FRONTEND=noninteractive
  install=(apt-get install --yes --quiet --no-install-recommends -o DPkg::Lock::Timeout=300 openssh-client)
  { "${install[@]}" || { apt-get update --quiet && "${install[@]}"; }; } >&2 || true
fi
if ! has_agent; then
  echo "it keeps its key in an ssh-agent, and there is none here: apt-get install openssh-client"
  exit 3
fi
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
unfinished=$(mktemp -d "$KLYRA_PEERS_CACHE/litewitness.XXXXXX")
trap 'rm -rf "$unfinished"' EXIT
if ! GOBIN=$unfinished CGO_ENABLED=0 go install "$module@$version" >&2; then
  echo "go install $module@$version failed (its messages stand above)"
  exit 3
fi
mv "$unfinished/litewitness" "$program"
echo "built $version at $program"
