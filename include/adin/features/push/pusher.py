"""One request from its body to its answer: judge, compare with what is stored, write, write down."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from adin.errors import AdinError, DataError, OverloadError, ServiceError
from adin.features import online, pushed, repo, shards
from adin.features.push import body, check, recent
from adin.features.push.check import Checked, Refusal, Target
from adin.features.push.state import Answer, Asked, Counts, State
from adin.settings import settings

log = logging.getLogger(__name__)


class Pusher:
    """Writes users' rows; may be used by many threads.

    Rows of one view are compared and written by one thread at a time, so that an older row never overtakes a newer one.
    Other processes, a load say, are not waited for: they may have compared before a row was pushed, and overwrite it
    after. So each pushed row is compared once more, later than any of them holds a batch (:meth:`recheck`).
    """

    def __init__(self, state: State) -> None:
        self.state = state
        self.targets = check.targets()
        self._locks = {name: threading.Lock() for name in self.targets}
        self._own = threading.local()
        self._rechecking = threading.Lock()

    def push(self, asked: Asked, content_type: str, content: bytes, *, accept: bool = False) -> tuple[Answer, bool]:
        """Answer a request, and tell whether it is the answer of an earlier one with the same key.

        :param accept: while Redis does not answer, keep the rows for later instead of refusing the request.
        :raises NotFoundError: there is no such view.
        :raises BodyError: the body cannot be read.
        :raises DataError: the key was used for something else; :raises ConflictError: for a request not yet answered.
        :raises ServiceError: Redis or the database does not answer. Nothing is written, or the same rows may be sent
            again without harm.
        """
        target = check.target(self.targets, asked.view)
        received = asked.received
        if asked.key:
            claimed = self.state.claim(asked)
            if isinstance(claimed, Answer):
                told = claimed.document
                counts = {name: told[name] for name in ("rows", "written", "unchanged", "waiting")}
                self.state.finish(asked, claimed, Counts(**counts, refused=_count(told["refused"])), repeated=True)
                return claimed, True
            received = claimed
        try:
            checked = check.check(target, body.read(content_type, content), received)
            answer, counted = self._written(asked, target, checked, accept)
            self.state.finish(asked, answer, counted, keep=bool(asked.key))
        except Exception:
            if asked.key:
                with contextlib.suppress(AdinError):
                    self.state.release(asked)
            raise
        return answer, False

    def replay(self, letter: str, actor: str) -> str:
        """Write the rows of a dead letter, where nothing newer is stored; return what became of them.

        :raises NotFoundError: none of that id waits, or its view is gone.
        :raises DataError: the view has changed meanwhile. :raises ServiceError: Redis still does not answer.
        """

        def write(view: str, content: bytes) -> str:
            target = check.target(self.targets, view)
            report = online.write(target.view, pa.ipc.open_stream(content).read_all())
            return f"{report.written} of {report.rows} written"

        return self.state.settle(letter, actor, write)

    def recheck(self, *, everything: bool = False) -> dict[str, int]:
        """Write rows again which an older one has overwritten since they were pushed; return how many, by view.

        Rows that another service took before it was killed are among them.

        :param everything: also those pushed just now, which are compared once more by whoever comes next.
        :raises ServiceError: Redis does not answer; they are compared next time.
        """
        found: dict[str, int] = {}
        until = math.inf if everything else time.time()
        with self._rechecking, shards.borrowed() as session:
            for name, target in self.targets.items():
                for entries in recent.due(name, until, session, forget=not everything):
                    if lost := self._rewritten(target, entries):
                        log.warning(
                            "%d pushed rows of %s had been overwritten by older ones: written again", lost, name
                        )
                        found[name] = found.get(name, 0) + lost
        return found

    def _rewritten(self, target: Target, entries: list[bytes]) -> int:
        """Write rows where an older one is stored; return how many were. Rows of an earlier definition are given up."""
        written = 0
        for rows in _tables(entries):
            try:
                with self._alone(target):
                    written += online.write(target.view, rows, over_older=True).written
            except DataError as error:
                log.warning("pushed rows of %s are not compared once more: %s", target.view.name, error)
        return written

    def land(self) -> int:
        """Land rows that were accepted for views whose table is to hold them; return how many requests' rows.

        Rows of a view that is no more, or no more to be held, are given up.

        :raises ServiceError: HDFS or the database does not answer; nothing is forgotten.
        """

        def write(view: str, contents: list[bytes]) -> None:
            target = self.targets.get(view)
            if target is None or not target.offline:
                log.warning("rows of %s, kept for its table, are given up: raw.yaml does not ask for them", view)
                return
            for rows in _tables(contents):  # those accepted under other definitions lie in files of their own
                pushed.land(repo.domain(target.domain), target.view, rows)

        return self.state.land(write)

    def _keep(self, asked: Asked, target: Target, checked: Checked, older: np.ndarray) -> None:
        """Keep rows for the view's table before anything is written: what serving has, training must get."""
        if target.offline and not older.all():
            self.state.keep(asked.view, _stream(checked.good, older))

    def _watch(self, target: Target, checked: Checked, older: np.ndarray) -> None:
        """Have rows compared once more, later; said before they are written, so that none is missed."""
        if not older.all():
            due = time.time() + settings().push_recheck_seconds
            recent.add(target.view.name, _stream(checked.good, older), due, self._session())

    def _written(self, asked: Asked, target: Target, checked: Checked, accept: bool) -> tuple[Answer, Counts]:
        refusals, good = checked.refusals, len(checked.places)
        written, trouble = 0, ""
        older = np.zeros(good, bool)
        if good:
            try:
                with self._alone(target):
                    compared = self._compared(target, checked)
                    older = compared.older
                    self._keep(asked, target, checked, older)
                    try:
                        self._watch(target, checked, older)
                        written = online.put(compared, session=self._session())
                    except ServiceError as error:  # some may be written: they are accepted
                        trouble = str(error)
                refusals = refusals + _older(target, checked, compared)
            except (ServiceError, OverloadError) as error:
                if not accept:
                    raise
                trouble = str(error)
                self._keep(asked, target, checked, older)
        left = good - int(older.sum())
        if trouble:
            # what was written already stays right when it is written again
            self.state.bury(asked, _stream(checked.good, older), left, trouble)
            log.warning("%d rows of %s wait for Redis as dead letter %s", left, asked.view, asked.id)
        counts = Counts(
            rows=checked.rows,
            written=0 if trouble else written,
            unchanged=0 if trouble else left - written,
            refused=checked.rows - left,
            waiting=left if trouble else 0,
        )
        return _answer(asked, counts, refusals), counts

    @contextlib.contextmanager
    def _alone(self, target: Target) -> Iterator[None]:
        """Work on a view alone; :raises OverloadError: others take too long."""
        lock = self._locks[target.view.name]
        if not lock.acquire(timeout=settings().push_redis_seconds):
            raise OverloadError(f"Other requests for {target.view.name} wait for Redis.", after=5)
        try:
            yield
        finally:
            lock.release()

    def _compared(self, target: Target, checked: Checked) -> online.Compared:
        session = self._session()
        try:
            return online.compare(target.view, checked.good, session=session)
        except ServiceError as error:
            if "timed out" in str(error):
                raise
        # the server may have been restarted since the last request
        return online.compare(target.view, checked.good, session=session)

    def _session(self) -> shards.Shards:
        """Return this thread's connections to Redis."""
        session: shards.Shards | None = getattr(self._own, "session", None)
        if session is None:
            session = self._own.session = shards.Shards(timeout=settings().push_redis_seconds)
        return session


def _older(target: Target, checked: Checked, compared: online.Compared) -> list[Refusal]:
    """Refuse what happened before the row that is stored."""
    times = checked.good[target.view.event]
    return [
        Refusal(
            int(checked.places[row]),
            target.view.event,
            f"{check.moment(times[row].value)} is older than the stored {check.moment(compared.stored[row])}",
        )
        for row in np.flatnonzero(compared.older).tolist()
    ]


def _answer(asked: Asked, counts: Counts, refusals: list[Refusal]) -> Answer:
    document: dict[str, Any] = {"request": asked.id, "view": asked.view, **asdict(counts)}
    document["refused"] = [refusal._asdict() for refusal in sorted(refusals)]
    if counts.waiting:
        document["dead_letter"] = asked.id
    return Answer(202 if counts.waiting else 422 if refusals else 200, document)


def _count(refused: list[dict[str, Any]]) -> int:
    return len({each["row"] for each in refused})


def _tables(contents: list[bytes]) -> Iterator[pa.Table]:
    """Return the rows of Arrow streams, those of one schema together."""
    tables = [pa.ipc.open_stream(content).read_all() for content in contents]
    for schema in {table.schema.to_string(): table.schema for table in tables}.values():
        yield pa.concat_tables(table for table in tables if table.schema == schema)


def _stream(good: pa.Table, older: np.ndarray) -> bytes:
    good = good.take(pa.array(np.flatnonzero(~older)))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, good.schema) as writer:
        writer.write_table(good)
    return bytes(sink.getvalue())
