"""How hard a service is leaned on, by extras of its connection."""

from __future__ import annotations

import re
import time
from dataclasses import fields
from uuid import uuid4

import pytest
from adin.airflow.provider_info import get_provider_info
from adin.connections import Connection
from adin.errors import ConfigError, DataError, ServiceError, UnreachableError
from adin.limits import Limits, guarded
from adin.settings import ROOT, Settings, settings


def conn(**extra) -> Connection:
    return Connection("kfp", f"host-{uuid4().hex}", 1, extra=extra)


def fail(where: Connection, error: Exception, times: int) -> None:
    for _ in range(times):
        with pytest.raises(type(error)), guarded(where):
            raise error


def test_limits_are_the_connections_extras_else_the_stated_defaults():
    assert Limits.of(conn()).timeouts == (settings().connect_timeout, settings().read_timeout)
    assert Limits.of(conn(read_timeout="7", pool=3)).read_timeout == 7
    assert Limits.of(conn(read_timeout=None, pool="3")).pool == 3
    with pytest.raises(ConfigError, match="retries is 'many'"):
        Limits.of(conn(retries="many"))


def test_a_service_that_fails_again_and_again_is_left_alone_for_a_while():
    where = conn(breaker_failures=3, breaker_seconds=0.2)
    fail(where, ServiceError("down"), 3)
    with pytest.raises(UnreachableError, match="left alone"), guarded(where):
        pytest.fail("it was asked")
    time.sleep(0.25)
    with guarded(where):  # one call is let through, and its success closes the circuit
        pass
    with guarded(where):
        pass


def test_an_answer_that_refuses_what_was_asked_does_not_open_the_circuit():
    where = conn(breaker_failures=2)
    fail(where, ServiceError("down"), 1)
    fail(where, DataError("bad rows"), 5)
    with guarded(where):
        pass


def test_a_connection_without_a_breaker_is_always_asked():
    where = conn(breaker_failures=0)
    fail(where, ServiceError("down"), 30)
    with guarded(where):
        pass


def test_calls_above_the_rate_wait_their_turn():
    where = conn(rate=50)
    began = time.monotonic()
    for _ in range(6):
        with guarded(where):
            pass
    assert time.monotonic() - began >= 5 / 50


def test_the_form_of_every_http_service_offers_each_limit():
    forms = {form["connection-type"]: form["conn-fields"] for form in get_provider_info()["connection-types"]}
    every = {field.name for field in fields(Limits)}
    for name in ("lakefs", "kfp", "spark"):
        assert every <= set(forms[f"adin_{name}"]), name
    for name in ("clickhouse", "kserve"):  # whose clients pause as they see fit
        assert every & set(forms[f"adin_{name}"]) == every - {"backoff"}, name
    assert {"connect_timeout", "read_timeout", "pool"} <= set(forms["adin_s3"])


def test_every_setting_named_in_the_table_of_services_exists():
    page = (ROOT / "docs" / "services.md").read_text()
    known = {f"ADIN_{name.upper()}" for name in Settings.model_fields}
    named = set(re.findall(r"`(ADIN_[A-Z_]+)`", page))
    assert named
    assert named <= known
    forms = {form["connection-type"]: form["conn-fields"] for form in get_provider_info()["connection-types"]}
    extras = re.findall(r"`(\w+)\.extra\.(\w+)`", page)
    assert extras
    for service, extra in extras:
        assert extra in forms[f"adin_{service}"], f"{service}.{extra}"
    files = re.findall(r"`((?:include|deploy)/[\w/.-]+)`: `([^`]+)`", page)
    assert files
    for file, text in files:
        assert text in (ROOT / file).read_text(), f"{file}: {text}"


def test_the_defaults_in_the_forms_are_those_of_the_code():
    forms = {form["connection-type"]: form["conn-fields"] for form in get_provider_info()["connection-types"]}
    defaults = Limits.of(conn())
    for name in ("retries", "backoff", "pool", "breaker_failures", "breaker_seconds"):
        assert f"Empty: {getattr(defaults, name)}." in forms["adin_kfp"][name]["description"], name
