"""What a notebook asks for: dataset versions and models as tables that read well. Nothing here changes anything.

``adin.dataset("flights_delay").frame("train")``, ``adin.model("flights_delay").search("auc >= 0.71").compare()``
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adin import datasets
from adin.errors import ConfigError, NotFoundError
from adin.models import ModelVersion, Query, registry
from adin.models.compare import compare
from adin.window import Window

if TYPE_CHECKING:
    import pandas as pd

_CONDITION = re.compile(r"\s*([\w.]+)\s*(>=|<=|=)\s*'?([^'\s]+)'?\s*")
#: What a search may ask for beside metrics.
_FIELDS = ("dataset", "feature", "owner", "state")


@dataclass(frozen=True)
class Dataset:
    """One dataset version.

    :param version: its commit and manifest.
    """

    version: datasets.DatasetVersion

    @classmethod
    def of(cls, problem: str, *, commit: str, window: tuple[str, str] | None, branch: str) -> Dataset:
        """Find a version: by commit, by window, or the newest.

        :raises NotFoundError: there is none.
        """
        if commit:
            return cls(datasets.version(problem, commit))
        if window is None:
            return cls(datasets.newest(problem, branch=branch))
        wanted = Window.parse(*window)
        found = next((each for each in datasets.versions(problem, branch=branch) if each.window == wanted), None)
        if found is None:
            days = f"--start {wanted.start:%Y-%m-%d} --end {wanted.end:%Y-%m-%d}"
            raise NotFoundError(
                f"No dataset version of {problem} for {wanted}.", f"Build it: `adin dataset build {problem} {days}`."
            )
        return cls(found)

    @property
    def commit(self) -> str:
        """Return the version's name: its lakeFS commit."""
        return self.version.commit

    @property
    def features(self) -> list[str]:
        """Return the feature columns, in the model's order."""
        return list(self.version.manifest["features"])

    @property
    def label(self) -> str:
        """Return the label column."""
        return str(self.version.manifest["label"]["column"])

    def frame(self, split: str) -> pd.DataFrame:
        """Return one split, verified, as a pandas frame."""
        return datasets.frame(self.version.problem, self.commit, split).to_pandas()

    def query(self, sql: str) -> pd.DataFrame:
        """Ask ClickHouse, where the version's rows stand in the table ``dataset``.

        :param sql: such as ``SELECT split, count() FROM dataset GROUP BY split``.
        """
        from adin.datasets.clickhouse import clickhouse

        mine = f"SELECT * FROM datasets.{self.version.problem} WHERE _commit = '{self.commit}'"  # noqa: S608 - checked
        with clickhouse() as client:
            return client.query_df(f"WITH dataset AS ({mine}) {sql}")

    def lineage(self) -> pd.DataFrame:
        """Return the source partitions the version was made of: table, day and fingerprint of the rows."""
        import pandas as pd

        sources: Mapping[str, Mapping[str, str]] = self.version.manifest["sources"]
        rows = [(table, day, mark) for table, days in sources.items() for day, mark in days.items()]
        return pd.DataFrame(rows, columns=["table", "day", "fingerprint"])

    def __repr__(self) -> str:
        rows = ", ".join(f"{split} {count:,}" for split, count in self.version.rows.items())
        return f"Dataset({self.version.problem} {self.commit[:12]}, {self.version.window}: {rows})"


@dataclass(frozen=True)
class Found:
    """Some versions of a model, oldest first."""

    versions: tuple[ModelVersion, ...]

    def table(self) -> pd.DataFrame:
        """Return one row a version: number, data, parameters and test metrics."""
        import pandas as pd

        rows = [
            {"version": each.number, "dataset": each.manifest.dataset[:12], "created": each.manifest.created}
            | {"experimental": each.manifest.experimental, "parameters": dict(each.manifest.parameters)}
            | dict(each.manifest.metrics.get("test", {}).get("all", {}))
            for each in self.versions
        ]
        return pd.DataFrame(rows).set_index("version") if rows else pd.DataFrame()

    def compare(self) -> pd.DataFrame:
        """Return what differs between the versions: one column a version; :raises ConfigError: it is only one."""
        import pandas as pd

        found = compare(registry(), [(each.model, each.number) for each in self.versions])
        rows = {
            (part, row["name"]): row["values"]
            for part in ("facts", "parameters", "features")
            for row in found[part]
            if not row["same"]
        }
        rows |= {("test", row["name"]): row["values"] for row in found["metrics"] if _whole_test(row)}
        return pd.DataFrame.from_dict(rows, orient="index", columns=[each.number for each in self.versions])

    def __len__(self) -> int:
        return len(self.versions)


@dataclass(frozen=True)
class Model:
    """A problem's model."""

    name: str

    @property
    def champion(self) -> ModelVersion:
        """Return the version under load; :raises NotFoundError: there is none."""
        found = registry().champion(self.name)
        if found is None:
            raise NotFoundError(f"Model {self.name} has no champion.", f"Train one: `adin ct run {self.name}`.")
        return found

    def version(self, number: int | str) -> ModelVersion:
        """Return a version by its number or alias."""
        return registry().version(*registry().resolve(f"{self.name}:{number}"))

    def versions(self) -> Found:
        """Return all versions."""
        return Found(tuple(registry().versions(self.name)))

    def search(self, text: str) -> Found:
        """Return the versions that fit, at most 1000.

        :param text: ``auc >= 0.71 and dataset = '7a78d0e6'``; metrics by >= and <=, and of dataset, feature, owner and
            state by =.
        :raises ConfigError: it cannot be read.
        """
        return Found(tuple(registry().search(_query(self.name, text)).versions))

    def predict(self, instances: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
        """Ask the model server; one row an instance, and which version answered."""
        import pandas as pd

        from adin.serving.client import ServingClient

        told = ServingClient().predict(self.name, instances)
        return pd.DataFrame({"prediction": told["predictions"]}).assign(version=told["model_version"])


def _whole_test(row: Mapping[str, Any]) -> bool:
    return (row["split"], row["slice"]) == ("test", "all")


def _query(model: str, text: str) -> Query:
    metrics: dict[str, tuple[float | None, float | None]] = {}
    fields: dict[str, Any] = {}
    for name, sign, value in _conditions(text):
        if name in _FIELDS and sign == "=":
            fields[name] = value
        elif name not in _FIELDS and sign != "=":
            low, high = metrics.get(name, (None, None))
            try:
                metrics[name] = (float(value), high) if sign == ">=" else (low, float(value))
            except ValueError:
                raise ConfigError(f"{name} {sign} {value}: {value!r} is no number.", "Give a number.") from None
        else:
            raise ConfigError(f"{name} {sign} {value} cannot be asked.", "Metrics by >= or <=, the rest by =.")
    return Query(model, metrics=metrics, limit=1000, **fields)


def _conditions(text: str) -> Iterable[tuple[str, str, str]]:
    for part in re.split(r"\s+and\s+", text.strip()):
        found = _CONDITION.fullmatch(part)
        if not found:
            raise ConfigError(f"{part!r} cannot be read.", "Write auc >= 0.71 and dataset = '7a78d0e6'.")
        yield found[1], found[2], found[3]
