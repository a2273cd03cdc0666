"""What a machine knows about its board: the environment first, then `~/.agentchat/config`.

The file has `KEY=VALUE` lines. Blank lines and lines that start with `#` are passed over, an
`export ` in front is allowed, and a value may stand in single or double quotes, within which every
character means itself. Behind an unquoted value, white space and `#` start a comment. Keys that
AgentChat does not know are left alone.

Standard library only, and quick to import: the hook reads it on every prompt.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agentchat.address import ServerAddress, parse_address
from agentchat.exceptions import ConfigError
from agentchat.names import agent_name, current_folder, default_machine_name, slug

logger = logging.getLogger("agentchat")

DEFAULT_SERVER = "localhost:50051"
"""Where the server is when nothing says otherwise: where `agentchat up` listens."""

AGENT_KEY_PREFIX = "aak_"
"""How a key starts that speaks for exactly one agent, whose name the server knows."""

_LINE = re.compile(
    r"""(?:export\s+)?(?P<key>[A-Za-z_][A-Za-z0-9_]*)\s*=\s*
    (?:"(?P<double>[^"]*)"\s*(?:\#.*)? | '(?P<single>[^']*)'\s*(?:\#.*)? | (?P<bare>[^"'\s].*)?)""",
    re.VERBOSE,
)
_COMMENT_BEHIND_VALUE = re.compile(r"\s+#.*")
_BARE = re.compile(r"[^\s\"'#][^\s\"'#]*")


@dataclass(frozen=True, slots=True)
class Config:
    """What is configured. Every field may be missing; methods say what they need."""

    machine_name: str | None = None
    """`MACHINE_NAME`: first part of the agents' names. None: the host name."""
    api_key: str | None = field(default=None, repr=False)
    """`AGENTCHAT_API_KEY`: a machine key (`ack_…`), or an agent's own (`aak_…`)."""
    server: str | None = None
    """`AGENTCHAT_SERVER`: `host:port`, `grpc://host:port` or `grpcs://host:port`."""
    web_url: str | None = None
    """`AGENTCHAT_WEB_URL`: base of the HTTP interface, for example `http://localhost:8080`."""
    project: str | None = None
    """`AGENTCHAT_PROJECT`: second part of the agents' names. None: the current folder."""
    admin_key: str | None = field(default=None, repr=False)
    """`AGENTCHAT_ADMIN_KEY`: for administration (`aca_…`)."""
    ca_file: str | None = None
    """`AGENTCHAT_CA_FILE`: certificates (PEM) to trust instead of the built-in ones, for `grpcs://`."""
    client_cert: str | None = None
    """`AGENTCHAT_CLIENT_CERT`: certificate (PEM) to show to a `grpcs://` server that demands one."""
    client_key: str | None = None
    """`AGENTCHAT_CLIENT_KEY`: its private key (PEM)."""
    path: Path | None = None
    """The file that was looked for, whether it exists or not."""

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None, path: str | Path | None = None) -> Config:
        """Reads the environment and the file. An empty variable counts as unset.

        `environ` defaults to `os.environ`, `path` to `AGENTCHAT_CONFIG` or else `~/.agentchat/config`.
        A missing file is an empty one. Logs a warning when other users can read the file.

        Raises `ConfigError` with file and line for a line that cannot be read.
        """
        environ = os.environ if environ is None else environ
        file = config_path(environ) if path is None else Path(path).expanduser()
        values = read_config(file)
        values.update({key: value for key, value in environ.items() if value})
        return cls(
            machine_name=values.get("MACHINE_NAME"),
            api_key=values.get("AGENTCHAT_API_KEY"),
            server=values.get("AGENTCHAT_SERVER"),
            web_url=values.get("AGENTCHAT_WEB_URL"),
            project=values.get("AGENTCHAT_PROJECT"),
            admin_key=values.get("AGENTCHAT_ADMIN_KEY"),
            ca_file=values.get("AGENTCHAT_CA_FILE"),
            client_cert=values.get("AGENTCHAT_CLIENT_CERT"),
            client_key=values.get("AGENTCHAT_CLIENT_KEY"),
            path=file,
        )

    def server_address(self) -> ServerAddress:
        """Where the server is. Raises `ConfigError` when `server` cannot be understood."""
        return parse_address(self.server or DEFAULT_SERVER)

    def require_api_key(self) -> str:
        """The key of this machine or agent. Raises `ConfigError` when there is none."""
        if not self.api_key:
            raise ConfigError(
                f"no API key: set AGENTCHAT_API_KEY, or write it to {self.path or 'the config file'}"
            )
        return self.api_key

    def require_admin_key(self) -> str:
        """The admin key. Raises `ConfigError` when there is none."""
        if not self.admin_key:
            raise ConfigError(
                f"no admin key: set AGENTCHAT_ADMIN_KEY, or write it to {self.path or 'the config file'}"
            )
        return self.admin_key

    def machine(self) -> str:
        """The machine's name, as agents' names start with it.

        Raises `ConfigError` when `machine_name` has neither a letter nor a digit.
        """
        if self.machine_name is None:
            return default_machine_name()
        machine = slug(self.machine_name)
        if not machine:
            raise ConfigError(f"MACHINE_NAME={self.machine_name!r} has no letter from a to z and no digit")
        return machine

    def project_name(self, project: str | None = None) -> str:
        """The project: as given, or as configured, or else the name of the current folder."""
        chosen = project or self.project
        if chosen:
            return chosen
        try:
            return current_folder()
        except OSError as error:
            raise ConfigError(
                "the current folder is gone; name the project, or go to another folder"
            ) from error

    def project_label(self, project: str | None = None) -> str | None:
        """The project as messages are stamped with it; None when it is not named and the folder is gone."""
        try:
            name = self.project_name(project)
        except ConfigError:
            return None
        # A folder's name may hold bytes that are no text.
        return name.encode("utf-8", "replace").decode()

    def agent(self, project: str | None = None) -> str | None:
        """The name to speak under: `{machine}-{project}`. None for a key that decides the name itself."""
        if self.api_key and self.api_key.startswith(AGENT_KEY_PREFIX):
            return None
        return agent_name(self.machine(), self.project_name(project))


def config_path(environ: Mapping[str, str] | None = None) -> Path:
    """Where the config file is: `AGENTCHAT_CONFIG`, or else `~/.agentchat/config`."""
    environ = os.environ if environ is None else environ
    if named := environ.get("AGENTCHAT_CONFIG"):
        return Path(named).expanduser()
    return home_folder(environ) / "config"


def home_folder(environ: Mapping[str, str] | None = None) -> Path:
    """The folder that AgentChat keeps for a user: `~/.agentchat`."""
    environ = os.environ if environ is None else environ
    home = environ.get("HOME")
    try:
        return (Path(home) if home else Path.home()) / ".agentchat"
    except RuntimeError as error:
        raise ConfigError("cannot tell your home folder; set HOME, or AGENTCHAT_CONFIG") from error


def read_config(path: Path) -> dict[str, str]:
    """The keys and values of a config file, without the empty ones. A missing file has none.

    Logs a warning when other users can read the file. Raises `ConfigError` with file and line for a
    line that cannot be read.
    """
    lines = _read_lines(path)
    values: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        match = _LINE.fullmatch(text)
        if match is None:
            # The line may hold a key, so it is not shown.
            raise ConfigError(f"{path}, line {number}: expected KEY=VALUE, with quotes closed")
        bare = _COMMENT_BEHIND_VALUE.sub("", match["bare"] or "")
        value = match["double"] or match["single"] or ("" if bare.startswith("#") else bare)
        if value:
            values[match["key"]] = value
    return values


def write_config(path: Path, values: Mapping[str, str]) -> None:
    """Sets keys of a config file, atomically, readable by its owner only (0600).

    Other lines stay as they are; a key that is there is replaced in place, a new one appended. Missing
    folders are made (0700). A link to a file stays one.

    Raises `ConfigError` for a value that the format cannot hold (a line break, both kinds of quotes)
    and `OSError` when the file cannot be written.
    """
    path = path.expanduser().resolve()
    missing = dict(values)
    lines = []
    for line in _read_lines(path, warn=False):
        match = _LINE.fullmatch(line.strip())
        key = match["key"] if match is not None else ""
        if key not in values:
            lines.append(line)
        elif key in missing:
            lines.append(f"{key}={_quoted(key, missing.pop(key))}")
    lines.extend(f"{key}={_quoted(key, value)}" for key, value in missing.items())
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # mkstemp makes the file 0600.
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _read_lines(path: Path, *, warn: bool = True) -> list[str]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            if warn and os.name == "posix" and stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                logger.warning("other users can read %s, which holds keys; run: chmod 600 %s", path, path)
            return [line.rstrip("\n") for line in file]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error


def _quoted(key: str, value: str) -> str:
    if _BARE.fullmatch(value):
        return value
    if "\n" in value or "\r" in value:
        raise ConfigError(f"{key}: a value in the config file cannot hold a line break")
    for quote in ('"', "'"):
        if quote not in value:
            return f"{quote}{value}{quote}"
    raise ConfigError(f"{key}: a value in the config file cannot hold both kinds of quotes")
