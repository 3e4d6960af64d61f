"""Names of files that are easily got wrong (R22)."""

from __future__ import annotations

import json

import torch
from PIL import Image

from ucip_adapt.cli import main
from ucip_adapt.models import UCIP, UCIPConfig


def test_names_that_steer_shells_patterns_and_options(tmp_path, monkeypatch, capsys):
    torch.manual_seed(0)
    UCIP(UCIPConfig.preset("nano")).save_pretrained(tmp_path / "nano")
    pictures = tmp_path / "in"
    pictures.mkdir()
    names = ["a b.png", "[x].png", "*.png", "$HOME;ls.png", "ünï-漢.png", "A.PNG", "two.dots.png"]
    longest = "l" * 251 + ".png"  # its result's name is longer than a file system allows
    for name in [*names, longest]:
        Image.new("RGB", (9, 8)).save(pictures / name, "PNG")
    (pictures / ".hidden.png").write_bytes(b"")
    (pictures / "words.txt").write_text("no picture")
    monkeypatch.chdir(pictures)
    options = ["--base", str(tmp_path / "nano"), "--adapter=none", "--json"]
    assert main(["upscale", ".", "-o", "../out", *options]) == 3
    outcomes = {o["input"]: o for o in map(json.loads, capsys.readouterr().out.splitlines())}
    assert set(outcomes) == {*names, longest}
    assert [name for name, outcome in outcomes.items() if outcome["error"]] == [longest]
    assert "name too long" in outcomes[longest]["error"]
    found = {path.name for path in (tmp_path / "out").iterdir()}
    assert found == {f"{name.rsplit('.', 1)[0]}_x4.png" for name in names}
    # A file of that very name is taken as such, before anybody looks for a pattern.
    assert main(["upscale", "[x].png", "-o", "../one", *options]) == 0
    assert main(["upscale", "-o", "../dash", *options, "--", "-x.png"]) == 2
    assert "no file or folder '-x.png'" in capsys.readouterr().err
