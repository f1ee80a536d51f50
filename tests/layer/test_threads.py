"""A layer is compressed on as many threads as torch is given, and on no others."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

CODE = """
    import sys

    class Refuse:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] == "scipy":
                raise ImportError("no SciPy here")

    sys.meta_path.insert(0, Refuse())
    import os
    import numpy as np
    import sbc_kernels as sbc

    def threads():
        return len(os.listdir("/proc/self/task"))

    def cpu_of_others():  # seconds that threads other than this one have run
        import time
        return time.process_time() - time.thread_time()

    rng = np.random.default_rng(0)
    weight = rng.standard_normal((24, 200)).astype(np.float32)
    binary, analog = rng.random((6, 60, 200)) < 0.15, rng.random((6, 60, 200))
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # thread_count() is 1
    before = threads(), cpu_of_others()
    for spikes in (binary, analog):
        for options in ({"sparsity": 0.9, "bits": 4}, {"sparsity": 0.3}, {"method": "blocked"}):
            sbc.compress_layer(weight, spikes, **options)
    assert threads() == before[0]
    print(cpu_of_others() - before[1])
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts the threads of Linux")
def test_no_threads_of_a_blas_run() -> None:
    """OpenBLAS' own follow no setting of ours: beside a busy process a layer took 100 times as long."""
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    environment["OPENBLAS_NUM_THREADS"] = "4"
    done = subprocess.run(
        [sys.executable, "-P", "-c", textwrap.dedent(CODE)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 0.01, "threads of a BLAS worked"
