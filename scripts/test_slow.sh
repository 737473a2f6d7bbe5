#!/usr/bin/env bash
# Sets up on a fresh machine, then runs the slow tests (minutes to an hour on two cores) and, where there is an
# accelerator, the GPU tests. Arguments go to pytest.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

markers="slow and not gpu"
if python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    markers="slow or gpu"
fi
python -m pytest -m "$markers" "$@"
