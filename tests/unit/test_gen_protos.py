"""Generating the Python package is repeatable, and `--check` finds every kind of difference."""

from pathlib import Path

import pytest

from scripts import gen_protos


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A freshly generated package in a folder of its own."""
    monkeypatch.setattr(gen_protos, "ROOT", tmp_path)
    monkeypatch.setattr(gen_protos, "PACKAGE_ROOT", tmp_path / "agentchat_proto")
    assert gen_protos.main([]) == 0
    return gen_protos.PACKAGE_ROOT


def test_generating_again_finds_no_difference(package: Path) -> None:
    assert gen_protos.main(["--check"]) == 0


def test_check_lists_changed_missing_and_unknown_files_and_a_run_repairs_them(
    package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (package / "v1" / "agent_pb2.py").open("a") as changed:
        changed.write("# edited by hand\n")
    (package / "py.typed").unlink()
    (package / "v1" / "removed_pb2.py").touch()

    assert gen_protos.main(["--check"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "agentchat_proto/py.typed",
        "agentchat_proto/v1/agent_pb2.py",
        "agentchat_proto/v1/removed_pb2.py",
    ]

    assert gen_protos.main([]) == 0
    assert gen_protos.main(["--check"]) == 0


def test_generated_modules_import_nothing_from_the_sdk_package(package: Path) -> None:
    modules = [*package.rglob("*.py"), *package.rglob("*.pyi")]

    importing = [
        line
        for module in modules
        for line in module.read_text("utf-8").splitlines()
        if line.lstrip().startswith(("from agentchat.", "from agentchat ", "import agentchat."))
    ]

    assert len(modules) > 30
    assert importing == []
