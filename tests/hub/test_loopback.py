"""Publish, pull, tag and load adapters over a Hub on localhost (R20, R21)."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys

import loopback
import pytest
from huggingface_hub import HfApi

from ucip_adapt.assets import adapters_folder, shipped_base_folder
from ucip_adapt.cli import main
from ucip_adapt.download import reachable
from ucip_adapt.hub import folders
from ucip_adapt.models import UCIP

WEBP = adapters_folder() / "webp"


@pytest.fixture
def hub():
    server = loopback.LoopbackHub()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def client(hub, tmp_path):
    """Run ``ucip-adapt`` or a few lines of Python as somebody with an empty cache."""

    def run(*words, code=None, home="home", **environment):
        settings = {
            **os.environ,
            "HF_ENDPOINT": hub.url,
            "HF_TOKEN": hub.token,
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(tmp_path / home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "OMP_NUM_THREADS": "1",
            **environment,
        }
        program = ["-c", code] if code else ["-m", "ucip_adapt", *map(str, words)]
        return subprocess.run(
            [sys.executable, *program],
            env=settings,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=900,  # against a hang alone: the machine may be busy
        )

    return run


def _put(hub, repo_id, prefix="", folder=WEBP):
    files = {prefix + path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    hub.create(repo_id)
    commit = hub.commit_id(files)
    hub.repos[repo_id]["commits"][commit] = files
    hub.repos[repo_id]["refs"]["main"] = commit
    return commit


@pytest.mark.slow
def test_published_and_pulled_files_are_the_same(hub, client, tmp_path):
    folder = tmp_path / "mine"
    shutil.copytree(WEBP, folder)
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "secret.bin").write_bytes(b"not for the Hub")
    dry = client("adapters", "publish", folder, "--repo-id", "user/ucip-webp", "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "adapter_model.safetensors" in dry.stdout
    assert dry.stdout.endswith(f"to {hub.url}/user/ucip-webp\n")
    assert hub.repos == {}
    wrong = client("adapters", "publish", folder, "--repo-id", "user/a b", "--dry-run")
    assert (wrong.returncode, "cannot be the name" in wrong.stderr) == (2, True)
    done = client("adapters", "publish", folder, "--repo-id", "user/ucip-webp")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"published user/ucip-webp: {hub.url}/user/ucip-webp\n"
    sha, files = hub.resolve("user/ucip-webp", "main")
    assert files == {path.name: path.read_bytes() for path in WEBP.iterdir()}
    hub.repos["user/ucip-webp"]["refs"]["v1"] = sha

    pulled = client(
        "adapters", "pull", "user/ucip-webp", "--revision", "v1", "-o", "pulled", "--json"
    )
    assert pulled.returncode == 0, pulled.stderr
    assert json.loads(pulled.stdout)["ok"]
    for path in WEBP.iterdir():
        assert (tmp_path / "pulled" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.slow
def test_one_call_loads_by_id_subfolder_and_from_the_cache(hub, client):
    _put(hub, "user/codecs", prefix="webp/")
    code = (
        "import sys, ucip_adapt, numpy as np\n"
        "a = ucip_adapt.load('user/codecs', subfolder='webp')\n"
        "b = ucip_adapt.load('webp')\n"
        "x = np.random.default_rng(0).integers(0, 255, (16, 20, 3), np.uint8)\n"
        "assert (a.upscale(x) == b.upscale(x)).all()\n"
        "print(a.adapter, a.base)\n"
    )
    first = client(code=code)
    assert first.returncode == 0, first.stderr
    assert first.stdout.split() == ["user/codecs", "ucip-tiny-v3"]
    seen = len(hub.requests)
    again = client(code=code, HF_HUB_OFFLINE="1")
    assert again.returncode == 0, again.stderr
    assert len(hub.requests) == seen


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["user/nothing"], "there is no repository user/nothing"),
        (["user/ucip-webp", "--revision", "v9"], "has no revision 'v9'"),
        (["user/ucip-webp", "--subfolder", "avif"], "holds no adapter"),
        (["not/a/repo"], "no folder 'not/a/repo'"),
    ],
)
def test_what_is_not_there_is_said(hub, client, words, message):
    _put(hub, "user/ucip-webp")
    done = client("adapters", "show", *words)
    assert done.returncode == 2, done.stdout
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_wrong_token_uploads_nothing(hub, client):
    done = client("adapters", "publish", WEBP, "--repo-id", "user/x", HF_TOKEN="hf_wrong")  # noqa: S106
    assert done.returncode == 2
    assert "cannot upload" in done.stderr
    assert "Traceback" not in done.stderr
    assert hub.repos == {}


@pytest.mark.parametrize(
    "fault",
    [
        "cut",
        pytest.param("flip", marks=pytest.mark.slow),
        pytest.param("503 once", marks=pytest.mark.slow),
    ],
)
def test_interrupted_and_corrupted_downloads(hub, client, tmp_path, fault):
    _put(hub, "user/ucip-webp")
    hub.faults["adapter_model.safetensors"] = fault
    done = client("adapters", "pull", "user/ucip-webp", "-o", "pulled", HF_HUB_DOWNLOAD_TIMEOUT="2")
    weights = tmp_path / "pulled" / "adapter_model.safetensors"
    if fault == "503 once" and done.returncode == 0:
        assert weights.read_bytes() == (WEBP / weights.name).read_bytes()
        return
    assert done.returncode == {"cut": 2, "flip": 1}.get(fault, 2)
    assert "Traceback" not in done.stderr
    assert not weights.exists() or "WRONG" in done.stdout
    hub.faults.clear()
    shutil.rmtree(tmp_path / "pulled", ignore_errors=True)
    # With the same cache: what came damaged is fetched again.
    later = client("adapters", "pull", "user/ucip-webp", "-o", "pulled")
    assert later.returncode == 0, later.stderr
    assert weights.read_bytes() == (WEBP / weights.name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["cut", "flip"])
def test_a_base_that_came_damaged_is_one_line_and_fetched_again(hub, client, fault):
    _put(hub, "user/base", folder=shipped_base_folder("ucip-tiny-v3"))
    code = (
        "from ucip_adapt import UCIP\n"
        "from ucip_adapt.errors import BaseFormatError\n"
        "try:\n"
        "    print(UCIP.from_pretrained('user/base').fingerprint)\n"
        "except BaseFormatError as error:\n"
        "    print('refused:', error)\n"
    )
    hub.faults["model.safetensors"] = fault
    first = client(code=code, HF_HUB_DOWNLOAD_TIMEOUT="2")
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("refused: ")
    assert first.stdout.count("\n") == 1
    hub.faults.clear()
    again = client(code=code)
    assert again.stdout.strip() == UCIP.from_pretrained("ucip-tiny-v3").fingerprint, again.stderr


@pytest.mark.slow
@pytest.mark.parametrize("status", [403, 500])
def test_what_the_hub_answers_is_said(hub, client, status):
    _put(hub, "user/ucip-webp")
    hub.faults["user/ucip-webp"] = status
    done = client("adapters", "show", "user/ucip-webp")
    assert done.returncode == 2
    assert str(status) in done.stderr
    assert "not asked" not in done.stderr


@pytest.mark.slow
def test_publishing_again_takes_out_what_the_folder_no_longer_has(hub, client, tmp_path):
    folder = tmp_path / "mine"
    shutil.copytree(WEBP, folder)
    for _ in range(2):
        done = client("adapters", "publish", folder, "--repo-id", "user/ucip-webp")
        assert done.returncode == 0, done.stderr
        (folder / "before_after.png").unlink(missing_ok=True)
    _, files = hub.resolve("user/ucip-webp", "main")
    assert sorted(files) == sorted(path.name for path in folder.iterdir())


@pytest.mark.slow
def test_a_subfolder_may_have_slashes_around_it(hub, client):
    _put(hub, "user/codecs", prefix="deep/webp/")
    done = client("adapters", "show", "user/codecs", "--subfolder", "/deep/webp/")
    assert done.returncode == 0, done.stderr
    done = client("adapters", "show", "user/codecs", "--subfolder", "../webp")
    assert done.returncode == 2
    assert "leads out" in done.stderr


@pytest.mark.parametrize("endpoint", ["https://hub.invalid", "http://hub.invalid"])
@pytest.mark.parametrize("case", [str.lower, str.upper])
def test_behind_a_proxy_only_the_proxy_is_asked(endpoint, case, monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    assert not reachable(endpoint)
    for name in (endpoint.partition(":")[0] + "_proxy", "all_proxy"):
        with monkeypatch.context() as patch:
            patch.setenv(case(name), "http://127.0.0.1:3128")
            assert reachable(endpoint)
            patch.setenv("no_proxy", "hub.invalid")
            assert not reachable(endpoint)


def test_publishing_without_a_network_is_one_line(monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    with socket.socket() as held:  # bound and not listening: connections are refused
        held.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{held.getsockname()[1]}"
        monkeypatch.setattr(folders, "HfApi", lambda: HfApi(endpoint=address))
        assert main(["adapters", "publish", str(WEBP), "--repo-id", "you/x"]) == 2
    assert "The folder itself is complete" in capsys.readouterr().err


@pytest.fixture
def silent():
    """The address of somebody who never answers, not even with a refusal."""
    with socket.socket() as server, contextlib.ExitStack() as held:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(20):  # fill the queue of those who wait to be accepted
            caller = held.enter_context(socket.socket())
            caller.settimeout(0.3)
            try:
                caller.connect(server.getsockname())
            except TimeoutError:
                break
        else:
            pytest.skip("this system lets any number of connections wait")
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("setting", ["HF_ENDPOINT", "HF_HUB_OFFLINE"])
def test_without_a_network_the_message_comes_at_once(client, silent, setting):
    code = (
        "import time, ucip_adapt, huggingface_hub\n"
        "from ucip_adapt.errors import UcipError\n"
        "import ucip_adapt.upscaler\n"
        "taken = []\n"
        "for _ in range(3):\n"  # a busy machine may hold up one of them
        "    start = time.monotonic()\n"
        "    try:\n"
        "        ucip_adapt.load('user/ucip-webp')\n"
        "    except UcipError as error:\n"
        "        message = error\n"
        "        taken.append(time.monotonic() - start)\n"
        "print(min(taken), message)\n"
    )
    value = {"HF_ENDPOINT": silent, "HF_HUB_OFFLINE": "1"}[setting]
    done = client(code=code, **{setting: value})
    assert done.returncode == 0, done.stderr
    seconds, _, message = done.stdout.partition(" ")
    assert "is not in the cache" in message
    assert float(seconds) < 2, "huggingface_hub itself gives up after 24 s"


def test_verify_sees_a_changed_byte_and_another_base(tmp_path, capsys):
    folder = tmp_path / "mine"
    shutil.copytree(WEBP, folder)
    assert main(["adapters", "verify", str(folder)]) == 0
    (folder / "before_after.png").unlink()  # as in the wheel
    assert main(["adapters", "verify", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "WRONG" not in said
    assert "picture is not here" in said
    weights = folder / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    assert main(["adapters", "verify", str(folder)]) == 1
    assert "WRONG" in capsys.readouterr().out
    assert main(["adapters", "publish", str(folder), "--repo-id", "user/x"]) == 2
    assert "is not published" in capsys.readouterr().err
    assert main(["adapters", "verify", str(WEBP), "--base", "ucip-tiny-v1"]) == 1
    assert "WRONG" in capsys.readouterr().out


def test_list_and_show_say_what_the_files_say(capsys):
    assert main(["adapters", "list", "--json"]) == 0
    listed = {info["name"]: info for info in json.loads(capsys.readouterr().out)}
    assert main(["adapters", "show", "webp", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    config = json.loads((WEBP / "adapter_config.json").read_text())
    assert shown == listed["webp"]
    assert shown["sha256"] == config["weights_sha256"]
    assert shown["qualities"] == config["qualities"]
    assert main(["adapters", "show", "wepb"]) == 2
    assert "did you mean 'webp'" in capsys.readouterr().err


def test_a_card_cannot_choose_a_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "mine"
    shutil.copytree(WEBP, folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["codec"] = "command:touch pwned {in} {out}\x1b[31m"
    (folder / "adapter_config.json").write_text(json.dumps(config))
    assert main(["adapters", "show", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "command:touch pwned" in shown
    assert "\x1b" not in shown
    main(["adapters", "verify", str(folder)])
    assert "\x1b" not in capsys.readouterr().out
    assert not (tmp_path / "pwned").exists()
