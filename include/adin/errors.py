"""The one error tree. A message says what is wrong, where, and what to do."""

from __future__ import annotations


class AdinError(Exception):
    """Base of all errors raised by Adin.

    :param message: what is wrong and where.
    :param remedy: what the reader should do; appended to the message.
    """

    #: Whether the same call may succeed later without anybody changing anything.
    retryable = False

    def __init__(self, message: str, remedy: str = "") -> None:
        self.remedy = remedy
        super().__init__(f"{message} {remedy}".strip())


class ConfigError(AdinError):
    """A setting, connection, problem file or run parameter is missing or wrong."""


class DataError(AdinError):
    """Data breaks a stated rule: a missing partition, a corrupt file, a changed schema, a failed quality gate."""


class TooLargeError(DataError):
    """More is sent at once than is taken."""


class NotFoundError(AdinError):
    """A named thing (problem, view, dataset, model, version) does not exist."""


class ConflictError(AdinError):
    """Somebody else changed the thing first; read it again and decide anew."""


class RefusedError(AdinError):
    """A rule forbids the step: a gate, a freeze, a missing right.

    :param user: who asked, where they signed in, and :param token: public part of the token, where there is such a one.
    """

    def __init__(self, message: str, remedy: str = "", *, user: str = "", token: str = "") -> None:
        self.user, self.token = user, token
        super().__init__(message, remedy)


class SignInError(RefusedError):
    """Nobody known asks: the token is missing, wrong, expired or revoked."""


class ServiceError(AdinError):
    """A server is down, slow or answers with an error of its own."""

    retryable = True


class UnreachableError(ServiceError):
    """A server gave no answer, or said that it cannot answer now: nothing is known about what it was asked."""


class ModelError(AdinError):
    """A version of a model fails at what it is asked: its code, not the server's."""


class BusyError(AdinError):
    """Too much is asked for at the moment.

    :param after: whole seconds after which it may be tried again.
    """

    retryable = True

    def __init__(self, message: str, *, after: int) -> None:
        self.after = after
        super().__init__(message, f"Try again in {after} s.")


class OverloadError(BusyError):
    """Too much is asked for by all together, not by this caller."""


class RunFailedError(AdinError):
    """An external job ended badly: failed, cancelled or vanished.

    :param step: the first step that failed, where the job has steps.
    :param log: the end of that step's log.
    """

    def __init__(self, message: str, remedy: str = "", *, step: str = "", log: str = "") -> None:
        self.step = step
        self.log = log
        super().__init__(message, remedy)
