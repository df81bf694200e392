"""The only door from params.yaml into code: typed, frozen, checked as a whole on the way in.

DVC tracks the values a stage reads through its `params:`, so stages do not list this file in
their `deps:`.
"""

from pathlib import Path
from typing import Annotated, Literal

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from yaml import YAMLError

from stages.errors import UserError

Fraction = Annotated[float, Field(ge=0, le=1)]
SplitFraction = Annotated[float, Field(gt=0, lt=0.5)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Sparsity = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Layers = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]


TECHNIQUES = ("distill", "prune", "structured", "vocabulary", "qat", "export", "quantize", "pack")


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, values):
        known = [field.alias or name for name, field in cls.model_fields.items()]
        for key in values if isinstance(values, dict) else ():
            if key not in known:
                raise ValueError(f"no parameter {key!r} here; there are {', '.join(known)}")
        return values


class Data(Section):
    path: str
    out_of_scope: str | None
    max_length: Annotated[int, Field(ge=8, le=512)]


class SampleData(Data):
    source: Literal["sample"]
    queries_per_template: Count
    test_fraction: SplitFraction
    validation_fraction: SplitFraction


class Clinc150Data(Data):
    source: Literal["clinc150"]
    hub: str
    local: str | None


class FilesData(Data):
    source: Literal["files"]
    text_column: str
    intent_column: str
    duplicates: Literal["error", "drop"]
    test_fraction: SplitFraction
    validation_fraction: SplitFraction


class Training(Section):
    """Hyper-parameters of one training run; `warmup` is a fraction of its steps."""

    epochs: Count
    batch_size: Count
    learning_rate: Positive
    weight_decay: Annotated[float, Field(ge=0)]
    warmup: Annotated[float, Field(ge=0, lt=1)]


class Teacher(Training):
    """`epochs: 0` takes a model that is already fine-tuned as it is."""

    source: Literal["wheel", "hub"]
    model: str
    sha256: str | None
    epochs: Annotated[int, Field(ge=0)]


class TeacherLayers(Section):
    init: Literal["teacher-layers"]
    layers: Layers
    freeze_embeddings: bool


class HubStudent(Section):
    init: Literal["hub"]
    model: str
    freeze_embeddings: bool


class Distill(Training):
    alpha: Fraction
    temperature: Positive


class Pruning(Training):
    """`begin` and `end` of the sparsity schedule are fractions of the run."""

    begin: Fraction
    end: Annotated[float, Field(gt=0, lt=1)]
    score_learning_rate: Positive

    @model_validator(mode="after")
    def _begin_before_end(self):
        if self.begin >= self.end:
            raise ValueError(f"begin ({self.begin}) must be less than end ({self.end})")
        return self


class Prune(Pruning):
    sparsity: Sparsity
    rounds: Count
    threshold: Annotated[float, Field(gt=0, lt=0.5)]


class Structured(Pruning):
    heads: Sparsity
    feed_forward: Sparsity
    fine_tuning: Training


class Quantize(Section):
    per_channel: bool
    reduce_range: bool
    calibration: Literal["min-max", "percentile", "entropy"]
    calibration_queries: Count


class Variant(Section):
    parent: Name


class DistillVariant(Variant):
    """Its own `seed` is in the place of the run's."""

    alpha: Fraction
    temperature: Positive
    seed: Seed | None = None


class StudentVariant(DistillVariant):
    """Its own `layers` of the teacher are in the place of the section `student`'s."""

    layers: Layers | None = None


class SparsityVariant(DistillVariant):
    method: Literal["magnitude-one-shot", "magnitude-iterative", "magnitude-gradual", "movement-hard"]
    sparsity: Sparsity


class PenaltyVariant(DistillVariant):
    method: Literal["movement-soft"]
    penalty: Positive


class StructuredVariant(DistillVariant):
    heads: Sparsity
    feed_forward: Sparsity


class VocabularyVariant(Variant):
    """`vocab_size` is the least number of WordPieces to keep, used or not.

    What is not kept is split into pieces that are, or, to `share`, read as the most similar of them.
    DVC leaves keys called `size`, however deep, out of its run cache's: a change would give the old model.
    """

    size: Annotated[int, Field(ge=0, alias="vocab_size")]
    share: bool = False


class QuantizeVariant(Variant):
    """What it leaves out is that of the section `quantize`."""

    method: Literal["dynamic", "static"]
    per_channel: bool | None = None
    reduce_range: bool | None = None
    calibration: Literal["min-max", "percentile", "entropy"] | None = None


class Variants(Section):
    distill: dict[Name, StudentVariant]
    prune: dict[Name, Annotated[SparsityVariant | PenaltyVariant, Field(discriminator="method")]]
    structured: dict[Name, StructuredVariant]
    vocabulary: dict[Name, VocabularyVariant]
    qat: dict[Name, DistillVariant]
    export: dict[Name, Variant]
    quantize: dict[Name, QuantizeVariant]
    pack: dict[Name, Variant]
    rows: dict[Name, Literal["table", "sweep"]]

    @property
    def parents(self) -> dict[str, str]:
        """The parent of each model but the teacher."""
        return {name: made.parent for stage in TECHNIQUES for name, made in getattr(self, stage).items()}

    def lineage(self, name: str) -> list[tuple[str, dict]]:
        """From the teacher to the model: the stage that made it, and its settings."""
        if name == "teacher":
            return [("teacher", {"name": "teacher"})]
        stage = next(stage for stage in TECHNIQUES if name in getattr(self, stage))
        variant = getattr(self, stage)[name]
        return [
            *self.lineage(variant.parent),
            (stage, {"name": name, **variant.model_dump(exclude_none=True)}),
        ]

    @property
    def table(self) -> list[str]:
        return [name for name, place in self.rows.items() if place == "table"]

    @model_validator(mode="after")
    def _names_and_parents(self):
        names = ["teacher"]
        for stage in TECHNIQUES:
            for name in getattr(self, stage):
                if name in names:
                    raise ValueError(f"the name {name!r} is taken; give each model its own")
                names.append(name)
        for name in [*self.parents.values(), *self.rows]:
            if name not in names:
                raise ValueError(f"there is no model {name!r}; there are {', '.join(names)}")
        if "teacher" not in self.table:
            raise ValueError("rows must have 'teacher: table', which the others are compared with")
        return self


class Calibrate(Section):
    scores: Annotated[list[Literal["probability", "energy", "margin"]], Field(min_length=1)]
    rule: Literal["balanced", "accuracy"]


class Evaluate(Section):
    batch_size: Count


class BertShape(Section):
    """Of transformers' BertConfig."""

    vocab_size: Count
    hidden_size: Count
    num_hidden_layers: Count
    num_attention_heads: Count
    intermediate_size: Count

    @model_validator(mode="after")
    def _whole_heads(self):
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size ({self.hidden_size}) must be a multiple of num_attention_heads "
                f"({self.num_attention_heads})"
            )
        return self


class Benchmark(Section):
    query: Annotated[str, Field(min_length=1)]
    threads: Count
    warmup: Annotated[int, Field(ge=0)]
    rounds: Count
    runs_per_round: Count
    batch_sizes: Annotated[list[Count], Field(min_length=1)]
    batches_every: Count
    starts: Count
    reference: BertShape


class Scenario(Section):
    model: Name
    length: Annotated[int, Field(ge=8, le=512)] | None = None
    cached: bool = False


class Serve(Section):
    scenarios: Annotated[dict[Name, Scenario], Field(min_length=1)]
    workers: Count | None
    rounds: Count
    seconds: Positive
    loads: Annotated[list[Annotated[float, Field(gt=0, lt=1)]], Field(min_length=1)]
    cache: Count
    hit_rate: Annotated[float, Field(gt=0, lt=1)]
    requests_a_day: Positive
    peak_to_mean: Annotated[float, Field(ge=1)]
    p99_ms: Positive
    requests: Count
    clients: Count


class Select(Section):
    objective: Literal["fastest", "smallest"]
    tolerance: Fraction


class Report(Section):
    folder: str


class Launch(Section):
    """`command` takes the place of `python` before `-m stages.distill`."""

    command: Annotated[str, Field(min_length=1)]
    processes: Count | None = None
    nodes: Count | None = None


class Gate(Section):
    accuracy: Fraction
    size: Annotated[float, Field(ge=0)]
    speedup_noise: Annotated[float, Field(ge=0)]


class Range(Section):
    """What a search draws from, evenly, or evenly in its logarithm: whole numbers, if both ends are."""

    low: int | float
    high: int | float
    log: bool = False

    @model_validator(mode="after")
    def _low_before_high(self):
        if self.low >= self.high:
            raise ValueError(f"low ({self.low}) must be less than high ({self.high})")
        return self


def _dotted(space, prefix=""):
    """{"distill.alpha": range} of {"distill": {"alpha": range}}."""
    if not isinstance(space, dict) or "low" in space or "high" in space:
        return {prefix: space} if prefix else space
    nested = [_dotted(inner, f"{prefix}.{key}".lstrip(".")) for key, inner in space.items()]
    return {key: found for part in nested for key, found in part.items()}


class Bounds(Section):
    size_mb: Positive | None
    speedup: Positive | None


class Search(Section):
    study: Name
    storage: str
    git_remote: str | None
    model: Name
    trials: Count
    startup_trials: Annotated[int, Field(ge=0)]
    warmup_epochs: Annotated[int, Field(ge=0)]
    space: Annotated[dict[str, Range], BeforeValidator(_dotted), Field(min_length=1)]
    bounds: Bounds


class Params(Section):
    data: Annotated[SampleData | Clinc150Data | FilesData, Field(discriminator="source")]
    teacher: Teacher
    student: Annotated[TeacherLayers | HubStudent, Field(discriminator="init")]
    distill: Distill
    prune: Prune
    structured: Structured
    qat: Training
    quantize: Quantize
    variants: Variants
    calibrate: Calibrate
    evaluate: Evaluate
    benchmark: Benchmark
    serve: Serve
    select: Select
    report: Report
    launch: Launch
    gate: Gate
    search: Search
    seed: Seed

    @model_validator(mode="after")
    def _layers_are_the_teachers(self):
        for name, variant in self.variants.distill.items():
            if variant.layers and self.student.init == "hub":
                raise ValueError(f"variants.distill.{name} has layers, and a hub's student has its own")
        return self

    @model_validator(mode="after")
    def _scenarios_are_rows(self):
        for name, scenario in self.serve.scenarios.items():
            if scenario.model not in self.variants.rows:
                raise ValueError(
                    f"serve.scenarios.{name}.model is {scenario.model!r}, which is not among variants.rows"
                )
        return self


def load(path: Path | str = "params.yaml") -> Params:
    """Read and check a params file; a UserError names the key, its value and what is allowed."""
    try:
        values = OmegaConf.to_container(OmegaConf.load(path), throw_on_missing=True)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run from the repository's root") from None
    except (YAMLError, OmegaConfBaseException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    return _checked(values, str(path))


def compose(overrides: list[str]) -> Params:
    """The params that `dvc exp run` would write with these overrides of conf/, checked likewise."""
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException

    try:
        with initialize_config_dir(str(Path("conf").resolve()), version_base=None):
            config = compose("config", overrides=overrides)
        values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"{' '.join(overrides)}: {' '.join(str(error).split())}") from None
    return _checked(values, "conf")


def _checked(values, source: str) -> Params:
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{source}: {_explain(error)}") from None


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    place = [str(part) for part in first["loc"]]
    if place[:1] in (["data"], ["student"]):
        del place[1:2]  # pydantic names the chosen class of a union there
    if place[:2] == ["variants", "prune"]:
        del place[3:4]
    key = ".".join(place)
    if first["type"] == "missing":
        return f"{key} is missing"
    if first["type"] == "value_error":
        return f"{key}: {first['ctx']['error']}".removeprefix(": ")
    if first["type"].startswith("union_tag"):
        context = first["ctx"]
        key += "." + context["discriminator"].strip("'")
        if first["type"] == "union_tag_not_found":
            return f"{key} is missing"
        return f"{key} is {context['tag']!r}: should be one of {context['expected_tags']}"
    return f"{key} is {first['input']!r}: {first['msg'].removeprefix('Input ')}".lstrip()
