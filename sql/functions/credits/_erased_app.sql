-- credits._erased_app: an app as it stays when its user is erased: a name, or the word erased.
--
-- Nobody holds what callers give as an app against a list, and the app of a commit is its reason up to
-- a colon, so all of it where there is none. What has other signs than a name has, as words and
-- addresses do, or names the user, is taken for a text.
CREATE OR REPLACE FUNCTION credits._erased_app(p_app_id text, p_user_id text)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT CASE
        WHEN p_app_id ~ '^[A-Za-z0-9._-]{1,64}$'
            AND strpos(lower(p_app_id), lower(p_user_id)) = 0
            THEN p_app_id
        WHEN p_app_id IS NOT NULL THEN 'erased'
    END
$$;
COMMENT ON FUNCTION credits._erased_app(text, text) IS
'An app''s name as it is; the word erased for any other text, and for what names the user';
