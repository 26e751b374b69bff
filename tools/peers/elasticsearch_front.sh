#!/usr/bin/env bash
# A plugin of ours for the Elasticsearch of the tests: data streams, lifecycle policies and API keys over REST.
set -euo pipefail

version=8.19.21
home=$KLYRA_PEERS_CACHE/elasticsearch-$version
sources=$(cd "$(dirname "${BASH_SOURCE[0]}")/elasticsearch_front" && pwd)
digest=$(sha256sum "$sources/FrontPlugin.java" | cut -c1-16)
place=$KLYRA_PEERS_CACHE/elasticsearch_front/$version-$digest

if [ -f "$place/klyra-front/front.jar" ]; then
  echo "present at $place"
  exit 0
fi
if [ ! -d "$home/lib" ]; then
  echo "there is no Elasticsearch to build it against"
  exit 3
fi
if ! command -v javac >/dev/null; then
  echo "there is no Java compiler here (17 or newer; Debian: openjdk-17-jdk-headless)"
  exit 3
fi
mkdir -p "$KLYRA_PEERS_CACHE/elasticsearch_front"
# Built beside its place and moved there, so that a build broken off leaves nothing that looks finished.
unfinished=$(mktemp -d "$KLYRA_PEERS_CACHE/elasticsearch_front.XXXXXX")
trap 'rm -rf "$unfinished"' EXIT
jars=$(printf '%s:' "$home"/lib/*.jar "$home"/modules/x-pack-core/*.jar)
mkdir -p "$unfinished/klyra-front"
javac -proc:none -nowarn -Xlint:none --release 17 -cp "$jars" -d "$unfinished/classes" "$sources/FrontPlugin.java" >&2
jar --create --file "$unfinished/klyra-front/front.jar" -C "$unfinished/classes" .
rm -r "$unfinished/classes"
cat > "$unfinished/klyra-front/plugin-descriptor.properties" <<PROPERTIES
description=For tests: an address for server classes that this distribution has and does not register
version=$version
name=klyra-front
java.version=17
elasticsearch.version=$version
classname=front.FrontPlugin
extended.plugins=x-pack-core
PROPERTIES
chmod -R a+rX "$unfinished"
mv "$unfinished" "$place"
trap - EXIT
echo "built at $place"
