"""The description of one model that Requant keeps right: one YAML file, checked once, here."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from infra.errors import BadInput
from infra.identifiers import ModelName
from infra.yaml_text import read_yaml
from tasks.specs.custom import Dimensions, MetricSpec, Number, States, TensorSpec, with_rules
from tasks.specs.drift import CalibrationSpec, DriftSpec, WindowSpec
from tasks.specs.form import Form, form_of, why_not_checkpoint
from tasks.specs.preprocess import PreprocessSpec
from tasks.specs.serving import DeliverySpec, ServingSpec
from tasks.specs.sources import SourceSpec, distinct
from tasks.specs.traits import METRICS, OF_GENERATION, OF_ITSELF, TRAITS, Task

ADAPTED = frozenset({Task.CAUSAL_LM, Task.TEXT_EMBEDDING})
"""Tasks whose folders an adapter may be laid over."""


class _SpecModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class InputSpec(_SpecModel):
    """What one request looks like to the model."""

    tokenizer: str | None = None  # file beside the weights, in the `tokenizers` JSON format
    # Whether a language model's conversations are written by the folder's own, where it has one.
    chat_template: bool = True
    # Whether a language model's massive tokens stand before every text, in the graph.
    prefix: bool = False
    prompt: tuple[
        str, ...
    ] = ()  # tokens that a speech model's transcript begins with; empty: its own start token
    max_length: int = Field(default=128, ge=1, le=8192)  # tokens
    new_tokens: int = Field(
        default=48, ge=1, le=4096
    )  # most that is written to one prompt or recording
    shape: tuple[Annotated[int, Field(ge=1)], ...] | None = (
        None  # of one tensor, without the batch dimension
    )
    # The task's names of inputs -> the graph's, such as {image: x}; guessed where only one is left.
    names: Mapping[str, str] = Field(default_factory=dict)
    # Of a custom task: what the graph does not tell of its inputs, and sizes of named dimensions.
    tensors: Mapping[str, TensorSpec] = Field(default_factory=dict)
    dimensions: Dimensions = Field(default_factory=dict)
    # Of a streaming graph: input -> the output that comes back there with the next chunk.
    states: States = Field(default_factory=dict)
    preprocess: PreprocessSpec | None = None  # of requests as users send them

    @property
    def fixed(self) -> Mapping[str, Number | tuple[Number, ...]]:
        """Return the inputs that always have one value."""
        return {name: item.value for name, item in self.tensors.items() if item.value is not None}


class AdapterSpec(_SpecModel):
    """Small weights over a core's: a LoRA as PEFT writes it, merged when the model is exported."""

    path: str = Field(min_length=1)  # folder with adapter_config.json, as `source` names one
    # Registered model without it, whose champion may answer in its place (serving.fallback.to).
    core: str | None = Field(default=None, pattern=r"^[a-z][a-z0-9-]{1,62}$")


class DataSpec(_SpecModel):
    """Shipped data, as Parquet files beside the spec."""

    calibration: str  # the pool that anchors every calibration set
    traffic: str | None = None  # a corpus to replay as traffic


class GoldenSpec(_SpecModel):
    """The fixed evaluation cases, as files beside the spec."""

    cases: str
    safety_head: str | None = None
    prompt: str | None = (
        None  # text of a class for an image-text encoder, with {} for its label: "a photo of a {}"
    )

    @model_validator(mode="after")
    def _prompt_has_a_place(self) -> Self:
        if self.prompt is not None and self.prompt.count("{}") != 1:
            raise ValueError("golden.prompt needs {} once, where the label goes: 'a photo of a {}'")
        return self


class QualityBudget(_SpecModel):
    """A bound on one golden metric, overall and for every group of the traffic, or for one."""

    metric: str  # of the task, or one of the spec's own
    group: str | None = Field(default=None, pattern=r"^(all|domain=.+|language=.+)$")
    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _one_bound(self) -> Self:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("give exactly one of at_least and at_most")
        return self

    @model_validator(mode="after")
    def _can_be_kept(self) -> Self:
        known = self.metric in OF_ITSELF or any(self.metric in names for names in METRICS.values())
        if not known:
            return self  # only its own function knows what is best
        best = OF_ITSELF.get(self.metric, 0.0)
        low, high = self.at_least, self.at_most
        if (low is not None and low > best) or (high is not None and high < best):
            bound = f"at_most {high:g}" if low is None else f"at_least {low:g}"
            raise ValueError(
                f"no candidate can keep {self.metric} {bound}: full precision beside itself scores "
                f"{best:g}"
            )
        return self


class Budgets(_SpecModel):
    """What a candidate may cost, relative to full precision, and how good it must stay."""

    latency_ratio: float = Field(gt=0)  # candidate / full precision, median of paired runs
    size_ratio: float = Field(gt=0)
    peak_memory_ratio: float = Field(default=1.5, gt=0)
    # Candidate / an FP16 engine of the same graph on the same target, where that has FP16.
    fp16_latency_ratio: float = Field(default=1.0, gt=0)
    fp16_size_ratio: float | None = Field(default=None, gt=0)  # None: reported, not judged
    fp16_peak_memory_ratio: float | None = Field(default=None, gt=0)  # likewise
    # Of a language model, one prompt at a time, candidate / full precision; None: reported, not
    # judged.
    ttft_ratio: float | None = Field(default=None, gt=0)  # time to first token, at most
    prefill_throughput_ratio: float | None = Field(default=None, gt=0)  # tokens a second, at least
    decode_throughput_ratio: float | None = Field(default=None, gt=0)  # likewise, while it writes
    int8_fraction: float = Field(
        default=0.8, ge=0, le=1
    )  # of the multiply-accumulates asked for in INT8, and of those that no recipe takes, at least
    safety_flips: int = Field(
        default=0, ge=0
    )  # golden safety decisions that differ from full precision
    live_safety_flips: float = Field(
        default=0.01, ge=0, le=1
    )  # share of live decisions that may differ
    quality: tuple[QualityBudget, ...] = Field(min_length=1)


SCORED = frozenset({Task.IMAGE_CLASSIFICATION})
"""Tasks whose output is a score for each class, which tells how sure an answer is."""
CONTROLS = frozenset({"accuracy", "recall", "exact-match", "word-accuracy"})
"""What full precision is held to, as the task has it; a custom task has metrics of its own."""


class ControlSpec(_SpecModel):
    """Below this, full precision itself is wrong on what users send, and only retraining helps."""

    # One of `CONTROLS`; of a custom task the name of a metric against labels, whose error rates
    # count as 1 - rate.
    metric: str = Field(pattern=r"^[a-z][a-z0-9-]{0,40}$")
    at_least: float = Field(ge=0, le=1)


class ScheduleSpec(_SpecModel):
    """When maintenance runs; registration asks Prefect whether it can be kept."""

    slug: str = Field(pattern=r"^[a-z0-9-]+$")
    cron: str | None = Field(default=None, min_length=1)  # five fields, such as 0 3 * * *
    interval: int | None = Field(default=None, ge=1)  # seconds from one run to the next
    timezone: str = Field(
        default="UTC", min_length=1
    )  # of the IANA database, such as Europe/Berlin

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        if (self.cron is None) == (self.interval is None):
            raise ValueError("give exactly one of cron and interval")
        return self

    def __str__(self) -> str:
        """Return the rule for people."""
        rule = f"every {self.interval} s" if self.cron is None else repr(self.cron)
        return f"{rule} in {self.timezone}"


class ModelSpec(_SpecModel):
    """One model: where it comes from, what it is judged by and what it may cost."""

    version: Literal[1]
    name: ModelName = Field(pattern=r"^[a-z][a-z0-9-]{1,62}$")
    source: str = Field(
        min_length=1
    )  # folder or .onnx file, package:NAME/path, s3://..., models:/NAME/VERSION
    task: Task
    adapter: AdapterSpec | None = None
    input: InputSpec = InputSpec()
    data: DataSpec
    golden: GoldenSpec
    budgets: Budgets
    targets: tuple[
        Literal[
            "onnxruntime-cpu", "onnxruntime-cuda", "tensorrt-rtx", "tensorrt", "compressed-tensors"
        ],
        ...,
    ] = Field(min_length=1)
    schedule: ScheduleSpec
    window: WindowSpec = WindowSpec()
    drift: DriftSpec = DriftSpec()
    calibration: CalibrationSpec = CalibrationSpec()
    control: ControlSpec | None = None
    outputs: tuple[str, ...] = ()  # of the graph, that are judged; empty: all, or the only one
    metrics: tuple[MetricSpec, ...] = ()  # of a custom task; their budgets join budgets.quality
    # Read by every scheduled run, each file once: docs/traffic.md.
    sources: Annotated[tuple[SourceSpec, ...], AfterValidator(distinct)] = ()
    # four-eyes: somebody else than who asked for the candidate has to approve it.
    approval: Literal["auto", "manual", "four-eyes"] = "auto"
    serving: ServingSpec | None = None  # tiers of the gateway: docs/serving.md
    # Where work is spread unless REQUANT_CLUSTER or --cluster says otherwise: docs/scale.md.
    cluster: str | None = Field(default=None, pattern=r"^(none|local|(tcp|tls)://.+)$")

    @model_validator(mode="before")
    @classmethod
    def _budgets_of_metrics(cls, document: Any) -> Any:
        return with_rules(document)

    @model_validator(mode="after")
    def _input_fits_task(self) -> Self:
        traits = TRAITS[self.task]
        if (traits.tokenizer or self.golden.prompt) and not self.has_tokenizer:
            raise ValueError(
                "input.tokenizer is missing: a model of texts needs its tokenizer.json"
            )
        if self.input.prefix and self.task is not Task.CAUSAL_LM:
            raise ValueError(f"input.prefix is of causal-lm, and this is {self.task}: leave it out")
        if traits.reads == "image" and self.input.shape is None:
            raise ValueError("input.shape is missing: an image model needs the shape of one image")
        return self

    @model_validator(mode="after")
    def _metrics_fit_task(self) -> Self:
        own = [metric.gate for metric in self.metrics]
        if self.task is not Task.CUSTOM and own:
            raise ValueError(f"metrics belong to task custom: {self.task} has its own")
        if self.control is not None:
            self._require_control(self.control.metric)
        if len(set(own)) < len(own):
            raise ValueError("metrics: give each its own name")
        allowed = METRICS[self.task] | set(own)
        for rule in self.budgets.quality:
            if rule.metric not in allowed:
                raise ValueError(
                    f"budgets.quality: {self.task} has no metric {rule.metric}; allowed here: "
                    f"{', '.join(sorted(allowed))}"
                )
        return self

    @model_validator(mode="after")
    def _speeds_fit_task(self) -> Self:
        bounded = [name for name in OF_GENERATION if getattr(self.budgets, name) is not None]
        if bounded and self.task is not Task.CAUSAL_LM:
            raise ValueError(
                f"budgets.{bounded[0]} is about writing tokens, which {self.task} does not do: "
                "leave it out, and bound latency_ratio"
            )
        return self

    @model_validator(mode="after")
    def _adapter_fits_task(self) -> Self:
        adapter, serving = self.adapter, self.serving
        if adapter and self.task not in ADAPTED:
            raise ValueError(
                f"adapter is taken over {' and '.join(sorted(ADAPTED))}, not over {self.task}: "
                "merge it yourself, and name the merged folder in source"
            )
        if adapter and adapter.core == self.name:
            raise ValueError("adapter.core is this model itself: name the one without the adapter")
        to_core = serving and serving.fallback and serving.fallback.to == "core"
        if to_core and not (adapter and adapter.core):
            raise ValueError("serving.fallback.to is core: say which model in adapter.core")
        return self

    @model_validator(mode="after")
    def _checkpoint_is_whole(self) -> Self:
        parts = {
            "adapter": self.adapter,
            "prefix": self.input.prefix,
            "serving": self.serving,
            "control": self.control,
        }
        wrong = why_not_checkpoint(
            task=self.task,
            targets=self.targets,
            metrics={rule.metric for rule in self.budgets.quality},
            speeds=[name for name in OF_GENERATION if getattr(self.budgets, name) is not None],
            selection=self.calibration.selection,
            keep=self.calibration.keep,
            given=[name for name, part in parts.items() if part],
        )
        if wrong:
            raise ValueError(wrong)
        return self

    @model_validator(mode="after")
    def _routing_fits_task(self) -> Self:
        routing = self.serving.routing if self.serving else None
        if routing is None or not routing.least_confident or self.task in SCORED:
            return self
        if self.task is not Task.CUSTOM or routing.output is None:
            raise ValueError(
                f"serving.routing.least_confident wants scores of classes, and {self.task} has "
                "none of its own: leave it out, or name the output of a custom task"
            )
        return self

    @model_validator(mode="after")
    def _guards_fit_task(self) -> Self:
        if self.serving and self.serving.guards and TRAITS[self.task].reads != "text":
            raise ValueError(f"serving.guards are of texts, which {self.task} does not read")
        guards = self.serving.guards if self.serving else ()
        if not TRAITS[self.task].per_token and any(guard.on == "output" for guard in guards):
            raise ValueError(
                f"serving.guards of outputs are of texts, which {self.task} writes none of"
            )
        asked = {guard.model for guard in guards}
        if self.name in asked and not self.decides_safety:
            raise ValueError("serving.guards ask this model, which has no golden.safety_head")
        return self

    @property
    def form(self) -> Form:
        """Return what the model is kept as."""
        return form_of(self.targets)

    @property
    def decides_safety(self) -> bool:
        """Return whether the model says of a text whether it is blocked."""
        reads_texts = TRAITS[self.task].reads == "text"
        return reads_texts and (self.task is Task.CAUSAL_LM or self.golden.safety_head is not None)

    @model_validator(mode="after")
    def _fallback_fits_task(self) -> Self:
        fallback = self.serving.fallback if self.serving else None
        if fallback is None:
            return self
        if TRAITS[self.task].per_token and (fallback.fidelity or fallback.flips):
            raise ValueError(
                f"serving.fallback: answers of {self.task} are not compared while they are served: "
                "give latency_ms or errors"
            )
        decides = self.task in SCORED or self.golden.safety_head
        if fallback.flips and not decides:
            raise ValueError(
                "serving.fallback.flips wants decisions: classes of an image, or a safety head"
            )
        return self

    def _require_control(self, metric: str) -> None:
        own = {entry.name for entry in self.metrics if entry.scores_answers}
        allowed = own if self.task is Task.CUSTOM else CONTROLS
        if metric not in allowed:
            raise ValueError(
                f"control.metric is {metric}; allowed here: "
                f"{', '.join(sorted(allowed)) or 'nothing, as no metric is held against labels'}"
            )

    @property
    def control_metric(self) -> MetricSpec | None:
        """Return the metric against labels that a custom task's full precision is held to."""
        name = self.control.metric if self.control else None
        return next((metric for metric in self.metrics if metric.name == name), None)

    @property
    def has_tokenizer(self) -> bool:
        """Whether there is a tokenizer: a file that is named, or what a GGUF file brings."""
        brings = self.task is Task.CAUSAL_LM and self.source.endswith(".gguf")
        return self.input.tokenizer is not None or brings

    @property
    def delivery_shares(self) -> tuple[float, ...]:
        """Return the shares of traffic by which a candidate takes over; 0 is shadow.

        What is written token by token is not answered twice, and begins with a canary.
        """
        delivery = (self.serving.delivery if self.serving else None) or DeliverySpec()
        return delivery.canary if TRAITS[self.task].per_token else (0.0, *delivery.canary)

    @property
    def live_metric(self) -> MetricSpec | None:
        """Return what live answers of a custom task are held to: its first built-in distance."""
        return next(
            (
                metric
                for metric in self.metrics
                if metric.function is None and not metric.labelled and metric.higher_is_better
            ),
            None,
        )

    @property
    def payload_shape(self) -> tuple[int, ...] | None:
        """Return the shape of one tensor payload, -1 where any length goes.

        None for texts, and for records, whose layout follows from the graph.
        """
        shapes = {"image": self.input.shape, "waveform": (-1,)}
        return shapes.get(TRAITS[self.task].reads)


def parse_spec(text: str, *, where: str) -> ModelSpec:
    """Read a spec from YAML.

    Raises:
        BadInput: naming each wrong field, what was found and what is allowed.
    """
    document = read_yaml(text, where=where)
    if not isinstance(document, Mapping):
        raise BadInput(
            f"{where} holds {type(document).__name__}, not a mapping of fields: see "
            "examples/minilm/model.yaml"
        )
    try:
        return ModelSpec.model_validate(document)
    except ValidationError as exc:
        raise BadInput(
            f"{where}: " + "; ".join(_sentence(error) for error in exc.errors())
        ) from exc


def load_spec(path: Path) -> ModelSpec:
    """Read a spec file; raises `BadInput` when it is missing, not UTF-8 or wrong."""
    try:
        return parse_spec(path.read_text(encoding="utf-8"), where=str(path))
    except (OSError, UnicodeDecodeError) as exc:
        raise BadInput(
            f"the spec {path} cannot be read ({exc}): give the path of a UTF-8 YAML file"
        ) from exc


def _sentence(error: Mapping[str, Any]) -> str:
    path = ".".join(str(part) for part in error["loc"]) or "the spec"
    if error["type"] == "extra_forbidden":
        allowed = ", ".join(_fields_at(error["loc"][:-1]))
        return f"{path} is unknown; allowed here: {allowed}"
    if error["type"] == "missing":
        return f"{path} is missing"
    if error["type"] == "value_error" and not isinstance(error["input"], str):
        return f"{path}: {error['ctx']['error']}"  # the whole entry would bury the sentence
    return f"{path} is {error['input']!r}: {error['msg'][:1].lower()}{error['msg'][1:]}"


def _fields_at(location: Sequence[int | str]) -> list[str]:
    """Return field names allowed at a location of the spec."""
    model: type[BaseModel] = ModelSpec
    for part in location:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        model = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return list(model.model_fields)


__all__ = [
    "METRICS",
    "Budgets",
    "ModelSpec",
    "QualityBudget",
    "Task",
    "load_spec",
    "parse_spec",
]
