from __future__ import annotations

from typing import Any


def insert(account, number: int, **columns: Any) -> str:
    """A project made at one moment for all: order then depends on the id alone."""
    project_id = f"proj_{number:026d}"
    with account.platform.backends.database.transaction() as connection:
        connection.execute(
            "INSERT INTO projects (id, tenant_id, name, slug, framework, created_at) "
            "VALUES (%(id)s, %(tenant_id)s, %(name)s, %(slug)s, %(framework)s, "
            "        '2026-01-01T00:00:00.123456Z'::timestamptz + make_interval(secs => %(offset)s))",
            {
                "id": project_id,
                "tenant_id": account.tenant_id,
                "name": columns.get("name", "p"),
                "slug": f"p-{number}",
                "framework": columns.get("framework"),
                "offset": columns.get("offset", 0),
            },
        )
    return project_id


def pages(account, query: str, between: Any = lambda: None) -> list[list[str]]:
    collected, cursor = [], None
    while True:
        suffix = f"&cursor={cursor}" if cursor else ""
        response = account.request("GET", f"/api/projects?{query}{suffix}")
        assert response.status_code == 200, response.text
        body = response.json()
        collected.append([project["id"] for project in body["data"]])
        if not body["meta"]["pagination"]["hasMore"]:
            assert "cursor" not in body["meta"]["pagination"]
            return collected
        cursor = body["meta"]["pagination"]["cursor"]
        between()


def test_pages_hold_each_item_once_for_every_sort(account) -> None:
    identifiers = [insert(account, n, name=f"name {n % 3}", offset=n // 4 / 1_000_000) for n in range(11)]
    for sort in ("createdAt", "-createdAt", "name", "-name"):
        check_pages(account, identifiers, sort)


def check_pages(account, identifiers: list[str], sort: str) -> None:
    collected = pages(account, f"limit=3&sort={sort}")
    assert [len(page) for page in collected] == [3, 3, 3, 2]
    flat = [project_id for page in collected for project_id in page]
    key = {project_id: (n % 3 if "name" in sort else n // 4, n) for n, project_id in enumerate(identifiers)}
    assert flat == sorted(identifiers, key=key.__getitem__, reverse=sort.startswith("-"))


def test_inserts_between_pages_lose_and_repeat_nothing(account) -> None:
    identifiers = [insert(account, n) for n in range(10, 20)]
    numbers = iter([99, 98, 97, 0, 1, 2])
    collected = pages(account, "limit=2", between=lambda: insert(account, next(numbers), offset=5))
    flat = [project_id for page in collected for project_id in page]
    assert len(flat) == len(set(flat))
    assert [project_id for project_id in flat if project_id in identifiers] == identifiers[::-1]


def test_cursors_are_bound_to_sort_filter_list_and_user(account, register) -> None:
    for number in range(3):
        insert(account, number, framework="vite")
    cursor = account.request("GET", "/api/projects?limit=1").json()["meta"]["pagination"]["cursor"]
    bob = register("bob@example.com")
    last = cursor[-1]
    for who, query in [
        (account, f"cursor={cursor}&sort=name"),
        (account, f"cursor={cursor}&framework=vite"),
        (account, f"cursor={cursor[:-1]}{'A' if last != 'A' else 'Q'}"),
        (account, "cursor=nonsense"),
        (account, "cursor=%C3%A9"),
        (account, "cursor="),
        (bob, f"cursor={cursor}"),
    ]:
        response = who.request("GET", f"/api/projects?{query}")
        assert (response.status_code, response.json()["error"]["code"]) == (400, "INVALID_CURSOR"), query
    elsewhere = account.request("GET", f"/api/auth/tokens?cursor={cursor}")
    assert elsewhere.json()["error"]["code"] == "INVALID_CURSOR"
    assert account.request("GET", f"/api/projects?limit=2&cursor={cursor}").status_code == 200


def test_total_is_counted_when_asked_for(account) -> None:
    for number in range(3):
        insert(account, number, framework="vite" if number else "astro")
    plain = account.request("GET", "/api/projects").json()["meta"]["pagination"]
    assert plain == {"hasMore": False}
    assert account.request("GET", "/api/projects?total=true&limit=1").json()["meta"]["pagination"]["total"] == 3
    filtered = account.request("GET", "/api/projects?total=true&framework=vite,next").json()
    assert filtered["meta"]["pagination"]["total"] == len(filtered["data"]) == 2


REFUSED = [
    ("limit=0", "INVALID_FILTER"),
    ("limit=101", "INVALID_FILTER"),
    ("limit=many", "INVALID_FILTER"),
    ("limit=99999999999999999999999", "INVALID_FILTER"),
    ("total=maybe", "INVALID_FILTER"),
    ("sort=slug", "INVALID_SORT"),
    ("sort=--name", "INVALID_SORT"),
    ("page=2", "INVALID_FILTER"),
    ("framework=%00", "INVALID_FILTER"),
    ("%00=1", "INVALID_FILTER"),
]


def test_queries_that_are_refused(account) -> None:
    for query, code in REFUSED:
        response = account.request("GET", f"/api/projects?{query}")
        assert (response.status_code, response.json()["error"]["code"]) == (400, code), query


def test_statuses_of_deployments_are_checked(account) -> None:
    assert account.request("GET", "/api/deployments?status=READY,building&isPreview=false").status_code == 200
    for query in ("status=done", "status=", "status=,"):
        response = account.request("GET", f"/api/deployments?{query}")
        assert (response.status_code, response.json()["error"]["code"]) == (400, "INVALID_FILTER")
