#!/usr/bin/env bash
# An Elasticsearch server, which the tests of cells ask whether it compares and swaps as we take it to.
#
# Elastic's own distribution for integration tests, by Maven, whose configuration says where artifacts come from. It is
# fetched for tests and shipped with nothing.
set -euo pipefail

version=8.19.21
checksum=215d5f3dbf0609a149f6218a9e47b6ae2df34ebbff3c5754e35f15a5e5393c8a
artifact=org.elasticsearch.distribution.integ-test-zip:elasticsearch:$version:zip
place=$KLYRA_PEERS_CACHE/elasticsearch-$version

if ! command -v java >/dev/null; then
  echo "there is no Java here to run it (17 or newer; Debian: openjdk-17-jre-headless)"
  exit 3
fi
if [ -x "$place/bin/elasticsearch" ]; then
  echo "$version at $place"
  exit 0
fi
for needed in mvn unzip; do
  if ! command -v "$needed" >/dev/null; then
    echo "there is no $needed here to fetch it with (Debian: maven, unzip)"
    exit 3
  fi
done
mkdir -p "$KLYRA_PEERS_CACHE"
# Unpacked beside its place and moved there, so that a fetch broken off leaves nothing that looks finished.
unfinished=$(mktemp -d "$KLYRA_PEERS_CACHE/elasticsearch.XXXXXX")
trap 'rm -rf "$unfinished"' EXIT
if ! mvn -B -q -ntp dependency:copy -Dartifact="$artifact" -DoutputDirectory="$unfinished" >&2; then
  echo "Maven could not fetch $artifact (its messages stand above)"
  exit 3
fi
archive=$unfinished/elasticsearch-$version.zip
if ! echo "$checksum  $archive" | sha256sum --check --status; then
  echo "what Maven fetched is not the archive that is pinned here"
  exit 1
fi
unzip -q "$archive" -d "$unfinished"
chmod -R a+rX "$unfinished/elasticsearch-$version"
mv "$unfinished/elasticsearch-$version" "$place"
echo "fetched $version to $place"
