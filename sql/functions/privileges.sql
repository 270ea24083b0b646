-- Who may do what. Read the first block as the list of the public SQL API.
--
-- Everything is taken from everybody but the owner first, so that what stands here is all there is.

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA credits, gifts FROM PUBLIC, mana_credits_service, mana_credits_readonly;
REVOKE ALL ON ALL PROCEDURES IN SCHEMA credits, gifts FROM PUBLIC, mana_credits_service, mana_credits_readonly;
REVOKE ALL ON ALL TABLES IN SCHEMA credits, gifts FROM PUBLIC, mana_credits_service, mana_credits_readonly;
REVOKE ALL ON SCHEMA credits, gifts FROM PUBLIC;

-- The service: these functions, and no table.
GRANT USAGE ON SCHEMA credits, gifts TO mana_credits_service;

GRANT EXECUTE ON FUNCTION
credits.init_balance,
credits.get_balance,
credits.get_balances,
credits.use_credits,
credits.refund_credits,
credits.grant_credits,
credits.reserve_credits,
credits.commit_reservation,
credits.refund_reservation,
credits.run_batch,
credits.list_transactions,
credits.list_usage
TO mana_credits_service;

GRANT EXECUTE ON FUNCTION
credits.list_packages,
credits.list_operation_prices,
credits.list_sync_prices
TO mana_credits_service, mana_credits_readonly;

GRANT EXECUTE ON FUNCTION
credits.start_purchase,
credits.record_payment_intent,
credits.record_checkout_session,
credits.fail_purchase,
credits.follow_payment,
credits.get_purchase,
credits.list_purchases,
credits.claim_purchase_poll,
credits.get_stripe_customer,
credits.link_stripe_customer,
credits.apply_stripe_event,
credits.apply_stripe_refunds,
credits.replay_stripe_event,
credits.claim_stripe_events,
credits.claim_purchase_checks,
credits.claim_event_listing,
credits.settle_event_listing,
credits.unknown_stripe_events
TO mana_credits_service;

GRANT EXECUTE ON FUNCTION
credits.get_sync_status,
credits.get_sync_statuses,
credits.activate_sync,
credits.deactivate_sync,
credits.change_sync_interval,
credits.gift_sync,
credits.revoke_sync_gift,
credits.charge_due_subscriptions,
credits.pace_charges
TO mana_credits_service;

GRANT EXECUTE ON FUNCTION
gifts.create_gift,
gifts.get_gift,
gifts.redeem_gift,
gifts.redeem_pending_gifts,
gifts.cancel_gift,
gifts.list_created_gifts,
gifts.list_received_gifts
TO mana_credits_service;

GRANT EXECUTE ON FUNCTION
credits.export_user,
credits.erase_user
TO mana_credits_service;

GRANT EXECUTE ON FUNCTION
credits.claim_notices,
credits.settle_notice,
credits.retry_notices,
credits.take_turn,
credits.read_metrics,
credits.begin_job_run,
credits.update_job_run
TO mana_credits_service;

-- For administrators, whom the service has recognized by their token.
GRANT EXECUTE ON FUNCTION
credits.grant_as_admin,
credits.refund_as_admin,
credits.find_users,
credits.get_account,
credits.list_admin_actions,
credits.list_daily_totals,
credits.get_overview,
credits.list_job_states,
credits.list_stripe_events,
credits.list_notices,
gifts.list_masked_gifts
TO mana_credits_service;

-- What changes nothing: operators and support may look as well.
GRANT EXECUTE ON FUNCTION
credits.check_ledger,
credits.preview_charge,
credits.list_problems
TO mana_credits_service, mana_credits_readonly;

-- Reading, for support and reporting: everything but live gift codes, which are money.
GRANT USAGE ON SCHEMA credits, gifts TO mana_credits_readonly;
GRANT SELECT ON ALL TABLES IN SCHEMA credits TO mana_credits_readonly;
GRANT SELECT ON gifts.masked_gift_codes, gifts.gift_redemptions TO mana_credits_readonly;

-- The ledger is append-only for its owner as well; a trigger says so to a superuser, too. What erasing
-- a user clears is all that could be written, and two triggers let nothing but that through.
REVOKE UPDATE, DELETE, TRUNCATE ON credits.transactions FROM mana_credits_owner;
GRANT UPDATE (user_id, app_id, description, metadata, idempotency_key)
ON credits.transactions TO mana_credits_owner;
-- And so is what administrators did.
REVOKE UPDATE, DELETE, TRUNCATE ON credits.admin_actions FROM mana_credits_owner;
GRANT UPDATE (user_id, admin_id, admin_name, reason, details)
ON credits.admin_actions TO mana_credits_owner;

-- Types are named by whoever calls a function.
GRANT USAGE ON TYPE
credits.transaction_type, credits.origin, credits.sync_interval, credits.notice_state,
credits.stripe_event_state,
gifts.gift_type
TO mana_credits_service, mana_credits_readonly;
