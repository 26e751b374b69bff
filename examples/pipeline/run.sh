#!/usr/bin/env bash
# One event through otelcol → klyra-audit → otelcol, with everything on this machine; prints what came out.
#
# OTELCOL names an OpenTelemetry Collector with the exporter otlp_http and the extension file_storage; klyra-audit is
# taken from PATH. Logs and data stay in WORK, a new folder by default.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export WORK=${WORK:-$(mktemp -d)}
export FRONT_PORT=${FRONT_PORT:-5318} BACK_PORT=${BACK_PORT:-6318} BACK_GRPC_PORT=${BACK_GRPC_PORT:-6317}
export BACK_URL=http://127.0.0.1:$BACK_PORT/v1/logs
data=$WORK/data

klyra-audit org create org_example --plan enterprise --data "$data" >&2
FRONT_KEY=$(klyra-audit key create --org org_example --scope emit --data "$data")
export FRONT_KEY

processes=()
trap 'kill "${processes[@]}" 2>/dev/null; wait' EXIT
await() { # a command that succeeds once something is there
  for _ in {1..300}; do "$@" >/dev/null 2>&1 && return; sleep 0.1; done
  echo "gave up waiting for: $*; see the logs in $WORK" >&2
  return 1
}

"$OTELCOL" --config "$here/back.yaml" >"$WORK/back.log" 2>&1 & processes+=($!)
klyra-audit serve --config "$here/klyra-audit.toml" --data "$data" >"$WORK/klyra-audit.log" 2>&1 & processes+=($!)
await test -s "$data/run.json"
AUDIT_URL=$(sed -n 's/.*"otlp_http": "\(.*\)".*/\1/p' "$data/run.json")
export AUDIT_URL
"$OTELCOL" --config "$here/front.yaml" >"$WORK/front.log" 2>&1 & processes+=($!)

send() {
  curl --fail --silent --show-error --header 'Content-Type: application/json' \
    --data @"$here/event.json" "http://127.0.0.1:$FRONT_PORT/v1/logs"
}
await send
await grep -q 'EventName: user.removed' "$WORK/back.log"
sed -n '/EventName: user.removed/,/canonicalization/p' "$WORK/back.log"
klyra-audit destination list --config "$here/klyra-audit.toml" --data "$data"
