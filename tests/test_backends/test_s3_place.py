"""What an S3 URL, the options and the environment come to, and that no secret shows."""

import traceback
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest

from backends.errors import ConfigError
from backends.s3_place import S3Place, parse

SECRET = "wJalr/XUtn+FEMI@K7MDENG"
QUOTED = "wJalr%2FXUtn%2BFEMI%40K7MDENG"


def place(url: str, environment: Mapping[str, str] = MappingProxyType({}), **options: object) -> S3Place:
    return parse(url, options, environment)


def config(found: S3Place, name: str) -> object:
    settings = found.filesystem["config_kwargs"]
    assert isinstance(settings, dict)
    return settings[name]


class TestForms:
    @pytest.mark.parametrize(
        ("url", "bucket", "root", "endpoint"),
        [
            ("s3://bkt", "bkt", "", ""),
            ("s3://bkt/", "bkt", "", ""),
            ("s3://bkt/a/b/", "bkt", "a/b/", ""),
            ("s3://bkt/a%20b%25", "bkt", "a b%/", ""),
            ("s3://my.dotted.bucket/app", "my.dotted.bucket", "app/", ""),
            ("s3://bkt/app?endpoint=http://127.0.0.1:9000", "bkt", "app/", "http://127.0.0.1:9000"),
            (
                "s3://bkt/app?endpoint=http%3A%2F%2F127.0.0.1%3A9000%2F",
                "bkt",
                "app/",
                "http://127.0.0.1:9000",
            ),
            ("s3://bkt/app?endpoint=localhost:9000", "bkt", "app/", "http://localhost:9000"),
            ("s3://bkt/app?endpoint=192.168.1.5:9000", "bkt", "app/", "http://192.168.1.5:9000"),
            ("s3://bkt/app?endpoint=[::1]:9000", "bkt", "app/", "http://[::1]:9000"),
            ("s3://bkt/app?endpoint=nas.local", "bkt", "app/", "http://nas.local"),
            ("s3://bkt/app?endpoint=fly.storage.tigris.dev", "bkt", "app/", "https://fly.storage.tigris.dev"),
            ("s3://bkt.s3.amazonaws.com/app", "bkt", "app/", ""),
            ("s3://bkt.s3.eu-west-1.amazonaws.com/app", "bkt", "app/", ""),
            ("s3://bkt.s3-eu-west-1.amazonaws.com/app", "bkt", "app/", ""),
            ("s3://my.dotted.s3.us-gov-east-1.amazonaws.com/app", "my.dotted", "app/", ""),
            (
                "s3://bkt.nyc3.digitaloceanspaces.com/app",
                "bkt",
                "app/",
                "https://nyc3.digitaloceanspaces.com",
            ),
            (
                "s3://bkt.s3.us-west-000.backblazeb2.com/a",
                "bkt",
                "a/",
                "https://s3.us-west-000.backblazeb2.com",
            ),
            ("s3://bkt.s3.filebase.com/app", "bkt", "app/", "https://s3.filebase.com"),
            ("s3://bkt.s3.fr-par.scw.cloud/app", "bkt", "app/", "https://s3.fr-par.scw.cloud"),
            ("s3://bkt.localhost:9000/app", "bkt", "app/", "http://localhost:9000"),
            ("s3://bkt.127.0.0.1:9000/app", "bkt", "app/", "http://127.0.0.1:9000"),
            (
                "s3://arn:aws:s3:us-east-1:123456789012:accesspoint/point/app/x",
                "arn:aws:s3:us-east-1:123456789012:accesspoint/point",
                "app/x/",
                "",
            ),
        ],
    )
    def test_url(self, url: str, bucket: str, root: str, endpoint: str) -> None:
        found = place(url)
        assert (found.bucket, found.root, found.endpoint) == (bucket, root, endpoint)
        again = place(found.url)
        assert (again.bucket, again.root, again.endpoint, again.url) == (bucket, root, endpoint, found.url)

    @pytest.mark.parametrize(
        ("url", "region"),
        [
            ("s3://bkt/app", None),
            ("s3://bkt/app?region=eu-west-1", "eu-west-1"),
            ("s3://bkt.s3.eu-west-1.amazonaws.com/app", "eu-west-1"),
            ("s3://bkt.s3.eu-west-1.amazonaws.com/app?region=us-east-2", "us-east-2"),
            ("s3://bkt.s3.fr-par.scw.cloud/app", "fr-par"),
            ("s3://arn:aws:s3:us-east-1:123456789012:accesspoint/point", "us-east-1"),
        ],
    )
    def test_region(self, url: str, region: str | None) -> None:
        assert place(url).filesystem["client_kwargs"] == ({"region_name": region} if region else {})
        assert place("s3://bkt", {"AWS_REGION": "x-1"}).filesystem["client_kwargs"] == {"region_name": "x-1"}

    def test_parameters_in_every_spelling(self) -> None:
        for query in (
            "forcePathStyle=true&skipVerify=1&signPayload=false&partSize=5MiB&storageClass=GLACIER_IR",
            "force-path-style=true&skip-verify=1&sign-payload=false&part-size=5MB&storage-class=GLACIER_IR",
            "force_path_style=True&SkipVerify=yes&sign_payload=no&part_size=5242880&storage_class=GLACIER_IR",
        ):
            found = place(f"s3://bkt/app?{query}")
            assert config(found, "s3") == {"addressing_style": "path", "payload_signing_enabled": False}
            assert found.filesystem["client_kwargs"] == {"verify": False}
            assert found.filesystem["s3_additional_kwargs"] == {"StorageClass": "GLACIER_IR"}
            assert found.part_size == 5 << 20

    def test_path_style(self) -> None:
        assert config(place("s3://bkt"), "s3") == {}
        assert config(place("s3://bkt?endpoint=http://h"), "s3") == {"addressing_style": "path"}
        style = config(place("s3://bkt?endpoint=http://h&forcePathStyle=false"), "s3")
        assert style == {"addressing_style": "virtual"}

    def test_encryption(self) -> None:
        found = place("s3://bkt?sseCustomerKey=MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=")
        assert found.filesystem["s3_additional_kwargs"] == {
            "SSECustomerAlgorithm": "AES256",
            "SSECustomerKey": b"01234567890123456789012345678901",
        }
        assert "MDEy" not in found.url
        found = place("s3://bkt?sseKmsKeyId=alias/x")
        assert found.filesystem["s3_additional_kwargs"] == {
            "ServerSideEncryption": "aws:kms",
            "SSEKMSKeyId": "alias/x",
        }

    def test_endpoint_from_the_environment(self) -> None:
        assert (
            place("s3://bkt", {"LITESTREAM_S3_ENDPOINT": "localhost:9000"}).endpoint
            == "http://localhost:9000"
        )
        assert place("s3://bkt", {"AWS_ENDPOINT_URL": "http://a"}).endpoint == "http://a"
        both = {"AWS_ENDPOINT_URL": "http://a", "AWS_ENDPOINT_URL_S3": "http://b"}
        assert place("s3://bkt", both).endpoint == "http://b"
        assert place("s3://bkt?endpoint=http://c", both).endpoint == "http://c"
        assert place("s3://bkt?endpoint=http://c", both, endpoint_url="http://d").endpoint == "http://d"
        assert place("s3://bkt.s3.eu-west-1.amazonaws.com", both).endpoint == ""

    def test_time_limits_can_be_changed(self) -> None:
        assert config(place("s3://bkt"), "connect_timeout") == 5
        found = place("s3://bkt?endpoint=http://h", config_kwargs={"connect_timeout": 1, "s3": {"x": 1}})
        assert config(found, "connect_timeout") == 1
        assert config(found, "read_timeout") == 30
        assert config(found, "s3") == {"addressing_style": "path", "x": 1}


class TestCredentials:
    @pytest.mark.parametrize(
        ("url", "options"),
        [
            (f"s3://AKID:{QUOTED}@bkt/app", {}),
            (f"s3://bkt/app?accessKeyId=AKID&secretAccessKey={QUOTED}", {}),
            (f"s3://bkt/app?access-key-id=AKID&secret-access-key={QUOTED}", {}),
            ("s3://bkt/app", {"key": "AKID", "secret": SECRET}),
            ("s3://OLD:old@bkt/app", {"key": "AKID", "secret": SECRET}),
        ],
    )
    def test_given(self, url: str, options: dict[str, Any]) -> None:
        found = place(url, **options)
        assert (found.filesystem["key"], found.filesystem["secret"]) == ("AKID", SECRET)
        assert found.url == "s3://bkt/app"
        for text in (found.url, repr(found)):
            assert "AKID" not in text
            assert SECRET not in text

    def test_environment(self) -> None:
        theirs = {"LITESTREAM_ACCESS_KEY_ID": "L", "LITESTREAM_SECRET_ACCESS_KEY": "S"}
        assert place("s3://bkt", theirs).filesystem["key"] == "L"
        for others in ({"AWS_ACCESS_KEY_ID": "A"}, {"AWS_PROFILE": "p"}):
            assert "key" not in place("s3://bkt", theirs | others).filesystem
        assert "key" not in place("s3://bkt", theirs, profile="p").filesystem
        assert place("s3://bkt", theirs, key="K", secret="S").filesystem["key"] == "K"

    def test_session_token(self) -> None:
        assert place("s3://bkt?sessionToken=t", key="k", secret="s").filesystem["token"] == "t"
        assert place("s3://bkt", key="k", secret="s", token="t").filesystem["token"] == "t"

    def test_anonymous(self) -> None:
        for found in (place("s3://bkt?anon=true"), place("s3://bkt", anon=True)):
            assert found.filesystem["anon"] is True
            assert "key" not in found.filesystem

    def test_half_a_login(self) -> None:
        wrong: list[tuple[str, dict[str, Any]]] = [
            ("s3://AKID@bkt", {}),
            ("s3://bkt", {"key": "AKID"}),
            ("s3://bkt", {"secret": "x"}),
        ]
        for url, options in wrong:
            with pytest.raises(ConfigError, match="go together"):
                place(url, **options)


class TestMistakes:
    @pytest.mark.parametrize(
        ("url", "says"),
        [
            ("s3://bkt/a?regoin=x", "'regoin'.*endpoint.*region"),
            ("s3://bkt/a?region=a&region=b", "region is given twice"),
            ("s3://bkt/a?partSize=1MiB", "partSize is at least 5242880"),
            ("s3://bkt/a?partSize=much", "partSize is a size such as"),
            ("s3://bkt/a?concurrency=0", "concurrency is a number from 1 to 100"),
            ("s3://bkt/a?forcePathStyle=maybe", "forcePathStyle is true or false, not 'maybe'"),
            ("s3://bkt/a?endpoint=ftp://x", "the endpoint is not a URL such as"),
            ("s3://bkt/a?endpoint=http://", "the endpoint is not a URL such as"),
            ("s3://bkt/a?endpoint=http://h:x", "the endpoint is not a URL such as"),
            ("s3://bkt/a?endpoint=http://AKID:x@h", "an endpoint holds no credentials"),
            ("s3://bkt/a?sseCustomerKey=short", "sseCustomerKey is 32 bytes"),
            ("s3://bkt/a#b", "write '#' as %23"),
            ("s3://bkt/a//b", "empty"),
            ("s3://bkt/a/../b", "component"),
            ("s3:///a", "not the name of a bucket"),
            ("s3://b_*/a", "not the name of a bucket"),
            ("s3://localhost:9000/bkt/app", "s3://bucket/path.endpoint=http://localhost:9000"),
            ("s3://127.0.0.1:9000/bkt", "endpoint=http://127.0.0.1:9000"),
        ],
    )
    def test_url(self, url: str, says: str) -> None:
        with pytest.raises(ConfigError, match=says):
            place(url)

    def test_options(self) -> None:
        with pytest.raises(ConfigError, match=r"no option 'acces_key'; there is anon, .*key"):
            place("s3://bkt", acces_key="x")
        with pytest.raises(ConfigError, match="'key' is a str, not a int"):
            place("s3://bkt", key=5)

    @pytest.mark.parametrize(
        "url",
        [
            f"s3://AKID:{SECRET}@bkt/app",  # not quoted
            "s3://AKID:S3CRET[@bkt/app",
            "s3://AKID:12345/S3CRET@bkt/app",
            "s3://AKID:S3CRET#x@bkt/app",
            "s3://AKID:S3CRET?x@bkt/app",
            "s3://AKID:S3CRET@bkt/app?nope=1",
            "s3://AKID:S3CRET@b_*/app",
            "s3://bkt/app?secretAccessKey=S3CRET&accessKeyId=AKID&region=a&region=b",
            "s3://bkt/app?endpoint=http://AKID:S3CRET@host",
            "s3://bkt/app?sseCustomerKey=S3CRET",
        ],
    )
    def test_no_mistake_shows_a_secret(self, url: str) -> None:
        with pytest.raises(ConfigError) as caught:
            place(url)
        shown = "".join(traceback.format_exception(caught.value, limit=0)) + repr(caught.value)
        for secret in ("S3CRET", "AKID", "12345", *SECRET.replace("@", "/").split("/")):
            assert secret not in shown
