#!/usr/bin/env bash
# The baseline of script/bench converge: what site.yml does on two hosts, done once on one fresh host by a plain shell
# script. It runs on that host, as root, in a folder with the app's source and uv.txt: plain.sh <domain> <package>...
# It ends when /health answers 200.
#
# The same packages from the same image, the same way to an environment, and services configured to the same end; but no
# question is asked twice, nothing is compared, and no second run is thought of.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
domain=$1
packages=("${@:2}")
app=errorlog
certificates=/etc/plain
home=/srv/www/$app
export DEBIAN_FRONTEND=noninteractive LANG=C.UTF-8

put() { install -D -m "${2:-0644}" /dev/stdin "$1"; }

secret() { openssl rand -hex 20; }

install_packages() {
  echo 'LANG=C.UTF-8' >/etc/locale.conf
  ln -sf /usr/share/zoneinfo/Etc/UTC /etc/localtime
  put /etc/postgresql-common/createcluster.d/plain.conf <<<"initdb_options = '--data-checksums --encoding=UTF8 --locale=C.UTF-8'"
  # As the playbooks have it: a service first starts on its own configuration, instead of starting twice.
  put /usr/sbin/policy-rc.d 0755 <<<$'#!/bin/sh\nexit 101'
  # The playbooks' rule: lists of the last day will do.
  [ -n "$(find /var/lib/apt/lists -maxdepth 0 -mtime -1)" ] || apt-get update -qq
  apt-get install -qq --no-install-recommends "${packages[@]}" >/dev/null
  rm /usr/sbin/policy-rc.d
}

make_operator() {
  # Debian has a group of that name.
  useradd --create-home --gid operator --shell /bin/bash operator
  install -d -o operator -g operator -m 0700 /home/operator/.ssh
  put /etc/sudoers.d/operator 0440 <<<'operator ALL=(ALL:ALL) NOPASSWD: ALL'
  put /etc/systemd/journald.conf.d/plain.conf <<<$'[Journal]\nSystemMaxUse=512M'
  systemctl restart systemd-journald
}

configure_upgrades() {
  put /etc/apt/apt.conf.d/52plain <<'CONF'
APT::Periodic::Update-Package-Lists "1";
APT::Periodic::Unattended-Upgrade "1";
Unattended-Upgrade::Package-Blacklist { "postgresql"; "redis"; "pgbouncer"; "nginx"; "haproxy"; "memcached"; "supervisor"; };
CONF
}

configure_ssh() {
  put /etc/ssh/sshd_config.d/00-plain.conf <<'CONF'
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
X11Forwarding no
KexAlgorithms mlkem768x25519-sha256,sntrup761x25519-sha512,sntrup761x25519-sha512@openssh.com
MACs hmac-sha2-512-etm@openssh.com,hmac-sha2-256-etm@openssh.com,umac-128-etm@openssh.com
CONF
  sshd -t
  systemctl reload ssh
}

load_firewall() {
  local family
  for family in 4 6; do
    put "/etc/iptables/rules.v$family" <<'RULES'
*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -p icmp -j ACCEPT
-A INPUT -p ipv6-icmp -j ACCEPT
-A INPUT -p tcp -m multiport --dports 22,80,443 -j ACCEPT
COMMIT
RULES
  done
  sed -i '/ipv6-icmp/d' /etc/iptables/rules.v4
  sed -i '/-p icmp/d' /etc/iptables/rules.v6
  iptables-restore /etc/iptables/rules.v4
  ip6tables-restore /etc/iptables/rules.v6
}

# What the services speak TLS with among themselves, from an authority of the site's own.
make_certificates() {
  local service ec=(-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc)
  install -d $certificates
  openssl req -x509 "${ec[@]}" -days 3650 -subj /CN=plain -keyout $certificates/ca.key -out $certificates/ca.crt 2>/dev/null
  for service in postgres redis; do
    openssl req -x509 -CA $certificates/ca.crt -CAkey $certificates/ca.key "${ec[@]}" -days 90 -subj "/CN=$service" \
      -addext "subjectAltName=DNS:$service,IP:127.0.0.1" -keyout $certificates/$service.key -out $certificates/$service.crt 2>/dev/null
    chown $service $certificates/$service.key
  done
}

# systemd's share of each service: up again a second after a crash.
keep_up() {
  local unit
  for unit in "$@"; do
    put "/etc/systemd/system/$unit.service.d/plain.conf" <<<$'[Unit]\nStartLimitIntervalSec=0\n[Service]\nRestart=always\nRestartSec=1'
  done
  systemctl daemon-reload
}

configure_services() {
  put /etc/postgresql/17/main/conf.d/plain.conf <<CONF
shared_buffers = '256MB'
effective_cache_size = '768MB'
maintenance_work_mem = '64MB'
work_mem = '2MB'
checkpoint_completion_target = 0.9
wal_buffers = '7MB'
min_wal_size = '1GB'
max_wal_size = '4GB'
max_connections = 100
ssl_cert_file = '$certificates/postgres.crt'
ssl_key_file = '$certificates/postgres.key'
CONF
  put /etc/redis/redis.conf 0640 <<CONF
bind 127.0.0.1
port 0
tls-port 6379
tls-auth-clients no
tls-cert-file $certificates/redis.crt
tls-key-file $certificates/redis.key
tls-ca-cert-file $certificates/ca.crt
requirepass $redis_password
dir /var/lib/redis
appendonly yes
maxmemory 128mb
maxmemory-policy noeviction
logfile /var/log/redis/redis-server.log
pidfile /run/redis/redis-server.pid
CONF
  chown redis:redis /etc/redis/redis.conf
  put /etc/haproxy/haproxy.cfg <<CONF
global
    log stdout format raw daemon notice
    user haproxy
    group haproxy
defaults
    mode tcp
    timeout connect 2s
    timeout client 24d
    timeout server 24d
listen redis
    bind 127.0.0.1:7379
    server primary 127.0.0.1:6379 ssl verify required ca-file $certificates/ca.crt verifyhost redis
CONF
  put /etc/memcached.conf <<<$'-u memcache\n-P /var/run/memcached/memcached.pid\n-p 11211\n-U 0\n-l 127.0.0.1\n-m 64'
  put /etc/pgbouncer/pgbouncer.ini 0640 <<CONF
[databases]
$app = host=127.0.0.1 port=5432
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = 6432
unix_socket_dir = /run/postgresql
auth_type = scram-sha-256
auth_file = /etc/pgbouncer/userlist.txt
pool_mode = transaction
server_tls_sslmode = verify-full
server_tls_ca_file = $certificates/ca.crt
max_client_conn = 1000
max_prepared_statements = 200
logfile = /var/log/postgresql/pgbouncer.log
pidfile = /run/postgresql/pgbouncer.pid
CONF
  put /etc/pgbouncer/userlist.txt 0640 <<<"\"$app\" \"$database_password\""
  chown postgres:postgres /etc/pgbouncer/*
}

configure_nginx() {
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -days 397 -subj "/CN=$domain" \
    -addext "subjectAltName=DNS:$domain" -keyout /etc/ssl/private/$app.key -out /etc/ssl/private/$app.crt 2>/dev/null
  rm /etc/nginx/sites-enabled/default
  put /etc/nginx/conf.d/$app.conf <<CONF
gzip_types text/css application/javascript application/json image/svg+xml;
client_max_body_size 32m;
upstream $app {
    server 127.0.0.1:8000 max_fails=0;
    server 127.0.0.1:8001 max_fails=0;
    keepalive 16;
}
server {
    listen 80 default_server;
    listen [::]:80 default_server;
    return 301 https://\$host\$request_uri;
}
server {
    listen 443 ssl;
    listen [::]:443 ssl;
    http2 on;
    server_name $domain;
    ssl_certificate /etc/ssl/private/$app.crt;
    ssl_certificate_key /etc/ssl/private/$app.key;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header Host \$host;
    proxy_set_header X-Forwarded-For \$remote_addr;
    proxy_set_header X-Forwarded-Proto \$scheme;
    proxy_set_header X-Request-ID \$request_id;
    location /static/ {
        alias $home/staticfiles/;
    }
    location / {
        proxy_pass http://$app;
    }
}
CONF
}

start_services() {
  keep_up postgresql@17-main redis-server haproxy memcached pgbouncer nginx supervisor
  systemctl start postgresql@17-main redis-server haproxy memcached pgbouncer nginx
  runuser -u postgres -- psql -qX <<SQL
CREATE ROLE $app LOGIN PASSWORD '$database_password';
CREATE DATABASE $app OWNER $app TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C.UTF-8';
REVOKE ALL ON DATABASE $app FROM PUBLIC;
SQL
}

# Runs a line in the app's environment, as the app's user.
as_app() { runuser -u $app -- bash -c "cd $home; set -a; . ./env; PATH=$home/.venv/bin:\$PATH; $1"; }

install_app() {
  useradd --system --home-dir $home --shell /usr/sbin/nologin $app
  install -d -o $app -g $app $home
  cp -r $app/. $home
  chown -R $app:$app $home
  put $home/env 0640 <<CONF
SECRET_KEY='$(secret)'
ALLOWED_HOSTS='$domain'
DATABASE_URL='postgres://$app:$database_password@127.0.0.1:6432/$app'
REDIS_URL='redis://:$redis_password@127.0.0.1:7379/0'
MEMCACHE_SERVERS='127.0.0.1:11211'
CONF
  chgrp $app $home/env

  python3 -m venv /opt/uv
  /opt/uv/bin/pip install --quiet --no-deps --only-binary=:all: --require-hashes -r uv.txt
  export UV_CACHE_DIR=$home/.cache/uv SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
  as_app "/opt/uv/bin/uv venv --quiet --no-project --python /usr/bin/python3 .venv"
  as_app "/opt/uv/bin/uv pip install --quiet -r requirements.txt"
  as_app 'python manage.py collectstatic --noinput --verbosity 0'
  as_app 'python manage.py migrate --noinput --verbosity 0'
}

start_app() {
  local instance
  for instance in 1 2; do
    put /etc/supervisor/conf.d/$app-web-$instance.conf <<CONF
[program:$app-web-$instance]
command=/bin/bash -c 'set -a; . ./env; exec .venv/bin/gunicorn errorlog.wsgi'
directory=$home
user=$app
environment=HOME="$home",PORT="$((7999 + instance))",WEB_CONCURRENCY="2",FORWARDED_ALLOW_IPS="*",XDG_RUNTIME_DIR="$home/run/$instance"
autorestart=true
CONF
    install -d -o $app -g $app $home/run $home/run/$instance
  done
  put /etc/supervisor/conf.d/$app-worker-1.conf <<CONF
[program:$app-worker-1]
command=/bin/bash -c 'set -a; . ./env; exec .venv/bin/python manage.py work'
directory=$home
user=$app
environment=HOME="$home"
autorestart=true
CONF
  systemctl start supervisor
}

wait_for_health() {
  local attempt
  for attempt in {1..300}; do
    if curl --silent --insecure --fail --resolve "$domain:443:127.0.0.1" --output /dev/null "https://$domain/health"; then
      return
    fi
    sleep 0.1
  done
  echo "No 200 of https://$domain/health after $attempt attempts" >&2
  return 1
}

install_packages
database_password=$(secret)
redis_password=$(secret)
make_operator
configure_upgrades
configure_ssh
load_firewall
make_certificates
configure_services
configure_nginx
start_services
install_app
start_app
wait_for_health
