"""HM and VTM in the recipes: true streams where all images have one, a dash or an error else."""

from __future__ import annotations

import pytest

from ucip_adapt.codecs.reference import HM, VTM
from ucip_adapt.errors import CodecError, DataError

pytest.importorskip("av")


@pytest.fixture(autouse=True)
def _no_encoder(monkeypatch, tmp_path):
    for codec in (HM, VTM):
        monkeypatch.setenv(codec.variable, str(tmp_path / "no-encoder"))
    monkeypatch.delenv("UCIP_DATA", raising=False)


def test_evaluate_says_where_pictures_come_from_and_what_has_no_score(run, world, tmp_path):
    done = run(
        "evaluate",
        tmp_path / "out",
        codec="hm",
        qualities=(42,),
        evaluate_on=("GB82-val", str(world.validation)),
        max_images=1,
    )
    rows = {(r["dataset"], r["method"]): r for r in done.record["scores"]["rows"]}
    known = rows["GB82-val", "base"]
    assert (known["codec"], known["images"], known["source"]) == ("hm", 1, "streams HM 18.0")
    assert known["psnr_db"] > 15
    unknown = rows["validation", "base"]
    assert (unknown["psnr_db"], unknown["images"]) == (None, 0)
    assert unknown["source"].startswith("0 of 1 images have streams HM 18.0")
    lines = [line.split() for line in done.lines if line.startswith("validation")]
    assert lines
    assert all(words == ["validation", "hm", "42", "-", "-"] for words in lines)
    assert "hm on GB82-val: streams HM 18.0" in done.lines


def test_nothing_to_measure_is_an_error(run, tmp_path):
    with pytest.raises(CodecError, match=r"vtm: nothing could be measured: 0 of 2 images have"):
        run("evaluate", tmp_path / "out", codec="vtm", qualities=(32,))


def test_prompts_are_tuned_on_true_streams(run, tmp_path):
    flags = {"codec": "vtm", "qualities": (47,), "max_eval_images": 1}
    done = run(
        "tune_prompts",
        tmp_path / "out",
        train_data_dir=("embedded",),
        max_train_samples=2,
        validation_data_dir="GB82-val",
        evaluate_on=("GB82-val",),
        **flags,
    )
    assert "codec      vtm at 47 (streams VTM 23.13)" in done.lines
    assert {row["source"] for row in done.record["scores"]["rows"]} == {"streams VTM 23.13"}
    assert (done.folder / "adapter_model.safetensors").is_file()


def test_a_run_that_could_not_be_judged_does_not_start(run, world, tmp_path):
    shared = {"codec": "hm", "qualities": (47,), "train_data_dir": ("embedded",)}
    with pytest.raises(DataError, match=r"--validation_data_dir: validation at hm:47: 0 of 2"):
        run("tune_prompts", tmp_path / "out", **shared)
    with pytest.raises(DataError, match=r"--evaluate_on: validation at hm:47: 0 of 2 images"):
        run("tune_prompts", tmp_path / "out", validation_data_dir="GB82-val", **shared)
    with pytest.raises(CodecError, match=r"hm: no stored stream at QP 47 was made of this image"):
        run(
            "tune_prompts",
            tmp_path / "out",
            **{**shared, "train_data_dir": (str(world.train),)},
            validation_data_dir="GB82-val",
            evaluate_on=("GB82-val",),
        )
