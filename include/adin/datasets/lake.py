"""lakeFS by its API: the few calls a dataset version needs, each with timeouts and errors of ours."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

from adin.connections import Connection, connection
from adin.errors import AdinError, ConfigError, ConflictError, NotFoundError, ServiceError
from adin.limits import Limits, guarded
from adin.settings import settings

#: Branches of builds and of experiments, and tags of versions that gave up their files, begin so.
BUILD, TRY, EXPIRED = "build-", "try-", "expired-"
#: Key of a commit's metadata under which stands the work that made it.
RUN_KEY = "adin_run_key"
_REVERTS = "adin_reverts"
#: Commits in which a repeated piece of work looks for its own.
_REMEMBERED = 1000
#: Seconds between looks for a commit whose request got no answer.
_LOOK_AGAIN = (0.2, 1, 3)
_ERRORS: dict[int, type[AdinError]] = {
    400: ConfigError,
    401: ConfigError,
    403: ConfigError,
    404: NotFoundError,
    410: NotFoundError,
    409: ConflictError,
    412: ConflictError,
}


class Lake:
    """One lakeFS repository.

    :param conn: the connection; default ``lakefs``.
    :raises ConfigError: no connection is declared, or it names no repository.
    """

    def __init__(self, conn: Connection | None = None) -> None:
        import lakefs_sdk
        from lakefs_sdk.client import LakeFSClient

        self.connection = conn or connection("lakefs")
        self._limits = Limits.of(self.connection)
        self.repository = self.connection.schema or settings().dataset_repository
        config = lakefs_sdk.Configuration(
            host=f"{self.connection.url}/api/v1", username=self.connection.login, password=self.connection.password
        )
        # only reads are repeated: a repeated commit or merge could act twice
        config.retries = self._limits.repeats()
        config.connection_pool_maxsize = self._limits.pool
        self._api = LakeFSClient(config)

    def _call(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        import lakefs_sdk
        import urllib3

        with guarded(self.connection):
            try:
                return method(*args, _request_timeout=self._limits.timeouts, **kwargs)
            except lakefs_sdk.ApiException as error:
                kind = _ERRORS.get(error.status or 0, ServiceError)
                what = f"lakeFS at {self.connection.url}: {error.status} {error.reason}: {_message(error)}"
                raise kind(what, "Check the connection lakefs." if error.status in (401, 403) else "") from None
            except urllib3.exceptions.HTTPError as error:
                raise ServiceError(f"lakeFS at {self.connection.url} does not answer: {error}.", "Is it up?") from None

    def create_branch(self, name: str, source: str) -> None:
        """Create a branch; :raises ConflictError: it exists."""
        from lakefs_sdk import BranchCreation

        self._call(self._api.branches_api.create_branch, self.repository, BranchCreation(name=name, source=source))

    def ensure_branch(self, name: str, source: str = "main") -> None:
        """Create a branch unless it exists."""
        try:
            self.create_branch(name, source)
        except ConflictError:
            return

    def delete_branch(self, name: str) -> None:
        """Delete a branch and what is staged on it; no error if it is gone."""
        try:
            self._call(self._api.branches_api.delete_branch, self.repository, name)
        except NotFoundError:
            return

    def branches(self, *, all_of_them: bool = False) -> list[str]:
        """Return the branches that hold the datasets of a problem, or really all, sorted."""
        found = self._pages(self._api.branches_api.list_branches)
        names = sorted(branch.id for branch in found)
        return (
            names if all_of_them else [name for name in names if name != "main" and not name.startswith((BUILD, TRY))]
        )

    def objects(self, ref: str, prefix: str = "") -> Iterator[Any]:
        """Yield the objects below a prefix at a branch or commit, sorted by path."""
        yield from self._pages(self._api.objects_api.list_objects, ref, prefix=prefix)

    def paths(self, ref: str, prefix: str = "") -> list[str]:
        """Return the paths below a prefix at a branch or commit, sorted."""
        return [entry.path for entry in self.objects(ref, prefix)]

    def storage(self) -> str:
        """Return where the repository keeps its objects, such as ``s3://lakefs/adin``."""
        return str(self._call(self._api.repositories_api.get_repository, self.repository).storage_namespace)

    def expire(self, commit: str) -> None:
        """Tag a commit as one whose files nobody needs; no error if it is tagged already."""
        from lakefs_sdk import TagCreation

        with suppress(ConflictError):
            self._call(self._api.tags_api.create_tag, self.repository, TagCreation(id=f"{EXPIRED}{commit}", ref=commit))

    def expired(self) -> set[str]:
        """Return the commits tagged as ones whose files nobody needs."""
        tags = self._pages(self._api.tags_api.list_tags, prefix=EXPIRED)
        return {str(tag.commit_id) for tag in tags}

    def delete(self, branch: str, paths: list[str]) -> None:
        """Delete objects of a branch, a thousand a call."""
        from lakefs_sdk import PathList

        for start in range(0, len(paths), 1000):
            batch = PathList(paths=paths[start : start + 1000])
            self._call(self._api.objects_api.delete_objects, self.repository, branch, batch)

    def upload(self, branch: str, path: str, content: bytes) -> None:
        """Write one object to a branch."""
        self._call(self._api.objects_api.upload_object, self.repository, branch, path, content=content)

    def read(self, ref: str, path: str) -> bytes:
        """Return the content of one object at a branch or commit."""
        return bytes(self._call(self._api.objects_api.get_object, self.repository, ref, path))

    def commit(self, branch: str, message: str, metadata: dict[str, str]) -> str:
        """Commit what is staged on a branch and return the commit id."""
        from lakefs_sdk import CommitCreation

        creation = CommitCreation(message=message, metadata=metadata)
        return str(self._call(self._api.commits_api.commit, self.repository, branch, creation).id)

    def squash(self, source: str, target: str, message: str, metadata: dict[str, str]) -> str:
        """Bring all changes of a branch into another as one commit and return its id.

        :raises ConflictError: the target changed the same paths since the source was branched off.
        """
        from lakefs_sdk import Merge

        merge = Merge(message=message, metadata=metadata, squash_merge=True)
        found = self._call(self._api.refs_api.merge_into_branch, self.repository, source, target, merge=merge)
        return str(found.reference)

    def diff(self, source: str, target: str) -> list[str]:
        """Return what a merge of a branch into another would change, as ``added path`` texts; at most a thousand."""
        page = self._call(self._api.refs_api.diff_refs, self.repository, target, source, amount=1000)
        return [f"{change.type} {change.path}" for change in page.results]

    def made_by(self, branch: str, key: str) -> str | None:
        """Return the commit a piece of work has made on a branch, None if it has made none."""
        log = islice(self.log(branch), _REMEMBERED)
        return next((str(commit.id) for commit in log if (commit.metadata or {}).get(RUN_KEY) == key), None)

    def merge(self, source: str, target: str, *, key: str, message: str, strategy: str = "") -> tuple[str, bool]:
        """Merge a branch, tag or commit into a branch; return the commit and whether anything changed.

        Under the same key it is done once. What was merged before changes nothing.

        :param strategy: who wins where both changed a path: ``source-wins`` or ``dest-wins``; empty: nobody.
        :raises ConflictError: both changed the same paths, and no strategy was given.
        """
        from lakefs_sdk import Merge

        if found := self.made_by(target, key):
            return found, True
        if not self.diff(source, target):
            return self.resolve(target), False
        merge = Merge(message=message, metadata={RUN_KEY: key}, strategy=strategy or None)

        def act() -> str:
            return str(
                self._call(self._api.refs_api.merge_into_branch, self.repository, source, target, merge=merge).reference
            )

        return self._once(target, key, act), True

    def revert(self, branch: str, ref: str, *, key: str, message: str) -> str:
        """Undo what one commit changed, by another on the branch, and return that. What is undone already stays so.

        :raises ConflictError: later commits changed the same paths.
        """
        from lakefs_sdk import CommitOverrides, RevertCreation

        if found := self.made_by(branch, key):
            return found
        commit = self._call(self._api.commits_api.get_commit, self.repository, ref)
        if found := self._reverted(branch, str(commit.id)):
            return found
        told = CommitOverrides(message=message, metadata={RUN_KEY: key, _REVERTS: str(commit.id)})
        # of a merge, the branch it went to is the first parent
        creation = RevertCreation(ref=commit.id, parent_number=min(len(commit.parents), 2) // 2, commit_overrides=told)

        def act() -> str:
            self._call(self._api.branches_api.revert_branch, self.repository, branch, creation)
            return self.made_by(branch, key) or self.resolve(branch)

        return self._once(branch, key, act)

    def tag(self, name: str, ref: str) -> str:
        """Give a commit a name that never moves, and return the commit; twice is as good as once.

        :raises ConflictError: the name stands for another commit.
        """
        from lakefs_sdk import TagCreation

        commit = self.resolve(ref)
        if self._stands(name, commit):
            return commit
        try:
            self._call(self._api.tags_api.create_tag, self.repository, TagCreation(id=name, ref=commit))
        except (ConflictError, ServiceError):
            if not self._stands(name, commit):
                raise
        return commit

    def _stands(self, name: str, commit: str) -> bool:
        found = self.tagged(name)
        if found not in (None, commit):
            raise ConflictError(f"Tag {name} stands for {str(found)[:12]}, not for {commit[:12]}.", "Choose another.")
        return found == commit

    def tagged(self, name: str) -> str | None:
        """Return the commit a tag stands for, None if there is no such tag."""
        try:
            return str(self._call(self._api.tags_api.get_tag, self.repository, name).commit_id)
        except NotFoundError:
            return None

    def _reverted(self, branch: str, commit: str) -> str | None:
        """Return the commit that undid another on a branch, unless it was undone in its turn."""
        undone: set[str] = set()
        for one in islice(self.log(branch), _REMEMBERED):
            reverts = (one.metadata or {}).get(_REVERTS)
            if reverts == commit and one.id not in undone:
                return str(one.id)
            undone.add(str(reverts))
        return None

    def _once(self, branch: str, key: str, act: Callable[[], str]) -> str:
        try:
            return act()
        except ServiceError:
            # the request may have arrived although its answer did not
            for pause in _LOOK_AGAIN:
                time.sleep(pause)
                if found := self.made_by(branch, key):
                    return found
            raise

    def import_objects(self, branch: str, source: str, destination: str) -> None:
        """Bring the objects below an S3 prefix onto a branch without copying them, as one commit.

        :param source: such as ``s3://bucket/prefix/``.
        :raises ServiceError: it is not done in time, or lakeFS could not read the source.
        """
        from lakefs_sdk import CommitCreation, ImportCreation, ImportLocation

        place = ImportLocation(type="common_prefix", path=source, destination=destination)
        asked = ImportCreation(paths=[place], commit=CommitCreation(message=f"Import {source}"))
        api = self._api.import_api
        job = self._call(api.import_start, self.repository, branch, asked).id
        end = time.monotonic() + settings().import_timeout
        while True:
            status = self._call(api.import_status, self.repository, branch, job)
            if status.error or time.monotonic() > end:
                what = status.error.message if status.error else f"not done after {settings().import_timeout:.0f} s"
                raise ServiceError(f"Import of {source} into lakeFS: {what}.", "See that lakeFS may read it.")
            if status.completed:
                return
            time.sleep(0.2)

    def log(self, ref: str, *, all_parents: bool = False) -> Iterator[Any]:
        """Yield the commits of a branch, newest first; none if there is no such branch.

        :param all_parents: also those that came in by merges.
        """
        try:
            yield from self._pages(self._api.refs_api.log_commits, ref, first_parent=not all_parents)
        except NotFoundError:
            return

    def metadata(self, ref: str) -> dict[str, str]:
        """Return the metadata of one commit; :raises NotFoundError: there is no such commit."""
        return dict(self._call(self._api.commits_api.get_commit, self.repository, ref).metadata or {})

    def _pages(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Iterator[Any]:
        after = ""
        while True:
            page = self._call(method, self.repository, *args, after=after, amount=1000, **kwargs)
            yield from page.results
            if not page.pagination.has_more:
                return
            after = page.pagination.next_offset

    def resolve(self, ref: str) -> str:
        """Return the full commit id of a branch, tag or shortened commit id."""
        return str(self._call(self._api.commits_api.get_commit, self.repository, ref).id)


def _message(error: Any) -> str:
    return str(error.body or "").strip()[:300]
