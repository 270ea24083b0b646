"""Run the local Stripe: `python -m service.dev.local_stripe --help`."""

import argparse
import sys
from pathlib import Path

from service.dev.local_stripe.app import create_app
from service.dev.local_stripe.webhooks import Endpoint
from service.dev.serving import serve


def main(argv: list[str] | None = None) -> int:
    """Run the local Stripe as a process of its own."""
    parser = argparse.ArgumentParser(prog="python -m service.dev.local_stripe")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--data", type=Path, required=True, help="the file that keeps everything")
    parser.add_argument("--webhook-url", help="where events go")
    parser.add_argument("--webhook-secret", help="with what they are signed (whsec_…)")
    parser.add_argument("--base-url", help="its own address as browsers see it")
    parser.add_argument(
        "--sepa-delay", type=float, default=5, help="seconds until a SEPA debit settles"
    )
    parser.add_argument("--exit-with-parent", action="store_true", help="stop when stdin ends")
    options = parser.parse_args(argv)
    if bool(options.webhook_url) != bool(options.webhook_secret):
        parser.error("--webhook-url and --webhook-secret go together")
    endpoint = (
        Endpoint(options.webhook_url, options.webhook_secret) if options.webhook_url else None
    )
    app = create_app(
        data_file=options.data,
        base_url=options.base_url or f"http://localhost:{options.port}",
        sepa_delay=options.sepa_delay,
        endpoint=endpoint,
    )
    return serve(app, options.port, exit_with_parent=options.exit_with_parent)


if __name__ == "__main__":
    sys.exit(main())
