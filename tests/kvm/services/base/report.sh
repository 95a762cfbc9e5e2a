# Root's look at a base that is up; the test reads it on the host. A section begins with its name.
exec >/data/report.new 2>&1
cd /

section() {
    echo "== $1"
}

section cards
ls /sys/class/net
section sysctl
sysctl -a 2>/dev/null
section modprobe
# What would be done, and what comes of it.
for module in bluetooth btusb uvcvideo videodev firewire_core usb_storage dccp sctp rds tipc n_hdlc can cramfs hfs jffs2 udf \
    cifs nfs; do
    modprobe "$module" 2>/dev/null && echo "$module loaded"
    echo "$module: $(modprobe --dry-run --verbose "$module" 2>&1 | tail -n 1)"
done
section sshd
sshd -T
section listening
ss --no-header --listening --tcp --udp --raw --numeric
section failed
systemctl list-units --failed --plain --no-legend
section running
systemctl list-units --type=service,socket,path,timer --state=running,listening,waiting --plain --no-legend
section masked
systemctl list-unit-files --state=masked --plain --no-legend
section core
mkdir -m 1777 /tmp/crash
cd /tmp/crash
setpriv --reuid=1000 --regid=1000 --clear-groups sh -c 'echo "admin: $(ulimit -Hc)"; ulimit -c unlimited; sh -c "kill -SEGV \$\$"'
sh -c 'ulimit -c unlimited; echo "root: $(ulimit -Hc)"; sh -c "kill -SEGV \$\$"'
cd /
find / -xdev -type f -name 'core*' -newer /tmp/crash
find /tmp /run /var /home /root /data -type f -name 'core*'
grep core /proc/1/limits
section journald
journalctl --quiet --unit=systemd-journald --output=cat
systemd-run --quiet --wait --unit=flood sh -c 'i=0; while [ $i -lt 1500 ]; do i=$((i + 1)); echo "line $i"; done'
journalctl --sync
echo "flood: $(journalctl --quiet --unit=flood --output=cat | grep -c '^line')"
du -sk /run/log/journal
ls -d /var/log/journal
section setid
find / -xdev -perm /6000
section passwords
cat /etc/shadow
section mounts
findmnt --raw --noheadings --output TARGET,FSTYPE,OPTIONS
section written
touch /usr/bin/written && echo "usr: written"
mkdir /run/lower && mount -t erofs -o ro /dev/vda /run/lower && ls /run/lower/usr/bin/written
touch /run/lower/usr/bin/written && echo "image: written"
section pid1
grep -E '^(CapBnd|NoNewPrivs):' /proc/1/status
section user
as_admin() {
    setpriv --reuid=1000 --regid=1000 --clear-groups "$@" 2>/dev/null
}
as_admin dmesg >/dev/null && echo "dmesg: readable"
as_admin unshare --user true && echo "user namespace: made"
as_admin cat /proc/1/environ >/dev/null && echo "environ: readable"
grep -v '^0000000000000000 ' /proc/kallsyms 2>/dev/null | head -n 1
section security
systemd-analyze security --offline=yes --no-pager ssh.service minivmm-power-button.service minivmm-resolv-conf.service \
    minivmm-ssh-keys.service systemd-journald.service systemd-networkd.service systemd-udevd.service
section machine
hostname
cat /etc/machine-id /etc/resolv.conf
ip -4 -oneline address
section end
sync
mv /data/report.new /data/report
