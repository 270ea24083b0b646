-- gifts._forget_person: put a pseudonym where a user was in gifts, and clear what was written there.
--
-- The address of a gift that somebody else made for him stays while it can be redeemed, since the
-- giver's credits depend on it; whoever ends the gift clears it (forget_target). The name of a giver
-- is the giver's, and stays.
--
-- Needs: the caller has locked the gifts, and the user's own are all over.
CREATE OR REPLACE FUNCTION gifts._forget_person(
    p_user_id text, p_pseudonym text, p_gift_ids uuid []
)
RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    UPDATE gifts.gift_codes AS g SET
        creator_id = CASE g.creator_id WHEN p_user_id THEN p_pseudonym ELSE g.creator_id END,
        creator_name = CASE g.creator_id WHEN p_user_id THEN NULL ELSE g.creator_name END,
        redeemed_by = CASE g.redeemed_by WHEN p_user_id THEN p_pseudonym ELSE g.redeemed_by END,
        message = CASE WHEN p_user_id IN (g.creator_id, g.redeemed_by) THEN NULL ELSE g.message END,
        target_email = CASE g.status WHEN 'active' THEN g.target_email END,
        forget_target = g.status = 'active'
    WHERE g.id = ANY(p_gift_ids);
    UPDATE gifts.gift_redemptions SET
        user_id = p_pseudonym,
        source_app_id = credits._erased_app(source_app_id, p_user_id)
    WHERE user_id = p_user_id;
END
$$;
COMMENT ON FUNCTION gifts._forget_person(text, text, uuid []) IS
'Replaces a user by a pseudonym in the given gifts and in all attempts, and clears names, messages and addresses';
