"""The command line: `mana-credits`, also `python -m service`."""

import argparse
import importlib.metadata
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from dotenv import dotenv_values

from service import cron, logs
from service.settings import Settings, SettingsError

EXIT_SETTINGS = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit status. A wrong setting is one line and status 2."""
    args = _parser().parse_args(argv)
    try:
        settings = Settings.from_env(
            _environment(os.environ, development=_is_for_newcomers(args)),
            workers=getattr(args, "workers", 1),
        )
        # The doctor's report says what went wrong; warnings beside it would say it twice.
        quiet = args.command == "check"
        logs.configure(replace(settings, log_level="error") if quiet else settings, once=True)
        return _run(args, settings)
    except SettingsError as error:
        sys.stderr.write(f"mana-credits: {error}\n")
        return EXIT_SETTINGS
    except KeyboardInterrupt:
        return 130


def _run(args: argparse.Namespace, settings: Settings) -> int:
    # What a command alone needs is imported by it alone: `serve` has no use for a local Stripe.
    match args.command:
        case "run":
            from service.dev import run

            return run.main(settings)
        case "demo":
            from service.dev import story

            return story.main(settings)
        case "serve":
            from service import workers

            worker = None
            if args.worker is not None:
                worker = workers.Worker(args.number, args.workers, args.worker)
            elif args.workers > 1:
                return workers.serve_workers(settings, args.workers)
            from service import server

            return server.serve(settings, worker)
        case "migrate":
            from service import migrate

            return migrate.main(settings, check=args.check)
        case "cron":
            return cron.main(settings, args)
        case "check":
            from service import doctor

            return doctor.main(settings, workers=args.workers)
    raise AssertionError(f"unknown command {args.command}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mana-credits",
        description="Prepaid credits on PostgreSQL. Settings come from the environment.",
    )
    parser.add_argument(
        "--version",
        action="version",
        version=f"mana-credits {importlib.metadata.version('mana-credits')}",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("run", help="the whole system on this machine, for development")
    commands.add_parser("demo", help="the story of the product, told step by step")
    serve = commands.add_parser("serve", help="the HTTP service alone")
    serve.add_argument(
        "--workers", type=_worker_count, default=1, metavar="N", help="processes sharing the port"
    )
    serve.add_argument("--worker", type=int, metavar="FD", help=argparse.SUPPRESS)
    serve.add_argument("--number", type=int, default=0, metavar="K", help=argparse.SUPPRESS)
    migrate = commands.add_parser("migrate", help="migrations, functions, privileges")
    migrate.add_argument("--check", action="store_true", help="only report what differs")
    cron.add_arguments(commands.add_parser("cron", help="the jobs in pg_cron"))
    check = commands.add_parser("check", help="a doctor: what works and what does not")
    check.add_argument(
        "--workers",
        type=_worker_count,
        default=1,
        metavar="N",
        help="how many processes are to be served with, on all machines",
    )
    return parser


def _worker_count(text: str) -> int:
    count = int(text) if text.isascii() and text.isdigit() else 0
    if not 1 <= count <= 64:
        raise argparse.ArgumentTypeError("must be from 1 to 64")
    return count


def _is_for_newcomers(args: argparse.Namespace) -> bool:
    return args.command in ("run", "demo")


def _environment(env: Mapping[str, str], *, development: bool) -> Mapping[str, str]:
    """The environment, with `.env` beneath it in development only.

    `MANA_ENV` itself decides, so it is never taken from the file. `run` and `demo` set it.
    """
    if development:
        if env.get("MANA_ENV", "").strip() not in ("", "development"):
            raise SettingsError("MANA_ENV must be development for this command, or not set")
        env = {**env, "MANA_ENV": "development"}
    if env.get("MANA_ENV", "").strip() != "development":
        return env
    file = dotenv_values(Path(".env"), interpolate=False, encoding="utf-8")
    beneath = {name: value for name, value in file.items() if value is not None}
    beneath.pop("MANA_ENV", None)
    return {**beneath, **env}


if __name__ == "__main__":
    sys.exit(main())
