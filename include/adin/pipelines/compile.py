"""Compile the pipelines to the YAML that stands beside their source, or check that it is up to date."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path


def main() -> None:
    """Write each pipeline's YAML; with ``--check`` only compare, and exit 1 on a difference."""
    from kfp.compiler import Compiler

    from adin.pipelines import rollback, training

    stale = []
    for name, pipeline in (training.PIPELINES | {"rollback": rollback.rollback}).items():
        target = Path(__file__).with_name(f"{name}.yaml")
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / target.name
            Compiler().compile(pipeline, str(made))
            text = made.read_text()
        if "--check" not in sys.argv:
            target.write_text(text)
        elif not target.is_file() or target.read_text() != text:
            stale.append(target.name)
    if stale:
        sys.exit(f"{', '.join(stale)} differ from their source. Run `python -m adin.pipelines.compile`.")


if __name__ == "__main__":
    main()
