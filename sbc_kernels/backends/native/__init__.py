"""C++ kernels, on NumPy arrays in CPU memory."""
