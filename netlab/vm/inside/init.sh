#!/bin/busybox sh
# The guest's first process, in the initramfs: loads the boot modules, makes the root file system, and hands over to
# busybox init, which keeps the agent. The kernel's command line says who this machine is:
#   netlab.name=vm1 netlab.address=192.168.77.11/24 netlab.hosts=192.168.77.11:vm1,192.168.77.12:vm2
/bin/busybox mkdir -p /proc /sys /dev /lower /upper /root
/bin/busybox --install -s /bin
export PATH=/bin

fail() { # the machine ends; the host finds this line in the console log
  echo "netlab init: $*" >/dev/console
  poweroff -f
}

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
while read -r module; do
  insmod "/modules/$module" || fail "cannot load the module $module"
done </modules/order

name=vm address='' hosts=''
for word in $(cat /proc/cmdline); do
  case $word in
    netlab.name=*) name=${word#*=} ;;
    netlab.address=*) address=${word#*=} ;;
    netlab.hosts=*) hosts=${word#*=} ;;
  esac
done

mount -t squashfs -o ro /dev/vda /lower || fail "cannot mount the root disk"
mount -t tmpfs -o mode=755 upper /upper
mkdir /upper/files /upper/work
mount -t overlay -o lowerdir=/lower,upperdir=/upper/files,workdir=/upper/work root /root || fail "cannot mount the root"
cd /root || fail "no root"

mkdir -p proc sys dev run tmp netlab
mount -t tmpfs -o mode=755 run run
mount -t tmpfs -o mode=1777 tmp tmp
mkdir -p run/lock run/netlab/lower run/netlab/upper
if [ -b /dev/vdb ]; then # netlab's own source, writable for this machine's life
  mount -t squashfs -o ro /dev/vdb run/netlab/lower || fail "cannot mount the source disk"
  mount -t tmpfs -o mode=755 source run/netlab/upper
  mkdir run/netlab/upper/files run/netlab/upper/work
  mount -t overlay -o lowerdir=run/netlab/lower,upperdir=run/netlab/upper/files,workdir=run/netlab/upper/work source netlab ||
    fail "cannot mount the source"
fi

mount -o move /proc proc
mount -o move /sys sys
mount -o move /dev dev
mkdir -p dev/pts dev/shm
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts dev/pts
mount -t tmpfs -o mode=1777 shm dev/shm
mkdir -p dev/net && mknod -m 666 dev/net/tun c 10 200 # opening it loads the module, as on a machine with udev
ln -sf /proc/self/fd dev/fd
ln -sf /proc/self/fd/0 dev/stdin
ln -sf /proc/self/fd/1 dev/stdout
ln -sf /proc/self/fd/2 dev/stderr
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t bpf bpf sys/fs/bpf
mount -t tracefs tracefs sys/kernel/tracing
mount -t securityfs securityfs sys/kernel/security 2>/dev/null

hostname "$name"
echo "$name" >etc/hostname
echo "127.0.0.1 localhost" >etc/hosts
for host in $(echo "$hosts" | tr , ' '); do
  echo "${host%:*} ${host#*:}" >>etc/hosts
done
ip link set lo up
if [ -n "$address" ]; then
  ip address add "$address" broadcast + dev eth0 && ip link set eth0 up || fail "cannot set up eth0"
fi

cp /bin/busybox /agent.py run/netlab/
ln -s busybox run/netlab/init
cat >etc/inittab <<'END'
::respawn:/usr/bin/python3 -I -S /run/netlab/agent.py
ttyS0::askfirst:-/bin/bash
END
exec switch_root /root /run/netlab/init
