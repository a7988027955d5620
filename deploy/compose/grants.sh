#!/bin/sh
#
# For docker-compose.yml: the roles and grants of deploy/postgres-grants.sql, and the roles' passwords. It may be
# repeated at will.

set -eu

PGPASSWORD=$(cat /run/secrets/postgres_password)
export PGPASSWORD PGHOST=postgres PGUSER=verifyd PGDATABASE=verifyd
# The file says what it leaves out; only what goes wrong is of interest here.
export PGOPTIONS='-c client_min_messages=warning'

psql --quiet --no-psqlrc --set ON_ERROR_STOP=1 --file /etc/verifyd/postgres-grants.sql
# psql reads the passwords itself, so they stand in no list of processes.
psql --quiet --no-psqlrc --set ON_ERROR_STOP=1 <<'SQL'
SET log_statement = 'none';
SET log_min_duration_statement = -1;
SET log_min_error_statement = panic;
\set migrate `cat /run/secrets/migrate_password`
\set serve `cat /run/secrets/serve_password`
\set operator `cat /run/secrets/operator_password`
ALTER ROLE verifyd_migrate PASSWORD :'migrate';
ALTER ROLE verifyd_serve PASSWORD :'serve';
ALTER ROLE verifyd_operator PASSWORD :'operator';
SQL
echo 'roles and grants are in place'
