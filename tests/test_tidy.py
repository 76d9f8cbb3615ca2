"""What a reader relies on and no linter knows: names, comments, sizes, pins, nothing dead."""

import ast
import importlib
import importlib.util
import math
import pkgutil
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import Descriptor

import loom.v1
from loom.v1 import common_pb2

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PARTICIPLES = (
    "Begun", "Bound", "Broken", "Built", "Done", "Drawn", "Driven", "Found", "Frozen", "Given",
    "Held", "Kept", "Known", "Left", "Lost", "Made", "Met", "Paid", "Put", "Read", "Run", "Sent",
    "Set", "Shown", "Shut", "Sold", "Spent", "Split", "Stuck", "Swept", "Taken", "Told", "Won",
    "Written",
)  # fmt: skip
"""Past participles that do not end in -ed."""
LINES_MAX = 400
LINES_NINE_IN_TEN = 250
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


def messages(descriptors: list[Descriptor]) -> Iterator[Descriptor]:
    for descriptor in descriptors:
        yield descriptor
        yield from messages(list(descriptor.nested_types))


def contracts() -> list:
    """Every compiled contract."""
    names = [m.name for m in pkgutil.iter_modules(loom.v1.__path__) if m.name.endswith("_pb2")]
    assert names, "no compiled contract: is the environment in sync?"
    return [importlib.import_module(f"loom.v1.{name}") for name in names]


def events() -> list[Descriptor]:
    return [
        message
        for contract in contracts()
        for message in messages(list(contract.DESCRIPTOR.message_types_by_name.values()))
        if message.GetOptions().HasExtension(common_pb2.event)
    ]


@pytest.mark.parametrize("event", events(), ids=lambda event: event.name)
def test_an_event_is_named_in_the_past_tense(event: Descriptor) -> None:
    last = re.findall(r"[A-Z][a-z0-9]*", event.name)[-1]
    assert last.endswith("ed") or last in PARTICIPLES, f"{event.full_name}: noun + past participle"


@pytest.mark.parametrize("event", events(), ids=lambda event: event.name)
def test_field_1_of_an_event_names_its_stream(event: Descriptor) -> None:
    first = event.fields_by_number.get(1)
    assert first is not None, f"{event.full_name} has no field 1"
    assert first.name.endswith("_id"), f"{event.full_name}.{first.name} is no stream's id"
    assert first.type == first.TYPE_STRING


def test_field_1_of_a_command_names_a_stream_or_shard() -> None:
    for contract in contracts():
        for service in contract.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                if method.output_type.name == "Receipt":
                    first = method.input_type.fields_by_number.get(1)
                    assert first is not None, f"{method.full_name}: its request has no field 1"
                    assert first.name.endswith("_id"), f"{first.full_name} names no stream"


def test_everything_in_a_contract_is_commented(tmp_path: Path) -> None:
    bare = [name for file in described(tmp_path) for name in uncommented(file)]
    assert not bare, f"without a comment: {bare}"


def described(folder: Path) -> list[descriptor_pb2.FileDescriptorProto]:
    """Our contracts with their comments, which generated code does not keep."""
    spec = importlib.util.spec_from_file_location("contracts_build", ROOT / "proto" / "build.py")
    assert spec is not None and spec.loader is not None
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    import google.api
    import grpc_tools
    from grpc_tools import protoc

    (folder / "rules").write_bytes(build.rules_descriptor_set())
    names = [
        str(f.relative_to(ROOT / "proto"))
        for f in files(".proto")
        if ROOT / "proto" / "loom" in f.parents
    ]
    includes = [
        ROOT / "proto",
        Path(next(iter(google.api.__path__))).parent.parent,
        Path(next(iter(grpc_tools.__path__))) / "_proto",
    ]
    status = protoc.main(
        [
            "protoc",
            *(f"-I{include}" for include in includes),
            f"--descriptor_set_in={folder / 'rules'}",
            "--include_source_info",
            f"--descriptor_set_out={folder / 'described'}",
            *names,
        ]
    )
    assert status == 0
    found = descriptor_pb2.FileDescriptorSet.FromString((folder / "described").read_bytes())
    return list(found.file)


def uncommented(file: descriptor_pb2.FileDescriptorProto) -> Iterator[str]:
    """Names of the messages, fields, enums, values, services and RPCs without a comment."""
    commented = {
        tuple(place.path)
        for place in file.source_code_info.location
        if place.leading_comments.strip() or place.trailing_comments.strip()
    }
    for place in file.source_code_info.location:
        path = tuple(place.path)
        declared = len(path) % 2 == 0 and path[:1] != () and names_a_thing(path)
        if declared and path not in commented:
            yield f"{file.name}:{place.span[0] + 1}"


def names_a_thing(path: tuple[int, ...]) -> bool:
    """Whether a source path is that of a declaration: protobuf's own field numbers, by depth."""
    inside: dict[int | None, dict[int, int | None]] = {
        4: {2: None, 3: 4, 4: 5},  # in a message: fields, messages, enums
        5: {2: None},  # in an enum: values
        6: {2: None},  # in a service: RPCs
    }
    kind: int | None = path[0]
    if kind not in inside:
        return False
    for number in path[2::2]:
        if number not in inside.get(kind, {}):
            return False
        kind = inside[kind][number]
    return True


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
    long = {str(f.relative_to(ROOT)): n for f, n in lengths.items() if n > LINES_MAX}
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
