"""The page itself: gradio's components, each bound to one method of the session."""

from __future__ import annotations

import functools
from collections.abc import Callable
from html import escape
from pathlib import Path
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

from PIL import Image

from ucip_adapt.demo.files import ResultFiles
from ucip_adapt.demo.library import load_gradio
from ucip_adapt.demo.session import ORIGINAL, Session, Wish, samples
from ucip_adapt.demo.words import facts_html, knob_hint, picture_line, scores_html
from ucip_adapt.errors import DataError, UcipError
from ucip_adapt.imaging import Picture

__all__ = ["LAUNCH_OPTIONS", "build_app", "look"]

_P = ParamSpec("_P")
_R = TypeVar("_R")

_DAMAGE = "Reduce to a quarter and compress: the truth is then known"
_AS_IT_IS = "Use it as it is"
_PREVIEW_SIDE = 480
_CODEC = "webp"
_UPLOAD_LIMIT = "64mb"

LAUNCH_OPTIONS: dict[str, Any] = {
    "share": False,
    "show_error": True,
    "ssr_mode": False,
    "enable_monitoring": False,
    "pwa": False,
    "mcp_server": False,
    "footer_links": [],
    "max_file_size": _UPLOAD_LIMIT,
    "quiet": True,
}
"""How the page is served wherever it runs: one process, nothing shared, nothing reported."""

_INTRO = """\
# ucip-adapt
Restore a compressed picture and enlarge it four times, with a prompt adapter for its codec.
"""

# Gradio puts a prefix of its own before every selector, which breaks :is() and media queries.
_CSS = """
.gradio-container {max-width: 1180px !important; margin: 0 auto !important}
table.ucip {width: 100%; border-collapse: collapse; border: 0 !important;
  font-size: var(--text-md)}
table.ucip th, table.ucip td {text-align: left; vertical-align: top;
  padding: 0.4rem clamp(0.25rem, 0.9vw, 0.5rem) !important;
  border: 0 !important; border-bottom: 1px solid var(--border-color-primary) !important}
table.ucip tr {border: 0 !important}
table.ucip th, #facts td:first-child
  {color: var(--body-text-color-subdued) !important; font-weight: 500}
#scores th:not(:first-child), #scores td:not(:first-child)
  {text-align: right; font-variant-numeric: tabular-nums}
#scores tbody tr:last-child td {font-weight: 600}
#facts td:first-child {white-space: nowrap; width: 1%}
#facts td {overflow-wrap: anywhere}
#scores-box p, #line {color: var(--body-text-color-subdued); font-size: var(--text-sm)}
#samples .gallery {display: grid; grid-auto-flow: column; grid-auto-columns: minmax(0, 1fr);
  gap: 6px; max-width: 32rem}
#samples .gallery button {width: 100%; min-width: 0; height: auto; max-height: none;
  aspect-ratio: 1; margin: 0}
#samples .gallery .container {width: 100%; min-width: 0; height: auto; max-height: none;
  aspect-ratio: 1; margin: 0}
#samples .gallery img {width: 100%; height: 100%; object-fit: cover}
"""


def look() -> dict[str, Any]:
    """Theme and style, for gradio's ``launch``: fonts of the system, none from elsewhere.

    Raises:
        ConfigError: If gradio is not installed.
    """
    themes = load_gradio().themes
    theme = themes.Default(
        primary_hue="teal",
        secondary_hue="teal",
        neutral_hue="slate",
        font=["ui-sans-serif", "system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
    # Slate 400, gradio's choice for hints, is too pale to read on white.
    theme.set(body_text_color_subdued="*neutral_500", block_info_text_color="*neutral_500")
    return {"theme": theme, "css": _CSS}


def build_app(session: Session, files: ResultFiles) -> Any:  # noqa: ANN401 (gradio has no types here)
    """Lay the page out.

    Args:
        session: Does the work.
        files: Keeps what the page shows.

    Returns:
        A ``gradio.Blocks``, ready for ``launch``.

    Raises:
        ConfigError: If gradio is not installed.
    """
    gr = load_gradio()
    page = _Page(gr, session, files)
    with gr.Blocks(title="ucip-adapt", analytics_enabled=False, delete_cache=(600, 3600)) as app:
        page.lay_out()
    app.queue(default_concurrency_limit=1, max_size=16)
    return app


class _Page:
    """Components and what they do; the picture that was chosen is state of the visitor's page."""

    def __init__(self, gr: ModuleType, session: Session, files: ResultFiles) -> None:
        self._gr = gr
        self._session = session
        self._files = files
        self._samples = samples()

    def lay_out(self) -> None:
        gr = self._gr
        first = next(iter(self._samples.values()))
        gr.Markdown(_INTRO)
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                self._lay_out_choices(first)
            with gr.Column(scale=3, min_width=320):
                self._lay_out_result()
        self._bind()

    def _lay_out_choices(self, first: Path) -> None:
        gr, codecs = self._gr, self._session.codecs
        _, preview, line = self._choose(first)
        self.chosen = gr.State(str(first))
        with gr.Row():
            self.upload = gr.File(
                label="Drop a picture", height=170, min_width=140, elem_id="upload"
            )
            self.preview = gr.Image(
                preview,
                label="Chosen",
                height=170,
                min_width=140,
                interactive=False,
                buttons=[],
                elem_id="preview",
            )
        self.line = gr.HTML(line, elem_id="line")
        self.gallery = gr.Dataset(
            label="Or pick one (CC0; nothing was trained on them)",
            components=[gr.Image(visible=False)],
            samples=[[str(path)] for path in self._samples.values()],
            type="index",
            layout="gallery",
            samples_per_page=len(self._samples),
            elem_id="samples",
        )
        self.what = gr.Radio([_DAMAGE, _AS_IT_IS], value=_DAMAGE, label="What to do with it")
        with gr.Group() as self.damage:
            self.codec = gr.Dropdown(list(codecs), value=_CODEC, label="Codec", elem_id="codec")
            self.quality = _slider(gr, codecs[_CODEC])
        self.adapter = gr.Dropdown(
            self._session.adapters,
            value="auto",
            label="Adapter",
            info="auto goes by the codec; also the folder or Hub id of your own"
            if self._session.own_adapters
            else "auto goes by the codec",
            allow_custom_value=self._session.own_adapters,
            elem_id="adapter",
        )
        self.crop = gr.Checkbox(False, label="Of a picture that is too large, take the middle")
        self.go = gr.Button("Restore", variant="primary", elem_id="restore")

    def _lay_out_result(self) -> None:
        gr = self._gr
        self.shown = gr.State({})
        self.compare = gr.ImageSlider(
            label="bicubic x4 | restored",
            type="filepath",
            interactive=False,
            max_height=640,
            buttons=["fullscreen"],
            elem_id="compare",
        )
        self.left = gr.Radio(
            ["bicubic"], value="bicubic", label="Left side", visible=False, elem_id="left"
        )
        self.scores = gr.HTML("<p>Press Restore.</p>", elem_id="scores-box")
        self.facts = gr.HTML(elem_id="facts-box")
        self.download = gr.DownloadButton(
            "Download the result (PNG)", visible=False, elem_id="download"
        )

    def _bind(self) -> None:
        told = functools.partial(_told, self._gr)
        chosen = [self.chosen, self.preview, self.line]
        private = {"api_visibility": "private"}
        self.gallery.click(told(self._pick), [self.gallery], [*chosen, self.upload], **private)
        self.upload.upload(told(self._take), [self.upload], chosen, **private)
        self.upload.clear(
            told(lambda: self._choose(next(iter(self._samples.values())))), None, chosen, **private
        )
        self.what.change(
            lambda what: self._gr.update(visible=what == _DAMAGE),
            [self.what],
            [self.damage],
            **private,
        )
        self.codec.change(
            lambda name: _slider(self._gr, self._session.codecs[name]),
            [self.codec],
            [self.quality],
            **private,
        )
        self.go.click(
            told(self._restore),
            [self.chosen, self.what, self.codec, self.quality, self.adapter, self.crop],
            [self.shown, self.left, self.compare, self.scores, self.facts, self.download],
            show_progress_on=[self.compare],
            scroll_to_output=True,
            **private,
        )
        self.left.input(told(self._put_left), [self.left, self.shown], [self.compare], **private)

    def _pick(self, index: int) -> tuple[Any, ...]:
        return (*self._choose(list(self._samples.values())[index]), None)

    def _take(self, path: str) -> tuple[Any, ...]:
        return self._choose(Path(path))

    def _choose(self, path: Path) -> tuple[Any, ...]:
        data = path.read_bytes()
        picture = self._session.read(data)
        return str(path), _thumbnail(picture), escape(picture_line(path.name, data, picture))

    def _restore(
        self, chosen: str, what: str, codec: str, quality: float, adapter: str | None, crop: bool
    ) -> tuple[Any, ...]:
        gr = self._gr
        path = Path(chosen)
        if not path.is_file():
            raise DataError("this picture is gone from the server; drop it again")
        wish = Wish(
            codec=codec if what == _DAMAGE else None,
            quality=int(quality),
            adapter=(adapter or "").strip() or "auto",
            crop=crop,
        )
        restored = self._session.restore(path.read_bytes(), wish)
        shown, result = self._files.write(restored, path.stem)
        others = [version for version in shown if shown[version] != list(shown.values())[-1]]
        return (
            shown,
            gr.update(choices=others, value="bicubic", visible=len(others) > 1),
            _pair(gr, shown, "bicubic"),
            scores_html(restored),
            facts_html(restored),
            gr.update(value=result, visible=True),
        )

    def _put_left(self, left: str, shown: dict[str, str]) -> Any:  # noqa: ANN401 (a component)
        return _pair(self._gr, shown, left)


def _pair(gr: ModuleType, shown: dict[str, str], left: str) -> Any:  # noqa: ANN401 (a component)
    """One version on the left, the result, which is the last, on the right."""
    if left not in shown or not Path(shown[left]).is_file():
        raise DataError("this result is gone from the server; press Restore again")
    words = {"bicubic": "bicubic x4", "base": "base, no adapter", ORIGINAL: "original"}
    return gr.ImageSlider(
        (shown[left], list(shown.values())[-1]), label=f"{words[left]} | restored"
    )


def _slider(gr: ModuleType, spec: Any) -> Any:  # noqa: ANN401 (a component)
    """The slider of a codec's quality, on the second worst value of the suite."""
    low, high = spec.quality_range
    return gr.Slider(
        low,
        high,
        step=1,
        value=spec.qualities[min(1, len(spec.qualities) - 1)],
        label="Quality",
        info=knob_hint(spec),
        elem_id="quality",
    )


def _thumbnail(picture: Picture) -> Image.Image:
    """A small version of a picture of any kind."""
    colour = picture.colour if picture.depth == 8 else (picture.colour >> 8).astype("uint8")
    image = Image.fromarray(colour[..., 0] if colour.shape[2] == 1 else colour)
    image.thumbnail((_PREVIEW_SIDE, _PREVIEW_SIDE))
    return image


def _told(gr: ModuleType, work: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let the page say what went wrong; a fault of ours also leaves its traceback in the log."""

    @functools.wraps(work)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return work(*args, **kwargs)
        except UcipError as error:
            message = escape(str(error))
            raise gr.Error(message, duration=None, print_exception=False) from error
        except MemoryError as error:
            raise gr.Error("not enough memory for this picture", duration=None) from error
        except Exception as error:
            fault = f"a fault of this program: {escape(repr(error))}; its log has the details"
            raise gr.Error(fault, duration=None) from error

    return call
