#!/usr/bin/env bash
# A verifier of C2SP logs on golang.org/x/mod alone, in tests/integration/go_verifier: it shares no code with ours.
set -euo pipefail
cd "$(dirname "$0")/../.."
exec tools/peers/build_go tests/integration/go_verifier
