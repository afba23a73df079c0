#!/usr/bin/env bash
# A real S3 server on 127.0.0.1: Ceph's radosgw over one monitor and one in-memory object store, as plain processes.
#   s3.sh start DIR PORT MON_PORT   prints "ENDPOINT ACCESS_KEY SECRET_KEY" once requests are answered
#   s3.sh stop DIR                  returns when every process has gone
# DIR holds configuration, logs and pids; keep its path short, sockets live in it. Packages: packages.sh.
set -Eeuo pipefail

access=requant
secret=requant-secret
daemons=(rgw osd mon) # in the order of stopping: each needs the ones after it

usage() {
  sed -n '3,4p' "$0" >&2
  exit 2
}

fail() {
  trap - ERR
  echo "s3.sh: $1; see the logs in $dir." >&4
  stop
  exit 1
}

# wait_for SECONDS WHAT COMMAND...: poll until the command succeeds.
wait_for() {
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || fail "$what did not come up in time"
    sleep 0.2
  done
}

# launch NAME COMMAND...: start a daemon of its own process group and note its pid.
launch() {
  local name=$1
  shift
  setsid "$@" >"$dir/$name.out" 2>&1 </dev/null 3>&- 4>&- & # an inherited pipe would keep the caller waiting
  echo $! >"$dir/$name.pid"
}

alive() { [ -d "/proc/$1" ] && ! grep -q '^State:.*Z' "/proc/$1/status" 2>/dev/null; }

stop_one() {
  local pid
  [ -f "$dir/$1.pid" ] || return 0
  pid=$(cat "$dir/$1.pid")
  # The pid may have been given to a stranger since: only touch what still runs from this folder.
  if tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF -- "$dir/ceph.conf"; then
    kill "$pid" 2>/dev/null || true
    for _ in $(seq 50); do alive "$pid" || break; sleep 0.1; done
    if alive "$pid"; then kill -9 "$pid" 2>/dev/null || true; fi
    while alive "$pid"; do sleep 0.1; done
  fi
  rm -f "$dir/$1.pid"
}

stop() { for name in "${daemons[@]}"; do stop_one "$name"; done; }

write_configuration() {
  cat >"$CEPH_CONF" <<CONF
[global]
fsid = $fsid
mon host = v2:127.0.0.1:$mon_port
mon initial members = a
run dir = $dir
pid file = $dir/\$name.cephpid
log file = $dir/\$name.log
admin socket = $dir/\$name.asok
keyring = $dir/keyring
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
ms bind ipv4 = true
public addr = 127.0.0.1
cluster addr = 127.0.0.1
mon data = $dir/mon.a
mon allow pool size one = true
osd data = $dir/osd.0
osd objectstore = memstore
memstore device bytes = 1073741824
osd max object name len = 256
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
[client.admin]
rgw frontends = beast endpoint=127.0.0.1:$port
rgw data = $dir/rgw
CONF
}

make_keys() {
  ceph-authtool --create-keyring "$dir/keyring" --gen-key -n mon. --cap mon 'allow *'
  ceph-authtool "$dir/keyring" --gen-key -n osd.0 --cap mon 'allow profile osd' --cap osd 'allow *'
  ceph-authtool "$dir/keyring" --gen-key -n client.admin --cap mon 'allow *' --cap osd 'allow *'
}

start_monitor() {
  monmaptool --create --clobber --addv a "v2:127.0.0.1:$mon_port" --fsid "$fsid" "$dir/monmap"
  ceph-mon -c "$CEPH_CONF" --mkfs -i a --monmap "$dir/monmap" --keyring "$dir/keyring" "${account[@]}"
  launch mon ceph-mon -c "$CEPH_CONF" -i a -f "${account[@]}"
  wait_for 60 "the monitor" timeout 5 ceph -c "$CEPH_CONF" -s
}

start_object_store() {
  ceph -c "$CEPH_CONF" osd create >/dev/null
  # Placed by hand: the daemon would ask the host's name, which need not resolve in a sandbox.
  ceph -c "$CEPH_CONF" osd crush add-bucket one host
  ceph -c "$CEPH_CONF" osd crush move one root=default
  ceph -c "$CEPH_CONF" osd crush add osd.0 1.0 host=one
  ceph-osd -c "$CEPH_CONF" -i 0 --mkfs "${account[@]}"
  launch osd ceph-osd -c "$CEPH_CONF" -i 0 -f --osd-crush-update-on-start=false "${account[@]}"
  wait_for 60 "the object store" sh -c "ceph -c '$CEPH_CONF' osd stat | grep -q '1 up'"
}

start_gateway() {
  launch rgw radosgw -c "$CEPH_CONF" -n client.admin -f "${account[@]}"
  wait_for 120 "the gateway" bash -c "exec 5<>/dev/tcp/127.0.0.1/$port"
  radosgw-admin -c "$CEPH_CONF" user create --uid=requant --display-name=requant \
    --access-key="$access" --secret-key="$secret"
}

start() {
  for command in ceph-mon ceph-osd radosgw ceph; do
    command -v "$command" >/dev/null || { echo "s3.sh: there is no $command here: run packages.sh beside this file." >&2; exit 2; }
  done
  mkdir -p "$dir/mon.a" "$dir/osd.0" "$dir/rgw"
  fsid=$(cat /proc/sys/kernel/random/uuid)
  account=()
  [ "$(id -u)" -ne 0 ] || account=(--setuser root --setgroup root) # the packages' own account cannot write here
  export CEPH_CONF=$dir/ceph.conf
  write_configuration
  trap 'fail "a step of the start failed"' ERR
  exec 3>&1 4>&2 >"$dir/start.log" 2>&1
  make_keys
  start_monitor
  start_object_store
  start_gateway
  trap - ERR
  exec 1>&3 2>&4
  echo "http://127.0.0.1:$port $access $secret"
}

[ $# -ge 2 ] || usage
mkdir -p "$2"
dir=$(cd "$2" && pwd)
case $1 in
  start) [ $# -eq 4 ] || usage; port=$3 mon_port=$4; start ;;
  stop) stop ;;
  *) usage ;;
esac
