"""The online store on a Redis Cluster, on several independent servers, behind TLS; killed, slow and small ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from adin.connections import Connection
from adin.errors import ConfigError, ServiceError
from adin.features import online, repo, shards, store, wire, writer
from adin.features.repo import View
from online_stores import cents, empty, using
from redis_server import RedisServer, TlsFront, nodes, redis_cluster, several
from shop_rows import AT, by_feast, forget, keys, rows, takings

pytestmark = pytest.mark.flow(9, 11)


@pytest.fixture(scope="module")
def clustered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RedisServer]]:
    """A Redis Cluster of three processes."""
    servers = redis_cluster(tmp_path_factory.mktemp("cluster"))
    yield servers
    for server in servers:
        server.kill()


@pytest.fixture(scope="module")
def independent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RedisServer]]:
    """Three servers which do not know of each other."""
    servers = several(tmp_path_factory.mktemp("several"))
    yield servers
    for server in servers:
        server.kill()


@pytest.fixture
def cluster(clustered: list[RedisServer], registry: str) -> Iterator[list[RedisServer]]:
    with using(nodes(clustered, "cluster"), registry):
        store.apply("shop")
        yield empty(clustered)


@pytest.fixture
def servers(independent: list[RedisServer], registry: str) -> Iterator[list[RedisServer]]:
    with using(nodes(independent, "servers"), registry):
        yield empty(independent)


def content(found: list[RedisServer]) -> dict[bytes, dict[bytes, bytes]]:
    """All hashes of some servers; none may be on two of them."""
    every = [server.content() for server in found]
    joined = {key: fields for each in every for key, fields in each.items()}
    assert len(joined) == sum(map(len, every))
    return joined


# --- Redis Cluster


def test_on_a_cluster_we_write_what_feast_writes_byte_for_byte_on_the_same_servers(cluster: list[RedisServer]) -> None:
    table = rows(1500)
    by_feast(table)
    theirs = [server.content() for server in cluster]
    empty(cluster)
    assert online.write(takings(), table).written == 1500
    ours = [server.content() for server in cluster]
    for mine in ours:
        for fields in mine.values():
            del fields[b"_created:takings"]
    assert ours == theirs
    assert all(len(each) > 300 for each in ours)


def test_the_stock_sdk_reads_from_a_cluster_what_we_wrote(cluster: list[RedisServer]) -> None:
    table = rows(200)
    online.write(takings(), table)
    feast = store.feature_store()
    answer = feast.get_online_features(features=["takings:cents", "takings:keeper"], entity_rows=keys(table)).to_dict()
    assert answer["cents"] == table["cents"].to_pylist()
    assert answer["keeper"] == table["keeper"].to_pylist()


def test_our_reader_reads_from_a_cluster_and_coverage_looks_at_each_server(cluster: list[RedisServer]) -> None:
    service = repo.service("shop", "counter")
    assert online.coverage(service) == ["takings", "prices"]
    table = rows(1)
    online.write(takings(), table)
    assert online.coverage(service) == ["prices"]
    more = rows(500)
    online.write(takings(), more)
    assert cents(keys(more)) == more["cents"].to_pylist()


def test_a_slot_that_moved_to_another_server_is_followed(cluster: list[RedisServer]) -> None:
    table = rows(50)
    with shards.Shards() as opened:
        opened.primaries()  # the owners are known from here on
        moved = shards.slot(key_of(opened, table))
        source, target = owner(cluster, moved)
        for server in (target, source, *(s for s in cluster if s not in (source, target))):
            server.ask("CLUSTER", "SETSLOT", moved, "NODE", target.ask("CLUSTER", "MYID"))
        assert online.put(online.compare(takings(), table, session=opened), session=opened) == 50
        assert online.write(takings(), table).written == 0
    assert key_of(None, table) in target.content()
    assert cents(keys(table)) == table["cents"].to_pylist()


def test_a_slot_that_is_just_being_moved_is_asked_for_at_its_new_server(cluster: list[RedisServer]) -> None:
    table = rows(50, seed=3)
    moving = shards.slot(key_of(None, table))
    source, target = owner(cluster, moving)
    target.ask("CLUSTER", "SETSLOT", moving, "IMPORTING", source.ask("CLUSTER", "MYID"))
    source.ask("CLUSTER", "SETSLOT", moving, "MIGRATING", target.ask("CLUSTER", "MYID"))
    try:
        view = replace(takings(), online_ttl=timedelta(hours=1))  # two commands a row
        assert online.write(view, table).written == 50
        assert online.write(view, table).written == 0
        assert cents(keys(table)) == table["cents"].to_pylist()
    finally:
        for server in (target, source):
            server.ask("CLUSTER", "SETSLOT", moving, "STABLE")
    assert target.ask("CLUSTER", "COUNTKEYSINSLOT", moving) == 1
    assert source.ask("CLUSTER", "COUNTKEYSINSLOT", moving) == 0
    target.ask("FLUSHALL")


def test_rows_compared_first_and_put_afterwards_are_those_that_are_newer(cluster: list[RedisServer]) -> None:
    table = rows(60)
    online.write(takings(), table.slice(0, 40))
    late = pa.concat_tables([table, rows(10, at=AT - timedelta(days=1))])
    with shards.Shards() as opened:
        found = online.compare(takings(), late, session=opened)
        assert list(found.older) == [False] * 60 + [True] * 10
        assert (found.stored[:40] == writer._micros(table["event_timestamp"])[:40]).all()
        assert (found.stored[40:60] == np.iinfo("i8").min).all()
        assert online.put(found, session=opened) == 20
    assert cents(keys(table)) == table["cents"].to_pylist()


def key_of(_: object, table: pa.Table) -> bytes:
    """The Redis key of a table's first row."""
    return bytes(writer._rows(takings(), table.slice(0, 1)).keys[0].as_py())


def owner(found: list[RedisServer], slot: int) -> tuple[RedisServer, RedisServer]:
    """The server that owns a slot, and another one."""
    for first, last, (_, port, *_rest) in found[0].ask("CLUSTER", "SLOTS"):
        if first <= slot <= last:
            source = next(server for server in found if server.connection.port == port)
            return source, next(server for server in found if server is not source)
    raise AssertionError(slot)


def test_slots_are_those_of_redis_also_where_a_key_holds_braces(cluster: list[RedisServer]) -> None:
    names = [b"123456789", b"{user}.a", b"a{}b", b"{{x}}", b"{", b"}{", bytes([123, 0, 0, 0, 125, 7]), b"\x00{a}{b}"]
    assert [shards.slot(name) for name in names] == [cluster[0].ask("CLUSTER", "KEYSLOT", name) for name in names]


# --- several independent servers


def test_several_servers_share_the_entities_and_hold_what_one_would(
    servers: list[RedisServer], redis_server: RedisServer, registry: str
) -> None:
    table = rows(1500)
    online.write(takings(), table)
    assert online.write(takings(), table).written == 0
    assert cents(keys(table)) == table["cents"].to_pylist()
    assert all(len(server.content()) > 300 for server in servers)
    shared = content(servers)
    with using(redis_server.connection, registry):
        empty([redis_server])
        online.write(takings(), table)
    assert shared == redis_server.content()


def test_the_order_of_the_list_does_not_matter_and_a_new_server_takes_only_its_share() -> None:
    found = [("redis-a", 6379), ("redis-b", 6379), ("redis-c", 6379)]
    by_name = np.array(found)[shards._highest(tuple(found))]
    turned = np.array(found[::-1])[shards._highest(tuple(found[::-1]))]
    assert (by_name == turned).all()
    grown = [*found, ("redis-d", 6379)]
    after = np.array(grown)[shards._highest(tuple(grown))]
    moved = (by_name != after).any(axis=1)
    assert set(map(tuple, after[moved])) == {("redis-d", "6379")}
    assert 0.2 < moved.mean() < 0.3


def test_a_mode_or_a_node_that_cannot_be_read_is_named() -> None:
    with pytest.raises(ConfigError, match="mode 'sentinel'"):
        shards.Shards(Connection("feast", "localhost", 6379, extra={"mode": "sentinel"}))
    with pytest.raises(ConfigError, match="node 'redis-b'"):
        shards.Shards(Connection("feast", "localhost", 6379, extra={"mode": "servers", "nodes": "redis-b"}))


# --- faults


def test_one_of_several_servers_killed_in_the_middle_then_the_write_done_again_gives_the_whole(
    tmp_path: Path, registry: str
) -> None:
    found = several(tmp_path)
    table = rows(4000)
    with using(nodes(found, "servers"), registry), pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADIN_ONLINE_BATCH", "500")
        forget()
        batches = []

        def on_batch(_: int) -> None:
            batches.append(1)
            if len(batches) == 3:
                found[1].kill()

        with pytest.raises(ServiceError, match="does not answer"):
            online.write(takings(), table, on_batch=on_batch)
        found[1].start()
        half = len(content(found))
        assert 0 < half < 4000
        online.write(takings(), table)
        assert len(content(found)) == 4000
        assert online.write(takings(), table).written == 0
        assert cents(keys(table)) == table["cents"].to_pylist()
    for server in found:
        server.kill()


_ENDLESS = """
import sys
sys.path.insert(0, sys.argv[1])
from shop_rows import rows, takings
from adin.features import online
table = rows(20000)
view = takings()
print("ready", flush=True)
online.write(view, table, on_batch=lambda _: print("batch", flush=True))
"""


def test_a_writer_killed_in_the_middle_leaves_whole_rows_and_its_second_run_completes(one: RedisServer) -> None:
    table = rows(20_000)
    online.write(takings(), table)
    whole = one.content()
    empty([one])
    command = [sys.executable, "-c", _ENDLESS, str(Path(__file__).parents[1])]
    child = subprocess.Popen(
        command, env={**os.environ, "ADIN_ONLINE_BATCH": "200"}, stdout=subprocess.PIPE, text=True
    )  # fmt: skip
    assert child.stdout
    lines = [next(child.stdout) for _ in range(6)]
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert lines[-1] == "batch\n"
    left = one.content()
    assert 0 < len(left) < len(whole)
    assert all(whole[key] == fields for key, fields in left.items())
    online.write(takings(), table)
    assert one.content() == whole


def test_a_pooled_connection_whose_server_was_restarted_is_opened_anew(tmp_path: Path, registry: str) -> None:
    server = RedisServer(tmp_path)
    with using(server.connection, registry):
        online.write(takings(), rows(20).slice(0, 10))
        server.kill()
        server.start()
        assert online.write(takings(), rows(20)).written == 10
        assert connected(server) == 1
    server.kill()


def connected(server: RedisServer) -> int:
    """How many clients a server has, without the one that asks."""
    info = dict(line.split(":", 1) for line in server.ask("INFO", "clients").decode().splitlines() if ":" in line)
    return int(info["connected_clients"]) - 1


def test_reads_during_a_load_are_answered_with_whole_rows_old_or_new(cluster: list[RedisServer]) -> None:
    view = View(
        name="takings",
        table="",
        keys=("till_id", "shop"),
        features=(("orders", "Int32"), ("cents", "Int64")),
        key_types=(("till_id", "Int64"), ("shop", "String")),
    )
    first = rows(3000)
    till, shop = first["till_id"], first["shop"]

    def version(number: int) -> pa.Table:
        at = pa.array([AT + timedelta(minutes=number)] * len(first), pa.timestamp("us", "UTC"))
        same = {"orders": pa.array([number] * len(first), pa.int32()), "cents": pa.array([number] * len(first))}
        return pa.table({"till_id": till, "shop": shop, **same, "event_timestamp": at, "created_timestamp": at})

    online.write(view, version(0))
    done = threading.Event()

    def load() -> None:
        try:
            for number in range(1, 6):
                online.write(view, version(number))
        finally:
            done.set()

    loading = threading.Thread(target=load)
    loading.start()
    reader = online.OnlineReader(repo.service("shop", "counter"))
    asked = keys(first)[::300]
    seen = np.zeros(len(asked))
    while not done.is_set():
        columns, _ = reader.read(asked)
        assert (columns["takings__orders"] == columns["takings__cents"]).all()
        assert (columns["takings__orders"] >= seen).all()
        seen = columns["takings__orders"]
    loading.join()
    assert (reader.read(asked)[0]["takings__cents"] == 5).all()


# --- TLS and sign-in


def test_tls_asks_for_a_certificate_it_can_trust(redis_server: RedisServer, registry: str, tmp_path: Path) -> None:
    front = TlsFront(tmp_path, redis_server)
    try:
        trusting = replace(front.connection, extra={"tls": True, "ca_file": str(front.ca_file)})
        with using(trusting, registry):
            store.apply("shop")
            empty([redis_server])
            table = rows(300)
            assert online.write(takings(), table).written == 300
            assert cents(keys(table)) == table["cents"].to_pylist()
            feast = store.feature_store()
            answer = feast.get_online_features(features=["takings:cents"], entity_rows=keys(table)).to_dict()
            assert answer["cents"] == table["cents"].to_pylist()
        for wrong, why in (
            (front.connection, "not trusted"),
            (replace(trusting, host="127.0.0.1"), "not trusted"),
            (replace(trusting, extra={"tls": True, "ca_file": str(tmp_path / "nothing.pem")}), "No CA file"),
        ):
            with wire.Session(wrong) as session, pytest.raises(ConfigError, match=why):
                session.exchange(wire.command(b"PING"), 1)
    finally:
        front.close()


def test_a_user_signs_in_by_name_and_is_refused_with_another_ones_password(one: RedisServer) -> None:
    one.ask("ACL", "SETUSER", "writer", "on", ">a,secret", "~*", "+@all")
    known = replace(one.connection, login="writer", password="a,secret")
    with wire.Session(known) as session:
        assert session.exchange(wire.command(b"ACL", b"WHOAMI"), 1) == [b"writer"]
    with (
        wire.Session(replace(known, login="nobody")) as session,
        pytest.raises(ConfigError, match="refused to sign in"),
    ):
        session.exchange(wire.command(b"PING"), 1)
    with using(known, "sqlite://"), pytest.raises(ConfigError, match="with a comma"):
        store.feature_store()


# --- bounded memory


def test_a_load_that_may_hold_few_rows_gives_what_a_load_at_once_gives(one: RedisServer) -> None:
    days = [rows(300, at=AT + timedelta(days=day), seed=day + 10) for day in range(5)]
    online.write(takings(), pa.concat_tables(days))
    at_once = one.content()
    empty([one])
    handed: list[int] = []

    def hand_on(table: pa.Table) -> None:
        handed.append(table.num_rows)
        online.write(takings(), table)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADIN_ONLINE_HELD", "200")
        patch.setattr(writer, "_WAITING", 250)
        forget()
        newest = writer.Newest(takings(), hand_on)
        for table in days:
            newest.add(table)
        newest.finish()
    assert len(handed) == 5
    assert one.content() == at_once
