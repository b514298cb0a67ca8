"""Nothing here runs code from data, and no lock says where packages come from."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CODE_FOLDERS = ("src", "scripts", "requirements", "benchmarks", "packages", "tests")
UNSAFE_MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
UNSAFE_CALLS = {
    "eval": "runs text as code",
    "exec": "runs text as code",
    "os.popen": "starts a shell",
    "os.system": "starts a shell",
    "tempfile.mktemp": "names a file that another process can take first",
    "torch.load": "unpickles; use safetensors",
    "yaml.full_load": "makes objects; use a SafeLoader",
    "yaml.load": "makes objects; use a SafeLoader",
    "yaml.unsafe_load": "makes objects; use a SafeLoader",
}
UNTRUSTED = re.compile(r"Auto\w+\.from_(pretrained|config)")
UNSAFE_KEYWORDS = {("trust_remote_code", True), ("weights_only", False), ("allow_pickle", True), ("shell", True)}


def dotted_name(node: ast.expr) -> str:
    """Return `a.b.c` for a name or an attribute of names, else an empty text."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (owner := dotted_name(node.value)):
        return f"{owner}.{node.attr}"
    return ""


def unsafe_places(source: str) -> Iterator[str]:
    """Yield one line for each unsafe import, call or argument in `source`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            imported = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            imported = []
        for name in imported:
            if name.split(".")[0] in UNSAFE_MODULES or name in UNSAFE_CALLS:
                yield f"line {node.lineno}: imports {name}"
        if isinstance(node, ast.Call):
            name = dotted_name(node.func)
            if name in UNSAFE_CALLS:
                yield f"line {node.lineno}: {name} {UNSAFE_CALLS[name]}"
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            flag = given.get("trust_remote_code")
            if UNTRUSTED.fullmatch(name) and not (isinstance(flag, ast.Constant) and flag.value is not None):
                yield f"line {node.lineno}: {name} without trust_remote_code=False asks whether to run a folder's code"
            for keyword in node.keywords:
                value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
                if (keyword.arg, value) in UNSAFE_KEYWORDS:
                    yield f"line {node.lineno}: {keyword.arg}={value}"


def python_files() -> list[Path]:
    return sorted(path for folder in CODE_FOLDERS for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", python_files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_code_makes_no_objects_from_data_and_starts_no_shell(path: Path) -> None:
    assert list(unsafe_places(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from torch import load",
        "torch.load('x.pt')",
        "yaml.load(text, Loader=L)",
        "eval(text)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "AutoConfig.from_pretrained(name)",
        "AutoModel.from_config(config, trust_remote_code=None)",
        "reader(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "subprocess.run(words, shell=True)",
        "tempfile.mktemp()",
    ],
)
def test_the_safety_rule_sees_each_kind_of_fault(line: str) -> None:
    assert len(list(unsafe_places(line))) == 1


def test_the_safety_rule_leaves_safe_code_alone() -> None:
    assert list(unsafe_places("yaml.safe_load(t)\nmodel.eval()\nreader(p, weights_only=True)\nimport json")) == []


def tracked_files() -> list[Path]:
    """Return the files that git tracks or would track; all files of the tree where there is no git."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    if (ROOT / ".git").exists():
        names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
        return [ROOT / name for name in names if name and (ROOT / name).is_file()]
    return [path for path in ROOT.rglob("*") if path.is_file() and ".venv" not in path.parts]


def test_no_lock_file_has_an_address() -> None:
    locks = [path for path in tracked_files() if re.search(r"\.lock$|[-_.]lock\.(json|ya?ml|toml)$", path.name)]
    assert len(locks) >= 4
    assert [path.name for path in locks if "://" in path.read_text(encoding="utf-8")] == []


def test_the_build_files_name_no_package_index() -> None:
    files = [ROOT / "Makefile", ROOT / "justfile", ROOT / "pyproject.toml", *(ROOT / "requirements").iterdir()]
    pattern = re.compile(r"--(extra-)?index-url|^\s*(-i|-f|--find-links)\s+\S+://", re.MULTILINE)
    assert [path.name for path in files if path.is_file() and pattern.search(path.read_text(encoding="utf-8"))] == []


def test_every_locked_package_has_an_exact_version_and_hashes() -> None:
    for path in sorted((ROOT / "requirements").glob("*.lock")):
        blocks = path.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
        packages = [block for block in blocks if not block.startswith("#")]
        assert packages
        wrong = [block for block in packages if not re.match(r"[\w.-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", block)]
        assert wrong == [], path.name
