"""Dataset versions in lakeFS, and the steps of its branches: merge, tag, revert."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from adin.connections import connection
from adin.window import Window
from airflow.sdk import BaseOperatorLink

from operators.external_run import Address, WorkOperator


class CommitLink(BaseOperatorLink):
    """The button on a task's page that leads to its commit in lakeFS."""

    name = "lakeFS commit"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the address of the commit's page."""
        if not operator.commit:
            return ""
        conn = connection("lakefs")
        return f"{conn.url}/repositories/{conn.schema}/commits/{operator.commit}"


def address(name: str) -> Address:
    """Return a branch, tag or commit as OpenLineage has it."""
    conn = connection("lakefs")
    return f"lakefs://{conn.host}:{conn.port}", f"{conn.schema}/{name}"


class BuildDatasetOperator(WorkOperator):
    """Join a problem's training set point in time and freeze it as one lakeFS commit.

    The same inputs give the same commit, whether the task is retried, cleared or run for another reason.

    :param problem: problem (templated).
    :param window: ``start/end`` of the events, UTC (templated).
    :returns: ``commit``, ``window`` and ``rows`` by split; the facts of its asset event too.
    :raises DataError: no features or labels for the window, or the counts of a step disagree.
    :raises ServiceError: a server does not answer, or features were published meanwhile; the next try goes on.
    """

    template_fields: Sequence[str] = (*WorkOperator.template_fields, "problem", "window")
    operator_extra_links = (CommitLink(),)
    connections: ClassVar[tuple[str, ...] | None] = ("spark", "feast", "s3", "lakefs")

    def __init__(self, *, problem: str, window: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.problem = problem
        self.window = window
        self.commit = ""

    def asked(self) -> dict[str, Any]:
        """Return problem and window."""
        return {"problem": self.problem, "window": self.window}

    def plan(self, key: str) -> dict[str, Any]:
        """Return the version that is there already for these inputs, None if one would be built."""
        from adin import datasets
        from adin.datasets.versions import find, inputs_hash

        digest = inputs_hash(self.problem, Window.from_text(self.window))
        found = find(self.problem, digest)
        return {"inputs": digest, "commit": found.commit if found else None, **self.asked()} | {
            "newest": next((each.commit for each in datasets.versions(self.problem)), None)
        }

    def lineage(self) -> tuple[list[Address], list[Address]]:
        """Return the Hive tables the problem's features and label come from, and the commit."""
        from adin.features import repo
        from adin.problem import problem

        spec = problem(self.problem)
        hive = str(connection("spark").extra["metastore"])
        tables = {view.table for view in repo.service(spec.domain, spec.features).views} | {spec.label.table}
        return [(hive, table) for table in sorted(tables)], [address(self.commit)] if self.commit else []

    def work(self, key: str, context: Any) -> dict[str, Any]:
        """Build, or find."""
        from adin import datasets

        found = datasets.build(self.problem, Window.from_text(self.window), key, progress=self.log.info)
        self.commit = found.commit
        return {"commit": found.commit, "window": str(found.window), "rows": found.rows}


class LakefsMergeOperator(WorkOperator):
    """Merge a branch, tag or commit of lakeFS into a branch, once.

    The merge commit carries the run key; a retry finds it, also where the first try never heard the answer. What was
    merged already changes nothing.

    :param source: branch, tag or commit to merge (templated).
    :param target: branch that gets it (templated).
    :param message: of the merge commit. Default says what was merged (templated).
    :param strategy: who wins where both changed a path: ``source-wins``, ``dest-wins``. Default empty: the merge is
        refused (templated).
    :returns: ``commit``, the target's head or merge commit, and ``changed``.
    :raises ConflictError: both changed the same paths, and no strategy is given.
    :raises NotFoundError: there is no such branch, tag or commit.
    :raises ServiceError: lakeFS does not answer; the next try finds what was done.
    """

    template_fields: Sequence[str] = (*WorkOperator.template_fields, "source", "target", "message", "strategy")
    operator_extra_links = (CommitLink(),)
    connections: ClassVar[tuple[str, ...] | None] = ("lakefs",)

    def __init__(self, *, source: str, target: str, message: str = "", strategy: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.source = source
        self.target = target
        self.message = message
        self.strategy = strategy
        self.commit = ""

    def asked(self) -> dict[str, Any]:
        """Return source and target."""
        return {"source": self.source, "target": self.target}

    def plan(self, key: str) -> dict[str, Any]:
        """Return what the merge would change."""
        from adin.datasets.lake import Lake

        return {**self.asked(), "changes": Lake().diff(self.source, self.target)}

    def lineage(self) -> tuple[list[Address], list[Address]]:
        """Return source and target."""
        return [address(self.source)], [address(self.target)]

    def work(self, key: str, context: Any) -> dict[str, Any]:
        """Merge, or find."""
        from adin.datasets.lake import Lake

        message = self.message or f"Merge {self.source} into {self.target}"
        self.commit, changed = Lake().merge(self.source, self.target, key=key, message=message, strategy=self.strategy)
        return {"commit": self.commit, "changed": changed, **self.asked()}


class LakefsTagOperator(WorkOperator):
    """Give a commit of lakeFS a name that never moves.

    :param tag: the name (templated).
    :param ref: branch, tag or commit that gets it (templated).
    :returns: ``tag`` and ``commit``.
    :raises ConflictError: the name stands for another commit.
    :raises NotFoundError: there is no such branch, tag or commit.
    :raises ServiceError: lakeFS does not answer; the next try goes on.
    """

    template_fields: Sequence[str] = (*WorkOperator.template_fields, "tag", "ref")
    operator_extra_links = (CommitLink(),)
    connections: ClassVar[tuple[str, ...] | None] = ("lakefs",)

    def __init__(self, *, tag: str, ref: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tag = tag
        self.ref = ref
        self.commit = ""

    def asked(self) -> dict[str, Any]:
        """Return tag and what gets it."""
        return {"tag": self.tag, "ref": self.ref}

    def plan(self, key: str) -> dict[str, Any]:
        """Return which commit would get the name, and which has it."""
        from adin.datasets.lake import Lake

        lake = Lake()
        return {**self.asked(), "commit": lake.resolve(self.ref), "now": lake.tagged(self.tag)}

    def lineage(self) -> tuple[list[Address], list[Address]]:
        """Return the commit and its name."""
        return [address(self.ref)], [address(self.tag)]

    def work(self, key: str, context: Any) -> dict[str, Any]:
        """Tag."""
        from adin.datasets.lake import Lake

        self.commit = Lake().tag(self.tag, self.ref)
        return {"tag": self.tag, "commit": self.commit}


class LakefsRevertOperator(WorkOperator):
    """Undo what one commit changed on a branch of lakeFS, by another commit, once.

    :param branch: the branch (templated).
    :param ref: commit to undo; of a merge, what came in by it (templated).
    :param message: of the new commit. Default says what was undone (templated).
    :returns: ``commit``, the new one, and ``branch``.
    :raises ConflictError: later commits changed the same paths.
    :raises NotFoundError: there is no such branch or commit.
    :raises ServiceError: lakeFS does not answer; the next try finds what was done.
    """

    template_fields: Sequence[str] = (*WorkOperator.template_fields, "branch", "ref", "message")
    operator_extra_links = (CommitLink(),)
    connections: ClassVar[tuple[str, ...] | None] = ("lakefs",)

    def __init__(self, *, branch: str, ref: str, message: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.branch = branch
        self.ref = ref
        self.message = message
        self.commit = ""

    def asked(self) -> dict[str, Any]:
        """Return the branch and what is undone on it."""
        return {"branch": self.branch, "ref": self.ref}

    def plan(self, key: str) -> dict[str, Any]:
        """Return what the commit changed: that would be undone."""
        from adin.datasets.lake import Lake

        lake = Lake()
        commit = lake.resolve(self.ref)
        return {**self.asked(), "commit": commit, "undone": lake.diff(commit, f"{commit}~1")}

    def lineage(self) -> tuple[list[Address], list[Address]]:
        """Return the branch, as it was and as it is."""
        return [address(self.branch)], [address(self.commit)] if self.commit else []

    def work(self, key: str, context: Any) -> dict[str, Any]:
        """Revert, or find."""
        from adin.datasets.lake import Lake

        message = self.message or f"Revert {self.ref}"
        self.commit = Lake().revert(self.branch, self.ref, key=key, message=message)
        return {"commit": self.commit, **self.asked()}
