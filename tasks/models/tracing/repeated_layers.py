"""An export of few layers, repeated: decoders are one layer over and over, with other weights.

torch traces and copies what it exports, which takes most of the time and memory of an export. So a
decoder is exported with its first layers alone. Where the last two of these are the same nodes, one
of them is the template of those that follow. Whoever exports compares the whole with the model.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import nn

EXPORTED = 3
"""Layers of a template: the first may differ by what it computes for all others."""
_SCOPES = "pkg.torch.onnx.name_scopes"
"""Metadata of a node that the exporter writes: the modules around it, outermost first."""
_GRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
_COMMUTATIVE = ("Add", "Mul")
_MOST_TERMS = 4
"""Of a sum, that are tried in every order."""
Values = Mapping[str, str]


def find_layers(module: nn.Module, count: int) -> str | None:
    """Return the name of the only list of so many layers; None where there is no such one."""
    lists = [
        name
        for name, part in module.named_modules()
        if isinstance(part, nn.ModuleList) and len(part) == count
    ]
    return lists[0] if len(lists) == 1 and count > EXPORTED + 1 else None


@contextmanager
def first_layers(module: nn.Module, layers: str) -> Iterator[None]:
    """Cut a list of layers to those of a template, while the context lasts."""
    parent, _, leaf = layers.rpartition(".")
    owner, whole = module.get_submodule(parent), module.get_submodule(layers)
    setattr(owner, leaf, whole[:EXPORTED])  # type: ignore[index]  # a list of modules
    try:
        yield
    finally:
        setattr(owner, leaf, whole)


@dataclass(slots=True)
class _Template:
    """The last exported layer: its nodes, and what its values are called one layer before."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    own: dict[str, str] = field(default_factory=dict)  # value of the layer before -> of this one
    carried: set[str] = field(default_factory=set)  # values of the layer before that this one reads


class _UnlikeError(Exception):
    """Two layers are not the same nodes."""


def repeat_layers(
    model: onnx.ModelProto,
    layers: str,
    count: int,
    weights: Mapping[str, NDArray[np.generic]],
    constant: Callable[[NDArray[np.generic], str], onnx.TensorProto],
) -> bool:
    """Write the layers behind the exported ones into a graph of `EXPORTED` layers.

    Args:
        model: As torch exported it, with its metadata; it is changed only where True is returned.
        layers: The name of the list of layers.
        count: Layers of the whole model.
        weights: The whole model's parameters by name.
        constant: From numbers and a name to a constant.

    Returns:
        False where the last two exported layers differ in more than weights, or another layer has
        no such weights.
    """
    graph = model.graph
    scope = re.compile(rf"{re.escape(layers)}\.(\d+)")
    of_layer = [_layer_of(node, scope) for node in graph.node]
    try:
        template = _Matcher(graph, layers, of_layer).match()
    except _UnlikeError:
        return False
    if not _have_their_weights(template, layers, count, weights):
        return False
    last = max(place for place, number in enumerate(of_layer) if number == EXPORTED - 1)
    head, tail = list(graph.node)[: last + 1], list(graph.node)[last + 1 :]
    names = _names(template, layers, count)
    added = _instances(template, names, layers)
    for node in tail:
        node.input[:] = [names[-1].get(name, name) for name in node.input]
    copies = [_copy(node) for node in (*head, *added, *tail)]
    del graph.node[:]
    graph.node.extend(copies)
    _add_ends_and_types(graph, names, layers)
    _add_weights(graph, layers, count, lambda name: constant(weights[name], name))
    return True


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy


def _layer_of(node: onnx.NodeProto, scope: re.Pattern[str]) -> int | None:
    """Return the number of the layer that a node is of; None of one outside of them."""
    scopes = next((item.value for item in node.metadata_props if item.key == _SCOPES), "[]")
    numbers = (scope.fullmatch(str(name)) for name in ast.literal_eval(scopes))
    return next((int(match[1]) for match in numbers if match), None)


def _renamed(name: str, layers: str, old: int, new: int) -> str:
    """Return what a weight or an end of the cache is called in another layer."""
    for stem in (f"{layers}.{old}.", f"past.{old}.", f"present.{old}.", f"prefix.{old}."):
        if name.startswith(stem):
            return stem.replace(f".{old}.", f".{new}.") + name.removeprefix(stem)
    return name


class _Matcher:
    """Pairs the nodes of the last two exported layers."""

    def __init__(self, graph: onnx.GraphProto, layers: str, of_layer: list[int | None]) -> None:
        self._layers = layers
        self._nodes = list(graph.node)
        self._of_layer = of_layer
        self._maker = {
            name: place for place, node in enumerate(graph.node) for name in node.output if name
        }
        self._readers: dict[str, list[int]] = {}
        for place, node in enumerate(graph.node):
            for name in node.input:
                self._readers.setdefault(name, []).append(place)
        self._template = _Template()

    def match(self) -> _Template:
        """Return the template; raises `_UnlikeError`."""
        before = self._places(EXPORTED - 2)
        last = self._places(EXPORTED - 1)
        if len(before) != len(last) or not last:
            raise _UnlikeError
        for old, new in zip(before, last, strict=True):
            self._pair_nodes(old, new)
        behind = range(last[-1] + 1, len(self._nodes))
        read = {name for place in behind for name in self._nodes[place].input}
        layers_read = {self._of_layer[self._maker[name]] for name in read & self._maker.keys()}
        layers_behind = {self._of_layer[place] for place in behind}
        carried = self._template.carried
        if layers_behind != {None} or layers_read - {None, EXPORTED - 1}:
            raise _UnlikeError  # something reads a layer in between
        if not carried <= self._template.own.keys():
            raise _UnlikeError
        return self._template

    def _places(self, number: int) -> list[int]:
        return [place for place, layer in enumerate(self._of_layer) if layer == number]

    def _pair_nodes(self, old: int, new: int) -> None:
        one, other = self._nodes[old], self._nodes[new]
        if any(item.type in _GRAPHS for item in one.attribute):
            raise _UnlikeError
        kinds = [
            (node.domain, node.op_type, len(node.input), len(node.output)) for node in (one, other)
        ]
        attributes = [
            sorted(item.SerializeToString(deterministic=True) for item in node.attribute)
            for node in (one, other)
        ]
        if kinds[0] != kinds[1] or attributes[0] != attributes[1]:
            raise _UnlikeError
        self._pair_inputs(one, other)
        self._template.own.update(zip(one.output, other.output, strict=True))
        self._template.nodes.append(other)

    def _pair_inputs(self, one: onnx.NodeProto, other: onnx.NodeProto) -> None:
        """Pair what two nodes read, in another order too where that makes no difference.

        A sum of sums is one of all their terms, paired where it ends: torch adds up lengths in any
        order.
        """
        if self._is_within_sum(one) and self._is_within_sum(other):
            return
        names, twins = self._terms(one), self._terms(other)
        if len(names) != len(twins):
            raise _UnlikeError
        free = one.op_type in _COMMUTATIVE and len(twins) <= _MOST_TERMS
        orders = permutations(twins) if free else iter((tuple(twins),))
        template = self._template
        tried = (list(template.nodes), dict(template.own), set(template.carried))
        for order in orders:
            try:
                for name, twin in zip(names, order, strict=True):
                    self._pair_values(name, twin)
            except _UnlikeError:
                kept = (list(tried[0]), dict(tried[1]), set(tried[2]))
                template.nodes, template.own, template.carried = kept
            else:
                return
        raise _UnlikeError

    def _is_within_sum(self, node: onnx.NodeProto) -> bool:
        """Whether a sum is a term of another one of its layer, and nothing else."""
        if node.op_type != "Add":
            return False
        place = self._maker[node.output[0]]
        readers = self._readers.get(node.output[0], [])
        return bool(readers) and all(
            self._nodes[reader].op_type == "Add" and self._of_layer[reader] == self._of_layer[place]
            for reader in readers
        )

    def _terms(self, node: onnx.NodeProto) -> list[str]:
        """Return what a node reads; of a sum what the sums within it read."""
        if node.op_type != "Add":
            return list(node.input)
        terms: list[str] = []
        for name in node.input:
            maker = self._maker.get(name)
            within = maker is not None and self._is_within_sum(self._nodes[maker])
            terms += self._terms(self._nodes[maker]) if within and maker is not None else [name]
        return terms

    def _pair_values(self, name: str, twin: str) -> None:
        own = self._template.own
        if name in own or name == twin:
            if own.get(name, twin) != twin:
                raise _UnlikeError
            return
        if _renamed(name, self._layers, EXPORTED - 2, EXPORTED - 1) == twin:
            return
        maker, twins = self._maker.get(name), self._maker.get(twin)
        if maker is None or twins is None:
            raise _UnlikeError
        numbers = self._of_layer[maker], self._of_layer[twins]
        if numbers == (EXPORTED - 3, EXPORTED - 2):
            self._template.carried.add(twin)
        elif numbers == (None, None):
            self._pair_nodes(maker, twins)  # sizes, which are computed outside of the layers
        else:
            raise _UnlikeError


def _have_their_weights(
    template: _Template, layers: str, count: int, weights: Mapping[str, NDArray[np.generic]]
) -> bool:
    """Return whether the layers that follow are told apart by the weights that the template reads.

    The exporter stores equal numbers once, so that the template may read those of another layer.
    Such a weight has to be the same in all layers that follow.
    """
    stem = f"{layers}.{EXPORTED - 1}."
    read = {name for node in template.nodes for name in node.input}
    shapes = [_of_layer(weights, f"{layers}.{number}.") for number in range(EXPORTED - 1, count)]
    if any(item != shapes[0] for item in shapes):
        return False
    merged = [name for name in weights if name.startswith(stem) and name not in read]
    return all(
        np.array_equal(weights[name], weights[_renamed(name, layers, EXPORTED - 1, number)])
        for name in merged
        for number in range(EXPORTED, count)
    )


def _of_layer(
    weights: Mapping[str, NDArray[np.generic]], stem: str
) -> Mapping[str, tuple[tuple[int, ...], np.dtype[np.generic]]]:
    return {
        name.removeprefix(stem): (numbers.shape, numbers.dtype)
        for name, numbers in weights.items()
        if name.startswith(stem)
    }


def _names(template: _Template, layers: str, count: int) -> list[Values]:
    """Return by layer that follows what the last exported layer's values are called there."""
    own = [name for node in template.nodes for name in node.output if name]
    names: list[Values] = []
    for number in range(EXPORTED, count):
        renamed = {name: _renamed(name, layers, EXPORTED - 1, number) for name in own}
        names.append(
            {
                name: f"{name}.layer.{number}" if other == name else other
                for name, other in renamed.items()
            }
        )
    return names


def _instances(template: _Template, names: list[Values], layers: str) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of the layers that follow."""
    before: Values = {}
    for number, here in enumerate(names, start=EXPORTED):
        carried = {
            name: before.get(template.own[name], template.own[name]) for name in template.carried
        }
        for node in template.nodes:
            copy = _copy(node)
            copy.name = f"{node.name}.layer.{number}"
            copy.output[:] = [here.get(name, name) for name in node.output]
            copy.input[:] = [
                here.get(name) or carried.get(name) or _renamed(name, layers, EXPORTED - 1, number)
                for name in node.input
            ]
            yield copy
        before = here


def _add_ends_and_types(graph: onnx.GraphProto, names: list[Values], layers: str) -> None:
    """Give the layers that follow their ends of the cache, and their values' types."""
    for number, here in enumerate(names, start=EXPORTED):
        for ends in (graph.input, graph.output):
            for item in list(ends):
                name = _renamed(item.name, layers, EXPORTED - 1, number)
                if name != item.name:
                    _add_named(ends, item, name)
        for item in list(graph.value_info):
            if item.name in here:
                _add_named(graph.value_info, item, here[item.name])


def _add_named(values: Any, item: onnx.ValueInfoProto, name: str) -> None:
    copy = values.add()
    copy.CopyFrom(item)
    copy.name = name


def _add_weights(
    graph: onnx.GraphProto, layers: str, count: int, make: Callable[[str], onnx.TensorProto]
) -> None:
    exported = [item.name for item in graph.initializer]
    for number in range(EXPORTED, count):
        for name in exported:
            other = _renamed(name, layers, EXPORTED - 1, number)
            if other != name:
                graph.initializer.append(make(other))
