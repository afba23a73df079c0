#!/usr/bin/env bash
# Installs what the tests run as real services: a browser, a single-node S3 server, Prometheus, PostgreSQL and bubblewrap. Only what is missing.
set -euo pipefail

declare -A package_of=([chromium]=chromium [ceph-mon]=ceph-mon [ceph-osd]=ceph-osd [radosgw]=radosgw [ceph]=ceph-common
  [prometheus]=prometheus [bwrap]=bubblewrap)
missing=()
for command in "${!package_of[@]}"; do
  command -v "$command" >/dev/null || missing+=("${package_of[$command]}")
done
# Debian keeps PostgreSQL's programs off the path.
command -v initdb >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || missing+=(postgresql)
[ ${#missing[@]} -gt 0 ] || exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "packages.sh: ${missing[*]} must be installed by root, and there is no sudo: ask an administrator." >&2
    exit 2
  fi
  as_root=(sudo)
fi
if ! command -v apt-get >/dev/null; then
  echo "packages.sh: there is no apt-get here: install ${missing[*]} by this system's own means." >&2
  exit 2
fi
# The packages would start a Prometheus on every address of the machine, and a PostgreSQL; the tests start their own.
for service in prometheus postgresql; do
  if [[ " ${missing[*]} " == *" $service "* && -d /run/systemd/system ]]; then
    "${as_root[@]}" systemctl mask "$service.service"
  fi
done
"${as_root[@]}" apt-get update -qq
DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install --no-install-recommends -y -qq "${missing[@]}"
