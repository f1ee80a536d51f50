"""The weights of a model that products in its forward use, and why some of them stay as they are."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from torch import nn

from ..conv import Conv
from ..network.products import MULTIPLIES, Kind, ProductForm
from ..network.state import entry, owner_of
from ..network.tensors import WEIGHT_LAYERS, WeightLayer
from ..network.weight_table import WeightTable, layer_name
from .provenance import Provenance, WeightUse


@dataclass(frozen=True)
class Place:
    """A weight, under one of its names.

    Attributes
    ----------
    name : of the layer: a Linear's or convolution's module, otherwise the entry of the state.
    weight_entry : of the weight in the model's state.
    form : how it is used.
    shape : of the weight as [d_out, d_in] or [C_out, C_in / groups, *kernel].
    functional : whether a product outside of the module uses it.
    biases : by product, the entry of the bias that it adds; None where it adds none, "" for others.
    refusal : why it cannot be compressed; "" where it can.
    caution : why it is left alone unless ``{"skip": False}`` asks for it; "" where there is no reason.
    readers : functions that read the weight and are no product with all of it.
    also : names of further modules with the same weight.
    """

    name: str
    weight_entry: str
    form: ProductForm
    shape: tuple[int, ...]
    functional: bool = False
    biases: tuple[str | None, ...] = ()
    refusal: str = ""
    caution: str = ""
    readers: tuple[str, ...] = ()
    also: tuple[str, ...] = ()


def fixed_weights(model: nn.Module) -> frozenset[str]:
    """Returns the entries of parameters that do not require gradients, as constants do not."""
    named = model.named_parameters(remove_duplicate=False)
    return frozenset(name for name, parameter in named if not parameter.requires_grad)


def places_of(model: nn.Module, provenance: Provenance, fixed: Collection[str]) -> list[Place]:
    """Returns the places of all weights, in the order of their first use, unused ones last.

    Of weights that are one tensor the first stands for all; see `Place.also`.

    Parameters
    ----------
    model : that was run.
    provenance : of its forward pass.
    fixed : `fixed_weights` of the model before that.
    """
    table = WeightTable(model)
    modules = dict(model.named_modules())
    places = [
        _of_module(name, module, table, provenance)
        for name, module in modules.items()
        if isinstance(module, WEIGHT_LAYERS)
    ]
    taken = {tied for place in places for tied in _tied(place.weight_entry, table)}
    taken |= {
        entry(name, key)
        for name, (module, _) in uncompressed_modules(model).items()
        for key in module._parameters
    }
    for name, use in provenance.uses.items():
        if name not in taken and (use.forms or MULTIPLIES.intersection(use.readers)):
            places.append(_of_parameter(name, table, use, modules))
    order = {name: at for at, name in enumerate(provenance.layer_calls)}
    places.sort(key=lambda place: order.get(place.name, len(order)))
    variable = any(place.weight_entry not in fixed for place in places)
    owners: dict[str, Place] = {}
    for place in places:
        names = _tied(place.weight_entry, table)
        key = names[0]
        if key in owners:
            owners[key] = replace(owners[key], also=(*owners[key].also, place.name))
            continue
        owners[key] = _with_ties(place, names, table)
        if variable and place.weight_entry in fixed:
            why = "its weight requires no gradient, as a constant; it stays as it is"
            owners[key] = replace(owners[key], caution=owners[key].caution or _escaped(why, place))
    return list(owners.values())


def uncompressed_modules(model: nn.Module) -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """Returns the modules with weights of a kind that is not compressed, and the first one's shape."""
    kinds = (
        nn.modules.conv._ConvNd,
        nn.Bilinear,
        nn.RNNBase,
        nn.RNNCellBase,
        nn.MultiheadAttention,
        nn.Embedding,
        nn.EmbeddingBag,
    )
    found: dict[str, tuple[nn.Module, tuple[int, ...]]] = {}
    for name, module in model.named_modules():
        if isinstance(module, kinds) and not isinstance(module, WEIGHT_LAYERS):
            shapes = [tuple(p.shape) for p in module.parameters(recurse=False) if p.ndim > 1]
            if shapes:
                found[name] = module, shapes[0]
    return found


def names_of(places: list[Place], model: nn.Module) -> list[str]:
    """Returns the names that `overrides` and `ignore` accept."""
    named = [name for place in places for name in (place.name, *place.also)]
    return [*named, *uncompressed_modules(model)]


def _of_module(name: str, module: WeightLayer, table: WeightTable, provenance: Provenance) -> Place:
    """Returns the place of a Linear's or convolution's own weight."""
    own = _form_of(module)
    key = entry(name, "weight")
    use = provenance.uses.get(_tied(key, table)[0], WeightUse())
    called = name in provenance.module_calls
    forms = [own] * called + [form for form in use.forms if not called or form != own]
    form = forms[0] if forms else own
    refusal = ""
    if "weight" not in module._parameters:
        refusal = "its weight is made from other parameters; remove the parametrization first"
    elif name in provenance.unusual:
        refusal = "its forward does more than multiply by its weight; its weight stays as it is"
    elif called and own.kind != "Linear" and module.padding_mode != "zeros":
        refusal = f"padding_mode {module.padding_mode!r} is not supported; accepted is 'zeros'"
    elif len(forms) > 1:
        refusal = _in_ways(forms)
    bias = None if module.bias is None else entry(name, "bias")
    return Place(
        name,
        key,
        form,
        _shape(tuple(module.weight.shape), form),
        functional=bool(use.forms),
        biases=tuple(dict.fromkeys((*([bias] * called), *use.biases))),
        refusal=refusal,
        readers=tuple(use.readers),
    )


def _of_parameter(
    key: str, table: WeightTable, use: WeightUse, modules: dict[str, nn.Module]
) -> Place:
    """Returns the place of a parameter that belongs to no Linear layer or convolution."""
    form = use.forms[0] if use.forms else ProductForm("Linear")
    return Place(
        layer_name(key, modules),
        key,
        form,
        _shape(tuple(table.weights[key].shape), form),
        functional=True,
        biases=tuple(use.biases),
        refusal=_in_ways(use.forms) if len(use.forms) > 1 else "",
        readers=tuple(use.readers),
    )


def _with_ties(place: Place, names: list[str], table: WeightTable) -> Place:
    """Returns the place with what stands against a compression among the other uses of its memory."""
    others = [name for name in names if name != place.weight_entry]
    also = f", which {', '.join(map(repr, others))} is as well" if others else ""
    if place.readers:
        why = f"{', '.join(place.readers)} reads its weight{also}; it stays as it is"
        place = replace(place, caution=_escaped(why, place))
    entangled = table.entangled(place.weight_entry) if place.weight_entry in table.weights else []
    if entangled and not place.refusal:
        why = f"its weight shares memory with {', '.join(map(repr, entangled))} in another form"
        place = replace(place, refusal=f"{why}; they stay as they are")
    return place


def _escaped(why: str, place: Place) -> str:
    """Adds how to compress a layer all the same."""
    return f"{why} (overrides={{{place.name!r}: {{'skip': False}}}} compresses it)"


def _tied(key: str, table: WeightTable) -> list[str]:
    return table.same(key) if key in table.weights else [key]


def _in_ways(forms: list[ProductForm]) -> str:
    shown = [f"{form.kind}{', transposed' if form.transposed else ''}" for form in forms]
    return f"its weight is used in several ways ({'; '.join(shown)}); it stays as it is"


def _shape(shape: tuple[int, ...], form: ProductForm) -> tuple[int, ...]:
    return shape[::-1] if form.transposed else shape


def _form_of(module: WeightLayer) -> ProductForm:
    """Returns how a layer's own forward uses its weight."""
    if isinstance(module, nn.Linear):
        return ProductForm("Linear")
    kind: Kind = "Conv1d" if isinstance(module, nn.Conv1d) else "Conv2d"
    conv = Conv(
        tuple(module.kernel_size),
        tuple(module.stride),
        module.padding if isinstance(module.padding, str) else tuple(module.padding),
        tuple(module.dilation),
        module.groups,
    )
    return ProductForm(kind, False, conv)


def own_bias(place: Place, places: list[Place], modules: dict[str, nn.Module]) -> str | None:
    """Returns the entry of the bias that all products with a weight add, if nothing else adds it."""
    if len(place.biases) != 1 or not place.biases[0]:
        return None
    name = place.biases[0]
    module, field = owner_of(name)
    bias = getattr(modules[module], field)
    owners = sum(getattr(other, "bias", None) is bias for other in modules.values())
    users = sum(name in other.biases for other in places)
    return name if owners <= 1 and users == 1 else None
