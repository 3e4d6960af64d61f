"""Folders that are written at once, uploads that leave out what is nobody's business."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from ucip_adapt.hub import folders
from ucip_adapt.hub.folders import (
    HubError,
    PublishError,
    publish_adapter,
    publish_base,
    push_folder,
    repository_name,
)
from ucip_adapt.models import UCIP, UCIPConfig
from ucip_adapt.training.results import read_results
from ucip_adapt.tuning import DynamicPromptConfig, add_prompt_adapter, load_prompt_adapter


def rows(*values):
    return [
        {
            "method": method,
            "dataset": "Set5",
            "codec": "webp",
            "quality": 10,
            "protocol": "y-c4",
            "psnr_db": value,
            "ssim": 0.5,
            "images": 1,
        }
        for method, value in zip(("bicubic", "base", "adapter"), values, strict=True)
    ]


@pytest.fixture
def record():
    return {
        "kind": "tune_prompts",
        "command": "python x",
        "config": {
            "train_data_dir": ["embedded"],
            "pretrained_model_name_or_path": "ucip-tiny",
            "codec": "webp",
            "qualities": [10],
            "settings": ["jpeg:10"],
            "trainable": "dpm",
            "trainable_blocks": "all",
            "peft_method": "prompts",
            "max_train_steps": 3,
            "train_batch_size": 4,
            "gradient_accumulation_steps": 1,
            "patch_size": 32,
            "learning_rate": 3e-2,
        },
        "environment": {"gpu": None, "cpu": "EPYC", "torch_threads": 2, "processes": 1},
        "seconds": {"training": 1.0},
        "parameters": {
            "total": 22_467,
            "trained": 272,
            "base_fingerprint": "ab" * 32,
            "fingerprint": "cd" * 32,
            "protocol": "iv",
        },
        "scores": {"rows": rows(25.0, 25.5, 25.75)},
    }


def make_base(seed=0):
    torch.manual_seed(seed)
    return UCIP(UCIPConfig.preset("nano"))


def make_adapter(seed=0):
    adapted = add_prompt_adapter(make_base(), DynamicPromptConfig(codec="webp", qualities=[10]))
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape))
    return adapted


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def picture(path: Path) -> None:
    path.write_bytes(b"a picture")


def test_an_adapters_folder(record, tmp_path):
    adapted = make_adapter()
    complete = publish_adapter(adapted, tmp_path / "out", record, picture=picture)
    found = content(tmp_path / "out")
    assert found.keys() == {
        *("adapter_config.json", "adapter_model.safetensors", "before_after.png"),
        *("README.md", "LICENSE", "results.json"),
    }
    assert complete["parameters"]["adapter_bytes"] == len(found["adapter_model.safetensors"])
    stored = read_results(tmp_path / "out" / "results.json")
    assert stored["parameters"] == complete["parameters"]
    assert stored["files"].keys() == {
        *("adapter_config.json", "adapter_model.safetensors", "before_after.png")
    }
    metrics = json.loads(found["adapter_config.json"])["metrics"]
    assert metrics == {
        "protocol": "y-c4",
        "psnr_db": {"Set5": {"bicubic": 25.0, "base": 25.5, "adapter": 25.75}},
    }
    loaded = load_prompt_adapter(tmp_path / "out", make_base())
    lq = torch.rand(1, 3, 12, 12)
    with torch.no_grad():
        assert torch.equal(loaded.eval()(lq), adapted.eval()(lq))


def test_an_infinite_score_is_still_json(record, tmp_path):
    record["scores"]["rows"] = rows(float("inf"), 25.5, 25.75)
    with pytest.warns(UserWarning, match="is inf; written as null"):
        publish_adapter(make_adapter(), tmp_path / "out", record)

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    for name in ("adapter_config.json", "results.json"):
        json.loads((tmp_path / "out" / name).read_text(encoding="utf-8"), parse_constant=refuse)


def test_a_bases_folder(record, tmp_path):
    base = make_base()
    publish_base(base, tmp_path / "out", {**record, "kind": "pretrain_base"}, name="ucip-nano")
    assert content(tmp_path / "out").keys() == {
        *("config.json", "model.safetensors", "README.md", "LICENSE", "results.json")
    }
    assert "# ucip-nano" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert UCIP.from_pretrained(tmp_path / "out").fingerprint == base.fingerprint


def publish(kind, folder, record, seed):
    if kind == "adapter":
        publish_adapter(make_adapter(seed), folder, record, picture=picture)
    else:
        publish_base(make_base(seed), folder, {**record, "kind": kind}, name="n", picture=picture)


@pytest.mark.parametrize("kind", ["adapter", "pretrain_base"])
@pytest.mark.parametrize("last", ["results.json", "README.md"])
def test_a_failure_at_any_file_leaves_the_earlier_result(record, tmp_path, monkeypatch, kind, last):
    folder = tmp_path / "out"
    publish(kind, folder, record, seed=1)
    before = content(folder)

    def full(*_):
        raise OSError(28, "No space left on device")

    if last == "results.json":
        monkeypatch.setattr(folders, "write_results", full)
    else:
        monkeypatch.setattr(folders, "write_atomically", full)
    message = r"cannot write the result to .*out: .*No space left on device\. What was there before"
    with pytest.raises(PublishError, match=message):
        publish(kind, folder, record, seed=2)
    assert content(folder) == before
    assert not [path for path in folder.iterdir() if path.is_dir()], "no leftover"
    monkeypatch.undo()
    publish(kind, folder, record, seed=2)
    assert content(folder) != before


@pytest.mark.parametrize("kind", ["adapter", "pretrain_base"])
def test_the_results_file_is_the_first_to_go_and_the_last_to_come(
    record, tmp_path, monkeypatch, kind
):
    """Runs and cells that are resumed take a folder with one for finished."""
    folder, replace, moved = tmp_path / "out", Path.replace, []
    publish(kind, folder, record, seed=1)
    old = content(folder)

    def watched(path, target):
        if Path(target).parent == folder:
            assert not (folder / "results.json").exists(), "it is of other files"
            moved.append(path.name)
        return replace(path, target)

    def backwards(path, listed=Path.iterdir):
        return iter(sorted(listed(path), key=lambda one: one.name != "results.json"))

    monkeypatch.setattr(Path, "replace", watched)
    monkeypatch.setattr(Path, "iterdir", backwards)
    publish(kind, folder, record, seed=2)
    assert sorted(moved) == sorted(old)
    assert moved[-1] == "results.json"


def test_a_failure_between_two_files_is_no_finished_result(record, tmp_path, monkeypatch):
    folder, replace = tmp_path / "out", Path.replace
    publish("adapter", folder, record, seed=1)

    def broken(path, target):
        if Path(target) == folder / "README.md":
            raise OSError(5, "Input/output error")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", broken)
    message = r"Input/output error.*\. Its files are partly new, and without results\.json it does"
    with pytest.raises(PublishError, match=message):
        publish("adapter", folder, record, seed=2)
    assert not (folder / "results.json").exists()
    monkeypatch.undo()
    publish("adapter", folder, record, seed=2)
    assert (folder / "results.json").exists()


@pytest.mark.parametrize("kinds", [("adapter", "base"), ("base", "adapter")])
def test_of_another_kind_of_result_nothing_stays(record, tmp_path, kinds):
    """A folder with both would be taken for one by some commands, for the other by others."""
    own = tmp_path / "out" / "mine.txt"
    publish(kinds[0], tmp_path / "out", record, seed=0)
    own.write_text("not a result's", encoding="utf-8")
    publish(kinds[1], tmp_path / "out", record, seed=1)
    publish(kinds[1], tmp_path / "alone", record, seed=1)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {own.name, *(path.name for path in (tmp_path / "alone").iterdir())}


def test_a_folder_that_is_a_file(record, tmp_path):
    (tmp_path / "out").write_text("in the way", encoding="utf-8")
    with pytest.raises(PublishError, match=r"cannot write the result to .*out"):
        publish_adapter(make_adapter(), tmp_path / "out", record)


# -- uploads ----------------------------------------------------------------------------------


class Hub:
    """Stands for HfApi: notes what would be sent, as the library itself would choose it."""

    def __init__(self, monkeypatch, error=None):
        self.sent = self.deleted = None
        self.repository = None

        def create_repo(_, repo_id, *, exist_ok):
            assert exist_ok
            if error is not None:
                raise error
            self.repository = repo_id
            return type("Url", (), {"repo_id": f"{repo_id}"})()

        def upload_folder(
            _,
            *,
            repo_id,
            folder_path,
            commit_message,
            allow_patterns,
            ignore_patterns,
            delete_patterns,
        ):
            from huggingface_hub.utils import filter_repo_objects

            assert repo_id == self.repository
            assert commit_message
            every = [
                path.relative_to(folder_path).as_posix()
                for path in Path(folder_path).rglob("*")
                if path.is_file()
            ]
            patterns = {"allow_patterns": allow_patterns, "ignore_patterns": ignore_patterns}
            self.sent = set(filter_repo_objects(every, **patterns))
            self.deleted = delete_patterns

        monkeypatch.setattr(HfApi, "create_repo", create_repo)
        monkeypatch.setattr(HfApi, "upload_folder", upload_folder)


@pytest.fixture
def finished(record, tmp_path):
    folder = tmp_path / "out"
    publish_adapter(make_adapter(), folder, record, picture=picture)
    for name in (
        "checkpoints/step-00000003/optimizer.bin",
        "checkpoints/.lock",
        "a.tmp",
        ".tmp-1/x",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    log = folder / "tensorboard" / "ucip_adapt" / "events.out.tfevents.1.host"
    log.parent.mkdir(parents=True)
    log.write_bytes(b"x")
    return folder


def test_checkpoints_and_logs_stay_at_home(finished, monkeypatch):
    hub = Hub(monkeypatch)
    assert push_folder(finished, "me/mine", default_name="ucip-webp") == "me/mine"
    assert hub.sent == {
        *("adapter_config.json", "adapter_model.safetensors", "before_after.png"),
        *("README.md", "LICENSE", "results.json"),
    }


def test_only_named_files_are_sent(finished, monkeypatch):
    hub = Hub(monkeypatch)
    push_folder(finished, "me/mine", default_name="ucip-webp", only=["README.md", "LICENSE"])
    assert hub.sent == {"README.md", "LICENSE"}
    assert hub.deleted is None
    push_folder(finished, "me/mine", default_name="ucip-webp", only=["README.md", "gone.png"])
    assert hub.deleted == ["gone.png"]


def test_the_namespace_names_the_repository(finished, monkeypatch):
    monkeypatch.setenv("UCIP_HUB_NAMESPACE", "lab")
    hub = Hub(monkeypatch)
    assert push_folder(finished, None, default_name="ucip-webp") == "lab/ucip-webp"
    assert hub.repository == "lab/ucip-webp"


def test_without_a_repository_nothing_is_asked(finished, monkeypatch):
    monkeypatch.delenv("UCIP_HUB_NAMESPACE", raising=False)
    hub = Hub(monkeypatch)
    with pytest.raises(HubError, match=r"give --repo-id \(a recipe: --hub_model_id\), or set UCIP"):
        push_folder(finished, None, default_name="ucip-webp")
    assert hub.repository is None


def test_a_name_that_no_repository_can_have_is_an_error(finished, monkeypatch):
    hub = Hub(monkeypatch)
    for name in ("me/a b", "me/command:c", "a/b/c", "me/x--y"):
        with pytest.raises(HubError, match=rf"'{name}' cannot be the name .*--repo-id"):
            push_folder(finished, name, default_name="ucip-webp")
    assert hub.repository is None


@pytest.mark.parametrize(
    ("default", "name"),
    [
        ("ucip-webp", "lab/ucip-webp"),
        ("ucip-my enc", "lab/ucip-my-enc"),
        ("ucip-command:c {q}", "lab/ucip-command-c-q"),
        ("ucip-x -- y.", "lab/ucip-x-y"),
    ],
)
def test_the_default_name_is_one_that_the_hub_takes(monkeypatch, default, name):
    monkeypatch.setenv("UCIP_HUB_NAMESPACE", "lab")
    assert repository_name(None, default_name=default) == name
    assert repository_name("me/mine", default_name=default) == "me/mine"


def refusal():
    """As the library raises it, whichever HTTP client it uses."""
    answer = SimpleNamespace(headers={}, request=None, status_code=403)
    return HfHubHTTPError("403 Forbidden", response=answer)


@pytest.mark.parametrize("error", [ConnectionError("no route"), refusal()])
def test_a_refusal_says_that_the_folder_is_complete(finished, monkeypatch, error):
    Hub(monkeypatch, error)
    message = r"cannot upload .*out to me/mine: .*(no route|403).* The folder itself is complete"
    with pytest.raises(HubError, match=message):
        push_folder(finished, "me/mine", default_name="ucip-webp")


def test_offline_is_an_error_without_a_traceback(finished, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HubError, match="cannot upload"):
        push_folder(finished, "me/mine", default_name="ucip-webp")
