"""``ucip-adapt report``: every number from a file and told where from, whatever the files hold."""

from __future__ import annotations

import base64
import copy
import hashlib
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import synthetic_cells as synthetic
from PIL import Image

import ucip_adapt
from ucip_adapt.cli import main
from ucip_adapt.codecs import get_codec
from ucip_adapt.data import EvalSet, load_eval_set
from ucip_adapt.data.benchmarks import EvalImage
from ucip_adapt.errors import ConfigError, DataError
from ucip_adapt.hub.pictures import busiest_crop
from ucip_adapt.report import build_report
from ucip_adapt.report.page import KINDS
from ucip_adapt.report.pictures import read_pictures

HOSTILE = (
    "</style><script>alert(1)</script>\"' onload=x <img src=//a.example/b> &amp; \x00\x1b **b**"
)


class Page(HTMLParser):
    """A page taken apart: its elements, texts and table cells; unbalanced tags are an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs), "an attribute is there twice"
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if self.rows and ("td" in self.open or "th" in self.open):
            self.rows[-1][-1] += data

    def row(self, *start: str) -> list[str]:
        """The only row that begins like this."""
        [found] = [row for row in self.rows if row[: len(start)] == list(start)]
        return found

    def titles(self) -> list[str]:
        return [str(found["title"]) for _, found in self.elements if "title" in found]


def make(folder, out=None, **options):
    report = build_report(folder, out or folder.parent / "report.html", **options)
    return Page(report.path.read_text(encoding="utf-8")), report


def check_closed(page: Page) -> None:
    """It loads nothing and runs nothing, and its links stay inside."""
    ids = [found["id"] for _, found in page.elements if "id" in found]
    assert len(ids) == len(set(ids))
    allowed = {
        *(
            "html",
            "head",
            "meta",
            "title",
            "style",
            "body",
            "main",
            "nav",
            "section",
            "div",
            "span",
        ),
        *("h1", "h2", "h3", "h4", "p", "ul", "li", "a", "b", "code", "details", "summary"),
        *("table", "thead", "tbody", "tr", "th", "td", "figure", "figcaption", "img"),
        *("svg", "g", "line", "text", "polyline", "circle", "rect", "path"),
    }
    for tag, found in page.elements:
        assert tag in allowed
        assert not [key for key in found if key.startswith("on")]
        for key in ("src", "href", "xlink:href", "style", "action"):
            value = found.get(key)
            assert value is None or value.startswith("data:image/webp;base64,") or value[1:] in ids
    style = page.words[page.words.index(next(w for w in page.words if ":root" in w))]
    assert "url(" not in style
    assert "@import" not in style


def test_a_page_of_every_kind_is_closed_and_complete(results):
    page, report = make(results)
    check_closed(page)
    assert report.problems == ()
    assert report.num_bytes == report.path.stat().st_size
    again, _ = make(results, results.parent / "again.html")
    assert again.elements == page.elements


def test_gains_by_codec_are_those_of_the_file(results):
    page, _ = make(results)
    assert page.row("jpeg", f"{(0.25 + 0.5 + 0.125) / 3:+.3f}")[2] == f"{(0.5 + 1 + 0.25) / 3:+.3f}"
    assert page.row("vtm")[1:3] == ["+0.062", "+0.125"]
    means = [((0.875 / 3) + 0.0625) / 2, ((1.75 / 3) + 0.125) / 2]
    assert page.row("mean of codecs")[1:3] == [f"{mean:+.3f}" for mean in means]
    assert page.row("Set14", "vtm 37")[2:] == ["y-c4", "-", "-", "-"]
    assert page.row("dpm@CID22")[1:8] == [
        *("6,488", "1,312", "0.03", "0.91", "+0.125", "+0.125", "+0.125")
    ]


@pytest.mark.parametrize("name", ["base", "ways"])
def test_a_plot_names_the_protocol_of_its_scores(results, name):
    axis = "gain over bicubic, dB (%s)" if name == "base" else "gain over the base, dB (%s)"
    path = results / f"{name}.json"
    assert axis % "y-c4" in make(results)[0].words
    text = path.read_text(encoding="utf-8").replace('"y-c4"', '"rgb-c4"')
    path.write_text(text, encoding="utf-8")
    page, report = make(results)
    assert report.problems == ()
    assert axis % "rgb-c4" in page.words
    assert axis % "y-c4" not in page.words


def test_every_number_of_a_line_says_where_it_is_from(results):
    page, _ = make(results)
    wanted = (
        "base.json: python make_base.py; commit abcdef012345+dirty; AMD EPYC, 2 cores, 1 threads"
    )
    assert wanted in page.titles()
    number = page.row("vtm")[-1]
    assert page.row(number, "base.json")[2:6] == [
        *("evaluate", "python make_base.py", "abcdef012345+dirty", "AMD EPYC, 2 cores, 1 threads")
    ]
    details = "".join(page.words)
    assert "python make_rd.py; commit abcdef012345+dirty; AMD EPYC" in details


def leaves(value, path=()):
    """Paths to all numbers inside."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, one in items:
        if isinstance(one, dict | list):
            yield from leaves(one, (*path, key))
        elif isinstance(one, int | float):
            yield (*path, key)


def changed(record, path, value):
    record = copy.deepcopy(record)
    inner = record
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return record


def test_each_number_of_each_file_is_on_the_page(results):
    """Change one, and the page changes: nothing is computed past the files."""
    count = 0
    for path in sorted(results.iterdir()):
        alone = results.parent / path.stem / path.name
        alone.parent.mkdir()
        record = json.loads(path.read_text(encoding="utf-8"))

        def shown(scores, alone=alone, record=record):
            alone.write_text(json.dumps({**record, "scores": scores}), encoding="utf-8")
            page, report = make(alone.parent)
            assert report.problems == ()
            digest = hashlib.sha256(alone.read_bytes()).hexdigest()[:12]
            return [word for word in page.words if word != digest], page.elements

        plain = shown(record["scores"])
        for place in leaves(record["scores"]):
            if place[-1] == "images" or (place[-1] == "ssim" and path.stem in ("rd", "one")):
                continue  # numbers of images, and the SSIM of curves and of single runs
            assert shown(changed(record["scores"], place, 17.125)) != plain, (path.name, place)
            count += 1
    assert count > 60


def test_the_tables_of_the_ledger(ledger):
    page, report = make(ledger)
    check_closed(page)
    assert report.problems == ()
    # iv is i + 0.22 + seed / 1000, by construction.
    assert page.row("iv - i")[1].startswith("+0.22")
    assert page.row("iv - i")[2] == "+0.220 to +0.221"
    assert page.row("Set5", "iv")[3].startswith("27.22")
    assert page.row("Set5", "iv")[4] == "26.75 / 0.500"
    sized, forgotten = (row for row in page.rows if row[0] == "lora")
    assert sized[1:3] == ["400", "100"]
    assert forgotten[2].startswith("-0.062 [-0.062, -0.062]")
    assert forgotten[3] == "0, bit for bit"
    # Behind iv - i: both seeds of iv, the one cell of i, and the paper.
    files = {row[0]: row[1] for row in page.rows if len(row) == 7}
    cited = [files[number] for number in re.findall(r"\d+", " ".join(_references(page, "iv - i")))]
    assert cited == [
        *(f"cells/net-v1_webp_dpm_iv_seed{seed}.json" for seed in (0, 1)),
        "cells/net-v1_webp_base_i_seed0.json",
        "paper.json",
    ]
    # One image of one cell changes the tables that the cell is in.
    path = ledger / "cells" / "net-v1_webp_dpm_iv_seed0.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    record["scores"]["rows"][0]["psnr_db_images"][2] += 1.0
    path.write_text(json.dumps(record), encoding="utf-8")
    assert make(ledger)[0].row("iv - i") != page.row("iv - i")


@pytest.mark.parametrize("kept", ["base", "dpm", "bicubic"])
def test_a_cell_that_no_table_shows_is_named(ledger, tmp_path, kept):
    """Alone in its folder nothing is compared with it: an empty page is no success."""
    cell = synthetic.cell(kept, row="i" if kept != "dpm" else "iv")
    if kept == "bicubic":
        cell["config"] |= {"base": None, "base_kind": None, "protocol": None}
    name = f"cells/{cell['config']['cell']}.json"
    (tmp_path / "alone" / "cells").mkdir(parents=True)
    text = json.dumps({"format_version": "1.0", **cell})
    for path in (tmp_path / "alone" / name, ledger / name):
        if not path.exists():  # the others are in the ledger as they are
            path.write_text(text, encoding="utf-8")
    page, report = make(tmp_path / "alone")
    assert [problem.name for problem in report.problems] == [name]
    assert "a finished cell that no table shows" in " ".join(page.words)
    assert report.sections == 0
    assert main(["report", str(tmp_path / "alone"), "--out", str(tmp_path / "a.html")]) == 3
    assert make(ledger)[1].problems == (), "with others, or bicubic, it is where it belongs"


def _references(page, first):
    """Link texts of a row; one after the other they make the last cell."""
    links = [found["href"] for tag, found in page.elements if tag == "a" and "title" in found]
    numbers = [str(link).removeprefix("#source-") for link in links]
    whole = page.row(first)[-1]
    starts = [k for k in range(len(numbers)) if whole.startswith(numbers[k])]
    for start in starts:
        for stop in range(start + 1, len(numbers) + 1):
            if "".join(numbers[start:stop]) == whole and stop - start == 4:
                return numbers[start:stop]
    raise AssertionError(f"no links make {whole}")


def test_hostile_texts_stay_texts(results, ledger):
    shown = HOSTILE.replace("\x00", "\ufffd").replace("\x1b", "\ufffd")
    for path in [*sorted(results.iterdir()), *sorted((ledger / "cells").iterdir())]:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["kind"] == "cell":
            record["config"] |= {"base": HOSTILE, "train_data": HOSTILE}
        text = json.dumps({**record, "command": f"{HOSTILE} \ud800"})
        for name in ("base", "webp", "Set5", "jpeg", "AMD EPYC", "tiny"):
            text = text.replace(f'"{name}"', json.dumps(HOSTILE + name))
        (results / path.name).write_text(text, encoding="utf-8")
    (results / "<b>&amp;.json").write_text("{", encoding="utf-8")
    (results / "kind.json").write_text(
        json.dumps({"format_version": "1.0", "kind": HOSTILE}), encoding="utf-8"
    )
    page, report = make(results, title=HOSTILE, out=results.parent / "page.html")
    check_closed(page)
    whole = "".join(page.words)
    assert "<script>alert(1)</script>" in whole
    assert shown.replace("**b**", "b") + "jpeg" in [row[0] for row in page.rows if row]
    assert {"<b>&amp;.json", "kind.json"} <= {problem.name for problem in report.problems}
    assert "<b>&amp;.json" in page.words


def test_what_would_be_missed_or_shown_as_a_score_is_named(results):
    for path in results.glob("*.json"):
        text = path.read_text(encoding="utf-8")
        if '"psnr_db"' in text:
            break
    (results / "nan.json").write_text(re.sub(r'("psnr_db": )[\d.]+', r"\1NaN", text), "utf-8")
    (results / "gone.json").symlink_to(results / "moved" / "gone.json")
    (results / "again.json").symlink_to(path)
    page, report = make(results)
    check_closed(page)
    reasons = {problem.name: problem.reason for problem in report.problems}
    assert reasons.keys() == {"nan.json", "gone.json"}
    assert "NaN is no number of JSON" in reasons["nan.json"]
    assert "No such file" in reasons["gone.json"]
    assert "nan" not in {cell for row in page.rows for cell in row}
    assert str(results) not in " ".join(page.words)


DAMAGED = {
    "nothing": "",
    "half": '{"kind": "evaluate", ',
    "list": "[1]",
    "newer": '{"format_version": "9.0", "kind": "evaluate"}',
    "unknown": '{"format_version": "1.0", "kind": "poem"}',
    "no-rows": '{"format_version": "1.0", "kind": "evaluate", "scores": {"rows": []}}',
    "no-keys": '{"format_version": "1.0", "kind": "evaluate", "scores": {"rows": [{"method": 1}]}}',
    "no-config": '{"format_version": "1.0", "kind": "tune_full", "scores": 3}',
    "no-cell": '{"format_version": "1.0", "kind": "cell", "config": {"method": "dpm"}}',
    "deep": '{"format_version": "1.0", "kind": "benchmark", "scores": ' + "[" * 99999,
}


def test_damaged_files_are_named_and_the_rest_is_shown(results, capsys):
    for name, text in DAMAGED.items():
        (results / f"{name}.json").write_text(text, encoding="utf-8")
    (results / "binary.json").write_bytes(bytes(range(256)))
    out = results.parent / "report.html"
    assert main(["report", str(results), "--out", str(out)]) == 3
    said = capsys.readouterr()
    page = Page(out.read_text(encoding="utf-8"))
    check_closed(page)
    for name in [*DAMAGED, "binary"]:
        assert f"not shown: {name}.json: " in said.err
        assert f"{name}.json" in page.words
    assert "unknown kind 'poem'" in said.err
    assert len(said.err.splitlines()) == len(DAMAGED) + 1
    assert page.row("mean of codecs")
    assert str(results) not in "".join(page.words)


def test_what_recipes_leave_beside_results_is_no_result(results, capsys):
    beside = {
        "adapter_config.json": {"peft_type": "DYNAMIC_PROMPT", "format_version": "1.0"},
        "config.json": {"format_version": "1.0", "widths": 8},
        "checkpoints/step-00000010/manifest.json": {"step": 10},
        "cell.json": {"base": "b"},
    }
    for name, content in beside.items():
        path = results / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")
    out = results.parent / "report.html"
    assert main(["report", str(results), "--out", str(out)]) == 0
    assert capsys.readouterr().err == ""
    (results / "run" / "config.json").write_text('{"kind": "poem"}', encoding="utf-8")
    (results / "run" / "manifest.json").write_text("{", encoding="utf-8")
    assert main(["report", str(results), "--out", str(out)]) == 3
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[1] for line in lines] == ["run/config.json", "run/manifest.json"]
    (results / "run" / "config.json").write_text("{}", encoding="utf-8")
    (results / "run" / "manifest.json").unlink()
    assert main(["report", str(results / "run"), "--out", str(out)]) == 2
    assert "error: there is no results file under" in capsys.readouterr().err


def test_no_damage_is_a_crash(results, ledger):
    """Values of other types, keys left out: 150 files, each shown or named."""
    random = np.random.default_rng(7)
    paths = [*sorted(results.iterdir()), *sorted((ledger / "cells").iterdir())[:2]]
    texts = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    values = [None, -1, 1e308, float("nan"), "text", [], {}, [[]], {"a": 1}, True, 10**400]
    folder = results.parent / "mutants"
    folder.mkdir()
    for number in range(150):
        record = copy.deepcopy(texts[int(random.integers(len(texts)))])
        inner, keys = record, []
        while isinstance(inner, dict | list) and inner:
            choices = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
            keys.append((inner, choices[int(random.integers(len(choices)))]))
            inner = inner[keys[-1][1]]
        place, key = keys[int(random.integers(len(keys)))]
        if random.integers(2):
            place[key] = values[int(random.integers(len(values)))]
        else:
            del place[key]
        (folder / f"{number}.json").write_text(json.dumps(record), encoding="utf-8")
    page, report = make(folder)
    check_closed(page)
    assert 20 < len(report.problems) < 150


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("learning_rate", value) for value in (None, "x")),
        *(("train_batch_size", "x"), ("patch_size", None), ("max_train_steps", None)),
        *(("evaluate_on", None), ("train_data", None), ("base", 3), ("protocol", [])),
    ],
)
def test_a_cell_of_another_form_is_named_and_the_others_are_shown(ledger, key, value):
    cells = sorted((ledger / "cells").iterdir())
    trained = next(path for path in cells if "_dpm" in path.name or "everything" in path.name)
    record = json.loads(trained.read_text(encoding="utf-8"))
    record["config"][key] = value
    trained.write_text(json.dumps(record), encoding="utf-8")
    page, report = make(ledger)
    check_closed(page)
    assert [problem.name for problem in report.problems] == [f"cells/{trained.name}"]
    assert report.sections > 0


def test_a_result_is_not_overwritten_by_the_page(results, capsys):
    target = results / "base.json"
    before = target.read_bytes()
    assert main(["report", str(results), "--out", str(target)]) == 2
    assert "the page is HTML, give a name that ends in .html" in capsys.readouterr().err
    assert target.read_bytes() == before


def test_pictures_of_every_kind_are_shown_as_they_are(tmp_path):
    ramp = np.tile(np.arange(200, dtype=np.uint16) * 300, (50, 1))
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    Image.fromarray(np.zeros((40, 30, 4), np.uint8)).save(tmp_path / "clear.png")
    turned = Image.new("RGB", (64, 32))
    turned.getexif()[0x112] = 6
    turned.save(tmp_path / "turned.jpg", exif=turned.getexif())
    Image.new("RGB", (90, 17000)).save(tmp_path / "tall.png")
    found, problems = read_pictures(tmp_path)
    assert not problems
    sizes = {picture.text: picture.size for picture in found}
    assert (sizes["turned.jpg"], sizes["tall.png"][1]) == ((32, 64), 4096)
    shown = {p.text: np.asarray(Image.open(io.BytesIO(p.webp)).convert("L")) for p in found}
    assert shown["clear.png"].min() > 250
    assert np.abs(shown["deep.png"][25].astype(int) - ramp[25] // 257).max() < 6


def test_nothing_to_show_is_an_error(tmp_path, capsys):
    with pytest.raises(DataError, match="there is no folder"):
        build_report(tmp_path / "none", tmp_path / "a.html")
    (tmp_path / "empty").mkdir()
    assert main(["report", str(tmp_path / "empty"), "--out", str(tmp_path / "a.html")]) == 2
    assert "error: there is no results file under" in capsys.readouterr().err
    assert not (tmp_path / "a.html").exists()


def test_a_page_that_cannot_be_written_is_an_error(results):
    with pytest.raises(DataError, match=r"cannot write .*nowhere"):
        build_report(results, results / "base.json" / "nowhere" / "a.html")


def test_pictures_form_a_grid(results, tmp_path, monkeypatch):
    monkeypatch.setattr("ucip_adapt.report.pictures.LARGEST_SUM", 120_000)
    folder = tmp_path / "pictures"
    folder.mkdir()
    noise = np.random.default_rng(1).integers(0, 256, (100, 1000, 3), dtype=np.uint8)
    for name in ("webp-10", "webp-40", "my-codec-5", "other"):
        Image.fromarray(noise[:100, :200]).save(folder / f"{name}.png")
    for number in range(3):
        Image.fromarray(noise).save(folder / f"zz-{number}.png")
    (folder / "broken.png").write_text("no picture", encoding="utf-8")
    page, report = make(results, pictures=str(folder))
    check_closed(page)
    assert report.num_bytes < 200_000
    shown = [found for tag, found in page.elements if tag == "img"]
    assert [found["alt"] for found in shown][:3] == ["my-codec-5.png", "webp-10.png", "webp-40.png"]
    assert "other.png" in [found["alt"] for found in shown]
    assert [word for word in page.words if word in ("webp", "my-codec")][:2] == ["my-codec", "webp"]
    data = base64.b64decode(str(shown[1]["src"]).partition(",")[2])
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.size) == ("WEBP", (200, 100))
        assert np.abs(np.asarray(image).mean() - noise[:100, :200].mean()) < 5
    named = {problem.name for problem in report.problems}
    assert "broken.png" in named
    assert {name for name in named if name.startswith("zz-")}, "there is no room for all of them"


def test_pictures_of_nothing(results, tmp_path):
    with pytest.raises(DataError, match="no such folder; 'make' makes pictures"):
        make(results, pictures=str(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no PNG, JPEG or WebP picture in it"):
        make(results, pictures=str(tmp_path / "empty"))
    with pytest.raises(ConfigError, match="add --pictures make"):
        make(results, adapters=["webp"])


@pytest.mark.slow
def test_pictures_are_made_from_an_embedded_image(results, monkeypatch):
    [dog] = [one for one in load_eval_set("GB82-val").images if one.name == "dog"]
    part = EvalImage(
        "dog", dog.gt[256:448, 160:352], dog.lr[64:112, 40:88]
    )  # the whole one takes long
    monkeypatch.setattr(
        "ucip_adapt.data.load_eval_set", lambda name: EvalSet(name, (part,), "symmetric")
    )
    page, report = make(results, pictures="make", adapters=["webp", "no-such-adapter"])
    check_closed(page)
    shown = [found for tag, found in page.elements if tag == "img"]
    assert len(shown) == 4
    assert str(shown[0]["alt"]).startswith("webp 10: input, ucip-tiny")
    assert [problem.name for problem in report.problems] == ["pictures of no-such-adapter"]
    data = base64.b64decode(str(shown[0]["src"]).partition(",")[2])
    with Image.open(io.BytesIO(data)) as image:
        strip = np.asarray(image.convert("RGB")).astype(float)
    panels = [strip[:, 164 * k : 164 * k + 160] for k in range(4)]
    lq = get_codec("webp").roundtrip(part.lr, 10).pixels
    top, left = busiest_crop(part.gt, 160)
    for panel, wanted in (
        (panels[0], np.kron(lq, np.ones((4, 4, 1)))),
        (panels[1], ucip_adapt.load().upscale(lq)),
        (panels[2], ucip_adapt.load("webp").upscale(lq)),
        (panels[3], part.gt),
    ):
        exact = wanted[top : top + 160, left : left + 160].astype(float)
        assert np.abs(panel - exact).mean() < 6, "what the lossy WebP of the page leaves"
    assert np.abs(panels[2] - panels[1]).mean() > 0.1


def test_every_committed_result_has_a_place_on_the_page(repo_root):
    """Files of `results/`: none of a kind that the page does not know."""
    kinds = set()
    for path in sorted((repo_root / "results").rglob("*.json")):
        if path.name != "paper.json":
            kinds.add(json.loads(path.read_text(encoding="utf-8"))["kind"])
    assert kinds <= {*KINDS, "cell", "tune_prompts", "tune_full", "pretrain_base"}
    assert len(kinds) > 5
