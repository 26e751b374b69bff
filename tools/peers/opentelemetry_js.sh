#!/usr/bin/env bash
# OpenTelemetry's own SDK and OTLP exporters for Node: they send to our collector while it is killed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
exec ./install_npm ../../tests/integration/opentelemetry_js opentelemetry_js
