"""What is published of a suite names no folder of the machine that built it."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from ucip_adapt.cli import main
from ucip_adapt.data import ArrayCache, Setting
from ucip_adapt.errors import ConfigError, DataError
from ucip_adapt.suites import fill_suite, load_suite
from ucip_adapt.suites.hub import files_to_push, push_suite
from ucip_adapt.suites.plan import BuildPlan
from ucip_adapt.suites.published import public, public_text
from ucip_adapt.suites.read import open_suite
from ucip_adapt.suites.records import Layout
from ucip_adapt.suites.shards import read_rows, write_shard

HIDDEN = "secret place"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("command:'/opt/my codec/enc' {in} {out}", "command:'.../enc' {in} {out}"),
        ('command:enc "-c=/a b/x y.cfg" {in} {out}', 'command:enc "-c=.../x y.cfg" {in} {out}'),
        ("command:enc -I/opt/a -d/{q}/m {in} {out}", "command:enc -I.../a -d.../m {in} {out}"),
        ("command:a/enc {in} {out} => /b/dec {in} {out}", "command:a/enc {in} {out} => .../dec"),
        ("folder:decoded/mine", "folder:decoded/mine"),
        ("folder:/mnt/decoded/", "folder:.../decoded"),
        ("/usr/bin/enc", ".../enc"),
        ("--model=/data/me/m_{q}.pt", "--model=.../m_{q}.pt"),
        ("1 (torch 2.9), https://a.b/c", "1 (torch 2.9), https://a.b/c"),
        ("bt601 full 4/2/0", "bt601 full 4/2/0"),
    ],
)
def test_paths_lose_their_folders_and_stay_so(name, said):
    assert public(name).startswith(said)
    assert public(public(name)) == public(name)
    assert public_text(public(name)) == public(name)


@pytest.fixture
def own(tmp_path):
    """A suite of a program and a folder that lie in a place that nobody is to know."""
    place = tmp_path / HIDDEN
    (place / "coded" / "3").mkdir(parents=True)
    encoder = place / "my encoder.py"
    encoder.write_text("import shutil, sys\nshutil.copy(sys.argv[1], sys.argv[2])\n")
    suite = tmp_path / "own.toml"
    command = f"command:{sys.executable} '{encoder}' {{in}} {{out}} {{q}}"
    suite.write_text(
        f'[[slots]]\nname = "mine"\ncodec = "{command}"\nqualities = [1, 10]\n'
        'stands_for = "theirs"\n'
        f'[[slots]]\nname = "coded"\ncodec = "folder:{place}/coded"\nqualities = [3]\n'
    )
    return suite


@pytest.fixture
def made(own, photos, tmp_path):
    """Its build, by the command line, and the words that made it."""
    from ucip_adapt.data import bicubic_down4, read_rgb
    from ucip_adapt.data.degrade import modcrop
    from ucip_adapt.data.images import save_png

    hr = tmp_path / "hr"
    hr.mkdir()
    for name in ("photo01.png", "photo02.png"):
        shutil.copy(photos / name, hr)
        small = np.ascontiguousarray(bicubic_down4(modcrop(read_rgb(hr / name))))
        save_png(own.parent / HIDDEN / "coded" / "3" / name, small)
    out = tmp_path / "out"
    words = ["build-suite", "--suite", own, "--hr", hr, "--out", out, "--workers", 0]
    words = [*map(str, words), "--allow-command", "--images-per-shard", "1"]
    assert main(words) == 0
    return out, words


def test_nothing_that_is_sent_names_a_folder(made, own, monkeypatch):
    out, words = made
    sent = [name for name, _ in files_to_push(open_suite(out))]
    assert len(sent) == 2 + 6
    for name in sent:
        data = (out / name).read_bytes()
        for secret in (HIDDEN, str(out.parent), str(Path(sys.executable).parent)):
            assert secret.encode() not in data, name
    manifest = json.loads((out / "suite.json").read_text())
    program = f"command:.../{Path(sys.executable).name} '.../my encoder.py' {{in}} {{out}} {{q}}"
    assert [setting["codec"] for setting in manifest["settings"]] == [
        *[program] * 2,
        "folder:.../coded",
    ]
    assert f"| mine | {program} | 1 10 |" in (out / "README.md").read_text()
    [row] = read_rows(Layout(out).shard("mine-10/00001"))
    assert row["codec"] == program
    assert json.loads(row["encoder"])["options"]["encoder"][1] == ".../my encoder.py"
    # The plan on this machine still tells one program from another of the same name.
    assert main(words) == 0
    own.write_text(own.read_text().replace("{q}", "{q} more"))
    assert main(words) == 2


def test_such_a_build_is_trained_on_here_and_elsewhere(made, own, tmp_path):
    out, words = made
    cache = ArrayCache(tmp_path / "cache")
    here = fill_suite(load_suite(own, allow_command=True), allow_command=True).settings
    built = open_suite(out)
    assert built.settings == here
    images = built.images(built.settings, cache)
    assert [image.name for image in images] == ["photo01", "photo02"]
    assert list(images[0].lq) == here
    # A missing shard is made again, with the same bytes.
    shard = Layout(out).shard("mine-10/00001")
    before = shard.read_bytes()
    shard.unlink()
    assert main(words) == 0
    assert shard.read_bytes() == before
    # Without its plan, as it comes from the Hub.
    shutil.rmtree(out / ".build")
    there = open_suite(out)
    assert there.settings == [Setting(public(s.codec), s.quality) for s in here]
    for asked in (there.settings, here):
        again = there.images(asked, cache, hr_folder=tmp_path / "hr")
        assert list(again[1].lq) == asked
    with pytest.raises(ConfigError, match=r"has no folder:/else:3; it has command:\.\.\./"):
        there.images([Setting("folder:/else", 3)], cache)


def test_what_went_wrong_names_no_folder_either(own, photos, tmp_path):
    own.write_text(own.read_text().replace("[1, 10]", "[1, 10, 2]"))
    encoder = tmp_path / HIDDEN / "my encoder.py"
    encoder.write_text(
        "import shutil, sys\n"
        "from PIL import Image\n"
        "wide = Image.open(sys.argv[1]).width > 20\n"
        "if wide and sys.argv[3] == '2': sys.exit(f'cannot read {sys.argv[0]} of /data/me')\n"
        "shutil.copy(sys.argv[1], sys.argv[2])\n"
    )
    text = own.read_text()
    own.write_text(text[: text.rindex("[[slots]]")])
    out = tmp_path / "out"
    words = ["build-suite", "--suite", own, "--hr", photos, "--out", out, "--workers", 0]
    assert main([*map(str, words), "--allow-command"]) == 0
    [entry, *_] = json.loads((out / "suite.json").read_text())["quarantined"]
    assert entry["setting"].startswith("command:.../")
    assert "of .../me" in entry["error"]
    assert str(tmp_path) not in (out / "suite.json").read_text()


def test_two_programs_of_one_name_are_refused(tmp_path, photos):
    slots = []
    for name in ("a", "b"):
        (tmp_path / name / "coded" / "3").mkdir(parents=True)
        shutil.copy(photos / "photo01.png", tmp_path / name / "coded" / "3")
        codec = f"folder:{tmp_path}/{name}/coded"
        slots.append(f'[[slots]]\nname = "{name}"\ncodec = "{codec}"\nqualities = [3]\n')
    (tmp_path / "own.toml").write_text("".join(slots))
    filled = fill_suite(load_suite(tmp_path / "own.toml", allow_command=True), allow_command=True)
    with pytest.raises(ConfigError, match=r"slots a and b both come to folder:\.\.\./coded:3: a s"):
        BuildPlan.make(filled, ["photo01.png"])


def test_shards_of_an_earlier_version_are_not_sent(made, tmp_path):
    out, _ = made
    path = Layout(out).shard("coded-3/00001")
    rows = [{**row, "codec": f"folder:{tmp_path}/coded"} for row in read_rows(path)]
    write_shard(path, iter(rows), temporary=tmp_path / "unfinished", hr=False)
    with pytest.raises(DataError, match=r"coded-3/00001.* names folders .* anew into an empty fol"):
        push_suite(open_suite(out), "me/own")
