"""Generates the Python package `agentchat_proto` from the contract in `proto/`.

The wire package is `agentchat.v1`, and protoc names Python modules after it. That would put the
generated code into `agentchat`, which is the SDK, and protoc cannot emit relative imports. So the
code is generated into a temporary folder, its imports are rewritten to `agentchat_proto.v1`, and
the result is written to `gen/python/agentchat_proto/`. What goes over the wire keeps the name
`agentchat.v1`.

The tree is committed. `--check` generates again and fails when the committed tree differs.

The type stubs of services serve both kinds of gRPC: `XStub(channel)` is typed by the channel that
it is given (`grpc.Channel` or `grpc.aio.Channel`), and a servicer's method may be plain or `async`.
"""

import argparse
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTO_ROOT = ROOT / "proto"
PACKAGE_ROOT = ROOT / "gen" / "python" / "agentchat_proto"

# Files that no plugin makes.
HAND_WRITTEN = {
    "__init__.py": '"""Generated code of the AgentChat API, made by scripts/gen_protos.py."""\n',
    "py.typed": "",
    "v1/__init__.py": '"""Wire package `agentchat.v1`: messages and services, as in proto/."""\n',
}

_IMPORT = re.compile(r"^(\s*(?:from|import)\s+)agentchat(?=\.v1\b)", re.MULTILINE)
_SERVICE = re.compile(r"^service\s", re.MULTILINE)


def _plugin(name: str) -> str:
    """Returns protoc's flag for a plugin of this environment, which need not be on PATH."""
    path = shutil.which(name, path=sysconfig.get_path("scripts"))
    if path is None:
        raise SystemExit(f"gen_protos: {name} is missing; install the extra 'dev'")
    return f"--plugin={name}={path}"


def _protoc(flags: Sequence[str], protos: Sequence[Path]) -> None:
    files = [proto.relative_to(PROTO_ROOT).as_posix() for proto in protos]
    # As a process of its own: protoc ends the whole process on some errors.
    command = [sys.executable, "-m", "grpc_tools.protoc", "--proto_path=.", *flags, *files]
    if subprocess.run(command, cwd=PROTO_ROOT, check=False).returncode != 0:
        raise SystemExit("gen_protos: protoc failed")


def generate() -> dict[str, bytes]:
    """Returns the whole package: every file's bytes by its path below `agentchat_proto/`.

    The same contract and the same versions of the plugins give the same bytes.
    """
    protos = sorted(PROTO_ROOT.glob("agentchat/v1/*.proto"))
    services = [proto for proto in protos if _SERVICE.search(proto.read_text("utf-8"))]
    with tempfile.TemporaryDirectory(prefix="agentchat-protos-") as folder:
        _protoc(
            [f"--python_out={folder}", f"--mypy_out=quiet:{folder}", _plugin("protoc-gen-mypy")],
            protos,
        )
        # Of a file without a service these plugins would make an empty module.
        _protoc(
            [
                f"--grpc_python_out={folder}",
                f"--mypy_grpc_out=quiet:{folder}",
                _plugin("protoc-gen-mypy_grpc"),
            ],
            services,
        )
        files = {name: content.encode() for name, content in HAND_WRITTEN.items()}
        for path in sorted((Path(folder) / "agentchat").rglob("*.py*")):
            name = path.relative_to(Path(folder) / "agentchat").as_posix()
            # Bytes and not text, so that line ends are the same on every system.
            source = path.read_bytes().decode("utf-8")
            files[name] = _IMPORT.sub(r"\1agentchat_proto", source).encode()
    return files


def committed() -> dict[str, bytes]:
    """Returns the package as it is in the work tree, without Python's caches."""
    return {
        path.relative_to(PACKAGE_ROOT).as_posix(): path.read_bytes()
        for path in sorted(PACKAGE_ROOT.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


def write(files: dict[str, bytes]) -> None:
    """Makes the work tree's package equal to `files`; touches only what differs."""
    present = committed()
    for name in present.keys() - files.keys():
        (PACKAGE_ROOT / name).unlink()
    for name, content in files.items():
        if present.get(name) != content:
            path = PACKAGE_ROOT / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command. Returns its exit code: 1 when `--check` found a difference."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument(
        "--check",
        action="store_true",
        help="write nothing; list the committed files that differ, and exit with 1 if any do",
    )
    options = parser.parse_args(arguments)
    files = generate()
    if not options.check:
        write(files)
        return 0
    present = committed()
    differing = sorted(name for name in files.keys() | present.keys() if files.get(name) != present.get(name))
    for name in differing:
        print((PACKAGE_ROOT / name).relative_to(ROOT).as_posix())
    if differing:
        print("gen_protos: the files above differ from proto/; run 'make gen'", file=sys.stderr)
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
