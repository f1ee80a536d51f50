"""The ops as Triton kernels, for torch tensors on NVIDIA GPUs. Not yet run on a GPU.

Each module has the name of its op. With ``TRITON_INTERPRET=1`` in the environment before this package
is imported, the kernels run on CPU tensors, slowly: that is how they are tested where there is no GPU.
`aot` compiles them for a GPU that need not be there.
"""
