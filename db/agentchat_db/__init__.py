"""AgentChat on Postgres: the schema and its migrations, named statements, connections, embedded Postgres."""
