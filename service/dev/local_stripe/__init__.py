"""A local Stripe for development and tests: localstripe, and what it lacks.

`python -m service.dev.local_stripe` runs it as a process of its own; localstripe keeps its state
in module globals, so two of them do not fit into one process. Added to localstripe are idempotency
keys, Checkout Sessions with a page to pay on, SEPA debits that take their time, and webhooks that
are signed when they are sent, come in order and are tried again, the list of events, refunds that
are told of and can fail, and disputes. On its first page people refund and dispute what was paid,
and let a debit that is under way arrive.

Beside Stripe's routes under /v1 there are, for tests, without authentication:

    POST   /_config/webhooks/{id}   url, secret, events?: send events there too, or from now on
    DELETE /_config/webhooks/{id}   send nothing there any more
    POST   /_config/deliveries      on: false loses events on their way; they stay in /v1/events
    POST   /_config/refunds/{id}    status: succeeded, failed or canceled, as banks let it end;
                                    one made with metadata[status]=pending is open until then
    POST   /_config/disputes        payment_intent or charge, amount?, status?, by which
                                    warning_needs_response makes an inquiry of it
    POST   /_config/disputes/{id}   step: withdrawn, updated, won, lost, warning_closed, reinstated
    POST   /_config/debits/{id}     let the SEPA debit of a PaymentIntent come to its end now
    DELETE /_config/data            forget everything
"""
