"""CUDA C++ kernels on torch tensors, and Triton's for the ops that have none in CUDA C++.

Byte products of Gram matrices on Hopper, the pivots of the exact order on every card that the wheel was
built for. They are part of the native module where it was built with nvcc.
"""
