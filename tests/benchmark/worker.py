"""A process of its own that runs a benchmark with fake stages: `python worker.py CONFIG.yaml [key=value ...]`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from fakes import fake_stages

from delora_eval.benchmark.run.workers.launchers import run_benchmark
from delora_eval.benchmark.settings import BenchmarkConfig
from delora_sd.config.load import load_config

if __name__ == "__main__":
    run_benchmark(load_config(BenchmarkConfig, [sys.argv[1]], sys.argv[2:]), fake_stages)
