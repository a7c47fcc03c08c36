#!/bin/sh
# A base image without a registry: Debian 12 from this machine's own mirror, with its certificates and pip's settings.
#
#   containers/base-image.sh farlab-base       # needs root and debootstrap
#   BASE_IMAGE=farlab-base docker compose build
set -eu
name="${1:?the name of the image is missing, such as farlab-base}"
mirror="$(sed -n -E 's/^(deb|URIs:) *(\[[^]]*\] *)?(https?:[^ ]+debian)\/?( .*)?$/\3/p' \
    /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | head -1)"
root="$(mktemp -d)"
trap 'rm -rf "$root"' EXIT
debootstrap --variant=minbase bookworm "$root" ${mirror:+"$mirror"} >&2
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
# A centre's own authorities, as it keeps them for Debian's ca-certificates.
mkdir -p "$root/usr/local/share/ca-certificates" "$root/etc/ssl/certs"
cp -r /usr/local/share/ca-certificates/. "$root/usr/local/share/ca-certificates/"
cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
[ ! -e /etc/pip.conf ] || cp /etc/pip.conf "$root/etc/pip.conf"
tar -C "$root" -c . | docker import --change 'ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt' - "$name" >&2
