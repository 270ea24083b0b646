// What the service answers, as types alone: a browser never loads this file.
//
// Credits are whole numbers (1 credit = 1 euro cent), times are ISO 8601 in UTC with milliseconds
// (`2026-05-18T00:09:41.123Z`), ids are UUIDs.

/** @typedef {string} Time ISO 8601, UTC, milliseconds */
/** @typedef {"monthly" | "quarterly" | "yearly"} Interval */
/**
 * @typedef {"purchase" | "usage" | "refund" | "gift" | "grant" | "reversal" | "forfeiture"
 *   } TransactionType
 */
/** @typedef {"simple" | "personalized"} GiftType */
/** @typedef {"active" | "depleted" | "expired" | "cancelled"} GiftStatus */
/**
 * @typedef {"pending" | "completed" | "failed" | "cancelled" | "refunded" | "partially_refunded"
 *   | "disputed"} PurchaseStatus
 */

/**
 * @typedef {object} Balance
 * @property {number} balance credits that can be spent
 * @property {number} totalEarned credits that ever came in
 * @property {number} totalSpent credits that ever went out
 * @property {number} reserved credits that are held for something under way
 * @property {number} transactionsCount
 */

/**
 * @typedef {object} NewBalance
 * @property {number} balance credits that can be spent now
 * @property {number} totalEarned credits
 * @property {number} totalSpent credits
 */

/**
 * A row of the ledger.
 *
 * @typedef {object} Transaction
 * @property {string} id
 * @property {string} userId
 * @property {TransactionType} type
 * @property {"completed"} status
 * @property {number} amount credits, negative for what went out
 * @property {number} balanceBefore credits
 * @property {number} balanceAfter credits
 * @property {string} appId
 * @property {string} description
 * @property {Record<string, unknown> | null} metadata
 * @property {string | null} idempotencyKey
 * @property {Time} createdAt
 * @property {Time} completedAt
 */

/**
 * @typedef {object} Moved
 * @property {true} success
 * @property {Transaction} transaction
 * @property {NewBalance} newBalance
 * @property {string} [message] there where the call had been carried out before
 */

/**
 * @typedef {object} Package
 * @property {string} id
 * @property {string} name
 * @property {string | null} description
 * @property {number} credits
 * @property {number} priceEuroCents
 * @property {string | null} stripePriceId
 * @property {boolean} active
 * @property {number} sortOrder
 * @property {Record<string, unknown> | null} metadata
 * @property {Time} createdAt
 * @property {Time} updatedAt
 */

/**
 * What an operation costs: `cost` credits for `per` uses.
 *
 * @typedef {object} OperationPrice
 * @property {string} operation
 * @property {string} name
 * @property {string} description
 * @property {string} category
 * @property {string | null} app
 * @property {number} cost credits
 * @property {number} per uses
 */

/**
 * @typedef {object} Pricing
 * @property {Record<string, number>} operationCosts credits by operation, of those priced per use
 * @property {OperationPrice[]} operations all of them
 * @property {Record<Interval, number>} sync credits by interval
 * @property {Time} lastUpdated
 */

/**
 * What one app used on one day.
 *
 * @typedef {object} Usage
 * @property {string} date `YYYY-MM-DD`, in UTC
 * @property {string} appId
 * @property {number} creditsUsed
 * @property {number} operations how often
 */

/**
 * @typedef {object} Purchase
 * @property {string} id
 * @property {string} userId
 * @property {string} packageId
 * @property {number} credits
 * @property {number} priceEuroCents
 * @property {string | null} stripePaymentIntentId
 * @property {string | null} stripeCustomerId
 * @property {PurchaseStatus} status
 * @property {Record<string, unknown> | null} metadata
 * @property {Time} createdAt
 * @property {Time | null} completedAt
 */

/**
 * A purchase to be paid in the app, with Stripe's own library.
 *
 * @typedef {object} StartedPurchase
 * @property {string} purchaseId
 * @property {string | null} clientSecret of the PaymentIntent
 * @property {number} amount euro cents
 * @property {number} credits
 * @property {string} [message] there where the call had been carried out before
 */

/**
 * A purchase to be paid on Stripe's page.
 *
 * @typedef {object} StartedCheckout
 * @property {string} purchaseId
 * @property {string | null} checkoutUrl where to go
 * @property {number} amount euro cents
 * @property {number} credits
 * @property {string} [message] there where the call had been carried out before
 */

/**
 * @typedef {object} SyncStatus
 * @property {boolean} active
 * @property {Interval} interval
 * @property {Time | null} nextChargeAt
 * @property {Time | null} pausedAt
 * @property {boolean} paused credits ran out
 * @property {boolean} gifted on, and never charged
 * @property {number} price credits of the next charge
 * @property {Time | null} paidUntil
 */

/**
 * @typedef {object} SyncActivated
 * @property {true} success
 * @property {true} active
 * @property {Interval} interval
 * @property {Time} nextChargeAt
 * @property {number} amountCharged credits, 0 inside a period that is paid already
 * @property {string} [message] there where the call had been carried out before
 */

/**
 * @typedef {object} SyncIntervalChanged
 * @property {true} success
 * @property {Interval} interval
 * @property {number} amountCharged credits of each charge from then on; none are charged now
 * @property {Time} effectiveAt
 */

/** @typedef {{ success: true }} Done */

/**
 * A gift as whoever has its code sees it.
 *
 * @typedef {object} PublicGift
 * @property {string} code
 * @property {GiftType} type
 * @property {GiftStatus} status
 * @property {number} totalCredits
 * @property {boolean} redeemed
 * @property {string | null} message
 * @property {string | null} creatorName
 * @property {Time} expiresAt
 * @property {boolean} isPersonalized
 */

/**
 * A gift as its creator sees it.
 *
 * @typedef {object} Gift
 * @property {string} id
 * @property {string} code
 * @property {string} url the page that shows it
 * @property {string} shortUrl
 * @property {string} creatorId
 * @property {string | null} creatorName
 * @property {number} totalCredits
 * @property {number} redeemed 0 or 1
 * @property {GiftType} type
 * @property {GiftStatus} status
 * @property {string | null} targetEmail
 * @property {string | null} message
 * @property {Time} expiresAt
 * @property {Time} createdAt
 * @property {Time} updatedAt
 */

/**
 * A gift as its redeemer sees it.
 *
 * @typedef {object} ReceivedGift
 * @property {string} id
 * @property {string} code
 * @property {number} credits
 * @property {number} creditsReceived
 * @property {string | null} message
 * @property {string | null} creatorName
 * @property {GiftStatus} status
 * @property {string | null} sourceAppId
 * @property {Time} redeemedAt
 * @property {Time} createdAt
 */

/**
 * @typedef {object} GiftRedeemed
 * @property {true} success
 * @property {number} credits
 * @property {number} creditsReceived
 * @property {string | null} message the creator's
 * @property {string | null} creatorName
 * @property {number} newBalance credits that can be spent now
 */

/**
 * @typedef {object} GiftCancelled
 * @property {true} success
 * @property {number} refundedCredits
 * @property {string} [message] there where the call had been carried out before
 */

/**
 * @typedef {object} Debit
 * @property {number} amount credits, 1 to 1 000 000 000
 * @property {string} appId up to 64 characters
 * @property {string} description up to 500 characters, for the user's history
 * @property {Record<string, unknown>} [metadata] up to 16 KiB of JSON
 * @property {string} [idempotencyKey] here or in the options
 */

/**
 * Which rows of the ledger.
 *
 * @typedef {object} TransactionQuery
 * @property {number} [limit] rows a page, 1 to 500 (50)
 * @property {string} [before] a page's cursor: where to go on
 * @property {number} [offset] rows to leave out; a cursor is quicker, and misses none
 * @property {TransactionType} [type]
 * @property {string} [appId]
 */

/**
 * @typedef {object} PageQuery
 * @property {number} [limit] rows, 1 to 500 (50)
 * @property {number} [offset] rows to leave out (0)
 */

/**
 * @typedef {object} NewGift
 * @property {number} totalCredits 1 to 10 000
 * @property {GiftType} [type] left out: by whether there is a target
 * @property {string} [targetEmail] whose address alone may redeem it
 * @property {string} [message] up to 500 characters
 * @property {number} [expirationDays] 1 to 3650 (90)
 * @property {Time} [expiresAt] instead of days
 * @property {string} [idempotencyKey] here or in the options
 */

// Support

/** @typedef {"open" | "committed" | "refunded" | "expired"} HoldStatus */
/** @typedef {"grant" | "refund" | "gift_sync" | "revoke_sync_gift"} ActionKind */
/** @typedef {"received" | "applied" | "ignored" | "failed"} EventState */
/** @typedef {"sync_paused" | "gift_expired" | "charge_coming"} NoticeKind */
/** @typedef {"pending" | "delivered" | "undeliverable" | "failed"} NoticeState */

/**
 * @typedef {object} UserFound
 * @property {string} userId
 * @property {string | null} email the last known address
 * @property {number} balance credits that can be spent
 * @property {number} reserved credits
 * @property {boolean} syncActive
 * @property {Time | null} lastMoveAt
 */

/**
 * Credits that are held for something under way.
 *
 * @typedef {object} Hold
 * @property {string} id
 * @property {number} amount credits
 * @property {string} reason
 * @property {HoldStatus} status
 * @property {Time} createdAt
 * @property {Time} expiresAt
 */

/**
 * A user; zeros and nulls for one never seen.
 *
 * @typedef {object} Account
 * @property {string} userId
 * @property {string | null} email the last known address
 * @property {number} balance credits that can be spent
 * @property {number} reserved credits
 * @property {number} totalEarned credits
 * @property {number} totalSpent credits
 * @property {number} transactionsCount
 * @property {Time | null} createdAt
 * @property {SyncStatus} sync
 * @property {Hold[]} reservations the newest that are open
 */

/**
 * A gift that a user made, as support sees it: the code of an active one is masked, and it has no
 * address.
 *
 * @typedef {object} SupportGift
 * @property {string} id
 * @property {string} code
 * @property {string | null} url
 * @property {string | null} shortUrl
 * @property {string} creatorId
 * @property {string | null} creatorName
 * @property {number} totalCredits
 * @property {number} redeemed 0 or 1
 * @property {GiftType} type
 * @property {GiftStatus} status
 * @property {string | null} targetEmail
 * @property {string | null} message
 * @property {Time} expiresAt
 * @property {string | null} redeemedBy a user's id
 * @property {Time | null} redeemedAt
 * @property {Time} createdAt
 * @property {Time} updatedAt
 */

/**
 * What an administrator did to a user.
 *
 * @typedef {object} AdminAction
 * @property {string} id
 * @property {string} userId
 * @property {string} adminId
 * @property {string | null} adminName
 * @property {ActionKind} action
 * @property {string | null} reason
 * @property {string | null} transactionId
 * @property {Record<string, unknown>} details
 * @property {Time} createdAt
 */

/**
 * @typedef {object} SyncGiftState
 * @property {true} success
 * @property {string} userId
 * @property {boolean} gifted
 * @property {boolean} active
 */

/**
 * A day of the whole ledger, in credits.
 *
 * @typedef {object} LedgerDay
 * @property {string} date `YYYY-MM-DD`, in UTC
 * @property {number} sold
 * @property {number} granted
 * @property {number} used
 * @property {number} reversed
 * @property {number} refunded
 * @property {number} outstanding what users had at its end
 */

/**
 * @typedef {object} Subscriptions
 * @property {number} active those that pay
 * @property {number} paused
 * @property {number} gifted
 */

/**
 * What the next run of charges will do.
 *
 * @typedef {object} NextRun
 * @property {number} due subscriptions
 * @property {number} charges
 * @property {number} pauses
 * @property {number} credits that will be charged
 */

/**
 * @typedef {object} Job
 * @property {string} job
 * @property {Time | null} lastStartedAt
 * @property {Time | null} lastEndedAt
 * @property {Time | null} lastSucceededAt
 * @property {Record<string, unknown> | null} did of the last run that ended
 * @property {string | null} error of the last run that ended
 * @property {boolean} late
 */

/**
 * @typedef {object} LedgerCheck
 * @property {Time | null} checkedAt
 * @property {number | null} violations
 */

/**
 * How many Stripe events are not settled.
 *
 * @typedef {object} OpenEvents
 * @property {number} failed
 * @property {number} received
 */

/**
 * How many notices were not delivered.
 *
 * @typedef {object} OpenNotices
 * @property {number} waiting
 * @property {number} failed
 * @property {number} undeliverable
 */

/**
 * @typedef {object} Overview
 * @property {LedgerDay[]} days newest first
 * @property {Subscriptions} subscriptions
 * @property {NextRun} nextRun
 * @property {Job[]} jobs
 * @property {LedgerCheck} ledgerCheck
 * @property {OpenEvents} stripeEvents
 * @property {OpenNotices} notices
 */

/**
 * @typedef {object} StripeEvent
 * @property {string} id
 * @property {string} type
 * @property {EventState} state
 * @property {string | null} error
 * @property {Time} receivedAt
 * @property {number} attempts
 * @property {Time | null} nextAttemptAt
 * @property {string | null} purchaseId null where its purchase is not known
 */

/**
 * @typedef {object} StripeEventReplayed
 * @property {string} id
 * @property {EventState} state `received` waits for an answer of Stripe's
 * @property {string | null} outcome
 * @property {string | null} error
 */

/**
 * @typedef {object} Notice
 * @property {string} id
 * @property {string} userId
 * @property {NoticeKind} kind
 * @property {NoticeState} state
 * @property {number} attempts
 * @property {string | null} lastError
 * @property {Time} createdAt
 * @property {Time | null} nextAttemptAt
 */

/**
 * @typedef {object} NoticesRetried
 * @property {number} retried how many are sent once more
 */

/**
 * What erasing a user did; a repetition does nothing, and says zeros and null.
 *
 * @typedef {object} UserErased
 * @property {true} success
 * @property {number} forfeitedCredits credits that were left
 * @property {number} writtenOffCredits credits by which the balance was below zero
 * @property {number} cancelledGifts
 * @property {number} releasedHolds
 * @property {Time | null} erasedAt null where nothing was known of the user
 */

/**
 * @typedef {object} AdminGrant
 * @property {number} amount credits
 * @property {string} reason up to 500 characters; it is written down with who did it
 * @property {string} [idempotencyKey] here or in the options
 */

/**
 * @typedef {object} AdminRefund
 * @property {string} transactionId the debit
 * @property {number} [amount] credits; left out: all that is left of the debit
 * @property {string} reason up to 500 characters; it is written down with who did it
 * @property {string} [idempotencyKey] here or in the options
 */

/**
 * @typedef {object} Why
 * @property {string} [reason] up to 500 characters; it is written down with who did it
 */

/**
 * @typedef {object} EventQuery
 * @property {"failed" | "received"} [state] failed, unless it says otherwise
 * @property {number} [limit] rows a page, 1 to 500 (50)
 * @property {string} [before] a page's cursor: where to go on
 */

/**
 * @typedef {object} NoticeQuery
 * @property {"failed" | "undeliverable" | "pending"} [state] failed, unless it says otherwise
 * @property {number} [limit] rows a page, 1 to 500 (50)
 * @property {string} [before] a page's cursor: where to go on
 */

export {};
