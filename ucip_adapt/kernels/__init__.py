"""Fused kernels of the sampling operator; nothing here is needed, everything here is faster.

:mod:`~ucip_adapt.kernels.operator` registers the operator ``ucip_adapt::deform_sample`` when
it is imported; a program that loads an exported network with ``sampler="fused"`` imports it first.
:mod:`~ucip_adapt.kernels.native` compiles the CPU's kernel on demand,
:mod:`~ucip_adapt.kernels.triton_lines` holds those for GPUs.
"""
