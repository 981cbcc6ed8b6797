"""What is taken for a secret, by name and by form, and how a text is rid of it."""

from __future__ import annotations

import pytest

from squeeze.secret import HUB, hidden, is_secret, without_secrets


@pytest.mark.parametrize(
    "name",
    [
        "HF_TOKEN",
        "JUDGE_API_KEY",
        "APIKEY",
        "API_KEY_2",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "My_Secret",
        "PGPASSWORD",
        "DB_PASSWD",
        "DB_PASS",
        "DB_PWD",
        "GH_PAT",
        "TOKENS",
        "SSH_PASSPHRASE",
        "TOKEN2",
    ],
)
def test_names_of_secrets(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize(
    "name",
    [
        "PATH",
        "PWD",
        "OLDPWD",
        "TOKENIZERS_PARALLELISM",
        "HF_TOKEN_PATH",
        "COMPASS",
        "KEYBOARD",
        "PASSES",
        "LD_LIBRARY_PATH",
        "PATTERN",
        "VLLM_CPU_KVCACHE_SPACE",
        "OMP_NUM_THREADS",
        "CUDA_VISIBLE_DEVICES",
    ],
)
def test_names_of_what_children_need(name: str) -> None:
    assert not is_secret(name)


def test_a_url_with_a_password_is_a_secret_whatever_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:canary%21one@host/db")
    monkeypatch.setenv("https_proxy", "http://me:canary-two@host:3128")
    monkeypatch.setenv("JUDGE_URL", "http://host:8000/v1")
    left = without_secrets()
    assert "DATABASE_URL" not in left and "https_proxy" not in left
    assert left["JUDGE_URL"] == "http://host:8000/v1"
    assert "https_proxy" in HUB  # or no child could fetch anything
    assert hidden("denied: canary%21one, canary!one, canary-two") == "denied: ***, ***, ***"
    assert hidden("postgresql://me:canary%21one@host/db") == "postgresql://me:***@host/db"


def test_of_two_secrets_one_may_begin_as_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "canary")
    monkeypatch.setenv("B_KEY", "canary-and-more")
    assert hidden("canary-and-more canary") == "*** ***"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at postgresql://u:canary@h/db, twice", "at postgresql://u:***@h/db, twice"),
        ("--storage=postgresql://u:can/a@r:y@h/db", "--storage=postgresql://u:***@h/db"),
        ("postgresql:u:canary@h/db", "postgresql:***@h/db"),
        ("postgresql:/u:canary@h/db", "postgresql:***@h/db"),
        ("postgresql:///u:canary@h/db", "postgresql:///u:***@h/db"),
        ("postgresql://u://canary@h/db", "postgresql://u:***@h/db"),
        ("u:canary@h/db", "u:***@h/db"),
        ("{'url':'postgresql://u:canary@h'}", "{'url':***@h'}"),
        ("postgresql://h/db?user=u&sslpassword=canary&x=1", "postgresql://h/db?user=u&sslpassword=***&x=1"),
    ],
)
def test_a_password_in_a_url_is_hidden_however_that_is_mistyped(text: str, shown: str) -> None:
    assert hidden(text, typed=True) == shown


def test_of_what_a_process_prints_only_logins_of_urls_are_hidden() -> None:
    said = "undefined symbol: std::foo@GLIBCXX_3.4 at http://localhost:8000/v1/a@b by vllm:EngineCore@rank0"
    assert hidden(said) == said
    assert hidden(f"{said} postgresql://u:canary@h/db?password=canary") == (
        f"{said} postgresql://u:***@h/db?password=***"
    )


@pytest.mark.parametrize(
    "text",
    [
        "postgresql+psycopg://user@host:5432/db",
        "hf://datasets/LGAI-EXAONE/KMMLU-Pro@0123/test.parquet",
        "http://localhost:8000/v1 said: me@host",
        "trial 3: killed in engine: exit 137; see studies/demo/logs/0003.log",
        "a" * 1_000_000,
    ],
)
def test_what_holds_no_password_is_shown_as_it_is(text: str) -> None:
    assert hidden(text) == text
    assert hidden(text, typed=True) == text
