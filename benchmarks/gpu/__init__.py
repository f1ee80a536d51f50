"""Behind gpu.sh.

`__main__` and what it imports (`cases`, `machine`, `report`, `steps`) need nothing but Python. All else
runs in a process of its own, so that a kernel that takes its CUDA context down takes no more.
"""
