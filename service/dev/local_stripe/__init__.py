"""A local Stripe for development and tests: localstripe, and what it lacks.

`python -m service.dev.local_stripe` runs it as a process of its own; localstripe keeps its state
in module globals, so two of them do not fit into one process. Added to localstripe are idempotency
keys, Checkout Sessions with a page to pay on, SEPA debits that take their time, and webhooks that
are signed when they are sent, come in order and are tried again.

Beside Stripe's routes under /v1 there are, for tests, without authentication:

    POST   /_config/webhooks/{id}   url, secret, events?: send events there too, or from now on
    DELETE /_config/webhooks/{id}   send nothing there any more
    DELETE /_config/data            forget everything
"""
