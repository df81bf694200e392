"""The settings of the techniques, a class each, registered under the stage that applies it.

A line of conf/variants/ gives the fields of its technique's class. A field that is SHARED may be left out:
its value is then that of the section of params.yaml with the stage's name, or `seed` of the whole file.
"""

from collections.abc import Callable
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, Field, model_validator

from stages.core.section import Count, Fraction, Layers, Name, Positive, Score, Section, Seed, Sparsity

SHARED = Field(json_schema_extra={"shared": True})


class Technique(Section):
    """How one model is made of its parent, another model."""

    parent: Name

    @property
    def needs(self) -> list[str]:
        """What the parent's family should allow: see stages.checkpoints.families."""
        return []

    @classmethod
    def shared(cls) -> list[str]:
        """The names of the fields that a line may leave to its section."""
        return [name for name, field in cls.model_fields.items() if field.json_schema_extra]


TECHNIQUES: dict[str, list[type[Technique]]] = {}
Kind = TypeVar("Kind", bound=type[Technique])


def technique(stage: str) -> Callable[[Kind], Kind]:
    """Register a class of settings; where a stage has several, each has its own values of `method`."""

    def register(kind: Kind) -> Kind:
        TECHNIQUES.setdefault(stage, []).append(kind)
        return kind

    return register


class Training(Section):
    """Hyper-parameters of one training; `warmup` is a fraction of its steps."""

    epochs: Count = SHARED
    batch_size: Count = SHARED
    learning_rate: Positive = SHARED
    weight_decay: Annotated[float, Field(ge=0)] = SHARED
    warmup: Annotated[float, Field(ge=0, lt=1)] = SHARED
    dropout: Annotated[float, Field(ge=0, lt=1)] = SHARED


class Distillation(Training, Technique):
    """A training on the teachers' logits; `alpha` weighs the true labels, `temperature` softens both.

    With `unlabelled`, on those of the text of data.unlabelled too.
    """

    alpha: Fraction
    temperature: Positive
    unlabelled: bool = Field(False, json_schema_extra={"shared": True})
    seed: Seed = SHARED


class LayerLosses(Section):
    """Weights of the losses on hidden states and on attention relations; at 0 one is not computed."""

    hidden: Annotated[float, Field(ge=0)] = SHARED
    relations: Annotated[float, Field(ge=0)] = SHARED


@technique("general")
class General(LayerLosses, Training, Technique):
    """Layers of the encoder that the teacher was fine-tuned from, taught by that encoder, without labels.

    So it depends on no teacher. `source`, `model` and `sha256` are those of the encoder. The `width` is a
    multiple of the size of a head; heads and, unless it is set, `feed_forward` shrink with it. `hidden` is
    above 0: relations alone would leave a part of the last layer untaught.
    """

    parent: Literal["teacher"] = "teacher"
    layers: Layers
    hidden: Positive = SHARED
    width: Count | None = None
    feed_forward: Count | None = None
    freeze_embeddings: bool = SHARED
    source: Literal["wheel", "hub"] = SHARED
    model: str = SHARED
    sha256: str | None = SHARED
    max_length: Annotated[int, Field(ge=8, le=512)] = SHARED
    seed: Seed = 0


Architecture = Literal["own", "bert", "distilbert"]
# Layers counted from 0, or so many of them by a rule.
StudentLayers = Layers | Annotated[str, Field(pattern=r"^(first|last|spaced)-[1-9]\d*$")]


class TeacherLayers(Section):
    """A student made of these layers of its parent, with the parent's architecture or another."""

    init: Literal["teacher-layers"]
    layers: StudentLayers
    architecture: Architecture | None = None
    freeze_embeddings: bool


class HubStudent(Section):
    """A student that the hub has."""

    init: Literal["hub"]
    model: str
    freeze_embeddings: bool


@technique("distill")
class Distill(LayerLosses, Distillation):
    """A line's own `layers` replace those of `student`. A parent made by `general` is itself the student."""

    student: Annotated[TeacherLayers | HubStudent, Field(discriminator="init")] = SHARED
    layers: StudentLayers | None = None

    @property
    def needs(self) -> list[str]:
        return ["relations"] if self.relations else []

    @model_validator(mode="after")
    def _layers_are_the_teachers(self):
        if self.layers and self.student.init == "hub":
            raise ValueError("a student from the hub has its own layers: remove `layers`")
        return self

    @model_validator(mode="after")
    def _reads_as_its_teacher(self):
        if (self.hidden or self.relations) and self.student.init == "hub":
            raise ValueError(
                "hidden and relations compare layers token by token, and a student from the hub has its own "
                "layers and tokens: set both to 0, or choose student=teacher-layers"
            )
        return self


class Pruning(Distillation):
    """The sparsity rises from `begin` to `end`, fractions of the training."""

    begin: Fraction = SHARED
    end: Annotated[float, Field(gt=0, lt=1)] = SHARED
    freeze_embeddings: bool = SHARED

    @model_validator(mode="after")
    def _begin_before_end(self):
        if self.begin >= self.end:
            raise ValueError(f"begin ({self.begin}) must be less than end ({self.end})")
        return self


@technique("prune")
class MagnitudePruning(Pruning):
    """`rounds` are the steps of the iterative method."""

    method: Literal["magnitude-one-shot", "magnitude-iterative", "magnitude-gradual"]
    sparsity: Sparsity
    rounds: Count = SHARED


class MovementPruning(Pruning):
    """The scores of movement pruning are learned at a rate of their own."""

    score_learning_rate: Positive = SHARED


@technique("prune")
class HardMovementPruning(MovementPruning):
    """The weights with the lowest scores are pruned."""

    method: Literal["movement-hard"]
    sparsity: Sparsity


@technique("prune")
class SoftMovementPruning(MovementPruning):
    """Weights whose score is under a `threshold` are pruned; the `penalty` decides how many."""

    method: Literal["movement-soft"]
    penalty: Positive
    threshold: Annotated[float, Field(gt=0, lt=0.5)] = SHARED


@technique("structured")
class StructuredPruning(MovementPruning):
    """`heads` and `feed_forward` are the fractions to remove of all heads and of all columns."""

    heads: Sparsity
    feed_forward: Sparsity
    fine_tuning: Training = SHARED

    @property
    def needs(self) -> list[str]:
        return ["heads"] if self.heads else []


@technique("vocabulary")
class VocabularyPruning(Technique):
    """At least `vocab_size` pieces are kept, used or not.

    A word with a dropped piece is split into other pieces; to `share`, the dropped piece of a WordPiece is
    read as the most similar one that stays. (A key called `size` would be left out of DVC's run-cache key.)
    """

    vocab_size: Annotated[int, Field(ge=0)]
    share: bool = False


EmbeddingBits = Literal[4, 8]


@technique("factorize")
class Factorize(Distillation):
    """Words of `rank` entries. Even, as two 4-bit integers make a byte."""

    rank: Annotated[int, Field(ge=2, multiple_of=2)]
    freeze_embeddings: bool = SHARED


class Int8Weights(Section):
    """A scale for each output channel, or for each matrix; 7 bits in the reduced range, or 8."""

    per_channel: bool = SHARED
    reduce_range: bool = SHARED


@technique("qat")
class QuantizationAwareTraining(Int8Weights, Distillation):
    """A distillation with the rounding of int8, and of `embedding_bits` for the embeddings of words."""

    embedding_bits: EmbeddingBits = 8

    @property
    def needs(self) -> list[str]:
        return ["4-bit embeddings"] if self.embedding_bits == 4 else []


@technique("exits")
class Exits(Distillation):
    """Heads after so many `layers` each (0: over the embeddings), where queries leave that they are sure of.

    The encoder and its own head are trained too (`joint`), or stay as they are. Of validation, weighed by
    `out_of_scope_share`, at most `max_error` leaves with a wrong answer where the last layer, calibrated by
    the best of `scores`, has the right one.
    """

    layers: Annotated[Layers, AfterValidator(sorted)]
    joint: bool = SHARED
    freeze_embeddings: bool = SHARED
    max_error: Fraction = SHARED
    scores: Annotated[list[Score], Field(min_length=1)] = SHARED
    out_of_scope_share: Annotated[float, Field(gt=0, lt=1)] | None = SHARED

    @property
    def needs(self) -> list[str]:
        return ["exits"]

    @model_validator(mode="after")
    def _layers_differ(self):
        if len({*self.layers}) < len(self.layers):
            raise ValueError(f"layers are {self.layers}: each may have one exit")
        return self


@technique("export")
class Export(Technique):
    """An encoder of a known family is written as ONNX Runtime's own operators, or traced by torch.

    Other encoders are traced. Static int8 needs a traced parent: its quantizer knows no Attention.
    """

    method: Literal["written", "traced"] = "written"


@technique("quantize")
class DynamicInt8(Int8Weights, Technique):
    """Activations get their scale at each call. Embeddings of words in 4 bits are for ONNX Runtime."""

    method: Literal["dynamic"]
    embedding_bits: EmbeddingBits = 8

    @property
    def needs(self) -> list[str]:
        return ["4-bit embeddings"] if self.embedding_bits == 4 else []


@technique("quantize")
class StaticInt8(Int8Weights, Technique):
    """`ranges` is how the range of an activation follows from what `range_queries` training queries give."""

    method: Literal["static"]
    ranges: Literal["min-max", "percentile", "entropy"] = SHARED
    range_queries: Count = SHARED
    seed: Seed = SHARED


@technique("pack")
class Pack(Technique):
    """Sparse storage has no settings."""
