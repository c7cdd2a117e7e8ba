"""The example under docs/guide/, by Flask's own test client."""

import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.test_vfs.origin import Origin, origin

EXAMPLE = Path(__file__).parents[2] / "docs/guide/flask_app.py"


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Origin]:
    with origin(tmp_path, f"file://{tmp_path}/replica") as made:
        made.commit(
            "CREATE TABLE sandwich_ratings (sandwich TEXT, stars INTEGER)",
            "INSERT INTO sandwich_ratings VALUES ('BLT', 5), ('Reuben', 2)",
        )
        made.commit(
            "INSERT INTO sandwich_ratings VALUES ('BLT', 2), ('Club', 3)",
            "DELETE FROM sandwich_ratings WHERE sandwich = 'Reuben'",
        )
        yield made


@pytest.fixture
def client(source: Origin, monkeypatch: pytest.MonkeyPatch) -> FlaskClient:
    monkeypatch.setenv("RATINGS_REPLICA", source.url)
    app: Flask = runpy.run_path(str(EXAMPLE))["create_app"]()
    return app.test_client()


def test_the_past_stands_beside_today(source: Origin, client: FlaskClient) -> None:
    for _ in range(2):  # what one request attached is not in the way of the next
        page = client.get("/", query_string={"before": source.times[1].isoformat()}).text
        for row in (
            "<td>BLT<td>5.0<td>3.5<td>-1.5",
            "<td>Club<td>-<td>3.0<td>",
            "<td>Reuben<td>2.0<td>-<td>",
        ):
            assert row in page
    assert "<td>BLT<td>3.5<td>3.5<td>\n" in client.get("/?before=now").text


def test_the_application_follows_and_says_how_old_its_data_is(source: Origin, client: FlaskClient) -> None:
    state = client.get("/state").get_json()
    assert state["txid"] == f"{2:016x}"
    assert 0 <= float(state["lag"]) < 60
    assert state["time"].startswith(source.times[2].strftime("%Y-%m-%dT%H:%M:%S"))


def test_a_wrong_time_is_answered_with_what_is_wrong(client: FlaskClient) -> None:
    none = client.get("/?before=when")
    assert (none.status_code, "not a time: 'when'" in none.text) == (400, True)
    gone = client.get("/")  # a day ago there was nothing
    assert (gone.status_code, "is before all that is kept" in gone.text) == (404, True)
    assert "Ask for another moment, such as /?before=5+minutes+ago" in gone.text
    assert client.get("/?before=5+minutes+ago").status_code == 404  # it is younger still
    assert client.get("/?before=now").status_code == 200


def test_without_a_replica_it_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RATINGS_REPLICA", raising=False)
    with pytest.raises(SystemExit, match="set RATINGS_REPLICA to a replica"):
        runpy.run_path(str(EXAMPLE))["create_app"]()
