#!/usr/bin/env bash
# Make .venv with the newest Python that works here and install the project into it, editable, with the committed pins.
# Does nothing when pyproject.toml, constraints.txt and the place of the checkout are those of the last installation.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly venv=.venv
readonly stamp=$venv/installed-from
readonly candidates=(python3.14 python3.13 python3.12 python3.11 python3)

state() {
  pwd # scripts and the editable path inside .venv are absolute, so a moved checkout needs a new one
  cat pyproject.toml constraints.txt
}

is_python() { # a shim may stand on PATH and fail when it is run
  "$1" -c 'import sys; sys.exit(sys.implementation.name != "cpython" or sys.version_info < (3, 11))' >/dev/null 2>&1
}

has_pip() {
  is_python "$venv/bin/python" && "$venv/bin/python" -m pip --version >/dev/null 2>&1
}

make_with() { # venv fails on a Debian Python without its venv package; virtualenv then still works
  local python=$1
  rm -rf "$venv"
  "$python" -m venv "$venv" >/dev/null 2>&1 && has_pip && return
  rm -rf "$venv"
  "$python" -m virtualenv --quiet "$venv" >/dev/null 2>&1 && has_pip && return
  rm -rf "$venv"
  virtualenv --quiet --python "$python" "$venv" >/dev/null 2>&1 && has_pip && return
  rm -rf "$venv"
  return 1
}

create() {
  local python found=
  for python in "${candidates[@]}"; do
    is_python "$python" || continue
    if make_with "$python"; then
      echo "environment: made $venv with $("$venv/bin/python" --version)" >&2
      return
    fi
    found=$python
  done
  if [ -n "$found" ]; then
    echo "environment: $found cannot make a virtual environment; install the package $found-venv (Debian, Ubuntu) or virtualenv, then run make again." >&2
  else
    echo "environment: no CPython 3.11 or newer was found; install one with its venv module (Debian, Ubuntu: python3 and python3-venv), then run make again." >&2
  fi
  exit 1
}

install() {
  # The two variables hold the build's own requirements to the same pins: older pip reads the first, newer the second.
  # The paths are relative because pip splits these variables at spaces.
  echo "environment: installing the project and its tools into $venv (a minute or two the first time)" >&2
  PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 \
    "$venv/bin/python" -m pip install --quiet --only-binary :all: -c constraints.txt -e '.[dev]'
}

if state | cmp -s - "$stamp" && is_python "$venv/bin/python"; then
  exit 0
fi
if ! has_pip || [ "$(head -n 1 "$stamp" 2>/dev/null || pwd)" != "$PWD" ]; then
  create
fi
rm -f "$stamp"
install
state >"$stamp"
