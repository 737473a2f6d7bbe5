#!/usr/bin/env bash
# Sets up on a fresh machine, then tries hard to break it: kills, full disks, broken inputs, random inputs, properties,
# determinism. Writes what came out to runs/trust/ and docs/TRUST.md. About an hour on two cores; fails if anything did.
# Arguments go to the crash test:
#   bash scripts/trust.sh                                  everything, as every night
#   FUZZ_SECONDS=20 bash scripts/trust.sh --short          some of it, in five minutes
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

records=runs/trust
mkdir -p "$records"
export OMP_NUM_THREADS=1 # one thread: the levels of determinism are stated for it
failed=0

# A part that fails does not keep the others from running: the page shows all of them.
part() {
    printf '%s\n' "trust: $*" >&2
    "$@" || failed=1
}

tests() {
    local record="$records/$1.xml"
    shift
    part python -m pytest -q --junitxml "$record" "$@"
}

part python scripts/crash/crash_test.py --record "$records/crash.json" "$@"
part python scripts/fuzz/fuzz.py --seconds "${FUZZ_SECONDS:-600}" --record "$records/fuzz.json"
tests bad_inputs tests/trust/test_bad_inputs.py
tests security tests/trust/test_security.py
tests properties -m "hypothesis and not slow" tests
tests determinism tests/trust/test_determinism.py
tests exports tests/training/record/test_export_check.py
part python scripts/crash/trust_page.py "$records" docs/TRUST.md
exit "$failed"
