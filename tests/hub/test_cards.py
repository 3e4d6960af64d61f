"""Cards and licences: rendered from results, and true of every image behind the weights."""

from __future__ import annotations

import copy

import pytest
from huggingface_hub import ModelCard

from ucip_adapt.assets.check import SHIPPABLE_IMAGES
from ucip_adapt.hub.cards import (
    adapter_card,
    base_card,
    licence_id,
    score_table,
    training_images,
    weights_licence,
)
from ucip_adapt.models import UCIPConfig


def row(method, psnr_db, *, quality=10, dataset="Set5", protocol="y-c4", ssim=0.75):
    return {
        "method": method,
        "dataset": dataset,
        "codec": "webp",
        "quality": quality,
        "protocol": protocol,
        "psnr_db": psnr_db,
        "ssim": ssim,
        "images": 5,
    }


STAGE = {
    "train_data_dir": ["CID22", "embedded"],
    "settings": ["jpeg:10", "jpeg:40"],
    "max_train_steps": 2600,
    "train_batch_size": 8,
    "patch_size": 32,
    "learning_rate": 1e-3,
    "ema_decay": None,
    "seed": 0,
    "training_seconds": 5400.0,
    "hardware": "EPYC, 2 cores",
    "threads": 1,
}


@pytest.fixture
def record():
    """Results of an adapter, made on two processes with accumulation."""
    return {
        "kind": "tune_prompts",
        "command": "python recipes/tune_prompts.py --codec webp",
        "config": {
            "train_data_dir": ["embedded"],
            "pretrained_model_name_or_path": "ucip-tiny",
            "codec": "webp",
            "qualities": [10, 40],
            "trainable": "dpm",
            "trainable_blocks": "all",
            "peft_method": "prompts",
            "max_train_steps": 300,
            "train_batch_size": 4,
            "gradient_accumulation_steps": 3,
            "patch_size": 32,
            "learning_rate": 3e-2,
        },
        "environment": {"gpu": None, "cpu": "EPYC", "torch_threads": 2, "processes": 2},
        "seconds": {"training": 123.4},
        "parameters": {
            "total": 335_131,
            "trained": 1312,
            "base_fingerprint": "ab" * 32,
            "protocol": "iv",
            "adapter_bytes": 6_789,
        },
        "scores": {
            "rows": [
                *(row("bicubic", 25.0), row("base", 25.5), row("adapter", 25.75)),
                *(row("bicubic", 26.0, quality=40), row("base", 26.5, quality=40)),
                row("adapter", 26.25, quality=40),
                *(row(m, 1.0, protocol="rgb-c4") for m in ("bicubic", "base", "adapter")),
            ]
        },
    }


@pytest.fixture
def base_record(record):
    """Results of a second stage."""
    base = copy.deepcopy(record)
    base["kind"] = "pretrain_base"
    base["config"] |= {
        "train_data_dir": ["CID22", "embedded"],
        "settings": ["jpeg:10", "jpeg:40"],
        "pretrained_model_name_or_path": "runs/stage1",
    }
    base["parameters"] = {
        "total": 335_131,
        "fingerprint": "cd" * 32,
        "stages": [STAGE, {**STAGE, "seed": 1, "patch_size": 64, "crops_per_step": 2}],
    }
    base["scores"]["rows"] = [row("bicubic", 25.0), row("whole", 25.1), row("base", 25.4)]
    return base


# -- licences -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folders", "free"),
    [
        (["embedded"], True),
        (["CID22"], True),
        (["CID22", "embedded"], True),
        (["embedded", "BSDS500"], False),
        (["DF2K"], False),
        (["photos"], False),
        (["elsewhere/CID22"], False),  # any folder may have that name
        ([".../embedded"], False),
    ],
)
def test_the_licence_follows_the_images(record, folders, free):
    record["config"]["train_data_dir"] = folders
    text = weights_licence(record)
    card = ModelCard(adapter_card(record))
    if free:
        assert licence_id(record) == card.data.license == "cc-by-sa-4.0"
        assert "CC BY-SA 4.0" in text
        assert ("Cloudinary" in text) == ("CID22" in folders)
        assert ("GB82" in text) == ("embedded" in folders)
        assert "made from the base ucip-tiny-v3, whose licence and credits apply" in text
    else:
        assert licence_id(record) == card.data.license == "other"
        assert "CC BY-SA" not in text
        assert "settle the terms of the images before you pass them on" in text
        for name in set(folders) - {"embedded"}:
            assert name in text
    for name in folders:
        assert any(SHIPPABLE_IMAGES.get(name, name) in line for line in training_images(record))


def test_a_built_suite_is_no_known_set(record, base_record):
    """Without ``--train_data_dir`` a run records the default, which it did not read."""
    suite = {"train_data_dir": ["embedded"], "suite_dir": "runs/embedded"}
    record["config"] |= suite
    base_record["parameters"]["stages"] = [STAGE, {**STAGE, **suite}]
    cards = [adapter_card(record), base_card("b", UCIPConfig.preset("tiny"), base_record)]
    for one, card in zip((record, base_record), cards, strict=True):
        assert licence_id(one) == ModelCard(card).data.license == "other"
        assert "settle the terms" in weights_licence(one)
        assert "the images of the suite runs/embedded" in weights_licence(one)
        assert "\n- the images of the suite runs/embedded\n" in card
    assert "GB82" not in weights_licence(record) + cards[0]
    # The suite's build does not lend its name to anything: this is a folder of somebody's.
    record["config"] |= {"train_data_dir": ["suite"], "suite_dir": None}
    assert training_images(record) == ["images of the user's 'suite'"]


def test_the_terms_of_research_images_are_said(record):
    record["config"]["train_data_dir"] = ["BSDS500", "mine"]
    assert training_images(record) == [
        "BSDS500 (Arbelaez et al., TPAMI 2011), research terms",
        "images of the user's 'mine'",
    ]


def test_an_earlier_stage_is_not_forgotten(base_record):
    assert licence_id(base_record) == "cc-by-sa-4.0"
    base_record["parameters"]["stages"][0] = {**STAGE, "train_data_dir": ["DF2K"]}
    assert licence_id(base_record) == "other"
    assert "DF2K" in weights_licence(base_record)
    assert "images of the user's 'DF2K'" in training_images(base_record)
    assert "'DF2K'" in base_card("b", UCIPConfig.preset("tiny"), base_record)


def test_a_base_of_unknown_origin_frees_nothing(base_record):
    base_record["parameters"]["stages"] = [STAGE]
    assert licence_id(base_record) == "other"
    assert "whatever the base runs/stage1 was trained on" in weights_licence(base_record)
    base_record["config"]["pretrained_model_name_or_path"] = None
    assert licence_id(base_record) == "cc-by-sa-4.0"
    assert "made from" not in weights_licence(base_record)


# -- cards ----------------------------------------------------------------------------------------


def test_the_adapters_card(record):
    card = ModelCard(adapter_card(record))
    assert card.data.to_dict() == {
        "license": "cc-by-sa-4.0",
        "library_name": "peft",
        "base_model": "ucip-tiny-v3",
        "base_model_relation": "adapter",
        "pipeline_tag": "image-to-image",
        "tags": ["ucip", "compressed-image-super-resolution", "codec:webp", "adapter"],
        "metrics": ["psnr", "ssim"],
    }
    for words in (
        "ab" * 32,
        "webp: 10, 40",
        "replaces 1,312 of 335,131 parameters",
        "6,789 bytes",
        "row iv of Table 3",
        "300 of 24 crops of 32 x 32 LQ pixels, rate 0.03",
        "123 s of training steps on EPYC, 2 threads",
        "| Set5 | webp 10 | 25.00 / 0.750 | 25.50 / 0.750 | 25.75 / 0.750 | +0.25 |",
        "| Set5 | webp 40 | 26.00 / 0.750 | 26.50 / 0.750 | 26.25 / 0.750 | -0.25 |",
        'load_prompt_adapter("path/to/this/folder")\n',
    ):
        assert words in card.text
    assert "1.00 /" not in card.text, "the other protocol is not mixed in"


@pytest.mark.parametrize("name", ["runs/base/of/mine", "./base", ".../base"])
def test_a_base_that_is_a_folder_is_no_repository(record, name):
    """The Hub refuses a card whose ``base_model`` is not one."""
    record["config"]["pretrained_model_name_or_path"] = name
    card = ModelCard(adapter_card(record))
    assert "base_model" not in card.data.to_dict()
    assert 'this/folder", base=UCIP.from_pretrained("path/to/the/base"))' in card.text


@pytest.mark.parametrize("method", ["prompts", "lora"])
def test_a_folder_with_one_slash_is_no_repository(record, method):
    """``runs/latest``, where recipes write, could be one; the run knew better."""
    record["config"] |= {"peft_method": method, "pretrained_model_name_or_path": "runs/latest"}
    record["parameters"]["base_is_folder"] = True
    card = ModelCard(adapter_card(record))
    assert "base_model" not in card.data.to_dict()
    assert 'UCIP.from_pretrained("path/to/the/base")' in card.text
    assert "| base | `latest`, fingerprint" in card.text
    assert "runs/latest" not in card.text
    record["parameters"]["base_is_folder"] = False
    assert ModelCard(adapter_card(record)).data.base_model == "runs/latest"


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_the_card_of_another_method(record, method):
    record["config"]["peft_method"] = method
    text = adapter_card(record)
    assert "adds 1,312 parameters to 335,131" in text
    assert f"| trained | {method}, blocks all: 1,312 parameters |" in text
    assert f"PEFT's {method}, beside row iv of Table 3" in text
    assert 'PeftModel.from_pretrained(UCIP.from_pretrained("ucip-tiny-v3"), "path/' in text
    assert "load_prompt_adapter" not in text


def test_a_program_is_named_by_its_name(record):
    """The command and its folders are in the line of the command, and nowhere else."""
    text = "command:/opt/secret/myenc -q {q} {in} -o {out}"
    record["config"]["codec"] = text
    for one in record["scores"]["rows"]:
        one["codec"] = text
    card = ModelCard(adapter_card(record))
    assert "codec:myenc" in card.data.tags
    assert "# UCIP adapter for myenc\n" in card.text
    assert "| myenc: 10, 40 |" in card.text
    assert "| Set5 | myenc 10 |" in card.text
    assert "/opt/secret" not in str(card)


@pytest.mark.parametrize("method", ["prompts", "lora"])
def test_the_code_on_a_card_is_python(record, base_record, method):
    record["config"]["peft_method"] = method
    texts = [adapter_card(record), base_card("b", UCIPConfig.preset("tiny"), base_record)]
    for text in texts:
        code = text.split("```python\n")[1].split("```")[0]
        compile(code, "card", "exec")
        names = [line.split()[-1] for line in code.splitlines() if " import " in line]
        assert names


def test_the_bases_card(base_record):
    config = UCIPConfig.preset("tiny", window=48)
    card = ModelCard(base_card("ucip-tiny-v1", config, base_record))
    assert card.data.library_name == "ucip_adapt"
    assert card.data.license == "cc-by-sa-4.0"
    for words in (
        "# ucip-tiny-v1",
        "cd" * 32,
        "335,131",
        "jpeg:10, jpeg:40",
        "| started from | random weights |",
        "overlapping windows of 48 LQ pixels",
        "1. 2,600 steps of 8 crops of 32 x 32 LQ pixels, rate 0.001: 1.50 h on EPYC, 2 cores, 1 th",
        "1. 2,600 steps of 2 crops of 64 x 64",
        "recipes/pretrain_base.py",
        "| Set5 | webp 10 | 25.00 / 0.750 | 25.10 / 0.750 | 25.40 / 0.750 | +0.40 |",
        'UCIP.from_pretrained("ucip-tiny-v1")',
    ):
        assert words in card.text
    whole = base_card("b", UCIPConfig.preset("tiny"), base_record)
    assert "| applied to | whole images |" in whole


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("ucip-base", "path/to/this/folder"),
        ("runs/deep/base", "path/to/this/folder"),
        ("./base", "path/to/this/folder"),
        ("base/", "path/to/this/folder"),
        ("you/my-base", "you/my-base"),
        ("ucip-tiny-v3", "ucip-tiny-v3"),
    ],
)
def test_a_base_is_loaded_by_its_name_only_where_others_know_it(base_record, name, shown):
    text = base_card(name, UCIPConfig.preset("tiny"), base_record)
    assert f'network = UCIP.from_pretrained("{shown}")' in text


def test_a_way_of_applying_is_chosen_only_among_several(base_record):
    chosen = "on which the\nway of applying it was chosen"
    assert chosen not in base_card("b", UCIPConfig.preset("tiny"), base_record)
    base_record["scores"]["inference"] = {}
    text = base_card("b", UCIPConfig.preset("tiny"), base_record)
    assert "chosen" not in text
    assert 'images that were not trained on;\n"whole" is the whole image at once, "base"' in text
    base_record["scores"]["inference"] = {"whole": 25.1, "window 48": 25.4}
    text = base_card("b", UCIPConfig.preset("tiny"), base_record)
    assert f'{chosen}; "whole" is the whole image at once, "base" the way above.\n' in text


def test_a_table_without_a_cell_is_an_error(record):
    rows = [r for r in record["scores"]["rows"] if (r["method"], r["quality"]) != ("base", 40)]
    with pytest.raises(KeyError):
        score_table(rows, protocol="y-c4", reference="base")


def test_a_set_without_a_score_has_dashes():
    rows = [
        row(m, p, dataset=s) for s, p in (("A", 25.0), ("B", None)) for m in ("base", "adapter")
    ]
    lines = score_table(rows, protocol="y-c4", reference="base").splitlines()[2:]
    assert lines == [
        "| A | webp 10 | 25.00 / 0.750 | 25.00 / 0.750 | +0.00 |",
        "| B | webp 10 | - | - | - |",
    ]
