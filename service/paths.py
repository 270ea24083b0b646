"""Where the SQL files and the job scripts are: beside the package, or inside it in a wheel."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def _resource(name: str) -> Path:
    packaged = _PACKAGE / "_resources" / name
    return packaged if packaged.is_dir() else _PACKAGE.parent / name


MIGRATIONS = _resource("sql") / "migrations"
FUNCTIONS = _resource("sql") / "functions"
CRON = _resource("cron")
WEB = _PACKAGE / "web"


def migration_files(folder: Path = MIGRATIONS) -> list[Path]:
    """The migrations in a folder, in their order."""
    return sorted(
        file
        for file in folder.iterdir()
        if file.suffix in {".sql", ".py"} and not file.name.endswith(".rollback.sql")
    )


def migration_ids(folder: Path = MIGRATIONS) -> list[str]:
    """Their ids, as `public._yoyo_migration` holds them."""
    return [file.stem for file in migration_files(folder)]
