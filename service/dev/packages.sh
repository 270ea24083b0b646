#!/bin/sh
# Install the system's packages that are missing, where we may; otherwise name them.
#
# With the argument `test`, also what only the tests need; with `bench`, what the benchmark needs.
set -eu

missing=
add() { missing="$missing $*"; }

# The newest PostgreSQL that is there, or else the one that this system's packages have.
version=
for bin in /usr/lib/postgresql/*/bin; do
    [ -x "$bin/postgres" ] || continue
    number=${bin#/usr/lib/postgresql/}
    number=${number%/bin}
    if [ "$number" -ge 15 ] && [ "$number" -ge "${version:-0}" ]; then
        version=$number
    fi
done
extensions=/usr/share/postgresql/$version/extension
if [ -z "$version" ]; then
    if command -v apt-cache >/dev/null; then
        version=$(apt-cache depends postgresql 2>/dev/null | sed -n 's/.*Depends: postgresql-\([0-9][0-9]*\)$/\1/p')
    fi
    version=${version:-15}
    extensions=/usr/share/postgresql/$version/extension
    add "postgresql-$version"
fi
[ -e "$extensions/pg_cron.control" ] || add "postgresql-$version-cron"
if [ "${1:-}" = test ]; then
    [ -e "$extensions/plpgsql_check.control" ] || add "postgresql-$version-plpgsql-check"
    # A font as well, without which Chromium shows no letter.
    [ -x /usr/bin/chromium-headless-shell ] || add chromium-headless-shell fonts-dejavu-core
    [ -x /usr/sbin/pgbouncer ] || command -v pgbouncer >/dev/null || add pgbouncer
    command -v node >/dev/null || add nodejs
    command -v npm >/dev/null || add npm
fi
if [ "${1:-}" = bench ]; then
    command -v wrk >/dev/null || add wrk
fi
if ! command -v python3 >/dev/null; then
    add python3 python3-venv
elif ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
    add python3-venv
fi

[ -n "$missing" ] || exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "Missing packages (Debian's names):$missing" >&2
    echo "Install them first, as root: apt-get install$missing" >&2
    exit 1
fi
echo "Installing$missing" >&2
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086 # a list of names
apt-get install -y -qq --no-install-recommends $missing >/dev/null ||
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing >/dev/null; }
