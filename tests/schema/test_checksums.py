"""SHA256SUMS names every migration and its content, so that an edited one is noticed in review."""

import hashlib
import re

from service.paths import MIGRATIONS


def recorded() -> list[tuple[str, str]]:
    """The lines of SHA256SUMS, as `sha256sum *.sql` writes them: digest and file name."""
    lines = []
    for line in (MIGRATIONS / "SHA256SUMS").read_text("utf-8").splitlines():
        match = re.fullmatch(r"([0-9a-f]{64})  (\S+\.sql)", line)
        assert match, f"not a line of sha256sum: {line}"
        lines.append((match[2], match[1]))
    return lines


def test_every_migration_is_recorded_once_in_order() -> None:
    files = sorted(file.name for file in MIGRATIONS.glob("*.sql"))
    assert [name for name, _digest in recorded()] == files


def test_no_migration_differs_from_its_record() -> None:
    digests = {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in MIGRATIONS.glob("*.sql")
    }
    assert dict(recorded()) == digests


def test_migrations_are_numbered_without_a_gap() -> None:
    numbers = [int(name.partition(".")[0]) for name, _digest in recorded()]
    assert numbers == list(range(1, len(numbers) + 1))
