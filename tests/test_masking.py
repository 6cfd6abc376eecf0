"""Secrets in addresses: masked wherever an address is seen, and there again for who connects."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweepstack.errors import StoreError, one_line
from sweepstack.masking import VARIABLE, has_masks, hide, hide_in, lacks_secrets, mask, reveal, reveal_in

SECRET = "hunter22"

ADDRESSES = [
    "postgresql://me:hunter22@host/db",
    "postgresql://:hunter22@host/db",
    "postgresql://me:hunter22@[::1]:5432/db",
    "postgresql://me:hunter22@h1:5432,h2:5432/db",
    "mysql+pymysql://me:pa@hunter22@host:3306/db?x=1",
    "postgresql://me:pa/hunter22@host/db",
    "postgresql://me:pa:hunter22@host/db",
    "postgresql://me:pa?hunter22@host/db",
    "postgresql://me:pa#hunter22@host/db",
    "postgresql://me:pa hunter22@host/db",
    "postgresql://me:%40hunter22%2F@host/db",
    "https://hunter22@host/x",
    "https://hunter22:@host/x",
    "https://hunter22:x-oauth-basic@host",
    "http://me:5000hunter22@host:5000",
    "postgresql://host/db?user=me&password=hunter22&sslmode=x",
    "postgresql://host:5432/db?password=pa@hunter22",
    "postgresql://me:hunter22@host/db?sslpassword=hunter22x",
    "mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BPWD%3Dhunter22",
    "http://host/?token=hunter22#x",
    "http://host/#access_token=hunter22",
]


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "[]")
    monkeypatch.setattr("sweepstack.masking._secrets", {})


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_is_seen_without_its_secrets_and_who_connects_gets_them(address: str) -> None:
    hidden = hide(address)
    assert SECRET not in hidden
    assert "***" in hidden
    assert hide(hidden) == hidden
    assert reveal(hidden) == address
    assert has_masks(hidden)
    assert not lacks_secrets(hidden)


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize(
    "text",
    [
        'cannot connect to "{}": (Background on this: https://sqlalche.me/e/21/e3q8)',
        "tracking.uri='{}'",
        '{{"uri": "{}", "mail": "a@b"}}',
        "line\nOperationalError: '{}'\n",
    ],
)
def test_no_text_tells_what_an_address_holds(address: str, text: str) -> None:
    assert SECRET not in mask(text.format(address))
    assert SECRET not in one_line(text.format(address))
    assert SECRET not in str(StoreError("a store must answer", text.format(address), text.format(address)))


@pytest.mark.parametrize(
    "override",
    [
        "tracking={uri:http://me:hunter22@h,experiment:x@y}",
        "+model.urls=[http://a:hunter22@h,http://c:hunter23@h]",
        "+model.url=http://a:hunter22@h,http://a:hunter23@h",
        "+model.url=choice(http://a:hunter22@h,http://a:hunter23@h)",
        'tracking.uri="postgresql://me:pa,hunter22@host/db"',
    ],
)
def test_overrides_stay_overrides(override: str) -> None:
    hidden = hide(override, unescape=True)
    assert "hunter" not in hidden
    assert reveal(hidden) == override


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:5000/x@y",
        "http://localhost:5000/x@y",
        "https://github.com/a/b@v1",
        "sqlite:////tmp/a@b.db",
        "postgresql://me@host/db",
        "postgresql://me:${oc.env:PASSWORD}@host/db",
        "'http://h:5000/x', me@y",
        "no address: me:hunter22@host",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert hide(text) == text == mask(text)


def test_a_message_of_a_library_does_not_tell_what_was_hidden_before() -> None:
    hide("postgresql://me:hunter%3222@host/db")
    assert (
        mask("password 'hunter222' or 'hunter%3222' is wrong for user me")
        == "password '***' or '***' is wrong for user me"
    )


def test_a_process_that_is_started_knows_what_was_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = hide("http://me:hunter22@host")
    monkeypatch.setattr("sweepstack.masking._secrets", {})
    monkeypatch.setattr("sweepstack.masking._inherited", None)
    assert reveal(hidden) == "http://me:hunter22@host"


def test_a_secret_that_was_written_beside_an_interpolation_is_found_when_that_is_resolved() -> None:
    assert hide("postgresql://me:hunter22@${host}/db") == "postgresql://me:***@${host}/db"
    assert reveal("postgresql://me:***@example.org/db") == "postgresql://me:hunter22@example.org/db"


def test_a_masked_address_whose_secret_nobody_knows_is_noticed() -> None:
    assert lacks_secrets("postgresql://me:***@host/db")
    assert reveal("postgresql://me:***@host/db") == "postgresql://me:***@host/db"


def test_values_inside_of_others_are_reached() -> None:
    value = {"a": ["http://me:hunter22@h", 1, None], "b": {"c": ("ftp://me:hunter23@h",)}}
    assert "hunter" not in str(hide_in(value))
    assert reveal_in(hide_in(value)) == value


@given(
    user=st.text(st.characters(categories=("L", "N")), max_size=8),
    secret=st.text(st.characters(codec="ascii", categories=("L", "N", "P", "S")), min_size=4).filter(
        lambda text: text.strip("*") and not text.startswith("${")
    ),
)
def test_whatever_a_password_is_it_goes_round_and_is_not_seen(user: str, secret: str) -> None:
    address = f"postgresql://{user}:{secret}@host/db"
    assert hide(address).startswith(f"postgresql://{user}:***")
    assert hide(address).endswith("*@host/db")
    assert reveal(hide(address)) == address
