"""The services of the API, one module each. They check fields, ask the database, and convert rows."""
