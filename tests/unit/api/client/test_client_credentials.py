from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from api.client.credentials import DEFAULT_API_URL, CredentialFiles, Link, normalise_api_url
from api.client.errors import ClientError


def files(tmp_path: Path, **environment: str) -> CredentialFiles:
    return CredentialFiles(environment, tmp_path / "home", tmp_path / "work")


def write(path: Path, api_url: str, token: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"apiUrl": api_url, "token": token}))


def test_flags_come_before_the_environment_before_the_files(tmp_path: Path) -> None:
    found = files(tmp_path, CLOUDIFY_TOKEN="env", CLOUDIFY_API_URL="http://env")
    write(found.login_file, "http://login", "login")
    write(found.platform_file, "http://platform", "platform")
    everything = found.find(api_url="http://flag", token="flag")
    assert (everything.api_url, everything.token) == ("http://flag", "flag")
    from_environment = found.find()
    assert (from_environment.api_url, from_environment.token) == ("http://env", "env")
    from_login = files(tmp_path).find()
    assert (from_login.api_url, from_login.token) == ("http://login", "login")
    found.login_file.unlink()
    from_platform = files(tmp_path).find()
    assert (from_platform.api_url, from_platform.token) == ("http://platform", "platform")
    found.platform_file.unlink()
    nothing = files(tmp_path).find()
    assert (nothing.api_url, nothing.token) == (DEFAULT_API_URL, None)


def test_a_stored_token_is_never_sent_to_another_api(tmp_path: Path) -> None:
    found = files(tmp_path)
    write(found.login_file, "http://login", "login")
    write(found.platform_file, "http://platform", "platform")
    assert found.find(api_url="http://elsewhere").token is None
    assert found.find(api_url="http://platform/").token == "platform"
    assert files(tmp_path, CLOUDIFY_API_URL="http://elsewhere").find().token is None


def test_logins_to_several_apis_are_kept(tmp_path: Path) -> None:
    found = files(tmp_path)
    assert found.store("http://a", "token-a") == "a"
    assert found.store("https://b:8443", "token-b") == "b:8443"
    assert found.store("http://a", "token-c", "second") == "second"
    assert found.profiles() == {"a": "http://a", "b:8443": "https://b:8443", "second": "http://a"}
    last = found.find()
    assert (last.api_url, last.token, last.profile) == ("http://a", "token-c", "second")
    assert found.find(api_url="https://b:8443").token == "token-b"
    assert found.find(profile="a").token == "token-a"
    assert files(tmp_path, CLOUDIFY_PROFILE="a").find().token == "token-a"
    # Logging in again to the API of the last login replaces that one.
    assert found.store("http://a", "token-d") == "second"
    assert found.find(profile="second").token == "token-d"
    for wrong in ({"profile": "c"}, {"profile": "a", "api_url": "http://b"}):
        with pytest.raises(ClientError):
            found.find(**wrong)
    assert stat.S_IMODE(found.login_file.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("link", "environment", "renewed"),
    [
        (Link("http://a", "staging"), {}, "staging"),
        (Link("http://a", "staging"), {"CLOUDIFY_PROFILE": "second"}, "second"),
        (Link("http://b", "b"), {}, "a"),
        (Link("http://a"), {}, "a"),
        (None, {}, "a"),
    ],
)
def test_a_login_renews_the_one_that_is_used(
    tmp_path: Path, link: Link | None, environment: dict[str, str], renewed: str
) -> None:
    found = files(tmp_path, **environment)
    for name in ("staging", "second"):
        found.store("http://a", "old", name)
    found.store("http://b", "token-b")
    assert found.store("http://a", "new", link=link) == renewed
    assert found.find(profile=renewed).token == "new"
    found.store("http://b", "token-b")
    assert found.find(api_url="http://a").token == "new"


def test_the_only_login_of_an_api_is_renewed(tmp_path: Path) -> None:
    found = files(tmp_path)
    found.store("http://a", "old", "staging")
    found.store("http://b", "token-b")
    assert found.store("http://a", "new") == "staging"
    assert found.profiles() == {"b": "http://b", "staging": "http://a"}


def test_a_login_goes_to_the_api_of_the_link_unless_one_is_named(tmp_path: Path) -> None:
    found, link = files(tmp_path), Link("http://a", "staging")
    found.store("http://a", "old", "staging")
    found.store("http://b", "token-b")
    assert found.login_target(api_url=None, profile=None, link=link) == "http://a"
    assert found.login_target(api_url=None, profile="new", link=link) == "http://a"
    assert found.login_target(api_url=None, profile=None) == "http://b"
    assert found.login_target(api_url="http://c", profile=None, link=link) == "http://c"
    assert found.login_target(api_url=None, profile="b", link=link) == "http://b"
    in_environment = files(tmp_path, CLOUDIFY_PROFILE="b")
    assert in_environment.login_target(api_url=None, profile=None, link=link) == "http://b"


def test_a_file_from_before_profiles_is_one(tmp_path: Path) -> None:
    found = files(tmp_path)
    write(found.login_file, "http://login:8000", "old")
    assert found.find(profile="login:8000").token == "old"
    found.store("http://new", "new")
    assert found.find(api_url="http://login:8000").token == "old"


def test_a_link_chooses_the_api_and_its_token_alone(tmp_path: Path) -> None:
    found = files(tmp_path)
    found.store("http://a", "token-a")
    found.store("http://a", "token-s", "second")
    found.store("http://b", "token-b")
    assert found.find(link=Link("http://a")).token == "token-s"
    assert found.find(link=Link("http://a", "second")).token == "token-s"
    assert found.find(link=Link("http://a", "gone")).api_url == "http://a"
    assert found.find(link=Link("http://unknown")).token is None
    assert found.find(api_url="http://b", link=Link("http://a")).token == "token-b"
    with_token = files(tmp_path, CLOUDIFY_TOKEN="env").find(link=Link("http://a"))
    assert (with_token.api_url, with_token.token) == ("http://a", "env")


def test_a_link_to_the_platform_here_follows_its_port(tmp_path: Path) -> None:
    found = files(tmp_path)
    write(found.platform_file, "http://127.0.0.1:8001", "platform")
    assert found.find(link=Link("http://127.0.0.1:8000")).api_url == "http://127.0.0.1:8001"
    assert found.find(link=Link("https://cloud.example.com")).token is None


def test_a_token_alone_goes_to_the_stored_api(tmp_path: Path) -> None:
    found = files(tmp_path, CLOUDIFY_TOKEN="env")
    write(found.login_file, "http://login", "login")
    assert (found.find().api_url, found.find().token) == ("http://login", "env")


def test_the_places_of_the_files_follow_the_environment(tmp_path: Path) -> None:
    found = files(tmp_path, XDG_CONFIG_HOME=str(tmp_path / "xdg"), CLOUDIFY_HOME=str(tmp_path / "data"))
    assert found.login_file == tmp_path / "xdg/cloudify/credentials.json"
    assert found.platform_file == tmp_path / "data/credentials.json"
    assert files(tmp_path).platform_file == tmp_path / "work/.cloudify/credentials.json"


def test_only_the_owner_can_read_what_login_stores(tmp_path: Path) -> None:
    found = files(tmp_path)
    found.store("http://api", "first")
    path = found.login_file
    path.chmod(0o644)
    found.store("http://api", "second")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert found.find().token == "second"
    assert {item.name for item in path.parent.iterdir()} == {"credentials.json", "credentials.json.lock"}


@pytest.mark.parametrize("content", ["", "{}", "not json", '{"apiUrl": 1, "token": "x"}', '{"apiUrl":"x","token":"t"}'])
def test_a_broken_file_is_a_clear_error(tmp_path: Path, content: str) -> None:
    found = files(tmp_path)
    found.login_file.parent.mkdir(parents=True)
    found.login_file.write_text(content)
    with pytest.raises(ClientError):
        found.find()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("http://localhost:8000/", "http://localhost:8000"),
        ("https://example.com/api", "https://example.com"),
        ("https://example.com/prefix/api/", "https://example.com/prefix"),
        ("http://[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_addresses_are_brought_into_one_form(given: str, expected: str) -> None:
    assert normalise_api_url(given) == expected


@pytest.mark.parametrize(
    "given",
    ["", "localhost:8000", "ftp://x", "http://", "http://u:secret@x", "http://x?q", "http://a b", "http://x:99999999",
     "http://x\r\nHost: y"],
)  # fmt: skip
def test_other_addresses_are_refused_without_showing_passwords(given: str) -> None:
    with pytest.raises(ClientError) as caught:
        normalise_api_url(given)
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("token", ["", "  ", "a b", "a\nb", "ключ"])
def test_an_unusable_token_is_refused(tmp_path: Path, token: str) -> None:
    with pytest.raises(ClientError):
        files(tmp_path).find(token=token, api_url="http://x")


def test_credentials_hide_their_token(tmp_path: Path) -> None:
    assert "secret" not in repr(files(tmp_path).find(token="secret", api_url="http://x"))
