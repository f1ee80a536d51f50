"""An older name of `sbc_kernels.export.nir.graph`."""

from ..export.nir.graph import nir_graph, write_nir

__all__ = ["nir_graph", "write_nir"]
