"""The ops as Triton kernels, for torch tensors on NVIDIA GPUs.

Of `device.CLASSES` sm_90 has run, on an H200; sm_80, sm_100 and "other" are compiled only. Each module
has the name of its op. With ``TRITON_INTERPRET=1`` in the environment before this package is imported,
the kernels run on CPU tensors, slowly: so they are tested where there is no GPU. `aot` compiles them
for a GPU that need not be there.
"""
