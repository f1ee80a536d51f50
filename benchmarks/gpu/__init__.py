"""The program behind gpu.sh.

`__main__` and the modules that it imports (`cases`, `machine`, `profile`, `report`, `runner`) need
nothing but Python. Everything else runs in a process of its own, so that a kernel that destroys its
CUDA context ends that process only.
"""
