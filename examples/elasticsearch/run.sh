#!/usr/bin/env bash
# klyra-audit with Elasticsearch from nothing: set-up, ingest, search, export, verify, and a lost ledger rebuilt.
#
# ES_URL names a cluster and an account that may set it up; without it the server that `make peers` has fetched is
# started, and stopped at the end. klyra-audit is taken from this repository's .venv, else from PATH. Logs and data stay
# in WORK, a new folder by default.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(cd "$here/../.." && pwd)
[ ! -x "$repository/.venv/bin/klyra-audit" ] || PATH=$repository/.venv/bin:$PATH
command -v klyra-audit >/dev/null || {
  echo "There is no klyra-audit here yet. Make it with: make environment peers" >&2
  exit 2
}
export WORK=${WORK:-$(mktemp -d)}
mkdir -p "$WORK"
data=$WORK/data
serving='' node=''
stop() { # one after the other: what is served is written out before the cluster goes
  for process in "$@"; do [ -z "$process" ] || { kill "$process" 2>/dev/null && wait "$process" || true; }; done
}
trap 'stop "$serving" "$node"' EXIT

step() { printf '\n== %s\n' "$*"; }
await() { # a command that succeeds once something is there
  for _ in {1..600}; do "$@" >/dev/null 2>&1 && return; sleep 0.2; done
  echo "gave up waiting for: $*; the logs in $WORK end with:" >&2
  tail -n 5 "$WORK"/*.log >&2
  return 1
}
serve() {
  klyra-audit serve --config "$WORK/klyra-audit.toml" --data "$data" >>"$WORK/klyra-audit.log" 2>&1 &
  serving=$!
  await test -s "$data/run.json"
}
found() { [ "$(klyra-audit query --json --type "$1" --data "$data" | wc -l)" -ge "$2" ]; }

if [ -z "${ES_URL:-}" ]; then
  step "Starting Elasticsearch (a minute or less)"
  PYTHONPATH=$repository/tests python -m support.elasticsearch "$WORK/password" >"$WORK/node.url" 2>"$WORK/node.log" &
  node=$!
  await test -s "$WORK/node.url"
  ES_URL="$(cat "$WORK/node.url")?user=elastic&password=file:$WORK/password"
fi
cluster=${ES_URL%%\?*}

step "Setting the cluster up: lifecycle policies, templates, streams, one key for each purpose"
klyra-audit setup elasticsearch "$ES_URL" --keys "$WORK/keys" --data "$data"
sed "s|CLUSTER|$cluster|; s|KEYS|$WORK/keys|" "$here/klyra-audit.toml" >"$WORK/klyra-audit.toml"

step "Serving, and sending events"
klyra-audit org create org_example --plan business --data "$data"
EMIT_KEY=$(klyra-audit key create --org org_example --scope emit --data "$data")
KLYRA_KEY=$(klyra-audit key create --org org_example --scope read,export --data "$data")
export KLYRA_KEY
serve
KLYRA_KEY=$EMIT_KEY klyra-audit emit - --org org_example --data "$data" <"$here/events.ndjson"

step "Searching: what failed"
await found moderation.flagged 1
klyra-audit query --status failure --data "$data"

step "Exporting"
klyra-audit export "$WORK/entries.csv" --type moderation.created --type moderation.flagged --data "$data"
cut -d, -f1-4 "$WORK/entries.csv"

step "Verifying what Elasticsearch has: against the ledger, then by the cluster's own copy of leaves and signatures"
klyra-audit ledger policy --data "$data" >"$WORK/klyra.policy"
reader="$cluster?api_key=file:$WORK/keys/reader.key"
klyra-audit verify "$reader" --ledger "$data" --policy "$WORK/klyra.policy"
stop "$serving"
# What was written last is found by a search within five seconds.
await klyra-audit verify "$reader" --org-salt "$data/keys/org-salt" --policy "$WORK/klyra.policy"
klyra-audit verify "$reader" --org-salt "$data/keys/org-salt" --policy "$WORK/klyra.policy"

step "The disk is lost: all but keys and registry. Rebuilding the ledger out of Elasticsearch"
mkdir "$WORK/lost"
mv "$data/ledger" "$data/cursors" "$WORK/lost/"
klyra-audit ledger rebuild --from "$reader" --policy "$WORK/klyra.policy" --reason "an example" --yes --data "$data"
klyra-audit ledger policy --data "$data" >"$WORK/new.policy"
klyra-audit verify "$data" --policy "$WORK/new.policy"

step "Going on"
serve
KLYRA_KEY=$EMIT_KEY klyra-audit emit user.added --org org_example --actor user:usr_1 --resource user:usr_2 --data "$data"
await found user.added 1
klyra-audit query --data "$data"
