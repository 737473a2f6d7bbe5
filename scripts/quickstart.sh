#!/usr/bin/env bash
# Sets up on a fresh machine, then does the main job on the bundled miniature: trains subjects, generates images in
# new contexts, scores them and writes a report. Offline after the set-up. The same command again resumes.
# Arguments are settings of the benchmark: bash scripts/quickstart.sh train.training.num_steps=100
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

run=runs/quickstart
delora-sd benchmark configs/benchmark/miniature_quickstart.yaml "output_dir=$run" "$@"
delora-sd report "$run"

cat <<EOF

Report: $PWD/$run/report.html

Open it in a browser: photos, generated images and scores side by side. Then
  source .venv/bin/activate
  delora-sd doctor          what this machine can run, and what is missing for Stable Diffusion itself
  delora-sd --help          every command
README.md has the two lines that train on your own photos.
EOF
