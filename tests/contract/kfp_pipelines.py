"""Small pipelines that leave marks, so that tests see what ran and not only what was said."""

from kfp import dsl

PYTHON = "python:3.11"


@dsl.component(base_image=PYTHON, install_kfp_package=False)
def passes(score: float) -> bool:
    print(f"score {score}")
    return score > 0.5


@dsl.component(base_image=PYTHON, install_kfp_package=False)
def mark(path: str, text: str) -> str:
    with open(path, "a") as file:
        file.write(text + "\n")
    return text


@dsl.component(base_image=PYTHON, install_kfp_package=False)
def sleeps(path: str, seconds: int) -> None:
    import subprocess
    import time

    with open(path, "a") as file:
        file.write("began\n")
    # a grandchild in a session of its own: it must go with the run as well
    subprocess.Popen(["sleep", str(seconds)], start_new_session=True)
    time.sleep(seconds)
    with open(path, "a") as file:
        file.write("ended\n")


@dsl.component(base_image=PYTHON, install_kfp_package=False)
def meets(path: str, me: str, other: str) -> None:
    """Ends only if the other runs at the same time."""
    import os
    import time

    open(f"{path}.{me}", "w").close()
    end = time.monotonic() + 60
    while not os.path.exists(f"{path}.{other}"):
        if time.monotonic() > end:
            raise TimeoutError(f"{other} did not start while {me} ran")
        time.sleep(0.05)


@dsl.component(base_image=PYTHON, install_kfp_package=False)
def needs(path: str) -> None:
    import os

    if not os.path.exists(path):
        raise FileNotFoundError(f"{path} is not there yet")


@dsl.component(base_image=PYTHON, install_kfp_package=False)
def not_a_number() -> float:
    return float("nan")


@dsl.component(base_image=PYTHON)
def default_component(text: str) -> str:
    return text


@dsl.component(base_image=PYTHON, packages_to_install=["no-such-package-anywhere"])
def needs_a_package() -> None:
    pass


@dsl.component(base_image=PYTHON, install_kfp_package=False)
def types(whole: int, real: float, yes: bool, some: list, facts: dict, path: str) -> None:
    with open(path, "w") as file:
        file.write(repr([whole, real, yes, some, facts]))


@dsl.pipeline(name="gated")
def gated(score: float, path: str) -> None:
    gate = passes(score=score)
    with dsl.If(gate.output == True):  # noqa: E712
        mark(path=path, text="deploy")
    with dsl.Else():
        mark(path=path, text="hold")


@dsl.pipeline(name="slow")
def slow(path: str, seconds: int = 300) -> None:
    sleeps(path=path, seconds=seconds)


@dsl.component(base_image=PYTHON, install_kfp_package=False)
def uses(path: str, megabytes: int, by_child: bool) -> None:
    import os
    import subprocess
    import sys

    with open(path, "w") as file:
        file.write(str(len(os.sched_getaffinity(0))))
    hold = f"import time; kept = bytearray(b'1') * {megabytes * 1_000_000}; time.sleep(2)"
    if by_child:
        subprocess.run([sys.executable, "-c", hold], check=True)
    else:
        exec(hold)
    with open(path, "a") as file:
        file.write(" done")


@dsl.pipeline(name="limited")
def limited(path: str, megabytes: int, by_child: bool = False) -> None:
    uses(path=path, megabytes=megabytes, by_child=by_child).set_cpu_limit("1").set_memory_limit("500M")


@dsl.pipeline(name="asked")
def asked(path: str, megabytes: int, cpu: str = "1", memory: str = "500Mi") -> None:
    uses(path=path, megabytes=megabytes, by_child=False).set_cpu_limit(cpu).set_memory_limit(memory)


@dsl.pipeline(name="quick")
def quick(path: str, text: str = "ran") -> str:
    return mark(path=path, text=text).output


@dsl.pipeline(name="patient")
def patient(path: str, awaited: str) -> None:
    first = mark(path=path, text="first")
    second = needs(path=awaited).after(first)
    mark(path=path, text="third").after(second)


@dsl.pipeline(name="awaits")
def awaits(path: str) -> None:
    needs(path=path)


@dsl.component(base_image=PYTHON, install_kfp_package=False)
def needs_and_lasts(path: str) -> None:
    import time

    with open(path) as file:
        time.sleep(int(file.read() or 0))


@dsl.pipeline(name="awaits_long")
def awaits_long(path: str) -> None:
    needs_and_lasts(path=path)


@dsl.pipeline(name="nan")
def nan(path: str) -> None:
    with dsl.If(not_a_number().output > 0.5):
        mark(path=path, text="deploy")
    with dsl.Else():
        mark(path=path, text="hold")


@dsl.pipeline(name="defaults")
def defaults() -> None:
    default_component(text="ran")


@dsl.pipeline(name="greedy")
def greedy() -> None:
    needs_a_package()


@dsl.pipeline(name="typed")
def typed(whole: int, real: float, yes: bool, some: list, facts: dict, path: str) -> None:
    types(whole=whole, real=real, yes=yes, some=some, facts=facts, path=path)


@dsl.pipeline(name="looped")
def looped(path: str, items: list = ["a", "b", "c"]) -> None:  # noqa: B006
    with dsl.ParallelFor(items) as item:
        mark(path=path, text=item)


@dsl.pipeline(name="side-by-side")
def side_by_side(path: str) -> None:
    first = meets(path=path, me="a", other="b")
    second = meets(path=path, me="b", other="a")
    mark(path=path, text="both").after(first, second)


@dsl.pipeline(name="side-by-side-in-a-branch")
def side_by_side_in_a_branch(path: str) -> None:
    checked = passes(score=0.9)
    with dsl.If(checked.output == True):  # noqa: E712 - kfp builds the condition from ==
        first = meets(path=path, me="a", other="b")
        second = meets(path=path, me="b", other="a")
        mark(path=path, text="both").after(first, second)


@dsl.pipeline(name="one-fails")
def one_fails(path: str) -> None:
    needs(path="/nowhere/at/all")
    first = mark(path=path, text="first")
    mark(path=path, text="second").after(first)


@dsl.pipeline(name="tidy")
def tidy(path: str) -> None:
    @dsl.component(base_image=PYTHON, install_kfp_package=False)
    def tidy_up(path: str, status: dsl.PipelineTaskFinalStatus):
        with open(path, "a") as file:
            file.write(f"tidied after {status.state}\n")

    with dsl.ExitHandler(tidy_up(path=path)):
        needs(path="/nowhere/at/all")
