"""What a cached decoder's graph looks like from outside: its inputs, its outputs, and its cache."""

import json
from dataclasses import asdict, dataclass

import onnx

LOGITS = "logits"
FED = ("input_ids", "attention_mask", "position_ids", "past_mask")
STOP_KEY = "requant.stop_tokens"
"""In the graph's metadata: ids that end a text, separated by commas."""
PREFIX_KEY = "requant.prefix"
"""In the graph's metadata: a `FoundPrefix`, as JSON."""


@dataclass(frozen=True, slots=True)
class CacheLayout:
    """What a graph's cache looks like."""

    layers: tuple[tuple[int, int], ...]  # of each: heads and width
    stops: tuple[int, ...]  # token ids that end a text

    @property
    def names(self) -> tuple[str, ...]:
        """Return the cache's part of a name, in order: "0.key", "0.value", "1.key" and so on."""
        return tuple(
            f"{layer}.{part}" for layer in range(len(self.layers)) for part in ("key", "value")
        )

    @property
    def inputs(self) -> tuple[str, ...]:
        """Return every input of the graph."""
        return (*FED, *(f"past.{name}" for name in self.names))

    @property
    def outputs(self) -> tuple[str, ...]:
        """Return every output of the graph."""
        return (LOGITS, *(f"present.{name}" for name in self.names))


@dataclass(frozen=True, slots=True)
class FoundPrefix:
    """A prefix, and what it does to full precision on the texts that it was found in."""

    tokens: tuple[int, ...]
    perplexity: float  # over that without
    agreement: float  # fraction of tokens after which both predict the same one


NO_CACHE = CacheLayout((), ())
"""Of a checkpoint, which reads whole texts."""


def mark(graph: onnx.ModelProto, layout: CacheLayout) -> None:
    """Write the stop tokens into the graph's metadata, where `read_layout` finds them."""
    onnx.helper.set_model_props(graph, {STOP_KEY: ",".join(map(str, layout.stops))})


def read_layout(graph: onnx.ModelProto) -> CacheLayout:
    """Return the cache of an exported graph.

    Raises:
        ValueError: when its inputs are not those of this module.
    """
    shapes = {
        item.name: [d.dim_value for d in item.type.tensor_type.shape.dim]
        for item in graph.graph.input
    }
    keys = sum(name.startswith("past.") and name.endswith(".key") for name in shapes)
    try:
        layers = tuple(
            (shapes[f"past.{layer}.key"][1], shapes[f"past.{layer}.key"][3])
            for layer in range(keys)
        )
    except (KeyError, IndexError) as exc:
        raise ValueError(f"the cache's inputs are incomplete ({exc})") from exc
    stops = next((item.value for item in graph.metadata_props if item.key == STOP_KEY), "")
    layout = CacheLayout(layers, tuple(int(item) for item in stops.split(",") if item))
    missing = sorted({*layout.inputs} ^ {*shapes})
    if not keys or missing:
        raise ValueError(
            f"the inputs differ in {', '.join(missing[:3]) or 'past.0.key'} from a cached decoder's"
        )
    return layout


def mark_prefix(graph: onnx.ModelProto, found: FoundPrefix) -> None:
    """Write a prefix into the graph's metadata, where `prefix_of` finds it."""
    document = json.dumps({"version": 1, **asdict(found)})
    graph.metadata_props.append(onnx.StringStringEntryProto(key=PREFIX_KEY, value=document))


def prefix_of(graph: onnx.ModelProto) -> FoundPrefix | None:
    """Return the prefix that stands before every text of a graph; None where none does."""
    for item in graph.metadata_props:
        if item.key == PREFIX_KEY:
            document = json.loads(item.value)
            return FoundPrefix(
                tuple(document["tokens"]), document["perplexity"], document["agreement"]
            )
    return None
