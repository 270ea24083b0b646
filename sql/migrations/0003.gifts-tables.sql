-- The schema gifts: codes and the attempts to redeem them.

SET LOCAL ROLE mana_credits_owner;

CREATE TYPE gifts.gift_type AS ENUM ('simple', 'personalized');
COMMENT ON TYPE gifts.gift_type IS 'simple: whoever has the code; personalized: only the target''s verified address';

CREATE TYPE gifts.gift_status AS ENUM ('active', 'depleted', 'expired', 'cancelled');
COMMENT ON TYPE gifts.gift_status IS
'active can be redeemed; depleted was redeemed; expired and cancelled went back to the creator';

CREATE TYPE gifts.attempt_outcome AS ENUM (
    'success', 'failed_wrong_user', 'failed_depleted', 'failed_expired',
    'failed_already_claimed', 'failed_cancelled'
);
COMMENT ON TYPE gifts.attempt_outcome IS
'depleted: somebody else had redeemed it; already_claimed: somebody else did while this attempt waited';

CREATE TABLE gifts.gift_codes (
    id uuid NOT NULL,
    code text NOT NULL,
    creator_id text NOT NULL,
    creator_name text,
    total_credits bigint NOT NULL,
    type gifts.gift_type NOT NULL,
    status gifts.gift_status NOT NULL DEFAULT 'active',
    target_email text,
    message text,
    expires_at timestamptz NOT NULL,
    redeemed_by text,
    redeemed_at timestamptz,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    CONSTRAINT gift_codes_pkey PRIMARY KEY (id),
    CONSTRAINT gift_codes_code_key UNIQUE (code),
    CONSTRAINT gift_codes_code_check CHECK (code ~ '^[A-HJ-NP-Z2-9]{4,32}$'),
    CONSTRAINT gift_codes_credits_check CHECK (total_credits BETWEEN 1 AND 10000),
    CONSTRAINT gift_codes_target_check CHECK (
        (type = 'personalized') = (target_email IS NOT NULL)
        AND (target_email IS NULL OR target_email = lower(target_email))
    ),
    CONSTRAINT gift_codes_texts_check CHECK (
        char_length(creator_name) <= 64
        AND char_length(target_email) BETWEEN 3 AND 254
        AND char_length(message) <= 500
    ),
    CONSTRAINT gift_codes_redemption_check CHECK (
        (status = 'depleted') = (redeemed_by IS NOT NULL)
        AND (redeemed_by IS NULL) = (redeemed_at IS NULL)
    )
) WITH (fillfactor = 90);
CREATE INDEX gift_codes_creator ON gifts.gift_codes (creator_id, created_at DESC, id DESC);
CREATE INDEX gift_codes_active_expiry ON gifts.gift_codes (expires_at) WHERE status = 'active';
CREATE INDEX gift_codes_active_target ON gifts.gift_codes (target_email)
WHERE status = 'active' AND target_email IS NOT NULL;
COMMENT ON TABLE gifts.gift_codes IS
'Gift codes. While one is active it holds credits that left its creator and reached nobody yet: its code is money';
COMMENT ON COLUMN gifts.gift_codes.id IS 'The gift''s id, drawn before the call; reference_id of its ledger rows';
COMMENT ON COLUMN gifts.gift_codes.code IS 'Upper case, without hyphens; 12 of 32 characters (60 bits), older ones may be shorter';
COMMENT ON COLUMN gifts.gift_codes.creator_id IS 'The user who gives';
COMMENT ON COLUMN gifts.gift_codes.creator_name IS 'Shown to whoever has the code; null where the name could be an address';
COMMENT ON COLUMN gifts.gift_codes.total_credits IS 'Credits in the code, all for one redeemer';
COMMENT ON COLUMN gifts.gift_codes.type IS 'Who may redeem it';
COMMENT ON COLUMN gifts.gift_codes.status IS 'What became of it';
COMMENT ON COLUMN gifts.gift_codes.target_email IS 'For personalized gifts: whose, in lower case';
COMMENT ON COLUMN gifts.gift_codes.message IS 'From the creator to the redeemer';
COMMENT ON COLUMN gifts.gift_codes.expires_at IS 'From then on it cannot be redeemed, and a job returns it';
COMMENT ON COLUMN gifts.gift_codes.redeemed_by IS 'The user who got it';
COMMENT ON COLUMN gifts.gift_codes.redeemed_at IS 'When';
COMMENT ON COLUMN gifts.gift_codes.created_at IS 'When it was made';
COMMENT ON COLUMN gifts.gift_codes.updated_at IS 'When it last changed';

CREATE TABLE gifts.gift_redemptions (
    user_id text NOT NULL,
    id uuid NOT NULL,
    gift_id uuid NOT NULL,
    outcome gifts.attempt_outcome NOT NULL,
    credits bigint NOT NULL,
    source_app_id text,
    created_at timestamptz NOT NULL,
    CONSTRAINT gift_redemptions_pkey PRIMARY KEY (user_id, id),
    CONSTRAINT gift_redemptions_credits_check CHECK (
        CASE outcome WHEN 'success' THEN credits > 0 ELSE credits = 0 END
    ),
    CONSTRAINT gift_redemptions_source_app_id_check CHECK (char_length(source_app_id) BETWEEN 1 AND 64)
);
COMMENT ON TABLE gifts.gift_redemptions IS
'Every attempt on a known code, with its outcome; a repeat by the redeemer adds no row. No foreign key leads to the gift: gifts are global, attempts belong to a user';
COMMENT ON COLUMN gifts.gift_redemptions.user_id IS 'Who tried';
COMMENT ON COLUMN gifts.gift_redemptions.id IS 'The attempt (UUIDv7); for a success the id of its ledger row';
COMMENT ON COLUMN gifts.gift_redemptions.gift_id IS 'The gift';
COMMENT ON COLUMN gifts.gift_redemptions.outcome IS 'How it ended';
COMMENT ON COLUMN gifts.gift_redemptions.credits IS 'Credits received; 0 unless it succeeded';
COMMENT ON COLUMN gifts.gift_redemptions.source_app_id IS 'The app in which it was tried';
COMMENT ON COLUMN gifts.gift_redemptions.created_at IS 'When';

RESET ROLE;
