"""What a reader relies on and no linter knows: names, comments, sizes, pins, nothing dead."""

import ast
import math
import re
import subprocess
import tomllib
from pathlib import Path

import grimp

from loom.v1 import common_pb2

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LINES_MAX = 400
LINES_NINE_IN_TEN = 250
WHOLE = ("loomos_verify.py",)
"""Files whose point is to be one file."""
WORDS = ("TO" + "DO", "FIX" + "ME", "XX" + "X")
HOSTS = tuple(
    ".".join(parts)
    for parts in (
        ("pypi", "org"), ("pythonhosted", "org"), ("maven", "org"), ("npmjs", "org"),
        ("docker", "io"), ("quay", "io"), ("ghcr", "io"),
    )
)  # fmt: skip
PATHS = ("/" + "work/", "/" + "root/", "/" + "home/", "/tmp/" + "loom")
BANNER = re.compile(r"^\s*(#|//)\s*[-=*#~]{4,}")
PURE = ("state", "decide", "evolve", "react", "project")


def files(*suffixes: str) -> list[Path]:
    """Every file of the repository, tracked or about to be, with one of these suffixes."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard", "-z"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    found = [ROOT / name for name in sorted(listed.split("\0")) if name]
    return [f for f in found if f.is_file() and (not suffixes or f.suffix in suffixes)]


def test_no_module_is_dead() -> None:
    graph = grimp.build_graph("loom", "loomos", include_external_packages=False, cache_dir=None)
    text = "\n".join(f.read_text() for f in files(".py", ".toml", ".yml", ".yaml"))
    dead = []
    for module in sorted(graph.modules):
        if module.startswith("loom.v1") or graph.find_children(module):
            continue
        last = module.rpartition(".")[2]
        started = last in ("main", "__main__") or f'{module}"' in text or f"{module}:" in text
        if not started and not graph.find_modules_that_directly_import(module):
            dead.append(module)
    assert not dead, f"nobody imports or starts: {dead}"


def test_no_data_file_is_dead() -> None:
    sources = [f for f in files() if f.suffix in (".py", ".toml", ".md", ".html", ".js", "")]
    text = "\n".join(f.read_text() for f in sources if f.name != "test_tidy.py")
    for file in files():
        inside = file.relative_to(ROOT).parts[0] in ("libs", "services", "policies", "examples")
        if inside and file.suffix != ".py":
            ways = (file.name, f"*{file.suffix}", f'"{file.suffix}"', f"{file.parent.name}/*")
            named = any(way in text for way in ways)
            assert named, f"{file.relative_to(ROOT)} is mentioned nowhere"


def test_python_files_stay_short() -> None:
    lengths = {f: len(f.read_text().splitlines()) for f in files(".py")}
    long = {
        str(f.relative_to(ROOT)): n
        for f, n in lengths.items()
        if n > LINES_MAX and f.name not in WHOLE
    }
    assert not long, f"more than {LINES_MAX} lines: {long}"
    ordered = sorted(lengths.values())
    assert ordered[math.ceil(len(ordered) * 0.9) - 1] <= LINES_NINE_IN_TEN


def test_nothing_is_left_to_do_and_no_machine_is_named() -> None:
    faults = []
    for file in files():
        if file.suffix in (".lock", ".png", ".bin"):
            continue
        for number, line in enumerate(file.read_text().splitlines(), start=1):
            found = [w for w in WORDS if re.search(rf"\b{w}\b", line)]
            found += [name for name in HOSTS if name in line]
            found += [path for path in PATHS if re.search(r"(?<![\w.>}*…])" + path, line)]
            if BANNER.match(line) and file.suffix in (".py", ".proto", ".sql", ".cedar", ".c"):
                found.append("a banner")
            faults += [f"{file.relative_to(ROOT)}:{number}: {what}" for what in found]
    assert not faults, "\n".join(faults)


def test_the_verbs_ask_no_clock() -> None:
    for file in files(".py"):
        place = file.relative_to(ROOT).parts
        verb = place[3].removesuffix(".py") if len(place) > 3 else ""
        if place[:2] == ("services", "loomos") and verb in PURE:
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Attribute) and node.attr in ("now", "utcnow", "today"):
                    raise AssertionError(f"{file}:{node.lineno} asks a clock; time is an input")


def test_the_compiler_is_pinned_to_what_the_runtime_accepts() -> None:
    needed = PROJECT["build-system"]["requires"]
    used = PROJECT["project"]["dependencies"]
    tools = {requirement for requirement in (*needed, *used) if requirement.startswith("grpcio-")}
    compiler = [r for r in needed if r.startswith("grpcio-tools")]
    assert len(compiler) == 1 and compiler[0] in used, "one pin of grpcio-tools, said twice alike"
    pin = re.fullmatch(r"grpcio-tools>=(\d+\.\d+)[\d.]*,<(\d+\.\d+)", compiler[0])
    assert pin, f"{compiler[0]}: a floor and the next minor are wanted"
    floor, ceiling = pin.groups()
    assert minor(ceiling) == minor(floor) + 1, "grpcio-tools is pinned to one minor version"
    assert all(f">={floor}" in tool for tool in tools), "grpcio's parts move together"
    generated = Path(common_pb2.__file__).read_text()
    emitted = re.search(r"Protobuf Python Version: (\d+)\.(\d+)\.", generated)
    runtime = next(r for r in used if r.startswith("protobuf>="))
    lowest = re.match(r"protobuf>=(\d+)\.(\d+)", runtime)
    assert emitted and lowest
    assert tuple(map(int, lowest.groups())) >= tuple(map(int, emitted.groups())), (
        f"{runtime} allows a runtime older than the generated code ({emitted.group()})"
    )


def minor(version: str) -> int:
    return int(version.split(".")[1])


def test_a_decision_record_has_its_four_parts_and_is_there_when_cited() -> None:
    records = {f.name[:4]: f.read_text() for f in files(".md") if f.parent.name == "adr"}
    for number, text in records.items():
        for part in ("Status", "Context", "Decision", "Consequences"):
            assert f"\n## {part}\n" in text, f"ADR {number} has no {part}"
    for file in files(".py", ".proto", ".md", ".toml", ".sql"):
        for cited in re.findall(r"(?:ADR |docs/adr/)(\d{1,4})\b", file.read_text()):
            assert cited.zfill(4) in records, f"{file.relative_to(ROOT)} cites ADR {cited}"
