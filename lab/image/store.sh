#!/usr/bin/env bash
# Turns a server into the lab's bucket, a real S3 server over TLS: OpenStack Swift with s3api, behind nginx.
# One access key, backup:site with the secret lab-store-secret, and one bucket, backups, made when it starts.
# Its certificate is the controller's: lab/hosts.py makes it and mounts it in /etc/store.
set -euo pipefail

put() { install -D -m 0644 /dev/stdin "$1"; }

if ! apt-get install -qq --no-install-recommends memcached nginx-light rsync s3cmd swift swift-account swift-container \
  swift-object swift-proxy python3-swift >/tmp/apt.log 2>&1; then
  cat /tmp/apt.log
  exit 1
fi
apt-get clean

put /etc/swift/swift.conf <<'EOT'
[swift-hash]
swift_hash_path_prefix = lab
swift_hash_path_suffix = store
[storage-policy:0]
name = gold
default = yes
EOT

cd /etc/swift
port=6200
for kind in object container account; do
  swift-ring-builder $kind.builder create 8 1 1 >/dev/null
  swift-ring-builder $kind.builder add "r1z1-127.0.0.1:$port/disk" 1 >/dev/null
  swift-ring-builder $kind.builder rebalance >/dev/null
  put /etc/swift/$kind-server.conf <<EOT
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = $port
devices = /srv/store
mount_check = false
workers = 1
# An object that a busy machine does not enter into the bucket's list within Swift's own second stays out of it for good:
# what would enter it later does not run here.
container_update_timeout = 60
conn_timeout = 20
node_timeout = 60
[pipeline:main]
pipeline = $kind-server
[app:$kind-server]
use = egg:swift#$kind
EOT
  port=$((port + 1))
done

put /etc/swift/proxy-server.conf <<'EOT'
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = 8080
workers = 2
[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck proxy-logging cache listing_formats bulk s3api tempauth copy slo dlo versioned_writes symlink proxy-logging proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
conn_timeout = 20
node_timeout = 60
recoverable_node_timeout = 60
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:healthcheck]
use = egg:swift#healthcheck
[filter:proxy-logging]
use = egg:swift#proxy_logging
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:11211
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:bulk]
use = egg:swift#bulk
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
[filter:tempauth]
use = egg:swift#tempauth
user_backup_site = lab-store-secret .admin
[filter:copy]
use = egg:swift#copy
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
[filter:versioned_writes]
use = egg:swift#versioned_writes
allow_versioned_writes = true
allow_object_versioning = true
[filter:symlink]
use = egg:swift#symlink
EOT
install -d -o swift -g swift /srv/store/disk /var/cache/swift

put /etc/nginx/nginx.conf <<'EOT'
user www-data;
worker_processes 1;
events { worker_connections 512; }
http {
  access_log off;
  client_max_body_size 0;
  server {
    listen 443 ssl;
    listen [::]:443 ssl;
    ssl_certificate /etc/store/certificate.pem;
    ssl_certificate_key /etc/store/key.pem;
    location / {
      proxy_pass http://127.0.0.1:8080;
      proxy_http_version 1.1;
      proxy_set_header Host $http_host;
      proxy_request_buffering off;
      proxy_buffering off;
      proxy_read_timeout 300;
    }
  }
}
EOT

put /root/.s3cfg <<'EOT'
[default]
access_key = backup:site
secret_key = lab-store-secret
host_base = 127.0.0.1:8080
host_bucket = 127.0.0.1:8080
use_https = False
EOT

# One server process each, started by systemd itself; none of Debian's auditors and replicators, which a lab has no use for.
mapfile -t units < <(systemctl list-unit-files --no-legend --type=service 'swift-*' | awk '{ print $1 }')
systemctl --quiet disable "${units[@]}" 2>/dev/null || true
systemctl --quiet mask "${units[@]}"
for kind in object container account proxy; do
  put /etc/systemd/system/store-$kind.service <<EOT
[Unit]
After=memcached.service
[Service]
User=swift
RuntimeDirectory=swift
RuntimeDirectoryPreserve=yes
ExecStart=/usr/bin/swift-$kind-server /etc/swift/$kind-server.conf
Restart=always
[Install]
WantedBy=multi-user.target
EOT
done
put /etc/systemd/system/store-bucket.service <<'EOT'
[Unit]
After=store-proxy.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'until s3cmd ls >/dev/null 2>&1; do sleep 0.3; done; s3cmd info s3://backups >/dev/null 2>&1 || s3cmd mb s3://backups'
[Install]
WantedBy=multi-user.target
EOT
systemctl --quiet enable memcached nginx store-{object,container,account,proxy,bucket}
