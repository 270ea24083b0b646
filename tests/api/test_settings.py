"""Settings: the defaults and rules of the README's table."""

from ipaddress import ip_network
from pathlib import Path

import pytest

from service import __main__ as command_line
from service.settings import DEVELOPMENT_DATABASE_URL, Settings, SettingsError

DEVELOPMENT = {"MANA_ENV": "development"}
PRODUCTION = {
    "DATABASE_URL": "postgresql://mana:hush-hush@db/mana_credits",
    "MANA_AUTH_URL": "https://auth.example.org",
    "MANA_SERVICE_KEY": "very-secret-key",
}


def test_development_needs_nothing() -> None:
    settings = Settings.from_env(DEVELOPMENT)
    assert not settings.production
    assert settings.port == 3061
    assert settings.database_url == DEVELOPMENT_DATABASE_URL
    assert settings.admin_database_url == DEVELOPMENT_DATABASE_URL
    assert settings.listen_database_url == DEVELOPMENT_DATABASE_URL
    assert settings.cron_database == "postgres"
    assert settings.database_statement_cache is None
    assert settings.auth_url == "http://localhost:3001"
    assert settings.jwks_url == "http://localhost:3001/api/auth/jwks"
    assert settings.service_keys == ("dev-service-key",)
    assert settings.notify_url is None
    assert settings.base_url == "http://localhost:3061"
    assert settings.stripe is None
    assert settings.cors_origins == ("http://localhost:5173", "http://localhost:5180")
    assert settings.trusted_proxies == ()
    assert settings.log_level == "info"
    assert settings.metrics_port is None
    assert settings.login_url is None


def test_production_is_the_default_and_has_no_admin_login() -> None:
    settings = Settings.from_env(PRODUCTION)
    assert settings.production
    assert settings.admin_database_url is None
    assert settings.listen_database_url == PRODUCTION["DATABASE_URL"]
    with pytest.raises(SettingsError, match="ADMIN_DATABASE_URL"):
        settings.require_admin_database_url()


def test_everything_can_be_set() -> None:
    settings = Settings.from_env(
        PRODUCTION
        | {
            "PORT": "8080",
            "ADMIN_DATABASE_URL": "postgres://admin@db/mana_credits",
            "LISTEN_DATABASE_URL": "postgres://direct@db/mana_credits",
            "CRON_DATABASE": "cron",
            "DATABASE_POOL_MAX": "3",
            "DATABASE_STATEMENT_CACHE": "0",
            "JWKS_URL": "http://auth.internal/keys",
            "MANA_SERVICE_KEY": " old , new ",
            "MANA_NOTIFY_URL": "http://notify/",
            "BASE_URL": "https://credits.example.org/",
            "STRIPE_SECRET_KEY": "sk_test_1",
            "STRIPE_WEBHOOK_SECRET": "whsec_1",
            "STRIPE_API_BASE": "http://localhost:8420/",
            "CORS_ORIGINS": "https://App.example.org:443, http://localhost:5173,capacitor://localhost",
            "TRUSTED_PROXIES": "10.0.0.0/8, ::1",
            "LOG_LEVEL": "DEBUG",
            "METRICS_PORT": "9090",
            "MANA_LOGIN_URL": "https://auth.example.org/login",
        }
    )
    assert settings.port == 8080
    assert settings.require_admin_database_url() == "postgres://admin@db/mana_credits"
    assert settings.listen_database_url == "postgres://direct@db/mana_credits"
    assert settings.cron_database == "cron"
    assert (settings.database_pool_max, settings.database_statement_cache) == (3, 0)
    assert settings.jwks_url == "http://auth.internal/keys"
    assert settings.service_keys == ("old", "new")
    assert settings.notify_url == "http://notify"
    assert settings.base_url == settings.base_origin == "https://credits.example.org"
    assert settings.stripe is not None
    assert settings.stripe.api_base == "http://localhost:8420"
    assert settings.cors_origins == (
        "https://app.example.org",
        "http://localhost:5173",
        "capacitor://localhost",
    )
    assert settings.trusted_proxies == (ip_network("10.0.0.0/8"), ip_network("::1"))
    assert settings.log_level == "debug"
    assert settings.metrics_port == 9090
    assert settings.login_url == "https://auth.example.org/login"


@pytest.mark.parametrize("name", ["DATABASE_URL", "MANA_AUTH_URL", "MANA_SERVICE_KEY"])
@pytest.mark.parametrize("value", [None, "", "   "])
def test_production_requires(name: str, value: str | None) -> None:
    env = {key: text for key, text in PRODUCTION.items() if key != name}
    if value is not None:
        env[name] = value
    with pytest.raises(SettingsError, match=name):
        Settings.from_env(env)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MANA_ENV", "staging"),
        ("PORT", "0"),
        ("PORT", "65536"),
        ("PORT", "+80"),
        ("PORT", "80.0"),
        ("PORT", "٣٠٦١"),
        ("DATABASE_URL", "mysql://mana@db/x"),
        ("DATABASE_URL", "postgresql://mana:sekret@db:port/x"),
        ("ADMIN_DATABASE_URL", "sekret"),
        ("LISTEN_DATABASE_URL", "http://sekret"),
        ("DATABASE_POOL_MAX", "0"),
        ("DATABASE_STATEMENT_CACHE", "-1"),
        ("MANA_AUTH_URL", "auth.example.org"),
        ("MANA_AUTH_URL", "https://user:sekret@auth.example.org"),
        ("JWKS_URL", "ftp://auth/keys"),
        ("MANA_NOTIFY_URL", "http://"),
        ("BASE_URL", "https://x/?a=b"),
        ("BASE_URL", "http://[::1"),
        ("MANA_SERVICE_KEY", "two words"),
        ("MANA_SERVICE_KEY", "schlüssel"),
        ("MANA_SERVICE_KEY", " , "),
        ("CORS_ORIGINS", "*"),
        ("CORS_ORIGINS", "http://localhost:5173,*"),
        ("CORS_ORIGINS", "null"),
        ("CORS_ORIGINS", "https://app.example.org/"),
        ("CORS_ORIGINS", "https://app.example.org/path"),
        ("CORS_ORIGINS", "https://*.example.org"),
        ("CORS_ORIGINS", "app.example.org"),
        ("CORS_ORIGINS", "https://app.example.org:99999"),
        ("CORS_ORIGINS", "https://user@app.example.org"),
        ("TRUSTED_PROXIES", "10.0.0.1/8"),
        ("TRUSTED_PROXIES", "proxy.example.org"),
        ("LOG_LEVEL", "loud"),
        ("METRICS_PORT", "none"),
        ("MANA_LOGIN_URL", "/login"),
        ("STRIPE_API_BASE", "stripe"),
        ("CRON_DATABASE", "a\nb"),
    ],
)
def test_malformed(name: str, value: str) -> None:
    with pytest.raises(SettingsError) as raised:
        Settings.from_env(DEVELOPMENT | {name: value})
    said = str(raised.value)
    assert name in said
    assert "\n" not in said
    assert "sekret" not in said


@pytest.mark.parametrize("missing", ["STRIPE_SECRET_KEY", "STRIPE_WEBHOOK_SECRET"])
def test_stripe_needs_both_secrets(missing: str) -> None:
    env = DEVELOPMENT | {"STRIPE_SECRET_KEY": "sk_test_1", "STRIPE_WEBHOOK_SECRET": "whsec_1"}
    del env[missing]
    with pytest.raises(SettingsError, match=missing):
        Settings.from_env(env)


@pytest.mark.parametrize("keys", ["dev-service-key", "good-key,dev-service-key"])
def test_the_development_key_is_refused_in_production(keys: str) -> None:
    with pytest.raises(SettingsError, match="MANA_SERVICE_KEY"):
        Settings.from_env(PRODUCTION | {"MANA_SERVICE_KEY": keys})


def test_secrets_are_not_shown() -> None:
    settings = Settings.from_env(
        PRODUCTION
        | {
            "ADMIN_DATABASE_URL": "postgresql://root:top%20secret@db/x?password=other-secret",
            "STRIPE_SECRET_KEY": "sk_live_hidden",
            "STRIPE_WEBHOOK_SECRET": "whsec_hidden",
        }
    )
    secrets = settings.secrets()
    assert {
        "hush-hush",
        "very-secret-key",
        "sk_live_hidden",
        "whsec_hidden",
        "top%20secret",
        "top secret",
        "other-secret",
    } == set(secrets)
    for secret in secrets:
        assert secret not in repr(settings)


def test_the_env_file_is_for_development_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("PORT=4000\nBASE_URL=http://file\nMANA_ENV=production\n")
    monkeypatch.chdir(tmp_path)
    read = command_line._environment
    assert read({"MANA_ENV": "development", "PORT": "5000"}, development=False) == {
        "MANA_ENV": "development",
        "PORT": "5000",
        "BASE_URL": "http://file",
    }
    assert read({}, development=False) == {}
    assert read({"MANA_ENV": "production"}, development=False) == {"MANA_ENV": "production"}
    assert read({}, development=True)["MANA_ENV"] == "development"
    with pytest.raises(SettingsError, match="MANA_ENV"):
        read({"MANA_ENV": "production"}, development=True)


def test_a_wrong_setting_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MANA_ENV", "development")
    monkeypatch.setenv("PORT", "many")
    assert command_line.main(["serve"]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == "mana-credits: PORT must be a whole number from 1 to 65535\n"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        command_line.main(["--version"])
    assert raised.value.code == 0
    assert capsys.readouterr().out.startswith("mana-credits ")


def test_metrics_have_a_port_of_their_own() -> None:
    with pytest.raises(SettingsError, match="METRICS_PORT"):
        Settings.from_env({"MANA_ENV": "development", "PORT": "4000", "METRICS_PORT": "4000"})
