#!/usr/bin/env bash
# Sourced by the other scripts: goes to the project root and makes `.venv` ready (once; again only when
# pyproject.toml, the constraints or the folder change). DELORA_PYTHON chooses the Python.
# shellcheck shell=bash

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

readonly CONSTRAINTS=scripts/constraints.txt
readonly STAMP=.venv/ready
readonly NEEDED_GIB=9 # torch's default build brings the CUDA libraries: 6 GiB installed, the rest while unpacking

fail() {
    printf '%s\n' "set-up: $1" >&2
    exit 1
}

is_supported_python() {
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}

find_python() {
    local candidate candidates=(python3 python3.13 python3.12 python3.11 python)
    [ -z "${DELORA_PYTHON:-}" ] || candidates=("$DELORA_PYTHON")
    for candidate in "${candidates[@]}"; do
        if is_supported_python "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

# What the environment was made from. The folder counts: scripts in an environment hold absolute paths.
fingerprint() {
    { pwd && cat pyproject.toml "$CONSTRAINTS"; } | cksum
}

is_ready() {
    is_supported_python .venv/bin/python && [ "$(cat "$STAMP" 2>/dev/null)" = "$(fingerprint)" ]
}

# Keeps an environment that works. One that we made and that was moved or lost its Python is made anew;
# one that somebody else made is never deleted.
create_environment() {
    local made_in python=""
    made_in=$(cat .venv/made-in 2>/dev/null || true)
    if is_supported_python .venv/bin/python && [ "${made_in:-$PWD}" = "$PWD" ]; then
        return
    fi
    [ ! -e .venv ] || [ -n "$made_in" ] || fail "$PWD/.venv has no Python 3.11, 3.12 or 3.13; move it away"
    rm -rf .venv
    python=$(find_python) || true
    if command -v uv >/dev/null; then
        uv venv --quiet --seed --python "${python:->=3.11,<3.14}" .venv || fail "uv found no Python 3.11, 3.12 or 3.13"
    elif [ -z "$python" ]; then
        fail "no Python 3.11, 3.12 or 3.13${DELORA_PYTHON:+ at DELORA_PYTHON=$DELORA_PYTHON}; install one, or uv, which brings its own"
    else
        "$python" -m venv .venv >/dev/null || {
            rm -rf .venv
            fail "$python cannot create environments; install its venv package (Debian, Ubuntu: apt install python3-venv)"
        }
    fi
    pwd >.venv/made-in
}

check_disk() {
    local free_kib
    free_kib=$(df -Pk . | awk 'NR == 2 {print $4}')
    [ "$free_kib" -ge $((NEEDED_GIB * 1024 * 1024)) ] ||
        printf '%s\n' "set-up: warning: $((free_kib / 1024 / 1024)) GiB free here, about $NEEDED_GIB GiB are needed" >&2
}

# uv does not read pip's configuration, so where only pip knows the way to the packages, pip is asked next.
install_project() {
    if command -v uv >/dev/null; then
        uv pip install --python .venv/bin/python --constraint "$CONSTRAINTS" --editable '.[test]' && return
        printf '%s\n' "set-up: uv could not install the packages; trying pip" >&2
    fi
    .venv/bin/python -m pip --version >/dev/null 2>&1 || .venv/bin/python -m ensurepip >/dev/null
    .venv/bin/python -m pip install --disable-pip-version-check --progress-bar off --quiet \
        --constraint "$CONSTRAINTS" --editable '.[test]'
}

set_up() {
    is_ready && return
    printf '%s\n' "set-up: creating .venv and installing (once, some minutes, about 6 GiB)" >&2
    create_environment
    check_disk
    rm -f "$STAMP"
    install_project || fail "the packages could not be installed (the lines above say why).
  No network? Connect, or point pip at a mirror or a folder of wheels (PIP_INDEX_URL, or PIP_FIND_LINKS with PIP_NO_INDEX=1).
  Then run the same command again; what is already installed is kept."
    fingerprint >"$STAMP"
    printf '%s\n' "set-up: done" >&2
}

set_up
PATH="$PWD/.venv/bin:$PATH"
export PATH
unset PYTHONHOME
