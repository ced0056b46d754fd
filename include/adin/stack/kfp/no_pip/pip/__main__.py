"""Answer `pip install` in a step of local KFP: what is asked for must already be in the ML environment.

A step that changed the environment would change every later run, and what runs would no longer be what is locked.
"""

import sys
from importlib.metadata import PackageNotFoundError, version

from packaging.requirements import InvalidRequirement, Requirement


def missing(text: str) -> bool:
    """Return whether the environment lacks a requirement."""
    wanted = Requirement(text)
    if wanted.marker and not wanted.marker.evaluate():
        return False
    try:
        return not wanted.specifier.contains(version(wanted.name), prereleases=True)
    except PackageNotFoundError:
        return True


def main(arguments: list[str]) -> int:
    """Check the requirements of an install command."""
    if arguments[:1] != ["install"]:
        sys.stderr.write("Steps of local KFP have no pip.\n")
        return 1
    try:
        lacking = [text for text in arguments[1:] if not text.startswith("-") and missing(text)]
    except InvalidRequirement as error:
        sys.stderr.write(f"Local KFP cannot check the requirement: {error}\n")
        return 1
    if lacking:
        sys.stderr.write(
            f"Not in the ML environment: {', '.join(lacking)}. "
            "Local KFP installs nothing; add it to requirements-ml.txt and lock.\n"
        )
        return 1
    return 0


sys.exit(main(sys.argv[1:]))
