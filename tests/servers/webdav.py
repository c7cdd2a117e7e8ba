"""WebDAV servers: Apache, nginx and lighttpd, each as their own users run them."""

import base64
import contextlib
import hashlib
import http.client
import http.server
import os
import pwd
import subprocess
import threading
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.servers.daemon import PASSWORD, USER, daemon, free_port, private_folder, program

__all__ = ["DAVServer", "apache", "lighttpd", "like_nextcloud", "nginx", "rclone"]


@dataclass(frozen=True)
class DAVServer:
    """A running server: where it is, and the folder that it serves."""

    port: int
    root: Path

    @property
    def url(self) -> str:
        """Its URL with the login in it."""
        return f"webdav://{USER}:{PASSWORD}@127.0.0.1:{self.port}"


@contextlib.contextmanager
def apache(auth: str = "basic") -> Iterator[DAVServer]:
    """Apache with mod_dav; `auth` is basic or digest."""
    with private_folder() as folder:
        port, root, modules = free_port(), folder / "dav", "/usr/lib/apache2/modules"
        root.mkdir()
        realm = f"{USER}:test:{PASSWORD}".encode()
        secret = {
            "digest": f"{USER}:test:{hashlib.md5(realm).hexdigest()}",
            "basic": f"{USER}:{{SHA}}{base64.b64encode(hashlib.sha1(PASSWORD.encode()).digest()).decode()}",
        }
        (folder / "passwords").write_text(secret[auth] + "\n")
        names = ["mpm_event", "authn_core", "authn_file", "authz_core", "authz_user", "dav", "dav_fs", "mime"]
        lines = [
            f"ServerRoot {folder}", "ServerName 127.0.0.1", f"Listen 127.0.0.1:{port}", f"PidFile {folder}/pid",
            f"ErrorLog {folder}/error.log", f"DefaultRuntimeDir {folder}", f"Mutex file:{folder}",
            *[f"LoadModule {name}_module {modules}/mod_{name}.so" for name in [*names, f"auth_{auth}"]],
            *_identity(folder, root), "StartServers 1", "ThreadsPerChild 32", "MaxRequestWorkers 64",
            "MaxKeepAliveRequests 0", "TypesConfig /dev/null", "AllowEncodedSlashes On", f"DAVLockDB {folder}/locks",
            f"DocumentRoot {root}", f"<Directory {root}>", "Dav On", "AllowOverride None", f"AuthType {auth}",
            'AuthName "test"', f"Auth{auth.capitalize()}Provider file", f"AuthUserFile {folder}/passwords",
            "Require valid-user", "</Directory>",
        ]  # fmt: skip
        (folder / "httpd.conf").write_text("\n".join([*lines, ""]))
        with daemon([program("apache2"), "-f", folder / "httpd.conf", "-D", "FOREGROUND"], folder, port=port):
            yield DAVServer(port, root)


@contextlib.contextmanager
def nginx(tls: bool = False) -> Iterator[DAVServer]:
    """Nginx with its own dav module and dav-ext; it does not make missing collections by itself.

    With `tls` it has a certificate of its own making, `certificate.pem` beside the served folder.
    """
    with private_folder() as folder:
        if tls:
            names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
            files = ["-keyout", f"{folder}/key.pem", "-out", f"{folder}/certificate.pem"]
            make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *files, *names]
            subprocess.run(make, check=True, capture_output=True)
        port, root = free_port(), folder / "dav"
        root.mkdir()
        secret = base64.b64encode(hashlib.sha1(PASSWORD.encode()).digest()).decode()
        (folder / "passwords").write_text(f"{USER}:{{SHA}}{secret}\n")
        paths = "".join(
            f"{name}_temp_path {folder}/{name};"
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (folder / "nginx.conf").write_text(f"""
load_module /usr/lib/nginx/modules/ngx_http_dav_ext_module.so;
{f"user {pwd.getpwuid(0).pw_name};" if os.geteuid() == 0 else ""}
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
  {paths} access_log off; client_max_body_size 0; dav_ext_lock_zone zone=locks:1m; default_type application/octet-stream;
  server {{
    listen 127.0.0.1:{port} {"ssl" if tls else ""};
    {f"ssl_certificate {folder}/certificate.pem; ssl_certificate_key {folder}/key.pem;" if tls else ""}
    location / {{
      root {root}; dav_methods PUT DELETE MKCOL COPY MOVE; dav_ext_methods PROPFIND OPTIONS LOCK UNLOCK;
      dav_ext_lock zone=locks; auth_basic test; auth_basic_user_file {folder}/passwords;
    }}
  }}
}}
""")
        command = [program("nginx"), "-p", folder, "-e", folder / "error.log", "-c", folder / "nginx.conf"]
        with daemon(command, folder, port=port):
            yield DAVServer(port, root)


@contextlib.contextmanager
def lighttpd() -> Iterator[DAVServer]:
    """Lighttpd with mod_webdav."""
    with private_folder() as folder:
        port, root = free_port(), folder / "dav"
        root.mkdir()
        (folder / "passwords").write_text(f"{USER}:{PASSWORD}\n")
        (folder / "lighttpd.conf").write_text(f"""
server.document-root = "{root}"
server.bind = "127.0.0.1"
server.port = {port}
server.errorlog = "{folder}/error.log"
server.stat-cache-engine = "disable"
server.upload-dirs = ( "{folder}" )
server.modules = ( "mod_auth", "mod_authn_file", "mod_webdav" )
static-file.disable-pathinfo = "enable"
mimetype.assign = ( "" => "application/octet-stream" )
auth.backend = "plain"
auth.backend.plain.userfile = "{folder}/passwords"
auth.require = ( "/" => ( "method" => "basic", "realm" => "test", "require" => "valid-user" ) )
webdav.activate = "enable"
webdav.sqlite-db-name = "{folder}/props.db"
""")
        with daemon([program("lighttpd"), "-D", "-f", folder / "lighttpd.conf"], folder, port=port):
            yield DAVServer(port, root)


@contextlib.contextmanager
def rclone() -> Iterator[DAVServer]:
    """Rclone's server: MKCOL is not exclusive there, and PROPPATCH sets the modification time."""
    with private_folder() as folder:
        port, root = free_port(), folder / "dav"
        root.mkdir()
        where = ["--addr", f"127.0.0.1:{port}", "--config", "/dev/null", "--user", USER, "--pass", PASSWORD]
        with daemon([program("rclone"), "serve", "webdav", *where, root], folder, port=port):
            yield DAVServer(port, root)


@contextlib.contextmanager
def like_nextcloud(behind: DAVServer) -> Iterator[DAVServer]:
    """A proxy that does to another server's uploads what Nextcloud does: it keeps `X-OC-Mtime`, and says so.

    Nextcloud itself is not in any package registry that the tests may use.
    """

    class Proxy(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def __getattr__(self, name: str) -> object:
            if name.startswith("do_"):
                return self.forward
            raise AttributeError(name)

        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            connection = http.client.HTTPConnection("127.0.0.1", behind.port)
            connection.request(self.command, self.path, body, dict(self.headers))
            answer = connection.getresponse()
            data = answer.read()
            self.send_response(answer.status)
            if (mtime := self.headers.get("X-OC-Mtime")) and answer.status < 300:
                os.utime(behind.root / urllib.parse.unquote(self.path)[1:], (int(mtime), int(mtime)))
                self.send_header("X-OC-MTime", "accepted")
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
            connection.close()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield DAVServer(server.server_address[1], behind.root)
        finally:
            server.shutdown()
            thread.join()


def _identity(folder: Path, root: Path) -> list[str]:
    """Apache refuses to serve as root, so as root it serves as www-data, which owns the folders."""
    if os.geteuid() != 0:
        return []
    user = pwd.getpwnam("www-data")
    for path in (folder, root):
        os.chown(path, user.pw_uid, user.pw_gid)
    return ["User www-data", "Group www-data"]
