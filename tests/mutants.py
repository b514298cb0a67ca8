"""Change one module in many small ways and tell which changes no test notices; see docs/testing.md.

    make mutants MODULE=training/schedule TESTS=tests/training/test_schedule.py

Works on a fresh copy in build/mutants, which stays until the next call: in it, `../../.venv/bin/python -m mutmut show
NAME` shows a survivor.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("src", "tests", "packages", "configs", "docs", "scripts", "README.md", "pyproject.toml")
CONFIG = """
[tool.mutmut]
source_paths = ["src/"]
only_mutate = ["{module}"]
pytest_add_cli_args = ["-p", "no:cacheprovider", "-m", "not slow"]
pytest_add_cli_args_test_selection = {tests}
also_copy = ["packages", "configs", "docs", "scripts"]
# One process imports PyTorch; each mutant is a fork of it.
process_isolation = "forkserver"
"""


def main() -> int:
    """Run mutmut on a copy and print its counts and survivors; exit code 3 where there are survivors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("module", help="below src/lora, such as training/schedule")
    parser.add_argument("tests", nargs="+", help="tests that are to notice")
    parser.add_argument("--jobs", default="2")
    options = parser.parse_args()
    module = f"src/lora/{options.module}.py"
    if not (ROOT / module).is_file():
        print(f"error: MODULE={options.module}: no such module below src/lora. Give one such as training/schedule.")
        return 2
    folder = ROOT / "build" / "mutants"
    copy_to(folder)
    with (folder / "pyproject.toml").open("a", encoding="utf-8") as config:
        config.write(CONFIG.format(module=module, tests=json.dumps(options.tests)))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    mutmut = [sys.executable, "-m", "mutmut"]
    code = subprocess.run([*mutmut, "run", "--max-children", options.jobs], cwd=folder, env=environment).returncode
    if code:
        return code
    told = subprocess.run([*mutmut, "results", "--all", "true"], cwd=folder, capture_output=True, text=True, check=True)
    rows = [line.strip().rpartition(": ") for line in told.stdout.splitlines() if ": " in line]
    counts = Counter(outcome for _, _, outcome in rows)
    print(f"{options.module}: {len(rows)} mutants, {', '.join(f'{n} {name}' for name, n in sorted(counts.items()))}")
    alive = [name for name, _, outcome in rows if outcome != "killed"]
    print("\n".join(alive))
    return 3 if alive else 0


def copy_to(folder: Path) -> None:
    """Copy what the tests need; nothing that mutmut found out about an earlier module or test may stay."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(ROOT / name, folder / name)


if __name__ == "__main__":
    sys.exit(main())
