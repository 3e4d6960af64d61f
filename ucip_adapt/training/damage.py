"""The damage that a base learns, and whether it can be measured; both known before the training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ucip_adapt.codecs import Codec, get_codec
from ucip_adapt.codecs.base import NamedCodec, code_image, fingerprint_digest
from ucip_adapt.codecs.streams import REFERENCE, use_streams
from ucip_adapt.data import ArrayCache, EvalSet, Setting, parse_settings
from ucip_adapt.data.benchmarks import EMBEDDED
from ucip_adapt.data.degrade import compress_lr, require_codec
from ucip_adapt.errors import CodecError, ConfigError, DataError
from ucip_adapt.evaluation import check_names, source_of
from ucip_adapt.suites import fill_suite, load_suite
from ucip_adapt.suites.published import public
from ucip_adapt.suites.read import open_suite

__all__ = ["choose_damage", "code_first", "codec_digests", "read_settings", "unscored"]

_DEFAULT = ("jpeg:10", "jpeg:20", "jpeg:30", "jpeg:40")


def read_settings(texts: Sequence[str]) -> list[Setting]:
    """Turn ``codec:quality`` into settings.

    Args:
        texts: What ``--settings`` says.

    Returns:
        One setting per text.

    Raises:
        ConfigError: If there is none, or one is malformed, out of range or named twice.
        UnknownNameError: If there is no such codec.

    Example:
        >>> read_settings(["jpeg:10", "webp:40"])
        [Setting(codec='jpeg', quality=10), Setting(codec='webp', quality=40)]
    """
    if not texts:
        raise ConfigError("--settings names no damage to learn: write CODEC:QUALITY, as jpeg:40")
    settings = []
    for text in texts:
        codec, _, quality = text.partition(":")
        if not quality.isdecimal():
            raise ConfigError(f"--settings {text}: write CODEC:QUALITY, such as jpeg:40")
        settings += parse_settings(codec, (int(quality),))
    check_names("setting of --settings", map(str, settings))
    return settings


def choose_damage(
    texts: Sequence[str] | None,
    *,
    suite: str | None = None,
    suite_dir: Path | None = None,
    data_root: Path | None = None,
    allow_command: bool = False,
) -> tuple[list[Setting], list[int] | None]:
    """Settings to train on; every codec works here and is known to this process from now on.

    HM and VTM read what is stored of their streams.

    Args:
        texts: What ``--settings`` says; None is JPEG 10 to 40 where no suite is named.
        suite: Name or file of a suite to compress on the fly.
        suite_dir: Folder of a built one.
        data_root: Folder of the data, whose stored streams are read besides the embedded ones.
        allow_command: Whether a suite may name ``command:``, ``folder:`` and ``streams:`` codecs.

    Returns:
        The settings, and the number of the slot of each; None makes each codec a slot.

    Raises:
        ConfigError: If more than one of the three sources is named, or a setting is wrong.
        UnknownNameError: If there is no such codec.
        CommandRefusedError: If a suite names a program and that is not allowed.
        CodecError: If a codec does not work here.
        DataError: If there is no finished build in the folder.

    Example:
        >>> settings, slots = choose_damage(None)
        >>> [str(setting) for setting in settings], slots
        (['jpeg:10', 'jpeg:20', 'jpeg:30', 'jpeg:40'], None)
    """
    if suite_dir is not None and suite is not None:
        raise ConfigError("--suite_dir says itself which suite it holds; leave --suite out")
    if texts is not None and (suite, suite_dir) != (None, None):
        given = "--suite" if suite_dir is None else "--suite_dir"
        raise ConfigError(
            f"--settings and {given}: a suite brings its own settings; give one of the two (for "
            "settings of a file: --settings none)"
        )
    slots: list[int] | None = None
    if suite_dir is not None:
        built = open_suite(suite_dir)
        settings, slots = built.settings, built.slot_numbers
        use_streams({setting.codec for setting in settings}, data_root)
    elif suite is not None:
        use_streams(REFERENCE, data_root)
        loaded = load_suite(suite, allow_command=allow_command)
        filled = fill_suite(loaded, allow_command=allow_command)
        settings, slots = filled.settings, filled.slot_numbers
    else:
        named = _DEFAULT if texts is None else texts
        use_streams([text.partition(":")[0] for text in named], data_root)
        settings = read_settings(named)
    for codec in dict.fromkeys(setting.codec for setting in settings):
        get_codec(codec, allow_command=allow_command)
        require_codec(codec)
    return settings, slots


def codec_digests(settings: Sequence[Setting], suite_dir: Path | None = None) -> dict[str, str]:
    """What made the damage: a program or a library may be another one under the same name by then.

    Args:
        settings: Codecs and qualities.
        suite_dir: Folder of the built suite that the training images come from; what coded them is
            what counts, not what is here.

    Returns:
        The digest of each codec's fingerprint, by name. Where programs lie makes no difference.

    Raises:
        CodecError: If a codec is not available.
        DataError: If there is no finished build in the folder.

    Example:
        >>> len(codec_digests([Setting("webp", 10), Setting("webp", 40)])["webp"])
        16
    """
    if suite_dir is None:
        names = dict.fromkeys(setting.codec for setting in settings)
        found = {name: require_codec(name).fingerprint() for name in names}
    else:
        built = open_suite(suite_dir)
        records = zip(built.settings, built.manifest["settings"], strict=True)
        found = {setting.codec: record["fingerprint"] for setting, record in records}
    return {name: fingerprint_digest(public(what)) for name, what in found.items()}


def unscored(validation: EvalSet, settings: Sequence[Setting]) -> list[str]:
    """Settings at which the validation images have no score.

    Args:
        validation: The images.
        settings: Codecs and qualities.

    Returns:
        A phrase with the reason for each such setting.

    Raises:
        DataError: If there is a score at none of them: a training could not be judged.
        CodecError: If a codec is not available.

    Example:
        >>> from ucip_adapt.data import load_eval_set
        >>> unscored(load_eval_set("GB82-val", limit=1), [Setting("jpeg", 10)])
        []
    """
    reasons = [
        f"{validation.name} at {setting}: {reason}"
        for setting in settings
        for codec, reason in [source_of(validation, setting)]
        if codec is None
    ]
    if len(reasons) == len(settings):
        raise DataError(
            f"--validation_data_dir: {reasons[0]}; name other images or settings, or build the "
            "encoder (docs/codecs.md)"
        )
    return reasons


def code_first(
    image_set: EvalSet, settings: Sequence[Setting], cache: ArrayCache, *, option: str
) -> None:
    """Code the first image of a set at every setting, as evaluation will.

    What a codec cannot do is known then before hours of training, not after. Of codecs that go by
    names every image is looked up: that costs little, and the first one tells nothing of the rest.

    Args:
        image_set: The set.
        settings: Codecs and qualities; those without a score on the set are passed over.
        cache: Where decoded pixels are kept.
        option: What names the set, for the message.

    Raises:
        CodecError: If a codec fails, or one that goes by names lacks an image of the set.

    Example:
        >>> import tempfile
        >>> from ucip_adapt.data import load_eval_set
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     validation = load_eval_set("GB82-val", limit=1)
        ...     code_first(
        ...         validation,
        ...         [Setting("jpeg", 10)],
        ...         ArrayCache(Path(folder)),
        ...         option="--validation_data_dir",
        ...     )
    """
    first = image_set.images[0]
    for setting in settings:
        codec, _ = source_of(image_set, setting)
        if isinstance(codec, NamedCodec):
            _look_up(image_set, setting, codec, option)
        elif codec is not None:
            compress_lr(first.lr, setting, cache, codec=codec, name=first.name)


def _look_up(image_set: EvalSet, setting: Setting, codec: Codec, option: str) -> None:
    # Not through the cache, whose keys ask for all files of a folder with every image.
    for image in image_set.images:
        try:
            code_image(codec, image.lr, setting.quality, name=image.name)
        except CodecError as error:
            whose = ", the package's own images" if image_set.name == EMBEDDED else ""
            raise CodecError(
                f"{error}. '{image.name}' is one of {image_set.name}{whose}: put its coded version "
                f"there, or name images that have one by {option}"
            ) from error
