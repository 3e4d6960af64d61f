"""Learning rates against values worked out by hand."""

import pytest
import torch

from ucip_adapt.errors import ConfigError, UnknownNameError
from ucip_adapt.training.schedule import learning_rate_at, set_learning_rate


def rates(steps, **options):
    defaults = {"schedule": "constant", "learning_rate": 8.0, "warmup_steps": 0, "max_steps": 10}
    return [learning_rate_at(s, **{**defaults, **options}) for s in steps]


def test_warm_up_rises_linearly_and_never_starts_at_zero():
    assert rates(range(6), warmup_steps=4) == [2.0, 4.0, 6.0, 8.0, 8.0, 8.0]


def test_cosine_by_hand():
    # 8 * (1 + cos(0, 60, 90, 120, 180 degrees)) / 2
    got = rates([2, 4, 5, 6, 8, 100], schedule="cosine", warmup_steps=2, max_steps=8)
    assert got == pytest.approx([8.0, 6.0, 4.0, 2.0, 0.0, 0.0], abs=1e-15)


def test_cosine_equals_torch():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=8.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
    for step in range(10):
        assert rates([step], schedule="cosine")[0] == pytest.approx(
            theirs.get_last_lr()[0], rel=1e-12
        )
        optimizer.step()
        theirs.step()


def test_multistep_halves_at_each_milestone():
    got = rates([0, 3, 4, 6, 7, 9], schedule="multistep", milestones=(4, 7))
    assert got == [8.0, 8.0, 4.0, 4.0, 2.0, 2.0]
    assert rates([4], schedule="multistep", milestones=(4,), gamma=0.25) == [2.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "multistep"}, "milestones belong to schedule 'multistep'"),
        ({"milestones": (3,)}, "milestones belong to schedule 'multistep'"),
        ({"schedule": "multistep", "milestones": (5, 3)}, "milestones must rise"),
        ({"warmup_steps": 11}, "warmup_steps 11 must lie between 0 and max_steps 10"),
        ({"learning_rate": -1.0}, "not negative"),
        ({"learning_rate": float("nan")}, "must be finite"),
    ],
)
def test_wrong_values_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        rates([0], **options)


def test_unknown_schedule_names_the_nearest():
    with pytest.raises(
        UnknownNameError, match=r"unknown schedule 'cosin'; did you mean 'cosine'\?"
    ):
        rates([0], schedule="cosin")


def test_every_group_gets_the_rate():
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.Adam([{"params": [p], "lr": 1.0 + i} for i, p in enumerate(parameters)])
    set_learning_rate(optimizer, 0.125)
    assert [g["lr"] for g in optimizer.param_groups] == [0.125, 0.125]
