"""A link of a hash chain: the one form in which AMVersion writes down what happened."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from adin.errors import DataError
from adin.run_key import content_hash


class Record(BaseModel):
    """Something that happened, with who, when and why, and the hash of what happened before it.

    :param model: the chain it belongs to: a model's name, or a chain of the registry's own such as ``.access``.
    :param seq: place in the chain, from 1.
    :param id: random; tells a writer whose reply got lost that the record found is its own.
    :param version: version it is about; None for the whole model.
    :param previous: hash of the record before, empty for the first.
    :param hash: SHA-256 of all the other fields.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    seq: int = Field(ge=1)
    id: str
    event: str
    version: int | None = None
    actor: str = Field(min_length=1)
    time: datetime
    reason: str = Field(min_length=1)
    previous: str = ""
    hash: str = ""

    @property
    def document(self) -> str:
        """Return the record as the JSON text that is stored: one line."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    @classmethod
    def read(cls, document: str | bytes) -> Self:
        """Return a stored record after its hash was checked.

        :raises DataError: the record was changed after it was written.
        """
        try:
            facts = json.loads(document)
            claimed = facts.pop("hash")
            # hashed as stored, not as parsed: a later release may write times or fields another way
            if content_hash(facts) == claimed:
                return cls(**facts, hash=claimed)
            where = f"entry {facts['seq']} of the log of {facts['model']}"
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"A log entry cannot be read: {error}.", "Restore the log from a backup.") from None
        raise DataError(f"The hash of {where} does not fit its content: it was tampered with.", "Restore the log.")

    @classmethod
    def sealed(cls, **facts: Any) -> Self:
        """Return a new record with its hash.

        :raises DataError: it does not say who or why.
        """
        try:
            made = cls(**facts)
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise DataError(f"No log entry without who and why: {wrong}.", "Give an actor and a reason.") from None
        return made.model_copy(update={"hash": content_hash(made.model_dump(mode="json", exclude={"hash"}))})


R = TypeVar("R", bound=Record)


def linked(records: Iterable[R], model: str, seq: int, head: str) -> Iterator[R]:
    """Pass on the records of a chain, each checked to follow the one before.

    :param seq: number of the record before the first, and :param head: its hash.
    :raises DataError: one is missing, moved or of another chain.
    """
    for record in records:
        if (record.model, record.seq, record.previous) != (model, seq + 1, head):
            raise DataError(
                f"The log of {model} is broken at entry {record.seq}: it does not follow entry {seq}.",
                "Restore the log from a backup.",
            )
        yield record
        seq, head = record.seq, record.hash
