--
SET row_security = off;
COPY public.users (id, email) FROM stdin;
1	a
2	COPY public.other (id) FROM stdin;
3	\\.
\.

COPY "odd schema"."an ""odd"" table" (id) FROM stdin;
\.

COPY public.users (id, email) FROM stdin;
4	d
\.

COPY public.no_columns  FROM stdin;


\.

SELECT pg_catalog.setval('public.users_id_seq', 1, true);
