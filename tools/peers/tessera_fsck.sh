#!/usr/bin/env bash
# Tessera's fsck as a library, in tests/integration/tessera_fsck: another implementation's judgement of a log.
set -euo pipefail
cd "$(dirname "$0")/../.."
exec tools/peers/build_go tests/integration/tessera_fsck
