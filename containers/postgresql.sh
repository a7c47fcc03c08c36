#!/bin/sh
# PostgreSQL in /var/lib/farlab/database, made at the first start with one user and database for the hub.
set -eu
data=/var/lib/farlab/database
if [ ! -s "$data/PG_VERSION" ]; then
    rm -rf "$data"
    /opt/postgresql/bin/initdb --pgdata="$data" --username=jupyterhub --pwfile=/run/farlab/password \
        --auth=scram-sha-256 --encoding=UTF8 --locale=C.UTF-8
    echo "host jupyterhub jupyterhub samenet scram-sha-256" >>"$data/pg_hba.conf"
    /opt/postgresql/bin/postgres --single -D "$data" postgres <<SQL >/dev/null
CREATE DATABASE jupyterhub;
SQL
fi
exec /opt/postgresql/bin/postgres -D "$data" -c listen_addresses='*' -c unix_socket_directories=/tmp
