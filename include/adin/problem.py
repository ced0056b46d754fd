"""A problem is data: ``include/problems/<name>/problem.yaml`` beside its ``train.py``."""

from __future__ import annotations

from calendar import monthrange
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from adin import yaml_lines
from adin.durations import Duration
from adin.errors import ConfigError, NotFoundError
from adin.settings import settings
from adin.slot import OffPeak
from adin.tuning.spec import Tuning

_SPAN = r"^[1-9]\d{0,3}(d|w|mo)$"


def _months_before(end: datetime, months: int) -> datetime:
    """Return the same day some months earlier, or that month's last day where it is shorter."""
    count = end.year * 12 + end.month - 1 - months
    year, month = divmod(count, 12)
    return end.replace(year=year, month=month + 1, day=min(end.day, monthrange(year, month + 1)[1]))


def _before(end: datetime, span: str) -> datetime:
    if span.endswith("mo"):
        return _months_before(end, int(span.removesuffix("mo")))
    return end - timedelta(**{{"d": "days", "w": "weeks"}[span[-1]]: int(span[:-1])})


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Label(_Spec):
    """What is predicted.

    :param table: Hive table ``domain.table`` with one row per event, its keys and the label.
    :param column: label column; rows where it is null are dropped and counted.
    :param known_after: how long after the event the label is known.
    """

    table: str = Field(pattern=r"^[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*$")
    column: str
    known_after: Duration = timedelta(0)


class Objects(_Spec):
    """Images, texts and the like, which a dataset version carries beside its table; they are not copied.

    :param source: S3 prefix, such as ``s3://bucket/photos/``. What is there must not be changed, only added to.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    source: str = Field(pattern=r"^s3://[a-z0-9][a-z0-9.-]{1,62}/(.+/)?$")


class Split(_Spec):
    """Lengths of the last spans of the window, such as ``15d``, ``2w`` or, in calendar months, ``2mo``.

    Training takes what lies before.
    """

    validation: str = Field("2mo", pattern=_SPAN)
    test: str = Field("2mo", pattern=_SPAN)

    def bounds(self, end: datetime) -> tuple[datetime, datetime]:
        """Return where validation and test begin in a window that ends at ``end``."""
        test = _before(end, self.test)
        return _before(test, self.validation), test


class Training(_Spec):
    """Hyperparameters for ``train.py``, resources of the training step, and its time limit."""

    params: dict[str, Any] = {}
    cpu: float = Field(2, gt=0)
    memory: str = Field("4G", pattern=r"^\d+(\.\d+)?(M|G|Mi|Gi)$")
    timeout: Duration = timedelta(minutes=30)

    @property
    def limits(self) -> dict[str, str]:
        """Return the resources as the training pipelines take them."""
        return {"train_cpu": f"{self.cpu:g}", "train_memory": self.memory}


class Free(_Spec):
    """Processors and memory that must be idle."""

    cpu: float = Field(1, ge=0)
    memory: str = Field("2G", pattern=r"^\d+(\.\d+)?(M|G|Mi|Gi)$")


class Schedule(_Spec):
    """When the model is trained anew: a cron time (UTC), new data in a feature domain, or both.

    :param on_drift: also when a drift of data, label or concept is first found.
    :param owner: who trains at the cron time. With ``kfp`` two recurring runs of Kubeflow Pipelines do, from the newest
        dataset version; ``train__<problem>`` only builds dataset versions then, on new data or by hand.
    :param off_peak: hours in which training may start, such as ``22:00-06:00 Asia/Tehran``; until then it waits.
    :param free: what must be free on Airflow's machine before training starts.
    """

    cron: str | None = None
    on_data: str | None = None
    on_drift: bool = False
    owner: Literal["airflow", "kfp"] = "airflow"
    off_peak: str | None = None
    free: Free | None = None

    @field_validator("off_peak")
    @classmethod
    def _hours(cls, text: str | None) -> str | None:
        if text is not None:
            OffPeak.parse(text)
        return text

    @model_validator(mode="after")
    def _owner_has_a_time(self) -> Schedule:
        if self.owner == "kfp" and not self.cron:
            raise ValueError("owner kfp needs a cron time")
        if self.owner == "kfp" and (self.off_peak or self.free):
            raise ValueError("off_peak and free are Airflow's; with owner kfp choose the cron time accordingly")
        return self


class Guard(_Spec):
    """What the swap itself must show; else the former version returns and the model is frozen.

    :param requests: requests for the example sent to the new version.
    :param max_errors: largest share of requests, these and users' in ``watch``, that may fail.
    :param max_latency: the slowest of 20 of these requests may take this long.
    :param max_more_missing: how much larger the share of feature views without a value may be than it was before.
    :param watch: how long users' requests are watched after the swap. Default not at all.
    """

    requests: int = Field(20, ge=1, le=10_000)
    max_errors: float = Field(0.0, ge=0, lt=1)
    max_latency: Duration = timedelta(seconds=1)
    max_more_missing: float = Field(0.0, ge=0, le=1)
    watch: Duration = timedelta(0)


class Refresh(_Spec):
    """A model that is no better may still replace one that has grown old.

    :param margin: how much worse it may be at most, beyond doubt, in units of the primary metric.
    :param after: the data of the champion ends this long before the new model's.
    """

    margin: float = Field(gt=0)
    after: Duration


class Guardrail(_Spec):
    """What must not get worse, over all rows or in each slice.

    :param metric: any known metric.
    :param no_worse_than: how much worse is borne, in units of the metric.
    :param slices: feature columns; each of their values is a slice of its own. Default all rows together.
    :param min_rows: slices with fewer rows are left out.
    """

    metric: str
    no_worse_than: float = Field(ge=0)
    slices: list[str] = []
    min_rows: int = Field(500, ge=1)


class Infrastructure(_Spec):
    """What the model server must find before a version comes under load.

    :param replay_rows: test rows whose features go through the online store's encoding and the served model.
    :param max_difference: largest difference between those predictions and the evaluation's.
    :param max_latency: longest time for 19 of 20 of these rows, by the model alone; of three tries the fastest counts.
    :param max_mb: largest size of the version's files, in 10^6 bytes.
    """

    replay_rows: int = Field(200, ge=0, le=10_000)
    max_difference: float = Field(1e-6, ge=0)
    max_latency: Duration = timedelta(milliseconds=500)
    max_mb: float = Field(500, gt=0)


class Promotion(_Spec):
    """What a new model must show on the test split before it replaces the champion.

    :param version: of this policy; count it up with each change.
    :param primary: metric compared with the champion; lower is better for losses and errors.
    :param min_effect: smallest gain worth a swap, in units of the metric.
    :param absolute: bounds each metric must keep, ``{metric: [low, high]}``; null leaves a side open.
    :param baseline: feature column taken as a prediction, which the model must beat; default the training mean.
    :param beat_baseline_by: smallest gain over the baseline.
    :param most_of_baseline: largest share of the baseline's loss that the model may have.
    :param slices: feature columns by whose values the test metrics are also told.
    :param min_days: fewer days decide nothing; :param min_rows: nor do fewer rows.
    :param min_positives: nor, for a binary label, fewer rows of either kind.
    :param correction: for many guardrails: ``holm`` or ``bonferroni``.
    :param test_set_uses: how many models may be judged by the same test span; then a later window is needed.
    """

    version: int = Field(1, ge=1)
    primary: str
    min_effect: float = Field(0.0, ge=0)
    absolute: dict[str, tuple[float | None, float | None]] = {}
    baseline: str | None = None
    beat_baseline_by: float = 0.0
    most_of_baseline: float | None = Field(None, gt=0, le=1)
    slices: list[str] = []
    min_days: int = Field(10, ge=2)
    min_rows: int = Field(0, ge=0)
    min_positives: int = Field(0, ge=0)
    confidence: float = Field(0.95, gt=0.5, lt=1)
    refresh: Refresh | None = None
    guardrails: list[Guardrail] = []
    correction: Literal["holm", "bonferroni"] = "holm"
    infrastructure: Infrastructure = Infrastructure()
    test_set_uses: int = Field(20, ge=1)
    guard: Guard = Guard()


class Watch(_Spec):
    """What the model server watches beside answering; nothing unless asked for.

    :param drift: population stability index allowed between the answers since a swap and the evaluation's predictions.
    :param bake: how long after the swap that is watched; :param min_rows: and from how many answers on.
    :param shadow: share of the requests about which the challenger is asked too. Nobody gets its answers.
    :param estimate: loss to be expected by the newest ``min_rows`` answers, if its probabilities are right.
    :param log: share of the answers kept in ClickHouse, to be held against their labels: ``adin drift realised``.
    """

    drift: float | None = Field(None, gt=0)
    bake: Duration = timedelta(days=1)
    min_rows: int = Field(1000, ge=1)
    shadow: float = Field(0, ge=0, le=1)
    estimate: bool = False
    log: float = Field(0, ge=0, le=1)


class Serving(_Spec):
    """How requests are answered.

    :param max_age: oldest feature value accepted per view; older counts as missing.
    :param missing: per view, ``null`` passes missing features to the model, ``refuse`` answers 422. Default null.
    :param timeout: longest wait for the online store.
    :param watch: what is watched beside.
    """

    max_age: dict[str, Duration] = {}
    missing: dict[str, Literal["null", "refuse"]] = {}
    timeout: Duration = timedelta(milliseconds=100)
    watch: Watch = Watch()


class Rollback(_Spec):
    """How a rollback by Airflow is done: by its DAG, for page and API leave one that must be approved to that.

    :param approval: somebody must approve the plan first.
    :param approvers: who may; empty means everybody who may answer the DAG's tasks.
    """

    approval: bool = False
    approvers: list[str] = []


class Drift(_Spec):
    """When the rows after the training are another world than those the model learned from.

    :param reference: what they are compared with: the days of the champion's training split.
    :param window: whole days counted together.
    :param windows: newest windows looked at; an alarm needs most of them over the limit.
    :param min_rows: windows with fewer values say nothing.
    :param floors: smallest limit of each check; limits are else learned from the reference's own windows.
    :param ignore: feature columns that are not watched.
    """

    reference: Literal["training"] = "training"
    window: Duration = timedelta(days=1)
    windows: int = Field(3, ge=1, le=30)
    min_rows: int = Field(500, ge=1)
    floors: dict[
        Literal["psi", "label_psi", "loss", "nulls", "new_values", "out_of_range", "missing_rows", "duplicates"],
        Annotated[float, Field(gt=0)],
    ] = {}
    ignore: list[str] = []

    @model_validator(mode="after")
    def _window_is_whole_days(self) -> Drift:
        if self.window < timedelta(days=1) or self.window % timedelta(days=1):
            raise ValueError("window must be whole days, such as 1d or 1w")
        return self


#: Task and metric whose loss can be expected from the answers alone.
_ESTIMATED = {("binary", "log_loss"), ("binary", "brier")}


class Problem(_Spec):
    """One problem, as read from its ``problem.yaml``."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    task: Literal["binary", "regression"]
    description: str
    owner: str
    features: str = Field(description="FeatureService of feature_repo.")
    domain: str = Field(description="Folder of feature_repo.", pattern=r"^[a-z][a-z0-9_]*$")
    label: Label
    event_time: str = Field(description="Column of the label table, and of a request, which holds the event's time.")
    predict_before: Duration = timedelta(0)
    split: Split = Split()
    objects: tuple[Objects, ...] = ()
    train: Training = Training()
    run: Schedule = Schedule()
    promotion: Promotion
    serving: Serving = Serving()
    rollback: Rollback = Rollback()
    drift: Drift = Drift()
    tune: Tuning | None = None
    example: dict[str, Any] = Field(description="One request: entity keys and request-time values.")
    path: Path = Field(exclude=True)

    @model_validator(mode="after")
    def _estimate_needs_probabilities(self) -> Problem:
        if self.serving.watch.estimate and (self.task, self.promotion.primary) not in _ESTIMATED:
            raise ValueError("serving.watch.estimate needs a binary label, and log_loss or brier as primary metric")
        return self

    @property
    def code(self) -> Path:
        """Return the path of ``train.py``."""
        return self.path / "train.py"


def problem(name: str) -> Problem:
    """Read one problem.

    :raises NotFoundError: there is no such folder.
    :raises ConfigError: ``problem.yaml`` breaks the form; every mistake is named with its place.
    """
    path = settings().problems / name
    if not (path / "problem.yaml").is_file():
        known = ", ".join(names()) or "none"
        raise NotFoundError(f"No problem {name!r} in {settings().problems}.", f"Known problems: {known}.")
    file = path / "problem.yaml"
    try:
        spec, lines = yaml_lines.read(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is no YAML: {error}") from None
    if not isinstance(spec, dict):
        raise ConfigError(f"{file} holds no mapping.", "See docs/problems.md.")
    try:
        found = Problem(**{str(key): value for key, value in spec.items() if key != "path"}, path=path)
    except ValidationError as error:
        wrong = "; ".join(
            f"line {yaml_lines.line(lines, e['loc'])}, {'.'.join(map(str, e['loc']))}: {e['msg']}"
            for e in error.errors()
        )
        raise ConfigError(f"{file}: {wrong}.", f"`adin problem check {name}` tells more.") from None
    if found.name != name:
        raise ConfigError(f"{path / 'problem.yaml'}: name is {found.name!r} but the folder is {name!r}.")
    return found


def names() -> list[str]:
    """Return the names of all problem folders, sorted."""
    return sorted(path.parent.name for path in settings().problems.glob("*/problem.yaml"))
