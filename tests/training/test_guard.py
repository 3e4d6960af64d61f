"""R7 on one process: an injected NaN batch, skipped or stopped, with and without accumulation."""

import math

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from ucip_adapt.errors import ConfigError, NonFiniteError
from ucip_adapt.training.guard import GuardedStep, check_finite


def run(policy, *, bad_step=2, accumulation=1, value=float("nan"), steps=5, in_gradient=False):
    """Train a linear layer; sample id = step * accumulation + micro; the bad one is the last
    micro-batch of a step."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulation)
    torch.manual_seed(0)
    layer = nn.Linear(3, 1)
    layer, optimizer = accelerator.prepare(layer, torch.optim.Adam(layer.parameters(), lr=0.1))
    guard = GuardedStep(
        accelerator, optimizer, list(layer.parameters()), policy=policy, max_grad_norm=1.0
    )
    updates, step = [], 0
    for index in range(steps * accumulation):
        x = torch.full((2, 3), 0.1 * (index + 1))
        with accelerator.accumulate(layer):
            out = layer(x)
            if index == bad_step * accumulation + accumulation - 1:
                # sqrt has an infinite slope at 0: the loss is finite, its gradient is not
                out = (out - out.detach()).sqrt() if in_gradient else out * value
            guard.backward(
                out.square().mean() if not in_gradient else out.mean(), sample_ids=[index]
            )
            if accelerator.sync_gradients:
                before = [p.detach().clone() for p in layer.parameters()]
                updates.append(guard.step(step))
                moved = any(
                    not torch.equal(b, p) for b, p in zip(before, layer.parameters(), strict=True)
                )
                assert moved == updates[-1]
                step += 1
    return layer, guard, updates


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_skip_leaves_weights_finite_and_counts_the_step(value, accumulation):
    layer, guard, updates = run("skip", value=value, accumulation=accumulation)
    assert updates == [True, True, False, True, True]
    assert guard.skipped == 1
    assert all(torch.isfinite(p).all() for p in layer.parameters())


def test_skip_sees_a_bad_gradient_of_a_finite_loss():
    _, guard, updates = run("skip", in_gradient=True, bad_step=4)
    assert updates == [True] * 4 + [False]
    assert guard.skipped == 1


def test_stop_names_step_and_samples():
    with pytest.raises(NonFiniteError, match=r"step 2: the loss is NaN or infinite; samples 5\."):
        run("stop", accumulation=2)
    with pytest.raises(
        NonFiniteError, match=r"step 1: the gradient of a finite loss .* samples 2, 3\."
    ):
        run("stop", accumulation=2, in_gradient=True, bad_step=1)


def test_a_training_without_an_update_is_refused():
    _, guard, updates = run("skip", steps=1, bad_step=0)
    assert updates == [False]
    with pytest.raises(NonFiniteError, match=r"every step was skipped.* nothing is trained"):
        guard.check_trained()
    _, guard, updates = run("skip", steps=2, bad_step=0)
    assert updates == [False, True]
    guard.check_trained()


def test_updates_before_a_resume_count():
    """Only the optimizer's state knows of them."""
    for bad_step, trained in ((9, True), (0, False)):
        layer, before, _ = run("skip", steps=1, bad_step=bad_step)
        accelerator = Accelerator(cpu=True)
        optimizer = accelerator.prepare(torch.optim.Adam(layer.parameters()))
        optimizer.load_state_dict(before._optimizer.state_dict())
        guard = GuardedStep(accelerator, optimizer, list(layer.parameters()), policy="skip")
        guard.backward(layer(torch.ones(2, 3)).mean() * math.nan, sample_ids=[0])
        assert not guard.step(1)
        if trained:
            guard.check_trained()
        else:
            with pytest.raises(NonFiniteError, match="every step was skipped"):
                guard.check_trained()


def test_norm_is_that_before_clipping():
    accelerator = Accelerator(cpu=True)
    weight = nn.Parameter(torch.zeros(2))
    optimizer = accelerator.prepare(torch.optim.SGD([weight], lr=1.0))
    guard = GuardedStep(accelerator, optimizer, [weight], policy="stop", max_grad_norm=0.5)
    guard.backward((weight * torch.tensor([3.0, 4.0])).sum(), sample_ids=[0])
    guard.step(0)
    assert guard.last_grad_norm == pytest.approx(5.0)
    assert torch.allclose(weight.detach(), torch.tensor([-0.3, -0.4]), atol=1e-6)


def test_wrong_use_is_named():
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    weight = nn.Parameter(torch.zeros(2))
    optimizer = accelerator.prepare(torch.optim.SGD([weight], lr=1.0))
    with pytest.raises(
        ConfigError, match=r"unknown policy for non-finite steps 'skp'; did you mean 'skip'\?"
    ):
        GuardedStep(accelerator, optimizer, [weight], policy="skp")
    with pytest.raises(ConfigError, match="there is no parameter to train"):
        GuardedStep(accelerator, optimizer, [], policy="skip")
    guard = GuardedStep(accelerator, optimizer, [weight], policy="skip")
    with accelerator.accumulate(), pytest.raises(RuntimeError, match="call it if sync_gradients"):
        guard.step(0)


def test_check_finite_names_at_most_five():
    check_finite([("i", torch.tensor([1])), ("f", torch.ones(2))], what="weights")
    tensors = [(f"t{i}", torch.tensor(math.inf)) for i in range(7)]
    with pytest.raises(
        NonFiniteError, match=r"weights hold .* in 7 tensors: t0, t1, t2, t3, t4, \.\.\.$"
    ):
        check_finite(tensors, what="weights")


def fp16_run(accelerator, scale, policy):
    """A gradient of 16 overflows float32 at the scales 2**126 to 2**124; the loss is finite."""
    weight = nn.Parameter(torch.ones(2, device=accelerator.device))
    optimizer = accelerator.prepare(torch.optim.SGD([weight], lr=0.1))
    guard = GuardedStep(accelerator, optimizer, [weight], policy=policy, max_grad_norm=1.0)
    accelerator.scaler._init_scale = scale
    updates = []
    for step in range(4):
        with accelerator.accumulate():
            guard.backward(8 * weight.square().sum(), sample_ids=[step])
            updates.append(guard.step(step))
    return guard, updates, accelerator.scaler.get_scale(), weight


@pytest.mark.parametrize("policy", ["skip", "stop"])
def test_loss_scaler_finds_its_scale_under_either_policy(policy):
    """On the CPU Accelerate offers no fp16, but the scaler works there, put in by hand."""
    accelerator = Accelerator(cpu=True)
    accelerator.state._mixed_precision = "fp16"
    accelerator.native_amp = True
    accelerator.scaler = torch.amp.GradScaler("cpu")
    guard, updates, scale, weight = fp16_run(accelerator, 2.0**126, policy)
    assert updates == [False, False, False, True]
    assert guard.skipped == 3
    assert scale == 2.0**123
    assert bool(torch.isfinite(weight).all())


@pytest.mark.gpu
@pytest.mark.parametrize("policy", ["skip", "stop"])
def test_loss_scaler_on_a_gpu(policy):
    guard, updates, scale, weight = fp16_run(Accelerator(mixed_precision="fp16"), 2.0**126, policy)
    assert updates == [False, False, False, True]
    assert (guard.skipped, scale) == (3, 2.0**123)
    assert bool(torch.isfinite(weight).all())
