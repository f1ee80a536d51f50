"""Compressed weights: `Pruned` and `Quantized`, the two forms a weight has after compression.

One type for all rooms: `compress_layer` makes them, `CompressedModel.weights` holds them, files store
them and exporters read them. Their arrays are NumPy or torch (or of another array library), wherever
they lie; nothing here copies an array that stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from array_api_compat import array_namespace, device

from .arrays import Array, dtype_name
from .errors import ParameterError
from .grid import Grid

__all__ = ["CompressedWeight", "Pruned", "Quantized", "compressed_weight", "is_weight_of"]

_NARROW = ("float16", "bfloat16", "float32")  # computed in float32; wider ones in float64


@dataclass(frozen=True, eq=False)
class Pruned:
    """A weight that keeps its values where the mask is True and is zero elsewhere.

    Attributes
    ----------
    weight : real floats of any shape, or uint16, which stands for the bits of a bfloat16. What it
        holds where the mask is False does not matter.
    mask : bool, the same shape; True = kept.

    Raises
    ------
    ParameterError : a ValueError; one of the arrays has another dtype or shape.
    """

    weight: Array
    mask: Array

    def __post_init__(self) -> None:
        if "float" not in self.dtype and self.dtype != "uint16":
            raise ParameterError(
                "weight",
                self.weight,
                "an array of real floats, or of uint16 for the bits of a bfloat16",
                shown=f"an array of {self.dtype}",
            )
        _require_mask(self.mask, self.shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the dense weight."""
        return tuple(self.weight.shape)

    @property
    def dtype(self) -> str:
        """Name of the dense weight's dtype."""
        return dtype_name(self.weight)

    def to_dense(self) -> Array:
        """Returns the weight with its zeros, an array of its own."""
        return _masked(self.mask, self.weight)

    def parts(self) -> dict[str, Array]:
        """Returns the arrays that only the compression knows, by name: `mask`."""
        return {"mask": self.mask}

    def converted(self, convert: Callable[[Array], Array]) -> Pruned:
        """Returns the same weight with each array replaced by ``convert(array)``.

        Examples: ``lambda a: a.cpu()``, ``lambda a: a.numpy()``, ``torch.from_numpy``.
        """
        return Pruned(convert(self.weight), convert(self.mask))


@dataclass(frozen=True, eq=False)
class Quantized:
    """A weight that is ``(codes - zero_point) * scale``, and zero where the mask is False.

    Attributes
    ----------
    codes : uint8 [d_out, ...], two axes or more, none empty; each below 2^bits.
    grid : of the codes as a matrix [d_out, d_in]: bits, scale, zero_point, group_size.
    mask : bool, the shape of the codes, True = kept; None where nothing was pruned.
    dtype : name of the dense weight's dtype, a real float of the codes' array library.

    Raises
    ------
    ParameterError : a ValueError; the codes or the mask have another dtype, shape or range.
    ValueError : the grid does not fit the codes.
    """

    codes: Array
    grid: Grid
    mask: Array | None = None
    dtype: str = "float32"

    def __post_init__(self) -> None:
        codes, bits = self.codes, self.bits
        xp = array_namespace(codes)
        if "float" not in str(self.dtype) or not hasattr(xp, self.dtype):
            raise ParameterError(
                "dtype", self.dtype, f"the name of a real float of {xp.__name__.split('.')[-1]}"
            )
        if not 1 <= bits <= 8:
            raise ParameterError("bits", bits, "1..8")
        if self.group_size != -1 and self.group_size < 1:
            raise ParameterError("group_size", self.group_size, "-1 or at least 1")
        for name in ("scale", "zero_point"):
            if (dtype := dtype_name(getattr(self.grid, name))) != "float32":
                raise ParameterError("grid", self.grid, "float32", shown=f"one with {name} {dtype}")
        if dtype_name(codes) != "uint8" or codes.ndim < 2 or 0 in codes.shape:
            raise ParameterError(
                "codes",
                codes,
                "uint8 [d_out, d_in] or more axes, none empty",
                shown=f"{dtype_name(codes)} of shape {list(codes.shape)}",
            )
        if (largest := int(xp.max(codes))) >> bits:
            raise ParameterError(
                "codes",
                codes,
                f"0..{2**bits - 1} for {bits} bits",
                shown=f"an array that reaches {largest}",
            )
        self.grid.require_fits((codes.shape[0], _row_size(codes)))
        if self.mask is not None:
            _require_mask(self.mask, self.shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the dense weight."""
        return tuple(self.codes.shape)

    @property
    def bits(self) -> int:
        """Bits of a code, 1..8."""
        return self.grid.bits

    @property
    def scale(self) -> Array:
        """Distance between two levels, float32 [d_out, groups]."""
        return self.grid.scale

    @property
    def zero_point(self) -> Array:
        """The code of zero, float32 [d_out, groups]."""
        return self.grid.zero_point

    @property
    def group_size(self) -> int:
        """Consecutive inputs that share a scale; -1 is the whole row."""
        return self.grid.group_size

    def to_dense(self) -> Array:
        """Returns the weight that the codes stand for, rounded as `compress_layer` rounds it."""
        xp = array_namespace(self.codes)
        wide = xp.float32 if self.dtype in _NARROW else xp.float64
        codes = xp.astype(xp.reshape(self.codes, (self.codes.shape[0], -1)), wide)
        group = self.grid.group_of_column(codes.shape[1])
        weight = (codes - self.zero_point[:, group]) * self.scale[:, group]
        weight = xp.reshape(xp.astype(weight, getattr(xp, self.dtype), copy=False), self.shape)
        return weight if self.mask is None else _masked(self.mask, weight)

    def parts(self) -> dict[str, Array]:
        """Returns the arrays that only the compression knows: `codes`, `scale`, `zero_point`, and
        `mask` where something was pruned."""
        parts = {} if self.mask is None else {"mask": self.mask}
        return parts | {"codes": self.codes, "scale": self.scale, "zero_point": self.zero_point}

    def converted(self, convert: Callable[[Array], Array]) -> Quantized:
        """Returns the same weight with each array replaced by ``convert(array)``.

        Examples: ``lambda a: a.cpu()``, ``lambda a: a.numpy()``, ``torch.from_numpy``.
        """
        grid = replace(self.grid, scale=convert(self.scale), zero_point=convert(self.zero_point))
        mask = None if self.mask is None else convert(self.mask)
        return Quantized(convert(self.codes), grid, mask, self.dtype)

    def rescaled(self, row_scale: Array) -> Quantized:
        """Returns the weight with each row multiplied by a number, as folding a BatchNorm does.

        A negative factor turns the grid around: code c becomes 2^bits - 1 - c.

        Parameters
        ----------
        row_scale : float [d_out], none of them 0.

        Raises
        ------
        ParameterError : a ValueError; a factor is 0, which no positive scale can express.
        """
        xp = array_namespace(self.codes)
        factor = xp.asarray(row_scale, dtype=xp.float32, device=device(self.codes))
        if tuple(factor.shape) != self.shape[:1]:
            raise ParameterError(
                "row_scale",
                row_scale,
                f"[{self.shape[0]}], one number a row",
                verb="has",
                shown=f"shape {list(factor.shape)}",
            )
        bad = factor[(factor == 0) | ~xp.isfinite(factor)]
        if len(bad):
            wrong = f"{float(bad[0]):g}"
            raise ParameterError(
                "row_scale", row_scale, "finite numbers that are not 0", shown=f"{wrong} in a row"
            )
        factor = factor[:, None]
        top = 2**self.bits - 1
        flat = xp.reshape(self.codes, (self.codes.shape[0], -1))
        grid = replace(
            self.grid,
            scale=self.scale * xp.abs(factor),
            zero_point=xp.where(factor < 0, top - self.zero_point, self.zero_point),
        )
        codes = xp.reshape(xp.where(factor < 0, top - flat, flat), self.shape)
        return replace(self, codes=codes, grid=grid)

    def integers(self) -> tuple[Array, Array]:
        """Returns ``(integers, row_scale)`` with ``weight = integers * row_scale`` row by row.

        The integers are ``codes - zero_point`` (twice that where zero points are halves, as those of
        1 bit are) and 0 where the mask is False: float32, the shape of the codes. row_scale is
        float64 [d_out].

        Raises
        ------
        ParameterError : a ValueError; a row has several scales, or zero points are neither integers
            nor halves.
        """
        if self.group_size != -1:
            raise ParameterError("group_size", self.group_size, "-1, one scale a row")
        xp = array_namespace(self.codes)
        halves = bool(xp.any(self.zero_point % 1 != 0))
        codes = xp.astype(xp.reshape(self.codes, (self.codes.shape[0], -1)), xp.float32)
        values = (codes - self.zero_point) * (2.0 if halves else 1.0)
        if bool(xp.any(values % 1 != 0)):
            raise ParameterError(
                "zero_point",
                self.zero_point,
                "integers, or integers and halves",
                shown="neither integer nor half",
            )
        values = xp.reshape(values, self.shape)
        row_scale = xp.astype(self.scale[:, 0], xp.float64) / (2.0 if halves else 1.0)
        return values if self.mask is None else _masked(self.mask, values), row_scale


CompressedWeight = Pruned | Quantized


def compressed_weight(
    weight: Array, parts: Mapping[str, Array], bits: int | None, group_size: int | None
) -> CompressedWeight | None:
    """Returns the compressed weight that the given arrays describe.

    Parameters
    ----------
    weight : the dense weight.
    parts : what `Pruned.parts` or `Quantized.parts` returned; other entries are ignored.
    bits, group_size : of the codes; required if `parts` has codes.

    Returns
    -------
    CompressedWeight, or None if there is neither a mask nor codes.

    Raises
    ------
    ParameterError : a ValueError; `parts` has codes and bits or group_size is None.
    """
    mask = parts.get("mask")
    if "codes" not in parts:
        return None if mask is None else Pruned(weight, mask)
    if bits is None or group_size is None:
        name, size = ("bits", bits) if bits is None else ("group_size", group_size)
        raise ParameterError(name, size, "an integer, as parts has codes")
    grid = Grid(bits, parts["scale"], parts["zero_point"], group_size)
    return Quantized(parts["codes"], grid, mask, dtype_name(weight))


def is_weight_of(compressed: CompressedWeight, weight: Array) -> bool:
    """Whether a compressed weight stands for exactly this dense one, the sign of each zero included."""
    dense = compressed.to_dense()
    xp = array_namespace(dense)
    if tuple(dense.shape) != tuple(weight.shape) or dense.dtype != weight.dtype:
        return False
    return bool(xp.all((dense == weight) & (xp.signbit(dense) == xp.signbit(weight))))


def _masked(mask: Array, values: Array) -> Array:
    """Returns the values, zero where the mask is False."""
    xp = array_namespace(values)
    return xp.where(mask, values, xp.zeros((), dtype=values.dtype, device=device(values)))


def _row_size(array: Array) -> int:
    """Returns the number of elements of a row, the product of all axes but the first."""
    size = 1
    for extent in array.shape[1:]:
        size *= int(extent)
    return size


def _require_mask(mask: Array, shape: tuple[int, ...]) -> None:
    if dtype_name(mask) != "bool" or tuple(mask.shape) != shape:
        raise ParameterError(
            "mask",
            mask,
            f"bool {list(shape)}",
            shown=f"{dtype_name(mask)} of shape {list(mask.shape)}",
        )
