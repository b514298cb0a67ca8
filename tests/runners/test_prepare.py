"""Manifests are built where they are missing, and what else lies beside them stays."""

import sqlite3
from pathlib import Path

import optuna
import pytest

from lora.errors import ConfigError, InputError
from lora.files import write_json
from lora.runners.build import BuildOptions
from lora.runners.prepare import ManifestOptions, ManifestPlan, build_missing
from lora.runners.study import open_study


def plan_of(folder: Path) -> ManifestPlan:
    options = BuildOptions(output=folder / "a.jsonl", source="synthetic", voices=["en-us"], samples=1)
    return ManifestPlan("a", "build a", options)


def test_the_record_of_what_was_built_takes_the_place_of_nothing_else(tmp_path: Path) -> None:
    record = tmp_path / "manifests.json"
    (tmp_path / "manifests.lock").write_text("mine")
    built: list[ManifestOptions] = []

    def build(options: ManifestOptions) -> None:
        built.append(options)
        options.output.write_text("row")

    for _ in range(2):
        build_missing([plan_of(tmp_path)], record, build)
    assert len(built) == 1
    for mine in ('{"a": {"command": "x", "sha256": "y", "note": "mine"}}', '["mine"]', "mine"):
        record.write_text(mine)
        with pytest.raises(InputError, match=r"manifests\.json"):
            build_missing([plan_of(tmp_path)], record, build)
        assert record.read_text() == mine
    assert len(built) == 1
    assert (tmp_path / "manifests.lock").read_text() == "mine"


def test_a_record_behind_a_link_is_written_there(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    write_json(tmp_path / "far" / "record.json", {})
    (tmp_path / "record.json").symlink_to("far/record.json")
    build_missing([plan_of(tmp_path)], tmp_path / "record.json", lambda options: options.output.write_text("row"))
    assert (tmp_path / "record.json").is_symlink()


def test_a_database_of_something_else_gets_no_study(tmp_path: Path) -> None:
    path = tmp_path / "photos.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE photos (name TEXT)")
    database.close()
    before = path.read_bytes()
    for _ in range(2):
        with pytest.raises(ConfigError, match="holds no studies"), open_study(f"sqlite:///{path}", "s", NO_PRUNER):
            pass
    assert path.read_bytes() == before
    with open_study(f"sqlite:///{tmp_path / 'own.db'}", "s", NO_PRUNER) as study:
        study.tell(study.ask(), 1.0)
    with open_study(f"sqlite:///{tmp_path / 'own.db'}", "s", NO_PRUNER) as study:
        assert len(study.trials) == 1
    assert sorted(item.name for item in tmp_path.iterdir()) == ["own.db", "photos.db"]


NO_PRUNER = optuna.pruners.NopPruner()
