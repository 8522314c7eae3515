-- A database in the shape that Heroku gives one: its administrator's schema and event triggers, extensions in
-- heroku_ext, an owner with a name of no meaning, rights for others, remarks on extensions. psql runs it as superuser.
CREATE ROLE heroku_admin SUPERUSER;
CREATE ROLE rds_superuser;
CREATE ROLE u4s6v2ba7opms1 LOGIN;
CREATE ROLE reader;
CREATE DATABASE d8f3k2 OWNER u4s6v2ba7opms1 TEMPLATE template0 ENCODING 'UTF8';
ALTER DATABASE d8f3k2 SET search_path = "$user", public, heroku_ext;
\connect d8f3k2

SET ROLE heroku_admin;
CREATE SCHEMA _heroku;
CREATE FUNCTION _heroku.watch() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN END';
CREATE TABLE _heroku.seen (at timestamptz DEFAULT now());
CREATE EVENT TRIGGER extension_before_drop ON ddl_command_start EXECUTE FUNCTION _heroku.watch();
CREATE EVENT TRIGGER log_create_ext ON ddl_command_end EXECUTE FUNCTION _heroku.watch();
CREATE EVENT TRIGGER log_drop_ext ON sql_drop EXECUTE FUNCTION _heroku.watch();
CREATE EVENT TRIGGER validate_extension ON ddl_command_end EXECUTE FUNCTION _heroku.watch();
COMMENT ON EVENT TRIGGER log_drop_ext IS 'of the administrator';
CREATE SCHEMA heroku_ext AUTHORIZATION u4s6v2ba7opms1;
CREATE EXTENSION citext SCHEMA heroku_ext;
CREATE EXTENSION pgcrypto SCHEMA heroku_ext;
CREATE EXTENSION hstore SCHEMA heroku_ext;
CREATE EXTENSION "uuid-ossp" SCHEMA heroku_ext;
CREATE EXTENSION pg_trgm SCHEMA heroku_ext;
CREATE EXTENSION pg_stat_statements SCHEMA public;
COMMENT ON EXTENSION citext IS 'changed by the administrator';
GRANT ALL ON FUNCTION public.pg_stat_statements_reset TO u4s6v2ba7opms1;
RESET ROLE;
ALTER SCHEMA public OWNER TO u4s6v2ba7opms1;
COMMENT ON SCHEMA public IS '';
REVOKE USAGE ON SCHEMA public FROM PUBLIC;

SET ROLE u4s6v2ba7opms1;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO reader;
CREATE TABLE public.users (
  id bigserial PRIMARY KEY,
  email heroku_ext.citext UNIQUE NOT NULL,
  token uuid DEFAULT heroku_ext.uuid_generate_v4(),
  password text DEFAULT heroku_ext.crypt('x', heroku_ext.gen_salt('md5')),
  settings heroku_ext.hstore
);
INSERT INTO public.users (email, settings) SELECT 'User' || n || '@Example.com', 'a=>1' FROM generate_series(1, 500) n;
COMMENT ON TABLE public.users IS 'who may log in';
CREATE INDEX ON public.users USING gin ((email::text) heroku_ext.gin_trgm_ops);
CREATE TABLE public."Posts" (id serial PRIMARY KEY, author bigint REFERENCES public.users, body text);
INSERT INTO public."Posts" (author, body)
  SELECT 1 + n % 500, E'line\nline\n\\.\n\\N\tCOPY public.users (id) FROM stdin;\n' FROM generate_series(1, 2000) n;
CREATE TABLE public.nothing (id int);
CREATE TABLE public.no_columns ();
INSERT INTO public.no_columns DEFAULT VALUES;
CREATE SCHEMA "odd schema";
CREATE TABLE "odd schema"."an ""odd"" table" (id int);
INSERT INTO "odd schema"."an ""odd"" table" VALUES (1), (2), (3);
CREATE TABLE public.events (id int, at date) PARTITION BY RANGE (at);
CREATE TABLE public.events_2025 PARTITION OF public.events FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE public.events_2026 PARTITION OF public.events FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
INSERT INTO public.events SELECT n, date '2025-12-01' + n FROM generate_series(1, 60) n;
CREATE TABLE public.animals (name text);
CREATE TABLE public.dogs (breed text) INHERITS (public.animals);
INSERT INTO public.animals VALUES ('cat');
INSERT INTO public.dogs VALUES ('rex', 'terrier'), ('fido', 'beagle');
CREATE VIEW public.authors AS SELECT DISTINCT author FROM public."Posts";
CREATE MATERIALIZED VIEW public.totals AS SELECT author, count(*) FROM public."Posts" GROUP BY author;
CREATE FUNCTION public.touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER touched BEFORE UPDATE ON public.users FOR EACH ROW EXECUTE FUNCTION public.touch();
GRANT SELECT ON public.users TO reader;
SELECT lo_from_bytea(0, 'a large object');
RESET ROLE;
CREATE PUBLICATION everything FOR ALL TABLES;
