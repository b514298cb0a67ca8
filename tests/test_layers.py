"""Imports point down, and light things stay light."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lora.scripts.umbrella import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "lora"

# docs/architecture.md: a module imports its own part or parts of lower layers, never a neighbour.
LAYERS = [
    {"bounded", "escape", "signals"},
    {"errors", "terminal"},
    {"console"},
    {"units"},
    {"files"},
    {"caches", "outputs"},
    {"config"},
    {"data", "model"},
    {"memory", "processes"},
    {"decoding"},
    {"training"},
    {"evaluation", "export"},
    {"decision"},
    {"decision_seeds", "hypotheses"},
    {"report"},
    {"runners"},
    {"scripts"},
    {"__main__"},
]
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}
HEAVY = ("torch", "transformers", "peft", "datasets", "accelerate", "scipy", "matplotlib", "pyarrow", "tensorboard")


def imported_modules(source: str, package: str) -> Iterator[tuple[int, str]]:
    """Yield (line, module) for every import of `lora` in a module of `package`, also those inside functions."""
    tree = ast.parse(source)
    # `python -m lora.runners.experiment` hands its words to the command line; nothing imports that block.
    tree.body = [node for node in tree.body if not is_main_guard(node)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*above, node.module or ""]).strip(".") if node.level else node.module or ""
            # `from lora import errors` imports lora.errors.
            names = [f"{base}.{alias.name}" for alias in node.names] if base == "lora" else [base]
        else:
            continue
        yield from ((node.lineno, name) for name in names if name.split(".")[0] == "lora")


def is_main_guard(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"


def upward_imports(part: str, source: str, package: str) -> list[str]:
    """Return the imports of a module in `part` that do not point down."""
    targets = [(line, name, name.split(".")[1]) for line, name in imported_modules(source, package) if "." in name]
    wrong = [item for item in targets if item[2] != part and LEVEL.get(item[2], 99) >= LEVEL[part]]
    return [f"line {line}: {name}" for line, name, _ in wrong]


def modules() -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_module_imports_only_lower_layers(path: Path) -> None:
    relative = path.relative_to(PACKAGE)
    part = relative.parts[0].removesuffix(".py")
    assert part in LEVEL, f"{part} has no layer; give it one here and in docs/architecture.md"
    package = ".".join(["lora", *relative.parts[:-1]])
    assert upward_imports(part, path.read_text(encoding="utf-8"), package) == []


@pytest.mark.parametrize(
    ("part", "package", "line"),
    [
        ("data", "lora.data", "from lora.model.load import Bundle"),
        ("data", "lora.data", "import lora.runners.experiment"),
        ("data", "lora.data", "from lora import decoding"),
        ("data", "lora.data", "from ..training import loop"),
        ("data", "lora.data", "def late():\n    from lora.report import markdown"),
        ("data", "lora.data", "from lora.unheard_of import thing"),
    ],
)
def test_the_layer_rule_catches_an_import_that_points_up(part: str, package: str, line: str) -> None:
    assert len(upward_imports(part, line, package)) == 1


@pytest.mark.parametrize("line", ["from lora.errors import LoraError", "from . import audio", "from .audio import x"])
def test_the_layer_rule_allows_lower_layers_and_the_same_part(line: str) -> None:
    assert upward_imports("data", line, "lora.data") == []


def heavy_modules_after(statement: str) -> list[str]:
    """Run `statement` in a fresh Python and return which of the heavy packages it loaded."""
    report = f"import sys\n{statement}\nprint('loaded:', *[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()[1:]


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert heavy_modules_after("import lora") == []


def test_the_list_of_commands_loads_nothing_heavy() -> None:
    assert heavy_modules_after("from lora.scripts.umbrella import main\nassert main(['--help']) == 0") == []


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_loads_nothing_heavy(command: str) -> None:
    assert (
        heavy_modules_after(f"from lora.scripts.umbrella import main\nassert main([{command!r}, '--help']) == 0") == []
    )


def test_the_isolation_test_sees_a_heavy_package_when_there_is_one() -> None:
    assert heavy_modules_after("import pyarrow") == ["pyarrow"]
