"""Gathering scores: each image once, in order, the same on every process."""

import pytest
from accelerate import Accelerator

from ucip_adapt.metrics import gather_scores, get_protocol, score

_ON_EACH_PROCESS = """
from accelerate import Accelerator
from torch.utils.data import DataLoader
from ucip_adapt.metrics import gather_scores, get_protocol, score
from ucip_adapt.training.collective import finish_training, leave_process_group

accelerator = Accelerator(cpu=True)
preds, targets = make_pairs(11)
rows = []
for batch in accelerator.prepare(DataLoader(list(range(11)), batch_size=2)):
    for index in batch.tolist():
        psnr_db = score(preds[index], targets[index], get_protocol("y-c4")).psnr_db
        rows.append({"index": index, "name": f"{index:02d}", "psnr_db": psnr_db})
result = {"num_processes": accelerator.num_processes, "num_seen": len(rows)}
result["rows"] = gather_scores(rows, accelerator)

uneven = [{"index": index} for index in range(5)] if accelerator.is_main_process else []
result["uneven"] = gather_scores(uneven, accelerator)

try:
    gather_scores([{"index": 0, "name": f"image of {accelerator.process_index}"}], accelerator)
except ValueError as error:
    result["error"] = str(error)
finish_training(accelerator)
leave_process_group()
print(json.dumps(result))
"""


def test_two_processes_give_each_image_once(run_processes, make_pairs) -> None:
    results = run_processes(_ON_EACH_PROCESS, processes=2)
    preds, targets = make_pairs(11)
    alone = [score(p, t, get_protocol("y-c4")).psnr_db for p, t in zip(preds, targets, strict=True)]
    # The loader repeats an image to fill the last batch: counting rows would count 12.
    assert sum(result["num_seen"] for result in results) == 12
    for result in results:
        assert result["num_processes"] == 2
        assert [row["index"] for row in result["rows"]] == list(range(11))
        assert [row["psnr_db"] for row in result["rows"]] == pytest.approx(alone, abs=1e-9)
        assert result["uneven"] == [{"index": index} for index in range(5)]
        assert "index 0 stands for two different images" in result["error"]
    assert results[0]["rows"] == results[1]["rows"]


def test_one_process_sorts_and_drops_repeated_rows() -> None:
    rows = [{"index": i, "ssim": 0.5 + i / 10} for i in (2, 0, 1)]
    repeated = {"index": 0, "ssim": 0.5 + 1e-12}
    gathered = gather_scores(iter([*rows, repeated]), Accelerator(cpu=True))
    assert gathered == [rows[1], rows[2], rows[0]]


def test_scores_deep_in_a_row_may_differ_in_their_last_digits() -> None:
    """As :func:`~ucip_adapt.evaluation.evaluate_sets` has them, by method and protocol."""
    rows = [
        {"index": 0, "name": "baby", "scores": {"base": {"y-c4": (30.0 + tiny, 0.8)}}}
        for tiny in (0.0, 1e-12)
    ]
    assert gather_scores(rows, Accelerator(cpu=True)) == rows[:1]
    for other in ({"dpm": {"y-c4": (30.0, 0.8)}}, {"base": {"y-c4": (30.0, 0.8, 0.1)}}):
        different = [rows[0], {**rows[0], "scores": other}]
        with pytest.raises(ValueError, match="index 0 stands for two different images"):
            gather_scores(different, Accelerator(cpu=True))


def test_rows_without_an_index_are_refused() -> None:
    with pytest.raises(ValueError, match="a row of scores has no 'index'"):
        gather_scores([{"name": "baby"}], Accelerator(cpu=True))


def test_rows_of_two_images_with_one_index_are_refused() -> None:
    rows = [{"index": 3, "name": "baby"}, {"index": 3, "name": "bird"}]
    with pytest.raises(ValueError, match="index 3 stands for two different images"):
        gather_scores(rows, Accelerator(cpu=True))
