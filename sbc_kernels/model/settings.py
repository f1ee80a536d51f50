"""The options of a model: those of its layers, and how the whole is calibrated and returned.

An option is one field here, or of `LayerOptions`: its name, default, check and line of help.
`compress_model` writes it in its signature too, and a test holds that to the record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..backends.registry import BACKENDS, named_backend
from ..errors import ParameterError
from ..method import METHODS, LayerOptions
from ..method.fields import (
    Bytes,
    Choice,
    Flag,
    Folder,
    Function,
    Names,
    Number,
    Table,
    option,
    option_names,
)
from ..method.options import DEFAULT_SPARSITY, HESSIANS
from .allocation import ALLOCATIONS

__all__ = ["LAYER_OPTIONS", "MODES", "ModelOptions"]

MODES = ("parallel", "sequential")
LAYER_OPTIONS = option_names(LayerOptions)


class _BackendName(Choice):
    """The name of a backend that runs here, or None."""

    def __call__(self, name: str, value: Any) -> Any:
        return None if value is None else named_backend(value).name


@dataclass(frozen=True)
class ModelOptions(LayerOptions):
    """The settings that a model is compressed with. Each value is checked when the record is made.

    A default of None that depends on other options is filled in by `settled`; types are as after it.
    """

    allocation: str | Mapping[str, float] = option(
        None,
        Choice(ALLOCATIONS, optional=True, mapping="a dictionary of sparsities by layer name"),
        "How a sparsity is shared out over the layers. Default: lamp; of a pattern uniform.",
    )
    calibration_mode: str = option(
        None,
        Choice(MODES, optional=True),
        "sequential: layer by layer on what the compressed layers before it produce. parallel: all "
        "from the dense network. Default: sequential; for baselines parallel.",
    )
    target_damping: float = option(
        0.5,
        Number(positive=True),
        "Damping of the refit in sequential mode, relative to the Hessian's mean diagonal.",
    )
    bn_reestimate: bool = option(
        None,
        Flag(optional=True),
        "Re-estimate the BatchNorms' statistics. Default: on; off for baselines.",
    )
    bias_correction: bool = option(
        None,
        Flag(optional=True),
        "Let the biases take part. Default: on; off for baselines.",
    )
    hessian: str = option(
        "smp",
        Choice(HESSIANS),
        "smp: of what the neurons integrate. current: of the input current, as in ExactOBS and GPTQ.",
    )
    overrides: Mapping[str, Mapping[str, Any]] | None = option(
        None, Table(), "Options of single layers by name or regular expression."
    )
    ignore: Sequence[str] = option(
        (), Names(), "Layers to leave alone, by name or regular expression."
    )
    forward: Callable[..., Any] | None = option(
        None, Function("(model, batch)"), "Runs one whole sequence. Default: model(batch)."
    )
    fold: bool = option(
        False, Flag(), "Fold each BatchNorm into the layer before it.", outcome=False
    )
    inplace: bool = option(
        False,
        Flag(),
        "Modify the network in place, saving the memory of a copy.",
        outcome=False,
    )
    max_memory: int = option(
        None,
        Bytes(),
        "Bytes for the Hessians that are gathered at once. Default: half of this machine's.",
        outcome=False,
    )
    checkpoint_dir: str | Path | None = option(
        None,
        Folder(),
        "Folder for finished layers, from which a stopped run resumes.",
        outcome=False,
    )
    progress: bool | None = option(
        None, Flag(optional=True), "Bars with the time left. Default: on a terminal.", outcome=False
    )
    backend: str | None = option(
        None,
        _BackendName(BACKENDS, optional=True),
        "Kernels to run. Default: the fastest of this machine.",
    )

    @property
    def baseline(self) -> bool:
        """Whether the method looks at weights only."""
        return METHODS[self.method].baseline

    def settled(self, max_memory: int) -> ModelOptions:
        """The options with every default of the model filled in that depends on others.

        Parameters
        ----------
        max_memory : the default in bytes, which depends on the device that the model lies on.

        Raises
        ------
        ParameterError : two options do not go together.
        """
        sparsity, allocation = self.sparsity, self.allocation
        if self.idle and not isinstance(allocation, Mapping):
            sparsity = DEFAULT_SPARSITY
        if allocation is None:
            allocation = "lamp" if isinstance(sparsity, float) else "uniform"
        needs_fraction = isinstance(allocation, str) and not ALLOCATIONS[allocation].takes_pattern
        if needs_fraction and not isinstance(sparsity, float):
            raise ParameterError(
                "allocation",
                allocation,
                "accepted with it is a fraction 0..1",
                shown=f"{allocation!r} with sparsity {sparsity!r}",
            )
        mode = self.calibration_mode or ("parallel" if self.baseline else "sequential")
        if self.baseline and mode == "sequential":
            raise ParameterError(
                "calibration_mode",
                mode,
                "'parallel'",
                shown=f"'sequential' with method {self.method!r}, which looks at weights only",
            )
        options = replace(
            self,
            sparsity=sparsity,
            allocation=allocation,
            calibration_mode=mode,
            bn_reestimate=(not self.baseline if self.bn_reestimate is None else self.bn_reestimate),
            bias_correction=(
                not self.baseline if self.bias_correction is None else self.bias_correction
            ),
            overrides=self.overrides or {},
            ignore=list(self.ignore),
            max_memory=self.max_memory or max_memory,
        )
        options.for_layer({}, sparsity)
        return options

    def for_layer(
        self, own: Mapping[str, Any], sparsity: float | str | None
    ) -> LayerOptions | None:
        """A layer's resolved options: its own over the model's, with the sparsity it was allocated.

        None where nothing is to be done to the layer: it has neither a sparsity nor bits.
        """
        shared = {name: getattr(self, name) for name in LAYER_OPTIONS}
        options = LayerOptions(**{**shared, **own, "sparsity": sparsity})
        return None if options.idle else options.resolved()

    def outcome(self) -> dict[str, Any]:
        """The options that decide the result, in a form that is the same in every process."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.metadata["outcome"]}
        return {**values, "forward": _name_of(self.forward)}


def _name_of(forward: Callable[..., Any] | None) -> str | None:
    """The function's name and code, which are the same in every process; its address is not."""
    if forward is None:
        return None
    code = getattr(forward, "__code__", None)
    name = str(getattr(forward, "__qualname__", type(forward).__qualname__))
    return name if code is None else f"{name} {code.co_code.hex()} {code.co_names}"
