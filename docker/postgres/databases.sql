-- Runs once, on an empty volume: one role for each server, which cannot read the other's database.
\set prefect_password `cat /run/secrets/prefect-database-password`
\set mlflow_password `cat /run/secrets/mlflow-database-password`
CREATE ROLE prefect LOGIN PASSWORD :'prefect_password';
CREATE ROLE mlflow LOGIN PASSWORD :'mlflow_password';
CREATE DATABASE prefect OWNER prefect ENCODING 'UTF8' TEMPLATE template0;
CREATE DATABASE mlflow OWNER mlflow ENCODING 'UTF8' TEMPLATE template0;
CREATE DATABASE mlflow_auth OWNER mlflow ENCODING 'UTF8' TEMPLATE template0;
REVOKE CONNECT ON DATABASE prefect, mlflow, mlflow_auth FROM PUBLIC;
\connect prefect
CREATE EXTENSION pg_trgm;
