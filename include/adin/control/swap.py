"""Make serving follow the log: load the champion, see that it answers, write down that it does."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from adin.errors import ConflictError, ModelError, NotFoundError, RefusedError, ServiceError, UnreachableError
from adin.models import Registry
from adin.problem import Guard, Problem
from adin.serving.client import ServingClient

log = logging.getLogger(__name__)

#: Changes of champion, or loads by others, that may come in between before one gives up.
_TRIES = 10


def follow(
    spec: Problem,
    models: Registry,
    serving: ServingClient,
    *,
    actor: str,
    reason: str = "it answers",
    run_key: str = "",
    guard: Callable[[int], dict[str, Any]] | None = None,
) -> int:
    """Put the champion under load, whichever the log names by then, and return it.

    The log is read again after each load: whoever loads last has seen the last entry, so two of these at once leave
    the right version under load.

    :param guard: looks at the version that was loaded and raises if it must not stay; its facts go to the log.
    :raises RefusedError: there is no champion, or it may not come under load.
    :raises ModelError: it fails at what it is asked.
    :raises ServiceError: the model server does not answer.
    """
    name = spec.name
    for _ in range(_TRIES):
        version = models.state(name).champion
        if version is None:
            raise RefusedError(f"{name} has no champion to put under load.", f"Train it: DAG train__{name}.")
        serving.load(name, version)
        answering = probe(spec, serving)
        facts = guard(version) if guard and answering == version else {}
        state = models.state(name)
        if state.champion != version or answering != version:
            log.info("another version of %s came in between; loading again", name)
            continue
        if state.served == version:
            return version
        try:
            models.append(
                name,
                "served",
                version=version,
                actor=actor,
                reason=reason,
                evidence=facts,
                run_key=run_key,
                expect_seq=state.seq,
            )
        except ConflictError:
            continue
        return version
    raise ConflictError(f"The champion of {name} changed {_TRIES} times while it was loaded.", "Run it again.")


def probe(spec: Problem, serving: ServingClient) -> int:
    """Ask the problem's example and return the version that answered."""
    return int(serving.predict(spec.name, [spec.example])["model_version"])


def missing_share(spec: Problem, serving: ServingClient) -> float | None:
    """Return the share of feature views without a value for the example, as seen by the version under load.

    None if none is.
    """
    try:
        return _missing(serving.predict(spec.name, [spec.example]))
    except (ModelError, NotFoundError, ServiceError):
        return None


def unfit(spec: Problem, found: dict[str, Any]) -> list[str]:
    """Return why a version that the model server has checked must not come under load; empty if it may.

    :param found: what :meth:`ServingClient.check` returned.
    """
    limits = spec.promotion.infrastructure
    wrong = []
    if found["bytes"] > limits.max_mb * 1e6:
        wrong.append(f"its files take {found['bytes'] / 1e6:.0f} MB, allowed {limits.max_mb:g}")
    replay = found["replay"]
    if replay is None:
        return wrong
    if not replay["max_difference"] <= limits.max_difference:  # NaN is broken too
        wrong.append(
            f"the served model differs from the evaluated one by {replay['max_difference']:.3g} on {replay['rows']} "
            f"replayed rows, allowed {limits.max_difference:g}"
        )
    if replay["latency_p95_ms"] > limits.max_latency.total_seconds() * 1000:
        wrong.append(f"one prediction takes {replay['latency_p95_ms']:.0f} ms")
    return wrong


def guard(spec: Problem, serving: ServingClient, version: int, missing_before: float | None) -> dict[str, Any]:
    """Look at a version just put under load: answers, errors, latency, missing features.

    :param missing_before: share of views without a value before the swap, None if nothing was under load.
    :returns: what was seen, for the log.
    :raises RefusedError: a limit of ``promotion.guard`` is broken; names which, and the number.
    :raises UnreachableError: the model server, or the store behind it, went away.
    """
    limits: Guard = spec.promotion.guard
    before = serving.counted(spec.name, version)
    seconds, failed, missing, first = [], 0, 0.0, ""
    for _ in range(limits.requests):
        began = time.perf_counter()
        try:
            missing = max(missing, _missing(serving.predict(spec.name, [spec.example])))
        except UnreachableError:  # says nothing about the version
            raise
        except Exception as error:  # what fails is counted, whatever it is
            failed, first = failed + 1, first or str(error)[:300]
        seconds.append(time.perf_counter() - began)
    time.sleep(limits.watch.total_seconds())
    after = serving.counted(spec.name, version)
    users = {code: after.get(code, 0) - before.get(code, 0) for code in after}
    total, broken = sum(users.values()), sum(count for code, count in users.items() if code >= 500)
    slow = sorted(seconds)[int(0.95 * (len(seconds) - 1))]
    allowed = 1.0 if missing_before is None else missing_before + limits.max_more_missing
    facts = {
        "requests": limits.requests,
        "failed": failed,
        "answered_by_code": users,
        "latency_p95_ms": round(slow * 1000, 1),
        "missing_share": round(missing, 4),
        "missing_share_before": missing_before,
    }
    share = max(failed / limits.requests, broken / total if total else 0.0)
    wrong = []
    if share > limits.max_errors:
        wrong.append(f"{share:.1%} of requests failed, allowed {limits.max_errors:.1%} {first}".strip())
    if slow > limits.max_latency.total_seconds():
        wrong.append(f"an answer takes {slow:.2f} s, allowed {limits.max_latency.total_seconds():g} s")
    if missing > allowed:
        wrong.append(f"{missing:.0%} of the feature views have no value, allowed {allowed:.0%}")
    if wrong:
        raise RefusedError(f"Version {version} of {spec.name} must not stay under load: {'; '.join(wrong)}.")
    return {"guard": facts}


def _missing(answer: dict[str, Any]) -> float:
    times = [at for column in answer["features_at"].values() for at in column]
    return sum(at is None for at in times) / len(times) if times else 0.0
