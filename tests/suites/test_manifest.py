"""A damaged ``suite.json`` is an error that says what is wrong, for whoever reads it."""

from __future__ import annotations

import copy
import json
import shutil

import pytest

from ucip_adapt.cli import main
from ucip_adapt.data import ArrayCache
from ucip_adapt.errors import DataError
from ucip_adapt.suites.manifest import find_damage
from ucip_adapt.suites.read import BuiltSuite, open_suite

GONE = object()
DAMAGE = [
    (("shards",), None, "shards is None, not a list"),
    (("shards",), "abc", "shards is 'abc', not a list"),
    (("shards", 0), 5, r"shards\[0\] is 5, not an object"),
    (("shards", 0, "sha256"), GONE, r"shards\[0\] lacks sha256"),
    (("shards", 0, "sha256"), "f00", "shard jpeg-10/00000: sha256 is 'f00'"),
    (("shards", 7), GONE, "it has 29 shards; 6 settings of 5 blocks are 30"),
    (("shards", 7, "name"), "../../00000", "its shards lack jpeg-20/00002"),
    (("settings",), [], "settings are not the 6 of its slots"),
    (("settings", 2), GONE, "settings are not the 6 of its slots"),
    (("settings", 0, "codec"), GONE, r"settings\[0\] lacks codec"),
    (("settings", 0, "codec"), "heic", "settings are not the 6 of its slots"),
    (("settings", 0, "quality"), "10", r"settings\[0\]\.quality is '10', not a whole number"),
    (("settings", 0, "quality"), True, r"settings\[0\]\.quality is True, not a whole number"),
    (("settings", 0, "folder"), "jpeg-20", "settings are not the 6 of its slots"),
    (("slots",), [], "slots is empty"),
    (("slots", 0, "name"), "other", "settings are not the 6 of its slots"),
    (("slots", 0, "name"), "../up", "slots: '../up' is no name of a slot"),
    (("slots", 0, "qualities"), 3, "slot jpeg has no list of qualities"),
    (("slots", 0, "qualities", 1), "20", "a quality of slot jpeg is '20', not a whole number"),
    (("num_images",), "many", "num_images is 'many', not a whole number"),
    (("num_images",), 10**30, "it has 30 shards; 6 settings of"),
    (("images_per_shard",), 0, "images_per_shard is 0, not at least 1"),
    (("hr_mode",), "both", "hr_mode is 'both', neither 'reference' nor 'bytes'"),
    (("quarantined",), [[]], r"quarantined\[0\] is \[\], not an object"),
    (("versions",), GONE, "it lacks versions"),
]


def damaged(manifest, place, value):
    manifest = copy.deepcopy(manifest)
    *above, last = place
    inner = manifest
    for key in above:
        inner = inner[key]
    if value is GONE:
        del inner[last]
    else:
        inner[last] = value
    return manifest


@pytest.mark.parametrize(("place", "value", "message"), DAMAGE)
def test_damage_is_named(reference, tmp_path, place, value, message):
    manifest = json.loads((reference / "suite.json").read_text())
    (tmp_path / "suite.json").write_text(json.dumps(damaged(manifest, place, value)))
    with pytest.raises(DataError, match=rf"suite\.json is damaged: {message}.*writes it again"):
        open_suite(tmp_path)


def test_a_whole_one_passes_and_verify_looks_too(reference, build, tmp_path, capsys):
    manifest = json.loads((reference / "suite.json").read_text())
    assert find_damage(manifest) == ""
    out = tmp_path / "out"
    shutil.copytree(reference, out)
    (out / "suite.json").write_text(json.dumps({**manifest, "settings": []}))
    assert main(["build-suite", "--out", str(out), "--verify"]) == 2
    assert "suite.json is damaged: settings are not" in capsys.readouterr().err
    (out / "suite.json").write_text("[" * 100_000)
    assert main(["build-suite", "--out", str(out), "--verify"]) == 2
    assert "suite.json is damaged" in capsys.readouterr().err
    assert build(out).made == 0  # which writes it again, as the error says
    assert json.loads((out / "suite.json").read_text()) == manifest


def test_the_order_of_the_shards_does_not_matter(reference, tmp_path):
    built = open_suite(reference)
    manifest = {**built.manifest, "shards": built.manifest["shards"][::-1]}
    turned = BuiltSuite(reference, manifest)
    one, two = (
        suite.images(built.settings, ArrayCache(tmp_path / str(number)))
        for number, suite in enumerate((built, turned))
    )
    assert [image.name for image in one] == [image.name for image in two]
    for a, b in zip(one, two, strict=True):
        assert all((a.lq[setting][:] == b.lq[setting][:]).all() for setting in a.lq)


def test_shards_of_another_suite_are_not_trained_on(reference, tmp_path):
    out, cache = tmp_path / "out", ArrayCache(tmp_path / "cache")
    shutil.copytree(reference, out)
    text = (out / "suite.json").read_text()
    (out / "suite.json").write_text(text.replace('"hr_mode": "reference"', '"hr_mode": "bytes"'))
    built = open_suite(out)
    with pytest.raises(DataError, match=r"00000\.parquet has no column hr, .* to other shards"):
        built.images(built.settings, cache)
    manifest = json.loads(text)
    manifest["slots"][1]["codec"] = "avif"
    for setting in manifest["settings"][4:]:
        setting["codec"] = "avif"
    (out / "suite.json").write_text(json.dumps(manifest))
    built = open_suite(out)
    with pytest.raises(DataError, match=r"holds webp:10, but suite\.json says avif:10"):
        built.images(built.settings, cache)
