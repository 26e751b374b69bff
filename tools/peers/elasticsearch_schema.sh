#!/usr/bin/env bash
# Elastic's own description of every request of Elasticsearch: what set-up sends is checked against it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
exec ./install_npm ../../tests/integration/elasticsearch_schema elasticsearch_schema
