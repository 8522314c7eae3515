"""Secrets that can be recognised go through every playbook, at its most talkative; none is where others can read it."""

import base64
import fnmatch
import importlib.util
import json
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import pytest
import yaml

testinfra_hosts = ["ansible://web1"]
pytestmark = pytest.mark.usefixtures("host")

ROOT = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"])
SCENARIO = os.environ["MOLECULE_SCENARIO_NAME"]
FILES = ROOT / "molecule" / SCENARIO / "files"
SERVERS = ("web1", "db1", "db2")
STORE = "store1"
# Every secret begins with it, in each run with another; the decoys of the tests of the test begin with the other one.
MARK, DECOY = (f"{word}{secrets.token_hex(8)}" for word in ("Canary", "Decoys"))
# Where a secret may be on a server, and whose each file is.
HOLDERS = {
    "/srv/www/*/releases/v*/env": "root",
    "/etc/redis/users.conf": "redis",
    "/etc/redis/server.key": "redis",
    "/etc/pgbouncer/server.key": "postgres",
    "/etc/postgresql/*/main/server.key": "postgres",
    "/etc/pgbackrest.conf": "root",
    "/etc/offramp/backup/s3cfg": "root",
    "/etc/offramp/backup/age.key": "root",
    "/etc/postgresql/offramp.pgpass": "postgres",
}
SOCKET = "/run/redis/redis-server.sock"
# Looked through, and never written to: what S108 warns of.
PLACES = ["/", "/run", "/tmp", "/dev/shm"]  # noqa: S108


def plugin(name, folder="filter_plugins"):
    spec = importlib.util.spec_from_file_location(name, ROOT / folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def secret(name, odd="", mark=MARK):
    return f"{mark}-{name}-{odd}"


def forms(mark):
    """Return the text as it is, in hexadecimal, and in base64 wherever it stands in what was encoded."""
    found = [mark, mark.encode().hex()]
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + mark.encode()).decode()
        # What depends on the neighbours is cut off.
        found.append(encoded[-(-before * 8 // 6) : (before + len(mark)) * 8 // 6])
    return found


def lines_with(texts, content):
    """Return the lines that hold one of the texts, each shortened around it."""
    held = [text.encode() for text in texts if text.encode() in content]
    if not held:
        return []
    pattern = re.compile(b".{0,160}(?:" + b"|".join(map(re.escape, held)) + b").{0,60}")
    return [found.decode(errors="replace") for found in pattern.findall(content)]


# The site


class Site:
    """A site of its own in a directory of its own, with a vault as a user has it."""

    def __init__(self, directory):
        self.directory, self.outputs, self.surprises, self.watchers = directory, {}, {}, {}
        self.load, self.report = None, {}
        self.since = int(time.time())
        self.inventory = directory / "site"
        self.values = directory / "values"
        self.values.mkdir()
        self.password = directory / "vault-password"
        self.environment = {key: value for key, value in os.environ.items() if key != "ANSIBLE_RUN_TAGS"} | {
            "ANSIBLE_VAULT_PASSWORD_FILE": str(self.password),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_FORCE_COLOR": "0",
        }

    def make(self):
        shutil.copytree(ROOT / "molecule" / SCENARIO / "inventory", self.inventory)
        shutil.copytree(FILES / "shop", self.directory / "shop")
        self.private(self.password, secret("vault-password"))
        vault = self.inventory / "group_vars/all/vault.yml"
        self.private(vault, yaml.safe_dump(self.secrets("first") | {"vault_other_source": self.git_source()}))
        subprocess.run(["ansible-vault", "encrypt", vault], env=self.environment, capture_output=True, check=True)
        plain = {"canary_shop_source": str(self.directory / "shop"), "canary_plain_token": secret("plain-token")}
        self.private(self.inventory / "group_vars/all/plain.yml", yaml.safe_dump(plain))
        # The bucket's server has the key of this run.
        change = f"sed -i 's|lab-store-secret|{secret('s3')}|' /etc/swift/proxy-server.conf /root/.s3cfg; "
        self.on(STORE, change + "systemctl restart store-proxy")

    @staticmethod
    def private(path, text):
        path.touch(mode=0o600)
        path.write_text(text)

    @staticmethod
    def secrets(name):
        """Return every secret that a vault holds; some with characters that a URL has to quote."""
        return {
            "vault_database_passwords": {"shop": secret(f"{name}-database", "/+%@:?#")},
            "vault_ca_secret": secret(f"{name}-ca"),
            "vault_redis_password": secret(f"{name}-redis", "/+%@:"),
            "vault_replication_password": secret(f"{name}-replication"),
            # The service's own, which only it can change
            "vault_backup_s3_key": secret("s3"),
            "vault_backup_cipher_key": secret(f"{name}-cipher", "0123456789"),
            "vault_shop_secret_key": secret(f"{name}-secret-key", "'\"$` 0123456789"),
        }

    def git_source(self):
        """Return a private repository's URL, with the token that reads it."""
        work, bare = self.directory / "other", self.directory / "git/other.git"
        shutil.copytree(ROOT / "molecule/app/files/plain", work)
        identity = ["-c", "user.name=other", "-c", "user.email=other@example.com"]
        for command in (
            ["init", "--quiet", "--initial-branch=main", str(work)],
            ["-C", str(work), "add", "."],
            ["-C", str(work), *identity, "commit", "--quiet", "--message=other"],
            ["clone", "--quiet", "--bare", str(work), str(bare)],
        ):
            subprocess.run(["git", *command], check=True, capture_output=True)
        token = secret("git-token")
        port = plugin("git_server", f"molecule/{SCENARIO}/files").serve(bare.parent, "deploy", token)
        return f"http://deploy:{token}@127.0.0.1:{port}/other.git"

    @cached_property
    def known(self):
        """What to look for: each secret by its mark, the keys made of one, and those that a rotation made."""
        authorities = [values["vault_ca_secret"] for values in (self.secrets("first"), self.vault())]
        identities = [self.identity(values) for values in (self.secrets("first"), self.vault())]
        certificate = plugin("site_certificate").site_certificate
        services = [("redis", "redis db"), ("postgresql", "postgresql db"), ("postgresql", "pgbouncer web")]
        made = [
            certificate(secret, authority, f"{service}{number}", ["-"])["key"]
            for secret in authorities
            for authority, service in services
            for number in (1, 2)
        ]
        of_app = plugin("redis_users").redis_password
        passwords = [of_app(values["vault_redis_password"], "shop") for values in (self.secrets("first"), self.vault())]
        rotated = [text for value in [*self.rotated().values(), *passwords] for text in forms(value)]
        # A key's second line holds most of what is secret.
        return [*forms(MARK), *identities, *(key.splitlines()[2] for key in made), *rotated]

    @staticmethod
    def identity(values):
        """Return the key that opens what was backed up with a vault's secret."""
        return plugin("age_identity").age_identity(values["vault_backup_cipher_key"])

    def vault(self):
        """Return what the vault holds now."""
        view = ["ansible-vault", "view", self.inventory / "group_vars/all/vault.yml"]
        return yaml.safe_load(subprocess.run(view, env=self.environment, capture_output=True, check=True).stdout)

    def rotated(self):
        """Return the secrets that no mark begins any more."""
        vault = self.vault()
        values = {**vault, "vault_shop_password": vault["vault_database_passwords"]["shop"]}
        made = {name: value for name, value in values.items() if isinstance(value, str) and MARK not in value}
        return {name: value for name, value in made.items() if re.fullmatch(r"[A-Za-z0-9]{50}", value)}

    # The runs

    def command(self, name, playbook, options, values):
        """Return a playbook's most talkative run; what it is given stands in a file, as the documentation has it."""
        given = self.values / f"{name.replace(' ', '-')}.json"
        self.private(given, json.dumps(values))
        inventories = [f"--inventory={ROOT}/molecule/shared/inventory/", f"--inventory={self.inventory}/"]
        return ["ansible-playbook", "-vvv", "--diff", *inventories, f"--extra-vars=@{given}", *options, playbook]

    def play(self, name, playbook, fails="", options=(), **values):
        command = self.command(name, playbook, options, values)
        begin = time.monotonic()
        done = subprocess.run(
            command, cwd=ROOT, env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        self.outputs[name] = said = done.stdout + done.stderr
        print(f"{name}: {time.monotonic() - begin:.0f} s")
        if bool(done.returncode) != bool(fails) or not re.search(fails.encode(), said):
            told = re.findall(r"^(?:fatal|FAILED|PLAY RECAP| +(?:msg|stderr|outcome):).*", said.decode(), re.MULTILINE)
            self.surprises[name] = "\n".join(line[:2000] for line in told[-30:])

    def killed(self, name, playbook, task, **values):
        """Run a playbook, and kill it when it is at a task."""
        begin, said = time.monotonic(), b""
        command = self.command(name, playbook, (), values)
        run = subprocess.Popen(
            command,
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        for line in run.stdout:
            said += line
            if b"TASK [" in line and task.encode() in line:
                break
        else:
            self.surprises[name] = f"it never came to {task}"
        os.killpg(run.pid, signal.SIGKILL)
        self.outputs[name] = said + run.stdout.read()
        run.wait()
        run.stdout.close()
        print(f"{name}: {time.monotonic() - begin:.0f} s")

    def visit(self):
        """Have visitors all the while, each of whom makes the app use its database and redis."""
        words = ["--connect", "10.90.66.11:443", "--host", "shop.example", "--rate", "8", "--seconds", "900"]
        self.load = subprocess.Popen([sys.executable, ROOT / "bench/load.py", *words], stdout=subprocess.PIPE)

    def leave(self):
        self.load.terminate()
        self.report = json.loads(self.load.communicate()[0])
        print("visitors:", self.report)

    def keep_manifests(self):
        """Fetch what was stored with the first key and with the second, while the servers get into the bucket."""
        self.place = json.loads(self.on("db1", "cat /etc/offramp/backup/config.json"))
        s3cmd, root = "s3cmd --config=/etc/offramp/backup/s3cfg", f"s3://{self.place['bucket']}/canary/"
        for name, place in (("first", root), ("second", f"{root}key2/")):
            listed = self.on("db1", f"{s3cmd} ls --recursive {place}databases/").decode()
            newest = re.findall(r"\S+/manifest\.good\.age", listed)[-1]
            self.on("db1", f"{s3cmd} get --force {newest} /root/manifest-{name}")

    def change_shop(self):
        with (self.directory / "shop/requirements.txt").open("a") as file:
            file.write("# changed\n")

    def dump(self):
        path = self.directory / "shop.dump"
        path.write_bytes(self.on("db1", "runuser -u postgres -- pg_dump --format=custom --dbname=shop"))
        return str(path)

    # Servers

    @staticmethod
    def ssh(server, command):
        return ["ssh", "-F", f"{ROOT}/.lab/ssh/{SCENARIO}", server, command]

    def on(self, server, command, given=b""):
        done = subprocess.run(self.ssh(server, command), input=given, capture_output=True, check=False)
        assert done.returncode == 0, f"{server}: {done.stderr.decode()}"
        return done.stdout

    def watch(self):
        """Have somebody without any right look at the processes of every server, and of this machine, all the while."""
        program = (FILES / "watch.py").read_bytes()
        nobody = "setpriv --reuid=nobody --regid=nogroup --clear-groups python3 -I -"
        here = nobody.split() if os.geteuid() == 0 else [sys.executable, "-I", "-"]
        commands = {server: self.ssh(server, nobody) for server in SERVERS}
        for name, command in {**commands, "controller": here}.items():
            with (self.directory / f"seen-{name}").open("wb") as seen:
                watcher = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=seen, cwd="/")
            watcher.stdin.write(program)
            watcher.stdin.close()
            self.watchers[name] = watcher
        while not all(self.seen(name) for name in self.watchers):
            time.sleep(0.1)

    def seen(self, name):
        return (self.directory / f"seen-{name}").read_bytes()

    def search(self, server, texts, places=PLACES):
        asked = json.dumps({"texts": texts, "since": self.since, "places": places, "journal": server != "controller"})
        program = (FILES / "search.py").read_bytes()
        if server == "controller":
            command = [sys.executable, "-I", FILES / "search.py"]
            return json.loads(subprocess.run(command, input=asked.encode(), capture_output=True, check=True).stdout)
        self.on(server, "cat >/root/.search.py", program)
        return json.loads(self.on(server, "python3 -I /root/.search.py", asked.encode()))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Have a site with secrets that were never seen, through everything that can be done with it."""
    site = Site(tmp_path_factory.mktemp("canary"))
    site.make()
    site.watch()
    try:
        for server in SERVERS:
            plant(site, server)
        site.play("site", "site.yml")
        with ThreadPoolExecutor(2) as pool:
            for chain in [pool.submit(run_apps, site), pool.submit(run_beside, site)]:
                chain.result()
        site.visit()
        try:
            run_rotations(site)
        finally:
            site.leave()
        run_databases(site)
        run_last(site)
    finally:
        for watcher in site.watchers.values():
            watcher.kill()
            watcher.wait()
    return site


def run_apps(site):
    """What is done with an app from day to day, and what goes wrong with it."""
    site.play("config", "playbooks/config.yml", app="shop", set={"SET_TOKEN": secret("set-token", "$'\"{{")})
    wrong = {"set": {"SET_TOKEN": secret("sick-token"), "SICK": "1"}, "unset": ["API_TOKEN"]}
    site.play("config that fails", "playbooks/config.yml", fails="inventory is as it was", app="shop", **wrong)
    other_password = {"shop": secret("wrong-database", "/+%@:?#")}
    site.play(
        "deploy with a wrong password",
        "playbooks/deploy.yml",
        fails="release command of shop v.* failed",
        app="shop",
        vault_database_passwords=other_password,
    )
    site.change_shop()
    index = f"http://ci:{secret('index')}@127.0.0.1:9/simple"
    site.play(
        "deploy without an index", "playbooks/deploy.yml", fails="was not built", app="shop", app_pypi_index_url=index
    )
    site.play("deploy", "playbooks/deploy.yml", app="shop")
    site.play("deploy of what is not there", "playbooks/deploy.yml", fails="no branch", app="other", version="nosuch")
    site.play("releases", "playbooks/releases.yml", app="shop")
    site.play("rollback", "playbooks/rollback.yml", app="shop")
    site.play("maintenance", "playbooks/maintenance.yml", app="shop", state="off")
    site.play("run", "playbooks/run.yml", app="shop", command="true")
    site.play("run that fails", "playbooks/run.yml", fails="non-zero", app="shop", command="ls /nosuch")


def run_beside(site):
    """What only looks at the site, and can do so while apps are deployed."""
    site.play("backup", "playbooks/backup.yml")
    site.play("restore test", "playbooks/restore_test.yml")
    site.play("tuning", "playbooks/tuning.yml")
    # The site's own folder, whose vault it opens; what all scenarios share is missing there, and listed.
    answers = {"site": str(site.inventory), "web": "", "db": "", "key": "", "user": "root"}
    known_hosts = str(site.directory / "known_hosts")
    site.play("init", "playbooks/init.yml", fails="To mend", trust_host_keys=True, known_hosts=known_hosts, **answers)
    site.play("reindex", "playbooks/reindex.yml")
    site.play("upgrade where there is nothing to", "playbooks/postgres_upgrade.yml")
    others = site.secrets("second") | {"canary_plain_token": secret("second-plain-token")}
    site.play("preview of other secrets", "site.yml", options=["--check"], **others)


def run_rotations(site):
    """New secrets in place of the old ones, and what breaks that off."""
    rotate = "playbooks/rotate.yml"
    database, redis, replication = ({"secret": kind, "app": "shop"} for kind in ("database", "redis", "replication"))
    authorities, backups = {"secret": "ca"}, {"secret": "backup"}
    key = {"secret": "app", "app": "shop", "key": "SECRET_KEY"}
    site.play("rotation of what is not there", rotate, fails="2 mistakes", **{**key, "app": "nosuch", "key": ""})
    site.killed("rotation that ends in the restart", rotate, "Roll | Switch the processes of shop", **database)
    site.play("rotation beside another", rotate, fails="is under way", **redis)
    site.play("rotation of a database", rotate, break_lock=True, **database)
    site.killed("rotation that ends at the refusal", rotate, "Prove that redis takes the new password", **redis)
    site.play("rotation of redis", rotate, **redis)
    site.play("rotation of replication", rotate, **replication)
    site.play("rotation of a key", rotate, **key)
    site.killed("rotation that ends between two authorities", rotate, "Have haproxy check it", **authorities)
    site.play("rotation of the authorities", rotate, **authorities)
    site.killed("rotation that ends before a backup", rotate, "Now | Take what a night takes", **backups)
    site.play("rotation of the backups", rotate, **backups)
    # What else the site has, no rotation touches.
    site.play("site after the rotations", "site.yml", options=["--tags=postgresql,redis,pgbouncer,app,backup"])


def run_databases(site):
    """What changes the data, and who has it."""
    of_backup = ["--tags=backup"]
    site.play("backups of before the rotation", "playbooks/services.yml", options=of_backup, backup_generation=1)
    site.play("restore", "playbooks/restore.yml", app="shop", dump="latest", overwrite=True)
    site.play("backups of now", "playbooks/services.yml", options=of_backup)
    site.play("import of a dump", "playbooks/import_dump.yml", app="shop", dump=site.dump(), replace=True)
    site.play("patch", "playbooks/patch.yml")
    site.play("switchover", "playbooks/switchover.yml", promote="db2")
    site.play("failover", "playbooks/failover.yml", promote="db1", force=True, accept_loss=600)
    site.play("rejoin", "playbooks/rejoin.yml")
    site.keep_manifests()


def run_last(site):
    """What refuses to begin, changes the list of apps, or leaves the site without its bucket."""
    # Of the services, site.yml has set up all.
    skip = "--skip-tags=base,firewall,postgresql,redis,memcached,pgbouncer,supervisor,nginx,uv"
    site.play("rebuild", "playbooks/rebuild.yml", fails="overwrite", options=[skip])
    config = site.values / "config.json"
    heroku = {"app": "imported", "source": str(site.directory / "shop"), "config_json": str(config)}
    for run in ("first", "second"):
        site.private(config, json.dumps({"HEROKU_KEY": secret(f"{run}-heroku"), "COLOR": "blue"}))
        site.play(f"{run} import", "playbooks/import_heroku.yml", domains="imported.example", overwrite=True, **heroku)
    # An error of S3 is told with the request that met it.
    wrong = {"vault_backup_s3_key": secret("wrong-s3")}
    site.play("services with a wrong key", "playbooks/services.yml", fails="403", options=["--tags=backup"], **wrong)
    site.play("backup with a wrong key", "playbooks/backup.yml", fails="403", options=["--limit=db1"])


def plant(site, server):
    """Leak on purpose, in each way that is looked for."""
    plain, encoded = f"{DECOY}-planted", base64.b64encode(f"password={DECOY}-planted".encode()).decode()
    ways = (
        f"echo a line with {plain} >/var/log/decoy.log",
        f"echo {encoded} >/tmp/decoy",
        f"echo {plain} >/root/.decoy",
        f"logger a line with {encoded}",
        f"sh -c 'sleep 1; : {plain}'",
        f"DECOY={encoded} setpriv --reuid=nobody --regid=nogroup --clear-groups sleep 1",
    )
    site.on(server, "; ".join(ways))


@pytest.mark.parametrize("server", SERVERS)
def test_what_is_planted_is_found(site, server):
    found = site.search(server, forms(DECOY))
    # As in PLACES: looked for, and not written to here.
    assert {"/var/log/decoy.log", "/tmp/decoy", "/root/.decoy"} <= found["files"].keys()  # noqa: S108
    assert found["journal"]
    seen = lines_with(forms(DECOY), site.seen(server))
    assert {name for name in ("cmdline", "environ") if any(f"/{name}: " in line for line in seen)} == {
        "cmdline",
        "environ",
    }


def test_every_playbook_has_run(site):
    def imported(path):
        plays = yaml.safe_load(path.read_text())
        names = [play["ansible.builtin.import_playbook"] for play in plays if "ansible.builtin.import_playbook" in play]
        return {path, *(other for name in names for other in imported((path.parent / name).resolve()))}

    ran = {path for said in site.outputs.values() for path in re.findall(rb"PLAYBOOK: (\S+) \*", said)}
    paths = [path for path in [ROOT / "site.yml", *(ROOT / "playbooks").glob("*.yml")] if path.name.encode() in ran]
    assert {name for path in paths for name in imported(path)} >= set((ROOT / "playbooks").glob("*.yml"))


def test_each_run_ended_as_it_was_to(site):
    print(*(f"{name}:\n{said}" for name, said in site.surprises.items()), sep="\n")
    assert list(site.surprises) == []


def test_no_request_fails_while_secrets_are_rotated(site):
    assert (site.report["failed"], site.report["truncated"]) == (0, 0), site.report["failures"]
    assert site.report["answers"] > 200
    # One before the key was rotated, and one after it
    assert len(site.report["versions"]) == 2


def test_each_secret_is_another_one_afterwards(site):
    passwords = {"redis_password", "replication_password", "shop_password"}
    rotated = {"backup_cipher_key", "ca_secret", "shop_secret_key"} | passwords
    assert site.rotated().keys() == {f"vault_{name}" for name in rotated}
    assert "vault_rotation" not in site.vault()


def test_nothing_is_left_to_do_after_the_rotations(site):
    assert set(re.findall(rb"changed=(\d+)", site.outputs["site after the rotations"])) == {b"0"}


def test_each_key_opens_the_backups_of_its_time_alone(site):
    was, now = site.secrets("first"), site.vault()
    assert now["vault_backup_former_cipher_keys"] == [was["vault_backup_cipher_key"]]
    for name, opens, shut in (("first", was, now), ("second", now, was)):
        opened = f"age --decrypt --identity - /root/manifest-{name}"
        assert json.loads(site.on("db1", opened, site.identity(opens).encode()))["items"]
        site.on("db1", f"! {opened}", site.identity(shut).encode())
    assert site.place["prefix"] == "canary/key2"


@pytest.mark.parametrize("redis", ["db1", "db2"])
def test_redis_refuses_the_old_password(site, redis):
    former = shlex.quote(site.secrets("first")["vault_redis_password"])
    tried = f"REDISCLI_AUTH={former} redis-cli --user offramp -s {SOCKET} ping 2>&1"
    assert b"NOAUTH" in site.on(redis, "sh -s", tried.encode())
    now = f"REDISCLI_AUTH={site.vault()['vault_redis_password']} redis-cli --user offramp -s {SOCKET} info replication"
    assert b"master_link_status:up" in site.on("db1", "sh -s", now.encode()) + site.on("db2", "sh -s", now.encode())


@pytest.mark.parametrize("address", ["127.0.0.1 6432", "10.90.66.21 5432", "10.90.66.22 5432"])
def test_the_database_refuses_the_old_password(site, address):
    host, port = address.split()
    old, new = (secrets["vault_database_passwords"]["shop"] for secrets in (site.secrets("first"), site.vault()))
    tried = "PGPASSWORD={} psql -XAtc 'SELECT current_user' 'host={} port={} user={} dbname=shop' 2>&1 || true"
    for user in ("shop", "shop-2"):
        said = site.on("web1", "sh -s", tried.format(shlex.quote(old), host, port, user).encode())
        assert re.search(b"authentication failed|not permitted|no pg_hba.conf entry", said)
    # What the second login makes is the owner's.
    assert site.on("web1", "sh -s", tried.format(new, host, port, "shop-2").encode()) == b"shop\n"


def test_a_standby_whose_connection_breaks_comes_back_with_the_new_password(site, eventually):
    streaming = "psql -U postgres -XAtc \"SELECT pid FROM pg_stat_replication WHERE state = 'streaming'\""
    primary = next(server for server in ("db1", "db2") if site.on(server, streaming))
    before = site.on(primary, streaming)
    site.on(primary, "psql -U postgres -Xc 'SELECT pg_terminate_backend(pid) FROM pg_stat_replication'")
    eventually(lambda: site.on(primary, streaming) not in (b"", before), seconds=30)


def test_no_output_shows_a_secret(site):
    found = {name: lines_with(site.known, said) for name, said in site.outputs.items()}
    assert {name: lines[:20] for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize("machine", [*SERVERS, "controller"])
def test_no_process_shows_a_secret_to_others(site, machine):
    assert site.seen(machine).count(b"\n") > 100
    assert lines_with(site.known, site.seen(machine)) == []


@pytest.mark.parametrize("server", SERVERS)
def test_a_secret_is_in_no_file_but_the_one_that_is_meant_for_it(site, server):
    found = site.search(server, site.known)["files"]
    meant = {name: owner for name in found for place, owner in HOLDERS.items() if fnmatch.fnmatch(name, place)}
    assert sorted(found.keys() - meant.keys()) == []
    assert {name: owner for name, (_mode, owner) in found.items()} == meant
    assert {name: oct(mode) for name, (mode, _owner) in found.items() if mode & 0o137} == {}
    assert meant


@pytest.mark.parametrize("server", [*SERVERS, STORE])
def test_no_journal_holds_a_secret(site, server):
    assert site.search(server, site.known)["journal"] == []


def test_the_bucket_holds_no_secret_in_clear(site):
    found = site.search(STORE, site.known, ["/srv/store"])["files"]
    assert site.search(STORE, ["age-encryption.org"], ["/srv/store"])["files"]
    assert found == {}


def test_the_controller_keeps_no_secret_but_the_sites_own(site):
    places = [str(ROOT / name) for name in (".cache", ".lab", ".ansible", "tuning")]
    # The same
    places += [str(Path.home() / ".ansible"), "/tmp", "/var/tmp", "/dev/shm"]  # noqa: S108
    found = site.search("controller", site.known, places)["files"]
    own = [str(site.inventory), str(site.values), str(site.password)]
    assert [name for name in found if not name.startswith(tuple(own))] == []
    assert {name: oct(status[0]) for name, status in found.items() if status and status[0] & 0o077} == {}
