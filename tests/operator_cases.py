"""What an operator's life may meet, and which of it makes no sense for which operator, with the reason."""

from __future__ import annotations

#: Case, and its title in the matrix.
CASES = {
    "fresh": "fresh",
    "retry": "retry",
    "killed_unstored": "worker killed after submit, before the id is stored",
    "reply_lost": "reply lost after submit",
    "already_done": "already done",
    "failed_outside": "failed outside",
    "cancelled_outside": "cancelled outside",
    "vanished": "vanished",
    "http_401": "401",
    "http_429": "429",
    "http_500": "500",
    "hang": "hang",
    "down_up": "server down, then up",
    "kill_sync": "kill while sync",
    "kill_deferred": "kill while deferred",
    "triggerer_restart": "triggerer restart",
    "clear": "clear against retry",
    "twice": "backfill twice",
}

_ONE_REQUEST = "The work is one request whose answer is its end: no job goes on elsewhere that could end otherwise."
_NEVER_WAITS = "Never deferred: the work is over in seconds, or, in ClickHouse, lives with its request."
_NO_JOB_LEFT = "A query that is gone has ended its request with an error; that is the case before."
_IN_PROCESS = "The work is a child of the task's process and ends with it; nothing goes on elsewhere."
_MANY_SERVERS = (
    "Talks to HDFS, metastore, Redis or the model server, not to one HTTP API: see the tests of its clients."
)
_ONLY_DEFERS_ELSEWHERE = "Never deferred: with a local or client-mode master the job is a child of the task."

_WORK = dict.fromkeys(("failed_outside", "cancelled_outside", "vanished"), _ONE_REQUEST) | dict.fromkeys(
    ("kill_deferred", "triggerer_restart"), _NEVER_WAITS
)
_ON_THE_STACK = (
    dict.fromkeys(("killed_unstored", "reply_lost", "failed_outside", "cancelled_outside", "vanished"), _IN_PROCESS)
    | dict.fromkeys(("http_401", "http_429", "http_500", "hang", "down_up"), _MANY_SERVERS)
    | dict.fromkeys(("kill_deferred", "triggerer_restart"), _ONLY_DEFERS_ELSEWHERE)
)

_BY_FOLLOWING = (
    "Deploys by following the log, whose every step may be killed and repeated: tests/integration/test_control.py."
)
_KILLED_LIKE_INGEST = "Its Spark job is started and killed by the same code as SparkHiveIngest's."
_ANOTHER_KEY = "New work is work under another key, as that of another run: the last row."

#: Operator, and the cases that are not run for it.
ABSENT: dict[str, dict[str, str]] = {
    "KfpRun": {},
    "KfpRetry": {},
    "LakefsMerge": _WORK,
    "LakefsTag": _WORK,
    "LakefsRevert": _WORK,
    "ClickHouseLoad": {"vanished": _NO_JOB_LEFT, "kill_deferred": _NEVER_WAITS, "triggerer_restart": _NEVER_WAITS},
    "AmversionPromote": _WORK,
    "InferenceService": {},
    "SparkOnKubernetes": {},
    "KserveDeploy": _ON_THE_STACK | dict.fromkeys(("retry", "already_done", "kill_sync", "clear"), _BY_FOLLOWING),
    "SparkHiveIngest": _ON_THE_STACK | {"clear": _ANOTHER_KEY},
    "FeastApply": _ON_THE_STACK,
    "FeastMaterialize": _ON_THE_STACK,
    "BuildDataset": _ON_THE_STACK | {"kill_sync": _KILLED_LIKE_INGEST},
}
