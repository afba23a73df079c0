"""A language model of which one decoder layer at a time is in memory.

The family's own code computes: transformers builds the model without weights, and a layer gets its
weights for as long as it is needed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from infra.errors import BadInput
from infra.settings import settings
from tasks.models.checkpoints.empty import without_weights
from tasks.models.checkpoints.experts import split_experts
from tasks.models.checkpoints.names import StoredNames, require_names, require_tied
from tasks.models.checkpoints.stored import CheckpointTensors

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel


@dataclass(frozen=True, slots=True, eq=False)
class LayerCall:
    """What the family's code hands a layer beside the hidden states."""

    positional: tuple[Any, ...]
    named: dict[str, Any]

    def first(self) -> LayerCall:
        """Return the call for the first window alone."""
        return LayerCall(_first(self.positional), _first(self.named))


class StreamedDecoder:
    """A causal language model whose weights stay in their files."""

    def __init__(
        self, stored: CheckpointTensors, device: str = "cpu", dtype: torch.dtype | None = None
    ) -> None:
        """Build the model without weights, but for its embeddings, last norm and head.

        Args:
            stored: The checkpoint.
            device: Where layers are computed, as torch names it.
            dtype: What they are computed in; None: as they are stored.

        Raises:
            BadInput: The configuration names no causal language model, or one whose layers are
                not a list of modules.
        """
        import torch
        from transformers import AutoModelForCausalLM

        self._stored, self.device = stored, torch.device(device)
        config = read_config(stored)
        try:
            with without_weights():
                model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        except (ValueError, KeyError, OSError) as exc:
            raise _no_model(stored, exc) from exc
        self.model: PreTrainedModel = model.eval().requires_grad_(False)
        self._prefix, self._layers = _found_layers(self.model, config.num_hidden_layers)
        split_experts(self.model)
        self.names = StoredNames(self.model, stored.names)
        self._returns_tuple = False
        tied: Mapping[str, str] = self.model.all_tied_weights_keys
        whole = [name for name in self.model.state_dict() if name not in tied]
        require_names(self.model, whole, self.names)
        self._outside = [name for name in whole if not name.startswith(self._prefix)]
        kind = stored.tensor(self.names.stored(self._outside[0])).dtype
        self.dtype, self.stored_item = dtype or kind, kind.itemsize
        self._wide = _kept_wide(self.model, self.dtype)
        for name, value in self.model.named_buffers():
            parent, _, leaf = name.rpartition(".")
            self.model.get_submodule(parent)._buffers[leaf] = value.to(self.device)
        _assign(self.model, self._read(self._outside, self._moved))
        if tied:
            require_tied(tied, stored, self.names)
            self.model.tie_weights()

    @property
    def kind(self) -> str:
        """What its configuration calls its family."""
        return str(self.model.config.model_type)

    @property
    def words(self) -> int:
        """How many tokens have an embedding."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    @property
    def positions(self) -> int | None:
        """How many tokens of a text it has positions for; None: its configuration does not say."""
        return positions_in(self.model.config)

    @property
    def outside_size(self) -> int:
        """Bytes that embeddings, last norm and head take."""
        found = self.model.state_dict()
        return sum(int(found[name].numel()) for name in self._outside) * self.dtype.itemsize

    @property
    def outside(self) -> Sequence[str]:
        """Names of the tensors that stand outside of decoder layers, as the checkpoint has them."""
        return [self.names.stored(name) for name in self._outside]

    @property
    def heads(self) -> tuple[str, ...]:
        """Return the linear layers outside of decoder layers, which are not quantized."""
        from torch import nn

        return tuple(
            name
            for name, module in self.model.named_modules()
            if isinstance(module, nn.Linear) and not name.startswith(self._prefix)
        )

    @property
    def matrices(self) -> Sequence[str]:
        """Return all that multiplies: linear layers, and whatever else has a matrix for a weight.

        Embedding tables are none.
        """
        from torch import nn

        return [
            name
            for name, module in self.model.named_modules()
            if not isinstance(module, nn.Embedding)
            and getattr(getattr(module, "weight", None), "ndim", 0) == 2
        ]

    @property
    def layers(self) -> int:
        """How many decoder layers there are."""
        return len(self._layers)

    def kinds(self) -> Sequence[int]:
        """Return the first layer of each kind: of the same parameters, and called the same."""
        named = getattr(self.model.config, "layer_types", None) or [""] * self.layers
        first: dict[object, int] = {}
        for number, layer in enumerate(self._layers):
            shapes = tuple((name, value.shape) for name, value in layer.named_parameters())
            first.setdefault((named[number], shapes), number)
        return tuple(first.values())

    def module(self, layer: int) -> nn.Module:
        """Return a layer, with weights where it is loaded."""
        found: nn.Module = self._layers[layer]
        return found

    def prefix(self, layer: int) -> str:
        """Return how the names of a layer's tensors begin, with the last dot."""
        return f"{self._prefix}{layer}."

    def original(self, layer: int) -> dict[str, torch.Tensor]:
        """Return a layer's parameters as they are stored, on the device, by their own names.

        Raises:
            BadInput: One is missing, or holds NaN or infinity.
        """
        prefix = self.prefix(layer)
        names = [prefix + name for name in self._layers[layer].state_dict()]
        read = self._read(names, lambda _, tensor: tensor.to(self.device, copy=True))
        _require_finite(read)
        return {name.removeprefix(prefix): tensor for name, tensor in read.items()}

    def _read(
        self, names: Sequence[str], into: Callable[[str, torch.Tensor], torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Return tensors by the names that the model has for them, each as `into` makes it."""
        own = {self.names.stored(name): name for name in names}
        read = self._stored.read([*own])
        return {own[name]: into(own[name], read.pop(name)) for name in [*read]}

    @contextmanager
    def loaded(
        self, layer: int, parameters: Mapping[str, torch.Tensor], *, cast: bool = True
    ) -> Iterator[nn.Module]:
        """Give a layer its parameters for as long as the context lasts.

        They are cast to what layers are computed in, unless that is not wanted.
        """
        import torch

        module = self._layers[layer]
        given = {
            name: self._moved(name, value) if cast else value for name, value in parameters.items()
        }
        _assign(module, given, self.prefix(layer))
        del given
        try:
            yield module
        finally:
            meta = torch.device("meta")
            empty = {
                name: torch.empty(value.shape, device=meta, dtype=value.dtype)
                for name, value in module.named_parameters()
            }
            _assign(module, empty)

    def begin(self, ids: torch.Tensor) -> tuple[torch.Tensor, list[LayerCall]]:
        """Return hidden states before the first layer, [windows, tokens, width].

        With them comes how each layer is called.

        Args:
            ids: Of windows without padding, [windows, tokens].
        """
        import torch

        calls: list[LayerCall] = []
        seen: list[torch.Tensor] = []

        def record(hidden: torch.Tensor, *positional: Any, **named: Any) -> Any:
            seen.append(hidden)
            calls.append(LayerCall(positional, named))
            return self._returned(hidden)

        taken = True
        with self._every_layer(record), torch.no_grad():
            try:
                self.model.base_model(input_ids=ids.to(self.device), use_cache=False)
            except RuntimeError:
                if self._returns_tuple:
                    raise
                taken = False
        if not self._returns_tuple and not (taken and all(x.shape == seen[0].shape for x in seen)):
            self._returns_tuple = True  # the family takes the first part of what a layer returns
            return self.begin(ids)
        return seen[0], calls

    def run(self, layer: int, hidden: torch.Tensor, call: LayerCall) -> torch.Tensor:
        """Return what a loaded layer makes of hidden states."""
        import torch

        with torch.no_grad():
            made = self._layers[layer](hidden, *call.positional, **call.named)
        found: torch.Tensor = made[0] if isinstance(made, tuple) else made
        return found

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return logits [..., tokens, vocabulary], float32, of what the last layer left.

        The family's own code computes them: what it does behind its layers is more than a norm.
        """
        import torch

        states = hidden.reshape(-1, *hidden.shape[-2:])
        tokens = torch.zeros(states.shape[:-1], dtype=torch.long, device=self.device)
        passed = self._returned(states)
        with self._every_layer(lambda *_, **__: passed), torch.no_grad():
            made: torch.Tensor = self.model(input_ids=tokens, use_cache=False).logits.float()
        return made.reshape(*hidden.shape[:-1], -1)

    def whole(self, ids: torch.Tensor) -> torch.Tensor:
        """Return logits [texts, tokens, vocabulary], float32, as the family computes them.

        Each layer has its weights for as long as it is called. This is what layers that are run one
        by one are held against.

        Args:
            ids: Of texts without padding, [texts, tokens].
        """
        import torch

        with ExitStack() as changed, torch.no_grad():
            for number, layer in enumerate(self._layers):
                changed.enter_context(_computing(layer, self._loading(number, layer.forward)))
            made: torch.Tensor = self.model(input_ids=ids.to(self.device), use_cache=False).logits
        return made.float()

    def _loading(self, number: int, own: Callable[..., Any]) -> Callable[..., Any]:
        def load(*positional: Any, **named: Any) -> Any:
            with self.loaded(number, self.original(number)):
                return own(*positional, **named)

        return load

    def _returned(self, hidden: torch.Tensor) -> Any:
        return (hidden,) if self._returns_tuple else hidden

    @contextmanager
    def _every_layer(self, compute: Callable[..., Any]) -> Iterator[None]:
        """Let every layer compute something else while the context lasts."""
        with ExitStack() as changed:
            for layer in self._layers:
                changed.enter_context(_computing(layer, compute))
            yield

    def require_finite_outside(self) -> None:
        """Pass where embeddings, last norm and head are finite.

        Raises:
            BadInput: One holds NaN or infinity.
        """
        parameters = self.model.state_dict()
        _require_finite({name: parameters[name] for name in self._outside})

    def _moved(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        import torch

        wide = self._wide is not None and self._wide.search(name)
        return tensor.to(self.device, torch.float32 if wide else self.dtype)


def read_config(stored: CheckpointTensors) -> PreTrainedConfig:
    """Return a checkpoint's configuration as transformers reads it.

    Raises:
        BadInput: It names no model that transformers knows.
    """
    from transformers import AutoConfig

    try:
        found: PreTrainedConfig = AutoConfig.from_pretrained(
            stored.folder, local_files_only=True, trust_remote_code=False
        )
    except (ValueError, KeyError, TypeError, OSError) as exc:
        raise _no_model(stored, exc) from exc
    return found


def positions_in(config: PreTrainedConfig) -> int | None:
    """Return how many tokens of a text a model has positions for; None where it does not say."""
    names = ("max_position_embeddings", "max_seq_len")
    found = next((getattr(config, name) for name in names if getattr(config, name, None)), None)
    return int(found) if found else None


def _no_model(stored: CheckpointTensors, exc: Exception) -> BadInput:
    line = " ".join(str(exc).split())[:300]
    return BadInput(f"config.json names no causal language model that transformers knows ({line})")


def device_here() -> str:
    """Return where layers are computed on this machine, as torch names it."""
    import torch

    return "cuda" if settings().observe_on_cuda and torch.cuda.is_available() else "cpu"


def _kept_wide(model: PreTrainedModel, dtype: torch.dtype) -> re.Pattern[str] | None:
    """Return what finds the parameters that a family computes with in float32, whatever the type.

    As `PreTrainedModel.from_pretrained` reads these lists; None: there is none.
    """
    import torch

    always, of_float16 = (
        getattr(model, name, None) or ()
        for name in ("_keep_in_fp32_modules_strict", "_keep_in_fp32_modules")
    )
    short = dtype in (torch.float16, torch.bfloat16)
    words = [*(always if short else ()), *(of_float16 if dtype == torch.float16 else ())]
    return re.compile("|".join(map(re.escape, words))) if words else None


def _first(part: Any) -> Any:
    """Return a call's part for one window: tensors that have one entry a window are cut."""
    if isinstance(part, dict):
        return {name: _first(value) for name, value in part.items()}
    if isinstance(part, tuple):
        return tuple(_first(value) for value in part)
    return part[:1] if hasattr(part, "shape") and part.dim() > 1 else part


def _found_layers(model: PreTrainedModel, count: int) -> tuple[str, Any]:
    from torch import nn

    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count and "expert" not in name:
            return f"{name}.", module
    raise BadInput(
        f"{model.config.model_type} has no list of {count} layers: it cannot be quantized one at a "
        "time"
    )


@contextmanager
def _computing(module: nn.Module, compute: Callable[..., Any]) -> Iterator[None]:
    """Let a module compute something else while the context lasts."""
    own = module.forward
    module.forward = compute
    try:
        yield
    finally:
        module.forward = own


def _require_finite(parameters: Mapping[str, torch.Tensor]) -> None:
    import torch

    for name, tensor in parameters.items():
        if not bool(torch.isfinite(tensor.sum(dtype=torch.float64))):
            raise BadInput(f"the weight {name} holds NaN or infinity: export it again")


def _assign(module: nn.Module, parameters: Mapping[str, torch.Tensor], prefix: str = "") -> None:
    """Put tensors in the place of parameters; `prefix` is before their names in the checkpoint."""
    from torch import nn

    for name, value in parameters.items():
        parent, _, leaf = name.rpartition(".")
        part = module.get_submodule(parent)
        if value.shape != getattr(part, leaf).shape:
            raise BadInput(
                f"the weight {prefix}{name} is {[*value.shape]}, and config.json makes it "
                f"{[*getattr(part, leaf).shape]}: it is of another model"
            )
        if leaf in part._buffers:
            part._buffers[leaf] = value
        else:
            setattr(part, leaf, nn.Parameter(value, requires_grad=False))
