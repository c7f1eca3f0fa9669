"""A login that is ended while it refreshes has ended, whichever of the two comes first."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from datetime import timedelta

import psycopg
import pytest

from shared.accounts.access_tokens import AccessTokens
from shared.accounts.session_repository import NewSession, SessionRepository
from shared.accounts.session_service import GRACE, IssuedSession, SessionService
from shared.accounts.user_repository import NewUser, UserRepository
from shared.db.database import Database
from shared.errors import ErrorCode, NotFound, Unauthenticated
from tests.support.database_locks import Blocked, blocked
from tests.support.manual_clock import ManualClock

USER = "user_1"


class World:
    def __init__(self, database_url: str) -> None:
        self.database_url = database_url
        self.database = Database(database_url)
        self.clock = ManualClock()
        self.repository = SessionRepository(self.database)
        self.sessions = SessionService(
            database=self.database,
            sessions=self.repository,
            access_tokens=AccessTokens([b"0" * 32], self.clock),
            clock=self.clock,
        )
        with self.database.transaction() as connection:
            UserRepository(self.database).insert(
                connection,
                NewUser(id=USER, email="ada@example.com", name="", password_hash="x", is_platform_administrator=False),
            )

    def start(self) -> IssuedSession:
        return self.sessions.start(USER, user_agent=None, address=None)

    def refresh(self, token: str) -> IssuedSession:
        return self.sessions.refresh(token, user_agent=None, address=None)

    def login_of(self, issued: IssuedSession) -> str:
        return self.sessions.identify(issued.refresh_token).session_id

    def is_live(self, issued: IssuedSession, login_id: str) -> bool:
        """As a request with the access token and a stream with the cookie would see it; both have to agree."""
        row = self.repository.find_user(USER, login_id, self.clock.now())
        assert row is not None
        try:
            self.sessions.identify(issued.refresh_token)
        except Unauthenticated:
            assert not row.is_live
        return row.is_live


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    world = World(database_url)
    yield world
    world.database.close()


def revoke(world: World, issued: IssuedSession, login_id: str) -> None:
    world.sessions.revoke(USER, login_id)


def log_out(world: World, issued: IssuedSession, login_id: str) -> None:
    world.sessions.end(issued.refresh_token)


def reuse(world: World, issued: IssuedSession, login_id: str) -> None:
    """Somebody comes with a refresh token that was replaced long ago."""
    with pytest.raises(Unauthenticated) as raised:
        world.refresh(issued.refresh_token)
    assert raised.value.code is ErrorCode.SESSION_REVOKED


Ending = Callable[[World, IssuedSession, str], None]
ENDINGS: tuple[Ending, ...] = (revoke, log_out, reuse)


@pytest.mark.parametrize("end", ENDINGS)
def test_an_ending_that_waits_for_a_refresh_ends_the_refreshed_login(world: World, end: Ending) -> None:
    first = world.start()
    login_id = world.login_of(first)
    issued = world.refresh(first.refresh_token)
    world.clock.advance(GRACE.total_seconds() + 1)
    token_hash = hashlib.sha256(issued.refresh_token.encode()).digest()
    made: list[Blocked] = []
    with world.database.transaction() as connection:
        # A refresh that has begun: it holds the lock, and its new refresh token is not committed yet.
        row = world.repository.find_locked(connection, token_hash)
        assert row is not None
        world.repository.set_replaced(connection, row.id, world.clock.now())
        world.repository.insert(
            connection,
            NewSession(
                id="sess_new",
                family_id=login_id,
                user_id=USER,
                refresh_token_hash=hashlib.sha256(b"the new one").digest(),
                user_agent=None,
                address=None,
                expires_at=world.clock.now() + timedelta(days=30),
            ),
        )
        with blocked(world.database_url, lambda: end(world, first, login_id)) as ending:
            made.append(ending)
    made[0].result()
    with pytest.raises(Unauthenticated) as raised:
        world.refresh("the new one")
    assert raised.value.code is ErrorCode.SESSION_REVOKED
    assert not world.is_live(issued, login_id)
    assert world.sessions.list(USER, current=None) == []


def test_a_refresh_that_waits_for_an_ending_makes_nothing(world: World) -> None:
    issued = world.start()
    login_id = world.login_of(issued)
    waiting: list[Blocked] = []
    with world.database.transaction() as connection:
        assert world.repository.revoke(connection, login_id, USER, world.clock.now())
        with blocked(world.database_url, lambda: world.refresh(issued.refresh_token)) as refreshing:
            waiting.append(refreshing)
    with pytest.raises(Unauthenticated) as raised:
        waiting[0].result()
    assert raised.value.code is ErrorCode.SESSION_REVOKED
    assert not world.is_live(issued, login_id)


def test_two_refreshes_of_one_token_both_give_a_successor_of_a_login_that_ends_as_one(world: World) -> None:
    issued = world.start()
    login_id = world.login_of(issued)
    successors = [world.refresh(issued.refresh_token) for _ in range(2)]
    world.sessions.revoke(USER, login_id)
    assert not any(world.is_live(successor, login_id) for successor in successors)
    with pytest.raises(NotFound):
        world.sessions.revoke(USER, login_id)


def test_a_login_is_listed_once_with_its_beginning_and_its_last_use(world: World) -> None:
    issued = world.start()
    world.refresh(issued.refresh_token)
    other = world.start()
    listed = world.sessions.list(USER, current=world.login_of(other))
    assert {entry.id for entry in listed} == {world.login_of(issued), world.login_of(other)}
    assert [entry.is_current for entry in listed].count(True) == 1
    assert all(entry.created_at <= entry.last_used_at for entry in listed)


def test_logins_that_are_over_are_deleted_and_others_stay(world: World) -> None:
    over = world.start()
    world.clock.advance(timedelta(days=20).total_seconds())
    kept = world.start()
    world.clock.advance(timedelta(days=11).total_seconds())
    assert world.repository.delete_expired(world.clock.now()) == 1
    with pytest.raises(Unauthenticated):
        world.sessions.identify(over.refresh_token)
    assert world.refresh(kept.refresh_token).user_id == USER
    # The kept login's first refresh token has ended, too; the login lives by its second.
    world.clock.advance(timedelta(days=25).total_seconds())
    assert world.repository.delete_expired(world.clock.now()) == 0
    with psycopg.connect(world.database_url) as connection:
        assert connection.execute("SELECT count(*) FROM sessions").fetchone() == (1,)
