#!/usr/bin/env bash
# Debian's Chromium, which the browser tests drive. The distribution pins the version and keeps it patched.
set -euo pipefail

version() { "$1" --version 2>/dev/null | head -n 1; }

for program in chromium chromium-browser google-chrome; do
  if command -v "$program" >/dev/null && [ -n "$(version "$program")" ]; then
    echo "$(version "$program") at $(command -v "$program")"
    exit 0
  fi
done
if ! command -v apt-get >/dev/null; then
  echo "there is no apt-get here; install Chromium by this system's own means"
  exit 3
fi
if [ "$(id -u)" != 0 ]; then
  echo "only root can install it: apt-get install --no-install-recommends chromium"
  exit 3
fi
export DEBIAN_FRONTEND=noninteractive
install=(apt-get install --yes --quiet --no-install-recommends -o DPkg::Lock::Timeout=300 chromium)
if ! { "${install[@]}" || { apt-get update --quiet && "${install[@]}"; }; } >&2; then
  echo "apt-get could not install it (its messages stand above)"
  exit 3
fi
echo "installed $(version chromium) with apt-get"
