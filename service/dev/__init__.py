"""What only `run`, `demo` and the tests need: PostgreSQL, a local Stripe, a token issuer.

Nothing in here is used in production, and nothing outside of the command line imports it.
"""
