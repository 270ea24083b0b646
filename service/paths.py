"""Where the SQL files and the job scripts are: beside the package, or inside it in a wheel."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def _resource(name: str) -> Path:
    packaged = _PACKAGE / "_resources" / name
    return packaged if packaged.is_dir() else _PACKAGE.parent / name


MIGRATIONS = _resource("sql") / "migrations"
FUNCTIONS = _resource("sql") / "functions"
CRON = _resource("cron")


def migration_ids() -> list[str]:
    """The ids of this version's migrations, as `migrate` records them, in their order."""
    return sorted(file.stem for file in MIGRATIONS.glob("*.sql"))
