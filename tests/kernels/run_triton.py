"""Run the Triton kernels apart from the tests: ``interpret IN OUT`` or ``compile``.

``TRITON_INTERPRET`` is read when Triton is imported, so each way needs a process of its own.
"""

from __future__ import annotations

import sys

import torch

from ucip_adapt.kernels import operator, triton_lines


def interpret(source: str, target: str) -> None:
    """Forward and backward of each case in a file, on CPU tensors."""
    results = []
    for x, offset, gradients in torch.load(source):
        arguments = [t.contiguous(memory_format=torch.channels_last) for t in (x, offset)]
        outputs = operator._forward(triton_lines, *arguments, "horizontal+vertical")
        backward = operator._backward(triton_lines, *arguments, gradients, "horizontal+vertical")
        results.append((outputs, backward))
    torch.save(results, target)


def compile_all() -> None:
    """Compile every kernel for an H100 or H200, with sizes free and with sizes of one."""
    from triton import compiler
    from triton.backends.compiler import GPUTarget

    variants = [
        (triton_lines._forward_kernel, {}),
        (triton_lines._offset_gradient_kernel, {}),
        *((triton_lines._feature_gradient_kernel, {"LONG": far, "ADD": add, "SEGMENT": 64})
          for far, add in ((False, False), (True, True))),
    ]  # fmt: skip
    for features, positions in (("*fp32", "*fp32"), ("*bf16", "*fp32"), ("*fp64", "*fp64")):
        pointers = dict.fromkeys(("x", "y", "gy", "gx"), features)
        pointers |= {"offset": positions, "go": positions}
        for kernel, flags in variants:
            # Triton turns a size of one into a constant, which is another program.
            for ones in ((), ("length", "lines", "share", "groups", "channels", "x_step")):
                constants = {"POSITIONS": 32, "LANES": 32, **flags}
                constants |= {name: 1 for name in ones if name in kernel.arg_names}
                signature = {
                    name: "constexpr" if name in constants else pointers.get(name, "i32")
                    for name in kernel.arg_names
                }
                built = compiler.compile(
                    compiler.ASTSource(kernel, signature, constexprs=constants),
                    target=GPUTarget("cuda", 90, 32),
                )
                sys.stdout.write(f"{kernel.__name__} {len(built.asm['cubin'])}\n")


if __name__ == "__main__":
    interpret(*sys.argv[2:]) if sys.argv[1] == "interpret" else compile_all()
