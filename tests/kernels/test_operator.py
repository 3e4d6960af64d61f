"""The operator on the CPU: its registration, export, autocast, threads, and life without it."""

from __future__ import annotations

import logging
import stat

import pytest
import torch
from torch import Tensor

from ucip_adapt import UCIP, UCIPConfig
from ucip_adapt.kernels import native, operator
from ucip_adapt.models import deform_sample_1d, deform_sample_axes, sampling

BOTH = "horizontal+vertical"


@pytest.fixture(autouse=True, scope="module")
def _kernel() -> None:
    problem = operator.unavailable("cpu")
    if problem is not None:
        pytest.skip(f"no fused kernel: {problem}")


def inputs(
    *shape: int, share: int = 1, axes: int = 2, dtype=torch.float64
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    batch, channels, height, width = shape
    x = torch.randn(shape, generator=generator, dtype=dtype)
    moves = (batch, axes * channels // share, height, width)
    # Away from whole numbers, where the slope jumps.
    whole = torch.randint(-3, 3, moves, generator=generator)
    offset = whole + 0.1 + 0.8 * torch.rand(moves, generator=generator)
    return x, offset.to(dtype)


@pytest.mark.parametrize("axes", ["horizontal", "vertical", BOTH])
def test_opcheck(axes):
    x, offset = inputs(2, 6, 3, 5, share=2, axes=axes.count("+") + 1)
    arguments = (x.requires_grad_(), offset.requires_grad_(), axes)
    results = torch.library.opcheck(operator.deform_sample, arguments)
    assert len(results) == 4
    assert set(results.values()) == {"SUCCESS"}


@pytest.mark.parametrize("share", [1, 2])
def test_gradcheck(share):
    x, offset = inputs(1, 2, 3, 4, share=share)
    assert torch.autograd.gradcheck(
        lambda a, b: tuple(operator.deform_sample(a, b, BOTH)),
        (x.requires_grad_(), offset.requires_grad_()),
        atol=1e-9,
    )


def test_a_single_output_may_be_used():
    x, offset = (t.requires_grad_() for t in inputs(1, 4, 3, 5))
    for used in (0, 1):
        both = deform_sample_axes(x, offset, method="fused")[used]
        gradients = torch.autograd.grad(both.sum(), (x, offset))
        expected = torch.autograd.grad(
            deform_sample_axes(x, offset, method="gather")[used].sum(), (x, offset)
        )
        for got, wanted in zip(gradients, expected, strict=True):
            torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("channels", "share"), [(17, 1), (33, 3), (40, 20), (48, 48), (1, 1)])
def test_channels_that_do_not_fill_the_lanes(channels, share):
    x, offset = (t.requires_grad_() for t in inputs(2, channels, 3, 4, share=share))
    found = deform_sample_axes(x, offset, method="fused")
    expected = deform_sample_axes(x, offset, method="gather")
    weights = [torch.randn_like(y) for y in found]
    gradients = torch.autograd.grad(found, (x, offset), weights)
    wanted = torch.autograd.grad(expected, (x, offset), weights)
    for got, value in zip((*found, *gradients), (*expected, *wanted), strict=True):
        torch.testing.assert_close(got, value, rtol=0, atol=1e-12)


def test_threads_change_no_bit():
    x, offset = (t.requires_grad_() for t in inputs(3, 20, 7, 9, dtype=torch.float32))
    results = []
    for threads in (1, 5):
        torch.set_num_threads(threads)
        found = deform_sample_axes(x, offset, method="fused")
        results.append([*found, *torch.autograd.grad([y.sum() for y in found], (x, offset))])
    torch.set_num_threads(1)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("share", [1, 2])
def test_not_a_number_is_not_hidden(dtype, share):
    x, offset = inputs(1, 20, 3, 4, share=share, dtype=torch.float64)
    offset = offset.to(dtype if dtype == torch.float64 else torch.float32)
    offset[0, 0, 1, 2] = float("nan")
    found = deform_sample_axes(x.to(dtype), offset, method="fused")[0]
    assert found[0, :share].isnan().nonzero().tolist() == [[c, 1, 2] for c in range(share)]
    assert not found[0, share:].isnan().any()


def test_not_a_number_among_features_goes_where_it_is_read():
    x, offset = inputs(1, 16, 1, 9, dtype=torch.float32)
    offset[:] = 0.25
    x[0, 3, 0, 4] = float("nan")
    found = deform_sample_axes(x, offset, method="fused")[0]
    assert found.isnan().nonzero().tolist() == [[0, 3, 0, 3], [0, 3, 0, 4]]


def test_no_images():
    x, offset = torch.zeros(0, 4, 3, 5), torch.zeros(0, 8, 3, 5)
    assert deform_sample_axes(x, offset, method="fused")[1].shape == (0, 4, 3, 5)


def test_autocast_keeps_positions_in_float32():
    """The rule belongs to the operator: it holds for whoever calls it, whatever dtype comes."""
    x, offset = inputs(1, 2, 1, 600, dtype=torch.float32)
    low = x.bfloat16(), offset.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = operator.deform_sample(*low, BOTH)
    expected = deform_sample_axes(low[0], low[1].float(), method="gather")
    for got, wanted in zip(found, expected, strict=True):
        assert got.dtype == torch.bfloat16
        torch.testing.assert_close(got, wanted, rtol=1e-2, atol=1e-2)


def test_refuses_what_the_kernel_could_not_read_safely():
    x, offset = inputs(1, 4, 3, 5, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"offset torch\.float64: offsets must be float32"):
        operator.deform_sample(x, offset.double(), BOTH)
    with pytest.raises(ValueError, match=r"\(1, 8, 3, 4\) on cpu do not fit"):
        operator.deform_sample(x, offset[..., :4], BOTH)
    with pytest.raises(ValueError, match=r"unknown axes 'diagonal'"):
        operator.deform_sample(x, offset, "diagonal")


def count_samplings(exported: torch.export.ExportedProgram) -> int:
    """Calls of the operator, also in blocks inside the graph."""
    return sum(
        node.target is torch.ops.ucip_adapt.deform_sample.default
        for module in exported.graph_module.modules()
        if isinstance(module, torch.fx.GraphModule)
        for node in module.graph.nodes
    )


@pytest.mark.slow
def test_export_with_any_size_keeps_one_node_per_call(lively_nano):
    height, width = torch.export.Dim("height", min=8, max=512), torch.export.Dim("width", min=8)
    exported = torch.export.export(
        lively_nano,
        (torch.rand(1, 3, 12, 10).double(),),
        dynamic_shapes={"lq": {2: height, 3: width}},
    )
    assert count_samplings(exported) == len(lively_nano.blocks) * lively_nano.config.num_layers
    for shape in ((1, 3, 9, 21), (1, 3, 16, 8)):
        lq = torch.rand(shape).double()
        with torch.no_grad():
            torch.testing.assert_close(exported.module()(lq), lively_nano(lq), rtol=0, atol=1e-9)


@pytest.fixture
def lively_nano() -> UCIP:
    torch.manual_seed(0)
    model = UCIP(UCIPConfig.preset("nano", sampler="fused"))
    with torch.no_grad():
        for value in model.parameters():
            torch.nn.init.normal_(value, std=0.2)
    return model.eval().double()


def test_export_of_the_operator():
    class Sample(torch.nn.Module):
        def forward(self, x: Tensor, offset: Tensor) -> Tensor:
            along_rows, along_columns = deform_sample_axes(x, offset, method="fused")
            return along_rows + 2 * along_columns

    sizes = {2: torch.export.Dim("height", min=2), 3: torch.export.Dim("width", min=2)}
    arguments = inputs(1, 4, 5, 6)
    exported = torch.export.export(
        Sample(), arguments, dynamic_shapes={"x": sizes, "offset": sizes}
    )
    assert count_samplings(exported) == 1
    other = inputs(1, 4, 9, 3)
    assert torch.equal(exported.module()(*other), Sample()(*other))


def test_the_network_is_one_graph_to_a_compiler(lively_nano):
    """Whether there is a kernel is asked once, and not traced."""
    lq = torch.rand(1, 3, 12, 10).double()
    compiled = torch.compile(lively_nano, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(lq), lively_nano(lq), rtol=0, atol=1e-9)


def test_without_a_kernel_grid_computes_and_says_so_once(monkeypatch, caplog):
    monkeypatch.setattr(operator, "unavailable", lambda device: "there is no compiler here")
    monkeypatch.setattr(sampling, "_said", set())
    x, offset = inputs(1, 4, 3, 5)
    with caplog.at_level(logging.WARNING, logger="ucip_adapt"):
        found = [deform_sample_axes(x, offset, method="fused") for _ in range(2)]
    expected = deform_sample_axes(x, offset, method="grid")
    assert all(torch.equal(a, b) for a, b in zip(found[1], expected, strict=True))
    assert [record.getMessage() for record in caplog.records] == [
        "sampler='fused' computes as 'grid' here: there is no compiler here"
    ]


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native.load.cache_clear()
    yield tmp_path
    native.load.cache_clear()


def test_compiles_once_into_the_users_cache(empty_cache):
    native.load()
    (library,) = (empty_cache / "ucip_adapt" / "kernels").iterdir()
    assert library.suffix == ".so"
    before = library.stat().st_mtime_ns
    native.load.cache_clear()
    native.load()
    assert library.stat().st_mtime_ns == before
    x, offset = inputs(1, 2, 3, 4, axes=1)
    found = deform_sample_1d(x, offset, axis="vertical", method="fused")
    expected = deform_sample_1d(x, offset, axis="vertical", method="gather")
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_a_user_without_a_home_folder(monkeypatch):
    """As in containers that run under any user id."""

    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(native.Path, "home", home)
    native.load.cache_clear()
    with pytest.raises(native.KernelError, match=r"home directory\. Set XDG_CACHE_HOME"):
        native.load()


def test_says_what_keeps_it_from_compiling(empty_cache, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(
        native.KernelError, match=r"no C\+\+ compiler 'no-such-compiler', which CXX"
    ):
        native.load()
    broken = empty_cache / "broken"
    broken.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && exit 0\necho "x.cpp: error: no" >&2\nexit 1\n'
    )
    broken.chmod(broken.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CXX", str(broken))
    with pytest.raises(native.KernelError, match=r"broken failed: x\.cpp: error: no"):
        native.load()
    assert not list((empty_cache / "ucip_adapt" / "kernels").iterdir())
