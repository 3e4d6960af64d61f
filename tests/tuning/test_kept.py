"""What a tuning step keeps for backward, and whom it computes gradients for: counts, not times."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from ucip_adapt import UCIP, UCIPConfig
from ucip_adapt.tuning import DynamicPromptConfig, add_prompt_adapter, full_tuning

SIZE = (12, 16)
PIXELS = SIZE[0] * SIZE[1]


def build(trained: str, *, preset: str = "tiny", **changes: object) -> nn.Module:
    torch.manual_seed(0)
    if preset == "tiny":
        changes = {"num_blocks": 4, "num_layers": 2, **changes}
    base = UCIP(UCIPConfig.preset(preset, **changes))
    if trained == "everything":
        full_tuning(base)
        return base
    name, _, blocks = trained.partition("@")
    config = DynamicPromptConfig(trainable_set=name, trainable_blocks=blocks or "all")
    return add_prompt_adapter(base, config).train()


def kept(model: nn.Module, *, only: nn.Module | None = None) -> Counter[tuple[int, ...]]:
    """Bytes that a forward pass keeps for backward, by shape; parameters and views once or never.

    Args:
        model: The network.
        only: Count what is kept inside of this part.
    """
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found: Counter[tuple[int, ...]] = Counter()
    held: dict[int, Tensor] = {}  # alive, so that no address comes twice
    counting = only is None

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if counting and storage.data_ptr() not in own and storage.data_ptr() not in held:
            held[storage.data_ptr()] = tensor
            found[tuple(tensor.shape)] += storage.nbytes()
        return tensor

    def switch(value: bool) -> None:
        nonlocal counting
        counting = value

    handles = []
    if only is not None:
        handles = [
            only.register_forward_pre_hook(lambda *_: switch(value=True)),
            only.register_forward_hook(lambda *_: switch(value=False)),
        ]
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(torch.rand(1, 3, *SIZE)).square().mean()
    for handle in handles:
        handle.remove()
    loss.backward()
    return found


def test_prompts_alone_keep_at_most_three_fifths():
    """Of what tuning everything in the full network keeps."""
    whole, prompts = (kept(build(name, preset="full")).total() for name in ("everything", "dpm"))
    assert prompts <= 0.6 * whole


def test_a_layer_of_frozen_weights_keeps_just_what_gradients_need():
    """Of tensors with C channels: the inputs of both norms, what is sampled and the offsets, two
    mapped branches, SPADE's input and scale, and the input of the MLP's GELU (2 C)."""
    model = build("dpm", embed_dim=32)
    layer = model.get_base_model().blocks[1].layers[1]
    channels = kept(model, only=layer).total() / 4 / PIXELS / 32
    half_prompt, statistics = 12 / 32, 0.16
    assert channels <= 2 + 1 + 1 + 2 + 2 + 2 + half_prompt + statistics


def test_no_gradient_is_computed_for_frozen_weights():
    """The graph of a prompt step holds no frozen parameter."""
    model = build("dpm")
    loss = model(torch.rand(1, 3, *SIZE)).square().mean()
    reached: set[int] = set()
    seen, stack = set(), [loss.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            reached.add(id(node.variable))
        stack += [following for following, _ in node.next_functions]
    assert reached == {id(p) for p in model.parameters() if p.requires_grad}
    loss.backward()
    assert all((p.grad is None) != p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("trained", ["dpm", "dpm+offset+spade"])
def test_nothing_is_kept_of_blocks_before_the_first_trained_one(trained):
    model = build(f"{trained}@last:1")
    blocks = model.get_base_model().blocks
    assert [sum(kept(model, only=block).values()) > 0 for block in blocks] == [False] * 3 + [True]


def test_a_frozen_prefix_takes_the_path_without_graph(monkeypatch):
    folded: list[nn.Module] = []
    from ucip_adapt.models import token_mixer

    plain = token_mixer.fold_mixer

    def watch(mixer, means):
        folded.append(mixer)
        return plain(mixer, means)

    monkeypatch.setattr(token_mixer, "fold_mixer", watch)
    model = build("dpm@last:1")
    blocks = model.get_base_model().blocks
    model(torch.rand(1, 3, *SIZE)).sum().backward()
    assert folded == [layer.mixer for block in blocks[:3] for layer in block.layers]


@pytest.mark.parametrize("trained", ["everything", "dpm", "dpm@last:2"])
def test_checkpointing_keeps_a_twentieth(trained):
    """Features between blocks are all that stays; gradients are the same to the bit."""
    whole = kept(build("everything")).total()
    gradients, sizes = [], []
    for checkpointing in (False, True):
        model = build(trained)
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        if checkpointing:
            base.enable_gradient_checkpointing()
        torch.manual_seed(1)
        sizes.append(kept(model).total())
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
    assert sizes[1] <= 0.05 * whole
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
