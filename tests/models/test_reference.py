"""The whole network against a second, slow implementation.

It was written from the equations of the paper and of the design notes alone, channels first, in
float64, with loops where loops are plainest. It shares no code with the package; it only reads the
state dict.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ucip_adapt import UCIP

State = Mapping[str, Tensor]
Sample = Callable[[Tensor, Tensor, str], Tensor]


def linear(x: Tensor, state: State, name: str) -> Tensor:
    """Apply a linear layer to every pixel of ``(B, C, H, W)``."""
    weight = state[f"{name}.weight"]
    return F.conv2d(x, weight[:, :, None, None], state[f"{name}.bias"])


def conv(x: Tensor, state: State, name: str, groups: int = 1) -> Tensor:
    weight = state[f"{name}.weight"]
    return F.conv2d(x, weight, state[f"{name}.bias"], padding=weight.shape[-1] // 2, groups=groups)


def layer_norm(x: Tensor, state: State, name: str) -> Tensor:
    mean = x.mean(1, keepdim=True)
    variance = (x - mean).square().mean(1, keepdim=True)
    scale, shift = (state[f"{name}.{part}"][None, :, None, None] for part in ("weight", "bias"))
    return (x - mean) / (variance + 1e-5).sqrt() * scale + shift


def dynamic_prompt(f: Tensor, state: State, name: str, slot: int) -> Tensor:
    basis = state[f"{name}.basis"][slot]  # (D, C_p)
    hidden = F.gelu(linear(f, state, f"{name}.coefficient.fc1"))
    logits = linear(hidden, state, f"{name}.coefficient.fc2")
    weights = logits.exp() / logits.exp().sum(1, keepdim=True)  # (B, D, H, W)
    prompt = torch.zeros(len(f), basis.shape[1], *f.shape[2:], dtype=f.dtype)
    for d in range(len(basis)):
        prompt += weights[:, d, None] * basis[d][None, :, None, None]
    return prompt


def mixer(z: Tensor, offset: Tensor, state: State, name: str, sample: Sample) -> Tensor:
    channels = z.shape[1]
    half = offset.shape[1] // 2
    along_w = sample(z, offset[:, :half], "w")
    along_h = sample(z, offset[:, half:], "h")
    branches = [
        linear(along_w, state, f"{name}.horizontal"),
        linear(along_h, state, f"{name}.vertical"),
        conv(z, state, f"{name}.local", groups=channels),
    ]
    pooled = sum(branches).mean((2, 3), keepdim=True)
    hidden = F.gelu(linear(pooled, state, f"{name}.fusion.fc1"))
    units = linear(hidden, state, f"{name}.fusion.fc2")[:, :, 0, 0]
    mixed = torch.zeros_like(z)
    for c in range(channels):
        amounts = units[:, 3 * c : 3 * c + 3].softmax(1)
        for k, branch in enumerate(branches):
            mixed[:, c] += amounts[:, k, None, None] * branch[:, c]
    return linear(mixed, state, f"{name}.proj")


def spade(x: Tensor, prompt: Tensor, state: State, name: str) -> Tensor:
    mean = x.mean((2, 3), keepdim=True)
    variance = (x - mean).square().mean((2, 3), keepdim=True)
    a = F.relu(conv(prompt, state, f"{name}.shared"))
    gamma, beta = (conv(a, state, f"{name}.{part}") for part in ("gamma", "beta"))
    return (x - mean) / (variance + 1e-5).sqrt() * (1 + gamma) + beta


def block(f_in: Tensor, state: State, name: str, layers: int, slot: int, s: Sample) -> Tensor:
    x = f_in
    prompt = dynamic_prompt(f_in, state, f"{name}.prompt", slot)
    offset = None
    for j in range(layers):
        layer = f"{name}.layers.{j}"
        if j % 2 == 0:
            x = x + conv(x, state, f"{name}.peg", groups=x.shape[1])
            seen = layer_norm(torch.cat([x, prompt], 1), state, f"{layer}.offset.norm")
            offset = linear(seen, state, f"{layer}.offset.linear")
        x = x + mixer(layer_norm(x, state, f"{layer}.norm1"), offset, state, f"{layer}.mixer", s)
        hidden = F.gelu(linear(layer_norm(x, state, f"{layer}.norm2"), state, f"{layer}.mlp.fc1"))
        x = x + linear(hidden, state, f"{layer}.mlp.fc2")
        x = spade(x, prompt, state, f"{layer}.spade")
    return x + f_in


def bicubic_matrix(size: int) -> Tensor:
    """Weights of x4 bicubic (a = -0.5): row i makes output i; its taps inside sum to 1."""
    rows = torch.zeros(4 * size, size, dtype=torch.float64)
    for i in range(4 * size):
        centre = (i + 0.5) / 4 - 0.5
        for k in range(size):
            t = abs(centre - k)
            if t < 1:
                rows[i, k] = 1.5 * t**3 - 2.5 * t**2 + 1
            elif t < 2:
                rows[i, k] = -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    return rows / rows.sum(1, keepdim=True)


def reference_forward(
    lq: Tensor, model: UCIP, sample: Sample, *, slot: int = 0, state: State | None = None
) -> Tensor:
    config = model.config
    state = state or {key: value.double() for key, value in model.state_dict().items()}
    lq = lq.double()
    shallow = conv(lq, state, "embed")
    x = shallow
    for i in range(config.num_blocks):
        x = block(x, state, f"blocks.{i}", config.num_layers, slot, sample)
    x = conv(layer_norm(x, state, "norm"), state, "conv_after_body") + shallow
    x = F.leaky_relu(conv(x, state, "head.conv_before_up"), 0.01)
    for name in ("conv_up1", "conv_up2"):
        x = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        x = F.leaky_relu(conv(x, state, f"head.{name}"), 0.2)
    x = conv(F.leaky_relu(conv(x, state, "head.conv_hr"), 0.2), state, "head.conv_last")
    if config.global_skip == "bicubic":
        rows, columns = bicubic_matrix(lq.shape[2]), bicubic_matrix(lq.shape[3])
        x = x + rows @ lq @ columns.T
    return x


@pytest.mark.parametrize("size", [(5, 7), (1, 6)])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_blocks": 2, "num_layers": 4, "global_skip": "none", "embed_dim": 8},
        {"share": 4, "num_slots": 3, "num_prompts": 3, "sampler": "gather"},
    ],
    ids=["nano", "deep", "slots"],
)
def test_forward_equals_the_reference(changes, size, lively, slow_sample):
    model = lively("nano", **changes)
    lq = torch.rand(2, 3, *size)
    slot = torch.tensor([model.config.num_slots - 1] * 2)
    expected = reference_forward(lq, model, slow_sample, slot=int(slot[0]))
    with torch.no_grad():
        found = model(lq, slot)
        exact = model.double()(lq.double(), slot)
    assert expected.std() > 0.05
    # Values reach 5, where float32 has steps of 5e-7; which products a CPU fuses changes the rest.
    torch.testing.assert_close(found.double(), expected, rtol=3e-6, atol=1e-5)
    torch.testing.assert_close(exact, expected, rtol=0, atol=1e-12)


def test_gradients_equal_the_reference(lively, slow_sample):
    """Every parameter's gradient, offsets and prompts included, in float64."""
    model = lively("nano", num_blocks=2).double()
    lq = torch.rand(1, 3, 4, 5, dtype=torch.float64)
    weight = torch.randn(1, 3, 16, 20, dtype=torch.float64)
    leaves = {name: value.detach().clone() for name, value in model.named_parameters()}
    for value in leaves.values():
        value.requires_grad_()
    found = torch.autograd.grad((model(lq) * weight).sum(), list(model.parameters()))
    total = (reference_forward(lq, model, slow_sample, state=leaves) * weight).sum()
    expected = torch.autograd.grad(total, list(leaves.values()))
    for (name, _), a, b in zip(model.named_parameters(), found, expected, strict=True):
        # InstanceNorm follows the MLP and takes this constant away; only rounding is left.
        assert (b.abs().max() > 1e-6) == (not name.endswith("mlp.fc2.bias")), name
        difference = (a - b).abs().max() / b.abs().max().clamp(min=1)
        assert difference < 1e-10, f"{name}: difference {difference:.1e}"
