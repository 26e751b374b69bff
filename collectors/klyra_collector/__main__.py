"""`python -m klyra_collector` is `klyra-audit`."""

from klyra_collector.cli import main

if __name__ == "__main__":
    main()
