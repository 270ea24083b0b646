"""The command `mana-credits cron`: the scripts of `cron/`, run by psql.

The scripts are the truth, for DBAs as well; this only knows which database each belongs in and
keeps passwords off the command line, where `ps` would show them.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping

from service.paths import CRON
from service.settings import Settings

JOBS = (
    "recurring-charge",
    "gift-expiry",
    "reservation-expiry",
    "charge-notices",
    "ledger-check",
    "pruning",
    "cron-history",
)

# What libpq takes from a connection string and must not appear among the arguments, with the
# variable of the environment that it reads instead.
_SECRETS = {"password": "PGPASSWORD"}


class CronError(Exception):
    """What stops the command: one line for people."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `install|status|run JOB|uninstall` and their options."""
    actions = parser.add_subparsers(dest="action", required=True)
    install = actions.add_parser("install", help="schedule the jobs, or bring them up to date")
    install.add_argument(
        "--schedule",
        action="append",
        default=[],
        metavar="JOB=SCHEDULE",
        help="five fields in GMT instead of the job's own, as in gift-expiry='*/5 * * * *'",
    )
    install.add_argument(
        "--every-minute",
        action="append",
        default=[],
        metavar="JOB",
        choices=JOBS,
        help="the same as --schedule JOB='* * * * *'",
    )
    actions.add_parser("status", help="show the jobs, and how their last runs ended")
    run = actions.add_parser("run", help="run one job now")
    run.add_argument("job", metavar="JOB")
    actions.add_parser("uninstall", help="remove the jobs")


def main(settings: Settings, args: argparse.Namespace) -> int:
    """Run what `add_arguments` has parsed, and return the exit status."""
    try:
        match args.action:
            case "install":
                schedules = _schedules(args.schedule, args.every_minute)
                return install(settings, schedules)
            case "status":
                return _psql(settings, "status.sql", settings.cron_database, {})
            case "run":
                return run(settings, args.job)
            case "uninstall":
                return uninstall(settings)
    except CronError as error:
        sys.stderr.write(f"cron: {error}\n")
        return 1
    raise AssertionError(f"unknown action {args.action}")


def install(settings: Settings, schedules: Mapping[str, str] | None = None) -> int:
    """Schedule the jobs, each at its own time or at the one in `schedules`.

    A schedule is pg_cron's: five fields, in GMT. Returns psql's exit status; raises CronError
    when psql is missing.
    """
    variables = {job.replace("-", "_"): schedule for job, schedule in (schedules or {}).items()}
    return _psql(settings, "schedule.sql", settings.cron_database, variables)


def uninstall(settings: Settings) -> int:
    """Remove the jobs of this database. Returns and raises as `install` does."""
    return _psql(settings, "unschedule.sql", settings.cron_database, {})


def run(settings: Settings, job: str) -> int:
    """Run one job now, in the application's database. Returns and raises as `install` does."""
    if job == "cron-history":
        raise CronError("cron-history clears pg_cron's own table, which only pg_cron runs")
    return _psql(settings, "run.sql", None, {"job": job})


def _schedules(given: list[str], every_minute: list[str]) -> dict[str, str]:
    schedules = dict.fromkeys(every_minute, "* * * * *")
    for item in given:
        job, equals, schedule = item.partition("=")
        if not equals or job not in JOBS:
            raise CronError(f"--schedule takes JOB=SCHEDULE, with JOB one of {', '.join(JOBS)}")
        schedules[job] = schedule
    return schedules


def _psql(
    settings: Settings, script: str, database: str | None, variables: Mapping[str, str]
) -> int:
    program = shutil.which("psql")
    if program is None:
        raise CronError("psql is not installed: Debian has it in the package postgresql-client")
    # Here, because the command line imports this for its arguments alone, also where it serves.
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    parameters = conninfo_to_dict(settings.require_admin_database_url())
    variables = {"app_database": str(parameters.get("dbname") or ""), **variables}
    if not variables["app_database"]:
        raise CronError("ADMIN_DATABASE_URL names no database")
    if database is not None:
        parameters["dbname"] = database
    environment = {**os.environ, "PGAPPNAME": "mana-credits cron"}
    for name, variable in _SECRETS.items():
        if secret := parameters.pop(name, None):
            environment[variable] = str(secret)
    command = [program, "--no-psqlrc", "--quiet", "--no-password"]
    command += [f"--dbname={make_conninfo('', **parameters)}"]
    command += [f"--set={name}={value}" for name, value in variables.items()]
    command += [f"--file={CRON / script}"]
    return subprocess.run(command, env=environment, check=False).returncode  # noqa: S603
