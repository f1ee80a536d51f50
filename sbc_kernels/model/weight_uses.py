"""Uses of weights outside the modules that hold them, during the pass that is recorded.

`recording` sees calls of modules by hooks. What a forward does with a weight beside that goes through a
torch function: ``F.linear(x, self.fc.weight)``, ``self.fc.forward(x)``, ``spikes @ self.recurrent.t()``
with a parameter of no Linear layer. Each such product is noted as a call of a layer, which has the name
of the module whose weight it is, or of the parameter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ..network.products import SAME_VALUES, Product, ProductMode
from ..network.weight_table import WeightTable, layer_name
from .provenance import Provenance

NoteCall = Callable[[str, Tensor, Tensor, tuple[int, ...]], Tensor]


class WeightUses(ProductMode):
    """Notes what a forward pass does with weights outside their modules.

    Parameters
    ----------
    model : that runs.
    provenance : its `uses` and `unusual` are filled.
    note_call : notes a call of a layer by its name, with features, output and leading axes, and returns
        the output.

    Attributes
    ----------
    open : names of the weight layers whose forward runs, innermost last.
    """

    def __init__(
        self,
        model: nn.Module,
        provenance: Provenance,
        note_call: NoteCall,
    ) -> None:
        super().__init__(WeightTable(model))
        self.provenance = provenance
        self.note_call = note_call
        self.open: list[str] = []
        self.modules = dict(model.named_modules())
        self.vectors = {
            id(parameter): name
            for name, parameter in model.named_parameters()
            if parameter.ndim == 1
        }

    def multiply(self, product: Product, call: Callable[[], Any]) -> Any:
        if self._is_own(product.entry):
            return call()
        use = self.provenance.uses[product.entry]
        if product.form not in use.forms:
            use.forms.append(product.form)
        bias = None if product.bias is None else self.vectors.get(id(product.bias), "")
        if bias not in use.biases:
            use.biases.append(bias)
        output = product.compute()
        own = 1 if product.form.conv is None else product.form.conv.dims + 1
        lead = tuple(output.shape[: output.ndim - own])
        name = layer_name(product.entry, self.modules)
        return product.finish(self.note_call(name, product.features.detach(), output, lead))

    def read(self, entry: str, name: str) -> None:
        if not self._is_own(entry):
            readers = self.provenance.uses[entry].readers
            if name not in readers:
                readers.append(name)
        elif name not in SAME_VALUES:
            self.provenance.unusual.add(self.open[-1])

    def _is_own(self, entry: str) -> bool:
        """Whether the layer whose forward runs has this weight."""
        if not self.open:
            return False
        weight = self.modules[self.open[-1]]._parameters.get("weight")
        found = None if weight is None else self.table.find(weight)
        return found is not None and found.entry == entry
