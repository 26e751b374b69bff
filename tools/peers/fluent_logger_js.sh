#!/usr/bin/env bash
# @fluent-org/logger, the Fluent project's own Forward client and server for Node: the Forward tests speak with both.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
exec ./install_npm ../../tests/integration/fluent fluent_logger_js
