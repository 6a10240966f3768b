"""Triton kernels, one operation per file; reached by name from flowguide.ops."""
