"""The feature repository: what is read from it, and how its mistakes are told."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from adin.errors import ConfigError, NotFoundError
from adin.features import repo
from adin.settings import ROOT, settings
from adin.window import Window

pytestmark = pytest.mark.flow(4, 10)


@pytest.fixture
def copy(monkeypatch, tmp_path):
    """A copy of the shipped feature repository which a test may spoil."""
    shutil.copytree(ROOT / "feature_repo", tmp_path / "repo", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setenv("ADIN_FEATURE_REPO", str(tmp_path / "repo"))
    _forget()
    yield tmp_path / "repo" / "flights"
    _forget()


def _forget():
    settings.cache_clear()
    repo.read_anew()


def test_the_flights_service_names_its_columns_in_the_models_order():
    service = repo.service("flights", "flights_delay")
    assert len(service.columns) == len(set(service.columns)) == 27
    assert service.columns[0] == "origin_2h__mean_delay"
    assert service.keys == ("origin", "carrier", "tailnum")
    assert "prediction_time" not in service.request
    assert {"scheduled_departure", "distance"} <= set(service.request)


def test_views_carry_keys_table_and_ttl():
    view = repo.domain("flights").view("carrier_origin_24h")
    assert view.keys == ("carrier", "origin")
    assert view.table == "flights.carrier_origin_24h"
    assert view.ttl.total_seconds() == 48 * 3600


def test_a_views_query_is_for_its_window():
    text = repo.domain("flights").sql("origin_2h", Window.parse("2013-03-01", "2013-03-02"))
    assert "${" not in text


def test_on_demand_features_are_made_by_the_repositorys_own_functions():
    service = repo.service("flights", "flights_delay")
    frame = pd.DataFrame(
        {
            "carrier": ["UA"],
            "origin": ["EWR"],
            "dest": ["IAH"],
            "scheduled_departure": pd.to_datetime(["2013-07-01T16:30:00Z"]),
            "scheduled_arrival_minute": [839],
            "distance": [1400],
            "prediction_time": pd.to_datetime(["2013-07-01T15:30:00Z"]),
            "tail_last__last_delay": [3.0],
            "tail_last__departed_at": [pd.Timestamp("2013-07-01T12:00:00Z").timestamp()],
        }
    )
    made = repo.with_on_demand(frame, service.on_demand).iloc[0]
    assert (made["schedule__hour"], made["schedule__minute"], made["schedule__weekday"]) == (12, 30, 0)
    hours = next(view.name for view in service.on_demand if view.name != "schedule")
    assert made[f"{hours}__hours"] == 3.5


def test_an_aircraft_never_seen_has_no_hours():
    service = repo.service("flights", "flights_delay")
    view = next(view for view in service.on_demand if view.name != "schedule")
    frame = pd.DataFrame(
        {
            "prediction_time": pd.to_datetime(["2013-07-01T15:30:00Z", "2013-07-01T15:30:00Z"]),
            "tail_last__last_delay": [None, 1.0],
            "tail_last__departed_at": [None, None],
        }
    )
    assert repo.with_on_demand(frame, (view,))[f"{view.name}__hours"].isna().all()


def test_an_unknown_domain_view_and_service_are_told_with_the_known_ones():
    with pytest.raises(NotFoundError, match=r"No feature domain 'nowhere'.*flights"):
        repo.domain("nowhere")
    with pytest.raises(NotFoundError, match=r"No view 'nothing'.*origin_2h"):
        repo.domain("flights").view("nothing")
    with pytest.raises(NotFoundError, match=r"No FeatureService 'none'.*flights_delay"):
        repo.service("flights", "none")


def test_a_view_without_its_query_is_told(copy: Path):
    (copy / "weather.sql").unlink()
    with pytest.raises(ConfigError, match=r"View weather has no .*weather\.sql"):
        repo.domain("flights")


def test_a_query_whose_raw_tables_are_not_declared_is_told(copy: Path):
    spec = yaml.safe_load((copy / "raw.yaml").read_text())
    spec["views"]["weather"]["reads"] = ["wether"]
    (copy / "raw.yaml").write_text(yaml.safe_dump(spec))
    with pytest.raises(ConfigError, match=r"raw\.yaml.*weather reads wether, which is no table"):
        repo.domain("flights")


def test_a_definition_that_cannot_be_imported_names_its_file(copy: Path):
    (copy / "definitions.py").write_text("import nothing_of_that_name\n")
    with pytest.raises(ConfigError, match=r"definitions\.py cannot be imported"):
        repo.domain("flights")


def test_importing_feast_leaves_no_trace_for_child_processes():
    code = (
        "import os; before = dict(os.environ); from adin.features.feast_import import import_feast; import_feast(); "
        "import feast.feature_server, prometheus_client.values as values; "
        "print(os.environ == before, values.ValueClass.__name__)"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PROMETHEUS_")}
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "True MutexValue"


def test_a_table_that_is_to_hold_pushed_rows_has_days(copy):
    path = copy / "raw.yaml"
    spec = yaml.safe_load(path.read_text())
    static = next(name for name, table in spec["tables"].items() if table.get("static"))
    daily = next(name for name, entry in spec["views"].items() if static not in entry["reads"])
    spec["views"][daily]["pushed"] = True
    path.write_text(yaml.safe_dump(spec))
    assert repo.domain("flights").pushed == {daily}
    _forget()
    spec["views"][daily]["reads"] = [static]
    path.write_text(yaml.safe_dump(spec))
    with pytest.raises(ConfigError, match=f"{daily} is pushed and reads a static table"):
        repo.domain("flights")


def _kiosk(folder, ttl):
    """A second domain with a view of the same airports as the flights'."""
    folder.mkdir()
    tags = f'{{"online_ttl": "{ttl}"}}' if ttl else "{}"
    (folder / "definitions.py").write_text(
        f"""
from feast import Entity, FeatureView, Field, ValueType
from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource
from feast.types import Int64

origin = Entity(name="origin", join_keys=["origin"], value_type=ValueType.STRING)
source = SparkSource(name="kiosks", table="kiosk.kiosks", timestamp_field="event_timestamp")
fields = [Field(name="open", dtype=Int64)]
kiosks = FeatureView(name="kiosks", entities=[origin], schema=fields, source=source, tags={tags})
"""
    )
    (folder / "kiosks.sql").write_text("SELECT 1")
    (folder / "raw.yaml").write_text(
        "{tables: {doors: {columns: {origin: string}}}, views: {kiosks: {reads: [doors]}}}"
    )


def _ttls():
    views = {"kiosk": ["kiosks"], "flights": ["origin_2h", "carrier_origin_24h"]}
    found = [repo.domain(name).view(view).online_ttl for name, of in views.items() for view in of]
    return [each.total_seconds() / 3600 for each in found]


def test_views_of_one_entity_in_two_domains_stay_online_for_the_longest_of_their_times(copy, monkeypatch):
    read, module = [], repo.module
    monkeypatch.setattr(repo, "module", lambda file: read.append(file.parent.name) or module(file))
    for default, ttl, expected in (
        ("7200", "3h", [3, 3, 2]),
        ("7200", "1h", [2, 2, 2]),
        ("0", "3h", [0, 0, 0]),
        ("0", "", [0, 0, 0]),
    ):
        monkeypatch.setenv("ADIN_ONLINE_TTL", default)
        shutil.rmtree(copy.parent / "kiosk", ignore_errors=True)
        _kiosk(copy.parent / "kiosk", ttl)
        _forget()
        read.clear()
        assert _ttls() == expected
        assert read.count("kiosk") == 1
        assert repo.domain("flights").view("origin_2h").keeps == ((default, ttl) == ("0", "3h"))


def test_another_domains_mistakes_are_told_only_where_its_times_count(copy, monkeypatch):
    (copy.parent / "kiosk").mkdir()
    (copy.parent / "kiosk" / "raw.yaml").write_text("{tables: {}, views: {}}")
    (copy.parent / "kiosk" / "definitions.py").write_text("nothing.of.this")
    assert repo.domain("flights").view("origin_2h").online_ttl.total_seconds() == 0
    monkeypatch.setenv("ADIN_ONLINE_TTL", "60")
    _forget()
    with pytest.raises(ConfigError, match=r"kiosk.definitions\.py cannot be imported"):
        repo.domain("flights")
