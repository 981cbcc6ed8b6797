"""Serve Optuna's dashboard of a study: on this machine alone, and nothing in it can be changed.

The dashboard has no login, and its page can delete studies. So it listens on loopback, only requests that
read are let through, and the database is opened for reading: a search that runs is never locked out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_address
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from search.cli import command_parser, natural, run_command

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

READS = ("GET", "HEAD")
"""The requests that are answered."""

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
"""As WSGI has it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command until it is interrupted. Prints the address. Returns the exit code."""
    options = command_parser(__doc__ or "", "python -m search.dashboard --study demo --port 8080")
    options.add_argument("--study", default="demo", help="default: demo")
    options.add_argument("--storage", help="a database URL (default: sqlite:///studies/<study>.db)")
    options.add_argument("--host", default="127.0.0.1", help="to listen on (default: 127.0.0.1)")
    options.add_argument("--port", type=natural, default=8080, help="0: any that is free (default: 8080)")
    arguments = options.parse_args(argv)

    # Late, so that --help answers at once.
    from optuna_dashboard import wsgi

    from search.records import check_name
    from search.storage import default_storage
    from squeeze.errors import SetupError

    name = check_name(arguments.study)
    storage, number = open_read_only(name, arguments.storage or default_storage(name))
    try:
        server = make_server(
            arguments.host,
            arguments.port,
            reading_only(wsgi(storage)),
            server_class=_Server,
            handler_class=_Quiet,
        )
    except (OSError, OverflowError) as error:
        raise SetupError(
            f"--host and --port must be free to listen on; {arguments.host}:{arguments.port}: "
            f"{getattr(error, 'strerror', None) or error}; choose another --port"
        ) from error
    if not _is_loopback(str(server.server_address[0])):
        print(
            f"warning: the dashboard has no login; whoever reaches {arguments.host} can read every study of "
            "the database",
            file=sys.stderr,
        )
    host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
    print(f"http://{host}:{server.server_port}/dashboard/studies/{number}", flush=True)
    with server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
    return 0


def open_read_only(study: str, url: str) -> tuple[RDBStorage, int]:
    """The database of a URL, opened for reading, and the id of the study in it.

    Raises ConfigError when the URL names no database or the study is not in it, SetupError when it cannot be
    read.
    """
    from optuna.storages import RDBStorage
    from sqlalchemy.engine import make_url

    from search.storage import parse_url, shown, told_in_a_line
    from squeeze.errors import ConfigError, SetupError

    parsed = parse_url(url)
    kind, name = parsed.get_backend_name(), shown(parsed)
    if kind == "sqlite":
        path = Path(parsed.database or "")
        if not path.is_file():
            raise ConfigError(
                f"there is no study database {path}; run `python -m search.run` first, or give --storage"
            )
        parsed = make_url(f"sqlite:///file:{quote(str(path.absolute()))}?mode=ro&uri=true")
    elif kind == "postgresql":
        given = " ".join(parsed.normalized_query.get("options", ()))
        options = f"{given} -c default_transaction_read_only=on".strip()
        parsed = parsed.update_query_dict({"options": options})
    else:
        print(
            f"warning: {name} is opened for writing too; only requests that read are let through",
            file=sys.stderr,
        )
    address = parsed.render_as_string(hide_password=False)
    try:
        with told_in_a_line():
            storage = RDBStorage(address, skip_compatibility_check=True, skip_table_creation=True)
            known = {one.study_name: one._study_id for one in storage.get_all_studies()}
    except ImportError as error:
        raise SetupError(f"the storage {name} needs a driver: {error}; install it") from error
    if study not in known:
        names = ", ".join(sorted(known)) or "none"
        raise ConfigError(f"--study must be one of the database; {name} has {names}; got {study!r}")
    return storage, known[study]


def reading_only(application: Application) -> Application:
    """The same application without the requests that change something: those get 403."""

    def checked(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] in READS:
            return application(environ, start_response)
        start_response("403 Forbidden", [("Content-Type", "application/json")])
        return [b'{"reason": "this dashboard is for looking only"}']

    return checked


class _Server(ThreadingMixIn, WSGIServer):
    """The page asks for several things at once."""

    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of single requests."""


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False


if __name__ == "__main__":
    run_command(main)
