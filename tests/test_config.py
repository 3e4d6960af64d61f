from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import pytest

from ucip_adapt.config import option, parse_config, required, run_recipe, to_dict
from ucip_adapt.errors import ConfigError, NonFiniteError


@dataclass(frozen=True)
class Options:
    codec: str = required("Name of the codec.")
    learning_rate: float = option(3e-4, "Peak step size of Adam.", minimum=0.0)
    max_train_steps: int = option(300, "Length.", unit="optimizer steps", minimum=1, maximum=10**6)
    qualities: tuple[int, ...] = option((10, 20), "Codec qualities.", minimum=0, maximum=100)
    sets: tuple[str, ...] = option((), "Test sets.")
    output_dir: Path = option(Path("runs/demo"), "Where results go.")
    resume_from_checkpoint: str | None = option(None, "A folder, or 'latest'.")
    validation_steps: int | None = option(50, "Steps between validations.")
    mixed_precision: Literal["no", "fp16", "bf16"] = option("no", "Number format, 100 % optional.")
    window: Literal[0, 48, 64] = option(0, "Window size.", unit="LR pixels")
    dry_run: bool = option(False, "Print the plan and stop.")
    ema: bool = option(True, "Average the weights.")


def parse(*argv: str) -> Options:
    return parse_config(Options, ["--codec", "webp", *argv], prog="demo", description="A demo.")


def write(folder: Path, text: str) -> str:
    file = folder / "run.toml"
    file.write_text(text, encoding="utf-8")
    return str(file)


def test_defaults_are_those_of_the_class() -> None:
    assert parse() == Options("webp")


def test_every_kind_of_value_from_flags() -> None:
    config = parse(
        *("--learning_rate=1e-3", "--max_train_steps", "7", "--qualities", "10,20", "30"),
        *("--sets", "Set5", "Set14", "--output_dir", "a-b/c_d", "--resume_from_checkpoint=latest"),
        *("--validation_steps", "none", "--mixed_precision", "bf16", "--window", "48"),
        *("--dry_run", "--no_ema"),
    )
    assert config == Options(
        "webp", 1e-3, 7, (10, 20, 30), ("Set5", "Set14"), Path("a-b/c_d"), "latest", None, "bf16",
        48, dry_run=True, ema=False,
    )  # fmt: skip


def test_a_flag_that_is_given_twice_adds_to_a_list() -> None:
    config = parse("--sets", "Set5", "--qualities", "10", "--sets", "Set14", "--qualities=20,30")
    assert config.sets == ("Set5", "Set14")
    assert config.qualities == (10, 20, 30)


def test_every_kind_of_value_from_toml(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        'learning_rate = 3e-4\nmax-train-steps = 1_000\nqualities = [10]\nsets = ["Set5"]\n'
        'output_dir = "a-b/c_d"\nresume_from_checkpoint = "latest"\nvalidation_steps = "none"\n'
        'mixed_precision = "fp16"\nwindow = 64\ndry_run = true\nema = false\n',
    )
    assert parse("--config", file) == Options(
        "webp", 3e-4, 1000, (10,), ("Set5",), Path("a-b/c_d"), "latest", None, "fp16",
        64, dry_run=True, ema=False,
    )  # fmt: skip


def test_a_whole_number_is_a_float_where_a_float_is_wanted(tmp_path: Path) -> None:
    config = parse("--config", write(tmp_path, "learning_rate = 1"))
    assert config.learning_rate == 1.0
    assert type(config.learning_rate) is float


@pytest.mark.parametrize("flag_first", [True, False])
def test_a_flag_wins_over_the_file_in_either_order(tmp_path: Path, *, flag_first: bool) -> None:
    file = ["--config", write(tmp_path, "max_train_steps = 5\nlearning_rate = 0.5")]
    flag = ["--max-train-steps", "9"]
    config = parse(*(flag + file if flag_first else file + flag))
    assert (config.max_train_steps, config.learning_rate) == (9, 0.5)


@pytest.mark.parametrize("name", [field.name for field in fields(Options)])
def test_hyphen_and_underscore_are_the_same(name: str) -> None:
    value = {"mixed_precision": "fp16", "dry_run": "true", "ema": "true", "window": "48"}
    text = value.get(name, "3")
    with_hyphens = parse(f"--{name.replace('_', '-')}={text}")
    assert with_hyphens == parse(f"--{name}", text)
    assert with_hyphens != Options("webp") or name == "ema"


def test_hyphens_in_values_stay() -> None:
    assert parse("--output-dir", "my-runs/a_b").output_dir == Path("my-runs/a_b")
    assert parse("--output-dir=my-runs/a_b").output_dir == Path("my-runs/a_b")


@pytest.mark.parametrize("argv", [["10", "20"], ["10,20"], ["10, 20"], ["10 20"], ["10,", "20"]])
def test_lists_are_separated_by_blanks_or_commas(argv: list[str]) -> None:
    assert parse("--qualities", *argv).qualities == (10, 20)


def test_a_path_that_is_there_is_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my photos, 2").mkdir()
    for argv, expected in [
        (["--sets", "my photos, 2", "Set5,Set14"], ("my photos, 2", "Set5", "Set14")),
        (["--sets", "own=my photos, 2"], ("own=my photos, 2",)),
        (["--sets", "my photos"], ("my", "photos")),
        (["--sets", "a=b,c=d"], ("a=b", "c=d")),
    ]:
        assert parse(*argv).sets == expected


def test_paths_in_a_list_keep_their_blanks() -> None:
    @dataclass(frozen=True)
    class Folders:
        train_data_dir: tuple[Path, ...] = required("Folders with images.")

    config = parse_config(Folders, ["--train_data_dir", "my images", "b,c"], prog="demo")
    assert config.train_data_dir == (Path("my images"), Path("b,c"))


def test_bool_flags_take_a_value_or_none() -> None:
    assert parse("--dry-run").dry_run
    assert parse("--dry-run", "true").dry_run
    assert not parse("--dry-run", "false").dry_run
    assert not parse("--no-ema").ema
    assert parse("--no-ema", "--ema").ema  # the last one counts, as everywhere


def test_the_ends_of_a_range_belong_to_it() -> None:
    config = parse("--learning_rate=0", "--max_train_steps=1", "--qualities", "0", "100")
    assert (config.learning_rate, config.max_train_steps, config.qualities) == (0.0, 1, (0, 100))
    assert parse("--max_train_steps=1000000").max_train_steps == 10**6


def test_an_empty_list_is_possible(tmp_path: Path) -> None:
    assert parse("--qualities").qualities == ()
    assert parse("--config", write(tmp_path, "qualities = []")).qualities == ()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--learnig_rate", "1"], r"unknown flag '--learnig_rate'; did you mean '--learning_rate'"),
        (["--max-trian-steps=3"], r"unknown flag '--max_trian_steps'; .* '--max_train_steps'"),
        (["--max_train"], r"unknown flag '--max_train'.*Known: --codec, --config, .*--window"),
        (["-x"], r"unknown flag '-x'"),
        (["stray"], r"unexpected argument 'stray'$"),
        (["--learning_rate"], r"--learning_rate: expected one argument"),
        (["--learning_rate", "fast"], r"--learning_rate: expected a number, got 'fast'"),
        (["--learning_rate", "nan"], r"--learning_rate: nan is not a value"),
        (["--learning_rate=-0.1"], r"--learning_rate: -0.1 is below the smallest allowed, 0.0"),
        (["--max_train_steps", "1.5"], r"--max_train_steps: expected a whole number, got '1.5'"),
        (["--max_train_steps", "2000000"], r"2000000 is above the largest allowed, 1000000"),
        (["--qualities", "10", "x"], r"--qualities: expected a whole number, got 'x'"),
        (["--qualities", "10", "101"], r"--qualities: 101 is above the largest allowed, 100"),
        (["--mixed_precision", "fp61"], r"unknown value of --mixed_precision: 'fp61'; .* 'fp16'"),
        (["--window", "32"], r"unknown value of --window: '32'.* Known: 0, 48, 64"),
        (["--dry_run", "maybe"], r"--dry_run: expected true or false, got 'maybe'"),
        (["--output_dir", ""], r"--output_dir: an empty path"),
        (["--learning_rate", "none"], r"--learning_rate: expected a number, got 'none'"),
    ],
)
def test_bad_flags_are_errors_that_say_what_to_do(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(*argv)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "learnig_rate = 1",
            r"unknown key in .*run.toml: 'learnig_rate'; .* 'learning_rate'\? Known",
        ),
        ("[train]\nseed = 1", r"unknown key in .*run.toml: 'train'"),
        ("[codec]\nname = 'webp'", r"run.toml: codec: expected text in quotes, got \{"),
        ('learning_rate = "3e-4"', r"run.toml: learning_rate: expected a number, got '3e-4'"),
        ("learning_rate = true", r"run.toml: learning_rate: expected a number, got True"),
        ("learning_rate = nan", r"run.toml: learning_rate: nan is not a value"),
        ("max_train_steps = 3.0", r"run.toml: max_train_steps: expected a whole number, got 3.0"),
        ("max_train_steps = true", r"max_train_steps: expected a whole number, got True"),
        ("max_train_steps = 0", r"run.toml: max_train_steps: 0 is below the smallest allowed, 1"),
        ("qualities = 10", r"run.toml: qualities: expected a list such as \[10\], got 10"),
        ('qualities = [10, "20"]', r"run.toml: qualities: expected a whole number, got '20'"),
        ("codec = 3", r"run.toml: codec: expected text in quotes, got 3"),
        ("output_dir = 3", r"run.toml: output_dir: expected text in quotes, got 3"),
        ("dry_run = 1", r"run.toml: dry_run: expected true or false, got 1"),
        ("window = true", r"unknown value of .*window: 'True'"),
        ('mixed_precision = "fp8"', r"run.toml: mixed_precision: 'fp8'.*Known: bf16, fp16, no"),
        ("dry-run = true\ndry_run = true", r"'dry_run' and 'dry-run' are the same option"),
        ("seed 3", r"run.toml is not valid TOML: .*line 1"),
    ],
)
def test_bad_files_are_errors_with_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse("--config", write(tmp_path, text))


def test_a_bad_value_in_the_file_is_an_error_even_when_a_flag_wins(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="max_train_steps: expected a whole number"):
        parse("--config", write(tmp_path, 'max_train_steps = "5"'), "--max_train_steps", "5")


def test_an_unreadable_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*no.toml: No such file"):
        parse("--config", str(tmp_path / "no.toml"))
    (tmp_path / "latin.toml").write_bytes(b'codec = "\xe9"')
    with pytest.raises(ConfigError, match=r"latin.toml is not a text file in UTF-8"):
        parse("--config", str(tmp_path / "latin.toml"))


def test_a_required_option_must_come_from_somewhere(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--codec is required: Name of the codec\."):
        parse_config(Options, [], prog="demo")
    file = write(tmp_path, 'codec = "jpeg"')
    assert parse_config(Options, ["--config", file], prog="demo").codec == "jpeg"


def test_help_shows_every_option_with_text_default_and_unit(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit, match="0"):
        parse("--help")
    text = " ".join(capsys.readouterr().out.split())
    assert text.startswith("usage: demo")
    assert "A demo." in text
    for expected in [
        "--config FILE.toml",
        "--codec TEXT Name of the codec. [required]",
        "--learning_rate FLOAT Peak step size of Adam. [default: 0.0003]",
        "--max_train_steps INT Length. [unit: optimizer steps; default: 300]",
        "--qualities [INT ...] Codec qualities. [default: 10 20]",
        "--sets [TEXT ...] Test sets. [default: empty]",
        "--output_dir PATH Where results go. [default: runs/demo]",
        "--resume_from_checkpoint TEXT A folder, or 'latest'. [default: none]",
        "--validation_steps INT Steps between validations. [default: 50]",
        "--mixed_precision no|fp16|bf16 Number format, 100 % optional. [default: no]",
        "--window 0|48|64 Window size. [unit: LR pixels; default: 0]",
        "--dry_run [true|false] Print the plan and stop. [default: false]",
        "--ema [true|false] Average the weights. [default: true]",
    ]:
        assert expected in text
    assert all(f"--{field.name} " in text for field in fields(Options))


def test_to_dict_survives_json_and_comes_back(tmp_path: Path) -> None:
    config = parse("--qualities", "10", "--output_dir", "a/b", "--dry_run")
    plain = to_dict(config)
    assert json.loads(json.dumps(plain)) == plain
    assert list(plain) == [field.name for field in fields(Options)]
    assert plain["qualities"] == [10]
    assert plain["output_dir"] == "a/b"
    lines = [f"{key} = {json.dumps(value)}" for key, value in plain.items() if value is not None]
    again = parse_config(Options, ["--config", write(tmp_path, "\n".join(lines))], prog="demo")
    assert again == config


def test_declarations_that_cannot_work_fail_at_once() -> None:
    @dataclass(frozen=True)
    class Bare:
        seed: int = 0

    @dataclass(frozen=True)
    class Reserved:
        config: str = option("x", "Taken by --config FILE.")

    @dataclass(frozen=True)
    class Mapping:
        table: dict[str, int] = required("No such type.")

    @dataclass(frozen=True)
    class TwoTypes:
        value: int | str = option(0, "No such type.")

    @dataclass(frozen=True)
    class Pair:
        size: tuple[int, int] = option((1, 2), "No such type.")

    for cls, message in [
        (Bare, r"Bare.seed: declare it with option\(\)"),
        (Reserved, "Reserved.config: this name belongs to the command line"),
        (Mapping, "Mapping.table: .* is not a type that options can have"),
        (TwoTypes, "of unions only X | None is understood"),
        (Pair, r"Pair.size: of tuples only tuple\[X, ...\] is understood"),
    ]:
        with pytest.raises(TypeError, match=message):
            parse_config(cls, [], prog="demo")


def test_run_recipe_reports_known_errors_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(config: Options) -> None:
        raise NonFiniteError(f"the loss is nan at step {config.max_train_steps}")

    assert run_recipe(fail, Options, description="", argv=["--codec=webp"]) == 2
    assert capsys.readouterr().err == "error: the loss is nan at step 300\n"
    assert run_recipe(fail, Options, description="", argv=["--codek=webp"]) == 2
    assert capsys.readouterr().err.startswith("error: unknown flag '--codek'; did you mean")
    assert run_recipe(lambda _: None, Options, description="", argv=["--codec=webp"]) == 0


def test_run_recipe_prints_the_notes_of_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(config: Options) -> None:
        error = NonFiniteError("the loss is nan")
        error.add_note("the weights are in x")
        raise error

    assert run_recipe(fail, Options, description="", argv=["--codec=webp"]) == 2
    assert capsys.readouterr().err == "error: the loss is nan\nnote: the weights are in x\n"


def test_run_recipe_lets_bugs_keep_their_traceback() -> None:
    def bug(config: Options) -> None:
        raise KeyError(config.codec)

    with pytest.raises(KeyError, match="webp"):
        run_recipe(bug, Options, description="", argv=["--codec=webp"])


def test_a_permission_is_given_by_a_flag_and_never_by_a_file(tmp_path):
    """A configuration may be somebody else's."""

    @dataclass(frozen=True)
    class Permission:
        allow_command: bool = option(False, "Run what is named.", flag_only=True)

    assert parse_config(Permission, ["--allow-command"]).allow_command
    for key in ("allow_command", "allow-command"):
        file = tmp_path / "theirs.toml"
        file.write_text(f"{key} = true\n")
        with pytest.raises(
            ConfigError, match=rf"theirs\.toml: '{key}' is for the command line alone"
        ):
            parse_config(Permission, ["--config", str(file)])


def test_ctrl_c_ends_a_recipe_without_a_traceback(capsys):
    @dataclass(frozen=True)
    class Nothing:
        seed: int = option(0, "Seed.")

    def main(cfg):
        raise KeyboardInterrupt(*(["it is in x"] if cfg.seed else []))

    for flag, said in (("--seed=0", "stopped\n"), ("--seed=1", "stopped: it is in x\n")):
        assert run_recipe(main, Nothing, description="", argv=[flag]) == 130
        assert capsys.readouterr().err == said
