"""``evaluate.py``: the same scores as the run that made an adapter, under names one can tell."""

from __future__ import annotations

import itertools
import json
import shutil
import time
from datetime import timedelta
from pathlib import Path

import pytest
from torch.distributed import distributed_c10d

from ucip_adapt import evaluation
from ucip_adapt.errors import AdapterError, BaseMismatchError, ConfigError, DataError
from ucip_adapt.models import UCIP
from ucip_adapt.training.results import TOP_LEVEL_KEYS


@pytest.fixture(scope="module")
def tuned(run, tmp_path_factory):
    """Results to compare: a prompt adapter, a LoRA and a whole network of the same base."""
    folder = tmp_path_factory.mktemp("tuned")
    return {
        "prompts": run("tune_prompts", folder / "prompts"),
        "lora": run("tune_prompts", folder / "lora", trainable="dpm+offset", peft_method="lora"),
        "full": run("tune_full", folder / "full"),
    }


def cells(done, method, protocol=None):
    """Scores of one method without its name."""
    return [
        {key: value for key, value in row.items() if key != "method"}
        for row in done.record["scores"]["rows"]
        if row["method"] == method and protocol in (None, row["protocol"])
    ]


def methods(done):
    return list(dict.fromkeys(row["method"] for row in done.record["scores"]["rows"]))


def test_the_base_alone(run, tuned, tmp_path):
    done = run("evaluate", tmp_path / "out", protocol="i")
    assert methods(done) == ["bicubic", "base"]
    for method in methods(done):
        assert cells(done, method) == cells(tuned["prompts"], method)
        assert len(cells(done, method)) == 2, "one quality under two protocols"
    record = json.loads(done.bytes("results.json"))
    assert tuple(record) == TOP_LEVEL_KEYS
    assert record["kind"] == "evaluate"
    assert record["scores"]["rows"] == done.record["scores"]["rows"]
    assert done.lines[-1] == f"wrote {tmp_path / 'out' / 'results.json'}"
    table = "\n".join(done.lines)
    assert "PSNR in dB, protocol y-c4, gain over bicubic in brackets" in table
    assert "PSNR in dB, protocol rgb-c4, gain over bicubic in brackets" in table
    for row in done.record["scores"]["rows"]:
        assert f"{row['psnr_db']:.3f}" in table


def test_processes_wait_for_the_one_with_the_slow_images(
    run, on_two_processes, tmp_path, monkeypatch
):
    """torch would end the run after its default time, and all scores would be lost."""
    monkeypatch.setattr(distributed_c10d, "default_pg_timeout", timedelta(seconds=1))
    score = evaluation._score_image

    def slow(methods, image, lq, protocols):
        time.sleep(3 if image.name == "nyc" else 0)
        return score(methods, image, lq, protocols)

    monkeypatch.setattr(evaluation, "_score_image", slow)
    options = {"baselines": "bicubic", "qualities": (10,)}
    two = run.options("evaluate", tmp_path / "two", **options)
    on_two_processes(run.recipes("evaluate").main, two)
    record = json.loads((tmp_path / "two" / "results.json").read_bytes())
    assert record["environment"]["processes"] == 2
    one = run("evaluate", tmp_path / "one", **options)
    assert record["scores"]["rows"] == one.record["scores"]["rows"]


class Killed(BaseException):
    """As by a signal: nothing handles it."""


@pytest.fixture
def scored(monkeypatch):
    """Names of the images that were scored."""
    score = evaluation._score_image
    names = []

    def note(methods, image, lq, protocols):
        scores = score(methods, image, lq, protocols)
        names.append(image.name)
        return scores

    monkeypatch.setattr(evaluation, "_score_image", note)
    return names


def stopped(run, folder, monkeypatch, *, after, **options):
    """A run that ends as soon as so many images have been scored; what it left of a line, too."""
    score, count = evaluation._score_image, itertools.count()

    def until(*arguments):
        if next(count) == after:
            raise Killed
        return score(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "_score_image", until)
        with pytest.raises(Killed):
            run("evaluate", folder, **options)
    (left,) = folder.iterdir()
    assert left.match("scores-*-0.jsonl")
    with left.open("a") as file:
        file.write('\n["half')


def test_a_stopped_run_goes_on(run, scored, tmp_path, monkeypatch):
    options = {"qualities": (10, 20), "window": "both", "per_image": True}
    whole = run("evaluate", tmp_path / "whole", **options)
    assert scored == ["girl", "girl", "nyc", "nyc"]
    assert whole.record["parameters"]["scored_before_a_stop"] == 0
    scored.clear()
    stopped(run, tmp_path / "out", monkeypatch, after=3, **options)
    scored.clear()
    done = run("evaluate", tmp_path / "out", **options)
    assert scored == ["nyc"]
    assert "a run that was stopped has left scores of 3 images here" in done.lines
    assert done.record["parameters"]["scored_before_a_stop"] == 3
    assert done.record["scores"] == whole.record["scores"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["results.json"]
    assert not any("was stopped" in line for line in whole.lines)
    scored.clear()
    run("evaluate", tmp_path / "out", **options)
    assert len(scored) == 4, "what is finished is measured anew"


def test_what_one_process_has_scored_two_go_on_with(
    run, scored, on_two_processes, tmp_path, monkeypatch
):
    options = {"qualities": (10, 20), "per_image": True}
    whole = run("evaluate", tmp_path / "whole", **options)
    stopped(run, tmp_path / "out", monkeypatch, after=3, **options)
    monkeypatch.setattr(recipe := run.recipes("evaluate"), "say", lambda *_: None)
    on_two_processes(recipe.main, run.options("evaluate", tmp_path / "out", **options))
    record = json.loads((tmp_path / "out" / "results.json").read_bytes())
    assert record["environment"]["processes"] == 2
    assert record["parameters"]["scored_before_a_stop"] == 3
    assert record["scores"] == whole.record["scores"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["results.json"]


def test_scores_of_anything_else_are_not_taken_over(run, world, scored, tmp_path, monkeypatch):
    for name, changes in {
        "weights": {"pretrained_model_name_or_path": str(world.bases["other"])},
        "window": {"window": "whole"},
        "ensemble": {"self_ensemble": True},
        "protocol": {"metric_protocols": ("y-c4",)},
        "quality": {"qualities": (20,)},
    }.items():
        stopped(run, tmp_path / name, monkeypatch, after=1)
        scored.clear()
        done = run("evaluate", tmp_path / name, **changes)
        assert scored == ["girl", "nyc"], name
        assert done.record["parameters"]["scored_before_a_stop"] == 0


def test_scores_of_other_code_are_not_taken_over(run, scored, tmp_path, monkeypatch):
    recipe = run.recipes("evaluate")
    package = tmp_path / "package" / "deeper"
    package.mkdir(parents=True)
    (package / "metric.py").write_text("border = 4")
    digests = [recipe.digest_of_code(package.parent, Path(recipe.__file__))]
    (package / "metric.py").write_text("border = 5")
    digests.append(recipe.digest_of_code(package.parent, Path(recipe.__file__)))
    digests.append(recipe.digest_of_code(package.parent, package / "metric.py"))
    assert len(set(digests)) == 3
    monkeypatch.setattr(recipe, "digest_of_code", lambda *_: digests[0])
    stopped(run, tmp_path / "out", monkeypatch, after=1)
    scored.clear()
    monkeypatch.setattr(recipe, "digest_of_code", lambda *_: digests[1])
    run("evaluate", tmp_path / "out")
    assert scored == ["girl", "nyc"]


def test_an_adapter_scaled_otherwise_is_another_network(run, tuned):
    recipe = run.recipes("evaluate")
    base = run.options("evaluate", tuned["lora"].folder).pretrained_model_name_or_path
    model = recipe.load_adapter(UCIP.from_pretrained(base), str(tuned["lora"].folder))
    before = recipe.identity_of(model)
    assert recipe.identity_of(model) == before
    for module in model.modules():
        if hasattr(module, "lora_B"):
            module.scaling["default"] *= 2
    assert recipe.identity_of(model) != before


def test_one_adapter(run, tuned, tmp_path):
    done = run("evaluate", tmp_path / "out", adapter=(str(tuned["prompts"].folder),))
    assert methods(done) == ["bicubic", "base", "adapter"]
    for method in methods(done):
        assert cells(done, method) == cells(tuned["prompts"], method)


def test_several_are_told_apart_and_do_not_touch_each_other(run, tuned, tmp_path):
    done = run(
        "evaluate",
        tmp_path / "out",
        adapter=(
            f"dpm={tuned['prompts'].folder}",
            str(tuned["lora"].folder),
            f"everything={tuned['full'].folder}",
        ),
    )
    assert methods(done) == ["bicubic", "base", "dpm", "lora", "everything"]
    assert cells(done, "base") == cells(tuned["prompts"], "base")
    assert cells(done, "dpm") == cells(tuned["prompts"], "adapter")
    assert cells(done, "lora") == cells(tuned["lora"], "adapter")
    assert cells(done, "everything") == cells(tuned["full"], "full")


def test_a_folder_may_have_an_equals_sign_in_its_name(run, tuned, tmp_path):
    folder = tmp_path / "lr=0.03" / "webp"
    shutil.copytree(tuned["prompts"].folder, folder)
    done = run("evaluate", tmp_path / "out", adapter=(str(folder), f"mine={folder}"))
    assert methods(done) == ["bicubic", "base", "webp", "mine"]
    assert cells(done, "webp") == cells(done, "mine") == cells(tuned["prompts"], "adapter")


def test_whole_images_beside_windows(run, world, tmp_path):
    base = UCIP.from_pretrained(world.bases["prompted"])
    base.config = base.config.replace(window=12)
    base.save_pretrained(tmp_path / "windowed")
    name = str(tmp_path / "windowed")
    both = run("evaluate", tmp_path / "both", pretrained_model_name_or_path=name, window="both")
    assert methods(both) == ["bicubic", "base whole", "base"]
    whole = run("evaluate", tmp_path / "whole", pretrained_model_name_or_path=name, window="whole")
    same = run("evaluate", tmp_path / "same", window="12")
    assert cells(both, "base whole") == cells(whole, "base")
    assert cells(both, "base") == cells(same, "base")
    assert cells(both, "base") != cells(both, "base whole")


def test_self_ensemble_beside_each_network(run, world, tmp_path):
    done = run("evaluate", tmp_path / "out", self_ensemble=True, window="both")
    ways = ["base whole", "base whole ensemble", "base", "base ensemble"]
    assert methods(done) == ["bicubic", *ways]
    plain = run("evaluate", tmp_path / "plain", window="both")
    for way in ways[::2]:
        assert cells(done, way) == cells(plain, way)
        assert cells(done, f"{way} ensemble") != cells(plain, way)


@pytest.mark.parametrize(
    ("taken", "option"),
    [("base ensemble", {"self_ensemble": True}), ("base whole", {"window": "both"})],
)
def test_a_column_is_not_replaced_by_one_of_its_name(run, tuned, tmp_path, taken, option):
    adapter = (f"{taken}={tuned['prompts'].folder}",)
    with pytest.raises(ConfigError, match=f"two columns would be called '{taken}'"):
        run("evaluate", tmp_path / "out", adapter=adapter, **option)


def test_protocols_images_and_sets_are_chosen(run, world, tmp_path):
    done = run(
        "evaluate",
        tmp_path / "out",
        metric_protocols=("y-c0",),
        max_images=1,
        evaluate_on=(str(world.validation), str(world.train)),
        codec="jpeg",
        qualities=(10, 40),
    )
    rows = done.record["scores"]["rows"]
    assert {(row["protocol"], row["images"], row["codec"]) for row in rows} == {("y-c0", 1, "jpeg")}
    assert {(row["dataset"], row["quality"]) for row in rows} == {
        *(("validation", 10), ("validation", 40), ("train", 10), ("train", 40))
    }


def test_a_suite_is_measured_in_one_go(run, world, tmp_path):
    """Slot by slot it gives what the codecs give alone; true streams are read where they are."""
    pytest.importorskip("av")
    suite = tmp_path / "two.toml"
    suite.write_text(
        '[[slots]]\nname = "web"\ncodec = "jpeg"\nqualities = [10, 40]\n'
        '[[slots]]\ncodec = "hm"\nqualities = [42]\n',
        encoding="utf-8",
    )
    options = {"evaluate_on": ("GB82-val",), "max_images": 1, "metric_protocols": ("y-c4",)}
    twin = f"noprompt={world.bases['prompt-free']}"
    done = run(
        "evaluate",
        tmp_path / "out",
        suite=str(suite),
        qualities=(),
        adapter=(twin,),
        window="both",
        **options,
    )
    rows = done.record["scores"]["rows"]
    settings = [("jpeg", 10), ("jpeg", 40), ("hm", 42)]
    names = ["bicubic", "base whole", "base", "noprompt whole", "noprompt"]
    assert [(r["method"], r["codec"], r["quality"]) for r in rows] == [
        (name, *setting) for name in names for setting in settings
    ]
    assert {r["source"] for r in rows if r["codec"] == "hm"} == {"streams HM 18.0"}
    for codec, qualities in (("jpeg", (10, 40)), ("hm", (42,))):
        alone = run("evaluate", tmp_path / codec, codec=codec, qualities=qualities, **options)
        for method in ("bicubic", "base"):
            assert cells(alone, method) == [r for r in cells(done, method) if r["codec"] == codec]
    slots = done.record["parameters"]["slots"]
    assert [(slot["name"], slot["codec"]) for slot in slots] == [("web", "jpeg"), ("hm", "hm")]


def test_shipped_names_are_compared(recipes, world):
    """``--adapter noprompt=ucip-tiny-noprompt``: a base by its name, not a path."""
    models = recipes("evaluate").read_models(
        ("noprompt=ucip-tiny-noprompt",), str(world.bases["prompted"]), None
    )
    assert list(models) == ["noprompt"]
    shipped = UCIP.from_pretrained("ucip-tiny-noprompt")
    assert models["noprompt"].fingerprint == shipped.fingerprint


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"suite": "webp", "codec": "webp"},
            ConfigError,
            "--suite webp and --codec webp: a suite brings its own, give one",
        ),
        ({"suite": "webp"}, ConfigError, "--suite webp and --qualities: a suite brings its own"),
        ({"suite": "none", "qualities": ()}, ConfigError, "unknown suite .*'none'"),
        ({"codec": "vvc"}, ConfigError, "unknown codec 'vvc'"),
        ({"qualities": (500,)}, ConfigError, "webp takes quality 0 to 100, not 500"),
        ({"metric_protocols": ("y",)}, ConfigError, "unknown .*protocol 'y'"),
        ({"window": "7"}, ConfigError, "--window 7: give config, whole, both, or a number from 8"),
        ({"evaluate_on": ("nowhere",)}, DataError, "no folder 'nowhere'"),
        ({"adapter": ("./nowhere",)}, AdapterError, r"cannot load --adapter \./nowhere: "),
    ],
)
def test_bad_options(run, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        run("evaluate", tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_row_i_wants_a_prompted_base(run, world, tmp_path):
    name = str(world.bases["prompt-free"])
    with pytest.raises(ConfigError, match=r"protocol i wants a prompted base, .* is prompt-free"):
        run("evaluate", tmp_path / "out", protocol="i", pretrained_model_name_or_path=name)
    done = run("evaluate", tmp_path / "out", pretrained_model_name_or_path=name)
    assert methods(done) == ["bicubic", "base"]


def test_an_output_folder_that_cannot_be_made_is_known_at_once(run, recipes, tmp_path, monkeypatch):
    monkeypatch.setattr(recipes("evaluate"), "evaluate_sets", None)
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(DataError, match="cannot make --output_dir"):
        run("evaluate", tmp_path / "file")


def test_names_must_differ(run, tuned, tmp_path):
    path = str(tuned["prompts"].folder)
    for adapter in ((f"a={path}", f"a={path}"), (f"base={path}",), (path, path)):
        with pytest.raises(ConfigError, match=r"the name '\w+' is taken; write NAME=PATH"):
            run("evaluate", tmp_path / "out", adapter=adapter)


def test_an_adapter_of_another_base_is_refused(run, world, tuned, tmp_path):
    with pytest.raises(BaseMismatchError, match="the adapter was made for base"):
        run(
            "evaluate",
            tmp_path / "out",
            adapter=(str(tuned["prompts"].folder),),
            pretrained_model_name_or_path=str(world.bases["other"]),
        )
