"""Interrupted and spread over processes, `cluster` writes the same bytes."""

import pytest

from padd_artifacts.errors import PaddError
from padd_artifacts.writer import Output
from padd_stages.cluster import layer_clusters as layers
from padd_stages.cluster import stage as cluster
from padd_stages.cluster.options import ClusterInputs, ClusterOptions


@pytest.fixture
def inputs(pico):
    return ClusterInputs(teacher=str(pico.teacher), student=str(pico.student), split=pico.split)


@pytest.mark.parametrize("features", ["weights", "coactivation"])
def test_a_run_goes_on_with_the_layers_that_it_has(inputs, tmp_path, monkeypatch, features):
    options = ClusterOptions(features=features)
    whole = cluster.run(inputs, options, Output(tmp_path / "whole"))
    done, clustered = [], layers.cluster_layer

    def break_off(rows, clusters, layer, *others):
        if done:
            raise KeyboardInterrupt
        done.append(layer)
        return clustered(rows, clusters, layer, *others)

    monkeypatch.setattr(layers, "cluster_layer", break_off)
    with pytest.raises(KeyboardInterrupt):
        cluster.run(inputs, options, Output(tmp_path / "cut"))
    waiting = Output(tmp_path / "cut").unfinished()
    assert waiting is not None
    assert waiting.marker.key == whole.manifest.key
    with pytest.raises(PaddError, match="other inputs or options"):
        cluster.run(inputs, ClusterOptions(features=features, xi=2.0), Output(tmp_path / "cut", resume=True))
    again = []
    monkeypatch.setattr(layers, "cluster_layer", lambda *a: (again.append(a[2]), clustered(*a))[1])
    resumed = cluster.run(inputs, options, Output(tmp_path / "cut", resume=True))
    assert sorted(done + again) == sorted(map(int, whole.report["teacher_layers"]))
    assert resumed.manifest.digest == whole.manifest.digest
    assert set(resumed.manifest.files) == set(whole.manifest.files)


def test_layers_on_two_processes_give_the_same_bytes(inputs, tmp_path):
    for features in ("weights", "coactivation"):
        digests = {
            cluster.run(
                inputs,
                ClusterOptions(features=features, processes=processes),
                Output(tmp_path / f"{features}{processes}"),
            ).manifest.digest
            for processes in (1, 2)
        }
        assert len(digests) == 1
