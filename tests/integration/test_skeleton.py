"""What `adin problem new` makes goes through real Spark: its queries, its gate, the point-in-time join."""

from __future__ import annotations

import pytest
from adin import skeleton
from adin.features import repo
from adin.settings import settings
from adin.window import Window

offline = pytest.importorskip("offline", reason="Spark is in the Airflow environment only")


@pytest.mark.flow(1, 2, 6)
def test_a_new_problem_makes_a_training_set_of_all_its_events(monkeypatch, tmp_path):
    monkeypatch.setenv("ADIN_PROBLEMS", str(tmp_path / "problems"))
    monkeypatch.setenv("ADIN_FEATURE_REPO", str(tmp_path / "features"))
    settings.cache_clear()
    repo.read_anew()
    skeleton.make("bread", "tests")
    spark = offline.session(tmp_path)
    try:
        offline.raw(spark, "bread")
        for view in ("bread_latest", "outcomes"):
            rows = offline.made(spark, "bread", view).where("event_timestamp IS NOT NULL")
            assert offline.broken(spark, "bread", view, rows) == []
        rows, counts = offline.training_set(spark, "bread", Window.parse("2024-01-01", "2024-03-01"))
        made = rows.toPandas()
    finally:
        spark.stop()
        monkeypatch.undo()
        settings.cache_clear()
        repo.read_anew()
    # each thing's hours but the last, whose value an hour later is not known
    assert len(made) == counts["labelled"] == 3 * (60 * 24 - 1)
    assert set(made["split"]) == {"train", "validate", "test"}
    assert (made["bread_latest__value"].notna()).all()
    assert (made["bread_clock__hour"] == made["asked_at"].dt.hour).all()
