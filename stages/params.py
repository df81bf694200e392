"""The only door from params.yaml into code: typed, frozen, checked as a whole on the way in.

DVC tracks the values a stage reads through its `params:`, so stages do not list this file in
their `deps:`.
"""

from pathlib import Path
from typing import Annotated, Literal

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from yaml import YAMLError

from stages.errors import UserError

Fraction = Annotated[float, Field(ge=0, le=1)]
SplitFraction = Annotated[float, Field(gt=0, lt=0.5)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Sparsity = Annotated[float, Field(ge=0, lt=1)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, values):
        for key in values if isinstance(values, dict) else ():
            if key not in cls.model_fields:
                raise ValueError(f"no parameter {key!r} here; there are {', '.join(cls.model_fields)}")
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
    layers: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    freeze_embeddings: bool


class HubStudent(Section):
    init: Literal["hub"]
    model: str
    freeze_embeddings: bool


class Distill(Training):
    alpha: Fraction
    temperature: Positive


class Prune(Training):
    sparsity: Sparsity
    begin: Fraction
    end: Fraction

    @model_validator(mode="after")
    def _begin_before_end(self):
        if self.begin >= self.end:
            raise ValueError(f"begin ({self.begin}) must be less than end ({self.end})")
        return self


class Quantize(Section):
    per_channel: bool
    reduce_range: bool


class Variant(Section):
    parent: Name


class DistillVariant(Variant):
    alpha: Fraction
    temperature: Positive


class PruneVariant(DistillVariant):
    sparsity: Sparsity


class Variants(Section):
    distill: dict[Name, DistillVariant]
    prune: dict[Name, PruneVariant]
    export: dict[Name, Variant]
    quantize: dict[Name, Variant]
    rows: Annotated[list[Name], Field(min_length=1)]

    @model_validator(mode="after")
    def _names_and_parents(self):
        made: dict[str, str | None] = {"teacher": None}
        for stage in (self.distill, self.prune, self.export, self.quantize):
            for name, variant in stage.items():
                if name in made:
                    raise ValueError(f"the name {name!r} is taken; give each model its own")
                made[name] = variant.parent
        for name in [*filter(None, made.values()), *self.rows]:
            if name not in made:
                raise ValueError(f"there is no model {name!r}; there are {', '.join(made)}")
        if "teacher" not in self.rows:
            raise ValueError("rows must have 'teacher', which the others are compared with")
        return self


class Evaluate(Section):
    batch_size: Count


class Benchmark(Section):
    query: Annotated[str, Field(min_length=1)]
    threads: Count
    warmup: Annotated[int, Field(ge=0)]
    rounds: Count
    runs_per_round: Count


class Report(Section):
    folder: str
    tolerance: Fraction


class Params(Section):
    data: Annotated[SampleData | Clinc150Data | FilesData, Field(discriminator="source")]
    teacher: Teacher
    student: Annotated[TeacherLayers | HubStudent, Field(discriminator="init")]
    distill: Distill
    prune: Prune
    quantize: Quantize
    variants: Variants
    evaluate: Evaluate
    benchmark: Benchmark
    report: Report
    seed: Annotated[int, Field(ge=0, lt=2**32)]


def load(path: Path | str = "params.yaml") -> Params:
    """Read and check a params file; a UserError names the key, its value and what is allowed."""
    try:
        values = OmegaConf.to_container(OmegaConf.load(path), throw_on_missing=True)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run from the repository's root") from None
    except (YAMLError, OmegaConfBaseException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{path}: {_explain(error)}") from None


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    place = [str(part) for part in first["loc"]]
    if place[:1] in (["data"], ["student"]):
        del place[1:2]  # pydantic names the chosen class of a union there
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
