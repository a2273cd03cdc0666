-- The two roles and the schema that everything lives in.
--
-- agentchat_owner owns every table and function and cannot log in. agentchat_app is what the server
-- is: it owns nothing, does not bypass row-level security, and has no password of its own: on your own
-- Postgres, grant it to the role in the server's connection string.
-- Roles belong to the cluster, so another database of it may have made them before, or at this moment.

do $$
begin
    if not exists (select from pg_catalog.pg_roles where rolname = 'agentchat_owner') then
        begin
            create role agentchat_owner nologin;
        exception when duplicate_object or unique_violation then null;
        end;
    end if;
    if not exists (select from pg_catalog.pg_roles where rolname = 'agentchat_app') then
        begin
            create role agentchat_app login;
        exception when duplicate_object or unique_violation then null;
        end;
    end if;
    -- Whoever migrates creates objects for the owner, and may run the server.
    if not pg_catalog.pg_has_role(current_user, 'agentchat_owner', 'member') then
        execute pg_catalog.format('grant agentchat_owner to %I', current_user);
    end if;
    if not pg_catalog.pg_has_role(current_user, 'agentchat_app', 'member') then
        execute pg_catalog.format('grant agentchat_app to %I', current_user);
    end if;
end
$$;

create schema agentchat authorization agentchat_owner;

grant usage on schema agentchat to agentchat_app;
