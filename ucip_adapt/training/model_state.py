"""The weights of a checkpoint: all of a model, or only what is trained.

Names are those of the unwrapped model, so that a checkpoint of two processes (whose models are
wrapped for data parallelism) fits one process and the other way round.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ucip_adapt.errors import BaseMismatchError, CheckpointError

__all__ = ["load_weights", "save_weights", "weights_to_save"]

_WHOLE = "model{suffix}.safetensors"
_TRAINABLE = "trainable{suffix}.safetensors"


def weights_to_save(model: nn.Module, *, trainable_only: bool) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors that :func:`save_weights` writes.

    Args:
        model: The unwrapped model.
        trainable_only: Parameters that require gradients only; otherwise the whole state dict.
    """
    if trainable_only:
        return ((n, p.detach()) for n, p in model.named_parameters() if p.requires_grad)
    return iter(model.state_dict().items())


def save_weights(model: nn.Module, folder: Path, *, index: int, trainable_only: bool) -> None:
    """Write the weights into a checkpoint folder, as safetensors.

    A PEFT model with ``trainable_only`` also leaves what its ``save_pretrained`` writes, so that
    ``PeftModel.from_pretrained(base, folder)`` loads the checkpoint as it is. Resuming reads the
    plain file beside it: that one holds whatever was trainable, exactly, under its own name. Where
    parameters of the base were trained as well, no adapter could be loaded onto the base as it was:
    then that is left out, with a warning.

    Args:
        model: The unwrapped model.
        folder: Where to.
        index: Number of the model in the run, from 0.
        trainable_only: Leave out frozen parameters and all buffers. A model whose buffers change
            in training (batch norm) needs False.

    Raises:
        CheckpointError: If nothing is trainable although only that is to be saved.
        OSError: If it cannot be written (safetensors raises its own SafetensorError).
    """
    suffix = f"-{index}" if index else ""
    # Own memory for each tensor: safetensors refuses tied ones.
    tensors = {
        name: tensor.detach().to("cpu", copy=True).contiguous()
        for name, tensor in weights_to_save(model, trainable_only=trainable_only)
    }
    if not tensors:
        raise CheckpointError("the model has no trainable parameter, so there is nothing to save")
    name = (_TRAINABLE if trainable_only else _WHOLE).format(suffix=suffix)
    save_file(tensors, folder / name, metadata={"format": "pt"})
    if not trainable_only:
        return
    peft = sys.modules.get("peft")  # a PEFT model exists only where PEFT has been imported
    if peft is not None and isinstance(model, peft.PeftModel):
        target = folder / f"adapter{suffix}" if index else folder
        try:
            model.save_pretrained(str(target), save_embedding_layers=False)
        except BaseMismatchError as error:
            warnings.warn(
                f"the run can be resumed from {folder.name}, but no adapter can be loaded from it: "
                f"{error}",
                stacklevel=2,
            )


@torch.no_grad()
def load_weights(model: nn.Module, folder: Path, *, index: int, trainable_only: bool) -> None:
    """Read back what :func:`save_weights` wrote; everything is checked before a tensor changes.

    Raises:
        CheckpointError: If names or shapes are not those of the model, or the checkpoint was
            written with the other ``trainable_only``.
    """
    suffix = f"-{index}" if index else ""
    path = folder / (_TRAINABLE if trainable_only else _WHOLE).format(suffix=suffix)
    if not path.is_file():
        raise CheckpointError(
            f"{folder} has no {path.name}: it was written with another save_trainable_only"
        )
    saved = load_file(path)
    wanted = dict(weights_to_save(model, trainable_only=trainable_only))
    if saved.keys() != wanted.keys():
        missing, extra = sorted(wanted.keys() - saved.keys()), sorted(saved.keys() - wanted.keys())
        raise CheckpointError(
            f"{path} holds other tensors than this model: missing {missing[:5]}, "
            f"unexpected {extra[:5]}"
        )
    for name, tensor in wanted.items():
        if saved[name].shape != tensor.shape:
            shapes = f"{tuple(saved[name].shape)}, the model {tuple(tensor.shape)}"
            raise CheckpointError(f"{path}: {name} has shape {shapes}")
    for name, tensor in wanted.items():
        tensor.copy_(saved[name])
