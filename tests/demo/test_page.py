"""The command, the page's layout and the Space; what needs gradio is skipped without it."""

import compileall
import os
import socket
import subprocess
import sys

import pytest
import yaml
from packaging.requirements import Requirement

from ucip_adapt.cli import main
from ucip_adapt.demo.files import ResultFiles
from ucip_adapt.demo.session import Session
from ucip_adapt.errors import ConfigError


@pytest.fixture
def gradio():
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    return pytest.importorskip("gradio", reason="needs gradio: the extra `demo`")


@pytest.mark.parametrize("flags", [[], ["--export-space", "x"]])
def test_without_gradio_one_line_says_how_to_get_it(flags, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.chdir(tmp_path)
    assert main(["demo", *flags]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: the page needs gradio")
    assert err.endswith('pip install "ucip-adapt[demo]"\n')
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--port", "99999"], "--port must lie between 0 and 65535, not 99999"),
        (["--export-space", "x", "--base", "ucip-tiny"], "a Space has the defaults"),
        (["--export-space", "x", "--max-pixels", "9"], "a Space has the defaults"),
        (["--port", "-3"], "--port must lie between 0 and 65535, not -3"),
        (["--base", "nosuch"], "nosuch"),
    ],
)
def test_a_slip_is_found_before_the_page_is_served(flags, message, monkeypatch, capsys):
    from ucip_adapt.demo import library, serve

    monkeypatch.setattr(library, "load_gradio", lambda: None)
    monkeypatch.setattr(serve, "serve", lambda *_, **__: pytest.fail("served"))
    assert main(["demo", *flags]) == 2
    assert message in capsys.readouterr().err


def test_the_missing_library_is_said_before_torch_is_loaded():
    code = (
        "import sys; sys.modules['gradio'] = None\n"
        "from ucip_adapt.cli import main; code = main(['demo'])\n"
        "print(code, *sorted({'torch', 'numpy', 'PIL'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "2\n"


def test_the_page_offers_codecs_and_adapters_and_no_programming_interface(gradio, tmp_path):
    from ucip_adapt.demo.app import build_app

    session = Session(own_adapters=False)
    config = build_app(session, ResultFiles(tmp_path)).get_config_file()
    props = {item["props"].get("elem_id"): item["props"] for item in config["components"]}
    assert [value for _, value in props["codec"]["choices"]] == list(session.codecs)
    assert [value for _, value in props["adapter"]["choices"]] == session.adapters
    assert props["adapter"]["allow_custom_value"] is False
    assert (props["quality"]["minimum"], props["quality"]["value"]) == (0, 20)
    assert {event["api_visibility"] for event in config["dependencies"]} == {"private"}
    assert not config["analytics_enabled"]


def test_a_port_that_is_taken_is_said(gradio, monkeypatch):
    from ucip_adapt.demo.serve import serve

    monkeypatch.setenv("GRADIO_TEMP_DIR", "")  # so that it is set back afterwards
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1, port {port}: it is in use"):
            serve(Session(), host="127.0.0.1", port=port)


class NeverAnswers:
    """An app for which launching would take minutes."""

    def launch(self, **options):
        raise AssertionError("launched")


@pytest.mark.parametrize("port", [None, 7860])
@pytest.mark.parametrize("host", ["192.0.2.1", "[2001:db8::1]"])
def test_an_address_of_another_machine_is_refused_at_once(host, port, monkeypatch):
    from ucip_adapt.demo import serve

    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    monkeypatch.setattr(serve, "build_app", lambda *_: NeverAnswers())
    monkeypatch.setattr(serve, "look", dict)
    with pytest.raises(ConfigError, match=r"cannot listen on .*: it is in use, or no address of"):
        serve.serve(Session(), host=host, port=port)


def test_an_address_that_can_be_listened_on_is_free_afterwards():
    from ucip_adapt.demo.serve import _check_address

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.listen()
        with pytest.raises(OSError, match="in use"):
            _check_address("127.0.0.1", port)
    for host in ("127.0.0.1", "localhost", ""):
        for one in (port, port, 0):
            _check_address(host, one)


def test_a_fault_is_told_and_markup_in_it_is_text(gradio):
    from ucip_adapt.demo.app import _told
    from ucip_adapt.errors import DataError

    def fail(error):
        raise error

    for error, words in (
        (DataError("no <b>picture"), "no &lt;b&gt;picture"),
        (MemoryError(), "not enough memory"),
        (KeyError("<i>"), "a fault of this program: KeyError(&#x27;&lt;i&gt;&#x27;)"),
    ):
        with pytest.raises(gradio.Error) as caught:
            _told(gradio, fail)(error)
        assert caught.value.message.startswith(words)


def test_a_space_holds_all_that_it_needs(gradio, tmp_path, capsys):
    folder = tmp_path / "space"
    assert main(["demo", "--export-space", str(folder)]) == 0
    names = {path.name for path in folder.iterdir()}
    assert names == {"LICENSE", "NOTICE", "README.md", "app.py", "requirements.txt", "ucip_adapt"}
    assert len(capsys.readouterr().out.splitlines()) == len(names)
    _, head, text = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    head = yaml.safe_load(head)
    assert (head["sdk"], head["app_file"]) == ("gradio", "app.py")
    assert head["sdk_version"] == gradio.__version__
    assert tuple(map(int, head["python_version"].split("."))) >= (3, 11)
    assert not {"models", "datasets"} & set(head)
    assert "{" not in text
    lines = (folder / "requirements.txt").read_text(encoding="utf-8").splitlines()
    needed = {Requirement(line).name for line in lines}
    assert {"torch", "peft", "pillow", "gradio"} <= needed
    assert "ucip-adapt" not in needed
    assert compileall.compile_file(folder / "app.py", quiet=1)
    assert main(["demo", "--export-space", str(folder)]) == 2
    assert "is not empty" in capsys.readouterr().err
