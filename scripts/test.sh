#!/usr/bin/env bash
# Sets up on a fresh machine, then checks style, imports and behaviour. Arguments go to pytest:
#   bash scripts/test.sh                       everything but the slow and GPU tests
#   bash scripts/test.sh tests/adapters -x     some of it
#   DELORA_TEST_REVERSED=1 bash scripts/test.sh     last test first
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

ruff format --check .
ruff check .
lint-imports

# One thread per worker: two workers on two cores, without fighting over them. A file's tests stay on one worker,
# which shares its fixtures.
export OMP_NUM_THREADS=1
python -m pytest -m "not slow and not gpu" -n logical --maxprocesses 4 --dist loadfile "$@"
