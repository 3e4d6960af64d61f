"""A Dask cluster of two worker processes, one of which is killed in mid-build."""

from __future__ import annotations

import os
import signal
import time

import pytest

from ucip_adapt.data.images import image_names
from ucip_adapt.errors import ConfigError
from ucip_adapt.suites import engines, fill_suite, load_suite
from ucip_adapt.suites.build import build_suite
from ucip_adapt.suites.engines import open_engine
from ucip_adapt.suites.plan import BuildPlan


def test_a_missing_library_is_a_message(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(engines.importlib, "import_module", missing)
    with (
        pytest.raises(ConfigError, match=r'needs Dask: pip install "ucip-adapt\[cluster\]"'),
        open_engine("dask", scheduler="tcp://127.0.0.1:1"),
    ):
        pass


@pytest.mark.slow
def test_a_killed_worker_changes_nothing(reference, photos, suite_file, hashes, tmp_path):
    distributed = pytest.importorskip("distributed")
    out = tmp_path / "out"
    plan = BuildPlan.make(
        fill_suite(load_suite(suite_file)), image_names(photos), images_per_shard=2
    )
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        with distributed.Client(cluster) as client:
            pids = list(client.run(os.getpid).values())
        assert len(set(pids)) == 2
        with open_engine("dask", scheduler=cluster.scheduler_address) as engine:
            assert engine.capacity() == 2
            submit = engine.executor.submit
            killed = []

            def kill_after_two(function, task):
                if len(killed) == 0 and len(list((out / ".build").rglob("*.json"))) > 2:
                    os.kill(pids[0], signal.SIGKILL)
                    killed.append(time.monotonic())
                return submit(function, task)

            engine.executor.submit = kill_after_two
            report = build_suite(plan, photos, out, engine)
    assert killed, "the build was over before a worker could be killed"
    assert report.complete
    assert hashes(out) == hashes(reference)
