"""One request from its body to its answer: judge, compare with what is stored, write, write down."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from adin.errors import AdinError, OverloadError, ServiceError
from adin.features import online, pushed, repo, shards
from adin.features.push import body, check
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
        self._recent: deque[tuple[float, str, pa.Table]] = deque()

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

        :param everything: also those pushed just now.
        :raises ServiceError: Redis does not answer; they are compared next time.
        """
        found: dict[str, int] = {}
        with self._rechecking:
            now = time.monotonic()
            due = [each for each in list(self._recent) if everything or each[0] <= now]
            for name in {view for _, view, _ in due}:
                rows = pa.concat_tables([table for _, view, table in due if view == name])
                with self._alone(self.targets[name]):
                    lost = online.write(self.targets[name].view, rows).written
                if lost:
                    log.warning("%d pushed rows of %s had been overwritten by older ones: written again", lost, name)
                    found[name] = lost
            for _ in due:
                self._recent.popleft()
        return found

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
            tables = [pa.ipc.open_stream(content).read_all() for content in contents]
            # rows accepted under other definitions lie in files of their own
            for schema in {table.schema.to_string(): table.schema for table in tables}.values():
                same = pa.concat_tables(table for table in tables if table.schema == schema)
                pushed.land(repo.domain(target.domain), target.view, same)

        return self.state.land(write)

    def _keep(self, asked: Asked, target: Target, checked: Checked, older: np.ndarray) -> None:
        """Keep rows for the view's table before anything is written: what serving has, training must get."""
        if target.offline and not older.all():
            self.state.keep(asked.view, _stream(checked.good, older))

    def _watch(self, target: Target, checked: Checked, older: np.ndarray) -> None:
        """Have rows compared once more, later."""
        due = time.monotonic() + settings().push_recheck_seconds
        self._recent.append((due, target.view.name, checked.good.filter(pa.array(~older))))

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
                        written = online.put(compared, session=self._session())
                        self._watch(target, checked, older)
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


def _stream(good: pa.Table, older: np.ndarray) -> bytes:
    good = good.take(pa.array(np.flatnonzero(~older)))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, good.schema) as writer:
        writer.write_table(good)
    return bytes(sink.getvalue())
