"""Every name, path, port and limit that is not a secret, in one place; ``ADIN_<NAME>`` overrides a value."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from adin.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


class Settings(BaseSettings):
    """Settings of one environment.

    Durations are seconds, sizes are rows or bytes as named. Addresses and secrets are not here: they stand in
    connections (:mod:`adin.connections`).
    """

    model_config = SettingsConfigDict(env_prefix="ADIN_", frozen=True, extra="ignore")

    home: Path = Field(ROOT / ".adin", description="Folder of this stack: data, logs, secrets.")
    cache: Path = Field(Path.home() / ".cache" / "adin", description="Downloads and builds shared by all stacks.")
    port_base: int = Field(17000, ge=1024, le=54000, description="First port of the stack; the others follow.")
    project: str = Field("adin", pattern=r"^[a-z][a-z0-9_]*$", description="Feast project name.")
    problems: Path = Field(ROOT / "include" / "problems", description="One folder a problem.")
    feature_repo: Path = Field(ROOT / "feature_repo", description="One folder a feature domain.")
    offline_store: Literal["hive", "postgres"] = Field(
        "hive", description="Edition of the offline store: Hive tables joined by Spark, or PostgreSQL."
    )
    raw_root: str = Field("/raw", description="HDFS folder of raw data: <raw_root>/<domain>/<table>/day=YYYY-MM-DD/.")
    temp_database: str = Field(
        "adin_tmp",
        description="Hive database, or schema of PostgreSQL, of retrieval results; emptied after each build.",
    )
    dataset_repository: str = Field("adin", description="lakeFS repository of dataset versions; a branch a problem.")
    dataset_bucket: str = Field("lakefs", description="S3 bucket below the lakeFS repository.")
    model_bucket: str = Field("models", description="S3 bucket of model artefacts.")
    connect_timeout: float = Field(5, gt=0, description="Seconds to open a connection to any service.")
    read_timeout: float = Field(60, gt=0, description="Seconds to wait for an answer of any service.")
    registry_patience: float = Field(20, gt=0, description="Seconds to keep asking AMVersion's stores while they fail.")
    token_days: float = Field(90, gt=0, le=366, description="Days for which a token of AMVersion is good.")
    model_webhooks: tuple[str, ...] = Field((), description="Names of connections webhook_<name>, as a JSON list.")
    webhook_pause: float = Field(5, gt=0, description="Seconds between two looks for what webhooks are to be told.")
    retention_grace_days: float = Field(7, ge=0, description="Days between marking garbage and deleting it.")
    retention_version_days: float = Field(
        90,
        ge=1,
        description="Days nobody touched a model version that was never champion, until it is garbage.",
    )
    retention_dataset_days: float = Field(
        90, ge=1, description="Age in days of a dataset version of which no kept model came, until it is garbage."
    )
    retention_run_days: float = Field(
        30, ge=1, description="Days after its end until a pipeline run is garbage of which no kept model came."
    )
    join_memory_mb: float = Field(
        32,
        ge=0,
        description="Views whose files take no more are joined in each worker's memory, MB. 0: all by sorting.",
    )
    spark_driver_memory: str = Field("2g", description="Heap of a local Spark driver.")
    kfp_parallel_runs: int = Field(2, ge=1, description="Runs that local KFP executes at a time; others wait.")
    kfp_parallel_steps: int = Field(2, ge=1, description="Steps of one run that local KFP executes at a time.")
    feature_registry_states: int = Field(
        20, ge=1, description="Earlier states of Feast's registry that are kept, where it lies in S3."
    )
    production_experiment: str = Field(
        "production", description="KFP experiment whose runs may deploy; the runs of all others never do."
    )
    import_timeout: float = Field(600, gt=0, description="Seconds for a zero-copy import of objects into lakeFS.")
    online_batch: int = Field(20_000, gt=0, description="Rows encoded and sent to Redis at a time.")
    push_bytes: int = Field(8 << 20, gt=0, description="Bytes of one push request at most.")
    push_rows: int = Field(10_000, gt=0, description="Rows of one push request at most.")
    push_row_bytes: int = Field(64 << 10, gt=0, description="Bytes of one pushed row at most.")
    push_rate: float = Field(50_000, gt=0, description="Rows a second that one token may push, over ten seconds.")
    push_requests: float = Field(100, gt=0, description="Push requests a second of one token, over ten seconds.")
    push_ahead: float = Field(60, ge=0, description="Seconds by which a pushed row's time may be ahead of the clock.")
    push_parallel: int = Field(4, gt=0, description="Push requests worked on at a time.")
    push_waiting: int = Field(16, ge=0, description="Push requests that may wait for that; more are answered 503.")
    push_redis_seconds: float = Field(5, gt=0, description="Seconds a push waits for an answer of Redis.")
    push_body_seconds: float = Field(30, gt=0, description="Seconds the body of a push may take to arrive.")
    push_land_seconds: float = Field(30, gt=0, description="Seconds between two landings of rows kept for a table.")
    push_recheck_seconds: float = Field(10, gt=0, description="Seconds until a pushed row is compared once more.")
    push_keep_hours: float = Field(24, gt=0, description="Hours for which an idempotency key keeps its answer.")
    online_lanes: int = Field(2, ge=1, description="Batches sent to Redis at a time, each on a connection of its own.")
    online_pool: int = Field(4, ge=0, description="Idle connections to the online store kept in a process.")
    online_held: int = Field(5_000_000, gt=0, description="Entities held in memory by a load before they are written.")
    online_lease: float = Field(
        15, gt=0, description="Seconds for which a killed load keeps others of its view waiting."
    )
    online_ttl: float = Field(
        0, ge=0, description="Seconds after a write until an entity leaves the online store; 0 for never."
    )
    online_spark_rows: int = Field(
        20_000_000, gt=0, description="Published rows of a window from which Spark's executors load it online."
    )
    monitoring: bool = Field(False, description="Prometheus, Alertmanager and exporters are part of the stack.")
    alertmanager_config: Path = Field(
        ROOT / "deploy" / "prometheus" / "alertmanager.yml", description="Routing of the stack's Alertmanager."
    )
    prometheus_days: int = Field(15, ge=1, description="Days for which the stack's Prometheus keeps metrics.")
    log_format: Literal["json", "text"] = Field("json", description="Form of the log lines of Adin's own processes.")
    ui_url: str = Field("", description="Airflow's address in links of alerts; default that of the local stack.")
    runbook_url: str = Field("docs/monitoring.md", description="Page of the runbooks; alerts link to its headings.")
    alert_sources: tuple[str, ...] = Field((), description="Further sources of alerts, module:class, as a JSON list.")
    alert_pause: float = Field(3, gt=0, description="Seconds between two rounds of the alert service.")
    alert_drift_pause: float = Field(30, gt=0, description="Seconds between two looks of it at the alarms of drift.")
    alert_resend: float = Field(30, gt=0, description="Seconds between two tellings of an alert that is up.")
    alert_ttl: float = Field(900, gt=0, description="Seconds until an alert that is told no more is taken for over.")
    alert_hold: float = Field(
        300, gt=0, description="Seconds for which an alert about an event stays up behind its delivery."
    )
    alert_down_seconds: float = Field(60, ge=0, description="Seconds a service may be ill before it counts as down.")
    alert_stopped_days: float = Field(3, gt=0, description="Days continuous training may be stopped without an alert.")
    alert_held_runs: int = Field(3, ge=1, description="Versions in a row that may be held back without an alert.")
    alert_deadline_hours: float = Field(6, gt=0, description="Hours a run of features or training may take.")
    alert_stale_hours: float = Field(
        48, gt=0, description="Hours by which what is online may lag behind the data that has arrived."
    )


@cache
def settings() -> Settings:
    """Return the settings of this process.

    :raises ConfigError: a value is wrong; the message names its ``ADIN_`` key.
    """
    try:
        return Settings()
    except ValidationError as error:
        wrong = "; ".join(f"ADIN_{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"Wrong settings: {wrong}.", "Correct the environment variable.") from error
