"""`launcher=ray` on a real cluster of two nodes on this machine."""

import os
import signal
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from delora_eval.benchmark.folder import read_plan
from delora_eval.benchmark.run.workers.launchers import run_benchmark
from delora_eval.benchmark.settings import BenchmarkConfig

from ..fakes import SECONDS, fake_stages, trainings

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.skipif(
    find_spec("ray") is None, reason="RAY IS NOT INSTALLED: pip install 'delora_sd[cluster]'"
)


def stages_on_worker(config: BenchmarkConfig):
    """Runs on the workers: notes which process works here, then the fake stages."""
    (Path(config.output_dir).parent / f"worker-{os.getpid()}").touch()
    return fake_stages(config)


def stages_that_die_once(config: BenchmarkConfig):
    """Runs on the workers: the first process that trains is killed in the middle of it, as if its machine were lost."""
    mark = Path(config.output_dir).parent / "already-killed"
    stages = fake_stages(config)

    def train(trains):
        stages.train(trains[:1])
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        stages.train(trains)

    return replace(stages, train=train)


@pytest.fixture(scope="module")
def cluster():
    import ray
    from ray.cluster_utils import Cluster

    patch = pytest.MonkeyPatch()
    patch.setenv(SECONDS, "0.05")
    places = (ROOT / "tests", ROOT, ROOT / "eval")  # the workers import this file, and the code that it tests
    patch.setenv("PYTHONPATH", os.pathsep.join(map(str, places)))
    try:
        two_nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        two_nodes.add_node(num_cpus=1)
    except Exception as error:  # Ray raises a bare Exception
        patch.undo()
        pytest.skip(f"RAY DID NOT START: this machine is too busy or too small ({str(error)[:80]})")
    ray.init(address=two_nodes.address, log_to_driver=False)
    yield two_nodes
    ray.shutdown()
    two_nodes.shutdown()
    patch.undo()


def table(folder: Path) -> str:
    return (folder / "tables" / "scores.csv").read_text()


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("make_stages", [stages_on_worker, stages_that_die_once])
def test_two_ray_nodes_give_the_table_of_the_local_run(cluster, make_config, tmp_path, make_stages):
    shared = {"title": "Grid", "drift": False, "pack": "2"}
    on_ray = make_config(**shared, launcher="ray", ray={"gpus": 0, "address": cluster.address})
    folder = run_benchmark(on_ray, make_stages)
    local = run_benchmark(make_config(**shared, output_dir=str(tmp_path / "local" / "bench")), fake_stages)
    assert table(folder.path) == table(local.path)
    assert len(trainings(folder.path)) == 8 == len(set(trainings(folder.path)))
    assert len(read_plan(folder)["test"]) == 8
    if make_stages is stages_on_worker:
        assert len(list(tmp_path.glob("worker-*"))) >= 2
