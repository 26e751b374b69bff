"""Run the service: ``python -m moderation_service [--listen HOST:PORT]``, configured by KLYRA_AUDIT_* variables."""

from __future__ import annotations

import argparse
import os
import sys

import uvicorn

from klyra_audit import AuditEmitter
from moderation_service.service import create_app

VARIABLES = ("KLYRA_AUDIT_ENDPOINT", "KLYRA_AUDIT_API_KEY", "KLYRA_AUDIT_ORGANIZATION_ID")


def main() -> int:
    """Serve until SIGTERM or SIGINT; return the exit status."""
    parser = argparse.ArgumentParser(prog="moderation_service", description=__doc__)
    parser.add_argument("--listen", metavar="HOST:PORT", default="127.0.0.1:8090", help="default: %(default)s")
    host, _, port = parser.parse_args().listen.rpartition(":")
    missing = [name for name in VARIABLES if not os.environ.get(name)]
    if missing:
        sys.stderr.write(f"Set {', '.join(missing)}: the address, key and organization of the audit log.\n")
        return 2
    endpoint, api_key, organization_id = (os.environ[name] for name in VARIABLES)
    with AuditEmitter(
        endpoint, api_key=api_key, organization_id=organization_id, emitter_id="moderation-service"
    ) as emitter:
        # Only a proxy on this machine is believed about where a request came from.
        uvicorn.run(
            create_app(emitter),
            host=host.strip("[]"),
            port=int(port),
            log_level="warning",
            forwarded_allow_ips="127.0.0.1,::1",
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
