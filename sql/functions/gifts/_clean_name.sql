-- gifts._clean_name: a name that may be shown to whoever has a code, or null (api.md, Gifts).
--
-- A name with @ or :// in it could be an address that was never meant to be shown, or a link.
CREATE OR REPLACE FUNCTION gifts._clean_name(p_name text)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT CASE
        WHEN strpos(p_name, '@') > 0 OR strpos(p_name, '://') > 0 THEN NULL
        ELSE nullif(btrim(left(btrim(regexp_replace(p_name, '[[:cntrl:]]', '', 'g')), 64)), '')
    END
$$;
COMMENT ON FUNCTION gifts._clean_name(text) IS
'At most 64 characters without control characters; null where it could be an address or a link';
