"""What a change of definitions would destroy: told, asked for, and refused while somebody needs it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from adin.commands.features import app
from adin.connections import Connection
from adin.errors import RefusedError
from adin.features import store
from adin.models import registry
from feature_registry import forget
from model_facts import facts, files, validated
from redis_server import RedisServer
from servers import Servers
from typer.testing import CliRunner

pytestmark = pytest.mark.flow(10)
SHOP = Path(__file__).parents[1] / "shop"
LEVEL = 'Field(name="level", dtype=Int32)'


@pytest.fixture
def shop(redis_server: RedisServer, servers: Servers, tmp_path: Path) -> Iterator[Path]:
    """The shop, applied, with a registry of models and no problem; its definitions."""
    folder = tmp_path / "features" / "shop"
    folder.mkdir(parents=True)
    for file in (SHOP / "features" / "shop").iterdir():
        if file.is_file():
            (folder / file.name).write_bytes(file.read_bytes())
    # features of one project only, so that models of other tests need none of them
    where = {"registry": f"sqlite:///{tmp_path / 'feast.db'}"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADIN_FEATURE_REPO", str(tmp_path / "features"))
        patch.setenv("ADIN_PROBLEMS", str(tmp_path / "problems"))
        patch.setenv("ADIN_CONN_FEAST", replace(redis_server.connection, extra=where).uri)
        patch.setenv("ADIN_CONN_S3", replace(servers.s3, name="s3").uri)
        files_edition = Connection("amversion", schema=servers.bucket, extra={"edition": "files"})
        patch.setenv("ADIN_CONN_AMVERSION", files_edition.uri)
        forget()
        store.apply("shop")
        yield folder / "definitions.py"
    forget()


def edit(definitions: Path, old: str, new: str) -> None:
    text = definitions.read_text()
    assert old in text
    definitions.write_text(text.replace(old, new))
    forget()


def registered(view: str = "prices") -> dict[str, str]:
    opened = store.feature_store()
    return {field.name: str(field.dtype) for field in opened.registry.get_feature_view(view, opened.project).features}


def test_what_adds_or_only_describes_needs_no_approval(shop: Path) -> None:
    edit(shop, LEVEL, f'{LEVEL}, Field(name="salt", dtype=Float32, description="Grams")')
    planned = store.plan("shop")
    assert planned.destructive == planned.needed == ()
    assert planned.to_load == ["prices"]
    assert "+" not in str(planned) and "~ FeatureView prices" in str(planned)
    store.apply("shop")
    assert registered() == {"bread": "Float32", "level": "Int32", "salt": "Float32"}


@pytest.mark.parametrize(
    ("old", "new", "lost"),
    [
        (f", {LEVEL}", "", ["prices__level: Int32 by shop STRING -> removed"]),
        (LEVEL, LEVEL.replace("Int32", "Int64"), ["prices__level: Int32 by shop STRING -> Int64 by shop STRING"]),
        (
            "entities=[till, shop]",
            "entities=[till]",
            [
                f"takings__{name}: {kind} by shop STRING, till_id INT64 -> {kind} by till_id INT64"
                for name, kind in (
                    ("amount", "Float64"),
                    ("cents", "Int64"),
                    ("keeper", "String"),
                    ("mean", "Float32"),
                    ("open", "Bool"),
                    ("opened_at", "UnixTimestamp"),
                    ("orders", "Int32"),
                )
            ],
        ),
        (
            'name="weight", dtype=Float64',
            'name="weight", dtype=Int64',
            ["bill__total: Float64 by weight Float64 -> Float64 by weight Int64"],
        ),
        (
            "features=[takings, prices, bill]",
            "features=[takings, prices]",
            ["feature service counter: no longer bill__total"],
        ),
    ],
    ids=["feature", "type", "key", "request", "service"],
)
def test_a_feature_taken_away_or_changed_in_type_or_key_needs_approval(
    shop: Path, old: str, new: str, lost: list[str]
) -> None:
    before = store.feature_store().registry.proto().SerializeToString(deterministic=True)
    edit(shop, old, new)
    planned = store.plan("shop")
    on_demand = [line for line in planned.destructive if line.startswith("bill__") and line not in lost]
    assert [line for line in planned.destructive if line not in on_demand] == lost
    assert all("is worked out from prices__" in line for line in on_demand)
    with pytest.raises(RefusedError, match="--approve"):
        store.apply("shop")
    done = CliRunner().invoke(app, ["apply", "shop"])
    assert isinstance(done.exception, RefusedError) and lost[0] in str(done.exception)
    assert store.feature_store().registry.proto().SerializeToString(deterministic=True) == before
    done = CliRunner().invoke(app, ["apply", "shop", "--approve", "--json"])
    assert done.exit_code == 0 and json.loads(done.output)["destructive"] == list(planned.destructive)
    assert store.plan("shop").changes == ()


def test_a_view_no_domain_has_stays_until_its_removal_is_asked_for_and_approved(shop: Path) -> None:
    text = shop.read_text()
    start, end = text.index("prices = FeatureView("), text.index("asked = RequestSource(")
    demand, rest = text.index("@on_demand_feature_view"), text.index("counter = FeatureService(")
    shop.write_text(text[:start] + text[end:demand] + text[rest:].replace("[takings, prices, bill]", "[takings]"))
    (shop.parent / "prices.sql").unlink()
    forget()
    store.apply("shop", approve=True)
    assert registered() == {"bread": "Float32", "level": "Int32"}
    with pytest.raises(RefusedError, match="FeatureView prices: removed"):
        store.apply("shop", delete=True)
    removed = {change.name for change in store.apply("shop", delete=True, approve=True).changes}
    assert {"prices", "bill"} <= removed
    assert store.plan("shop").changes == ()


def test_what_a_model_under_load_needs_is_refused_approved_or_not(shop: Path, servers: Servers, tmp_path: Path) -> None:
    models, name = registry(), f"m_{uuid.uuid4().hex[:12]}"
    needs = {"service": "counter", "features": ["prices__level", "bill__total"]}
    needs["signature"] = facts()["signature"] | {"inputs": {"prices__level": "float64", "bill__total": "float64"}}
    number = models.register(name, facts(**needs), files(tmp_path), actor="test", run_key="r").number
    models.append(name, "validate", version=number, actor="test", reason="checks passed", run_key="r")
    edit(shop, LEVEL, LEVEL.replace("Int32", "Int64"))
    assert store.plan("shop").needed == ()  # it is not under load
    models.promote(name, number, against=None, actor="test", reason="better")
    planned = store.plan("shop")
    assert len(planned.needed) == 1 and "prices__level" in planned.needed[0]
    with pytest.raises(RefusedError, match=rf"Model {name} version {number}.*promote that version"):
        store.apply("shop", approve=True)
    edit(shop, LEVEL.replace("Int32", "Int64"), LEVEL)
    edit(shop, "features=[takings, prices, bill]", "features=[takings, prices]")
    with pytest.raises(RefusedError, match=rf"Model {name} .*bill__total"):
        store.apply("shop", approve=True)
    edit(shop, "features=[takings, prices]", "features=[takings, prices, bill]")
    edit(shop, 'Field(name="mean", dtype=Float32),', "")
    store.apply("shop", approve=True)  # nobody needs that one
    assert "mean" not in registered("takings")
    other = validated(models, name, files(tmp_path / "other"), "other")
    models.promote(name, other, against=number, actor="test", reason="needs other features")


def test_what_the_feature_service_of_a_problem_takes_is_refused_approved_or_not(shop: Path, tmp_path: Path) -> None:
    (tmp_path / "problems").mkdir()
    (tmp_path / "problems" / "bread_bill").symlink_to(SHOP / "problems" / "bread_bill")
    edit(shop, LEVEL, LEVEL.replace("Int32", "Int64"))
    with pytest.raises(RefusedError, match=r"Problem bread_bill learns from .*prices__level.*another name"):
        store.apply("shop", approve=True)
    edit(shop, 'counter = FeatureService(name="counter"', 'counter = FeatureService(name="till_counter"')
    with pytest.raises(RefusedError, match="Problem bread_bill learns from the feature service counter"):
        store.apply("shop", approve=True, delete=True)
