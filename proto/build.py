"""Build hook: compiles every contract under proto/ into libs/, where path = package = import.

Nothing it writes is committed. `loom/v1/contracts.binpb` keeps the comments; the modules do not.
`buf/validate` has no Python module for google.protobuf in its own wheel, only a descriptor, so its
module is generated beside ours.
"""

import importlib.resources
import sys
import tempfile
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).resolve().parent.parent
GENERATED = ("loom/v1", "inference", "buf")


def rules_descriptor_set() -> bytes:
    """protovalidate's own contract and what it imports, as a serialized FileDescriptorSet."""
    from google.protobuf import (
        descriptor_pb2,
        duration_pb2,
        field_mask_pb2,
        timestamp_pb2,
    )
    from protovalidate._gen.buf.validate import validate_pb

    files = descriptor_pb2.FileDescriptorSet()
    for module in (descriptor_pb2, duration_pb2, field_mask_pb2, timestamp_pb2):
        files.file.add().ParseFromString(module.DESCRIPTOR.serialized_pb)
    files.file.add().ParseFromString(validate_pb.desc().proto.to_binary())
    return files.SerializeToString()


def compile_contracts(root: Path = ROOT) -> None:
    """Write `_pb2.py` and `.pyi` for all contracts; raises SystemExit with protoc's message."""
    import google.api
    import grpc_tools
    from grpc_tools import protoc

    includes = [
        root / "proto",
        Path(next(iter(google.api.__path__))).parent.parent,
        Path(str(importlib.resources.files(grpc_tools))) / "_proto",
    ]
    contracts = sorted(
        str(path.relative_to(root / "proto")) for path in (root / "proto").rglob("*.proto")
    )
    with tempfile.TemporaryDirectory(dir=root / "libs", prefix=".contracts-") as folder:
        rules = Path(folder) / "rules.binpb"
        rules.write_bytes(rules_descriptor_set())
        made = Path(folder) / "made"
        made.mkdir()
        status = protoc.main(
            [
                "protoc",
                *(f"-I{include}" for include in includes),
                f"--descriptor_set_in={rules}",
                f"--python_out={made}",
                f"--pyi_out={made}",
                f"--descriptor_set_out={Path(folder) / 'commented.binpb'}",
                "--include_source_info",
                *contracts,
                "buf/validate/validate.proto",
            ]
        )
        if status != 0:
            sys.exit("the contracts under proto/ do not compile: see the lines above")
        commented = (Path(folder) / "commented.binpb").read_bytes()
        (made / "loom" / "v1" / "contracts.binpb").write_bytes(ours(commented))
        for module in sorted(made.rglob("*_pb2.py")):
            for package in module.relative_to(made).parents[:-1]:
                (made / package / "__init__.py").touch()
        install(made, root / "libs")


def ours(commented: bytes) -> bytes:
    """Our own contracts with their comments, which the Python modules lack; for OpenAPI."""
    from google.protobuf import descriptor_pb2

    files = descriptor_pb2.FileDescriptorSet.FromString(commented)
    kept = [file for file in files.file if file.name.startswith("loom/")]
    return descriptor_pb2.FileDescriptorSet(file=kept).SerializeToString(deterministic=True)


def install(made: Path, libs: Path) -> None:
    """Move what changed into place, file by file, so that a running process never misses one."""
    fresh = {path.relative_to(made) for path in made.rglob("*") if path.is_file()}
    fresh.discard(Path("loom/__init__.py"))
    for path in sorted(fresh):
        target = libs / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists() or target.read_bytes() != (made / path).read_bytes():
            (made / path).replace(target)
    for name in GENERATED:
        for stale in (libs / name).rglob("*.py*"):
            if "__pycache__" not in stale.parts and stale.relative_to(libs) not in fresh:
                stale.unlink()


class ContractsHook(BuildHookInterface):  # type: ignore[type-arg]
    """Runs before wheel and editable builds alike."""

    def initialize(self, version: str, build_data: dict[str, object]) -> None:
        """Compile before anything is packed."""
        compile_contracts()


if __name__ == "__main__":
    compile_contracts()
