"""The Hive metastore by its Thrift interface: which partitions are published, and publishing more in one step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from adin.connections import connection
from adin.errors import ServiceError
from adin.features.offline import Partition
from adin.settings import settings

_FINGERPRINT, _ROWS, _RUN_KEY = "adin.fingerprint", "adin.rows", "adin.run_key"


@contextmanager
def _metastore() -> Iterator[Any]:
    from hive_metastore.ThriftHiveMetastore import Client
    from thrift.protocol import TBinaryProtocol
    from thrift.Thrift import TException
    from thrift.transport import TSocket, TTransport

    address = str(connection("spark").extra["metastore"])
    parts = urlsplit(address)
    socket = TSocket.TSocket(parts.hostname, parts.port)
    socket.setTimeout(settings().read_timeout * 1000)
    transport = TTransport.TBufferedTransport(socket)
    try:
        transport.open()
        yield Client(TBinaryProtocol.TBinaryProtocol(transport))
    except (TTransport.TTransportException, OSError) as error:
        raise ServiceError(f"The Hive metastore at {address} does not answer: {error}.", "Is it up?") from None
    except TException as error:
        raise ServiceError(f"The Hive metastore at {address} refused: {getattr(error, 'message', error)}") from None
    finally:
        transport.close()


def partitions(table: str) -> dict[str, Partition]:
    """Return the published partitions of a table by day; none if there is no such table."""
    from hive_metastore.ttypes import NoSuchObjectException

    database, _, name = table.partition(".")
    with _metastore() as client:
        try:
            found = client.get_partitions(database, name, -1)
        except NoSuchObjectException:
            return {}
    return {
        each.values[0]: Partition(
            location=each.sd.location,
            fingerprint=each.parameters.get(_FINGERPRINT, ""),
            rows=int(each.parameters.get(_ROWS, 0)),
            run_key=each.parameters.get(_RUN_KEY, ""),
        )
        for each in found
    }


def columns(table: str) -> set[str]:
    """Return the columns of a table in lower case, as the metastore has them; none if there is no such table."""
    from hive_metastore.ttypes import NoSuchObjectException

    database, _, name = table.partition(".")
    with _metastore() as client:
        try:
            found = client.get_table(database, name)
        except NoSuchObjectException:
            return set()
    return {column.name.lower() for column in found.sd.cols}


def exists(table: str) -> bool:
    """Tell whether there is such a table."""
    database, _, name = table.partition(".")
    return name in tables(database)


def tables(database: str) -> dict[str, datetime]:
    """Return the tables of a database with the times they were made; none if there is no such database."""
    with _metastore() as client:
        if database not in client.get_all_databases():
            return {}
        names = client.get_all_tables(database)
        found = client.get_table_objects_by_name(database, names) if names else []
    return {each.tableName: datetime.fromtimestamp(each.createTime, UTC) for each in found}


def drop_table(table: str) -> None:
    """Drop a table with its data; no error if it is gone."""
    from hive_metastore.ttypes import NoSuchObjectException

    database, _, name = table.partition(".")
    with _metastore() as client:
        try:
            client.drop_table(database, name, True)
        except NoSuchObjectException:
            return


def publish(table: str, columns: Mapping[str, str], days: Mapping[str, Partition]) -> tuple[list[str], list[str]]:
    """Make partitions visible: all new days in one step, and all changed days in one. Unchanged days are not touched.

    :param columns: the table's columns with Hive types, without the partition column.
    :param days: partitions by day.
    :returns: days that were new, days that changed.
    """
    database, _, name = table.partition(".")
    before = partitions(table)
    new = sorted(day for day in days if day not in before)
    changed = sorted(day for day in days if day in before and before[day].fingerprint != days[day].fingerprint)
    with _metastore() as client:
        _ensure_table(client, database, name, columns)
        if new:
            client.add_partitions([_partition(database, name, columns, day, days[day]) for day in new])
        if changed:
            client.alter_partitions(
                database, name, [_partition(database, name, columns, day, days[day]) for day in changed]
            )
    return new, changed


def table_folder(table: str) -> str:
    """Return the HDFS folder of a table."""
    database, _, name = table.partition(".")
    return f"{connection('spark').extra['warehouse']}/{database}.db/{name}"


def _ensure_table(client: Any, database: str, name: str, columns: Mapping[str, str]) -> None:
    from hive_metastore.ttypes import Database, FieldSchema, Table

    if database not in client.get_all_databases():
        warehouse = connection("spark").extra["warehouse"]
        client.create_database(Database(name=database, locationUri=f"{warehouse}/{database}.db", parameters={}))
    folder = table_folder(f"{database}.{name}")
    columns = {each.lower(): kind for each, kind in columns.items()}  # as the metastore keeps them
    if name not in client.get_all_tables(database):
        client.create_table(
            Table(
                tableName=name,
                dbName=database,
                owner="adin",
                sd=_storage(columns, folder),
                partitionKeys=[FieldSchema("day", "string", None)],
                parameters={"EXTERNAL": "TRUE"},
                tableType="EXTERNAL_TABLE",
            )
        )
        return
    table = client.get_table(database, name)
    before = {column.name: column.type for column in table.sd.cols}
    if before != dict(columns):
        # the metastore compares types place by place: a new column goes behind those it has
        order = [*(each for each in before if each in columns), *(each for each in columns if each not in before)]
        table.sd = _storage({each: columns[each] for each in order}, folder)
        client.alter_table(database, name, table)


def _partition(database: str, name: str, columns: Mapping[str, str], day: str, part: Partition) -> Any:
    from hive_metastore.ttypes import Partition as HivePartition

    parameters = {_FINGERPRINT: part.fingerprint, _ROWS: str(part.rows), _RUN_KEY: part.run_key}
    storage = _storage(columns, part.location)
    return HivePartition(values=[day], dbName=database, tableName=name, sd=storage, parameters=parameters)


def _storage(columns: Mapping[str, str], location: str) -> Any:
    from hive_metastore.ttypes import FieldSchema, SerDeInfo, StorageDescriptor

    parquet = "org.apache.hadoop.hive.ql.io.parquet"
    return StorageDescriptor(
        cols=[FieldSchema(name, kind, None) for name, kind in columns.items()],
        location=location,
        inputFormat=f"{parquet}.MapredParquetInputFormat",
        outputFormat=f"{parquet}.MapredParquetOutputFormat",
        numBuckets=-1,
        serdeInfo=SerDeInfo(serializationLib=f"{parquet}.serde.ParquetHiveSerDe", parameters={}),
        parameters={},
    )
