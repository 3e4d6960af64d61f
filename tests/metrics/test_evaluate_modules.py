"""The `evaluate` metrics: offline, per protocol, and on two processes as on one."""

import sys

import numpy as np
import PIL.Image
import pytest

from ucip_adapt.errors import UnknownNameError
from ucip_adapt.metrics import PROTOCOLS, get_protocol, score
from ucip_adapt.metrics.evaluate_modules import UcipPsnr, UcipSsim


def _metric(kind: type, protocol: str, tmp_path):
    return kind(protocol, cache_dir=str(tmp_path))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("kind", "key", "attribute"), [(UcipPsnr, "psnr_db", "psnr_db"), (UcipSsim, "ssim", "ssim")]
)
def test_the_metric_is_the_mean_of_the_scores(
    make_pairs, kind, key, attribute, protocol, tmp_path
) -> None:
    preds, targets = make_pairs(3)
    scores = [score(p, t, get_protocol(protocol)) for p, t in zip(preds, targets, strict=True)]
    expected = np.mean([getattr(row, attribute) for row in scores])
    result = _metric(kind, protocol, tmp_path).compute(predictions=preds, references=targets)
    assert result.pop(key) == pytest.approx(expected, abs=1e-12)
    assert result == {"num_images": 3, "protocol": protocol}


def test_add_add_batch_and_compute_give_the_same_result(make_pairs, tmp_path) -> None:
    preds, targets = make_pairs(4)
    at_once = _metric(UcipPsnr, "y-c4", tmp_path).compute(predictions=preds, references=targets)

    one_by_one = _metric(UcipPsnr, "y-c4", tmp_path)
    for prediction, reference in zip(preds, targets, strict=True):
        one_by_one.add(prediction=prediction, reference=reference)
    assert one_by_one.compute() == at_once

    mixed = _metric(UcipPsnr, "y-c4", tmp_path)
    mixed.add_batch(predictions=preds[:2], references=targets[:2])
    mixed.add(prediction=PIL.Image.fromarray(preds[2]), reference=PIL.Image.fromarray(targets[2]))
    assert mixed.compute(predictions=preds[3:], references=targets[3:]) == at_once


def test_a_batch_may_be_one_array(tmp_path) -> None:
    rng = np.random.default_rng(0)
    preds, targets = rng.integers(0, 256, (2, 3, 16, 20, 3), dtype=np.uint8)
    as_array = _metric(UcipSsim, "rgb-c0", tmp_path)
    as_array.add_batch(predictions=preds, references=targets)
    as_list = _metric(UcipSsim, "rgb-c0", tmp_path)
    as_list.add_batch(predictions=list(preds), references=list(targets))
    result = as_array.compute()
    assert result["num_images"] == 3
    assert result == as_list.compute()


def test_both_metrics_combine(make_pairs, tmp_path) -> None:
    import evaluate

    preds, targets = make_pairs(2)
    both = evaluate.combine(
        [_metric(UcipPsnr, "y-c4", tmp_path), _metric(UcipSsim, "y-c4", tmp_path)]
    )
    for prediction, reference in zip(preds, targets, strict=True):
        both.add(prediction, reference)
    result = both.compute()
    assert {"psnr_db", "ssim"} <= result.keys()
    assert result["ucip_psnr_num_images"] == result["ucip_ssim_num_images"] == 2


@pytest.mark.parametrize("kind", [UcipPsnr, UcipSsim])
def test_an_unknown_protocol_is_an_error_that_names_the_known_ones(kind, tmp_path) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown protocol 'y-c5'.* rgb-c0, rgb-c4, y-c0"):
        _metric(kind, "y-c5", tmp_path)
    with pytest.raises(UnknownNameError, match="unknown protocol 'default'"):
        kind(cache_dir=str(tmp_path))


@pytest.mark.parametrize("kind", [UcipPsnr, UcipSsim])
def test_no_images_are_an_error(kind, tmp_path) -> None:
    metric = _metric(kind, "y-c4", tmp_path)
    with pytest.raises(ValueError, match="there are no images to compare"):
        metric.compute(predictions=[], references=[])


def test_what_is_not_8_bit_rgb_is_refused_when_it_is_added(tmp_path) -> None:
    image = np.zeros((16, 16, 3), dtype=np.uint8)
    metric = _metric(UcipPsnr, "y-c0", tmp_path)
    with pytest.raises(ValueError, match=r"a prediction must be RGB .* and float64"):
        metric.add(prediction=image / 255.0, reference=image)
    with pytest.raises(ValueError, match=r"a prediction must be RGB .* and int64"):
        metric.add(prediction=image.astype(np.int64), reference=image)
    with pytest.raises(ValueError, match=r"a reference must be RGB .* not \(16, 16\) and uint8"):
        metric.add(prediction=image, reference=image[..., 0])
    with pytest.raises(ValueError, match="a reference must be RGB"):
        metric.add(prediction=image)
    with pytest.raises(ValueError, match="2 predictions do not match 1 references"):
        metric.add_batch(predictions=[image, image], references=[image])
    with pytest.raises(ValueError, match="predictions and references are needed together"):
        metric.compute(predictions=[image])
    metric.add(prediction=image, reference=image)
    assert metric.compute()["num_images"] == 1


_ON_EACH_PROCESS = """
import socket

def refuse(*args, **kwargs):
    raise AssertionError("a metric asked for the network")

socket.getaddrinfo = socket.socket.connect = refuse

from ucip_adapt.metrics.evaluate_modules import UcipPsnr, UcipSsim

rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
results = []
for kind in (UcipPsnr, UcipSsim):
    metric = kind(
        "y-c4", num_process=world, process_id=rank, experiment_id="two", cache_dir="metrics"
    )
    preds, targets = make_pairs(11)
    metric.add_batch(predictions=preds[rank::world], references=targets[rank::world])
    results.append(metric.compute())
print(json.dumps(results))
"""


def test_11_images_on_two_processes_without_network_equal_one_process(
    make_pairs, run_processes, tmp_path
) -> None:
    preds, targets = make_pairs(11)
    on_main, elsewhere = run_processes(_ON_EACH_PROCESS, processes=2)
    assert elsewhere == [None, None]
    for kind, key, result in zip((UcipPsnr, UcipSsim), ("psnr_db", "ssim"), on_main, strict=True):
        alone = _metric(kind, "y-c4", tmp_path).compute(predictions=preds, references=targets)
        assert result["num_images"] == alone["num_images"] == 11
        assert result[key] == pytest.approx(alone[key], abs=1e-9)


def test_importing_the_package_does_not_import_evaluate(run_processes) -> None:
    code = "import sys, ucip_adapt.metrics\n"
    code += "print(json.dumps(sorted({'evaluate', 'datasets', 'accelerate'} & set(sys.modules))))\n"
    assert run_processes(code, processes=1) == [[]]
    assert "evaluate" in sys.modules
