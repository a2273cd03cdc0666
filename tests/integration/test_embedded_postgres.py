"""The embedded Postgres: what keeps data safe, who may run it, and what happens after a crash."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

import agentchat_db
from agentchat_db import embedded
from agentchat_db.account import Account
from agentchat_db.cluster import find_bin_dir
from agentchat_db.data_dir import DataDirLock
from agentchat_db.embedded import EmbeddedPostgres
from agentchat_db.exceptions import (
    ClusterVersionError,
    DataDirBusyError,
    DataDirUnusableError,
    PostgresNotStartedError,
    PostgresStartError,
)
from tests.postgres15 import find_postgres15

AS_ROOT = os.geteuid() == 0
only_as_root = pytest.mark.skipif(not AS_ROOT, reason="only root has to change accounts")

DEADLINE = 30.0
DAC_OVERRIDE = 1 << 1
DAC_READ_SEARCH = 1 << 2

# For a Python of its own: starts a server on a folder, says its number, and waits to be killed.
START_AND_WAIT = f"""
import sys
from pathlib import Path
sys.path[:] = {sys.path!r}
sys.path.insert(0, {str(Path(agentchat_db.__file__).parents[1])!r})
from agentchat_db.embedded import EmbeddedPostgres
postgres = EmbeddedPostgres(Path(sys.argv[1]))
postgres.start()
print(postgres.pid, flush=True)
sys.stdin.read()
postgres.stop()
"""


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose name has to be quoted everywhere."""
    return tmp_path_factory.mktemp("embedded") / "data 'of' \"a\" %41 =board"


@pytest.fixture(scope="module")
def _cluster(data_dir: Path) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(data_dir) as postgres:
        yield postgres


@pytest.fixture
def postgres(_cluster: EmbeddedPostgres) -> EmbeddedPostgres:
    """A running server; tests may stop and kill it."""
    _cluster.start()
    return _cluster


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every account gets to, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def query(postgres: EmbeddedPostgres, sql: str) -> object:
    """The one value of a statement's result, None when it has no rows."""
    with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
        cursor = connection.execute(sql.encode())
        row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + DEADLINE
    while Path(f"/proc/{pid}/cwd").is_symlink() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path(f"/proc/{pid}/cwd").is_symlink()


def effective_capabilities(pid: int | None) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    raise AssertionError("no CapEff")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


class TestSafety:
    @pytest.mark.parametrize(
        ("setting", "value"),
        [
            ("fsync", "on"),
            ("synchronous_commit", "on"),
            ("full_page_writes", "on"),
            ("data_checksums", "on"),
            ("listen_addresses", ""),
            ("server_encoding", "UTF8"),
            ("TimeZone", "UTC"),
        ],
    )
    def test_the_settings_that_keep_messages_safe_hold(
        self, postgres: EmbeddedPostgres, setting: str, value: str
    ) -> None:
        assert query(postgres, f"show {setting}") == value

    def test_alter_system_does_not_override_them(self, postgres: EmbeddedPostgres) -> None:
        query(postgres, "alter system set fsync = off")
        postgres.stop()
        postgres.start()
        assert query(postgres, "show fsync") == "on"
        query(postgres, "alter system reset fsync")

    def test_only_the_owner_reaches_the_socket_and_the_files(self, postgres: EmbeddedPostgres) -> None:
        assert mode(postgres.socket_dir) == 0o700
        assert mode(postgres.socket_dir / ".s.PGSQL.5432") == 0o700
        assert mode(postgres.cluster_dir) == 0o700
        assert mode(postgres.log_file) == 0o600
        # As root, Postgres' account may pass through the folder, but not list it.
        assert mode(postgres.data_dir) == (0o710 if AS_ROOT else 0o700)
        assert postgres.socket_dir.parent == postgres.data_dir

    def test_the_server_is_our_child_out_of_reach_of_ctrl_c(self, postgres: EmbeddedPostgres) -> None:
        assert postgres.pid is not None
        assert f"\nPPid:\t{os.getpid()}\n" in Path(f"/proc/{postgres.pid}/status").read_text()
        assert os.getsid(postgres.pid) == postgres.pid != os.getsid(0)

    def test_the_server_gets_nothing_of_our_environment(
        self, postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        postgres.stop()
        monkeypatch.setenv("AGENTCHAT_ADMIN_KEY", "secret")
        monkeypatch.setenv("PGPORT", "6543")
        postgres.start()
        environment = Path(f"/proc/{postgres.pid}/environ").read_bytes()
        assert b"secret" not in environment
        assert b"PGPORT" not in environment
        assert query(postgres, "show port") == "5432"

    def test_the_log_does_not_hold_what_agents_wrote(self, postgres: EmbeddedPostgres) -> None:
        query(postgres, "create table once (content text primary key)")
        query(postgres, "insert into once values ('a secret')")
        with pytest.raises(psycopg.errors.UniqueViolation, match="a secret"):
            query(postgres, "insert into once values ('a secret')")
        log = postgres.log_file.read_text()
        assert "duplicate key" in log
        assert "a secret" not in log

    def test_a_long_log_is_moved_away_while_the_server_runs(
        self, postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(embedded, "_LOG_LIMIT", 1)
        assert postgres.poll() is None
        assert postgres.log_file.read_text() == ""
        assert "ready to accept" in postgres.log_file.with_suffix(".log.1").read_text()
        with pytest.raises(psycopg.errors.UndefinedTable):
            query(postgres, "select * from missing")
        assert postgres.log_file.read_bytes().startswith(b"20")

    def test_text_is_folded_and_sorted_the_same_on_every_machine(self, postgres: EmbeddedPostgres) -> None:
        assert query(postgres, "select to_tsvector('english', 'École')::text") == "'école':1"
        ordered = "select string_agg(x, '' order by x) from unnest(array['b', 'a', 'B', 'é']) x"
        assert query(postgres, ordered) == "Babé"


class TestLife:
    def test_stopping_and_starting_keeps_the_data(self, postgres: EmbeddedPostgres) -> None:
        query(postgres, "create table kept as select 1 as x")
        before = postgres.pid
        postgres.stop()
        assert (postgres.is_running, postgres.pid, postgres.poll()) == (False, None, 0)
        postgres.start()
        assert postgres.pid not in {None, before}
        assert query(postgres, "select x from kept") == 1

    def test_starting_and_stopping_twice_does_nothing(self, postgres: EmbeddedPostgres) -> None:
        pid = postgres.pid
        postgres.start()
        assert postgres.pid == pid
        postgres.stop()
        postgres.stop()

    def test_a_killed_server_is_seen_and_starts_again_with_what_was_committed(
        self, postgres: EmbeddedPostgres
    ) -> None:
        query(postgres, "create table committed as select 2 as x")
        assert postgres.pid is not None
        os.kill(postgres.pid, signal.SIGKILL)
        deadline = time.monotonic() + DEADLINE
        while postgres.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        assert postgres.poll() == -signal.SIGKILL
        postgres.start()
        assert query(postgres, "select x from committed") == 2

    def test_a_start_waits_for_the_statements_that_outlive_a_killed_server(
        self, postgres: EmbeddedPostgres
    ) -> None:
        began = threading.Event()

        def keep_a_backend_busy() -> None:
            with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
                connection.execute("set statement_timeout = '700ms'")
                began.set()
                # A statement that waits for something would end with the server. This one computes.
                connection.execute("select count(*) from generate_series(1, 1000000000)")

        def ignore_its_end() -> None:
            with pytest.raises(psycopg.OperationalError):
                keep_a_backend_busy()

        busy = threading.Thread(target=ignore_its_end)
        busy.start()
        assert began.wait(DEADLINE)
        running = (
            "select count(*) from pg_stat_activity"
            " where query like '%generate_series(%' and pid <> pg_backend_pid()"
        )
        deadline = time.monotonic() + DEADLINE
        while query(postgres, running) == 0 and time.monotonic() < deadline:
            time.sleep(0.005)
        killed = postgres.pid
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        os.waitid(os.P_PID, killed, os.WEXITED | os.WNOWAIT)
        postgres.start()
        assert query(postgres, "select 1") == 1
        busy.join(DEADLINE)

    def test_a_server_left_over_by_a_killed_parent_is_replaced(
        self, postgres: EmbeddedPostgres, data_dir: Path
    ) -> None:
        postgres.stop()
        with subprocess.Popen(
            [sys.executable, "-c", START_AND_WAIT, data_dir],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as parent:
            assert parent.stdout is not None
            left_over = int(parent.stdout.readline())
            query(postgres, "create table left_over as select 3 as x")
            with pytest.raises(DataDirBusyError, match=f"process {parent.pid}"):
                postgres.start()
            parent.kill()
        assert query(postgres, "select x from left_over") == 3, "it should have outlived its parent"
        postgres.start()
        wait_until_gone(left_over)
        assert query(postgres, "select x from left_over") == 3

    def test_the_number_of_another_process_in_the_pid_files_does_no_harm(
        self, postgres: EmbeddedPostgres
    ) -> None:
        pid_file = postgres.cluster_dir / "postmaster.pid"
        lines = pid_file.read_text()
        postgres.stop()
        # As after the restart of a container, where numbers are soon used again.
        with subprocess.Popen(["sleep", "60"]) as other:
            stale = lines.replace(lines.splitlines()[0], str(other.pid), 1)
            pid_file.write_text(stale)
            (postgres.socket_dir / ".s.PGSQL.5432.lock").write_text(stale)
            postgres.start()
            assert other.poll() is None
            other.kill()

    def test_a_database_is_created_once(self, postgres: EmbeddedPostgres) -> None:
        postgres.ensure_database('odd "name"/%')
        postgres.ensure_database('odd "name"/%')
        with psycopg.connect(postgres.dsn(dbname='odd "name"/%')) as connection:
            assert connection.info.dbname == 'odd "name"/%'

    def test_one_that_was_never_started_has_no_exit_status(self, tmp_path: Path) -> None:
        postgres = EmbeddedPostgres(tmp_path)
        assert not postgres.is_running
        with pytest.raises(PostgresNotStartedError):
            postgres.poll()
        postgres.stop()


class TestRefusals:
    def test_a_second_holder_of_the_folder_is_told_who_has_it(
        self, postgres: EmbeddedPostgres, data_dir: Path
    ) -> None:
        with pytest.raises(DataDirBusyError, match=f"process {os.getpid()}"):
            EmbeddedPostgres(data_dir).start()
        with pytest.raises(DataDirBusyError), DataDirLock(data_dir):
            pass
        assert query(postgres, "select 1") == 1

    def test_a_lock_that_the_caller_holds_is_used_and_kept(self, tmp_path: Path) -> None:
        with DataDirLock(tmp_path / "data") as lock:
            assert mode(tmp_path / "data") == 0o700
            postgres = EmbeddedPostgres(tmp_path / "data", lock=lock, bin_dir=tmp_path)
            with pytest.raises(Exception, match="no PostgreSQL programs"):
                postgres.start()
            postgres.stop()
            assert lock.held
        assert not lock.held

    def test_the_data_of_another_major_version_is_not_touched(self, postgres: EmbeddedPostgres) -> None:
        postgres.stop()
        version_file = postgres.cluster_dir / "PG_VERSION"
        version = version_file.read_text()
        version_file.write_text("13\n")
        try:
            with pytest.raises(ClusterVersionError, match=r"PostgreSQL 13.*pg_dump"):
                postgres.start()
        finally:
            version_file.write_text(version)

    def test_a_failed_start_tells_what_postgres_said_and_frees_the_folder(
        self, postgres: EmbeddedPostgres, data_dir: Path
    ) -> None:
        postgres.stop()
        with (postgres.cluster_dir / "postgresql.conf").open("a") as file:
            length = file.tell()
            file.write("no_such_setting = 1\n")
        try:
            with pytest.raises(PostgresStartError, match="no_such_setting"):
                postgres.start()
        finally:
            os.truncate(postgres.cluster_dir / "postgresql.conf", length)
        with DataDirLock(data_dir):
            pass

    def test_a_half_made_cluster_is_thrown_away(self, tmp_path: Path) -> None:
        half_made = tmp_path / "data" / "postgres.making-x"
        half_made.mkdir(parents=True)
        (half_made / "PG_VERSION").touch()
        with EmbeddedPostgres(tmp_path / "data") as postgres:
            assert query(postgres, "select 1") == 1
        assert not half_made.exists()
        assert {path.name for path in (tmp_path / "data").iterdir()} == {
            "lock", "postgres", "postgres.log", "run",
        }  # fmt: skip

    def test_a_folder_that_is_in_the_way_of_the_cluster_is_not_replaced(self, tmp_path: Path) -> None:
        (tmp_path / "postgres").mkdir()
        (tmp_path / "postgres" / "mine").touch()
        with pytest.raises(PostgresStartError, match="not empty"):
            EmbeddedPostgres(tmp_path).start()
        assert (tmp_path / "postgres" / "mine").exists()

    def test_a_socket_folder_that_somebody_else_made_is_refused(self, tmp_path: Path) -> None:
        postgres = EmbeddedPostgres(tmp_path / ("long-" * 30))
        postgres.socket_dir.symlink_to(tmp_path)
        try:
            with pytest.raises(DataDirUnusableError, match="somebody else"):
                postgres.start()
        finally:
            postgres.socket_dir.unlink()


class TestPlaces:
    def test_a_folder_too_deep_for_a_socket_gets_its_socket_elsewhere(self, tmp_path: Path) -> None:
        with EmbeddedPostgres(tmp_path / ("long-" * 30)) as postgres:
            assert query(postgres, "select 1") == 1
            assert mode(postgres.socket_dir) == 0o700
            assert postgres.socket_dir.parent == Path("/tmp")
        assert not postgres.socket_dir.exists()

    def test_it_runs_on_postgresql_15(self, tmp_path: Path) -> None:
        bin_dir, reason = find_postgres15()
        if bin_dir is None:
            pytest.skip(reason)
        with EmbeddedPostgres(tmp_path, bin_dir=bin_dir) as postgres:
            assert str(query(postgres, "show server_version")).startswith("15.")
            assert query(postgres, "show data_checksums") == "on"
            assert query(postgres, "select to_tsvector('english', 'École')::text") == "'école':1"

    @only_as_root
    def test_a_normal_user_runs_it_as_themself(self, open_folder: Path) -> None:
        user = Account(65534, 65534)
        user.give(open_folder)
        data_dir = open_folder / "data"
        # Python too may be where only root gets; `Account` is good at that.
        with user.start(
            Path(sys.executable), "-c", START_AND_WAIT, data_dir, cluster=data_dir, output=subprocess.PIPE
        ) as parent:
            assert parent.stdout is not None
            assert int(parent.stdout.readline()) > 0
            # Its standard input is empty, so it has stopped the server by itself.
            assert parent.wait(DEADLINE) == 0
        for path in (data_dir, *data_dir.iterdir()):
            assert path.stat().st_uid == 65534
        assert mode(data_dir) == 0o700


@only_as_root
class TestRoot:
    def test_the_server_has_no_privilege_when_it_needs_none(self, open_folder: Path) -> None:
        with EmbeddedPostgres(open_folder / "data") as postgres:
            account = Account.of(postgres.cluster_dir)
            assert account.reaches(postgres.cluster_dir)
            if not account.reaches(find_bin_dir()):
                pytest.skip("this checkout is where only root gets")
            assert effective_capabilities(postgres.pid) == 0

    def test_folders_that_only_root_enters_stay_closed_to_others(self, tmp_path: Path) -> None:
        private = tmp_path / "private"
        private.mkdir(mode=0o700)
        package = find_bin_dir().parents[1]
        for name in (f"{package.name}.libs", f"{package.name}/pginstall"):
            if (package.parent / name).exists():
                shutil.copytree(package.parent / name, private / name)
        bin_dir = private / package.name / "pginstall" / "bin"
        postgres = EmbeddedPostgres(private / "data", bin_dir=bin_dir)
        with postgres:
            assert query(postgres, "select 1") == 1
            assert effective_capabilities(postgres.pid) == DAC_READ_SEARCH
            assert Path(f"/proc/{postgres.pid}").stat().st_uid == postgres.cluster_dir.stat().st_uid != 0
        # Programs that were installed for nobody else take more than a right to read.
        (bin_dir / "postgres").chmod(0o700)
        with postgres:
            assert effective_capabilities(postgres.pid) == DAC_OVERRIDE
        assert mode(private) == 0o700
        assert private.stat().st_uid == 0

    def test_it_runs_where_root_may_not_read_everything_as_in_docker(self, tmp_path: Path) -> None:
        private = tmp_path / "private"
        private.mkdir(mode=0o700)
        without = ["setpriv", "--bounding-set=-dac_read_search", "--inh-caps=-dac_read_search"]
        with subprocess.Popen(
            [*without, sys.executable, "-c", START_AND_WAIT, private / "data"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as parent:
            assert parent.stdout is not None
            assert effective_capabilities(int(parent.stdout.readline())) == DAC_OVERRIDE
        assert parent.returncode == 0

    def test_a_data_folder_with_other_things_in_it_keeps_its_permissions(self, tmp_path: Path) -> None:
        home = tmp_path / "home"
        home.mkdir(mode=0o700)
        (home / "other").touch()
        with EmbeddedPostgres(home) as postgres:
            assert effective_capabilities(postgres.pid) == DAC_READ_SEARCH
        assert mode(home) == 0o700
        assert home.stat().st_gid == 0
