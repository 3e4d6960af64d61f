"""The Triton kernels: by the interpreter against the oracle, compiled for a GPU, and on one."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ucip_adapt.models import deform_sample_axes

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)
# (B, C, H, W), S, dtype, reach of the offsets, largest error; a line over 64 pixels has segments.
CASES = [
    ((2, 6, 3, 5), 2, torch.float64, 3, 1e-12),
    ((1, 4, 1, 6), 1, torch.float32, 20, 1e-5),
    ((1, 2, 1, 70), 2, torch.float64, 2, 1e-12),
    ((1, 35, 2, 3), 1, torch.bfloat16, 1, 0.1),
]


def run(arguments: list[str], folder: Path, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("run_triton.py")), *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | {"TRITON_CACHE_DIR": str(folder / "triton")} | variables,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@needs_triton
@pytest.mark.slow
def test_interpreted_against_the_oracle(tmp_path, dense):
    generator = torch.Generator().manual_seed(0)
    inputs = []
    for shape, share, dtype, reach, _ in CASES:
        position_dtype = torch.float64 if dtype == torch.float64 else torch.float32
        x = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        moves = (shape[0], 2 * shape[1] // share, *shape[2:])
        offset = reach * torch.randn(moves, generator=generator, dtype=torch.float64)
        offset[..., 0] = offset[..., 0].round()  # some on kinks, some of those outside
        gradients = [
            torch.randn(shape, generator=generator).to(dtype)
            .contiguous(memory_format=torch.channels_last) for _ in range(2)
        ]  # fmt: skip
        inputs.append((x, offset.to(position_dtype), gradients))
    torch.save(inputs, tmp_path / "in.pt")
    run(["interpret", str(tmp_path / "in.pt"), str(tmp_path / "out.pt")], tmp_path,
        TRITON_INTERPRET="1")  # fmt: skip
    results = torch.load(tmp_path / "out.pt")
    assert len(results) == len(CASES)
    for (x, offset, gradients), (outputs, (of_x, of_offset)), case in zip(
        inputs, results, CASES, strict=True
    ):
        parts = [
            dense(x, part, gradient, dim)
            for part, gradient, dim in zip(offset.chunk(2, dim=1), gradients, (3, 2), strict=True)
        ]
        expected = [parts[0][0], parts[1][0], parts[0][1] + parts[1][1]]
        expected.append(torch.cat([parts[0][2], parts[1][2]], dim=1))
        for got, wanted in zip((*outputs, of_x, of_offset), expected, strict=True):
            torch.testing.assert_close(got.double(), wanted, rtol=0, atol=case[4])


@needs_triton
@pytest.mark.slow
def test_compiles_for_a_gpu_without_one(tmp_path):
    lines = run(["compile"], tmp_path).splitlines()
    assert len(lines) == 24
    assert all(int(line.split()[1]) > 1000 for line in lines)


@needs_triton
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("size", [(9, 13), (64, 64), (3, 700)])
def test_on_a_gpu_against_the_reference(dtype, size):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 36, *size, generator=generator).to(dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    offset = 3 * torch.randn(2, 36, *size, generator=generator, dtype=wide)
    weights = [torch.randn(2, 36, *size, generator=generator).to(dtype) for _ in range(2)]

    def results(method: str, device: str, as_dtype: torch.dtype) -> list[torch.Tensor]:
        a = x.to(device, as_dtype).requires_grad_()
        b = offset.to(device, torch.promote_types(as_dtype, wide)).requires_grad_()
        outputs = deform_sample_axes(a, b, method=method)
        given = [weight.to(device, as_dtype) for weight in weights]
        return [*outputs, *torch.autograd.grad(outputs, (a, b), given)]

    found, again = (results("fused", "cuda", dtype) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))  # deterministic
    tolerance = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float64: 1e-10}[dtype]
    for got, wanted in zip(found, results("gather", "cpu", torch.float64), strict=True):
        torch.testing.assert_close(got.double().cpu(), wanted, rtol=0, atol=tolerance)
