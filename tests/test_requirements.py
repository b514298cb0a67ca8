"""What an install chooses, and what a new lock keeps."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "requirements"
LOCK = "# a comment\nnvidia-cublas==13.1 ; sys_platform == 'linux'\ntriton==3.7\n"


def load(name: str) -> ModuleType:
    """Import a script of requirements/, which is not a package."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("requirements", "needed"),
    [
        (["filelock", "sympy>=1.13"], set()),
        (["triton==3.7; python_version >= '3.0'", "filelock"], {"triton"}),
        (["triton==3.7; python_version < '3.0'"], set()),
        (["triton==3.7; extra == 'fast'"], set()),
        (["nvidia-cublas==13.1"], {"nvidia-cublas"}),
        (["cuda-unlocked==1"], set()),
    ],
)
def test_cuda_packages_are_installed_only_where_the_installed_torch_asks(
    requirements: list[str], needed: set[str]
) -> None:
    assert load("sync").needed_packages(requirements, LOCK) == needed


def test_the_build_suffix_of_torch_does_not_count_as_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    sync = load("sync")
    monkeypatch.setattr(sync.metadata, "version", lambda _: "2.13.0+cpu")
    assert sync.installed_version("torch") == "2.13.0"


def test_a_package_that_is_absent_has_no_version() -> None:
    assert load("sync").installed_version("no-such-package-at-all") is None


def test_a_new_lock_keeps_the_hashes_of_builds_seen_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = load("lock")
    monkeypatch.setattr(lock, "FOLDER", tmp_path)
    seen = "--hash=sha256:" + "a" * 64
    (tmp_path / "torch.lock").write_text(f"torch==2.13.0 \\\n    {seen}\n", encoding="utf-8")
    assert lock.known_hashes("torch==2.13.0") == {seen}
    assert lock.known_hashes("torch==2.14.0") == set()


def test_the_torch_in_the_lock_is_the_one_that_must_be_kept() -> None:
    (kept,) = [
        line
        for line in (FOLDER / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if line.startswith("torch==")
    ]
    assert kept in (FOLDER / "torch.lock").read_text(encoding="utf-8")
