"""Yesterday's ratings beside today's: a Flask application that reads nothing but a replica.

pip install flask '.[sqlalchemy]'    # in a checkout
RATINGS_REPLICA=s3://bucket/app flask --app docs/guide/flask_app run
"""

import os
import sys

from flask import Flask, Response, jsonify, render_template_string, request
from sqlalchemy import URL, create_engine, text
from sqlalchemy.exc import OperationalError, ProgrammingError

import ltx
import vfs

CHANGES = text("""
    WITH today AS (SELECT sandwich, avg(stars) AS stars FROM main.sandwich_ratings GROUP BY sandwich),
         before AS (SELECT sandwich, avg(stars) AS stars FROM past.sandwich_ratings GROUP BY sandwich)
    SELECT sandwich, before.stars AS before, today.stars AS today, today.stars - before.stars AS change
    FROM today FULL JOIN before USING (sandwich) ORDER BY sandwich
""")

PAGE = """<!doctype html>
<title>Sandwiches</title>
<h1>Sandwiches {{ before }} and today</h1>
<table>
<tr><th>sandwich<th>before<th>today<th>change
{% for row in rows -%}
<tr><td>{{ row.sandwich }}<td>{{ row.before or "-" }}<td>{{ row.today or "-" }}<td>{{ row.change or "" }}
{% endfor -%}
</table>
<p>As of {{ time }}.
"""


def create_app(replica: str = "") -> Flask:
    """Make the application.

    Args:
        replica: The replica's URL; "" takes it from RATINGS_REPLICA. Credentials come from the environment.
    """
    app = Flask(__name__)
    url = replica or os.environ.get("RATINGS_REPLICA")
    if not url:
        sys.exit("set RATINGS_REPLICA to a replica with a table sandwich_ratings, such as s3://bucket/app")
    engine = create_engine(URL.create("sqlite+litestream", query={"replica_url": url}))

    @app.get("/")
    def compare() -> str:
        """Join the table with its own past; `?before=2026-11-20` takes another one."""
        before = request.args.get("before", "1 day ago")
        with engine.connect() as connection:
            connection.exec_driver_sql("ATTACH ? AS past", (vfs.uri(url, at=before),))
            rows = connection.execute(CHANGES).all()
            time = connection.exec_driver_sql("PRAGMA litestream_time").scalar()
        return render_template_string(PAGE, before=before, rows=rows, time=time)

    @app.get("/state")
    def state() -> Response:
        """Say how old the data is."""
        with engine.connect() as connection:
            names = ("time", "txid", "lag")
            found = {name: connection.exec_driver_sql(f"PRAGMA litestream_{name}").scalar() for name in names}
        return jsonify(found)

    @app.errorhandler(ProgrammingError)
    def means_nothing(error: ProgrammingError) -> tuple[str, int]:
        """Answer a time that is none: the visitor's mistake."""
        return f"{error.orig}\n", 400

    @app.errorhandler(OperationalError)
    def is_not_there(error: OperationalError) -> tuple[str, int]:
        """Answer a time before all that is kept, or a storage that does not answer: the text says which."""
        if error.orig and isinstance(error.orig.__cause__, ltx.NotReachableError):
            return f"{error.orig}\nAsk for another moment, such as /?before=5+minutes+ago\n", 404
        return f"{error.orig}\n", 503

    return app
