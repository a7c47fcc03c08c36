#!/bin/sh
# Starts a part of the site: login, controller or compute. Munge first, which all of them trust each other by.
set -eu
install -o munge -g munge -m 400 /run/munge-key/munge.key /etc/munge/munge.key
# Slurm asks who has the address in a credential: it must be one that the site's own network knows.
origin="$(getent ahostsv4 "$(hostname).site" | head -1 | cut -d' ' -f1)"
setpriv --reuid munge --regid munge --clear-groups munged --force ${origin:+"--origin=$origin"}
case "$1" in
login)
    install -m 600 /run/farlab/ssh_host_ed25519_key /etc/ssh/ssh_host_ed25519_key
    install -d /etc/ssh/authorized
    install -m 644 /run/farlab/authorized/* /etc/ssh/authorized/
    exec /usr/sbin/sshd -D -e
    ;;
controller) exec setpriv --reuid slurm --regid slurm --clear-groups slurmctld -D ;;
compute) exec slurmd -D -N "$(hostname)" ;;
esac
